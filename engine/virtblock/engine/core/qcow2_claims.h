/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which host clusters of an existing qcow2 image are in use, by what the image itself says. Internal to the core.
 *
 * Owns: one bit per host cluster, set for everything but bitmaps: header, refcount table and blocks, the active and every
 * snapshot's L1, L2 and data clusters, and the snapshot table. Invariants: an image is not trusted: each table is read once however often
 * it is named, and what lies behind all clusters with a refcount is refused, and so is what lies in the header or the refcounts, which
 * any change writes. What claims a cluster alone finds it unclaimed and
 * with a refcount of 1, so that giving it back takes it from nobody.
 */
#ifndef VB_QCOW2_CLAIMS_H
#define VB_QCOW2_CLAIMS_H

#include "qcow2.h"
#include "qcow2_refcounts.h"

struct vb_qcow2_claims {
	const struct vb_file *file;
	const struct vb_qcow2_header *header;
	struct vb_refcounts *refcounts;
	uint64_t count;     /* host clusters */
	uint64_t *bits;
	uint64_t *fixed;    /* one bit per host cluster of header and refcounts, which nothing else may name */
	uint64_t *tables;   /* one bit per host cluster that was read as a table */
};

/* Reads all tables. FORMAT where the image contradicts itself. */
int vb_qcow2_claims_open(struct vb_qcow2_claims *claims, const struct vb_file *file, const struct vb_qcow2_header *header,
			 struct vb_refcounts *refcounts, struct vb_error *error);
void vb_qcow2_claims_close(struct vb_qcow2_claims *claims);

/* Claims whole clusters for one owner alone; FORMAT when another has one, or its refcount is not 1. `at_bytes`: where the file says so. */
int vb_qcow2_claim_alone(struct vb_qcow2_claims *claims, uint64_t offset_bytes, uint64_t length_bytes, uint64_t at_bytes,
			 struct vb_error *error);

#endif
