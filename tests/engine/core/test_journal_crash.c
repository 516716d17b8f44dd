/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs with a journal, crashed at every moment and resumed: each runs once on the model disk, slowly enough for its journal to be written
 * often, and from the log of both files the states are built in which a power loss may leave them. In each of them the job is resumed; it
 * ends, and the result is right to the byte, whatever the journal says and whatever of the destination is lost.
 *
 * test_journal_crash [STATES [CASE]]: how many distinct states of each job, or of one.
 */
#include <errno.h>
#include <stdarg.h>

#include "chain_content.h"
#include "check.h"
#include "copy_runner.h"
#include "crash_states.h"
#include "digest_chain.h"
#include "layer.h"
#include "merge.h"
#include "qcow2.h"
#include "qcow2_checker.h"
#include "script.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STATES_BY_DEFAULT 60u
#else
#define STATES_BY_DEFAULT 250u
#endif
#define IDLE_ROUNDS_MAX 6u
#define SLOW_BYTES_PER_S (320u * 1024)   /* pieces of 32 KiB, ten in a second */
#define COPY_NAME "copy"
#define JOURNAL_NAME "journal"

struct crash_case {
	const char *name;
	const char *images;             /* commands that make the files in the test's folder */
	enum vb_journal_kind kind;
	enum vb_format source_format;   /* of "source" */
	enum vb_format format;          /* of "copy" */
	enum vb_plan_mode mode;
	bool is_extended;
	enum vb_preallocation preallocation;
	const char *bitmap_name;        /* the copy is an earlier one, and brought up to date */
	bool is_second;                 /* an earlier run failed in the middle: what is crashed is the resumption */
};

#define DISK "head -c 70k /dev/urandom >disk; head -c 20k /dev/zero >>disk; head -c 70k /dev/urandom >>disk; "
#define RAW_SOURCE DISK "mv disk source; "
#define REUSED_RAW RAW_SOURCE "head -c 160k /dev/urandom >copy; "
#define REUSED_QCOW2 RAW_SOURCE "qemu-img create -q -f qcow2 -o cluster_size=4k copy 160k; qemu-io -f qcow2 -c 'write -P 3 30k 90k' copy >io.log; "
#define CHAIN                                                                                                               \
	DISK "mv disk base; qemu-img create -q -f qcow2 -o cluster_size=4k -b base -F raw source 160k; "                         \
	     "qemu-io -f qcow2 -c 'write -P 9 20k 30k' -c 'write -z 60k 8k' -c 'write -P 8 100k 50k' source >io.log; "
#define MARKED                                                                                                              \
	DISK "qemu-img convert -f raw -O qcow2 -o cluster_size=4k disk source; qemu-img bitmap --add -g 4k source since; "        \
	     "qemu-io -f qcow2 -c 'write -P 9 20k 60k' -c 'write -z 100k 8k' -c 'write -P 8 120k 30k' source >io.log; "

