/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Existing qcow2 images: destinations that are reused, and images that a tool changes.
 *
 * Owns: the mark, and what becomes of each guest cluster. Invariants: see qcow2_inplace.h; the mutex is held to look up,
 * allocate and record, never while data moves; two lanes never touch one guest cluster at once, so what one of them looked up
 * stays true while it writes. A destination of a copy has VB_UNFINISHED_MAGIC durably before anything else of it changes, and
 * its own magic as the last.
 */
#include "qcow2_inplace.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>

#include "point.h"
#include "qcow2_bitmap_format.h"
#include "sys.h"

#define ZERO_BUFFER_BYTES (64u * 1024)

static struct inplace_writer *inplace(struct vb_writer *writer)
{
	return (struct inplace_writer *)writer;
}

static int put_header_field(struct inplace_writer *self, uint64_t at_bytes, const void *field, size_t length, struct vb_error *error)
{
	if (vb_pwrite_full(self->base.file.fd, self->base.file.path, field, length, at_bytes, error))
		return -1;
	return vb_writer_sync(&self->base, error);
}

static int put_magic(struct inplace_writer *self, uint32_t magic, struct vb_error *error)
{
	uint8_t field[4];

	vb_store_be32(field, magic);
	return put_header_field(self, VB_QCOW2_AT_MAGIC, field, sizeof(field), error);
}

int vb_qcow2_begin_change(struct inplace_writer *self, struct vb_error *error)
{
	uint64_t kept = self->header.autoclear_features & VB_QCOW2_AUTOCLEAR_BITMAPS;
	uint8_t field[8];

	if (self->has_begun)
		return 0;
	if (self->role == VB_EXISTING_DESTINATION && !self->is_marked && put_magic(self, VB_UNFINISHED_MAGIC, error))
		return -1;
	if (self->role != VB_EXISTING_PULLED && vb_qcow2_bitmaps_set_in_use(&self->base.file, &self->header, error))
		return -1;
	vb_store_be64(field, kept);
	if (self->header.autoclear_features != kept &&
	    put_header_field(self, VB_QCOW2_AT_AUTOCLEAR, field, sizeof(field), error))
		return -1;
	self->has_begun = true;
	return 0;
}

static int inplace_prepare(struct vb_writer *writer, const struct vb_plan *plan, struct vb_error *error)
{
	struct inplace_writer *self = inplace(writer);

	(void)plan;
	return self->role == VB_EXISTING_DESTINATION ? vb_qcow2_begin_change(self, error) : 0;
}

static bool has_backing(const struct inplace_writer *self)
{
	return self->header.backing_offset_bytes != 0;
}

static uint64_t table_entries(const struct inplace_writer *self)
{
	return self->header.cluster_size_bytes / vb_qcow2_l2_entry_bytes(&self->header);
}

static uint64_t place_in_table(const struct inplace_writer *self, uint64_t cluster)
{
	return (cluster & (table_entries(self) - 1)) * vb_qcow2_l2_entry_bytes(&self->header);
}

static struct vb_l2_entry entry_at(const struct inplace_writer *self, const uint8_t *table, uint64_t cluster)
{
	return table ? vb_qcow2_load_entry(&self->header, table + place_in_table(self, cluster)) : (struct vb_l2_entry){0};
}

static bool is_equal(struct vb_l2_entry left, struct vb_l2_entry right)
{
	return left.word == right.word && left.bitmap == right.bitmap;
}

/* The host cluster that this entry owns alone, so that it can be written in place; 0 if none. Of an extended entry the host cluster
 * has room for all subclusters, also for those that are not allocated. */
static uint64_t own_host_bytes(struct vb_l2_entry entry)
{
	if ((entry.word & VB_QCOW2_COMPRESSED) || !(entry.word & VB_QCOW2_COPIED))
		return 0;
	return entry.word & VB_QCOW2_OFFSET_MASK;
}

