/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L1 and L2 tables of an existing qcow2 image that is being changed.
 *
 * Owns: the cache of L2 tables, what is known of who owns which host cluster, and the order in which metadata reaches the
 * file. Invariants: see qcow2_inplace.h. The image is not trusted: a table entry that another claims as well, or whose
 * refcount is not what its COPIED flag says, ends the work before a byte is written through it.
 */
#include "qcow2_inplace.h"

#include <errno.h>
#include <stdlib.h>

#include "qcow2_bitmap_format.h"
#include "sys.h"

#define CACHE_BYTES (16u * 1024 * 1024)   /* of L2 tables, and as much of refcount blocks */
#define CACHE_TABLES_MIN 4u
#define CLUSTERS_BEHIND_END_MAX (1ull << 20)

static int corrupt(const struct inplace_writer *self, uint64_t at_bytes, const char *what, uint64_t value, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_FORMAT, 0, self->base.file.path, (int64_t)at_bytes,
		       "The image is corrupt: %s (0x%llx); `qemu-img check` tells more", what, (unsigned long long)value);
}

static int no_memory(const struct inplace_writer *self, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_MEMORY, 0, self->base.file.path, -1, "No memory for the image's tables");
}

/* Claims host clusters for one table or data cluster; fails where another has claimed one. */
static int own(struct inplace_writer *self, uint64_t offset_bytes, uint64_t cluster_count, uint64_t at_bytes, struct vb_error *error)
{
	uint64_t first = offset_bytes >> self->header.cluster_bits;

	if (offset_bytes & (self->header.cluster_size_bytes - 1))
		return corrupt(self, at_bytes, "an offset is not aligned to a cluster", offset_bytes, error);
	if (first > self->owned_count || cluster_count > self->owned_count - first)
		return corrupt(self, at_bytes, "an offset lies behind all clusters with a refcount", offset_bytes, error);
	for (uint64_t cluster = first; cluster < first + cluster_count; cluster++) {
		uint64_t bit = 1ull << (cluster % 64);

		if ((self->owned[cluster / 64] | self->packed[cluster / 64]) & bit)
			return corrupt(self, at_bytes, "two entries name the same cluster", offset_bytes, error);
		self->owned[cluster / 64] |= bit;
	}
	return 0;
}

static int own_refcount_tables(struct inplace_writer *self, struct vb_error *error)
{
	const struct vb_refcounts *refcounts = &self->refcounts;

	if (own(self, 0, 1, 0, error) || own(self, refcounts->table_offset_bytes, refcounts->table_clusters,
					     VB_QCOW2_AT_REFTABLE_OFFSET, error))
		return -1;
	for (uint64_t index = 0; index < refcounts->block_capacity; index++)
		if (refcounts->table[index] &&
		    own(self, refcounts->table[index], 1, refcounts->table_offset_bytes + index * sizeof(uint64_t), error))
			return -1;
	return 0;
}

static int own_l1(struct inplace_writer *self, struct vb_error *error)
{
	const struct vb_qcow2_header *header = &self->header;
	uint64_t l1_bytes = header->l1_size * sizeof(uint64_t);
	uint64_t cluster_mask = header->cluster_size_bytes - 1;

	if (l1_bytes == 0)
		return 0;
	if (own(self, header->l1_offset_bytes, (l1_bytes + cluster_mask) >> header->cluster_bits, VB_QCOW2_AT_L1_OFFSET, error))
		return -1;
	if (vb_pread_full(self->base.file.fd, self->base.file.path, self->l1, l1_bytes, header->l1_offset_bytes, error))
		return -1;
	for (uint64_t index = 0; index < header->l1_size; index++) {
		uint64_t entry = vb_load_be64(&self->l1[index]);
		uint64_t at_bytes = header->l1_offset_bytes + index * sizeof(uint64_t);

		if (entry & VB_QCOW2_L1_RESERVED_MASK)
			return corrupt(self, at_bytes, "an L1 entry has reserved bits set", entry, error);
		/* Without a table there is nothing that COPIED could be said of. */
		self->l1[index] = entry & VB_QCOW2_OFFSET_MASK ? entry : 0;
		if ((entry & VB_QCOW2_OFFSET_MASK) && own(self, entry & VB_QCOW2_OFFSET_MASK, 1, at_bytes, error))
			return -1;
	}
	return 0;
}

