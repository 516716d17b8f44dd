/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and reading chains in tests. */
#ifndef CHAIN_CONTENT_H
#define CHAIN_CONTENT_H

#include "plan.h"

/* A chain from its top alone, under a policy without folders; NULL and `error` when it is refused. */
struct vb_chain *open_chain(const char *path, enum vb_format format, struct vb_error *error);
/* Reads a plan's extents in pieces of `piece_bytes` over `content` (size_bytes long; gaps keep what is there). 0 or -1. */
int read_plan(const struct vb_chain *chain, const struct vb_plan *plan, uint8_t *content, size_t piece_bytes, struct vb_error *error);
/* The whole content of a chain, malloc'd; NULL and `error` on failure. */
uint8_t *read_chain(const struct vb_chain *chain, struct vb_error *error);
/* The same from a path in one step, everything closed again. */
uint8_t *read_image(const char *path, enum vb_format format, uint64_t *size_bytes, struct vb_error *error);
/* Checks all that must hold for any plan. */
void check_plan(const struct vb_plan *plan, const struct vb_chain *chain);

#endif
