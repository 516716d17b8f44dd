/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the meaning of each promise. */
#include "judge.h"

#include "chain_content.h"
#include "check.h"
#include "qcow2.h"
#include "qcow2_bitmaps.h"
#include "qcow2_checker.h"
#include "writer.h"

#define MARK_BYTES 512u   /* behind a raw disk */
#define PARTIAL_NAME SCENARIO_NAME VB_PARTIAL_SUFFIX

char judge_occasion[256];

__attribute__((noreturn))
static void condemn(const struct scenario *scenario, const char *reason)
{
	if (model_find(&model_disk, SCENARIO_NAME) != NULL)
		model_save(&model_disk, SCENARIO_NAME, test_path("judged"));
	fprintf(stderr, "%s: %s%s%s\n", scenario->name, judge_occasion, *judge_occasion ? ": " : "", reason);
	exit(1);
}

static bool is_content(const struct contents *contents, size_t index, const uint8_t *bytes, uint64_t size_bytes)
{
	uint64_t wanted = contents->size_bytes[index], common = wanted < size_bytes ? wanted : size_bytes;

	/* A qcow2 disk ends at a multiple of 512, whatever its source did. */
	if ((wanted + 511) / 512 != (size_bytes + 511) / 512 || memcmp(contents->bytes[index], bytes, common) != 0)
		return false;
	for (uint64_t at = common; at < size_bytes; at++)
		if (bytes[at] != 0)
			return false;
	return true;
}

/* Each byte is one that it was to be at some time. */
static bool is_mixture(const struct contents *contents, const uint8_t *bytes, uint64_t size_bytes)
{
	bool is_size_known = false;

	for (size_t index = 0; index < contents->count; index++)
		is_size_known |= contents->size_bytes[index] == size_bytes;
	for (uint64_t at = 0; at < size_bytes; at++) {
		bool is_known = false;

		for (size_t index = 0; index < contents->count && !is_known; index++)
			is_known = at < contents->size_bytes[index] && contents->bytes[index][at] == bytes[at];
		if (!is_known)
			return false;
	}
	return is_size_known;
}

static void check_tables(const struct scenario *scenario, const struct model_file *file, bool are_leaks_allowed)
{
	struct qcow2_findings findings;

	check_qcow2_bytes(file->bytes, file->size_bytes, &findings);
	if (findings.error_count > 0)
		condemn(scenario, findings.first_error);
	if (findings.leak_count > 0 && !are_leaks_allowed)
		condemn(scenario, "clusters that nobody refers to have a refcount");
}

static bool is_right(const struct scenario *scenario, const struct contents *contents, enum moment moment, const uint8_t *bytes,
		     uint64_t size_bytes)
{
	size_t last = contents->count - 1;

	if (is_content(contents, last, bytes, size_bytes))
		return true;
	if (moment != MOMENT_ANY || scenario->promise == PROMISE_NEW)
		return false;
	if (scenario->promise == PROMISE_MARKED)
		return is_content(contents, 0, bytes, size_bytes);
	return is_mixture(contents, bytes, size_bytes);
}

static bool has_magic(const struct model_file *file, uint32_t magic)
{
	return file->size_bytes >= 4 && vb_load_be32(file->bytes) == magic;
}

/* Marked, it must be fit to be taken over: were the mark away, at most clusters would leak. */
static enum verdict judge_marked(const struct scenario *scenario, struct model_file *file, const struct vb_error *error)
{
	/* A device carries no mark: it has no header yet. */
	if (scenario->promise == PROMISE_MARKED && scenario->is_device && error->kind == VB_ERROR_FORMAT && !has_magic(file, VB_QCOW2_MAGIC))
		return VERDICT_MARKED;
	if (scenario->promise != PROMISE_MARKED || error->kind != VB_ERROR_FORMAT || !strstr(error->message, "unfinished") ||
	    !has_magic(file, VB_UNFINISHED_MAGIC))
		condemn(scenario, error->message);
	vb_store_be32(file->bytes, VB_QCOW2_MAGIC);
	check_tables(scenario, file, true);
	vb_store_be32(file->bytes, VB_UNFINISHED_MAGIC);
	return VERDICT_MARKED;
}

/* Of every image on the disk: jobs may write to more than one. */
static void check_all_tables(const struct scenario *scenario, bool are_leaks_allowed)
{
	for (uint32_t index = 0; index < model_disk.names.count; index++) {
		const struct model_file *file = &model_disk.files[model_disk.names.entries[index].file];

		if (has_magic(file, VB_QCOW2_MAGIC))
			check_tables(scenario, file, are_leaks_allowed);
	}
}

