/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pull and commit, crashed at every moment: each merge runs once on the model disk, and from its log the states are built in which a power
 * loss may leave the disk. In each of them the chain opens, the guest reads what it always read, no cluster counts too little, and the
 * merge started again ends well.
 *
 * test_merge_crash [STATES [MERGE]]: how many distinct states of each merge, or of one.
 */
#include "chain_content.h"
#include "check.h"
#include "crash_states.h"
#include "layer.h"
#include "merge.h"
#include "qcow2_checker.h"

#define STATES_BY_DEFAULT 300u
#define REPEAT_EVERY 7u
#define IDLE_ROUNDS_MAX 8u
#define TOP_PATH MODEL_FOLDER "/top"

struct merge_case {
	const char *name;
	const char *images;    /* commands that make the files top, mid, low, base in the test's folder */
	const char *from;      /* commit: the uppermost file that goes down; NULL: a pull */
	const char *to;        /* the file that is the base; NULL: a pull of everything */
	const char *recorded;  /* the backing path to record; NULL: the default */
};

/* `fill FILE SEED COMMANDS...` writes with qemu-io; `over FILE BACKING SIZE OPTIONS` makes an overlay. */
#define PRELUDE                                                                                                             \
	"set -e; rm -f top mid low base; fill() { f=$1; shift; for c in \"$@\"; do set -- -c \"$c\"; qemu-io -f qcow2 \"$@\" $f >io.log; "    \
	"! grep -q failed io.log; done; }; "                                                                                \
	"over() { qemu-img create -q -f qcow2 -b $2 -F $3 -o $5 $1 $4; }; new() { qemu-img create -q -f qcow2 -o $3 $1 $2; }; "
#define RAW_BASE "head -c 100k /dev/urandom >base; "
#define MID_FILL "fill mid 'write -P 11 0 6k' 'write -P 12 20k 12k' 'write -z 40k 8k' 'write -P 13 70k 3k'; "
#define TOP_FILL "fill top 'write -P 21 2k 1k' 'write -P 22 24k 2k' 'write -z 50k 4k'; "
#define CHAIN(top_options, mid_options)                                                                                     \
	RAW_BASE "over mid base raw 96k " mid_options "; " MID_FILL "over top mid qcow2 128k " top_options "; " TOP_FILL

static const struct merge_case cases[] = {
	{"pull all", CHAIN("cluster_size=4k", "cluster_size=2k"), NULL, NULL, NULL},
	{"pull all, 512", CHAIN("cluster_size=512", "cluster_size=4k"), NULL, NULL, NULL},
	{"pull all, version 2", CHAIN("cluster_size=4k,compat=0.10", "cluster_size=1k"), NULL, NULL, NULL},
	{"pull all, extended L2", CHAIN("cluster_size=16k,extended_l2=on", "cluster_size=1k"), NULL, NULL, NULL},
	{"pull to the base", CHAIN("cluster_size=4k", "cluster_size=512"), NULL, "base", NULL},
	{"pull to the base, 512, a relative name", CHAIN("cluster_size=512", "cluster_size=4k"), NULL, "base", "base"},
	{"pull to the base, extended L2", CHAIN("cluster_size=16k,extended_l2=on", "cluster_size=2k"), NULL, "base", NULL},
	{"pull to the base, version 2", CHAIN("cluster_size=1k,compat=0.10", "cluster_size=4k"), NULL, "base", NULL},
	{"pull with a bitmap", CHAIN("cluster_size=4k", "cluster_size=2k") "qemu-img bitmap --add top one; ", NULL, NULL, NULL},
	{"commit the middle into a raw file", CHAIN("cluster_size=4k", "cluster_size=2k"), "mid", "base", NULL},
	{"commit the top into a raw file", CHAIN("cluster_size=4k", "cluster_size=2k"), "top", "base", NULL},
	{"commit the top by one", CHAIN("cluster_size=4k", "cluster_size=2k"), "top", "mid", NULL},
	{"commit the top by one, extended L2 below", CHAIN("cluster_size=1k", "cluster_size=16k,extended_l2=on"), "top", "mid", NULL},
	{"commit the top by one, version 2 below", CHAIN("cluster_size=1k", "cluster_size=4k,compat=0.10"), "top", "mid", NULL},
	{"commit the middle into a short qcow2 over a long raw file",
	 RAW_BASE "over low base raw 33k cluster_size=4k; fill low 'write -P 3 30k 1k'; over mid low qcow2 96k cluster_size=1k; " MID_FILL
		  "over top mid qcow2 96k cluster_size=4k; " TOP_FILL, "mid", "low", "low"},
	{"commit a short middle into a long base with a snapshot",
	 "new base 128k cluster_size=2k; fill base 'write -P 5 0 128k'; qemu-img snapshot -c one base; fill base 'write -P 6 10k 100k'; "
	 "over mid base qcow2 75k cluster_size=1k; " MID_FILL "over top mid qcow2 100k cluster_size=4k; " TOP_FILL, "mid", "base", NULL},
	{"commit into compressed clusters, 512",
	 "yes words | head -c 96k >raw; qemu-img convert -c -f raw -O qcow2 -o cluster_size=512 raw base; "
	 "over mid base qcow2 96k cluster_size=1k; " MID_FILL "over top mid qcow2 96k cluster_size=512; " TOP_FILL, "mid", "base", NULL},
};

