/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the two files, their descriptors, and the calls on them. */
#include "memory_files.h"

#include <errno.h>
#include <linux/falloc.h>
#include <string.h>

#include "oracle.h"
#include "sys.h"

#define IMAGE_FD 1000
#define OTHER_FD 1001
#define FOLDER_FD 1002
#define DEVICE 7
#define IMAGE_INODE 11
#define OTHER_INODE 12

struct memory_file {
	uint8_t *bytes;
	size_t length;
	size_t capacity;
};

static struct memory_file image, other;
static int open_count;

static struct memory_file *file_of(int fd)
{
	REQUIRE(fd == IMAGE_FD || fd == OTHER_FD);
	return fd == IMAGE_FD ? &image : &other;
}

static void put_content(struct memory_file *file, const uint8_t *bytes, size_t length)
{
	file->bytes = malloc(length + 1);
	REQUIRE(file->bytes != NULL);
	if (length > 0)
		memcpy(file->bytes, bytes, length);
	file->length = length;
	file->capacity = length;
}

static int set_length(struct memory_file *file, uint64_t length)
{
	if (length > MEMORY_FILE_BYTES_MAX) {
		errno = ENOSPC;
		return -1;
	}
	if (length > file->capacity) {
		size_t capacity = (size_t)length * 2;
		uint8_t *bytes = realloc(file->bytes, capacity);

		REQUIRE(bytes != NULL);
		file->bytes = bytes;
		file->capacity = capacity;
	}
	if (length > file->length)
		memset(file->bytes + file->length, 0, (size_t)length - file->length);
	file->length = (size_t)length;
	return 0;
}

static int on_openat(int folder_fd, const char *path, int flags, mode_t mode)
{
	(void)folder_fd;
	(void)mode;
	open_count++;
	if ((flags & O_DIRECTORY) != 0)
		return FOLDER_FD;
	return strcmp(path, "image") == 0 ? IMAGE_FD : OTHER_FD;
}

static int on_openat_resolve(int folder_fd, const char *path, int flags, mode_t mode, uint64_t resolve)
{
	(void)resolve;
	return on_openat(folder_fd, path, flags, mode);
}

static int on_close(int fd)
{
	REQUIRE(fd >= IMAGE_FD && fd <= FOLDER_FD && open_count > 0);
	open_count--;
	return 0;
}

static ssize_t on_pread(int fd, void *buffer, size_t length, off_t offset)
{
	const struct memory_file *file = file_of(fd);
	size_t left;

	if (offset < 0) {
		errno = EINVAL;
		return -1;
	}
	left = (uint64_t)offset < file->length ? file->length - (size_t)offset : 0;
	if (length > left)
		length = left;
	if (length > 0)
		memcpy(buffer, file->bytes + offset, length);
	return (ssize_t)length;
}

static ssize_t on_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	REQUIRE(fd == IMAGE_FD && offset >= 0);
	if ((uint64_t)offset + length > image.length && set_length(&image, (uint64_t)offset + length) < 0)
		return -1;
	if (length > 0)
		memcpy(image.bytes + offset, buffer, length);
	return (ssize_t)length;
}

static int on_fstat(int fd, struct stat *status)
{
	const struct memory_file *file = file_of(fd);

	*status = (struct stat){
		.st_dev = DEVICE,
		.st_ino = fd == IMAGE_FD ? IMAGE_INODE : OTHER_INODE,
		.st_mode = S_IFREG | 0600,
		.st_size = (off_t)file->length,
		.st_blocks = (blkcnt_t)(file->length / 512),
	};
	return 0;
}

static int on_ftruncate(int fd, off_t length)
{
	REQUIRE(fd == IMAGE_FD && length >= 0);
	return set_length(&image, (uint64_t)length);
}

/* A hole reads as zeros at once, so that one in the wrong place is seen. */
static int on_fallocate(int fd, int mode, off_t offset, off_t length)
{
	size_t start, end;

	REQUIRE(fd == IMAGE_FD && mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE));
	if (offset < 0 || length <= 0 || length > INT64_MAX - offset) {
		errno = EINVAL;
		return -1;
	}
	start = (uint64_t)offset < image.length ? (size_t)offset : image.length;
	end = (uint64_t)length < image.length - start ? start + (size_t)length : image.length;
	memset(image.bytes + start, 0, end - start);
	return 0;
}

/* All of a file is data. */
static off_t on_lseek(int fd, off_t offset, int whence)
{
	const struct memory_file *file = file_of(fd);

	if (offset < 0 || (uint64_t)offset >= file->length) {
		errno = ENXIO;
		return -1;
	}
	return whence == SEEK_DATA ? offset : (off_t)file->length;
}

static int on_sync(int fd)
{
	REQUIRE(fd == IMAGE_FD || fd == FOLDER_FD);
	return 0;
}

/* Both files always exist: what is made anew begins with what is there. */
static int on_unlinkat(int folder_fd, const char *name, int flags)
{
	REQUIRE(folder_fd == FOLDER_FD && name[0] != '\0' && flags == 0);
	errno = EROFS;
	return -1;
}

/* All names lie in one folder, and none is a link. */
static char *on_realpath(const char *path, char *resolved)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash != NULL ? slash + 1 : path;
	size_t length = strlen("/disk/") + strlen(name) + 1;
	char *result = malloc(length);

	REQUIRE(resolved == NULL && result != NULL);
	snprintf(result, length, "/disk/%s", *name != '\0' ? name : "folder");
	return result;
}

/* Nobody else is here. */
static int on_lock(int fd, int command, struct flock *lock)
{
	(void)fd;
	(void)command;
	lock->l_type = F_UNLCK;
	return 0;
}

static const struct vb_sys memory_sys = {
	.realpath = on_realpath,
	.openat = on_openat,
	.openat_resolve = on_openat_resolve,
	.close = on_close,
	.pread = on_pread,
	.pwrite = on_pwrite,
	.fstat = on_fstat,
	.ftruncate = on_ftruncate,
	.fallocate = on_fallocate,
	.lseek = on_lseek,
	.fdatasync = on_sync,
	.fsync = on_sync,
	.fcntl_lock = on_lock,
	.unlinkat = on_unlinkat,
};

void memory_files_start(const uint8_t *bytes, size_t length)
{
	vb_sys = &memory_sys;
	open_count = 0;
	put_content(&image, bytes, length);
	put_content(&other, bytes, length);
}

void memory_files_end(void)
{
	REQUIRE(open_count == 0);
	free(image.bytes);
	free(other.bytes);
	image = other = (struct memory_file){ 0 };
}

struct vb_file memory_files_open(void)
{
	struct vb_file file = {
		.fd = IMAGE_FD,
		.folder_fd = FOLDER_FD,
		.path = strdup(MEMORY_IMAGE_PATH),
		.device = DEVICE,
		.inode = IMAGE_INODE,
		.size_bytes = image.length,
	};

	REQUIRE(file.path != NULL);
	file.name = strrchr(file.path, '/') + 1;
	open_count += 2;
	return file;
}

struct vb_chain *memory_files_chain(bool terminated, struct vb_error *error)
{
	const struct vb_layer_spec spec = { .path = MEMORY_IMAGE_PATH, .format = VB_FORMAT_QCOW2 };
	struct vb_policy *policy = vb_policy_new(NULL, 0, error);
	struct vb_chain *chain;

	REQUIRE(policy != NULL);
	chain = vb_chain_open(policy, &spec, 1, terminated, VB_LOCK_NONE, error);
	vb_policy_free(policy);
	return chain;
}
