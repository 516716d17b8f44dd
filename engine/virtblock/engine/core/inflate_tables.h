/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables that a deflate block's two codes make. Internal to the core.
 *
 * Owns: the layout of an entry, which takes two literals or a length with its distance where the bits for both fit into one look-up.
 * Invariants: tables are made of complete codes only, so every value of the next bits has an entry. Numbers: RFC 1951, section 3.2.
 */
#ifndef VB_INFLATE_TABLES_H
#define VB_INFLATE_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#define VB_INFLATE_LITLEN_SYMBOLS 288u
#define VB_INFLATE_DISTANCE_SYMBOLS 32u
#define VB_INFLATE_END_OF_BLOCK 256u
#define VB_INFLATE_LENGTH_FIRST 257u
#define VB_INFLATE_LENGTH_COUNT 29u
#define VB_INFLATE_DISTANCE_COUNT 30u
#define VB_INFLATE_CODE_BITS_MAX 15u

/* 11 bits: the entries take 16 KiB. With 12 there are more pairs, but they take twice as long to make and crowd the processor's first
 * cache. */
#define VB_INFLATE_STEP_BITS 11u
#define VB_INFLATE_STEP_MASK ((1u << VB_INFLATE_STEP_BITS) - 1)
#define VB_INFLATE_DISTANCE_BITS 8u
#define VB_INFLATE_DISTANCE_MASK ((1u << VB_INFLATE_DISTANCE_BITS) - 1)
#define VB_INFLATE_VECTOR_BYTES 16u

/*
 * An entry of `steps`. Bits 0-7: how many bits it takes, the distance's extra bits too. 8-15: bytes made. 16-23: bits before the distance's
 * extra bits. 32-47: the distance without them. A literal: LITERAL, with VECTOR_BYTES for a distance, and its bytes in 48-63. RARE: one
 * symbol that goes its own way; of a length that has no distance with it, RARE_LENGTH in 48-63, bits taken in 0-7, the symbol in 32-47.
 * An entry of `distances`: bits 0-7, 16-23 and 32-47 of such; 16-23 are NEVER_FITS for what is no distance or too long.
 */
#define VB_INFLATE_ENTRY_LITERAL 0x40000000u
#define VB_INFLATE_ENTRY_RARE 0x80000000u
#define VB_INFLATE_ENTRY_LITERALS_AT 6u   /* bytes */
#define VB_INFLATE_RARE_LENGTH 1u
#define VB_INFLATE_NEVER_FITS 63u

/* A canonical code: how many symbols have each length, and the symbols in the order of their codewords. */
struct vb_inflate_code {
	uint16_t counts[VB_INFLATE_CODE_BITS_MAX + 1];
	uint16_t symbols[VB_INFLATE_LITLEN_SYMBOLS];
};

struct vb_inflate_tables {
	uint64_t steps[(1u << VB_INFLATE_STEP_BITS) + 2];        /* two more: a vector may begin in the last entry */
	uint64_t second_literals[1u << VB_INFLATE_STEP_BITS];    /* what the bits behind a literal add to its entry */
	uint64_t distances[1u << VB_INFLATE_DISTANCE_BITS];      /* what the bits behind a length add to its entry */
	uint16_t litlen_symbols[1u << VB_INFLATE_STEP_BITS];     /* symbol << 4 | codeword's bits; 0: longer than the table */
	uint16_t distance_symbols[1u << VB_INFLATE_DISTANCE_BITS];
	struct vb_inflate_code litlen;
	struct vb_inflate_code distance;
};

extern const uint16_t vb_inflate_length_bases[VB_INFLATE_LENGTH_COUNT];
extern const uint8_t vb_inflate_length_extra_bits[VB_INFLATE_LENGTH_COUNT];
extern const uint16_t vb_inflate_distance_bases[VB_INFLATE_DISTANCE_COUNT];
extern const uint8_t vb_inflate_distance_extra_bits[VB_INFLATE_DISTANCE_COUNT];

/* False: not a complete code. A symbol that does not occur has length 0. */
bool vb_inflate_sort_code(struct vb_inflate_code *code, const uint8_t *lengths, uint32_t symbol_count);
/* For each value of the next `table_bits` bits the symbol that they begin with, as in `litlen_symbols`. */
void vb_inflate_fill_symbols(uint16_t *table, uint32_t table_bits, const struct vb_inflate_code *code);
/* Lengths of both codes, the distances' behind the others'. False: one of them is not complete. */
bool vb_inflate_make_tables(struct vb_inflate_tables *tables, const uint8_t *lengths, uint32_t litlen_count, uint32_t distance_count);

#endif
