/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A deflate encoder (RFC 1951) for windows of 4 KiB, as qcow2's compressed clusters need them. Internal to the core.
 *
 * Owns: one thread's match tables and block in the making. Invariants: what it writes is one complete raw stream whose distances are at
 * most VB_DEFLATE_WINDOW_BYTES, so that inflate with windowBits -12 decodes it; the same input and level give the same bytes, whatever
 * was encoded before; memory does not depend on the input.
 *
 * The window is so small that every table fits the first-level cache. Positions are kept in 16 bits: a stale one names some other byte
 * of the window at worst, and every candidate is compared before it is believed.
 */
#ifndef VB_DEFLATE_ENCODER_H
#define VB_DEFLATE_ENCODER_H

#include <stddef.h>
#include <stdint.h>

#define VB_DEFLATE_WINDOW_BYTES 4096u
#define VB_DEFLATE_LEVEL_MAX 9
#define VB_DEFLATE_LEVEL_DEFAULT 6
#define VB_DEFLATE_SLACK_BYTES 8u   /* behind the output's capacity, for whole words to be stored */

struct vb_deflate_encoder;

/* `level`: 1 (fast) to VB_DEFLATE_LEVEL_MAX (small); others are taken for the nearest. NULL: out of memory. */
struct vb_deflate_encoder *vb_deflate_encoder_new(int level);
void vb_deflate_encoder_free(struct vb_deflate_encoder *encoder);

/* Encodes `length` bytes; the stream's length, or 0 if it is longer than `capacity`. `output` has room for VB_DEFLATE_SLACK_BYTES more. */
size_t vb_deflate_encode(struct vb_deflate_encoder *encoder, const uint8_t *input, size_t length, uint8_t *output, size_t capacity);

#endif
