/* SPDX-License-Identifier: Apache-2.0 */
/* Reading for a digest alone. Owns: see digest_chain.h; each thread has a buffer, a reader and a sum of its own. */
#include "digest_chain.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "sys.h"

#define CHUNK_BYTES (256u * 1024)
#define BUFFER_ALIGNMENT 4096u
#define THREAD_COUNT_MAX 4u

struct digester {
	const struct vb_chain *chain;
	const struct vb_plan *plan;
	struct vb_bitmap *todo;
	uint64_t cursor_bytes;         /* touched only inside vb_bitmap_claim */
	uint64_t chunk_bytes;
	const bool *cancelled;
	_Atomic uint64_t *read_bytes;
	pthread_mutex_t mutex;         /* guards what follows */
	struct vb_digest_sum sum;
	bool has_error;
	struct vb_error error;
	atomic_bool stop;
};

static uint64_t smaller(uint64_t left, uint64_t right)
{
	return left < right ? left : right;
}

static int read_chunk(struct digester *self, struct vb_reader *reader, uint8_t *buffer, uint64_t start_bytes, uint64_t length_bytes,
		      struct vb_error *error)
{
	uint64_t end_bytes = start_bytes + length_bytes, filled = start_bytes;

	for (size_t index = vb_plan_find(self->plan, start_bytes); index < self->plan->extent_count; index++) {
		const struct vb_extent *extent = &self->plan->extents[index];
		uint64_t from = extent->start_bytes > start_bytes ? extent->start_bytes : start_bytes;
		uint64_t to = smaller(extent->start_bytes + extent->length_bytes, end_bytes);

		if (from >= end_bytes)
			break;
		if (extent->kind == VB_EXTENT_ZERO)
			continue;
		memset(buffer + (filled - start_bytes), 0, from - filled);
		if (vb_reader_read(reader, extent, from - extent->start_bytes, buffer + (from - start_bytes), to - from, error))
			return -1;
		if (self->read_bytes)
			atomic_fetch_add_explicit(self->read_bytes, to - from, memory_order_relaxed);
		filled = to;
	}
	memset(buffer + (filled - start_bytes), 0, end_bytes - filled);
	return 0;
}

static bool is_cancelled(const struct digester *self)
{
	return self->cancelled && __atomic_load_n(self->cancelled, __ATOMIC_RELAXED);
}

static int work(struct digester *self, struct vb_reader *reader, uint8_t *buffer, struct vb_error *error)
{
	struct vb_digest_sum sum = {0};
	uint64_t start_bytes, length_bytes;

	while (!atomic_load(&self->stop) &&
	       vb_bitmap_claim(self->todo, &self->cursor_bytes, self->chunk_bytes, self->chunk_bytes, &start_bytes, &length_bytes)) {
		if (is_cancelled(self))
			return vb_fail(error, VB_ERROR_CANCELLED, 0, NULL, -1, "Reading for the digest was cancelled");
		if (read_chunk(self, reader, buffer, start_bytes, length_bytes, error))
			return -1;
		vb_digest_add(&sum, buffer, length_bytes, start_bytes);
		vb_bitmap_release(self->todo, start_bytes, length_bytes, true);
	}
	pthread_mutex_lock(&self->mutex);
	vb_digest_merge(&self->sum, &sum);
	pthread_mutex_unlock(&self->mutex);
	return 0;
}

static void *digest_thread(void *opaque)
{
	struct digester *self = opaque;
	struct vb_error error = {0};
	void *buffer = NULL;
	struct vb_reader *reader = NULL;
	int result = -1;

	if (posix_memalign(&buffer, BUFFER_ALIGNMENT, self->chunk_bytes))
		vb_fail(&error, VB_ERROR_MEMORY, 0, NULL, -1, "No memory for a buffer of %llu bytes",
			(unsigned long long)self->chunk_bytes);
	else if ((reader = vb_reader_new(self->chain, &error)) != NULL)
		result = work(self, reader, buffer, &error);
	vb_reader_free(reader);
	free(buffer);
	if (result) {
		pthread_mutex_lock(&self->mutex);
		if (!self->has_error)
			self->error = error;
		self->has_error = true;
		pthread_mutex_unlock(&self->mutex);
		atomic_store(&self->stop, true);
	}
	return NULL;
}

static size_t choose_thread_count(const struct digester *self)
{
	uint64_t chunk_count = vb_bitmap_dirty_bytes(self->todo) / self->chunk_bytes;
	cpu_set_t cores;
	uint64_t count = sched_getaffinity(0, sizeof(cores), &cores) == 0 ? (uint64_t)CPU_COUNT(&cores) : 1;

	count = smaller(smaller(count, THREAD_COUNT_MAX), chunk_count);
	return count ? count : 1;
}

/* The calling thread is one of them. Signals stay with the threads that the embedding process made. */
static void run_threads(struct digester *self)
{
	pthread_t threads[THREAD_COUNT_MAX];
	size_t count = choose_thread_count(self), started = 1;
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (started < count && pthread_create(&threads[started], NULL, digest_thread, self) == 0)
		started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	digest_thread(self);
	while (--started > 0)
		pthread_join(threads[started], NULL);
}

int vb_digest_add_plan(struct vb_digest_sum *sum, const struct vb_chain *chain, const struct vb_plan *plan, struct vb_bitmap *todo,
		       const bool *cancelled, _Atomic uint64_t *read_bytes, struct vb_error *error)
{
	struct digester self = {
		.chain = chain,
		.plan = plan,
		.todo = todo,
		.chunk_bytes = CHUNK_BYTES,
		.cancelled = cancelled,
		.read_bytes = read_bytes,
	};

	if (self.chunk_bytes < vb_bitmap_granule_bytes(todo))
		self.chunk_bytes = vb_bitmap_granule_bytes(todo);
	if (self.chunk_bytes < plan->compressed_unit_bytes)
		self.chunk_bytes = plan->compressed_unit_bytes;
	pthread_mutex_init(&self.mutex, NULL);
	run_threads(&self);
	pthread_mutex_destroy(&self.mutex);
	if (self.has_error) {
		*error = self.error;
		return -1;
	}
	vb_digest_merge(sum, &self.sum);
	return 0;
}

int vb_digest_chain(const struct vb_chain *chain, bool drop_cache, const bool *cancelled, char text[VB_DIGEST_TEXT_BYTES],
		    struct vb_error *error)
{
	uint64_t size_bytes = vb_chain_size_bytes(chain);
	struct vb_digest_sum sum = {0};
	struct vb_plan *plan = vb_plan_make(chain, VB_PLAN_FULL, VB_DIGEST_BLOCK_BYTES, cancelled, error);
	struct vb_bitmap *todo = plan ? vb_bitmap_new(size_bytes, vb_bitmap_default_granule(size_bytes), error) : NULL;
	int result = -1;

	if (todo) {
		for (size_t index = 0; index < plan->extent_count; index++)
			vb_bitmap_set(todo, plan->extents[index].start_bytes, plan->extents[index].length_bytes);
		if (drop_cache)
			vb_sys->fadvise(vb_layer_file(vb_chain_layer(chain, 0))->fd, 0, 0, POSIX_FADV_DONTNEED);
		result = vb_digest_add_plan(&sum, chain, plan, todo, cancelled, NULL, error);
	}
	if (result == 0)
		vb_digest_text(&sum, size_bytes, text);
	vb_bitmap_free(todo);
	vb_plan_free(plan);
	return result;
}