/* Bitmaps are those from before the change or those from after it, or say that they are not valid. */
static void judge_bitmaps(const struct scenario *scenario, enum moment moment)
{
	static const size_t counts_after[] = {[BITMAP_ADD] = 2, [BITMAP_REMOVE] = 0, [BITMAP_CLEAR] = 1};
	struct vb_persistent_bitmaps bitmaps;
	struct vb_error error = {0};
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	bool is_valid = true, is_old, is_new;

	CHECK_OK(vb_image_list_bitmaps(policy, SCENARIO_PATH, &bitmaps, &error) == 0, error);
	for (size_t index = 0; index < bitmaps.count; index++)
		is_valid &= bitmaps.items[index].state == VB_BITMAP_USABLE;
	is_old = bitmaps.count == 1 && bitmaps.items[0].dirty_bytes == SCENARIO_MARKED_BYTES;
	is_new = bitmaps.count == counts_after[scenario->bitmap_change] &&
		 (bitmaps.count == 0 || (bitmaps.items[0].dirty_bytes == SCENARIO_MARKED_BYTES) == (scenario->bitmap_change == BITMAP_ADD)) &&
		 (scenario->bitmap_change != BITMAP_CLEAR || bitmaps.items[0].dirty_bytes == 0);
	if (moment == MOMENT_END && (!is_valid || !is_new))
		condemn(scenario, "the bitmaps are not what they were to become");
	if (is_valid && !is_old && !is_new)
		condemn(scenario, "the bitmaps are neither what they were nor what they were to become");
	vb_persistent_bitmaps_free(&bitmaps);
	vb_policy_free(policy);
}

/* What was committed into is the disk by itself. */
static void judge_end(const struct scenario *scenario, const struct contents *contents)
{
	char path[sizeof(MODEL_FOLDER) + MODEL_NAME_BYTES];
	struct vb_error error = {0};
	uint64_t size_bytes;
	uint8_t *bytes;

	snprintf(path, sizeof(path), "%s/%s", MODEL_FOLDER, scenario->end_name);
	bytes = read_image(path, strstr(path, ".raw") ? VB_FORMAT_RAW : VB_FORMAT_QCOW2, &size_bytes, &error);
	CHECK_OK(bytes != NULL, error);
	if (!is_content(contents, contents->count - 1, bytes, size_bytes))
		condemn(scenario, "what was committed into is not the disk");
	free(bytes);
}

static enum verdict judge_qcow2(const struct scenario *scenario, const struct contents *contents, enum moment moment)
{
	struct model_file *file = (struct model_file *)(uintptr_t)model_find(&model_disk, SCENARIO_NAME);
	struct vb_error error = {0};
	uint64_t size_bytes;
	uint8_t *bytes = read_image(SCENARIO_PATH, VB_FORMAT_QCOW2, &size_bytes, &error);

	if (bytes == NULL && moment != MOMENT_ANY)
		condemn(scenario, error.message);
	if (bytes == NULL)
		return judge_marked(scenario, file, &error);
	if (!is_right(scenario, contents, moment, bytes, size_bytes))
		condemn(scenario, "a good image with wrong content");
	free(bytes);
	check_all_tables(scenario, scenario->is_leaky || (scenario->promise != PROMISE_NEW && moment != MOMENT_END));
	if (scenario->bitmap_change != BITMAP_NONE)
		judge_bitmaps(scenario, moment);
	if (moment != MOMENT_ANY && scenario->end_name != NULL)
		judge_end(scenario, contents);
	return VERDICT_GOOD;
}

/* As one who knows nothing of us would see it: the file is the disk. */
static enum verdict judge_raw(const struct scenario *scenario, const struct contents *contents, enum moment moment)
{
	const struct model_file *file = model_find(&model_disk, SCENARIO_NAME);
	uint64_t wanted = contents->size_bytes[contents->count - 1];

	if (scenario->promise == PROMISE_AT_THE_END && moment == MOMENT_ANY)
		return VERDICT_MARKED;
	if (is_right(scenario, contents, moment, file->bytes, file->size_bytes))
		return VERDICT_GOOD;
	if (moment != MOMENT_ANY)
		condemn(scenario, "a raw file that is not what was copied");
	if (scenario->promise == PROMISE_MARKED && file->size_bytes == wanted + MARK_BYTES &&
	    memcmp(file->bytes + wanted, VB_UNFINISHED_TRAILER, sizeof(VB_UNFINISHED_TRAILER) - 1) == 0)
		return VERDICT_MARKED;
	/* Before the mark is whole and durable nothing else changes. */
	if (scenario->promise == PROMISE_MARKED && file->size_bytes > wanted && file->size_bytes <= wanted + MARK_BYTES &&
	    is_content(contents, 0, file->bytes, wanted))
		return VERDICT_LENGTHENED;
	condemn(scenario, "a raw file with wrong content");
}

