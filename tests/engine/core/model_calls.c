/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the descriptors, and each system call on the model disk. */
#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "model_disk.h"

#define FIRST_FD 1000
#define FDS_MAX 64
#define DEVICE 7
#define FIRST_INODE 100
#define BLOCK_BYTES 4096u
#define FILE_BYTES_MAX (64ull * 1024 * 1024)
#define IS_FOLDER UINT32_MAX

struct descriptor {
	bool is_open;
	uint32_t file;   /* IS_FOLDER: the folder */
	int flags;
};

static struct descriptor descriptors[FDS_MAX];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int fail_with(int number)
{
	errno = number;
	return -1;
}

static struct descriptor *descriptor_of(int fd)
{
	CHECK(fd >= FIRST_FD && fd < FIRST_FD + FDS_MAX && descriptors[fd - FIRST_FD].is_open);
	return &descriptors[fd - FIRST_FD];
}

static uint32_t file_of(int fd)
{
	uint32_t file = descriptor_of(fd)->file;

	CHECK(file != IS_FOLDER && (descriptor_of(fd)->flags & O_PATH) == 0);
	return file;
}

/* A source is never written: it is not even open for it. */
static uint32_t writable_file_of(int fd)
{
	CHECK((descriptor_of(fd)->flags & O_ACCMODE) == O_RDWR);
	return file_of(fd);
}

static int open_descriptor(uint32_t file, int flags)
{
	for (int index = 0; index < FDS_MAX; index++) {
		if (descriptors[index].is_open)
			continue;
		descriptors[index] = (struct descriptor){.is_open = true, .file = file, .flags = flags};
		return FIRST_FD + index;
	}
	return fail_with(EMFILE);
}

static int open_name(const char *name, int flags)
{
	const struct model_name *entry = model_find_name(&model_disk.names, name);
	uint32_t file;

	if (entry != NULL && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return fail_with(EEXIST);
	if (entry == NULL && (flags & O_CREAT) == 0)
		return fail_with(ENOENT);
	if (entry != NULL)
		return open_descriptor(entry->file, flags);
	file = model_add_file();
	model_add_name(name)->file = file;
	model_log_names(MODEL_NAMES);
	return open_descriptor(file, flags);
}

static int model_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
	int fd;

	(void)mode;
	pthread_mutex_lock(&mutex);
	if (strcmp(path, MODEL_FOLDER) == 0 || strcmp(path, ".") == 0) {
		fd = open_descriptor(IS_FOLDER, flags);
	} else {
		CHECK(descriptor_of(folder_fd)->file == IS_FOLDER);
		fd = open_name(path, flags);
	}
	pthread_mutex_unlock(&mutex);
	return fd;
}

static int model_openat_resolve(int folder_fd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	(void)resolve;
	return model_openat(folder_fd, path, flags, mode);
}

static int model_close(int fd)
{
	pthread_mutex_lock(&mutex);
	descriptor_of(fd)->is_open = false;
	pthread_mutex_unlock(&mutex);
	return 0;
}

static ssize_t model_pread(int fd, void *buffer, size_t length, off_t offset)
{
	pthread_mutex_lock(&mutex);

	const struct model_file *file = &model_disk.files[file_of(fd)];
	uint64_t left = (uint64_t)offset < file->size_bytes ? file->size_bytes - (uint64_t)offset : 0;

	CHECK(offset >= 0);
	if (length > left)
		length = (size_t)left;
	if (length > 0)
		memcpy(buffer, file->bytes + offset, length);
	pthread_mutex_unlock(&mutex);
	return (ssize_t)length;
}

static ssize_t model_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	uint64_t end = (uint64_t)offset + length;

	CHECK(offset >= 0 && length > 0);
	if (end > FILE_BYTES_MAX)
		return fail_with(ENOSPC);
	pthread_mutex_lock(&mutex);

	uint32_t index = writable_file_of(fd);
	struct model_file *file = &model_disk.files[index];

	CHECK(!file->is_device || end <= file->size_bytes);
	if (end > file->size_bytes)
		model_file_resize(file, end);
	memcpy(file->bytes + offset, buffer, length);
	model_log_change(index, (uint64_t)offset, length);
	pthread_mutex_unlock(&mutex);
	return (ssize_t)length;
}

