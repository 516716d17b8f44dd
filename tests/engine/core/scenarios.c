/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the images, the jobs, and the table. */
#include "scenarios.h"

#include "chain_content.h"
#include "check.h"
#include "copy_runner.h"
#include "digest_chain.h"
#include "merge.h"
#include "qcow2.h"
#include "qcow2_bitmaps.h"

#define KIB 1024ull
#define CHANGED_BYTE 0xab
#define CHANGE_COUNT 14u
#define NEVER_MS 600000u
#define HEADER_SEARCH_BYTES 4096u   /* where the backing file is named */

static enum vb_format source_format(const struct scenario *scenario)
{
	return scenario->is_source_qcow2 || strstr(scenario->source, ".qcow2") ? VB_FORMAT_QCOW2 : VB_FORMAT_RAW;
}

static struct vb_policy *open_policy(struct vb_error *error)
{
	static const char *const folders[] = {MODEL_FOLDER};

	return vb_policy_new(folders, 1, error);
}

static int run_a_copy(const struct scenario *scenario, struct vb_error *error)
{
	struct copy_request request = {
		.source = MODEL_FOLDER "/source",
		.source_format = source_format(scenario),
		.data_file = scenario->data_file ? MODEL_FOLDER "/data.raw" : NULL,
		.destination = SCENARIO_PATH,
		.format = scenario->format,
		.reuse = scenario->promise != PROMISE_NEW && !scenario->is_new,
		.lane_count = scenario->lane_count ? scenario->lane_count : 1,
		.extended_l2 = scenario->extended_l2,
		.preallocation = scenario->preallocation,
		.bitmap_name = scenario->bitmap_name,
		.journal_path = scenario->has_journal ? MODEL_FOLDER "/journal" : NULL,
		.journal_interval_ms = NEVER_MS,
		.resume = scenario->has_journal,
		.keeps_unfinished = scenario->has_journal,
		.granule_bytes = 4096,
		.cluster_size_bytes = scenario->cluster_bytes,
		.reflink = scenario->is_shared ? VB_REFLINK_AUTO : VB_REFLINK_NEVER,
		.compression = scenario->compression,
		.folder = MODEL_FOLDER,
	};

	if (run_copy(&request, NULL, error) == 0)
		return 0;
	/* What an incremental copy left unfinished takes a whole one. */
	if (scenario->bitmap_name == NULL || error->kind != VB_ERROR_INVALID)
		return -1;
	request.bitmap_name = NULL;
	request.journal_path = NULL;
	request.resume = false;
	return run_copy(&request, NULL, error);
}

static int digest(const char *path, enum vb_format format, char text[VB_DIGEST_TEXT_BYTES], struct vb_error *error)
{
	const struct vb_layer_spec spec = {.path = path, .format = format};
	struct vb_policy *policy = open_policy(error);
	struct vb_chain *chain = policy == NULL ? NULL : vb_chain_open(policy, &spec, 1, false, VB_LOCK_READER, error);
	int result = chain == NULL ? -1 : vb_digest_chain(chain, true, NULL, text, error);

	vb_chain_close(chain);
	vb_policy_free(policy);
	return result;
}

/* The copy is read back, past the cache. */
static int run_a_compared_copy(const struct scenario *scenario, struct vb_error *error)
{
	char source[VB_DIGEST_TEXT_BYTES], copy[VB_DIGEST_TEXT_BYTES];

	if (run_a_copy(scenario, error) || digest(MODEL_FOLDER "/source", source_format(scenario), source, error) ||
	    digest(SCENARIO_PATH, scenario->format, copy, error))
		return -1;
	CHECK(strcmp(source, copy) == 0);
	return 0;
}

