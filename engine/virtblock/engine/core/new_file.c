/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A new destination's two files: PATH, empty until the end, and the partial file that becomes it.
 *
 * Owns: their opening, locking, ownership, and the rename. Invariants: whoever holds the lock on the file that PATH names is the
 * only one who makes, fills, renames or removes the partial file; so one that is found there is left over and is removed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "destination.h"
#include "lock.h"
#include "sys.h"

static int check_empty(const struct vb_file *file, struct vb_error *error)
{
	if (file->is_block_device)
		return vb_fail(error, VB_ERROR_EXISTS, 0, file->path, -1, "The destination is a block device, which cannot be made");
	if (file->size_bytes)
		return vb_fail(error, VB_ERROR_EXISTS, 0, file->path, -1,
			       "The destination already exists and is not empty (%llu bytes)",
			       (unsigned long long)file->size_bytes);
	return 0;
}

/* Another copy may have renamed its result over PATH between our open and our lock; then our lock guards a nameless file. */
static int lock_target(const struct vb_file *target, struct stat *status, struct vb_error *error)
{
	if (vb_lock_image(target, VB_LOCK_WRITER, error))
		return -1;
	if (vb_sys->fstat(target->fd, status))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, target->path, -1, "Cannot read the destination's status");
	if (status->st_nlink == 0)
		return vb_fail(error, VB_ERROR_LOCKED, 0, target->path, -1,
			       "Another copy to the destination ended just now, or it was removed");
	if (status->st_size)
		return vb_fail(error, VB_ERROR_EXISTS, 0, target->path, -1,
			       "The destination already exists and is not empty (%llu bytes)",
			       (unsigned long long)status->st_size);
	return 0;
}

/* The result must belong to whom the empty file belonged: the caller may have made it for the hypervisor's user. */
static int take_over_owner(const struct vb_file *partial, const struct stat *wanted, struct vb_error *error)
{
	struct stat status;

	if (vb_sys->fstat(partial->fd, &status))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, partial->path, -1, "Cannot read the partial file's status");
	if ((status.st_uid != wanted->st_uid || status.st_gid != wanted->st_gid) &&
	    vb_sys->fchown(partial->fd, wanted->st_uid, wanted->st_gid))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, partial->path, -1,
			       "Cannot give the new file the owner of the empty destination (%u:%u)", wanted->st_uid,
			       wanted->st_gid);
	if ((status.st_mode & 07777) != (wanted->st_mode & 07777) &&
	    vb_sys->fchmod(partial->fd, wanted->st_mode & 07777))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, partial->path, -1,
			       "Cannot give the new file the mode of the empty destination (%o)", wanted->st_mode & 07777);
	return 0;
}

static int open_partial(const struct vb_policy *policy, const struct vb_file *target, const struct stat *wanted,
			struct vb_file *partial, struct vb_error *error)
{
	size_t length = strlen(target->path);
	char *path = malloc(length + sizeof(VB_PARTIAL_SUFFIX));

	if (!path)
		return vb_fail(error, VB_ERROR_MEMORY, 0, target->path, -1, "No memory for the partial file's name");
	memcpy(path, target->path, length);
	memcpy(path + length, VB_PARTIAL_SUFFIX, sizeof(VB_PARTIAL_SUFFIX));

	const char *name = path + (target->name - target->path);
	int result = 0;

	if (vb_sys->unlinkat(target->folder_fd, name, 0) && errno != ENOENT)
		result = vb_fail(error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot remove what an earlier copy left");
	if (!result)
		result = vb_policy_open(policy, path, O_RDWR | O_CREAT | O_EXCL, 0600, partial, error);
	free(path);
	if (result)
		return -1;
	if (vb_lock_image(partial, VB_LOCK_WRITER, error) || take_over_owner(partial, wanted, error)) {
		vb_sys->unlinkat(partial->folder_fd, partial->name, 0);
		vb_file_close(partial);
		return -1;
	}
	return 0;
}

/* The lock says that it is still ours. */
static void remove_created(const struct vb_file *target)
{
	if (target->is_created)
		vb_sys->unlinkat(target->folder_fd, target->name, 0);
}

int vb_new_file_open(const struct vb_policy *policy, const char *path, bool exclusive, const struct vb_chain *source,
		     struct vb_file *target, struct vb_file *partial, struct vb_error *error)
{
	struct stat status;
	int flags = O_RDWR | O_CREAT | (exclusive ? O_EXCL : 0);

	if (vb_policy_open(policy, path, flags, 0600, target, error)) {
		if (exclusive && error->kind == VB_ERROR_SYSTEM && error->system_errno == EEXIST)
			error->kind = VB_ERROR_EXISTS;
		return -1;
	}
	if (check_empty(target, error) || vb_destination_check_source(target, source, error) ||
	    lock_target(target, &status, error)) {
		/* Only somebody's lock says that it may be somebody else's by now. */
		if (error->kind == VB_ERROR_SYSTEM)
			remove_created(target);
		vb_file_close(target);
		return -1;
	}
	if (open_partial(policy, target, &status, partial, error)) {
		remove_created(target);
		vb_file_close(target);
		return -1;
	}
	return 0;
}

static int sync_folder(const struct vb_file *file, struct vb_error *error)
{
	int fd = vb_sys->openat(file->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

	if (fd < 0)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot open the destination's folder to sync it");

	int result = vb_fsync(fd, file->path, error);

	vb_sys->close(fd);
	return result;
}

int vb_new_file_publish(struct vb_writer *writer, struct vb_file *target, struct vb_error *error)
{
	struct vb_file *file = &writer->file;

	if (vb_sys->renameat(file->folder_fd, file->name, target->folder_fd, target->name))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, target->path, -1,
			       "Cannot give the finished copy the destination's name");
	writer->published = true;
	file->path[strlen(file->path) - strlen(VB_PARTIAL_SUFFIX)] = '\0';
	return writer->spec.durable ? sync_folder(file, error) : 0;
}

void vb_new_file_discard(struct vb_file *target, struct vb_file *file)
{
	if (target) {
		vb_sys->unlinkat(file->folder_fd, file->name, 0);
		remove_created(target);
		vb_file_close(target);
	}
	vb_file_close(file);
}

void vb_new_file_close(struct vb_writer *writer, struct vb_file *target)
{
	if (!writer->published)
		vb_sys->unlinkat(writer->file.folder_fd, writer->file.name, 0);
	vb_file_close(target);
}
