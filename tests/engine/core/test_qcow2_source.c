/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L1 and L2 entries at their limits: what a table may say, what is refused, and with which words; compressed clusters of every cluster size and
 * with wrong length fields; images that were cut off.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "image_builder.h"
#include "qcow2.h"

#define CLUSTER 65536u
static uint8_t content[2 * 1024 * 1024];
static struct vb_error error;

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(1 + (seed + i / 61) % 255);
}

/* One 1 MiB image with one data cluster at guest 0, and an entry of choice for guest cluster 3. */
static const char *image_with_entry(uint32_t version, uint64_t entry)
{
	struct builder builder;

	builder_start(&builder, test_path("entry"), version, 16, 1 << 20);
	fill(content, CLUSTER, 1);
	builder_put_data(&builder, 0, content);
	*builder_entry(&builder, 3) = entry;
	builder_finish(&builder);
	return test_path("entry");
}

static void check_refused(uint32_t version, uint64_t entry, const char *words)
{
	uint64_t size;

	CHECK(read_image(image_with_entry(version, entry), VB_FORMAT_QCOW2, &size, &error) == NULL);
	CHECK_ERROR(error, VB_ERROR_FORMAT, words);
	CHECK(strstr(error.message, "guest offset 196608") != NULL);
	CHECK(strcmp(error.path, test_path("entry")) == 0);
	CHECK(error.offset_bytes > 0);
}

static void check_reads_zero(uint32_t version, uint64_t entry)
{
	uint64_t size;
	uint8_t *bytes = read_image(image_with_entry(version, entry), VB_FORMAT_QCOW2, &size, &error);

	CHECK_OK(bytes != NULL, error);
	CHECK(memcmp(bytes, content, CLUSTER) == 0);
	for (size_t i = CLUSTER; i < size; i++)
		CHECK(bytes[i] == 0);
	free(bytes);
}

static void test_entries(void)
{
	check_reads_zero(3, 0);
	check_reads_zero(3, VB_QCOW2_COPIED);
	check_reads_zero(3, VB_QCOW2_ZERO);
	check_reads_zero(3, VB_QCOW2_ZERO | 2 * CLUSTER);
	check_reads_zero(3, VB_QCOW2_ZERO | VB_QCOW2_COPIED | 2 * CLUSTER);
	/* Space that is set aside for a zero cluster may lie behind the end: nothing is read there. */
	check_reads_zero(3, VB_QCOW2_ZERO | 1000 * CLUSTER);
	check_refused(2, VB_QCOW2_ZERO, "version 2");
	check_refused(2, VB_QCOW2_ZERO | 2 * CLUSTER, "version 2");
	check_refused(3, 2 * CLUSTER + 512, "not aligned");
	check_refused(3, (2 * CLUSTER + 512) | VB_QCOW2_ZERO, "not aligned");
	for (uint32_t bit = 0; bit < 64; bit++) {
		if ((VB_QCOW2_L2_RESERVED_MASK >> bit & 1) != 0)
			check_refused(3, 2 * CLUSTER | 1ull << bit, "reserved bits");
	}
	check_refused(3, 1000 * CLUSTER, "beyond the end of the file");
	check_refused(3, 0x00ffffffffff0000ull, "beyond the end of the file");
	check_refused(3, VB_QCOW2_COMPRESSED | 1000 * CLUSTER, "beyond the end of the file");
}

