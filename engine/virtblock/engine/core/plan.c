/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the list of extents of a copy, resolved over a chain in one pass (chain_walk.h). */
#include "plan_builder.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_CAPACITY 64u

static bool continues(const struct vb_plan_builder *builder, const struct vb_extent *last, const struct vb_extent *next)
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
	mask = vb_chain_layer(builder->walk.chain, next->layer_index)->info.cluster_size_bytes - 1;
	return last->host_offset_bytes == next->host_offset_bytes && (next->start_bytes & mask) != 0;
}

static int grow(struct vb_plan_builder *builder, struct vb_error *error)
{
	size_t capacity = builder->capacity == 0 ? FIRST_CAPACITY : builder->capacity + builder->capacity / 2;
	struct vb_extent *extents = reallocarray(builder->plan->extents, capacity, sizeof(*extents));

	if (extents == NULL)
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "Out of memory for a plan of %zu extents", capacity);
	builder->plan->extents = extents;
	builder->capacity = capacity;
	return 0;
}

static void account(struct vb_plan_builder *builder, const struct vb_extent *extent)
{
	struct vb_plan *plan = builder->plan;

	if (extent->kind == VB_EXTENT_ZERO)
		plan->zero_bytes += extent->length_bytes;
	else
		plan->data_bytes += extent->length_bytes;
	if (extent->kind == VB_EXTENT_COMPRESSED) {
		uint32_t cluster_bytes = vb_chain_layer(builder->walk.chain, extent->layer_index)->info.cluster_size_bytes;

		if (plan->compressed_unit_bytes < cluster_bytes)
			plan->compressed_unit_bytes = cluster_bytes;
	}
}

int vb_plan_add(struct vb_plan_builder *builder, struct vb_extent *extent, size_t level, struct vb_error *error)
{
	struct vb_plan *plan = builder->plan;
	struct vb_extent *last = plan->extent_count > 0 ? &plan->extents[plan->extent_count - 1] : NULL;

	extent->layer_index = (uint16_t)level;
	if (extent->kind == VB_EXTENT_UNALLOCATED)
		extent->kind = VB_EXTENT_ZERO;
	if (extent->kind == VB_EXTENT_ZERO) {
		if (plan->mode == VB_PLAN_FULL)
			return 0;
		extent->layer_index = 0;
	}
	account(builder, extent);
	if (last != NULL && continues(builder, last, extent)) {
		last->length_bytes += extent->length_bytes;
		return 0;
	}
	if (plan->extent_count == builder->capacity && grow(builder, error) < 0)
		return -1;
	plan->extents[plan->extent_count++] = *extent;
	return 0;
}

static int add_visited(void *opaque, struct vb_extent *extent, size_t level, struct vb_error *error)
{
	return vb_plan_add(opaque, extent, level, error);
}

int vb_plan_resolve(struct vb_plan_builder *builder, size_t first, uint64_t start_bytes, uint64_t end_bytes, struct vb_error *error)
{
	struct vb_extent extent = { .start_bytes = start_bytes, .length_bytes = end_bytes - start_bytes, .kind = VB_EXTENT_ZERO };

	if (first == builder->walk.end_level)
		return vb_plan_add(builder, &extent, 0, error);
	return vb_chain_walk_range(&builder->walk, first, start_bytes, end_bytes, add_visited, builder, error);
}

/* A range that the top leaves open between two that it has: only what shares a unit with one of these is resolved. */
static int fill_units(struct vb_plan_builder *builder, uint64_t start_bytes, uint64_t end_bytes, uint64_t unit_bytes,
		      struct vb_error *error)
{
	uint64_t head_end_bytes = start_bytes, tail_start_bytes = end_bytes;

	if (start_bytes % unit_bytes != 0)
		head_end_bytes = start_bytes - start_bytes % unit_bytes + unit_bytes;
	if (head_end_bytes > end_bytes)
		head_end_bytes = end_bytes;
	if (end_bytes < builder->plan->size_bytes)
		tail_start_bytes = end_bytes - end_bytes % unit_bytes;
	if (tail_start_bytes < head_end_bytes)
		tail_start_bytes = head_end_bytes;
	if (start_bytes < head_end_bytes && vb_plan_resolve(builder, 1, start_bytes, head_end_bytes, error) < 0)
		return -1;
	return tail_start_bytes < end_bytes ? vb_plan_resolve(builder, 1, tail_start_bytes, end_bytes, error) : 0;
}