static int model_fstat(int fd, struct stat *status)
{
	pthread_mutex_lock(&mutex);

	uint32_t index = descriptor_of(fd)->file;

	*status = (struct stat){.st_dev = DEVICE, .st_ino = FIRST_INODE - 1, .st_mode = S_IFDIR | 0700, .st_nlink = 2};
	if (index != IS_FOLDER && model_disk.files[index].is_device) {
		status->st_mode = S_IFBLK | 0600;
		status->st_rdev = FIRST_INODE + index;
	} else if (index != IS_FOLDER) {
		status->st_ino = FIRST_INODE + index;
		status->st_mode = S_IFREG | model_disk.files[index].mode;
		status->st_size = (off_t)model_disk.files[index].size_bytes;
		status->st_blocks = (blkcnt_t)(model_disk.files[index].size_bytes / 512);
		status->st_nlink = 0;
		status->st_uid = model_disk.files[index].owner;
		status->st_gid = getgid();
		for (uint32_t name = 0; name < model_disk.names.count; name++)
			status->st_nlink += model_disk.names.entries[name].file == index;
	}
	pthread_mutex_unlock(&mutex);
	return 0;
}

/* A file system that shares extents. */
static int model_fstatfs(int fd, struct statfs *status)
{
	(void)fd;
	*status = (struct statfs){.f_type = XFS_SUPER_MAGIC, .f_bsize = BLOCK_BYTES, .f_frsize = BLOCK_BYTES, .f_bavail = 1u << 24};
	return 0;
}

static int model_ftruncate(int fd, off_t length)
{
	CHECK(length >= 0);
	if ((uint64_t)length > FILE_BYTES_MAX)
		return fail_with(EFBIG);
	pthread_mutex_lock(&mutex);

	uint32_t index = writable_file_of(fd);

	model_file_resize(&model_disk.files[index], (uint64_t)length);
	/* What is cut within a sector is zeros when the file grows again. */
	model_log_change(index, (uint64_t)length, (uint64_t)length % MODEL_SECTOR_BYTES ? 1 : 0);
	pthread_mutex_unlock(&mutex);
	return 0;
}

static int model_fallocate(int fd, int mode, off_t offset, off_t length)
{
	CHECK(offset >= 0 && length > 0);
	pthread_mutex_lock(&mutex);

	uint32_t index = writable_file_of(fd);
	struct model_file *file = &model_disk.files[index];
	uint64_t start = (uint64_t)offset, end = start + (uint64_t)length;

	if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && end > file->size_bytes) {
		CHECK(end <= FILE_BYTES_MAX);
		model_file_resize(file, end);
		model_log_change(index, 0, 0);
	}
	if (end > file->size_bytes)
		end = file->size_bytes;
	if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 && start < end) {
		memset(file->bytes + start, 0, end - start);
		model_log_change(index, start, end - start);
	}
	pthread_mutex_unlock(&mutex);
	return 0;
}

static bool is_hole(const struct model_file *file, uint64_t block)
{
	static const uint8_t zeros[BLOCK_BYTES];
	uint64_t start = block * BLOCK_BYTES;
	uint64_t length = file->size_bytes - start < BLOCK_BYTES ? file->size_bytes - start : BLOCK_BYTES;

	return memcmp(file->bytes + start, zeros, length) == 0;
}

/* Blocks of zeros are holes. */
static off_t model_lseek(int fd, off_t offset, int whence)
{
	pthread_mutex_lock(&mutex);

	const struct model_file *file = &model_disk.files[file_of(fd)];
	uint64_t at = (uint64_t)offset;

	CHECK(whence == SEEK_DATA || whence == SEEK_HOLE);
	while (at < file->size_bytes && is_hole(file, at / BLOCK_BYTES) != (whence == SEEK_HOLE))
		at = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
	if (at > file->size_bytes)
		at = file->size_bytes;

	bool is_none = (uint64_t)offset >= file->size_bytes || (whence == SEEK_DATA && at == file->size_bytes);

	pthread_mutex_unlock(&mutex);
	return is_none ? fail_with(ENXIO) : (off_t)at;
}

static void note_sync(int fd, bool is_lost)
{
	pthread_mutex_lock(&mutex);

	uint32_t index = descriptor_of(fd)->file;

	if (index != IS_FOLDER)
		model_log_sync(index, is_lost);
	else if (!is_lost)
		model_log_names(MODEL_NAMES_SYNC);
	pthread_mutex_unlock(&mutex);
}

void model_note_lost_sync(int fd)
{
	note_sync(fd, true);
}

static int model_sync(int fd)
{
	note_sync(fd, false);
	return 0;
}

