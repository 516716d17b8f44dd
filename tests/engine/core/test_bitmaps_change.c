/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Persistent bitmaps added, removed and cleared, crashed at every moment: whatever a power loss leaves, the image is consistent, reads as
 * before, and holds the bitmaps from before or from after the change, or says that they are not valid. Some states are shown to qemu-img.
 */
#include "chain_content.h"
#include "check.h"
#include "crash_states.h"
#include "qcow2.h"
#include "qcow2_bitmaps.h"
#include "qcow2_checker.h"

#define IMAGE_NAME "image"
#define IMAGE_PATH MODEL_FOLDER "/" IMAGE_NAME
#define NAMES_BYTES 512u
#define SEEDS_OF_A_MOMENT 12u
#define QEMU_EVERY 60u

static struct vb_error error;
static struct vb_policy *policy;

enum change_kind { ADD, REMOVE, CLEAR };

struct change {
	const char *image;
	enum change_kind kind;
	const char *name;
	bool moves_reftable;
};

static const struct change changes[] = {
	{"plain", ADD, "new", false},       {"plain", REMOVE, "first", false},   {"plain", CLEAR, "first", false},
	{"none", ADD, "new", false},        {"two", REMOVE, "first", false},     {"two", CLEAR, "second", false},
	{"overlay", ADD, "new", false},     {"overlay", REMOVE, "first", false}, {"invalid", ADD, "new", false},
	{"invalid", REMOVE, "first", false}, {"snapshot", CLEAR, "first", false}, {"tiny", ADD, "new", false},
	{"tiny", REMOVE, "first", false},   {"onebit", CLEAR, "first", false},   {"wide", CLEAR, "first", false},
	{"subclusters", ADD, "new", false}, {"subclusters", REMOVE, "first", false}, {"brim", ADD, "new", true},
	{"bare", ADD, "new", false},        {"large", ADD, "new", false},        {"marked", ADD, "new", false},
	{"marked", REMOVE, "first", false}, {"marked", CLEAR, "first", false},
};

static int make_change(const struct change *change)
{
	struct vb_new_bitmap wanted = {.name = change->name, .granularity_bytes = 512, .is_enabled = true};

	if (change->kind == ADD)
		return vb_image_add_bitmap(policy, IMAGE_PATH, &wanted, &error);
	return change->kind == REMOVE ? vb_image_remove_bitmap(policy, IMAGE_PATH, change->name, &error)
				      : vb_image_clear_bitmap(policy, IMAGE_PATH, change->name, &error);
}

/* The bitmaps of the model disk's image in words. False: they are there, but not valid. */
static bool describe(char names[NAMES_BYTES])
{
	struct vb_persistent_bitmaps bitmaps;
	size_t used = 0;
	bool are_valid = true;

	names[0] = '\0';
	CHECK_OK(vb_image_list_bitmaps(policy, IMAGE_PATH, &bitmaps, &error) == 0, error);
	for (size_t index = 0; index < bitmaps.count; index++) {
		const struct vb_persistent_bitmap *bitmap = &bitmaps.items[index];

		CHECK(bitmap->state == VB_BITMAP_USABLE || bitmap->state == VB_BITMAP_INCONSISTENT);
		are_valid &= bitmap->state == VB_BITMAP_USABLE;
		used += (size_t)snprintf(names + used, NAMES_BYTES - used, "%s:%u:%llu ", bitmap->name, bitmap->granularity_bytes,
					 (unsigned long long)bitmap->dirty_bytes);
	}
	vb_persistent_bitmaps_free(&bitmaps);
	return are_valid;
}

struct expectation {
	char before[NAMES_BYTES];
	char after[NAMES_BYTES];
	uint8_t *content;
	uint64_t size_bytes;
	size_t state_count;
	size_t invalid_count;
	bool was_invalid;
};

static void check_content(const struct expectation *expected)
{
	uint64_t size_bytes;
	uint8_t *content = read_image(IMAGE_PATH, VB_FORMAT_QCOW2, &size_bytes, &error);

	CHECK_OK(content != NULL, error);
	CHECK_EQUAL(size_bytes, expected->size_bytes);
	CHECK(memcmp(content, expected->content, size_bytes) == 0);
	free(content);
}

static void check_by_qemu(const struct change *change)
{
	int exit_code;

	model_save(&model_disk, IMAGE_NAME, test_path("judged"));
	exit_code = test_shell("qemu-img check -f qcow2 judged >judged.log 2>&1");
	if (exit_code != 0 && exit_code != 3) {
		fprintf(stderr, "%s %s: qemu-img check exits with %d\n", change->image, change->name, exit_code);
		exit(1);
	}
	CHECK_EQUAL(test_shell("qemu-io -f qcow2 -c 'write -P 9 0 4k' judged >judged.log 2>&1"), 0);
	exit_code = test_shell("qemu-img check -f qcow2 judged >judged.log 2>&1");
	CHECK(exit_code == 0 || exit_code == 3);
}

static void judge_state(const struct change *change, struct expectation *expected, bool is_ended)
{
	const struct model_file *file = model_find(&model_disk, IMAGE_NAME);
	struct qcow2_findings findings;
	char names[NAMES_BYTES];

	CHECK(file != NULL);
	check_qcow2_bytes(file->bytes, file->size_bytes, &findings);
	if (findings.error_count > 0)
		fprintf(stderr, "%s: %s\n", change->image, findings.first_error);
	CHECK_EQUAL(findings.error_count, 0);
	check_content(expected);
	if (describe(names))
		CHECK(strcmp(names, expected->after) == 0 || (!is_ended && strcmp(names, expected->before) == 0) ||
		      (!is_ended && names[0] == '\0'));
	else
		expected->invalid_count++;
	if (is_ended && !expected->was_invalid)
		CHECK_EQUAL(findings.leak_count, 0);
	if (expected->state_count++ % QEMU_EVERY == 0)
		check_by_qemu(change);
}

