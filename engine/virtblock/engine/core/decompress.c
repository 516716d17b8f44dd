/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: which decoder has the first try, and the calls into libdeflate, zlib and zstd.
 *
 * Deflate: a raw stream. The quick ones have the first try and are believed when the stream ends and has filled the cluster: our own
 * (inflate.h), or libdeflate, which is ahead on small clusters and on those that are mostly runs.
 * Whatever they say otherwise, zlib decides, called as QEMU calls it: the stream may go on behind the cluster's end or lack its last
 * bits; all that counts is that it fills the cluster. zstd: one or more whole frames until the cluster is full; each frame is decoded in
 * one call, straight into its place, so no window is allocated however large a one the frame asks for.
 */
#define ZLIB_CONST
#include "decompress.h"

#include <libdeflate.h>
#include <stdbool.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "inflate.h"

#define QCOW2_WINDOW_BITS (-12)
/* Below either, our own decoder's tables cost more than its steps gain. */
#define INFLATE_CLUSTER_BYTES_MIN (16u * 1024)
#define INFLATE_RATIO_MAX 5u

struct vb_decompressor {
	struct vb_inflater *inflater;
	bool has_tried_inflater;
	struct libdeflate_decompressor *deflate;
	z_stream inflate;
	bool inflate_is_ready;
	ZSTD_DCtx *zstd;
};

struct vb_decompressor *vb_decompressor_new(void)
{
	return calloc(1, sizeof(struct vb_decompressor));
}

void vb_decompressor_free(struct vb_decompressor *decompressor)
{
	if (decompressor == NULL)
		return;
	vb_inflater_free(decompressor->inflater);
	libdeflate_free_decompressor(decompressor->deflate);
	if (decompressor->inflate_is_ready)
		inflateEnd(&decompressor->inflate);
	ZSTD_freeDCtx(decompressor->zstd);
	free(decompressor);
}

static const char *decode_as_qemu(struct vb_decompressor *decompressor, const void *input, size_t input_length, void *output,
				  size_t output_length)
{
	z_stream *stream = &decompressor->inflate;
	int result = decompressor->inflate_is_ready ? inflateReset(stream) : inflateInit2(stream, QCOW2_WINDOW_BITS);

	if (result != Z_OK)
		return "out of memory for zlib";
	decompressor->inflate_is_ready = true;
	stream->next_in = input;
	stream->avail_in = (uInt)input_length;
	stream->next_out = output;
	stream->avail_out = (uInt)output_length;
	result = inflate(stream, Z_FINISH);
	if (result != Z_STREAM_END && result != Z_BUF_ERROR)
		return stream->msg != NULL ? stream->msg : "not a deflate stream";
	if (stream->avail_out != 0)
		return result == Z_STREAM_END ? "the deflate stream is shorter than a cluster" : "the deflate stream is cut off";
	return NULL;
}

static bool decode_by_inflater(struct vb_decompressor *decompressor, const void *input, size_t input_length, void *output,
			       size_t output_length)
{
	if (output_length < INFLATE_CLUSTER_BYTES_MIN || input_length < output_length / INFLATE_RATIO_MAX)
		return false;
	if (!decompressor->has_tried_inflater)
		decompressor->inflater = vb_inflater_new();
	decompressor->has_tried_inflater = true;
	return decompressor->inflater != NULL && vb_inflate(decompressor->inflater, input, input_length, output, output_length);
}

/* Without memory for the quick ones zlib does it all. */
static const char *decode_deflate(struct vb_decompressor *decompressor, const void *input, size_t input_length, void *output,
				  size_t output_length)
{
	if (decode_by_inflater(decompressor, input, input_length, output, output_length))
		return NULL;
	if (decompressor->deflate == NULL)
		decompressor->deflate = libdeflate_alloc_decompressor();
	/* Without a place for the decoded length, nothing but a full cluster is a success. */
	if (decompressor->deflate != NULL && libdeflate_deflate_decompress(decompressor->deflate, input, input_length, output,
									   output_length, NULL) == LIBDEFLATE_SUCCESS)
		return NULL;
	return decode_as_qemu(decompressor, input, input_length, output, output_length);
}

static const char *decode_zstd(struct vb_decompressor *decompressor, const void *input, size_t input_length, void *output,
			       size_t output_length)
{
	const char *from = input;
	char *to = output;

	if (decompressor->zstd == NULL)
		decompressor->zstd = ZSTD_createDCtx();
	if (decompressor->zstd == NULL)
		return "out of memory for zstd";
	while (output_length > 0) {
		size_t frame_length = ZSTD_findFrameCompressedSize(from, input_length), decoded_length;

		if (ZSTD_isError(frame_length))
			return ZSTD_getErrorName(frame_length);
		decoded_length = ZSTD_decompressDCtx(decompressor->zstd, to, output_length, from, frame_length);
		if (ZSTD_isError(decoded_length))
			return ZSTD_getErrorName(decoded_length);
		from += frame_length;
		input_length -= frame_length;
		to += decoded_length;
		output_length -= decoded_length;
	}
	return NULL;
}

const char *vb_decompress(struct vb_decompressor *decompressor, enum vb_compression compression, const void *input, size_t input_length,
			  void *output, size_t output_length)
{
	if (compression == VB_COMPRESSION_ZSTD)
		return decode_zstd(decompressor, input, input_length, output, output_length);
	return decode_deflate(decompressor, input, input_length, output, output_length);
}
