/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Destinations. One struct of operations, one file per kind: new raw, new qcow2 (linear), existing raw, existing qcow2 (in place).
 *
 * Owns: everything that writes. Invariants:
 * - A new destination is filled under the name PATH.virtblock-partial in the same folder and renamed over PATH by publish(), after
 *   its data and metadata are durable; until then PATH itself is absent or an empty file. So whatever dies, PATH never opens as a good
 *   image that is not complete.
 * - An existing qcow2 is marked unfinished (its magic replaced by VB_UNFINISHED_MAGIC) durably before its first change, and gets its
 *   magic back as the last, durable step of publish(). An existing raw file carries VB_UNFINISHED_TRAILER, 512 bytes behind its
 *   virtual size, from before the first change until publish(). Both marks are recognised and taken over when such a destination is
 *   reused again. A block device has no partial name: raw carries no mark there, a new qcow2 gets its header last.
 * - write() and zero() are called by many lanes at once, never twice at once for one unit; ranges are unit aligned but at the
 *   end of the disk.
 */
#ifndef VB_WRITER_H
#define VB_WRITER_H

#include <stdatomic.h>

#include "image.h"
#include "plan.h"

#define VB_PARTIAL_SUFFIX ".virtblock-partial"
#define VB_UNFINISHED_MAGIC 0x56427066u                       /* "VBpf" where qcow2 has "QFI\xfb" */
#define VB_UNFINISHED_TRAILER "virtblock: unfinished copy\n"  /* zero padded to 512 bytes */

/* How a new qcow2 destination stores its clusters. */
enum vb_compress { VB_COMPRESS_NONE = 0, VB_COMPRESS_ZLIB = 1, VB_COMPRESS_ZSTD = 2 };

/* How much of a new file's room is taken when it is made, whatever the copy writes to it (qemu-img create -o preallocation). An image that is
 * preallocated reads as zeros where it is not written, and shares no extents but in METADATA. */
enum vb_preallocation {
	VB_PREALLOCATION_OFF = 0,
	VB_PREALLOCATION_METADATA = 1,   /* qcow2: every cluster has its place in the tables; the file stays sparse */
	VB_PREALLOCATION_FALLOC = 2,     /* and blocks for all of it, by fallocate(); as FULL where the file system has none */
	VB_PREALLOCATION_FULL = 3        /* and zeros are written to them */
};

struct vb_destination_spec {
	const char *path;
	enum vb_format format;
	bool reuse;                       /* what exists is kept (REUSE_EXT); a block device without it is formatted anew */
	uint64_t virtual_size_bytes;
	const char *backing_path;         /* new qcow2 in top mode: recorded as given; NULL otherwise */
	const char *backing_format;
	uint64_t resumed_inode;           /* a new file: the partial file that an earlier run of the job left; 0: none is gone on with */
	uint32_t cluster_size_bytes;      /* new qcow2: 512 to 2 MiB */
	enum vb_compress compression;     /* new qcow2 */
	int compression_level;            /* 1 to vb_compressor_level_max(); 0: the method's default */
	bool extended_l2;                 /* new qcow2 with clusters of 16 KiB or more: subclusters of 1/32 have states of their own */
	bool in_source_order;             /* new qcow2: clusters lie as in the source's files where that can be (qcow2_layout.h); the copy decides */
	enum vb_preallocation preallocation;   /* new file; with a backing file only with extended_l2 */
	bool durable;                     /* sync before publish and after; false only for throw-away copies */
};

/* Ranges of the disk that lie one behind the other in a file of the source, without a gap, as they do in a destination in source order. In
 * any other destination it is one range. */
struct vb_share_piece {
	uint64_t start_bytes;
	uint64_t length_bytes;
};

struct vb_share {
	const struct vb_file *source;
	uint64_t source_offset_bytes;
	const struct vb_share_piece *pieces;
	size_t piece_count;
};

struct vb_writer;

