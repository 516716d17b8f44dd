/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One layer from the inside: what a format gives to the core. Internal to the core.
 *
 * Owns: the struct behind `struct vb_layer`, the operations that a format implements, and the cursor that walks a layer's map.
 * Invariants: a layer does not change after its open. All that a walk changes is in its cursor, so that every thread walks with
 * its own and no lock is needed. A cursor that goes forward reads every table once.
 */
#ifndef VB_LAYER_H
#define VB_LAYER_H

#include "image.h"
#include "qcow2.h"

struct vb_layer_cursor {
	const struct vb_layer *layer;
	const bool *cancelled;             /* polled at every read of a table; may be NULL */
	/* raw: the segment of the file found last */
	uint64_t segment_start_bytes;
	uint64_t segment_end_bytes;
	bool segment_is_data;
	/* qcow2: L2 entries as they lie in the file, big-endian */
	uint8_t *window;
	uint64_t window_offset_bytes;
	size_t window_length;
};

struct vb_format_ops {
	/* Fills `info` and `state` from the file. */
	int (*open)(struct vb_layer *layer, struct vb_error *error);
	void (*close)(struct vb_layer *layer);
	/* The extent that begins at `start`, as long as its kind goes on without a break, but not over `end`. start < end <= virtual size.
	 * Fills all but layer_index. */
	int (*next)(struct vb_layer_cursor *cursor, uint64_t start_bytes, uint64_t end_bytes, struct vb_extent *extent,
		    struct vb_error *error);
};

struct vb_layer {
	struct vb_file file;
	struct vb_file data_file;       /* fd -1: the guest's data lies in `file` */
	struct vb_image_info info;
	const struct vb_format_ops *ops;
	struct vb_qcow2_layer *qcow2;   /* NULL for raw */
};

extern const struct vb_format_ops vb_raw_ops;
extern const struct vb_format_ops vb_qcow2_ops;

/* Takes `data_file` over as the file that holds the layer's data. */
void vb_qcow2_use_data_file(struct vb_layer *layer, struct vb_file *data_file);

/* The cursor of a layer. It owns its window only; vb_layer_cursor_free may be called on a zeroed one. */
void vb_layer_cursor_start(struct vb_layer_cursor *cursor, const struct vb_layer *layer, const bool *cancelled);
void vb_layer_cursor_free(struct vb_layer_cursor *cursor);

#endif