static struct vb_l2_entry data_entry(const struct inplace_writer *self, uint64_t host_bytes)
{
	return (struct vb_l2_entry){
		.word = host_bytes | VB_QCOW2_COPIED,
		.bitmap = vb_qcow2_has_extended_l2(&self->header) ? VB_QCOW2_ALL_ALLOCATED : 0,
	};
}

/* Guest clusters that follow each other, lie in one L2 table, and will have data that follows each other in the file. */
struct segment {
	uint64_t cluster;
	uint64_t count;
	uint64_t host_bytes;
};

/* Finds room for clusters [cluster, end): in place where the image owns them, else newly allocated. Takes as many as fit
 * one segment. */
static int find_room(struct inplace_writer *self, uint64_t cluster, uint64_t end, struct segment *segment, struct vb_error *error)
{
	uint64_t table_end = (cluster / table_entries(self) + 1) * table_entries(self);
	uint64_t count = 1, first;
	const uint8_t *table;

	if (vb_qcow2_make_room(self, error) || vb_qcow2_begin_change(self, error) ||
	    vb_qcow2_table_for_reading(self, cluster / table_entries(self), &table, error))
		return -1;
	if (end > table_end)
		end = table_end;
	segment->cluster = cluster;
	segment->host_bytes = own_host_bytes(entry_at(self, table, cluster));
	while (cluster + count < end) {
		uint64_t host_bytes = own_host_bytes(entry_at(self, table, cluster + count));

		if (segment->host_bytes ? host_bytes != segment->host_bytes + count * self->header.cluster_size_bytes : host_bytes != 0)
			break;
		count++;
	}
	if (!segment->host_bytes) {
		if (vb_refcounts_allocate(&self->refcounts, count, &first, &count, error))
			return -1;
		segment->host_bytes = first << self->header.cluster_bits;
	}
	segment->count = count;
	return 0;
}

/* Drops what an entry referred to and does no more. */
static int drop_entry(struct inplace_writer *self, struct vb_l2_entry entry, struct vb_error *error)
{
	uint32_t cluster_bits = self->header.cluster_bits;
	uint64_t offset_bytes = entry.word & VB_QCOW2_OFFSET_MASK;
	uint32_t length;

	if (!(entry.word & VB_QCOW2_COMPRESSED))
		return offset_bytes ? vb_refcounts_drop_later(&self->refcounts, offset_bytes >> cluster_bits, 1, error) : 0;
	vb_qcow2_compressed_location(cluster_bits, entry.word, &offset_bytes, &length);

	uint64_t first = offset_bytes >> cluster_bits;
	uint64_t last = (offset_bytes + length - 1) >> cluster_bits;

	return vb_refcounts_drop_shared_later(&self->refcounts, first, last - first + 1, error);
}

/* The data of the segment is in the file: names it in the table. */
static int record(struct inplace_writer *self, const struct segment *segment, struct vb_error *error)
{
	uint64_t l1_index = segment->cluster / table_entries(self);
	const uint8_t *before;
	uint8_t *table = NULL;

	if (vb_qcow2_table_for_reading(self, l1_index, &before, error))
		return -1;
	for (uint64_t index = 0; index < segment->count; index++) {
		uint64_t host_bytes = segment->host_bytes + index * self->header.cluster_size_bytes;
		struct vb_l2_entry old = entry_at(self, table ? table : before, segment->cluster + index);
		struct vb_l2_entry entry = data_entry(self, host_bytes);

		if (is_equal(old, entry))
			continue;
		if (!table && vb_qcow2_table_for_writing(self, l1_index, &table, error))
			return -1;
		vb_qcow2_store_entry(&self->header, table + place_in_table(self, segment->cluster + index), entry);
		if (own_host_bytes(old) != host_bytes && drop_entry(self, old, error))
			return -1;
	}
	return 0;
}

static int write_zeros(struct inplace_writer *self, uint64_t host_bytes, uint64_t length, struct vb_error *error)
{
	static const uint8_t zeros[ZERO_BUFFER_BYTES];

	while (length) {
		size_t piece = length < sizeof(zeros) ? (size_t)length : sizeof(zeros);

		if (vb_pwrite_full(self->base.file.fd, self->base.file.path, zeros, piece, host_bytes, error))
			return -1;
		host_bytes += piece;
		length -= piece;
	}
	return 0;
}

