/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every field of the header at and beyond its limit, the extensions, the features that are refused by name, and many damaged
 * headers of which none may do more than fail.
 */
#include <fcntl.h>
#include <unistd.h>

#include "check.h"
#include "image_builder.h"
#include "qcow2.h"
#include "writer.h"

#define CLUSTER 65536u
#define FILE_BYTES (16u * CLUSTER)

static uint8_t head[CLUSTER];
static struct vb_qcow2_header header;
static struct vb_error error;

/* A sound version 3 header: 64 KiB clusters, 1 GiB, L1 at cluster 3, refcount table at cluster 1. */
static void make_head(void)
{
	memset(head, 0, sizeof(head));
	vb_store_be32(head + VB_QCOW2_AT_MAGIC, VB_QCOW2_MAGIC);
	vb_store_be32(head + VB_QCOW2_AT_VERSION, 3);
	vb_store_be32(head + VB_QCOW2_AT_CLUSTER_BITS, 16);
	vb_store_be64(head + VB_QCOW2_AT_SIZE, 1ull << 30);
	vb_store_be32(head + VB_QCOW2_AT_L1_SIZE, 2);
	vb_store_be64(head + VB_QCOW2_AT_L1_OFFSET, 3 * CLUSTER);
	vb_store_be64(head + VB_QCOW2_AT_REFTABLE_OFFSET, CLUSTER);
	vb_store_be32(head + VB_QCOW2_AT_REFTABLE_CLUSTERS, 1);
	vb_store_be32(head + VB_QCOW2_AT_REFCOUNT_ORDER, 4);
	vb_store_be32(head + VB_QCOW2_AT_HEADER_LENGTH, VB_QCOW2_HEADER_BYTES_V3);
}

static int parse(void)
{
	error = (struct vb_error){ 0 };
	return vb_qcow2_header_parse(head, sizeof(head), FILE_BYTES, "image", &header, &error);
}

static void check_accepted(void)
{
	CHECK_OK(parse() == 0, error);
	CHECK_EQUAL(error.kind, VB_ERROR_NONE);
}

static void check_refused(enum vb_error_kind kind, const char *words)
{
	CHECK_EQUAL(parse(), -1);
	CHECK_ERROR(error, kind, words);
	CHECK(strcmp(error.path, "image") == 0);
}

static void set32(size_t at, uint32_t value)
{
	make_head();
	vb_store_be32(head + at, value);
}

static void set64(size_t at, uint64_t value)
{
	make_head();
	vb_store_be64(head + at, value);
}

/* Puts an extension at `at` and returns where the next one goes. */
static size_t put_extension(size_t at, uint32_t type, const void *data, uint32_t length)
{
	vb_store_be32(head + at, type);
	vb_store_be32(head + at + 4, length);
	memcpy(head + at + 8, data, length);
	return at + 8 + ((length + 7) & ~7u);
}

static void test_sound(void)
{
	make_head();
	check_accepted();
	CHECK_EQUAL(header.version, 3);
	CHECK_EQUAL(header.cluster_size_bytes, CLUSTER);
	CHECK_EQUAL(header.size_bytes, 1ull << 30);
	CHECK_EQUAL(header.l1_needed, 2);
	CHECK_EQUAL(header.l1_offset_bytes, 3 * CLUSTER);
	CHECK_EQUAL(header.refcount_order, 4);
	set32(VB_QCOW2_AT_VERSION, 2);
	memset(head + 72, 0, 40);
	check_accepted();
	CHECK_EQUAL(header.refcount_order, 4);
	CHECK_EQUAL(header.header_length_bytes, 72);
}

static void test_magic_and_version(void)
{
	set32(VB_QCOW2_AT_MAGIC, 0x514649fa);
	check_refused(VB_ERROR_FORMAT, "not in qcow2 format");
	set32(VB_QCOW2_AT_MAGIC, VB_UNFINISHED_MAGIC);
	check_refused(VB_ERROR_FORMAT, "unfinished copy");
	for (uint32_t version = 0; version < 6; version++) {
		set32(VB_QCOW2_AT_VERSION, version);
		if (version == 2 || version == 3)
			check_accepted();
		else
			check_refused(VB_ERROR_UNSUPPORTED, "version");
	}
}

static void test_cluster_bits(void)
{
	set32(VB_QCOW2_AT_CLUSTER_BITS, 8);
	check_refused(VB_ERROR_FORMAT, "cluster_bits is 8, but must be between 9 and 21");
	set32(VB_QCOW2_AT_CLUSTER_BITS, 22);
	check_refused(VB_ERROR_FORMAT, "cluster_bits is 22");
	set32(VB_QCOW2_AT_CLUSTER_BITS, 0xffffffff);
	check_refused(VB_ERROR_FORMAT, "cluster_bits is 4294967295");
}

