/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan of a pull or a commit.
 *
 * Owns: which units of the written image have to be filled, and from where. How: one walk finds what the layers that move provide,
 * a second one, a little behind, resolves every unit that was touched over all layers that the unit is read through.
 * Invariant: after a unit was filled the disk reads as before, whichever of the two the guest's chain then asks.
 */
#include <errno.h>
#include <stdlib.h>

#include "plan_builder.h"

struct merge_planner {
	struct vb_plan_builder *builder;
	struct vb_chain_walk touch;      /* over the layers that move, and those above them within the span */
	const struct vb_merge_span *span;
	uint64_t unit_mask;
	uint64_t top_end_bytes;          /* commit: behind it the committed layers read as zeros */
	uint64_t clear_end_bytes;        /* commit: the image above them sees these zeros up to here */
	uint64_t zero_end_bytes;         /* behind it what is not written reads as zeros anyway */
	uint64_t pending_start_bytes;    /* units touched and not yet resolved */
	uint64_t pending_end_bytes;
};

static uint64_t smaller(uint64_t left, uint64_t right)
{
	return left < right ? left : right;
}

static uint64_t size_of(const struct vb_chain *chain, size_t index)
{
	return vb_layer_info(vb_chain_layer(chain, index))->virtual_size_bytes;
}

/* What the pending units will hold. A unit of the base that the top's end cuts keeps what the base has behind that end, but for what
 * the image above the top reads there. */
static int flush(struct merge_planner *planner, struct vb_error *error)
{
	struct vb_plan_builder *builder = planner->builder;
	uint64_t start_bytes = planner->pending_start_bytes, end_bytes = planner->pending_end_bytes;
	uint64_t top_end_bytes = smaller(end_bytes, planner->top_end_bytes);
	uint64_t clear_end_bytes = smaller(end_bytes, planner->clear_end_bytes);

	planner->pending_start_bytes = end_bytes;
	if (start_bytes < top_end_bytes) {
		if (vb_plan_resolve(builder, planner->span->top_index, start_bytes, top_end_bytes, error))
			return -1;
		start_bytes = top_end_bytes;
	}
	if (start_bytes < clear_end_bytes) {
		if (vb_plan_resolve(builder, builder->walk.end_level, start_bytes, clear_end_bytes, error))
			return -1;
		start_bytes = clear_end_bytes;
	}
	return start_bytes < end_bytes ? vb_plan_resolve(builder, planner->span->base_index, start_bytes, end_bytes, error) : 0;
}

static int touch(struct merge_planner *planner, uint64_t start_bytes, uint64_t end_bytes, struct vb_error *error)
{
	start_bytes &= ~planner->unit_mask;
	end_bytes = smaller((end_bytes + planner->unit_mask) & ~planner->unit_mask, planner->builder->plan->size_bytes);
	if (start_bytes > planner->pending_end_bytes) {
		if (flush(planner, error))
			return -1;
		planner->pending_start_bytes = start_bytes;
	}
	if (end_bytes > planner->pending_end_bytes)
		planner->pending_end_bytes = end_bytes;
	return 0;
}

static int visit(void *opaque, struct vb_extent *extent, size_t level, struct vb_error *error)
{
	struct merge_planner *planner = opaque;
	uint64_t end_bytes = extent->start_bytes + extent->length_bytes;

	if (extent->kind == VB_EXTENT_UNALLOCATED || (!planner->span->is_commit && level == planner->span->top_index))
		return 0;
	if (extent->kind == VB_EXTENT_ZERO)
		end_bytes = smaller(end_bytes, planner->zero_end_bytes);
	return extent->start_bytes < end_bytes ? touch(planner, extent->start_bytes, end_bytes, error) : 0;
}

static void find_ends(struct merge_planner *planner, const struct vb_chain *chain)
{
	const struct vb_merge_span *span = planner->span;
	uint64_t base_bytes = span->base_index < vb_chain_depth(chain) ? size_of(chain, span->base_index) : 0;

	planner->top_end_bytes = size_of(chain, span->top_index);
	planner->zero_end_bytes = base_bytes;
	planner->clear_end_bytes = planner->top_end_bytes;
	if (span->is_commit && span->top_index > 0)
		planner->clear_end_bytes = smaller(size_of(chain, span->top_index - 1), base_bytes);
}

static int plan_all(struct merge_planner *planner, struct vb_error *error)
{
	if (vb_chain_walk_range(&planner->touch, planner->span->top_index, 0, planner->top_end_bytes, visit, planner, error))
		return -1;
	if (planner->top_end_bytes < planner->clear_end_bytes &&
	    touch(planner, planner->top_end_bytes, planner->clear_end_bytes, error))
		return -1;
	return flush(planner, error);
}

struct vb_plan *vb_plan_make_merge(const struct vb_chain *chain, const struct vb_merge_span *span, uint64_t size_bytes,
				   uint32_t unit_bytes, const bool *cancelled, struct vb_error *error)
{
	struct merge_planner *planner = calloc(1, sizeof(*planner));
	int result;

	if (planner == NULL) {
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "Out of memory for a plan");
		return NULL;
	}
	planner->builder = vb_plan_builder_new(chain, VB_PLAN_MERGE, size_bytes, cancelled, error);
	if (planner->builder == NULL) {
		free(planner);
		return NULL;
	}
	planner->span = span;
	planner->unit_mask = unit_bytes - 1;
	find_ends(planner, chain);
	vb_chain_walk_start(&planner->touch, chain, span->base_index, cancelled);
	result = plan_all(planner, error);
	vb_chain_walk_end(&planner->touch);

	struct vb_plan *plan = vb_plan_builder_finish(planner->builder, result == 0);

	free(planner);
	return plan;
}
