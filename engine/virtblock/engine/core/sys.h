/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of system calls.
 *
 * Owns: the only door from the core to the kernel. Tests replace `vb_sys` to fault, record and replay; nothing else in the core
 * calls these functions directly. Invariants: a slot behaves as the call it is named for, including errno; slots are replaced
 * only while no lane runs. The vb_*_full helpers loop over short results and EINTR and are what the core uses.
 */
#ifndef VB_SYS_H
#define VB_SYS_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>

#include "error.h"

struct file_clone_range;   /* linux/fs.h */

struct vb_sys {
	char *(*realpath)(const char *path, char *resolved);   /* `resolved` is NULL; the result is freed with free() */
	int (*openat)(int folder_fd, const char *path, int flags, mode_t mode);
	/* openat2 with the given RESOLVE_* flags. */
	int (*openat_resolve)(int folder_fd, const char *path, int flags, mode_t mode, uint64_t resolve);
	int (*close)(int fd);
	ssize_t (*pread)(int fd, void *buffer, size_t length, off_t offset);
	ssize_t (*pwrite)(int fd, const void *buffer, size_t length, off_t offset);
	int (*fstat)(int fd, struct stat *status);
	int (*fstatfs)(int fd, struct statfs *status);
	int (*ftruncate)(int fd, off_t length);
	int (*fallocate)(int fd, int mode, off_t offset, off_t length);
	off_t (*lseek)(int fd, off_t offset, int whence);
	int (*fdatasync)(int fd);
	int (*fsync)(int fd);
	int (*renameat)(int old_folder_fd, const char *old_name, int new_folder_fd, const char *new_name);
	int (*unlinkat)(int folder_fd, const char *name, int flags);
	int (*fchown)(int fd, uid_t owner, gid_t group);
	int (*fchmod)(int fd, mode_t mode);
	int (*ioctl_u64)(int fd, unsigned long request, uint64_t *argument);  /* BLKGETSIZE64, BLKZEROOUT (array of two) … */
	int (*fcntl_lock)(int fd, int command, struct flock *lock);           /* F_OFD_SETLK, F_OFD_GETLK */
	int (*fadvise)(int fd, off_t offset, off_t length, int advice);      /* returns the error number */
	int (*sync_file_range)(int fd, off_t offset, off_t length, unsigned flags);
	int (*clone_range)(int fd, const struct file_clone_range *range);     /* FICLONERANGE */
};

extern const struct vb_sys vb_sys_linux;   /* the real calls */
extern const struct vb_sys *vb_sys;        /* what the core uses; points to vb_sys_linux by default */

/* Reads exactly `length` bytes; past the end of the file the rest of the buffer is zero (images read so). */
int vb_pread_full(int fd, const char *path, void *buffer, size_t length, uint64_t offset_bytes, struct vb_error *error);
/* Reads exactly `length` bytes; the end of the file is VB_ERROR_FORMAT ("truncated"). */
int vb_pread_exact(int fd, const char *path, void *buffer, size_t length, uint64_t offset_bytes, struct vb_error *error);
int vb_pwrite_full(int fd, const char *path, const void *buffer, size_t length, uint64_t offset_bytes, struct vb_error *error);
/* A failed sync is final: callers never retry it and call it success. */
int vb_fdatasync(int fd, const char *path, struct vb_error *error);
int vb_fsync(int fd, const char *path, struct vb_error *error);

#endif
