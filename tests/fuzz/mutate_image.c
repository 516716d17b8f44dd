/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mutator that knows that a qcow2 image is made of big-endian words that name clusters of the file: blind changes rarely
 * hit what matters. Half of the changes are libFuzzer's own. Owns: the choice of a word and of what it becomes.
 *
 * Each target that uses it defines mutate_skip_bytes: how many bytes of the input lie before the image.
 */
#include <stddef.h>
#include <stdint.h>

#include "qcow2.h"

#define WORD_BYTES 8u
#define HEADER_WORDS 14u

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
extern const size_t mutate_skip_bytes;

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A word that could stand in a table of this image. */
static uint64_t plausible_word(uint64_t *state, uint32_t cluster_bits, uint64_t cluster_count)
{
	static const uint64_t flags[] = { 0, VB_QCOW2_COPIED, VB_QCOW2_ZERO, VB_QCOW2_COPIED | VB_QCOW2_ZERO, VB_QCOW2_COMPRESSED };
	uint64_t offset_bytes = next_random(state) % (cluster_count + 2) << cluster_bits;

	return offset_bytes | flags[next_random(state) % (sizeof(flags) / sizeof(flags[0]))];
}

static uint64_t changed_word(uint64_t *state, const uint8_t *image, uint64_t word_count, uint64_t word)
{
	uint32_t cluster_bits = vb_load_be32(image + VB_QCOW2_AT_CLUSTER_BITS);
	uint64_t other = vb_load_be64(image + next_random(state) % word_count * WORD_BYTES);

	if (cluster_bits < VB_QCOW2_CLUSTER_BITS_MIN || cluster_bits > VB_QCOW2_CLUSTER_BITS_MAX)
		cluster_bits = VB_QCOW2_CLUSTER_BITS_MIN;
	switch (next_random(state) % 6) {
	case 0:
		return word ^ 1ull << next_random(state) % 64;
	case 1:
		return word + (1ull << cluster_bits);
	case 2:
		return word - (1ull << cluster_bits);
	case 3:
		return other;
	case 4:
		return word & 0xffffffffull << (next_random(state) % 2 * 32);
	default:
		return plausible_word(state, cluster_bits, word_count * WORD_BYTES >> cluster_bits);
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	uint64_t state = seed + 0x9e3779b97f4a7c15ull;
	uint64_t word_count = size > mutate_skip_bytes ? (size - mutate_skip_bytes) / WORD_BYTES : 0;
	uint64_t change_count = 1 + next_random(&state) % 3;
	uint8_t *image = data + mutate_skip_bytes;

	if (word_count < HEADER_WORDS || next_random(&state) % 2 == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	while (change_count-- > 0) {
		uint64_t among = next_random(&state) % 4 == 0 ? HEADER_WORDS : word_count;
		uint8_t *at = image + next_random(&state) % among * WORD_BYTES;

		vb_store_be64(at, changed_word(&state, image, word_count, vb_load_be64(at)));
	}
	return size;
}
