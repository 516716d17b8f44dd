/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Adding, removing and clearing persistent bitmaps of an image at rest. Owns: see qcow2_bitmaps.h.
 *
 * How: nothing that is in use is changed, but for the flags of bitmaps that a writer makes invalid. A new directory, and what is new in it, goes to new clusters; when these and their refcounts are
 * durable the header switches to it; then the refcounts of what is not used any more go down.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "destination.h"
#include "lock.h"
#include "qcow2_bitmap_format.h"
#include "qcow2_bitmaps_header.h"
#include "qcow2_claims.h"
#include "sys.h"

/* An image that is being changed. */
struct change {
	struct vb_file file;
	struct vb_qcow2_header header;
	struct vb_refcounts refcounts;
	struct vb_qcow2_claims claims;
	struct vb_persistent_bitmaps bitmaps;   /* as they are, and then as they shall be */
	struct vb_error *error;
};

static int no_memory(const struct change *change)
{
	return vb_fail(change->error, VB_ERROR_MEMORY, 0, change->file.path, -1, "No memory for the image's bitmaps");
}

static int check_header(const struct change *change)
{
	uint64_t features = change->header.incompatible_features;

	if (features & VB_QCOW2_INCOMPATIBLE_CORRUPT)
		return vb_fail(change->error, VB_ERROR_FORMAT, 0, change->file.path, -1,
			       "The image is marked corrupt and must be repaired before it is written");
	if (features & VB_QCOW2_INCOMPATIBLE_DIRTY)
		return vb_fail(change->error, VB_ERROR_FORMAT, 0, change->file.path, -1,
			       "The image was not closed cleanly and must be repaired before it is written (qemu-img check -r all)");
	return vb_qcow2_check_bitmaps_room(&change->file, &change->header, change->error);
}

static uint64_t table_bytes(const struct vb_persistent_bitmap *bitmap)
{
	return bitmap->table_size * (uint64_t)sizeof(uint64_t);
}

static int claim_entry(void *opaque, uint64_t index, uint64_t entry, uint64_t at_bytes, struct vb_error *error)
{
	struct change *change = opaque;
	uint64_t offset_bytes = entry & VB_QCOW2_OFFSET_MASK;

	(void)index;
	if (vb_qcow2_check_bitmap_table_entry(&change->file, change->header.cluster_size_bytes, entry, at_bytes, error) < 0)
		return -1;
	return offset_bytes ? vb_qcow2_claim_alone(&change->claims, offset_bytes, 1, at_bytes, error) : 0;
}

/* Whatever may be given back later belongs to one bitmap alone. */
static int claim_bitmaps(struct change *change)
{
	const struct vb_qcow2_header *header = &change->header;

	if (!header->has_bitmaps)
		return 0;
	if (vb_qcow2_claim_alone(&change->claims, header->bitmap_directory_offset_bytes, header->bitmap_directory_size_bytes,
				 header->bitmaps_extension_bytes, change->error))
		return -1;
	for (size_t index = 0; index < change->bitmaps.count; index++) {
		const struct vb_persistent_bitmap *bitmap = &change->bitmaps.items[index];

		if (vb_qcow2_claim_alone(&change->claims, bitmap->table_offset_bytes, table_bytes(bitmap),
					 header->bitmap_directory_offset_bytes, change->error) ||
		    vb_qcow2_visit_bitmap_table(&change->file, bitmap, claim_entry, change, change->error))
			return -1;
	}
	return 0;
}

static void close_change(struct change *change)
{
	vb_persistent_bitmaps_free(&change->bitmaps);
	vb_qcow2_claims_close(&change->claims);
	vb_refcounts_close(&change->refcounts);
	vb_file_close(&change->file);
}

static int open_image(struct change *change)
{
	if (vb_lock_image(&change->file, VB_LOCK_WRITER, change->error) ||
	    vb_qcow2_header_read(&change->file, &change->header, change->error) || check_header(change) ||
	    vb_qcow2_bitmaps_read(&change->file, &change->header, &change->bitmaps, change->error))
		return -1;
	if (vb_refcounts_open(&change->refcounts, &change->file, &change->header, change->error) ||
	    vb_qcow2_claims_open(&change->claims, &change->file, &change->header, &change->refcounts, change->error))
		return -1;
	return claim_bitmaps(change);
}

static int open_change(struct change *change, const struct vb_policy *policy, const char *path, struct vb_error *error)
{
	*change = (struct change){.file = {.fd = -1, .folder_fd = -1}, .error = error};
	if (vb_existing_open(policy, path, &change->file, error))
		return -1;
	if (open_image(change) == 0)
		return 0;
	close_change(change);
	return -1;
}

