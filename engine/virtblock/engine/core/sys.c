/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the real table of system calls, and the loops around calls that may do less than they were asked. */
#include "sys.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux moves at most this much per call; asking for no more keeps lengths inside ssize_t. */
#define TRANSFER_BYTES_MAX 0x7ffff000u

static int linux_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
	return openat(folder_fd, path, flags, mode);
}

static int linux_openat_resolve(int folder_fd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)flags,
		.mode = (flags & O_CREAT) != 0 ? mode : 0,
		.resolve = resolve,
	};

	return (int)syscall(SYS_openat2, folder_fd, path, &how, sizeof(how));
}

static int linux_fstat(int fd, struct stat *status)
{
	return fstat(fd, status);
}

static int linux_ioctl_u64(int fd, unsigned long request, uint64_t *argument)
{
	return ioctl(fd, request, argument);
}

static int linux_fcntl_lock(int fd, int command, struct flock *lock)
{
	return fcntl(fd, command, lock);
}

static int linux_sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
	return sync_file_range(fd, offset, length, flags);
}

static int linux_clone_range(int fd, const struct file_clone_range *range)
{
	return ioctl(fd, FICLONERANGE, range);
}

const struct vb_sys vb_sys_linux = {
	.realpath = realpath,
	.openat = linux_openat,
	.openat_resolve = linux_openat_resolve,
	.close = close,
	.pread = pread,
	.pwrite = pwrite,
	.fstat = linux_fstat,
	.fstatfs = fstatfs,
	.ftruncate = ftruncate,
	.fallocate = fallocate,
	.lseek = lseek,
	.fdatasync = fdatasync,
	.fsync = fsync,
	.renameat = renameat,
	.unlinkat = unlinkat,
	.fchown = fchown,
	.fchmod = fchmod,
	.ioctl_u64 = linux_ioctl_u64,
	.fcntl_lock = linux_fcntl_lock,
	.fadvise = posix_fadvise,
	.sync_file_range = linux_sync_file_range,
	.clone_range = linux_clone_range,
};

const struct vb_sys *vb_sys = &vb_sys_linux;

static int check_range(const char *path, size_t length, uint64_t offset_bytes, struct vb_error *error)
{
	if (offset_bytes > INT64_MAX || length > INT64_MAX - offset_bytes)
		return vb_fail(error, VB_ERROR_FORMAT, 0, path, -1,
			       "A range of %zu bytes at offset %llu lies beyond what a file can hold", length,
			       (unsigned long long)offset_bytes);
	return 0;
}

/* Reads until `length` or the end of the file. *done_bytes is what was read. */
static int pread_loop(int fd, const char *path, uint8_t *buffer, size_t length, uint64_t offset_bytes, size_t *done_bytes,
		      struct vb_error *error)
{
	size_t done = 0;

	if (check_range(path, length, offset_bytes, error) < 0)
		return -1;
	while (done < length) {
		size_t wanted = length - done < TRANSFER_BYTES_MAX ? length - done : TRANSFER_BYTES_MAX;
		ssize_t got = vb_sys->pread(fd, buffer + done, wanted, (off_t)(offset_bytes + done));

		if (got == 0)
			break;
		if (got > 0)
			done += (size_t)got;
		else if (errno != EINTR)
			return vb_fail(error, VB_ERROR_SYSTEM, errno, path, (int64_t)(offset_bytes + done),
				       "Cannot read %zu bytes", length - done);
	}
	*done_bytes = done;
	return 0;
}

int vb_pread_full(int fd, const char *path, void *buffer, size_t length, uint64_t offset_bytes, struct vb_error *error)
{
	size_t done = 0;

	if (pread_loop(fd, path, buffer, length, offset_bytes, &done, error) < 0)
		return -1;
	memset((uint8_t *)buffer + done, 0, length - done);
	return 0;
}

int vb_pread_exact(int fd, const char *path, void *buffer, size_t length, uint64_t offset_bytes, struct vb_error *error)
{
	size_t done = 0;

	if (pread_loop(fd, path, buffer, length, offset_bytes, &done, error) < 0)
		return -1;
	if (done < length)
		return vb_fail(error, VB_ERROR_FORMAT, 0, path, (int64_t)(offset_bytes + done),
			       "The file is truncated: it ends %zu bytes before what it must hold", length - done);
	return 0;
}

int vb_pwrite_full(int fd, const char *path, const void *buffer, size_t length, uint64_t offset_bytes, struct vb_error *error)
{
	const uint8_t *bytes = buffer;
	size_t done = 0;

	if (check_range(path, length, offset_bytes, error) < 0)
		return -1;
	while (done < length) {
		size_t wanted = length - done < TRANSFER_BYTES_MAX ? length - done : TRANSFER_BYTES_MAX;
		ssize_t put = vb_sys->pwrite(fd, bytes + done, wanted, (off_t)(offset_bytes + done));

		if (put > 0)
			done += (size_t)put;
		else if (put == 0 || errno != EINTR)
			return vb_fail(error, VB_ERROR_SYSTEM, put == 0 ? EIO : errno, path, (int64_t)(offset_bytes + done),
				       "Cannot write %zu bytes", length - done);
	}
	return 0;
}

static int sync_with(int (*call)(int), int fd, const char *path, struct vb_error *error)
{
	int result;

	do {
		result = call(fd);
	} while (result < 0 && errno == EINTR);
	if (result < 0)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot make the written data durable");
	return 0;
}

int vb_fdatasync(int fd, const char *path, struct vb_error *error)
{
	return sync_with(vb_sys->fdatasync, fd, path, error);
}

int vb_fsync(int fd, const char *path, struct vb_error *error)
{
	return sync_with(vb_sys->fsync, fd, path, error);
}
