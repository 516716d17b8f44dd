/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kinds of destination share. Internal to the core.
 *
 * Owns: the life of a new destination's two files, and the common part of every writer.
 * Invariants: a constructor takes over the files it is given, also on failure. `target` is the empty file at PATH, held open and
 * locked so that no second copy can start for the same PATH; `file` is the partial file. For an existing destination, and for a
 * block device, only `file` is there.
 */
#ifndef VB_DESTINATION_H
#define VB_DESTINATION_H

#include "writer.h"

/* Who uses an existing image, and so which mark it carries while it is being changed. */
enum vb_existing_role {
	VB_EXISTING_DESTINATION = 1,   /* a copy fills it: marked unfinished until publish() */
	VB_EXISTING_IMAGE = 2,         /* a tool or a commit changes it: it stays a good image all the time, a crash leaks clusters at most */
	VB_EXISTING_PULLED = 3         /* a pull fills it: likewise, and as its disk reads the same all the time its bitmaps stay valid */
};

struct vb_writer *vb_raw_writer_new(struct vb_file *target, struct vb_file *file, const struct vb_destination_spec *spec,
				    struct vb_error *error);
struct vb_writer *vb_raw_writer_existing(struct vb_file *file, const struct vb_destination_spec *spec,
					 enum vb_existing_role role, struct vb_error *error);
/* `target` NULL: `file` is a block device, which gets the image from its beginning. */
struct vb_writer *vb_qcow2_linear_writer_new(struct vb_file *target, struct vb_file *file,
					     const struct vb_destination_spec *spec, struct vb_error *error);
/* Whether such an image can be made: cluster size, backing file's name and format. */
int vb_qcow2_linear_check(const struct vb_destination_spec *spec, struct vb_error *error);
struct vb_writer *vb_qcow2_compressed_writer_new(struct vb_file *target, struct vb_file *file,
						 const struct vb_destination_spec *spec, struct vb_error *error);
/* Whether such an image can be compressed: a new qcow2, and the level. */
int vb_qcow2_compressed_check(const struct vb_destination_spec *spec, struct vb_error *error);
/* The size of an image that a tool changes is its own, not the spec's. */
struct vb_writer *vb_qcow2_inplace_writer_open(struct vb_file *file, const struct vb_destination_spec *spec,
					       enum vb_existing_role role, struct vb_error *error);

/* Opens an image for a merge. The file is that of `layer`, an image of an open chain, whose lock counts for the writer too: the
 * chain must outlive it. */
struct vb_writer *vb_image_open_merged(const struct vb_policy *policy, const struct vb_layer *layer, enum vb_existing_role role,
				       bool durable, struct vb_error *error);
/* Opens for writing what `layer` has open for reading; DENIED if another file has taken its name. */
int vb_image_reopen(const struct vb_policy *policy, const struct vb_layer *layer, struct vb_file *file, struct vb_error *error);

/* Whether a qcow2 image could be given that size; nothing is changed. */
int vb_qcow2_check_growth(const struct vb_writer *writer, uint64_t size_bytes, struct vb_error *error);
/* Grows a qcow2 image opened by vb_image_open_writable or vb_image_open_merged; `backing_bytes` is the virtual size of its backing file, 0 if none. */
int vb_qcow2_grow(struct vb_writer *writer, uint64_t size_bytes, uint64_t backing_bytes, struct vb_error *error);

/* A new destination whose PATH must not exist (vb_image_create). */
struct vb_writer *vb_destination_create(const struct vb_policy *policy, const struct vb_destination_spec *spec,
					struct vb_error *error);

/* Whether a raw file ends with the unfinished trailer at `offset_bytes`; and the same as a FORMAT failure for any offset. */
int vb_raw_find_trailer(const struct vb_file *file, uint64_t offset_bytes, bool *found, struct vb_error *error);
int vb_raw_check_finished(const struct vb_file *file, struct vb_error *error);

