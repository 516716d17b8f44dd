/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Deflate blocks: what has been found in the input, counted, priced and written in the cheapest way. Internal to the core.
 *
 * Owns: the form of the three kinds of block, and the bits of the output. Invariants: a block's price in bits is exact and known before
 * a bit is written, so that the one look at the room that is left is enough.
 */
#ifndef VB_DEFLATE_BLOCK_H
#define VB_DEFLATE_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VB_DEFLATE_LITLEN_SYMBOLS 286u
#define VB_DEFLATE_DISTANCE_SYMBOLS 24u   /* distances to 4096; decoders know 30 */
#define VB_DEFLATE_MATCH_MIN 3u
#define VB_DEFLATE_MATCH_MAX 258u

/* `literal_count` bytes as they are, then a match; the last one of a block may have none (length 0). */
struct vb_deflate_sequence {
	uint32_t literal_count;
	uint16_t length;
	uint16_t distance;
};

/* How often each symbol occurs. */
struct vb_deflate_counts {
	uint32_t litlen[VB_DEFLATE_LITLEN_SYMBOLS];
	uint32_t distance[VB_DEFLATE_DISTANCE_SYMBOLS];
};

struct vb_deflate_output {
	uint8_t *next;
	uint8_t *end;          /* of the capacity; a word behind it may be written */
	uint64_t bits;         /* not yet stored, lowest first */
	uint32_t bit_count;    /* of those: below 8 between two blocks */
};

extern const uint8_t vb_deflate_length_symbols[VB_DEFLATE_MATCH_MAX + 1];   /* minus 257 */

static inline uint32_t vb_deflate_distance_symbol(uint32_t distance)
{
	uint32_t value = distance - 1;

	if (value < 4)
		return value;

	uint32_t top = 31 - (uint32_t)__builtin_clz(value);

	return 2 * top + (value >> (top - 1) & 1);
}

/* About how many bits these symbols take with codes of their own, the codes' description left out. */
uint64_t vb_deflate_estimate_bits(const struct vb_deflate_counts *counts);

/* About what a literal takes in such a code, in 1/256 bits. */
uint32_t vb_deflate_literal_cost(const struct vb_deflate_counts *counts);

/* Writes one block, which `input` (of `length` bytes) and its sequences make. `counts` lacks the end-of-block symbol. False: there is no room. */
bool vb_deflate_put_block(struct vb_deflate_output *output, const uint8_t *input, size_t length,
			  const struct vb_deflate_sequence *sequences, size_t sequence_count, struct vb_deflate_counts *counts,
			  bool is_last);
/* Stores what is left of the last block. */
void vb_deflate_finish(struct vb_deflate_output *output);

#endif
