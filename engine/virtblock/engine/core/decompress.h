/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding compressed clusters. Internal to the core.
 *
 * Owns: one thread's decoders, made when first needed and used again. Invariants: a cluster that QEMU accepts is accepted
 * with the same bytes (block/qcow2-threads.c), and memory does not depend on what the stream asks for. One that QEMU refuses is refused
 * too, but for a few malformed deflate code tables, which zlib rejects as such and libdeflate lets pass when they fill the cluster.
 */
#ifndef VB_DECOMPRESS_H
#define VB_DECOMPRESS_H

#include <stddef.h>

#include "image.h"

struct vb_decompressor;

struct vb_decompressor *vb_decompressor_new(void);   /* NULL: out of memory */
void vb_decompressor_free(struct vb_decompressor *decompressor);

/* Decodes exactly one cluster of `output_length`. Bytes behind the stream are ignored. NULL: done; otherwise what is wrong, in words. */
const char *vb_decompress(struct vb_decompressor *decompressor, enum vb_compression compression, const void *input, size_t input_length,
			  void *output, size_t output_length);

#endif
