/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: finding matches, choosing among them, and where a block ends.
 *
 * Matches: hash chains over strings of four bytes, and the last place of each string of three. A match is taken where it costs less than
 * its bytes did as literals in the last segment, and put off by a byte as long as the one found there is worth more. Blocks: the input is
 * cut into segments, and one joins the block before it unless two codes are cheaper.
 */
#include "deflate_encoder.h"

#include <endian.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "deflate_block.h"

#define WINDOW_MASK (VB_DEFLATE_WINDOW_BYTES - 1)
#define CHAIN_BITS_MAX 15u
#define CHAIN_BITS_MIN 9u
#define SHORT_BITS 11u
#define SEGMENT_SEQUENCES 768u
#define SEGMENT_BYTES 8192u
#define BLOCK_SEQUENCES 24576u
#define DESCRIPTION_BITS 800u      /* about what a further block's code takes, and what is gained by few blocks */
#define LITERAL_COST_START 1536u   /* in 1/256 bits: what a literal takes until a segment has told */
#define MATCH_BITS 8u              /* about what the symbols of a match take */
#define LATER_GAIN 2               /* by how much, in quarters of a byte, a match must be better that begins a byte later */

struct level {
	uint16_t depth;        /* candidates looked at */
	uint16_t lazy_depth;   /* of those, where a match is in hand */
	uint16_t nice_length;  /* a match that is good enough */
	bool is_lazy;          /* a match may be put off by a byte */
};

static const struct level levels[VB_DEFLATE_LEVEL_MAX] = {
	{4, 0, 16, false},   {6, 4, 24, true},     {8, 6, 32, true},
	{16, 8, 48, true},   {32, 8, 64, true},    {96, 12, 96, true},
	{192, 48, 128, true}, {512, 192, 192, true}, {4096, 4096, 258, true},
};

struct vb_deflate_encoder {
	struct level level;
	uint32_t chain_shift;                      /* from a hash of 32 bits to an index: small inputs use, and clear, a part of the heads */
	uint16_t chain_heads[1u << CHAIN_BITS_MAX];
	uint16_t short_heads[1u << SHORT_BITS];
	uint16_t links[VB_DEFLATE_WINDOW_BYTES];
	struct vb_deflate_counts block_counts;     /* of the segments that the block has */
	struct vb_deflate_counts segment_counts;   /* of the one in the making */
	uint32_t literal_cost;                     /* a literal's mean, in 1/256 bits */
	uint64_t block_bits;                       /* estimated; 0: no segment yet */
	size_t block_sequences;
	size_t sequence_count;                     /* with the segment's */
	struct vb_deflate_sequence sequences[BLOCK_SEQUENCES + SEGMENT_SEQUENCES];
};

/* The input and how far it is. */
struct cursor {
	const uint8_t *input;
	size_t length;
	size_t at;
	size_t literal_start;   /* since the last match */
	size_t block_start;
	size_t segment_start;
};

struct match {
	uint32_t length;
	uint32_t distance;
};

struct vb_deflate_encoder *vb_deflate_encoder_new(int level)
{
	struct vb_deflate_encoder *encoder = calloc(1, sizeof(*encoder));

	if (!encoder)
		return NULL;
	level = level < 1 ? 1 : level > VB_DEFLATE_LEVEL_MAX ? VB_DEFLATE_LEVEL_MAX : level;
	encoder->level = levels[level - 1];
	return encoder;
}

void vb_deflate_encoder_free(struct vb_deflate_encoder *encoder)
{
	free(encoder);
}

static inline uint32_t load32(const uint8_t *from)
{
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return le32toh(value);
}

static inline uint64_t load64(const uint8_t *from)
{
	uint64_t value;

	memcpy(&value, from, sizeof(value));
	return le64toh(value);
}

static inline uint32_t hash(uint32_t word, uint32_t shift)
{
	return (word * 0x9e3779b1u) >> shift;
}

/* Needs four bytes at `at`. Returns the head of the chain before. */
static inline uint32_t insert(struct vb_deflate_encoder *encoder, uint32_t word, size_t at, uint32_t *short_head)
{
	uint32_t short_hash = hash(word << 8, 32 - SHORT_BITS), chain_hash = hash(word, encoder->chain_shift);
	uint32_t head = encoder->chain_heads[chain_hash];

	*short_head = encoder->short_heads[short_hash];
	encoder->short_heads[short_hash] = (uint16_t)at;
	encoder->chain_heads[chain_hash] = (uint16_t)at;
	encoder->links[at & WINDOW_MASK] = (uint16_t)head;
	return head;
}

/* How many bytes from `left` on equal those from `right` on; `right` has at least `most`. */
static inline uint32_t count_equal(const uint8_t *left, const uint8_t *right, uint32_t length, uint32_t most)
{
	while (length + 8 <= most) {
		uint64_t difference = load64(left + length) ^ load64(right + length);

		if (difference)
			return length + ((uint32_t)__builtin_ctzll(difference) >> 3);
		length += 8;
	}
	while (length < most && left[length] == right[length])
		length++;
	return length;
}