struct vb_writer_ops {
	/* Fixes the layout from the plan and makes room. Called once, before any write. */
	int (*prepare)(struct vb_writer *writer, const struct vb_plan *plan, struct vb_error *error);
	/* Puts `length` bytes at guest offset `start`. */
	int (*write)(struct vb_writer *writer, uint64_t start_bytes, const void *buffer, size_t length, struct vb_error *error);
	/* Makes the range read as zeros. */
	int (*zero)(struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error);
	/* Puts the pieces at their places by sharing extents of the source's file: nothing is moved. Only where
	 * share_block_bytes is not 0. UNSUPPORTED when they cannot be shared: system_errno is the kernel's, 0 for a range that does
	 * not lie on blocks. What the pieces then hold is undefined until they are written. */
	int (*share)(struct vb_writer *writer, const struct vb_share *share, struct vb_error *error);
	/* Hint: early write-back of what was written. May be NULL. */
	void (*write_back)(struct vb_writer *writer);
	/* Makes all that write() and zero() put so far durable and findable, as far as the kind can while it is not complete: a later
	 * opening of the same destination finds it. Lanes may run. After a sync that
	 * failed neither another checkpoint nor publish() succeeds. */
	int (*checkpoint)(struct vb_writer *writer, struct vb_error *error);
	/* What publish() must know besides what is in the file, in words, for the journal of a copy; all NULL where that is nothing. state_words
	 * counts after prepare(); load_state comes before the first write of a copy that is gone on with. */
	size_t (*state_words)(const struct vb_writer *writer);
	void (*save_state)(const struct vb_writer *writer, uint64_t *words);
	void (*load_state)(struct vb_writer *writer, const uint64_t *words);
	/* All data is written: metadata, syncs, and the name or mark that makes it a good image. After success the destination is
	 * complete and durable and stays locked until close. */
	int (*publish)(struct vb_writer *writer, struct vb_error *error);
	/* Takes publish() back, durably: the destination carries the mark of an unfinished copy again, whatever its name is. UNSUPPORTED where
	 * it cannot carry one. */
	int (*unpublish)(struct vb_writer *writer, struct vb_error *error);
	/* Releases everything. An unpublished new destination loses its partial file; PATH itself is never deleted. */
	void (*close)(struct vb_writer *writer);
};

struct vb_writer {
	const struct vb_writer_ops *ops;
	struct vb_file file;            /* what is written (the partial file of a new destination) */
	struct vb_destination_spec spec;
	uint32_t unit_bytes;            /* ranges are multiples of this: cluster or subcluster for qcow2, 4096 for raw */
	bool writes_in_turn;            /* write() spends its time inside the file system, which takes one write to a file at a time */
	bool zero_needed;               /* false: unwritten ranges are known to read as zeros (a new file in full mode) */
	uint32_t share_block_bytes;     /* the file system's block, of a destination that may share extents; 0: share() is not to be called */
	bool is_share_likely;           /* its file system is of a kind that shares extents */
	bool is_in_source_order;        /* after prepare(): what the spec wished for could be had */
	atomic_bool has_failed_sync;    /* what it should have made durable may be lost: no later sync succeeds */
	_Atomic uint64_t stored_bytes;  /* of a compressed destination: what its data takes in the file */
	bool was_unfinished;            /* an existing destination that carried the mark of an unfinished copy when it was opened */
	bool can_resume;                /* what a checkpoint made durable can be gone on with by another process */
	bool is_fresh;                  /* bears no mark of an earlier run that was not completed, and is of a kind that would */
	bool keeps_unfinished;          /* close() leaves the partial file */
	bool drops_cached;              /* a copy fills it: what is on the disk leaves the page cache, for nobody reads it soon */
	bool published;
};

/*
 * Opens and checks a destination, takes the writer lock, changes nothing durable but creating an empty PATH for a new one
 * (mode 0600; an existing empty PATH keeps owner and mode, and gives them to the new file).
 * Failures: EXISTS (not reuse, and not empty), SYSTEM with ENOENT (reuse of nothing), SIZE (reuse, virtual sizes differ; a block
 * device may be larger for raw), LOCKED, DENIED, SAME_FILE (same device and inode as any layer of `source`), FORMAT.
 */
struct vb_writer *vb_writer_open(const struct vb_policy *policy, const struct vb_destination_spec *spec,
				 const struct vb_chain *source, struct vb_error *error);

/* Upper bound of what a new destination as `spec` wants it will occupy that is not compressed, from the plan (qemu-img measure's "required"); UINT64_MAX if it
 * cannot be made. */
uint64_t vb_writer_required_bytes(const struct vb_plan *plan, const struct vb_destination_spec *spec);

/* Makes an empty image: qcow2 version 3, or raw as a sparse file. PATH must not exist. Durable, and atomic by rename. */
int vb_image_create(const struct vb_policy *policy, const struct vb_destination_spec *spec, struct vb_error *error);
/* Grows or shrinks the virtual size of a raw or qcow2 image in place (shrink: only raw, VB_ERROR_UNSUPPORTED for qcow2). */
int vb_image_resize(const struct vb_policy *policy, const char *path, enum vb_format format, uint64_t size_bytes,
		    struct vb_error *error);

/* Writes into an image that no job uses, for tests, demonstrations and tools: raw, or qcow2 in whole clusters. */
struct vb_writer *vb_image_open_writable(const struct vb_policy *policy, const char *path, enum vb_format format,
					 struct vb_error *error);

#endif
