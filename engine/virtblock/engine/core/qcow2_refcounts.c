/* SPDX-License-Identifier: Apache-2.0 */
/* Reference counts of an existing qcow2 image. Owns: see qcow2_refcounts.h. */
#include "qcow2_refcounts.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>

#include "sys.h"

#define KEEP_CONTENT (1ull << 63)   /* in a remembered drop; cluster numbers are far smaller */

static uint64_t cluster_bytes(const struct vb_refcounts *refcounts)
{
	return 1ull << refcounts->cluster_bits;
}

/* Counts in one block, as a power of two. */
static uint32_t block_shift(const struct vb_refcounts *refcounts)
{
	return refcounts->cluster_bits + 3 - refcounts->order;
}

static uint64_t count_max(const struct vb_refcounts *refcounts)
{
	return refcounts->order == 6 ? UINT64_MAX : (1ull << (1u << refcounts->order)) - 1;
}

static uint64_t load_count(const struct vb_refcounts *refcounts, const uint8_t *block, uint64_t index)
{
	switch (refcounts->order) {
	case 3:
		return block[index];
	case 4:
		return vb_load_be16(block + index * 2);
	case 5:
		return vb_load_be32(block + index * 4);
	case 6:
		return vb_load_be64(block + index * 8);
	default: {
		uint64_t bit = index << refcounts->order;

		return (uint64_t)(block[bit / 8] >> (bit % 8)) & count_max(refcounts);
	}
	}
}

static void store_count(const struct vb_refcounts *refcounts, uint8_t *block, uint64_t index, uint64_t count)
{
	switch (refcounts->order) {
	case 3:
		block[index] = (uint8_t)count;
		break;
	case 4:
		vb_store_be16(block + index * 2, (uint16_t)count);
		break;
	case 5:
		vb_store_be32(block + index * 4, (uint32_t)count);
		break;
	case 6:
		vb_store_be64(block + index * 8, count);
		break;
	default: {
		uint64_t bit = index << refcounts->order;
		uint8_t mask = (uint8_t)(count_max(refcounts) << (bit % 8));

		block[bit / 8] = (uint8_t)((block[bit / 8] & ~mask) | (uint8_t)(count << (bit % 8)));
	}
	}
}

static int no_memory(const struct vb_refcounts *refcounts, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_MEMORY, 0, refcounts->file->path, -1, "No memory for the refcounts");
}

/* Makes blocks[index] resident; the table has an entry for it. */
static int load_block(struct vb_refcounts *refcounts, uint64_t index, struct vb_error *error)
{
	uint8_t *bytes;

	if (refcounts->blocks[index].bytes)
		return 0;
	bytes = malloc(cluster_bytes(refcounts));
	if (!bytes)
		return no_memory(refcounts, error);
	if (vb_pread_full(refcounts->file->fd, refcounts->file->path, bytes, cluster_bytes(refcounts), refcounts->table[index], error)) {
		free(bytes);
		return -1;
	}
	refcounts->blocks[index].bytes = bytes;
	refcounts->loaded_count++;
	return 0;
}

static int ensure_block(struct vb_refcounts *refcounts, uint64_t index, struct vb_error *error);

/* Adds `change` to the count of a cluster whose block may not exist yet. */
static int change_count(struct vb_refcounts *refcounts, uint64_t cluster, int change, struct vb_error *error)
{
	uint64_t index = cluster >> block_shift(refcounts);
	uint64_t entry = cluster & ((1ull << block_shift(refcounts)) - 1);

	if (ensure_block(refcounts, index, error))
		return -1;

	struct vb_refcount_block *block = &refcounts->blocks[index];
	uint64_t count = load_count(refcounts, block->bytes, entry);

	if ((change < 0 && count == 0) || (change > 0 && count == count_max(refcounts)))
		return vb_fail(error, VB_ERROR_FORMAT, 0, refcounts->file->path, (int64_t)(cluster << refcounts->cluster_bits),
			       "The image is corrupt: the refcount of cluster %llu is %llu", (unsigned long long)cluster,
			       (unsigned long long)count);
	store_count(refcounts, block->bytes, entry, change > 0 ? count + 1 : count - 1);
	block->is_dirty = true;
	return 0;
}

