/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One copy: plan, split, lanes, account, flush, publish.
 *
 * Owns: the lanes (threads) of one copy and its control. Roles: plan.c resolves, this file's split claims chunks from the dirty
 * bitmap, lanes read, decode, scan for zeros and write, account counts, publish ends. Lanes run without any lock of Python's.
 * Invariants: vb_copy_run is called once; control functions may be called from any thread at any time between new and free; the
 * first error of any lane ends the copy and is the one reported; whatever ends it, dirty + in flight still covers all that
 * is not on the destination. vb_copy_run returns success only after the destination was published (all bytes there and synced).
 */
#ifndef VB_COPY_H
#define VB_COPY_H

#include "bitmap.h"
#include "digest.h"
#include "journal.h"
#include "plan.h"
#include "writer.h"

#define VB_CHUNK_BYTES (256u * 1024)   /* a lane's buffer: fits the second-level cache with room for the kernel's pages */

/* Sharing extents with the source's files where the file system can: nothing is moved, and later writes to either side are its own.
 * What is shared is not looked through for zeros: stored zeros stay stored, at no cost in room. */
enum vb_reflink {
	VB_REFLINK_AUTO = 0,   /* what can be shared is, silently; the rest is copied */
	VB_REFLINK_NEVER = 1,
	VB_REFLINK_ALWAYS = 2  /* UNSUPPORTED unless all DATA that fills whole granules is shared; edges and compressed data are copied */
};

struct vb_copy_options {
	enum vb_plan_mode mode;
	uint64_t bandwidth_bytes_per_s;   /* 0: unlimited */
	uint32_t granule_bytes;           /* 0: default; raised to the destination's cluster */
	uint32_t lane_count;              /* 0: by the number of cores */
	bool check_space;                 /* refuse before copying when the file system has not enough room */
	enum vb_reflink reflink;
	const char *journal_path;         /* where the journal is kept of a copy that lives long enough to have one; NULL: nowhere */
	bool resume;                      /* go on from the journal that is there; from the beginning if there is none */
	uint32_t journal_interval_ms;     /* 0: two seconds or more, so that it takes little of the time */
	enum vb_journal_kind journal_kind;
	bool journal_stays;               /* a good end leaves the journal, which says that nothing is left: the caller removes it when it has
					   * recorded the end. Until then a resume finds the destination complete. */
	size_t journal_first_layer;       /* layers above it are not read, and may have been changed; 0 for a copy */
	uint64_t journal_salt;            /* what else must be the same to go on; 0 for a copy */
	bool digest;                      /* compute the digest of what is read; a copy of the top image alone has none, nor has one by a bitmap */
	bool digest_shared;               /* for it also read what was shared; else a copy that shares has none */
	/* NULL: everything. Else the name of a persistent bitmap of the source's top image: only granules that it marks become on the
	 * destination, an earlier copy, what the chain reads there, in either mode (a dirty granule that the top does not hold was given
	 * up there since, and what the destination still has must go); all others stay untouched. Used by vb_copy_new alone. */
	const char *bitmap_name;
};

enum vb_copy_phase { VB_COPY_NEW = 0, VB_COPY_PLANNING, VB_COPY_COPYING, VB_COPY_FLUSHING, VB_COPY_DONE, VB_COPY_FAILED };

struct vb_copy_progress {
	enum vb_copy_phase phase;
	bool paused;
	uint64_t size_bytes;         /* virtual size */
	uint64_t total_bytes;        /* what the plan has to move; 0 until planned */
	uint64_t moved_bytes;        /* of total: done, by granule */
	uint64_t resumed_bytes;      /* of moved: by an earlier run, from its journal */
	uint64_t durable_bytes;      /* of moved: a resume would find them done, by the journal; 0 without one */
	uint64_t remaining_bytes;    /* dirty + in flight */
	uint64_t read_bytes;
	uint64_t written_bytes;      /* data put on the destination */
	uint64_t stored_bytes;       /* of a compressed destination: what written_bytes take in its file so far; else 0 */
	uint64_t shared_bytes;       /* data whose extents the destination shares: neither read nor written */
	uint64_t zero_bytes;         /* found or known zero and not written as data */
	uint64_t elapsed_ns;
	uint64_t bandwidth_bytes_per_s;
};

struct vb_copy;

/* vb_writer_open for this copy: with `resume`, what the journal's run left is opened again instead of replaced, or found complete
 * (`published`). Besides its failures: those of reading a journal. `spec` and `options` are those of the copy. */
struct vb_writer *vb_copy_open_destination(const struct vb_policy *policy, const struct vb_destination_spec *spec,
					   const struct vb_chain *source, const struct vb_copy_options *options, struct vb_error *error);
/* Takes neither chain nor writer over; both must outlive the copy. With a bitmap: INVALID for a destination that is not reused or is
 * itself an unfinished copy, which lacks more than the bitmap knows; else the failures of vb_persistent_bitmap_open. */
struct vb_copy *vb_copy_new(const struct vb_chain *source, struct vb_writer *destination, const struct vb_copy_options *options,
			    struct vb_error *error);
/* Blocks until the copy ends. 0: published. Negative: error filled (VB_ERROR_CANCELLED after vb_copy_cancel). */
int vb_copy_run(struct vb_copy *copy, struct vb_error *error);
void vb_copy_cancel(struct vb_copy *copy);
void vb_copy_pause(struct vb_copy *copy);
/* Whether a copy that does not end well leaves its partial file and its journal, to be gone on with; at first it does not. */
void vb_copy_keep_unfinished(struct vb_copy *copy, bool keeps);
/* Whether the copy goes on from an earlier run's journal. */
bool vb_copy_is_resumed(const struct vb_copy *copy);
void vb_copy_resume(struct vb_copy *copy);
void vb_copy_set_bandwidth(struct vb_copy *copy, uint64_t bandwidth_bytes_per_s);
void vb_copy_progress(const struct vb_copy *copy, struct vb_copy_progress *progress);

/* One byte per cell: the state that most needs showing. */
enum vb_cell_state { VB_CELL_TODO = 1, VB_CELL_COPYING = 2, VB_CELL_DONE = 3, VB_CELL_ZERO = 4, VB_CELL_DIRTY_AGAIN = 5, VB_CELL_FAILED = 6 };
void vb_copy_map(const struct vb_copy *copy, uint8_t *cells, size_t cell_count);
/* The digest of the whole disk as it was read (digest.h); "" when none was asked for, the copy is not done, or it did not see all of it. */
void vb_copy_digest(const struct vb_copy *copy, char text[VB_DIGEST_TEXT_BYTES]);
void vb_copy_free(struct vb_copy *copy);

/* Compares what two chains read as. 1: equal; 0: differ, *offset_bytes is the first differing byte; negative: error. Different sizes are
 * an error of kind SIZE, but with `pad` the shorter one reads as zeros behind its end. */
int vb_compare(const struct vb_chain *left, const struct vb_chain *right, bool pad, uint64_t *offset_bytes,
	       const bool *cancelled, struct vb_error *error);

#endif