/* The directory is changed in place too, so it must be a good one that nothing else names. */
static int own_bitmap_directory(struct inplace_writer *self, struct vb_error *error)
{
	const struct vb_qcow2_header *header = &self->header;
	uint64_t offset_bytes = header->bitmap_directory_offset_bytes, at_bytes = header->bitmaps_extension_bytes + 16;
	uint64_t first = offset_bytes >> header->cluster_bits, count;
	uint64_t cluster_count = (header->bitmap_directory_size_bytes + header->cluster_size_bytes - 1) >> header->cluster_bits;
	struct vb_persistent_bitmaps bitmaps;

	if (!header->has_bitmaps)
		return 0;
	if (vb_qcow2_bitmaps_read(&self->base.file, header, &bitmaps, error))
		return -1;
	vb_persistent_bitmaps_free(&bitmaps);
	if (own(self, offset_bytes, cluster_count, at_bytes, error))
		return -1;
	for (uint64_t cluster = first; cluster < first + cluster_count; cluster++) {
		if (vb_refcounts_get(&self->refcounts, cluster, &count, error))
			return -1;
		if (count != 1)
			return corrupt(self, at_bytes, "the refcount of a cluster of the bitmap directory is not 1", count, error);
	}
	return 0;
}

int vb_qcow2_tables_open(struct inplace_writer *self, struct vb_error *error)
{
	uint64_t file_clusters = (self->base.file.size_bytes >> self->header.cluster_bits) + 1;

	/* Preallocated clusters may lie behind the file's end, but counts far behind it must not take memory. */
	self->owned_count = self->refcounts.next_cluster;
	if (self->owned_count > file_clusters + CLUSTERS_BEHIND_END_MAX)
		self->owned_count = file_clusters + CLUSTERS_BEHIND_END_MAX;
	self->owned = calloc(self->owned_count / 64 + 1, sizeof(*self->owned));
	self->packed = calloc(self->owned_count / 64 + 1, sizeof(*self->packed));
	self->l1 = calloc(self->header.l1_size + 1ull, sizeof(*self->l1));
	self->l2 = calloc(self->header.l1_needed + 1ull, sizeof(*self->l2));
	if (!self->owned || !self->packed || !self->l1 || !self->l2)
		return no_memory(self, error);
	return own_refcount_tables(self, error) || own_l1(self, error) || own_bitmap_directory(self, error) ? -1 : 0;
}

static void forget_tables(struct inplace_writer *self)
{
	for (uint64_t index = 0; self->l2_loaded_count && index < self->header.l1_needed; index++) {
		if (!self->l2[index].bytes)
			continue;
		free(self->l2[index].bytes);
		self->l2[index].bytes = NULL;
		self->l2_loaded_count--;
	}
}

void vb_qcow2_tables_close(struct inplace_writer *self)
{
	if (self->l2)
		forget_tables(self);
	free(self->l2);
	free(self->l1);
	free(self->owned);
	free(self->packed);
}

/* Compressed clusters share host clusters, but only among themselves, and only clusters that have a refcount. */
static int check_compressed(struct inplace_writer *self, uint64_t entry, uint64_t at_bytes, struct vb_error *error)
{
	uint64_t offset_bytes, count;
	uint32_t length;

	if (entry & VB_QCOW2_COPIED)
		return corrupt(self, at_bytes, "a compressed cluster is marked COPIED", entry, error);
	vb_qcow2_compressed_location(self->header.cluster_bits, entry, &offset_bytes, &length);

	uint64_t last = (offset_bytes + length - 1) >> self->header.cluster_bits;

	for (uint64_t cluster = offset_bytes >> self->header.cluster_bits; cluster <= last; cluster++) {
		uint64_t bit = 1ull << (cluster % 64);

		if (vb_refcounts_get(&self->refcounts, cluster, &count, error))
			return -1;
		if (count == 0 || cluster >= self->owned_count)
			return corrupt(self, at_bytes, "compressed data lies in a cluster without a refcount", entry, error);
		if (self->owned[cluster / 64] & bit)
			return corrupt(self, at_bytes, "compressed data lies in a cluster that another entry names", entry, error);
		self->packed[cluster / 64] |= bit;
	}
	return 0;
}

