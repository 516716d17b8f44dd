/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing what a qcow2 image records as its backing file. Owns: see qcow2_backing.h.
 *
 * How: the new extensions and the new name are laid out where the present ones need nothing but the first sector to change places:
 * what lies behind that sector is put into room that is not in use, made durable, and then the first sector, which holds the name's
 * place and the beginning of the extensions, switches to them. Where the extensions behind the first sector would have to move, they
 * are first copied to unused room, and the first sector switches to an extension that nobody knows and that covers the old ones; a
 * second round puts them back and the cover away.
 */
#include "qcow2_backing.h"

#include <stdlib.h>
#include <string.h>

#include "qcow2.h"
#include "sys.h"

#define SECTOR_BYTES 512u
#define EXTENSION_HEAD_BYTES 8u
#define EXTENSION_COVER 0x56426378u   /* "VBcx": covers extensions that have moved; it is not there when the change is complete */

/* The header's cluster as it is, and what of it is in use. */
struct head {
	const struct vb_file *file;
	struct vb_qcow2_header header;
	uint8_t *bytes;             /* one cluster */
	uint8_t *used;              /* one per byte */
	uint32_t cover_bytes;       /* length of the covered extensions; 0: none are */
	uint32_t used_end_bytes;
};

/* The header's cluster as it shall be. */
struct draft {
	uint8_t *bytes;
	uint8_t *used;
	uint8_t *extensions;        /* without a place yet; with their end mark */
	uint32_t extensions_bytes;
	size_t name_bytes;
};

static uint32_t aligned(uint32_t offset_bytes)
{
	return (offset_bytes + 7) & ~7u;
}

static uint32_t cluster_bytes(const struct head *head)
{
	return head->header.cluster_size_bytes;
}

static void use(uint8_t *used, uint32_t start_bytes, size_t length)
{
	memset(used + start_bytes, 1, length);
}

/* The extension at *at, which moves behind it; NULL at the end of all. The header was parsed, so lengths are within the cluster. */
static const uint8_t *next_extension(const struct head *head, uint32_t *at_bytes, uint32_t *type, uint32_t *length)
{
	uint64_t name_bytes = head->header.backing_offset_bytes;
	uint32_t end_bytes = name_bytes ? (uint32_t)name_bytes : cluster_bytes(head), start_bytes = *at_bytes;

	if (start_bytes + EXTENSION_HEAD_BYTES > end_bytes)
		return NULL;
	*type = vb_load_be32(head->bytes + start_bytes);
	*length = vb_load_be32(head->bytes + start_bytes + 4);
	*at_bytes = start_bytes + EXTENSION_HEAD_BYTES + (*type == VB_QCOW2_EXTENSION_END ? 0 : aligned(*length));
	return *type == VB_QCOW2_EXTENSION_END ? NULL : head->bytes + start_bytes;
}

static void find_used(struct head *head)
{
	uint32_t at_bytes = head->header.header_length_bytes, start_bytes = at_bytes, type = 0, length = 0;
	const uint8_t *extension;

	use(head->used, 0, at_bytes);
	while ((extension = next_extension(head, &at_bytes, &type, &length)) != NULL) {
		if (type == EXTENSION_COVER)
			head->cover_bytes = length;
		use(head->used, start_bytes, EXTENSION_HEAD_BYTES + (type == EXTENSION_COVER ? 0 : length));
		start_bytes = at_bytes;
	}
	if (at_bytes > start_bytes)
		use(head->used, start_bytes, EXTENSION_HEAD_BYTES);
	if (head->header.backing_offset_bytes)
		use(head->used, (uint32_t)head->header.backing_offset_bytes, strlen(head->header.backing_name));
	head->used_end_bytes = cluster_bytes(head);
	while (!head->used[head->used_end_bytes - 1])
		head->used_end_bytes--;
}

static void head_free(struct head *head)
{
	free(head->bytes);
	free(head->used);
}

static int no_memory(const struct vb_file *file, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the image's header");
}

