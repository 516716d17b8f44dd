/* SPDX-License-Identifier: Apache-2.0 */
/* Showing a copy: counts and a picture. Owns nothing: reads the counters, the bitmap and the plan of a copy that may be running. */
#include <stdlib.h>
#include <string.h>

#include "copy_state.h"

void vb_copy_progress(const struct vb_copy *copy, struct vb_copy_progress *progress)
{
	uint64_t started_ns = atomic_load(&copy->started_ns);
	uint64_t ended_ns = atomic_load(&copy->ended_ns);

	memset(progress, 0, sizeof(*progress));
	progress->phase = (enum vb_copy_phase)atomic_load(&copy->phase);
	progress->paused = vb_throttle_is_paused(copy->throttle);
	progress->size_bytes = copy->size_bytes;
	progress->read_bytes = atomic_load_explicit(&copy->read_bytes, memory_order_relaxed);
	progress->written_bytes = atomic_load_explicit(&copy->written_bytes, memory_order_relaxed);
	progress->stored_bytes = atomic_load_explicit(&copy->destination->stored_bytes, memory_order_relaxed);
	progress->shared_bytes = atomic_load_explicit(&copy->shared_bytes, memory_order_relaxed);
	progress->zero_bytes = atomic_load_explicit(&copy->zero_bytes, memory_order_relaxed);
	progress->bandwidth_bytes_per_s = vb_throttle_rate(copy->throttle);
	if (started_ns)
		progress->elapsed_ns = (ended_ns ? ended_ns : vb_copy_now_ns()) - started_ns;
	if (!atomic_load(&copy->is_planned))
		return;
	progress->remaining_bytes = vb_bitmap_remaining_bytes(copy->bitmap);
	progress->total_bytes = atomic_load(&copy->total_bytes);
	progress->resumed_bytes = atomic_load(&copy->resumed_bytes);
	progress->durable_bytes = atomic_load(&copy->durable_bytes);
	if (progress->remaining_bytes > progress->total_bytes)
		progress->remaining_bytes = progress->total_bytes;
	progress->moved_bytes = progress->total_bytes - progress->remaining_bytes;
}

static uint8_t cell_state(const struct vb_copy *copy, const struct vb_bitmap_cell *cell, uint64_t start_bytes, uint64_t end_bytes)
{
	uint64_t failed_bytes = atomic_load(&copy->failed_bytes);
	size_t extent = vb_plan_find(copy->plan, start_bytes);

	if (failed_bytes >= start_bytes && failed_bytes < end_bytes)
		return VB_CELL_FAILED;
	if (cell->in_flight_count)
		return VB_CELL_COPYING;
	if (cell->dirty_count)
		return VB_CELL_TODO;
	if (copy->is_incremental)
		return VB_CELL_DONE;
	if (extent == copy->plan->extent_count || copy->plan->extents[extent].start_bytes >= end_bytes)
		return VB_CELL_ZERO;
	return VB_CELL_DONE;
}

void vb_copy_map(const struct vb_copy *copy, uint8_t *cells, size_t cell_count)
{
	memset(cells, VB_CELL_TODO, cell_count);
	if (!atomic_load(&copy->is_planned))
		return;

	struct vb_bitmap_cell *picture = calloc(cell_count ? cell_count : 1, sizeof(*picture));
	uint64_t granule_bytes = vb_bitmap_granule_bytes(copy->bitmap);
	uint64_t granule_count = (copy->plan->size_bytes + granule_bytes - 1) / granule_bytes;

	if (!picture)
		return;
	vb_bitmap_picture(copy->bitmap, picture, cell_count);
	for (size_t index = 0; index < cell_count; index++) {
		uint64_t first = (uint64_t)((unsigned __int128)granule_count * index / cell_count);

		cells[index] = cell_state(copy, &picture[index], first * granule_bytes,
					  (first + picture[index].granule_count) * granule_bytes);
	}
	free(picture);
}
