/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Words as runs, so that the bits of a huge sparse disk take little room.
 *
 * Owns: the form. Each run is a number (7 bits a byte, low ones first, the top bit says that more follow): the count of words times four,
 * plus 0 for zeros, 1 for ones, 2 for other words, which follow as 8 bytes each, low ones first.
 */
#include <string.h>

#include "journal.h"

enum run_kind { RUN_ZEROS = 0, RUN_ONES = 1, RUN_OTHERS = 2 };

#define NUMBER_BYTES_MAX 10u

static enum run_kind kind_of(uint64_t word)
{
	return word == 0 ? RUN_ZEROS : word == UINT64_MAX ? RUN_ONES : RUN_OTHERS;
}

/* Runs of one word in turn with runs of another: a byte and nine, or less. */
size_t vb_journal_packed_max(size_t count)
{
	return count * 9 + 2 * NUMBER_BYTES_MAX;
}

static size_t put_number(uint8_t *out, uint64_t number)
{
	size_t length = 0;

	for (; number >= 128; number >>= 7)
		out[length++] = (uint8_t)(number | 128);
	out[length++] = (uint8_t)number;
	return length;
}

static size_t get_number(const uint8_t *in, size_t length, uint64_t *number)
{
	*number = 0;
	for (size_t at = 0; at < length && at < NUMBER_BYTES_MAX - 1; at++) {
		*number |= (uint64_t)(in[at] & 127) << (at * 7);
		if (!(in[at] & 128))
			return at + 1;
	}
	return 0;
}

static void put_word(uint8_t *out, uint64_t word)
{
	for (int byte = 0; byte < 8; byte++)
		out[byte] = (uint8_t)(word >> (byte * 8));
}

static uint64_t get_word(const uint8_t *in)
{
	uint64_t word = 0;

	for (int byte = 0; byte < 8; byte++)
		word |= (uint64_t)in[byte] << (byte * 8);
	return word;
}

size_t vb_journal_pack(const uint64_t *words, size_t count, uint8_t *out)
{
	size_t length = 0, index = 0;

	while (index < count) {
		enum run_kind kind = kind_of(words[index]);
		size_t end = index + 1;

		while (end < count && kind_of(words[end]) == kind)
			end++;
		length += put_number(out + length, (uint64_t)(end - index) * 4 + kind);
		for (; kind == RUN_OTHERS && index < end; index++, length += 8)
			put_word(out + length, words[index]);
		index = end;
	}
	return length;
}

/* One run behind its number; returns the bytes it took, or SIZE_MAX. */
static size_t take_run(const uint8_t *in, size_t length, uint64_t *words, size_t count, enum run_kind kind, bool *any_set)
{
	if (kind != RUN_OTHERS) {
		if (words)
			memset(words, kind == RUN_ONES ? 0xff : 0, count * sizeof(*words));
		*any_set |= kind == RUN_ONES;
		return 0;
	}
	if (count > length / 8)
		return SIZE_MAX;
	for (size_t index = 0; index < count; index++) {
		uint64_t word = get_word(in + index * 8);

		*any_set |= word != 0;
		if (words)
			words[index] = word;
	}
	return count * 8;
}

size_t vb_journal_unpack(const uint8_t *in, size_t length, uint64_t *words, size_t count, bool *any_set)
{
	size_t at = 0, index = 0;

	*any_set = false;
	while (index < count) {
		uint64_t number;
		size_t took = get_number(in + at, length - at, &number);

		if (took == 0 || number % 4 > RUN_OTHERS || number / 4 == 0 || number / 4 > count - index)
			return SIZE_MAX;
		at += took;
		took = take_run(in + at, length - at, words ? words + index : NULL, (size_t)(number / 4), (enum run_kind)(number % 4), any_set);
		if (took == SIZE_MAX)
			return SIZE_MAX;
		at += took;
		index += (size_t)(number / 4);
	}
	return at;
}
