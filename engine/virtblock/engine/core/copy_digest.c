/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The digest of what a copy read.
 *
 * Owns: the copy's sum, and that it changes together with the bits. Invariants: under `release_mutex` the sum covers exactly the granules
 * that are neither dirty nor in flight, so a journal that is written of both goes on rightly. Zeros add nothing, so only what lanes
 * or sharing touched counts. A copy of the top image alone does not see the whole disk and has no digest.
 */
#include <string.h>

#include "copy_state.h"
#include "digest_chain.h"

int vb_copy_open_digest(struct vb_copy *copy, struct vb_error *error)
{
	copy->has_digest = copy->options.digest && copy->options.mode == VB_PLAN_FULL && !copy->is_incremental;
	if (!copy->has_digest || !copy->options.digest_shared || copy->options.reflink == VB_REFLINK_NEVER || copy->destination->share_block_bytes == 0)
		return 0;
	copy->shared = vb_bitmap_new(copy->size_bytes, copy->options.granule_bytes, error);
	return copy->shared ? 0 : -1;
}

void vb_copy_close_digest(struct vb_copy *copy)
{
	vb_bitmap_free(copy->shared);
}

void vb_copy_add_units(struct vb_digest_sum *sum, uint8_t *buffer, const uint8_t *units, uint8_t data, uint32_t unit_bytes,
		       uint64_t start_bytes, uint64_t length_bytes)
{
	uint64_t unit_count = (length_bytes + unit_bytes - 1) / unit_bytes;
	uint64_t first = 0;

	while (first < unit_count) {
		uint64_t end = first + 1;

		while (end < unit_count && (units[end] == data) == (units[first] == data))
			end++;

		uint64_t from = first * unit_bytes;
		uint64_t to = end * unit_bytes < length_bytes ? end * unit_bytes : length_bytes;

		if (units[first] == data && unit_bytes >= VB_DIGEST_BLOCK_BYTES)
			vb_digest_add(sum, buffer + from, to - from, start_bytes + from);
		else if (units[first] != data && unit_bytes < VB_DIGEST_BLOCK_BYTES)
			memset(buffer + from, 0, to - from);
		first = end;
	}
	if (unit_bytes < VB_DIGEST_BLOCK_BYTES)
		vb_digest_add(sum, buffer, length_bytes, start_bytes);
}

void vb_copy_release(struct vb_copy *copy, uint64_t start_bytes, uint64_t length_bytes, bool moved, const struct vb_digest_sum *sum)
{
	pthread_mutex_lock(&copy->release_mutex);
	if (moved)
		vb_digest_merge(&copy->digest_sum, sum);
	vb_bitmap_release(copy->bitmap, start_bytes, length_bytes, moved);
	pthread_mutex_unlock(&copy->release_mutex);
}

int vb_copy_digest_shared(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_digest_sum sum = {0};

	if (!copy->shared || vb_bitmap_dirty_bytes(copy->shared) == 0)
		return 0;
	if (vb_digest_add_plan(&sum, copy->source, copy->plan, copy->shared, &copy->cancelled, &copy->read_bytes, error))
		return -1;
	vb_digest_merge(&copy->digest_sum, &sum);
	return 0;
}

void vb_copy_digest(const struct vb_copy *copy, char text[VB_DIGEST_TEXT_BYTES])
{
	text[0] = '\0';
	if (atomic_load(&copy->phase) == VB_COPY_DONE && copy->has_digest)
		vb_digest_text(&copy->digest_sum, copy->size_bytes, text);
}