/* The partial file never looks like an image before it is the whole one. */
static void judge_partial(const struct scenario *scenario, const struct contents *contents)
{
	struct vb_error error = {0};
	uint64_t size_bytes;
	uint8_t *bytes;

	if (scenario->format != VB_FORMAT_QCOW2 || model_find(&model_disk, PARTIAL_NAME) == NULL)
		return;
	bytes = read_image(MODEL_FOLDER "/" PARTIAL_NAME, VB_FORMAT_QCOW2, &size_bytes, &error);
	if (bytes != NULL && !is_content(contents, contents->count - 1, bytes, size_bytes))
		condemn(scenario, "a partial file that opens, and is wrong");
	free(bytes);
}

enum verdict judge(const struct scenario *scenario, const struct contents *contents, enum moment moment)
{
	const struct model_file *file = model_find(&model_disk, SCENARIO_NAME);

	judge_partial(scenario, contents);
	if (scenario->promise == PROMISE_NEW && moment == MOMENT_ANY && (file == NULL || file->size_bytes == 0))
		return VERDICT_NOTHING;
	if (file == NULL)
		condemn(scenario, "the image is gone");
	return scenario->format == VB_FORMAT_RAW ? judge_raw(scenario, contents, moment) : judge_qcow2(scenario, contents, moment);
}

static void judge_source(const struct scenario *scenario, const char *name, const char *real_name)
{
	const struct model_file *file;
	uint8_t *bytes;
	FILE *real;

	if (real_name == NULL)
		return;
	file = model_find(&model_disk, name);
	real = fopen(test_path("%s", real_name), "rb");
	CHECK(file != NULL && real != NULL);
	bytes = malloc(file->size_bytes + 1);
	CHECK(bytes != NULL);
	if (fread(bytes, 1, file->size_bytes + 1, real) != file->size_bytes || memcmp(bytes, file->bytes, file->size_bytes) != 0)
		condemn(scenario, "a source was changed");
	fclose(real);
	free(bytes);
}

void judge_sources(const struct scenario *scenario)
{
	judge_source(scenario, "source", scenario->source);
	judge_source(scenario, "data.raw", scenario->data_file);
	/* Merged, they are no sources. */
	if (scenario->promise != PROMISE_GOOD)
		judge_source(scenario, scenario->backing, scenario->backing);
}

void judge_owner(const struct scenario *scenario)
{
	const struct model_file *file = model_find(&model_disk, SCENARIO_NAME);

	if (scenario->promise == PROMISE_NEW && scenario->image != NULL &&
	    (file == NULL || file->owner != SCENARIO_OWNER || file->mode != SCENARIO_MODE))
		condemn(scenario, "the new file has not the owner and the mode of the empty one");
}

void judge_with_qemu(const struct scenario *scenario, enum verdict verdict)
{
	struct model_file *file = (struct model_file *)(uintptr_t)model_find(&model_disk, SCENARIO_NAME);
	struct vb_error error = {0};
	struct qcow2_findings findings;
	uint64_t size_bytes;
	uint8_t *bytes;

	if (scenario->format != VB_FORMAT_QCOW2 || verdict == VERDICT_NOTHING)
		return;
	if (verdict == VERDICT_MARKED) {
		model_save(&model_disk, SCENARIO_NAME, test_path("judged"));
		if (test_shell("qemu-img info -f qcow2 judged >judged.log 2>&1") == 0)
			condemn(scenario, "QEMU opens what is marked unfinished");
		if (scenario->is_device)
			return;   /* there is nothing yet */
		vb_store_be32(file->bytes, VB_QCOW2_MAGIC);
	}
	model_save(&model_disk, SCENARIO_NAME, test_path("judged"));
	check_qcow2_bytes(file->bytes, file->size_bytes, &findings);

	int exit_code = test_shell("qemu-img check -f qcow2 judged >judged.log 2>&1");
	int wanted = findings.error_count ? 2 : findings.leak_count ? 3 : 0;

	if (exit_code != wanted) {
		test_shell("cat judged.log >&2");
		fprintf(stderr, "qemu-img check says %d, the checker %d: %s\n", exit_code, wanted, findings.first_error);
		condemn(scenario, "QEMU judges otherwise");
	}
	if (verdict == VERDICT_MARKED) {
		vb_store_be32(file->bytes, VB_UNFINISHED_MAGIC);
		return;
	}
	bytes = read_image(SCENARIO_PATH, VB_FORMAT_QCOW2, &size_bytes, &error);
	CHECK_OK(bytes != NULL, error);
	model_put("read", bytes, size_bytes);
	model_save(&model_disk, "read", test_path("judged.raw"));
	free(bytes);
	if (test_shell("qemu-img compare -q -f qcow2 -F raw judged judged.raw >judged.log 2>&1") != 0)
		condemn(scenario, "QEMU reads it otherwise");
}
