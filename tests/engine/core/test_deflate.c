/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deflate encoder: what it writes is decoded by zlib with QEMU's window and by libdeflate, byte for byte and to the last byte; it
 * keeps to the room it is given; and the same input gives the same bytes. The Huffman codes: complete, within the limit, and optimal
 * where the limit does not bind.
 */
#include <libdeflate.h>
#include <zlib.h>

#include "check.h"
#include "deflate_encoder.h"
#include "deflate_huffman.h"

#define INPUT_BYTES_MAX (2u * 1024 * 1024)
#define OUTPUT_BYTES_MAX (INPUT_BYTES_MAX + 1024)

static uint8_t input[INPUT_BYTES_MAX], output[OUTPUT_BYTES_MAX + VB_DEFLATE_SLACK_BYTES], back[INPUT_BYTES_MAX + 1];
static struct vb_deflate_encoder *encoders[VB_DEFLATE_LEVEL_MAX + 1];

static void check_decodes(size_t length, size_t stream_length)
{
	struct libdeflate_decompressor *decompressor = libdeflate_alloc_decompressor();
	z_stream stream = {.next_in = output, .avail_in = (uInt)stream_length, .next_out = back, .avail_out = (uInt)length + 1};
	size_t used = 0, made = 0;

	CHECK_EQUAL(inflateInit2(&stream, -12), Z_OK);
	CHECK_EQUAL(inflate(&stream, Z_FINISH), Z_STREAM_END);
	CHECK_EQUAL(stream.avail_in, 0);
	CHECK_EQUAL(stream.total_out, length);
	CHECK(memcmp(back, input, length) == 0);
	inflateEnd(&stream);
	memset(back, 0xee, length);
	CHECK_EQUAL(libdeflate_deflate_decompress_ex(decompressor, output, stream_length, back, length, &used, &made), LIBDEFLATE_SUCCESS);
	CHECK_EQUAL(used, stream_length);
	CHECK_EQUAL(made, length);
	CHECK(memcmp(back, input, length) == 0);
	libdeflate_free_decompressor(decompressor);
}

static size_t check_round(int level, size_t length)
{
	size_t stream_length = vb_deflate_encode(encoders[level], input, length, output, OUTPUT_BYTES_MAX);

	CHECK(stream_length > 0);
	check_decodes(length, stream_length);
	return stream_length;
}

/* Kinds of content, from what does not compress to what does not cease to. */
static void fill(unsigned kind, size_t length, unsigned long long seed)
{
	static const char *const words[] = {"the ", "cluster ", "of ", "a ", "disk\n", "0x7f", "image", ", ", "refcount "};
	size_t period = 1 + test_random(&seed) % 5000;

	for (size_t at = 0; at < length;) {
		unsigned long long chance = test_random(&seed);

		if (kind == 0) {
			input[at++] = (uint8_t)chance;
		} else if (kind == 1) {
			input[at++] = 0x5a;
		} else if (kind == 2) {
			for (const char *from = words[chance % 9]; *from && at < length; from++)
				input[at++] = (uint8_t)*from;
		} else if (kind == 3) {
			input[at] = at < period ? (uint8_t)chance : input[at - period];
			at++;
		} else if (kind == 4) {
			input[at++] = (uint8_t)(1u << (chance % 8));
		} else if (kind == 5) {
			/* Records of 24 bytes that differ in a few. */
			input[at] = at < 24 || chance % 7 == 0 ? (uint8_t)(chance >> 8) : input[at - 24];
			at++;
		} else {
			/* Noise, and text in parts. */
			input[at] = at / 9000 % 2 ? (uint8_t)"abcd ef"[chance % 7] : (uint8_t)chance;
			at++;
		}
	}
}

