/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty bitmap.
 *
 * Owns: two levels of dirty bits, the bits in flight, and both counts, all under one mutex. A call holds it for the words it
 * touches: tens of nanoseconds for a claim, far below the time that the chunk it hands out takes to move.
 * Invariants, whenever the mutex is free: summary bit w is set exactly when dirty[w] is not zero; the counts are the number of set
 * bits; no bit at or beyond granule_count is ever set. Memory is taken zeroed and by reservation, so that a sparse disk of many
 * tebibytes costs only the pages whose bits were set.
 */
#include "bitmap.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "point.h"

#define WORD_BITS 64u
#define GRANULE_COUNT_MAX (1ull << 26)   /* 8 MiB of bits: default granules grow on disks above 4 TiB */

struct vb_bitmap {
	pthread_mutex_t mutex;
	uint64_t size_bytes;
	uint64_t granule_count;
	uint32_t granule_bytes;
	uint32_t granule_shift;
	uint64_t *dirty;
	uint64_t *in_flight;
	uint64_t *summary;        /* one bit per word of `dirty` */
	uint64_t summary_count;   /* words of `summary` */
	uint64_t dirty_count;     /* granules */
	uint64_t in_flight_count;
};

static void lock(const struct vb_bitmap *bitmap)
{
	pthread_mutex_lock((pthread_mutex_t *)&bitmap->mutex);
}

static void unlock(const struct vb_bitmap *bitmap)
{
	pthread_mutex_unlock((pthread_mutex_t *)&bitmap->mutex);
}

static uint64_t words_for(uint64_t bits)
{
	return bits / WORD_BITS + (bits % WORD_BITS != 0);
}

static bool test_bit(const uint64_t *words, uint64_t bit)
{
	return (words[bit / WORD_BITS] >> (bit % WORD_BITS)) & 1;
}

/* The bits [first, last] that lie in the word that holds `first`. */
static uint64_t word_mask(uint64_t first, uint64_t last)
{
	uint64_t mask = ~0ull << (first % WORD_BITS);

	if (last / WORD_BITS == first / WORD_BITS)
		mask &= ~0ull >> (WORD_BITS - 1 - last % WORD_BITS);
	return mask;
}

static uint64_t next_word(uint64_t bit)
{
	return (bit / WORD_BITS + 1) * WORD_BITS;
}

/* Bits [first, end) of `words`; returns how many changed. */
static uint64_t assign_bits(uint64_t *words, uint64_t first, uint64_t end, bool value)
{
	uint64_t changed = 0;

	for (uint64_t bit = first; bit < end; bit = next_word(bit)) {
		uint64_t mask = word_mask(bit, end - 1);
		uint64_t *word = &words[bit / WORD_BITS];
		uint64_t before = *word;

		*word = value ? before | mask : before & ~mask;
		changed += (uint64_t)__builtin_popcountll(before ^ *word);
	}
	return changed;
}

static uint64_t count_bits(const uint64_t *words, uint64_t first, uint64_t end)
{
	uint64_t count = 0;

	for (uint64_t bit = first; bit < end; bit = next_word(bit))
		count += (uint64_t)__builtin_popcountll(words[bit / WORD_BITS] & word_mask(bit, end - 1));
	return count;
}

static void set_dirty(struct vb_bitmap *bitmap, uint64_t first, uint64_t end)
{
	if (first >= end)
		return;
	bitmap->dirty_count += assign_bits(bitmap->dirty, first, end, true);
	assign_bits(bitmap->summary, first / WORD_BITS, (end - 1) / WORD_BITS + 1, true);
}

static void clear_dirty(struct vb_bitmap *bitmap, uint64_t first, uint64_t end)
{
	if (first >= end)
		return;
	bitmap->dirty_count -= assign_bits(bitmap->dirty, first, end, false);

	/* Words in the middle are empty now; those at the ends may have kept bits of others. */
	uint64_t first_word = first / WORD_BITS;
	uint64_t last_word = (end - 1) / WORD_BITS;

	if (bitmap->dirty[first_word] != 0)
		first_word++;
	if (last_word >= first_word && bitmap->dirty[last_word] == 0)
		last_word++;
	if (first_word < last_word)
		assign_bits(bitmap->summary, first_word, last_word, false);
}

struct vb_bitmap *vb_bitmap_new(uint64_t size_bytes, uint32_t granule_bytes, struct vb_error *error)
{
	if (granule_bytes < VB_GRANULE_MIN_BYTES || granule_bytes > VB_GRANULE_MAX_BYTES ||
	    (granule_bytes & (granule_bytes - 1)) != 0) {
		vb_fail(error, VB_ERROR_INVALID, 0, NULL, -1,
			"A granule of %u bytes is not a power of two from %u to %u", granule_bytes,
			VB_GRANULE_MIN_BYTES, VB_GRANULE_MAX_BYTES);
		return NULL;
	}

