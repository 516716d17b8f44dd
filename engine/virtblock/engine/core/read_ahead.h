/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading ahead along the plan: the kernel is told what the lanes read next, in the order in which they will.
 *
 * The kernel guesses from the offsets of one file. A chain is read in the guest's order from several, a cluster here and the next
 * one far off: it guesses too little, or reads much that nobody wants. Invariants: a hint changes nothing but time, so its failures
 * are nobody's; nothing is asked for that is not to be copied; the window counts data, so a gap of any size does not end it.
 */
#ifndef VB_READ_AHEAD_H
#define VB_READ_AHEAD_H

#include <stdatomic.h>
#include <stdint.h>

#include "bitmap.h"
#include "plan.h"

/* All zero at the start. */
struct vb_read_ahead {
	_Atomic uint64_t begun_bytes;   /* data that lanes have begun to read */
	atomic_bool is_taken;           /* by the lane that tells the kernel; the two below are its own */
	_Atomic uint64_t told_bytes;    /* data that the kernel knows of, or that was read without */
	uint64_t offset_bytes;          /* the guest offset up to which it does */
};

/* A lane begins to read the `data_bytes` of a chunk that ends at `chunk_end_bytes`. Of lanes that call at once one does the work; mostly
 * there is none. */
void vb_read_ahead(struct vb_read_ahead *state, const struct vb_chain *chain, const struct vb_plan *plan, const struct vb_bitmap *dirty,
		   uint64_t chunk_end_bytes, uint64_t data_bytes);

#endif
