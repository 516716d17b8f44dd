/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes what a chain reads as to a file, through plan and reader: tool_dump_chain [--top UNIT] FORMAT SOURCE DESTINATION.
 * Prints one line: extents, data bytes, zero bytes. With DESTINATION "-" that is all. With --top only what the top layer has is written, into the existing destination.
 * Exit code 1 and the error's kind and text on standard error when the core refuses.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"

#define PIECE_BYTES (192u * 1024)   /* no multiple of large clusters, so that clusters are read in pieces */

static struct vb_error error;

static int fail(void)
{
	fprintf(stderr, "kind %d: %s: %s (offset %lld, %s)\n", (int)error.kind, error.path, error.message, (long long)error.offset_bytes,
		strerror(error.system_errno));
	return 1;
}

static int write_extent(struct vb_reader *reader, const struct vb_extent *extent, int fd)
{
	static char buffer[PIECE_BYTES];
	uint64_t skip = 0;

	while (skip < extent->length_bytes) {
		uint64_t left = extent->length_bytes - skip;
		size_t length = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;

		if (vb_reader_read(reader, extent, skip, buffer, length, &error) < 0)
			return -1;
		if (pwrite(fd, buffer, length, (off_t)(extent->start_bytes + skip)) != (ssize_t)length)
			return vb_fail(&error, VB_ERROR_SYSTEM, errno, NULL, -1, "Cannot write");
		skip += length;
	}
	return 0;
}

static int write_plan(const struct vb_chain *chain, const struct vb_plan *plan, const char *path)
{
	int fd = open(path, plan->mode == VB_PLAN_FULL ? O_WRONLY | O_CREAT | O_TRUNC : O_WRONLY, 0600), result = 0;
	struct vb_reader *reader = vb_reader_new(chain, &error);

	if (fd < 0)
		result = vb_fail(&error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot open");
	if (reader == NULL)
		result = -1;
	for (size_t i = 0; i < plan->extent_count && result == 0; i++)
		result = write_extent(reader, &plan->extents[i], fd);
	if (result == 0 && ftruncate(fd, (off_t)plan->size_bytes) < 0)
		result = vb_fail(&error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot set the size");
	if (fd >= 0)
		close(fd);
	vb_reader_free(reader);
	return result;
}

static int dump(const struct vb_chain *chain, enum vb_plan_mode mode, uint32_t unit, const char *path)
{
	struct vb_plan *plan = vb_plan_make(chain, mode, unit, NULL, &error);
	int result = 0;

	if (plan == NULL)
		return -1;
	if (strcmp(path, "-") != 0)
		result = write_plan(chain, plan, path);
	printf("%zu extents, %llu data bytes, %llu zero bytes\n", plan->extent_count, (unsigned long long)plan->data_bytes,
	       (unsigned long long)plan->zero_bytes);
	vb_plan_free(plan);
	return result;
}

int main(int argc, char **argv)
{
	enum vb_plan_mode mode = VB_PLAN_FULL;
	struct vb_layer_spec spec;
	struct vb_policy *policy;
	struct vb_chain *chain;
	uint32_t unit = 0;
	int result;

	if (argc == 6 && strcmp(argv[1], "--top") == 0) {
		mode = VB_PLAN_TOP;
		unit = (uint32_t)strtoul(argv[2], NULL, 0);
		argv += 2;
		argc -= 2;
	}
	if (argc != 4) {
		fprintf(stderr, "usage: tool_dump_chain [--top UNIT] FORMAT SOURCE DESTINATION\n");
		return 2;
	}
	spec.format = strcmp(argv[1], "raw") == 0 ? VB_FORMAT_RAW : VB_FORMAT_QCOW2;
	spec.path = argv[2];
	policy = vb_policy_new(NULL, 0, &error);
	if (policy == NULL)
		return fail();
	chain = vb_chain_open(policy, &spec, 1, false, VB_LOCK_READER, &error);
	vb_policy_free(policy);
	if (chain == NULL)
		return fail();
	result = dump(chain, mode, unit, argv[3]);
	vb_chain_close(chain);
	return result < 0 ? fail() : 0;
}
