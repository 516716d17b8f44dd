/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: raw images. The map is what the file system says through SEEK_DATA and SEEK_HOLE; where it says nothing (block devices, some
 * file systems), or contradicts itself, everything is data. A raw image never defers to a layer below: holes are zeros.
 * The virtual size is the file's, to the byte (QEMU rounds it up to 512; the bytes that adds read as zeros).
 */
#include <errno.h>
#include <unistd.h>

#include "layer.h"
#include "sys.h"

static int raw_open(struct vb_layer *layer, struct vb_error *error)
{
	if (layer->file.size_bytes > INT64_MAX)
		return vb_fail(error, VB_ERROR_FORMAT, EFBIG, layer->file.path, -1, "The file is longer than an image can be");
	layer->info.virtual_size_bytes = layer->file.size_bytes;
	return 0;
}

static void raw_close(struct vb_layer *layer)
{
	(void)layer;
}

static bool is_unsupported(int number)
{
	return number == EINVAL || number == EOPNOTSUPP || number == ENOSYS || number == ENOTTY || number == ESPIPE;
}

/* The next position of `whence` at or after `offset`, the end of the image if there is none. *known is false where the file
 * system does not tell. */
static int seek_to(const struct vb_layer *layer, uint64_t offset_bytes, int whence, bool *known, uint64_t *found_bytes,
		   struct vb_error *error)
{
	uint64_t size_bytes = layer->info.virtual_size_bytes;
	off_t found = vb_sys->lseek(layer->file.fd, (off_t)offset_bytes, whence);

	*known = true;
	*found_bytes = size_bytes;
	if (found >= 0) {
		if ((uint64_t)found < size_bytes)
			*found_bytes = (uint64_t)found;
		return 0;
	}
	if (errno == ENXIO)
		return 0;
	*known = false;
	if (is_unsupported(errno))
		return 0;
	return vb_fail(error, VB_ERROR_SYSTEM, errno, layer->file.path, (int64_t)offset_bytes, "Cannot find out what is allocated");
}

static int find_segment(struct vb_layer_cursor *cursor, uint64_t start_bytes, struct vb_error *error)
{
	uint64_t size_bytes = cursor->layer->info.virtual_size_bytes, data_bytes, hole_bytes = size_bytes;
	bool known;

	cursor->segment_start_bytes = start_bytes;
	cursor->segment_end_bytes = size_bytes;
	cursor->segment_is_data = true;
	if (cursor->layer->file.is_block_device)
		return 0;
	if (seek_to(cursor->layer, start_bytes, SEEK_DATA, &known, &data_bytes, error) < 0)
		return -1;
	if (!known)
		return 0;
	/* An answer before `start` makes no sense, and counts as no hole. */
	if (data_bytes > start_bytes) {
		cursor->segment_end_bytes = data_bytes;
		cursor->segment_is_data = false;
		return 0;
	}
	if (seek_to(cursor->layer, start_bytes, SEEK_HOLE, &known, &hole_bytes, error) < 0)
		return -1;
	if (known && hole_bytes > start_bytes)
		cursor->segment_end_bytes = hole_bytes;
	return 0;
}

static int raw_next(struct vb_layer_cursor *cursor, uint64_t start_bytes, uint64_t end_bytes, struct vb_extent *extent,
		    struct vb_error *error)
{
	if (cursor->cancelled != NULL && __atomic_load_n(cursor->cancelled, __ATOMIC_RELAXED))
		return vb_fail(error, VB_ERROR_CANCELLED, ECANCELED, cursor->layer->file.path, -1, "Cancelled while planning");
	if (start_bytes < cursor->segment_start_bytes || start_bytes >= cursor->segment_end_bytes) {
		if (find_segment(cursor, start_bytes, error) < 0)
			return -1;
	}
	extent->start_bytes = start_bytes;
	extent->length_bytes = (end_bytes < cursor->segment_end_bytes ? end_bytes : cursor->segment_end_bytes) - start_bytes;
	extent->host_offset_bytes = start_bytes;
	extent->kind = cursor->segment_is_data ? VB_EXTENT_DATA : VB_EXTENT_ZERO;
	return 0;
}

const struct vb_format_ops vb_raw_ops = { .open = raw_open, .close = raw_close, .next = raw_next };