/* Enters the string at the cursor and finds the longest match for it that is longer than `best->length`. */
static inline bool find_match(struct vb_deflate_encoder *encoder, const struct cursor *cursor, uint32_t depth, struct match *best)
{
	const uint8_t *here = cursor->input + cursor->at;
	size_t left = cursor->length - cursor->at;
	uint32_t most = left < VB_DEFLATE_MATCH_MAX ? (uint32_t)left : VB_DEFLATE_MATCH_MAX;
	uint32_t nice = encoder->level.nice_length < most ? encoder->level.nice_length : most;
	uint32_t length = best->length, short_head, at = (uint32_t)cursor->at;
	uint32_t limit = at < VB_DEFLATE_WINDOW_BYTES ? at : VB_DEFLATE_WINDOW_BYTES;   /* of distances */
	bool found = false;

	if (left < 4)
		return false;

	uint32_t word = load32(here);
	uint32_t candidate = insert(encoder, word, cursor->at, &short_head);
	uint32_t distance = (uint16_t)(at - short_head);

	if (length >= most)
		return false;
	if (length < 3 && distance - 1 < limit && ((load32(here - distance) ^ word) & 0xffffff) == 0) {
		length = 3;
		best->length = 3;
		best->distance = distance;
		found = true;
	}
	if (length < 3)
		length = 3;
	/* Most strings are new, and then the head is another's or too far: one branch says both. */
	distance = (uint16_t)(at - candidate);

	bool is_candidate = distance - 1 < limit;
	const uint8_t *there = here - (is_candidate ? distance : 0);

	if (!(is_candidate & (load32(there) == word)))
		return found;
	for (;;) {
		if (load32(there + length - 3) == load32(here + length - 3) && load32(there) == word) {
			uint32_t equal = count_equal(there, here, 4, most);

			if (equal > length) {
				length = equal;
				best->length = equal;
				best->distance = (uint32_t)(here - there);
				found = true;
				if (equal >= nice)
					break;
			}
		}
		if (--depth == 0)
			break;
		candidate = encoder->links[candidate & WINDOW_MASK];

		uint32_t further = (uint16_t)(at - candidate);

		/* A link that was overwritten leads to something nearer: there the chain ends. */
		if (further <= (uint32_t)(here - there) || further > limit)
			break;
		there = here - further;
	}
	return found;
}

/* Whether the match takes fewer bits than its bytes would as literals. Its length's and distance's symbols take about MATCH_BITS. */
static inline bool is_worth(const struct vb_deflate_encoder *encoder, const struct match *match)
{
	uint32_t distance_bits = 31 - (uint32_t)__builtin_clz(match->distance);

	return match->length * encoder->literal_cost > (MATCH_BITS + distance_bits) * 256;
}

/* Enters the strings from `at` to `end` without looking for them. */
static void enter_strings(struct vb_deflate_encoder *encoder, const struct cursor *cursor, size_t at, size_t end)
{
	size_t stop = cursor->length < 4 ? 0 : cursor->length - 3;
	uint32_t short_head;

	for (; at < end && at < stop; at++)
		insert(encoder, load32(cursor->input + at), at, &short_head);
}

static void push_sequence(struct vb_deflate_encoder *encoder, struct cursor *cursor, const struct match *match)
{
	encoder->sequences[encoder->sequence_count++] = (struct vb_deflate_sequence){
		.literal_count = (uint32_t)(cursor->at - cursor->literal_start),
		.length = (uint16_t)match->length,
		.distance = (uint16_t)match->distance,
	};
	for (size_t at = cursor->literal_start; at < cursor->at; at++)
		encoder->segment_counts.litlen[cursor->input[at]]++;
	if (match->length) {
		encoder->segment_counts.litlen[257 + vb_deflate_length_symbols[match->length]]++;
		encoder->segment_counts.distance[vb_deflate_distance_symbol(match->distance)]++;
	}
	cursor->literal_start = cursor->at + match->length;
}

static void add_counts(struct vb_deflate_counts *sum, const struct vb_deflate_counts *more)
{
	for (size_t symbol = 0; symbol < VB_DEFLATE_LITLEN_SYMBOLS; symbol++)
		sum->litlen[symbol] += more->litlen[symbol];
	for (size_t symbol = 0; symbol < VB_DEFLATE_DISTANCE_SYMBOLS; symbol++)
		sum->distance[symbol] += more->distance[symbol];
}

