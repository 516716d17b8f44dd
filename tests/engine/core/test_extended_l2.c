/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended L2 entries: every state of a subcluster at every place, runs that start and end within clusters, and entries that contradict
 * themselves. The images are QEMU's, with entries of the test's own: they name the clusters that QEMU wrote, or none.
 */
#include <fcntl.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "image_builder.h"
#include "qcow2.h"

#define SUBCLUSTERS VB_QCOW2_SUBCLUSTER_COUNT
#define CLUSTER_COUNT 12u
#define WRITTEN_COUNT 4u   /* of these, the first that QEMU wrote, each of its own pattern */
#define BACKING_BYTE 0xbbu
#define FIRST_PATTERN 1u

static const char *image;
static uint32_t cluster_bits;
static uint64_t table_offset_bytes;
static uint64_t written_words[WRITTEN_COUNT];
static uint64_t words[CLUSTER_COUNT], bitmaps[CLUSTER_COUNT];
static struct vb_error error;

static uint64_t load(uint64_t offset_bytes)
{
	uint8_t bytes[8];
	int fd = open(image, O_RDONLY);

	CHECK(fd >= 0);
	CHECK_EQUAL(pread(fd, bytes, sizeof(bytes), (off_t)offset_bytes), sizeof(bytes));
	close(fd);
	return vb_load_be64(bytes);
}

static void set_entry(uint32_t cluster, uint64_t word, uint64_t bitmap)
{
	words[cluster] = word;
	bitmaps[cluster] = bitmap;
	patch_be64(image, table_offset_bytes + cluster * 16, word);
	patch_be64(image, table_offset_bytes + cluster * 16 + 8, bitmap);
}

/* A disk of CLUSTER_COUNT clusters over a backing file of BACKING_BYTE; the data clusters lie one behind the other in the file. */
static void make_image(uint32_t bits)
{
	uint64_t cluster_bytes = 1ull << bits;

	cluster_bits = bits;
	image = test_path("extended.qcow2");
	CHECK_EQUAL(test_shell("rm -f extended.qcow2 backing.raw && head -c %llu /dev/zero | tr '\\0' '\\273' >backing.raw && "
			       "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=%llu -b backing.raw -F raw extended.qcow2",
			       (unsigned long long)(CLUSTER_COUNT * cluster_bytes), (unsigned long long)cluster_bytes), 0);
	for (uint32_t i = 0; i < WRITTEN_COUNT; i++)
		CHECK_EQUAL(test_shell("qemu-io -f qcow2 -c 'write -P %u %llu %llu' extended.qcow2 >io.log", FIRST_PATTERN + i,
				       (unsigned long long)(i * cluster_bytes), (unsigned long long)cluster_bytes), 0);
	table_offset_bytes = load(load(VB_QCOW2_AT_L1_OFFSET)) & VB_QCOW2_OFFSET_MASK;
	for (uint32_t i = 0; i < CLUSTER_COUNT; i++) {
		words[i] = load(table_offset_bytes + i * 16);
		bitmaps[i] = load(table_offset_bytes + i * 16 + 8);
	}
	for (uint32_t i = 0; i < WRITTEN_COUNT; i++) {
		written_words[i] = words[i];
		CHECK_EQUAL(bitmaps[i], 0xffffffffu);
		CHECK_EQUAL((words[i] - words[0]) & VB_QCOW2_OFFSET_MASK, i * cluster_bytes);
	}
}

/* The byte that a guest reads in a subcluster, by the specification. */
static uint8_t wanted_byte(uint32_t cluster, uint32_t subcluster)
{
	if ((bitmaps[cluster] >> subcluster & 1) != 0)
		return (uint8_t)(FIRST_PATTERN + (((words[cluster] - written_words[0]) & VB_QCOW2_OFFSET_MASK) >> cluster_bits));
	return (bitmaps[cluster] >> (32 + subcluster) & 1) != 0 ? 0 : BACKING_BYTE;
}

static void check_bytes(const uint8_t *content)
{
	uint32_t subcluster_bytes = (1u << cluster_bits) / SUBCLUSTERS;

	for (uint32_t i = 0; i < CLUSTER_COUNT * SUBCLUSTERS; i++) {
		const uint8_t *bytes = content + (uint64_t)i * subcluster_bytes;

		CHECK_EQUAL(bytes[0], wanted_byte(i / SUBCLUSTERS, i % SUBCLUSTERS));
		CHECK(memcmp(bytes, bytes + 1, subcluster_bytes - 1) == 0);
	}
}

