/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the calls into the deflate encoder and zstd. */
#include "compress.h"

#include <stdlib.h>
#include <zstd.h>

#include "deflate_encoder.h"

_Static_assert(VB_COMPRESS_SLACK_BYTES >= VB_DEFLATE_SLACK_BYTES, "the deflate encoder writes that far");

struct vb_compressor {
	struct vb_deflate_encoder *deflate;   /* one of the two */
	ZSTD_CCtx *zstd;
	int level;
};

int vb_compressor_level_max(enum vb_compression compression)
{
	return compression == VB_COMPRESSION_ZSTD ? ZSTD_maxCLevel() : VB_DEFLATE_LEVEL_MAX;
}

struct vb_compressor *vb_compressor_new(enum vb_compression compression, int level)
{
	struct vb_compressor *compressor = calloc(1, sizeof(*compressor));

	if (!compressor)
		return NULL;
	if (compression == VB_COMPRESSION_ZSTD) {
		compressor->level = level ? level : ZSTD_defaultCLevel();
		compressor->zstd = ZSTD_createCCtx();
	} else {
		compressor->deflate = vb_deflate_encoder_new(level ? level : VB_DEFLATE_LEVEL_DEFAULT);
	}
	if (compressor->zstd || compressor->deflate)
		return compressor;
	free(compressor);
	return NULL;
}

void vb_compressor_free(struct vb_compressor *compressor)
{
	if (!compressor)
		return;
	vb_deflate_encoder_free(compressor->deflate);
	ZSTD_freeCCtx(compressor->zstd);
	free(compressor);
}

size_t vb_compress(struct vb_compressor *compressor, const void *input, size_t length, void *output, size_t capacity)
{
	if (compressor->deflate)
		return vb_deflate_encode(compressor->deflate, input, length, output, capacity);

	size_t result = ZSTD_compressCCtx(compressor->zstd, output, capacity, input, length, compressor->level);

	/* Too little room, or too little memory: stored plain, the cluster is right in any case. */
	return ZSTD_isError(result) ? 0 : result;
}
