/* SPDX-License-Identifier: Apache-2.0 */
/* The zero scan by every method the CPU has: all lengths around its block, all alignments, one set byte anywhere. */
#include <stdint.h>

#include "check.h"
#include "zero.h"

#define LENGTH_MAX 1100u

static uint8_t buffer[LENGTH_MAX + 128] __attribute__((aligned(64)));

static bool scan(int method, const uint8_t *bytes, size_t length)
{
	bool is_zero = false;

	if (method < 0)
		return vb_is_zero(bytes, length);
	CHECK(vb_is_zero_by((enum vb_zero_method)method, bytes, length, &is_zero));
	return is_zero;
}

static void check_method(int method)
{
	for (size_t shift = 0; shift < 64; shift += 7) {
		uint8_t *bytes = buffer + shift;

		for (size_t length = 0; length <= LENGTH_MAX; length += length < 300 ? 1 : 37) {
			/* What lies beside the range must not count. */
			memset(buffer, 0xff, sizeof(buffer));
			memset(bytes, 0, length);
			CHECK(scan(method, bytes, length));
			for (size_t at = 0; at < length; at += at < 20 || at + 20 > length ? 1 : 13) {
				bytes[at] = (uint8_t)(1u << (at % 8));
				CHECK(!scan(method, bytes, length));
				bytes[at] = 0;
			}
		}
	}
}

int main(void)
{
	bool unused;

	check_method(-1);
	for (int method = VB_ZERO_PORTABLE; method <= VB_ZERO_AVX512; method++) {
		if (!vb_is_zero_by((enum vb_zero_method)method, buffer, 0, &unused)) {
			CHECK(method != VB_ZERO_PORTABLE);
			printf("method %d: this CPU lacks it\n", method);
			continue;
		}
		printf("method %d\n", method);
		check_method(method);
	}
	return 0;
}
