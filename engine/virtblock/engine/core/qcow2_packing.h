/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where compressed and plain clusters go in a new qcow2 file. Internal to the core.
 *
 * Owns: the end of the file, and the last host cluster's rest. Invariants: places ascend and never overlap; plain clusters lie on host
 * clusters; compressed ones lie one behind the other, over the bounds of host clusters too, unless plain clusters came between them:
 * then those that fit fill the rest first. A host cluster is touched by no more of them than a refcount can say.
 */
#ifndef VB_QCOW2_PACKING_H
#define VB_QCOW2_PACKING_H

#include <stddef.h>
#include <stdint.h>

#define VB_QCOW2_REFCOUNT_MAX UINT16_MAX

struct vb_packing {
	uint32_t cluster_bits;
	uint64_t end_bytes;        /* of what is taken, a multiple of the cluster */
	uint64_t open_bytes;       /* where the next compressed cluster may begin */
	uint64_t open_end_bytes;   /* of the host cluster that was begun */
	uint32_t open_count;       /* compressed clusters that touch it */
};

/* Nothing lies before `start_bytes`, a multiple of the cluster. */
void vb_packing_start(struct vb_packing *packing, uint32_t cluster_bits, uint64_t start_bytes);
/* A place for so many plain clusters in a row. */
uint64_t vb_packing_take_plain(struct vb_packing *packing, uint64_t cluster_count);
/* A place for the first few of `count` compressed clusters of these lengths (each below the cluster size), one behind the other; how
 * many, at least one, goes to `placed`. */
uint64_t vb_packing_take_compressed(struct vb_packing *packing, const uint32_t *lengths, size_t count, size_t *placed);
/* The L2 entry of a compressed cluster; 0 if its place is beyond what an entry can name. */
uint64_t vb_packing_entry(uint32_t cluster_bits, uint64_t offset_bytes, uint32_t length_bytes);

#endif
