/* SPDX-License-Identifier: Apache-2.0 */
/* The dirty bitmap: against a plain array, at its edges, and under threads that claim and set at once. */
#include <pthread.h>
#include <stdatomic.h>

#include "bitmap.h"
#include "check.h"

#define GRANULE 4096u

static struct vb_error error;

static struct vb_bitmap *new_bitmap(uint64_t size_bytes, uint32_t granule_bytes)
{
	struct vb_bitmap *bitmap = vb_bitmap_new(size_bytes, granule_bytes, &error);

	CHECK_OK(bitmap != NULL, error);
	return bitmap;
}

static void bad_granules_are_refused(void)
{
	static const uint32_t bad[] = {0, 512, 4095, 4097, 12288, 128u * 1024 * 1024};

	for (size_t index = 0; index < sizeof(bad) / sizeof(bad[0]); index++) {
		error = (struct vb_error){0};
		CHECK(vb_bitmap_new(1 << 20, bad[index], &error) == NULL);
		CHECK_ERROR(error, VB_ERROR_INVALID, "power of two");
	}
}

static void empty_disk_has_nothing(void)
{
	struct vb_bitmap *bitmap = new_bitmap(0, GRANULE);
	uint64_t cursor = 0, start, length;

	vb_bitmap_set(bitmap, 0, UINT64_MAX);
	vb_bitmap_clear(bitmap, 0, UINT64_MAX);
	CHECK_EQUAL(vb_bitmap_dirty_bytes(bitmap), 0);
	CHECK_EQUAL(vb_bitmap_serialized_bytes(bitmap), 0);
	CHECK(!vb_bitmap_claim(bitmap, &cursor, GRANULE, GRANULE, &start, &length));
	vb_bitmap_free(bitmap);
}

static void last_granule_counts_to_the_end_of_the_disk(void)
{
	struct vb_bitmap *bitmap = new_bitmap(10 * GRANULE + 100, GRANULE);
	uint64_t cursor = 10 * GRANULE, start, length;

	vb_bitmap_set(bitmap, 0, UINT64_MAX);
	CHECK_EQUAL(vb_bitmap_dirty_bytes(bitmap), 10 * GRANULE + 100);
	CHECK(vb_bitmap_claim(bitmap, &cursor, 4 * GRANULE, 0, &start, &length));
	CHECK_EQUAL(start, 10 * GRANULE);
	CHECK_EQUAL(length, 100);
	CHECK_EQUAL(vb_bitmap_in_flight_bytes(bitmap), 100);
	CHECK_EQUAL(vb_bitmap_remaining_bytes(bitmap), 10 * GRANULE + 100);
	vb_bitmap_release(bitmap, start, length, true);
	CHECK_EQUAL(vb_bitmap_remaining_bytes(bitmap), 10 * GRANULE);
	/* A range that ends within the last granule does not cover it; one that reaches the end of the disk does. */
	vb_bitmap_set(bitmap, 10 * GRANULE, 1);
	vb_bitmap_clear(bitmap, 10 * GRANULE, 99);
	CHECK(vb_bitmap_get(bitmap, 10 * GRANULE));
	vb_bitmap_clear(bitmap, 10 * GRANULE, 100);
	CHECK(!vb_bitmap_get(bitmap, 10 * GRANULE));
	vb_bitmap_free(bitmap);
}

static void set_covers_and_clear_does_not_exceed(void)
{
	struct vb_bitmap *bitmap = new_bitmap(100 * GRANULE, GRANULE);

	vb_bitmap_set(bitmap, GRANULE - 1, 2);
	CHECK_EQUAL(vb_bitmap_dirty_bytes(bitmap), 2 * GRANULE);
	vb_bitmap_clear(bitmap, 1, 2 * GRANULE - 1);
	CHECK(vb_bitmap_get(bitmap, 0));
	CHECK(!vb_bitmap_get(bitmap, GRANULE));
	vb_bitmap_set(bitmap, 50 * GRANULE, 0);
	CHECK_EQUAL(vb_bitmap_dirty_bytes(bitmap), GRANULE);
	vb_bitmap_free(bitmap);
}