	struct vb_bitmap *bitmap = calloc(1, sizeof(*bitmap));

	if (!bitmap)
		goto no_memory;
	pthread_mutex_init(&bitmap->mutex, NULL);
	bitmap->size_bytes = size_bytes;
	bitmap->granule_bytes = granule_bytes;
	bitmap->granule_shift = (uint32_t)__builtin_ctz(granule_bytes);
	bitmap->granule_count = size_bytes / granule_bytes + (size_bytes % granule_bytes != 0);

	uint64_t word_count = words_for(bitmap->granule_count);

	bitmap->summary_count = words_for(word_count);
	bitmap->dirty = calloc(word_count + 1, sizeof(uint64_t));
	bitmap->in_flight = calloc(word_count + 1, sizeof(uint64_t));
	bitmap->summary = calloc(bitmap->summary_count + 1, sizeof(uint64_t));
	if (bitmap->dirty && bitmap->in_flight && bitmap->summary)
		return bitmap;
	vb_bitmap_free(bitmap);
no_memory:
	vb_fail(error, VB_ERROR_MEMORY, 0, NULL, -1, "No memory for the dirty bitmap of a disk of %llu bytes",
		(unsigned long long)size_bytes);
	return NULL;
}

uint32_t vb_bitmap_default_granule(uint64_t size_bytes)
{
	uint32_t granule_bytes = VB_GRANULE_DEFAULT_BYTES;

	while (size_bytes / granule_bytes > GRANULE_COUNT_MAX && granule_bytes < VB_GRANULE_MAX_BYTES)
		granule_bytes *= 2;
	return granule_bytes;
}

void vb_bitmap_free(struct vb_bitmap *bitmap)
{
	if (!bitmap)
		return;
	pthread_mutex_destroy(&bitmap->mutex);
	free(bitmap->dirty);
	free(bitmap->in_flight);
	free(bitmap->summary);
	free(bitmap);
}

uint32_t vb_bitmap_granule_bytes(const struct vb_bitmap *bitmap)
{
	return bitmap->granule_bytes;
}

/* The range cut at the end of the disk; false when nothing is left of it. */
static bool cut_range(const struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes, uint64_t *end_bytes)
{
	if (start_bytes >= bitmap->size_bytes || length_bytes == 0)
		return false;
	if (length_bytes > bitmap->size_bytes - start_bytes)
		length_bytes = bitmap->size_bytes - start_bytes;
	*end_bytes = start_bytes + length_bytes;
	return true;
}

/* First granule and one past the last that the range touches. */
static void touched_granules(const struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t end_bytes,
			     uint64_t *first, uint64_t *end)
{
	*first = start_bytes >> bitmap->granule_shift;
	*end = ((end_bytes - 1) >> bitmap->granule_shift) + 1;
}

void vb_bitmap_set(struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes)
{
	uint64_t end_bytes, first, end;

	if (!cut_range(bitmap, start_bytes, length_bytes, &end_bytes))
		return;
	touched_granules(bitmap, start_bytes, end_bytes, &first, &end);
	lock(bitmap);
	set_dirty(bitmap, first, end);
	unlock(bitmap);
}

void vb_bitmap_clear(struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes)
{
	uint64_t end_bytes;

	if (!cut_range(bitmap, start_bytes, length_bytes, &end_bytes))
		return;

	uint64_t first = (start_bytes >> bitmap->granule_shift) + ((start_bytes & (bitmap->granule_bytes - 1)) != 0);
	uint64_t end = end_bytes == bitmap->size_bytes ? bitmap->granule_count : end_bytes >> bitmap->granule_shift;

	lock(bitmap);
	clear_dirty(bitmap, first, end);
	unlock(bitmap);
}

bool vb_bitmap_get(const struct vb_bitmap *bitmap, uint64_t offset_bytes)
{
	if (offset_bytes >= bitmap->size_bytes)
		return false;
	lock(bitmap);

	bool dirty = test_bit(bitmap->dirty, offset_bytes >> bitmap->granule_shift);

	unlock(bitmap);
	return dirty;
}

/* First granule in [from, granule_count) that is dirty and not in flight; granule_count if none. */
static uint64_t find_claimable(const struct vb_bitmap *bitmap, uint64_t from)
{
	uint64_t word_index = from / WORD_BITS;
	uint64_t mask = ~0ull << (from % WORD_BITS);

	while (from < bitmap->granule_count) {
		uint64_t word = bitmap->dirty[word_index] & ~bitmap->in_flight[word_index] & mask;

		if (word)
			return word_index * WORD_BITS + (uint64_t)__builtin_ctzll(word);
		mask = ~0ull;
		word_index++;

		uint64_t summary_index = word_index / WORD_BITS;
		uint64_t summary_mask = ~0ull << (word_index % WORD_BITS);

		while (summary_index < bitmap->summary_count && !(bitmap->summary[summary_index] & summary_mask)) {
			summary_index++;
			summary_mask = ~0ull;
		}
		if (summary_index >= bitmap->summary_count)
			break;
		word_index = summary_index * WORD_BITS +
			     (uint64_t)__builtin_ctzll(bitmap->summary[summary_index] & summary_mask);
		from = word_index * WORD_BITS;
	}
	return bitmap->granule_count;
}

