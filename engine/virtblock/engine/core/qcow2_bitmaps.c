/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading persistent bitmaps. Owns: see qcow2_bitmaps.h.
 *
 * The checks are those of QEMU's block/qcow2-bitmap.c, so what QEMU loads is read here. A directory that is not valid any more
 * may lie in clusters that have got another use: what cannot be read of it is no bitmap rather than an error.
 */
#include "qcow2_bitmaps.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layer.h"
#include "qcow2.h"
#include "qcow2_bitmap_format.h"
#include "sys.h"

#define TABLE_WINDOW_ENTRIES 8192u
#define COUNT_BYTES_MAX (4ull << 30)   /* of bitmap data, read to count what is dirty in all bitmaps of an image */
#define NAMED_IN_MESSAGE_MAX 400u

typedef unsigned long long ull;

/* What a step of reading the directory works on. */
struct directory {
	const struct vb_file *file;
	const struct vb_qcow2_header *header;
	uint64_t offset_bytes;
	uint64_t size_bytes;
	uint32_t count;
	const uint8_t *bytes;
	struct vb_error *error;
};

static int refuse(const struct directory *directory, uint64_t at, uint32_t index, const char *what, uint64_t value)
{
	return vb_fail(directory->error, VB_ERROR_FORMAT, 0, directory->file->path, (int64_t)(directory->offset_bytes + at),
		       "The image is corrupt: bitmap %u of the directory %s (%llu)", index, what, (ull)value);
}

uint64_t vb_qcow2_bitmap_table_size(const struct vb_qcow2_header *header, uint32_t granularity_bytes)
{
	uint64_t bits = header->size_bytes / granularity_bytes + (header->size_bytes % granularity_bytes != 0);
	uint64_t data_bytes = bits / 8 + (bits % 8 != 0);

	return data_bytes / header->cluster_size_bytes + (data_bytes % header->cluster_size_bytes != 0);
}

bool vb_qcow2_bitmap_fits(const struct vb_qcow2_header *header, uint32_t granularity_bytes)
{
	return header->size_bytes / granularity_bytes <= VB_QCOW2_BITMAP_BITS_MAX;
}

static enum vb_bitmap_state find_state(const struct vb_qcow2_header *header, const struct vb_persistent_bitmap *bitmap)
{
	if ((header->autoclear_features & VB_QCOW2_AUTOCLEAR_BITMAPS) == 0)
		return VB_BITMAP_INCONSISTENT;
	if ((bitmap->flags & VB_QCOW2_BITMAP_IN_USE) != 0)
		return VB_BITMAP_IN_USE;
	if (!vb_qcow2_bitmap_fits(header, bitmap->granularity_bytes) ||
	    bitmap->table_size != vb_qcow2_bitmap_table_size(header, bitmap->granularity_bytes))
		return VB_BITMAP_WRONG_SIZE;
	return VB_BITMAP_USABLE;
}

/* The fixed part of the entry at `at`, and how long the whole of it is. */
static int parse_fixed(const struct directory *directory, uint64_t at, uint32_t index, struct vb_persistent_bitmap *bitmap,
		       uint64_t *name_length, uint64_t *entry_length)
{
	const uint8_t *entry = directory->bytes + at;
	uint32_t extra_length;

	if (directory->size_bytes - at < VB_QCOW2_BITMAP_ENTRY_BYTES)
		return refuse(directory, at, index, "lies behind the directory's end", directory->size_bytes);
	bitmap->table_offset_bytes = vb_load_be64(entry);
	bitmap->table_size = vb_load_be32(entry + 8);
	bitmap->flags = vb_load_be32(entry + 12);
	*name_length = vb_load_be16(entry + 18);
	extra_length = vb_load_be32(entry + 20);
	if (extra_length != 0)
		return refuse(directory, at + 20, index, "has extra data, whose length must be 0", extra_length);
	*entry_length = (VB_QCOW2_BITMAP_ENTRY_BYTES + *name_length + 7) & ~7ull;
	if (*entry_length > directory->size_bytes - at)
		return refuse(directory, at, index, "reaches behind the directory's end", directory->size_bytes);
	if (entry[16] != VB_QCOW2_BITMAP_TYPE_DIRTY)
		return refuse(directory, at + 16, index, "is of an unknown type", entry[16]);
	if (entry[17] < VB_QCOW2_BITMAP_GRANULARITY_BITS_MIN || entry[17] > VB_QCOW2_BITMAP_GRANULARITY_BITS_MAX)
		return refuse(directory, at + 17, index, "has a granularity_bits that is not from 9 to 31", entry[17]);
	bitmap->granularity_bytes = 1u << entry[17];
	return 0;
}

