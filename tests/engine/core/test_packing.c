/* SPDX-License-Identifier: Apache-2.0 */
/* Where compressed and plain clusters go: no two overlap, none wastes room that it could have used, no refcount overflows. */
#include "check.h"
#include "qcow2.h"
#include "qcow2_packing.h"

#define CLUSTER_BITS 16u
#define CLUSTER_BYTES (1u << CLUSTER_BITS)

static void one_behind_the_other(void)
{
	const uint32_t lengths[] = {40000, 30000, 65535, 1};
	struct vb_packing packing;
	size_t placed = 0;

	vb_packing_start(&packing, CLUSTER_BITS, CLUSTER_BYTES);
	CHECK_EQUAL(vb_packing_take_compressed(&packing, lengths, 4, &placed), CLUSTER_BYTES);
	CHECK_EQUAL(placed, 4);
	CHECK_EQUAL(packing.end_bytes, 4 * CLUSTER_BYTES);
	CHECK_EQUAL(vb_packing_take_compressed(&packing, lengths, 1, &placed), CLUSTER_BYTES + 40000 + 30000 + 65535 + 1);
}

/* Plain clusters came between: what fits fills the rest, and what does not goes behind them. */
static void around_plain_clusters(void)
{
	const uint32_t lengths[] = {40000, 20000, 10000, 3000, 3000};
	struct vb_packing packing;
	size_t placed = 0;

	vb_packing_start(&packing, CLUSTER_BITS, CLUSTER_BYTES);
	vb_packing_take_compressed(&packing, lengths, 1, &placed);
	CHECK_EQUAL(vb_packing_take_plain(&packing, 3), 2 * CLUSTER_BYTES);
	CHECK_EQUAL(vb_packing_take_compressed(&packing, lengths + 1, 4, &placed), CLUSTER_BYTES + 40000);
	CHECK_EQUAL(placed, 1);
	CHECK_EQUAL(vb_packing_take_compressed(&packing, lengths + 2, 3, &placed), 5 * CLUSTER_BYTES);
	CHECK_EQUAL(placed, 3);
	CHECK_EQUAL(packing.end_bytes, 6 * CLUSTER_BYTES);
}

/* Plain ones behind an end that lies on a host cluster: nothing is open. */
static void full_host_cluster(void)
{
	const uint32_t lengths[] = {CLUSTER_BYTES - 1, 1, 5};
	struct vb_packing packing;
	size_t placed = 0;

	vb_packing_start(&packing, CLUSTER_BITS, CLUSTER_BYTES);
	vb_packing_take_compressed(&packing, lengths, 2, &placed);
	CHECK_EQUAL(placed, 2);
	vb_packing_take_plain(&packing, 1);
	CHECK_EQUAL(vb_packing_take_compressed(&packing, lengths + 2, 1, &placed), 3 * CLUSTER_BYTES);
}

/* Clusters so small that more would touch a host cluster of 2 MiB than its refcount counts. */
static void refcount_limit(void)
{
	enum { COUNT = 80000, LENGTH = 20 };
	uint32_t *lengths = malloc(COUNT * sizeof(*lengths));
	uint64_t cluster_bytes = 1u << 21;
	struct vb_packing packing;
	size_t placed = 0;

	CHECK(lengths != NULL);
	for (size_t index = 0; index < COUNT; index++)
		lengths[index] = LENGTH;
	vb_packing_start(&packing, 21, cluster_bytes);
	CHECK_EQUAL(vb_packing_take_compressed(&packing, lengths, COUNT, &placed), cluster_bytes);
	CHECK_EQUAL(placed, VB_QCOW2_REFCOUNT_MAX);
	CHECK_EQUAL(vb_packing_take_compressed(&packing, lengths, COUNT - placed, &placed), 2 * cluster_bytes);
	CHECK_EQUAL(placed, COUNT - VB_QCOW2_REFCOUNT_MAX);
	free(lengths);
}

/* Any order of both: places ascend by kind, never overlap, and every host cluster's count stays within its refcount. */
static void any_order(void)
{
	unsigned long long seed = 5;

	for (unsigned round = 0; round < 200; round++) {
		uint32_t cluster_bits = 9 + (uint32_t)(test_random(&seed) % 6);
		uint64_t cluster_bytes = 1ull << cluster_bits, used_bytes = 0;
		struct vb_packing packing;

		vb_packing_start(&packing, cluster_bits, cluster_bytes);
		uint64_t seen_end = cluster_bytes;   /* of plain clusters and of what was placed behind them */

		for (unsigned step = 0; step < 100; step++) {
			uint32_t lengths[16];
			size_t count = 1 + test_random(&seed) % 16, placed = 0;

			if (test_random(&seed) % 3 == 0) {
				uint64_t offset = vb_packing_take_plain(&packing, count);

				CHECK(offset >= seen_end && offset % cluster_bytes == 0);
				seen_end = offset + count * cluster_bytes;
				used_bytes += count * cluster_bytes;
				continue;
			}
			for (size_t index = 0; index < count; index++)
				lengths[index] = 1 + (uint32_t)(test_random(&seed) % (cluster_bytes - 1));

			uint64_t before_open = packing.open_bytes, before_end = packing.open_end_bytes;
			uint64_t offset = vb_packing_take_compressed(&packing, lengths, count, &placed), end = offset;

			CHECK(placed >= 1 && placed <= count);
			for (size_t index = 0; index < placed; index++)
				end += lengths[index];
			CHECK(offset >= seen_end || (offset == before_open && (end <= before_end || before_end >= seen_end)));
			CHECK(end <= packing.end_bytes);
			if (packing.end_bytes > seen_end)
				seen_end = packing.end_bytes;
			used_bytes += end - offset;
		}
		/* What is lost is less than a cluster each time that plain clusters came between. */
		CHECK(packing.end_bytes - cluster_bytes <= used_bytes + 101 * cluster_bytes);
	}
}

/* The entry names the place and whole sectors that hold it, also where the format's field is smallest and largest. */
static void entries(void)
{
	static const uint32_t bits[] = {9, 12, 16, 21};
	unsigned long long seed = 9;

	for (size_t index = 0; index < sizeof(bits) / sizeof(bits[0]); index++) {
		for (unsigned round = 0; round < 1000; round++) {
			uint64_t offset = test_random(&seed) % (1ull << 40), found = 0;
			uint32_t length = 1 + (uint32_t)(test_random(&seed) % ((1u << bits[index]) - 1)), found_length = 0;
			uint64_t entry = vb_packing_entry(bits[index], offset, length);

			CHECK((entry & VB_QCOW2_COMPRESSED) != 0 && (entry & VB_QCOW2_COPIED) == 0);
			vb_qcow2_compressed_location(bits[index], entry, &found, &found_length);
			CHECK_EQUAL(found, offset);
			CHECK(found_length >= length && found_length < length + 512);
			CHECK_EQUAL((found + found_length) % 512, 0);
		}
	}
	CHECK_EQUAL(vb_packing_entry(21, 1ull << 49, 1), 0);
	CHECK(vb_packing_entry(21, (1ull << 49) - 1, 1) != 0);
	CHECK_EQUAL(vb_packing_entry(9, 1ull << 56, 1), 0);
}

int main(void)
{
	RUN(one_behind_the_other);
	RUN(around_plain_clusters);
	RUN(full_host_cluster);
	RUN(refcount_limit);
	RUN(any_order);
	RUN(entries);
	return 0;
}