/* Only the top of the source, over the backing file that it has itself. */
static int run_a_shallow_copy(const struct scenario *scenario, struct vb_error *error)
{
	struct copy_request request = {
		.source = MODEL_FOLDER "/source",
		.source_format = VB_FORMAT_QCOW2,
		.destination = SCENARIO_PATH,
		.format = VB_FORMAT_QCOW2,
		.mode = VB_PLAN_TOP,
		.reuse = scenario->image != NULL,
		.backing_path = scenario->image != NULL ? NULL : "base.raw",
		.backing_format = "raw",
		.lane_count = 1,
		.granule_bytes = 4096,
		.cluster_size_bytes = scenario->cluster_bytes,
		.extended_l2 = scenario->extended_l2,
		.reflink = VB_REFLINK_NEVER,
		.folder = MODEL_FOLDER,
	};

	return run_copy(&request, NULL, error);
}

/* One of the changes that run_changes makes: in whole clusters, of one byte, 0 by zero(). */
struct change {
	uint64_t start_bytes;
	uint64_t length_bytes;
	uint8_t value;
};

static struct change choose_change(uint64_t unit_bytes, uint64_t size_bytes, unsigned index, unsigned long long *state)
{
	uint64_t units = (size_bytes + unit_bytes - 1) / unit_bytes;
	uint64_t start = test_random(state) % units * unit_bytes;
	uint64_t length = (1 + test_random(state) % 12) * unit_bytes;

	if (length > size_bytes - start)
		length = size_bytes - start;
	return (struct change){start, length, index % 4 == 3 ? 0 : (uint8_t)(CHANGED_BYTE + index)};
}

static int apply_change(struct vb_writer *writer, const struct change *change, struct vb_error *error)
{
	uint8_t *piece;
	int result;

	if (change->value == 0)
		return writer->ops->zero(writer, change->start_bytes, change->length_bytes, error);
	piece = malloc(change->length_bytes);
	CHECK(piece != NULL);
	memset(piece, change->value, change->length_bytes);
	result = writer->ops->write(writer, change->start_bytes, piece, change->length_bytes, error);
	free(piece);
	return result;
}

/* A tool's changes, made durable now and then. */
static int run_changes(const struct scenario *scenario, struct vb_error *error)
{
	struct vb_policy *policy = open_policy(error);
	struct vb_writer *writer = policy == NULL ? NULL : vb_image_open_writable(policy, SCENARIO_PATH, scenario->format, error);
	unsigned long long state = 3;
	int result = writer == NULL ? -1 : 0;

	for (unsigned index = 0; index < CHANGE_COUNT && result == 0; index++) {
		struct change change = choose_change(writer->unit_bytes, writer->spec.virtual_size_bytes, index, &state);

		result = apply_change(writer, &change, error);
		writer->ops->write_back(writer);
		if (result == 0 && index % 5 == 4)
			result = writer->ops->publish(writer, error);
	}
	if (result == 0)
		result = writer->ops->publish(writer, error);
	if (writer != NULL)
		writer->ops->close(writer);
	vb_policy_free(policy);
	return result;
}

static int run_create(const struct scenario *scenario, struct vb_error *error)
{
	struct vb_policy *policy = open_policy(error);
	struct vb_destination_spec spec = {
		.path = SCENARIO_PATH,
		.format = scenario->format,
		.virtual_size_bytes = scenario->size_bytes,
		.cluster_size_bytes = scenario->cluster_bytes,
		.backing_path = scenario->backing ? "base.raw" : NULL,
		.backing_format = scenario->backing ? "raw" : NULL,
		.durable = true,
	};
	int result = policy == NULL ? -1 : vb_image_create(policy, &spec, error);

	vb_policy_free(policy);
	return result;
}

static int run_resize(const struct scenario *scenario, struct vb_error *error)
{
	struct vb_policy *policy = open_policy(error);
	int result = policy == NULL ? -1 : vb_image_resize(policy, SCENARIO_PATH, scenario->format, scenario->size_bytes, error);

	vb_policy_free(policy);
	return result;
}

