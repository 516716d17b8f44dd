/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata written front to back. Internal to the core.
 *
 * Owns: a buffer that gathers pieces which follow each other in the file, so that tables of small clusters become large writes.
 * Invariants: what was put is in the file only after vb_stream_flush.
 */
#ifndef VB_STREAM_H
#define VB_STREAM_H

#include "policy.h"

struct vb_stream {
	const struct vb_file *file;
	uint8_t *buffer;
	size_t fill_bytes;
	uint64_t start_bytes;   /* file offset of buffer[0] */
};

int vb_stream_open(struct vb_stream *stream, const struct vb_file *file, struct vb_error *error);
int vb_stream_put(struct vb_stream *stream, uint64_t offset_bytes, const void *piece, size_t length, struct vb_error *error);
int vb_stream_flush(struct vb_stream *stream, struct vb_error *error);
void vb_stream_close(struct vb_stream *stream);

#endif
