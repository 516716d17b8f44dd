/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crashes, replayed by the ten thousand: each scenario runs once on the model disk, and from its log every kind of state is built in
 * which a power loss at any moment may leave the disk. Whatever it is, the scenario's promise holds, what the job reported as done is
 * there, and the job started again ends well.
 *
 * test_crash_states [STATES [SCENARIO]]: how many distinct states, in all or of one scenario; some jobs are too short to have their share.
 * Some states are shown to qemu-img as well.
 */
#include "chain_content.h"
#include "check.h"
#include "crash_states.h"
#include "judge.h"

#if defined(__SANITIZE_ADDRESS__)
#define STATES_BY_DEFAULT 4000u
#else
#define STATES_BY_DEFAULT 16000u
#endif
#define REPEAT_EVERY 13u
#define QEMU_STATES 4u        /* of each scenario */
#define IDLE_ROUNDS_MAX 30u   /* without a new state */

struct counts {
	size_t states;
	size_t verdicts[VERDICT_GOOD + 1];
	size_t repeats;
	size_t qemu_looks;
};

struct replay {
	const struct scenario *scenario;
	const struct contents *contents;
	struct model_disk state;
	size_t wanted_count;
	struct counts counts;
};

/* After the crash the job is started again, and all is well in the end. */
static void repeat(struct replay *replay, enum verdict verdict)
{
	struct vb_error error = {0};

	if (replay->scenario->is_single || (replay->scenario->promise == PROMISE_NEW && verdict == VERDICT_GOOD) ||
	    verdict == VERDICT_LENGTHENED)
		return;   /* the name is taken, or has another size */
	CHECK_OK(replay->scenario->run(replay->scenario, &error) == 0, error);
	model_pause();
	replay->counts.repeats++;
	judge(replay->scenario, replay->contents, MOMENT_REPEATED);
}

static void try_state(struct replay *replay, const struct survival *survival, bool is_ended)
{
	enum verdict verdict;
	bool is_new;

	crash_make(survival, &replay->state);
	is_new = crash_is_new_state(&replay->state);
	/* What was right in the middle may be wrong at the end. */
	if (!is_new && !is_ended)
		return;
	model_disk_copy(&model_disk, &replay->state);
	verdict = judge(replay->scenario, replay->contents, is_ended ? MOMENT_END : MOMENT_ANY);
	if (!is_new)
		return;
	replay->counts.states++;
	replay->counts.verdicts[verdict]++;
	if (replay->counts.states % (replay->wanted_count / QEMU_STATES + 1) == 1) {
		replay->counts.qemu_looks++;
		judge_with_qemu(replay->scenario, verdict);
	}
	if (replay->counts.states % REPEAT_EVERY == 0)
		repeat(replay, verdict);
}

/* Where a sync or the end makes it worth: each pending operation lost alone, or saved alone. */
static void try_single_operations(struct replay *replay, size_t op_count)
{
	for (size_t index = 0; index < op_count; index++) {
		struct survival one = {.kind = SURVIVES_ONE, .which = index}, others = {.kind = SURVIVES_ALL_BUT_ONE, .which = index};

		if (!crash_is_pending(index))
			continue;
		try_state(replay, &one, false);
		try_state(replay, &others, false);
	}
}

static bool is_at_sync(size_t op_count)
{
	return op_count == model_op_count || model_ops[op_count].kind == MODEL_SYNC || model_ops[op_count].kind == MODEL_NAMES_SYNC;
}

static void try_moment(struct replay *replay, size_t op_count, size_t seed_count, unsigned long long round)
{
	bool is_ended = op_count == model_op_count;

	crash_advance(op_count);
	if (round == 0) {
		try_state(replay, &(struct survival){.kind = SURVIVES_NOTHING}, is_ended);
		try_state(replay, &(struct survival){.kind = SURVIVES_ALL}, is_ended);
		if (op_count > 0)
			try_state(replay, &(struct survival){.kind = SURVIVES_ONE, .which = op_count - 1}, is_ended);
		if (is_at_sync(op_count))
			try_single_operations(replay, op_count);
	}
	for (size_t seed = 0; seed < seed_count; seed++)
		try_state(replay, &(struct survival){.kind = SURVIVES_SOME, .seed = (round * 1000003 + op_count) * 1009 + seed}, is_ended);
}

/* Rounds over all moments until there are states enough, or no new ones. */
static void replay_all(struct replay *replay, const struct model_disk *before)
{
	size_t seed_count = replay->wanted_count / (model_op_count + 1) / 4 + 1, idle_rounds = 0;

	crash_begin(before);
	for (unsigned round = 0; replay->counts.states < replay->wanted_count && idle_rounds < IDLE_ROUNDS_MAX; round++) {
		size_t count = replay->counts.states;

		for (size_t op_count = 0; op_count <= model_op_count; op_count++)
			try_moment(replay, op_count, seed_count, round);
		idle_rounds = replay->counts.states == count ? idle_rounds + 1 : 0;
		crash_rewind(before);
	}
	crash_end();
}

/* A scenario that is there for a table that moves must move it. */
static void check_move(const struct scenario *scenario, const struct model_disk *before)
{
	if (scenario->moves_at != 0)
		CHECK(memcmp(model_find(before, SCENARIO_NAME)->bytes + scenario->moves_at,
			     model_find(&model_disk, SCENARIO_NAME)->bytes + scenario->moves_at, 8) != 0);
}

static struct counts replay_scenario(const struct scenario *scenario, size_t wanted_count)
{
	struct model_disk before = {0};
	struct contents contents;
	struct vb_error error = {0};
	struct replay replay = {.scenario = scenario, .contents = &contents, .wanted_count = wanted_count};

	scenario_prepare(scenario);
	scenario_learn(scenario, &contents);
	model_disk_copy(&before, &model_disk);
	model_record();
	CHECK_OK(scenario->run(scenario, &error) == 0, error);
	model_pause();
	CHECK_EQUAL(model_open_count(), 0);
	judge(scenario, &contents, MOMENT_END);
	judge_sources(scenario);
	judge_owner(scenario);
	check_move(scenario, &before);
	replay_all(&replay, &before);
	printf("%-45s %5zu operations %7zu states: %6zu good, %6zu marked, %6zu nothing; %5zu repeated, %zu by qemu-img\n", scenario->name,
	       model_op_count, replay.counts.states, replay.counts.verdicts[VERDICT_GOOD], replay.counts.verdicts[VERDICT_MARKED],
	       replay.counts.verdicts[VERDICT_NOTHING], replay.counts.repeats, replay.counts.qemu_looks);
	fflush(stdout);
	model_disk_free(&before);
	model_disk_free(&replay.state);
	contents_free(&contents);
	return replay.counts;
}

int main(int argument_count, char **arguments)
{
	size_t wanted_count = argument_count > 1 ? strtoul(arguments[1], NULL, 10) : STATES_BY_DEFAULT;
	const char *only = argument_count > 2 ? arguments[2] : NULL;
	size_t state_count = 0, good_count = 0;

	scenarios_make();
	model_start();
	for (size_t index = 0; index < scenario_count; index++) {
		struct counts counts;

		if (only != NULL && strcmp(only, scenarios[index].name) != 0)
			continue;
		counts = replay_scenario(&scenarios[index], only != NULL ? wanted_count : wanted_count / scenario_count + 1);
		state_count += counts.states;
		good_count += counts.verdicts[VERDICT_GOOD];
	}
	model_end();
	printf("%zu distinct crash states, %zu of which open as good images; all of them are right\n", state_count, good_count);
	CHECK(3 * state_count >= 2 * wanted_count);
	return 0;
}
