/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Persistent bitmaps: the dirty bitmaps that a qcow2 image carries with it (version 3 only).
 *
 * Owns: reading the directory of bitmaps, what one bitmap marks, and changing the directory of an image at rest.
 * Invariants: an image is not trusted: the directory is checked against QEMU's limits before memory is taken, and what all
 * bitmaps of an image make us read is bounded. Reading writes nothing. A change is made under the writer lock; whatever ends it, the
 * image holds the bitmaps from before or from after it, or says of itself that they are not valid, and leaks clusters at most.
 */
#ifndef VB_QCOW2_BITMAPS_H
#define VB_QCOW2_BITMAPS_H

#include "bitmap.h"
#include "image.h"

#define VB_BITMAP_NAME_MAX 1023u
#define VB_BITMAP_GRANULARITY_MIN_BYTES 512u
#define VB_BITMAP_GRANULARITY_MAX_BYTES (1u << 31)
#define VB_BITMAP_GRANULARITY_DEFAULT_BYTES (64u * 1024)

enum vb_bitmap_state {
	VB_BITMAP_USABLE = 1,
	VB_BITMAP_IN_USE = 2,         /* somebody opened it for recording and never closed it: what it marks is not all */
	VB_BITMAP_INCONSISTENT = 3,   /* the image was changed by a program that does not know bitmaps (autoclear bit 0 is not set) */
	VB_BITMAP_WRONG_SIZE = 4      /* it was made for a disk of another size */
};

struct vb_persistent_bitmap {
	char *name;
	uint32_t granularity_bytes;
	bool is_enabled;             /* whoever opens the image for writing records its writes in it */
	enum vb_bitmap_state state;
	uint64_t dirty_bytes;        /* what it marks, cut at the end of the disk; 0 unless USABLE or not counted */
	uint32_t flags;              /* as in the file */
	uint64_t table_offset_bytes;
	uint32_t table_size;         /* entries */
};

struct vb_persistent_bitmaps {
	size_t count;
	struct vb_persistent_bitmap *items;   /* in the file's order */
};

/* What the qcow2 image in `file` has; none for version 2. The dirty bytes are not counted. */
int vb_persistent_bitmaps_read(const struct vb_file *file, struct vb_persistent_bitmaps *bitmaps, struct vb_error *error);
/* Counts the dirty bytes of every usable one. */
int vb_persistent_bitmaps_count(const struct vb_file *file, struct vb_persistent_bitmaps *bitmaps, struct vb_error *error);
void vb_persistent_bitmaps_free(struct vb_persistent_bitmaps *bitmaps);
/* NULL and NO_BITMAP when there is none of that name; the message names those there are. */
struct vb_persistent_bitmap *vb_persistent_bitmaps_find(const struct vb_persistent_bitmaps *bitmaps, const char *name,
							const char *path, struct vb_error *error);

/* Both at once for an image by path: under the reader lock, so LOCKED while somebody has it open for writing. */
int vb_image_list_bitmaps(const struct vb_policy *policy, const char *path, struct vb_persistent_bitmaps *bitmaps,
			  struct vb_error *error);

/* A usable bitmap of the chain's top image. INVALID: the top is raw; NO_BITMAP; BITMAP: not usable. Frees nothing but by
 * vb_persistent_bitmap_release. */
int vb_persistent_bitmap_open(const struct vb_chain *chain, const char *name, struct vb_persistent_bitmap *bitmap,
			      struct vb_error *error);
void vb_persistent_bitmap_release(struct vb_persistent_bitmap *bitmap);
/* Sets every granule of `dirty` that the bitmap marks a part of. */
int vb_persistent_bitmap_load(const struct vb_chain *chain, const struct vb_persistent_bitmap *bitmap, struct vb_bitmap *dirty,
			      struct vb_error *error);

struct vb_new_bitmap {
	const char *name;
	uint32_t granularity_bytes;   /* 512 to 2 GiB, a power of two */
	bool is_enabled;
};

/*
 * Changes to an image that nobody uses, durable when they return. Failures: LOCKED; UNSUPPORTED (raw and version 2 images, no room in the
 * header); FORMAT (an image that must be repaired first); INVALID (name or granularity); EXISTS; NO_BITMAP; BITMAP (clearing one
 * that is not usable). Adding to bitmaps that are not valid any more drops these first, as QEMU does; removing works on any.
 */
int vb_image_add_bitmap(const struct vb_policy *policy, const char *path, const struct vb_new_bitmap *wanted, struct vb_error *error);
int vb_image_remove_bitmap(const struct vb_policy *policy, const char *path, const char *name, struct vb_error *error);
int vb_image_clear_bitmap(const struct vb_policy *policy, const char *path, const char *name, struct vb_error *error);

#endif
