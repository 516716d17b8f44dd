/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every system call fails in every way that it may, in every scenario. Whatever fails: either the job succeeds and is right, or it
 * says what failed and where, and the scenario's promise holds, also after a power loss; no descriptor stays open, no source changes; and
 * when the fault is gone, the same job has success.
 *
 * test_fault_matrix [CALLS [SCENARIO]]: at how many calls of each slot the fault strikes; 0 is every one.
 */
#include <errno.h>
#include <unistd.h>

#include "check.h"
#include "crash_states.h"
#include "fault_table.h"
#include "judge.h"

#if defined(__SANITIZE_ADDRESS__)
#define CALLS_BY_DEFAULT 1u
#else
#define CALLS_BY_DEFAULT 4u
#endif
#define FAULTS_MAX 12u
#define LOST_STATES 3u   /* of each failure: what a power loss behind it may leave */
#define HANG_S 120u

enum demand {
	DEMAND_NONE = 0,   /* the job may succeed: there may be another way, or the call is for something that is not needed */
	DEMAND_FAILURE,
	DEMAND_SUCCESS
};

struct kind {
	int number;
	enum demand demand;
};

/* One row for each slot; a row that no scenario reaches fails the test. */
static const struct kind matrix[SLOT_COUNT][FAULTS_MAX] = {
	[SLOT_realpath] = {{EACCES, 0}, {EIO, 0}, {ENOMEM, 0}, {ELOOP, 0}},
	[SLOT_openat] = {{EIO, 0}, {EMFILE, 0}, {ENOMEM, 0}, {EACCES, 0}, {EINTR, 0}},
	[SLOT_openat_resolve] = {{EIO, 0}, {EMFILE, 0}, {ENOMEM, 0}, {EACCES, 0}, {EINTR, DEMAND_SUCCESS}},
	[SLOT_close] = {{EIO, DEMAND_SUCCESS}, {EINTR, DEMAND_SUCCESS}, {ENOSPC, DEMAND_SUCCESS}, {EDQUOT, DEMAND_SUCCESS}},
	[SLOT_pread] = {{EIO, DEMAND_FAILURE}, {ENOMEM, DEMAND_FAILURE}, {EINTR, DEMAND_SUCCESS}, {FAULT_SHORT, DEMAND_SUCCESS}},
	[SLOT_pwrite] = {{EIO, DEMAND_FAILURE}, {ENOSPC, DEMAND_FAILURE}, {EDQUOT, DEMAND_FAILURE}, {ENOMEM, DEMAND_FAILURE},
			 {EFBIG, DEMAND_FAILURE}, {FAULT_FULL, DEMAND_NONE}, {EINTR, DEMAND_SUCCESS}, {FAULT_SHORT, DEMAND_SUCCESS}},
	[SLOT_fstat] = {{EIO, 0}, {ENOMEM, 0}},
	[SLOT_fstatfs] = {{EIO, 0}, {ENOSYS, 0}},
	[SLOT_ftruncate] = {{EIO, DEMAND_FAILURE}, {ENOSPC, DEMAND_FAILURE}, {EDQUOT, DEMAND_FAILURE}, {EFBIG, DEMAND_FAILURE}, {EINTR, 0}},
	[SLOT_fallocate] = {{EOPNOTSUPP, DEMAND_SUCCESS}, {ENOSYS, DEMAND_SUCCESS}, {EINTR, DEMAND_SUCCESS}, {EIO, 0}, {ENOSPC, 0},
			    {EDQUOT, 0}},
	[SLOT_lseek] = {{EIO, 0}, {EINVAL, 0}, {EOPNOTSUPP, 0}},
	[SLOT_fdatasync] = {{EIO, DEMAND_FAILURE}, {ENOSPC, DEMAND_FAILURE}, {EDQUOT, DEMAND_FAILURE}, {EINTR, DEMAND_SUCCESS}},
	[SLOT_fsync] = {{EIO, DEMAND_FAILURE}, {ENOSPC, DEMAND_FAILURE}, {EDQUOT, DEMAND_FAILURE}, {EINTR, DEMAND_SUCCESS}},
	[SLOT_renameat] = {{EIO, DEMAND_FAILURE}, {ENOSPC, DEMAND_FAILURE}, {EDQUOT, DEMAND_FAILURE}, {EACCES, DEMAND_FAILURE},
			   {EXDEV, DEMAND_FAILURE}},
	[SLOT_unlinkat] = {{EIO, 0}, {EACCES, 0}, {EBUSY, 0}},
	[SLOT_fchown] = {{EPERM, DEMAND_FAILURE}, {EIO, DEMAND_FAILURE}},
	[SLOT_fchmod] = {{EPERM, DEMAND_FAILURE}, {EIO, DEMAND_FAILURE}},
	[SLOT_ioctl_u64] = {{EIO, 0}, {ENOTTY, 0}, {EOPNOTSUPP, 0}, {EINTR, 0}},
	[SLOT_fcntl_lock] = {{EAGAIN, DEMAND_FAILURE}, {EIO, DEMAND_FAILURE}, {ENOLCK, 0}, {EINTR, DEMAND_SUCCESS}},
	[SLOT_fadvise] = {{EIO, DEMAND_SUCCESS}, {EINVAL, DEMAND_SUCCESS}},
	[SLOT_sync_file_range] = {{EIO, DEMAND_SUCCESS}, {ENOSPC, DEMAND_SUCCESS}, {EINVAL, DEMAND_SUCCESS}},
	[SLOT_clone_range] = {{EOPNOTSUPP, DEMAND_SUCCESS}, {EXDEV, DEMAND_SUCCESS}, {EINVAL, DEMAND_SUCCESS}, {ENOSPC, DEMAND_SUCCESS},
			      {EINTR, DEMAND_SUCCESS}, {EIO, DEMAND_FAILURE}, {EDQUOT, 0}},
};

