/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: comparing what two chains read as. Ranges that both plans know as zeros are never read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "copy.h"

/* One side: where its walk is, and a chunk of what it reads as. */
struct side {
	struct vb_plan *plan;
	struct vb_reader *reader;
	uint8_t *buffer;
	size_t index;   /* first extent that ends behind the walk */
};

static int side_open(struct side *side, const struct vb_chain *chain, const bool *cancelled, struct vb_error *error)
{
	side->plan = vb_plan_make(chain, VB_PLAN_FULL, 0, cancelled, error);
	if (side->plan == NULL)
		return -1;
	side->reader = vb_reader_new(chain, error);
	if (side->reader == NULL)
		return -1;
	side->buffer = malloc(VB_CHUNK_BYTES);
	if (side->buffer == NULL)
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "Out of memory for a chunk");
	return 0;
}

static void side_close(struct side *side)
{
	vb_plan_free(side->plan);
	vb_reader_free(side->reader);
	free(side->buffer);
}

/* The extent at `offset`, or NULL in a gap; *end_bytes is where that changes. */
static const struct vb_extent *side_at(struct side *side, uint64_t offset_bytes, uint64_t *end_bytes)
{
	const struct vb_plan *plan = side->plan;
	const struct vb_extent *extent;

	while (side->index < plan->extent_count &&
	       plan->extents[side->index].start_bytes + plan->extents[side->index].length_bytes <= offset_bytes)
		side->index++;
	if (side->index == plan->extent_count) {
		*end_bytes = UINT64_MAX;
		return NULL;
	}
	extent = &plan->extents[side->index];
	if (extent->start_bytes > offset_bytes) {
		*end_bytes = extent->start_bytes;
		return NULL;
	}
	*end_bytes = extent->start_bytes + extent->length_bytes;
	return extent;
}

static int side_fill(struct side *side, const struct vb_extent *extent, uint64_t offset_bytes, size_t length, struct vb_error *error)
{
	if (extent != NULL)
		return vb_reader_read(side->reader, extent, offset_bytes - extent->start_bytes, side->buffer, length, error);
	memset(side->buffer, 0, length);
	return 0;
}

static size_t first_difference(const uint8_t *left, const uint8_t *right, size_t length)
{
	size_t i = 0;

	while (i < length && left[i] == right[i])
		i++;
	return i;
}

/* As vb_compare, from *offset_bytes on. */
static int walk(struct side sides[2], uint64_t size_bytes, uint64_t *offset_bytes, const bool *cancelled, struct vb_error *error)
{
	while (*offset_bytes < size_bytes) {
		uint64_t left_end_bytes, right_end_bytes, end_bytes = size_bytes;
		const struct vb_extent *left = side_at(&sides[0], *offset_bytes, &left_end_bytes);
		const struct vb_extent *right = side_at(&sides[1], *offset_bytes, &right_end_bytes);
		size_t length;

		if (cancelled != NULL && __atomic_load_n(cancelled, __ATOMIC_RELAXED))
			return vb_fail(error, VB_ERROR_CANCELLED, ECANCELED, NULL, -1, "Cancelled while comparing");
		end_bytes = left_end_bytes < end_bytes ? left_end_bytes : end_bytes;
		end_bytes = right_end_bytes < end_bytes ? right_end_bytes : end_bytes;
		if (left == NULL && right == NULL) {
			*offset_bytes = end_bytes;
			continue;
		}
		length = end_bytes - *offset_bytes < VB_CHUNK_BYTES ? (size_t)(end_bytes - *offset_bytes) : VB_CHUNK_BYTES;
		if (side_fill(&sides[0], left, *offset_bytes, length, error) < 0 ||
		    side_fill(&sides[1], right, *offset_bytes, length, error) < 0)
			return -1;
		if (memcmp(sides[0].buffer, sides[1].buffer, length) != 0) {
			*offset_bytes += first_difference(sides[0].buffer, sides[1].buffer, length);
			return 0;
		}
		*offset_bytes += length;
	}
	return 1;
}

int vb_compare(const struct vb_chain *left, const struct vb_chain *right, bool pad, uint64_t *offset_bytes,
	       const bool *cancelled, struct vb_error *error)
{
	uint64_t left_bytes = vb_chain_size_bytes(left), right_bytes = vb_chain_size_bytes(right);
	struct side sides[2] = { { 0 }, { 0 } };
	int result = -1;

	*offset_bytes = 0;
	if (left_bytes != right_bytes && !pad)
		return vb_fail(error, VB_ERROR_SIZE, 0, NULL, -1, "The images have different sizes: %llu and %llu bytes",
			       (unsigned long long)left_bytes, (unsigned long long)right_bytes);
	if (side_open(&sides[0], left, cancelled, error) == 0 && side_open(&sides[1], right, cancelled, error) == 0)
		result = walk(sides, left_bytes > right_bytes ? left_bytes : right_bytes, offset_bytes, cancelled, error);
	side_close(&sides[0]);
	side_close(&sides[1]);
	return result;
}