static int head_read(struct head *head, const struct vb_file *file, struct vb_error *error)
{
	*head = (struct head){.file = file};
	if (vb_qcow2_header_read(file, &head->header, error))
		return -1;
	if (head->header.incompatible_features & VB_QCOW2_INCOMPATIBLE_CORRUPT)
		return vb_fail(error, VB_ERROR_FORMAT, 0, file->path, -1, "The image is marked corrupt and must be repaired before it is written");
	head->bytes = calloc(1, cluster_bytes(head));
	head->used = calloc(1, cluster_bytes(head));
	if (!head->bytes || !head->used) {
		head_free(head);
		return no_memory(file, error);
	}
	if (vb_pread_full(file->fd, file->path, head->bytes, cluster_bytes(head), 0, error)) {
		head_free(head);
		return -1;
	}
	find_used(head);
	return 0;
}

static void draft_free(struct draft *draft)
{
	free(draft->bytes);
	free(draft->used);
	free(draft->extensions);
}

static void add_extension(struct draft *draft, uint32_t type, const void *data, uint32_t length)
{
	uint8_t *at = draft->extensions + draft->extensions_bytes;

	vb_store_be32(at, type);
	vb_store_be32(at + 4, length);
	if (length)
		memcpy(at + EXTENSION_HEAD_BYTES, data, length);
	draft->extensions_bytes += EXTENSION_HEAD_BYTES + aligned(length);
}

/* All extensions in their order; the format where the old one was, else first. */
static void collect_extensions(const struct head *head, struct draft *draft, const char *format)
{
	uint32_t at_bytes = head->header.header_length_bytes, type = 0, length = 0;
	const uint8_t *extension;
	bool has_format = head->header.backing_format[0] != '\0';

	if (format && !has_format)
		add_extension(draft, VB_QCOW2_EXTENSION_BACKING_FORMAT, format, (uint32_t)strlen(format));
	while ((extension = next_extension(head, &at_bytes, &type, &length)) != NULL) {
		if (type == EXTENSION_COVER)
			continue;
		if (type != VB_QCOW2_EXTENSION_BACKING_FORMAT) {
			add_extension(draft, type, extension + EXTENSION_HEAD_BYTES, length);
		} else if (format && has_format) {
			add_extension(draft, type, format, (uint32_t)strlen(format));
			has_format = false;
		}
	}
	add_extension(draft, VB_QCOW2_EXTENSION_END, NULL, 0);
}

static int draft_new(struct draft *draft, const struct head *head, const struct vb_backing_reference *wanted, struct vb_error *error)
{
	/* The present ones, the last of which may not be padded, a format and the end mark. */
	size_t room = cluster_bytes(head) + VB_QCOW2_BACKING_FORMAT_MAX + 1 + 3 * EXTENSION_HEAD_BYTES;

	*draft = (struct draft){.name_bytes = wanted->path ? strlen(wanted->path) : 0};
	draft->bytes = malloc(cluster_bytes(head));
	draft->used = malloc(cluster_bytes(head));
	draft->extensions = calloc(1, room);
	if (!draft->bytes || !draft->used || !draft->extensions) {
		draft_free(draft);
		return no_memory(head->file, error);
	}
	collect_extensions(head, draft, wanted->format);
	return 0;
}

