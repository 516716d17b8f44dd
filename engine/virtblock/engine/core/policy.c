/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: turning a path into an open file that the policy allows.
 *
 * How: the path is resolved by name first, to know under which allowed folder it lies. Then the parent is opened beneath that
 * folder's descriptor, and the file beneath the parent's, both without following any link, so that a name swapped in between makes the open
 * fail and never leads out. A node is looked at through O_PATH before it is opened, because opening some devices acts on them.
 */
#include "policy.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "sys.h"

#define BENEATH (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
/* How often an open is retried when the file appears and disappears under it. */
#define CREATE_TRIES 8

struct vb_policy_folder {
	char *path;
	int fd;
};

struct data_file_name {
	char *image_path;
	char *data_path;
};

struct vb_policy {
	size_t folder_count;
	struct vb_policy_folder *folders;
	size_t data_file_count;
	struct data_file_name *data_files;
};

static int open_again(int folder_fd, const char *name, int flags, mode_t mode, uint64_t resolve)
{
	int fd;

	do {
		if (resolve != 0)
			fd = vb_sys->openat_resolve(folder_fd, name, flags | O_CLOEXEC, mode, resolve);
		else
			fd = vb_sys->openat(folder_fd, name, flags | O_CLOEXEC, mode);
	} while (fd < 0 && errno == EINTR);
	return fd;
}

static int add_folder(struct vb_policy *policy, const char *path, struct vb_error *error)
{
	struct vb_policy_folder *folder = &policy->folders[policy->folder_count];

	folder->path = vb_sys->realpath(path, NULL);
	if (folder->path == NULL)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot resolve an allowed folder");
	folder->fd = open_again(AT_FDCWD, folder->path, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, 0);
	if (folder->fd < 0) {
		int number = errno;

		free(folder->path);
		return vb_fail(error, VB_ERROR_SYSTEM, number, path, -1, "Cannot open an allowed folder");
	}
	policy->folder_count++;
	return 0;
}

struct vb_policy *vb_policy_new(const char *const *folders, size_t folder_count, struct vb_error *error)
{
	struct vb_policy *policy = calloc(1, sizeof(*policy));

	if (policy != NULL)
		policy->folders = calloc(folder_count + 1, sizeof(*policy->folders));
	if (policy == NULL || policy->folders == NULL) {
		free(policy);
		vb_fail(error, VB_ERROR_MEMORY, 0, NULL, -1, "Out of memory for %zu allowed folders", folder_count);
		return NULL;
	}
	for (size_t i = 0; i < folder_count; i++) {
		if (add_folder(policy, folders[i], error) < 0) {
			vb_policy_free(policy);
			return NULL;
		}
	}
	return policy;
}

void vb_policy_free(struct vb_policy *policy)
{
	if (policy == NULL)
		return;
	for (size_t i = 0; i < policy->folder_count; i++) {
		vb_sys->close(policy->folders[i].fd);
		free(policy->folders[i].path);
	}
	for (size_t i = 0; i < policy->data_file_count; i++) {
		free(policy->data_files[i].image_path);
		free(policy->data_files[i].data_path);
	}
	free(policy->data_files);
	free(policy->folders);
	free(policy);
}

int vb_policy_name_data_file(struct vb_policy *policy, const char *image_path, const char *data_path, struct vb_error *error)
{
	struct data_file_name *names = reallocarray(policy->data_files, policy->data_file_count + 1, sizeof(*names));
	struct data_file_name name = { strdup(image_path), strdup(data_path) };

	if (names != NULL)
		policy->data_files = names;
	if (names == NULL || name.image_path == NULL || name.data_path == NULL) {
		free(name.image_path);
		free(name.data_path);
		return vb_fail(error, VB_ERROR_MEMORY, 0, data_path, -1, "Out of memory for a data file's name");
	}
	names[policy->data_file_count++] = name;
	return 0;
}

bool vb_policy_is_missing(const struct vb_error *error)
{
	return error->kind == VB_ERROR_SYSTEM && (error->system_errno == ENOENT || error->system_errno == ENOTDIR);
}

