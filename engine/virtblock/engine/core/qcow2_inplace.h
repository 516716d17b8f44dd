/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An existing qcow2 image that is being changed, shared by its two halves: qcow2_tables.c keeps the mapping tables,
 * qcow2_inplace_writer.c moves data. Internal to the core.
 *
 * Invariants, under the mutex: a table in memory is what the file will hold after the next checkpoint; a cluster is written in
 * place only if the image owns it alone (COPIED, refcount 1, claimed by no other entry or table of the image). An L2 entry
 * names new data only after that data was written; a checkpoint makes it durable before it writes the entry.
 */
#ifndef VB_QCOW2_INPLACE_H
#define VB_QCOW2_INPLACE_H

#include <pthread.h>

#include "destination.h"
#include "qcow2.h"
#include "qcow2_refcounts.h"

struct vb_l2_slot {
	uint8_t *bytes;      /* the table as it is in the file, one cluster; NULL: not loaded */
	bool is_dirty;
	bool is_checked;     /* its entries were checked when it was first loaded */
};

struct inplace_writer {
	struct vb_writer base;
	enum vb_existing_role role;
	struct vb_qcow2_header header;
	bool is_marked;             /* found unfinished: an earlier copy's mark is there already */
	bool has_begun;             /* the image was told that it is being changed */
	pthread_mutex_t mutex;
	struct vb_refcounts refcounts;
	uint64_t *l1;               /* host byte order */
	bool l1_is_dirty;
	struct vb_l2_slot *l2;      /* by L1 index */
	uint64_t l2_loaded_count;
	uint64_t *owned;            /* one bit per host cluster that was in use at open: a table's or an in-place data cluster's */
	uint64_t *packed;           /* likewise: holds compressed clusters, which share it */
	uint64_t owned_count;
	struct vb_error check_error;   /* why a table was not accepted, after which nothing is known of owners any more */
};

/* Once, before the first change: the mark; bitmaps that record nothing of what will be written say so, unless the disk goes on reading
 * the same; and the features that do not survive a writer who knows nothing of them. */
int vb_qcow2_begin_change(struct inplace_writer *self, struct vb_error *error);

/* Reads L1 and claims the clusters of all tables and of the bitmaps' directory; FORMAT where two of them overlap. */
int vb_qcow2_tables_open(struct inplace_writer *self, struct vb_error *error);
void vb_qcow2_tables_close(struct inplace_writer *self);

/* The L2 table for reading; NULL in *bytes when there is none. Valid until the next checkpoint. */
int vb_qcow2_table_for_reading(struct inplace_writer *self, uint64_t l1_index, const uint8_t **bytes, struct vb_error *error);
/* The L2 table for changing: made if missing, moved to an own cluster if shared with a snapshot. Marks it dirty. */
int vb_qcow2_table_for_writing(struct inplace_writer *self, uint64_t l1_index, uint8_t **bytes, struct vb_error *error);

/* Writes everything in an order in which a crash leaks clusters at most, each step durable before the next. */
int vb_qcow2_checkpoint(struct inplace_writer *self, struct vb_error *error);
/* A checkpoint and an empty cache when more tables are loaded than should be. */
int vb_qcow2_make_room(struct inplace_writer *self, struct vb_error *error);

#endif