/* A cluster that is not COPIED belongs to a snapshot as well, or to this entry alone; in no case to nobody. */
static int check_uncopied(struct inplace_writer *self, uint64_t offset_bytes, uint64_t at_bytes, struct vb_error *error)
{
	uint64_t count;

	if (offset_bytes & (self->header.cluster_size_bytes - 1))
		return corrupt(self, at_bytes, "an offset is not aligned to a cluster", offset_bytes, error);
	if (vb_refcounts_get(&self->refcounts, offset_bytes >> self->header.cluster_bits, &count, error))
		return -1;
	if (count == 0)
		return corrupt(self, at_bytes, "an entry names a cluster without a refcount", offset_bytes, error);
	return count == 1 ? own(self, offset_bytes, 1, at_bytes, error) : 0;
}

/* What the subclusters of an extended entry say must agree with each other and with the first word. */
static int check_bitmap(struct inplace_writer *self, struct vb_l2_entry entry, uint64_t at_bytes, struct vb_error *error)
{
	if ((entry.word & VB_QCOW2_COMPRESSED) && entry.bitmap)
		return corrupt(self, at_bytes, "a compressed cluster has a subcluster bitmap", entry.bitmap, error);
	if (!(entry.word & VB_QCOW2_COMPRESSED) && (entry.word & VB_QCOW2_ZERO))
		return corrupt(self, at_bytes, "an L2 entry has reserved bits set", entry.word, error);
	if (entry.bitmap >> 32 & entry.bitmap)
		return corrupt(self, at_bytes, "subclusters are both allocated and zero", entry.bitmap, error);
	if ((entry.bitmap & VB_QCOW2_ALL_ALLOCATED) && !(entry.word & VB_QCOW2_OFFSET_MASK))
		return corrupt(self, at_bytes, "subclusters are allocated, but no cluster for them", entry.bitmap, error);
	return 0;
}

static int check_word(struct inplace_writer *self, uint64_t entry, bool is_shared, uint64_t at_bytes, struct vb_error *error)
{
	uint64_t offset_bytes = entry & VB_QCOW2_OFFSET_MASK;
	uint64_t count;

	if (entry & VB_QCOW2_COMPRESSED)
		return check_compressed(self, entry, at_bytes, error);
	if (entry & VB_QCOW2_L2_RESERVED_MASK)
		return corrupt(self, at_bytes, "an L2 entry has reserved bits set", entry, error);
	if ((entry & VB_QCOW2_ZERO) && self->header.version < 3)
		return corrupt(self, at_bytes, "a zero cluster in a version 2 image", entry, error);
	if (!offset_bytes)
		return 0;
	if (!(entry & VB_QCOW2_COPIED))
		return check_uncopied(self, offset_bytes, at_bytes, error);
	if (is_shared)
		return corrupt(self, at_bytes, "a cluster of a shared L2 table is marked COPIED", entry, error);
	if (own(self, offset_bytes, 1, at_bytes, error) ||
	    vb_refcounts_get(&self->refcounts, offset_bytes >> self->header.cluster_bits, &count, error))
		return -1;
	return count == 1 ? 0 : corrupt(self, at_bytes, "a cluster is marked COPIED but its refcount is not 1", entry, error);
}