static void test_l1_entries(void)
{
	static const struct {
		uint64_t entry;
		const char *words;
	} cases[] = {
		{ 3 * CLUSTER + 512, "not aligned" },
		{ 1000 * CLUSTER, "beyond the end of the file" },
		{ 0x00ffffffffff0000ull, "beyond the end of the file" },
		{ 4 * CLUSTER, "beyond the end of the file" },   /* the L1 table's own cluster: it starts in the file, but ends behind it */
		{ 3 * CLUSTER | 1, "reserved bits" },
		{ 3 * CLUSTER | 1ull << 62, "reserved bits" },
		{ 3 * CLUSTER | 1ull << 56, "reserved bits" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct builder builder;
		uint64_t size;

		builder_start(&builder, test_path("l1"), 3, 16, 1ull << 30);
		fill(content, CLUSTER, 1);
		builder_put_data(&builder, 0, content);
		builder.l1[1] = cases[i].entry;
		builder_finish(&builder);
		CHECK(read_image(test_path("l1"), VB_FORMAT_QCOW2, &size, &error) == NULL);
		CHECK_ERROR(error, VB_ERROR_FORMAT, cases[i].words);
		CHECK(strstr(error.message, "guest offset 536870912") != NULL);
	}
}

/* A whole image cut anywhere must be refused, but where only the last cluster's tail is gone, which reads as zeros as in QEMU. */
static void test_cut_off(void)
{
	for (uint64_t cut = 0; cut <= 3 * CLUSTER; cut += CLUSTER / 2) {
		uint64_t size;
		uint8_t *bytes;
		struct stat status;

		/* Tables first, as a linear writer lays it out: the data is what the cut hits. */
		CHECK_EQUAL(test_shell("qemu-img create -q -f qcow2 -o preallocation=full cut.qcow2 1M && "
				       "qemu-io -f qcow2 -c 'write -P 9 0 1M' cut.qcow2 >/dev/null"), 0);
		CHECK_EQUAL(stat(test_path("cut.qcow2"), &status), 0);
		cut_file(test_path("cut.qcow2"), (uint64_t)status.st_size - cut);
		bytes = read_image(test_path("cut.qcow2"), VB_FORMAT_QCOW2, &size, &error);
		/* qemu-img check says 2 (corruptions) exactly where we refuse. */
		CHECK_EQUAL(test_shell("qemu-img check -q cut.qcow2 >/dev/null 2>&1") == 0, bytes != NULL);
		CHECK_EQUAL(bytes != NULL, cut < CLUSTER);
		if (bytes == NULL) {
			CHECK_ERROR(error, VB_ERROR_FORMAT, "truncated");
			continue;
		}
		for (size_t i = 0; i < size; i++)
			CHECK_EQUAL(bytes[i], i < size - cut ? 9 : 0);
		free(bytes);
	}
}

/* An image that shrinks after it was opened is an error, not zeros. */
static void test_shrinks_while_open(void)
{
	struct vb_chain *chain = open_chain(image_with_entry(3, 0), VB_FORMAT_QCOW2, &error);
	struct vb_plan *plan;
	uint8_t *bytes = calloc(1, 1 << 20);

	CHECK_OK(chain != NULL, error);
	plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
	CHECK_OK(plan != NULL, error);
	cut_file(test_path("entry"), 2 * CLUSTER + 100);
	CHECK_EQUAL(read_plan(chain, plan, bytes, CLUSTER, &error), -1);
	CHECK_ERROR(error, VB_ERROR_FORMAT, "truncated");
	CHECK_EQUAL(error.offset_bytes, 2 * CLUSTER + 100);
	vb_plan_free(plan);
	vb_chain_close(chain);
	free(bytes);
}

/* All cluster sizes: data, zero and compressed side by side; the compressed ones share sectors and cross host clusters. */
static void test_every_cluster_size(enum vb_compression compression, uint32_t version)
{
	for (uint32_t bits = 9; bits <= 21; bits++) {
		uint32_t cluster = 1u << bits;
		uint64_t size = 7ull * cluster + 100, read_size;
		uint8_t *wanted = calloc(8, cluster), *bytes;
		struct builder builder;

		CHECK(wanted != NULL);
		builder_start(&builder, test_path("sizes"), version, bits, size);
		builder.compression = compression;
		for (uint64_t i = 0; i < 8; i++) {
			if (i == 2)
				continue;
			fill(wanted + i * cluster, cluster, (unsigned)i * 7);
			if (i == 5)
				builder_put_data(&builder, i, wanted + i * cluster);
			else
				builder_put_compressed(&builder, i, wanted + i * cluster);
		}
		builder_finish(&builder);
		bytes = read_image(test_path("sizes"), VB_FORMAT_QCOW2, &read_size, &error);
		CHECK_OK(bytes != NULL, error);
		CHECK_EQUAL(read_size, size);
		CHECK(memcmp(bytes, wanted, size) == 0);
		free(bytes);
		free(wanted);
	}
}

static void test_cluster_sizes_deflate(void)
{
	test_every_cluster_size(VB_COMPRESSION_DEFLATE, 2);
	test_every_cluster_size(VB_COMPRESSION_DEFLATE, 3);
}

static void test_cluster_sizes_zstd(void)
{
	test_every_cluster_size(VB_COMPRESSION_ZSTD, 3);
}

/* The same compressed cluster with `extra` sectors more or fewer in its length field than it needs; true if it reads right. */
static bool reads_with_extra_sectors(enum vb_compression compression, int extra)
{
	uint8_t packed[CLUSTER];
	struct builder builder;
	uint64_t size, at, sectors;
	size_t length;
	uint8_t *bytes;
	bool is_right;

	/* Noise over half of the cluster, so that the stream has many sectors. */
	unsigned long long seed = 3;

	fill(content, CLUSTER, 3);
	for (size_t i = 0; i < CLUSTER / 2; i++)
		content[i] = (uint8_t)test_random(&seed);
	length = builder_compress(compression, content, CLUSTER, packed, sizeof(packed));
	CHECK(length > 20000);
	builder_start(&builder, test_path("length"), 3, 16, CLUSTER);
	builder.compression = compression;
	builder_put_compressed(&builder, 0, content);
	at = *builder_entry(&builder, 0) & ((1ull << 54) - 1);
	sectors = (*builder_entry(&builder, 0) & ~VB_QCOW2_COMPRESSED) >> 54;
	*builder_entry(&builder, 0) = VB_QCOW2_COMPRESSED | (uint64_t)((int64_t)sectors + extra) << 54 | at;
	builder_finish(&builder);
	bytes = read_image(test_path("length"), VB_FORMAT_QCOW2, &size, &error);
	is_right = bytes != NULL && memcmp(bytes, content, CLUSTER) == 0;
	CHECK(bytes == NULL || is_right);
	free(bytes);
	return is_right;
}

static void test_length_field(void)
{
	for (int compression = VB_COMPRESSION_DEFLATE; compression <= VB_COMPRESSION_ZSTD; compression++) {
		CHECK(reads_with_extra_sectors(compression, 0));
		CHECK(reads_with_extra_sectors(compression, 1));
		CHECK(reads_with_extra_sectors(compression, 50));
		/* As large as the field goes: past the end of the file. */
		CHECK(reads_with_extra_sectors(compression, 150));
		CHECK(!reads_with_extra_sectors(compression, -1));
		CHECK_ERROR(error, VB_ERROR_FORMAT, "cannot be decoded");
		CHECK(!reads_with_extra_sectors(compression, -20));
		CHECK_ERROR(error, VB_ERROR_FORMAT, "guest offset 0");
	}
}

/* Damaged compressed data fails or decodes to something, and never reaches outside. */
static void test_damaged_streams(void)
{
	unsigned long long seed = 11;

	for (int round = 0; round < 300; round++) {
		enum vb_compression compression = round % 2 == 0 ? VB_COMPRESSION_DEFLATE : VB_COMPRESSION_ZSTD;
		struct builder builder;
		uint64_t size, at;
		uint8_t *bytes;

		builder_start(&builder, test_path("damaged"), 3, 12, 4096);
		builder.compression = compression;
		for (size_t i = 0; i < 4096; i++)
			content[i] = (uint8_t)(test_random(&seed) % 11);
		builder_put_compressed(&builder, 0, content);
		at = *builder_entry(&builder, 0) & 0xffffffff;
		builder_finish(&builder);
		for (unsigned i = 0; i < 1 + test_random(&seed) % 4; i++)
			patch_be32(test_path("damaged"), at + test_random(&seed) % 1000, (uint32_t)test_random(&seed));
		error.kind = VB_ERROR_NONE;
		bytes = read_image(test_path("damaged"), VB_FORMAT_QCOW2, &size, &error);
		CHECK(bytes != NULL || error.kind == VB_ERROR_FORMAT);
		free(bytes);
	}
}

/* A zstd cluster in several frames, with a skippable one between. */
static void test_zstd_frames(void)
{
	uint8_t packed[CLUSTER];
	struct builder builder;
	size_t length = 0;
	uint64_t size;
	uint8_t *bytes;
	int fd;

	fill(content, CLUSTER, 9);
	for (size_t part = 0; part < 4; part++) {
		length += builder_compress(VB_COMPRESSION_ZSTD, content + part * (CLUSTER / 4), CLUSTER / 4, packed + length, CLUSTER - length);
		memcpy(packed + length, "\x50\x2a\x4d\x18\x03\x00\x00\x00xyz", 11);
		length += 11;
	}
	builder_start(&builder, test_path("frames"), 3, 16, CLUSTER);
	builder.compression = VB_COMPRESSION_ZSTD;
	*builder_entry(&builder, 0) = builder_compressed_entry(16, builder.end_bytes + 77, length);
	CHECK_EQUAL(pwrite(builder.fd, packed, length, (off_t)builder.end_bytes + 77), length);
	builder.end_bytes += CLUSTER;
	builder_finish(&builder);
	bytes = read_image(test_path("frames"), VB_FORMAT_QCOW2, &size, &error);
	CHECK_OK(bytes != NULL, error);
	CHECK(memcmp(bytes, content, CLUSTER) == 0);
	CHECK_EQUAL(test_shell("qemu-img convert -f qcow2 -O raw frames frames.raw"), 0);
	fd = open(test_path("frames.raw"), O_RDONLY);
	CHECK_EQUAL(read(fd, content, CLUSTER), CLUSTER);
	close(fd);
	CHECK(memcmp(bytes, content, CLUSTER) == 0);
	free(bytes);
}

/* Tables that lie side by side are read together; a slot that comes back to one of them must not run on into its neighbour. */
static void test_shared_tables(void)
{
	const uint64_t span = 512 * 64;
	struct builder builder;
	uint64_t size;
	uint8_t *bytes;

	builder_start(&builder, test_path("shared"), 3, 9, 5 * span);
	for (uint64_t i = 0; i < 128; i++) {
		fill(content, 512, (unsigned)i);
		builder_put_data(&builder, i, content);
	}
	/* Tables go to the next two clusters behind the data: slots 0 and 1. Slot 2 uses the first again, slot 4 the second. */
	builder.l1[2] = (builder.end_bytes + 511) & ~511ull;
	builder.l1[4] = builder.l1[2] + 512;
	builder_finish(&builder);
	bytes = read_image(test_path("shared"), VB_FORMAT_QCOW2, &size, &error);
	CHECK_OK(bytes != NULL, error);
	CHECK(memcmp(bytes + 2 * span, bytes, span) == 0);
	CHECK(memcmp(bytes + 4 * span, bytes + span, span) == 0);
	for (uint64_t i = 3 * span; i < 4 * span; i++)
		CHECK(bytes[i] == 0);
	free(bytes);
}

/* Two guest clusters that name the same compressed bytes are two clusters, also side by side. */
static void test_shared_compressed(void)
{
	struct builder builder;
	uint64_t size;
	uint8_t *bytes;

	builder_start(&builder, test_path("alias"), 3, 16, 4 * CLUSTER);
	fill(content, CLUSTER, 8);
	builder_put_compressed(&builder, 0, content);
	for (uint64_t i = 1; i < 4; i++)
		*builder_entry(&builder, i) = *builder_entry(&builder, 0);
	builder_finish(&builder);
	bytes = read_image(test_path("alias"), VB_FORMAT_QCOW2, &size, &error);
	CHECK_OK(bytes != NULL, error);
	for (uint64_t i = 0; i < 4; i++)
		CHECK(memcmp(bytes + i * CLUSTER, content, CLUSTER) == 0);
	free(bytes);
}

/* A cluster that cannot be decoded takes nothing away from the one that was decoded before it. */
static void test_reads_on_after_failure(void)
{
	struct vb_plan *plan;
	struct vb_reader *reader;
	struct builder builder;
	struct vb_chain *chain;
	unsigned long long seed = 4;
	uint8_t got[1000];

	builder_start(&builder, test_path("after"), 3, 16, 2 * CLUSTER);
	fill(content, CLUSTER, 8);
	builder_put_compressed(&builder, 0, content);
	for (size_t i = 0; i < CLUSTER / 2; i++)
		content[i] = (uint8_t)test_random(&seed);
	builder_put_compressed(&builder, 1, content);
	*builder_entry(&builder, 1) -= 20ull << 54;   /* cut off by 20 sectors: decodes for a while, then fails */
	builder_finish(&builder);
	fill(content, CLUSTER, 8);
	chain = open_chain(test_path("after"), VB_FORMAT_QCOW2, &error);
	CHECK_OK(chain != NULL, error);
	plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
	reader = vb_reader_new(chain, &error);
	CHECK_OK(plan != NULL && reader != NULL, error);
	CHECK_EQUAL(plan->extent_count, 2);
	for (int round = 0; round < 3; round++) {
		CHECK_OK(vb_reader_read(reader, &plan->extents[0], 500, got, sizeof(got), &error) == 0, error);
		CHECK(memcmp(got, content + 500, sizeof(got)) == 0);
		CHECK_EQUAL(vb_reader_read(reader, &plan->extents[1], 500, got, sizeof(got), &error), -1);
		CHECK_ERROR(error, VB_ERROR_FORMAT, "guest offset 65536");
	}
	CHECK_EQUAL(vb_reader_read(reader, &plan->extents[0], CLUSTER - 1, got, 2, &error), -1);
	CHECK_EQUAL(error.kind, VB_ERROR_INTERNAL);
	vb_reader_free(reader);
	vb_plan_free(plan);
	vb_chain_close(chain);
}

struct seen {
	uint64_t next;
	unsigned count;
	uint8_t last_kind;
};

static int see(void *opaque, const struct vb_extent *extent, struct vb_error *unused)
{
	struct seen *seen = opaque;

	(void)unused;
	CHECK_EQUAL(extent->start_bytes, seen->next);
	CHECK(extent->length_bytes > 0);
	seen->next += extent->length_bytes;
	seen->last_kind = extent->kind;
	return ++seen->count == 1000 ? -1 : 0;
}

/* The map of one layer: gapless, merged, and beyond the end one unallocated extent. */
static void test_layer_map(void)
{
	struct seen seen = { .next = 5 };
	struct vb_chain *chain;
	struct vb_layer *layer;
	struct builder builder;

	builder_start(&builder, test_path("map"), 3, 9, 100000);
	fill(content, 512, 1);
	for (uint64_t i = 0; i < 100; i++)
		builder_put_data(&builder, i, content);
	for (uint64_t i = 150; i < 180; i++)
		builder_put_zero(&builder, i, i % 2 == 0);
	builder_finish(&builder);
	chain = open_chain(test_path("map"), VB_FORMAT_QCOW2, &error);
	CHECK_OK(chain != NULL, error);
	layer = vb_chain_layer(chain, 0);
	CHECK_EQUAL(vb_layer_map(layer, 5, 1000000, see, &seen, &error), 0);
	CHECK_EQUAL(seen.next, 1000005);
	CHECK_EQUAL(seen.last_kind, VB_EXTENT_UNALLOCATED);
	/* data, nothing, zeros (with the host clusters of the even ones interleaved), nothing, beyond the end */
	CHECK_EQUAL(seen.count, 5);
	seen = (struct seen){ .next = 200000 };
	CHECK_EQUAL(vb_layer_map(layer, 200000, UINT64_MAX - 200000, see, &seen, &error), 0);
	CHECK_EQUAL(seen.count, 1);
	vb_chain_close(chain);
}

int main(void)
{
	RUN(test_entries);
	RUN(test_l1_entries);
	RUN(test_cut_off);
	RUN(test_shrinks_while_open);
	RUN(test_cluster_sizes_deflate);
	RUN(test_cluster_sizes_zstd);
	RUN(test_length_field);
	RUN(test_damaged_streams);
	RUN(test_zstd_frames);
	RUN(test_shared_tables);
	RUN(test_shared_compressed);
	RUN(test_reads_on_after_failure);
	RUN(test_layer_map);
	return 0;
}
