/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate: a token bucket that can be paused and cancelled.
 *
 * Owns: see throttle.h. Invariants: state changes under the mutex and is announced on the condition; `is_open` is true exactly when
 * there is neither limit, pause nor cancel, and is the only thing that an unlimited copy ever reads.
 */
#include "throttle.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "point.h"

#define NS_PER_S 1000000000ull
#define BURST_PER_S 10u

struct vb_throttle {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	atomic_bool is_open;
	bool paused;
	bool cancelled;
	uint64_t bytes_per_s;   /* 0: no limit */
	double tokens;          /* bytes that may move now; 0 to burst */
	uint64_t filled_ns;     /* when `tokens` was last brought up to date */
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t burst_of(uint64_t bytes_per_s)
{
	if (bytes_per_s == 0)
		return UINT64_MAX;
	return bytes_per_s < BURST_PER_S ? 1 : bytes_per_s / BURST_PER_S;
}

static void lock(const struct vb_throttle *throttle)
{
	pthread_mutex_lock((pthread_mutex_t *)&throttle->mutex);
}

static void unlock(const struct vb_throttle *throttle)
{
	pthread_mutex_unlock((pthread_mutex_t *)&throttle->mutex);
}

/* Called with the mutex held after every change of state. */
static void announce(struct vb_throttle *throttle)
{
	atomic_store(&throttle->is_open, !throttle->bytes_per_s && !throttle->paused && !throttle->cancelled);
	pthread_cond_broadcast(&throttle->changed);
}

struct vb_throttle *vb_throttle_new(uint64_t bytes_per_s, struct vb_error *error)
{
	struct vb_throttle *throttle = calloc(1, sizeof(*throttle));
	pthread_condattr_t attributes;

	if (!throttle) {
		vb_fail(error, VB_ERROR_MEMORY, 0, NULL, -1, "No memory for the speed limit");
		return NULL;
	}
	pthread_mutex_init(&throttle->mutex, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&throttle->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	throttle->bytes_per_s = bytes_per_s;
	throttle->filled_ns = now_ns();
	atomic_init(&throttle->is_open, bytes_per_s == 0);
	return throttle;
}

void vb_throttle_free(struct vb_throttle *throttle)
{
	if (!throttle)
		return;
	pthread_cond_destroy(&throttle->changed);
	pthread_mutex_destroy(&throttle->mutex);
	free(throttle);
}

static void fill(struct vb_throttle *throttle)
{
	uint64_t now = now_ns();
	double burst = (double)burst_of(throttle->bytes_per_s);

	throttle->tokens += (double)(now - throttle->filled_ns) * (double)throttle->bytes_per_s / (double)NS_PER_S;
	if (throttle->tokens > burst)
		throttle->tokens = burst;
	throttle->filled_ns = now;
}

static void sleep_for_tokens(struct vb_throttle *throttle, double missing)
{
	double wait_ns = missing / (double)throttle->bytes_per_s * (double)NS_PER_S;
	uint64_t until_ns = throttle->filled_ns + (uint64_t)wait_ns + 1;
	struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S),
		.tv_nsec = (long)(until_ns % NS_PER_S),
	};

	VB_POINT("throttle sleeps for tokens");
	pthread_cond_timedwait(&throttle->changed, &throttle->mutex, &until);
}

static bool pass_slowly(struct vb_throttle *throttle, uint64_t bytes)
{
	bool may_pass = false;

	lock(throttle);
	while (!throttle->cancelled) {
		if (throttle->paused) {
			VB_POINT("throttle sleeps paused");
			pthread_cond_wait(&throttle->changed, &throttle->mutex);
			continue;
		}
		may_pass = bytes == 0 || throttle->bytes_per_s == 0;
		if (may_pass)
			break;
		fill(throttle);

		uint64_t burst = burst_of(throttle->bytes_per_s);
		uint64_t slice = bytes < burst ? bytes : burst;

		if (throttle->tokens >= (double)slice) {
			throttle->tokens -= (double)slice;
			bytes -= slice;
		} else {
			sleep_for_tokens(throttle, (double)slice - throttle->tokens);
		}
	}
	unlock(throttle);
	return may_pass;
}

bool vb_throttle_pass(struct vb_throttle *throttle, uint64_t bytes)
{
	return atomic_load(&throttle->is_open) || pass_slowly(throttle, bytes);
}

void vb_throttle_set_rate(struct vb_throttle *throttle, uint64_t bytes_per_s)
{
	lock(throttle);
	if (throttle->bytes_per_s)
		fill(throttle);
	else
		throttle->tokens = 0;   /* what moved freely until now must not come on top of the limit's first burst */
	throttle->bytes_per_s = bytes_per_s;
	throttle->filled_ns = now_ns();
	if (throttle->tokens > (double)burst_of(bytes_per_s))
		throttle->tokens = (double)burst_of(bytes_per_s);
	announce(throttle);
	unlock(throttle);
}

uint64_t vb_throttle_rate(const struct vb_throttle *throttle)
{
	lock(throttle);

	uint64_t bytes_per_s = throttle->bytes_per_s;

	unlock(throttle);
	return bytes_per_s;
}

uint64_t vb_throttle_burst_bytes(const struct vb_throttle *throttle)
{
	return atomic_load(&throttle->is_open) ? UINT64_MAX : burst_of(vb_throttle_rate(throttle));
}

void vb_throttle_pause(struct vb_throttle *throttle)
{
	lock(throttle);
	throttle->paused = true;
	announce(throttle);
	unlock(throttle);
}

void vb_throttle_resume(struct vb_throttle *throttle)
{
	lock(throttle);
	throttle->paused = false;
	throttle->filled_ns = now_ns();   /* a pause saves up nothing */
	announce(throttle);
	unlock(throttle);
}

bool vb_throttle_is_paused(const struct vb_throttle *throttle)
{
	lock(throttle);

	bool paused = throttle->paused;

	unlock(throttle);
	return paused;
}

void vb_throttle_cancel(struct vb_throttle *throttle)
{
	lock(throttle);
	throttle->cancelled = true;
	announce(throttle);
	unlock(throttle);
}