static const struct crash_case cases[] = {
	{"new raw", RAW_SOURCE, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_RAW, VB_PLAN_FULL, false, 0, NULL, false},
	{"new raw, resumed", RAW_SOURCE, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_RAW, VB_PLAN_FULL, false, 0, NULL, true},
	{"new qcow2", RAW_SOURCE, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_QCOW2, VB_PLAN_FULL, false, 0, NULL, false},
	{"new qcow2, resumed", RAW_SOURCE, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_QCOW2, VB_PLAN_FULL, false, 0, NULL, true},
	{"new qcow2 from a chain, extended L2", CHAIN, VB_JOURNAL_COPY, VB_FORMAT_QCOW2, VB_FORMAT_QCOW2, VB_PLAN_FULL, true, 0, NULL, false},
	{"new qcow2, preallocated", RAW_SOURCE, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_QCOW2, VB_PLAN_FULL, false,
	 VB_PREALLOCATION_FULL, NULL, false},
	{"new shallow qcow2", CHAIN, VB_JOURNAL_COPY, VB_FORMAT_QCOW2, VB_FORMAT_QCOW2, VB_PLAN_TOP, false, 0, NULL, false},
	{"new shallow qcow2, extended L2, preallocated", CHAIN, VB_JOURNAL_COPY, VB_FORMAT_QCOW2, VB_FORMAT_QCOW2, VB_PLAN_TOP, true,
	 VB_PREALLOCATION_FULL, NULL, false},
	{"reused raw", REUSED_RAW, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_RAW, VB_PLAN_FULL, false, 0, NULL, false},
	{"reused qcow2", REUSED_QCOW2, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_QCOW2, VB_PLAN_FULL, false, 0, NULL, false},
	{"reused qcow2, resumed", REUSED_QCOW2, VB_JOURNAL_COPY, VB_FORMAT_RAW, VB_FORMAT_QCOW2, VB_PLAN_FULL, false, 0, NULL, true},
	{"by a bitmap to raw", MARKED "cp disk copy; ", VB_JOURNAL_COPY, VB_FORMAT_QCOW2, VB_FORMAT_RAW, VB_PLAN_FULL, false, 0, "since", false},
	{"by a bitmap to qcow2", MARKED "qemu-img convert -f raw -O qcow2 disk copy; ", VB_JOURNAL_COPY, VB_FORMAT_QCOW2, VB_FORMAT_QCOW2,
	 VB_PLAN_FULL, false, 0, "since", false},
	{"pull", CHAIN, VB_JOURNAL_PULL, VB_FORMAT_QCOW2, VB_FORMAT_QCOW2, VB_PLAN_MERGE, false, 0, NULL, false},
	{"commit into raw", CHAIN, VB_JOURNAL_COMMIT, VB_FORMAT_QCOW2, VB_FORMAT_RAW, VB_PLAN_MERGE, false, 0, NULL, false},
	{"commit into qcow2, resumed",
	 CHAIN "qemu-img convert -f raw -O qcow2 -o cluster_size=4k base qbase; mv qbase base; qemu-img rebase -u -b base -F qcow2 source; ",
	 VB_JOURNAL_COMMIT, VB_FORMAT_QCOW2, VB_FORMAT_QCOW2, VB_PLAN_MERGE, false, 0, NULL, true},
};

/* The lane A and the journal J in a chosen order (script.h): data that is written and not counted, or counted and not durable, or neither,
 * while the journal is at each of its steps; and the end of the copy beside it. */
static const char *const scripts[] = {
	"A:lane wrote > J:journal noted > A:go > A:bitmap released > J:go > J:journal recorded",
	"J:journal noted > A:lane wrote > A:bitmap released > J:go > J:journal recorded",
	"A:bitmap released > J:journal noted > A:lane wrote > J:go > J:journal made durable > A:bitmap released > J:go > J:journal recorded",
	"A:bitmap released > J:journal noted > J:journal made durable > A:lane wrote > A:bitmap released > J:go > J:journal recorded",
	"A:bitmap released > J:journal noted > A:lane found nothing > J:go > J:journal recorded",
};
static const char *const scripted_cases[] = {"new qcow2", "reused qcow2"};

static const char *const names[] = {"source", "base", COPY_NAME};
static const struct crash_case *current;
static uint8_t *content;
static uint64_t content_bytes;
static const uint8_t *old_content;   /* of a reused file */
static char content_digest[VB_DIGEST_TEXT_BYTES];

/* How a run is done: the one that is recorded is slow, the resumed ones are not. */
struct run {
	bool is_slow;
	bool resume;
	bool keeps;
};

struct outcome {
	struct vb_error error;
	struct vb_copy_progress progress;
	bool is_resumed;
	char digest[VB_DIGEST_TEXT_BYTES];
};

