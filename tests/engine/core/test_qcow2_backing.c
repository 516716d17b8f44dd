/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The change of a backing reference: headers of every shape, changed and crashed in every way. Whatever of the change a crash leaves, the
 * image records the old name with the old format or the new name with the new one, all other extensions are there, and what is
 * refused is not touched.
 */
#include "check.h"
#include "crash_states.h"
#include "model_disk.h"
#include "qcow2.h"
#include "qcow2_backing.h"

#define IMAGE_PATH MODEL_FOLDER "/image"
#define SHAPES 900u
#define STATES 12u
#define QEMU_EVERY 50u
#define UNKNOWN_TYPE 0x11223344u
#define EXTENSIONS_MAX 8u

static struct vb_policy *policy;
static unsigned long long chance = 5;

/* A header's backing reference and its other extensions. */
struct shape {
	struct vb_qcow2_header header;
	uint8_t *cluster;
	uint32_t extension_count;
	struct { uint32_t type, at_bytes, length; } extensions[EXTENSIONS_MAX];
};

static uint32_t below(uint32_t limit)
{
	return (uint32_t)(test_random(&chance) % limit);
}

static bool read_shape(struct shape *shape)
{
	struct vb_error error = {0};
	struct vb_file file;

	*shape = (struct shape){0};
	CHECK_OK(vb_policy_open(policy, IMAGE_PATH, O_RDONLY, 0, &file, &error) == 0, error);

	bool is_good = vb_qcow2_header_read(&file, &shape->header, &error) == 0;

	vb_file_close(&file);
	if (!is_good)
		return false;

	uint32_t at = shape->header.header_length_bytes, end = shape->header.cluster_size_bytes;

	shape->cluster = malloc(end);
	memcpy(shape->cluster, model_find(&model_disk, "image")->bytes, end);
	if (shape->header.backing_offset_bytes)
		end = (uint32_t)shape->header.backing_offset_bytes;
	while (at + 8 <= end && vb_load_be32(shape->cluster + at) != VB_QCOW2_EXTENSION_END) {
		uint32_t type = vb_load_be32(shape->cluster + at), length = vb_load_be32(shape->cluster + at + 4);

		if (type == UNKNOWN_TYPE || type == VB_QCOW2_EXTENSION_FEATURE_NAMES) {
			CHECK(shape->extension_count < EXTENSIONS_MAX);
			shape->extensions[shape->extension_count].type = type;
			shape->extensions[shape->extension_count].at_bytes = at + 8;
			shape->extensions[shape->extension_count++].length = length;
		}
		at += 8 + ((length + 7) & ~7u);
	}
	return true;
}

static bool has_same_extensions(const struct shape *left, const struct shape *right)
{
	if (left->extension_count != right->extension_count)
		return false;
	for (uint32_t index = 0; index < left->extension_count; index++)
		if (left->extensions[index].type != right->extensions[index].type ||
		    left->extensions[index].length != right->extensions[index].length ||
		    memcmp(left->cluster + left->extensions[index].at_bytes, right->cluster + right->extensions[index].at_bytes,
			   left->extensions[index].length) != 0)
			return false;
	return true;
}

static bool records(const struct shape *shape, const char *name, const char *format)
{
	return strcmp(shape->header.backing_name, name) == 0 && strcmp(shape->header.backing_format, format) == 0;
}

struct spot {
	uint8_t *bytes;
	uint32_t at, limit;
};

static void put_extension(struct spot *spot, uint32_t type, const void *data, uint32_t length)
{
	if (spot->at + 8 + ((length + 7) & ~7u) + 8 > spot->limit)
		return;
	vb_store_be32(spot->bytes + spot->at, type);
	vb_store_be32(spot->bytes + spot->at + 4, length);
	memset(spot->bytes + spot->at + 8, 0, (length + 7) & ~7u);
	memcpy(spot->bytes + spot->at + 8, data, length);
	spot->at += 8 + ((length + 7) & ~7u);
}

static void make_name(char *name, uint32_t length)
{
	memset(name, 'a' + (int)below(26), length);
	name[length] = '\0';
}

