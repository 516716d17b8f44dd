/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image locks as QEMU takes them (open file description locks on single bytes).
 *
 * Owns: the byte layout (100 + permission: "I use it"; 200 + permission: "I do not share it") and the two roles we play.
 * Invariants: a reader uses consistent-read and shares everything but write and resize, so it stands beside other readers and
 * QEMU's backing files, never beside a writer. A writer uses consistent-read, write and resize and shares nothing.
 * Locks live as long as the descriptor. A file system without locks (EINVAL, ENOLCK, EOPNOTSUPP) is accepted as QEMU does.
 */
#ifndef VB_LOCK_H
#define VB_LOCK_H

#include "policy.h"

enum vb_lock_role { VB_LOCK_NONE = 0, VB_LOCK_READER = 1, VB_LOCK_WRITER = 2 };

/* VB_ERROR_LOCKED: `Failed to get "write" lock` / `… "consistent read" lock` / `Failed to get shared "write" lock` in
 * QEMU's terms for the permission in conflict; on failure no lock stays. */
int vb_lock_image(const struct vb_file *file, enum vb_lock_role role, struct vb_error *error);

#endif
