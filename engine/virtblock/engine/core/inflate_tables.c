/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: how the tables are filled: codeword by codeword, and behind each the second symbol by what was looked up once for all. No branch
 * in the inner loops depends on the code, for they run 2048 times a block.
 */
#include "inflate_tables.h"

#include <string.h>

const uint16_t vb_inflate_length_bases[VB_INFLATE_LENGTH_COUNT] = {
	3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
const uint8_t vb_inflate_length_extra_bits[VB_INFLATE_LENGTH_COUNT] = {
	0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
const uint16_t vb_inflate_distance_bases[VB_INFLATE_DISTANCE_COUNT] = {
	1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
	193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
const uint8_t vb_inflate_distance_extra_bits[VB_INFLATE_DISTANCE_COUNT] = {
	0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

bool vb_inflate_sort_code(struct vb_inflate_code *code, const uint8_t *lengths, uint32_t symbol_count)
{
	uint16_t next[VB_INFLATE_CODE_BITS_MAX + 1] = {0};
	int32_t left = 1;

	memset(code->counts, 0, sizeof(code->counts));
	for (uint32_t symbol = 0; symbol < symbol_count; symbol++)
		code->counts[lengths[symbol]]++;
	code->counts[0] = 0;
	for (uint32_t length = 1; length <= VB_INFLATE_CODE_BITS_MAX; length++) {
		left = 2 * left - code->counts[length];
		if (left < 0)
			return false;
		if (length < VB_INFLATE_CODE_BITS_MAX)
			next[length + 1] = (uint16_t)(next[length] + code->counts[length]);
	}
	for (uint32_t symbol = 0; symbol < symbol_count; symbol++)
		if (lengths[symbol] != 0)
			code->symbols[next[lengths[symbol]]++] = (uint16_t)symbol;
	return left == 0;
}

/* The next codeword of the same length, first bit lowest; 0 behind the last. `top` is the highest bit of that length. */
static uint32_t next_codeword(uint32_t codeword, uint32_t top)
{
	while (codeword & top) {
		codeword ^= top;
		top >>= 1;
	}
	return top ? codeword | top : 0;
}

/* The table is doubled as codewords grow longer. */
void vb_inflate_fill_symbols(uint16_t *table, uint32_t table_bits, const struct vb_inflate_code *code)
{
	uint32_t codeword = 0, size = 1;
	const uint16_t *symbol = code->symbols;

	table[0] = 0;
	for (uint32_t length = 1; length <= table_bits; length++) {
		memcpy(table + size, table, size * sizeof(*table));
		size *= 2;
		for (uint32_t count = code->counts[length]; count > 0; count--) {
			table[codeword] = (uint16_t)((uint32_t)*symbol++ << 4 | length);
			codeword = next_codeword(codeword, size / 2);
		}
	}
	/* A complete code that ends here has come round to 0; otherwise what is left begins longer codewords. */
	while (codeword != 0) {
		table[codeword] = 0;
		codeword = next_codeword(codeword, size / 2);
	}
}

static void put_entries(struct vb_inflate_tables *tables, uint32_t codeword, uint32_t length, uint64_t entry)
{
	for (uint32_t index = codeword; index <= VB_INFLATE_STEP_MASK; index += 1u << length)
		tables->steps[index] = entry;
}

static void put_literal(struct vb_inflate_tables *tables, uint32_t codeword, uint32_t length, uint32_t symbol)
{
	const uint64_t first = (uint64_t)symbol << 48 | (uint64_t)VB_INFLATE_VECTOR_BYTES << 32 | VB_INFLATE_ENTRY_LITERAL |
			       length << 16 | 1u << 8 | length;
	const uint64_t *second = tables->second_literals;
	const uint64_t room = VB_INFLATE_STEP_BITS - length;

	for (uint32_t index = codeword; index <= VB_INFLATE_STEP_MASK; index += 1u << length, second++) {
		uint64_t fits = -(uint64_t)((*second & 63) <= room);

		tables->steps[index] = first + (*second & fits);
	}
}

/* A length of 256 and more, or one whose distance does not fit into the entry with it, is rare. */
static void put_match(struct vb_inflate_tables *tables, uint32_t codeword, uint32_t length, uint32_t symbol)
{
	const uint64_t rare = (uint64_t)VB_INFLATE_RARE_LENGTH << 48 | (uint64_t)symbol << 32 | VB_INFLATE_ENTRY_RARE | length;
	uint32_t used = length + vb_inflate_length_extra_bits[symbol];

	if (used > VB_INFLATE_STEP_BITS || vb_inflate_length_bases[symbol] + (1u << vb_inflate_length_extra_bits[symbol]) > 256) {
		put_entries(tables, codeword, length, rare);
		return;
	}
	for (uint32_t extra = 0; extra < 1u << vb_inflate_length_extra_bits[symbol]; extra++) {
		const uint64_t first = used << 16 | (vb_inflate_length_bases[symbol] + extra) << 8 | used;
		uint32_t behind = 0;

		for (uint32_t index = codeword | extra << length; index <= VB_INFLATE_STEP_MASK; index += 1u << used, behind++) {
			uint64_t distance = tables->distances[behind & VB_INFLATE_DISTANCE_MASK];
			uint64_t fits = -(uint64_t)((distance >> 16 & 63) <= VB_INFLATE_STEP_BITS - used);

			tables->steps[index] = ((first + distance) & fits) | (rare & ~fits);
		}
	}
}

/* What a second symbol adds to an entry, by the bits that it begins with. */
static void fill_second_symbols(struct vb_inflate_tables *tables)
{
	uint32_t shortest = 1;

	while (shortest < VB_INFLATE_STEP_BITS && tables->litlen.counts[shortest] == 0)
		shortest++;
	for (uint32_t index = 0; index < 1u << (VB_INFLATE_STEP_BITS - shortest); index++) {
		uint32_t length = tables->litlen_symbols[index] & 15, symbol = tables->litlen_symbols[index] >> 4;
		uint64_t is_literal = -(uint64_t)(length != 0 && symbol < VB_INFLATE_END_OF_BLOCK);

		tables->second_literals[index] = ((uint64_t)symbol << 56 | length << 16 | 1u << 8 | length) & is_literal;
	}
	for (uint32_t index = 0; index <= VB_INFLATE_DISTANCE_MASK; index++) {
		uint32_t length = tables->distance_symbols[index] & 15, symbol = tables->distance_symbols[index] >> 4;

		tables->distances[index] = VB_INFLATE_NEVER_FITS << 16;
		if (length != 0 && symbol < VB_INFLATE_DISTANCE_COUNT)
			tables->distances[index] =
				(uint64_t)vb_inflate_distance_bases[symbol] << 32 | length << 16 | (length + vb_inflate_distance_extra_bits[symbol]);
	}
}

static void fill_steps(struct vb_inflate_tables *tables)
{
	const uint16_t *symbol = tables->litlen.symbols;
	uint32_t codeword = 0;

	fill_second_symbols(tables);
	put_entries(tables, 0, 0, VB_INFLATE_ENTRY_RARE);
	for (uint32_t length = 1; length <= VB_INFLATE_STEP_BITS; length++) {
		for (uint32_t count = tables->litlen.counts[length]; count > 0; count--, symbol++) {
			if (*symbol < VB_INFLATE_END_OF_BLOCK)
				put_literal(tables, codeword, length, *symbol);
			else if (*symbol >= VB_INFLATE_LENGTH_FIRST && *symbol < VB_INFLATE_LENGTH_FIRST + VB_INFLATE_LENGTH_COUNT)
				put_match(tables, codeword, length, *symbol - VB_INFLATE_LENGTH_FIRST);
			codeword = next_codeword(codeword, 1u << (length - 1));
		}
	}
}

bool vb_inflate_make_tables(struct vb_inflate_tables *tables, const uint8_t *lengths, uint32_t litlen_count, uint32_t distance_count)
{
	if (!vb_inflate_sort_code(&tables->litlen, lengths, litlen_count) ||
	    !vb_inflate_sort_code(&tables->distance, lengths + litlen_count, distance_count))
		return false;
	vb_inflate_fill_symbols(tables->litlen_symbols, VB_INFLATE_STEP_BITS, &tables->litlen);
	vb_inflate_fill_symbols(tables->distance_symbols, VB_INFLATE_DISTANCE_BITS, &tables->distance);
	fill_steps(tables);
	return true;
}
