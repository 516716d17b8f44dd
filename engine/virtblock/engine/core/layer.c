/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: opening one image by its format, and the walk over one layer's map. */
#include "layer.h"

#include <errno.h>
#include <stdlib.h>

#include "sys.h"
#include "writer.h"

static const struct vb_format_ops *ops_of(enum vb_format format)
{
	switch (format) {
	case VB_FORMAT_RAW:
		return &vb_raw_ops;
	case VB_FORMAT_QCOW2:
		return &vb_qcow2_ops;
	}
	return NULL;
}

static int open_by_format(struct vb_layer *layer, enum vb_format format, struct vb_error *error)
{
	struct stat status;

	layer->ops = ops_of(format);
	if (layer->ops == NULL)
		return vb_fail(error, VB_ERROR_INVALID, EINVAL, layer->file.path, -1, "Unknown image format %d", (int)format);
	if (vb_sys->fstat(layer->file.fd, &status) < 0)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, layer->file.path, -1, "Cannot examine the file");
	/* The file was measured before it was locked; it may have grown until then. */
	if (!layer->file.is_block_device)
		layer->file.size_bytes = (uint64_t)status.st_size;
	layer->info.format = format;
	layer->info.allocated_bytes = (uint64_t)status.st_blocks * 512;
	return layer->ops->open(layer, error);
}

struct vb_layer *vb_layer_open(struct vb_file *file, enum vb_format format, struct vb_error *error)
{
	struct vb_layer *layer = calloc(1, sizeof(*layer));

	if (layer == NULL) {
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, file->path, -1, "Out of memory for an image");
		vb_file_close(file);
		return NULL;
	}
	layer->file = *file;
	layer->data_file = (struct vb_file){ .fd = -1, .folder_fd = -1 };
	*file = (struct vb_file){ .fd = -1, .folder_fd = -1 };
	if (open_by_format(layer, format, error) < 0) {
		vb_layer_close(layer);
		return NULL;
	}
	return layer;
}

void vb_layer_close(struct vb_layer *layer)
{
	if (layer == NULL)
		return;
	if (layer->ops != NULL)
		layer->ops->close(layer);
	vb_file_close(&layer->data_file);
	vb_file_close(&layer->file);
	free(layer);
}

const struct vb_image_info *vb_layer_info(const struct vb_layer *layer)
{
	return &layer->info;
}

const struct vb_file *vb_layer_file(const struct vb_layer *layer)
{
	return &layer->file;
}

const struct vb_file *vb_layer_data_file(const struct vb_layer *layer)
{
	return layer->data_file.fd >= 0 ? &layer->data_file : &layer->file;
}

void vb_layer_cursor_start(struct vb_layer_cursor *cursor, const struct vb_layer *layer, const bool *cancelled)
{
	*cursor = (struct vb_layer_cursor){ .layer = layer, .cancelled = cancelled };
}

void vb_layer_cursor_free(struct vb_layer_cursor *cursor)
{
	free(cursor->window);
	cursor->window = NULL;
}

static int visit_range(struct vb_layer_cursor *cursor, uint64_t start_bytes, uint64_t end_bytes, vb_extent_visitor visit, void *opaque,
		       struct vb_error *error)
{
	struct vb_extent extent;

	while (start_bytes < end_bytes) {
		extent = (struct vb_extent){ 0 };
		if (cursor->layer->ops->next(cursor, start_bytes, end_bytes, &extent, error) < 0)
			return -1;
		if (visit(opaque, &extent, error) < 0)
			return -1;
		start_bytes += extent.length_bytes;
	}
	return 0;
}

int vb_layer_map(struct vb_layer *layer, uint64_t start_bytes, uint64_t length_bytes, vb_extent_visitor visit, void *opaque,
		 struct vb_error *error)
{
	uint64_t size_bytes = layer->info.virtual_size_bytes;
	uint64_t end_bytes = length_bytes > UINT64_MAX - start_bytes ? UINT64_MAX : start_bytes + length_bytes;
	struct vb_layer_cursor cursor;
	int result;

	vb_layer_cursor_start(&cursor, layer, NULL);
	result = visit_range(&cursor, start_bytes, end_bytes < size_bytes ? end_bytes : size_bytes, visit, opaque, error);
	vb_layer_cursor_free(&cursor);
	if (start_bytes < size_bytes)
		start_bytes = size_bytes;
	if (result == 0 && start_bytes < end_bytes) {
		struct vb_extent beyond = { .start_bytes = start_bytes,
					    .length_bytes = end_bytes - start_bytes,
					    .kind = VB_EXTENT_UNALLOCATED };

		result = visit(opaque, &beyond, error);
	}
	return result;
}

enum vb_format vb_format_probe(const struct vb_file *file, struct vb_error *error)
{
	uint8_t magic[4];

	if (vb_pread_full(file->fd, file->path, magic, sizeof(magic), 0, error) < 0)
		return (enum vb_format)0;
	if (vb_load_be32(magic) == VB_QCOW2_MAGIC || vb_load_be32(magic) == VB_UNFINISHED_MAGIC)
		return VB_FORMAT_QCOW2;
	return VB_FORMAT_RAW;
}
