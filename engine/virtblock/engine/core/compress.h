/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding compressed clusters. Internal to the core.
 *
 * Owns: one thread's encoder, made once and used for every cluster. Invariants: what it writes is decoded by QEMU (block/qcow2-threads.c):
 * a raw deflate stream with a window of 4 KiB, or one zstd frame; the same input gives the same bytes, whatever came before.
 */
#ifndef VB_COMPRESS_H
#define VB_COMPRESS_H

#include <stddef.h>

#include "image.h"

#define VB_COMPRESS_SLACK_BYTES 8u   /* behind an output's capacity, which an encoder may overwrite */

struct vb_compressor;

/* `level` 0 is the method's default: 6 for deflate, zstd's own for zstd. NULL: out of memory. */
struct vb_compressor *vb_compressor_new(enum vb_compression compression, int level);
void vb_compressor_free(struct vb_compressor *compressor);
/* The greatest level of the method; the least is 1. */
int vb_compressor_level_max(enum vb_compression compression);

/* Encodes a cluster; returns the stream's length, or 0 where it has no room in `capacity` (at most the cluster's length less one: a
 * cluster that does not become smaller is stored plain). `output` has VB_COMPRESS_SLACK_BYTES more. */
size_t vb_compress(struct vb_compressor *compressor, const void *input, size_t length, void *output, size_t capacity);

#endif
