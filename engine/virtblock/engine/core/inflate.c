/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: the tables made of a block's codes, and the two ways along a stream: by steps, and, near either end of the buffers or where
 * something is rare, symbol by symbol with every check.
 *
 * Why it is quick: what costs a decoder its time is one load for each symbol that the next one waits for, and branches that nobody can
 * predict, above all whether a symbol is a literal. Here one look-up takes two literals, or a length together with its distance, and
 * both are the same work: sixteen bytes are copied, from what was decoded before or from the entry itself, and a conditional move
 * chooses between the two. Numbers: RFC 1951, section 3.2.
 *
 * Invariants of a step: there are STEP_INPUT_BYTES to read and OUTPUT_MARGIN_BYTES to write, so it looks at neither end; bits above
 * `bit_count` are those that follow in the input, or nothing.
 */
#include "inflate.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "inflate_tables.h"

#define PRECODE_SYMBOLS 19u
#define PRECODE_BITS 7u
#define MATCH_BYTES_MAX 258u
#define STEP_INPUT_BYTES 16u
/* Two matches between two looks at the end, and what the last one's vector writes behind it. */
#define OUTPUT_MARGIN_BYTES (2 * MATCH_BYTES_MAX + 2 * VB_INFLATE_VECTOR_BYTES)

#define QUICK __attribute__((target("bmi2,ssse3")))
#define QUICK_INLINE static inline __attribute__((target("bmi2,ssse3"), always_inline))

static const uint8_t precode_order[PRECODE_SYMBOLS] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

enum state { STATE_HEADER, STATE_SYMBOLS, STATE_END };

struct vb_inflater {
	struct vb_inflate_tables tables;

	const uint8_t *input;
	const uint8_t *input_end;
	const uint8_t *input_steps_end;               /* steps begin before it */
	uint64_t bits;
	uint64_t bit_count;
	size_t missing_bytes;                         /* taken for zeros behind the input's end */
	uint8_t *output;
	size_t position;
	size_t position_steps_end;                    /* steps begin before it */
	size_t output_length;
	bool is_last_block;
	enum state state;
};

static uint64_t low_bits(uint64_t bits, uint32_t count)
{
	return bits & ((1ull << count) - 1);
}

/* At least 56 bits. Behind the end there are zeros, which are counted. */
static void refill(struct vb_inflater *inflater)
{
	inflater->bits = low_bits(inflater->bits, (uint32_t)inflater->bit_count);
	while (inflater->bit_count <= 55) {
		if (inflater->input < inflater->input_end)
			inflater->bits |= (uint64_t)*inflater->input++ << inflater->bit_count;
		else
			inflater->missing_bytes++;
		inflater->bit_count += 8;
	}
}

static uint32_t take(struct vb_inflater *inflater, uint32_t count)
{
	uint32_t value = (uint32_t)low_bits(inflater->bits, count);

	inflater->bits >>= count;
	inflater->bit_count -= count;
	return value;
}

/* Whether only bits were taken that the input has. */
static bool is_within_input(const struct vb_inflater *inflater)
{
	return inflater->missing_bytes * 8 <= inflater->bit_count;
}

/* Codewords longer than the table. -1: none. */
static int32_t find_long_symbol(struct vb_inflater *inflater, const struct vb_inflate_code *code)
{
	int32_t codeword = 0, first = 0, index = 0;

	for (uint32_t length = 1; length <= VB_INFLATE_CODE_BITS_MAX; length++) {
		int32_t count = code->counts[length];

		codeword |= (int32_t)(inflater->bits >> (length - 1) & 1);
		if (codeword - first < count) {
			take(inflater, length);
			return code->symbols[index + codeword - first];
		}
		index += count;
		first = (first + count) * 2;
		codeword *= 2;
	}
	return -1;
}

static int32_t take_symbol(struct vb_inflater *inflater, const uint16_t *table, uint32_t mask, const struct vb_inflate_code *code)
{
	uint32_t entry = table[inflater->bits & mask];

	if ((entry & 15) == 0)
		return find_long_symbol(inflater, code);
	take(inflater, entry & 15);
	return (int32_t)(entry >> 4);
}

