/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our deflate decoder alone. The yardstick is zlib: what ours decodes, zlib decodes to the same bytes, and it decodes all that compressors
 * write. Streams and room lie in blocks of exactly their size, so that a sanitizer sees every byte too many.
 */
#define ZLIB_CONST
#include <zlib.h>

#include "check.h"
#include "inflate.h"

#define CONTENT_BYTES_MAX (256u * 1024)

static uint8_t content[CONTENT_BYTES_MAX], packed[2 * CONTENT_BYTES_MAX];
static unsigned long long seed = 29;

static uint32_t pick(uint32_t count)
{
	return (uint32_t)(test_random(&seed) % count);
}

/* Literals, and matches of any length at any distance that there is, near ones often. */
static void fill(size_t length)
{
	uint32_t letters = 1 + pick(256), match_share = pick(100), far = 1u << pick(16), run_bytes = 1 + pick(400);

	for (size_t at = 0; at < length;) {
		if (at == 0 || pick(100) >= match_share) {
			content[at++] = (uint8_t)pick(letters);
			continue;
		}

		size_t distance = 1 + pick(at < far ? (uint32_t)at : far);

		for (uint32_t left = 1 + pick(run_bytes); left > 0 && at < length; left--, at++)
			content[at] = content[at - distance];
	}
}

static size_t pack(size_t length)
{
	static const int flushes[] = {Z_NO_FLUSH, Z_SYNC_FLUSH, Z_FULL_FLUSH, Z_BLOCK};
	int flush = flushes[pick(4)];
	uint32_t piece = 1 + pick(1u << (4 + pick(14)));
	z_stream stream = {0};

	CHECK_EQUAL(deflateInit2(&stream, (int)pick(10), Z_DEFLATED, -9 - (int)pick(7), 1 + (int)pick(9), (int)pick(5)), Z_OK);
	stream.next_in = content;
	stream.next_out = packed;
	stream.avail_out = (uInt)sizeof(packed);
	while (stream.total_in < length && stream.total_out < length / 2 + 4096) {
		stream.avail_in = (uInt)(length - stream.total_in < piece ? length - stream.total_in : piece);
		CHECK(deflate(&stream, flush) >= Z_BUF_ERROR);
	}
	stream.avail_in = (uInt)(length - stream.total_in);
	CHECK_EQUAL(deflate(&stream, Z_FINISH), Z_STREAM_END);
	length = stream.total_out;
	deflateEnd(&stream);
	return length;
}

static uint8_t *copy_exactly(const uint8_t *bytes, size_t length)
{
	uint8_t *copy = malloc(length);

	CHECK(copy != NULL);
	memcpy(copy, bytes, length);
	return copy;
}

/* Whether ours decodes it; then `output` is what it made. */
static bool decode(struct vb_inflater *inflater, size_t input_length, uint8_t *output, size_t output_length)
{
	uint8_t *input = copy_exactly(packed, input_length);
	bool is_decoded = vb_inflate(inflater, input, input_length, output, output_length);

	free(input);
	return is_decoded;
}

static bool zlib_decodes(size_t input_length, uint8_t *output, size_t output_length)
{
	z_stream stream = {0};
	int result;

	CHECK_EQUAL(inflateInit2(&stream, -15), Z_OK);
	stream.next_in = packed;
	stream.avail_in = (uInt)input_length;
	stream.next_out = output;
	stream.avail_out = (uInt)output_length;
	result = inflate(&stream, Z_FINISH);
	inflateEnd(&stream);
	return result == Z_STREAM_END && stream.avail_out == 0;
}

static void test_every_stream_is_decoded(void)
{
	struct vb_inflater *inflater = vb_inflater_new();

	for (unsigned round = 0; round < 1500; round++) {
		size_t length = pick(1u << (1 + pick(18))), packed_length;
		uint8_t *output = malloc(length);

		CHECK(output != NULL);
		fill(length);
		packed_length = pack(length);
		CHECK(decode(inflater, packed_length, output, length));
		CHECK(memcmp(output, content, length) == 0);
		/* What lies behind the stream is somebody else's. */
		memset(packed + packed_length, 0xff, 64);
		CHECK(decode(inflater, packed_length + pick(64), output, length));
		CHECK(memcmp(output, content, length) == 0);
		free(output);
	}
	vb_inflater_free(inflater);
}

static void test_only_a_whole_stream_of_that_length_is(void)
{
	struct vb_inflater *inflater = vb_inflater_new();

	for (unsigned round = 0; round < 300; round++) {
		size_t length = 1 + pick(40000), packed_length;
		uint8_t *whole = malloc(length), *shorter = malloc(length - 1), *longer = malloc(length + 1);

		CHECK(whole != NULL && shorter != NULL && longer != NULL);
		fill(length);
		packed_length = pack(length);
		CHECK(!decode(inflater, packed_length - 1 - pick((uint32_t)(packed_length < 20 ? packed_length : 20)), whole, length));
		CHECK(!decode(inflater, pick((uint32_t)packed_length), whole, length));
		CHECK(!decode(inflater, packed_length, longer, length + 1));
		CHECK(!decode(inflater, packed_length, shorter, length - 1));
		free(whole);
		free(shorter);
		free(longer);
	}
	vb_inflater_free(inflater);
}

static void test_damage_gives_nothing_wrong(void)
{
	struct vb_inflater *inflater = vb_inflater_new();
	unsigned decoded = 0, refused = 0;

	for (unsigned round = 0; round < 6000; round++) {
		size_t length = 1 + pick(1u << (4 + pick(13))), packed_length, reach;
		uint8_t *output = malloc(length), *expected = malloc(length);

		CHECK(output != NULL && expected != NULL);
		fill(length);
		packed_length = pack(length);
		/* Half of them near the start, where the codes are. */
		reach = pick(2) != 0 && packed_length > 64 ? 64 : packed_length;
		for (uint32_t flips = 1 + pick(3); flips > 0; flips--)
			packed[pick((uint32_t)reach)] ^= (uint8_t)(1u << pick(8));
		if (decode(inflater, packed_length, output, length)) {
			decoded++;
			CHECK(zlib_decodes(packed_length, expected, length));
			CHECK(memcmp(output, expected, length) == 0);
		} else {
			refused++;
		}
		free(output);
		free(expected);
	}
	/* Both must have come up often, or nothing was shown. */
	CHECK(decoded > 500);
	CHECK(refused > 500);
	vb_inflater_free(inflater);
}

int main(void)
{
	struct vb_inflater *inflater = vb_inflater_new();

	if (inflater == NULL) {
		printf("this processor has no use for it: libdeflate decodes here\n");
		return 0;
	}
	vb_inflater_free(inflater);
	RUN(test_every_stream_is_decoded);
	RUN(test_only_a_whole_stream_of_that_length_is);
	RUN(test_damage_gives_nothing_wrong);
	return 0;
}
