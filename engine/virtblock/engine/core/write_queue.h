/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks that were put together and wait to be written, and the buffers they lie in. Internal to the core.
 *
 * Why: Linux lets one buffered write at a time into a regular file. A second lane inside write() only spins on the inode's lock, which
 * costs its core and gains nothing. So the lane that finds nobody writing writes, for all lanes, until nothing waits; the others
 * read, decode and scan meanwhile.
 * Owns: every chunk's buffers, and who has it: it is free, with a lane, or queued. Invariants: at most one lane is the writer, and it
 * stops being that only while nothing is queued, so no chunk is left behind; a lane waits for a free chunk only while there is a writer,
 * which will free one. All functions are safe to call from many threads.
 */
#ifndef VB_WRITE_QUEUE_H
#define VB_WRITE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "digest.h"
#include "error.h"

/* A part of the disk on its way from a claim to its release. */
struct vb_chunk {
	uint64_t start_bytes;
	uint64_t length_bytes;
	size_t first_extent;      /* index in the plan; extent_count if none */
	uint8_t *buffer;
	uint8_t *units;           /* state of each unit of the destination */
	struct vb_digest_sum sum; /* what the chunk adds to the digest */
	struct vb_chunk *next;
};

struct vb_write_queue;

/* `buffer_bytes` and `unit_count`: of each chunk. `chunk_count` is more than the number of lanes that will take chunks. */
struct vb_write_queue *vb_write_queue_new(size_t chunk_count, size_t buffer_bytes, size_t unit_count, struct vb_error *error);
void vb_write_queue_free(struct vb_write_queue *queue);

/* A free chunk; waits for one. */
struct vb_chunk *vb_write_queue_take(struct vb_write_queue *queue);
/* Back to the free ones. */
void vb_write_queue_give_back(struct vb_write_queue *queue, struct vb_chunk *chunk);
/* Queues a chunk. True: nobody writes, and the caller is the writer now: it must call vb_write_queue_next until that gives NULL. */
bool vb_write_queue_put(struct vb_write_queue *queue, struct vb_chunk *chunk);
/* For the writer: the oldest queued chunk; NULL when there is none, and the caller is the writer no more. */
struct vb_chunk *vb_write_queue_next(struct vb_write_queue *queue);

#endif