static void test_l1(void)
{
	set32(VB_QCOW2_AT_L1_SIZE, 1);
	check_refused(VB_ERROR_FORMAT, "l1_size is 1, but a virtual size of 1073741824 bytes needs 2");
	set32(VB_QCOW2_AT_L1_SIZE, 4194304);
	check_accepted();
	set32(VB_QCOW2_AT_L1_SIZE, 4194305);
	check_refused(VB_ERROR_FORMAT, "l1_size is 4194305, more than the limit of 4194304");
	set64(VB_QCOW2_AT_L1_OFFSET, 3 * CLUSTER + 512);
	check_refused(VB_ERROR_FORMAT, "l1_table_offset");
	set64(VB_QCOW2_AT_L1_OFFSET, 0x7fffffffffff0000ull);
	check_refused(VB_ERROR_FORMAT, "the L1 table of 16 bytes at offset 9223372036854710272");
	set64(VB_QCOW2_AT_L1_OFFSET, 0xffffffffffff0000ull);
	check_refused(VB_ERROR_FORMAT, "no file can be that long");
	set64(VB_QCOW2_AT_L1_OFFSET, FILE_BYTES);
	check_refused(VB_ERROR_FORMAT, "truncated: the L1 table");
	set64(VB_QCOW2_AT_SIZE, 1ull << 63);
	check_refused(VB_ERROR_FORMAT, "size is 9223372036854775808");
	set64(VB_QCOW2_AT_SIZE, (1ull << 63) - 1);
	check_refused(VB_ERROR_FORMAT, "needs 17179869184");
	set64(VB_QCOW2_AT_SIZE, 0);
	vb_store_be32(head + VB_QCOW2_AT_L1_SIZE, 0);
	vb_store_be64(head + VB_QCOW2_AT_L1_OFFSET, 0);
	check_accepted();
}

static void test_refcounts_and_snapshots(void)
{
	set32(VB_QCOW2_AT_REFTABLE_CLUSTERS, 0);
	check_refused(VB_ERROR_FORMAT, "refcount_table_clusters is 0");
	set32(VB_QCOW2_AT_REFTABLE_CLUSTERS, 128);
	check_accepted();
	set32(VB_QCOW2_AT_REFTABLE_CLUSTERS, 129);
	check_refused(VB_ERROR_FORMAT, "refcount_table_clusters is 129, more than the limit of 128");
	set64(VB_QCOW2_AT_REFTABLE_OFFSET, 1);
	check_refused(VB_ERROR_FORMAT, "refcount_table_offset");
	set64(VB_QCOW2_AT_REFTABLE_OFFSET, FILE_BYTES);
	check_refused(VB_ERROR_FORMAT, "truncated: the refcount table");
	for (uint32_t order = 0; order < 7; order++) {
		set32(VB_QCOW2_AT_REFCOUNT_ORDER, order);
		check_accepted();
	}
	set32(VB_QCOW2_AT_REFCOUNT_ORDER, 7);
	check_refused(VB_ERROR_FORMAT, "refcount_order is 7, more than the limit of 6");
	set32(VB_QCOW2_AT_SNAPSHOT_COUNT, 65536);
	check_accepted();
	set32(VB_QCOW2_AT_SNAPSHOT_COUNT, 65537);
	check_refused(VB_ERROR_FORMAT, "nb_snapshots is 65537");
	set64(VB_QCOW2_AT_SNAPSHOTS_OFFSET, 5);
	check_refused(VB_ERROR_FORMAT, "snapshots_offset is 5");
}

static void test_header_length(void)
{
	const uint32_t good[] = { 104, 106, 112, 200, CLUSTER };

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		set32(VB_QCOW2_AT_HEADER_LENGTH, good[i]);
		check_accepted();
	}
	set32(VB_QCOW2_AT_HEADER_LENGTH, 103);
	check_refused(VB_ERROR_FORMAT, "header_length is 103");
	set32(VB_QCOW2_AT_HEADER_LENGTH, CLUSTER + 1);
	check_refused(VB_ERROR_FORMAT, "header_length is 65537, more than the limit of 65536");
}

