/* SPDX-License-Identifier: Apache-2.0 */
/* The linear layout of a new qcow2 image. Owns: see qcow2_layout.h. */
#include "qcow2_layout.h"

#include <stdlib.h>

static uint64_t divide_up(uint64_t value, uint64_t by)
{
	return value / by + (value % by != 0);
}

void vb_qcow2_refcount_size(uint64_t used_clusters, uint32_t cluster_bits, uint64_t *block_count, uint64_t *reftable_clusters)
{
	uint64_t cluster_bytes = 1ull << cluster_bits;
	uint64_t entries = cluster_bytes / VB_QCOW2_LINEAR_REFCOUNT_BYTES;
	uint64_t blocks = 0, table = 1, previous;

	/* Each round can only ask for more, and a block covers far more than itself: this ends after a few rounds. */
	do {
		previous = blocks + table;
		blocks = divide_up(used_clusters + blocks + table, entries);
		table = divide_up(blocks * sizeof(uint64_t), cluster_bytes);
	} while (blocks + table != previous);
	*block_count = blocks;
	*reftable_clusters = table;
}

/* Appends runs while walking the plan; a unit that two extents share belongs to the first, and data wins over zeros. */
struct run_builder {
	struct vb_qcow2_layout *layout;
	size_t capacity;
	uint64_t next_unit;           /* first one that no run holds */
	uint64_t next_data_cluster;   /* first one behind the last that has data */
};

static struct vb_qcow2_run *last_run(const struct run_builder *builder)
{
	return builder->layout->run_count ? &builder->layout->runs[builder->layout->run_count - 1] : NULL;
}

static int push_run(struct run_builder *builder, const struct vb_qcow2_run *run)
{
	struct vb_qcow2_layout *layout = builder->layout;

	if (layout->run_count == builder->capacity) {
		size_t capacity = builder->capacity ? builder->capacity * 2 : 64;
		struct vb_qcow2_run *runs = realloc(layout->runs, capacity * sizeof(*runs));

		if (!runs)
			return -1;
		layout->runs = runs;
		builder->capacity = capacity;
	}
	layout->runs[layout->run_count++] = *run;
	return 0;
}

/* Takes the unit from the zero run that ends with it. */
static void take_from_zero_run(struct run_builder *builder, uint64_t unit)
{
	struct vb_qcow2_run *last = last_run(builder);

	if (!last || last->rank != VB_QCOW2_RANK_ZERO || builder->next_unit != unit + 1)
		return;
	builder->next_unit--;
	if (--last->unit_count == 0)
		builder->layout->run_count--;
}

/* The rank of the first of these units of data, whose clusters become data clusters. */
static uint64_t claim_rank(struct run_builder *builder, uint64_t first, uint64_t end)
{
	struct vb_qcow2_layout *layout = builder->layout;
	uint32_t shift = layout->cluster_bits - layout->unit_bits;
	uint64_t first_cluster = first >> shift;
	uint64_t end_cluster = divide_up(end, 1ull << shift);
	bool is_shared = first_cluster < builder->next_data_cluster;
	uint64_t rank = (layout->planned_count - is_shared) << shift;

	layout->planned_count += end_cluster - first_cluster - is_shared;
	builder->next_data_cluster = end_cluster;
	return layout->is_preallocated ? first : rank + (first & ((1ull << shift) - 1));
}

static int add_units(struct run_builder *builder, uint64_t first, uint64_t end, bool is_zero)
{
	if (!is_zero)
		take_from_zero_run(builder, first);
	if (first < builder->next_unit)
		first = builder->next_unit;
	if (first >= end)
		return 0;

	const struct vb_qcow2_layout *layout = builder->layout;
	struct vb_qcow2_run *last = last_run(builder);
	uint64_t rank = is_zero ? VB_QCOW2_RANK_ZERO : claim_rank(builder, first, end);

	builder->next_unit = end;
	if (last && last->first_unit + last->unit_count == first && (last->rank == VB_QCOW2_RANK_ZERO) == is_zero &&
	    (is_zero || !layout->in_source_order)) {
		last->unit_count += end - first;
		return 0;
	}
	return push_run(builder, &(struct vb_qcow2_run){first, end - first, rank});
}