/* Clusters for `length_bytes`, filled with `bytes` (NULL: zeros) to the end of the last. */
static int put_clusters(struct change *change, const uint8_t *bytes, uint64_t length_bytes, uint64_t *offset_bytes)
{
	uint64_t mask = change->header.cluster_size_bytes - 1, room_bytes = (length_bytes + mask) & ~mask, first;
	uint8_t *content;
	int result;

	if (vb_refcounts_allocate_run(&change->refcounts, room_bytes >> change->header.cluster_bits, &first, change->error))
		return -1;
	*offset_bytes = first << change->header.cluster_bits;
	content = calloc(1, room_bytes);
	if (!content)
		return no_memory(change);
	if (bytes)
		memcpy(content, bytes, length_bytes);
	result = vb_pwrite_full(change->file.fd, change->file.path, content, room_bytes, *offset_bytes, change->error);
	free(content);
	return result;
}

static uint64_t entry_bytes(const struct vb_persistent_bitmap *bitmap)
{
	return (VB_QCOW2_BITMAP_ENTRY_BYTES + strlen(bitmap->name) + 7) & ~7ull;
}

static void fill_entry(uint8_t *entry, const struct vb_persistent_bitmap *bitmap)
{
	vb_store_be64(entry, bitmap->table_offset_bytes);
	vb_store_be32(entry + 8, bitmap->table_size);
	vb_store_be32(entry + 12, bitmap->flags);
	entry[16] = VB_QCOW2_BITMAP_TYPE_DIRTY;
	entry[17] = (uint8_t)__builtin_ctz(bitmap->granularity_bytes);
	vb_store_be16(entry + 18, (uint16_t)strlen(bitmap->name));
	vb_store_be32(entry + 20, 0);
	memcpy(entry + VB_QCOW2_BITMAP_ENTRY_BYTES, bitmap->name, strlen(bitmap->name));
}

static int put_directory(struct change *change, struct vb_bitmap_directory *directory)
{
	uint64_t at = 0;
	uint8_t *bytes;
	int result;

	directory->count = (uint32_t)change->bitmaps.count;
	for (size_t index = 0; index < change->bitmaps.count; index++)
		directory->size_bytes += entry_bytes(&change->bitmaps.items[index]);
	if (directory->size_bytes > VB_QCOW2_BITMAP_DIRECTORY_BYTES_MAX)
		return vb_fail(change->error, VB_ERROR_INVALID, 0, change->file.path, -1,
			       "The names of all bitmaps would take %llu bytes; %llu is the limit",
			       (unsigned long long)directory->size_bytes, (unsigned long long)VB_QCOW2_BITMAP_DIRECTORY_BYTES_MAX);
	if (directory->count == 0)
		return 0;
	bytes = calloc(1, directory->size_bytes);
	if (!bytes)
		return no_memory(change);
	for (size_t index = 0; index < change->bitmaps.count; index++) {
		fill_entry(bytes + at, &change->bitmaps.items[index]);
		at += entry_bytes(&change->bitmaps.items[index]);
	}
	result = put_clusters(change, bytes, directory->size_bytes, &directory->offset_bytes);
	free(bytes);
	return result;
}

/* Each step is durable before the next. */
static int settle(struct change *change)
{
	return vb_fdatasync(change->file.fd, change->file.path, change->error);
}

/* What was allocated is counted, before anything refers to it. */
static int put_refcounts(struct change *change)
{
	struct vb_refcounts *refcounts = &change->refcounts;
	bool wrote = false;

	if (vb_refcounts_write_blocks(refcounts, &wrote, change->error) || settle(change))
		return -1;
	wrote = false;
	if (vb_refcounts_write_table(refcounts, &wrote, change->error) || (wrote && settle(change)))
		return -1;
	wrote = false;
	return vb_refcounts_write_header(refcounts, &wrote, change->error) || (wrote && settle(change)) ? -1 : 0;
}

static int give_back(struct change *change)
{
	bool wrote = false;

	if (vb_refcounts_drop(&change->refcounts, change->error) ||
	    vb_refcounts_write_blocks(&change->refcounts, &wrote, change->error))
		return -1;
	return wrote ? settle(change) : 0;
}

static int drop_later(struct change *change, uint64_t offset_bytes, uint64_t length_bytes)
{
	uint32_t bits = change->header.cluster_bits;
	uint64_t count = (length_bytes + change->header.cluster_size_bytes - 1) >> bits;

	return vb_refcounts_drop_later(&change->refcounts, offset_bytes >> bits, count, change->error);
}

