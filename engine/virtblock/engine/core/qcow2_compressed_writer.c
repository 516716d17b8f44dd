/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New qcow2 destinations whose clusters are compressed (version 3, 16-bit refcounts).
 *
 * Owns: the partial file or block device, one packer for each lane that writes at the same time, and the L2 entry of every cluster. The file: header |
 * clusters as they come | L2 tables, L1, refcount table and blocks. Invariants: a cluster is written at most once; one that does not
 * become smaller is stored plain; what a packer holds is in no entry until it is in the file. The tables exist nowhere but in memory until
 * publish() writes them, and the header is the last thing written, so the partial file, or the device, is no image before all else is durable.
 * Memory: 8 bytes for each cluster that the plan has data for and, while publishing, 2 for each cluster of the file: 128 MiB and at
 * most 32 for 1 TiB of data in clusters of 64 KiB; a few MiB for each lane.
 */
#include "qcow2_compressed_writer.h"

#include <stdlib.h>
#include <string.h>

#include "compress.h"
#include "qcow2_new_header.h"
#include "sys.h"

#define PACK_BYTES (1024u * 1024)   /* what is gathered for one write; at least two clusters */
#define PACK_ITEMS 4096u

/* Compressed clusters that wait to be written together, one behind the other. */
struct packer {
	struct packer *next;
	struct vb_compressor *compressor;
	uint8_t *bytes;
	size_t capacity;
	size_t fill_bytes;
	uint8_t *whole;                 /* a cluster: the disk's last one, filled up with zeros */
	uint64_t ranks[PACK_ITEMS];
	uint32_t lengths[PACK_ITEMS];
	size_t count;
};

static struct compressed_writer *compressed(struct vb_writer *writer)
{
	return (struct compressed_writer *)writer;
}

static size_t cluster_bytes_of(const struct compressed_writer *self)
{
	return (size_t)1 << self->layout.cluster_bits;
}

static int compressed_prepare(struct vb_writer *writer, const struct vb_plan *plan, struct vb_error *error)
{
	struct compressed_writer *self = compressed(writer);

	if (vb_writer_check_plan(writer, plan, error) ||
	    vb_qcow2_layout_make(&self->layout, plan, writer->spec.virtual_size_bytes, &writer->spec, error))
		return -1;
	self->has_zero_entries = plan && plan->mode == VB_PLAN_TOP;
	self->entries = calloc(self->layout.data_count + 1, sizeof(*self->entries));
	if (!self->entries)
		return vb_fail(error, VB_ERROR_MEMORY, 0, writer->file.path, -1, "No memory for the entries of %llu clusters",
			       (unsigned long long)self->layout.data_count);
	vb_packing_start(&self->packing, self->layout.cluster_bits, cluster_bytes_of(self));
	return self->is_device ? vb_writer_clear_device_head(writer, error) : 0;
}

static void packer_free(struct packer *packer)
{
	if (!packer)
		return;
	vb_compressor_free(packer->compressor);
	free(packer->bytes);
	free(packer->whole);
	free(packer);
}

static struct packer *packer_new(const struct compressed_writer *self, struct vb_error *error)
{
	size_t cluster_bytes = cluster_bytes_of(self);
	struct packer *packer = calloc(1, sizeof(*packer));

	if (packer) {
		packer->capacity = PACK_BYTES < 2 * cluster_bytes ? 2 * cluster_bytes : PACK_BYTES;
		packer->compressor = vb_compressor_new(self->compression, self->base.spec.compression_level);
		packer->bytes = malloc(packer->capacity + VB_COMPRESS_SLACK_BYTES);
		packer->whole = malloc(cluster_bytes);
		if (packer->compressor && packer->bytes && packer->whole)
			return packer;
		packer_free(packer);
	}
	vb_fail(error, VB_ERROR_MEMORY, 0, self->base.file.path, -1, "No memory to compress with");
	return NULL;
}

static struct packer *take_packer(struct compressed_writer *self, struct vb_error *error)
{
	pthread_mutex_lock(&self->mutex);

	struct packer *packer = self->idle;

	if (packer)
		self->idle = packer->next;
	pthread_mutex_unlock(&self->mutex);
	return packer ? packer : packer_new(self, error);
}

