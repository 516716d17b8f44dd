/* SPDX-License-Identifier: Apache-2.0 */
/* The digest of a disk's content. Owns: see digest.h; and the choice of the hash's width, made once when the library is loaded. */
#include "digest.h"

#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "digest_hash.h"
#include "zero.h"

static struct vb_digest_sum hash_portable(const void *block, uint64_t index)
{
	XXH128_hash_t hash = XXH3_128bits_withSeed(block, VB_DIGEST_BLOCK_BYTES, index);

	return (struct vb_digest_sum){hash.low64, hash.high64};
}

/* NULL where this CPU cannot do it. */
static vb_digest_hash hash_by(int width)
{
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (width == 1)
		return __builtin_cpu_supports("avx2") ? vb_digest_hash_avx2 : NULL;
#endif
	return width == 0 ? hash_portable : NULL;
}

static vb_digest_hash best_hash = hash_portable;

__attribute__((constructor)) static void choose_best(void)
{
	if (hash_by(1))
		best_hash = hash_by(1);
}

int vb_digest_hash_by(int width, const void *block, uint64_t index, struct vb_digest_sum *hash)
{
	vb_digest_hash function = hash_by(width);

	if (!function)
		return 0;
	*hash = function(block, index);
	return 1;
}

void vb_digest_merge(struct vb_digest_sum *sum, const struct vb_digest_sum *other)
{
	uint64_t low = sum->low + other->low;

	sum->high += other->high + (low < sum->low);
	sum->low = low;
}

static void add_block(struct vb_digest_sum *sum, const void *block, uint64_t index)
{
	struct vb_digest_sum hash = best_hash(block, index);

	vb_digest_merge(sum, &hash);
}

void vb_digest_add(struct vb_digest_sum *sum, const void *bytes, size_t length, uint64_t start_bytes)
{
	const uint8_t *block = bytes;
	uint64_t index = start_bytes / VB_DIGEST_BLOCK_BYTES;

	for (; length >= VB_DIGEST_BLOCK_BYTES; block += VB_DIGEST_BLOCK_BYTES, length -= VB_DIGEST_BLOCK_BYTES, index++)
		if (!vb_is_zero(block, VB_DIGEST_BLOCK_BYTES))
			add_block(sum, block, index);
	if (length && !vb_is_zero(block, length)) {
		uint8_t whole[VB_DIGEST_BLOCK_BYTES] = {0};

		memcpy(whole, block, length);
		add_block(sum, whole, index);
	}
}

static void store_le64(uint8_t *at, uint64_t value)
{
	for (int byte = 0; byte < 8; byte++)
		at[byte] = (uint8_t)(value >> (byte * 8));
}

void vb_digest_text(const struct vb_digest_sum *sum, uint64_t size_bytes, char text[VB_DIGEST_TEXT_BYTES])
{
	uint8_t record[24];

	store_le64(record, sum->low);
	store_le64(record + 8, sum->high);
	store_le64(record + 16, size_bytes / 512 * 512 + (size_bytes % 512 ? 512 : 0));

	XXH128_hash_t hash = XXH3_128bits(record, sizeof(record));

	snprintf(text, VB_DIGEST_TEXT_BYTES, VB_DIGEST_PREFIX "%016llx%016llx", (unsigned long long)hash.high64,
		 (unsigned long long)hash.low64);
}