/* A hole in the file; false where the file system has none. */
static bool punch(const struct inplace_writer *self, uint64_t host_bytes, uint64_t length)
{
	return vb_sys->fallocate(self->base.file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)host_bytes,
				 (off_t)length) == 0;
}

/* Fills the segment from `bytes` (NULL: zeros). What its last cluster has beyond `length` becomes zeros too: were the disk
 * to grow, it would show. */
static int fill(struct inplace_writer *self, const struct segment *segment, const uint8_t *bytes, uint64_t length,
		struct vb_error *error)
{
	uint64_t room = segment->count << self->header.cluster_bits;

	if (!bytes)
		return punch(self, segment->host_bytes, room) ? 0 : write_zeros(self, segment->host_bytes, room, error);
	if (vb_pwrite_full(self->base.file.fd, self->base.file.path, bytes, length, segment->host_bytes, error))
		return -1;
	return write_zeros(self, segment->host_bytes + length, room - length, error);
}

static int write_clusters(struct inplace_writer *self, uint64_t start_bytes, const uint8_t *bytes, uint64_t length,
			  struct vb_error *error)
{
	uint32_t cluster_bits = self->header.cluster_bits;
	uint64_t cluster = start_bytes >> cluster_bits;
	uint64_t end = (start_bytes + length + self->header.cluster_size_bytes - 1) >> cluster_bits;

	while (cluster < end) {
		uint64_t done = (cluster << cluster_bits) - start_bytes;
		struct segment segment;

		pthread_mutex_lock(&self->mutex);
		int result = find_room(self, cluster, end, &segment, error);
		pthread_mutex_unlock(&self->mutex);
		if (result)
			return -1;
		VB_POINT("in place: found room");

		uint64_t part = segment.count << cluster_bits;

		if (fill(self, &segment, bytes ? bytes + done : NULL, part < length - done ? part : length - done, error))
			return -1;
		VB_POINT("in place: filled");
		pthread_mutex_lock(&self->mutex);
		result = record(self, &segment, error);
		pthread_mutex_unlock(&self->mutex);
		if (result)
			return -1;
		VB_POINT("in place: recorded");
		cluster += segment.count;
	}
	return 0;
}

static int inplace_write(struct vb_writer *writer, uint64_t start_bytes, const void *buffer, size_t length,
			 struct vb_error *error)
{
	if (vb_writer_check_range(writer, start_bytes, length, error))
		return -1;
	return write_clusters(inplace(writer), start_bytes, buffer, length, error);
}

/* Whether the cluster reads as zeros without holding a host cluster. */
static bool is_bare_zero(const struct inplace_writer *self, struct vb_l2_entry entry)
{
	if ((entry.word & VB_QCOW2_COMPRESSED) || (entry.word & VB_QCOW2_OFFSET_MASK))
		return false;
	return !has_backing(self) || entry.bitmap == VB_QCOW2_ALL_ZERO || (entry.word & VB_QCOW2_ZERO);
}

/* The entry that makes a cluster read as zeros; an own host cluster stays with it. */
static struct vb_l2_entry zero_entry(const struct inplace_writer *self, struct vb_l2_entry old)
{
	bool is_extended = vb_qcow2_has_extended_l2(&self->header);
	struct vb_l2_entry entry = {0};

	if (is_bare_zero(self, old))
		return old;
	if (self->header.version >= 3 && own_host_bytes(old))
		entry.word = old.word;
	else if (!has_backing(self))
		return entry;
	if (is_extended)
		entry.bitmap = VB_QCOW2_ALL_ZERO;
	else
		entry.word |= VB_QCOW2_ZERO;
	return entry;
}