static void a_granule_in_flight_is_claimed_again_only_after_release(void)
{
	struct vb_bitmap *bitmap = new_bitmap(8 * GRANULE, GRANULE);
	uint64_t cursor = 0, start, length;

	vb_bitmap_set(bitmap, 2 * GRANULE, 2 * GRANULE);
	CHECK(vb_bitmap_claim(bitmap, &cursor, 8 * GRANULE, 0, &start, &length));
	CHECK_EQUAL(start, 2 * GRANULE);
	CHECK_EQUAL(length, 2 * GRANULE);
	vb_bitmap_set(bitmap, 3 * GRANULE, 1);
	CHECK(!vb_bitmap_claim(bitmap, &cursor, 8 * GRANULE, 0, &start, &length));
	vb_bitmap_release(bitmap, 2 * GRANULE, 2 * GRANULE, true);
	CHECK(vb_bitmap_claim(bitmap, &cursor, 8 * GRANULE, 0, &start, &length));
	CHECK_EQUAL(start, 3 * GRANULE);
	CHECK_EQUAL(length, GRANULE);
	vb_bitmap_release(bitmap, start, length, false);
	CHECK(vb_bitmap_get(bitmap, 3 * GRANULE));
	CHECK_EQUAL(vb_bitmap_in_flight_bytes(bitmap), 0);
	vb_bitmap_free(bitmap);
}

/* The same operations on one byte per granule: 1 dirty, 2 in flight. */
#define MODEL_GRANULES 1000u

static void compare_with_model(struct vb_bitmap *bitmap, const uint8_t *model)
{
	uint8_t serialized[MODEL_GRANULES / 8 + 1];
	uint64_t dirty = 0, in_flight = 0;

	CHECK_EQUAL(vb_bitmap_serialized_bytes(bitmap), MODEL_GRANULES / 8);
	vb_bitmap_serialize(bitmap, serialized);
	for (unsigned index = 0; index < MODEL_GRANULES; index++) {
		CHECK_EQUAL(vb_bitmap_get(bitmap, (uint64_t)index * GRANULE), model[index] & 1);
		CHECK_EQUAL((serialized[index / 8] >> (index % 8)) & 1, model[index] != 0);
		dirty += model[index] & 1;
		in_flight += model[index] >> 1;
	}
	CHECK_EQUAL(vb_bitmap_dirty_bytes(bitmap), dirty * GRANULE);
	CHECK_EQUAL(vb_bitmap_in_flight_bytes(bitmap), in_flight * GRANULE);
}

/* The run that must be claimed: first claimable granule from the cursor on, wrapping once, cut by length and alignment. */
static bool model_claim(uint8_t *model, unsigned cursor, unsigned max, unsigned align, unsigned *first, unsigned *count)
{
	for (unsigned step = 0; step < MODEL_GRANULES; step++) {
		unsigned at = (cursor + step) % MODEL_GRANULES;

		if (model[at] != 1)
			continue;
		*first = at;
		*count = 0;
		while (at < MODEL_GRANULES && model[at] == 1 && *count < max && (*count == 0 || at % align != 0)) {
			model[at++] = 2;
			++*count;
		}
		return true;
	}
	return false;
}

