/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lanes: threads that claim chunks and move them.
 *
 * Owns: how a chunk is put together in its buffer, scanned for zeros while it is hot in the cache, and written from there: by its lane, or,
 * where the destination takes one write at a time, by whichever lane writes for all (write_queue.h).
 * Invariants: a lane clears a chunk's bits before it reads and sets them again when the move fails (the bitmap does both); what a
 * unit of the destination receives is whole: bytes that no extent covers are zeros. A lane that fails stops all; chunks that
 * still wait to be written are not, and stay dirty.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "copy_state.h"
#include "point.h"
#include "write_queue.h"
#include "zero.h"

#define QUEUED_CHUNK_COUNT 8u   /* ready to be written, beside those that lanes put together */
/* So little that the pages that the disk has taken are used again while the processor still knows them. */
#define WRITE_BACK_BYTES (8ull * 1024 * 1024)
#define ZERO_PIECE_BYTES (1ull << 30)   /* how much of a gap is zeroed between two looks at cancel and pause */

/* What a unit of the chunk is. GAP: no extent touches it. */
enum unit_state { UNIT_GAP = 0, UNIT_ZERO = 1, UNIT_DATA = 2 };

struct lane {
	struct vb_copy *copy;
	struct vb_write_queue *queue;
	struct vb_reader *reader;
	size_t extent_index;         /* where the last chunk's extents began: the next chunk's are mostly near */
	uint64_t unsynced_bytes;     /* written since the last hint to write back */
	pthread_t thread;
	bool has_thread;
};