static int check_fields(const struct directory *directory, uint64_t at, uint32_t index, const struct vb_persistent_bitmap *bitmap,
			uint64_t name_length)
{
	if (bitmap->table_offset_bytes == 0 || bitmap->table_offset_bytes % directory->header->cluster_size_bytes != 0)
		return refuse(directory, at, index, "has a table that does not begin at a cluster", bitmap->table_offset_bytes);
	if (bitmap->table_offset_bytes > INT64_MAX)
		return refuse(directory, at, index, "has a table behind the end of any file", bitmap->table_offset_bytes);
	if (bitmap->table_size == 0 || bitmap->table_size > VB_QCOW2_BITMAP_TABLE_SIZE_MAX)
		return refuse(directory, at + 8, index, "has a table_size beyond its limits", bitmap->table_size);
	if ((bitmap->flags & VB_QCOW2_BITMAP_FLAGS_RESERVED) != 0)
		return refuse(directory, at + 12, index, "has reserved flags set", bitmap->flags);
	if (name_length == 0 || name_length > VB_BITMAP_NAME_MAX)
		return refuse(directory, at + 18, index, "has a name_size that is not from 1 to 1023", name_length);
	if (memchr(directory->bytes + at + VB_QCOW2_BITMAP_ENTRY_BYTES, '\0', name_length) != NULL)
		return refuse(directory, at + VB_QCOW2_BITMAP_ENTRY_BYTES, index, "has a name with a null byte", name_length);
	return 0;
}

static int no_memory(const struct vb_file *file, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, file->path, -1, "No memory for the image's bitmaps");
}

static int parse_entries(const struct directory *directory, struct vb_persistent_bitmaps *bitmaps)
{
	uint64_t at = 0, name_length = 0, entry_length = 0;

	for (uint32_t index = 0; index < directory->count; index++) {
		struct vb_persistent_bitmap bitmap = {0};

		if (parse_fixed(directory, at, index, &bitmap, &name_length, &entry_length) < 0 ||
		    check_fields(directory, at, index, &bitmap, name_length) < 0)
			return -1;
		bitmap.name = strndup((const char *)directory->bytes + at + VB_QCOW2_BITMAP_ENTRY_BYTES, name_length);
		if (bitmap.name == NULL)
			return no_memory(directory->file, directory->error);
		bitmap.is_enabled = (bitmap.flags & VB_QCOW2_BITMAP_AUTO) != 0;
		bitmap.state = find_state(directory->header, &bitmap);
		bitmaps->items[bitmaps->count++] = bitmap;
		at += entry_length;
	}
	if (at != directory->size_bytes)
		return refuse(directory, at, directory->count, "is not there, but bytes of the directory are left", directory->size_bytes - at);
	return 0;
}