static void give_packer(struct compressed_writer *self, struct packer *packer)
{
	pthread_mutex_lock(&self->mutex);
	packer->next = self->idle;
	self->idle = packer;
	pthread_mutex_unlock(&self->mutex);
}

static int check_room(const struct compressed_writer *self, uint64_t end_bytes, struct vb_error *error)
{
	const struct vb_file *file = &self->base.file;

	if (!self->is_device || end_bytes <= file->size_bytes)
		return 0;
	return vb_fail(error, VB_ERROR_SPACE, 0, file->path, -1, "The compressed copy needs more than the block device's %llu bytes",
		       (unsigned long long)file->size_bytes);
}

static int put(struct compressed_writer *self, const void *bytes, size_t length, uint64_t offset_bytes, struct vb_error *error)
{
	if (check_room(self, offset_bytes + length, error) ||
	    vb_pwrite_full(self->base.file.fd, self->base.file.path, bytes, length, offset_bytes, error))
		return -1;
	atomic_fetch_add_explicit(&self->base.stored_bytes, length, memory_order_relaxed);
	return 0;
}

/* Writes the packer's first few clusters, as many as find a place together. */
static int flush_some(struct compressed_writer *self, struct packer *packer, size_t first, size_t *from_bytes, size_t *placed,
		      struct vb_error *error)
{
	size_t length = 0;

	pthread_mutex_lock(&self->mutex);

	uint64_t offset_bytes =
		vb_packing_take_compressed(&self->packing, packer->lengths + first, packer->count - first, placed);

	pthread_mutex_unlock(&self->mutex);
	for (size_t index = first; index < first + *placed; index++)
		length += packer->lengths[index];
	if (put(self, packer->bytes + *from_bytes, length, offset_bytes, error))
		return -1;
	*from_bytes += length;
	for (size_t index = first; index < first + *placed; index++) {
		uint64_t entry = vb_packing_entry(self->layout.cluster_bits, offset_bytes, packer->lengths[index]);

		if (!entry)
			return vb_fail(error, VB_ERROR_SPACE, 0, self->base.file.path, (int64_t)offset_bytes,
				       "A compressed cluster lies beyond what an image with these clusters can name");
		atomic_store_explicit(&self->entries[packer->ranks[index]], entry, memory_order_relaxed);
		offset_bytes += packer->lengths[index];
	}
	return 0;
}

/* After a failure the packer is empty too: the copy has failed, and what was lost is pending for ever. */
static int flush(struct compressed_writer *self, struct packer *packer, struct vb_error *error)
{
	size_t first = 0, from_bytes = 0, placed = 0;
	int result = 0;

	while (result == 0 && first < packer->count) {
		result = flush_some(self, packer, first, &from_bytes, &placed, error);
		first += placed;
	}
	packer->count = 0;
	packer->fill_bytes = 0;
	return result;
}

static int put_plain(struct compressed_writer *self, const uint8_t *bytes, uint64_t rank, size_t count, struct vb_error *error)
{
	size_t cluster_bytes = cluster_bytes_of(self);
	uint64_t offset_bytes;

	if (count == 0)
		return 0;
	pthread_mutex_lock(&self->mutex);
	offset_bytes = vb_packing_take_plain(&self->packing, count);
	pthread_mutex_unlock(&self->mutex);
	if (put(self, bytes, count * cluster_bytes, offset_bytes, error))
		return -1;
	for (size_t index = 0; index < count; index++)
		atomic_store_explicit(&self->entries[rank + index], (offset_bytes + index * cluster_bytes) | VB_QCOW2_COPIED,
				      memory_order_relaxed);
	return 0;
}

/* Whether the cluster became smaller, and is now the packer's. */
static int pack(struct compressed_writer *self, struct packer *packer, const uint8_t *cluster, uint64_t rank, bool *is_packed,
		struct vb_error *error)
{
	size_t cluster_bytes = cluster_bytes_of(self);

	if ((packer->capacity - packer->fill_bytes < cluster_bytes || packer->count == PACK_ITEMS) && flush(self, packer, error))
		return -1;

	size_t length = vb_compress(packer->compressor, cluster, cluster_bytes, packer->bytes + packer->fill_bytes, cluster_bytes - 1);

	*is_packed = length != 0;
	if (length == 0)
		return 0;
	packer->ranks[packer->count] = rank;
	packer->lengths[packer->count++] = (uint32_t)length;
	packer->fill_bytes += length;
	return 0;
}

