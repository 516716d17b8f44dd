/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Our deflate decoder. The input: two bytes that say how long the output is to be, then the stream. Demanded: what it decodes, zlib decodes
 * whole to the same bytes; what zlib decodes to another length, it refuses. Stream and output lie in blocks of exactly their size.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "inflate.h"
#include "oracle.h"

#define CONTROL_BYTES 2u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_same(const uint8_t *input, size_t input_length, const uint8_t *output, size_t length)
{
	z_stream stream = {0};
	uint8_t *expected = malloc(length + 1);

	REQUIRE(expected != NULL);
	stream.next_in = (Bytef *)(uintptr_t)input;
	stream.avail_in = (uInt)input_length;
	stream.next_out = expected;
	stream.avail_out = (uInt)length + 1;
	REQUIRE(inflateInit2(&stream, -15) == Z_OK);
	REQUIRE(inflate(&stream, Z_FINISH) == Z_STREAM_END);
	REQUIRE(stream.total_out == length);
	REQUIRE(memcmp(output, expected, length) == 0);
	inflateEnd(&stream);
	free(expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vb_inflater *inflater;
	size_t length, input_length;
	uint8_t *input, *output;

	if (inflater == NULL)
		inflater = vb_inflater_new();
	if (inflater == NULL || size < CONTROL_BYTES)
		return 0;
	length = (size_t)data[0] << 8 | data[1];
	input_length = size - CONTROL_BYTES;
	input = malloc(input_length);
	output = malloc(length);
	REQUIRE(input != NULL && output != NULL);
	memcpy(input, data + CONTROL_BYTES, input_length);
	if (vb_inflate(inflater, input, input_length, output, length))
		require_same(input, input_length, output, length);
	free(input);
	free(output);
	return 0;
}
