/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of a new compressed qcow2 image, generated at its end.
 *
 * Owns: one pass over the layout's runs that emits L2 tables behind the data, then the L1 table, and the refcounts of what is really used.
 * Invariants: an L2 table without an entry is neither written nor referenced; the refcount of a host cluster is the number of
 * compressed clusters that touch it, and 1 for all else.
 */
#include "qcow2_compressed_writer.h"

#include <stdlib.h>
#include <string.h>

#include "qcow2_new_header.h"
#include "stream.h"
#include "sys.h"

struct generator {
	struct compressed_writer *self;
	struct vb_stream stream;
	uint64_t cluster_bytes;
	uint64_t *l1;           /* big-endian */
	uint8_t *table;         /* one cluster: the table in the making */
	uint16_t *refcounts;    /* of the data's host clusters */
	uint64_t data_end;      /* host clusters: the tables start here */
	uint64_t end;           /* of what has been placed */
};

static int put_cluster(struct generator *generator, const uint8_t *bytes, struct vb_error *error)
{
	const struct vb_file *file = &generator->self->base.file;
	uint64_t offset_bytes = generator->end++ * generator->cluster_bytes;

	if (generator->self->is_device && offset_bytes + generator->cluster_bytes > file->size_bytes)
		return vb_fail(error, VB_ERROR_SPACE, 0, file->path, -1, "The image's tables need more than the block device's %llu bytes",
			       (unsigned long long)file->size_bytes);
	return vb_stream_put(&generator->stream, offset_bytes, bytes, generator->cluster_bytes, error);
}

/* Counts a data cluster where it lies. */
static void count_entry(struct generator *generator, uint64_t entry)
{
	uint32_t cluster_bits = generator->self->layout.cluster_bits;
	uint64_t offset_bytes = entry & VB_QCOW2_OFFSET_MASK;
	uint32_t length_bytes = 1;

	if (entry & VB_QCOW2_COMPRESSED)
		vb_qcow2_compressed_location(cluster_bits, entry, &offset_bytes, &length_bytes);

	uint64_t first = offset_bytes >> cluster_bits, last = (offset_bytes + length_bytes - 1) >> cluster_bits;

	generator->refcounts[first]++;
	if (last != first)
		generator->refcounts[last]++;
}

/* L2 entries for clusters [cluster, end) of a run; returns whether any is not empty. */
static bool fill_l2_entries(struct generator *generator, const struct vb_qcow2_run *run, uint64_t cluster, uint64_t end)
{
	const struct compressed_writer *self = generator->self;
	uint64_t entry_mask = generator->cluster_bytes / sizeof(uint64_t) - 1;
	bool any = false;

	for (; cluster < end; cluster++) {
		uint64_t entry = 0;

		if (run->rank != VB_QCOW2_RANK_ZERO)
			entry = atomic_load_explicit(&self->entries[run->rank + (cluster - run->first_unit)], memory_order_relaxed);
		if (entry)
			count_entry(generator, entry);
		else if (self->has_zero_entries)
			entry = VB_QCOW2_ZERO;
		vb_store_be64(generator->table + (cluster & entry_mask) * sizeof(uint64_t), entry);
		any |= entry != 0;
	}
	return any;
}

static int emit_l2_table(struct generator *generator, uint64_t l1_index, struct vb_error *error)
{
	vb_store_be64(&generator->l1[l1_index], (generator->end * generator->cluster_bytes) | VB_QCOW2_COPIED);
	return put_cluster(generator, generator->table, error);
}

static int write_l2_tables(struct generator *generator, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &generator->self->layout;
	uint32_t shift = layout->cluster_bits - 3;
	uint64_t current = UINT64_MAX;
	bool any = false;

	for (size_t index = 0; index < layout->run_count; index++) {
		const struct vb_qcow2_run *run = &layout->runs[index];
		uint64_t cluster = run->first_unit;
		uint64_t run_end = cluster + run->unit_count;

		while (cluster < run_end) {
			uint64_t l1_index = cluster >> shift;
			uint64_t table_end = (l1_index + 1) << shift;
			uint64_t stop = table_end < run_end ? table_end : run_end;

			if (l1_index != current) {
				if (any && emit_l2_table(generator, current, error))
					return -1;
				memset(generator->table, 0, generator->cluster_bytes);
				any = false;
				current = l1_index;
			}
			any |= fill_l2_entries(generator, run, cluster, stop);
			cluster = stop;
		}
	}
	return any ? emit_l2_table(generator, current, error) : 0;
}

