/* SPDX-License-Identifier: Apache-2.0 */
/* Finding zeros while the chunk is hot in the cache. Owns: the scan and its dispatch by CPU; nothing else. */
#ifndef VB_ZERO_H
#define VB_ZERO_H

#include <stdbool.h>
#include <stddef.h>

bool vb_is_zero(const void *buffer, size_t length);

/* The same by a chosen method, so that a test can try all of them. Returns false where the CPU lacks it. */
enum vb_zero_method { VB_ZERO_PORTABLE = 0, VB_ZERO_AVX2, VB_ZERO_AVX512 };
bool vb_is_zero_by(enum vb_zero_method method, const void *buffer, size_t length, bool *is_zero);

#endif
