/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every system call of a copy fails once. Whatever fails: an error comes back (or the copy is complete), no descriptor is left
 * open, and at the destination's name there is nothing that could be taken for a complete image.
 */
#include <errno.h>
#include <unistd.h>

#include "check.h"
#include "copy_runner.h"
#include "sys_recorder.h"

#define DISK_BYTES (700u * 1024)

static struct vb_error error;
static char *disk_path, *copy_path, *partial_path;

static struct copy_request request_for(enum vb_format format, bool reuse)
{
	return (struct copy_request){
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = format,
		.reuse = reuse,
		.lane_count = 1,
	};
}

/* Whether a program that knows nothing of us would take the file for a disk of the right size. */
static bool looks_complete(const struct copy_request *request)
{
	if (!exists(copy_path))
		return false;
	if (request->format == VB_FORMAT_RAW)
		return file_size(copy_path) == DISK_BYTES;
	return test_shell("qemu-img info -f qcow2 copy >info.log 2>&1") == 0;
}

static void prepare(const struct copy_request *request)
{
	unlink(copy_path);
	unlink(partial_path);
	if (request->reuse && request->format == VB_FORMAT_RAW)
		CHECK_EQUAL(test_shell("cp old copy"), 0);
	else if (request->reuse)
		CHECK_EQUAL(test_shell("cp old.qcow2 copy"), 0);
}

/* A failed copy either never touched the destination, or left it so that it is not taken for complete. */
static void judge_failure(const struct copy_request *request, bool began)
{
	CHECK(error.kind != VB_ERROR_NONE);
	/* Renamed, but the folder was not synced: an error, over a complete file. */
	if (!request->reuse && exists(copy_path) && file_size(copy_path) != 0)
		check_same(disk_path, VB_FORMAT_RAW, copy_path, request->format);
	if (!request->reuse || !looks_complete(request))
		return;
	if (!began)
		check_same(request->format == VB_FORMAT_RAW ? test_path("old") : test_path("old.qcow2"), request->format, copy_path,
			   request->format);
	else
		check_same(disk_path, VB_FORMAT_RAW, copy_path, request->format);
}

static bool has_begun(void)
{
	for (size_t index = 0; index < record_count; index++)
		if (records[index].kind == RECORD_WRITE)
			return true;
	return false;
}

static void fail_request_everywhere(struct copy_request request, int number)
{
	unsigned left_count = 0;

	for (unsigned at = 1;; at++) {
		prepare(&request);
		error = (struct vb_error){0};
		recorder_start(at, number);

		int result = run_copy(&request, NULL, &error);
		bool is_reached = recorder_stop();

		CHECK_EQUAL(recorder_open_fds(), 0);
		if (result)
			judge_failure(&request, has_begun());
		else
			check_same(disk_path, VB_FORMAT_RAW, copy_path, request.format);
		if (result == 0 && request.format == VB_FORMAT_QCOW2 && at % 8 == 0)
			check_image(copy_path, false);
		left_count += exists(partial_path);
		if (!is_reached) {
			CHECK_EQUAL(result, 0);
			CHECK(at > 20);
			CHECK(left_count <= 1);   /* where the removal itself was what failed */
			break;
		}
	}
	recorder_forget();
}

static void fail_everywhere(enum vb_format format, bool reuse, int number)
{
	fail_request_everywhere(request_for(format, reuse), number);
}

static void new_raw(void)
{
	fail_everywhere(VB_FORMAT_RAW, false, EIO);
	fail_everywhere(VB_FORMAT_RAW, false, ENOSPC);
}

static void new_qcow2(void)
{
	fail_everywhere(VB_FORMAT_QCOW2, false, EIO);
	fail_everywhere(VB_FORMAT_QCOW2, false, ENOSPC);
}

static void new_compressed(void)
{
	struct copy_request request = request_for(VB_FORMAT_QCOW2, false);

	request.compression = VB_COMPRESS_ZLIB;
	request.cluster_size_bytes = 4096;
	fail_request_everywhere(request, EIO);
	request.compression = VB_COMPRESS_ZSTD;
	fail_request_everywhere(request, ENOSPC);
}

static void existing_raw(void)
{
	fail_everywhere(VB_FORMAT_RAW, true, EIO);
	fail_everywhere(VB_FORMAT_RAW, true, EOPNOTSUPP);
}

static void existing_qcow2(void)
{
	fail_everywhere(VB_FORMAT_QCOW2, true, EIO);
	fail_everywhere(VB_FORMAT_QCOW2, true, EOPNOTSUPP);
}

/* vb_image_create and vb_image_resize: as it was, or as it shall be. */
static void making_and_growing(void)
{
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	struct vb_destination_spec spec = {
		.path = copy_path, .format = VB_FORMAT_QCOW2, .virtual_size_bytes = DISK_BYTES, .cluster_size_bytes = 512, .durable = true};

	for (unsigned at = 1;; at++) {
		unlink(copy_path);
		unlink(partial_path);
		recorder_start(at, EIO);

		int result = vb_image_create(policy, &spec, &error);
		bool is_reached = recorder_stop();

		CHECK_EQUAL(recorder_open_fds(), 0);
		if (result && exists(copy_path))
			CHECK(file_size(copy_path) == 0 || test_shell("qemu-img check -q copy") == 0);
		if (!is_reached)
			break;
	}
	check_image(copy_path, false);
	CHECK_EQUAL(test_shell("qemu-io -f qcow2 -c 'write -P 5 0 100k' copy >io.log && cp copy small"), 0);
	for (unsigned at = 1;; at++) {
		CHECK_EQUAL(test_shell("cp small copy"), 0);
		recorder_start(at, EIO);

		int result = vb_image_resize(policy, copy_path, VB_FORMAT_QCOW2, 64u * 1024 * 1024, &error);
		bool is_reached = recorder_stop();

		CHECK_EQUAL(recorder_open_fds(), 0);
		check_image(copy_path, true);
		CHECK_EQUAL(test_shell("qemu-io -f qcow2 -r -c 'read -P 5 0 100k' -c 'read -P 0 100k 600k' copy | grep -qv failed"), 0);
		if (!is_reached) {
			CHECK_OK(result == 0, error);
			break;
		}
	}
	check_image(copy_path, false);
	recorder_forget();
	vb_policy_free(policy);
}

int main(void)
{
	disk_path = strdup(test_path("disk"));
	copy_path = strdup(test_path("copy"));
	partial_path = strdup(test_path("copy" VB_PARTIAL_SUFFIX));
	make_disk(disk_path, DISK_BYTES, 12, 1);
	make_disk(test_path("old"), DISK_BYTES, 12, 2);
	CHECK_EQUAL(test_shell("qemu-img convert -f raw -O qcow2 -o cluster_size=4096 old old.qcow2"), 0);
	RUN(new_raw);
	RUN(new_qcow2);
	RUN(new_compressed);
	RUN(existing_raw);
	RUN(existing_qcow2);
	RUN(making_and_growing);
	free(disk_path);
	free(copy_path);
	free(partial_path);
	return 0;
}
