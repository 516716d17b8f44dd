/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making an empty image, and changing the size of one.
 *
 * Owns: the two calls and their checks. Invariants: a made image appears under its name complete and durable or not at all; a failed
 * resize leaves the image as it was, but for clusters that may have leaked.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "destination.h"
#include "sys.h"

/* PATH is still the empty file that this call made, and locked. */
static void remove_target(const struct vb_writer *writer)
{
	char name[NAME_MAX + 1];
	size_t length = strlen(writer->file.name) - strlen(VB_PARTIAL_SUFFIX);

	memcpy(name, writer->file.name, length);
	name[length] = '\0';
	vb_sys->unlinkat(writer->file.folder_fd, name, 0);
}

int vb_image_create(const struct vb_policy *policy, const struct vb_destination_spec *spec, struct vb_error *error)
{
	struct vb_writer *writer = vb_destination_create(policy, spec, error);

	if (!writer)
		return -1;

	int result = writer->ops->prepare(writer, NULL, error) || writer->ops->publish(writer, error) ? -1 : 0;

	if (result && !writer->published)
		remove_target(writer);
	writer->ops->close(writer);
	return result;
}

static int resize_raw(struct vb_writer *writer, uint64_t size_bytes, struct vb_error *error)
{
	if (writer->file.is_block_device)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, writer->file.path, -1, "A block device cannot be resized");
	if (vb_sys->ftruncate(writer->file.fd, (off_t)size_bytes))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, writer->file.path, -1, "Cannot set the image's length to %llu bytes",
			       (unsigned long long)size_bytes);
	return vb_fsync(writer->file.fd, writer->file.path, error);
}

/* What the image's backing file has: growing must not bring to light what lies there behind the old end. */
static int find_backing_size(const struct vb_policy *policy, const char *path, uint64_t *size_bytes, struct vb_error *error)
{
	struct vb_layer_spec top = {.path = path, .format = VB_FORMAT_QCOW2};
	struct vb_chain *chain = vb_chain_open(policy, &top, 1, false, VB_LOCK_NONE, error);

	if (!chain)
		return -1;
	*size_bytes = vb_chain_depth(chain) > 1 ? vb_layer_info(vb_chain_layer(chain, 1))->virtual_size_bytes : 0;
	vb_chain_close(chain);
	return 0;
}

int vb_image_resize(const struct vb_policy *policy, const char *path, enum vb_format format, uint64_t size_bytes,
		    struct vb_error *error)
{
	uint64_t backing_bytes;
	int result;

	if (size_bytes > INT64_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, path, -1, "An image cannot have %llu bytes", (unsigned long long)size_bytes);

	struct vb_writer *writer = vb_image_open_writable(policy, path, format, error);

	if (!writer)
		return -1;
	if (format == VB_FORMAT_RAW)
		result = resize_raw(writer, size_bytes, error);
	else
		result = find_backing_size(policy, path, &backing_bytes, error) ||
			 vb_qcow2_grow(writer, size_bytes, backing_bytes, error) ? -1 : 0;
	writer->ops->close(writer);
	return result;
}