static int check_entry(struct inplace_writer *self, const uint8_t *at, bool is_shared, uint64_t at_bytes, struct vb_error *error)
{
	struct vb_l2_entry entry = vb_qcow2_load_entry(&self->header, at);

	if (vb_qcow2_has_extended_l2(&self->header) && check_bitmap(self, entry, at_bytes, error))
		return -1;
	return entry.word ? check_word(self, entry.word, is_shared, at_bytes, error) : 0;
}

/* Half checked, a table has claimed clusters that a second check would take for somebody else's: whoever comes later, another lane too,
 * is told what the first one was told. */
static int check_table(struct inplace_writer *self, const uint8_t *bytes, uint64_t l1_entry, struct vb_error *error)
{
	uint64_t offset_bytes = l1_entry & VB_QCOW2_OFFSET_MASK;

	for (size_t at = 0; self->check_error.kind == 0 && at < self->header.cluster_size_bytes; at += vb_qcow2_l2_entry_bytes(&self->header))
		check_entry(self, bytes + at, !(l1_entry & VB_QCOW2_COPIED), offset_bytes + at, &self->check_error);
	if (self->check_error.kind == 0)
		return 0;
	*error = self->check_error;
	return -1;
}

static int load_table(struct inplace_writer *self, uint64_t l1_index, struct vb_error *error)
{
	struct vb_l2_slot *slot = &self->l2[l1_index];
	uint64_t l1_entry = self->l1[l1_index];
	size_t length = self->header.cluster_size_bytes;
	uint8_t *bytes = malloc(length);

	if (!bytes)
		return no_memory(self, error);
	if (vb_pread_full(self->base.file.fd, self->base.file.path, bytes, length, l1_entry & VB_QCOW2_OFFSET_MASK, error) ||
	    (!slot->is_checked && check_table(self, bytes, l1_entry, error))) {
		free(bytes);
		return -1;
	}
	slot->is_checked = true;
	slot->bytes = bytes;
	self->l2_loaded_count++;
	return 0;
}

int vb_qcow2_table_for_reading(struct inplace_writer *self, uint64_t l1_index, const uint8_t **bytes, struct vb_error *error)
{
	*bytes = NULL;
	if (!self->l2[l1_index].bytes) {
		if (!(self->l1[l1_index] & VB_QCOW2_OFFSET_MASK))
			return 0;
		if (load_table(self, l1_index, error))
			return -1;
	}
	*bytes = self->l2[l1_index].bytes;
	return 0;
}

/* Gives the table a cluster of its own; the one it had, if any, loses our reference. */
static int move_table(struct inplace_writer *self, uint64_t l1_index, struct vb_error *error)
{
	uint64_t old_bytes = self->l1[l1_index] & VB_QCOW2_OFFSET_MASK;
	uint64_t cluster, got;

	if (vb_refcounts_allocate(&self->refcounts, 1, &cluster, &got, error))
		return -1;
	if (old_bytes &&
	    vb_refcounts_drop_later(&self->refcounts, old_bytes >> self->header.cluster_bits, 1, error))
		return -1;
	self->l1[l1_index] = (cluster << self->header.cluster_bits) | VB_QCOW2_COPIED;
	self->l1_is_dirty = true;
	return 0;
}

int vb_qcow2_table_for_writing(struct inplace_writer *self, uint64_t l1_index, uint8_t **bytes, struct vb_error *error)
{
	struct vb_l2_slot *slot = &self->l2[l1_index];
	bool is_missing = !(self->l1[l1_index] & VB_QCOW2_OFFSET_MASK);

	if (!slot->bytes && is_missing) {
		slot->bytes = calloc(1, self->header.cluster_size_bytes);
		if (!slot->bytes)
			return no_memory(self, error);
		slot->is_checked = true;
		self->l2_loaded_count++;
	} else if (!slot->bytes && load_table(self, l1_index, error)) {
		return -1;
	}
	if (!(self->l1[l1_index] & VB_QCOW2_COPIED) && move_table(self, l1_index, error))
		return -1;
	slot->is_dirty = true;
	*bytes = slot->bytes;
	return 0;
}