static void every_content(void)
{
	static const size_t lengths[] = {512, 4096, 65536, 300001};

	for (unsigned kind = 0; kind < 7; kind++) {
		for (size_t index = 0; index < sizeof(lengths) / sizeof(lengths[0]); index++) {
			fill(kind, lengths[index], kind + 10 * index);
			for (int level = 1; level <= VB_DEFLATE_LEVEL_MAX; level += 1 + (index == 3) * 4)
				check_round(level, lengths[index]);
		}
	}
}

static void small_lengths(void)
{
	for (size_t length = 0; length < 300; length++) {
		fill((unsigned)(length % 7), length, length);
		check_round(6, length);
		check_round(1 + (int)(length % 9), length);
	}
}

static void largest_cluster(void)
{
	for (unsigned kind = 0; kind < 7; kind += 2) {
		fill(kind, INPUT_BYTES_MAX, kind);
		check_round(6, INPUT_BYTES_MAX);
	}
}

/* Matches across the window's end: distances of 4095, 4096 and 4097. */
static void window_edge(void)
{
	for (size_t distance = 4094; distance <= 4098; distance++) {
		unsigned long long seed = distance;

		for (size_t at = 0; at < 3 * distance; at++)
			input[at] = at < distance ? (uint8_t)test_random(&seed) : input[at - distance];

		size_t stream_length = check_round(6, 3 * distance);

		/* Within the window the repeats cost next to nothing, beyond it they are noise. */
		CHECK(distance <= VB_DEFLATE_WINDOW_BYTES ? stream_length < distance + 400 : stream_length > 3 * distance - 100);
	}
}

/* The window of 16-bit positions comes round every 64 KiB. */
static void positions_come_round(void)
{
	for (size_t at = 0; at < 300000; at++)
		input[at] = (uint8_t)(at % 65536 < 5000 ? at * 31 + at / 256 : at * at >> 7);
	check_round(6, 300000);
	check_round(9, 300000);
}

/* Every capacity: the whole stream or nothing, and nothing behind the slack. */
static void room(void)
{
	fill(2, 3000, 1);

	size_t needed = check_round(6, 3000);
	uint8_t *tight = malloc(needed + VB_DEFLATE_SLACK_BYTES);

	CHECK(tight != NULL);
	for (size_t capacity = 0; capacity <= needed; capacity++) {
		size_t made = vb_deflate_encode(encoders[6], input, 3000, tight + needed - capacity, capacity);

		CHECK_EQUAL(made, capacity == needed ? needed : 0);
	}
	CHECK(memcmp(tight, output, needed) == 0);
	free(tight);
	fill(0, 65536, 3);
	CHECK_EQUAL(vb_deflate_encode(encoders[6], input, 65536, output, 65535), 0);
}

/* What is stored, behind any number of bits that wait, asks for no byte more than it takes. */
static void room_of_stored_blocks(void)
{
	for (size_t text = 0; text < 40000; text += 13333) {
		for (size_t noise = 1; noise < 300; noise += 7) {
			fill(0, text + noise, noise);
			for (size_t at = 0; at < text; at++)
				input[at] = (uint8_t)(at * at >> 9);

			size_t needed = check_round(1, text + noise);

			CHECK_EQUAL(vb_deflate_encode(encoders[1], input, text + noise, output, needed), needed);
			CHECK_EQUAL(vb_deflate_encode(encoders[1], input, text + noise, output, needed - 1), 0);
		}
	}
}

static void same_input_same_bytes(void)
{
	size_t first_length, second_length;

	fill(6, 65536, 5);
	first_length = vb_deflate_encode(encoders[6], input, 65536, output, OUTPUT_BYTES_MAX);
	memcpy(back, output, first_length);
	fill(0, 65536, 6);
	vb_deflate_encode(encoders[6], input, 65536, output, 100);
	fill(3, 65536, 6);
	vb_deflate_encode(encoders[6], input, 65536, output, OUTPUT_BYTES_MAX);
	fill(6, 65536, 5);
	second_length = vb_deflate_encode(encoders[6], input, 65536, output, OUTPUT_BYTES_MAX);
	CHECK_EQUAL(first_length, second_length);
	CHECK(memcmp(back, output, first_length) == 0);
}

