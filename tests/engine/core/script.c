/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the steps, who took them, and how many are made. */
#include "script.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "point.h"

#define STEPS_MAX 32u
#define NAME_BYTES 48u
#define NO_STEP SIZE_MAX
#define ANYONE '*'
#define POLL_NS 20000

struct step {
	char actor;
	char name[NAME_BYTES];
	atomic_bool is_taken;
};

static struct step steps[STEPS_MAX];
static atomic_size_t step_count, made_count;
static atomic_bool is_cast[128];              /* by letter: some thread is this actor */
static atomic_uint generation;                /* of scripts: who was an actor in an earlier one is none in this one */
static _Thread_local char own_actor;
static _Thread_local unsigned own_generation;
static _Thread_local size_t own_step;         /* between script_turn and script_next */

void script_start(const char *text)
{
	size_t count = 0;

	CHECK(atomic_load(&step_count) == 0);
	memset(is_cast, 0, sizeof(is_cast));
	while (text != NULL) {
		const char *end = strstr(text, " > ");
		size_t length = end != NULL ? (size_t)(end - text) : strlen(text);
		struct step *step = &steps[count++];

		CHECK(count <= STEPS_MAX && length > 2 && length - 2 < NAME_BYTES && text[1] == ':');
		*step = (struct step){.actor = text[0]};
		memcpy(step->name, text + 2, length - 2);
		text = end != NULL ? end + 3 : NULL;
	}
	atomic_fetch_add(&generation, 1);
	atomic_store(&made_count, 0);
	atomic_store(&step_count, count);
}

static void print_steps(void)
{
	size_t made = atomic_load(&made_count);

	for (size_t index = 0; index < atomic_load(&step_count); index++)
		fprintf(stderr, "%s %c:%s\n", index < made ? "made   " : atomic_load(&steps[index].is_taken) ? "waiting" : "open   ",
			steps[index].actor, steps[index].name);
}

void script_end(void)
{
	if (atomic_load(&made_count) != atomic_load(&step_count))
		print_steps();
	CHECK_EQUAL(atomic_load(&made_count), atomic_load(&step_count));
	atomic_store(&step_count, 0);
}

char script_actor(void)
{
	return own_generation == atomic_load_explicit(&generation, memory_order_relaxed) ? own_actor : 0;
}

/* Whether the caller is this actor, or may become it. */
static bool plays(char actor)
{
	bool expected = false;

	if (actor == ANYONE || script_actor() == actor)
		return true;
	if (script_actor() != 0 ||
	    !atomic_compare_exchange_strong_explicit(&is_cast[(size_t)actor], &expected, true, memory_order_relaxed, memory_order_relaxed))
		return false;
	own_actor = actor;
	own_generation = atomic_load_explicit(&generation, memory_order_relaxed);
	return true;
}

static bool is_taken(size_t index)
{
	return atomic_load_explicit(&steps[index].is_taken, memory_order_relaxed);
}

/* An actor makes its steps in turn. */
static bool is_next_of_actor(size_t index)
{
	for (size_t earlier = 0; earlier < index; earlier++)
		if (steps[earlier].actor == steps[index].actor && !is_taken(earlier))
			return false;
	return true;
}

/* The caller's next step, if it is at this point. */
static size_t take(const char *name)
{
	size_t count = atomic_load_explicit(&step_count, memory_order_relaxed);

	for (size_t index = 0; index < count; index++) {
		bool expected = false;

		if (is_taken(index) || strcmp(steps[index].name, name) != 0 || !is_next_of_actor(index) || !plays(steps[index].actor))
			continue;
		if (atomic_compare_exchange_strong_explicit(&steps[index].is_taken, &expected, true, memory_order_relaxed,
							    memory_order_relaxed))
			return index;
	}
	return NO_STEP;
}

static void wait_for(size_t step)
{
	const struct timespec poll = {.tv_nsec = POLL_NS};
	time_t until = time(NULL) + SCRIPT_WAIT_S;

	while (atomic_load_explicit(&made_count, memory_order_relaxed) != step) {
		if (time(NULL) > until) {
			fprintf(stderr, "nobody makes the next step of the script:\n");
			print_steps();
			_exit(1);
		}
		nanosleep(&poll, NULL);
	}
}

static void make(size_t step)
{
	atomic_store_explicit(&made_count, step + 1, memory_order_relaxed);
}

/* The "go" that belongs to a step: the actor's next one. */
static size_t take_go(size_t step)
{
	size_t count = atomic_load_explicit(&step_count, memory_order_relaxed);

	for (size_t index = step + 1; index < count; index++) {
		if (steps[index].actor != steps[step].actor)
			continue;
		if (strcmp(steps[index].name, "go") != 0)
			break;
		atomic_store_explicit(&steps[index].is_taken, true, memory_order_relaxed);
		return index;
	}
	return NO_STEP;
}

void vb_point(const char *name)
{
	size_t step = take(name), go;

	if (step == NO_STEP)
		return;
	go = take_go(step);
	wait_for(step);
	make(step);
	if (go != NO_STEP) {
		wait_for(go);
		make(go);
	}
}

void script_turn(const char *name)
{
	own_step = take(name);
	CHECK(own_step != NO_STEP);
	wait_for(own_step);
}

void script_next(void)
{
	make(own_step);
}
