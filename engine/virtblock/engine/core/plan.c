/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: resolving a chain into one list of extents, in one pass.
 *
 * How: every layer has a cursor that only goes forward. A range that a layer leaves open is asked of the layer below before the walk goes
 * on, so all cursors move through the disk side by side: each table is read once, memory holds one window of entries per layer,
 * and a range that no layer has costs one step per layer however long it is.
 */
#include "plan.h"

#include <errno.h>
#include <stdlib.h>

#include "layer.h"

#define FIRST_CAPACITY 64u

struct resolver {
	const struct vb_chain *chain;
	size_t depth;
	struct vb_layer_cursor cursors[VB_CHAIN_DEPTH_MAX];
	uint64_t open_ends[VB_CHAIN_DEPTH_MAX];   /* per layer: end of the range that the layers above leave to it */
	struct vb_plan *plan;
	size_t capacity;
	struct vb_error *error;
};

static bool continues(const struct resolver *resolver, const struct vb_extent *last, const struct vb_extent *next)
{
	uint64_t mask;

	if (last->kind != next->kind || last->start_bytes + last->length_bytes != next->start_bytes)
		return false;
	if (next->kind == VB_EXTENT_ZERO)
		return true;
	if (last->layer_index != next->layer_index)
		return false;
	if (next->kind == VB_EXTENT_DATA)
		return last->host_offset_bytes + last->length_bytes == next->host_offset_bytes;
	/* Two parts of one compressed cluster. */
	mask = vb_chain_layer(resolver->chain, next->layer_index)->info.cluster_size_bytes - 1;
	return last->host_offset_bytes == next->host_offset_bytes && (next->start_bytes & mask) != 0;
}

static int grow(struct resolver *resolver)
{
	size_t capacity = resolver->capacity == 0 ? FIRST_CAPACITY : resolver->capacity + resolver->capacity / 2;
	struct vb_extent *extents = reallocarray(resolver->plan->extents, capacity, sizeof(*extents));

	if (extents == NULL)
		return vb_fail(resolver->error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "Out of memory for a plan of %zu extents", capacity);
	resolver->plan->extents = extents;
	resolver->capacity = capacity;
	return 0;
}

static void account(struct resolver *resolver, const struct vb_extent *extent)
{
	struct vb_plan *plan = resolver->plan;

	if (extent->kind == VB_EXTENT_ZERO)
		plan->zero_bytes += extent->length_bytes;
	else
		plan->data_bytes += extent->length_bytes;
	if (extent->kind == VB_EXTENT_COMPRESSED) {
		uint32_t cluster_bytes = vb_chain_layer(resolver->chain, extent->layer_index)->info.cluster_size_bytes;

		if (plan->compressed_unit_bytes < cluster_bytes)
			plan->compressed_unit_bytes = cluster_bytes;
	}
}

static int emit(struct resolver *resolver, struct vb_extent *extent, size_t layer_index)
{
	struct vb_plan *plan = resolver->plan;
	struct vb_extent *last = plan->extent_count > 0 ? &plan->extents[plan->extent_count - 1] : NULL;

	extent->layer_index = (uint16_t)layer_index;
	if (extent->kind == VB_EXTENT_UNALLOCATED)
		extent->kind = VB_EXTENT_ZERO;
	if (extent->kind == VB_EXTENT_ZERO) {
		if (plan->mode == VB_PLAN_FULL)
			return 0;
		extent->layer_index = 0;
	}
	account(resolver, extent);
	if (last != NULL && continues(resolver, last, extent)) {
		last->length_bytes += extent->length_bytes;
		return 0;
	}
	if (plan->extent_count == resolver->capacity && grow(resolver) < 0)
		return -1;
	plan->extents[plan->extent_count++] = *extent;
	return 0;
}

/* What layer `index` alone says from `start` on. Behind its end it reads as zeros, whatever lies below it. */
static int ask_layer(struct resolver *resolver, size_t index, uint64_t start_bytes, uint64_t end_bytes, struct vb_extent *extent)
{
	struct vb_layer_cursor *cursor = &resolver->cursors[index];
	uint64_t size_bytes = cursor->layer->info.virtual_size_bytes;

	*extent = (struct vb_extent){ .start_bytes = start_bytes, .length_bytes = end_bytes - start_bytes, .kind = VB_EXTENT_ZERO };
	if (start_bytes >= size_bytes)
		return 0;
	return cursor->layer->ops->next(cursor, start_bytes, end_bytes < size_bytes ? end_bytes : size_bytes, extent, resolver->error);
}