/* On text, no larger than zlib at its default level with the same window. */
static void no_worse_than_zlib(void)
{
	for (unsigned kind = 2; kind < 7; kind++) {
		z_stream stream = {0};
		size_t length = 65536;

		fill(kind, length, 77);
		CHECK_EQUAL(deflateInit2(&stream, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
		stream.next_in = input;
		stream.avail_in = (uInt)length;
		stream.next_out = back;
		stream.avail_out = sizeof(back);
		CHECK_EQUAL(deflate(&stream, Z_FINISH), Z_STREAM_END);
		CHECK(check_round(6, length) <= stream.total_out + stream.total_out / 50);
		deflateEnd(&stream);
	}
}

static uint64_t kraft_sum(const uint8_t *lengths, uint32_t count, uint32_t bits_max)
{
	uint64_t sum = 0;

	for (uint32_t symbol = 0; symbol < count; symbol++) {
		CHECK(lengths[symbol] <= bits_max);
		if (lengths[symbol])
			sum += 1ull << (bits_max - lengths[symbol]);
	}
	return sum;
}

static void huffman_codes(void)
{
	uint32_t frequencies[VB_HUFFMAN_SYMBOLS_MAX];
	uint8_t lengths[VB_HUFFMAN_SYMBOLS_MAX];
	uint16_t codes[VB_HUFFMAN_SYMBOLS_MAX];
	unsigned long long seed = 3;

	for (unsigned round = 0; round < 3000; round++) {
		uint32_t bits_max = round % 3 == 0 ? 7 : VB_HUFFMAN_BITS_MAX;
		uint32_t count = 2 + (uint32_t)(test_random(&seed) % (bits_max == 7 ? 18 : VB_HUFFMAN_SYMBOLS_MAX - 1));
		uint32_t next = 1, before = 1;

		for (uint32_t symbol = 0; symbol < count; symbol++) {
			/* Fibonacci's numbers make the deepest trees. */
			uint32_t fibonacci = next;

			if (next < 1000000) {
				next += before;
				before = fibonacci;
			}
			frequencies[symbol] = round % 4 == 0 ? fibonacci : round % 4 == 1 ? (uint32_t)(test_random(&seed) % 3)
						       : (uint32_t)(test_random(&seed) % (1u << (test_random(&seed) % 14)));
		}
		vb_huffman_make_lengths(frequencies, count, bits_max, lengths);
		CHECK_EQUAL(kraft_sum(lengths, count, bits_max), 1ull << bits_max);
		for (uint32_t left = 0; left < count; left++) {
			CHECK(frequencies[left] == 0 || lengths[left] > 0);
			for (uint32_t right = 0; right < count; right++)
				CHECK(frequencies[left] <= frequencies[right] || lengths[left] <= lengths[right] || lengths[right] == 0);
		}
		vb_huffman_make_codes(lengths, count, codes);
		for (uint32_t symbol = 1; symbol < count; symbol++)
			CHECK(lengths[symbol] == 0 || codes[symbol] < 1u << lengths[symbol]);
	}
}

int main(void)
{
	for (int level = 1; level <= VB_DEFLATE_LEVEL_MAX; level++) {
		encoders[level] = vb_deflate_encoder_new(level);
		CHECK(encoders[level] != NULL);
	}
	RUN(huffman_codes);
	RUN(small_lengths);
	RUN(every_content);
	RUN(largest_cluster);
	RUN(window_edge);
	RUN(positions_come_round);
	RUN(room);
	RUN(room_of_stored_blocks);
	RUN(same_input_same_bytes);
	RUN(no_worse_than_zlib);
	for (int level = 1; level <= VB_DEFLATE_LEVEL_MAX; level++)
		vb_deflate_encoder_free(encoders[level]);
	return 0;
}