static void random_operations_match_a_plain_array(void)
{
	static uint8_t model[MODEL_GRANULES];
	struct vb_bitmap *bitmap = new_bitmap((uint64_t)MODEL_GRANULES * GRANULE, GRANULE);
	unsigned long long state = 42;

	for (unsigned round = 0; round < 6000; round++) {
		unsigned first = (unsigned)(test_random(&state) % MODEL_GRANULES);
		unsigned count = (unsigned)(test_random(&state) % (round % 7 ? 20 : MODEL_GRANULES));
		unsigned end = first + count < MODEL_GRANULES ? first + count : MODEL_GRANULES;
		unsigned max = 1 + (unsigned)(test_random(&state) % 16), align = 1u << test_random(&state) % 5;
		uint64_t cursor = (uint64_t)first * GRANULE, start, length;

		switch (test_random(&state) % 4) {
		case 0:
			vb_bitmap_set(bitmap, cursor, (uint64_t)(end - first) * GRANULE);
			for (unsigned index = first; index < end; index++)
				model[index] |= 1;
			break;
		case 1:
			vb_bitmap_clear(bitmap, cursor, (uint64_t)(end - first) * GRANULE);
			for (unsigned index = first; index < end; index++)
				model[index] &= 2;
			break;
		case 2:
			if (!model_claim(model, first, max, align, &first, &count)) {
				CHECK(!vb_bitmap_claim(bitmap, &cursor, (uint64_t)max * GRANULE, (uint64_t)align * GRANULE, &start,
						       &length));
				break;
			}
			CHECK(vb_bitmap_claim(bitmap, &cursor, (uint64_t)max * GRANULE, (uint64_t)align * GRANULE, &start, &length));
			CHECK_EQUAL(start, first * GRANULE);
			CHECK_EQUAL(length, count * GRANULE);
			CHECK_EQUAL(cursor, start + length);
			break;
		default:
			vb_bitmap_release(bitmap, cursor, (uint64_t)(end - first) * GRANULE, round % 2);
			for (unsigned index = first; index < end; index++)
				model[index] = (uint8_t)((model[index] & 1) | !(round % 2));
			break;
		}
		if (round % 50 == 0)
			compare_with_model(bitmap, model);
	}
	compare_with_model(bitmap, model);
	vb_bitmap_free(bitmap);
}

