/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: what has to be moved, resolved over the whole chain once.
 *
 * Owns: the merged, ascending list of extents of a copy, and its sums. Used for progress, the free-space check, the layout of
 * the destination, copying and zeroing; nothing asks the images for allocation again.
 * Invariants: extents ascend and do not overlap; gaps between them are UNALLOCATED (full mode: zeros; top mode: the backing
 * file shows through). Only DATA, COMPRESSED and, in top mode, ZERO are listed (in full mode zeros are gaps).
 * Top mode resolves a destination cluster that the top layer touches over the whole chain, so that a cluster is always whole; merge
 * mode does so with each cluster of the written image that what moves touches. In merge mode a gap is what stays as it is.
 */
#ifndef VB_PLAN_H
#define VB_PLAN_H

#include "bitmap.h"
#include "image.h"

enum vb_plan_mode {
	VB_PLAN_FULL = 0,   /* the whole chain, flattened */
	VB_PLAN_TOP = 1,    /* what the top layer holds; the destination has a backing file */
	VB_PLAN_MERGE = 2   /* what moves between layers of the chain itself (struct vb_merge_span) */
};

/* Which layers of a chain move into which. */
struct vb_merge_span {
	bool is_commit;      /* layers [top, base) move into the base; else a pull: layers (top, base) move into the top */
	size_t top_index;    /* pull: 0 */
	size_t base_index;   /* pull: the chain's depth if all that is below the top moves */
};

struct vb_plan {
	uint64_t size_bytes;          /* virtual size */
	uint64_t data_bytes;          /* sum of DATA and COMPRESSED */
	uint64_t zero_bytes;          /* sum of listed ZERO */
	size_t extent_count;
	struct vb_extent *extents;
	uint32_t compressed_unit_bytes;   /* largest cluster of a layer with compressed extents; 0 if none: chunks are its multiple */
	enum vb_plan_mode mode;
};

/* `unit_bytes`: the destination's cluster (512 or more, a power of two); top mode fills touched units. `cancelled` is polled
 * (may be NULL). Memory grows with the number of merged extents, not with the size. */
struct vb_plan *vb_plan_make(const struct vb_chain *chain, enum vb_plan_mode mode, uint32_t unit_bytes, const bool *cancelled,
			     struct vb_error *error);
/* Likewise for a merge: `size_bytes` is the virtual size of the image written, when it is done. Zeros are listed only where without them
 * something else would be read. */
struct vb_plan *vb_plan_make_merge(const struct vb_chain *chain, const struct vb_merge_span *span, uint64_t size_bytes,
				   uint32_t unit_bytes, const bool *cancelled, struct vb_error *error);
/* The plan of the ranges that `within` has dirty, and of nothing else: the whole chain is resolved there, in full mode. Costs what lies
 * in these ranges, not what the disk has. */
struct vb_plan *vb_plan_make_within(const struct vb_chain *chain, const struct vb_bitmap *within, const bool *cancelled,
				    struct vb_error *error);
void vb_plan_free(struct vb_plan *plan);

/* The indexes of the extents that have data, in the order in which these lie in the source's files, layer by layer; *count of them. NULL:
 * no memory. The caller frees it. */
size_t *vb_plan_by_source(const struct vb_plan *plan, size_t *count);

/* Index of the first extent that ends after `offset_bytes`; extent_count if none. O(log n). */
size_t vb_plan_find(const struct vb_plan *plan, uint64_t offset_bytes);

#endif