/* Fills the common part; copies the spec's strings. `file` is taken over, also on failure. */
int vb_writer_init(struct vb_writer *writer, const struct vb_writer_ops *ops, struct vb_file *file,
		   const struct vb_destination_spec *spec, struct vb_error *error);
/* Closes the file, frees the strings. Not the writer itself. */
void vb_writer_release(struct vb_writer *writer);
/* Within the disk, and for qcow2 in whole units but at its end; INVALID otherwise. */
int vb_writer_check_range(const struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error);
/* A new qcow2's plan and its backing file belong together; INVALID otherwise. `plan` may be NULL. */
int vb_writer_check_plan(const struct vb_writer *writer, const struct vb_plan *plan, struct vb_error *error);
/* Takes the magic of what a block device held away, durably: it opens no more, and what it gets opens only when it is complete. */
int vb_writer_clear_device_head(struct vb_writer *writer, struct vb_error *error);
/* fdatasync if the destination is durable. Once it failed it fails for good: the kernel reports a lost page only once. */
int vb_writer_sync(struct vb_writer *writer, struct vb_error *error);
/* Takes room for the first `size_bytes` of a new file, if the spec wants that. *fills: what is not written must be filled with zeros. */
int vb_writer_preallocate(struct vb_writer *writer, uint64_t size_bytes, bool *fills, struct vb_error *error);
/* Writes zeros. */
int vb_writer_fill(const struct vb_writer *writer, uint64_t offset_bytes, uint64_t length_bytes, struct vb_error *error);
/* Starts write-back of what is dirty now, without waiting for it; what a copy wrote earlier and is on the disk leaves the page cache. */
void vb_writer_start_write_back(struct vb_writer *writer);

/* Fills share_block_bytes and is_share_likely of a destination that may share extents. */
void vb_writer_find_sharing(struct vb_writer *writer);
/* Shares `length_bytes` of `source` into the destination's file; the failures of vb_writer_ops.share. */
int vb_writer_share_range(const struct vb_writer *writer, uint64_t offset_bytes, const struct vb_file *source,
			  uint64_t source_offset_bytes, uint64_t length_bytes, struct vb_error *error);

/* An image that exists, for writing; a block device is claimed against mounts. */
int vb_existing_open(const struct vb_policy *policy, const char *path, struct vb_file *file, struct vb_error *error);

/* SAME_FILE when it is one of the images of `source` (NULL: none), by device and inode. */
int vb_destination_check_source(const struct vb_file *file, const struct vb_chain *source, struct vb_error *error);

/* What of an earlier run of the same copy is there. */
enum vb_new_file_state {
	VB_NEW_FILE_FRESH = 0,        /* nothing: the partial file is new and empty */
	VB_NEW_FILE_UNFINISHED = 1,   /* its partial file */
	VB_NEW_FILE_COMPLETE = 2      /* its result, under PATH; there is no partial file */
};

/* Opens PATH (made if missing; must be empty; must not exist if `exclusive`) and its partial file, both locked. `resumed_inode`: of the
 * partial file that an earlier run left, which then is opened again; 0: whatever was left is removed. */
int vb_new_file_open(const struct vb_policy *policy, const char *path, bool exclusive, const struct vb_chain *source,
		     uint64_t resumed_inode, struct vb_file *target, struct vb_file *partial, enum vb_new_file_state *state,
		     struct vb_error *error);
/* Renames the partial file over PATH and syncs the folder. What it holds must be durable already. */
int vb_new_file_publish(struct vb_writer *writer, struct vb_file *target, struct vb_error *error);
/* Closes both files of a destination for which there is no writer, and removes the partial one. `target` may be NULL: `file` is kept. */
void vb_new_file_discard(struct vb_file *target, struct vb_file *file);
/* Closes `target`; removes the partial file unless it was published. */
void vb_new_file_close(struct vb_writer *writer, struct vb_file *target);

#endif
