/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: finding matches, choosing among them, and where a block ends.
 *
 * Matches: hash chains over strings of four bytes, and the last place of each string of three. A match is put off by one byte, or two, as
 * long as the one found there is worth more. Blocks: the input is cut into segments, and one joins the block before it unless two codes are cheaper.
 */
#include "deflate_encoder.h"

#include <endian.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "deflate_block.h"

#define WINDOW_MASK (VB_DEFLATE_WINDOW_BYTES - 1)
#define HASH4_BITS 13u
#define HASH3_BITS 11u
#define SEGMENT_SEQUENCES 768u
#define SEGMENT_BYTES 12288u
#define BLOCK_SEQUENCES 24576u
#define DESCRIPTION_BITS 480u   /* about what a further block's code takes */

#define LATER_GAIN 2
#define LATER_GAIN2 4

struct level {
	uint16_t depth;        /* candidates looked at */
	uint16_t lazy_depth;   /* of those, where a match is in hand */
	uint16_t nice_length;  /* a match that is good enough */
	uint8_t lookahead;     /* bytes by which a match may be put off */
};

static const struct level levels[VB_DEFLATE_LEVEL_MAX] = {
	{4, 0, 16, 0},     {6, 4, 24, 1},    {8, 6, 32, 1},
	{16, 8, 48, 1},    {32, 16, 64, 1},  {128, 32, 96, 1},
	{256, 64, 128, 1}, {512, 256, 192, 1}, {4096, 4096, 258, 1},
};

struct vb_deflate_encoder {
	struct level level;
	uint16_t chain_heads[1u << HASH4_BITS];
	uint16_t short_heads[1u << HASH3_BITS];
	uint16_t links[VB_DEFLATE_WINDOW_BYTES];
	struct vb_deflate_counts block_counts;     /* of the segments that the block has */
	struct vb_deflate_counts segment_counts;   /* of the one in the making */
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

static inline uint32_t hash4(uint32_t word)
{
	return (word * 0x9e3779b1u) >> (32 - HASH4_BITS);
}

static inline uint32_t hash3(uint32_t word)
{
	return ((word << 8) * 0x9e3779b1u) >> (32 - HASH3_BITS);
}

/* Needs four bytes at `at`. Returns the head of the chain before. */
static inline uint32_t insert(struct vb_deflate_encoder *encoder, uint32_t word, size_t at, uint32_t *short_head)
{
	uint32_t short_hash = hash3(word), hash = hash4(word);
	uint32_t head = encoder->chain_heads[hash];

	*short_head = encoder->short_heads[short_hash];
	encoder->short_heads[short_hash] = (uint16_t)at;
	encoder->chain_heads[hash] = (uint16_t)at;
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

/* Distances that a candidate of 16 bits can stand for: 1 to the window, and not before the input's begin. */
static inline bool is_near(uint32_t distance, size_t at)
{
	return distance - 1 < VB_DEFLATE_WINDOW_BYTES && distance <= at;
}

/* Enters the string at the cursor and finds the longest match for it that is longer than `best->length`. */
static inline bool find_match(struct vb_deflate_encoder *encoder, const struct cursor *cursor, uint32_t depth, struct match *best)
{
	const uint8_t *here = cursor->input + cursor->at;
	size_t left = cursor->length - cursor->at;
	uint32_t most = left < VB_DEFLATE_MATCH_MAX ? (uint32_t)left : VB_DEFLATE_MATCH_MAX;
	uint32_t nice = encoder->level.nice_length < most ? encoder->level.nice_length : most;
	uint32_t length = best->length, last_distance = 0, short_head;
	bool found = false;

	if (left < 4)
		return false;

	uint32_t word = load32(here);
	uint32_t candidate = insert(encoder, word, cursor->at, &short_head);
	uint32_t distance = (uint16_t)((uint32_t)cursor->at - short_head);

	if (length >= most)
		return false;
	if (length < 3 && is_near(distance, cursor->at) && ((load32(here - distance) ^ word) & 0xffffff) == 0) {
		length = 3;
		best->length = 3;
		best->distance = distance;
		found = true;
	}
	if (length < 3)
		length = 3;
	distance = (uint16_t)((uint32_t)cursor->at - candidate);
	/* A link that was overwritten leads to something nearer: there the chain ends. */
	for (; depth > 0 && distance > last_distance && is_near(distance, cursor->at); depth--) {
		const uint8_t *there = here - distance;

		if (load32(there + length - 3) == load32(here + length - 3) && load32(there) == word) {
			uint32_t equal = count_equal(there, here, 4, most);

			if (equal > length) {
				length = equal;
				best->length = equal;
				best->distance = distance;
				found = true;
				if (equal >= nice)
					break;
			}
		}
		last_distance = distance;
		distance = (uint16_t)((uint32_t)cursor->at - encoder->links[(cursor->at - distance) & WINDOW_MASK]);
	}
	return found;
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

/* The match is one at the cursor, whose string is entered. Takes it or a better one that begins a little later. */
static void take_match(struct vb_deflate_encoder *encoder, struct cursor *cursor, struct match *match)
{
	struct cursor ahead = *cursor;

	while (match->length < encoder->level.nice_length && ahead.at - cursor->at < encoder->level.lookahead &&
	       ahead.at + 1 < ahead.length) {
		struct match next = {match->length - 1, 0};
		int later = (int)(ahead.at - cursor->at);

		ahead.at++;
		if (find_match(encoder, &ahead, encoder->level.lazy_depth >> later, &next) &&
		    gain(&next) > gain(match) + LATER_GAIN + later * LATER_GAIN2) {
			*match = next;
			cursor->at = ahead.at;
		}
	}
	push_sequence(encoder, cursor, match);
	enter_strings(encoder, cursor, ahead.at + 1, cursor->literal_start);
	cursor->at = cursor->literal_start;
}

static bool encode_all(struct vb_deflate_encoder *encoder, struct cursor *cursor, struct vb_deflate_output *output)
{
	while (cursor->at < cursor->length) {
		struct match match = {2, 0};

		if (find_match(encoder, cursor, encoder->level.depth, &match))
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

	memset(encoder->chain_heads, 0, sizeof(encoder->chain_heads));
	memset(encoder->short_heads, 0, sizeof(encoder->short_heads));
	memset(&encoder->block_counts, 0, sizeof(encoder->block_counts));
	memset(&encoder->segment_counts, 0, sizeof(encoder->segment_counts));
	encoder->block_bits = 0;
	encoder->block_sequences = 0;
	encoder->sequence_count = 0;
	return encode_all(encoder, &cursor, &stream) ? (size_t)(stream.next - output) : 0;
}
