/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: the zero scan. Three widths of one loop (or 256 bytes together, test once) and the choice among them, made once when
 * the library is loaded, so that calling is free of locks.
 */
#include "zero.h"

#include <stdint.h>
#include <string.h>

#define BLOCK_BYTES 256u

static inline uint64_t load_word(const uint8_t *at)
{
	uint64_t word;

	memcpy(&word, at, sizeof(word));
	return word;
}

/* Fewer than a block's bytes, at any alignment. */
static bool is_zero_tail(const uint8_t *bytes, size_t length)
{
	uint64_t any = 0;

	for (; length >= 8; bytes += 8, length -= 8)
		any |= load_word(bytes);
	for (; length > 0; bytes++, length--)
		any |= *bytes;
	return any == 0;
}

static bool is_zero_portable(const uint8_t *bytes, size_t length)
{
	for (; length >= BLOCK_BYTES; bytes += BLOCK_BYTES, length -= BLOCK_BYTES) {
		uint64_t any = 0;

		for (size_t i = 0; i < BLOCK_BYTES; i += 8)
			any |= load_word(bytes + i);
		if (any != 0)
			return false;
	}
	return is_zero_tail(bytes, length);
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static bool is_zero_avx2(const uint8_t *bytes, size_t length)
{
	for (; length >= BLOCK_BYTES; bytes += BLOCK_BYTES, length -= BLOCK_BYTES) {
		__m256i any = _mm256_setzero_si256();

		for (size_t i = 0; i < BLOCK_BYTES; i += 32)
			any = _mm256_or_si256(any, _mm256_loadu_si256((const __m256i *)(const void *)(bytes + i)));
		if (!_mm256_testz_si256(any, any))
			return false;
	}
	return is_zero_tail(bytes, length);
}

__attribute__((target("avx512f"))) static bool is_zero_avx512(const uint8_t *bytes, size_t length)
{
	for (; length >= BLOCK_BYTES; bytes += BLOCK_BYTES, length -= BLOCK_BYTES) {
		__m512i any = _mm512_setzero_si512();

		for (size_t i = 0; i < BLOCK_BYTES; i += 64)
			any = _mm512_or_si512(any, _mm512_loadu_si512(bytes + i));
		if (_mm512_test_epi64_mask(any, any) != 0)
			return false;
	}
	return is_zero_tail(bytes, length);
}
#endif

typedef bool (*scan_function)(const uint8_t *bytes, size_t length);

/* NULL where this CPU cannot do it. */
static scan_function scan_by(enum vb_zero_method method)
{
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (method == VB_ZERO_AVX512)
		return __builtin_cpu_supports("avx512f") ? is_zero_avx512 : NULL;
	if (method == VB_ZERO_AVX2)
		return __builtin_cpu_supports("avx2") ? is_zero_avx2 : NULL;
#endif
	return method == VB_ZERO_PORTABLE ? is_zero_portable : NULL;
}

static scan_function best_scan = is_zero_portable;

__attribute__((constructor)) static void choose_best(void)
{
	for (int method = VB_ZERO_PORTABLE; method <= VB_ZERO_AVX512; method++) {
		scan_function scan = scan_by((enum vb_zero_method)method);

		if (scan != NULL)
			best_scan = scan;
	}
}

bool vb_is_zero(const void *buffer, size_t length)
{
	return best_scan(buffer, length);
}

bool vb_is_zero_by(enum vb_zero_method method, const void *buffer, size_t length, bool *is_zero)
{
	scan_function scan = scan_by(method);

	if (scan == NULL)
		return false;
	*is_zero = scan(buffer, length);
	return true;
}