static int run_merge(const struct vb_merge_span *span, struct vb_error *error)
{
	const struct vb_layer_spec top = {.path = SCENARIO_PATH, .format = VB_FORMAT_QCOW2};
	struct vb_merge_request request = {.span = *span, .durable = true};
	struct vb_copy_options options = {.lane_count = 1, .granule_bytes = 4096};
	struct vb_policy *policy = open_policy(error);
	struct vb_merge *merge = policy == NULL ? NULL : vb_merge_open(policy, &top, 1, false, &request, &options, error);
	int result = merge == NULL ? -1 : vb_merge_run(merge, error);

	vb_merge_close(merge);
	vb_policy_free(policy);
	return result;
}

/* Repeated, what was between may be out of the chain. */
static bool is_middle_named(const struct scenario *scenario)
{
	return memmem(model_find(&model_disk, SCENARIO_NAME)->bytes, HEADER_SEARCH_BYTES, scenario->middle, strlen(scenario->middle)) != NULL;
}

static int run_pull(const struct scenario *scenario, struct vb_error *error)
{
	size_t base_index = scenario->base_index;

	if (scenario->middle != NULL && !is_middle_named(scenario))
		base_index--;
	return run_merge(&(struct vb_merge_span){.is_commit = false, .base_index = base_index}, error);
}

static int run_commit(const struct scenario *scenario, struct vb_error *error)
{
	if (!is_middle_named(scenario))
		return 0;   /* it was the last step */
	return run_merge(&(struct vb_merge_span){.is_commit = true, .top_index = scenario->top_index, .base_index = scenario->base_index},
			 error);
}

/* Repeated, the bitmap may be there already, or gone. */
static int run_bitmap_change(const struct scenario *scenario, struct vb_error *error)
{
	const struct vb_new_bitmap wanted = {.name = "second", .granularity_bytes = 4096, .is_enabled = true};
	struct vb_policy *policy = open_policy(error);
	int result = -1;

	if (policy != NULL && scenario->bitmap_change == BITMAP_ADD)
		result = vb_image_add_bitmap(policy, SCENARIO_PATH, &wanted, error);
	else if (policy != NULL && scenario->bitmap_change == BITMAP_REMOVE)
		result = vb_image_remove_bitmap(policy, SCENARIO_PATH, "first", error);
	else if (policy != NULL)
		result = vb_image_clear_bitmap(policy, SCENARIO_PATH, "first", error);
	vb_policy_free(policy);
	if (result && (error->kind == VB_ERROR_EXISTS || error->kind == VB_ERROR_NO_BITMAP))
		result = 0;
	return result;
}

