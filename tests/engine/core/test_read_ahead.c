/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel is told of a chain of raw pieces far apart: every dirty byte of the plan once, none twice, none that is clean, and never
 * more than the window beyond what has begun.
 */
#include <errno.h>

#include "chain_content.h"
#include "check.h"
#include "read_ahead.h"
#include "sys.h"

#define MIB (1024ull * 1024)
#define SIZE_BYTES (4096 * MIB)
#define PIECE_BYTES (256 * 1024u)
#define PIECE_DISTANCE_BYTES (32 * MIB)
#define WINDOW_BYTES (8 * MIB)

static uint8_t told[SIZE_BYTES / 4096];
static uint64_t told_bytes, told_end_bytes;

static int record(int fd, off_t offset, off_t length, int advice)
{
	(void)fd;
	CHECK_EQUAL(advice, POSIX_FADV_WILLNEED);
	CHECK_EQUAL(offset % 4096, 0);
	CHECK_EQUAL(length % 4096, 0);
	for (uint64_t page = (uint64_t)offset / 4096; page < (uint64_t)(offset + length) / 4096; page++)
		CHECK_EQUAL(told[page]++, 0);
	told_bytes += (uint64_t)length;
	if ((uint64_t)(offset + length) > told_end_bytes)
		told_end_bytes = (uint64_t)(offset + length);
	return EIO;   /* nobody minds */
}

static struct vb_chain *open_sparse(void)
{
	struct vb_error error = {0};
	struct vb_chain *chain;

	CHECK_EQUAL(test_shell("python3 -c \"\nfile = open('sparse', 'wb')\nfile.truncate(%llu)\nfor at in range(0, %llu, %llu):\n    "
			       "file.seek(at)\n    file.write(b'x' * %u)\n\"",
			       SIZE_BYTES, SIZE_BYTES, PIECE_DISTANCE_BYTES, PIECE_BYTES), 0);
	chain = open_chain(test_path("sparse"), VB_FORMAT_RAW, &error);
	CHECK_OK(chain != NULL, error);
	return chain;
}

/* The chunk's data is the piece's half of 128 KiB. */
static void test_everything_dirty_is_told_once(void)
{
	struct vb_error error = {0};
	struct vb_chain *chain = open_sparse();
	struct vb_plan *plan = vb_plan_make(chain, VB_PLAN_FULL, 65536, NULL, &error);
	struct vb_bitmap *dirty = vb_bitmap_new(SIZE_BYTES, 65536, &error);
	struct vb_read_ahead state = {0};
	struct vb_sys calls = vb_sys_linux;
	uint64_t begun_bytes = 0, clean_bytes = 0;

	CHECK_OK(plan != NULL && dirty != NULL, error);
	CHECK_EQUAL(plan->extent_count, SIZE_BYTES / PIECE_DISTANCE_BYTES);
	for (size_t index = 0; index < plan->extent_count; index++) {
		if (index % 5 == 4)
			clean_bytes += plan->extents[index].length_bytes;
		else
			vb_bitmap_set(dirty, plan->extents[index].start_bytes, plan->extents[index].length_bytes);
	}
	calls.fadvise = record;
	vb_sys = &calls;
	for (size_t index = 0; index < plan->extent_count; index++) {
		for (uint64_t half = 0; half < 2 && index % 5 != 4; half++) {
			uint64_t start_bytes = plan->extents[index].start_bytes + half * PIECE_BYTES / 2;

			begun_bytes += PIECE_BYTES / 2;
			vb_read_ahead(&state, chain, plan, dirty, start_bytes + PIECE_BYTES / 2, PIECE_BYTES / 2);
			CHECK(told_bytes + PIECE_BYTES / 2 <= begun_bytes + WINDOW_BYTES);
			/* Behind the first chunk nothing is read that was not told of. */
			CHECK(begun_bytes == plan->data_bytes - clean_bytes || told_end_bytes >= start_bytes + PIECE_BYTES / 2);
		}
	}
	vb_sys = &vb_sys_linux;
	CHECK_EQUAL(told_bytes + PIECE_BYTES / 2, plan->data_bytes - clean_bytes);
	for (size_t index = 4; index < plan->extent_count; index += 5)
		CHECK_EQUAL(told[plan->extents[index].start_bytes / 4096], 0);
	vb_bitmap_free(dirty);
	vb_plan_free(plan);
	vb_chain_close(chain);
}

int main(void)
{
	RUN(test_everything_dirty_is_told_once);
	return 0;
}