static int compare_names(const void *left, const void *right)
{
	return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Two bitmaps of one name: which one is meant would depend on who reads. */
static int check_unique(const struct directory *directory, const struct vb_persistent_bitmaps *bitmaps)
{
	char **names = calloc(bitmaps->count + 1, sizeof(*names));
	int result = 0;

	if (names == NULL)
		return no_memory(directory->file, directory->error);
	for (size_t index = 0; index < bitmaps->count; index++)
		names[index] = bitmaps->items[index].name;
	qsort(names, bitmaps->count, sizeof(*names), compare_names);
	for (size_t index = 1; index < bitmaps->count && result == 0; index++)
		if (strcmp(names[index - 1], names[index]) == 0)
			result = vb_fail(directory->error, VB_ERROR_FORMAT, 0, directory->file->path, (int64_t)directory->offset_bytes,
					 "The image is corrupt: two of its bitmaps have the name '%s'", names[index]);
	free(names);
	return result;
}

static int read_directory(struct directory *directory, struct vb_persistent_bitmaps *bitmaps)
{
	const struct vb_file *file = directory->file;
	uint8_t *bytes;
	int result;

	/* Before memory is taken for it. */
	if (directory->count > directory->size_bytes / VB_QCOW2_BITMAP_ENTRY_BYTES)
		return refuse(directory, 0, directory->count, "cannot be there: the directory is too short", directory->size_bytes);
	if (directory->offset_bytes > file->size_bytes || directory->size_bytes > file->size_bytes - directory->offset_bytes)
		return vb_fail(directory->error, VB_ERROR_FORMAT, 0, file->path, (int64_t)directory->offset_bytes,
			       "The image is truncated: the bitmap directory of %llu bytes lies beyond the end of the file at %llu",
			       (ull)directory->size_bytes, (ull)file->size_bytes);
	bytes = malloc(directory->size_bytes + 1);
	bitmaps->items = calloc(directory->count + 1ull, sizeof(*bitmaps->items));
	if (bytes == NULL || bitmaps->items == NULL) {
		free(bytes);
		return no_memory(file, directory->error);
	}
	result = vb_pread_exact(file->fd, file->path, bytes, directory->size_bytes, directory->offset_bytes, directory->error);
	directory->bytes = bytes;
	if (result == 0)
		result = parse_entries(directory, bitmaps);
	if (result == 0)
		result = check_unique(directory, bitmaps);
	free(bytes);
	return result;
}

/* What the header's extension says, valid or not. */
static int read_extension(struct directory *directory)
{
	const struct vb_qcow2_header *header = directory->header;
	uint8_t content[VB_QCOW2_BITMAPS_EXTENSION_BYTES];

	if (vb_pread_exact(directory->file->fd, directory->file->path, content, sizeof(content), header->bitmaps_extension_bytes,
			   directory->error) < 0)
		return -1;
	directory->count = vb_load_be32(content);
	directory->size_bytes = vb_load_be64(content + 8);
	directory->offset_bytes = vb_load_be64(content + 16);
	return 0;
}

int vb_qcow2_bitmaps_read(const struct vb_file *file, const struct vb_qcow2_header *header, struct vb_persistent_bitmaps *bitmaps,
			  struct vb_error *error)
{
	struct vb_error ignored;
	struct directory directory = { .file = file, .header = header, .error = error };

	*bitmaps = (struct vb_persistent_bitmaps){0};
	if (header->bitmaps_extension_bytes == 0)
		return 0;
	if (read_extension(&directory) < 0)
		return -1;
	if (!header->has_bitmaps) {
		directory.error = &ignored;
		if (directory.count > VB_QCOW2_BITMAPS_MAX || directory.size_bytes > VB_QCOW2_BITMAP_DIRECTORY_BYTES_MAX)
			return 0;
	}
	if (read_directory(&directory, bitmaps) == 0)
		return 0;
	vb_persistent_bitmaps_free(bitmaps);
	if (header->has_bitmaps)
		return -1;
	if (ignored.kind != VB_ERROR_SYSTEM && ignored.kind != VB_ERROR_MEMORY)
		return 0;
	*error = ignored;
	return -1;
}

int vb_persistent_bitmaps_read(const struct vb_file *file, struct vb_persistent_bitmaps *bitmaps, struct vb_error *error)
{
	struct vb_qcow2_header header;

	*bitmaps = (struct vb_persistent_bitmaps){0};
	return vb_qcow2_header_read(file, &header, error) < 0 ? -1 : vb_qcow2_bitmaps_read(file, &header, bitmaps, error);
}

void vb_persistent_bitmap_release(struct vb_persistent_bitmap *bitmap)
{
	free(bitmap->name);
	*bitmap = (struct vb_persistent_bitmap){0};
}

void vb_persistent_bitmaps_free(struct vb_persistent_bitmaps *bitmaps)
{
	for (size_t index = 0; index < bitmaps->count; index++)
		vb_persistent_bitmap_release(&bitmaps->items[index]);
	free(bitmaps->items);
	*bitmaps = (struct vb_persistent_bitmaps){0};
}

static void list_names(const struct vb_persistent_bitmaps *bitmaps, char text[NAMED_IN_MESSAGE_MAX])
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t index = 0; index < bitmaps->count; index++) {
		const char *name = bitmaps->items[index].name;

		if (strlen(name) + 8 > NAMED_IN_MESSAGE_MAX - used) {
			strcpy(text + used, ", ...");
			return;
		}
		used += (size_t)sprintf(text + used, "%s'%s'", index == 0 ? "" : ", ", name);
	}
}