/* Another header for an image that qemu-img made: extensions in any order, a name anywhere behind them, rubbish where nothing is. */
static void make_header(void)
{
	const struct model_file *file = model_find(&model_disk, "image");
	uint32_t cluster_bytes = 1u << vb_load_be32(file->bytes + VB_QCOW2_AT_CLUSTER_BITS);
	uint32_t version = vb_load_be32(file->bytes + VB_QCOW2_AT_VERSION);
	uint32_t header_bytes = version == 2 ? 72 : below(2) ? 104 : below(8) ? 112 : 120;
	uint8_t noise[512], head[120];
	char name[VB_QCOW2_BACKING_NAME_MAX + 1];
	struct spot spot = {.bytes = file->bytes, .at = header_bytes, .limit = cluster_bytes};
	unsigned format_place = below(5);

	for (size_t at = 0; at < sizeof(noise); at++)
		noise[at] = (uint8_t)below(256);
	memset(head, 0, sizeof(head));
	memcpy(head, file->bytes, version == 2 ? 72 : 104);
	for (uint32_t at = 0; at < cluster_bytes; at++)
		file->bytes[at] = noise[at % 512];
	memcpy(file->bytes, head, header_bytes);
	if (version == 3)
		vb_store_be32(file->bytes + VB_QCOW2_AT_HEADER_LENGTH, header_bytes);
	for (unsigned place = 0; place < 4; place++) {
		if (place == format_place)
			put_extension(&spot, VB_QCOW2_EXTENSION_BACKING_FORMAT, below(2) ? "qcow2" : "raw\0\0", below(2) ? 5 : 3);
		if (below(2))
			put_extension(&spot, UNKNOWN_TYPE, noise, below(200));
		if (place == 2 && below(2))
			put_extension(&spot, VB_QCOW2_EXTENSION_FEATURE_NAMES, noise, 48 * (1 + below(10)));
	}
	vb_store_be32(file->bytes + spot.at, VB_QCOW2_EXTENSION_END);
	vb_store_be32(file->bytes + spot.at + 4, 0);
	spot.at += 8;
	vb_store_be64(file->bytes + VB_QCOW2_AT_BACKING_OFFSET, 0);
	vb_store_be32(file->bytes + VB_QCOW2_AT_BACKING_SIZE, 0);
	if (spot.at + 1 >= cluster_bytes || below(8) == 0)
		return;

	uint32_t room = cluster_bytes - spot.at, at = spot.at + (below(2) ? 0 : below(room - 1));
	uint32_t length = 1 + below(cluster_bytes - at < 600 ? cluster_bytes - at : 600);

	make_name(name, length);
	memcpy(file->bytes + at, name, length);
	vb_store_be64(file->bytes + VB_QCOW2_AT_BACKING_OFFSET, at);
	vb_store_be32(file->bytes + VB_QCOW2_AT_BACKING_SIZE, length);
}

static int change(const struct vb_backing_reference *wanted, struct vb_error *error)
{
	struct vb_file file;

	CHECK_OK(vb_policy_open(policy, IMAGE_PATH, O_RDWR, 0, &file, error) == 0, *error);

	int result = vb_qcow2_backing_check(&file, wanted, error);

	if (result == 0)
		CHECK_OK((result = vb_qcow2_backing_change(&file, wanted, true, error)) == 0, *error);
	vb_file_close(&file);
	return result;
}

static void judge(const struct shape *before, const struct vb_backing_reference *wanted, bool is_ended)
{
	struct shape now;

	CHECK(read_shape(&now));
	CHECK(has_same_extensions(before, &now));
	if (!records(&now, wanted->path ? wanted->path : "", wanted->format ? wanted->format : "")) {
		CHECK(!is_ended);
		CHECK(records(&now, before->header.backing_name, before->header.backing_format));
	}
	free(now.cluster);
}

static void crash(const struct shape *shape, const struct model_disk *before, const struct vb_backing_reference *wanted)
{
	struct model_disk state = {0};
	struct vb_error error = {0};

	crash_begin(before);
	for (size_t op_count = 0; op_count <= model_op_count; op_count++) {
		crash_advance(op_count);
		for (unsigned long long seed = 0; seed < STATES / 2; seed++) {
			crash_make(&(struct survival){.kind = seed ? SURVIVES_SOME : SURVIVES_ALL, .seed = seed}, &state);
			if (!crash_is_new_state(&state) && op_count < model_op_count)
				continue;
			model_disk_copy(&model_disk, &state);
			judge(shape, wanted, op_count == model_op_count);
			CHECK_OK(change(wanted, &error) == 0, error);
			judge(shape, wanted, true);
		}
	}
	crash_end();
	model_disk_free(&state);
}

/* QEMU reads the same of it. */
static void ask_qemu(const struct vb_backing_reference *wanted)
{
	model_save(&model_disk, "image", test_path("changed"));
	CHECK_EQUAL(test_shell("qemu-img check -q --image-opts driver=qcow2,backing=,file.driver=file,file.filename=changed 2>check.log || "
			       "{ cat check.log >&2; exit 1; }"), 0);
	CHECK_EQUAL(test_shell("qemu-img info -f qcow2 changed | sed -n 's/^backing file: \\([^ ]*\\).*/\\1/p' >said; printf '%%s' '%s' >wanted; "
			       "[ \"$(cat said)\" = \"$(cat wanted)\" ]", wanted->path ? wanted->path : ""), 0);
	if (wanted->path)
		CHECK_EQUAL(test_shell("qemu-img info -f qcow2 changed | grep -q 'backing file format: %s'", wanted->format), 0);
}

