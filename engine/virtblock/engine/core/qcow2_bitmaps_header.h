/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header's word on where the directory of bitmaps is. Internal to the core.
 *
 * Owns: the bitmaps extension, room for it, and the autoclear bit that says that it is valid.
 * Invariants: every step is durable before the next, and changes one sector, whose write is taken to be all or nothing. Between two steps
 * the header says what it said before, or what it is to say, or that the bitmaps are not valid. What the new directory
 * needs is durable before the first step.
 */
#ifndef VB_QCOW2_BITMAPS_HEADER_H
#define VB_QCOW2_BITMAPS_HEADER_H

#include "policy.h"
#include "qcow2.h"

struct vb_bitmap_directory {
	uint32_t count;          /* 0: there is none any more */
	uint64_t size_bytes;
	uint64_t offset_bytes;
	bool is_valid;           /* the bitmaps mark all that was written */
};

/* Whether the header can name bitmaps at all: its version, and room for the extension. UNSUPPORTED otherwise. */
int vb_qcow2_check_bitmaps_room(const struct vb_file *file, const struct vb_qcow2_header *header, struct vb_error *error);
/* Makes the header name the new directory. `header` is what the file has. */
int vb_qcow2_switch_bitmaps(const struct vb_file *file, const struct vb_qcow2_header *header, const struct vb_bitmap_directory *directory,
			    struct vb_error *error);

#endif