/* Zeros clusters [cluster, end) of one L2 table. The host clusters it keeps are emptied: nobody reads them any more. */
static int zero_in_table(struct inplace_writer *self, uint64_t cluster, uint64_t end, struct vb_error *error)
{
	uint64_t l1_index = cluster / table_entries(self);
	struct segment kept = {0};
	const uint8_t *before;
	uint8_t *table = NULL;

	if (vb_qcow2_table_for_reading(self, l1_index, &before, error))
		return -1;
	if (!before && !has_backing(self))
		return 0;
	for (; cluster < end; cluster++) {
		struct vb_l2_entry old = entry_at(self, table ? table : before, cluster);
		struct vb_l2_entry entry = zero_entry(self, old);

		if (is_equal(entry, old))
			continue;
		if (!table && vb_qcow2_table_for_writing(self, l1_index, &table, error))
			return -1;
		vb_qcow2_store_entry(&self->header, table + place_in_table(self, cluster), entry);
		if (!own_host_bytes(entry)) {
			if (drop_entry(self, old, error))
				return -1;
			continue;
		}
		if (kept.count && own_host_bytes(entry) != kept.host_bytes + (kept.count << self->header.cluster_bits)) {
			punch(self, kept.host_bytes, kept.count << self->header.cluster_bits);
			kept.count = 0;
		}
		if (kept.count++ == 0)
			kept.host_bytes = own_host_bytes(entry);
	}
	if (kept.count)
		punch(self, kept.host_bytes, kept.count << self->header.cluster_bits);
	return 0;
}

static int inplace_zero(struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error)
{
	struct inplace_writer *self = inplace(writer);
	uint32_t cluster_bits = self->header.cluster_bits;
	uint64_t cluster = start_bytes >> cluster_bits;
	uint64_t end = (start_bytes + length_bytes + self->header.cluster_size_bytes - 1) >> cluster_bits;

	if (vb_writer_check_range(writer, start_bytes, length_bytes, error))
		return -1;
	/* Version 2 has no word for "zeros here whatever the backing file has" but data. */
	if (self->header.version < 3 && has_backing(self))
		return write_clusters(self, start_bytes, NULL, length_bytes, error);
	while (cluster < end) {
		uint64_t table_end = (cluster / table_entries(self) + 1) * table_entries(self);
		uint64_t stop = end < table_end ? end : table_end;

		pthread_mutex_lock(&self->mutex);
		int result = vb_qcow2_make_room(self, error) || vb_qcow2_begin_change(self, error) ||
			     zero_in_table(self, cluster, stop, error);
		pthread_mutex_unlock(&self->mutex);
		if (result)
			return -1;
		cluster = stop;
	}
	return 0;
}

static int inplace_checkpoint(struct vb_writer *writer, struct vb_error *error)
{
	struct inplace_writer *self = inplace(writer);

	pthread_mutex_lock(&self->mutex);
	int result = vb_qcow2_checkpoint(self, error);
	pthread_mutex_unlock(&self->mutex);
	return result;
}

static int inplace_publish(struct vb_writer *writer, struct vb_error *error)
{
	struct inplace_writer *self = inplace(writer);

	pthread_mutex_lock(&self->mutex);
	int result = vb_qcow2_checkpoint(self, error);
	if (!result && self->role == VB_EXISTING_DESTINATION)
		result = put_magic(self, VB_QCOW2_MAGIC, error);
	pthread_mutex_unlock(&self->mutex);
	writer->published = result == 0;
	return result;
}

static int inplace_unpublish(struct vb_writer *writer, struct vb_error *error)
{
	return put_magic(inplace(writer), VB_UNFINISHED_MAGIC, error);
}

static void inplace_close(struct vb_writer *writer)
{
	struct inplace_writer *self = inplace(writer);

	vb_qcow2_tables_close(self);
	vb_refcounts_close(&self->refcounts);
	pthread_mutex_destroy(&self->mutex);
	vb_writer_release(writer);
	free(self);
}

