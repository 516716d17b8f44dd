/* SPDX-License-Identifier: Apache-2.0 */
/* Many threads plan and read one chain at once, each with its own reader; all must see the same, and ThreadSanitizer nothing. */
#include <pthread.h>

#include "chain_content.h"
#include "check.h"

#define THREAD_COUNT 6

static const struct vb_chain *chain;
static uint8_t *wanted;

static int count_extents(void *opaque, const struct vb_extent *extent, struct vb_error *error)
{
	(void)extent;
	(void)error;
	++*(unsigned *)opaque;
	return 0;
}

static void *work(void *unused)
{
	struct vb_error error = { 0 };
	unsigned count = 0;

	for (int round = 0; round < 4; round++) {
		uint8_t *content = read_chain(chain, &error);

		CHECK_OK(content != NULL, error);
		CHECK(memcmp(content, wanted, vb_chain_size_bytes(chain)) == 0);
		free(content);
		for (size_t i = 0; i < vb_chain_depth(chain); i++)
			CHECK_EQUAL(vb_layer_map(vb_chain_layer(chain, i), 0, 1 << 23, count_extents, &count, &error), 0);
	}
	CHECK(count > 0);
	return unused;
}

int main(void)
{
	struct vb_error error = { 0 };
	pthread_t threads[THREAD_COUNT];
	struct vb_chain *opened;

	CHECK_EQUAL(test_shell("python3 -c \"print('line of text %%d' * 100000)\" | head -c 3000000 >base.raw && "
			       "qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd base.raw base.qcow2 && "
			       "qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 top.qcow2 4M && "
			       "qemu-io -f qcow2 -c 'write -P 1 5k 30k' -c 'write -z 1M 300k' -c 'write -P 3 2000k 1k' top.qcow2 >/dev/null"), 0);
	opened = open_chain(test_path("top.qcow2"), VB_FORMAT_QCOW2, &error);
	CHECK_OK(opened != NULL, error);
	chain = opened;
	wanted = read_chain(chain, &error);
	CHECK_OK(wanted != NULL, error);
	for (int i = 0; i < THREAD_COUNT; i++)
		CHECK_EQUAL(pthread_create(&threads[i], NULL, work, NULL), 0);
	for (int i = 0; i < THREAD_COUNT; i++)
		CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
	free(wanted);
	vb_chain_close(opened);
	return 0;
}