/* Whole clusters, one rank after the other. Plain neighbours are written together. */
static int put_clusters(struct compressed_writer *self, struct packer *packer, const uint8_t *bytes, uint64_t rank, size_t count,
			struct vb_error *error)
{
	size_t cluster_bytes = cluster_bytes_of(self);
	size_t plain_first = 0;

	for (size_t index = 0; index < count; index++) {
		bool is_packed;

		if (pack(self, packer, bytes + index * cluster_bytes, rank + index, &is_packed, error))
			return -1;
		if (!is_packed)
			continue;
		if (put_plain(self, bytes + plain_first * cluster_bytes, rank + plain_first, index - plain_first, error))
			return -1;
		plain_first = index + 1;
	}
	return put_plain(self, bytes + plain_first * cluster_bytes, rank + plain_first, count - plain_first, error);
}

/* Makes the clusters pending; INTERNAL where one is not planned or was written before. */
static int claim_clusters(struct compressed_writer *self, uint64_t start_bytes, size_t count, uint64_t *rank, struct vb_error *error)
{
	if (!vb_qcow2_layout_find_rank(&self->layout, start_bytes >> self->layout.cluster_bits, count, rank))
		return vb_fail(error, VB_ERROR_INTERNAL, 0, self->base.file.path, -1, "%zu clusters of data at %llu were not planned", count,
			       (unsigned long long)start_bytes);
	for (size_t index = 0; index < count; index++)
		if (atomic_exchange_explicit(&self->entries[*rank + index], VB_ENTRY_PENDING, memory_order_relaxed))
			return vb_fail(error, VB_ERROR_INTERNAL, 0, self->base.file.path, -1,
				       "A compressed cluster at %llu is to be written a second time", (unsigned long long)start_bytes);
	return 0;
}

static int compressed_write(struct vb_writer *writer, uint64_t start_bytes, const void *buffer, size_t length, struct vb_error *error)
{
	struct compressed_writer *self = compressed(writer);
	size_t cluster_bytes = cluster_bytes_of(self);
	size_t whole_count = length / cluster_bytes, rest = length % cluster_bytes;
	uint64_t rank = 0;

	if (vb_writer_check_range(writer, start_bytes, length, error))
		return -1;
	if (length == 0)
		return 0;
	if (claim_clusters(self, start_bytes, whole_count + (rest != 0), &rank, error))
		return -1;

	struct packer *packer = take_packer(self, error);

	if (!packer)
		return -1;

	int result = put_clusters(self, packer, buffer, rank, whole_count, error);

	if (result == 0 && rest) {
		memcpy(packer->whole, (const uint8_t *)buffer + length - rest, rest);
		memset(packer->whole + rest, 0, cluster_bytes - rest);
		result = put_clusters(self, packer, packer->whole, rank + whole_count, 1, error);
	}
	give_packer(self, packer);
	return result;
}

/* A planned cluster that was not written has no data: there is nothing to do but to see that it was not. */
static int compressed_zero(struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error)
{
	struct compressed_writer *self = compressed(writer);
	uint64_t rank;

	if (vb_writer_check_range(writer, start_bytes, length_bytes, error))
		return -1;

	uint64_t cluster = start_bytes >> self->layout.cluster_bits;
	uint64_t end = cluster + (length_bytes + cluster_bytes_of(self) - 1) / cluster_bytes_of(self);

	while (cluster < end) {
		const struct vb_qcow2_run *run = vb_qcow2_layout_find(&self->layout, cluster);

		if (!run && self->has_zero_entries)
			return vb_fail(error, VB_ERROR_INTERNAL, 0, writer->file.path, -1, "Zeros at %llu were not planned",
				       (unsigned long long)(cluster << self->layout.cluster_bits));
		if (!run || run->rank == VB_QCOW2_RANK_ZERO) {
			cluster = run ? run->first_unit + run->unit_count : cluster + 1;
			continue;
		}
		rank = run->rank + (cluster - run->first_unit);
		if (atomic_load_explicit(&self->entries[rank], memory_order_relaxed))
			return vb_fail(error, VB_ERROR_INTERNAL, 0, writer->file.path, -1, "A compressed cluster at %llu is to become zeros",
				       (unsigned long long)(cluster << self->layout.cluster_bits));
		cluster++;
	}
	return 0;
}

