/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walking through the layers of a chain side by side: which of them provides what. Internal to the core.
 *
 * Owns: one cursor per layer, which only goes forward as long as the ranges asked for do. Invariants: a layer that leaves a range open
 * is followed by the one below before the walk goes on, so all cursors move through the disk together: each table is read once,
 * memory holds one window of entries per layer, and a range that no layer has costs one step per layer however long it is.
 */
#ifndef VB_CHAIN_WALK_H
#define VB_CHAIN_WALK_H

#include "layer.h"

struct vb_chain_walk {
	const struct vb_chain *chain;
	size_t end_level;                         /* layers from here on are not asked */
	struct vb_layer_cursor cursors[VB_CHAIN_DEPTH_MAX];
	uint64_t open_ends[VB_CHAIN_DEPTH_MAX];   /* per layer: end of the range that the layers above leave to it */
};

/* `extent` is what layer `level` provides; UNALLOCATED with the last level: nobody does. 0 to go on, negative to stop. */
typedef int (*vb_chain_visitor)(void *opaque, struct vb_extent *extent, size_t level, struct vb_error *error);

/* `cancelled` is polled (may be NULL). */
void vb_chain_walk_start(struct vb_chain_walk *walk, const struct vb_chain *chain, size_t end_level, const bool *cancelled);
void vb_chain_walk_end(struct vb_chain_walk *walk);

/* What one layer alone says from `start` on. Behind its end it reads as zeros, whatever lies below it. */
int vb_chain_walk_ask(struct vb_chain_walk *walk, size_t level, uint64_t start_bytes, uint64_t end_bytes, struct vb_extent *extent,
		      struct vb_error *error);
/* What the layers from `first` down say of [start, end), piece by piece. first < end_level. */
int vb_chain_walk_range(struct vb_chain_walk *walk, size_t first, uint64_t start_bytes, uint64_t end_bytes, vb_chain_visitor visit,
			void *opaque, struct vb_error *error);

#endif