static int model_renameat(int old_folder_fd, const char *old_name, int new_folder_fd, const char *new_name)
{
	pthread_mutex_lock(&mutex);
	CHECK(descriptor_of(old_folder_fd)->file == IS_FOLDER && descriptor_of(new_folder_fd)->file == IS_FOLDER);

	struct model_name *old = model_find_name(&model_disk.names, old_name);
	int result = old == NULL ? fail_with(ENOENT) : 0;

	if (old != NULL) {
		model_add_name(new_name)->file = old->file;
		model_remove_name(model_find_name(&model_disk.names, old_name));
		model_log_names(MODEL_NAMES);
	}
	pthread_mutex_unlock(&mutex);
	return result;
}

static int model_unlinkat(int folder_fd, const char *name, int flags)
{
	pthread_mutex_lock(&mutex);
	CHECK(descriptor_of(folder_fd)->file == IS_FOLDER && flags == 0);

	struct model_name *entry = model_find_name(&model_disk.names, name);

	if (entry != NULL) {
		model_remove_name(entry);
		model_log_names(MODEL_NAMES);
	}
	pthread_mutex_unlock(&mutex);
	return entry == NULL ? fail_with(ENOENT) : 0;
}

static int model_fchown(int fd, uid_t owner, gid_t group)
{
	(void)group;
	model_disk.files[file_of(fd)].owner = owner;
	return 0;
}

static int model_fchmod(int fd, mode_t mode)
{
	model_disk.files[file_of(fd)].mode = mode;
	return 0;
}

static int model_ioctl_u64(int fd, unsigned long request, uint64_t *argument)
{
	uint32_t index = file_of(fd);

	if (!model_disk.files[index].is_device)
		return fail_with(ENOTTY);
	if (request == BLKGETSIZE64) {
		*argument = model_disk.files[index].size_bytes;
		return 0;
	}
	CHECK(request == BLKZEROOUT && argument[0] % 512 == 0 && argument[1] % 512 == 0);
	return model_fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)argument[0], (off_t)argument[1]);
}

static int model_fcntl_lock(int fd, int command, struct flock *lock)
{
	descriptor_of(fd);
	if (command == F_OFD_GETLK)
		lock->l_type = F_UNLCK;
	return 0;
}

static int model_fadvise(int fd, off_t offset, off_t length, int advice)
{
	(void)offset;
	(void)length;
	(void)advice;
	descriptor_of(fd);
	return 0;
}

static int model_sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
	(void)offset;
	(void)length;
	(void)flags;
	descriptor_of(fd);
	return 0;
}

static int model_clone_range(int fd, const struct file_clone_range *range)
{
	pthread_mutex_lock(&mutex);

	const struct model_file *source = &model_disk.files[file_of((int)range->src_fd)];
	uint32_t index = writable_file_of(fd);
	struct model_file *file = &model_disk.files[index];
	uint64_t end = range->dest_offset + range->src_length;

	CHECK(range->src_offset + range->src_length <= source->capacity_bytes && end <= FILE_BYTES_MAX);
	if (end > file->size_bytes)
		model_file_resize(file, end);
	memcpy(file->bytes + range->dest_offset, source->bytes + range->src_offset, range->src_length);
	model_log_change(index, range->dest_offset, range->src_length);
	pthread_mutex_unlock(&mutex);
	return 0;
}

/* All names lie in one folder, and none is a link. */
static char *model_realpath(const char *path, char *resolved)
{
	size_t length = strlen(MODEL_FOLDER);
	char *result = NULL;

	CHECK(resolved == NULL && strncmp(path, MODEL_FOLDER, length) == 0);
	pthread_mutex_lock(&mutex);
	if (path[length] == '\0' || model_find_name(&model_disk.names, path + length + 1) != NULL)
		result = strdup(path);
	else
		errno = ENOENT;
	pthread_mutex_unlock(&mutex);
	return result;
}

const struct vb_sys model_sys = {
	.realpath = model_realpath,
	.openat = model_openat,
	.openat_resolve = model_openat_resolve,
	.close = model_close,
	.pread = model_pread,
	.pwrite = model_pwrite,
	.fstat = model_fstat,
	.fstatfs = model_fstatfs,
	.ftruncate = model_ftruncate,
	.fallocate = model_fallocate,
	.lseek = model_lseek,
	.fdatasync = model_sync,
	.fsync = model_sync,
	.renameat = model_renameat,
	.unlinkat = model_unlinkat,
	.fchown = model_fchown,
	.fchmod = model_fchmod,
	.ioctl_u64 = model_ioctl_u64,
	.fcntl_lock = model_fcntl_lock,
	.fadvise = model_fadvise,
	.sync_file_range = model_sync_file_range,
	.clone_range = model_clone_range,
};

unsigned model_open_count(void)
{
	unsigned count = 0;

	for (int index = 0; index < FDS_MAX; index++)
		count += descriptors[index].is_open;
	return count;
}