static int take_clusters(struct vb_refcounts *refcounts, uint64_t count, uint64_t *first, struct vb_error *error)
{
	*first = refcounts->next_cluster;
	refcounts->next_cluster += count;
	if (refcounts->next_cluster > (VB_QCOW2_OFFSET_MASK >> refcounts->cluster_bits))
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, refcounts->file->path, -1, "The image file would become too long");
	return 0;
}

static int raise_counts(struct vb_refcounts *refcounts, uint64_t first, uint64_t count, struct vb_error *error)
{
	for (uint64_t index = 0; index < count; index++)
		if (change_count(refcounts, first + index, 1, error))
			return -1;
	return 0;
}

/* A longer table in a new place; the old one's clusters are dropped once the header names the new one. */
static int grow_table(struct vb_refcounts *refcounts, uint64_t block_count, struct vb_error *error)
{
	uint64_t old_capacity = refcounts->block_capacity;
	uint64_t old_first = refcounts->table_offset_bytes >> refcounts->cluster_bits, old_count = refcounts->table_clusters;
	uint64_t clusters = old_count * 2;
	uint64_t first;

	while (clusters * cluster_bytes(refcounts) / sizeof(uint64_t) < block_count)
		clusters *= 2;
	if (clusters * cluster_bytes(refcounts) > VB_QCOW2_REFTABLE_BYTES_MAX)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, refcounts->file->path, -1,
			       "The image needs a refcount table of more than %u bytes: its clusters of %llu bytes are too small",
			       VB_QCOW2_REFTABLE_BYTES_MAX, (unsigned long long)cluster_bytes(refcounts));

	uint64_t capacity = clusters * cluster_bytes(refcounts) / sizeof(uint64_t);
	uint64_t *table = realloc(refcounts->table, capacity * sizeof(*table));

	if (table)
		refcounts->table = table;

	struct vb_refcount_block *blocks = table ? realloc(refcounts->blocks, capacity * sizeof(*blocks)) : NULL;

	if (!blocks)
		return no_memory(refcounts, error);
	refcounts->blocks = blocks;
	memset(table + old_capacity, 0, (capacity - old_capacity) * sizeof(*table));
	memset(blocks + old_capacity, 0, (capacity - old_capacity) * sizeof(*blocks));
	if (take_clusters(refcounts, clusters, &first, error))
		return -1;
	refcounts->block_capacity = capacity;
	refcounts->table_offset_bytes = first << refcounts->cluster_bits;
	refcounts->table_clusters = clusters;
	refcounts->table_is_dirty = true;
	refcounts->table_has_moved = true;
	if (raise_counts(refcounts, first, clusters, error))
		return -1;
	return vb_refcounts_drop_later(refcounts, old_first, old_count, error);
}

static int ensure_block(struct vb_refcounts *refcounts, uint64_t index, struct vb_error *error)
{
	uint64_t cluster;

	if (index >= refcounts->block_capacity && grow_table(refcounts, index + 1, error))
		return -1;
	if (refcounts->table[index])
		return load_block(refcounts, index, error);

	uint8_t *bytes = calloc(1, cluster_bytes(refcounts));

	if (!bytes)
		return no_memory(refcounts, error);
	refcounts->blocks[index] = (struct vb_refcount_block){.bytes = bytes, .is_dirty = true};
	refcounts->loaded_count++;
	if (take_clusters(refcounts, 1, &cluster, error))
		return -1;
	refcounts->table[index] = cluster << refcounts->cluster_bits;
	refcounts->table_is_dirty = true;
	return change_count(refcounts, cluster, 1, error);
}

int vb_refcounts_get(struct vb_refcounts *refcounts, uint64_t cluster, uint64_t *count, struct vb_error *error)
{
	uint64_t index = cluster >> block_shift(refcounts);

	*count = 0;
	if (index >= refcounts->block_capacity || !refcounts->table[index])
		return 0;
	if (load_block(refcounts, index, error))
		return -1;
	*count = load_count(refcounts, refcounts->blocks[index].bytes, cluster & ((1ull << block_shift(refcounts)) - 1));
	return 0;
}

