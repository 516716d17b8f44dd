/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty bitmap: what is still to be copied.
 *
 * Owns: one bit per granule, a summary level (one bit per 64-bit word below), and the set of granules claimed and in flight.
 * Invariants (QEMU's dirty-bit protocol): a lane clears bits when it claims them, before it reads; it sets them again when the
 * move fails; a write to the source sets them after the write. remaining = dirty + in flight. A granule in flight is never
 * claimed a second time, so two lanes never work on one granule; one that is set while in flight is claimed again after its
 * release. All functions are safe to call from many threads.
 */
#ifndef VB_BITMAP_H
#define VB_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define VB_GRANULE_MIN_BYTES 4096u
#define VB_GRANULE_MAX_BYTES (64u * 1024 * 1024)
#define VB_GRANULE_DEFAULT_BYTES (64u * 1024)

struct vb_bitmap;

struct vb_bitmap *vb_bitmap_new(uint64_t size_bytes, uint32_t granule_bytes, struct vb_error *error);
/* The usual granule, larger for disks whose bits would take more than 8 MiB. */
uint32_t vb_bitmap_default_granule(uint64_t size_bytes);
void vb_bitmap_free(struct vb_bitmap *bitmap);
uint32_t vb_bitmap_granule_bytes(const struct vb_bitmap *bitmap);

/* Every granule that the range touches. */
void vb_bitmap_set(struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes);
/* Only granules that lie wholly in the range (the last one counts as whole when the range reaches the end of the disk). */
void vb_bitmap_clear(struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes);
bool vb_bitmap_get(const struct vb_bitmap *bitmap, uint64_t offset_bytes);
/* The first run of granules that are dirty and not in flight, from the granule that holds `offset_bytes` on, cut at the end of the disk.
 * False when there is none. */
bool vb_bitmap_next_run(const struct vb_bitmap *bitmap, uint64_t offset_bytes, uint64_t *start_bytes, uint64_t *length_bytes);

/* Claims a run of dirty granules at or after *cursor (wrapping once), at most max_bytes (a multiple of the granule), and not
 * crossing a multiple of `align_bytes`. Clears the bits, puts the run in flight and moves the cursor to its end. Returns false when
 * nothing is claimable. Lanes may share a cursor: it is touched only inside. */
bool vb_bitmap_claim(struct vb_bitmap *bitmap, uint64_t *cursor_bytes, uint64_t max_bytes, uint64_t align_bytes,
		     uint64_t *start_bytes, uint64_t *length_bytes);
void vb_bitmap_release(struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes, bool moved);

uint64_t vb_bitmap_dirty_bytes(const struct vb_bitmap *bitmap);      /* counted by granules, cut at the end of the disk */
uint64_t vb_bitmap_in_flight_bytes(const struct vb_bitmap *bitmap);
/* Dirty plus in flight, at one moment: it never rises but by vb_bitmap_set. A granule that is both counts twice: it has to
 * move again. */
uint64_t vb_bitmap_remaining_bytes(const struct vb_bitmap *bitmap);

/* Little-endian bit stream of the dirty set, bit i of byte i/8 (as in a persistent qcow2 bitmap); in flight counts as dirty. */
size_t vb_bitmap_serialized_bytes(const struct vb_bitmap *bitmap);
void vb_bitmap_serialize(const struct vb_bitmap *bitmap, uint8_t *out);
int vb_bitmap_deserialize(struct vb_bitmap *bitmap, const uint8_t *in, size_t length, struct vb_error *error);

/* The same set as words, bit i of word i/64, in flight counting as dirty; for journals. */
size_t vb_bitmap_word_count(const struct vb_bitmap *bitmap);
void vb_bitmap_save(const struct vb_bitmap *bitmap, uint64_t *words);
/* Clears what is not set in `words`. */
void vb_bitmap_keep(struct vb_bitmap *bitmap, const uint64_t *words);
/* Whether any granule that the range touches is dirty. */
bool vb_bitmap_any(const struct vb_bitmap *bitmap, uint64_t start_bytes, uint64_t length_bytes);

/* A picture in `cell_count` cells of equal width: per cell the number of dirty and of in-flight granules. */
struct vb_bitmap_cell { uint32_t granule_count, dirty_count, in_flight_count; };
void vb_bitmap_picture(const struct vb_bitmap *bitmap, struct vb_bitmap_cell *cells, size_t cell_count);

#endif
