/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: how far ahead, and in what steps: a step is worth a system call for each of its extents, and the window fills a disk's queue. */
#include "read_ahead.h"

#include "layer.h"
#include "sys.h"

#define WINDOW_BYTES (8ull * 1024 * 1024)
#define STEP_BYTES (1024ull * 1024)

/* The part of an extent in [from, to), as it lies in its file. A compressed cluster is read whole. */
static void tell(const struct vb_chain *chain, const struct vb_extent *extent, uint64_t from_bytes, uint64_t to_bytes)
{
	const struct vb_file *file = vb_layer_data_file(vb_chain_layer(chain, extent->layer_index));
	uint64_t offset_bytes = extent->host_offset_bytes, length_bytes = extent->host_length_bytes;

	if (extent->kind == VB_EXTENT_DATA) {
		offset_bytes += from_bytes - extent->start_bytes;
		length_bytes = to_bytes - from_bytes;
	}
	vb_sys->fadvise(file->fd, (off_t)offset_bytes, (off_t)length_bytes, POSIX_FADV_WILLNEED);
}

/* Goes on along the plan until so much more data is told, or all. */
static void tell_next(struct vb_read_ahead *state, const struct vb_chain *chain, const struct vb_plan *plan, const struct vb_bitmap *dirty,
		      uint64_t wanted_bytes)
{
	uint64_t told_bytes = 0;

	for (size_t index = vb_plan_find(plan, state->offset_bytes); index < plan->extent_count && told_bytes < wanted_bytes; index++) {
		const struct vb_extent *extent = &plan->extents[index];
		uint64_t from_bytes = extent->start_bytes > state->offset_bytes ? extent->start_bytes : state->offset_bytes;
		uint64_t to_bytes = extent->start_bytes + extent->length_bytes;

		if (to_bytes - from_bytes > wanted_bytes - told_bytes)
			to_bytes = from_bytes + (wanted_bytes - told_bytes);
		state->offset_bytes = to_bytes;
		if (!vb_extent_is_data(extent) || !vb_bitmap_any(dirty, from_bytes, to_bytes - from_bytes))
			continue;
		tell(chain, extent, from_bytes, to_bytes);
		told_bytes += to_bytes - from_bytes;
	}
	atomic_fetch_add_explicit(&state->told_bytes, told_bytes, memory_order_relaxed);
}

void vb_read_ahead(struct vb_read_ahead *state, const struct vb_chain *chain, const struct vb_plan *plan, const struct vb_bitmap *dirty,
		   uint64_t chunk_end_bytes, uint64_t data_bytes)
{
	uint64_t begun_bytes = atomic_fetch_add_explicit(&state->begun_bytes, data_bytes, memory_order_relaxed) + data_bytes;
	uint64_t told_bytes = atomic_load_explicit(&state->told_bytes, memory_order_relaxed);

	if (told_bytes + STEP_BYTES > begun_bytes + WINDOW_BYTES || atomic_exchange_explicit(&state->is_taken, true, memory_order_acquire))
		return;
	/* What was begun before anybody told of it needs no telling. */
	if (told_bytes < begun_bytes)
		atomic_store_explicit(&state->told_bytes, begun_bytes, memory_order_relaxed);
	if (state->offset_bytes < chunk_end_bytes)
		state->offset_bytes = chunk_end_bytes;
	told_bytes = atomic_load_explicit(&state->told_bytes, memory_order_relaxed);
	if (told_bytes < begun_bytes + WINDOW_BYTES)
		tell_next(state, chain, plan, dirty, begun_bytes + WINDOW_BYTES - told_bytes);
	atomic_store_explicit(&state->is_taken, false, memory_order_release);
}
