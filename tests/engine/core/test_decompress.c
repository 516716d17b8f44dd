/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deflate streams as QEMU judges them. The yardstick is zlib called as QEMU calls it: whatever it accepts must be accepted with the same
 * bytes, whichever decoder did the work, and no decoder may write behind the cluster.
 */
#define ZLIB_CONST
#include <zlib.h>

#include "check.h"
#include "decompress.h"

#define CLUSTER (64u * 1024)
#define CLUSTER_MAX (2u * 1024 * 1024)
#define GUARD_BYTES 64u
#define GUARD 0xa5

static uint8_t content[2 * CLUSTER_MAX], packed[2 * CLUSTER_MAX + 4096], output[CLUSTER_MAX + GUARD_BYTES], expected[CLUSTER_MAX];
static unsigned long long seed = 17;

static uint32_t pick(uint32_t count)
{
	return (uint32_t)(test_random(&seed) % count);
}

/* Runs of a few letters and copies of what came before, at distances below 4 KiB. */
static void fill(size_t length)
{
	uint32_t letters = 2 + pick(60), run = 1 + pick(300);

	for (size_t i = 0; i < length; i++)
		content[i] = i > 4096 && pick(run) != 0 ? content[i - 1 - pick(4) * 1000] : (uint8_t)pick(letters);
}

static size_t pack(size_t length, int window_bits, int level, int strategy, int flush)
{
	z_stream stream = {0};

	CHECK_EQUAL(deflateInit2(&stream, level, Z_DEFLATED, window_bits, 9, strategy), Z_OK);
	stream.next_in = content;
	stream.avail_in = (uInt)length;
	stream.next_out = packed;
	stream.avail_out = (uInt)sizeof(packed);
	CHECK(deflate(&stream, flush) >= Z_OK);
	CHECK_EQUAL(stream.avail_in, 0);
	length = stream.total_out;
	deflateEnd(&stream);
	return length;
}

static const char *decode(struct vb_decompressor *decompressor, size_t input_length, size_t output_length)
{
	const char *fault;

	memset(output, 0, output_length);
	memset(output + output_length, GUARD, GUARD_BYTES);
	fault = vb_decompress(decompressor, VB_COMPRESSION_DEFLATE, packed, input_length, output, output_length);
	for (size_t i = 0; i < GUARD_BYTES; i++)
		CHECK_EQUAL(output[output_length + i], GUARD);
	return fault;
}

static void check_decodes(struct vb_decompressor *decompressor, size_t input_length, size_t output_length)
{
	const char *fault = decode(decompressor, input_length, output_length);

	if (fault != NULL)
		fprintf(stderr, "%zu bytes into %zu: %s\n", input_length, output_length, fault);
	CHECK(fault == NULL);
	CHECK(memcmp(output, content, output_length) == 0);
}

static void check_fails(struct vb_decompressor *decompressor, size_t input_length, size_t output_length, const char *words)
{
	const char *fault = decode(decompressor, input_length, output_length);

	CHECK(fault != NULL);
	if (strstr(fault, words) == NULL)
		fprintf(stderr, "got: %s\n", fault);
	CHECK(strstr(fault, words) != NULL);
}

static void test_every_writer(void)
{
	static const int strategies[] = {Z_DEFAULT_STRATEGY, Z_FILTERED, Z_HUFFMAN_ONLY, Z_RLE, Z_FIXED};
	struct vb_decompressor *decompressor = vb_decompressor_new();

	CHECK(decompressor != NULL);
	for (size_t cluster = 512; cluster <= CLUSTER_MAX; cluster *= 4) {
		for (size_t i = 0; i < sizeof(strategies) / sizeof(strategies[0]); i++) {
			int level = (int)pick(10), window_bits = -12 - (int)pick(4);
			size_t length;

			fill(cluster);
			length = pack(cluster, window_bits, level, strategies[i], Z_FINISH);
			check_decodes(decompressor, length, cluster);
			/* What lies behind it in the last sector, and behind that, is somebody else's. */
			memset(packed + length, 0xff, 1024);
			check_decodes(decompressor, length + 1 + pick(1024), cluster);
		}
	}
	vb_decompressor_free(decompressor);
}

/* QEMU asks for a full cluster and for no end of the stream. */
static void test_what_only_fills_the_cluster(void)
{
	struct vb_decompressor *decompressor = vb_decompressor_new();
	size_t length;

	CHECK(decompressor != NULL);
	for (int round = 0; round < 20; round++) {
		fill(2 * CLUSTER);
		length = pack(2 * CLUSTER, -12, 6, Z_DEFAULT_STRATEGY, Z_FINISH);
		check_decodes(decompressor, length, CLUSTER);
		length = pack(CLUSTER, -12, 6, Z_DEFAULT_STRATEGY, Z_SYNC_FLUSH);
		check_decodes(decompressor, length, CLUSTER);
		check_fails(decompressor, length / 2, CLUSTER, "cut off");
		length = pack(CLUSTER - 1, -12, 6, Z_DEFAULT_STRATEGY, Z_FINISH);
		check_fails(decompressor, length, CLUSTER, "shorter than a cluster");
		/* A failure leaves nothing behind for the next cluster. */
		length = pack(CLUSTER, -12, 6, Z_DEFAULT_STRATEGY, Z_FINISH);
		check_decodes(decompressor, length, CLUSTER);
	}
	check_fails(decompressor, 0, CLUSTER, "cut off");
	packed[0] = 0x07;   /* a last block of the type that does not exist */
	check_fails(decompressor, 1, CLUSTER, "invalid block type");
	vb_decompressor_free(decompressor);
}

static bool zlib_accepts(size_t input_length, size_t output_length)
{
	z_stream stream = {0};
	int result;

	CHECK_EQUAL(inflateInit2(&stream, -12), Z_OK);
	stream.next_in = packed;
	stream.avail_in = (uInt)input_length;
	stream.next_out = expected;
	stream.avail_out = (uInt)output_length;
	result = inflate(&stream, Z_FINISH);
	inflateEnd(&stream);
	return (result == Z_STREAM_END || result == Z_BUF_ERROR) && stream.avail_out == 0;
}

static void test_damage_is_judged_as_by_qemu(void)
{
	const size_t cluster = 4096;
	struct vb_decompressor *decompressor = vb_decompressor_new();
	unsigned accepted = 0, refused = 0;

	CHECK(decompressor != NULL);
	for (unsigned round = 0; round < 4000; round++) {
		size_t length, reach;

		fill(cluster);
		length = pack(cluster, -12, 1 + (int)pick(9), (int)pick(4), Z_FINISH);
		/* Half of them near the start, where the code tables are. */
		reach = pick(2) != 0 && length > 64 ? 64 : length;
		for (uint32_t flips = 1 + pick(3); flips > 0; flips--)
			packed[pick((uint32_t)reach)] ^= (uint8_t)(1u << pick(8));
		if (!zlib_accepts(length, cluster)) {
			refused++;
			decode(decompressor, length, cluster);
			continue;
		}
		accepted++;
		CHECK(decode(decompressor, length, cluster) == NULL);
		CHECK(memcmp(output, expected, cluster) == 0);
	}
	/* Both kinds must have come up often, or nothing was shown. */
	CHECK(accepted > 500);
	CHECK(refused > 500);
	vb_decompressor_free(decompressor);
}

int main(void)
{
	RUN(test_every_writer);
	RUN(test_what_only_fills_the_cluster);
	RUN(test_damage_is_judged_as_by_qemu);
	return 0;
}
