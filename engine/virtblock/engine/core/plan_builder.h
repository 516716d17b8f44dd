/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan that is being made. Internal to the core.
 *
 * Owns: the growing list of extents, in which neighbours that continue each other become one, and the walk that resolves what goes into
 * it. Invariant: extents are added in ascending order.
 */
#ifndef VB_PLAN_BUILDER_H
#define VB_PLAN_BUILDER_H

#include "chain_walk.h"
#include "plan.h"

struct vb_plan_builder {
	struct vb_plan *plan;
	size_t capacity;
	struct vb_chain_walk walk;   /* over all layers */
};

/* NULL: no memory. */
struct vb_plan_builder *vb_plan_builder_new(const struct vb_chain *chain, enum vb_plan_mode mode, uint64_t size_bytes,
					    const bool *cancelled, struct vb_error *error);
/* The plan (`is_good`), or NULL; the builder is gone. */
struct vb_plan *vb_plan_builder_finish(struct vb_plan_builder *builder, bool is_good);

/* Adds what layer `level` provides; what nobody provides is zeros. */
int vb_plan_add(struct vb_plan_builder *builder, struct vb_extent *extent, size_t level, struct vb_error *error);
/* Adds what the layers from `first` down read as; below the bottom, zeros. */
int vb_plan_resolve(struct vb_plan_builder *builder, size_t first, uint64_t start_bytes, uint64_t end_bytes, struct vb_error *error);

#endif