/* The lengths of both codes in a row, themselves coded. */
static bool read_lengths(struct vb_inflater *inflater, uint8_t *lengths, uint32_t length_count, uint32_t precode_count)
{
	uint8_t precode_lengths[PRECODE_SYMBOLS] = {0};
	uint16_t table[1u << PRECODE_BITS];
	struct vb_inflate_code precode;

	for (uint32_t index = 0; index < precode_count; index++) {
		refill(inflater);
		precode_lengths[precode_order[index]] = (uint8_t)take(inflater, 3);
	}
	if (!vb_inflate_sort_code(&precode, precode_lengths, PRECODE_SYMBOLS))
		return false;
	vb_inflate_fill_symbols(table, PRECODE_BITS, &precode);
	for (uint32_t index = 0; index < length_count;) {
		refill(inflater);

		uint32_t symbol = (uint32_t)take_symbol(inflater, table, (1u << PRECODE_BITS) - 1, &precode);
		uint32_t repeat = symbol < 16 ? 1 : symbol == 16 ? 3 + take(inflater, 2) : symbol == 17 ? 3 + take(inflater, 3) : 11 + take(inflater, 7);

		if (repeat > length_count - index || (symbol == 16 && index == 0))
			return false;
		memset(lengths + index, symbol < 16 ? (int)symbol : symbol == 16 ? lengths[index - 1] : 0, repeat);
		index += repeat;
	}
	return true;
}

static bool copy_stored(struct vb_inflater *inflater)
{
	take(inflater, (uint32_t)inflater->bit_count & 7);
	refill(inflater);

	size_t length = take(inflater, 16);

	if ((length ^ take(inflater, 16)) != 0xffff || !is_within_input(inflater))
		return false;
	inflater->input -= inflater->bit_count / 8 - inflater->missing_bytes;
	inflater->bits = inflater->bit_count = inflater->missing_bytes = 0;
	if ((size_t)(inflater->input_end - inflater->input) < length || inflater->output_length - inflater->position < length)
		return false;
	memcpy(inflater->output + inflater->position, inflater->input, length);
	inflater->input += length;
	inflater->position += length;
	inflater->state = inflater->is_last_block ? STATE_END : STATE_HEADER;
	return true;
}

static void set_static_lengths(uint8_t *lengths)
{
	memset(lengths, 8, 144);
	memset(lengths + 144, 9, 112);
	memset(lengths + 256, 7, 24);
	memset(lengths + 280, 8, 8);
	memset(lengths + VB_INFLATE_LITLEN_SYMBOLS, 5, VB_INFLATE_DISTANCE_SYMBOLS);
}

static bool begin_block(struct vb_inflater *inflater)
{
	uint8_t lengths[VB_INFLATE_LITLEN_SYMBOLS + VB_INFLATE_DISTANCE_SYMBOLS];
	uint32_t litlen_count = VB_INFLATE_LITLEN_SYMBOLS, distance_count = VB_INFLATE_DISTANCE_SYMBOLS, kind;

	refill(inflater);
	inflater->is_last_block = take(inflater, 1);
	kind = take(inflater, 2);
	if (kind == 0)
		return copy_stored(inflater);
	if (kind == 1) {
		set_static_lengths(lengths);
	} else {
		litlen_count = VB_INFLATE_LENGTH_FIRST + take(inflater, 5);
		distance_count = 1 + take(inflater, 5);

		uint32_t precode_count = 4 + take(inflater, 4);

		if (kind == 3 || litlen_count > VB_INFLATE_LITLEN_SYMBOLS - 2 || distance_count > VB_INFLATE_DISTANCE_COUNT ||
		    !read_lengths(inflater, lengths, litlen_count + distance_count, precode_count) || lengths[VB_INFLATE_END_OF_BLOCK] == 0)
			return false;
	}
	if (!vb_inflate_make_tables(&inflater->tables, lengths, litlen_count, distance_count))
		return false;
	inflater->state = STATE_SYMBOLS;
	return is_within_input(inflater);
}