static int drop_entry_later(void *opaque, uint64_t index, uint64_t entry, uint64_t at_bytes, struct vb_error *error)
{
	struct change *change = opaque;

	(void)index;
	(void)at_bytes;
	(void)error;
	return entry & VB_QCOW2_OFFSET_MASK ? drop_later(change, entry & VB_QCOW2_OFFSET_MASK, 1) : 0;
}

/* Clusters of bitmaps that are not valid may be somebody else's by now: they stay as they are. */
static int drop_content_later(struct change *change, const struct vb_persistent_bitmap *bitmap)
{
	if (!change->header.has_bitmaps)
		return 0;
	if (vb_qcow2_visit_bitmap_table(&change->file, bitmap, drop_entry_later, change, change->error))
		return -1;
	return drop_later(change, bitmap->table_offset_bytes, table_bytes(bitmap));
}

/* Puts the bitmaps as they shall be into the file. */
static int commit(struct change *change, bool is_valid)
{
	const struct vb_qcow2_header *header = &change->header;
	struct vb_bitmap_directory directory = {.is_valid = is_valid};

	if (header->has_bitmaps && drop_later(change, header->bitmap_directory_offset_bytes, header->bitmap_directory_size_bytes))
		return -1;
	if (put_directory(change, &directory) || put_refcounts(change) ||
	    vb_qcow2_switch_bitmaps(&change->file, header, &directory, change->error))
		return -1;
	return give_back(change);
}

/* A table that says that nothing is dirty. */
static int put_empty_table(struct change *change, struct vb_persistent_bitmap *bitmap)
{
	return put_clusters(change, NULL, table_bytes(bitmap), &bitmap->table_offset_bytes);
}

static int check_name(const struct change *change, const char *name)
{
	if (*name && strlen(name) <= VB_BITMAP_NAME_MAX)
		return 0;
	return vb_fail(change->error, VB_ERROR_INVALID, 0, change->file.path, -1,
		       "The name of a bitmap has 1 to %u bytes, not %zu", VB_BITMAP_NAME_MAX, strlen(name));
}

static int check_wanted(const struct change *change, const struct vb_new_bitmap *wanted)
{
	uint32_t granularity_bytes = wanted->granularity_bytes;

	if (check_name(change, wanted->name))
		return -1;
	if (granularity_bytes < VB_BITMAP_GRANULARITY_MIN_BYTES || granularity_bytes > VB_BITMAP_GRANULARITY_MAX_BYTES ||
	    (granularity_bytes & (granularity_bytes - 1)) != 0)
		return vb_fail(change->error, VB_ERROR_INVALID, 0, change->file.path, -1,
			       "A granularity of %u bytes is not a power of two from %u to %u", granularity_bytes,
			       VB_BITMAP_GRANULARITY_MIN_BYTES, VB_BITMAP_GRANULARITY_MAX_BYTES);
	if (change->header.size_bytes == 0)
		return vb_fail(change->error, VB_ERROR_INVALID, 0, change->file.path, -1, "A disk of no bytes cannot have a bitmap");
	if (!vb_qcow2_bitmap_fits(&change->header, granularity_bytes))
		return vb_fail(change->error, VB_ERROR_INVALID, 0, change->file.path, -1,
			       "A granularity of %u bytes is too fine for a disk of %llu bytes: a bitmap has at most %llu bits",
			       granularity_bytes, (unsigned long long)change->header.size_bytes,
			       (unsigned long long)VB_QCOW2_BITMAP_BITS_MAX);
	return 0;
}

static int append(struct change *change, const struct vb_new_bitmap *wanted)
{
	struct vb_persistent_bitmaps *bitmaps = &change->bitmaps;
	struct vb_persistent_bitmap *items;

	if (!change->header.has_bitmaps)
		vb_persistent_bitmaps_free(bitmaps);
	for (size_t index = 0; index < bitmaps->count; index++)
		if (strcmp(bitmaps->items[index].name, wanted->name) == 0)
			return vb_fail(change->error, VB_ERROR_EXISTS, 0, change->file.path, -1,
				       "The image has a bitmap '%.300s' already", wanted->name);
	if (bitmaps->count == VB_QCOW2_BITMAPS_MAX)
		return vb_fail(change->error, VB_ERROR_INVALID, 0, change->file.path, -1, "The image has %u bitmaps, which is the limit",
			       VB_QCOW2_BITMAPS_MAX);
	items = realloc(bitmaps->items, (bitmaps->count + 1) * sizeof(*items));
	if (!items)
		return no_memory(change);
	bitmaps->items = items;
	items[bitmaps->count] = (struct vb_persistent_bitmap){
		.name = strdup(wanted->name),
		.granularity_bytes = wanted->granularity_bytes,
		.is_enabled = wanted->is_enabled,
		.state = VB_BITMAP_USABLE,
		.flags = wanted->is_enabled ? VB_QCOW2_BITMAP_AUTO : 0,
		.table_size = (uint32_t)vb_qcow2_bitmap_table_size(&change->header, wanted->granularity_bytes),
	};
	return items[bitmaps->count++].name ? put_empty_table(change, &items[bitmaps->count - 1]) : no_memory(change);
}

