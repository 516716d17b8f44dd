/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of a new qcow2 image, generated at its end.
 *
 * Owns: one pass over the layout's runs that emits L2 tables in file order, the L1 table, and the refcounts of what is really used.
 * Invariants: an L2 table or refcount block without an entry is neither written nor referenced. What is kept in memory is the L1 table, the
 * refcount table and one bit per L2 table: limited by the format to 32 MiB and 8 MiB, and touched only where an entry is.
 */
#include "qcow2_linear_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_new_header.h"
#include "stream.h"
#include "sys.h"

struct generator {
	struct linear_writer *self;
	struct vb_stream stream;
	uint64_t cluster_bytes;
	uint64_t *l1;             /* big-endian */
	uint64_t *reftable;       /* big-endian when written */
	uint64_t *l2_used;        /* one bit per L2 table with room in the file */
	uint8_t *table;           /* one cluster: the L2 table or refcount block in the making */
	uint64_t used_end;        /* host clusters: refcount blocks start here */
	uint64_t block_count;     /* refcount blocks that exist */
};

static bool is_written(const struct linear_writer *self, uint64_t rank)
{
	return (atomic_load_explicit(&self->written[rank / 64], memory_order_relaxed) >> (rank % 64)) & 1;
}

/* L2 entries for clusters [cluster, end) of a run; returns whether any is not empty. */
static bool fill_l2_entries(const struct generator *generator, const struct vb_qcow2_run *run, uint64_t cluster, uint64_t end)
{
	const struct linear_writer *self = generator->self;
	uint64_t entry_mask = generator->cluster_bytes / sizeof(uint64_t) - 1;
	bool any = false;

	for (; cluster < end; cluster++) {
		uint64_t rank = run->rank + (cluster - run->first_cluster);
		uint64_t entry = self->has_zero_entries ? VB_QCOW2_ZERO : 0;

		if (run->rank != VB_QCOW2_RANK_ZERO && is_written(self, rank))
			entry = (self->layout.data_offset_bytes + rank * generator->cluster_bytes) | VB_QCOW2_COPIED;
		vb_store_be64(generator->table + (cluster & entry_mask) * sizeof(uint64_t), entry);
		any |= entry != 0;
	}
	return any;
}

static int emit_l2_table(struct generator *generator, uint64_t l1_index, uint64_t ordinal, struct vb_error *error)
{
	uint64_t offset_bytes = generator->self->layout.l2_offset_bytes + ordinal * generator->cluster_bytes;

	vb_store_be64(&generator->l1[l1_index], offset_bytes | VB_QCOW2_COPIED);
	generator->l2_used[ordinal / 64] |= 1ull << (ordinal % 64);
	return vb_stream_put(&generator->stream, offset_bytes, generator->table, generator->cluster_bytes, error);
}

static int write_l2_tables(struct generator *generator, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	uint32_t shift = layout->cluster_bits - 3;
	uint64_t current = UINT64_MAX, ordinal = UINT64_MAX;
	bool any = false;

	for (size_t index = 0; index < layout->run_count; index++) {
		const struct vb_qcow2_run *run = &layout->runs[index];
		uint64_t cluster = run->first_cluster;
		uint64_t run_end = cluster + run->cluster_count;

		while (cluster < run_end) {
			uint64_t l1_index = cluster >> shift;
			uint64_t table_end = (l1_index + 1) << shift;
			uint64_t stop = table_end < run_end ? table_end : run_end;

			if (l1_index != current) {
				if (any && emit_l2_table(generator, current, ordinal, error))
					return -1;
				memset(generator->table, 0, generator->cluster_bytes);
				any = false;
				current = l1_index;
				ordinal++;
			}
			any |= fill_l2_entries(generator, run, cluster, stop);
			cluster = stop;
		}
	}
	return any ? emit_l2_table(generator, current, ordinal, error) : 0;
}

/* The refcount of a host cluster: 0 or 1, nothing is shared in a new image. */
static bool is_used(const struct generator *generator, uint64_t host_cluster)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	uint64_t l2_first = layout->l2_offset_bytes >> layout->cluster_bits;
	uint64_t data_first = layout->data_offset_bytes >> layout->cluster_bits;

	if (host_cluster < l2_first)
		return true;
	if (host_cluster < data_first)
		return (generator->l2_used[(host_cluster - l2_first) / 64] >> ((host_cluster - l2_first) % 64)) & 1;
	if (host_cluster < generator->used_end)
		return is_written(generator->self, host_cluster - data_first);
	return host_cluster < generator->used_end + generator->block_count;
}

static uint64_t find_used_end(const struct generator *generator)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	uint64_t rank = layout->data_count;

	while (rank > 0 && !is_written(generator->self, rank - 1)) {
		/* A whole empty word at once. */
		if (rank % 64 == 0 && !atomic_load_explicit(&generator->self->written[rank / 64 - 1], memory_order_relaxed))
			rank -= 64;
		else
			rank--;
	}
	return (layout->data_offset_bytes >> layout->cluster_bits) + rank;
}