static uint64_t claimable_run_end(const struct vb_bitmap *bitmap, uint64_t first, uint64_t limit)
{
	uint64_t end = first + 1;

	while (end < limit && test_bit(bitmap->dirty, end) && !test_bit(bitmap->in_flight, end))
		end++;
	return end;
}

static uint64_t granule_end_bytes(const struct vb_bitmap *bitmap, uint64_t end)
{
	return end == bitmap->granule_count ? bitmap->size_bytes : end << bitmap->granule_shift;
}

bool vb_bitmap_next_run(const struct vb_bitmap *bitmap, uint64_t offset_bytes, uint64_t *start_bytes, uint64_t *length_bytes)
{
	if (offset_bytes >= bitmap->size_bytes)   /* within the last granule, perhaps */
		return false;
	lock(bitmap);

	uint64_t first = find_claimable(bitmap, offset_bytes >> bitmap->granule_shift);
	bool is_found = first < bitmap->granule_count;

	if (is_found) {
		uint64_t end = claimable_run_end(bitmap, first, bitmap->granule_count);

		*start_bytes = first << bitmap->granule_shift;
		*length_bytes = granule_end_bytes(bitmap, end) - *start_bytes;
	}
	unlock(bitmap);
	return is_found;
}

bool vb_bitmap_claim(struct vb_bitmap *bitmap, uint64_t *cursor_bytes, uint64_t max_bytes, uint64_t align_bytes,
		     uint64_t *start_bytes, uint64_t *length_bytes)
{
	uint64_t max_count = max_bytes >> bitmap->granule_shift;
	uint64_t align_count = align_bytes >> bitmap->granule_shift;

	lock(bitmap);

	uint64_t first = bitmap->granule_count;

	if (bitmap->dirty_count != 0) {
		first = find_claimable(bitmap, *cursor_bytes >> bitmap->granule_shift);
		if (first == bitmap->granule_count)
			first = find_claimable(bitmap, 0);
	}
	if (first == bitmap->granule_count) {
		unlock(bitmap);
		return false;
	}

	uint64_t limit = first + (max_count ? max_count : 1);

	if (align_count && limit > (first / align_count + 1) * align_count)
		limit = (first / align_count + 1) * align_count;
	if (limit > bitmap->granule_count)
		limit = bitmap->granule_count;

	uint64_t end = claimable_run_end(bitmap, first, limit);

	clear_dirty(bitmap, first, end);
	bitmap->in_flight_count += assign_bits(bitmap->in_flight, first, end, true);
	*start_bytes = first << bitmap->granule_shift;

	uint64_t end_bytes = granule_end_bytes(bitmap, end);

	*length_bytes = end_bytes - *start_bytes;
	*cursor_bytes = end_bytes;
	unlock(bitmap);
	VB_POINT("bitmap claimed");
	return true;
}

void vb_bitmap_release(struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes, bool moved)
{
	uint64_t end_bytes, first, end;

	if (!cut_range(bitmap, start_bytes, length_bytes, &end_bytes))
		return;
	touched_granules(bitmap, start_bytes, end_bytes, &first, &end);
	lock(bitmap);
	bitmap->in_flight_count -= assign_bits(bitmap->in_flight, first, end, false);
	if (!moved)
		set_dirty(bitmap, first, end);
	unlock(bitmap);
	VB_POINT("bitmap released");
}

/* `count` granules as bytes; the last granule counts only up to the end of the disk. */
static uint64_t counted_bytes(const struct vb_bitmap *bitmap, const uint64_t *words, uint64_t count)
{
	uint64_t bytes = count << bitmap->granule_shift;
	uint64_t tail_bytes = bitmap->size_bytes & (bitmap->granule_bytes - 1);

	if (tail_bytes && test_bit(words, bitmap->granule_count - 1))
		bytes -= bitmap->granule_bytes - tail_bytes;
	return bytes;
}

uint64_t vb_bitmap_dirty_bytes(const struct vb_bitmap *bitmap)
{
	lock(bitmap);

	uint64_t bytes = counted_bytes(bitmap, bitmap->dirty, bitmap->dirty_count);

	unlock(bitmap);
	return bytes;
}

uint64_t vb_bitmap_in_flight_bytes(const struct vb_bitmap *bitmap)
{
	lock(bitmap);

	uint64_t bytes = counted_bytes(bitmap, bitmap->in_flight, bitmap->in_flight_count);

	unlock(bitmap);
	return bytes;
}

