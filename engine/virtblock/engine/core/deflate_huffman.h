/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Huffman codes for deflate. Internal to the core.
 *
 * Owns: code lengths from frequencies, and codewords from code lengths. Invariants: a code is complete (Kraft's sum is exactly one) and no
 * length is over the limit; where fewer than two symbols occur, two get one bit each, which every decoder accepts.
 */
#ifndef VB_DEFLATE_HUFFMAN_H
#define VB_DEFLATE_HUFFMAN_H

#include <stdint.h>

#define VB_HUFFMAN_SYMBOLS_MAX 288u
#define VB_HUFFMAN_BITS_MAX 15u

/* `lengths` of `symbol_count` symbols (2 to VB_HUFFMAN_SYMBOLS_MAX), 0 for what does not occur. The frequencies' sum is below 2^23. */
void vb_huffman_make_lengths(const uint32_t *frequencies, uint32_t symbol_count, uint32_t bits_max, uint8_t *lengths);
/* The canonical codewords, first bit lowest, as deflate stores them. */
void vb_huffman_make_codes(const uint8_t *lengths, uint32_t symbol_count, uint16_t *codes);

#endif