int vb_image_add_bitmap(const struct vb_policy *policy, const char *path, const struct vb_new_bitmap *wanted, struct vb_error *error)
{
	struct change change;

	if (open_change(&change, policy, path, error))
		return -1;

	int result = check_wanted(&change, wanted) || append(&change, wanted) || commit(&change, true) ? -1 : 0;

	close_change(&change);
	return result;
}

static int remove_found(struct change *change, const char *name)
{
	struct vb_persistent_bitmaps *bitmaps = &change->bitmaps;
	struct vb_persistent_bitmap *found = vb_persistent_bitmaps_find(bitmaps, name, change->file.path, change->error);

	if (!found || drop_content_later(change, found))
		return -1;
	vb_persistent_bitmap_release(found);
	bitmaps->count--;
	memmove(found, found + 1, (size_t)(&bitmaps->items[bitmaps->count] - found) * sizeof(*found));
	return commit(change, change->header.has_bitmaps);
}

int vb_image_remove_bitmap(const struct vb_policy *policy, const char *path, const char *name, struct vb_error *error)
{
	struct change change;

	if (open_change(&change, policy, path, error))
		return -1;

	int result = remove_found(&change, name);

	close_change(&change);
	return result;
}

static int clear_found(struct change *change, const char *name)
{
	struct vb_persistent_bitmap *found = vb_persistent_bitmaps_find(&change->bitmaps, name, change->file.path, change->error);

	if (!found || vb_persistent_bitmap_check_usable(found, change->file.path, change->error) ||
	    drop_content_later(change, found) || put_empty_table(change, found))
		return -1;
	return commit(change, true);
}

int vb_image_clear_bitmap(const struct vb_policy *policy, const char *path, const char *name, struct vb_error *error)
{
	struct change change;

	if (open_change(&change, policy, path, error))
		return -1;

	int result = clear_found(&change, name);

	close_change(&change);
	return result;
}

/* Sets the flag in each entry; false where all have it. What lies behind the directory's end is left to who reads it. */
static bool set_flags(uint8_t *directory, uint64_t size_bytes)
{
	bool is_changed = false;

	for (uint64_t at = 0; size_bytes - at >= VB_QCOW2_BITMAP_ENTRY_BYTES;) {
		uint64_t entry_length = (VB_QCOW2_BITMAP_ENTRY_BYTES + (uint64_t)vb_load_be16(directory + at + 18) + 7) & ~7ull;
		uint32_t flags = vb_load_be32(directory + at + 12);

		is_changed |= (flags & VB_QCOW2_BITMAP_IN_USE) == 0;
		vb_store_be32(directory + at + 12, flags | VB_QCOW2_BITMAP_IN_USE);
		if (entry_length > size_bytes - at)
			break;
		at += entry_length;
	}
	return is_changed;
}

/* In place: whatever part of the write a crash keeps, each entry is a good one. */
int vb_qcow2_bitmaps_set_in_use(const struct vb_file *file, const struct vb_qcow2_header *header, struct vb_error *error)
{
	uint64_t size_bytes = header->bitmap_directory_size_bytes, offset_bytes = header->bitmap_directory_offset_bytes;
	uint8_t *directory = header->has_bitmaps ? malloc(size_bytes + 1) : NULL;
	int result = 0;

	if (!header->has_bitmaps)
		return 0;
	if (!directory)
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, file->path, -1, "No memory for the image's bitmaps");
	result = vb_pread_exact(file->fd, file->path, directory, size_bytes, offset_bytes, error);
	if (result == 0 && set_flags(directory, size_bytes)) {
		result = vb_pwrite_full(file->fd, file->path, directory, size_bytes, offset_bytes, error);
		if (result == 0)
			result = vb_fdatasync(file->fd, file->path, error);
	}
	free(directory);
	return result;
}