/* Full: zeros are left out. Top: laid over the backing file's bytes, the extents of the top give the whole. */
static void check_mode(enum vb_plan_mode mode, uint32_t unit_bytes)
{
	struct vb_chain *chain = open_chain(image, VB_FORMAT_QCOW2, &error);
	uint64_t size_bytes = (uint64_t)CLUSTER_COUNT << cluster_bits;
	uint8_t *content = malloc(size_bytes);
	struct vb_plan *plan;

	CHECK_OK(chain != NULL, error);
	CHECK(content != NULL);
	CHECK_EQUAL(vb_chain_size_bytes(chain), size_bytes);
	memset(content, mode == VB_PLAN_TOP ? BACKING_BYTE : 0, size_bytes);
	plan = vb_plan_make(chain, mode, unit_bytes, NULL, &error);
	CHECK_OK(plan != NULL, error);
	check_plan(plan, chain);
	CHECK_OK(read_plan(chain, plan, content, 3000, &error) == 0, error);
	check_bytes(content);
	vb_plan_free(plan);
	vb_chain_close(chain);
	free(content);
}

static void check_image(void)
{
	check_mode(VB_PLAN_FULL, 0);
	check_mode(VB_PLAN_TOP, 512);
	check_mode(VB_PLAN_TOP, 65536);
}

/* One subcluster of each state at each place, the others of another state. */
static void every_state_at_every_place(void)
{
	make_image(14);
	for (uint32_t place = 0; place < SUBCLUSTERS; place++) {
		uint64_t one = 1ull << place, others = 0xffffffffu & ~one;

		set_entry(4, written_words[1], one);
		set_entry(5, written_words[2], others);
		set_entry(6, written_words[1], one | others << 32);
		set_entry(7, written_words[3], others | one << 32);
		set_entry(8, 0, one << 32);
		set_entry(9, written_words[0], others << 32);
		set_entry(10, written_words[0], 0);
		set_entry(11, VB_QCOW2_COPIED, others << 32);
		check_image();
	}
}

static void random_states(void)
{
	unsigned long long state = 20;

	for (uint32_t bits = 14; bits <= 21; bits += bits == 14 ? 2 : 5) {
		make_image(bits);
		for (uint32_t round = 0; round < (bits == 21 ? 2 : 30); round++) {
			for (uint32_t i = 0; i < CLUSTER_COUNT; i++) {
				/* Products of random words make long runs as well as single bits. */
				uint64_t allocated = test_random(&state) & test_random(&state) & 0xffffffffu;
				uint64_t zero = test_random(&state) & test_random(&state) & 0xffffffffu & ~allocated;
				unsigned long long choice = test_random(&state) % 6;

				if (choice == 0)
					allocated = 0xffffffffu, zero = 0;
				else if (choice == 1)
					allocated = 0;
				else if (choice == 2)
					allocated = 0xffffu << test_random(&state) % 16, zero &= ~allocated;
				set_entry(i, allocated == 0 ? 0 : written_words[test_random(&state) % WRITTEN_COUNT],
					  allocated | zero << 32);
			}
			check_image();
		}
	}
}

/* Runs go over cluster borders where kind and place in the file go on, and only there. */
static void runs_are_merged(void)
{
	struct vb_chain *chain;
	struct vb_plan *plan;

	make_image(16);
	set_entry(4, written_words[0], 0xffff0000u);
	set_entry(5, written_words[1], 0xffffffffu);
	set_entry(6, written_words[2], 0x0000ffffu);
	set_entry(7, written_words[3], 0xffffffffu);
	for (uint32_t i = 8; i < CLUSTER_COUNT; i++)
		set_entry(i, 0, 0xffffffffull << 32);
	set_entry(0, 0, 0xffffffffull << 32);
	set_entry(1, 0, 0xffffffffull << 32);
	set_entry(2, 0, 0xffffffffull << 32);
	set_entry(3, 0, 0x0000ffffull << 32);
	chain = open_chain(image, VB_FORMAT_QCOW2, &error);
	CHECK_OK(chain != NULL, error);
	plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
	CHECK_OK(plan != NULL, error);
	CHECK_EQUAL(plan->extent_count, 4);
	CHECK_EQUAL(plan->extents[0].layer_index, 1);
	CHECK_EQUAL(plan->extents[0].start_bytes, 3 * 65536 + 32768);
	CHECK_EQUAL(plan->extents[0].length_bytes, 65536);
	CHECK_EQUAL(plan->extents[1].layer_index, 0);
	CHECK_EQUAL(plan->extents[1].length_bytes, 2 * 65536);
	CHECK_EQUAL(plan->extents[1].host_offset_bytes, (written_words[0] & VB_QCOW2_OFFSET_MASK) + 32768);
	CHECK_EQUAL(plan->extents[2].layer_index, 1);
	CHECK_EQUAL(plan->extents[2].length_bytes, 32768);
	CHECK_EQUAL(plan->extents[3].length_bytes, 65536);
	vb_plan_free(plan);
	vb_chain_close(chain);
}