static bool decode_match(struct vb_inflater *inflater, uint32_t symbol)
{
	if (symbol >= VB_INFLATE_LENGTH_COUNT)
		return false;

	size_t length = vb_inflate_length_bases[symbol] + take(inflater, vb_inflate_length_extra_bits[symbol]);
	int32_t distance_symbol = take_symbol(inflater, inflater->tables.distance_symbols, VB_INFLATE_DISTANCE_MASK, &inflater->tables.distance);

	if (distance_symbol < 0 || (uint32_t)distance_symbol >= VB_INFLATE_DISTANCE_COUNT)
		return false;

	size_t distance = vb_inflate_distance_bases[distance_symbol] + take(inflater, vb_inflate_distance_extra_bits[distance_symbol]);
	uint8_t *to = inflater->output + inflater->position;

	if (distance > inflater->position || length > inflater->output_length - inflater->position)
		return false;
	for (const uint8_t *end = to + length; to < end; to++)
		*to = *(to - distance);
	inflater->position += length;
	return true;
}

/* 48 bits at most, with every check. */
static bool decode_symbol(struct vb_inflater *inflater)
{
	refill(inflater);

	int32_t symbol = take_symbol(inflater, inflater->tables.litlen_symbols, VB_INFLATE_STEP_MASK, &inflater->tables.litlen);

	if (symbol < 0)
		return false;
	if (symbol > (int32_t)VB_INFLATE_END_OF_BLOCK) {
		if (!decode_match(inflater, (uint32_t)symbol - VB_INFLATE_LENGTH_FIRST))
			return false;
	} else if (symbol == (int32_t)VB_INFLATE_END_OF_BLOCK) {
		inflater->state = inflater->is_last_block ? STATE_END : STATE_HEADER;
	} else {
		if (inflater->position == inflater->output_length)
			return false;
		inflater->output[inflater->position++] = (uint8_t)symbol;
	}
	return is_within_input(inflater);
}

/* What steps work on, in registers. Only the low six bits of `bit_count` count. */
struct cursor {
	const uint8_t *input;
	uint64_t bits;
	uint64_t bit_count;
	uint64_t position;
	uint64_t index;      /* of the entry in steps */
	uint64_t entry;
};

QUICK_INLINE struct cursor load_cursor(const struct vb_inflater *inflater)
{
	return (struct cursor){.input = inflater->input,
			       .bits = inflater->bits,
			       .bit_count = inflater->bit_count,
			       .position = inflater->position};
}

QUICK_INLINE void store_cursor(struct vb_inflater *inflater, const struct cursor *cursor)
{
	inflater->input = cursor->input;
	inflater->bits = cursor->bits;
	inflater->bit_count = cursor->bit_count & 63;
	inflater->position = cursor->position;
}

/* 56 to 63 bits, in one load: the bits that do not count yet come again with the next one, the same. */
QUICK_INLINE void refill_cursor(struct cursor *cursor)
{
	uint64_t word;

	memcpy(&word, cursor->input, sizeof(word));
	cursor->bits |= word << (cursor->bit_count & 63);
	cursor->input += (63 - cursor->bit_count) >> 3 & 7;
	cursor->bit_count |= 56;
}

QUICK_INLINE void look_up(struct cursor *cursor, const uint64_t *steps)
{
	cursor->index = cursor->bits & VB_INFLATE_STEP_MASK;
	cursor->entry = steps[cursor->index];
}

QUICK_INLINE bool is_rare(const struct cursor *cursor)
{
	return __builtin_expect((cursor->entry & VB_INFLATE_ENTRY_RARE) != 0, 0);
}

/* In C the compiler would be free to make a branch of it, and is: half of them would be predicted wrong. */
QUICK_INLINE const uint8_t *choose(uint64_t entry, const void *if_literal, const void *otherwise)
{
	__asm__("testl %[flag], %k[entry]\n\tcmovnz %[literal], %[result]"
		: [result] "+r"(otherwise)
		: [entry] "r"(entry), [literal] "r"(if_literal), [flag] "i"(VB_INFLATE_ENTRY_LITERAL)
		: "cc");
	return otherwise;
}

QUICK_INLINE __m128i load_vector(const uint8_t *from)
{
	return _mm_loadu_si128((const __m128i *)(const void *)from);
}

QUICK_INLINE void store_vector(uint8_t *to, __m128i vector)
{
	_mm_storeu_si128((__m128i *)(void *)to, vector);
}

