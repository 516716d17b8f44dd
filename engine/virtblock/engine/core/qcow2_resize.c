/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing an existing qcow2 image.
 *
 * Owns: a longer L1 table where the old one is too short, and the order of the change. Invariants: the header names the old
 * size and the old L1 table until all that the new ones need is durable; both change in one write within the first sector.
 * What is new reads as zeros.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2_inplace.h"
#include "sys.h"

static uint64_t tables_needed(const struct vb_qcow2_header *header, uint64_t size_bytes)
{
	uint64_t span_bytes = vb_qcow2_table_span_bytes(header);

	return size_bytes / span_bytes + (size_bytes % span_bytes != 0);
}

int vb_qcow2_check_growth(const struct vb_writer *writer, uint64_t size_bytes, struct vb_error *error)
{
	const struct inplace_writer *self = (const struct inplace_writer *)writer;
	const struct vb_qcow2_header *header = &self->header;
	uint64_t l1_bytes = tables_needed(header, size_bytes) * sizeof(uint64_t);

	if (size_bytes == header->size_bytes)
		return 0;
	if (size_bytes < header->size_bytes)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, self->base.file.path, -1,
			       "A qcow2 image cannot be shrunk (from %llu to %llu bytes)", (unsigned long long)header->size_bytes,
			       (unsigned long long)size_bytes);
	if (header->snapshot_count)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, self->base.file.path, -1,
			       "An image with internal snapshots (%u) cannot be resized", header->snapshot_count);
	if (l1_bytes > VB_QCOW2_L1_BYTES_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, self->base.file.path, -1,
			       "With clusters of %u bytes a disk of %llu bytes needs an L1 table of %llu bytes; %u is the limit",
			       header->cluster_size_bytes, (unsigned long long)size_bytes, (unsigned long long)l1_bytes,
			       VB_QCOW2_L1_BYTES_MAX);
	return 0;
}

/* Marks the subclusters behind the old end as zeros that nobody has written: the backing file would fill them. False: the one in which
 * the disk ends shows the backing file, and no mark tells its parts from each other. */
static bool hide_subclusters(const struct inplace_writer *self, struct vb_l2_entry *entry, uint64_t used_bytes)
{
	uint64_t subcluster_bytes = self->header.cluster_size_bytes / VB_QCOW2_SUBCLUSTER_COUNT;

	for (uint64_t start = 0; start < self->header.cluster_size_bytes; start += subcluster_bytes) {
		uint64_t index = start / subcluster_bytes;

		if (start + subcluster_bytes <= used_bytes || ((entry->bitmap | entry->bitmap >> 32) >> index & 1))
			continue;
		if (start < used_bytes)
			return false;
		entry->bitmap |= 1ull << (index + VB_QCOW2_SUBCLUSTER_COUNT);
	}
	return true;
}

/* In the cluster in which the disk ends, what the backing file has behind that end must not come to light. */
static int hide_in_last_cluster(struct inplace_writer *self, uint64_t l1_index, uint64_t place, struct vb_l2_entry *entry,
				uint64_t used_bytes, struct vb_error *error)
{
	struct vb_l2_entry old = *entry;
	bool is_hidden = (entry->word & ~VB_QCOW2_COPIED) != 0;
	uint8_t *table;

	if (vb_qcow2_has_extended_l2(&self->header) && !(entry->word & VB_QCOW2_COMPRESSED))
		is_hidden = hide_subclusters(self, entry, used_bytes);
	if (!is_hidden)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, self->base.file.path, -1,
			       "The disk ends within a cluster that its longer backing file provides; it cannot be grown");
	if (entry->bitmap == old.bitmap)
		return 0;
	if (vb_qcow2_table_for_writing(self, l1_index, &table, error))
		return -1;
	vb_qcow2_store_entry(&self->header, table + place, *entry);
	return 0;
}

/* The rest of the old last cluster has never been shown; whoever wrote it need not have written zeros there. */
static int clear_old_tail(struct inplace_writer *self, uint64_t backing_bytes, struct vb_error *error)
{
	const struct vb_qcow2_header *header = &self->header;
	uint64_t used_bytes = header->size_bytes & (header->cluster_size_bytes - 1);
	uint64_t l1_index = header->size_bytes / vb_qcow2_table_span_bytes(header);
	uint64_t entry_bytes = vb_qcow2_l2_entry_bytes(header);
	uint64_t place = (header->size_bytes >> header->cluster_bits) * entry_bytes & (header->cluster_size_bytes - 1);
	struct vb_l2_entry entry = {0};
	const uint8_t *table;

	if (used_bytes == 0)
		return 0;
	if (vb_qcow2_table_for_reading(self, l1_index, &table, error))
		return -1;
	if (table)
		entry = vb_qcow2_load_entry(header, table + place);
	if (backing_bytes > header->size_bytes && hide_in_last_cluster(self, l1_index, place, &entry, used_bytes, error))
		return -1;
	if ((entry.word & VB_QCOW2_COMPRESSED) || !(entry.word & VB_QCOW2_COPIED) || (entry.word & VB_QCOW2_ZERO))
		return 0;

	size_t length = header->cluster_size_bytes - (size_t)used_bytes;
	uint8_t *zeros = calloc(1, length);

	if (!zeros)
		return vb_fail(error, VB_ERROR_MEMORY, 0, self->base.file.path, -1, "No memory for a cluster");

	int result = vb_pwrite_full(self->base.file.fd, self->base.file.path, zeros, length,
				    (entry.word & VB_QCOW2_OFFSET_MASK) + used_bytes, error);

	free(zeros);
	return result;
}