struct trial {
	const struct scenario *scenario;
	const struct contents *contents;
	const struct model_disk *before;
	struct model_disk state;
	struct fault fault;
};

static size_t strikes[SLOT_COUNT];
static size_t failure_count, success_count;

static void describe(const struct fault *fault)
{
	snprintf(judge_occasion, sizeof(judge_occasion), "call %u of %s fails with %d (%s)%s", fault->first, fault_slot_names[fault->slot],
		 fault->number, fault->number > 0 ? strerror(fault->number) : "short", fault->is_lasting ? ", and all later ones" : "");
}

static void blame(const struct trial *trial, const struct vb_error *error, const char *reason)
{
	fprintf(stderr, "%s: %s: %s\n\tkind %d, errno %d, path \"%s\": %s\n", trial->scenario->name, judge_occasion, reason,
		(int)error->kind, error->system_errno, error->path, error->message);
}

#define DEMAND(trial, error, condition)                               \
	do {                                                          \
		if (!(condition)) {                                   \
			blame(trial, error, "failed: " #condition);   \
			exit(1);                                      \
		}                                                     \
	} while (0)

static bool is_right_kind(const struct fault *fault, const struct vb_error *error)
{
	int number = fault->number == FAULT_FULL ? ENOSPC : fault->number;

	switch (error->kind) {
	case VB_ERROR_SYSTEM:
		return error->system_errno == number;
	case VB_ERROR_MEMORY:
		return number == ENOMEM;
	case VB_ERROR_LOCKED:
		return fault->slot == SLOT_fcntl_lock && number == EAGAIN;
	default:
		return false;
	}
}

static void check_failure(const struct trial *trial, const struct vb_error *error)
{
	DEMAND(trial, error, is_right_kind(&trial->fault, error));
	DEMAND(trial, error, error->message[0] >= 'A' && error->message[0] <= 'Z');
	DEMAND(trial, error, strncmp(error->path, MODEL_FOLDER, strlen(MODEL_FOLDER)) == 0);
}

/* Whatever of the job's changes a power loss now would take, what is left keeps the promise. */
static void lose_power(struct trial *trial, enum moment moment)
{
	crash_begin(trial->before);
	crash_advance(model_op_count);
	for (unsigned index = 0; index < LOST_STATES + 2; index++) {
		struct survival survival = {.kind = index == 0   ? SURVIVES_NOTHING
						    : index == 1 ? SURVIVES_ALL
								 : SURVIVES_SOME,
					    .seed = trial->fault.first * 31ull + index};

		crash_make(&survival, &trial->state);
		model_disk_copy(&model_disk, &trial->state);
		judge(trial->scenario, trial->contents, moment);
	}
	crash_end();
}

/* The fault is gone. A name that was taken in the end is taken by the whole image. */
static void run_again(struct trial *trial)
{
	const struct model_file *file = model_find(&model_disk, SCENARIO_NAME);
	struct vb_error error = {0};

	/* The empty file that the name leads to could not be removed, or may be another's. */
	if (trial->scenario->is_single &&
	    (trial->fault.slot == SLOT_unlinkat || trial->fault.slot == SLOT_fstat || trial->fault.slot == SLOT_fcntl_lock))
		return;
	if (trial->scenario->promise == PROMISE_NEW && file != NULL && file->size_bytes > 0) {
		judge(trial->scenario, trial->contents, MOMENT_END);
		return;
	}
	DEMAND(trial, &error, trial->scenario->run(trial->scenario, &error) == 0);
	judge(trial->scenario, trial->contents, MOMENT_REPEATED);
	judge_sources(trial->scenario);
}

static void try_fault(struct trial *trial, enum demand demand)
{
	struct vb_error error = {0};
	struct model_disk after = {0};
	bool has_struck;
	int result;

	describe(&trial->fault);
	model_clear();
	model_disk_copy(&model_disk, trial->before);
	model_record();
	fault_start(&model_sys, &trial->fault);
	result = trial->scenario->run(trial->scenario, &error);
	has_struck = fault_stop();
	model_pause();
	alarm(HANG_S);
	DEMAND(trial, &error, model_open_count() == 0);
	DEMAND(trial, &error, !has_struck || demand == DEMAND_NONE || (result == 0) == (demand == DEMAND_SUCCESS));
	DEMAND(trial, &error, has_struck || result == 0);
	strikes[trial->fault.slot] += has_struck;
	failure_count += result != 0;
	success_count += result == 0;
	if (result != 0)
		check_failure(trial, &error);
	judge(trial->scenario, trial->contents, result != 0 ? MOMENT_ANY : MOMENT_END);
	judge_sources(trial->scenario);
	model_disk_copy(&after, &model_disk);
	lose_power(trial, result != 0 ? MOMENT_ANY : MOMENT_END);
	model_disk_copy(&model_disk, &after);
	model_disk_free(&after);
	if (result != 0)
		run_again(trial);
}

/* A copy may go on without its journal. */
static enum demand demand_of(const struct scenario *scenario, const struct kind *kind)
{
	return scenario->has_journal && kind->demand == DEMAND_FAILURE ? DEMAND_NONE : kind->demand;
}

/* The first call, the last, and others between them. */
static void try_kind(struct trial *trial, const struct kind *kind, unsigned call_count, unsigned wanted_count, unsigned turn)
{
	unsigned count = wanted_count == 0 || wanted_count > call_count ? call_count : wanted_count;

	for (unsigned index = 0; index < count; index++) {
		unsigned first = count == 1 ? 1 + turn * 7919 % call_count : 1 + (unsigned)((uint64_t)index * (call_count - 1) / (count - 1));

		trial->fault.number = kind->number;
		trial->fault.first = first;
		trial->fault.is_lasting = kind->number == FAULT_FULL || (turn + index) % 2 != 0;
		try_fault(trial, demand_of(trial->scenario, kind));
	}
}

static void try_scenario(const struct scenario *scenario, unsigned wanted_count, unsigned turn)
{
	unsigned call_counts[SLOT_COUNT];
	struct model_disk before = {0};
	struct contents contents;
	struct trial trial = {.scenario = scenario, .contents = &contents, .before = &before};
	struct vb_error error = {0};

	scenario_prepare(scenario);
	scenario_learn(scenario, &contents);
	model_disk_copy(&before, &model_disk);
	fault_start(&model_sys, &trial.fault);
	CHECK_OK(scenario->run(scenario, &error) == 0, error);
	fault_stop();
	memcpy(call_counts, fault_call_counts, sizeof(call_counts));
	for (enum fault_slot slot = 0; slot < SLOT_COUNT; slot++) {
		trial.fault.slot = slot;
		for (unsigned index = 0; index < FAULTS_MAX && matrix[slot][index].number != 0 && call_counts[slot] > 0; index++)
			try_kind(&trial, &matrix[slot][index], call_counts[slot], wanted_count, turn + slot + index);
	}
	model_clear();
	model_disk_free(&before);
	model_disk_free(&trial.state);
	contents_free(&contents);
}

int main(int argument_count, char **arguments)
{
	unsigned wanted_count = argument_count > 1 ? (unsigned)strtoul(arguments[1], NULL, 10) : CALLS_BY_DEFAULT;
	const char *only = argument_count > 2 ? arguments[2] : NULL;

	scenarios_make();
	model_start();
	for (size_t index = 0; index < scenario_count; index++)
		if (only == NULL || strcmp(only, scenarios[index].name) == 0)
			try_scenario(&scenarios[index], wanted_count, (unsigned)index);
	model_end();
	printf("%zu faults: %zu ended in an error, %zu in a success\n", failure_count + success_count, failure_count, success_count);
	for (enum fault_slot slot = 0; slot < SLOT_COUNT; slot++) {
		printf("%-16s %6zu\n", fault_slot_names[slot], strikes[slot]);
		CHECK(matrix[slot][0].number != 0 && (only != NULL || strikes[slot] > 0));
	}
	return 0;
}