static int run_a_copy(const struct run *run, struct outcome *outcome)
{
	bool has_backing = current->mode == VB_PLAN_TOP;
	struct copy_request request = {
		.source = MODEL_FOLDER "/source",
		.source_format = current->source_format,
		.destination = MODEL_FOLDER "/" COPY_NAME,
		.format = current->format,
		.mode = current->mode,
		.reuse = strstr(current->images, COPY_NAME) != NULL,
		.backing_path = has_backing ? "base" : NULL,
		.backing_format = has_backing ? "raw" : NULL,
		.cluster_size_bytes = current->is_extended ? 16384 : 4096,
		.extended_l2 = current->is_extended,
		.preallocation = current->preallocation,
		.granule_bytes = 4096,
		.lane_count = 2,
		.bandwidth_bytes_per_s = run->is_slow ? SLOW_BYTES_PER_S : 0,
		.reflink = VB_REFLINK_NEVER,   /* the model disk shares all, and nothing would be left to crash */
		.bitmap_name = current->bitmap_name,
		.journal_path = MODEL_FOLDER "/" JOURNAL_NAME,
		.journal_interval_ms = 1,
		.resume = run->resume,
		.keeps_unfinished = run->keeps,
		.digest = outcome->digest,
		.is_resumed = &outcome->is_resumed,
	};

	return run_copy(&request, &outcome->progress, &outcome->error);
}

static int run_a_merge(const struct run *run, struct outcome *outcome)
{
	const struct vb_layer_spec top = {.path = MODEL_FOLDER "/source", .format = VB_FORMAT_QCOW2};
	bool is_commit = current->kind == VB_JOURNAL_COMMIT;
	struct vb_merge_request request = {.span = {.is_commit = is_commit, .base_index = is_commit ? 1 : SIZE_MAX}, .durable = true};
	struct vb_copy_options options = {
		.granule_bytes = 4096,
		.lane_count = 2,
		.bandwidth_bytes_per_s = run->is_slow ? SLOW_BYTES_PER_S : 0,
		.journal_path = MODEL_FOLDER "/" JOURNAL_NAME,
		.journal_interval_ms = 1,
		.resume = run->resume,
	};
	struct vb_policy *policy = vb_policy_new(NULL, 0, &outcome->error);
	struct vb_merge *merge = policy == NULL ? NULL : vb_merge_open(policy, &top, 1, false, &request, &options, &outcome->error);
	int result = -1;

	if (merge != NULL) {
		vb_copy_keep_unfinished(vb_merge_copy(merge), run->keeps);
		result = vb_merge_run(merge, &outcome->error);
		vb_copy_progress(vb_merge_copy(merge), &outcome->progress);
		outcome->is_resumed = vb_copy_is_resumed(vb_merge_copy(merge));
	}
	vb_merge_close(merge);
	vb_policy_free(policy);
	return result;
}

static int run_job(const struct run *run, struct outcome *outcome)
{
	int result;

	*outcome = (struct outcome){0};
	result = current->kind == VB_JOURNAL_COPY ? run_a_copy(run, outcome) : run_a_merge(run, outcome);
	CHECK_EQUAL(model_open_count(), 0);
	return result;
}

__attribute__((noreturn, format(printf, 1, 2)))
static void condemn(const char *reason, ...)
{
	va_list arguments;

	for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++)
		if (model_find(&model_disk, names[index]) != NULL)
			model_save(&model_disk, names[index], test_path("judged-%s", names[index]));
	fprintf(stderr, "%s: ", current->name);
	va_start(arguments, reason);
	vfprintf(stderr, reason, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

static void judge_content(const char *name, enum vb_format format)
{
	char path[64];
	struct vb_error error = {0};
	uint64_t size_bytes;
	uint8_t *bytes;

	snprintf(path, sizeof(path), "%s/%s", MODEL_FOLDER, name);
	bytes = read_image(path, format, &size_bytes, &error);
	if (bytes == NULL)
		condemn("'%s' does not open: %s", name, error.message);
	if (size_bytes != content_bytes)
		condemn("'%s' has %llu bytes", name, (unsigned long long)size_bytes);
	for (uint64_t at = 0; at < size_bytes; at++)
		if (bytes[at] != content[at])
			condemn("'%s' is wrong at %llu", name, (unsigned long long)at);
	free(bytes);
}

/* What may leak in a crash stays so, but in a new file. */
static void judge_tables(const char *name)
{
	const struct model_file *file = model_find(&model_disk, name);
	struct qcow2_findings findings;

	if (file == NULL || file->size_bytes < 4 || vb_load_be32(file->bytes) != VB_QCOW2_MAGIC)
		return;
	check_qcow2_bytes(file->bytes, file->size_bytes, &findings);
	if (findings.error_count > 0)
		condemn("'%s': %s", name, findings.first_error);
	if (findings.leak_count > 0 && current->kind == VB_JOURNAL_COPY && strstr(current->images, COPY_NAME) == NULL)
		condemn("'%s' has clusters that nobody refers to", name);
}

static void judge(void)
{
	for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++)
		judge_tables(names[index]);
	judge_content("source", current->source_format);
	if (current->kind == VB_JOURNAL_COPY)
		judge_content(COPY_NAME, current->format);
	else if (current->kind == VB_JOURNAL_COMMIT)
		judge_content("base", current->format);
	if (model_find(&model_disk, JOURNAL_NAME) != NULL || model_find(&model_disk, COPY_NAME VB_PARTIAL_SUFFIX) != NULL)
		condemn("something was left");
}

