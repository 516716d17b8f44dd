/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One copy's state, shared by copy.c (life and control), lane.c (moving) and copy_progress.c (showing). Internal to the core.
 *
 * Invariants: `plan` and `bitmap` are set by the running thread before `is_planned`, and stay until vb_copy_free, so other
 * threads may read them once they see it. `cursor_bytes` is touched only inside vb_bitmap_claim. `error` is written once, under its
 * mutex, by whoever fails first; `stop` tells the others.
 */
#ifndef VB_COPY_STATE_H
#define VB_COPY_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "copy.h"
#include "read_ahead.h"
#include "throttle.h"

#define VB_LANE_COUNT_MAX 4u

struct vb_copy;

/* What a copy and a merge do each in their own way. */
struct vb_copy_steps {
	/* What is to be moved. */
	struct vb_plan *(*plan)(const struct vb_copy *copy, struct vb_error *error);
	/* Makes the destination ready for the first write. */
	int (*prepare)(const struct vb_copy *copy, struct vb_error *error);
	/* All is moved: makes it durable, and makes it count. */
	int (*publish)(const struct vb_copy *copy, struct vb_error *error);
};

struct vb_copy {
	const struct vb_chain *source;
	struct vb_writer *destination;
	const struct vb_copy_steps *steps;
	void *owner;                /* of the steps; NULL for a copy */
	uint64_t size_bytes;        /* virtual size of what is written */
	struct vb_copy_options options;
	struct vb_throttle *throttle;
	struct vb_plan *plan;
	struct vb_bitmap *bitmap;
	uint32_t chunk_bytes;
	uint64_t cursor_bytes;
	struct vb_read_ahead read_ahead;

	bool has_digest;
	pthread_mutex_t release_mutex;      /* digest_sum changes together with the bits */
	struct vb_digest_sum digest_sum;
	struct vb_bitmap *shared;           /* what was shared and is still to be read for the digest; NULL: not needed */
	bool is_incremental;        /* `bitmap` was filled from a persistent one before the plan, which keeps to it */

	struct vb_copy_journal *journal;    /* copy_journal.h; NULL: none is kept */
	atomic_bool keeps_unfinished;
	atomic_bool is_resumed;

	atomic_bool is_planned;
	atomic_bool stop;
	bool cancelled;             /* by __atomic operations: the planner polls it as a plain bool */
	atomic_int phase;           /* enum vb_copy_phase */
	atomic_bool was_run;

	_Atomic uint64_t total_bytes;
	_Atomic uint64_t resumed_bytes;
	_Atomic uint64_t durable_bytes;
	_Atomic uint64_t read_bytes;
	_Atomic uint64_t written_bytes;
	_Atomic uint64_t shared_bytes;
	_Atomic uint64_t zero_bytes;
	_Atomic uint64_t started_ns;   /* 0: not yet */
	_Atomic uint64_t ended_ns;     /* 0: not yet */
	_Atomic uint64_t failed_bytes; /* where the first failed chunk starts; UINT64_MAX if none */

	pthread_mutex_t error_mutex;
	bool has_error;
	struct vb_error error;
};

/* A vb_copy that takes other steps. */
struct vb_copy *vb_copy_new_with(const struct vb_chain *source, struct vb_writer *destination, uint64_t size_bytes,
				 const struct vb_copy_options *options, const struct vb_copy_steps *steps, void *owner,
				 struct vb_error *error);
uint64_t vb_copy_now_ns(void);
/* The first error is the copy's; all lanes stop. `start_bytes`: the chunk that failed, UINT64_MAX if none did. */
void vb_copy_report_error(struct vb_copy *copy, const struct vb_error *error, uint64_t start_bytes);
/* Whether any thread has reported one; then `error` is the first. */
bool vb_copy_has_failed(struct vb_copy *copy, struct vb_error *error);
int vb_copy_open_digest(struct vb_copy *copy, struct vb_error *error);
void vb_copy_close_digest(struct vb_copy *copy);
/* Adds a chunk whose units of state `data` are whole in the buffer. What else lies in the buffer may be overwritten with zeros. */
void vb_copy_add_units(struct vb_digest_sum *sum, uint8_t *buffer, const uint8_t *units, uint8_t data, uint32_t unit_bytes,
		       uint64_t start_bytes, uint64_t length_bytes);
/* Ends a claim: bits and digest at one moment. `sum` is what the range adds. */
void vb_copy_release(struct vb_copy *copy, uint64_t start_bytes, uint64_t length_bytes, bool moved, const struct vb_digest_sum *sum);
/* Reads what was shared. 0, or negative with `error` filled. */
int vb_copy_digest_shared(struct vb_copy *copy, struct vb_error *error);
bool vb_copy_is_cancelled(const struct vb_copy *copy);

/* Makes the disk's large gaps read as zeros on a destination whose content is unknown. 0, or negative with `error` filled. */
int vb_copy_zero_gaps(struct vb_copy *copy, struct vb_error *error);
/* Whether the destination is of a kind that VB_REFLINK_ALWAYS can be kept with; else UNSUPPORTED. */
int vb_copy_check_reflink(const struct vb_copy *copy, struct vb_error *error);
/* Has the destination laid out so that what is shared takes few calls. Part of the job's identity: before its journal is opened. */
void vb_copy_choose_order(struct vb_copy *copy);
/* What VB_REFLINK_ALWAYS takes no room for: a lower bound of what is shared, or nothing is copied. 0 in the other modes. */
uint64_t vb_copy_promised_bytes(const struct vb_copy *copy);
/* Shares what can be, granule by granule, before the lanes begin. 0, or negative with `error` filled. */
int vb_copy_share(struct vb_copy *copy, struct vb_error *error);
/* Runs lanes, the calling thread being one, until nothing is left to claim or one fails: then copy->error is filled. */
void vb_copy_run_lanes(struct vb_copy *copy);

#endif
