/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the files, the names, the descriptors and the log. */
#include "model_disk.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"

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

struct model_disk model_disk;
struct model_op *model_ops;
size_t model_op_count;

static size_t op_capacity;
static bool is_recording;
static struct descriptor descriptors[FDS_MAX];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static int fail_with(int number)
{
	errno = number;
	return -1;
}

static uint64_t sector_end(uint64_t offset_bytes)
{
	return (offset_bytes + MODEL_SECTOR_BYTES - 1) / MODEL_SECTOR_BYTES * MODEL_SECTOR_BYTES;
}

void model_file_resize(struct model_file *file, uint64_t size_bytes)
{
	uint64_t wanted = sector_end(size_bytes);

	if (wanted > file->capacity_bytes) {
		uint64_t capacity = wanted > 2 * file->capacity_bytes ? wanted : 2 * file->capacity_bytes;

		file->bytes = realloc(file->bytes, capacity);
		CHECK(file->bytes != NULL);
		memset(file->bytes + file->capacity_bytes, 0, capacity - file->capacity_bytes);
		file->capacity_bytes = capacity;
	}
	if (size_bytes < file->size_bytes)
		memset(file->bytes + size_bytes, 0, file->size_bytes - size_bytes);
	file->size_bytes = size_bytes;
}

void model_disk_copy(struct model_disk *to, const struct model_disk *from)
{
	for (uint32_t index = from->file_count; index < to->file_count; index++)
		model_file_resize(&to->files[index], 0);
	for (uint32_t index = 0; index < from->file_count; index++) {
		model_file_resize(&to->files[index], from->files[index].size_bytes);
		if (from->files[index].size_bytes > 0)
			memcpy(to->files[index].bytes, from->files[index].bytes, from->files[index].size_bytes);
		to->files[index].mode = from->files[index].mode;
	}
	to->file_count = from->file_count;
	to->names = from->names;
}

void model_disk_free(struct model_disk *disk)
{
	for (uint32_t index = 0; index < MODEL_FILES_MAX; index++)
		free(disk->files[index].bytes);
	*disk = (struct model_disk){0};
}

static struct model_op *add_op(enum model_op_kind kind, uint32_t file)
{
	if (model_op_count == op_capacity) {
		op_capacity = op_capacity ? op_capacity * 2 : 1024;
		model_ops = realloc(model_ops, op_capacity * sizeof(*model_ops));
		CHECK(model_ops != NULL);
	}
	model_ops[model_op_count] = (struct model_op){.kind = kind, .file = file};
	return &model_ops[model_op_count++];
}

/* The file was changed in this range, and perhaps in its size. */
static void log_change(uint32_t file_index, uint64_t offset_bytes, uint64_t length_bytes)
{
	const struct model_file *file = &model_disk.files[file_index];
	uint64_t start = offset_bytes / MODEL_SECTOR_BYTES * MODEL_SECTOR_BYTES;
	uint64_t end = sector_end(offset_bytes + length_bytes);
	struct model_op *op;

	if (!is_recording)
		return;
	op = add_op(length_bytes ? MODEL_DATA : MODEL_SIZE, file_index);
	op->size_bytes = file->size_bytes;
	if (!length_bytes)
		return;
	CHECK(end <= file->capacity_bytes);
	op->offset_bytes = start;
	op->length_bytes = end - start;
	op->bytes = malloc(end - start);
	CHECK(op->bytes != NULL);
	memcpy(op->bytes, file->bytes + start, end - start);
}

static void log_names(enum model_op_kind kind)
{
	if (is_recording)
		add_op(kind, MODEL_NO_FILE)->names = model_disk.names;
}

static struct model_name *find_name(struct model_names *names, const char *name)
{
	for (uint32_t index = 0; index < names->count; index++)
		if (strcmp(names->entries[index].name, name) == 0)
			return &names->entries[index];
	return NULL;
}

static struct model_name *add_name(const char *name)
{
	struct model_name *entry = find_name(&model_disk.names, name);

