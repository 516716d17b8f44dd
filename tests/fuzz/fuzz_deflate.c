/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The deflate encoder. The input: one byte that chooses the level, one that says how much less room than needed is given (0: enough),
 * one that says how often the content is repeated, then the content. Demanded: the stream decodes by inflate with QEMU's window to the
 * content, wholly; with less room nothing is made; nothing is written behind the room and the slack.
 */
#include <string.h>
#include <zlib.h>

#include "deflate_encoder.h"
#include "oracle.h"

#define CONTROL_BYTES 3u
#define CONTENT_BYTES_MAX (128u * 1024)
#define ROOM_BYTES (CONTENT_BYTES_MAX + 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_decodes(const uint8_t *stream_bytes, size_t stream_length, const uint8_t *content, size_t length)
{
	static uint8_t back[CONTENT_BYTES_MAX + 1];
	z_stream stream = {0};

	stream.next_in = (Bytef *)(uintptr_t)stream_bytes;
	stream.avail_in = (uInt)stream_length;
	stream.next_out = back;
	stream.avail_out = (uInt)length + 1;
	REQUIRE(inflateInit2(&stream, -12) == Z_OK);
	REQUIRE(inflate(&stream, Z_FINISH) == Z_STREAM_END);
	REQUIRE(stream.avail_in == 0 && stream.total_out == length);
	REQUIRE(memcmp(back, content, length) == 0);
	inflateEnd(&stream);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t content[CONTENT_BYTES_MAX], room[ROOM_BYTES + VB_DEFLATE_SLACK_BYTES];
	static struct vb_deflate_encoder *encoders[VB_DEFLATE_LEVEL_MAX + 1];
	size_t length = 0, made;
	uint8_t *tight;
	int level;

	if (size < CONTROL_BYTES)
		return 0;
	level = 1 + data[0] % VB_DEFLATE_LEVEL_MAX;
	if (encoders[level] == NULL)
		encoders[level] = vb_deflate_encoder_new(level);
	REQUIRE(encoders[level] != NULL);
	for (unsigned repeat = 0; repeat <= data[2] % 8 && length + size - CONTROL_BYTES <= CONTENT_BYTES_MAX; repeat++) {
		memcpy(content + length, data + CONTROL_BYTES, size - CONTROL_BYTES);
		length += size - CONTROL_BYTES;
	}
	made = vb_deflate_encode(encoders[level], content, length, room, ROOM_BYTES);
	REQUIRE(made > 0);
	require_decodes(room, made, content, length);
	if (data[1] > made)
		return 0;
	tight = malloc(made - data[1] + VB_DEFLATE_SLACK_BYTES);
	REQUIRE(tight != NULL);
	REQUIRE(vb_deflate_encode(encoders[level], content, length, tight, made - data[1]) == (data[1] ? 0 : made));
	if (data[1] == 0)
		REQUIRE(memcmp(tight, room, made) == 0);
	free(tight);
	return 0;
}