/* Lays the draft out; false when it does not fit so. `cover_bytes`: length of an extension put before the others, 0 for none. */
static bool lay_out(const struct head *head, struct draft *draft, const struct vb_backing_reference *wanted, uint32_t cover_bytes,
		    uint32_t name_at_bytes)
{
	uint32_t at_bytes = head->header.header_length_bytes, limit_bytes = cluster_bytes(head);

	memcpy(draft->bytes, head->bytes, limit_bytes);
	memset(draft->used, 0, limit_bytes);
	use(draft->used, 0, at_bytes);
	if (cover_bytes) {
		if (at_bytes + EXTENSION_HEAD_BYTES > SECTOR_BYTES || cover_bytes % 8 != 0 || cover_bytes > limit_bytes - at_bytes - EXTENSION_HEAD_BYTES)
			return false;
		vb_store_be32(draft->bytes + at_bytes, EXTENSION_COVER);
		vb_store_be32(draft->bytes + at_bytes + 4, cover_bytes);
		use(draft->used, at_bytes, EXTENSION_HEAD_BYTES);
		at_bytes += EXTENSION_HEAD_BYTES + cover_bytes;
	}
	if (draft->extensions_bytes > limit_bytes - at_bytes)
		return false;
	memcpy(draft->bytes + at_bytes, draft->extensions, draft->extensions_bytes);
	use(draft->used, at_bytes, draft->extensions_bytes);
	if (name_at_bytes == 0)
		name_at_bytes = at_bytes + draft->extensions_bytes;
	if (!wanted->path)
		name_at_bytes = 0;
	else if (name_at_bytes < at_bytes + draft->extensions_bytes || draft->name_bytes > limit_bytes - name_at_bytes)
		return false;
	memcpy(draft->bytes + name_at_bytes, wanted->path ? wanted->path : "", draft->name_bytes);
	use(draft->used, name_at_bytes, draft->name_bytes);
	vb_store_be64(draft->bytes + VB_QCOW2_AT_BACKING_OFFSET, name_at_bytes);
	vb_store_be32(draft->bytes + VB_QCOW2_AT_BACKING_SIZE, (uint32_t)draft->name_bytes);
	return true;
}

/* Whether the first sector alone switches from the present state to the draft: all else that differs is put where nothing is in use. */
static bool is_switchable(const struct head *head, const struct draft *draft)
{
	for (uint32_t at = SECTOR_BYTES; at < cluster_bytes(head); at++)
		if (head->used[at] && draft->bytes[at] != head->bytes[at])
			return false;
	return true;
}

enum way { NO_WAY = 0, DIRECT, COVERED };

/* Behind what is in use and what would be in use without a cover. */
static uint32_t free_start(const struct head *head, const struct draft *draft)
{
	uint32_t start_bytes = head->header.header_length_bytes + draft->extensions_bytes;

	return aligned(start_bytes > head->used_end_bytes ? start_bytes : head->used_end_bytes);
}

static enum way find_way(const struct head *head, struct draft *draft, const struct vb_backing_reference *wanted)
{
	uint32_t free_bytes = free_start(head, draft);
	uint32_t places[] = {0, 0, free_bytes};   /* of the name: right behind the extensions, where it is, behind all */
	bool is_same_name = wanted->path && strcmp(wanted->path, head->header.backing_name) == 0;

	if (is_same_name)
		places[0] = (uint32_t)head->header.backing_offset_bytes;
	for (size_t index = 0; index < sizeof(places) / sizeof(places[0]); index++)
		if (lay_out(head, draft, wanted, 0, places[index]) && is_switchable(head, draft))
			return DIRECT;
	if (lay_out(head, draft, wanted, free_bytes - head->header.header_length_bytes - EXTENSION_HEAD_BYTES, 0) &&
	    is_switchable(head, draft))
		return COVERED;
	return NO_WAY;
}

static bool is_as_wanted(const struct head *head, const struct vb_backing_reference *wanted)
{
	return head->cover_bytes == 0 && strcmp(head->header.backing_name, wanted->path ? wanted->path : "") == 0 &&
	       strcmp(head->header.backing_format, wanted->format ? wanted->format : "") == 0;
}

static int refuse_room(const struct head *head, const struct draft *draft, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_INVALID, 0, head->file->path, -1,
		       "A backing file name of %zu bytes does not fit: with %u bytes of header extensions the header's cluster of %u bytes "
		       "has no room for it beside the old one",
		       draft->name_bytes, draft->extensions_bytes, cluster_bytes(head));
}

static int put(const struct vb_file *file, const uint8_t *bytes, uint32_t start_bytes, uint32_t end_bytes, bool durable,
	       struct vb_error *error)
{
	if (vb_pwrite_full(file->fd, file->path, bytes + start_bytes, end_bytes - start_bytes, start_bytes, error))
		return -1;
	return durable ? vb_fdatasync(file->fd, file->path, error) : 0;
}