struct vb_persistent_bitmap *vb_persistent_bitmaps_find(const struct vb_persistent_bitmaps *bitmaps, const char *name,
							const char *path, struct vb_error *error)
{
	char names[NAMED_IN_MESSAGE_MAX];

	for (size_t index = 0; index < bitmaps->count; index++)
		if (strcmp(bitmaps->items[index].name, name) == 0)
			return &bitmaps->items[index];
	list_names(bitmaps, names);
	if (bitmaps->count == 0)
		vb_fail(error, VB_ERROR_NO_BITMAP, 0, path, -1, "The image has no bitmap '%.300s', nor any other", name);
	else
		vb_fail(error, VB_ERROR_NO_BITMAP, 0, path, -1, "The image has no bitmap '%.300s'; it has %s", name, names);
	return NULL;
}

/* Where the bits of a bitmap go: runs of set ones, in bytes of the disk. */
struct run_sink {
	uint64_t size_bytes;              /* of the disk */
	uint32_t granularity_bytes;
	uint64_t start_bit;               /* of the run that is not yet put; start_bit == end_bit: none */
	uint64_t end_bit;
	struct vb_bitmap *dirty;          /* gets the runs; may be NULL */
	uint64_t total_bytes;
};

static void put_run(struct run_sink *sink)
{
	uint64_t start_bytes = sink->start_bit * sink->granularity_bytes, end_bytes = sink->end_bit * sink->granularity_bytes;

	if (end_bytes > sink->size_bytes)
		end_bytes = sink->size_bytes;
	if (start_bytes < end_bytes) {
		sink->total_bytes += end_bytes - start_bytes;
		if (sink->dirty != NULL)
			vb_bitmap_set(sink->dirty, start_bytes, end_bytes - start_bytes);
	}
	sink->start_bit = sink->end_bit = 0;
}

static void add_bits(struct run_sink *sink, uint64_t start_bit, uint64_t count)
{
	if (sink->start_bit != sink->end_bit && start_bit != sink->end_bit)
		put_run(sink);
	if (sink->start_bit == sink->end_bit)
		sink->start_bit = start_bit;
	sink->end_bit = start_bit + count;
}

/* The set bits of one word, which begins with bit `first`. */
static void add_word(struct run_sink *sink, uint64_t first, uint64_t word)
{
	if (word == UINT64_MAX) {
		add_bits(sink, first, 64);
		return;
	}
	while (word != 0) {
		uint32_t start = (uint32_t)__builtin_ctzll(word);
		uint32_t length = (uint32_t)__builtin_ctzll(~(word >> start));

		add_bits(sink, first + start, length);
		word &= ~(((1ull << length) - 1) << start);
	}
}

static void add_cluster(struct run_sink *sink, uint64_t first, const uint8_t *bytes, uint32_t length)
{
	for (uint32_t at = 0; at < length; at += 8) {
		uint64_t word;

		memcpy(&word, bytes + at, sizeof(word));
		if (word != 0)
			add_word(sink, first + at * 8ull, le64toh(word));
	}
}

int vb_qcow2_check_bitmap_table_entry(const struct vb_file *file, uint32_t cluster_bytes, uint64_t entry, uint64_t at_bytes,
				      struct vb_error *error)
{
	uint64_t offset_bytes = entry & VB_QCOW2_OFFSET_MASK;
	const char *reason;

