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

/* Which units of a data cluster were written: bit 0 alone, or one bit for each subcluster. */
static uint32_t find_written(const struct linear_writer *self, uint64_t host_rank)
{
	uint64_t count = vb_qcow2_layout_units_per_cluster(&self->layout);
	uint64_t first = host_rank * count;
	uint64_t word = atomic_load_explicit(&self->written[first / 64], memory_order_relaxed) >> (first % 64);

	return count == 1 ? word & 1 : (uint32_t)word;
}

/* What units [unit, end) of a run say, a unit being a cluster; returns whether any says something. */
static bool fill_standard(const struct generator *generator, const struct vb_qcow2_run *run, uint64_t unit, uint64_t end)
{
	const struct linear_writer *self = generator->self;
	uint64_t entry_mask = (1ull << self->layout.table_bits) - 1;
	bool any = false;

	if (self->layout.is_preallocated)
		return true;   /* the entries are there, and what they name reads as zeros where it was not written */
	for (; unit < end; unit++) {
		uint64_t rank = run->rank + (unit - run->first_unit);
		uint64_t entry = self->has_zero_entries ? VB_QCOW2_ZERO : 0;

		if (run->rank != VB_QCOW2_RANK_ZERO && find_written(self, rank))
			entry = (self->layout.data_offset_bytes + rank * generator->cluster_bytes) | VB_QCOW2_COPIED;
		vb_store_be64(generator->table + (unit & entry_mask) * sizeof(uint64_t), entry);
		any |= entry != 0;
	}
	return any;
}

/* The same, a unit being a subcluster: several runs may say something of one cluster. */
static bool fill_extended(const struct generator *generator, const struct vb_qcow2_run *run, uint64_t unit, uint64_t end)
{
	const struct linear_writer *self = generator->self;
	uint64_t count = VB_QCOW2_SUBCLUSTER_COUNT;
	uint64_t cluster_mask = (1ull << self->layout.table_bits) / count - 1;
	bool any = false;

	while (unit < end) {
		uint64_t first = unit % count;
		uint64_t stop = end - unit < count - first ? first + (end - unit) : count;
		uint64_t here = (1ull << stop) - (1ull << first), written = 0, bitmap;
		uint8_t *entry = generator->table + (unit / count & cluster_mask) * 16;

		if (run->rank != VB_QCOW2_RANK_ZERO) {
			uint64_t host_rank = (run->rank + (unit - run->first_unit)) / count;

			written = find_written(self, host_rank) & here;
			if (written)
				vb_store_be64(entry, (self->layout.data_offset_bytes + host_rank * generator->cluster_bytes) |
							     VB_QCOW2_COPIED);
		}
		bitmap = written | (self->has_zero_entries ? (here & ~written) << count : 0);
		vb_store_be64(entry + 8, vb_load_be64(entry + 8) | bitmap);
		any |= bitmap != 0;
		unit += stop - first;
	}
	return any;
}

/* An empty table; of a preallocated image with all its clusters in it. Returns whether it says something. */
static bool start_table(const struct generator *generator, uint64_t l1_index)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	uint64_t units_per_cluster = vb_qcow2_layout_units_per_cluster(layout);
	uint64_t entry_count = (1ull << layout->table_bits) / units_per_cluster;
	uint64_t first = l1_index * entry_count;

	memset(generator->table, 0, generator->cluster_bytes);
	if (!layout->is_preallocated)
		return false;
	for (uint64_t index = 0; index < entry_count && first + index < layout->data_count; index++)
		vb_store_be64(generator->table + index * (generator->cluster_bytes / entry_count),
			      (layout->data_offset_bytes + (first + index) * generator->cluster_bytes) | VB_QCOW2_COPIED);
	return true;
}

static int emit_l2_table(struct generator *generator, uint64_t l1_index, uint64_t ordinal, struct vb_error *error)
{
	uint64_t offset_bytes = generator->self->layout.l2_offset_bytes + ordinal * generator->cluster_bytes;

	vb_store_be64(&generator->l1[l1_index], offset_bytes | VB_QCOW2_COPIED);
	generator->l2_used[ordinal / 64] |= 1ull << (ordinal % 64);
	return vb_stream_put(&generator->stream, offset_bytes, generator->table, generator->cluster_bytes, error);
}

/* The next table with room in the file, from *l1_index on, `index` being the first run that reaches there. */
static bool find_table(const struct vb_qcow2_layout *layout, size_t index, uint64_t *l1_index)
{
	if (layout->is_preallocated)
		return *l1_index < layout->l1_entry_count;
	if (index == layout->run_count)
		return false;
	if (*l1_index < layout->runs[index].first_unit >> layout->table_bits)
		*l1_index = layout->runs[index].first_unit >> layout->table_bits;
	return true;
}

static int write_l2_tables(struct generator *generator, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	bool is_extended = layout->unit_bits != layout->cluster_bits;
	size_t index = 0;

	for (uint64_t l1_index = 0, ordinal = 0; find_table(layout, index, &l1_index); l1_index++, ordinal++) {
		uint64_t first = l1_index << layout->table_bits, end = (l1_index + 1) << layout->table_bits;
		bool any = start_table(generator, l1_index);

		while (index < layout->run_count && layout->runs[index].first_unit < end) {
			const struct vb_qcow2_run *run = &layout->runs[index];
			uint64_t run_end = run->first_unit + run->unit_count;
			uint64_t from = run->first_unit > first ? run->first_unit : first, to = run_end < end ? run_end : end;

			any |= is_extended ? fill_extended(generator, run, from, to) : fill_standard(generator, run, from, to);
			if (run_end > end)
				break;
			index++;
		}
		if (any && emit_l2_table(generator, l1_index, ordinal, error))
			return -1;
	}
	return 0;
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
		return layout->is_preallocated || find_written(generator->self, host_cluster - data_first) != 0;
	return host_cluster < generator->used_end + generator->block_count;
}

static uint64_t find_used_end(const struct generator *generator)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	uint64_t per_word = 64 / vb_qcow2_layout_units_per_cluster(layout);
	uint64_t rank = layout->data_count;

	while (!layout->is_preallocated && rank > 0 && !find_written(generator->self, rank - 1)) {
		/* A whole empty word at once. */
		if (rank % per_word == 0 &&
		    !atomic_load_explicit(&generator->self->written[rank / per_word - 1], memory_order_relaxed))
			rank -= per_word;
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
		.incompatible_features = self->base.spec.extended_l2 ? VB_QCOW2_INCOMPATIBLE_EXTENDED_L2 : 0,
	};

	return vb_qcow2_new_header_write(&self->base, &header, error);
}
