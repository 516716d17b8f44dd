/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of a new qcow2 image (version 3, 16-bit refcounts). Internal to the core.
 *
 * Owns: its bytes. Invariants: it is one whole cluster and written at once, the last thing that makes a file an image.
 */
#ifndef VB_QCOW2_NEW_HEADER_H
#define VB_QCOW2_NEW_HEADER_H

#include "qcow2.h"
#include "writer.h"

/* Where the tables lie and what the image needs; the backing file is the spec's. */
struct vb_qcow2_new_header {
	uint32_t cluster_bits;
	uint64_t size_bytes;
	uint64_t l1_entry_count;
	uint64_t l1_offset_bytes;
	uint64_t reftable_offset_bytes;
	uint64_t reftable_clusters;
	uint64_t incompatible_features;
	enum vb_compression compression;   /* zstd needs its incompatible feature bit */
};

int vb_qcow2_new_header_write(const struct vb_writer *writer, const struct vb_qcow2_new_header *header, struct vb_error *error);
/* Where the backing file's name starts in the header cluster. */
size_t vb_qcow2_new_header_name_offset(const struct vb_destination_spec *spec);

#endif