/* Resolves a range over the layers from `first` down. A range that is below the bottom is zeros. */
static int resolve(struct resolver *resolver, size_t first, uint64_t start_bytes, uint64_t end_bytes)
{
	struct vb_extent extent = { .start_bytes = start_bytes, .length_bytes = end_bytes - start_bytes, .kind = VB_EXTENT_ZERO };
	size_t level = first;

	if (first == resolver->depth)
		return emit(resolver, &extent, 0);
	resolver->open_ends[first] = end_bytes;
	while (start_bytes < end_bytes) {
		while (start_bytes == resolver->open_ends[level])
			level--;
		if (ask_layer(resolver, level, start_bytes, resolver->open_ends[level], &extent) < 0)
			return -1;
		if (extent.kind == VB_EXTENT_UNALLOCATED && level + 1 < resolver->depth) {
			resolver->open_ends[++level] = start_bytes + extent.length_bytes;
			continue;
		}
		start_bytes += extent.length_bytes;
		if (emit(resolver, &extent, level) < 0)
			return -1;
	}
	return 0;
}

/* A range that the top leaves open between two that it has: only what shares a unit with one of these is resolved. */
static int fill_units(struct resolver *resolver, uint64_t start_bytes, uint64_t end_bytes, uint64_t unit_bytes)
{
	uint64_t head_end_bytes = start_bytes, tail_start_bytes = end_bytes;

	if (start_bytes % unit_bytes != 0)
		head_end_bytes = start_bytes - start_bytes % unit_bytes + unit_bytes;
	if (head_end_bytes > end_bytes)
		head_end_bytes = end_bytes;
	if (end_bytes < resolver->plan->size_bytes)
		tail_start_bytes = end_bytes - end_bytes % unit_bytes;
	if (tail_start_bytes < head_end_bytes)
		tail_start_bytes = head_end_bytes;
	if (start_bytes < head_end_bytes && resolve(resolver, 1, start_bytes, head_end_bytes) < 0)
		return -1;
	return tail_start_bytes < end_bytes ? resolve(resolver, 1, tail_start_bytes, end_bytes) : 0;
}

static int resolve_top(struct resolver *resolver, uint64_t unit_bytes)
{
	uint64_t size_bytes = resolver->plan->size_bytes, start_bytes = 0;
	struct vb_extent extent;
	int result;

	while (start_bytes < size_bytes) {
		uint64_t end_bytes;

		if (ask_layer(resolver, 0, start_bytes, size_bytes, &extent) < 0)
			return -1;
		end_bytes = start_bytes + extent.length_bytes;
		if (extent.kind == VB_EXTENT_UNALLOCATED)
			result = fill_units(resolver, start_bytes, end_bytes, unit_bytes);
		else
			result = emit(resolver, &extent, 0);
		if (result < 0)
			return -1;
		start_bytes = end_bytes;
	}
	return 0;
}

static int resolve_all(struct resolver *resolver, uint32_t unit_bytes, const bool *cancelled)
{
	uint64_t size_bytes = resolver->plan->size_bytes;
	int result;

	for (size_t i = 0; i < resolver->depth; i++)
		vb_layer_cursor_start(&resolver->cursors[i], vb_chain_layer(resolver->chain, i), cancelled);
	if (resolver->plan->mode == VB_PLAN_TOP)
		result = resolve_top(resolver, unit_bytes);
	else
		result = resolve(resolver, 0, 0, size_bytes);
	for (size_t i = 0; i < resolver->depth; i++)
		vb_layer_cursor_free(&resolver->cursors[i]);
	return result;
}

/* Gives back what growing took too much. */
static void trim(struct vb_plan *plan)
{
	struct vb_extent *extents = reallocarray(plan->extents, plan->extent_count + 1, sizeof(*extents));

	if (extents != NULL)
		plan->extents = extents;
}

struct vb_plan *vb_plan_make(const struct vb_chain *chain, enum vb_plan_mode mode, uint32_t unit_bytes, const bool *cancelled,
			     struct vb_error *error)
{
	struct vb_plan *plan;
	struct resolver *resolver;
	int result;

	if (mode == VB_PLAN_TOP && (unit_bytes < 512 || (unit_bytes & (unit_bytes - 1)) != 0)) {
		vb_fail(error, VB_ERROR_INVALID, EINVAL, NULL, -1, "A unit of %u bytes is not a power of two of at least 512", unit_bytes);
		return NULL;
	}
	plan = calloc(1, sizeof(*plan));
	resolver = calloc(1, sizeof(*resolver));
	if (plan == NULL || resolver == NULL) {
		free(plan);
		free(resolver);
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "Out of memory for a plan");
		return NULL;
	}
	plan->mode = mode;
	plan->size_bytes = vb_chain_size_bytes(chain);
	*resolver = (struct resolver){ .chain = chain, .depth = vb_chain_depth(chain), .plan = plan, .error = error };
	result = resolve_all(resolver, unit_bytes, cancelled);
	free(resolver);
	if (result < 0) {
		vb_plan_free(plan);
		return NULL;
	}
	trim(plan);
	return plan;
}

void vb_plan_free(struct vb_plan *plan)
{
	if (plan == NULL)
		return;
	free(plan->extents);
	free(plan);
}

size_t vb_plan_find(const struct vb_plan *plan, uint64_t offset_bytes)
{
	size_t low = 0, high = plan->extent_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct vb_extent *extent = &plan->extents[middle];

		if (extent->start_bytes + extent->length_bytes > offset_bytes)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}
