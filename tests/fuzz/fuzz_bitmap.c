/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty bitmap from bytes. The input: one byte for the granule, one for what the last granule has, two for the number of granules,
 * then the serialized bits.
 * Demanded: what is accepted serializes to the same bytes and counts right, also over an older content and in claims; what is refused
 * changes nothing.
 */
#include <string.h>

#include "bitmap.h"
#include "oracle.h"

#define CONTROL_BYTES 4u
#define CELLS 7u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t dirty_bytes(const struct vb_bitmap *bitmap, uint64_t size_bytes)
{
	uint64_t granule_bytes = vb_bitmap_granule_bytes(bitmap), total = 0;

	for (uint64_t start = 0; start < size_bytes; start += granule_bytes) {
		if (vb_bitmap_get(bitmap, start))
			total += granule_bytes < size_bytes - start ? granule_bytes : size_bytes - start;
	}
	return total;
}

static void require_bits(const struct vb_bitmap *bitmap, const uint8_t *bits)
{
	size_t length = vb_bitmap_serialized_bytes(bitmap);
	uint8_t *again = malloc(length + 1);

	REQUIRE(again != NULL);
	vb_bitmap_serialize(bitmap, again);
	REQUIRE(length == 0 || memcmp(again, bits, length) == 0);
	free(again);
}

/* Claims all there is; what is in flight still counts as dirty in the serialized bits. */
static void claim_all(struct vb_bitmap *bitmap, uint64_t size_bytes, uint64_t dirty)
{
	uint64_t granule_bytes = vb_bitmap_granule_bytes(bitmap), cursor = size_bytes / 2, claimed = 0;
	uint64_t start, length;

	while (vb_bitmap_claim(bitmap, &cursor, 3 * granule_bytes, 4 * granule_bytes, &start, &length)) {
		REQUIRE(length > 0 && length <= 3 * granule_bytes && start + length <= size_bytes);
		REQUIRE(start / (4 * granule_bytes) == (start + length - 1) / (4 * granule_bytes));
		REQUIRE(vb_bitmap_remaining_bytes(bitmap) == dirty);
		claimed += length;
	}
	REQUIRE(claimed == dirty && vb_bitmap_dirty_bytes(bitmap) == 0 && vb_bitmap_in_flight_bytes(bitmap) == dirty);
}

static void require_picture(const struct vb_bitmap *bitmap)
{
	struct vb_bitmap_cell cells[CELLS];

	vb_bitmap_picture(bitmap, cells, CELLS);
	for (size_t index = 0; index < CELLS; index++)
		REQUIRE(cells[index].dirty_count <= cells[index].granule_count && cells[index].in_flight_count == 0);
}

static void take(struct vb_bitmap *bitmap, uint64_t size_bytes, const uint8_t *bits, size_t length)
{
	struct vb_error error = { 0 };
	uint64_t dirty;

	vb_bitmap_set(bitmap, size_bytes / 3, size_bytes / 2);
	dirty = vb_bitmap_dirty_bytes(bitmap);
	if (vb_bitmap_deserialize(bitmap, bits, length, &error) < 0) {
		require_refusal(&error);
		REQUIRE(vb_bitmap_dirty_bytes(bitmap) == dirty);
		return;
	}
	REQUIRE(length == vb_bitmap_serialized_bytes(bitmap));
	dirty = dirty_bytes(bitmap, size_bytes);
	REQUIRE(vb_bitmap_dirty_bytes(bitmap) == dirty);
	require_bits(bitmap, bits);
	require_picture(bitmap);
	claim_all(bitmap, size_bytes, dirty);
	require_bits(bitmap, bits);
	vb_bitmap_release(bitmap, 0, size_bytes, true);
	REQUIRE(vb_bitmap_remaining_bytes(bitmap) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vb_error error = { 0 };
	struct vb_bitmap *bitmap;
	uint64_t granule_bytes, size_bytes;
	uint8_t *bits;

	if (size < CONTROL_BYTES)
		return 0;
	granule_bytes = (uint64_t)VB_GRANULE_MIN_BYTES << data[0] % 15;
	size_bytes = (data[2] | (uint64_t)data[3] << 8) * granule_bytes;
	size_bytes -= data[1] < size_bytes ? data[1] : 0;
	bitmap = vb_bitmap_new(size_bytes, (uint32_t)granule_bytes, &error);
	REQUIRE(bitmap != NULL);
	/* In a block of its own, so that a byte read beyond the end is seen. */
	bits = malloc(size - CONTROL_BYTES + (size == CONTROL_BYTES));
	REQUIRE(bits != NULL);
	memcpy(bits, data + CONTROL_BYTES, size - CONTROL_BYTES);
	take(bitmap, size_bytes, bits, size - CONTROL_BYTES);
	free(bits);
	vb_bitmap_free(bitmap);
	return 0;
}
