/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compressed qcow2 writer's state, shared by its parts: qcow2_compressed_writer.c compresses and moves data, qcow2_packing.c
 * says where it goes, qcow2_compressed_metadata.c generates the tables at the end. Internal to the core.
 */
#ifndef VB_QCOW2_COMPRESSED_WRITER_H
#define VB_QCOW2_COMPRESSED_WRITER_H

#include <pthread.h>
#include <stdatomic.h>

#include "destination.h"
#include "qcow2_layout.h"
#include "qcow2_packing.h"

#define VB_ENTRY_PENDING VB_QCOW2_ZERO   /* packed, and not yet in the file */

struct packer;

struct compressed_writer {
	struct vb_writer base;
	struct vb_file target;        /* unused for a block device */
	bool is_device;
	enum vb_compression compression;
	struct vb_qcow2_layout layout;   /* its runs and ranks; nothing lies where it says */
	bool has_zero_entries;        /* top mode: what reads as zeros must say so */
	_Atomic uint64_t *entries;    /* the L2 entry of each data cluster, by rank; 0: not written */
	pthread_mutex_t mutex;        /* of what follows */
	struct vb_packing packing;
	struct packer *idle;
};

/* Everything but the header: L2 tables, L1, refcount table and blocks, behind the data. Fills the tables' places in. */
struct vb_qcow2_new_header;
int vb_qcow2_compressed_write_metadata(struct compressed_writer *self, struct vb_qcow2_new_header *header, struct vb_error *error);

#endif