static const struct vb_writer_ops inplace_ops = {
	.prepare = inplace_prepare,
	.write = inplace_write,
	.zero = inplace_zero,
	.write_back = vb_writer_start_write_back,
	.checkpoint = inplace_checkpoint,
	.publish = inplace_publish,
	.unpublish = inplace_unpublish,
	.close = inplace_close,
};

/* An unfinished destination is read as what it was before it got the mark. */
static int read_header(struct inplace_writer *self, struct vb_error *error)
{
	const struct vb_file *file = &self->base.file;
	size_t head_limit = (size_t)1 << VB_QCOW2_CLUSTER_BITS_MAX;
	size_t head_bytes = file->size_bytes < head_limit ? (size_t)file->size_bytes : head_limit;
	uint8_t *head = malloc(head_bytes + 1);
	int result;

	if (!head)
		return vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the image's header");
	result = vb_pread_exact(file->fd, file->path, head, head_bytes, 0, error);
	if (!result && self->role == VB_EXISTING_DESTINATION && head_bytes >= 4 && vb_load_be32(head) == VB_UNFINISHED_MAGIC) {
		self->is_marked = true;
		self->base.was_unfinished = true;
		vb_store_be32(head, VB_QCOW2_MAGIC);
	}
	if (!result)
		result = vb_qcow2_header_parse(head, head_bytes, file->size_bytes, file->path, &self->header, error);
	free(head);
	return result;
}

static int check_header(struct inplace_writer *self, struct vb_error *error)
{
	const struct vb_qcow2_header *header = &self->header;
	uint64_t wanted_bytes = self->base.spec.virtual_size_bytes;
	const char *path = self->base.file.path;

	if (header->incompatible_features & VB_QCOW2_INCOMPATIBLE_DATA_FILE)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, ENOTSUP, path, -1,
			       "A qcow2 image with an external data file is not supported for writing in place");
	if (header->incompatible_features & VB_QCOW2_INCOMPATIBLE_CORRUPT)
		return vb_fail(error, VB_ERROR_FORMAT, 0, path, -1, "The image is marked corrupt and must be repaired before it is written");
	if (header->incompatible_features & VB_QCOW2_INCOMPATIBLE_DIRTY)
		return vb_fail(error, VB_ERROR_FORMAT, 0, path, -1,
			       "The image was not closed cleanly and must be repaired before it is written (qemu-img check -r all)");
	if (self->role != VB_EXISTING_DESTINATION) {
		self->base.spec.virtual_size_bytes = header->size_bytes;
		return 0;
	}
	/* A raw source may end within a sector, which no qcow2 image can. */
	if (header->size_bytes == wanted_bytes || header->size_bytes == (wanted_bytes + 511) / 512 * 512)
		return 0;
	return vb_fail(error, VB_ERROR_SIZE, 0, path, -1, "The destination has %llu bytes, the source has %llu",
		       (unsigned long long)header->size_bytes, (unsigned long long)wanted_bytes);
}

static int open_image(struct inplace_writer *self, struct vb_error *error)
{
	if (read_header(self, error) || check_header(self, error) ||
	    vb_refcounts_open(&self->refcounts, &self->base.file, &self->header, error))
		return -1;
	self->base.unit_bytes = self->header.cluster_size_bytes;
	self->base.zero_needed = true;
	self->base.can_resume = true;
	self->base.is_fresh = self->role == VB_EXISTING_DESTINATION && !self->is_marked;
	return vb_qcow2_tables_open(self, error);
}

struct vb_writer *vb_qcow2_inplace_writer_open(struct vb_file *file, const struct vb_destination_spec *spec,
					       enum vb_existing_role role, struct vb_error *error)
{
	struct inplace_writer *self = calloc(1, sizeof(*self));

	if (!self) {
		vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the destination");
		vb_file_close(file);
		return NULL;
	}
	self->role = role;
	pthread_mutex_init(&self->mutex, NULL);
	if (vb_writer_init(&self->base, &inplace_ops, file, spec, error) || open_image(self, error)) {
		inplace_close(&self->base);
		return NULL;
	}
	return &self->base;
}
