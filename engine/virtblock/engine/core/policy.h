/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which files may be opened, and how they are opened.
 *
 * Owns: the allowed folders, the data files that the caller named, and the one function through which the core opens or makes an image.
 * Invariants: with folders given, a file is opened only if its path, every symbolic link resolved, lies beneath one of them, and
 * the open itself cannot leave it (openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS: the file's own folder from the descriptor of
 * the allowed one, then the file from there, both on resolved names). With none given, any file may be opened (as libvirt's read-write socket allows). Only regular files and
 * block devices are ever returned. Descriptors are O_CLOEXEC.
 */
#ifndef VB_POLICY_H
#define VB_POLICY_H

#include <stdbool.h>
#include <sys/types.h>

#include "error.h"

struct vb_policy;

/* `folders` are existing directories; they are resolved and opened now. folder_count 0: any path is allowed. */
struct vb_policy *vb_policy_new(const char *const *folders, size_t folder_count, struct vb_error *error);
void vb_policy_free(struct vb_policy *policy);

/* A file opened under the policy, with the folder that holds it, so that it can be renamed and its folder synced. */
struct vb_file {
	int fd;
	int folder_fd;         /* O_PATH|O_DIRECTORY descriptor of the parent; usable for renameat and unlinkat */
	char *path;            /* absolute, links resolved */
	const char *name;      /* last component, points into `path` */
	bool is_block_device;
	bool is_created;       /* made by this call */
	uint64_t device;       /* st_dev of a file, st_rdev of a block device */
	uint64_t inode;        /* st_ino; 0 for a block device, so that (device, inode) names what is stored */
	uint64_t size_bytes;   /* of the file or device, now */
};

/* flags: O_RDONLY or O_RDWR, plus O_CREAT, O_EXCL, O_TRUNC. The parent folder must exist. On failure errno's meaning is kept:
 * VB_ERROR_SYSTEM with ENOENT, EACCES …; VB_ERROR_DENIED for the policy. */
int vb_policy_open(const struct vb_policy *policy, const char *path, int flags, mode_t mode, struct vb_file *file,
		   struct vb_error *error);
/* Names the file that holds the guest's data of a qcow2 image which keeps it outside. It is the caller's word, without which none is opened,
 * however the image names it; chain.c asks for both. The strings are copied. */
int vb_policy_name_data_file(struct vb_policy *policy, const char *image_path, const char *data_path, struct vb_error *error);
/* The data file named for this image, whatever names it goes by; NULL if none. Then `cause` says why a name could not be looked at that may
 * have been this image's; of kind NONE where there is no such. */
const char *vb_policy_find_data_file(const struct vb_policy *policy, const struct vb_file *image, struct vb_error *cause);
/* Whether the failure says no more than that there is no such file. */
bool vb_policy_is_missing(const struct vb_error *error);

static inline bool vb_file_is_same(const struct vb_file *one, const struct vb_file *other)
{
	return one->device == other->device && one->inode == other->inode;
}

void vb_file_close(struct vb_file *file);   /* safe on a zeroed or already closed one (fd -1) */

#endif
