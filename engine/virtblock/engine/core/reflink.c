/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sharing extents with the source's files instead of moving their bytes.
 *
 * Owns: which part of the plan is offered to the file system, and when it is given up. One call shares a whole merged run, before
 * the lanes begin. Invariants: only granules that one DATA extent fills are shared, and lose their dirty bits; whatever was refused
 * keeps them, so that the lanes write all of it. An extent is shared only as far as the layer's file reached when it was opened.
 */
#include <errno.h>

#include "copy_state.h"

#define SHARE_PIECE_BYTES (1ull << 30)   /* how much is shared between two looks at cancel and pause */

struct sharing {
	struct vb_copy *copy;
	bool is_off;                                /* the destination's file system shares nothing */
	bool layer_is_off[VB_CHAIN_DEPTH_MAX];      /* the layer lies on another file system, or its file cannot be shared */
};

int vb_copy_check_reflink(const struct vb_copy *copy, struct vb_error *error)
{
	if (copy->options.reflink != VB_REFLINK_ALWAYS || copy->destination->share_block_bytes != 0)
		return 0;
	return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, copy->destination->spec.path, -1,
		       "Only a new file that is not compressed can share extents with the source, and none whose room is preallocated");
}

/* The part of the extent that fills whole granules and lies inside its layer's file. The disk's last granule counts as whole when the
 * disk ends with a block. */
static bool find_granules(const struct vb_copy *copy, const struct vb_extent *extent, uint64_t *start_bytes, uint64_t *end_bytes)
{
	const struct vb_file *file = vb_layer_data_file(vb_chain_layer(copy->source, extent->layer_index));
	uint64_t granule_mask = vb_bitmap_granule_bytes(copy->bitmap) - 1;
	uint64_t block_mask = copy->destination->share_block_bytes - 1;
	uint64_t length_bytes = file->size_bytes > extent->host_offset_bytes ? file->size_bytes - extent->host_offset_bytes : 0;

	if (extent->kind != VB_EXTENT_DATA)
		return false;
	if (length_bytes > extent->length_bytes)
		length_bytes = extent->length_bytes;
	*start_bytes = (extent->start_bytes + granule_mask) & ~granule_mask;
	*end_bytes = extent->start_bytes + length_bytes;
	if (*end_bytes != copy->plan->size_bytes || (*end_bytes & block_mask) != 0)
		*end_bytes &= ~granule_mask;
	return *start_bytes < *end_bytes;
}

uint64_t vb_copy_promised_bytes(const struct vb_copy *copy)
{
	uint64_t total = 0, start_bytes, end_bytes;

	if (copy->options.reflink != VB_REFLINK_ALWAYS)
		return 0;
	for (size_t index = 0; index < copy->plan->extent_count; index++)
		if (find_granules(copy, &copy->plan->extents[index], &start_bytes, &end_bytes))
			total += end_bytes - start_bytes;
	return total;
}

/* Refused: 0 when the lanes may copy it instead, and what need not be asked again is remembered. */
static int take_refusal(struct sharing *sharing, const struct vb_extent *extent, const struct vb_error *error)
{
	if (error->kind != VB_ERROR_UNSUPPORTED || sharing->copy->options.reflink == VB_REFLINK_ALWAYS)
		return -1;
	if (error->system_errno == EXDEV || error->system_errno == EINVAL || error->system_errno == ETXTBSY)
		sharing->layer_is_off[extent->layer_index] = true;
	else if (error->system_errno != 0)
		sharing->is_off = true;
	return 0;
}

/* Bits afterwards: no lane runs yet, and what may be refused must not show as moved. The limit is for bytes that move; pause and
 * cancel are for all. */
static int share_extent(struct sharing *sharing, const struct vb_extent *extent, uint64_t start_bytes, uint64_t end_bytes,
			struct vb_error *error)
{
	struct vb_copy *copy = sharing->copy;
	const struct vb_file *file = vb_layer_data_file(vb_chain_layer(copy->source, extent->layer_index));

	while (start_bytes < end_bytes) {
		uint64_t length_bytes = end_bytes - start_bytes < SHARE_PIECE_BYTES ? end_bytes - start_bytes : SHARE_PIECE_BYTES;

		if (!vb_throttle_pass(copy->throttle, 0))
			return 0;
		if (copy->destination->ops->share(copy->destination, start_bytes, file,
						  extent->host_offset_bytes + (start_bytes - extent->start_bytes), length_bytes, error))
			return take_refusal(sharing, extent, error);
		vb_bitmap_clear(copy->bitmap, start_bytes, length_bytes);
		if (copy->shared)
			vb_bitmap_set(copy->shared, start_bytes, length_bytes);
		else
			copy->has_digest = false;
		atomic_fetch_add_explicit(&copy->shared_bytes, length_bytes, memory_order_relaxed);
		start_bytes += length_bytes;
	}
	return 0;
}

int vb_copy_share(struct vb_copy *copy, struct vb_error *error)
{
	struct sharing sharing = {.copy = copy};
	uint64_t start_bytes, end_bytes;

	/* An earlier run has shared all that could be. */
	if (copy->options.reflink == VB_REFLINK_NEVER || copy->destination->share_block_bytes == 0 || atomic_load(&copy->is_resumed))
		return 0;
	for (size_t index = 0; index < copy->plan->extent_count && !sharing.is_off; index++) {
		const struct vb_extent *extent = &copy->plan->extents[index];

		if (atomic_load_explicit(&copy->stop, memory_order_relaxed))
			return 0;
		if (!sharing.layer_is_off[extent->layer_index] && find_granules(copy, extent, &start_bytes, &end_bytes) &&
		    share_extent(&sharing, extent, start_bytes, end_bytes, error))
			return -1;
	}
	return 0;
}