static void *extend(void *table, uint64_t old_count, uint64_t new_count, size_t entry_bytes)
{
	uint8_t *longer = realloc(table, (new_count + 1) * entry_bytes);

	if (longer)
		memset(longer + old_count * entry_bytes, 0, (new_count + 1 - old_count) * entry_bytes);
	return longer;
}

static int extend_tables(struct inplace_writer *self, uint64_t needed, struct vb_error *error)
{
	struct vb_qcow2_header *header = &self->header;
	uint32_t l1_size = header->l1_size < needed ? (uint32_t)needed : header->l1_size;
	uint64_t *l1 = extend(self->l1, header->l1_size, l1_size, sizeof(*self->l1));

	if (l1)
		self->l1 = l1;

	struct vb_l2_slot *l2 = l1 ? extend(self->l2, header->l1_needed, needed, sizeof(*self->l2)) : NULL;

	if (!l2)
		return vb_fail(error, VB_ERROR_MEMORY, 0, self->base.file.path, -1, "No memory for the image's tables");
	self->l2 = l2;
	header->l1_needed = (uint32_t)needed;
	if (l1_size == header->l1_size)
		return 0;

	uint64_t clusters = (l1_size * sizeof(uint64_t) + header->cluster_size_bytes - 1) >> header->cluster_bits;
	uint64_t first;

	if (vb_refcounts_allocate_run(&self->refcounts, clusters, &first, error))
		return -1;
	header->l1_size = l1_size;
	header->l1_offset_bytes = first << header->cluster_bits;
	self->l1_is_dirty = true;
	return 0;
}

static int put_size(struct inplace_writer *self, uint64_t size_bytes, struct vb_error *error)
{
	uint8_t fields[VB_QCOW2_AT_REFTABLE_OFFSET - VB_QCOW2_AT_SIZE] = {0};   /* size, crypt_method (none), l1_size, l1_offset */

	vb_store_be64(fields, size_bytes);
	vb_store_be32(fields + VB_QCOW2_AT_L1_SIZE - VB_QCOW2_AT_SIZE, self->header.l1_size);
	vb_store_be64(fields + VB_QCOW2_AT_L1_OFFSET - VB_QCOW2_AT_SIZE, self->header.l1_offset_bytes);
	if (vb_pwrite_full(self->base.file.fd, self->base.file.path, fields, sizeof(fields), VB_QCOW2_AT_SIZE, error))
		return -1;
	self->header.size_bytes = size_bytes;
	return vb_writer_sync(&self->base, error);
}

/* Clusters behind the old end that the backing file would fill. */
static int hide_backing(struct inplace_writer *self, uint64_t old_bytes, uint64_t backing_bytes, struct vb_error *error)
{
	uint64_t cluster_mask = self->header.cluster_size_bytes - 1;
	uint64_t size_bytes = self->base.spec.virtual_size_bytes;
	uint64_t start_bytes = (old_bytes + cluster_mask) & ~cluster_mask;
	uint64_t end_bytes = (backing_bytes + cluster_mask) & ~cluster_mask;

	if (end_bytes > size_bytes)
		end_bytes = size_bytes;
	return start_bytes < end_bytes ? self->base.ops->zero(&self->base, start_bytes, end_bytes - start_bytes, error) : 0;
}

int vb_qcow2_grow(struct vb_writer *writer, uint64_t size_bytes, uint64_t backing_bytes, struct vb_error *error)
{
	struct inplace_writer *self = (struct inplace_writer *)writer;
	struct vb_qcow2_header old = self->header;

	size_bytes = (size_bytes + 511) / 512 * 512;
	if (vb_qcow2_check_growth(writer, size_bytes, error))
		return -1;
	if (size_bytes == old.size_bytes)
		return 0;
	if (vb_qcow2_begin_change(self, error) || clear_old_tail(self, backing_bytes, error) ||
	    extend_tables(self, tables_needed(&old, size_bytes), error))
		return -1;
	writer->spec.virtual_size_bytes = size_bytes;
	if (hide_backing(self, old.size_bytes, backing_bytes, error) || vb_qcow2_checkpoint(self, error) ||
	    put_size(self, size_bytes, error))
		return -1;
	if (self->header.l1_offset_bytes == old.l1_offset_bytes || old.l1_size == 0)
		return 0;

	uint64_t old_clusters = (old.l1_size * sizeof(uint64_t) + old.cluster_size_bytes - 1) >> old.cluster_bits;

	if (vb_refcounts_drop_later(&self->refcounts, old.l1_offset_bytes >> old.cluster_bits, old_clusters, error))
		return -1;
	return vb_qcow2_checkpoint(self, error);
}