struct replay {
	struct model_disk state;
	size_t wanted_count, state_count, resumed_count, complete_count;
};

/* The copy is there under its name, and its journal went with its end: nothing tells that it is this job's. */
static bool is_over(const struct outcome *outcome)
{
	const struct model_file *copy = model_find(&model_disk, COPY_NAME);

	return current->kind == VB_JOURNAL_COPY && outcome->error.kind == VB_ERROR_EXISTS && copy != NULL && copy->size_bytes > 0 &&
	       model_find(&model_disk, JOURNAL_NAME) == NULL;
}

/* A raw file that its mark was to be put behind, and behind which something else is: nothing else has changed, and it is refused. */
static bool is_lengthened(const struct outcome *outcome)
{
	const struct model_file *copy = model_find(&model_disk, COPY_NAME);

	return current->format == VB_FORMAT_RAW && outcome->error.kind == VB_ERROR_SIZE && copy->size_bytes > content_bytes &&
	       copy->size_bytes <= content_bytes + 512 &&
	       memcmp(copy->bytes, old_content, content_bytes) == 0;
}

static void resume_state(struct replay *replay)
{
	struct outcome outcome;

	if (run_job(&(struct run){.resume = true}, &outcome) && !is_over(&outcome)) {
		if (is_lengthened(&outcome))
			return;
		condemn("it cannot be resumed: %s: %s", outcome.error.path, outcome.error.message);
	}
	judge();
	if (outcome.is_resumed && outcome.progress.total_bytes > 0)
		replay->resumed_count++;
	else if (outcome.is_resumed)
		replay->complete_count++;
	if (outcome.digest[0] != '\0' && strcmp(outcome.digest, content_digest) != 0)
		condemn("the digest is another one");
	if (outcome.progress.read_bytes + outcome.progress.resumed_bytes > outcome.progress.total_bytes + 16384)
		condemn("what the journal had was read again");
}

static void try_state(struct replay *replay, const struct survival *survival)
{
	crash_make(survival, &replay->state);
	if (!crash_is_new_state(&replay->state))
		return;
	model_disk_copy(&model_disk, &replay->state);
	replay->state_count++;
	resume_state(replay);
}

static void replay_all(struct replay *replay, const struct model_disk *before)
{
	size_t idle_rounds = 0;

	crash_begin(before);
	for (unsigned round = 0; replay->state_count < replay->wanted_count && idle_rounds < IDLE_ROUNDS_MAX; round++) {
		size_t count = replay->state_count;

		for (size_t op_count = 0; op_count <= model_op_count; op_count++) {
			crash_advance(op_count);
			if (round == 0) {
				try_state(replay, &(struct survival){.kind = SURVIVES_NOTHING});
				try_state(replay, &(struct survival){.kind = SURVIVES_ALL});
			}
			try_state(replay, &(struct survival){.kind = SURVIVES_SOME, .seed = round * 1000003ull + op_count});
		}
		idle_rounds = replay->state_count == count ? idle_rounds + 1 : 0;
		crash_rewind(before);
	}
	crash_end();
}