	if ((entry & VB_QCOW2_BITMAP_TABLE_RESERVED) != 0 || (offset_bytes != 0 && (entry & VB_QCOW2_BITMAP_ALL_ONES) != 0))
		reason = "has reserved bits set";
	else if (offset_bytes % cluster_bytes != 0)
		reason = "is not aligned to the cluster size";
	else if (offset_bytes != 0 && (offset_bytes > file->size_bytes || cluster_bytes > file->size_bytes - offset_bytes))
		reason = "names a cluster beyond the end of the file: the image is truncated";
	else
		return 0;
	return vb_fail(error, VB_ERROR_FORMAT, 0, file->path, (int64_t)at_bytes, "The bitmap table's entry 0x%016llx %s (the file ends at %llu)",
		       (ull)entry, reason, (ull)file->size_bytes);
}

int vb_qcow2_visit_bitmap_table(const struct vb_file *file, const struct vb_persistent_bitmap *bitmap, vb_bitmap_table_visitor visit,
				void *opaque, struct vb_error *error)
{
	uint64_t *window = malloc(TABLE_WINDOW_ENTRIES * sizeof(*window));
	int result = 0;

	if (window == NULL)
		return no_memory(file, error);
	for (uint64_t first = 0; first < bitmap->table_size && result == 0; first += TABLE_WINDOW_ENTRIES) {
		uint64_t count = bitmap->table_size - first < TABLE_WINDOW_ENTRIES ? bitmap->table_size - first : TABLE_WINDOW_ENTRIES;
		uint64_t at_bytes = bitmap->table_offset_bytes + first * sizeof(*window);

		result = vb_pread_exact(file->fd, file->path, window, count * sizeof(*window), at_bytes, error);
		for (uint64_t index = 0; index < count && result == 0; index++)
			result = visit(opaque, first + index, vb_load_be64(&window[index]), at_bytes + index * sizeof(*window), error);
	}
	free(window);
	return result;
}

struct loading {
	const struct vb_file *file;
	uint32_t cluster_bytes;
	uint8_t *buffer;   /* one cluster */
	struct run_sink sink;
};

static int load_entry(void *opaque, uint64_t index, uint64_t entry, uint64_t at_bytes, struct vb_error *error)
{
	struct loading *loading = opaque;
	uint64_t offset_bytes = entry & VB_QCOW2_OFFSET_MASK, first_bit = index * loading->cluster_bytes * 8;

	if (vb_qcow2_check_bitmap_table_entry(loading->file, loading->cluster_bytes, entry, at_bytes, error) < 0)
		return -1;
	if (offset_bytes == 0) {
		if ((entry & VB_QCOW2_BITMAP_ALL_ONES) != 0)
			add_bits(&loading->sink, first_bit, loading->cluster_bytes * 8ull);
		return 0;
	}
	if (vb_pread_exact(loading->file->fd, loading->file->path, loading->buffer, loading->cluster_bytes, offset_bytes, error) < 0)
		return -1;
	add_cluster(&loading->sink, first_bit, loading->buffer, loading->cluster_bytes);
	return 0;
}

/* Puts what a usable bitmap marks into `dirty` (may be NULL), and its sum into `total_bytes`. */
static int read_bits(const struct vb_file *file, const struct vb_qcow2_header *header, const struct vb_persistent_bitmap *bitmap,
		     struct vb_bitmap *dirty, uint64_t *total_bytes, struct vb_error *error)
{
	struct loading loading = {
		.file = file,
		.cluster_bytes = header->cluster_size_bytes,
		.buffer = malloc(header->cluster_size_bytes),
		.sink = { .size_bytes = header->size_bytes, .granularity_bytes = bitmap->granularity_bytes, .dirty = dirty },
	};
	int result;

	if (loading.buffer == NULL)
		return no_memory(file, error);
	result = vb_qcow2_visit_bitmap_table(file, bitmap, load_entry, &loading, error);
	put_run(&loading.sink);
	*total_bytes = loading.sink.total_bytes;
	free(loading.buffer);
	return result;
}