int vb_refcounts_allocate(struct vb_refcounts *refcounts, uint64_t wanted, uint64_t *first, uint64_t *got, struct vb_error *error)
{
	*got = 0;
	while (*got < wanted) {
		uint64_t cluster = refcounts->next_cluster;

		/* Making the block that counts this cluster may take this cluster. */
		if (ensure_block(refcounts, cluster >> block_shift(refcounts), error))
			return -1;
		if (refcounts->next_cluster != cluster) {
			if (*got)
				return 0;
			continue;
		}
		if (take_clusters(refcounts, 1, &cluster, error) || change_count(refcounts, cluster, 1, error))
			return -1;
		if (*got == 0)
			*first = cluster;
		++*got;
	}
	return 0;
}

int vb_refcounts_allocate_run(struct vb_refcounts *refcounts, uint64_t count, uint64_t *first, struct vb_error *error)
{
	return take_clusters(refcounts, count, first, error) || raise_counts(refcounts, *first, count, error) ? -1 : 0;
}

static int remember_drops(struct vb_refcounts *refcounts, uint64_t cluster, uint64_t count, uint64_t mark, struct vb_error *error)
{
	while (refcounts->drop_count + count > refcounts->drop_capacity) {
		size_t capacity = refcounts->drop_capacity ? refcounts->drop_capacity * 2 : 256;
		uint64_t *drops = realloc(refcounts->drops, capacity * sizeof(*drops));

		if (!drops)
			return no_memory(refcounts, error);
		refcounts->drops = drops;
		refcounts->drop_capacity = capacity;
	}
	for (uint64_t index = 0; index < count; index++)
		refcounts->drops[refcounts->drop_count++] = (cluster + index) | mark;
	return 0;
}

int vb_refcounts_drop_later(struct vb_refcounts *refcounts, uint64_t cluster, uint64_t count, struct vb_error *error)
{
	return remember_drops(refcounts, cluster, count, 0, error);
}

int vb_refcounts_drop_shared_later(struct vb_refcounts *refcounts, uint64_t cluster, uint64_t count, struct vb_error *error)
{
	return remember_drops(refcounts, cluster, count, KEEP_CONTENT, error);
}

int vb_refcounts_write_blocks(struct vb_refcounts *refcounts, bool *wrote, struct vb_error *error)
{
	for (uint64_t index = 0; refcounts->loaded_count && index < refcounts->block_capacity; index++) {
		struct vb_refcount_block *block = &refcounts->blocks[index];

		if (!block->is_dirty)
			continue;
		if (vb_pwrite_full(refcounts->file->fd, refcounts->file->path, block->bytes, cluster_bytes(refcounts),
				   refcounts->table[index], error))
			return -1;
		block->is_dirty = false;
		*wrote = true;
	}
	return 0;
}

int vb_refcounts_write_table(struct vb_refcounts *refcounts, bool *wrote, struct vb_error *error)
{
	if (!refcounts->table_is_dirty)
		return 0;

	uint64_t length = refcounts->block_capacity * sizeof(uint64_t);
	uint8_t *bytes = malloc(length);

	if (!bytes)
		return no_memory(refcounts, error);
	for (uint64_t index = 0; index < refcounts->block_capacity; index++)
		vb_store_be64(bytes + index * sizeof(uint64_t), refcounts->table[index]);

	int result = vb_pwrite_full(refcounts->file->fd, refcounts->file->path, bytes, length, refcounts->table_offset_bytes, error);

	free(bytes);
	if (result)
		return -1;
	refcounts->table_is_dirty = false;
	*wrote = true;
	return 0;
}

int vb_refcounts_write_header(struct vb_refcounts *refcounts, bool *wrote, struct vb_error *error)
{
	uint8_t fields[12];   /* offset and length of the table, neighbours in the header */

	if (!refcounts->table_has_moved)
		return 0;
	vb_store_be64(fields, refcounts->table_offset_bytes);
	vb_store_be32(fields + 8, (uint32_t)refcounts->table_clusters);
	if (vb_pwrite_full(refcounts->file->fd, refcounts->file->path, fields, sizeof(fields), VB_QCOW2_AT_REFTABLE_OFFSET, error))
		return -1;
	refcounts->table_has_moved = false;
	*wrote = true;
	return 0;
}

/* A courtesy to the file system: failing changes nothing but the room that is taken. */
static void punch(const struct vb_refcounts *refcounts, uint64_t first, uint64_t count)
{
	vb_sys->fallocate(refcounts->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)(first << refcounts->cluster_bits), (off_t)(count << refcounts->cluster_bits));
}