static unsigned write_count;
static struct vb_sys failing_sys;

static ssize_t failing_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	if (length >= 4096 && ++write_count == 3) {
		errno = EIO;
		return -1;
	}
	return model_sys.pwrite(fd, buffer, length, offset);
}

/* Leaves what a run leaves that failed in the middle. */
static void fail_in_the_middle(void)
{
	struct outcome outcome;

	failing_sys = model_sys;
	failing_sys.pwrite = failing_pwrite;
	write_count = 0;
	vb_sys = &failing_sys;
	CHECK(run_job(&(struct run){.is_slow = true, .keeps = true}, &outcome) != 0);
	vb_sys = &model_sys;
	CHECK_EQUAL(outcome.error.system_errno, EIO);
	CHECK(model_find(&model_disk, JOURNAL_NAME) != NULL);
}

static void learn_content(void)
{
	struct vb_error error = {0};
	struct vb_chain *chain = open_chain(MODEL_FOLDER "/source", current->source_format, &error);

	CHECK_OK(chain != NULL, error);
	content = read_chain(chain, &error);
	content_bytes = vb_chain_size_bytes(chain);
	CHECK_OK(content != NULL && vb_digest_chain(chain, false, NULL, content_digest, &error) == 0, error);
	vb_chain_close(chain);
}

static void load_images(void)
{
	model_clear();
	for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++)
		if (test_shell("test -e %s", names[index]) == 0)
			model_load(names[index], test_path("%s", names[index]));
}

static size_t crash_job(const struct crash_case *crash_case, const char *script, size_t wanted_count)
{
	struct replay replay = {.wanted_count = wanted_count};
	struct model_disk before = {0};
	struct outcome outcome;

	current = crash_case;
	CHECK_EQUAL(test_shell("set -e; rm -f source base copy; %s", crash_case->images), 0);
	load_images();
	learn_content();
	if (crash_case->is_second)
		fail_in_the_middle();
	model_disk_copy(&before, &model_disk);
	old_content = model_find(&before, COPY_NAME) ? model_find(&before, COPY_NAME)->bytes : NULL;
	model_record();
	if (script != NULL)
		script_start(script);
	CHECK_OK(run_job(&(struct run){.is_slow = true, .resume = crash_case->is_second}, &outcome) == 0, outcome.error);
	if (script != NULL)
		script_end();
	model_pause();
	CHECK_EQUAL(outcome.is_resumed, crash_case->is_second);
	judge();
	replay_all(&replay, &before);
	printf("%-45s %4zu operations, %5zu states, %5zu resumed, %4zu complete\n", crash_case->name, model_op_count, replay.state_count,
	       replay.resumed_count, replay.complete_count);
	fflush(stdout);
	free(content);
	model_disk_free(&before);
	model_disk_free(&replay.state);
	return replay.resumed_count;
}

static size_t crash_scripted(const char *name, size_t wanted_count)
{
	size_t resumed_count = 0;

	for (size_t index = 0; index < sizeof(cases) / sizeof(cases[0]); index++)
		for (size_t script = 0; script < sizeof(scripts) / sizeof(scripts[0]) && strcmp(cases[index].name, name) == 0; script++)
			resumed_count += crash_job(&cases[index], scripts[script], wanted_count);
	return resumed_count;
}

int main(int argument_count, char **arguments)
{
	size_t wanted_count = argument_count > 1 ? strtoul(arguments[1], NULL, 10) : STATES_BY_DEFAULT, resumed_count = 0;

	model_start();
	for (size_t index = 0; index < sizeof(cases) / sizeof(cases[0]); index++)
		if (argument_count < 3 || strcmp(arguments[2], cases[index].name) == 0)
			resumed_count += crash_job(&cases[index], NULL, wanted_count);
	for (size_t index = 0; index < sizeof(scripted_cases) / sizeof(scripted_cases[0]) && argument_count < 3; index++)
		resumed_count += crash_scripted(scripted_cases[index], wanted_count / 3);
	model_end();
	CHECK(resumed_count > 0);
	return 0;
}