static void serialized_form_comes_back(void)
{
	struct vb_bitmap *from = new_bitmap(333 * GRANULE + 1, GRANULE), *to = new_bitmap(333 * GRANULE + 1, GRANULE);
	size_t length = vb_bitmap_serialized_bytes(from);
	uint8_t *bytes = malloc(length), *again = malloc(length);

	CHECK_EQUAL(length, 42);
	vb_bitmap_set(from, 0, 1);
	vb_bitmap_set(from, 64 * GRANULE, 65 * GRANULE);
	vb_bitmap_set(from, 333 * GRANULE, 1);
	vb_bitmap_set(to, 5 * GRANULE, 200 * GRANULE);
	vb_bitmap_serialize(from, bytes);
	CHECK_OK(vb_bitmap_deserialize(to, bytes, length, &error) == 0, error);
	vb_bitmap_serialize(to, again);
	CHECK(memcmp(bytes, again, length) == 0);
	CHECK_EQUAL(vb_bitmap_dirty_bytes(to), vb_bitmap_dirty_bytes(from));
	CHECK(vb_bitmap_deserialize(to, bytes, length - 1, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_INVALID, "42 bytes");
	bytes[length - 1] |= 0x80;
	CHECK(vb_bitmap_deserialize(to, bytes, length, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_INVALID, "beyond the end");
	free(bytes);
	free(again);
	vb_bitmap_free(from);
	vb_bitmap_free(to);
}

static void picture_adds_up(void)
{
	static const size_t counts[] = {1, 2, 7, 64, 333, 1000};
	struct vb_bitmap *bitmap = new_bitmap(333 * GRANULE, GRANULE);
	struct vb_bitmap_cell cells[1000];
	uint64_t cursor = 0, start, length;

	vb_bitmap_set(bitmap, 100 * GRANULE, 150 * GRANULE);
	CHECK(vb_bitmap_claim(bitmap, &cursor, 30 * GRANULE, 0, &start, &length));
	for (size_t index = 0; index < sizeof(counts) / sizeof(counts[0]); index++) {
		uint64_t granules = 0, dirty = 0, in_flight = 0;

		vb_bitmap_picture(bitmap, cells, counts[index]);
		for (size_t cell = 0; cell < counts[index]; cell++) {
			CHECK(cells[cell].granule_count > 0);
			granules += cells[cell].granule_count;
			dirty += cells[cell].dirty_count;
			in_flight += cells[cell].in_flight_count;
		}
		if (counts[index] > 333)
			continue;   /* granules are shown more than once */
		CHECK_EQUAL(granules, 333);
		CHECK_EQUAL(dirty, 120);
		CHECK_EQUAL(in_flight, 30);
	}
	vb_bitmap_free(bitmap);
}

/* Threads: one granule is never held by two at once, and what is set is moved in the end. */
#define THREAD_COUNT 4
#define THREAD_GRANULES 5000u

static struct vb_bitmap *shared;
static uint64_t shared_cursor;
static atomic_int holders[THREAD_GRANULES];
static atomic_uint moves[THREAD_GRANULES];
static atomic_bool setter_is_done;

static void *claim_all(void *seed)
{
	unsigned long long state = (unsigned long long)(uintptr_t)seed;
	uint64_t start, length;

	for (;;) {
		bool was_done = atomic_load(&setter_is_done);
		bool moved = test_random(&state) % 8 != 0;

		if (!vb_bitmap_claim(shared, &shared_cursor, 16 * GRANULE, 16 * GRANULE, &start, &length)) {
			if (was_done && vb_bitmap_remaining_bytes(shared) == 0)
				return NULL;
			continue;
		}
		for (uint64_t index = start / GRANULE; index < (start + length) / GRANULE; index++) {
			CHECK_EQUAL(atomic_fetch_add(&holders[index], 1), 0);
			atomic_fetch_add(&moves[index], moved);
		}
		for (uint64_t index = start / GRANULE; index < (start + length) / GRANULE; index++)
			atomic_fetch_sub(&holders[index], 1);
		vb_bitmap_release(shared, start, length, moved);
	}
}

static void threads_never_share_a_granule(void)
{
	pthread_t threads[THREAD_COUNT];
	unsigned long long state = 7;

	shared = new_bitmap((uint64_t)THREAD_GRANULES * GRANULE, GRANULE);
	vb_bitmap_set(shared, 0, UINT64_MAX);
	for (uintptr_t index = 0; index < THREAD_COUNT; index++)
		CHECK_EQUAL(pthread_create(&threads[index], NULL, claim_all, (void *)(index + 1)), 0);
	for (unsigned round = 0; round < 500; round++)
		vb_bitmap_set(shared, test_random(&state) % THREAD_GRANULES * GRANULE, 3 * GRANULE);
	atomic_store(&setter_is_done, true);
	for (unsigned index = 0; index < THREAD_COUNT; index++)
		pthread_join(threads[index], NULL);
	for (unsigned index = 0; index < THREAD_GRANULES; index++)
		CHECK(atomic_load(&moves[index]) > 0);
	CHECK_EQUAL(vb_bitmap_remaining_bytes(shared), 0);
	vb_bitmap_free(shared);
}

static void runs_are_found_in_order(void)
{
	struct vb_bitmap *bitmap = vb_bitmap_new(1000 * 4096 + 100, 4096, &error);
	uint64_t start = 0, length = 0;

	CHECK_OK(bitmap != NULL, error);
	CHECK(!vb_bitmap_next_run(bitmap, 0, &start, &length));
	vb_bitmap_set(bitmap, 5 * 4096 + 7, 4096);
	vb_bitmap_set(bitmap, 990 * 4096, 20 * 4096);
	CHECK(vb_bitmap_next_run(bitmap, 0, &start, &length));
	CHECK_EQUAL(start, 5 * 4096);
	CHECK_EQUAL(length, 2 * 4096);
	CHECK(vb_bitmap_next_run(bitmap, 6 * 4096, &start, &length));
	CHECK_EQUAL(start, 6 * 4096);
	CHECK(vb_bitmap_next_run(bitmap, start + length, &start, &length));
	CHECK_EQUAL(start, 990 * 4096);
	CHECK_EQUAL(length, 10 * 4096 + 100);
	CHECK(!vb_bitmap_next_run(bitmap, start + length, &start, &length));
	vb_bitmap_free(bitmap);
}

int main(void)
{
	RUN(bad_granules_are_refused);
	RUN(empty_disk_has_nothing);
	RUN(last_granule_counts_to_the_end_of_the_disk);
	RUN(set_covers_and_clear_does_not_exceed);
	RUN(a_granule_in_flight_is_claimed_again_only_after_release);
	RUN(random_operations_match_a_plain_array);
	RUN(serialized_form_comes_back);
	RUN(picture_adds_up);
	RUN(threads_never_share_a_granule);
	RUN(runs_are_found_in_order);
	return 0;
}
