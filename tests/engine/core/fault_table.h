/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of system calls that fails on purpose, laid over another one.
 *
 * Owns: the list of slots, from which wrappers, counters and names are made. A slot of struct vb_sys that is not in the list does not
 * compile. The calls may come from many lanes.
 */
#ifndef FAULT_TABLE_H
#define FAULT_TABLE_H

#include <stdbool.h>

#include "sys.h"

/* X(slot, type, what failure returns, parameters, arguments) */
#define FAULT_SLOTS(X)                                                                                                     \
	X(realpath, char *, NULL, (const char *path, char *resolved), (path, resolved))                                    \
	X(openat, int, -1, (int folder_fd, const char *path, int flags, mode_t mode), (folder_fd, path, flags, mode))      \
	X(openat_resolve, int, -1, (int folder_fd, const char *path, int flags, mode_t mode, uint64_t resolve),            \
	  (folder_fd, path, flags, mode, resolve))                                                                         \
	X(close, int, -1, (int fd), (fd))                                                                                  \
	X(pread, ssize_t, -1, (int fd, void *buffer, size_t length, off_t offset), (fd, buffer, length, offset))           \
	X(pwrite, ssize_t, -1, (int fd, const void *buffer, size_t length, off_t offset), (fd, buffer, length, offset))    \
	X(fstat, int, -1, (int fd, struct stat *status), (fd, status))                                                     \
	X(fstatfs, int, -1, (int fd, struct statfs *status), (fd, status))                                                 \
	X(ftruncate, int, -1, (int fd, off_t length), (fd, length))                                                        \
	X(fallocate, int, -1, (int fd, int mode, off_t offset, off_t length), (fd, mode, offset, length))                  \
	X(lseek, off_t, -1, (int fd, off_t offset, int whence), (fd, offset, whence))                                      \
	X(fdatasync, int, -1, (int fd), (fd))                                                                              \
	X(fsync, int, -1, (int fd), (fd))                                                                                  \
	X(renameat, int, -1, (int old_folder_fd, const char *old_name, int new_folder_fd, const char *new_name),           \
	  (old_folder_fd, old_name, new_folder_fd, new_name))                                                              \
	X(unlinkat, int, -1, (int folder_fd, const char *name, int flags), (folder_fd, name, flags))                       \
	X(fchown, int, -1, (int fd, uid_t owner, gid_t group), (fd, owner, group))                                         \
	X(fchmod, int, -1, (int fd, mode_t mode), (fd, mode))                                                              \
	X(ioctl_u64, int, -1, (int fd, unsigned long request, uint64_t *argument), (fd, request, argument))                \
	X(fcntl_lock, int, -1, (int fd, int command, struct flock *lock), (fd, command, lock))                             \
	X(fadvise, int, number, (int fd, off_t offset, off_t length, int advice), (fd, offset, length, advice))      \
	X(sync_file_range, int, -1, (int fd, off_t offset, off_t length, unsigned flags), (fd, offset, length, flags))     \
	X(clone_range, int, -1, (int fd, const struct file_clone_range *range), (fd, range))

#define FAULT_SLOT_NAME(slot, type, failed, parameters, arguments) SLOT_##slot,
enum fault_slot { FAULT_SLOTS(FAULT_SLOT_NAME) SLOT_COUNT };

_Static_assert(sizeof(struct vb_sys) == SLOT_COUNT * sizeof(void (*)(void)), "a slot of struct vb_sys is missing in FAULT_SLOTS");

/* Instead of an errno: half of what was asked for is read or written. */
#define FAULT_SHORT (-1)
/* The same once, and ENOSPC from then on: a disk that becomes full in the middle of a write. */
#define FAULT_FULL (-2)

struct fault {
	enum fault_slot slot;
	int number;          /* errno, FAULT_SHORT or FAULT_FULL */
	unsigned first;      /* the call of the slot that fails first, from 1; 0: none fails */
	bool is_lasting;     /* all later ones of the slot fail too; of EINTR and FAULT_SHORT every second one */
};

extern const char *const fault_slot_names[SLOT_COUNT];
extern unsigned fault_call_counts[SLOT_COUNT];   /* since fault_start */

/* Lays the faulty table over `base`. A sync of the model disk that fails is logged there. */
void fault_start(const struct vb_sys *base, const struct fault *fault);
/* Puts `base` back; returns whether the fault happened. */
bool fault_stop(void);

#endif