	CHECK(strlen(name) < MODEL_NAME_BYTES && strchr(name, '/') == NULL);
	if (entry == NULL) {
		CHECK(model_disk.names.count < MODEL_NAMES_MAX);
		entry = &model_disk.names.entries[model_disk.names.count++];
		snprintf(entry->name, sizeof(entry->name), "%s", name);
	}
	return entry;
}

static void remove_name(struct model_name *entry)
{
	*entry = model_disk.names.entries[--model_disk.names.count];
	memset(&model_disk.names.entries[model_disk.names.count], 0, sizeof(*entry));
}

static uint32_t add_file(void)
{
	CHECK(model_disk.file_count < MODEL_FILES_MAX);
	model_file_resize(&model_disk.files[model_disk.file_count], 0);
	model_disk.files[model_disk.file_count].mode = 0600;
	return model_disk.file_count++;
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
	const struct model_name *entry = find_name(&model_disk.names, name);
	uint32_t file;

	if (entry != NULL && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return fail_with(EEXIST);
	if (entry == NULL && (flags & O_CREAT) == 0)
		return fail_with(ENOENT);
	if (entry != NULL)
		return open_descriptor(entry->file, flags);
	file = add_file();
	add_name(name)->file = file;
	log_names(MODEL_NAMES);
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

	if (end > file->size_bytes)
		model_file_resize(file, end);
	memcpy(file->bytes + offset, buffer, length);
	log_change(index, (uint64_t)offset, length);
	pthread_mutex_unlock(&mutex);
	return (ssize_t)length;
}

static int model_fstat(int fd, struct stat *status)
{
	pthread_mutex_lock(&mutex);

	uint32_t index = descriptor_of(fd)->file;

	*status = (struct stat){.st_dev = DEVICE, .st_ino = FIRST_INODE - 1, .st_mode = S_IFDIR | 0700, .st_nlink = 2};
	if (index != IS_FOLDER) {
		status->st_ino = FIRST_INODE + index;
		status->st_mode = S_IFREG | model_disk.files[index].mode;
		status->st_size = (off_t)model_disk.files[index].size_bytes;
		status->st_blocks = (blkcnt_t)(model_disk.files[index].size_bytes / 512);
		status->st_nlink = 0;
		status->st_uid = getuid();
		status->st_gid = getgid();
		for (uint32_t name = 0; name < model_disk.names.count; name++)
			status->st_nlink += model_disk.names.entries[name].file == index;
	}
	pthread_mutex_unlock(&mutex);
	return 0;
}

static int model_fstatvfs(int fd, struct statvfs *status)
{
	(void)fd;
	*status = (struct statvfs){.f_bsize = BLOCK_BYTES, .f_frsize = BLOCK_BYTES, .f_bavail = 1u << 24};
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
	log_change(index, (uint64_t)length, (uint64_t)length % MODEL_SECTOR_BYTES ? 1 : 0);
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
		log_change(index, 0, 0);
	}
	if (end > file->size_bytes)
		end = file->size_bytes;
	if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0 && start < end) {
		memset(file->bytes + start, 0, end - start);
		log_change(index, start, end - start);
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

	if (index != IS_FOLDER && is_recording)
		add_op(is_lost ? MODEL_LOST_SYNC : MODEL_SYNC, index);
	else if (!is_lost)
		log_names(MODEL_NAMES_SYNC);
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

	struct model_name *old = find_name(&model_disk.names, old_name);
	int result = old == NULL ? fail_with(ENOENT) : 0;

	if (old != NULL) {
		add_name(new_name)->file = old->file;
		remove_name(find_name(&model_disk.names, old_name));
		log_names(MODEL_NAMES);
	}
	pthread_mutex_unlock(&mutex);
	return result;
}

