/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: see qcow2_bitmaps_header.h. */
#include "qcow2_bitmaps_header.h"

#include <string.h>

#include "qcow2_bitmap_format.h"
#include "sys.h"

#define SECTOR_BYTES 512u
#define HEAD_BYTES 8u   /* type and length of an extension; as zeros the end mark of the list */
#define WHOLE_BYTES (HEAD_BYTES + VB_QCOW2_BITMAPS_EXTENSION_BYTES)
#define KNOWN_AUTOCLEAR (VB_QCOW2_AUTOCLEAR_BITMAPS | VB_QCOW2_AUTOCLEAR_RAW_EXTERNAL)

/* What a step works on. `autoclear` is what the file has now. */
struct change {
	const struct vb_file *file;
	const struct vb_qcow2_header *header;
	uint64_t autoclear;
	struct vb_error *error;
};

static int put(const struct change *change, uint64_t at_bytes, const void *bytes, size_t length)
{
	if (vb_pwrite_full(change->file->fd, change->file->path, bytes, length, at_bytes, change->error))
		return -1;
	return vb_fdatasync(change->file->fd, change->file->path, change->error);
}

/* Features that nobody here knows do not survive a change. */
static int put_autoclear(struct change *change, bool is_valid)
{
	uint64_t wanted = change->autoclear & KNOWN_AUTOCLEAR;
	uint8_t field[8];

	wanted = is_valid ? wanted | VB_QCOW2_AUTOCLEAR_BITMAPS : wanted & ~VB_QCOW2_AUTOCLEAR_BITMAPS;
	if (wanted == change->autoclear)
		return 0;
	vb_store_be64(field, wanted);
	change->autoclear = wanted;
	return put(change, VB_QCOW2_AT_AUTOCLEAR, field, sizeof(field));
}

static void fill_content(uint8_t content[VB_QCOW2_BITMAPS_EXTENSION_BYTES], const struct vb_bitmap_directory *directory)
{
	memset(content, 0, VB_QCOW2_BITMAPS_EXTENSION_BYTES);
	vb_store_be32(content, directory->count);
	vb_store_be64(content + 8, directory->size_bytes);
	vb_store_be64(content + 16, directory->offset_bytes);
}

/* Behind the present name and the room that the extension needs; 0: there is none such. */
static uint64_t find_place_for_name(const struct vb_qcow2_header *header)
{
	uint64_t length = strlen(header->backing_name);
	uint64_t place = header->extensions_end_bytes + WHOLE_BYTES + HEAD_BYTES;

	if (place < header->backing_offset_bytes + length)
		place = header->backing_offset_bytes + length;
	place = (place + 7) & ~7ull;
	return place + length <= header->cluster_size_bytes ? place : 0;
}

static bool has_room(const struct vb_qcow2_header *header)
{
	return header->extensions_end_bytes + WHOLE_BYTES + HEAD_BYTES <= header->extensions_limit_bytes;
}

int vb_qcow2_check_bitmaps_room(const struct vb_file *file, const struct vb_qcow2_header *header, struct vb_error *error)
{
	if (header->version < 3)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, file->path, -1,
			       "A version 2 image cannot hold bitmaps (`qemu-img amend -o compat=1.1` makes it version 3)");
	if (header->header_length_bytes % 8 != 0)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, file->path, VB_QCOW2_AT_HEADER_LENGTH,
			       "The image's header of %u bytes has no whole words, so its extensions cannot be changed safely",
			       header->header_length_bytes);
	if (header->bitmaps_extension_bytes != 0 || has_room(header) ||
	    (header->backing_offset_bytes != 0 && find_place_for_name(header) != 0))
		return 0;
	return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, file->path, (int64_t)header->extensions_end_bytes,
		       "The image's header has no room for bitmaps: it needs %u bytes behind its extensions, %llu are free",
		       WHOLE_BYTES + HEAD_BYTES,
		       (unsigned long long)(header->extensions_limit_bytes > header->extensions_end_bytes
						    ? header->extensions_limit_bytes - header->extensions_end_bytes
						    : 0));
}

/* The name of the backing file stands right behind the extensions: it moves on. */
static int move_name(struct change *change)
{
	const struct vb_qcow2_header *header = change->header;
	uint64_t place = find_place_for_name(header);
	uint8_t field[8];

	if (put(change, place, header->backing_name, strlen(header->backing_name)))
		return -1;
	vb_store_be64(field, place);
	return put(change, VB_QCOW2_AT_BACKING_OFFSET, field, sizeof(field));
}

/* The content first, while the list still ends before it. */
static int insert(struct change *change, const struct vb_bitmap_directory *directory)
{
	uint64_t at_bytes = change->header->extensions_end_bytes;
	uint8_t content[VB_QCOW2_BITMAPS_EXTENSION_BYTES + HEAD_BYTES] = {0};
	uint8_t head[HEAD_BYTES];

	if (!has_room(change->header) && move_name(change))
		return -1;
	fill_content(content, directory);
	vb_store_be32(head, VB_QCOW2_EXTENSION_BITMAPS);
	vb_store_be32(head + 4, VB_QCOW2_BITMAPS_EXTENSION_BYTES);
	return put_autoclear(change, false) || put(change, at_bytes + HEAD_BYTES, content, sizeof(content)) ||
			       put(change, at_bytes, head, sizeof(head)) || put_autoclear(change, directory->is_valid)
		       ? -1
		       : 0;
}

static int replace(struct change *change, const struct vb_bitmap_directory *directory)
{
	uint64_t at_bytes = change->header->bitmaps_extension_bytes;
	uint64_t last_bytes = at_bytes + VB_QCOW2_BITMAPS_EXTENSION_BYTES - 1;
	bool is_atomic = change->header->has_bitmaps && directory->is_valid && at_bytes / SECTOR_BYTES == last_bytes / SECTOR_BYTES;
	uint8_t content[VB_QCOW2_BITMAPS_EXTENSION_BYTES];

	fill_content(content, directory);
	return put_autoclear(change, is_atomic) || put(change, at_bytes, content, sizeof(content)) ||
			       put_autoclear(change, directory->is_valid)
		       ? -1
		       : 0;
}

/* As the last of the list the extension goes; before others it stays, empty and not valid, and whoever writes the header next leaves it
 * out. */
static int drop_extension(struct change *change)
{
	const struct vb_bitmap_directory none = {0};
	uint64_t at_bytes = change->header->bitmaps_extension_bytes;
	static const uint8_t end_mark[HEAD_BYTES];

	if (at_bytes == 0)
		return 0;
	if (put_autoclear(change, false))
		return -1;
	if (at_bytes + VB_QCOW2_BITMAPS_EXTENSION_BYTES == change->header->extensions_end_bytes)
		return put(change, at_bytes - HEAD_BYTES, end_mark, sizeof(end_mark));
	return replace(change, &none);
}

int vb_qcow2_switch_bitmaps(const struct vb_file *file, const struct vb_qcow2_header *header, const struct vb_bitmap_directory *directory,
			    struct vb_error *error)
{
	struct change change = {.file = file, .header = header, .autoclear = header->autoclear_features, .error = error};

	if (directory->count == 0)
		return drop_extension(&change);
	return header->bitmaps_extension_bytes == 0 ? insert(&change, directory) : replace(&change, directory);
}
