/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two threads that share a write queue or an image written in place, in a chosen order (script.h): the writer leaves as somebody queues,
 * a lane falls asleep as chunks come back, two writes meet in one L2 table, a checkpoint comes between a cluster's data and its entry.
 */
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "copy_runner.h"
#include "destination.h"
#include "script.h"
#include "write_queue.h"

#define CLUSTER_BYTES 65536u
#define DISK_BYTES (32ull * CLUSTER_BYTES)

static struct vb_error error;
static struct vb_policy *policy;
static struct vb_write_queue *queue;
static struct vb_writer *writer;
static char *copy_path;

static void start(pthread_t *thread, void *(*body)(void *), void *argument)
{
	CHECK_EQUAL(pthread_create(thread, NULL, body, argument), 0);
}

static void join(pthread_t thread)
{
	CHECK_EQUAL(pthread_join(thread, NULL), 0);
}

static void *put_and_drain(void *opaque)
{
	struct vb_chunk *chunk = vb_write_queue_take(queue);
	size_t *written_count = opaque;

	chunk->start_bytes = 1;
	if (vb_write_queue_put(queue, chunk))
		while ((chunk = vb_write_queue_next(queue)) != NULL) {
			++*written_count;
			vb_write_queue_give_back(queue, chunk);
		}
	return NULL;
}

/* Whether B queues before or behind A's last look: somebody writes what B queued. */
static void no_chunk_is_left_behind(void)
{
	static const struct { const char *script; size_t by_a, by_b; } cases[] = {
		{"A:queue took in > M:more > B:queue took in > A:go > A:queue gave out", 2, 0},
		{"A:queue took in > M:more > A:go > A:queue gave out > B:queue took in > A:go > A:queue gave out", 2, 0},
		{"A:queue took in > A:queue gave out > A:queue gave out > M:more > B:queue took in > B:queue gave out > A:go", 1, 1},
	};

	for (size_t index = 0; index < sizeof(cases) / sizeof(cases[0]); index++) {
		size_t by_a = 0, by_b = 0;
		pthread_t first, second;

		queue = vb_write_queue_new(4, 4096, 1, &error);
		CHECK_OK(queue != NULL, error);
		script_start(cases[index].script);
		start(&first, put_and_drain, &by_a);
		script_turn("more");
		start(&second, put_and_drain, &by_b);
		script_next();
		join(first);
		join(second);
		script_end();
		CHECK_EQUAL(by_a, cases[index].by_a);
		CHECK_EQUAL(by_b, cases[index].by_b);
		CHECK(vb_write_queue_next(queue) == NULL);
		vb_write_queue_free(queue);
	}
}

static void *take_one(void *opaque)
{
	*(struct vb_chunk **)opaque = vb_write_queue_take(queue);
	return NULL;
}

/* The mutex is let go only with the sleep, so what comes back behind it wakes the sleeper. */
static void a_sleeper_gets_the_chunk_that_comes_back(void)
{
	struct vb_chunk *chunk, *got = NULL;
	pthread_t taker;

	queue = vb_write_queue_new(1, 4096, 1, &error);
	CHECK_OK(queue != NULL, error);
	chunk = vb_write_queue_take(queue);
	script_start("A:queue sleeps > M:back");
	start(&taker, take_one, &got);
	script_turn("back");
	vb_write_queue_give_back(queue, chunk);
	script_next();
	join(taker);
	script_end();
	CHECK(got == chunk);
	vb_write_queue_give_back(queue, got);
	vb_write_queue_free(queue);
}

/* What one thread does to the image. */
struct change {
	uint64_t cluster;
	uint64_t count;
	uint8_t value;   /* 0: by zero() */
};

static void *apply_change(void *opaque)
{
	const struct change *change = opaque;
	size_t length = change->count * CLUSTER_BYTES;
	uint8_t *piece = malloc(length);
	struct vb_error failure;

	CHECK(piece != NULL);
	memset(piece, change->value, length);

	int result = change->value ? writer->ops->write(writer, change->cluster * CLUSTER_BYTES, piece, length, &failure)
				   : writer->ops->zero(writer, change->cluster * CLUSTER_BYTES, length, &failure);

	CHECK_OK(result == 0, failure);
	free(piece);
	return NULL;
}

