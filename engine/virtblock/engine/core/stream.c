/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: see stream.h. */
#include "stream.h"

#include <stdlib.h>
#include <string.h>

#include "sys.h"

#define STREAM_BYTES (512u * 1024)   /* no less than a cluster fits twice at 64 KiB; larger clusters pass by the buffer */

int vb_stream_open(struct vb_stream *stream, const struct vb_file *file, struct vb_error *error)
{
	*stream = (struct vb_stream){.file = file, .buffer = malloc(STREAM_BYTES)};
	if (!stream->buffer)
		return vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory to gather %u bytes of tables", STREAM_BYTES);
	return 0;
}

void vb_stream_close(struct vb_stream *stream)
{
	free(stream->buffer);
	stream->buffer = NULL;
}

int vb_stream_flush(struct vb_stream *stream, struct vb_error *error)
{
	int result = 0;

	if (stream->fill_bytes)
		result = vb_pwrite_full(stream->file->fd, stream->file->path, stream->buffer, stream->fill_bytes,
					stream->start_bytes, error);
	stream->fill_bytes = 0;
	return result;
}

int vb_stream_put(struct vb_stream *stream, uint64_t offset_bytes, const void *piece, size_t length, struct vb_error *error)
{
	if (stream->start_bytes + stream->fill_bytes != offset_bytes || stream->fill_bytes + length > STREAM_BYTES) {
		if (vb_stream_flush(stream, error))
			return -1;
		stream->start_bytes = offset_bytes;
	}
	if (length > STREAM_BYTES)
		return vb_pwrite_full(stream->file->fd, stream->file->path, piece, length, offset_bytes, error);
	memcpy(stream->buffer + stream->fill_bytes, piece, length);
	stream->fill_bytes += length;
	return 0;
}