static int model_unlinkat(int folder_fd, const char *name, int flags)
{
	pthread_mutex_lock(&mutex);
	CHECK(descriptor_of(folder_fd)->file == IS_FOLDER && flags == 0);

	struct model_name *entry = find_name(&model_disk.names, name);

	if (entry != NULL) {
		remove_name(entry);
		log_names(MODEL_NAMES);
	}
	pthread_mutex_unlock(&mutex);
	return entry == NULL ? fail_with(ENOENT) : 0;
}

static int model_fchown(int fd, uid_t owner, gid_t group)
{
	(void)owner;
	(void)group;
	descriptor_of(fd);
	return 0;
}

static int model_fchmod(int fd, mode_t mode)
{
	model_disk.files[file_of(fd)].mode = mode;
	return 0;
}

static int model_ioctl_u64(int fd, unsigned long request, uint64_t *argument)
{
	(void)request;
	(void)argument;
	descriptor_of(fd);
	return fail_with(ENOTTY);
}

static int model_fcntl_lock(int fd, int command, struct flock *lock)
{
	descriptor_of(fd);
	if (command == F_OFD_GETLK)
		lock->l_type = F_UNLCK;
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
	log_change(index, range->dest_offset, range->src_length);
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
	if (path[length] == '\0' || find_name(&model_disk.names, path + length + 1) != NULL)
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
	.fstatvfs = model_fstatvfs,
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
	.sync_file_range = model_sync_file_range,
	.clone_range = model_clone_range,
};

static void forget_ops(void)
{
	for (size_t index = 0; index < model_op_count; index++)
		free(model_ops[index].bytes);
	model_op_count = 0;
}

void model_clear(void)
{
	CHECK_EQUAL(model_open_count(), 0);
	is_recording = false;
	forget_ops();
	for (uint32_t index = 0; index < model_disk.file_count; index++)
		model_file_resize(&model_disk.files[index], 0);
	model_disk.file_count = 0;
	memset(&model_disk.names, 0, sizeof(model_disk.names));
}

void model_start(void)
{
	vb_sys = &model_sys;
	model_clear();
}

void model_end(void)
{
	vb_sys = &vb_sys_linux;
	model_clear();
	model_disk_free(&model_disk);
	free(model_ops);
	model_ops = NULL;
	op_capacity = 0;
}

void model_record(void)
{
	forget_ops();
	is_recording = true;
}

void model_pause(void)
{
	is_recording = false;
}

unsigned model_open_count(void)
{
	unsigned count = 0;

	for (int index = 0; index < FDS_MAX; index++)
		count += descriptors[index].is_open;
	return count;
}

uint32_t model_put(const char *name, const void *bytes, size_t length)
{
	uint32_t file = add_file();

	model_file_resize(&model_disk.files[file], length);
	if (length > 0)
		memcpy(model_disk.files[file].bytes, bytes, length);
	add_name(name)->file = file;
	return file;
}

uint32_t model_load(const char *name, const char *real_path)
{
	FILE *file = fopen(real_path, "rb");
	struct stat status;
	uint8_t *bytes;
	uint32_t result;

	CHECK(file != NULL);
	CHECK_EQUAL(fstat(fileno(file), &status), 0);
	bytes = malloc((size_t)status.st_size + 1);
	CHECK(bytes != NULL);
	CHECK_EQUAL(fread(bytes, 1, (size_t)status.st_size, file), status.st_size);
	fclose(file);
	result = model_put(name, bytes, (size_t)status.st_size);
	free(bytes);
	return result;
}

const struct model_file *model_find(const struct model_disk *disk, const char *name)
{
	for (uint32_t index = 0; index < disk->names.count; index++)
		if (strcmp(disk->names.entries[index].name, name) == 0)
			return &disk->files[disk->names.entries[index].file];
	return NULL;
}

void model_save(const struct model_disk *disk, const char *name, const char *real_path)
{
	const struct model_file *content = model_find(disk, name);
	FILE *file = fopen(real_path, "wb");

	CHECK(content != NULL && file != NULL);
	CHECK_EQUAL(fwrite(content->bytes, 1, content->size_bytes, file), content->size_bytes);
	CHECK_EQUAL(fclose(file), 0);
}