static const char *const images[] = {
	"qemu-img create -q -f qcow2 copy 2M",
	"qemu-img create -q -f qcow2 -o preallocation=metadata copy 2M",
	"qemu-img create -q -f qcow2 -o extended_l2=on copy 2M && qemu-io -f qcow2 -c 'write -P 8 3k 200k' copy >io.log",
	"qemu-img create -q -f qcow2 copy 2M && qemu-io -f qcow2 -c 'write -P 8 0 1M' copy >io.log && qemu-img snapshot -c one copy",
	"yes words | head -c 2M >words; qemu-img convert -c -f raw -O qcow2 words copy",
};

static void open_image(size_t image)
{
	CHECK_EQUAL(test_shell("rm -f copy expected; %s && qemu-img convert -f qcow2 -O raw copy expected", images[image]), 0);
	writer = vb_image_open_writable(policy, copy_path, VB_FORMAT_QCOW2, &error);
	CHECK_OK(writer != NULL, error);
}

static void expect(const struct change *change)
{
	FILE *file = fopen(test_path("expected"), "r+b");

	CHECK(file != NULL && fseek(file, (long)(change->cluster * CLUSTER_BYTES), SEEK_SET) == 0);
	for (size_t index = 0; index < change->count * CLUSTER_BYTES; index++)
		CHECK(fputc(change->value, file) == change->value);
	CHECK_EQUAL(fclose(file), 0);
}

static void close_image(const struct change *first, const struct change *second)
{
	CHECK_OK(writer->ops->publish(writer, &error) == 0, error);
	writer->ops->close(writer);
	expect(first);
	expect(second);
	check_image(copy_path, false);
	check_same(copy_path, VB_FORMAT_QCOW2, test_path("expected"), VB_FORMAT_RAW);
}

/* Neighbours in one table, one of them at each of its points while the other goes all its way. */
static void writes_meet_in_one_table(void)
{
	static const char *const scripts[] = {
		"A:in place: found room > M:other > B:in place: recorded > A:go",
		"A:in place: filled > M:other > B:in place: recorded > A:go",
		"A:in place: found room > M:other > B:in place: found room > A:go > A:in place: filled > B:go > B:in place: recorded > A:go",
	};

	for (size_t index = 0; index < sizeof(images) / sizeof(images[0]) * sizeof(scripts) / sizeof(scripts[0]); index++) {
		struct change first = {2, 3, 0x11}, second = {5, 2, 0x22};
		pthread_t threads[2];

		open_image(index % (sizeof(images) / sizeof(images[0])));
		script_start(scripts[index / (sizeof(images) / sizeof(images[0]))]);
		start(&threads[0], apply_change, &first);
		script_turn("other");
		script_next();
		start(&threads[1], apply_change, &second);
		join(threads[0]);
		join(threads[1]);
		script_end();
		close_image(&first, &second);
	}
}

/* What was found for A's data is counted by then, and named by nobody: a crash now would leak it, and no more. */
static void check_checkpoint(void)
{
	CHECK_OK(writer->ops->checkpoint(writer, &error) == 0, error);
	CHECK_EQUAL(test_shell("cp copy moment"), 0);
	check_image(test_path("moment"), true);
}

/* A checkpoint, and zeros for what A's neighbours were, between A's data and its entries. */
static void checkpoints_and_zeros_come_between(void)
{
	static const char *const scripts[] = {
		"A:in place: found room > M:other > A:go", "A:in place: filled > M:other > A:go", "A:in place: recorded > M:other > A:go",
	};

	for (size_t index = 0; index < sizeof(images) / sizeof(images[0]) * sizeof(scripts) / sizeof(scripts[0]); index++) {
		struct change first = {2, 3, 0x33}, second = {0, 2, 0};
		pthread_t thread;

		open_image(index % (sizeof(images) / sizeof(images[0])));
		script_start(scripts[index / (sizeof(images) / sizeof(images[0]))]);
		start(&thread, apply_change, &first);
		script_turn("other");
		check_checkpoint();
		apply_change(&second);
		check_checkpoint();
		script_next();
		join(thread);
		script_end();
		close_image(&first, &second);
	}
}

int main(void)
{
	policy = vb_policy_new(NULL, 0, &error);
	CHECK_OK(policy != NULL, error);
	copy_path = strdup(test_path("copy"));
	RUN(no_chunk_is_left_behind);
	RUN(a_sleeper_gets_the_chunk_that_comes_back);
	RUN(writes_meet_in_one_table);
	RUN(checkpoints_and_zeros_come_between);
	vb_policy_free(policy);
	free(copy_path);
	return 0;
}