/* `distance` is at least a vector's. Writes up to a vector behind the match. */
QUICK_INLINE void copy_far(uint8_t *to, const uint8_t *from, uint64_t length)
{
	uint64_t done = 0;

	do {
		store_vector(to + done, load_vector(from + done));
		done += VB_INFLATE_VECTOR_BYTES;
	} while (done < length);
}

/* The last `distance` bytes, fewer than a vector's, over and over. Writes up to a vector behind the match. */
QUICK_INLINE void copy_near(uint8_t *to, uint64_t distance, uint64_t length)
{
#define PERIOD(n) {0, 1 % n, 2 % n, 3 % n, 4 % n, 5 % n, 6 % n, 7 % n, 8 % n, 9 % n, 10 % n, 11 % n, 12 % n, 13 % n, 14 % n, 15 % n}
	static const uint8_t periods[VB_INFLATE_VECTOR_BYTES][VB_INFLATE_VECTOR_BYTES] = {
		{0},       PERIOD(1), PERIOD(2),  PERIOD(3),  PERIOD(4),  PERIOD(5),  PERIOD(6),  PERIOD(7),
		PERIOD(8), PERIOD(9), PERIOD(10), PERIOD(11), PERIOD(12), PERIOD(13), PERIOD(14), PERIOD(15)};
#undef PERIOD
	/* Whole periods in a vector. */
	static const uint8_t advances[VB_INFLATE_VECTOR_BYTES] = {0, 16, 16, 15, 16, 15, 12, 14, 16, 9, 10, 11, 12, 13, 14, 15};
	__m128i vector = _mm_shuffle_epi8(load_vector(to - distance), load_vector(periods[distance]));

	for (uint64_t done = 0; done < length; done += advances[distance])
		store_vector(to + done, vector);
}

/* The output's first bytes, and distances below a vector's; false: a distance that goes before the output. */
static QUICK __attribute__((noinline)) bool copy_carefully(uint8_t *output, uint64_t position, uint64_t entry, uint64_t distance,
							  uint64_t length)
{
	uint8_t *to = output + position;

	if (entry & VB_INFLATE_ENTRY_LITERAL) {
		to[0] = (uint8_t)(entry >> 48);
		to[1] = (uint8_t)(entry >> 56);
		return true;
	}
	if (distance > position)
		return false;
	if (distance < VB_INFLATE_VECTOR_BYTES)
		copy_near(to, distance, length);
	else
		copy_far(to, to - distance, length);
	return true;
}

/* The cursor's entry, which is not rare, and the look-up of the next. */
QUICK_INLINE bool take_step(struct cursor *cursor, const uint64_t *steps, uint8_t *output)
{
	const uint64_t entry = cursor->entry, bits = cursor->bits, length = entry >> 8 & 255;
	const uint64_t distance = (_bzhi_u64(bits, (uint32_t)entry) >> (entry >> 16 & 63)) + (entry >> 32 & 0xffff);
	const uint8_t *literals = (const uint8_t *)(steps + cursor->index) + VB_INFLATE_ENTRY_LITERALS_AT + VB_INFLATE_VECTOR_BYTES;
	uint8_t *to = output + cursor->position;

	cursor->bits = bits >> (entry & 63);
	cursor->bit_count -= entry;
	look_up(cursor, steps);
	if (__builtin_expect(distance > cursor->position, 0) || __builtin_expect(distance < VB_INFLATE_VECTOR_BYTES, 0)) {
		if (!copy_carefully(output, cursor->position, entry, distance, length))
			return false;
	} else {
		const uint8_t *from = choose(entry, literals, to) - distance;

		store_vector(to, load_vector(from));
		if (__builtin_expect(length > VB_INFLATE_VECTOR_BYTES, 0))
			copy_far(to + VB_INFLATE_VECTOR_BYTES, from + VB_INFLATE_VECTOR_BYTES, length - VB_INFLATE_VECTOR_BYTES);
	}
	cursor->position += length;
	return true;
}