static void add(_Atomic uint64_t *counter, uint64_t value)
{
	atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

static uint64_t smaller(uint64_t left, uint64_t right)
{
	return left < right ? left : right;
}

static uint64_t larger(uint64_t left, uint64_t right)
{
	return left > right ? left : right;
}

/* First extent that ends after the chunk's start; walks on from the last chunk when that is near. */
static size_t find_extent(struct lane *lane, uint64_t start_bytes)
{
	const struct vb_plan *plan = lane->copy->plan;
	size_t index = lane->extent_index;
	size_t steps = 0;

	if (index > 0 && plan->extents[index - 1].start_bytes + plan->extents[index - 1].length_bytes > start_bytes)
		index = vb_plan_find(plan, start_bytes);
	while (index < plan->extent_count && plan->extents[index].start_bytes + plan->extents[index].length_bytes <= start_bytes) {
		index++;
		if (++steps == 64)
			index = vb_plan_find(plan, start_bytes);
	}
	lane->extent_index = index;
	return index;
}

/* The extent's part in the chunk, relative to the chunk's start; false when it begins behind the chunk. */
static bool cut_extent(const struct vb_chunk *chunk, const struct vb_extent *extent, uint64_t *from, uint64_t *to)
{
	uint64_t chunk_end = chunk->start_bytes + chunk->length_bytes;

	if (extent->start_bytes >= chunk_end)
		return false;
	*from = larger(extent->start_bytes, chunk->start_bytes) - chunk->start_bytes;
	*to = smaller(extent->start_bytes + extent->length_bytes, chunk_end) - chunk->start_bytes;
	return true;
}

static uint64_t planned_data_bytes(const struct lane *lane, const struct vb_chunk *chunk)
{
	const struct vb_plan *plan = lane->copy->plan;
	uint64_t total = 0, from, to;

	for (size_t index = chunk->first_extent; index < plan->extent_count; index++) {
		if (!cut_extent(chunk, &plan->extents[index], &from, &to))
			break;
		if (vb_extent_is_data(&plan->extents[index]))
			total += to - from;
	}
	return total;
}

static void mark_units(const struct lane *lane, struct vb_chunk *chunk, uint64_t from, uint64_t to, enum unit_state state)
{
	uint32_t unit_bytes = lane->copy->destination->unit_bytes;

	for (uint64_t unit = from / unit_bytes; unit * unit_bytes < to; unit++)
		if (chunk->units[unit] < state)
			chunk->units[unit] = (uint8_t)state;
}

/* Puts the chunk together in the buffer: after it, every unit marked UNIT_DATA is whole. */
static int gather(struct lane *lane, struct vb_chunk *chunk, struct vb_error *error)
{
	const struct vb_plan *plan = lane->copy->plan;
	uint64_t unit_mask = lane->copy->destination->unit_bytes - 1;
	uint64_t filled = 0;     /* bytes before it are whole in the units that have data */
	uint64_t unit_end = 0;   /* end of the last unit that has data */
	uint64_t from, to;

	memset(chunk->units, UNIT_GAP, chunk->length_bytes / (unit_mask + 1) + 1);
	for (size_t index = chunk->first_extent; index < plan->extent_count; index++) {
		const struct vb_extent *extent = &plan->extents[index];

		if (!cut_extent(chunk, extent, &from, &to))
			break;
		if (!vb_extent_is_data(extent)) {
			mark_units(lane, chunk, from, to, UNIT_ZERO);
			continue;
		}

		uint64_t stop = smaller(unit_end, from);

		if (filled < stop)
			memset(chunk->buffer + filled, 0, stop - filled);

		uint64_t begin = larger(from & ~unit_mask, filled < stop ? stop : filled);

		if (begin < from)
			memset(chunk->buffer + begin, 0, from - begin);
		if (vb_reader_read(lane->reader, extent, chunk->start_bytes + from - extent->start_bytes, chunk->buffer + from,
				   to - from, error))
			return -1;
		mark_units(lane, chunk, from, to, UNIT_DATA);
		add(&lane->copy->read_bytes, to - from);
		filled = to;
		unit_end = smaller((to + unit_mask) & ~unit_mask, chunk->length_bytes);
	}
	if (filled < unit_end)
		memset(chunk->buffer + filled, 0, unit_end - filled);
	return 0;
}

static void scan(const struct lane *lane, struct vb_chunk *chunk)
{
	uint32_t unit_bytes = lane->copy->destination->unit_bytes;

	for (uint64_t unit = 0; unit * unit_bytes < chunk->length_bytes; unit++) {
		uint64_t at = unit * unit_bytes;

		if (chunk->units[unit] == UNIT_DATA &&
		    vb_is_zero(chunk->buffer + at, smaller(unit_bytes, chunk->length_bytes - at)))
			chunk->units[unit] = UNIT_ZERO;
	}
}

static int put_run(struct lane *lane, const struct vb_chunk *chunk, uint64_t from, uint64_t to, enum unit_state state,
		   struct vb_error *error)
{
	struct vb_copy *copy = lane->copy;
	struct vb_writer *destination = copy->destination;
	uint64_t length = to - from;

	if (state == UNIT_DATA) {
		if (destination->ops->write(destination, chunk->start_bytes + from, chunk->buffer + from, length, error))
			return -1;
		add(&copy->written_bytes, length);
		lane->unsynced_bytes += length;
		return 0;
	}
	if (state == UNIT_GAP && copy->plan->mode != VB_PLAN_FULL)
		return 0;
	if (destination->zero_needed && destination->ops->zero(destination, chunk->start_bytes + from, length, error))
		return -1;
	add(&copy->zero_bytes, length);
	return 0;
}

/* Writes the chunk in as few runs as possible. In full mode a gap is zeros like any others. */
static int put(struct lane *lane, struct vb_chunk *chunk, struct vb_error *error)
{
	uint32_t unit_bytes = lane->copy->destination->unit_bytes;
	uint64_t unit_count = (chunk->length_bytes + unit_bytes - 1) / unit_bytes;
	uint64_t first = 0;

	if (lane->copy->plan->mode == VB_PLAN_FULL)
		for (uint64_t unit = 0; unit < unit_count; unit++)
			if (chunk->units[unit] == UNIT_GAP)
				chunk->units[unit] = UNIT_ZERO;
	while (first < unit_count) {
		uint64_t end = first + 1;

		while (end < unit_count && chunk->units[end] == chunk->units[first])
			end++;
		if (put_run(lane, chunk, first * unit_bytes, smaller(end * unit_bytes, chunk->length_bytes),
			    (enum unit_state)chunk->units[first], error))
			return -1;
		first = end;
	}
	return 0;
}

void vb_copy_report_error(struct vb_copy *copy, const struct vb_error *error, uint64_t start_bytes)
{
	pthread_mutex_lock(&copy->error_mutex);
	if (!copy->has_error) {
		copy->has_error = true;
		copy->error = *error;
		atomic_store(&copy->failed_bytes, start_bytes);
	}
	pthread_mutex_unlock(&copy->error_mutex);
	atomic_store(&copy->stop, true);
	/* Who sleeps for its share of a limit, or in a pause, would hold the end off. */
	vb_throttle_cancel(copy->throttle);
}

bool vb_copy_has_failed(struct vb_copy *copy, struct vb_error *error)
{
	pthread_mutex_lock(&copy->error_mutex);

	bool has_error = copy->has_error;

	if (has_error)
		*error = copy->error;
	pthread_mutex_unlock(&copy->error_mutex);
	return has_error;
}

static bool claim_chunk(struct lane *lane, struct vb_chunk *chunk)
{
	struct vb_copy *copy = lane->copy;
	uint64_t max_bytes = smaller(copy->chunk_bytes, vb_throttle_burst_bytes(copy->throttle));

	max_bytes = larger(max_bytes, vb_bitmap_granule_bytes(copy->bitmap));
	if (!vb_bitmap_claim(copy->bitmap, &copy->cursor_bytes, max_bytes, copy->chunk_bytes, &chunk->start_bytes,
			     &chunk->length_bytes))
		return false;
	chunk->first_extent = find_extent(lane, chunk->start_bytes);
	return true;
}

/* What became of a chunk: its bits are settled, and its buffer is free. */
static void end_chunk(struct lane *lane, struct vb_chunk *chunk, bool moved, const struct vb_error *error)
{
	vb_copy_release(lane->copy, chunk->start_bytes, chunk->length_bytes, moved, &chunk->sum);
	if (error) {
		VB_POINT("lane fails");
		vb_copy_report_error(lane->copy, error, chunk->start_bytes);
		VB_POINT("lane failed");
	}
	vb_write_queue_give_back(lane->queue, chunk);
}

static void write_chunk(struct lane *lane, struct vb_chunk *chunk)
{
	struct vb_writer *destination = lane->copy->destination;
	struct vb_error error;

	VB_POINT("lane writes");
	if (put(lane, chunk, &error)) {
		end_chunk(lane, chunk, false, &error);
		return;
	}
	VB_POINT("lane wrote");
	end_chunk(lane, chunk, true, NULL);
	if (lane->unsynced_bytes >= WRITE_BACK_BYTES && destination->ops->write_back) {
		destination->ops->write_back(destination);
		lane->unsynced_bytes = 0;
	}
}

/* Writes for all lanes until nothing waits. */
static void write_queued(struct lane *lane)
{
	struct vb_chunk *chunk;

	while ((chunk = vb_write_queue_next(lane->queue)) != NULL) {
		if (atomic_load_explicit(&lane->copy->stop, memory_order_relaxed))
			end_chunk(lane, chunk, false, NULL);
		else
			write_chunk(lane, chunk);
	}
}

static void move_chunk(struct lane *lane, struct vb_chunk *chunk)
{
	struct vb_copy *copy = lane->copy;
	uint64_t data_bytes = planned_data_bytes(lane, chunk);
	struct vb_error error;

	if (!vb_throttle_pass(copy->throttle, data_bytes)) {
		end_chunk(lane, chunk, false, NULL);
		return;
	}
	vb_read_ahead(&copy->read_ahead, copy->source, copy->plan, copy->bitmap, chunk->start_bytes + chunk->length_bytes, data_bytes);
	if (gather(lane, chunk, &error)) {
		end_chunk(lane, chunk, false, &error);
		return;
	}
	VB_POINT("lane read");
	scan(lane, chunk);
	chunk->sum = (struct vb_digest_sum){0};
	if (copy->has_digest)
		vb_copy_add_units(&chunk->sum, chunk->buffer, chunk->units, UNIT_DATA, copy->destination->unit_bytes,
				  chunk->start_bytes, chunk->length_bytes);
	if (!copy->destination->writes_in_turn)
		write_chunk(lane, chunk);
	else if (vb_write_queue_put(lane->queue, chunk))
		write_queued(lane);
}

static void lane_run(struct lane *lane)
{
	struct vb_chunk *chunk;

	while (!atomic_load_explicit(&lane->copy->stop, memory_order_relaxed)) {
		chunk = vb_write_queue_take(lane->queue);
		if (!claim_chunk(lane, chunk)) {
			vb_write_queue_give_back(lane->queue, chunk);
			VB_POINT("lane found nothing");
			return;
		}
		move_chunk(lane, chunk);
	}
}

static void *lane_thread(void *opaque)
{
	lane_run(opaque);
	return NULL;
}

static int lane_open(struct lane *lane, struct vb_copy *copy, struct vb_write_queue *queue, struct vb_error *error)
{
	lane->copy = copy;
	lane->queue = queue;
	lane->reader = vb_reader_new(copy->source, error);
	return lane->reader ? 0 : -1;
}

static struct vb_write_queue *open_queue(const struct vb_copy *copy, uint32_t lane_count, struct vb_error *error)
{
	bool has_queued = copy->destination->writes_in_turn && lane_count > 1;

	return vb_write_queue_new(lane_count + (has_queued ? QUEUED_CHUNK_COUNT : 0), copy->chunk_bytes,
				  copy->chunk_bytes / copy->destination->unit_bytes + 1, error);
}

static uint32_t choose_lane_count(const struct vb_copy *copy)
{
	uint64_t dirty_bytes = vb_bitmap_dirty_bytes(copy->bitmap);
	uint64_t count = copy->options.lane_count;
	cpu_set_t cores;

	if (count == 0)
		count = sched_getaffinity(0, sizeof(cores), &cores) == 0 ? (uint64_t)CPU_COUNT(&cores) : 1;
	count = smaller(count, VB_LANE_COUNT_MAX);
	return (uint32_t)larger(1, smaller(count, dirty_bytes / copy->chunk_bytes));
}

/* Signals stay with the threads that the embedding process made. A thread that cannot be had is one lane less. */
static void start_thread(struct lane *lane)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	lane->has_thread = pthread_create(&lane->thread, NULL, lane_thread, lane) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void run_lanes(struct vb_copy *copy, struct vb_write_queue *queue, uint32_t count)
{
	struct lane lanes[VB_LANE_COUNT_MAX] = {0};
	struct vb_error error;

	for (uint32_t index = 0; index < count; index++) {
		if (lane_open(&lanes[index], copy, queue, &error)) {
			vb_copy_report_error(copy, &error, UINT64_MAX);
			break;
		}
	}
	for (uint32_t index = 1; index < count && !atomic_load(&copy->stop); index++)
		start_thread(&lanes[index]);
	if (!atomic_load(&copy->stop))
		lane_run(&lanes[0]);
	for (uint32_t index = 0; index < count; index++) {
		if (lanes[index].has_thread)
			pthread_join(lanes[index].thread, NULL);
		vb_reader_free(lanes[index].reader);
	}
}

void vb_copy_run_lanes(struct vb_copy *copy)
{
	uint32_t count = choose_lane_count(copy);
	struct vb_error error;
	struct vb_write_queue *queue = open_queue(copy, count, &error);

	if (!queue) {
		vb_copy_report_error(copy, &error, UINT64_MAX);
		return;
	}
	run_lanes(copy, queue, count);
	vb_write_queue_free(queue);
}

/* Bits afterwards: no lane runs yet. */
static int zero_gap(struct vb_copy *copy, uint64_t start_bytes, uint64_t end_bytes, struct vb_error *error)
{
	struct vb_writer *destination = copy->destination;

	while (start_bytes < end_bytes) {
		uint64_t length = smaller(end_bytes - start_bytes, ZERO_PIECE_BYTES);

		if (!vb_throttle_pass(copy->throttle, 0))
			return 0;
		/* An earlier run may have zeroed it. */
		if (!vb_bitmap_any(copy->bitmap, start_bytes, length)) {
			start_bytes += length;
			continue;
		}
		if (destination->ops->zero(destination, start_bytes, length, error))
			return -1;
		vb_bitmap_clear(copy->bitmap, start_bytes, length);
		add(&copy->zero_bytes, length);
		start_bytes += length;
	}
	return 0;
}

/* The gaps of the plan within [start, end), which begins at a granule. */
static int zero_gaps_within(struct vb_copy *copy, uint64_t range_start, uint64_t range_end, struct vb_error *error)
{
	const struct vb_plan *plan = copy->plan;
	uint64_t granule_mask = vb_bitmap_granule_bytes(copy->bitmap) - 1;
	uint64_t gap_start = range_start;

	for (size_t index = vb_plan_find(plan, range_start); gap_start < range_end; index++) {
		bool is_last = index == plan->extent_count || plan->extents[index].start_bytes >= range_end;
		uint64_t gap_end = is_last ? range_end : plan->extents[index].start_bytes;
		uint64_t start_bytes = (gap_start + granule_mask) & ~granule_mask;
		uint64_t end_bytes = is_last ? gap_end : gap_end & ~granule_mask;

		if (start_bytes < end_bytes && zero_gap(copy, start_bytes, end_bytes, error))
			return -1;
		if (is_last)
			break;
		gap_start = plan->extents[index].start_bytes + plan->extents[index].length_bytes;
	}
	return 0;
}

int vb_copy_zero_gaps(struct vb_copy *copy, struct vb_error *error)
{
	uint64_t start_bytes = 0, length_bytes = 0;

	if (!copy->is_incremental)
		return zero_gaps_within(copy, 0, copy->plan->size_bytes, error);
	while (vb_bitmap_next_run(copy->bitmap, start_bytes + length_bytes, &start_bytes, &length_bytes))
		if (zero_gaps_within(copy, start_bytes, start_bytes + length_bytes, error))
			return -1;
	return 0;
}
