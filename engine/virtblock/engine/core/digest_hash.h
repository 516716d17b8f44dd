/* SPDX-License-Identifier: Apache-2.0 */
/* The seeded hash of one block, once per width of the CPU's registers: all give the same. Internal to digest.c. */
#ifndef VB_DIGEST_HASH_H
#define VB_DIGEST_HASH_H

#include "digest.h"

typedef struct vb_digest_sum (*vb_digest_hash)(const void *block, uint64_t index);

#if defined(__x86_64__)
struct vb_digest_sum vb_digest_hash_avx2(const void *block, uint64_t index);
#endif

#endif
