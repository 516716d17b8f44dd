/* SPDX-License-Identifier: Apache-2.0 */
/* The gate: the limit holds from the first byte on, and whoever sleeps in it wakes when the world changes. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "throttle.h"

static struct vb_error error;

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct vb_throttle *new_throttle(uint64_t bytes_per_s)
{
	struct vb_throttle *throttle = vb_throttle_new(bytes_per_s, &error);

	CHECK_OK(throttle != NULL, error);
	return throttle;
}

static void without_limit_everything_passes(void)
{
	struct vb_throttle *throttle = new_throttle(0);

	CHECK_EQUAL(vb_throttle_burst_bytes(throttle), -1);
	for (unsigned index = 0; index < 1000; index++)
		CHECK(vb_throttle_pass(throttle, UINT64_MAX));
	vb_throttle_free(throttle);
}

/* At no moment has more passed than rate * time + 100 ms worth; and in the end not much less. */
static void limit_holds_at_every_moment(void)
{
	static const uint64_t pieces[] = {1000, 64 * 1024, 300 * 1024};
	const double rate = 1e6;

	for (size_t index = 0; index < sizeof(pieces) / sizeof(pieces[0]); index++) {
		struct vb_throttle *throttle = new_throttle((uint64_t)rate);
		double started_s = now_s(), passed = 0;

		CHECK_EQUAL(vb_throttle_burst_bytes(throttle), 100000);
		while (passed < 0.6 * rate) {
			CHECK(vb_throttle_pass(throttle, pieces[index]));
			passed += (double)pieces[index];
			CHECK(passed <= rate * (now_s() - started_s) + rate / 10 + 1);
		}
		CHECK(now_s() - started_s < passed / rate + 2);
		vb_throttle_free(throttle);
	}
}

static void tiny_limit_is_still_a_limit(void)
{
	struct vb_throttle *throttle = new_throttle(5);
	double started_s = now_s();

	CHECK_EQUAL(vb_throttle_burst_bytes(throttle), 1);
	CHECK(vb_throttle_pass(throttle, 2));
	CHECK(now_s() - started_s >= 0.19);
	vb_throttle_free(throttle);
}

struct sleeper {
	struct vb_throttle *throttle;
	uint64_t bytes;
	pthread_t thread;
	bool passed;
	atomic_bool is_through;
};

static void *sleep_in_gate(void *opaque)
{
	struct sleeper *sleeper = opaque;

	sleeper->passed = vb_throttle_pass(sleeper->throttle, sleeper->bytes);
	atomic_store(&sleeper->is_through, true);
	return NULL;
}

static void start_sleeper(struct sleeper *sleeper, struct vb_throttle *throttle, uint64_t bytes)
{
	*sleeper = (struct sleeper){.throttle = throttle, .bytes = bytes};
	CHECK_EQUAL(pthread_create(&sleeper->thread, NULL, sleep_in_gate, sleeper), 0);
	usleep(50 * 1000);
	CHECK(!atomic_load(&sleeper->is_through));
}

static bool wait_for(struct sleeper *sleeper)
{
	double started_s = now_s();

	pthread_join(sleeper->thread, NULL);
	CHECK(now_s() - started_s < 1.0);
	return sleeper->passed;
}

static void cancel_wakes_sleepers_for_good(void)
{
	struct vb_throttle *throttle = new_throttle(10);
	struct sleeper first, second;

	start_sleeper(&first, throttle, 1000000);
	start_sleeper(&second, throttle, 1000000);
	vb_throttle_cancel(throttle);
	CHECK(!wait_for(&first));
	CHECK(!wait_for(&second));
	CHECK(!vb_throttle_pass(throttle, 0));
	vb_throttle_set_rate(throttle, 0);
	vb_throttle_resume(throttle);
	CHECK(!vb_throttle_pass(throttle, 0));
	vb_throttle_free(throttle);
}

static void new_limit_reaches_sleepers(void)
{
	struct vb_throttle *throttle = new_throttle(10);
	struct sleeper sleeper;

	start_sleeper(&sleeper, throttle, 1000000);
	vb_throttle_set_rate(throttle, 0);
	CHECK(wait_for(&sleeper));
	CHECK_EQUAL(vb_throttle_rate(throttle), 0);
	vb_throttle_set_rate(throttle, 10);
	start_sleeper(&sleeper, throttle, 1000000);
	vb_throttle_set_rate(throttle, 100000000);
	CHECK(wait_for(&sleeper));
	vb_throttle_free(throttle);
}

static void pause_holds_even_nothing(void)
{
	struct vb_throttle *throttle = new_throttle(0);
	struct sleeper sleeper;

	vb_throttle_pause(throttle);
	CHECK(vb_throttle_is_paused(throttle));
	start_sleeper(&sleeper, throttle, 0);
	vb_throttle_set_rate(throttle, 1000);
	usleep(20 * 1000);
	CHECK(!atomic_load(&sleeper.is_through));
	vb_throttle_resume(throttle);
	CHECK(wait_for(&sleeper));
	vb_throttle_pause(throttle);
	start_sleeper(&sleeper, throttle, 0);
	vb_throttle_cancel(throttle);
	CHECK(!wait_for(&sleeper));
	vb_throttle_free(throttle);
}

/* Time that was spent paused, or without a limit, is not saved up for a burst. */
static void nothing_is_saved_up(void)
{
	struct vb_throttle *throttle = new_throttle(1000000);
	double started_s;

	vb_throttle_pause(throttle);
	usleep(300 * 1000);
	vb_throttle_resume(throttle);
	started_s = now_s();
	CHECK(vb_throttle_pass(throttle, 300000));
	CHECK(now_s() - started_s >= 0.19);
	vb_throttle_set_rate(throttle, 0);
	usleep(100 * 1000);
	vb_throttle_set_rate(throttle, 1000000);
	started_s = now_s();
	CHECK(vb_throttle_pass(throttle, 200000));
	CHECK(now_s() - started_s >= 0.19);
	vb_throttle_free(throttle);
}

int main(void)
{
	RUN(without_limit_everything_passes);
	RUN(limit_holds_at_every_moment);
	RUN(tiny_limit_is_still_a_limit);
	RUN(cancel_wakes_sleepers_for_good);
	RUN(new_limit_reaches_sleepers);
	RUN(pause_holds_even_nothing);
	RUN(nothing_is_saved_up);
	return 0;
}
