/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: one copy from open to close, and the making and judging of disks around it. */
#include "copy_runner.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"

static int copy_chain(const struct copy_request *request, const struct vb_policy *policy, const struct vb_chain *chain,
		      struct vb_copy_progress *progress, struct vb_error *error)
{
	struct vb_destination_spec spec = {
		.path = request->destination,
		.format = request->format,
		.reuse = request->reuse,
		.virtual_size_bytes = vb_chain_size_bytes(chain),
		.backing_path = request->backing_path,
		.backing_format = request->backing_format,
		.cluster_size_bytes = request->cluster_size_bytes ? request->cluster_size_bytes : 65536,
		.compression = request->compression,
		.extended_l2 = request->extended_l2,
		.preallocation = request->preallocation,
		.durable = true,
	};
	struct vb_copy_options options = {
		.mode = request->mode,
		.bandwidth_bytes_per_s = request->bandwidth_bytes_per_s,
		.granule_bytes = request->granule_bytes,
		.lane_count = request->lane_count,
		.check_space = true,
		.reflink = request->reflink,
		.journal_path = request->journal_path,
		.resume = request->resume,
		.journal_interval_ms = request->journal_interval_ms,
		.digest = request->digest != NULL,
		.digest_shared = true,
		.bitmap_name = request->bitmap_name,
	};
	struct vb_writer *writer = vb_copy_open_destination(policy, &spec, chain, &options, error);
	struct vb_copy *copy;
	int result;

	if (writer == NULL)
		return -1;
	copy = vb_copy_new(chain, writer, &options, error);
	if (copy != NULL)
		vb_copy_keep_unfinished(copy, request->keeps_unfinished);
	result = copy == NULL ? -1 : vb_copy_run(copy, error);
	if (copy != NULL && request->digest != NULL)
		vb_copy_digest(copy, request->digest);
	if (copy != NULL && request->is_resumed != NULL)
		*request->is_resumed = vb_copy_is_resumed(copy);
	if (copy != NULL && progress != NULL)
		vb_copy_progress(copy, progress);
	vb_copy_free(copy);
	writer->ops->close(writer);
	return result;
}

int run_copy(const struct copy_request *request, struct vb_copy_progress *progress, struct vb_error *error)
{
	struct vb_policy *policy = vb_policy_new(&request->folder, request->folder ? 1 : 0, error);
	const struct vb_layer_spec spec = {.path = request->source, .format = request->source_format};
	bool is_named = policy != NULL && (request->data_file == NULL ||
					   vb_policy_name_data_file(policy, request->source, request->data_file, error) == 0);
	struct vb_chain *chain = is_named ? vb_chain_open(policy, &spec, 1, false, VB_LOCK_READER, error) : NULL;
	int result = chain == NULL ? -1 : copy_chain(request, policy, chain, progress, error);

	vb_chain_close(chain);
	vb_policy_free(policy);
	return result;
}

void make_disk(const char *path, uint64_t size_bytes, unsigned piece_count, unsigned long long seed)
{
	static const uint64_t lengths[] = {1, 512, 4096, 10000, 65536, 300000};
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	uint8_t *piece = malloc(300000);

	CHECK(fd >= 0 && piece != NULL);
	CHECK_EQUAL(ftruncate(fd, (off_t)size_bytes), 0);
	for (unsigned index = 0; index < piece_count && size_bytes > 0; index++) {
		uint64_t start = test_random(&seed) % size_bytes;
		uint64_t length = lengths[test_random(&seed) % (sizeof(lengths) / sizeof(lengths[0]))];
		uint64_t kind = test_random(&seed) % 4;

		if (length > size_bytes - start)
			length = size_bytes - start;
		for (uint64_t at = 0; at < length; at++)
			piece[at] = kind == 0 ? 0 : (uint8_t)test_random(&seed);
		CHECK_EQUAL(pwrite(fd, piece, length, (off_t)start), length);
	}
	free(piece);
	CHECK_EQUAL(close(fd), 0);
}

void check_same(const char *left, enum vb_format left_format, const char *right, enum vb_format right_format)
{
	struct vb_error error = {0};
	struct vb_chain *left_chain = open_chain(left, left_format, &error), *right_chain;
	uint64_t offset = 0;

	CHECK_OK(left_chain != NULL, error);
	right_chain = open_chain(right, right_format, &error);
	CHECK_OK(right_chain != NULL, error);

	uint64_t left_bytes = vb_chain_size_bytes(left_chain), right_bytes = vb_chain_size_bytes(right_chain);

	CHECK_EQUAL((left_bytes + 511) / 512, (right_bytes + 511) / 512);

	int result = vb_compare(left_chain, right_chain, true, &offset, NULL, &error);

	CHECK_OK(result >= 0, error);
	if (result == 0)
		fprintf(stderr, "'%s' and '%s' differ at %llu\n", left, right, (unsigned long long)offset);
	CHECK_EQUAL(result, 1);
	vb_chain_close(left_chain);
	vb_chain_close(right_chain);
}

void check_image(const char *path, bool leaks_allowed)
{
	int result = test_shell("qemu-img check -f qcow2 '%s' >check.log 2>&1", path);

	if (result != 0 && !(leaks_allowed && result == 3))
		test_shell("cat check.log >&2");
	CHECK(result == 0 || (leaks_allowed && result == 3));
}

uint64_t file_size(const char *path)
{
	struct stat status;

	CHECK_EQUAL(stat(path, &status), 0);
	return (uint64_t)status.st_size;
}

bool exists(const char *path)
{
	return access(path, F_OK) == 0;
}