static int write_tables(struct inplace_writer *self, bool *wrote, struct vb_error *error)
{
	for (uint64_t index = 0; self->l2_loaded_count && index < self->header.l1_needed; index++) {
		struct vb_l2_slot *slot = &self->l2[index];

		if (!slot->is_dirty)
			continue;
		if (vb_pwrite_full(self->base.file.fd, self->base.file.path, slot->bytes, self->header.cluster_size_bytes,
				   self->l1[index] & VB_QCOW2_OFFSET_MASK, error))
			return -1;
		slot->is_dirty = false;
		*wrote = true;
	}
	return 0;
}

static int write_l1(struct inplace_writer *self, bool *wrote, struct vb_error *error)
{
	size_t length = self->header.l1_size * sizeof(uint64_t);
	uint8_t *bytes;

	if (!self->l1_is_dirty)
		return 0;
	bytes = malloc(length);
	if (!bytes)
		return no_memory(self, error);
	for (uint64_t index = 0; index < self->header.l1_size; index++)
		vb_store_be64(bytes + index * sizeof(uint64_t), self->l1[index]);

	int result = vb_pwrite_full(self->base.file.fd, self->base.file.path, bytes, length, self->header.l1_offset_bytes, error);

	free(bytes);
	if (result)
		return -1;
	self->l1_is_dirty = false;
	*wrote = true;
	return 0;
}

/* Every cluster with a count lies within the file, also one whose content is a hole at its end. */
static int cover_clusters(struct inplace_writer *self, struct vb_error *error)
{
	uint64_t end_bytes = self->refcounts.next_cluster << self->header.cluster_bits;

	if (self->base.file.is_block_device || end_bytes <= self->base.file.size_bytes)
		return 0;

	struct stat status;

	if (vb_sys->fstat(self->base.file.fd, &status))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, self->base.file.path, -1, "Cannot read the image's length");
	if ((uint64_t)status.st_size < end_bytes && vb_sys->ftruncate(self->base.file.fd, (off_t)end_bytes))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, self->base.file.path, -1,
			       "Cannot set the file's length to %llu bytes", (unsigned long long)end_bytes);
	self->base.file.size_bytes = end_bytes;
	return 0;
}

/* Ends a step: what it wrote is durable before the next one begins. */
static int settle(struct inplace_writer *self, bool *wrote, struct vb_error *error)
{
	bool is_needed = *wrote;

	*wrote = false;
	return is_needed ? vb_writer_sync(&self->base, error) : 0;
}

int vb_qcow2_checkpoint(struct inplace_writer *self, struct vb_error *error)
{
	struct vb_refcounts *refcounts = &self->refcounts;
	bool wrote = true;   /* data, by the lanes */

	if (settle(self, &wrote, error) || cover_clusters(self, error))
		return -1;
	if (vb_refcounts_write_blocks(refcounts, &wrote, error) || settle(self, &wrote, error))
		return -1;
	if (vb_refcounts_write_table(refcounts, &wrote, error) || settle(self, &wrote, error))
		return -1;
	if (vb_refcounts_write_header(refcounts, &wrote, error) || settle(self, &wrote, error))
		return -1;
	if (write_tables(self, &wrote, error) || settle(self, &wrote, error))
		return -1;
	if (write_l1(self, &wrote, error) || settle(self, &wrote, error))
		return -1;
	if (vb_refcounts_drop(refcounts, error) || vb_refcounts_write_blocks(refcounts, &wrote, error))
		return -1;
	return settle(self, &wrote, error);
}

int vb_qcow2_make_room(struct inplace_writer *self, struct vb_error *error)
{
	uint64_t limit = CACHE_BYTES >> self->header.cluster_bits;

	if (limit < CACHE_TABLES_MIN)
		limit = CACHE_TABLES_MIN;
	if (self->l2_loaded_count < limit && self->refcounts.loaded_count < limit)
		return 0;
	if (vb_qcow2_checkpoint(self, error))
		return -1;
	forget_tables(self);
	vb_refcounts_forget(&self->refcounts);
	return 0;
}
