/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The linear qcow2 writer's state, shared by its two halves: qcow2_linear_writer.c moves data, qcow2_linear_metadata.c generates the
 * tables at the end. Internal to the core.
 */
#ifndef VB_QCOW2_LINEAR_WRITER_H
#define VB_QCOW2_LINEAR_WRITER_H

#include <stdatomic.h>

#include "destination.h"
#include "qcow2_layout.h"

struct linear_writer {
	struct vb_writer base;
	struct vb_file target;        /* unused for a block device */
	bool is_device;
	struct vb_qcow2_layout layout;
	bool has_zero_entries;        /* top mode: what reads as zeros must say so */
	bool fills;                   /* what is not written must hold zeros nevertheless */
	_Atomic uint64_t *written;    /* one bit per unit of each data cluster, by rank */
};

/* Everything but the header: L2 tables, L1, refcount blocks and their table. */
int vb_qcow2_linear_write_metadata(struct linear_writer *self, struct vb_error *error);
int vb_qcow2_linear_write_header(struct linear_writer *self, struct vb_error *error);

#endif
