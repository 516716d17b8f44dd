/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of system calls under fire. Every call that opening, planning and reading a chain makes fails once, with every errno that
 * matters: the result is an error of the right kind, nothing leaks, nothing is read wrong. Short reads and interrupts change nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "image_builder.h"
#include "qcow2.h"
#include "sys.h"

static struct vb_sys faulty;
static struct vb_error error;
static unsigned call_count, fail_at, seed_count;
static int fail_errno, open_fds;
static bool is_short, has_failed;
static off_t hole_answer, data_answer;

/* True when this call is the one to fail. */
static bool is_hit(void)
{
	if (++call_count != fail_at)
		return false;
	has_failed = true;
	errno = fail_errno;
	return true;
}

static int faulty_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
	int fd = is_hit() ? -1 : vb_sys_linux.openat(folder_fd, path, flags, mode);

	open_fds += fd >= 0;
	return fd;
}

static int faulty_openat_resolve(int folder_fd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	int fd = is_hit() ? -1 : vb_sys_linux.openat_resolve(folder_fd, path, flags, mode, resolve);

	open_fds += fd >= 0;
	return fd;
}

static int counting_close(int fd)
{
	CHECK_EQUAL(vb_sys_linux.close(fd), 0);
	open_fds--;
	return 0;
}

static ssize_t faulty_pread(int fd, void *buffer, size_t length, off_t offset)
{
	if (is_hit())
		return -1;
	if (is_short && seed_count++ % 3 == 0) {
		errno = EINTR;
		return -1;
	}
	return vb_sys_linux.pread(fd, buffer, is_short && length > 7 ? length / 2 : length, offset);
}

static int faulty_fstat(int fd, struct stat *status)
{
	return is_hit() ? -1 : vb_sys_linux.fstat(fd, status);
}

static off_t faulty_lseek(int fd, off_t offset, int whence)
{
	return is_hit() ? -1 : vb_sys_linux.lseek(fd, offset, whence);
}

static int faulty_lock(int fd, int command, struct flock *lock)
{
	return is_hit() ? -1 : vb_sys_linux.fcntl_lock(fd, command, lock);
}

static void arm(unsigned at, int number)
{
	faulty = vb_sys_linux;
	faulty.openat = faulty_openat;
	faulty.openat_resolve = faulty_openat_resolve;
	faulty.close = counting_close;
	faulty.pread = faulty_pread;
	faulty.fstat = faulty_fstat;
	faulty.lseek = faulty_lseek;
	faulty.fcntl_lock = faulty_lock;
	vb_sys = &faulty;
	call_count = 0;
	fail_at = at;
	fail_errno = number;
	has_failed = false;
	open_fds = 0;
	error = (struct vb_error){ 0 };
}

static uint8_t *read_under(const char *folder, uint64_t *size)
{
	struct vb_policy *policy = vb_policy_new(&folder, folder != NULL ? 1 : 0, &error);
	const struct vb_layer_spec spec = { .path = test_path("top"), .format = VB_FORMAT_QCOW2 };
	struct vb_chain *chain = NULL;
	uint8_t *content = NULL;

	if (policy != NULL)
		chain = vb_chain_open(policy, &spec, 1, false, VB_LOCK_READER, &error);
	if (chain != NULL) {
		*size = vb_chain_size_bytes(chain);
		content = read_chain(chain, &error);
	}
	vb_chain_close(chain);
	vb_policy_free(policy);
	return content;
}

static void make_chain(void)
{
	static uint8_t content[65536];
	struct builder builder;

	CHECK_EQUAL(test_shell("head -c 100000 /dev/zero | tr '\\0' r >bottom.raw && truncate -s 300000 bottom.raw && "
			       "printf xyz >>bottom.raw"), 0);
	builder_start(&builder, test_path("top"), 3, 16, 400000);
	builder.backing_name = "bottom.raw";
	builder.backing_format = "raw";
	memset(content, 't', sizeof(content));
	builder_put_data(&builder, 1, content);
	builder_put_compressed(&builder, 2, content);
	builder_put_zero(&builder, 3, false);
	builder_finish(&builder);
}

static bool is_expected(int number)
{
	/* Where there are no locks and no map of holes, reading goes on without them; an interrupted call is made again, and a file
	 * that is gone for a moment is looked for again. */
	return number == EINVAL || number == EOPNOTSUPP || number == ENOLCK || number == EINTR || number == ENOENT;
}

