/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the block hash of digest.c for CPUs with AVX2. A file of its own, because the library chooses its width where it is included. */
#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif
#define XXH_INLINE_ALL
#define XXH_VECTOR 2   /* XXH_AVX2 */
#include <xxhash.h>

#include "digest_hash.h"

struct vb_digest_sum vb_digest_hash_avx2(const void *block, uint64_t index)
{
	XXH128_hash_t hash = XXH3_128bits_withSeed(block, VB_DIGEST_BLOCK_BYTES, index);

	return (struct vb_digest_sum){hash.low64, hash.high64};
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int digest_avx2_is_empty;
#endif
