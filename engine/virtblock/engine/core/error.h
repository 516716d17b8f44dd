/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors of the copy core.
 *
 * Owns: the kinds of failure and the record that carries one to the caller.
 * Invariants: a function that can fail takes a `struct vb_error *` as its last parameter, returns a negative value (or NULL)
 * on failure and then has filled the record exactly once; on success the record is untouched. The first failure wins: cleaning
 * up never overwrites it. A message names what was wanted, what was found and, through `path` and `offset`, where.
 */
#ifndef VB_ERROR_H
#define VB_ERROR_H

#include <stdarg.h>
#include <stdint.h>

enum vb_error_kind {
	VB_ERROR_NONE = 0,
	VB_ERROR_SYSTEM = 1,          /* a system call failed; `system_errno` says how */
	VB_ERROR_INVALID = 2,         /* the caller asked for something that makes no sense */
	VB_ERROR_FORMAT = 3,          /* the image is not what its format demands: garbage, truncated, corrupt */
	VB_ERROR_UNSUPPORTED = 4,     /* a valid image with a feature this engine does not read or write */
	VB_ERROR_DENIED = 5,          /* the path lies outside the allowed folders, or is not a file or block device */
	VB_ERROR_LOCKED = 6,          /* another process uses the image (QEMU-compatible lock) */
	VB_ERROR_BACKING = 7,         /* a backing file is missing, forms a loop, or the chain is too deep */
	VB_ERROR_BACKING_FORMAT = 8,  /* a backing file whose format nobody recorded */
	VB_ERROR_SIZE = 9,            /* virtual sizes differ where they must be equal */
	VB_ERROR_SPACE = 10,          /* the destination's file system has not enough free space */
	VB_ERROR_CANCELLED = 11,      /* the caller cancelled the job */
	VB_ERROR_MEMORY = 12,         /* out of memory */
	VB_ERROR_EXISTS = 13,         /* a destination that must be new already has content */
	VB_ERROR_SAME_FILE = 14,      /* the destination is the source or one of its backing files */
	VB_ERROR_INTERNAL = 15,       /* an invariant of this engine broke; always a bug */
	VB_ERROR_NO_BITMAP = 16,      /* the image has no persistent bitmap of that name */
	VB_ERROR_BITMAP = 17,         /* a persistent bitmap that says nothing: in use, inconsistent, or of another disk size */
	VB_ERROR_CHANGED = 18         /* a job cannot be gone on with: source, destination or options are no longer what they were */
};

struct vb_error {
	enum vb_error_kind kind;
	int system_errno;       /* errno of the failed call; 0 if none */
	int64_t offset_bytes;   /* where in `path`; -1 if it does not apply */
	char path[1024];        /* the file concerned; "" if none; truncated with "..." when longer */
	char message[1024];     /* one sentence without trailing period; does not repeat path, offset or strerror */
};

/* Fills `error` and returns -1, so that a caller can write `return vb_fail(...)`. `path` may be NULL. */
__attribute__((format(printf, 6, 7)))
int vb_fail(struct vb_error *error, enum vb_error_kind kind, int system_errno, const char *path, int64_t offset_bytes,
	    const char *format, ...);

#endif