static bool any_used(const struct generator *generator, uint64_t first, uint64_t end)
{
	for (; first < end; first++)
		if (is_used(generator, first))
			return true;
	return false;
}

/* Gives every refcount block that has something to count its place behind the data. */
static void place_refcount_blocks(struct generator *generator)
{
	uint64_t entries = generator->cluster_bytes / VB_QCOW2_LINEAR_REFCOUNT_BYTES;
	uint64_t used_end = generator->used_end;
	uint64_t block_end = (used_end + entries - 1) / entries;
	uint64_t count = 0;

	for (uint64_t block = 0; block < block_end; block++) {
		uint64_t end = (block + 1) * entries < used_end ? (block + 1) * entries : used_end;

		if (any_used(generator, block * entries, end)) {
			generator->reftable[block] = 1;
			count++;
		}
	}
	/* The blocks count themselves, which may take more blocks. */
	for (uint64_t block = used_end / entries; block * entries < used_end + count; block++) {
		count += generator->reftable[block] == 0;
		generator->reftable[block] = 1;
		block_end = block + 1;
	}
	generator->block_count = count;

	uint64_t place = used_end;

	for (uint64_t block = 0; block < block_end; block++)
		if (generator->reftable[block])
			vb_store_be64(&generator->reftable[block], place++ * generator->cluster_bytes);
}

static int write_refcount_blocks(struct generator *generator, struct vb_error *error)
{
	uint64_t entries = generator->cluster_bytes / VB_QCOW2_LINEAR_REFCOUNT_BYTES;
	uint64_t end = generator->used_end + generator->block_count;

	for (uint64_t block = 0; block * entries < end; block++) {
		if (!generator->reftable[block])
			continue;
		memset(generator->table, 0, generator->cluster_bytes);
		for (uint64_t index = 0; index < entries; index++)
			if (is_used(generator, block * entries + index))
				generator->table[index * VB_QCOW2_LINEAR_REFCOUNT_BYTES + 1] = 1;
		if (vb_stream_put(&generator->stream, vb_load_be64(&generator->reftable[block]), generator->table,
			       generator->cluster_bytes, error))
			return -1;
	}
	return 0;
}

static int set_file_end(const struct generator *generator, struct vb_error *error)
{
	const struct vb_file *file = &generator->self->base.file;
	uint64_t end_bytes = (generator->used_end + generator->block_count) * generator->cluster_bytes;

	if (generator->self->is_device)
		return 0;
	if (vb_sys->ftruncate(file->fd, (off_t)end_bytes))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot set the file's length to %llu bytes",
			       (unsigned long long)end_bytes);
	return 0;
}

static int write_all(struct generator *generator, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	const struct vb_file *file = &generator->self->base.file;

	if (write_l2_tables(generator, error))
		return -1;
	generator->used_end = find_used_end(generator);
	place_refcount_blocks(generator);
	if (write_refcount_blocks(generator, error) || vb_stream_flush(&generator->stream, error) || set_file_end(generator, error))
		return -1;
	if (vb_pwrite_full(file->fd, file->path, generator->l1, layout->l1_clusters * generator->cluster_bytes,
			   layout->l1_offset_bytes, error))
		return -1;
	return vb_pwrite_full(file->fd, file->path, generator->reftable, layout->reftable_clusters * generator->cluster_bytes,
			      layout->reftable_offset_bytes, error);
}

int vb_qcow2_linear_write_metadata(struct linear_writer *self, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &self->layout;
	struct generator generator = {
		.self = self,
		.cluster_bytes = 1ull << layout->cluster_bits,
		.l1 = calloc(layout->l1_clusters + 1, 1ull << layout->cluster_bits),
		.reftable = calloc(layout->reftable_clusters, 1ull << layout->cluster_bits),
		.l2_used = calloc(layout->l2_count / 64 + 1, sizeof(uint64_t)),
		.table = malloc(1ull << layout->cluster_bits),
	};
	int result = vb_stream_open(&generator.stream, &self->base.file, error);

	if (result == 0 && generator.l1 && generator.reftable && generator.l2_used && generator.table)
		result = write_all(&generator, error);
	else if (result == 0)
		result = vb_fail(error, VB_ERROR_MEMORY, 0, self->base.file.path, -1, "No memory for the image's tables");
	vb_stream_close(&generator.stream);
	free(generator.l1);
	free(generator.reftable);
	free(generator.l2_used);
	free(generator.table);
	return result;
}

int vb_qcow2_linear_write_header(struct linear_writer *self, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &self->layout;
	struct vb_qcow2_new_header header = {
		.cluster_bits = layout->cluster_bits,
		.size_bytes = layout->size_bytes,
		.l1_entry_count = layout->l1_entry_count,
		.l1_offset_bytes = layout->l1_offset_bytes,
		.reftable_offset_bytes = layout->reftable_offset_bytes,
		.reftable_clusters = layout->reftable_clusters,
	};

	return vb_qcow2_new_header_write(&self->base, &header, error);
}
