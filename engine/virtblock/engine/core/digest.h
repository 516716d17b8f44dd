/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The digest of a disk's content: the same for the same guest bytes in every format, cut and order.
 *
 * Owns: the definition, which docs/digest.md gives in words and tests/reference/digest.py a second time in code. The disk is cut into
 * blocks of 4096 bytes, the last one filled up with zeros. Each block that is not all zeros adds XXH3_128 of it, seeded with its index, to a
 * sum modulo 2^128. The digest is XXH3_128 of that sum (16 bytes, little-endian) followed by the disk's size rounded up to 512
 * (8 bytes, little-endian). Invariants: adding is commutative, so lanes keep sums of their own, and a resumed copy goes on from a
 * sum; zeros add nothing. It finds errors; against somebody who forges content on purpose it is no proof.
 */
#ifndef VB_DIGEST_H
#define VB_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define VB_DIGEST_BLOCK_BYTES 4096u
#define VB_DIGEST_PREFIX "xxh3-"
#define VB_DIGEST_TEXT_BYTES (sizeof(VB_DIGEST_PREFIX) + 32)

struct vb_digest_sum {
	uint64_t low, high;
};

/* Adds the blocks of `length` bytes at guest offset `start_bytes`, a multiple of the block. Only the disk's last block may be short. */
void vb_digest_add(struct vb_digest_sum *sum, const void *bytes, size_t length, uint64_t start_bytes);
void vb_digest_merge(struct vb_digest_sum *sum, const struct vb_digest_sum *other);
/* "xxh3-" and 32 hexadecimal digits. */
void vb_digest_text(const struct vb_digest_sum *sum, uint64_t size_bytes, char text[VB_DIGEST_TEXT_BYTES]);

/* The widths of the block hash, for tests; 0 is the portable one. False where this CPU lacks it. */
int vb_digest_hash_by(int width, const void *block, uint64_t index, struct vb_digest_sum *hash);

#endif