static void test_features(void)
{
	uint8_t names[96] = { 0 };

	set64(VB_QCOW2_AT_INCOMPATIBLE, VB_QCOW2_INCOMPATIBLE_DIRTY | VB_QCOW2_INCOMPATIBLE_CORRUPT);
	check_accepted();
	set64(VB_QCOW2_AT_COMPATIBLE, ~0ull);
	check_accepted();
	set64(VB_QCOW2_AT_AUTOCLEAR, ~0ull);
	check_accepted();
	set64(VB_QCOW2_AT_INCOMPATIBLE, VB_QCOW2_INCOMPATIBLE_DATA_FILE);
	check_refused(VB_ERROR_FORMAT, "does not name it");
	set64(VB_QCOW2_AT_INCOMPATIBLE, VB_QCOW2_INCOMPATIBLE_EXTENDED_L2);
	vb_store_be32(head + VB_QCOW2_AT_L1_SIZE, 4);
	check_accepted();
	vb_store_be32(head + VB_QCOW2_AT_CLUSTER_BITS, 13);
	check_refused(VB_ERROR_FORMAT, "extended L2 entries need at least 14");
	for (uint32_t bit = 5; bit < 64; bit++) {
		char words[32];

		set64(VB_QCOW2_AT_INCOMPATIBLE, 1ull << bit);
		snprintf(words, sizeof(words), "feature bit %u", bit);
		check_refused(VB_ERROR_UNSUPPORTED, words);
	}
	names[0] = 1;
	names[1] = 9;
	memcpy(names + 2, "not this", 8);
	names[48] = 0;
	names[49] = 9;
	memcpy(names + 50, "time travel", 11);
	set64(VB_QCOW2_AT_INCOMPATIBLE, 1ull << 9);
	put_extension(VB_QCOW2_HEADER_BYTES_V3, VB_QCOW2_EXTENSION_FEATURE_NAMES, names, sizeof(names));
	check_refused(VB_ERROR_UNSUPPORTED, "bit 9 (\"time travel\")");
}

static void test_encryption_and_compression(void)
{
	set32(VB_QCOW2_AT_CRYPT_METHOD, 1);
	check_refused(VB_ERROR_UNSUPPORTED, "AES encryption");
	set32(VB_QCOW2_AT_CRYPT_METHOD, 2);
	check_refused(VB_ERROR_UNSUPPORTED, "LUKS encryption");
	set32(VB_QCOW2_AT_CRYPT_METHOD, 3);
	check_refused(VB_ERROR_FORMAT, "crypt_method is 3");
	make_head();
	head[VB_QCOW2_AT_COMPRESSION] = 1;
	check_refused(VB_ERROR_FORMAT, "feature bit is not set");
	set64(VB_QCOW2_AT_INCOMPATIBLE, VB_QCOW2_INCOMPATIBLE_COMPRESSION);
	check_refused(VB_ERROR_FORMAT, "feature bit is set");
	head[VB_QCOW2_AT_COMPRESSION] = 1;
	check_accepted();
	CHECK_EQUAL(header.compression_type, VB_COMPRESSION_ZSTD);
	head[VB_QCOW2_AT_COMPRESSION] = 2;
	check_refused(VB_ERROR_UNSUPPORTED, "compression type 2");
	/* The field does not exist in a header of 104 bytes. */
	set32(VB_QCOW2_AT_HEADER_LENGTH, 104);
	head[VB_QCOW2_AT_COMPRESSION + 3] = 0;
	check_accepted();
}

static void test_backing(void)
{
	make_head();
	vb_store_be64(head + VB_QCOW2_AT_BACKING_OFFSET, 1024);
	vb_store_be32(head + VB_QCOW2_AT_BACKING_SIZE, 8);
	memcpy(head + 1024, "base.rawXXX", 11);
	check_accepted();
	CHECK(strcmp(header.backing_name, "base.raw") == 0);
	memset(head + 1024, 'n', 1024);
	vb_store_be32(head + VB_QCOW2_AT_BACKING_SIZE, 1023);
	check_accepted();
	CHECK_EQUAL(strlen(header.backing_name), 1023);
	vb_store_be32(head + VB_QCOW2_AT_BACKING_SIZE, 1024);
	check_refused(VB_ERROR_FORMAT, "backing_file_size is 1024, more than the limit of 1023");
	vb_store_be64(head + VB_QCOW2_AT_BACKING_OFFSET, CLUSTER - 10);
	vb_store_be32(head + VB_QCOW2_AT_BACKING_SIZE, 11);
	check_refused(VB_ERROR_FORMAT, "backing_file_size is 11, more than the limit of 10");
	vb_store_be64(head + VB_QCOW2_AT_BACKING_OFFSET, CLUSTER + 1);
	check_refused(VB_ERROR_FORMAT, "backing_file_offset is 65537");
	vb_store_be64(head + VB_QCOW2_AT_BACKING_OFFSET, ~0ull);
	check_refused(VB_ERROR_FORMAT, "backing_file_offset");
}