int vb_refcounts_drop(struct vb_refcounts *refcounts, struct vb_error *error)
{
	uint64_t free_first = 0, free_count = 0;

	for (size_t index = 0; index < refcounts->drop_count; index++) {
		uint64_t cluster = refcounts->drops[index] & ~KEEP_CONTENT;
		uint64_t count;

		if (change_count(refcounts, cluster, -1, error) || vb_refcounts_get(refcounts, cluster, &count, error))
			return -1;
		if (count || (refcounts->drops[index] & KEEP_CONTENT))
			continue;
		if (free_count && cluster == free_first + free_count) {
			free_count++;
			continue;
		}
		if (free_count)
			punch(refcounts, free_first, free_count);
		free_first = cluster;
		free_count = 1;
	}
	if (free_count)
		punch(refcounts, free_first, free_count);
	refcounts->drop_count = 0;
	return 0;
}

void vb_refcounts_forget(struct vb_refcounts *refcounts)
{
	for (uint64_t index = 0; refcounts->loaded_count && index < refcounts->block_capacity; index++) {
		if (!refcounts->blocks[index].bytes)
			continue;
		free(refcounts->blocks[index].bytes);
		refcounts->blocks[index].bytes = NULL;
		refcounts->loaded_count--;
	}
}

void vb_refcounts_close(struct vb_refcounts *refcounts)
{
	if (refcounts->blocks)
		vb_refcounts_forget(refcounts);
	free(refcounts->blocks);
	free(refcounts->table);
	free(refcounts->drops);
	*refcounts = (struct vb_refcounts){0};
}

static int read_table(struct vb_refcounts *refcounts, struct vb_error *error)
{
	const struct vb_file *file = refcounts->file;

	if (vb_pread_full(file->fd, file->path, refcounts->table, refcounts->block_capacity * sizeof(uint64_t),
			  refcounts->table_offset_bytes, error))
		return -1;
	for (uint64_t index = 0; index < refcounts->block_capacity; index++) {
		uint64_t offset_bytes = vb_load_be64(&refcounts->table[index]) & VB_QCOW2_REFTABLE_OFFSET_MASK;

		if (offset_bytes & (cluster_bytes(refcounts) - 1) || (offset_bytes && offset_bytes >= file->size_bytes))
			return vb_fail(error, VB_ERROR_FORMAT, 0, file->path,
				       (int64_t)(refcounts->table_offset_bytes + index * sizeof(uint64_t)),
				       "The image is corrupt: refcount block %llu is said to lie at %llu", (unsigned long long)index,
				       (unsigned long long)offset_bytes);
		refcounts->table[index] = offset_bytes;
	}
	return 0;
}

static int find_next_cluster(struct vb_refcounts *refcounts, struct vb_error *error)
{
	for (uint64_t index = refcounts->block_capacity; index-- > 0;) {
		if (!refcounts->table[index])
			continue;
		if (load_block(refcounts, index, error))
			return -1;
		for (uint64_t entry = 1ull << block_shift(refcounts); entry-- > 0;) {
			if (load_count(refcounts, refcounts->blocks[index].bytes, entry) == 0)
				continue;
			refcounts->next_cluster = (index << block_shift(refcounts)) + entry + 1;
			return 0;
		}
		vb_refcounts_forget(refcounts);
	}
	return 0;
}

int vb_refcounts_open(struct vb_refcounts *refcounts, const struct vb_file *file, const struct vb_qcow2_header *header,
		      struct vb_error *error)
{
	*refcounts = (struct vb_refcounts){
		.file = file,
		.cluster_bits = header->cluster_bits,
		.order = header->refcount_order,
		.table_offset_bytes = header->reftable_offset_bytes,
		.table_clusters = header->reftable_clusters,
		.block_capacity = (uint64_t)header->reftable_clusters << (header->cluster_bits - 3),
	};
	refcounts->table = calloc(refcounts->block_capacity, sizeof(*refcounts->table));
	refcounts->blocks = calloc(refcounts->block_capacity, sizeof(*refcounts->blocks));
	if (!refcounts->table || !refcounts->blocks) {
		vb_refcounts_close(refcounts);
		return no_memory(&(struct vb_refcounts){.file = file}, error);
	}
	if (read_table(refcounts, error) || find_next_cluster(refcounts, error)) {
		vb_refcounts_close(refcounts);
		return -1;
	}
	return 0;
}
