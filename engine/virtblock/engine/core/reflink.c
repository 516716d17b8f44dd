/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sharing extents with the source's files instead of moving their bytes.
 *
 * Owns: which part of the plan is offered to the file system, in which calls and what order, and when it is given up. It is done before
 * the lanes begin. Where the destination lies in source order, one call shares all extents that lie together in a file. Invariants: only granules that one DATA extent fills are shared, and lose their dirty bits; whatever was refused
 * keeps them, so that the lanes write all of it. An extent is shared only as far as the layer's file reached when it was opened.
 */
#include <errno.h>
#include <stdlib.h>

#include "copy_state.h"

#define SHARE_PIECE_BYTES (1ull << 30)   /* how much is shared between two looks at cancel and pause */
#define PIECE_COUNT_MAX 512u

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

/* Extents that are shared by one call. */
struct group {
	const struct vb_extent *first;
	uint64_t length_bytes;
	struct vb_share share;
	struct vb_share_piece pieces[PIECE_COUNT_MAX];
};

static void note_shared(struct vb_copy *copy, const struct vb_share_piece *piece)
{
	vb_bitmap_clear(copy->bitmap, piece->start_bytes, piece->length_bytes);
	if (copy->shared)
		vb_bitmap_set(copy->shared, piece->start_bytes, piece->length_bytes);
	else
		copy->has_digest = false;
	atomic_fetch_add_explicit(&copy->shared_bytes, piece->length_bytes, memory_order_relaxed);
}

/* Bits afterwards: no lane runs yet, and what may be refused must not show as moved. The limit is for bytes that move; pause and
 * cancel are for all. */
static int share_group(struct sharing *sharing, struct group *group, struct vb_error *error)
{
	struct vb_copy *copy = sharing->copy;
	size_t count = group->share.piece_count;

	group->share.piece_count = 0;
	if (count == 0 || sharing->is_off || sharing->layer_is_off[group->first->layer_index] || !vb_throttle_pass(copy->throttle, 0))
		return 0;
	group->share.pieces = group->pieces;
	group->share.piece_count = count;

	int result = copy->destination->ops->share(copy->destination, &group->share, error);

	group->share.piece_count = 0;
	if (result)
		return take_refusal(sharing, group->first, error);
	for (size_t index = 0; index < count; index++)
		note_shared(copy, &group->pieces[index]);
	return 0;
}

/* Whether the range of the extent lies in its file where the group ends, so that one call may share it too. Behind a unit that the disk's
 * end cuts short, the next one begins further on in the destination. */
static bool continues(const struct sharing *sharing, const struct group *group, const struct vb_extent *extent,
		      uint64_t source_offset_bytes, uint64_t length_bytes)
{
	return group->share.piece_count > 0 && group->share.piece_count < PIECE_COUNT_MAX &&
	       sharing->copy->destination->is_in_source_order && extent->layer_index == group->first->layer_index &&
	       source_offset_bytes == group->share.source_offset_bytes + group->length_bytes &&
	       (group->length_bytes & (sharing->copy->destination->unit_bytes - 1)) == 0 &&
	       group->length_bytes + length_bytes <= SHARE_PIECE_BYTES;
}

static int add_range(struct sharing *sharing, struct group *group, const struct vb_extent *extent, uint64_t start_bytes,
		     uint64_t length_bytes, struct vb_error *error)
{
	uint64_t source_offset_bytes = extent->host_offset_bytes + (start_bytes - extent->start_bytes);

	if (!continues(sharing, group, extent, source_offset_bytes, length_bytes)) {
		if (share_group(sharing, group, error))
			return -1;
		group->first = extent;
		group->length_bytes = 0;
		group->share.source = vb_layer_data_file(vb_chain_layer(sharing->copy->source, extent->layer_index));
		group->share.source_offset_bytes = source_offset_bytes;
	}
	group->pieces[group->share.piece_count++] = (struct vb_share_piece){start_bytes, length_bytes};
	group->length_bytes += length_bytes;
	return 0;
}

static int add_extent(struct sharing *sharing, struct group *group, const struct vb_extent *extent, struct vb_error *error)
{
	uint64_t start_bytes, end_bytes;

	if (sharing->layer_is_off[extent->layer_index] || !find_granules(sharing->copy, extent, &start_bytes, &end_bytes))
		return 0;
	while (start_bytes < end_bytes) {
		uint64_t length_bytes = end_bytes - start_bytes < SHARE_PIECE_BYTES ? end_bytes - start_bytes : SHARE_PIECE_BYTES;

		if (add_range(sharing, group, extent, start_bytes, length_bytes, error))
			return -1;
		start_bytes += length_bytes;
	}
	return 0;
}

/* In the order in which the destination has them: only so do neighbours meet. `order` is NULL for the guest's. */
static int share_all(struct vb_copy *copy, const size_t *order, size_t count, struct vb_error *error)
{
	struct sharing sharing = {.copy = copy};
	struct group group = {0};

	for (size_t index = 0; index < count && !sharing.is_off; index++) {
		if (atomic_load_explicit(&copy->stop, memory_order_relaxed))
			return 0;
		if (add_extent(&sharing, &group, &copy->plan->extents[order ? order[index] : index], error))
			return -1;
	}
	return share_group(&sharing, &group, error);
}

int vb_copy_share(struct vb_copy *copy, struct vb_error *error)
{
	size_t *order = NULL, count = copy->plan->extent_count;

	/* An earlier run has shared all that could be. */
	if (copy->options.reflink == VB_REFLINK_NEVER || copy->destination->share_block_bytes == 0 || atomic_load(&copy->is_resumed))
		return 0;
	if (copy->destination->is_in_source_order && !(order = vb_plan_by_source(copy->plan, &count)))
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "No memory for the order of %zu extents", copy->plan->extent_count);

	int result = share_all(copy, order, count, error);

	free(order);
	return result;
}

void vb_copy_choose_order(struct vb_copy *copy)
{
	struct vb_writer *destination = copy->destination;

	destination->spec.in_source_order = false;
	if (copy->options.reflink == VB_REFLINK_NEVER || !destination->is_share_likely || destination->spec.compression != VB_COMPRESS_NONE)
		return;
	for (size_t index = 0; index < vb_chain_depth(copy->source); index++)
		if (vb_layer_data_file(vb_chain_layer(copy->source, index))->device == destination->file.device)
			destination->spec.in_source_order = true;
}