static void try_state(const struct change *change, struct expectation *expected, const struct survival *survival, bool is_ended)
{
	struct model_disk state = {0};

	crash_make(survival, &state);
	if (crash_is_new_state(&state) || is_ended) {
		model_disk_copy(&model_disk, &state);
		judge_state(change, expected, is_ended);
	}
	model_disk_free(&state);
}

static void replay(const struct change *change, struct expectation *expected, const struct model_disk *before)
{
	crash_begin(before);
	for (size_t op_count = 0; op_count <= model_op_count; op_count++) {
		bool is_ended = op_count == model_op_count;

		crash_advance(op_count);
		try_state(change, expected, &(struct survival){.kind = SURVIVES_NOTHING}, is_ended);
		try_state(change, expected, &(struct survival){.kind = SURVIVES_ALL}, is_ended);
		for (size_t index = 0; index < op_count; index++)
			if (crash_is_pending(index)) {
				try_state(change, expected, &(struct survival){.kind = SURVIVES_ONE, .which = index}, false);
				try_state(change, expected, &(struct survival){.kind = SURVIVES_ALL_BUT_ONE, .which = index}, false);
			}
		for (unsigned long long seed = 0; seed < SEEDS_OF_A_MOMENT; seed++)
			try_state(change, expected, &(struct survival){.kind = SURVIVES_SOME, .seed = op_count * 1009 + seed}, is_ended);
	}
	crash_end();
}

static void put_image(const struct change *change)
{
	model_clear();
	model_load(IMAGE_NAME, test_path("%s", change->image));
	model_load("base.raw", test_path("base.raw"));
}

static size_t crash_change(const struct change *change)
{
	struct model_disk before = {0};
	struct expectation expected = {0};
	uint64_t reftable_bytes;

	put_image(change);
	expected.content = read_image(IMAGE_PATH, VB_FORMAT_QCOW2, &expected.size_bytes, &error);
	CHECK_OK(expected.content != NULL, error);
	expected.was_invalid = !describe(expected.before);
	reftable_bytes = vb_load_be64(model_find(&model_disk, IMAGE_NAME)->bytes + VB_QCOW2_AT_REFTABLE_OFFSET);
	model_disk_copy(&before, &model_disk);
	model_record();
	CHECK_OK(make_change(change) == 0, error);
	model_pause();
	CHECK_EQUAL(model_open_count(), 0);
	CHECK_EQUAL(change->moves_reftable,
		    vb_load_be64(model_find(&model_disk, IMAGE_NAME)->bytes + VB_QCOW2_AT_REFTABLE_OFFSET) != reftable_bytes);
	describe(expected.after);
	CHECK(strcmp(expected.before, expected.after) != 0);
	replay(change, &expected, &before);
	printf("%-12s %s: %zu states, %zu of them with bitmaps that are not valid; before: %s, after: %s\n", change->image,
	       change->kind == ADD ? "add" : change->kind == REMOVE ? "remove" : "clear", expected.state_count, expected.invalid_count,
	       expected.before, expected.after);
	model_disk_free(&before);
	free(expected.content);
	return expected.state_count;
}

static void changes_survive_crashes(void)
{
	size_t state_count = 0;

	for (size_t index = 0; index < sizeof(changes) / sizeof(changes[0]); index++)
		state_count += crash_change(&changes[index]);
	printf("%zu states\n", state_count);
	CHECK(state_count > 400);
}

static void make_images(void)
{
	CHECK_EQUAL(test_shell(
		"head -c 163840 /dev/urandom >base.raw && "
		"convert() { qemu-img convert -f raw -O qcow2 \"$@\"; } && "
		"mark() { qemu-img bitmap --add -g 512 $1 ${2:-first} && qemu-io -f qcow2 -c 'write -P 7 8k 4k' -c 'write -P 8 100k 512' $1 >io.log; } && "
		"convert -o cluster_size=4096 base.raw none && cp none plain && mark plain && cp plain two && mark two second && "
		"cp plain invalid && printf '\\0' | dd of=invalid bs=1 seek=95 conv=notrunc status=none && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw overlay && mark overlay && "
		"cp plain snapshot && qemu-img snapshot -c one snapshot && "
		"convert -o cluster_size=512 base.raw tiny && mark tiny && "
		"convert -o cluster_size=512,refcount_bits=1 base.raw onebit && mark onebit && "
		"convert -o cluster_size=512,refcount_bits=64 base.raw wide && mark wide && "
		"convert -o cluster_size=16384,extended_l2=on base.raw subclusters && mark subclusters && "
		/* The name of the backing file stands where the extension is to go. */
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw bare && "
		/* With names of features in the header, which only larger clusters have. */
		"convert base.raw large && cp large marked && mark marked && "
		/* Whose refcount table is full. */
		"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64,preallocation=metadata brim 1983k"), 0);
}

int main(void)
{
	policy = vb_policy_new(NULL, 0, &error);
	make_images();
	model_start();
	RUN(changes_survive_crashes);
	model_end();
	vb_policy_free(policy);
	return 0;
}