static void load_image(unsigned number)
{
	model_clear();
	model_load("image", test_path("made%u", number));
}

static const char *const made_options[] = {
	"cluster_size=512", "cluster_size=512,compat=0.10", "cluster_size=1k", "cluster_size=1k,compat=0.10", "cluster_size=2k",
	"cluster_size=4k", "cluster_size=4k,compat=0.10", "cluster_size=64k", "cluster_size=64k,compat=0.10",
};
#define MADE_COUNT (sizeof(made_options) / sizeof(made_options[0]))

static void every_shape(void)
{
	char name[VB_QCOW2_BACKING_NAME_MAX + 1];
	size_t change_count = 0, refused_count = 0;

	for (unsigned round = 0; round < SHAPES; round++) {
		struct vb_backing_reference wanted = {.path = below(5) ? name : NULL};
		struct model_disk before = {0};
		struct vb_error error = {0};
		struct shape shape;

		make_name(name, 1 + below(below(2) ? 60 : 1023));
		wanted.format = wanted.path ? (below(2) ? "raw" : "qcow2") : NULL;
		load_image(round % MADE_COUNT);
		make_header();
		CHECK(read_shape(&shape));
		model_disk_copy(&before, &model_disk);
		model_record();
		if (change(&wanted, &error) == 0) {
			model_pause();
			judge(&shape, &wanted, true);
			if (++change_count % QEMU_EVERY == 0)
				ask_qemu(&wanted);
			crash(&shape, &before, &wanted);
		} else {
			model_pause();
			refused_count++;
			CHECK_ERROR(error, VB_ERROR_INVALID, "does not fit");
			CHECK_EQUAL(model_op_count, 0);
			/* Only where it is narrow. */
			CHECK(shape.header.cluster_size_bytes <= 4096);
		}
		free(shape.cluster);
		model_disk_free(&before);
	}
	printf("%zu changed, %zu refused\n", change_count, refused_count);
	CHECK(change_count > SHAPES / 2 && refused_count > SHAPES / 50);
}

/* What qemu-img itself makes has room for any name that QEMU would put there. */
static void qemus_own_headers(void)
{
	char name[VB_QCOW2_BACKING_NAME_MAX + 1];

	for (unsigned number = 0; number < MADE_COUNT; number++) {
		struct vb_backing_reference first = {.path = "first", .format = "qcow2"}, long_one = {.path = name, .format = "raw"}, none = {0};
		struct vb_error error = {0};

		load_image(number);
		make_name(name, number < 2 ? 100 : number < 4 ? 300 : 1023);
		CHECK_OK(change(&first, &error) == 0, error);
		ask_qemu(&first);
		CHECK_OK(change(&long_one, &error) == 0, error);
		ask_qemu(&long_one);
		CHECK_OK(change(&first, &error) == 0, error);
		ask_qemu(&first);
		CHECK_OK(change(&none, &error) == 0, error);
		ask_qemu(&none);
		model_record();
		CHECK_OK(change(&none, &error) == 0, error);
		model_pause();
		CHECK_EQUAL(model_op_count, 0);
	}
}

static void unfit_names_are_refused(void)
{
	char name[VB_QCOW2_BACKING_NAME_MAX + 2];
	struct vb_error error = {0};

	load_image(MADE_COUNT - 1);
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	CHECK(change(&(struct vb_backing_reference){.path = name, .format = "raw"}, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_INVALID, "1024 bytes");
	CHECK(change(&(struct vb_backing_reference){.path = "", .format = "raw"}, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_INVALID, "0 bytes");
}

/* Bitmaps stay valid, for the disk reads as before; features that nobody knows do not. */
static void autoclear_features(void)
{
	struct vb_error error = {0};

	load_image(MADE_COUNT - 2);
	vb_store_be64(model_find(&model_disk, "image")->bytes + VB_QCOW2_AT_AUTOCLEAR, ~0ull << 8 | VB_QCOW2_AUTOCLEAR_BITMAPS);
	CHECK_OK(change(&(struct vb_backing_reference){.path = "base", .format = "raw"}, &error) == 0, error);
	CHECK_EQUAL(vb_load_be64(model_find(&model_disk, "image")->bytes + VB_QCOW2_AT_AUTOCLEAR), VB_QCOW2_AUTOCLEAR_BITMAPS);
}

int main(void)
{
	struct vb_error error = {0};

	for (unsigned number = 0; number < MADE_COUNT; number++)
		CHECK_EQUAL(test_shell("qemu-img create -q -f qcow2 -o %s made%u 64k", made_options[number], number), 0);
	model_start();
	policy = vb_policy_new(NULL, 0, &error);
	RUN(every_shape);
	RUN(qemus_own_headers);
	RUN(unfit_names_are_refused);
	RUN(autoclear_features);
	vb_policy_free(policy);
	model_end();
	return 0;
}