/* A length whose distance is not in its entry. False: one for decode_symbol, and nothing is taken. */
QUICK_INLINE bool take_rare_match(struct cursor *cursor, const struct vb_inflater *inflater)
{
	const uint32_t symbol = (uint32_t)(cursor->entry >> 32) & 31, length_extra = vb_inflate_length_extra_bits[symbol];
	uint64_t bits = cursor->bits >> (cursor->entry & 63);
	const uint64_t length = vb_inflate_length_bases[symbol] + _bzhi_u64(bits, length_extra);

	bits >>= length_extra;

	const uint64_t found = inflater->tables.distances[bits & VB_INFLATE_DISTANCE_MASK];
	const uint64_t distance = (_bzhi_u64(bits, (uint32_t)found) >> (found >> 16 & 63)) + (found >> 32);
	uint8_t *to = inflater->output + cursor->position;

	if ((found >> 16 & 63) == VB_INFLATE_NEVER_FITS || distance > cursor->position)
		return false;
	cursor->bits = bits >> (found & 63);
	cursor->bit_count -= (cursor->entry & 63) + length_extra + (found & 63);
	if (distance < VB_INFLATE_VECTOR_BYTES)
		copy_near(to, distance, length);
	else
		copy_far(to, to - distance, length);
	cursor->position += length;
	return true;
}

/* Until the block ends or an end of the buffers is near. False: not a stream. */
static QUICK bool decode_by_steps(struct vb_inflater *inflater)
{
	const uint8_t *const input_end = inflater->input_steps_end;
	const uint64_t position_end = inflater->position_steps_end;
	const uint64_t *const steps = inflater->tables.steps;
	uint8_t *const output = inflater->output;
	struct cursor cursor = load_cursor(inflater);

	while (cursor.input < input_end && cursor.position < position_end) {
		refill_cursor(&cursor);
		look_up(&cursor, steps);
		if (!is_rare(&cursor)) {
			if (!take_step(&cursor, steps, output))
				return false;
			if (!is_rare(&cursor)) {
				if (!take_step(&cursor, steps, output))
					return false;
				continue;
			}
			refill_cursor(&cursor);
		}
		if (cursor.entry >> 48 == VB_INFLATE_RARE_LENGTH && take_rare_match(&cursor, inflater))
			continue;
		store_cursor(inflater, &cursor);
		if (!decode_symbol(inflater))
			return false;
		if (inflater->state != STATE_SYMBOLS)
			return true;
		cursor = load_cursor(inflater);
	}
	store_cursor(inflater, &cursor);
	return true;
}

static bool decode_some(struct vb_inflater *inflater)
{
	if (inflater->state == STATE_HEADER)
		return begin_block(inflater);
	if (inflater->input < inflater->input_steps_end && inflater->position < inflater->position_steps_end)
		return decode_by_steps(inflater);
	return decode_symbol(inflater);
}

struct vb_inflater *vb_inflater_new(void)
{
	if (!__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("ssse3"))
		return NULL;
	return calloc(1, sizeof(struct vb_inflater));
}

void vb_inflater_free(struct vb_inflater *inflater)
{
	free(inflater);
}

bool vb_inflate(struct vb_inflater *inflater, const void *input, size_t input_length, void *output, size_t output_length)
{
	inflater->input = input;
	inflater->input_end = inflater->input + input_length;
	inflater->input_steps_end = inflater->input_end - (input_length < STEP_INPUT_BYTES ? input_length : STEP_INPUT_BYTES);
	inflater->bits = inflater->bit_count = inflater->missing_bytes = 0;
	inflater->output = output;
	inflater->output_length = output_length;
	inflater->position = 0;
	inflater->position_steps_end = output_length < OUTPUT_MARGIN_BYTES ? 0 : output_length - OUTPUT_MARGIN_BYTES;
	inflater->state = STATE_HEADER;
	while (inflater->state != STATE_END)
		if (!decode_some(inflater))
			return false;
	return inflater->position == output_length;
}

#else

struct vb_inflater *vb_inflater_new(void)
{
	return NULL;
}

void vb_inflater_free(struct vb_inflater *inflater)
{
	(void)inflater;
}

bool vb_inflate(struct vb_inflater *inflater, const void *input, size_t input_length, void *output, size_t output_length)
{
	(void)inflater, (void)input, (void)input_length, (void)output, (void)output_length;
	return false;
}
#endif
