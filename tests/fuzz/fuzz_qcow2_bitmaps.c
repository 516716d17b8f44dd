/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Persistent bitmaps: reading and changing them. The input: eight bytes, of which the first chooses a change, then a qcow2 file.
 * Demanded: what is listed keeps the limits; after a change, done or refused, the disk reads as before; one that was done is seen in the list,
 * and leaves an image in which another can be made.
 */
#include <string.h>

#include "memory_files.h"
#include "oracle.h"
#include "qcow2.h"
#include "qcow2_bitmaps.h"

#define CONTROL_BYTES 8u
#define CONTENT_BYTES_MAX (256u * 1024)
#define NEW_NAME "fuzz"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const size_t mutate_skip_bytes;
const size_t mutate_skip_bytes = CONTROL_BYTES;

static struct vb_policy *policy;

struct content {
	bool opens;
	uint64_t size_bytes;
	uint64_t filled_bytes;
	struct vb_reader *reader;
	uint8_t bytes[CONTENT_BYTES_MAX];
};

static int add_extent(void *opaque, const struct vb_extent *extent, struct vb_error *error)
{
	struct content *content = opaque;
	uint64_t length = extent->length_bytes;

	if (length > CONTENT_BYTES_MAX - content->filled_bytes)
		length = CONTENT_BYTES_MAX - content->filled_bytes;
	if (extent->kind == VB_EXTENT_DATA || extent->kind == VB_EXTENT_COMPRESSED) {
		if (vb_reader_read(content->reader, extent, 0, content->bytes + content->filled_bytes, length, error))
			return -1;
	} else {
		memset(content->bytes + content->filled_bytes, extent->kind, length);
	}
	content->filled_bytes += length;
	return 0;
}

static void read_content(struct content *content)
{
	struct vb_error error = { 0 };
	struct vb_chain *chain = memory_files_chain(true, &error);

	memset(content, 0, sizeof(*content));
	if (chain == NULL)
		return;
	content->reader = vb_reader_new(chain, &error);
	REQUIRE(content->reader != NULL);
	content->size_bytes = vb_chain_size_bytes(chain);
	content->opens = vb_layer_map(vb_chain_layer(chain, 0), 0,
				      content->size_bytes < CONTENT_BYTES_MAX ? content->size_bytes : CONTENT_BYTES_MAX, add_extent, content,
				      &error) == 0;
	vb_reader_free(content->reader);
	content->reader = NULL;
	vb_chain_close(chain);
}

static bool list(struct vb_persistent_bitmaps *bitmaps)
{
	struct vb_error error = { 0 };

	if (vb_image_list_bitmaps(policy, MEMORY_IMAGE_PATH, bitmaps, &error) < 0) {
		require_refusal(&error);
		return false;
	}
	for (size_t index = 0; index < bitmaps->count; index++) {
		const struct vb_persistent_bitmap *bitmap = &bitmaps->items[index];

		REQUIRE(bitmap->name[0] != '\0' && strlen(bitmap->name) <= VB_BITMAP_NAME_MAX);
		REQUIRE(bitmap->granularity_bytes >= VB_BITMAP_GRANULARITY_MIN_BYTES && bitmap->state != 0);
	}
	return true;
}

static const struct vb_persistent_bitmap *find(const struct vb_persistent_bitmaps *bitmaps, const char *name)
{
	struct vb_error error = { 0 };

	return vb_persistent_bitmaps_find(bitmaps, name, MEMORY_IMAGE_PATH, &error);
}

static int change(uint8_t which, const char *name, struct vb_error *error)
{
	struct vb_new_bitmap wanted = { .name = NEW_NAME, .granularity_bytes = 512, .is_enabled = true };

	switch (which % 3) {
	case 0:
		return vb_image_add_bitmap(policy, MEMORY_IMAGE_PATH, &wanted, error);
	case 1:
		return vb_image_remove_bitmap(policy, MEMORY_IMAGE_PATH, name, error);
	default:
		return vb_image_clear_bitmap(policy, MEMORY_IMAGE_PATH, name, error);
	}
}

static void require_change(uint8_t which, const char *name)
{
	struct vb_persistent_bitmaps bitmaps;
	const struct vb_persistent_bitmap *found;

	REQUIRE(list(&bitmaps));
	found = find(&bitmaps, which % 3 == 0 ? NEW_NAME : name);
	if (which % 3 == 1)
		REQUIRE(found == NULL);
	else
		REQUIRE(found != NULL && found->state == VB_BITMAP_USABLE && found->dirty_bytes == 0);
	vb_persistent_bitmaps_free(&bitmaps);
}

static void try_change(uint8_t which, const char *name)
{
	static struct content before, after;
	struct vb_error error = { 0 };

	read_content(&before);
	if (change(which, name, &error) < 0)
		require_refusal(&error);
	else
		require_change(which, name);
	read_content(&after);
	if (before.opens)
		REQUIRE(after.opens && before.size_bytes == after.size_bytes && before.filled_bytes == after.filled_bytes &&
			memcmp(before.bytes, after.bytes, before.filled_bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vb_persistent_bitmaps bitmaps;
	struct vb_error error = { 0 };
	char name[VB_BITMAP_NAME_MAX + 1] = "none";

	if (size < CONTROL_BYTES + VB_QCOW2_HEADER_BYTES_V2)
		return 0;
	memory_files_start(data + CONTROL_BYTES, size - CONTROL_BYTES);
	policy = vb_policy_new(NULL, 0, &error);
	if (list(&bitmaps)) {
		if (bitmaps.count > 0)
			strcpy(name, bitmaps.items[data[1] % bitmaps.count].name);
		vb_persistent_bitmaps_free(&bitmaps);
		for (unsigned index = 0; index < 3; index++)
			try_change((uint8_t)(data[0] >> 2 * index), name);
	}
	vb_policy_free(policy);
	memory_files_end();
	return 0;
}
