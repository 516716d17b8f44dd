/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the images, the jobs, and the table. */
#include "scenarios.h"

#include "chain_content.h"
#include "check.h"
#include "copy_runner.h"
#include "qcow2.h"

#define KIB 1024ull
#define CHANGED_BYTE 0xab
#define CHANGE_COUNT 14u

static int run_a_copy(const struct scenario *scenario, struct vb_error *error)
{
	struct copy_request request = {
		.source = MODEL_FOLDER "/source",
		.source_format = strstr(scenario->source, ".qcow2") ? VB_FORMAT_QCOW2 : VB_FORMAT_RAW,
		.destination = SCENARIO_PATH,
		.format = scenario->format,
		.reuse = scenario->image != NULL,
		.lane_count = 1,
		.granule_bytes = 4096,
		.cluster_size_bytes = scenario->cluster_bytes,
	};

	return run_copy(&request, NULL, error);
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
	struct vb_policy *policy = vb_policy_new(NULL, 0, error);
	struct vb_writer *writer = vb_image_open_writable(policy, SCENARIO_PATH, scenario->format, error);
	unsigned long long state = 3;
	int result = writer == NULL ? -1 : 0;

	for (unsigned index = 0; index < CHANGE_COUNT && result == 0; index++) {
		struct change change = choose_change(writer->unit_bytes, writer->spec.virtual_size_bytes, index, &state);

		result = apply_change(writer, &change, error);
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
	struct vb_policy *policy = vb_policy_new(NULL, 0, error);
	struct vb_destination_spec spec = {
		.path = SCENARIO_PATH,
		.format = scenario->format,
		.virtual_size_bytes = scenario->size_bytes,
		.cluster_size_bytes = scenario->cluster_bytes,
		.backing_path = scenario->backing ? "base.raw" : NULL,
		.backing_format = scenario->backing ? "raw" : NULL,
		.durable = true,
	};
	int result = vb_image_create(policy, &spec, error);

	vb_policy_free(policy);
	return result;
}

static int run_resize(const struct scenario *scenario, struct vb_error *error)
{
	struct vb_policy *policy = vb_policy_new(NULL, 0, error);
	int result = vb_image_resize(policy, SCENARIO_PATH, scenario->format, scenario->size_bytes, error);

	vb_policy_free(policy);
	return result;
}

const struct scenario scenarios[] = {
	{"new raw", PROMISE_NEW, VB_FORMAT_RAW, run_a_copy, NULL, "disk", NULL, 0, 0, true, false, 0},
	{"new qcow2, 4 KiB", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, NULL, "disk", NULL, 4096, 0, true, false, 0},
	{"new qcow2, 512", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, NULL, "odd", NULL, 512, 0, true, false, 0},
	{"new qcow2 from a chain", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_copy, NULL, "overlay.qcow2", "base.raw", 4096, 0, true, false, 0},
	{"new shallow qcow2", PROMISE_NEW, VB_FORMAT_QCOW2, run_a_shallow_copy, NULL, "overlay.qcow2", "base.raw", 4096, 0, true, false, 0},
	{"reused raw", PROMISE_MARKED, VB_FORMAT_RAW, run_a_copy, "old", "disk", NULL, 0, 0, true, false, 0},
	{"reused qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "v3", "disk", NULL, 0, 0, true, false, 0},
	{"reused qcow2, version 2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "v2", "disk", NULL, 0, 0, true, false, 0},
	{"reused qcow2, 512", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "tiny", "disk", NULL, 0, 0, true, false, 0},
	{"reused qcow2, 1-bit refcounts", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "onebit", "disk", NULL, 0, 0, true, false, 0},
	{"reused qcow2 with a snapshot", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "snapshot", "disk", NULL, 0, 0, true, false, 0},
	{"reused qcow2 with a bitmap", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "bitmap", "disk", NULL, 0, 0, true, true, 0},
	{"reused compressed qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "compressed", "disk", NULL, 0, 0, true, false, 0},
	{"reused empty qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_copy, "empty", "disk", NULL, 0, 0, true, false, 0},
	{"reused shallow qcow2", PROMISE_MARKED, VB_FORMAT_QCOW2, run_a_shallow_copy, "blank.qcow2", "overlay2.qcow2", "base.raw", 0, 0, true, false, 0},
	{"changed qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "v3", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "v2", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2, 512", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "tiny", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2, 512, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "tiny2", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2, 1-bit refcounts", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "onebit", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2, 64-bit refcounts", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "wide", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2 with a snapshot", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "snapshot", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2 with two snapshots, 512", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "snapshots", NULL, NULL, 0, 0, true, false, 0},
	{"changed compressed qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "compressed", NULL, NULL, 0, 0, true, false, 0},
	{"changed compressed qcow2 with a snapshot", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "packed", NULL, NULL, 0, 0, true, false, 0},
	{"changed qcow2 with a bitmap", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "bitmap", NULL, NULL, 0, 0, true, true, 0},
	{"changed empty qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "empty", NULL, NULL, 0, 0, true, false, 0},
	{"changed overlay", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "overlay.qcow2", NULL, "base.raw", 0, 0, true, false, 0},
	{"changed overlay, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "overlay2.qcow2", NULL, "base.raw", 0, 0, true, false, 0},
	{"changed qcow2 whose refcount table grows", PROMISE_GOOD, VB_FORMAT_QCOW2, run_changes, "brim", NULL, NULL, 0, 0, true, false, VB_QCOW2_AT_REFTABLE_OFFSET},
	{"made raw", PROMISE_NEW, VB_FORMAT_RAW, run_create, NULL, NULL, NULL, 0, 100 * KIB, false, false, 0},
	{"made qcow2", PROMISE_NEW, VB_FORMAT_QCOW2, run_create, NULL, NULL, NULL, 512, 100 * KIB, false, false, 0},
	{"made overlay", PROMISE_NEW, VB_FORMAT_QCOW2, run_create, NULL, NULL, "base.raw", 4096, 160 * KIB, false, false, 0},
	{"grown raw", PROMISE_GOOD, VB_FORMAT_RAW, run_resize, "old", NULL, NULL, 0, 300 * KIB, true, false, 0},
	{"cut raw", PROMISE_GOOD, VB_FORMAT_RAW, run_resize, "old", NULL, NULL, 0, 50 * KIB, true, false, 0},
	{"grown qcow2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, "v3", NULL, NULL, 0, 1000 * KIB, true, false, 0},
	{"grown qcow2 whose L1 table moves", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, "tiny", NULL, NULL, 0, 4000 * KIB, true, false, VB_QCOW2_AT_L1_OFFSET},
	{"grown overlay", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, "short.qcow2", NULL, "base.raw", 0, 3000 * KIB, true, false, 0},
	{"grown overlay, version 2", PROMISE_GOOD, VB_FORMAT_QCOW2, run_resize, "short2.qcow2", NULL, "base.raw", 0, 3000 * KIB, true, false, 0},
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
	CHECK_EQUAL(test_shell(
		"convert() { qemu-img convert -f raw -O qcow2 \"$@\"; } && "
		"convert -o cluster_size=4096 old v3 && convert -o cluster_size=4096,compat=0.10 old v2 && "
		"convert -o cluster_size=512 old tiny && convert -o cluster_size=512,compat=0.10 old tiny2 && "
		"convert -o cluster_size=512,refcount_bits=1 old onebit && convert -o cluster_size=512,refcount_bits=64 old wide && "
		"convert -c -o cluster_size=4096 old compressed && qemu-img create -q -f qcow2 -o cluster_size=512 empty 160k && "
		"cp v3 snapshot && qemu-img snapshot -c one snapshot && "
		"cp tiny snapshots && qemu-img snapshot -c one snapshots && "
		"qemu-io -f qcow2 -c 'write -P 7 30k 40k' -c 'write -z 90k 20k' snapshots >io.log && qemu-img snapshot -c two snapshots && "
		"cp compressed packed && qemu-img snapshot -c one packed && "
		"cp v3 bitmap && qemu-img bitmap --add bitmap first && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw overlay.qcow2 160k && "
		"qemu-img create -q -f qcow2 -o cluster_size=512,compat=0.10 -b base.raw -F raw overlay2.qcow2 160k && "
		"qemu-io -f qcow2 -c 'write -P 9 20k 30k' -c 'write -P 8 100k 3k' overlay.qcow2 >io.log && "
		"qemu-io -f qcow2 -c 'write -P 5 30k 30k' -c 'write -P 6 120k 13k' -c 'write -P 4 8k 1k' overlay2.qcow2 >io.log && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw blank.qcow2 160k && "
		"qemu-img create -q -f qcow2 -o cluster_size=4096 -b base.raw -F raw short.qcow2 52k && "
		"qemu-img create -q -f qcow2 -o cluster_size=512,compat=0.10 -b base.raw -F raw short2.qcow2 52k && "
		"qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64,preallocation=metadata brim 1962k && "
		"qemu-img snapshot -c one brim"), 0);
}

void scenario_prepare(const struct scenario *scenario)
{
	model_clear();
	if (scenario->image != NULL)
		model_load(SCENARIO_NAME, test_path("%s", scenario->image));
	if (scenario->source != NULL)
		model_load("source", test_path("%s", scenario->source));
	if (scenario->backing != NULL)
		model_load("base.raw", test_path("%s", scenario->backing));
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
	if (scenario->image != NULL)
		read_now(contents, SCENARIO_PATH, scenario->format);
	if (scenario->run == run_changes)
		learn_changes(scenario, contents);
	else if (scenario->source != NULL)
		read_now(contents, MODEL_FOLDER "/source", strstr(scenario->source, ".qcow2") ? VB_FORMAT_QCOW2 : VB_FORMAT_RAW);
	else
		add_resized(scenario, contents);
}

void contents_free(struct contents *contents)
{
	for (size_t index = 0; index < contents->count; index++)
		free(contents->bytes[index]);
	*contents = (struct contents){0};
}