static void check_refused(uint64_t word, uint64_t bitmap, const char *reason)
{
	uint64_t size_bytes;

	set_entry(5, word, bitmap);
	CHECK(read_image(image, VB_FORMAT_QCOW2, &size_bytes, &error) == NULL);
	CHECK_ERROR(error, VB_ERROR_FORMAT, reason);
	CHECK(strstr(error.message, "guest offset 327680") != NULL);
	CHECK(strstr(error.message, "bitmap 0x") != NULL);
	CHECK(strcmp(error.path, image) == 0);
	CHECK_EQUAL(error.offset_bytes, table_offset_bytes + 5 * 16);
}

static void contradictions_are_refused(void)
{
	make_image(16);
	for (uint32_t place = 0; place < SUBCLUSTERS; place++) {
		uint64_t one = 1ull << place;

		check_refused(written_words[0], one | one << 32, "both allocated and zero");
		check_refused(0, one | one << 32, "both allocated and zero");
		check_refused(0, one, "no cluster");
		check_refused(VB_QCOW2_COPIED, one, "no cluster");
		check_refused(VB_QCOW2_COMPRESSED | 65536, one, "compressed cluster with a subcluster bitmap");
		check_refused(VB_QCOW2_COMPRESSED | 65536, one << 32, "compressed cluster with a subcluster bitmap");
		check_refused(1000u << 16, one, "beyond the end of the file");
	}
	check_refused(VB_QCOW2_COMPRESSED | 1000u << 16, 0, "beyond the end of the file");
	check_refused(written_words[0] + 512, 1, "not aligned");
	check_refused(written_words[0] + 512, 1ull << 32, "not aligned");
	for (uint32_t bit = 0; bit < 62; bit++)
		if (((VB_QCOW2_L2_RESERVED_MASK | VB_QCOW2_ZERO) >> bit & 1) != 0)
			check_refused(written_words[0] | 1ull << bit, 1, "reserved bits");
	/* Space that is set aside behind the end is not read. */
	set_entry(5, 1000u << 16, 0xffull << 32);
	check_image();
}

/* Smaller clusters have no subclusters of a sector. */
static void small_clusters_are_refused(void)
{
	uint64_t size_bytes;

	make_image(14);
	patch_be32(image, VB_QCOW2_AT_CLUSTER_BITS, 13);
	CHECK(read_image(image, VB_FORMAT_QCOW2, &size_bytes, &error) == NULL);
	CHECK_ERROR(error, VB_ERROR_FORMAT, "extended L2 entries need at least 14");
	CHECK_EQUAL(error.offset_bytes, VB_QCOW2_AT_CLUSTER_BITS);
}

/* A table maps half as much, so a disk needs twice the L1 entries. */
static void l1_must_cover_the_disk(void)
{
	uint64_t size_bytes;

	image = test_path("large.qcow2");
	CHECK_EQUAL(test_shell("qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=64k large.qcow2 1G"), 0);
	patch_be32(image, VB_QCOW2_AT_L1_SIZE, 3);
	CHECK(read_image(image, VB_FORMAT_QCOW2, &size_bytes, &error) == NULL);
	CHECK_ERROR(error, VB_ERROR_FORMAT, "needs 4");
}

int main(void)
{
	RUN(every_state_at_every_place);
	RUN(random_states);
	RUN(runs_are_merged);
	RUN(contradictions_are_refused);
	RUN(small_clusters_are_refused);
	RUN(l1_must_cover_the_disk);
	return 0;
}
