/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: see deflate_block.h. Numbers: RFC 1951, section 3.2. */
#include "deflate_block.h"

#include <endian.h>

#include "deflate_huffman.h"

#define END_OF_BLOCK 256u
#define LENGTH_SYMBOL_FIRST 257u
#define DISTANCE_SYMBOLS_MAX 32u
#define PRECODE_SYMBOLS 19u
#define PRECODE_BITS_MAX 7u
#define STORED_BYTES_MAX 65535u

enum block_kind { BLOCK_STORED = 0, BLOCK_STATIC = 1, BLOCK_DYNAMIC = 2 };

const uint8_t vb_deflate_length_symbols[VB_DEFLATE_MATCH_MAX + 1] = {
	[3] = 0, [4] = 1, [5] = 2, [6] = 3, [7] = 4, [8] = 5, [9] = 6, [10] = 7,
	[11 ... 12] = 8, [13 ... 14] = 9, [15 ... 16] = 10, [17 ... 18] = 11,
	[19 ... 22] = 12, [23 ... 26] = 13, [27 ... 30] = 14, [31 ... 34] = 15,
	[35 ... 42] = 16, [43 ... 50] = 17, [51 ... 58] = 18, [59 ... 66] = 19,
	[67 ... 82] = 20, [83 ... 98] = 21, [99 ... 114] = 22, [115 ... 130] = 23,
	[131 ... 162] = 24, [163 ... 194] = 25, [195 ... 226] = 26, [227 ... 257] = 27,
	[258] = 28,
};
static const uint16_t length_bases[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11, 13, 15,  17,  19,  23, 27,
					  31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t length_extra_bits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint8_t precode_order[PRECODE_SYMBOLS] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

static uint32_t distance_extra_bits(uint32_t symbol)
{
	return symbol < 4 ? 0 : symbol / 2 - 1;
}

/* The code of one block, and its description: the lengths of both alphabets in a row. A symbol that does not occur has length 0. */
struct block_code {
	uint8_t litlen_lengths[VB_HUFFMAN_SYMBOLS_MAX];
	uint8_t distance_lengths[DISTANCE_SYMBOLS_MAX];
	uint16_t litlen_codes[VB_HUFFMAN_SYMBOLS_MAX];
	uint16_t distance_codes[DISTANCE_SYMBOLS_MAX];
	uint32_t litlen_count;                             /* symbols described */
	uint32_t distance_count;
	uint8_t items[VB_HUFFMAN_SYMBOLS_MAX + DISTANCE_SYMBOLS_MAX];     /* precode symbols */
	uint8_t repeats[VB_HUFFMAN_SYMBOLS_MAX + DISTANCE_SYMBOLS_MAX];   /* the extra bits of each */
	uint32_t item_count;
	uint8_t precode_lengths[PRECODE_SYMBOLS];
	uint32_t precode_count;
};

static void put_bits(struct vb_deflate_output *output, uint64_t bits, uint32_t count)
{
	output->bits |= bits << output->bit_count;
	output->bit_count += count;
}

/* Stores whole bytes; at most 7 bits stay. */
static void store_bits(struct vb_deflate_output *output)
{
	uint64_t word = htole64(output->bits);

	memcpy(output->next, &word, sizeof(word));
	output->next += output->bit_count >> 3;
	output->bits >>= output->bit_count & ~7u;
	output->bit_count &= 7;
}

void vb_deflate_finish(struct vb_deflate_output *output)
{
	output->bit_count += 7;
	store_bits(output);
	output->bit_count = 0;
}

/* f * log2(f), in 1/256 bits. */
static uint64_t weighted_log(uint32_t value)
{
	/* log2(1 + i/64) in 1/256 */
	static const uint16_t table[65] = {
		0,   6,   11,  17,  22,  28,  33,  38,  44,  49,  54,  59,  63,  68,  73,  78,  82,  87,  92,  96,  100, 105,
		109, 113, 118, 122, 126, 130, 134, 138, 142, 146, 150, 154, 157, 161, 165, 169, 172, 176, 179, 183, 186, 190,
		193, 197, 200, 203, 207, 210, 213, 216, 220, 223, 226, 229, 232, 235, 238, 241, 244, 247, 250, 253, 256};

	if (value < 2)
		return 0;

	uint32_t top = 31 - (uint32_t)__builtin_clz(value);
	uint32_t fraction = (uint32_t)(((uint64_t)value << 6) >> top) & 63;

	return (uint64_t)value * (top * 256 + table[fraction]);
}

static uint64_t estimate_alphabet(const uint32_t *counts, uint32_t symbol_count)
{
	uint32_t total = 0;
	uint64_t sum = 0;

	for (uint32_t symbol = 0; symbol < symbol_count; symbol++) {
		total += counts[symbol];
		sum += weighted_log(counts[symbol]);
	}
	sum = weighted_log(total) - sum;
	return sum >> 8;
}

uint64_t vb_deflate_estimate_bits(const struct vb_deflate_counts *counts)
{
	return estimate_alphabet(counts->litlen, VB_DEFLATE_LITLEN_SYMBOLS) +
	       estimate_alphabet(counts->distance, VB_DEFLATE_DISTANCE_SYMBOLS);
}

uint32_t vb_deflate_literal_cost(const struct vb_deflate_counts *counts)
{
	uint32_t total = 0, literals = 0;
	uint64_t sum = 0;

	for (uint32_t symbol = 0; symbol < VB_DEFLATE_LITLEN_SYMBOLS; symbol++) {
		total += counts->litlen[symbol];
		if (symbol < END_OF_BLOCK) {
			literals += counts->litlen[symbol];
			sum += weighted_log(counts->litlen[symbol]);
		}
	}
	if (literals == 0)
		return 8 * 256;
	return (uint32_t)((weighted_log(total) / total * literals - sum) / literals);
}

static void push_item(struct block_code *code, uint32_t *counts, uint8_t item, uint32_t repeat)
{
	code->items[code->item_count] = item;
	code->repeats[code->item_count++] = (uint8_t)repeat;
	counts[item]++;
}

/* Describes the lengths by the precode's symbols: themselves, and repeats of zeros (17, 18) and of the last one (16). */
static void describe_lengths(struct block_code *code, const uint8_t *lengths, uint32_t count, uint32_t *counts)
{
	for (uint32_t index = 0; index < count;) {
		uint8_t length = lengths[index];
		uint32_t run = 1;

		while (index + run < count && lengths[index + run] == length)
			run++;
		index += run;
		if (length) {
			push_item(code, counts, length, 0);
			run--;
		}
		while (run >= 3) {
			uint32_t most = length ? 6 : 138;
			uint32_t take = run < most ? run : most;

			if (length)
				push_item(code, counts, 16, take - 3);
			else if (take <= 10)
				push_item(code, counts, 17, take - 3);
			else
				push_item(code, counts, 18, take - 11);
			run -= take;
		}
		while (run-- > 0)
			push_item(code, counts, length, 0);
	}
}

static uint32_t used_count(const uint8_t *lengths, uint32_t count, uint32_t least)
{
	while (count > least && lengths[count - 1] == 0)
		count--;
	return count;
}

static uint32_t item_extra_bits(uint8_t item)
{
	return item < 16 ? 0 : item == 16 ? 2 : item == 17 ? 3 : 7;
}

/* Makes the block's own code; returns the bits of its description. */
static uint32_t make_dynamic_code(struct block_code *code, const struct vb_deflate_counts *counts)
{
	uint8_t row[VB_DEFLATE_LITLEN_SYMBOLS + VB_DEFLATE_DISTANCE_SYMBOLS];
	uint32_t precode_counts[PRECODE_SYMBOLS] = {0};
	uint32_t bits = 5 + 5 + 4;

	vb_huffman_make_lengths(counts->litlen, VB_DEFLATE_LITLEN_SYMBOLS, VB_HUFFMAN_BITS_MAX, code->litlen_lengths);
	vb_huffman_make_lengths(counts->distance, VB_DEFLATE_DISTANCE_SYMBOLS, VB_HUFFMAN_BITS_MAX, code->distance_lengths);
	code->litlen_count = used_count(code->litlen_lengths, VB_DEFLATE_LITLEN_SYMBOLS, LENGTH_SYMBOL_FIRST);
	code->distance_count = used_count(code->distance_lengths, VB_DEFLATE_DISTANCE_SYMBOLS, 1);
	memcpy(row, code->litlen_lengths, code->litlen_count);
	memcpy(row + code->litlen_count, code->distance_lengths, code->distance_count);
	code->item_count = 0;
	describe_lengths(code, row, code->litlen_count + code->distance_count, precode_counts);
	vb_huffman_make_lengths(precode_counts, PRECODE_SYMBOLS, PRECODE_BITS_MAX, code->precode_lengths);
	code->precode_count = PRECODE_SYMBOLS;
	while (code->precode_count > 4 && code->precode_lengths[precode_order[code->precode_count - 1]] == 0)
		code->precode_count--;
	bits += 3 * code->precode_count;
	for (uint32_t symbol = 0; symbol < PRECODE_SYMBOLS; symbol++)
		bits += precode_counts[symbol] * (code->precode_lengths[symbol] + item_extra_bits((uint8_t)symbol));
	return bits;
}

static void make_static_code(struct block_code *code)
{
	code->litlen_count = VB_HUFFMAN_SYMBOLS_MAX;
	code->distance_count = DISTANCE_SYMBOLS_MAX;
	memset(code->litlen_lengths, 8, 144);
	memset(code->litlen_lengths + 144, 9, 112);
	memset(code->litlen_lengths + 256, 7, 24);
	memset(code->litlen_lengths + 280, 8, 8);
	memset(code->distance_lengths, 5, DISTANCE_SYMBOLS_MAX);
}

static uint64_t count_bits(const struct block_code *code, const struct vb_deflate_counts *counts)
{
	uint64_t bits = 0;

	for (uint32_t symbol = 0; symbol < VB_DEFLATE_LITLEN_SYMBOLS; symbol++)
		bits += (uint64_t)counts->litlen[symbol] * code->litlen_lengths[symbol];
	for (uint32_t symbol = 0; symbol < VB_DEFLATE_DISTANCE_SYMBOLS; symbol++)
		bits += (uint64_t)counts->distance[symbol] * code->distance_lengths[symbol];
	return bits;
}

static uint64_t count_extra_bits(const struct vb_deflate_counts *counts)
{
	uint64_t bits = 0;

	for (uint32_t symbol = 0; symbol < sizeof(length_extra_bits); symbol++)
		bits += (uint64_t)counts->litlen[LENGTH_SYMBOL_FIRST + symbol] * length_extra_bits[symbol];
	for (uint32_t symbol = 0; symbol < VB_DEFLATE_DISTANCE_SYMBOLS; symbol++)
		bits += (uint64_t)counts->distance[symbol] * distance_extra_bits(symbol);
	return bits;
}

static void put_description(struct vb_deflate_output *output, const struct block_code *code)
{
	uint16_t precodes[PRECODE_SYMBOLS];

	vb_huffman_make_codes(code->precode_lengths, PRECODE_SYMBOLS, precodes);
	put_bits(output, code->litlen_count - LENGTH_SYMBOL_FIRST, 5);
	put_bits(output, code->distance_count - 1, 5);
	put_bits(output, code->precode_count - 4, 4);
	store_bits(output);
	for (uint32_t index = 0; index < code->precode_count; index++) {
		put_bits(output, code->precode_lengths[precode_order[index]], 3);
		store_bits(output);
	}
	for (uint32_t index = 0; index < code->item_count; index++) {
		uint8_t item = code->items[index];

		put_bits(output, precodes[item], code->precode_lengths[item]);
		put_bits(output, code->repeats[index], item_extra_bits(item));
		store_bits(output);
	}
}

/* A match's length as one word: the codeword with the extra bits behind it. */
struct length_word {
	uint32_t bits;
	uint32_t count;
};

static void make_length_words(const struct block_code *code, struct length_word *words)
{
	for (uint32_t length = VB_DEFLATE_MATCH_MIN; length <= VB_DEFLATE_MATCH_MAX; length++) {
		uint32_t symbol = vb_deflate_length_symbols[length];
		uint32_t bit_count = code->litlen_lengths[LENGTH_SYMBOL_FIRST + symbol];

		words[length].bits = code->litlen_codes[LENGTH_SYMBOL_FIRST + symbol] | (length - length_bases[symbol]) << bit_count;
		words[length].count = bit_count + length_extra_bits[symbol];
	}
}

static const uint8_t *put_literals(struct vb_deflate_output *output, const struct block_code *code, const uint8_t *input, uint32_t count)
{
	/* Up to 7 bits are waiting: three codewords of 15 fit behind them. */
	for (; count >= 3; count -= 3, input += 3) {
		put_bits(output, code->litlen_codes[input[0]], code->litlen_lengths[input[0]]);
		put_bits(output, code->litlen_codes[input[1]], code->litlen_lengths[input[1]]);
		put_bits(output, code->litlen_codes[input[2]], code->litlen_lengths[input[2]]);
		store_bits(output);
	}
	for (; count > 0; count--, input++)
		put_bits(output, code->litlen_codes[*input], code->litlen_lengths[*input]);
	store_bits(output);
	return input;
}

static void put_sequences(struct vb_deflate_output *shared, struct block_code *code, const uint8_t *input,
			  const struct vb_deflate_sequence *sequences, size_t sequence_count)
{
	struct vb_deflate_output output = *shared;   /* the compiler may keep it in registers */
	struct length_word length_words[VB_DEFLATE_MATCH_MAX + 1];

	vb_huffman_make_codes(code->litlen_lengths, code->litlen_count, code->litlen_codes);
	vb_huffman_make_codes(code->distance_lengths, code->distance_count, code->distance_codes);
	make_length_words(code, length_words);
	for (const struct vb_deflate_sequence *sequence = sequences; sequence < sequences + sequence_count; sequence++) {
		if (sequence->literal_count)
			input = put_literals(&output, code, input, sequence->literal_count);
		if (sequence->length == 0)
			continue;
		/* At most 7 + 20 + 15 + 10 bits. */
		uint32_t symbol = vb_deflate_distance_symbol(sequence->distance);
		uint32_t extra_bits = distance_extra_bits(symbol);

		put_bits(&output, length_words[sequence->length].bits, length_words[sequence->length].count);
		put_bits(&output, code->distance_codes[symbol], code->distance_lengths[symbol]);
		put_bits(&output, (sequence->distance - 1u) & ((1u << extra_bits) - 1), extra_bits);
		store_bits(&output);
		input += sequence->length;
	}
	put_bits(&output, code->litlen_codes[END_OF_BLOCK], code->litlen_lengths[END_OF_BLOCK]);
	store_bits(&output);
	*shared = output;
}

static void put_stored(struct vb_deflate_output *output, const uint8_t *input, size_t length, bool is_last)
{
	do {
		size_t piece = length < STORED_BYTES_MAX ? length : STORED_BYTES_MAX;

		put_bits(output, is_last && piece == length, 1);
		put_bits(output, BLOCK_STORED, 2);
		vb_deflate_finish(output);
		put_bits(output, piece, 16);
		put_bits(output, ~piece & 0xffff, 16);
		store_bits(output);
		memcpy(output->next, input, piece);
		output->next += piece;
		input += piece;
		length -= piece;
	} while (length > 0);
}

/* Behind `waiting_count` bits: three of a header, up to the next byte, and two lengths; of each further piece likewise, from a byte on. */
static uint64_t stored_bits(uint32_t waiting_count, size_t length)
{
	uint64_t pieces = length / STORED_BYTES_MAX + (length % STORED_BYTES_MAX != 0 || length == 0);

	return (waiting_count + 3 + 7) / 8 * 8 - waiting_count + 32 + (pieces - 1) * (8 + 32) + (uint64_t)length * 8;
}

bool vb_deflate_put_block(struct vb_deflate_output *output, const uint8_t *input, size_t length,
			  const struct vb_deflate_sequence *sequences, size_t sequence_count, struct vb_deflate_counts *counts,
			  bool is_last)
{
	struct block_code dynamic_code = {0}, static_code = {0};
	enum block_kind kind = BLOCK_DYNAMIC;

	counts->litlen[END_OF_BLOCK]++;

	uint64_t extra_bits = 3 + count_extra_bits(counts);
	uint64_t best_bits = extra_bits + make_dynamic_code(&dynamic_code, counts);

	best_bits += count_bits(&dynamic_code, counts);
	make_static_code(&static_code);

	uint64_t static_bits = extra_bits + count_bits(&static_code, counts);

	if (static_bits <= best_bits) {
		kind = BLOCK_STATIC;
		best_bits = static_bits;
	}
	if (stored_bits(output->bit_count, length) < best_bits) {
		kind = BLOCK_STORED;
		best_bits = stored_bits(output->bit_count, length);
	}
	if ((output->bit_count + best_bits + 7) / 8 > (size_t)(output->end - output->next))
		return false;
	if (kind == BLOCK_STORED) {
		put_stored(output, input, length, is_last);
		return true;
	}
	put_bits(output, is_last, 1);
	put_bits(output, kind, 2);
	if (kind == BLOCK_DYNAMIC)
		put_description(output, &dynamic_code);
	put_sequences(output, kind == BLOCK_DYNAMIC ? &dynamic_code : &static_code, input, sequences, sequence_count);
	return true;
}
