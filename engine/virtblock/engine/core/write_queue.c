/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: the free chunks and the queued ones, both under one mutex, which is held for a few instructions.
 *
 * A lane that finds no free chunk sleeps until half of them are free: waking it for each one would cost a switch for every chunk.
 */
#include "write_queue.h"

#include <pthread.h>
#include <stdlib.h>

#include "point.h"

#define BUFFER_ALIGNMENT 4096u

struct vb_write_queue {
	pthread_mutex_t mutex;
	pthread_cond_t freed;
	size_t chunk_count;
	size_t free_count;
	size_t waiting_count;      /* lanes that sleep */
	bool has_writer;
	struct vb_chunk *free_chunks;
	struct vb_chunk *first;    /* queued, oldest first */
	struct vb_chunk *last;
	struct vb_chunk chunks[];
};

static int open_chunk(struct vb_chunk *chunk, size_t buffer_bytes, size_t unit_count, struct vb_error *error)
{
	void *buffer = NULL;

	chunk->units = malloc(unit_count);
	if (!chunk->units || posix_memalign(&buffer, BUFFER_ALIGNMENT, buffer_bytes))
		return vb_fail(error, VB_ERROR_MEMORY, 0, NULL, -1, "No memory for a chunk's buffer of %zu bytes", buffer_bytes);
	chunk->buffer = buffer;
	return 0;
}

struct vb_write_queue *vb_write_queue_new(size_t chunk_count, size_t buffer_bytes, size_t unit_count, struct vb_error *error)
{
	struct vb_write_queue *queue = calloc(1, sizeof(*queue) + chunk_count * sizeof(queue->chunks[0]));

	if (!queue) {
		vb_fail(error, VB_ERROR_MEMORY, 0, NULL, -1, "No memory for the chunks");
		return NULL;
	}
	pthread_mutex_init(&queue->mutex, NULL);
	pthread_cond_init(&queue->freed, NULL);
	queue->chunk_count = chunk_count;
	for (size_t index = 0; index < chunk_count; index++) {
		if (open_chunk(&queue->chunks[index], buffer_bytes, unit_count, error)) {
			vb_write_queue_free(queue);
			return NULL;
		}
		vb_write_queue_give_back(queue, &queue->chunks[index]);
	}
	return queue;
}

void vb_write_queue_free(struct vb_write_queue *queue)
{
	if (!queue)
		return;
	for (size_t index = 0; index < queue->chunk_count; index++) {
		free(queue->chunks[index].buffer);
		free(queue->chunks[index].units);
	}
	pthread_cond_destroy(&queue->freed);
	pthread_mutex_destroy(&queue->mutex);
	free(queue);
}

struct vb_chunk *vb_write_queue_take(struct vb_write_queue *queue)
{
	pthread_mutex_lock(&queue->mutex);
	while (!queue->free_chunks) {
		queue->waiting_count++;
		VB_POINT("queue sleeps");
		pthread_cond_wait(&queue->freed, &queue->mutex);
		queue->waiting_count--;
	}

	struct vb_chunk *chunk = queue->free_chunks;

	queue->free_chunks = chunk->next;
	queue->free_count--;
	pthread_mutex_unlock(&queue->mutex);
	return chunk;
}

void vb_write_queue_give_back(struct vb_write_queue *queue, struct vb_chunk *chunk)
{
	pthread_mutex_lock(&queue->mutex);
	chunk->next = queue->free_chunks;
	queue->free_chunks = chunk;
	queue->free_count++;

	bool wakes = queue->waiting_count > 0 && (queue->free_count >= queue->chunk_count / 2 || !queue->first);

	pthread_mutex_unlock(&queue->mutex);
	if (wakes)
		pthread_cond_broadcast(&queue->freed);
}

bool vb_write_queue_put(struct vb_write_queue *queue, struct vb_chunk *chunk)
{
	pthread_mutex_lock(&queue->mutex);
	chunk->next = NULL;
	if (queue->first)
		queue->last->next = chunk;
	else
		queue->first = chunk;
	queue->last = chunk;

	bool is_writer = !queue->has_writer;

	queue->has_writer = true;
	pthread_mutex_unlock(&queue->mutex);
	VB_POINT("queue took in");
	return is_writer;
}

struct vb_chunk *vb_write_queue_next(struct vb_write_queue *queue)
{
	pthread_mutex_lock(&queue->mutex);

	struct vb_chunk *chunk = queue->first;

	if (chunk)
		queue->first = chunk->next;
	else
		queue->has_writer = false;
	pthread_mutex_unlock(&queue->mutex);
	VB_POINT("queue gave out");
	return chunk;
}
