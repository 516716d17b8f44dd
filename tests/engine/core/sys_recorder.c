/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the log, the fault, and the replay. */
#include "sys_recorder.h"

#include <errno.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "check.h"
#include "sys.h"

struct record *records;
size_t record_count;

static size_t record_capacity;
static struct vb_sys table;
static unsigned call_count, fail_at;
static int fail_errno, open_fds;
static bool has_failed;

static bool is_hit(void)
{
	if (++call_count != fail_at)
		return false;
	has_failed = true;
	errno = fail_errno;
	return true;
}

static void record(enum record_kind kind, int fd, uint64_t offset, uint64_t length, const void *bytes)
{
	struct stat status;

	CHECK_EQUAL(vb_sys_linux.fstat(fd, &status), 0);
	if (record_count == record_capacity) {
		record_capacity = record_capacity ? record_capacity * 2 : 256;
		records = realloc(records, record_capacity * sizeof(*records));
		CHECK(records != NULL);
	}
	records[record_count] = (struct record){.kind = kind, .inode = status.st_ino, .offset = offset, .length = length};
	if (bytes != NULL) {
		records[record_count].bytes = malloc(length + 1);
		CHECK(records[record_count].bytes != NULL);
		memcpy(records[record_count].bytes, bytes, length);
	}
	record_count++;
}

static int on_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
	int fd = is_hit() ? -1 : vb_sys_linux.openat(folder_fd, path, flags, mode);

	open_fds += fd >= 0;
	return fd;
}

static int on_openat_resolve(int folder_fd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	int fd = is_hit() ? -1 : vb_sys_linux.openat_resolve(folder_fd, path, flags, mode, resolve);

	open_fds += fd >= 0;
	return fd;
}

static int on_close(int fd)
{
	open_fds--;
	return vb_sys_linux.close(fd);
}

static ssize_t on_pread(int fd, void *buffer, size_t length, off_t offset)
{
	return is_hit() ? -1 : vb_sys_linux.pread(fd, buffer, length, offset);
}

static ssize_t on_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	if (is_hit())
		return -1;
	record(RECORD_WRITE, fd, (uint64_t)offset, length, buffer);
	return vb_sys_linux.pwrite(fd, buffer, length, offset);
}

static int on_fstat(int fd, struct stat *status)
{
	return is_hit() ? -1 : vb_sys_linux.fstat(fd, status);
}

static int on_fstatfs(int fd, struct statfs *status)
{
	return is_hit() ? -1 : vb_sys_linux.fstatfs(fd, status);
}

static int on_ftruncate(int fd, off_t length)
{
	if (is_hit())
		return -1;
	record(RECORD_SIZE, fd, (uint64_t)length, 0, NULL);
	return vb_sys_linux.ftruncate(fd, length);
}

static int on_fallocate(int fd, int mode, off_t offset, off_t length)
{
	if (is_hit())
		return -1;
	/* A new file is given its room before anything is in it: then the call sets its size. */
	CHECK(mode == 0 ? offset == 0 : (mode & FALLOC_FL_KEEP_SIZE) != 0);
	if (mode == 0)
		record(RECORD_SIZE, fd, (uint64_t)length, 0, NULL);
	else
		record(RECORD_PUNCH, fd, (uint64_t)offset, (uint64_t)length, NULL);
	return vb_sys_linux.fallocate(fd, mode, offset, length);
}

static off_t on_lseek(int fd, off_t offset, int whence)
{
	return is_hit() ? -1 : vb_sys_linux.lseek(fd, offset, whence);
}

static int sync_with(int (*sync)(int fd), int fd)
{
	if (is_hit())
		return -1;
	record(RECORD_SYNC, fd, 0, 0, NULL);
	return sync(fd);
}

static int on_fdatasync(int fd)
{
	return sync_with(vb_sys_linux.fdatasync, fd);
}

static int on_fsync(int fd)
{
	return sync_with(vb_sys_linux.fsync, fd);
}

static int on_renameat(int old_folder_fd, const char *old_name, int new_folder_fd, const char *new_name)
{
	if (is_hit())
		return -1;

	int fd = vb_sys_linux.openat(old_folder_fd, old_name, O_RDONLY | O_CLOEXEC, 0);

	CHECK(fd >= 0);
	record(RECORD_RENAME, fd, 0, 0, NULL);
	vb_sys_linux.close(fd);
	return vb_sys_linux.renameat(old_folder_fd, old_name, new_folder_fd, new_name);
}

static int on_unlinkat(int folder_fd, const char *name, int flags)
{
	return is_hit() ? -1 : vb_sys_linux.unlinkat(folder_fd, name, flags);
}

static int on_fchown(int fd, uid_t owner, gid_t group)
{
	return is_hit() ? -1 : vb_sys_linux.fchown(fd, owner, group);
}

static int on_fchmod(int fd, mode_t mode)
{
	return is_hit() ? -1 : vb_sys_linux.fchmod(fd, mode);
}

static int on_lock(int fd, int command, struct flock *lock)
{
	return is_hit() ? -1 : vb_sys_linux.fcntl_lock(fd, command, lock);
}

void recorder_start(unsigned at, int number)
{
	table = vb_sys_linux;
	table.openat = on_openat;
	table.openat_resolve = on_openat_resolve;
	table.close = on_close;
	table.pread = on_pread;
	table.pwrite = on_pwrite;
	table.fstat = on_fstat;
	table.fstatfs = on_fstatfs;
	table.ftruncate = on_ftruncate;
	table.fallocate = on_fallocate;
	table.lseek = on_lseek;
	table.fdatasync = on_fdatasync;
	table.fsync = on_fsync;
	table.renameat = on_renameat;
	table.unlinkat = on_unlinkat;
	table.fchown = on_fchown;
	table.fchmod = on_fchmod;
	table.fcntl_lock = on_lock;
	recorder_forget();
	call_count = 0;
	fail_at = at;
	fail_errno = number;
	has_failed = false;
	open_fds = 0;
	vb_sys = &table;
}

bool recorder_stop(void)
{
	vb_sys = &vb_sys_linux;
	return has_failed;
}

int recorder_open_fds(void)
{
	return open_fds;
}

void recorder_forget(void)
{
	for (size_t index = 0; index < record_count; index++)
		free(records[index].bytes);
	free(records);
	records = NULL;
	record_count = record_capacity = 0;
}

static void apply(int fd, const struct record *change)
{
	if (change->kind == RECORD_WRITE)
		CHECK_EQUAL(pwrite(fd, change->bytes, change->length, (off_t)change->offset), change->length);
	else if (change->kind == RECORD_PUNCH)
		CHECK_EQUAL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)change->offset, (off_t)change->length), 0);
	else if (change->kind == RECORD_SIZE)
		CHECK_EQUAL(ftruncate(fd, (off_t)change->offset), 0);
}

void make_crashed(const char *path, const uint8_t *before, uint64_t before_bytes, uint64_t inode, size_t count,
		  unsigned long long seed)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	size_t synced = 0;
	unsigned long long state = seed;

	CHECK(fd >= 0);
	CHECK_EQUAL(pwrite(fd, before, before_bytes, 0), before_bytes);
	for (size_t index = 0; index < count; index++)
		if (records[index].kind == RECORD_SYNC && records[index].inode == inode)
			synced = index;
	for (size_t index = 0; index < count; index++) {
		bool is_there = index < synced || seed == 1 || (seed != 0 && test_random(&state) % 2);

		if (records[index].inode == inode && is_there)
			apply(fd, &records[index]);
	}
	CHECK_EQUAL(close(fd), 0);
}