static int write_l1(struct generator *generator, struct vb_qcow2_new_header *header, struct vb_error *error)
{
	header->l1_offset_bytes = generator->end * generator->cluster_bytes;
	for (uint64_t cluster = 0; cluster < generator->self->layout.l1_clusters; cluster++)
		if (put_cluster(generator, (const uint8_t *)generator->l1 + cluster * generator->cluster_bytes, error))
			return -1;
	return 0;
}

static uint16_t refcount_of(const struct generator *generator, uint64_t host_cluster, uint64_t end)
{
	if (host_cluster > 0 && host_cluster < generator->data_end)
		return generator->refcounts[host_cluster];
	return host_cluster < end;
}

static int write_refcounts(struct generator *generator, struct vb_qcow2_new_header *header, struct vb_error *error)
{
	uint32_t cluster_bits = generator->self->layout.cluster_bits;
	uint64_t entries = generator->cluster_bytes / VB_QCOW2_LINEAR_REFCOUNT_BYTES;
	uint64_t table_entries = generator->cluster_bytes / sizeof(uint64_t);
	uint64_t block_count;

	vb_qcow2_refcount_size(generator->end, cluster_bits, &block_count, &header->reftable_clusters);
	if (header->reftable_clusters * generator->cluster_bytes > VB_QCOW2_REFTABLE_BYTES_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, generator->self->base.file.path, -1,
			       "The refcount table would be longer than %u bytes: choose larger clusters", VB_QCOW2_REFTABLE_BYTES_MAX);

	uint64_t first_block = generator->end + header->reftable_clusters, end = first_block + block_count;

	header->reftable_offset_bytes = generator->end * generator->cluster_bytes;
	for (uint64_t cluster = 0; cluster < header->reftable_clusters; cluster++) {
		memset(generator->table, 0, generator->cluster_bytes);
		for (uint64_t index = 0; index < table_entries && cluster * table_entries + index < block_count; index++)
			vb_store_be64(generator->table + index * sizeof(uint64_t),
				      (first_block + cluster * table_entries + index) * generator->cluster_bytes);
		if (put_cluster(generator, generator->table, error))
			return -1;
	}
	for (uint64_t block = 0; block < block_count; block++) {
		for (uint64_t index = 0; index < entries; index++)
			vb_store_be16(generator->table + index * VB_QCOW2_LINEAR_REFCOUNT_BYTES,
				      refcount_of(generator, block * entries + index, end));
		if (put_cluster(generator, generator->table, error))
			return -1;
	}
	return vb_stream_flush(&generator->stream, error);
}

int vb_qcow2_compressed_write_metadata(struct compressed_writer *self, struct vb_qcow2_new_header *header, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &self->layout;
	uint64_t data_end = self->packing.end_bytes >> layout->cluster_bits;
	struct generator generator = {
		.self = self,
		.cluster_bytes = 1ull << layout->cluster_bits,
		.l1 = calloc(layout->l1_clusters + 1, 1ull << layout->cluster_bits),
		.table = malloc(1ull << layout->cluster_bits),
		.refcounts = calloc(data_end, sizeof(uint16_t)),
		.data_end = data_end,
		.end = data_end,
	};
	int result = vb_stream_open(&generator.stream, &self->base.file, error);

	if (result == 0 && generator.l1 && generator.table && generator.refcounts)
		result = write_l2_tables(&generator, error) || write_l1(&generator, header, error) ||
			 write_refcounts(&generator, header, error) ? -1 : 0;
	else if (result == 0)
		result = vb_fail(error, VB_ERROR_MEMORY, 0, self->base.file.path, -1, "No memory for the image's tables");
	vb_stream_close(&generator.stream);
	free(generator.l1);
	free(generator.table);
	free(generator.refcounts);
	return result;
}