static const char *const names[] = {"top", "mid", "low", "base"};
static uint8_t *content;
static uint64_t content_bytes;
static const struct merge_case *current;

/* The layer of the chain from the top that has this name; SIZE_MAX if none has. */
static size_t find_layer(const struct vb_chain *chain, const char *name)
{
	for (size_t index = 0; index < vb_chain_depth(chain); index++)
		if (strcmp(vb_layer_file(vb_chain_layer(chain, index))->name, name) == 0)
			return index;
	return SIZE_MAX;
}

/* 0 without doing anything where the layers to be committed are gone from the chain already. */
static int run_merge(struct vb_error *error)
{
	struct vb_merge_request request = {.span.is_commit = current->from != NULL, .backing_path = current->recorded, .durable = true};
	struct vb_copy_options options = {.granule_bytes = 4096, .lane_count = 1};
	struct vb_layer_spec top = {.path = TOP_PATH, .format = VB_FORMAT_QCOW2};
	struct vb_policy *policy = vb_policy_new(NULL, 0, error);
	struct vb_chain *chain = open_chain(TOP_PATH, VB_FORMAT_QCOW2, error);
	int result = 0;

	CHECK_OK(policy != NULL && chain != NULL, *error);
	request.span.base_index = current->to ? find_layer(chain, current->to) : SIZE_MAX;
	request.span.top_index = current->from ? find_layer(chain, current->from) : 0;
	vb_chain_close(chain);
	if (request.span.top_index != SIZE_MAX) {
		struct vb_merge *merge = vb_merge_open(policy, &top, 1, false, &request, &options, error);

		result = merge ? vb_merge_run(merge, error) : -1;
		vb_merge_close(merge);
	}
	vb_policy_free(policy);
	return result;
}

__attribute__((noreturn))
static void condemn(const char *reason)
{
	for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++)
		if (model_find(&model_disk, names[index]) != NULL)
			model_save(&model_disk, names[index], test_path("judged-%s", names[index]));
	fprintf(stderr, "%s: %s\n", current->name, reason);
	exit(1);
}

static void judge_tables(bool are_leaks_allowed)
{
	struct qcow2_findings findings;

	for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++) {
		const struct model_file *file = model_find(&model_disk, names[index]);

		if (file == NULL || file->size_bytes < 4 || vb_load_be32(file->bytes) != VB_QCOW2_MAGIC)
			continue;
		check_qcow2_bytes(file->bytes, file->size_bytes, &findings);
		if (findings.error_count > 0)
			condemn(findings.first_error);
		if (findings.leak_count > 0 && !are_leaks_allowed)
			condemn("clusters that nobody refers to have a refcount");
	}
}

/* What the guest reads. An active commit leaves the top above its base, or the base alone. */
static void judge_content(const char *name)
{
	char path[64];
	struct vb_error error = {0};
	uint64_t size_bytes;
	enum vb_format format = vb_load_be32(model_find(&model_disk, name)->bytes) == VB_QCOW2_MAGIC ? VB_FORMAT_QCOW2 : VB_FORMAT_RAW;

	snprintf(path, sizeof(path), "%s/%s", MODEL_FOLDER, name);

	uint8_t *bytes = read_image(path, format, &size_bytes, &error);

	if (bytes == NULL)
		condemn(error.message);
	if (size_bytes < content_bytes || memcmp(bytes, content, content_bytes) != 0)
		condemn("the guest reads something else");
	free(bytes);
}

