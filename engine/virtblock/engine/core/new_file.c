/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A new destination's two files: PATH, empty until the end, and the partial file that becomes it.
 *
 * Owns: their opening, locking, ownership, and the rename. Invariants: whoever holds the lock on the file that PATH names is the
 * only one who makes, fills, renames or removes the partial file; so one that is found there is left over: it is
 * gone on with if it is the one that the caller knows, and removed otherwise. One that was found is not removed on failure.
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

/* The partial file that an earlier run left. 1: open and locked; 0: there is none; negative: error. */
static int reopen_partial(const struct vb_policy *policy, const char *path, uint64_t resumed_inode, struct vb_file *partial,
			  struct vb_error *error)
{
	if (vb_policy_open(policy, path, O_RDWR, 0, partial, error))
		return error->kind == VB_ERROR_SYSTEM && error->system_errno == ENOENT ? 0 : -1;
	if (partial->inode == resumed_inode && !partial->is_block_device) {
		if (vb_lock_image(partial, VB_LOCK_WRITER, error) == 0)
			return 1;
	} else {
		vb_fail(error, VB_ERROR_CHANGED, 0, partial->path, -1,
			"The partial file is not the one that the job was begun with (inode %llu, now %llu)",
			(unsigned long long)resumed_inode, (unsigned long long)partial->inode);
	}
	vb_file_close(partial);
	return -1;
}

/* What lies in the destination's folder under a name. 1: *status is its; 0: nothing does; negative: error. */
static int look_at(const struct vb_file *target, const char *path, struct stat *status, struct vb_error *error)
{
	int fd = vb_sys->openat(target->folder_fd, path + (target->name - target->path), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	int number;

	if (fd < 0)
		return errno == ENOENT ? 0 : vb_fail(error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot open what lies there");
	number = vb_sys->fstat(fd, status) ? errno : 0;
	vb_sys->close(fd);
	return number == 0 ? 1 : vb_fail(error, VB_ERROR_SYSTEM, number, path, -1, "Cannot examine what lies there");
}

/* What lies under the partial name is removed, so it must be none of the source's images. */
static int check_left(const struct vb_file *target, char *path, const struct vb_chain *source, struct vb_error *error)
{
	struct stat status;
	int found = look_at(target, path, &status, error);

	if (found <= 0)
		return found;

	const struct vb_file left = {.path = path, .device = status.st_dev, .inode = status.st_ino};

	return vb_destination_check_source(&left, source, error);
}

static int make_partial(const struct vb_policy *policy, char *path, const struct stat *wanted, const struct vb_file *target,
			const struct vb_chain *source, struct vb_file *partial, struct vb_error *error)
{
	const char *name = path + (target->name - target->path);

	if (check_left(target, path, source, error))
		return -1;
	if (vb_sys->unlinkat(target->folder_fd, name, 0) && errno != ENOENT)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot remove what an earlier copy left");
	if (vb_policy_open(policy, path, O_RDWR | O_CREAT | O_EXCL, 0600, partial, error))
		return -1;
	if (vb_lock_image(partial, VB_LOCK_WRITER, error) == 0 && take_over_owner(partial, wanted, error) == 0)
		return 0;
	vb_sys->unlinkat(partial->folder_fd, partial->name, 0);
	vb_file_close(partial);
	return -1;
}

static int open_partial(const struct vb_policy *policy, const struct vb_file *target, const struct stat *wanted,
			const struct vb_chain *source, uint64_t resumed_inode, struct vb_file *partial, enum vb_new_file_state *state,
			struct vb_error *error)
{
	size_t length = strlen(target->path);
	char *path = malloc(length + sizeof(VB_PARTIAL_SUFFIX));

	if (!path)
		return vb_fail(error, VB_ERROR_MEMORY, 0, target->path, -1, "No memory for the partial file's name");
	memcpy(path, target->path, length);
	memcpy(path + length, VB_PARTIAL_SUFFIX, sizeof(VB_PARTIAL_SUFFIX));

	int result = resumed_inode ? reopen_partial(policy, path, resumed_inode, partial, error) : 0;

	*state = result == 1 ? VB_NEW_FILE_UNFINISHED : VB_NEW_FILE_FRESH;
	if (result == 0)
		result = make_partial(policy, path, wanted, target, source, partial, error);
	free(path);
	return result < 0 ? -1 : 0;
}

/* PATH is the result of the run that is to be gone on with: only its journal was left. */
static int take_complete(struct vb_file *target, const struct vb_chain *source, struct vb_error *error)
{
	if (vb_destination_check_source(target, source, error) == 0 && vb_lock_image(target, VB_LOCK_WRITER, error) == 0)
		return 0;
	vb_file_close(target);
	return -1;
}

/* The lock says that it is still ours. */
static void remove_created(const struct vb_file *target)
{
	if (target->is_created)
		vb_sys->unlinkat(target->folder_fd, target->name, 0);
}

int vb_new_file_open(const struct vb_policy *policy, const char *path, bool exclusive, const struct vb_chain *source,
		     uint64_t resumed_inode, struct vb_file *target, struct vb_file *partial, enum vb_new_file_state *state,
		     struct vb_error *error)
{
	struct stat status;
	int flags = O_RDWR | O_CREAT | (exclusive ? O_EXCL : 0);

	if (vb_policy_open(policy, path, flags, 0600, target, error)) {
		if (exclusive && error->kind == VB_ERROR_SYSTEM && error->system_errno == EEXIST)
			error->kind = VB_ERROR_EXISTS;
		return -1;
	}
	if (resumed_inode && target->inode == resumed_inode && target->size_bytes && !target->is_block_device) {
		*state = VB_NEW_FILE_COMPLETE;
		return take_complete(target, source, error);
	}
	if (check_empty(target, error) || vb_destination_check_source(target, source, error) ||
	    lock_target(target, &status, error)) {
		/* Only somebody's lock says that it may be somebody else's by now. */
		if (error->kind == VB_ERROR_SYSTEM)
			remove_created(target);
		vb_file_close(target);
		return -1;
	}
	if (open_partial(policy, target, &status, source, resumed_inode, partial, state, error)) {
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

/* Who knows nothing of our lock may have put something there meanwhile, or into the empty file; the rename would be its end. */
static int check_still_empty(const struct vb_file *target, struct vb_error *error)
{
	struct stat status;
	int found = look_at(target, target->path, &status, error);

	if (found <= 0 || (status.st_dev == target->device && status.st_ino == target->inode && status.st_size == 0))
		return found < 0 ? -1 : 0;
	return vb_fail(error, VB_ERROR_EXISTS, 0, target->path, -1, "Something else was put at the destination while the copy ran");
}

int vb_new_file_publish(struct vb_writer *writer, struct vb_file *target, struct vb_error *error)
{
	struct vb_file *file = &writer->file;

	if (check_still_empty(target, error))
		return -1;
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
	if (!writer->published && !writer->keeps_unfinished)
		vb_sys->unlinkat(writer->file.folder_fd, writer->file.name, 0);
	vb_file_close(target);
}
