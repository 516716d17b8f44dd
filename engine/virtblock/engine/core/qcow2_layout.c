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

/* Appends runs while walking the plan; a cluster that two extents share belongs to the first, and data wins over zeros. */
struct run_builder {
	struct vb_qcow2_layout *layout;
	size_t capacity;
	uint64_t next_cluster;   /* first one that no run holds */
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

/* Takes the cluster from the zero run that ends with it. */
static void take_from_zero_run(struct run_builder *builder, uint64_t cluster)
{
	struct vb_qcow2_run *last = last_run(builder);

	if (!last || last->rank != VB_QCOW2_RANK_ZERO || builder->next_cluster != cluster + 1)
		return;
	builder->next_cluster--;
	if (--last->cluster_count == 0)
		builder->layout->run_count--;
}

static int add_clusters(struct run_builder *builder, uint64_t first, uint64_t end, bool is_zero)
{
	struct vb_qcow2_layout *layout = builder->layout;

	if (!is_zero)
		take_from_zero_run(builder, first);
	if (first < builder->next_cluster)
		first = builder->next_cluster;
	if (first >= end)
		return 0;

	struct vb_qcow2_run *last = last_run(builder);
	uint64_t count = end - first;
	uint64_t rank = is_zero ? VB_QCOW2_RANK_ZERO : layout->data_count;

	builder->next_cluster = end;
	if (!is_zero)
		layout->data_count += count;
	if (last && last->first_cluster + last->cluster_count == first && (last->rank == VB_QCOW2_RANK_ZERO) == is_zero) {
		last->cluster_count += count;
		return 0;
	}
	return push_run(builder, &(struct vb_qcow2_run){first, count, rank});
}

static int make_runs(struct vb_qcow2_layout *layout, const struct vb_plan *plan)
{
	struct run_builder builder = {.layout = layout};

	for (size_t index = 0; index < plan->extent_count; index++) {
		const struct vb_extent *extent = &plan->extents[index];
		uint64_t first = extent->start_bytes >> layout->cluster_bits;
		uint64_t end = divide_up(extent->start_bytes + extent->length_bytes, 1ull << layout->cluster_bits);

		if (extent->length_bytes && add_clusters(&builder, first, end, extent->kind == VB_EXTENT_ZERO))
			return -1;
	}
	return 0;
}

static uint64_t count_l2_tables(const struct vb_qcow2_layout *layout)
{
	uint32_t shift = layout->cluster_bits - 3;   /* L2 entries per table, as a power of two */
	uint64_t count = 0, next_table = 0;

	for (size_t index = 0; index < layout->run_count; index++) {
		const struct vb_qcow2_run *run = &layout->runs[index];
		uint64_t first = run->first_cluster >> shift;
		uint64_t end = ((run->first_cluster + run->cluster_count - 1) >> shift) + 1;

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

int vb_qcow2_check_cluster_size(uint32_t cluster_size_bytes, const char *path, struct vb_error *error)
{
	if (cluster_size_bytes < 1u << VB_QCOW2_CLUSTER_BITS_MIN || cluster_size_bytes > 1u << VB_QCOW2_CLUSTER_BITS_MAX ||
	    (cluster_size_bytes & (cluster_size_bytes - 1)) != 0)
		return vb_fail(error, VB_ERROR_INVALID, 0, path, -1,
			       "A cluster size of %u bytes is not a power of two from 512 bytes to 2 MiB", cluster_size_bytes);
	return 0;
}

int vb_qcow2_layout_make(struct vb_qcow2_layout *layout, const struct vb_plan *plan, uint64_t size_bytes,
			 uint32_t cluster_size_bytes, const char *path, struct vb_error *error)
{
	*layout = (struct vb_qcow2_layout){0};
	if (vb_qcow2_check_cluster_size(cluster_size_bytes, path, error))
		return -1;
	layout->cluster_bits = (uint32_t)__builtin_ctz(cluster_size_bytes);
	layout->size_bytes = divide_up(size_bytes, 512) * 512;   /* QEMU drops a rest of less than a sector */
	layout->l1_entry_count = divide_up(layout->size_bytes, vb_qcow2_l2_span_bytes(layout->cluster_bits));

	uint64_t l1_bytes = layout->l1_entry_count * sizeof(uint64_t);

	if (l1_bytes > VB_QCOW2_L1_BYTES_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, path, -1,
			       "With clusters of %u bytes a disk of %llu bytes needs an L1 table of %llu bytes; %u is the limit: "
			       "choose larger clusters",
			       cluster_size_bytes, (unsigned long long)size_bytes, (unsigned long long)l1_bytes,
			       VB_QCOW2_L1_BYTES_MAX);
	layout->l1_clusters = divide_up(l1_bytes, cluster_size_bytes);
	if (plan && make_runs(layout, plan)) {
		vb_qcow2_layout_free(layout);
		return vb_fail(error, VB_ERROR_MEMORY, 0, path, -1, "No memory for the layout of %zu extents",
			       plan->extent_count);
	}
	if (place(layout, path, error)) {
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

const struct vb_qcow2_run *vb_qcow2_layout_find(const struct vb_qcow2_layout *layout, uint64_t guest_cluster)
{
	size_t low = 0, high = layout->run_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct vb_qcow2_run *run = &layout->runs[middle];

		if (run->first_cluster + run->cluster_count <= guest_cluster)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == layout->run_count || layout->runs[low].first_cluster > guest_cluster)
		return NULL;
	return &layout->runs[low];
}

bool vb_qcow2_layout_find_rank(const struct vb_qcow2_layout *layout, uint64_t guest_cluster, uint64_t count, uint64_t *rank)
{
	const struct vb_qcow2_run *run = vb_qcow2_layout_find(layout, guest_cluster);

	if (!run || run->rank == VB_QCOW2_RANK_ZERO || guest_cluster + count > run->first_cluster + run->cluster_count)
		return false;
	*rank = run->rank + (guest_cluster - run->first_cluster);
	return true;
}