/* The images that have moved are not needed any more. */
static void judge_end(void)
{
	struct vb_error error = {0};
	struct vb_chain *chain = open_chain(TOP_PATH, VB_FORMAT_QCOW2, &error);

	CHECK_OK(chain != NULL, error);
	if (current->from == NULL || strcmp(current->from, "top") != 0)
		CHECK_EQUAL(find_layer(chain, "mid"), SIZE_MAX);
	vb_chain_close(chain);
	if (current->from && strcmp(current->from, "top") == 0)
		judge_content(current->to);
}

static void judge(bool is_ended, bool are_leaks_allowed)
{
	judge_content("top");
	judge_tables(are_leaks_allowed);
	if (is_ended)
		judge_end();
}

struct replay {
	struct model_disk state;
	size_t wanted_count, state_count, repeat_count;
};

static void try_state(struct replay *replay, const struct survival *survival, bool is_ended)
{
	struct vb_error error = {0};

	crash_make(survival, &replay->state);
	if (!crash_is_new_state(&replay->state) && !is_ended)
		return;
	model_disk_copy(&model_disk, &replay->state);
	judge(is_ended, !is_ended);
	if (++replay->state_count % REPEAT_EVERY != 0)
		return;
	CHECK_OK(run_merge(&error) == 0, error);
	judge(true, true);
	replay->repeat_count++;
}

static void replay_all(struct replay *replay, const struct model_disk *before)
{
	size_t idle_rounds = 0;

	crash_begin(before);
	for (unsigned round = 0; replay->state_count < replay->wanted_count && idle_rounds < IDLE_ROUNDS_MAX; round++) {
		size_t count = replay->state_count;

		for (size_t op_count = 0; op_count <= model_op_count; op_count++) {
			bool is_ended = op_count == model_op_count;

			crash_advance(op_count);
			if (round == 0) {
				try_state(replay, &(struct survival){.kind = SURVIVES_NOTHING}, is_ended);
				try_state(replay, &(struct survival){.kind = SURVIVES_ALL}, is_ended);
			}
			try_state(replay, &(struct survival){.kind = SURVIVES_SOME, .seed = round * 1000003ull + op_count}, is_ended);
		}
		idle_rounds = replay->state_count == count ? idle_rounds + 1 : 0;
		crash_rewind(before);
	}
	crash_end();
}

static void load_images(void)
{
	model_clear();
	for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++)
		if (test_shell("test -e %s", names[index]) == 0)
			model_load(names[index], test_path("%s", names[index]));
}

static void crash_merge(const struct merge_case *merge_case, size_t wanted_count)
{
	struct replay replay = {.wanted_count = wanted_count};
	struct model_disk before = {0};
	struct vb_error error = {0};

	current = merge_case;
	CHECK_EQUAL(test_shell("%s%s", PRELUDE, merge_case->images), 0);
	load_images();
	content = read_image(TOP_PATH, VB_FORMAT_QCOW2, &content_bytes, &error);
	CHECK_OK(content != NULL, error);
	model_disk_copy(&before, &model_disk);
	model_record();
	CHECK_OK(run_merge(&error) == 0, error);
	model_pause();
	CHECK_EQUAL(model_open_count(), 0);
	CHECK(model_op_count > 3);
	judge(true, false);
	replay_all(&replay, &before);
	printf("%-60s %4zu operations, %5zu states, %4zu run again\n", merge_case->name, model_op_count, replay.state_count,
	       replay.repeat_count);
	fflush(stdout);
	free(content);
	model_disk_free(&before);
	model_disk_free(&replay.state);
}

int main(int argument_count, char **arguments)
{
	size_t wanted_count = argument_count > 1 ? strtoul(arguments[1], NULL, 10) : STATES_BY_DEFAULT;

	model_start();
	for (size_t index = 0; index < sizeof(cases) / sizeof(cases[0]); index++)
		if (argument_count < 3 || strcmp(arguments[2], cases[index].name) == 0)
			crash_merge(&cases[index], wanted_count);
	model_end();
	return 0;
}