/* A cluster that holds two extents, or a part of one, has no one place in the source. */
static bool can_take_source_order(const struct vb_qcow2_layout *layout, const struct vb_plan *plan)
{
	uint64_t mask = (1ull << layout->cluster_bits) - 1;

	if (layout->is_preallocated || layout->unit_bits != layout->cluster_bits)
		return false;
	for (size_t index = 0; index < plan->extent_count; index++) {
		const struct vb_extent *extent = &plan->extents[index];
		uint64_t end_bytes = extent->start_bytes + extent->length_bytes;

		if (extent->length_bytes == 0 ||
		    (vb_extent_is_data(extent) && ((extent->start_bytes & mask) != 0 || ((end_bytes & mask) != 0 && end_bytes != plan->size_bytes))))
			return false;
	}
	return true;
}

/* Each extent with data has a run of its own; their ranks are dealt out anew. */
static int rank_by_source(struct vb_qcow2_layout *layout, const struct vb_plan *plan)
{
	size_t count;
	size_t *order = vb_plan_by_source(plan, &count);
	uint64_t rank = 0;

	if (!order)
		return -1;
	for (size_t index = 0; index < count; index++) {
		uint64_t unit = plan->extents[order[index]].start_bytes >> layout->unit_bits;
		struct vb_qcow2_run *run = &layout->runs[vb_qcow2_layout_find(layout, unit) - layout->runs];

		run->rank = rank;
		rank += run->unit_count;
	}
	free(order);
	return 0;
}

static int make_runs(struct vb_qcow2_layout *layout, const struct vb_plan *plan)
{
	struct run_builder builder = {.layout = layout};

	layout->in_source_order = layout->in_source_order && can_take_source_order(layout, plan);
	for (size_t index = 0; index < plan->extent_count; index++) {
		const struct vb_extent *extent = &plan->extents[index];
		uint64_t first = extent->start_bytes >> layout->unit_bits;
		uint64_t end = divide_up(extent->start_bytes + extent->length_bytes, 1ull << layout->unit_bits);

		if (extent->length_bytes && add_units(&builder, first, end, extent->kind == VB_EXTENT_ZERO))
			return -1;
	}
	return layout->in_source_order ? rank_by_source(layout, plan) : 0;
}

static uint64_t count_l2_tables(const struct vb_qcow2_layout *layout)
{
	uint64_t count = 0, next_table = 0;

	if (layout->is_preallocated)
		return layout->l1_entry_count;
	for (size_t index = 0; index < layout->run_count; index++) {
		const struct vb_qcow2_run *run = &layout->runs[index];
		uint64_t first = run->first_unit >> layout->table_bits;
		uint64_t end = ((run->first_unit + run->unit_count - 1) >> layout->table_bits) + 1;

		if (first < next_table)
			first = next_table;
		if (first < end) {
			count += end - first;
			next_table = end;
		}
	}
	return count;
}

static int place(struct vb_qcow2_layout *layout, const char *path, struct vb_error *error)
{
	uint64_t cluster_bytes = 1ull << layout->cluster_bits;
	uint64_t block_count;

	layout->l2_count = count_l2_tables(layout);
	layout->data_count = layout->is_preallocated ? divide_up(layout->size_bytes, cluster_bytes) : layout->planned_count;
	vb_qcow2_refcount_size(1 + layout->l1_clusters + layout->l2_count + layout->data_count, layout->cluster_bits,
			       &block_count, &layout->reftable_clusters);
	if (layout->reftable_clusters * cluster_bytes > VB_QCOW2_REFTABLE_BYTES_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, path, -1,
			       "With clusters of %llu bytes the image needs a refcount table of %llu bytes; %u is the limit: "
			       "choose larger clusters",
			       (unsigned long long)cluster_bytes,
			       (unsigned long long)(layout->reftable_clusters * cluster_bytes), VB_QCOW2_REFTABLE_BYTES_MAX);
	layout->reftable_offset_bytes = cluster_bytes;
	layout->l1_offset_bytes = layout->reftable_offset_bytes + layout->reftable_clusters * cluster_bytes;
	layout->l2_offset_bytes = layout->l1_offset_bytes + layout->l1_clusters * cluster_bytes;
	layout->data_offset_bytes = layout->l2_offset_bytes + layout->l2_count * cluster_bytes;
	layout->file_size_bytes = layout->data_offset_bytes + (layout->data_count + block_count) * cluster_bytes;
	return 0;
}