static bool put_block(struct vb_deflate_encoder *encoder, struct cursor *cursor, struct vb_deflate_output *output, bool is_last)
{
	size_t end = is_last ? cursor->length : cursor->segment_start;

	if (!vb_deflate_put_block(output, cursor->input + cursor->block_start, end - cursor->block_start, encoder->sequences,
				  encoder->block_sequences, &encoder->block_counts, is_last))
		return false;
	encoder->sequence_count -= encoder->block_sequences;
	memmove(encoder->sequences, encoder->sequences + encoder->block_sequences,
		encoder->sequence_count * sizeof(encoder->sequences[0]));
	encoder->block_sequences = 0;
	memset(&encoder->block_counts, 0, sizeof(encoder->block_counts));
	encoder->block_bits = 0;
	cursor->block_start = end;
	return true;
}

/* The segment ends at the cursor: with the block so far, or as the begin of another. */
static bool end_segment(struct vb_deflate_encoder *encoder, struct cursor *cursor, struct vb_deflate_output *output)
{
	static const struct match none;
	uint64_t segment_bits, joined_bits;

	if (cursor->literal_start < cursor->at)
		push_sequence(encoder, cursor, &none);
	segment_bits = vb_deflate_estimate_bits(&encoder->segment_counts);
	joined_bits = segment_bits;
	if (encoder->block_sequences) {
		struct vb_deflate_counts joined = encoder->block_counts;

		add_counts(&joined, &encoder->segment_counts);
		joined_bits = vb_deflate_estimate_bits(&joined);
		if ((encoder->block_bits + segment_bits + DESCRIPTION_BITS < joined_bits ||
		     encoder->sequence_count > BLOCK_SEQUENCES)) {
			if (!put_block(encoder, cursor, output, false))
				return false;
			joined_bits = segment_bits;
		}
	}
	encoder->literal_cost = vb_deflate_literal_cost(&encoder->segment_counts);
	add_counts(&encoder->block_counts, &encoder->segment_counts);
	memset(&encoder->segment_counts, 0, sizeof(encoder->segment_counts));
	encoder->block_bits = joined_bits;
	encoder->block_sequences = encoder->sequence_count;
	cursor->segment_start = cursor->at;
	return true;
}

/* What a match saves over another, in quarters of a byte or so: its length, less the extra bits of its distance. */
static inline int gain(const struct match *match)
{
	return (int)match->length * 4 - (31 - __builtin_clz(match->distance));
}

/* The match is one at the cursor, whose string is entered. Takes it, or better ones that begin a byte later each. */
static void take_match(struct vb_deflate_encoder *encoder, struct cursor *cursor, struct match *match)
{
	size_t entered_end = cursor->at + 1;

	while (encoder->level.is_lazy && match->length < encoder->level.nice_length && cursor->at + 1 < cursor->length) {
		struct cursor ahead = *cursor;
		struct match next = {match->length - 1, 0};

		ahead.at++;
		entered_end = ahead.at + 1;
		if (!find_match(encoder, &ahead, encoder->level.lazy_depth, &next) || gain(&next) <= gain(match) + LATER_GAIN)
			break;
		*match = next;
		cursor->at = ahead.at;
	}
	push_sequence(encoder, cursor, match);
	enter_strings(encoder, cursor, entered_end, cursor->literal_start);
	cursor->at = cursor->literal_start;
}

static bool encode_all(struct vb_deflate_encoder *encoder, struct cursor *cursor, struct vb_deflate_output *output)
{
	while (cursor->at < cursor->length) {
		struct match match = {2, 0};

		if (find_match(encoder, cursor, encoder->level.depth, &match) && is_worth(encoder, &match))
			take_match(encoder, cursor, &match);
		else
			cursor->at++;
		if ((encoder->sequence_count - encoder->block_sequences >= SEGMENT_SEQUENCES - 2 ||
		     cursor->at - cursor->segment_start >= SEGMENT_BYTES) &&
		    !end_segment(encoder, cursor, output))
			return false;
	}
	if (!end_segment(encoder, cursor, output) || !put_block(encoder, cursor, output, true))
		return false;
	vb_deflate_finish(output);
	return true;
}

size_t vb_deflate_encode(struct vb_deflate_encoder *encoder, const uint8_t *input, size_t length, uint8_t *output, size_t capacity)
{
	struct cursor cursor = {.input = input, .length = length};
	struct vb_deflate_output stream = {.next = output, .end = output + capacity};

	uint32_t chain_bits = CHAIN_BITS_MIN;

	while (chain_bits < CHAIN_BITS_MAX && length > 1ull << chain_bits)
		chain_bits++;
	encoder->chain_shift = 32 - chain_bits;
	memset(encoder->chain_heads, 0, sizeof(encoder->chain_heads[0]) << chain_bits);
	memset(encoder->short_heads, 0, sizeof(encoder->short_heads));
	memset(&encoder->block_counts, 0, sizeof(encoder->block_counts));
	memset(&encoder->segment_counts, 0, sizeof(encoder->segment_counts));
	encoder->block_bits = 0;
	encoder->block_sequences = 0;
	encoder->sequence_count = 0;
	encoder->literal_cost = LITERAL_COST_START;
	return encode_all(encoder, &cursor, &stream) ? (size_t)(stream.next - output) : 0;
}