static void fail_everywhere(const char *folder, const uint8_t *wanted, uint64_t wanted_size)
{
	const int numbers[] = { EIO, ENOENT, EACCES, EMFILE, ENOMEM, ENOLCK, EINVAL, EOPNOTSUPP, EINTR, ENXIO, EAGAIN };

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		for (unsigned at = 1;; at++) {
			uint64_t size = 0;
			uint8_t *content;

			arm(at, numbers[i]);
			content = read_under(folder, &size);
			CHECK_EQUAL(open_fds, 0);
			if (content == NULL) {
				CHECK(error.kind != VB_ERROR_NONE && error.kind != VB_ERROR_INTERNAL);
				CHECK(error.message[0] != '\0');
				CHECK(numbers[i] != EINTR || error.kind == VB_ERROR_SYSTEM);
			} else if (numbers[i] != ENXIO || !has_failed) {
				CHECK_EQUAL(size, wanted_size);
				CHECK(memcmp(content, wanted, size) == 0);
				CHECK(!has_failed || is_expected(numbers[i]));
			}
			free(content);
			if (!has_failed)
				break;
		}
	}
}

static void test_every_call_fails(void)
{
	uint64_t size = 0;
	uint8_t *wanted;

	make_chain();
	arm(0, 0);
	wanted = read_under(NULL, &size);
	CHECK_OK(wanted != NULL, error);
	CHECK_EQUAL(open_fds, 0);
	CHECK(call_count > 20);
	CHECK_EQUAL(wanted[0], 'r');
	CHECK_EQUAL(wanted[65536], 't');
	CHECK_EQUAL(wanted[3 * 65536], 0);
	CHECK_EQUAL(wanted[300000], 'x');
	CHECK_EQUAL(wanted[300003], 0);
	fail_everywhere(NULL, wanted, size);
	fail_everywhere(test_path("."), wanted, size);
	is_short = true;
	arm(0, 0);
	{
		uint8_t *content = read_under(NULL, &size);

		CHECK_OK(content != NULL, error);
		CHECK(memcmp(content, wanted, size) == 0);
		free(content);
	}
	is_short = false;
	free(wanted);
	vb_sys = &vb_sys_linux;
}

static off_t lying_lseek(int fd, off_t offset, int whence)
{
	(void)fd;
	(void)offset;
	return whence == SEEK_DATA ? data_answer : hole_answer;
}

/* A file system that contradicts itself, or knows nothing, must not make data disappear. */
static void test_lying_seek(void)
{
	const off_t answers[] = { 0, 1, 50000, 300003, 1 << 30 };

	for (size_t data = 0; data < 5; data++) {
		for (size_t hole = 0; hole < 5; hole++) {
			struct vb_chain *chain = open_chain(test_path("bottom.raw"), VB_FORMAT_RAW, &error);
			struct vb_plan *plan;

			CHECK_OK(chain != NULL, error);
			arm(0, 0);
			data_answer = answers[data];
			hole_answer = answers[hole];
			faulty.lseek = lying_lseek;
			plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
			CHECK_OK(plan != NULL, error);
			check_plan(plan, chain);
			/* Only an answer that makes sense makes a hole. */
			if (answers[data] == 0 && answers[hole] == 0)
				CHECK_EQUAL(plan->data_bytes, 300003);
			vb_plan_free(plan);
			vb_sys = &vb_sys_linux;
			vb_chain_close(chain);
		}
	}
}

static int fake_device_stat(int fd, struct stat *status)
{
	int result = vb_sys_linux.fstat(fd, status);

	if (result == 0 && S_ISREG(status->st_mode)) {
		status->st_mode = (status->st_mode & ~(mode_t)S_IFMT) | S_IFBLK;
		status->st_rdev = 0x1234;
	}
	return result;
}

static int fake_device_size(int fd, unsigned long request, uint64_t *argument)
{
	(void)fd;
	CHECK_EQUAL(request, BLKGETSIZE64);
	if (fail_errno != 0) {
		errno = fail_errno;
		return -1;
	}
	*argument = 200000;
	return 0;
}

/* A block device has no length of its own and no holes: its size comes from BLKGETSIZE64, and all of it is data. */
static void test_block_device(void)
{
	struct vb_chain *chain;
	struct vb_plan *plan;

	for (int number = 0; number <= EIO; number += EIO) {
		arm(0, number);
		faulty.fstat = fake_device_stat;
		faulty.ioctl_u64 = fake_device_size;
		chain = open_chain(test_path("bottom.raw"), VB_FORMAT_RAW, &error);
		if (number != 0) {
			CHECK(chain == NULL);
			CHECK_ERROR(error, VB_ERROR_SYSTEM, "size of the block device");
			CHECK_EQUAL(open_fds, 0);
			continue;
		}
		CHECK_OK(chain != NULL, error);
		CHECK_EQUAL(vb_chain_size_bytes(chain), 200000);
		CHECK(vb_layer_file(vb_chain_layer(chain, 0))->is_block_device);
		CHECK_EQUAL(vb_layer_file(vb_chain_layer(chain, 0))->device, 0x1234);
		CHECK_EQUAL(vb_layer_file(vb_chain_layer(chain, 0))->inode, 0);
		plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
		CHECK_OK(plan != NULL, error);
		CHECK_EQUAL(plan->data_bytes, 200000);
		CHECK_EQUAL(plan->extent_count, 1);
		vb_plan_free(plan);
		vb_chain_close(chain);
		CHECK_EQUAL(open_fds, 0);
	}
	vb_sys = &vb_sys_linux;
}