const char *vb_policy_find_data_file(const struct vb_policy *policy, const struct vb_file *image, struct vb_error *cause)
{
	*cause = (struct vb_error){0};
	for (size_t i = 0; i < policy->data_file_count; i++) {
		struct vb_error failure;
		struct vb_file file;
		bool is_same;

		if (vb_policy_open(policy, policy->data_files[i].image_path, O_RDONLY, 0, &file, &failure) < 0) {
			/* Another image of the caller's, or none at all; but where none is found, this may be why. */
			if (cause->kind == VB_ERROR_NONE && !vb_policy_is_missing(&failure) && failure.kind != VB_ERROR_DENIED)
				*cause = failure;
			continue;
		}
		is_same = vb_file_is_same(&file, image);
		vb_file_close(&file);
		if (is_same)
			return policy->data_files[i].data_path;
	}
	return NULL;
}

static char *join(const char *folder, const char *name)
{
	size_t folder_length = strlen(folder), name_length = strlen(name);
	char *path = malloc(folder_length + name_length + 2);

	if (path == NULL)
		return NULL;
	memcpy(path, folder, folder_length);
	if (folder_length == 0 || folder[folder_length - 1] != '/')
		path[folder_length++] = '/';
	memcpy(path + folder_length, name, name_length + 1);
	return path;
}

/* The real path of a file that need not exist, in a folder that must. NULL with errno. */
static char *resolve_new(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash != NULL ? slash + 1 : path;
	char *parent, *real_parent, *result;

	if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		errno = EISDIR;
		return NULL;
	}
	parent = slash == NULL ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
	if (parent == NULL)
		return NULL;
	real_parent = vb_sys->realpath(parent, NULL);
	free(parent);
	if (real_parent == NULL)
		return NULL;
	result = join(real_parent, name);
	free(real_parent);
	return result;
}

static char *resolve_path(const char *path)
{
	char *result = vb_sys->realpath(path, NULL);

	if (result != NULL || errno != ENOENT)
		return result;
	return resolve_new(path);
}

/* What of `path` lies beneath `folder`, without a leading slash; NULL if it does not. */
static const char *beneath(const char *folder, const char *path)
{
	size_t length = strlen(folder);

	if (length == 1)
		return path + 1;
	if (strncmp(folder, path, length) != 0 || path[length] != '/')
		return NULL;
	return path + length + 1;
}

/* Opens the parent of the resolved `file->path`; sets name and folder_fd. */
static int open_parent(const struct vb_policy *policy, struct vb_file *file, struct vb_error *error)
{
	char *slash = strrchr(file->path, '/');
	size_t parent_length = slash == file->path ? 1 : (size_t)(slash - file->path);
	char *parent = strndup(file->path, parent_length);
	const char *rest = NULL;
	int folder_fd = AT_FDCWD;

	if (parent == NULL)
		return vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "Out of memory for a path");
	file->name = slash + 1;
	for (size_t i = 0; i < policy->folder_count && rest == NULL; i++) {
		if (beneath(policy->folders[i].path, file->path) == NULL)
			continue;
		folder_fd = policy->folders[i].fd;
		rest = strlen(policy->folders[i].path) >= parent_length ? "." : beneath(policy->folders[i].path, parent);
	}
	if (policy->folder_count > 0 && rest == NULL) {
		free(parent);
		return vb_fail(error, VB_ERROR_DENIED, EACCES, file->path, -1, "The path lies outside every allowed folder");
	}
	file->folder_fd = open_again(folder_fd, rest != NULL ? rest : parent, O_PATH | O_DIRECTORY, 0, rest != NULL ? BENEATH : 0);
	if (file->folder_fd < 0)
		vb_fail(error, VB_ERROR_SYSTEM, errno, parent, -1, "Cannot open the folder of the file");
	free(parent);
	return file->folder_fd < 0 ? -1 : 0;
}

static int check_kind(const char *path, const struct stat *status, struct vb_error *error)
{
	const char *kind = S_ISDIR(status->st_mode)    ? "a folder"
			   : S_ISCHR(status->st_mode)  ? "a character device"
			   : S_ISFIFO(status->st_mode) ? "a pipe"
						       : "a socket";

	if (S_ISREG(status->st_mode) || S_ISBLK(status->st_mode))
		return 0;
	/* Every link was resolved by name before, but one that leads nowhere. */
	if (S_ISLNK(status->st_mode))
		return vb_fail(error, VB_ERROR_SYSTEM, ENOENT, path, -1, "The path is a symbolic link to nothing");
	return vb_fail(error, VB_ERROR_DENIED, S_ISDIR(status->st_mode) ? EISDIR : EACCES, path, -1,
		       "The path names %s, not a regular file or block device", kind);
}

