/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reference counts of an existing qcow2 image, and allocation. Internal to the core.
 *
 * Owns: the refcount table, the refcount blocks that were touched, the next free cluster, and the references to drop later.
 * Invariants: new clusters come from behind every cluster that has a count, so nothing that is referenced is ever handed out,
 * and nothing that is dropped is handed out again. Counts go up in memory at once and reach the file before anything refers to
 * the cluster; they go down only after what referred to it was changed durably. So a crash between any two writes leaks
 * clusters at most. Not thread safe: the writer's mutex guards it.
 */
#ifndef VB_QCOW2_REFCOUNTS_H
#define VB_QCOW2_REFCOUNTS_H

#include "policy.h"
#include "qcow2.h"

struct vb_refcount_block {
	uint8_t *bytes;   /* one cluster as it is in the file; NULL: not loaded */
	bool is_dirty;
};

struct vb_refcounts {
	const struct vb_file *file;
	uint32_t cluster_bits;
	uint32_t order;                    /* a count has 1 << order bits */
	uint64_t table_offset_bytes;
	uint64_t table_clusters;
	uint64_t block_capacity;           /* entries of the table */
	uint64_t *table;                   /* block offsets, host byte order */
	struct vb_refcount_block *blocks;
	uint64_t loaded_count;
	bool table_is_dirty;
	bool table_has_moved;              /* the header still names the old one */
	uint64_t next_cluster;             /* no cluster from here on has a count */
	uint64_t *drops;                   /* clusters that lose one reference each at the next vb_refcounts_drop */
	size_t drop_count;
	size_t drop_capacity;
};

/* Reads the table and finds the end of what is used. FORMAT where it contradicts itself. */
int vb_refcounts_open(struct vb_refcounts *refcounts, const struct vb_file *file, const struct vb_qcow2_header *header,
		      struct vb_error *error);
void vb_refcounts_close(struct vb_refcounts *refcounts);

int vb_refcounts_get(struct vb_refcounts *refcounts, uint64_t cluster, uint64_t *count, struct vb_error *error);
/* Up to `wanted` clusters that follow each other, each with count 1. Their old content is undefined. */
int vb_refcounts_allocate(struct vb_refcounts *refcounts, uint64_t wanted, uint64_t *first, uint64_t *got, struct vb_error *error);
/* Exactly `count` clusters that follow each other, for a table. */
int vb_refcounts_allocate_run(struct vb_refcounts *refcounts, uint64_t count, uint64_t *first, struct vb_error *error);
/* One reference to each of these clusters goes away once all that refers to them is durable. */
int vb_refcounts_drop_later(struct vb_refcounts *refcounts, uint64_t cluster, uint64_t count, struct vb_error *error);
/* Likewise, but the content stays when the count becomes 0: for clusters that entries share, whose count an image may have too low. */
int vb_refcounts_drop_shared_later(struct vb_refcounts *refcounts, uint64_t cluster, uint64_t count, struct vb_error *error);

/* The steps of a checkpoint; *wrote tells whether anything went to the file. */
int vb_refcounts_write_blocks(struct vb_refcounts *refcounts, bool *wrote, struct vb_error *error);
int vb_refcounts_write_table(struct vb_refcounts *refcounts, bool *wrote, struct vb_error *error);
int vb_refcounts_write_header(struct vb_refcounts *refcounts, bool *wrote, struct vb_error *error);
/* Lowers the counts of what was dropped, and gives the host space of clusters that nobody refers to any more back. */
int vb_refcounts_drop(struct vb_refcounts *refcounts, struct vb_error *error);
/* Forgets loaded blocks; none may be dirty. */
void vb_refcounts_forget(struct vb_refcounts *refcounts);

#endif