uint64_t vb_bitmap_remaining_bytes(const struct vb_bitmap *bitmap)
{
	lock(bitmap);

	uint64_t bytes = counted_bytes(bitmap, bitmap->dirty, bitmap->dirty_count) +
			 counted_bytes(bitmap, bitmap->in_flight, bitmap->in_flight_count);

	unlock(bitmap);
	return bytes;
}

size_t vb_bitmap_serialized_bytes(const struct vb_bitmap *bitmap)
{
	return (size_t)(bitmap->granule_count / 8 + (bitmap->granule_count % 8 != 0));
}

void vb_bitmap_serialize(const struct vb_bitmap *bitmap, uint8_t *out)
{
	size_t byte_count = vb_bitmap_serialized_bytes(bitmap);

	lock(bitmap);
	for (size_t index = 0; index < byte_count; index++) {
		uint64_t word = bitmap->dirty[index / 8] | bitmap->in_flight[index / 8];

		out[index] = (uint8_t)(word >> (index % 8 * 8));
	}
	unlock(bitmap);
}

int vb_bitmap_deserialize(struct vb_bitmap *bitmap, const uint8_t *in, size_t length, struct vb_error *error)
{
	size_t byte_count = vb_bitmap_serialized_bytes(bitmap);

	if (length != byte_count)
		return vb_fail(error, VB_ERROR_INVALID, 0, NULL, -1,
			       "A bitmap of %llu granules takes %zu bytes, %zu were given",
			       (unsigned long long)bitmap->granule_count, byte_count, length);
	if (bitmap->granule_count % 8 && in[length - 1] >> (bitmap->granule_count % 8))
		return vb_fail(error, VB_ERROR_INVALID, 0, NULL, -1, "The bitmap has bits set beyond the end of the disk");

	lock(bitmap);
	clear_dirty(bitmap, 0, bitmap->granule_count);
	for (size_t index = 0; index < length; index++) {
		if (!in[index])
			continue;
		bitmap->dirty[index / 8] |= (uint64_t)in[index] << (index % 8 * 8);
		bitmap->summary[index / 8 / WORD_BITS] |= 1ull << (index / 8 % WORD_BITS);
	}
	bitmap->dirty_count = count_bits(bitmap->dirty, 0, bitmap->granule_count);
	unlock(bitmap);
	return 0;
}

size_t vb_bitmap_word_count(const struct vb_bitmap *bitmap)
{
	return (size_t)words_for(bitmap->granule_count);
}

void vb_bitmap_save(const struct vb_bitmap *bitmap, uint64_t *words)
{
	size_t count = vb_bitmap_word_count(bitmap);

	lock(bitmap);
	for (size_t index = 0; index < count; index++)
		words[index] = bitmap->dirty[index] | bitmap->in_flight[index];
	unlock(bitmap);
}

void vb_bitmap_keep(struct vb_bitmap *bitmap, const uint64_t *words)
{
	size_t count = vb_bitmap_word_count(bitmap);

	lock(bitmap);
	for (size_t index = 0; index < count; index++) {
		bitmap->dirty[index] &= words[index];
		if (!bitmap->dirty[index])
			bitmap->summary[index / WORD_BITS] &= ~(1ull << (index % WORD_BITS));
	}
	bitmap->dirty_count = count_bits(bitmap->dirty, 0, bitmap->granule_count);
	unlock(bitmap);
}

bool vb_bitmap_any(const struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes)
{
	uint64_t end_bytes, first, end;

	if (!cut_range(bitmap, start_bytes, length_bytes, &end_bytes))
		return false;
	touched_granules(bitmap, start_bytes, end_bytes, &first, &end);
	lock(bitmap);

	bool any = count_bits(bitmap->dirty, first, end) != 0;

	unlock(bitmap);
	return any;
}

void vb_bitmap_picture(const struct vb_bitmap *bitmap, struct vb_bitmap_cell *cells, size_t cell_count)
{
	lock(bitmap);
	for (size_t index = 0; index < cell_count; index++) {
		/* 128 bits: granules times cells can pass 2^64. */
		uint64_t first = (uint64_t)((unsigned __int128)bitmap->granule_count * index / cell_count);
		uint64_t end = (uint64_t)((unsigned __int128)bitmap->granule_count * (index + 1) / cell_count);

		if (end == first && first < bitmap->granule_count)
			end = first + 1;   /* more cells than granules: neighbours show the same granule */
		cells[index].granule_count = (uint32_t)(end - first);
		cells[index].dirty_count = (uint32_t)count_bits(bitmap->dirty, first, end);
		cells[index].in_flight_count = (uint32_t)count_bits(bitmap->in_flight, first, end);
	}
	unlock(bitmap);
}