/* Looks at a node without opening it. 1: may be opened, 0: there is none, negative: refused. */
static int look(const struct vb_file *file, uint64_t resolve, mode_t *kind, struct vb_error *error)
{
	struct stat status;
	int fd = open_again(file->folder_fd, file->name, O_PATH | O_NOFOLLOW, 0, resolve);
	int number;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot open the file");
	number = vb_sys->fstat(fd, &status) < 0 ? errno : 0;
	vb_sys->close(fd);
	if (number != 0)
		return vb_fail(error, VB_ERROR_SYSTEM, number, file->path, -1, "Cannot examine the file");
	if (check_kind(file->path, &status, error) < 0)
		return -1;
	*kind = status.st_mode & S_IFMT;
	return 1;
}

/* One attempt. 1: open, 0: the file came or went meanwhile, negative: failed. */
static int open_once(struct vb_file *file, int flags, mode_t mode, uint64_t resolve, struct vb_error *error)
{
	mode_t kind = 0;
	int found = look(file, resolve, &kind, error);

	if (found < 0)
		return -1;
	if (found == 0 && (flags & O_CREAT) == 0)
		return vb_fail(error, VB_ERROR_SYSTEM, ENOENT, file->path, -1, "Cannot open the file");
	if (found > 0 && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return vb_fail(error, VB_ERROR_SYSTEM, EEXIST, file->path, -1, "Cannot create the file");
	flags = found == 0 ? flags | O_EXCL : flags & ~(O_CREAT | O_EXCL);
	/* Should a pipe have taken the file's place, the open must not wait for its other end. */
	if (!S_ISBLK(kind))
		flags |= O_NONBLOCK;
	file->fd = open_again(file->folder_fd, file->name, flags | O_NOFOLLOW | O_NOCTTY, found == 0 ? mode : 0, resolve);
	if (file->fd >= 0) {
		file->is_created = found == 0;
		return 1;
	}
	if (errno == (found == 0 ? EEXIST : ENOENT))
		return 0;
	return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, found == 0 ? "Cannot create the file" : "Cannot open the file");
}

static int open_node(struct vb_file *file, int flags, mode_t mode, uint64_t resolve, struct vb_error *error)
{
	int result = 0;

	for (int i = 0; i < CREATE_TRIES && result == 0; i++)
		result = open_once(file, flags, mode, resolve, error);
	if (result == 0)
		return vb_fail(error, VB_ERROR_SYSTEM, EAGAIN, file->path, -1,
			       "Cannot open the file: it appears and disappears");
	return result < 0 ? -1 : 0;
}

static int examine(struct vb_file *file, struct vb_error *error)
{
	struct stat status;

	if (vb_sys->fstat(file->fd, &status) < 0)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot examine the file");
	if (check_kind(file->path, &status, error) < 0)
		return -1;
	file->is_block_device = S_ISBLK(status.st_mode);
	if (!file->is_block_device) {
		file->device = status.st_dev;
		file->inode = status.st_ino;
		file->size_bytes = (uint64_t)status.st_size;
		return 0;
	}
	file->device = status.st_rdev;
	file->inode = 0;
	if (vb_sys->ioctl_u64(file->fd, BLKGETSIZE64, &file->size_bytes) < 0)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot get the size of the block device");
	return 0;
}

int vb_policy_open(const struct vb_policy *policy, const char *path, int flags, mode_t mode, struct vb_file *file,
		   struct vb_error *error)
{
	struct vb_file opened = { .fd = -1, .folder_fd = -1 };

	*file = opened;
	opened.path = resolve_path(path);
	if (opened.path == NULL)
		return vb_fail(error, errno == ENOMEM ? VB_ERROR_MEMORY : VB_ERROR_SYSTEM, errno, path, -1, "Cannot resolve the path");
	if (opened.path[1] == '\0') {
		vb_fail(error, VB_ERROR_DENIED, EISDIR, path, -1, "The path names a folder, not a regular file or block device");
	} else if (open_parent(policy, &opened, error) == 0 &&
		   open_node(&opened, flags, mode, policy->folder_count > 0 ? BENEATH : 0, error) == 0 &&
		   examine(&opened, error) == 0) {
		*file = opened;
		return 0;
	}
	/* A file made a moment ago stays: it is empty, and removing by name could hit another's. */
	vb_file_close(&opened);
	return -1;
}

void vb_file_close(struct vb_file *file)
{
	if (file->path == NULL)
		return;
	if (file->fd >= 0)
		vb_sys->close(file->fd);
	if (file->folder_fd >= 0)
		vb_sys->close(file->folder_fd);
	free(file->path);
	*file = (struct vb_file){ .fd = -1, .folder_fd = -1 };
}
