/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A copy's journal: when it is written, and how a later copy goes on from it. Internal to the core.
 *
 * Invariants: a granule is in the journal as done only if its write had returned before the destination's checkpoint began, and that
 * checkpoint succeeded before the journal was written. A journal whose job is not this one, to the inode, the length, the time and the header
 * of every image, ends the copy before anything is written; nothing is removed then.
 */
#ifndef VB_COPY_JOURNAL_H
#define VB_COPY_JOURNAL_H

#include "copy_state.h"
#include "journal.h"

/* With the copy: finds the place, and the journal of an earlier run if the copy is to go on from it. */
int vb_copy_open_journal(struct vb_copy *copy, struct vb_error *error);
void vb_copy_close_journal(struct vb_copy *copy);
/* Whether there is such a journal, and it is this job's. */
bool vb_copy_has_found(const struct vb_copy *copy);
/* When the plan is made, before the destination is touched: of a copy by a bitmap the journal is there first, because its unfinished
 * destination cannot be brought up to date without one. */
int vb_copy_begin_journal(struct vb_copy *copy, struct vb_error *error);
/* When the plan is made and the dirty set is whole: takes out of it what is durable. */
int vb_copy_restore(struct vb_copy *copy, struct vb_error *error);
/* A destination that an earlier run completed: the digest, and the journal goes. */
int vb_copy_take_published(struct vb_copy *copy, struct vb_error *error);

/* A thread of its own makes what was moved durable and records it, from time to time. A checkpoint that fails ends the copy. */
void vb_copy_start_journal(struct vb_copy *copy);
void vb_copy_stop_journal(struct vb_copy *copy);
/* Before publish: records that nothing is left, if the copy lived long enough to have a journal, or the journal is to stay. */
int vb_copy_seal_journal(struct vb_copy *copy, struct vb_error *error);
/* Afterwards: the journal goes, or stays with what was moved so far. */
void vb_copy_settle_journal(struct vb_copy *copy, bool is_published);

/* What the job is, with the plan if it is made. */
int vb_copy_identify(const struct vb_copy *copy, struct vb_journal_identity *identity, struct vb_error *error);
/* CHANGED where the job of `found` is another one than `now`; the plan counts only where both have one. */
int vb_copy_check_identity(const struct vb_copy *copy, const struct vb_journal_identity *found, const struct vb_journal_identity *now,
			   struct vb_error *error);

/* The part of it that is about the source. */
int vb_copy_check_sources(const struct vb_copy *copy, const struct vb_journal_identity *found, const struct vb_journal_identity *now,
			  struct vb_error *error);

#endif