static void test_extensions(void)
{
	uint8_t bitmaps[24] = { 0 };
	size_t at;

	make_head();
	at = put_extension(VB_QCOW2_HEADER_BYTES_V3, 0x12345678, "unknown", 7);
	at = put_extension(at, VB_QCOW2_EXTENSION_BACKING_FORMAT, "qcow2", 5);
	check_accepted();
	CHECK(strcmp(header.backing_format, "qcow2") == 0);
	put_extension(at, VB_QCOW2_EXTENSION_BACKING_FORMAT, "sixteen letters!", 16);
	check_refused(VB_ERROR_FORMAT, "length of the backing format is 16");
	put_extension(at, VB_QCOW2_EXTENSION_LUKS, bitmaps, 16);
	check_refused(VB_ERROR_FORMAT, "encryption header");
	vb_store_be32(head + at, 0x12345678);
	vb_store_be32(head + at + 4, 0xfffffff0);
	check_refused(VB_ERROR_FORMAT, "extension 0x12345678");

	make_head();
	vb_store_be64(head + VB_QCOW2_AT_AUTOCLEAR, VB_QCOW2_AUTOCLEAR_BITMAPS);
	vb_store_be32(bitmaps, 3);
	vb_store_be64(bitmaps + 8, 96);
	vb_store_be64(bitmaps + 16, 5 * CLUSTER);
	put_extension(VB_QCOW2_HEADER_BYTES_V3, VB_QCOW2_EXTENSION_BITMAPS, bitmaps, 24);
	check_accepted();
	CHECK(header.has_bitmaps);
	CHECK_EQUAL(header.bitmap_count, 3);
	CHECK_EQUAL(header.bitmap_directory_offset_bytes, 5 * CLUSTER);
	vb_store_be32(head + VB_QCOW2_HEADER_BYTES_V3 + 8, 65536);
	check_refused(VB_ERROR_FORMAT, "nb_bitmaps is 65536");
	put_extension(VB_QCOW2_HEADER_BYTES_V3, VB_QCOW2_EXTENSION_BITMAPS, bitmaps, 23);
	check_refused(VB_ERROR_FORMAT, "bitmaps extension is 23");
}

/* Damages the header in a few places at a time. Whatever comes out, it is an error or a header within its limits. */
static void test_damage(void)
{
	unsigned long long seed = 5;

	for (int round = 0; round < 300000; round++) {
		make_head();
		put_extension(VB_QCOW2_HEADER_BYTES_V3, VB_QCOW2_EXTENSION_BACKING_FORMAT, "qcow2", 5);
		for (unsigned long long i = test_random(&seed) % 6; i > 0; i--) {
			size_t at = 4 + test_random(&seed) % 140;
			const uint8_t values[] = { 0, 1, 0x7f, 0x80, 0xff, (uint8_t)test_random(&seed) };

			head[at] = values[test_random(&seed) % 6];
		}
		if (parse() < 0) {
			CHECK(error.kind == VB_ERROR_FORMAT || error.kind == VB_ERROR_UNSUPPORTED || error.kind == VB_ERROR_INTERNAL);
			continue;
		}
		CHECK(header.l1_needed <= header.l1_size && header.l1_size <= VB_QCOW2_L1_BYTES_MAX / 8);
		CHECK(header.l1_offset_bytes + header.l1_needed * 8ull <= FILE_BYTES || header.l1_needed == 0);
		CHECK(strlen(header.backing_name) <= VB_QCOW2_BACKING_NAME_MAX);
	}
}

static void check_short(uint64_t size_bytes, const char *words)
{
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	struct vb_file file;

	cut_file(test_path("short"), size_bytes);
	CHECK_OK(vb_policy_open(policy, test_path("short"), O_RDONLY, 0, &file, &error) == 0, error);
	CHECK_EQUAL(vb_qcow2_header_read(&file, &header, &error), -1);
	CHECK_ERROR(error, VB_ERROR_FORMAT, words);
	vb_file_close(&file);
	vb_policy_free(policy);
}

static void test_short_files(void)
{
	struct builder builder;

	builder_start(&builder, test_path("short"), 3, 16, 1 << 20);
	builder_finish(&builder);
	check_short(3 * CLUSTER / 2, "L1 table");
	check_short(CLUSTER, "refcount table");
	check_short(103, "version 3 header");
	check_short(72, "version 3 header");
	check_short(71, "do not hold a qcow2 header");
	check_short(4, "do not hold a qcow2 header");
	check_short(3, "not in qcow2 format");
	check_short(0, "not in qcow2 format");
}

int main(void)
{
	RUN(test_sound);
	RUN(test_magic_and_version);
	RUN(test_cluster_bits);
	RUN(test_l1);
	RUN(test_refcounts_and_snapshots);
	RUN(test_header_length);
	RUN(test_features);
	RUN(test_encryption_and_compression);
	RUN(test_backing);
	RUN(test_extensions);
	RUN(test_damage);
	RUN(test_short_files);
	return 0;
}