static int resolve_top(struct vb_plan_builder *builder, uint64_t unit_bytes, struct vb_error *error)
{
	uint64_t size_bytes = builder->plan->size_bytes, start_bytes = 0;
	struct vb_extent extent;
	int result;

	while (start_bytes < size_bytes) {
		uint64_t end_bytes;

		if (vb_chain_walk_ask(&builder->walk, 0, start_bytes, size_bytes, &extent, error) < 0)
			return -1;
		end_bytes = start_bytes + extent.length_bytes;
		if (extent.kind == VB_EXTENT_UNALLOCATED)
			result = fill_units(builder, start_bytes, end_bytes, unit_bytes, error);
		else
			result = vb_plan_add(builder, &extent, 0, error);
		if (result < 0)
			return -1;
		start_bytes = end_bytes;
	}
	return 0;
}

/* Gives back what growing took too much. */
static void trim(struct vb_plan *plan)
{
	struct vb_extent *extents = reallocarray(plan->extents, plan->extent_count + 1, sizeof(*extents));

	if (extents != NULL)
		plan->extents = extents;
}

struct vb_plan_builder *vb_plan_builder_new(const struct vb_chain *chain, enum vb_plan_mode mode, uint64_t size_bytes,
					    const bool *cancelled, struct vb_error *error)
{
	struct vb_plan_builder *builder = calloc(1, sizeof(*builder));

	if (builder != NULL)
		builder->plan = calloc(1, sizeof(*builder->plan));
	if (builder == NULL || builder->plan == NULL) {
		free(builder);
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "Out of memory for a plan");
		return NULL;
	}
	builder->plan->mode = mode;
	builder->plan->size_bytes = size_bytes;
	vb_chain_walk_start(&builder->walk, chain, vb_chain_depth(chain), cancelled);
	return builder;
}

struct vb_plan *vb_plan_builder_finish(struct vb_plan_builder *builder, bool is_good)
{
	struct vb_plan *plan = builder->plan;

	vb_chain_walk_end(&builder->walk);
	free(builder);
	if (is_good) {
		trim(plan);
		return plan;
	}
	vb_plan_free(plan);
	return NULL;
}

struct vb_plan *vb_plan_make(const struct vb_chain *chain, enum vb_plan_mode mode, uint32_t unit_bytes, const bool *cancelled,
			     struct vb_error *error)
{
	struct vb_plan_builder *builder;
	int result;

	if (mode == VB_PLAN_TOP && (unit_bytes < 512 || (unit_bytes & (unit_bytes - 1)) != 0)) {
		vb_fail(error, VB_ERROR_INVALID, EINVAL, NULL, -1, "A unit of %u bytes is not a power of two of at least 512", unit_bytes);
		return NULL;
	}
	builder = vb_plan_builder_new(chain, mode, vb_chain_size_bytes(chain), cancelled, error);
	if (builder == NULL)
		return NULL;
	if (mode == VB_PLAN_TOP)
		result = resolve_top(builder, unit_bytes, error);
	else
		result = vb_plan_resolve(builder, 0, 0, builder->plan->size_bytes, error);
	return vb_plan_builder_finish(builder, result == 0);
}

struct vb_plan *vb_plan_make_within(const struct vb_chain *chain, const struct vb_bitmap *within, const bool *cancelled,
				    struct vb_error *error)
{
	struct vb_plan_builder *builder = vb_plan_builder_new(chain, VB_PLAN_FULL, vb_chain_size_bytes(chain), cancelled, error);
	uint64_t start_bytes = 0, length_bytes = 0;
	int result = 0;

	if (builder == NULL)
		return NULL;
	while (result == 0 && vb_bitmap_next_run(within, start_bytes + length_bytes, &start_bytes, &length_bytes))
		result = vb_plan_resolve(builder, 0, start_bytes, start_bytes + length_bytes, error);
	return vb_plan_builder_finish(builder, result == 0);
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

static int compare_places(const void *left, const void *right, void *opaque)
{
	const struct vb_plan *plan = opaque;
	const struct vb_extent *one = &plan->extents[*(const size_t *)left], *other = &plan->extents[*(const size_t *)right];

	if (one->layer_index != other->layer_index)
		return one->layer_index < other->layer_index ? -1 : 1;
	if (one->host_offset_bytes != other->host_offset_bytes)
		return one->host_offset_bytes < other->host_offset_bytes ? -1 : 1;
	return one->start_bytes < other->start_bytes ? -1 : one->start_bytes > other->start_bytes;
}

size_t *vb_plan_by_source(const struct vb_plan *plan, size_t *count)
{
	size_t *indexes = malloc((plan->extent_count + 1) * sizeof(*indexes));

	*count = 0;
	if (indexes == NULL)
		return NULL;
	for (size_t index = 0; index < plan->extent_count; index++) {
		if (vb_extent_is_data(&plan->extents[index]))
			indexes[(*count)++] = index;
	}
	qsort_r(indexes, *count, sizeof(*indexes), compare_places, (void *)(uintptr_t)plan);
	return indexes;
}
