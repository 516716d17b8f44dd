/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: taking QEMU's byte locks on an image.
 *
 * QEMU's scheme (block/file-posix.c): a user of an image holds a shared lock on byte 100 + p for every permission p it uses, and on
 * byte 200 + p for every permission it does not let others use. Having taken its own, it looks for the opposite ones of
 * others: nobody may hold 200 + p for a used p, nor 100 + p for an unshared p. Both sides lock before they look, so of two that start
 * at once at least one sees the other.
 */
#include "lock.h"

#include <errno.h>
#include <stddef.h>

#include "sys.h"

#define USED_BYTE 100
#define UNSHARED_BYTE 200

#define CONSISTENT_READ (1u << 0)
#define WRITE (1u << 1)
#define WRITE_UNCHANGED (1u << 2)
#define RESIZE (1u << 3)
#define GRAPH_CHANGE (1u << 4)
#define PERMISSION_COUNT 5u

static const char *const permission_names[PERMISSION_COUNT] = {
	"consistent read", "write", "write unchanged", "resize", "change children",
};

struct lock_need {
	unsigned used;
	unsigned unshared;
};

static struct lock_need role_need(enum vb_lock_role role)
{
	if (role == VB_LOCK_WRITER)
		return (struct lock_need){ CONSISTENT_READ | WRITE | RESIZE,
					   CONSISTENT_READ | WRITE | WRITE_UNCHANGED | RESIZE | GRAPH_CHANGE };
	return (struct lock_need){ CONSISTENT_READ, WRITE | RESIZE };
}

static int lock_call(const struct vb_file *file, int command, struct flock *lock)
{
	int result;

	do {
		result = vb_sys->fcntl_lock(file->fd, command, lock);
	} while (result < 0 && errno == EINTR);
	return result;
}

static struct flock byte_lock(short type, off_t byte, off_t count)
{
	struct flock lock = { .l_whence = SEEK_SET };

	lock.l_type = type;
	lock.l_start = byte;
	lock.l_len = count;
	return lock;
}

static bool is_unlockable(int number)
{
	return number == EINVAL || number == ENOLCK || number == EOPNOTSUPP || number == ENOSYS;
}

static void release_all(const struct vb_file *file)
{
	struct flock lock = byte_lock(F_UNLCK, USED_BYTE, UNSHARED_BYTE - USED_BYTE + (off_t)PERMISSION_COUNT);

	(void)lock_call(file, F_OFD_SETLK, &lock);
}

/* 1: taken; 0: the file system has no locks; negative: failed. */
static int take_bytes(const struct vb_file *file, unsigned permissions, off_t first_byte, struct vb_error *error)
{
	for (unsigned p = 0; p < PERMISSION_COUNT; p++) {
		struct flock lock = byte_lock(F_RDLCK, first_byte + (off_t)p, 1);

		if ((permissions & (1u << p)) == 0 || lock_call(file, F_OFD_SETLK, &lock) == 0)
			continue;
		if (is_unlockable(errno))
			return 0;
		if (errno == EAGAIN || errno == EACCES)
			return vb_fail(error, VB_ERROR_LOCKED, errno, file->path, -1,
				       "Failed to lock byte %lld: another process uses the image",
				       (long long)lock.l_start);
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot lock byte %lld of the image",
			       (long long)lock.l_start);
	}
	return 1;
}

static int look_for(const struct vb_file *file, unsigned permissions, off_t first_byte, const char *wanted,
		    struct vb_error *error)
{
	for (unsigned p = 0; p < PERMISSION_COUNT; p++) {
		struct flock lock = byte_lock(F_WRLCK, first_byte + (off_t)p, 1);

		if ((permissions & (1u << p)) == 0)
			continue;
		if (lock_call(file, F_OFD_GETLK, &lock) < 0)
			return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot look at the image's locks");
		if (lock.l_type != F_UNLCK)
			return vb_fail(error, VB_ERROR_LOCKED, EAGAIN, file->path, -1,
				       "Failed to get %s\"%s\" lock: another process uses the image", wanted,
				       permission_names[p]);
	}
	return 0;
}

int vb_lock_image(const struct vb_file *file, enum vb_lock_role role, struct vb_error *error)
{
	struct lock_need need = role_need(role);
	int taken;

	if (role == VB_LOCK_NONE)
		return 0;
	taken = take_bytes(file, need.used, USED_BYTE, error);
	if (taken > 0)
		taken = take_bytes(file, need.unshared, UNSHARED_BYTE, error);
	if (taken == 0)
		return 0;
	if (taken < 0 || look_for(file, need.used, UNSHARED_BYTE, "", error) < 0 ||
	    look_for(file, need.unshared, USED_BYTE, "shared ", error) < 0) {
		release_all(file);
		return -1;
	}
	return 0;
}
