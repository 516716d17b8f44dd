/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing what a qcow2 image records as its backing file. Internal to the core.
 *
 * Owns: the header's cluster while its backing file's name and format are changed. Invariants: whatever dies, the image records either
 * the old name with the old format or the new ones; header extensions, known and unknown, are kept. The one assumption is that a
 * write of the file's first 512 bytes is atomic.
 */
#ifndef VB_QCOW2_BACKING_H
#define VB_QCOW2_BACKING_H

#include "policy.h"

struct vb_backing_reference {
	const char *path;     /* as it is to be recorded; NULL: no backing file */
	const char *format;   /* "raw" or "qcow2"; NULL with no backing file */
};

/* Whether the change can be made: INVALID if the name does not fit the header's cluster. Changes nothing. */
int vb_qcow2_backing_check(const struct vb_file *file, const struct vb_backing_reference *wanted, struct vb_error *error);
/* Makes the change; durable if `durable`. Nothing else may write the header meanwhile. An image that records what is wanted is not touched. */
int vb_qcow2_backing_change(const struct vb_file *file, const struct vb_backing_reference *wanted, bool durable, struct vb_error *error);

#endif
