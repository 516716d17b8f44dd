/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: see deflate_huffman.h. */
#include "deflate_huffman.h"

#include <stdbool.h>
#include <string.h>

#define SYMBOL_BITS 9u
#define SYMBOL_MASK ((1u << SYMBOL_BITS) - 1)

/* Shell sort: a few hundred keys, and no worst case that hurts. */
static void sort_keys(uint32_t *keys, uint32_t count)
{
	static const uint32_t gaps[] = {132, 57, 23, 10, 4, 1};

	for (uint32_t step = 0; step < sizeof(gaps) / sizeof(gaps[0]); step++) {
		uint32_t gap = gaps[step];

		for (uint32_t index = gap; index < count; index++) {
			uint32_t key = keys[index], at = index;

			for (; at >= gap && keys[at - gap] > key; at -= gap)
				keys[at] = keys[at - gap];
			keys[at] = key;
		}
	}
}

/* The tree over `count` leaves of ascending weight, built with two queues: the leaves, and the inner nodes in the order they are made,
 * which ascends too. `parents` gets the parent of every inner node; the number of leaves at each depth goes to `depth_counts`. */
static void count_depths(const uint32_t *keys, uint32_t count, uint32_t *depth_counts)
{
	uint32_t weights[VB_HUFFMAN_SYMBOLS_MAX], leaf_parents[VB_HUFFMAN_SYMBOLS_MAX], parents[VB_HUFFMAN_SYMBOLS_MAX];
	uint32_t depths[VB_HUFFMAN_SYMBOLS_MAX];
	uint32_t leaf = 0, inner = 0;

	for (uint32_t made = 0; made < count - 1; made++) {
		uint32_t weight = 0;

		for (int child = 0; child < 2; child++) {
			if (leaf < count && (inner == made || keys[leaf] >> SYMBOL_BITS <= weights[inner])) {
				weight += keys[leaf] >> SYMBOL_BITS;
				leaf_parents[leaf++] = made;
			} else {
				weight += weights[inner];
				parents[inner++] = made;
			}
		}
		weights[made] = weight;
	}
	depths[count - 2] = 0;
	for (uint32_t node = count - 2; node-- > 0;)
		depths[node] = depths[parents[node]] + 1;
	for (uint32_t index = 0; index < count; index++)
		depth_counts[depths[leaf_parents[index]] + 1]++;
}

/* Leaves that lie too deep come up to the limit; Kraft's sum, which that raises over one, is brought back by moving leaves down. */
static void limit_depths(uint32_t *depth_counts, uint32_t depth_end, uint32_t bits_max)
{
	uint32_t sum = 0;

	for (uint32_t depth = bits_max + 1; depth < depth_end; depth++) {
		depth_counts[bits_max] += depth_counts[depth];
		depth_counts[depth] = 0;
	}
	for (uint32_t depth = 1; depth <= bits_max; depth++)
		sum += depth_counts[depth] << (bits_max - depth);
	while (sum > 1u << bits_max) {
		uint32_t depth = bits_max - 1;

		while (depth_counts[depth] == 0)
			depth--;
		/* One leaf becomes an inner node over itself and one of the deepest, whose place is thereby empty. */
		depth_counts[depth]--;
		depth_counts[depth + 1] += 2;
		depth_counts[bits_max]--;
		sum--;
	}
}

void vb_huffman_make_lengths(const uint32_t *frequencies, uint32_t symbol_count, uint32_t bits_max, uint8_t *lengths)
{
	uint32_t keys[VB_HUFFMAN_SYMBOLS_MAX], depth_counts[VB_HUFFMAN_SYMBOLS_MAX + 1] = {0};
	uint32_t count = 0;

	memset(lengths, 0, symbol_count);
	for (uint32_t symbol = 0; symbol < symbol_count; symbol++)
		if (frequencies[symbol])
			keys[count++] = frequencies[symbol] << SYMBOL_BITS | symbol;
	if (count < 2) {
		uint32_t only = count ? keys[0] & SYMBOL_MASK : 0;

		lengths[only] = 1;
		lengths[only ? 0 : 1] = 1;
		return;
	}
	sort_keys(keys, count);
	count_depths(keys, count, depth_counts);
	limit_depths(depth_counts, VB_HUFFMAN_SYMBOLS_MAX + 1, bits_max);

	/* The rarest get the longest. */
	uint32_t index = 0;

	for (uint32_t bits = bits_max; bits > 0; bits--)
		for (uint32_t left = depth_counts[bits]; left > 0; left--)
			lengths[keys[index++] & SYMBOL_MASK] = (uint8_t)bits;
}

static uint16_t reverse(uint32_t code, uint32_t bits)
{
	code = (code & 0x5555) << 1 | (code >> 1 & 0x5555);
	code = (code & 0x3333) << 2 | (code >> 2 & 0x3333);
	code = (code & 0x0f0f) << 4 | (code >> 4 & 0x0f0f);
	code = (code & 0x00ff) << 8 | (code >> 8 & 0x00ff);
	return (uint16_t)(code >> (16 - bits));
}

void vb_huffman_make_codes(const uint8_t *lengths, uint32_t symbol_count, uint16_t *codes)
{
	uint32_t counts[VB_HUFFMAN_BITS_MAX + 1] = {0}, next[VB_HUFFMAN_BITS_MAX + 1], code = 0;

	for (uint32_t symbol = 0; symbol < symbol_count; symbol++)
		counts[lengths[symbol]]++;
	counts[0] = 0;
	for (uint32_t bits = 1; bits <= VB_HUFFMAN_BITS_MAX; bits++) {
		code = (code + counts[bits - 1]) << 1;
		next[bits] = code;
	}
	for (uint32_t symbol = 0; symbol < symbol_count; symbol++)
		codes[symbol] = lengths[symbol] ? reverse(next[lengths[symbol]]++, lengths[symbol]) : 0;
}