static int growing_lock(int fd, int command, struct flock *lock)
{
	cut_file(test_path("growing.raw"), 1 << 20);
	return vb_sys_linux.fcntl_lock(fd, command, lock);
}

/* A file may still grow until it is locked; its size is taken behind the lock. */
static void test_grows_before_the_lock(void)
{
	struct vb_chain *chain;

	CHECK_EQUAL(test_shell("cp bottom.raw growing.raw"), 0);
	arm(0, 0);
	faulty.fcntl_lock = growing_lock;
	chain = open_chain(test_path("growing.raw"), VB_FORMAT_RAW, &error);
	CHECK_OK(chain != NULL, error);
	CHECK_EQUAL(vb_chain_size_bytes(chain), 1 << 20);
	vb_chain_close(chain);
	vb_sys = &vb_sys_linux;
}

static ssize_t short_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	if (is_hit())
		return -1;
	if (seed_count++ % 3 == 0) {
		errno = EINTR;
		return -1;
	}
	return vb_sys_linux.pwrite(fd, buffer, length > 7 ? length / 3 : length, offset);
}

static void test_write_helper(void)
{
	char wanted[10000], got[10001];
	int fd = open(test_path("written"), O_RDWR | O_CREAT | O_TRUNC, 0600);

	for (size_t i = 0; i < sizeof(wanted); i++)
		wanted[i] = (char)(i * 7 + i / 256);
	arm(0, 0);
	faulty.pwrite = short_pwrite;
	CHECK_OK(vb_pwrite_full(fd, "written", wanted, sizeof(wanted), 5, &error) == 0, error);
	CHECK_EQUAL(pread(fd, got, sizeof(got), 5), sizeof(wanted));
	CHECK(memcmp(wanted, got, sizeof(wanted)) == 0);
	arm(4, ENOSPC);
	faulty.pwrite = short_pwrite;
	CHECK_EQUAL(vb_pwrite_full(fd, "written", wanted, sizeof(wanted), 5, &error), -1);
	CHECK_ERROR(error, VB_ERROR_SYSTEM, "Cannot write");
	CHECK_EQUAL(error.system_errno, ENOSPC);
	CHECK(error.offset_bytes > 5);
	CHECK_EQUAL(vb_pread_exact(fd, "written", got, 100, 10000, &error), -1);
	CHECK_ERROR(error, VB_ERROR_FORMAT, "truncated");
	CHECK_EQUAL(vb_pread_full(fd, "written", got, 100, 10000, &error), 0);
	CHECK(got[5] == 0 && got[99] == 0 && got[4] == wanted[9999]);
	CHECK_EQUAL(vb_pread_full(fd, "written", got, 100, INT64_MAX - 50, &error), -1);
	CHECK_EQUAL(vb_pread_full(fd, "written", got, 100, UINT64_MAX - 50, &error), -1);
	vb_sys = &vb_sys_linux;
	close(fd);
}

static void test_error_text(void)
{
	char path[3000], two_bytes[] = "\xc3\xa4";

	memset(path, 'p', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	CHECK_EQUAL(vb_fail(&error, VB_ERROR_SIZE, 7, path, 9, "%s", path), -1);
	CHECK_EQUAL(strlen(error.path), sizeof(error.path) - 1);
	CHECK(strcmp(error.path + sizeof(error.path) - 4, "...") == 0);
	CHECK(strcmp(error.message + sizeof(error.message) - 4, "...") == 0);
	CHECK_EQUAL(error.kind, VB_ERROR_SIZE);
	CHECK_EQUAL(error.system_errno, 7);
	CHECK_EQUAL(error.offset_bytes, 9);
	/* No character is cut in half, whichever byte the cut falls on. */
	for (size_t i = 0; i < 2; i++) {
		for (size_t at = i; at + 2 < sizeof(path); at += 2)
			memcpy(path + at, two_bytes, 2);
		vb_fail(&error, VB_ERROR_SIZE, 0, path, -1, "x");
		CHECK((unsigned char)error.path[strlen(error.path) - 4] == 0xa4);
	}
	CHECK_EQUAL(vb_fail(&error, VB_ERROR_SIZE, 0, NULL, -1, "x"), -1);
	CHECK(error.path[0] == '\0');
	CHECK_EQUAL(vb_fail(NULL, VB_ERROR_SIZE, 0, NULL, -1, "x"), -1);
}

int main(void)
{
	RUN(test_every_call_fails);
	RUN(test_lying_seek);
	RUN(test_block_device);
	RUN(test_grows_before_the_lock);
	RUN(test_write_helper);
	RUN(test_error_text);
	return 0;
}