int vb_persistent_bitmaps_count(const struct vb_file *file, struct vb_persistent_bitmaps *bitmaps, struct vb_error *error)
{
	struct vb_qcow2_header header;
	uint64_t read_bytes = 0;

	if (vb_qcow2_header_read(file, &header, error) < 0)
		return -1;
	for (size_t index = 0; index < bitmaps->count; index++) {
		struct vb_persistent_bitmap *bitmap = &bitmaps->items[index];

		if (bitmap->state != VB_BITMAP_USABLE)
			continue;
		read_bytes += bitmap->table_size * ((uint64_t)header.cluster_size_bytes + sizeof(uint64_t));
		if (read_bytes > COUNT_BYTES_MAX)
			return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, file->path, -1,
				       "The image has more than %llu bytes of bitmaps", (ull)COUNT_BYTES_MAX);
		if (read_bits(file, &header, bitmap, NULL, &bitmap->dirty_bytes, error) < 0)
			return -1;
	}
	return 0;
}

int vb_image_list_bitmaps(const struct vb_policy *policy, const char *path, struct vb_persistent_bitmaps *bitmaps,
			  struct vb_error *error)
{
	struct vb_file file;
	int result;

	*bitmaps = (struct vb_persistent_bitmaps){0};
	if (vb_policy_open(policy, path, O_RDONLY, 0, &file, error) < 0)
		return -1;
	result = vb_lock_image(&file, VB_LOCK_READER, error);
	if (result == 0)
		result = vb_persistent_bitmaps_read(&file, bitmaps, error);
	if (result == 0)
		result = vb_persistent_bitmaps_count(&file, bitmaps, error);
	if (result < 0)
		vb_persistent_bitmaps_free(bitmaps);
	vb_file_close(&file);
	return result;
}

int vb_persistent_bitmap_check_usable(const struct vb_persistent_bitmap *bitmap, const char *path, struct vb_error *error)
{
	const char *reason;

	switch (bitmap->state) {
	case VB_BITMAP_USABLE:
		return 0;
	case VB_BITMAP_IN_USE:
		reason = "is in use: whoever recorded in it did not close the image, so it does not mark all that was written";
		break;
	case VB_BITMAP_INCONSISTENT:
		reason = "is inconsistent: the image was changed by a program that does not know bitmaps";
		break;
	default:
		reason = "was made for a disk of another size";
		break;
	}
	return vb_fail(error, VB_ERROR_BITMAP, 0, path, -1, "The bitmap '%.300s' %s", bitmap->name, reason);
}

int vb_persistent_bitmap_open(const struct vb_chain *chain, const char *name, struct vb_persistent_bitmap *bitmap,
			      struct vb_error *error)
{
	const struct vb_layer *top = vb_chain_layer(chain, 0);
	struct vb_persistent_bitmaps bitmaps;
	struct vb_persistent_bitmap *found;
	int result = -1;

	*bitmap = (struct vb_persistent_bitmap){0};
	if (top->qcow2 == NULL || top->info.version < 3)
		return vb_fail(error, VB_ERROR_NO_BITMAP, 0, top->file.path, -1, "A %s image has no bitmaps",
			       top->qcow2 == NULL ? "raw" : "version 2 qcow2");
	if (vb_persistent_bitmaps_read(&top->file, &bitmaps, error) < 0)
		return -1;
	found = vb_persistent_bitmaps_find(&bitmaps, name, top->file.path, error);
	if (found != NULL && vb_persistent_bitmap_check_usable(found, top->file.path, error) == 0) {
		*bitmap = *found;
		found->name = NULL;
		result = 0;
	}
	vb_persistent_bitmaps_free(&bitmaps);
	return result;
}

int vb_persistent_bitmap_load(const struct vb_chain *chain, const struct vb_persistent_bitmap *bitmap, struct vb_bitmap *dirty,
			      struct vb_error *error)
{
	const struct vb_file *file = &vb_chain_layer(chain, 0)->file;
	struct vb_qcow2_header header;
	uint64_t total_bytes;

	if (vb_qcow2_header_read(file, &header, error) < 0)
		return -1;
	return read_bits(file, &header, bitmap, dirty, &total_bytes, error);
}
