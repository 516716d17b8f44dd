/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: see qcow2_new_header.h. */
#include "qcow2_new_header.h"

#include <stdlib.h>
#include <string.h>

#include "sys.h"

static size_t put_extension(uint8_t *bytes, size_t at, uint32_t type, const char *text)
{
	size_t length = text ? strlen(text) : 0;

	vb_store_be32(bytes + at, type);
	vb_store_be32(bytes + at + 4, (uint32_t)length);
	if (length)
		memcpy(bytes + at + 8, text, length);
	return at + 8 + (length + 7) / 8 * 8;
}

size_t vb_qcow2_new_header_name_offset(const struct vb_destination_spec *spec)
{
	size_t format_length = spec->backing_format ? strlen(spec->backing_format) : 0;

	return VB_QCOW2_HEADER_BYTES_V3 + 8 + (format_length + 7) / 8 * 8 + 8;
}

static void fill(uint8_t *bytes, const struct vb_destination_spec *spec, const struct vb_qcow2_new_header *header)
{
	vb_store_be32(bytes + VB_QCOW2_AT_MAGIC, VB_QCOW2_MAGIC);
	vb_store_be32(bytes + VB_QCOW2_AT_VERSION, 3);
	vb_store_be32(bytes + VB_QCOW2_AT_CLUSTER_BITS, header->cluster_bits);
	vb_store_be64(bytes + VB_QCOW2_AT_SIZE, header->size_bytes);
	vb_store_be32(bytes + VB_QCOW2_AT_L1_SIZE, (uint32_t)header->l1_entry_count);
	vb_store_be64(bytes + VB_QCOW2_AT_L1_OFFSET, header->l1_offset_bytes);
	vb_store_be64(bytes + VB_QCOW2_AT_REFTABLE_OFFSET, header->reftable_offset_bytes);
	vb_store_be32(bytes + VB_QCOW2_AT_REFTABLE_CLUSTERS, (uint32_t)header->reftable_clusters);
	vb_store_be64(bytes + VB_QCOW2_AT_INCOMPATIBLE, header->incompatible_features);
	vb_store_be32(bytes + VB_QCOW2_AT_REFCOUNT_ORDER, VB_QCOW2_REFCOUNT_ORDER_V2);
	vb_store_be32(bytes + VB_QCOW2_AT_HEADER_LENGTH, VB_QCOW2_HEADER_BYTES_V3);
	bytes[VB_QCOW2_AT_COMPRESSION] = (uint8_t)header->compression;

	size_t at = VB_QCOW2_HEADER_BYTES_V3;

	if (spec->backing_path) {
		size_t name_at = vb_qcow2_new_header_name_offset(spec);

		at = put_extension(bytes, at, VB_QCOW2_EXTENSION_BACKING_FORMAT, spec->backing_format);
		vb_store_be64(bytes + VB_QCOW2_AT_BACKING_OFFSET, name_at);
		vb_store_be32(bytes + VB_QCOW2_AT_BACKING_SIZE, (uint32_t)strlen(spec->backing_path));
		memcpy(bytes + name_at, spec->backing_path, strlen(spec->backing_path));
	}
	put_extension(bytes, at, VB_QCOW2_EXTENSION_END, NULL);
}

int vb_qcow2_new_header_write(const struct vb_writer *writer, const struct vb_qcow2_new_header *header, struct vb_error *error)
{
	size_t cluster_bytes = (size_t)1 << header->cluster_bits;
	uint8_t *bytes = calloc(1, cluster_bytes);

	if (!bytes)
		return vb_fail(error, VB_ERROR_MEMORY, 0, writer->file.path, -1, "No memory for the image's header");
	fill(bytes, &writer->spec, header);

	int result = vb_pwrite_full(writer->file.fd, writer->file.path, bytes, cluster_bytes, 0, error);

	free(bytes);
	return result;
}