int vb_qcow2_check_cluster_size(const struct vb_destination_spec *spec, struct vb_error *error)
{
	uint32_t bytes = spec->cluster_size_bytes;

	if (bytes < 1u << VB_QCOW2_CLUSTER_BITS_MIN || bytes > 1u << VB_QCOW2_CLUSTER_BITS_MAX || (bytes & (bytes - 1)) != 0)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1,
			       "A cluster size of %u bytes is not a power of two from 512 bytes to 2 MiB", bytes);
	if (spec->extended_l2 && bytes < 1u << VB_QCOW2_EXTENDED_CLUSTER_BITS_MIN)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1,
			       "A cluster size of %u bytes is too small for extended L2 entries: they need 16 KiB", bytes);
	return 0;
}

uint32_t vb_qcow2_unit_bytes(const struct vb_destination_spec *spec)
{
	return spec->cluster_size_bytes / (spec->extended_l2 ? VB_QCOW2_SUBCLUSTER_COUNT : 1);
}

static int size_l1(struct vb_qcow2_layout *layout, const char *path, struct vb_error *error)
{
	uint64_t cluster_bytes = 1ull << layout->cluster_bits;

	layout->l1_entry_count = divide_up(layout->size_bytes, 1ull << (layout->table_bits + layout->unit_bits));

	uint64_t l1_bytes = layout->l1_entry_count * sizeof(uint64_t);

	if (l1_bytes > VB_QCOW2_L1_BYTES_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, path, -1,
			       "With clusters of %llu bytes a disk of %llu bytes needs an L1 table of %llu bytes; %u is the limit: "
			       "choose larger clusters",
			       (unsigned long long)cluster_bytes, (unsigned long long)layout->size_bytes,
			       (unsigned long long)l1_bytes, VB_QCOW2_L1_BYTES_MAX);
	layout->l1_clusters = divide_up(l1_bytes, cluster_bytes);
	return 0;
}

int vb_qcow2_layout_make(struct vb_qcow2_layout *layout, const struct vb_plan *plan, uint64_t size_bytes,
			 const struct vb_destination_spec *spec, struct vb_error *error)
{
	*layout = (struct vb_qcow2_layout){.is_preallocated = spec->preallocation != VB_PREALLOCATION_OFF,
					   .in_source_order = spec->in_source_order};
	if (vb_qcow2_check_cluster_size(spec, error))
		return -1;
	layout->cluster_bits = (uint32_t)__builtin_ctz(spec->cluster_size_bytes);
	layout->unit_bits = (uint32_t)__builtin_ctz(vb_qcow2_unit_bytes(spec));
	layout->table_bits = layout->cluster_bits - (spec->extended_l2 ? 4 : 3) + layout->cluster_bits - layout->unit_bits;
	layout->size_bytes = divide_up(size_bytes, 512) * 512;   /* QEMU drops a rest of less than a sector */
	if (size_l1(layout, spec->path, error))
		return -1;
	if (plan && make_runs(layout, plan)) {
		vb_qcow2_layout_free(layout);
		return vb_fail(error, VB_ERROR_MEMORY, 0, spec->path, -1, "No memory for the layout of %zu extents",
			       plan->extent_count);
	}
	if (place(layout, spec->path, error)) {
		vb_qcow2_layout_free(layout);
		return -1;
	}
	return 0;
}

void vb_qcow2_layout_free(struct vb_qcow2_layout *layout)
{
	free(layout->runs);
	layout->runs = NULL;
	layout->run_count = 0;
}

const struct vb_qcow2_run *vb_qcow2_layout_find(const struct vb_qcow2_layout *layout, uint64_t unit)
{
	size_t low = 0, high = layout->run_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct vb_qcow2_run *run = &layout->runs[middle];

		if (run->first_unit + run->unit_count <= unit)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == layout->run_count || layout->runs[low].first_unit > unit)
		return NULL;
	return &layout->runs[low];
}

bool vb_qcow2_layout_find_rank(const struct vb_qcow2_layout *layout, uint64_t unit, uint64_t count, uint64_t *rank)
{
	const struct vb_qcow2_run *run = vb_qcow2_layout_find(layout, unit);

	if (!run || run->rank == VB_QCOW2_RANK_ZERO || unit + count > run->first_unit + run->unit_count)
		return false;
	*rank = run->rank + (unit - run->first_unit);
	return true;
}
