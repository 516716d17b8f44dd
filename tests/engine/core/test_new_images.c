/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New destinations with extended L2 entries and with their room taken beforehand: by fallocate(), where there is none by writing zeros, and
 * without anything left where there is no room.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "copy_runner.h"
#include "sys.h"
#include "sys_recorder.h"

#define DISK_BYTES (3u * 1024 * 1024 + 512)

static struct vb_error error;
static char *disk_path, *copy_path, *partial_path;
static struct vb_sys table;
static int fallocate_errno;        /* 0: it succeeds */
static unsigned fallocate_count;   /* of calls that ask for room */

static int on_fallocate(int fd, int mode, off_t offset, off_t length)
{
	if (mode != 0)
		return vb_sys_linux.fallocate(fd, mode, offset, length);
	fallocate_count++;
	if (fallocate_errno == 0)
		return vb_sys_linux.fallocate(fd, mode, offset, length);
	errno = fallocate_errno;
	return -1;
}

static struct copy_request request_for(enum vb_format format, bool extended_l2, enum vb_preallocation preallocation)
{
	return (struct copy_request){
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = format,
		.extended_l2 = extended_l2,
		.preallocation = preallocation,
	};
}

static int copy_with(const struct copy_request *request, int number)
{
	int result;

	unlink(copy_path);
	fallocate_errno = number;
	fallocate_count = 0;
	table = vb_sys_linux;
	table.fallocate = on_fallocate;
	vb_sys = &table;
	result = run_copy(request, NULL, &error);
	vb_sys = &vb_sys_linux;
	return result;
}

static uint64_t allocated_bytes(void)
{
	struct stat status;

	CHECK_EQUAL(stat(copy_path, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

static void check_copy(const struct copy_request *request, int number)
{
	CHECK_OK(copy_with(request, number) == 0, error);
	check_same(disk_path, VB_FORMAT_RAW, copy_path, request->format);
	if (request->format == VB_FORMAT_QCOW2)
		check_image(copy_path, false);
	CHECK_EQUAL(fallocate_count, request->preallocation >= VB_PREALLOCATION_FALLOC);
	if (request->preallocation >= VB_PREALLOCATION_FALLOC)
		CHECK(allocated_bytes() >= DISK_BYTES);
	else
		CHECK(allocated_bytes() < DISK_BYTES);
}

static void test_all_kinds(void)
{
	for (enum vb_preallocation kind = VB_PREALLOCATION_OFF; kind <= VB_PREALLOCATION_FULL; kind++) {
		for (unsigned is_extended = 0; is_extended < 2; is_extended++) {
			struct copy_request request = request_for(VB_FORMAT_QCOW2, is_extended, kind);

			check_copy(&request, 0);
		}
		if (kind != VB_PREALLOCATION_METADATA) {
			struct copy_request request = request_for(VB_FORMAT_RAW, false, kind);

			check_copy(&request, 0);
		}
	}
}

static void test_no_fallocate(void)
{
	static const int numbers[] = {EOPNOTSUPP, ENOSYS};

	for (size_t index = 0; index < 2; index++) {
		struct copy_request raw = request_for(VB_FORMAT_RAW, false, VB_PREALLOCATION_FALLOC);
		struct copy_request qcow2 = request_for(VB_FORMAT_QCOW2, index == 0, VB_PREALLOCATION_FALLOC);

		check_copy(&raw, numbers[index]);
		check_copy(&qcow2, numbers[index]);
	}
}

static void test_no_room(void)
{
	for (enum vb_format format = VB_FORMAT_RAW; format <= VB_FORMAT_QCOW2; format++) {
		struct copy_request request = request_for(format, false, VB_PREALLOCATION_FULL);

		CHECK_EQUAL(copy_with(&request, ENOSPC), -1);
		CHECK_ERROR(error, VB_ERROR_SYSTEM, "Cannot preallocate");
		CHECK_EQUAL(error.system_errno, ENOSPC);
		CHECK(!exists(partial_path));
		CHECK_EQUAL(file_size(copy_path), 0);
	}
}

/* Whatever call fails, there is no image that is not complete. */
static void test_every_call_fails(void)
{
	struct copy_request request = request_for(VB_FORMAT_QCOW2, true, VB_PREALLOCATION_FULL);

	request.lane_count = 1;
	for (unsigned at = 1;; at++) {
		int result;

		unlink(copy_path);
		unlink(partial_path);
		recorder_start(at, EIO);
		result = run_copy(&request, NULL, &error);
		bool is_reached = recorder_stop();

		CHECK_EQUAL(recorder_open_fds(), 0);
		recorder_forget();
		if (result == 0 || (exists(copy_path) && file_size(copy_path) > 0))
			check_same(disk_path, VB_FORMAT_RAW, copy_path, VB_FORMAT_QCOW2);
		else
			CHECK(error.kind != VB_ERROR_NONE);
		if (!is_reached) {
			CHECK(at > 20);
			break;
		}
	}
}

int main(void)
{
	disk_path = strdup(test_path("disk"));
	copy_path = strdup(test_path("copy"));
	partial_path = strdup(test_path("copy.virtblock-partial"));
	make_disk(disk_path, DISK_BYTES, 12, 7);
	RUN(test_all_kinds);
	RUN(test_no_fallocate);
	RUN(test_no_room);
	RUN(test_every_call_fails);
	free(disk_path);
	free(copy_path);
	free(partial_path);
	return 0;
}
