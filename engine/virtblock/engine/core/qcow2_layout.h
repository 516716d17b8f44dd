/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where everything lies in a new qcow2 image. Internal to the core.
 *
 * Owns: the order of the file, fixed from the plan before the first byte is written:
 *   header | refcount table | L1 | one cluster per L2 table that may get an entry | data clusters | refcount blocks
 * Data clusters lie in guest order. In source order they lie as in the source's files, layer by layer, so that much of a file is shared by
 * one call; that can be where every extent with data fills whole clusters, and is guest order elsewhere.
 * A unit is what has a state of its own: a cluster, or a subcluster with extended L2 entries.
 * Invariants: the data clusters are those of which the plan has data, or all if the image is preallocated. A unit's rank is the number
 * of data clusters before its own, in units, plus its place in its cluster; it lies at data_offset + rank * unit. So lanes find
 * it without a lock, and in guest order neighbours in the disk are neighbours in the file. The refcount blocks follow the last data
 * cluster that was really written and are placed when that is known. Memory grows with the number of runs, not with the size.
 */
#ifndef VB_QCOW2_LAYOUT_H
#define VB_QCOW2_LAYOUT_H

#include "plan.h"
#include "qcow2.h"
#include "writer.h"

#define VB_QCOW2_LINEAR_REFCOUNT_BYTES 2u   /* 16 bits, QEMU's default and the only width of version 2 */
#define VB_QCOW2_RANK_ZERO UINT64_MAX       /* a run of units that read as zeros and have no data */

/* Units that follow each other. Runs ascend and do not overlap; units in no run say nothing. */
struct vb_qcow2_run {
	uint64_t first_unit;
	uint64_t unit_count;
	uint64_t rank;   /* of the first unit; or VB_QCOW2_RANK_ZERO */
};

struct vb_qcow2_layout {
	uint32_t cluster_bits;
	uint32_t unit_bits;           /* of a unit's size in bytes */
	uint32_t table_bits;          /* of the number of units that an L2 table maps */
	bool is_preallocated;
	bool in_source_order;
	uint64_t size_bytes;          /* virtual size to record */
	uint64_t l1_entry_count;
	uint64_t reftable_offset_bytes;
	uint64_t reftable_clusters;
	uint64_t l1_offset_bytes;
	uint64_t l1_clusters;
	uint64_t l2_offset_bytes;
	uint64_t l2_count;            /* L2 tables with room in the file */
	uint64_t data_offset_bytes;
	uint64_t data_count;          /* clusters */
	uint64_t planned_count;       /* of these, the clusters of which the plan has data */
	uint64_t file_size_bytes;     /* upper bound, every data cluster written */
	size_t run_count;
	struct vb_qcow2_run *runs;
};

/* Of an image as `spec` wants it, for a disk of `size_bytes`. `plan` may be NULL: an empty image. Failures: INVALID (tables over QEMU's
 * limits), MEMORY. */
int vb_qcow2_layout_make(struct vb_qcow2_layout *layout, const struct vb_plan *plan, uint64_t size_bytes,
			 const struct vb_destination_spec *spec, struct vb_error *error);
void vb_qcow2_layout_free(struct vb_qcow2_layout *layout);

/* The run that holds this unit of the disk; NULL if none. O(log n). */
const struct vb_qcow2_run *vb_qcow2_layout_find(const struct vb_qcow2_layout *layout, uint64_t unit);

/* The rank of a unit, if the plan has data for it and all of the `count` units from it on. */
bool vb_qcow2_layout_find_rank(const struct vb_qcow2_layout *layout, uint64_t unit, uint64_t count, uint64_t *rank);

/* The unit of a new image with this cluster size. */
uint32_t vb_qcow2_unit_bytes(const struct vb_destination_spec *spec);

/* INVALID unless the cluster size is a power of two from 512 bytes (16 KiB with extended L2 entries) to 2 MiB. */
int vb_qcow2_check_cluster_size(const struct vb_destination_spec *spec, struct vb_error *error);

static inline uint64_t vb_qcow2_layout_units_per_cluster(const struct vb_qcow2_layout *layout)
{
	return 1ull << (layout->cluster_bits - layout->unit_bits);
}

/* Refcount blocks and refcount table clusters for `used_clusters` others, themselves included. */
void vb_qcow2_refcount_size(uint64_t used_clusters, uint32_t cluster_bits, uint64_t *block_count, uint64_t *reftable_clusters);

#endif