/* Features that a program which does not know them has to declare invalid before it changes anything. */
static void clear_unknown_features(const struct head *head, struct draft *draft)
{
	uint64_t known = VB_QCOW2_AUTOCLEAR_BITMAPS | VB_QCOW2_AUTOCLEAR_RAW_EXTERNAL;

	if (head->header.version >= 3)
		vb_store_be64(draft->bytes + VB_QCOW2_AT_AUTOCLEAR, head->header.autoclear_features & known);
}

static uint32_t changed_end(const struct head *head, const struct draft *draft)
{
	uint32_t end_bytes = cluster_bytes(head);

	while (end_bytes > SECTOR_BYTES && draft->bytes[end_bytes - 1] == head->bytes[end_bytes - 1])
		end_bytes--;
	return end_bytes;
}

static void clear_unused(struct draft *draft, uint32_t start_bytes, uint32_t end_bytes)
{
	for (uint32_t at = start_bytes; at < end_bytes; at++)
		if (!draft->used[at])
			draft->bytes[at] = 0;
}

/* New things to unused room, the switch, and then the old things away. */
static int switch_to(const struct head *head, struct draft *draft, bool durable, struct vb_error *error)
{
	const struct vb_file *file = head->file;
	uint32_t end_bytes = changed_end(head, draft);

	if (end_bytes > SECTOR_BYTES && put(file, draft->bytes, SECTOR_BYTES, end_bytes, durable, error))
		return -1;
	clear_unknown_features(head, draft);
	clear_unused(draft, 0, SECTOR_BYTES);
	if (put(file, draft->bytes, 0, SECTOR_BYTES, durable, error))
		return -1;
	clear_unused(draft, SECTOR_BYTES, cluster_bytes(head));
	end_bytes = changed_end(head, draft);
	return end_bytes > SECTOR_BYTES ? put(file, draft->bytes, SECTOR_BYTES, end_bytes, durable, error) : 0;
}

static int change_once(const struct vb_file *file, const struct vb_backing_reference *wanted, bool durable, enum way *way,
		       struct vb_error *error)
{
	struct head head;
	struct draft draft;
	int result = 0;

	*way = NO_WAY;
	if (head_read(&head, file, error))
		return -1;
	if (is_as_wanted(&head, wanted)) {
		head_free(&head);
		return 0;
	}
	if (draft_new(&draft, &head, wanted, error)) {
		head_free(&head);
		return -1;
	}
	*way = find_way(&head, &draft, wanted);
	if (*way == NO_WAY)
		result = refuse_room(&head, &draft, error);
	else if (switch_to(&head, &draft, durable, error))
		result = -1;
	draft_free(&draft);
	head_free(&head);
	return result;
}

int vb_qcow2_backing_change(const struct vb_file *file, const struct vb_backing_reference *wanted, bool durable, struct vb_error *error)
{
	enum way way;

	if (change_once(file, wanted, durable, &way, error))
		return -1;
	return way == COVERED ? change_once(file, wanted, durable, &way, error) : 0;
}

static int check_names(const struct vb_file *file, const struct vb_backing_reference *wanted, struct vb_error *error)
{
	if (!wanted->path)
		return 0;
	if (*wanted->path == '\0' || strlen(wanted->path) > VB_QCOW2_BACKING_NAME_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, file->path, -1,
			       "A backing file name of %zu bytes does not fit: it may have 1 to %u", strlen(wanted->path),
			       VB_QCOW2_BACKING_NAME_MAX);
	return 0;
}

int vb_qcow2_backing_check(const struct vb_file *file, const struct vb_backing_reference *wanted, struct vb_error *error)
{
	struct head head;
	struct draft draft;
	int result;

	if (check_names(file, wanted, error) || head_read(&head, file, error))
		return -1;
	if (draft_new(&draft, &head, wanted, error)) {
		head_free(&head);
		return -1;
	}
	result = is_as_wanted(&head, wanted) || find_way(&head, &draft, wanted) != NO_WAY ? 0 : refuse_room(&head, &draft, error);
	draft_free(&draft);
	head_free(&head);
	return result;
}