/* The places of the clusters are in memory alone, so nothing can be found again: a copy that is begun anew begins from its start. */
static int compressed_checkpoint(struct vb_writer *writer, struct vb_error *error)
{
	return vb_writer_sync(writer, error);
}

static int write_tables(struct compressed_writer *self, struct vb_qcow2_new_header *header, struct vb_error *error)
{
	for (struct packer *packer = self->idle; packer; packer = packer->next)
		if (flush(self, packer, error))
			return -1;
	for (uint64_t rank = 0; rank < self->layout.data_count; rank++)
		if (atomic_load_explicit(&self->entries[rank], memory_order_relaxed) == VB_ENTRY_PENDING)
			return vb_fail(error, VB_ERROR_INTERNAL, 0, self->base.file.path, -1, "A compressed cluster was not written");
	if (vb_qcow2_compressed_write_metadata(self, header, error))
		return -1;
	return vb_writer_sync(&self->base, error);
}

static int compressed_publish(struct vb_writer *writer, struct vb_error *error)
{
	struct compressed_writer *self = compressed(writer);
	struct vb_qcow2_new_header header = {
		.cluster_bits = self->layout.cluster_bits,
		.size_bytes = self->layout.size_bytes,
		.l1_entry_count = self->layout.l1_entry_count,
		.incompatible_features = self->compression == VB_COMPRESSION_ZSTD ? VB_QCOW2_INCOMPATIBLE_COMPRESSION : 0,
		.compression = self->compression,
	};

	if (write_tables(self, &header, error) || vb_qcow2_new_header_write(writer, &header, error) || vb_writer_sync(writer, error))
		return -1;
	if (self->is_device) {
		writer->published = true;
		return 0;
	}
	return vb_new_file_publish(writer, &self->target, error);
}

static void compressed_close(struct vb_writer *writer)
{
	struct compressed_writer *self = compressed(writer);

	if (!self->is_device)
		vb_new_file_close(writer, &self->target);
	vb_writer_release(writer);
	vb_qcow2_layout_free(&self->layout);
	while (self->idle) {
		struct packer *packer = self->idle;

		self->idle = packer->next;
		packer_free(packer);
	}
	pthread_mutex_destroy(&self->mutex);
	free(self->entries);
	free(self);
}

static const struct vb_writer_ops compressed_ops = {
	.prepare = compressed_prepare,
	.write = compressed_write,
	.zero = compressed_zero,
	.write_back = vb_writer_start_write_back,
	.checkpoint = compressed_checkpoint,
	.publish = compressed_publish,
	.close = compressed_close,
};

int vb_qcow2_compressed_check(const struct vb_destination_spec *spec, struct vb_error *error)
{
	enum vb_compression compression = spec->compression == VB_COMPRESS_ZSTD ? VB_COMPRESSION_ZSTD : VB_COMPRESSION_DEFLATE;
	int level_max = vb_compressor_level_max(compression);

	if (spec->format != VB_FORMAT_QCOW2 || spec->reuse)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1, "Only a new qcow2 destination can be compressed");
	if (spec->compression_level < 0 || spec->compression_level > level_max)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1, "A compression level of %d is not one of 1 to %d, or 0 for the default",
			       spec->compression_level, level_max);
	return 0;
}

struct vb_writer *vb_qcow2_compressed_writer_new(struct vb_file *target, struct vb_file *file, const struct vb_destination_spec *spec,
						 struct vb_error *error)
{
	struct compressed_writer *self = calloc(1, sizeof(*self));

	if (!self) {
		vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the destination");
		vb_new_file_discard(target, file);
		return NULL;
	}
	pthread_mutex_init(&self->mutex, NULL);
	self->is_device = target == NULL;
	if (target)
		self->target = *target;
	if (vb_writer_init(&self->base, &compressed_ops, file, spec, error)) {
		compressed_close(&self->base);
		return NULL;
	}
	self->compression = spec->compression == VB_COMPRESS_ZSTD ? VB_COMPRESSION_ZSTD : VB_COMPRESSION_DEFLATE;
	self->base.unit_bytes = spec->cluster_size_bytes;
	self->base.zero_needed = spec->backing_path != NULL;
	return &self->base;
}