const struct scenario scenarios[] = {
	{"new raw", PROMISE_NEW, VB_FORMAT_RAW, run_a_copy, .source = "disk"},
	{"new raw by sharing", PROMISE_NEW, VB_FORMAT_RAW, run_a_copy, .source = "disk", .is_shared = true},
	{"new qcow2 by sharing", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "v3", .is_source_qcow2 = true, .is_shared = true,
	 .cluster_bytes = 4096},
	{"new qcow2 over another's empty file", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .image = "nothing",
	 .source = "disk", .cluster_bytes = 4096},
	{"new qcow2, 4 KiB", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "disk", .cluster_bytes = 4096},
	{"new qcow2, 512", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "odd", .cluster_bytes = 512},
	{"new qcow2, zlib", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "disk", .cluster_bytes = 4096, .compression = VB_COMPRESS_ZLIB},
	{"new qcow2, zstd", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "disk", .cluster_bytes = 4096, .compression = VB_COMPRESS_ZSTD},
	{"new qcow2, compared", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_compared_copy, .source = "disk", .cluster_bytes = 4096},
	{"new qcow2 from a chain", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "overlay.qcow2",
	 .backing = "base.raw", .cluster_bytes = 4096},
	{"new shallow qcow2", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_shallow_copy, .source = "overlay.qcow2",
	 .backing = "base.raw", .cluster_bytes = 4096},
	{"new qcow2 from a data file", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "outside.qcow2", .data_file = "data.raw",
	 .cluster_bytes = 4096},
	{"new raw from a data file", PROMISE_NEW, VB_FORMAT_RAW, run_a_copy, .source = "outside.qcow2", .data_file = "data.raw"},
	{"new qcow2 with subclusters", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "odd", .cluster_bytes = 16384, .extended_l2 = true},
	{"new shallow qcow2 with subclusters", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_shallow_copy, .source = "subover.qcow2",
	 .backing = "base.raw", .cluster_bytes = 16384, .extended_l2 = true},
	{"new qcow2, preallocated tables", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "disk", .cluster_bytes = 4096,
	 .preallocation = VB_PREALLOCATION_METADATA},
	{"new qcow2, preallocated", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "odd", .cluster_bytes = 512,
	 .preallocation = VB_PREALLOCATION_FALLOC},
	{"new qcow2 with subclusters, preallocated, full", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "disk", .cluster_bytes = 16384,
	 .extended_l2 = true, .preallocation = VB_PREALLOCATION_FULL},
	{"new raw, preallocated", PROMISE_NEW, VB_FORMAT_RAW, run_a_copy, .source = "disk", .preallocation = VB_PREALLOCATION_FALLOC},
	{"new raw, preallocated, full", PROMISE_NEW, VB_FORMAT_RAW, run_a_copy, .source = "odd", .preallocation = VB_PREALLOCATION_FULL},
	{"new qcow2 by three lanes", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "large", .cluster_bytes = 16384, .lane_count = 3},
	{"new qcow2, zstd, by three lanes", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, .source = "large", .cluster_bytes = 16384,
	 .compression = VB_COMPRESS_ZSTD, .lane_count = 3},
	{"new raw by three lanes", PROMISE_NEW, VB_FORMAT_RAW, run_a_copy, .source = "large", .lane_count = 3},
	{"reused qcow2 by three lanes", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "largeold", .source = "large", .lane_count = 3},
	{"updated qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "v3", .source = "marked", .is_source_qcow2 = true,
	 .bitmap_name = "first"},
	{"updated qcow2, 512, version 2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "tiny2", .source = "tinymarked",
	 .is_source_qcow2 = true, .bitmap_name = "first"},
	{"updated qcow2 with subclusters", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "subold", .source = "marked",
	 .is_source_qcow2 = true, .bitmap_name = "first"},
	{"updated qcow2 with a journal", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "v3", .source = "marked",
	 .is_source_qcow2 = true, .bitmap_name = "first", .has_journal = true},
	{"updated raw with a journal", PROMISE_MARKED, VB_FORMAT_RAW, run_a_copy, .image = "old", .source = "marked", .is_source_qcow2 = true,
	 .bitmap_name = "first", .has_journal = true},
	{"updated raw", PROMISE_MARKED, VB_FORMAT_RAW, run_a_copy, .image = "old", .source = "marked", .is_source_qcow2 = true,
	 .bitmap_name = "first"},
	{"reused raw", PROMISE_MARKED, VB_FORMAT_RAW, run_a_copy, .image = "old", .source = "disk"},
	{"raw device", PROMISE_AT_THE_END, VB_FORMAT_RAW, run_a_copy, .image = "old", .is_device = true, .source = "disk"},
	{"new qcow2 on a device", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "device", .is_device = true,
	 .is_new = true, .source = "disk", .cluster_bytes = 4096},
	{"reused qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "v3", .source = "disk"},
	{"reused qcow2, version 2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "v2", .source = "disk"},
	{"reused qcow2, 512", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "tiny", .source = "disk"},
	{"reused qcow2, 1-bit refcounts", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "onebit", .source = "disk"},
	{"reused qcow2 with a snapshot", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "snapshot", .source = "disk"},
	{"reused qcow2 with a bitmap", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "bitmap", .source = "disk", .is_leaky = true},
	{"reused compressed qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "compressed", .source = "disk"},
	{"reused qcow2 with subclusters", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "sub", .source = "disk"},
	{"reused empty qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, .image = "empty", .source = "disk"},
	{"reused shallow qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_shallow_copy, .image = "blank.qcow2",
	 .source = "overlay2.qcow2", .backing = "base.raw"},
	{"changed qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "v3"},
	{"changed qcow2, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "v2"},
	{"changed qcow2, 512", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "tiny"},
	{"changed qcow2, 512, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "tiny2"},
	{"changed qcow2, 1-bit refcounts", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "onebit"},
	{"changed qcow2, 64-bit refcounts", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "wide"},
	{"changed qcow2 with a snapshot", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "snapshot"},
	{"changed qcow2 with two snapshots, 512", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "snapshots"},
	{"changed compressed qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "compressed"},
	{"changed compressed qcow2 with a snapshot", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "packed"},
	{"changed qcow2 with subclusters", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "sub"},
	{"changed qcow2 with subclusters and a snapshot", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "subsnapshot"},
	{"changed overlay with subclusters", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "subover.qcow2", .backing = "base.raw"},
	{"changed qcow2 with a bitmap", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "bitmap", .is_leaky = true},
	{"changed empty qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "empty"},
	{"changed overlay", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "overlay.qcow2", .backing = "base.raw"},
	{"changed overlay, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "overlay2.qcow2", .backing = "base.raw"},
	{"changed qcow2 whose refcount table grows", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, .image = "brim",
	 .moves_at = VB_QCOW2_AT_REFTABLE_OFFSET},
	{"made raw", PROMISE_NEW, VB_FORMAT_RAW, run_create, .size_bytes = 100 * KIB, .is_single = true},
	{"made qcow2", PROMISE_NEW, VB_FORMAT_QCOW2, run_create, .cluster_bytes = 512, .size_bytes = 100 * KIB, .is_single = true},
	{"made overlay", PROMISE_NEW, VB_FORMAT_QCOW2, run_create, .backing = "base.raw", .cluster_bytes = 4096,
	 .size_bytes = 160 * KIB, .is_single = true},
	{"grown raw", PROMISE_GOOD, VB_FORMAT_RAW, run_resize, .image = "old", .size_bytes = 300 * KIB},
	{"cut raw", PROMISE_GOOD, VB_FORMAT_RAW, run_resize, .image = "old", .size_bytes = 50 * KIB},
	{"grown qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, .image = "v3", .size_bytes = 1000 * KIB},
	{"grown qcow2 whose L1 table moves", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, .image = "tiny",
	 .size_bytes = 4000 * KIB, .moves_at = VB_QCOW2_AT_L1_OFFSET},
	{"grown overlay", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, .image = "short.qcow2", .backing = "base.raw",
	 .size_bytes = 3000 * KIB},
	{"grown overlay, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, .image = "short2.qcow2",
	 .backing = "base.raw", .size_bytes = 3000 * KIB},
	{"pulled whole chain", PROMISE_GOOD, VB_FORMAT_QCOW2, run_pull, .image = "overlay.qcow2", .backing = "base.raw",
	 .base_index = SIZE_MAX},
	{"pulled whole chain, 512, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_pull, .image = "overlay2.qcow2",
	 .backing = "base.raw", .base_index = SIZE_MAX},
	{"pulled to a base", PROMISE_GOOD, VB_FORMAT_QCOW2, run_pull, .image = "top.qcow2", .middle = "middle.qcow2",
	 .backing = "base.raw", .base_index = 2},
	{"pulled to a base, with subclusters", PROMISE_GOOD, VB_FORMAT_QCOW2, run_pull, .image = "subtop.qcow2", .middle = "middle.qcow2",
	 .backing = "base.raw", .base_index = 2},
	{"committed active", PROMISE_GOOD, VB_FORMAT_QCOW2, run_commit, .image = "top.qcow2", .middle = "middle.qcow2",
	 .backing = "base.raw", .base_index = 1, .end_name = "middle.qcow2"},
	{"committed active from subclusters", PROMISE_GOOD, VB_FORMAT_QCOW2, run_commit, .image = "subtop.qcow2",
	 .middle = "middle.qcow2", .backing = "base.raw", .base_index = 1, .end_name = "middle.qcow2"},
	{"committed active into raw", PROMISE_GOOD, VB_FORMAT_QCOW2, run_commit, .image = "top.qcow2",
	 .middle = "middle.qcow2", .backing = "base.raw", .base_index = 2, .end_name = "base.raw"},
	{"committed into raw", PROMISE_GOOD, VB_FORMAT_QCOW2, run_commit, .image = "top.qcow2", .middle = "middle.qcow2",
	 .backing = "base.raw", .top_index = 1, .base_index = 2},
	{"committed into smaller qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_commit, .image = "highest.qcow2",
	 .middle = "high.qcow2", .backing = "low.qcow2", .top_index = 1, .base_index = 2},
	{"committed active into smaller qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_commit, .image = "highest.qcow2",
	 .middle = "high.qcow2", .backing = "low.qcow2", .base_index = 2, .end_name = "low.qcow2"},
	{"bitmap: add, 4 KiB", PROMISE_GOOD, VB_FORMAT_QCOW2, run_bitmap_change, .image = "marked", .bitmap_change = BITMAP_ADD},
	{"bitmap: add, 512", PROMISE_GOOD, VB_FORMAT_QCOW2, run_bitmap_change, .image = "tinymarked", .bitmap_change = BITMAP_ADD},
	{"bitmap: remove, 4 KiB", PROMISE_GOOD, VB_FORMAT_QCOW2, run_bitmap_change, .image = "marked", .bitmap_change = BITMAP_REMOVE},
	{"bitmap: remove, 512", PROMISE_GOOD, VB_FORMAT_QCOW2, run_bitmap_change, .image = "tinymarked", .bitmap_change = BITMAP_REMOVE},
	{"bitmap: clear, 4 KiB", PROMISE_GOOD, VB_FORMAT_QCOW2, run_bitmap_change, .image = "marked", .bitmap_change = BITMAP_CLEAR},
	{"bitmap: clear, 512", PROMISE_GOOD, VB_FORMAT_QCOW2, run_bitmap_change, .image = "tinymarked", .bitmap_change = BITMAP_CLEAR},
};
const size_t scenario_count = sizeof(scenarios) / sizeof(scenarios[0]);

/* Noise, stored zeros and holes, piece by piece. */
static void make_pieces(const char *name, uint64_t size_bytes, uint64_t piece_bytes, unsigned long long seed)
{
	FILE *file = fopen(test_path("%s", name), "wb");
	uint8_t piece[8192];

	CHECK(file != NULL && piece_bytes <= sizeof(piece));
	for (uint64_t at = 0; at < size_bytes; at += piece_bytes) {
		uint64_t length = size_bytes - at < piece_bytes ? size_bytes - at : piece_bytes;
		bool is_noise = test_random(&seed) % 3 != 0;

		for (uint64_t byte = 0; byte < length; byte++)
			piece[byte] = is_noise ? (uint8_t)(test_random(&seed) % 16) : 0;
		CHECK_EQUAL(fwrite(piece, 1, length, file), length);
	}
	CHECK_EQUAL(fclose(file), 0);
}

void scenarios_make(void)
{
	make_pieces("disk", 160 * KIB, 4096, 1);
	make_pieces("odd", 50 * KIB + 300, 512, 2);
	make_pieces("old", 160 * KIB, 4096, 3);
	make_pieces("base.raw", 160 * KIB, 2048, 4);
	make_pieces("large", 800 * KIB, 8192, 5);
	make_pieces("largeraw", 800 * KIB, 8192, 6);
	CHECK_EQUAL(test_shell(
		"convert() { qemu-img convert -f raw -O qcow2 \"$@\"; } && "
		"convert -o cluster_size=4096 old v3 && convert -o cluster_size=4096,compat=0.10 old v2 && "
		"convert -o cluster_size=512 old tiny && convert -o cluster_size=512,compat=0.10 old tiny2 && "
		"convert -o cluster_size=512,refcount_bits=1 old onebit && convert -o cluster_size=512,refcount_bits=64 old wide && "
		"convert -o cluster_size=16k largeraw largeold && convert -o cluster_size=16k,extended_l2=on old subold && "
		"convert -o cluster_size=4096,data_file=data.raw,data_file_raw=on disk outside.qcow2 && "
		"convert -c -o cluster_size=4096 old compressed && qemu-img create -q -f qcow2 -o cluster_size=512 empty 160k && "
		"cp v3 snapshot && qemu-img snapshot -c one snapshot && "
		"cp tiny snapshots && qemu-img snapshot -c one snapshots && "
		"qemu-io -f qcow2 -c 'write -P 7 30k 40k' -c 'write -z 90k 20k' snapshots >io.log && qemu-img snapshot -c two snapshots && "
		"cp compressed packed && qemu-img snapshot -c one packed && "
		"cp v3 bitmap && qemu-img bitmap --add bitmap first && "
		"cp v3 marked && cp tiny tinymarked && for name in marked tinymarked; do "
		"qemu-img bitmap --add -g 512 $name first && qemu-io -f qcow2 -c 'write -P 41 10k 9k' -c 'write -P 42 99k 1k' $name >io.log || exit; "
		"done && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw overlay.qcow2 160k && "
		"qemu-img create -q -f qcow2 -o cluster_size=512,compat=0.10 -b base.raw -F raw overlay2.qcow2 160k && "
		"qemu-io -f qcow2 -c 'write -P 9 20k 30k' -c 'write -P 8 100k 3k' overlay.qcow2 >io.log && "
		"qemu-io -f qcow2 -c 'write -P 5 30k 30k' -c 'write -P 6 120k 13k' -c 'write -P 4 8k 1k' overlay2.qcow2 >io.log && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw blank.qcow2 160k && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw short.qcow2 52k && "
		"qemu-img create -q -f qcow2 -o cluster_size=512,compat=0.10 -b base.raw -F raw short2.qcow2 52k && "
		"touch nothing && cp disk device && truncate -s 300k device && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw middle.qcow2 160k && "
		"qemu-io -f qcow2 -c 'write -P 21 10k 50k' -c 'write -z 90k 8k' middle.qcow2 >io.log && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b middle.qcow2 -F qcow2 top.qcow2 160k && "
		"qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on -b middle.qcow2 -F qcow2 subtop.qcow2 160k && "
		"for name in top subtop; do "
		"qemu-io -f qcow2 -c 'write -P 22 40k 24k' -c 'write -z 20k 8k' -c 'write -P 23 92k 2k' $name.qcow2 >io.log || exit; done && "
		"qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on sub 160k && "
		"qemu-io -f qcow2 -c 'write -P 31 3k 20k' -c 'write -P 32 40k 512' -c 'write -z 70k 9k' -c 'write -P 33 75k 40k' sub >io.log && "
		"cp sub subsnapshot && qemu-img snapshot -c one subsnapshot && "
		"qemu-img create -q -f qcow2 -o cluster_size=16k,extended_l2=on -b base.raw -F raw subover.qcow2 160k && "
		"qemu-io -f qcow2 -c 'write -P 34 20k 30k' -c 'write -z 100k 3k' -c 'write -P 35 121k 512' subover.qcow2 >io.log && "
		"qemu-img create -q -f qcow2 -o cluster_size=512 low.qcow2 30k && qemu-io -f qcow2 -c 'write -P 24 3k 20k' low.qcow2 >io.log && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b low.qcow2 -F qcow2 high.qcow2 100k && "
		"qemu-io -f qcow2 -c 'write -P 25 20k 40k' high.qcow2 >io.log && "
		"qemu-img create -q -f qcow2 -o cluster_size=512 -b high.qcow2 -F qcow2 highest.qcow2 100k && "
		"qemu-io -f qcow2 -c 'write -P 26 90k 6k' highest.qcow2 >io.log && "
		"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64,preallocation=metadata brim 1962k && "
		"qemu-img snapshot -c one brim"), 0);
}

void scenario_prepare(const struct scenario *scenario)
{
	model_clear();
	if (scenario->image != NULL) {
		struct model_file *file = &model_disk.files[model_load(SCENARIO_NAME, test_path("%s", scenario->image))];

		file->is_device = scenario->is_device;
		/* As a caller makes it for the hypervisor's user. */
		if (file->size_bytes == 0) {
			file->owner = SCENARIO_OWNER;
			file->mode = SCENARIO_MODE;
		}
	}
	if (scenario->source != NULL)
		model_load("source", test_path("%s", scenario->source));
	if (scenario->data_file != NULL)
		model_load(scenario->data_file, test_path("%s", scenario->data_file));
	if (scenario->middle != NULL)
		model_load(scenario->middle, test_path("%s", scenario->middle));
	if (scenario->backing != NULL)
		model_load(scenario->backing, test_path("%s", scenario->backing));
}

static void add_content(struct contents *contents, uint8_t *bytes, uint64_t size_bytes)
{
	CHECK(contents->count < CONTENTS_MAX);
	contents->bytes[contents->count] = bytes;
	contents->size_bytes[contents->count++] = size_bytes;
}

static void read_now(struct contents *contents, const char *path, enum vb_format format)
{
	struct vb_error error = {0};
	uint64_t size_bytes;
	uint8_t *bytes = read_image(path, format, &size_bytes, &error);

	CHECK_OK(bytes != NULL, error);
	add_content(contents, bytes, size_bytes);
}

/* What the image reads as after each of the changes. */
static void learn_changes(const struct scenario *scenario, struct contents *contents)
{
	const struct model_file *image = model_find(&model_disk, SCENARIO_NAME);
	uint64_t unit_bytes = 1ull << image->bytes[23], size_bytes = contents->size_bytes[0];
	unsigned long long state = 3;

	CHECK(scenario->format == VB_FORMAT_QCOW2);
	for (unsigned index = 0; index < CHANGE_COUNT; index++) {
		struct change change = choose_change(unit_bytes, size_bytes, index, &state);
		uint8_t *bytes = malloc(size_bytes + 1);

		CHECK(bytes != NULL);
		memcpy(bytes, contents->bytes[contents->count - 1], size_bytes);
		memset(bytes + change.start_bytes, change.value, change.length_bytes);
		add_content(contents, bytes, size_bytes);
	}
}

/* Zeros, or the backing file; cut or filled up to the wanted size. */
static void add_resized(const struct scenario *scenario, struct contents *contents)
{
	uint8_t *bytes = calloc(1, scenario->size_bytes + 1);
	uint64_t known_bytes = 0;

	CHECK(bytes != NULL);
	if (contents->count > 0)
		known_bytes = contents->size_bytes[0];
	if (known_bytes > scenario->size_bytes)
		known_bytes = scenario->size_bytes;
	if (known_bytes > 0)
		memcpy(bytes, contents->bytes[0], known_bytes);
	if (scenario->run == run_create && scenario->backing != NULL)
		memcpy(bytes, model_find(&model_disk, scenario->backing)->bytes, scenario->size_bytes);
	add_content(contents, bytes, scenario->size_bytes);
}

void scenario_learn(const struct scenario *scenario, struct contents *contents)
{
	*contents = (struct contents){0};
	if (scenario->image != NULL && scenario->promise != PROMISE_NEW && !scenario->is_new)
		read_now(contents, SCENARIO_PATH, scenario->format);
	if (scenario->run == run_pull || scenario->run == run_commit || scenario->run == run_bitmap_change)
		return;
	if (scenario->run == run_changes)
		learn_changes(scenario, contents);
	else if (scenario->data_file != NULL)
		read_now(contents, MODEL_FOLDER "/data.raw", VB_FORMAT_RAW);
	else if (scenario->source != NULL)
		read_now(contents, MODEL_FOLDER "/source", source_format(scenario));
	else
		add_resized(scenario, contents);
}

void contents_free(struct contents *contents)
{
	for (size_t index = 0; index < contents->count; index++)
		free(contents->bytes[index]);
	*contents = (struct contents){0};
}
