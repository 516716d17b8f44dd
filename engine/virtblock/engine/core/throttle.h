/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gate that every lane passes before it moves bytes: speed limit, pause and cancel.
 *
 * Owns: a token bucket in bytes, and the two states a person asks for. Invariants: over any time t at a limit of R bytes/s, at
 * most R * t + R / 10 bytes pass: bytes are paid for before they move, in slices of at most 100 ms worth, so a low limit is
 * smooth too. A lane that sleeps here wakes at once on cancel, on resume, and when the limit changes. Safe to call from any
 * thread.
 */
#ifndef VB_THROTTLE_H
#define VB_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "error.h"

struct vb_throttle;

/* 0 bytes per second: no limit. */
struct vb_throttle *vb_throttle_new(uint64_t bytes_per_s, struct vb_error *error);
void vb_throttle_free(struct vb_throttle *throttle);

/* Returns true when `bytes` (may be 0) may move now; false once cancelled. Blocks while paused or over the limit. */
bool vb_throttle_pass(struct vb_throttle *throttle, uint64_t bytes);

void vb_throttle_set_rate(struct vb_throttle *throttle, uint64_t bytes_per_s);
uint64_t vb_throttle_rate(const struct vb_throttle *throttle);
/* The most that may move at once under the limit as it is now: 100 ms worth; UINT64_MAX without a limit. */
uint64_t vb_throttle_burst_bytes(const struct vb_throttle *throttle);

void vb_throttle_pause(struct vb_throttle *throttle);
void vb_throttle_resume(struct vb_throttle *throttle);
bool vb_throttle_is_paused(const struct vb_throttle *throttle);

/* Final. */
void vb_throttle_cancel(struct vb_throttle *throttle);

#endif
