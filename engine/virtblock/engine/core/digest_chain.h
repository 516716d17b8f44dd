/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading for a digest alone, without copying.
 *
 * Owns: threads that claim chunks of what is to be read and add their blocks. Invariants: nothing is written; what the plan has no data
 * for counts as zeros, so the plan must be of the whole chain.
 */
#ifndef VB_DIGEST_CHAIN_H
#define VB_DIGEST_CHAIN_H

#include <stdatomic.h>

#include "bitmap.h"
#include "digest.h"
#include "plan.h"

/* Adds the granules that are dirty in `todo`, and clears them. `read_bytes` (may be NULL) grows by what was read; `cancelled` is polled. */
int vb_digest_add_plan(struct vb_digest_sum *sum, const struct vb_chain *chain, const struct vb_plan *plan, struct vb_bitmap *todo,
		       const bool *cancelled, _Atomic uint64_t *read_bytes, struct vb_error *error);

/* The digest of a whole disk. `drop_cache`: the top image is read from its device and not from memory where the kernel heeds
 * POSIX_FADV_DONTNEED, which it does for what is not dirty. */
int vb_digest_chain(const struct vb_chain *chain, bool drop_cache, const bool *cancelled, char text[VB_DIGEST_TEXT_BYTES],
		    struct vb_error *error);

#endif
