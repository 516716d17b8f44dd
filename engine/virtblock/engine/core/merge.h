/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pull and commit: data of some layers of a chain moves into another layer of it, in place.
 *
 * Owns: the chain that is merged, the image that is written, and the change of the backing reference that ends it. A merge is a
 * copy (copy.h) with a plan of its own and other first and last steps; its vb_copy shows and controls it.
 * Invariants: until vb_merge_run nothing changes on disk. From then on every image is a good one at every moment, whatever dies, and the disk
 * reads the same; running the merge again completes it. The backing reference changes last, when all data is durable. The image
 * written and the one whose reference changes have the writer's lock, all others the reader's.
 */
#ifndef VB_MERGE_H
#define VB_MERGE_H

#include "copy.h"

struct vb_merge_request {
	struct vb_merge_span span;     /* base_index of a pull: SIZE_MAX for everything below */
	const char *backing_path;      /* how the base is recorded in the image that is put over it; NULL: its absolute path */
	bool durable;                  /* false only for throw-away images */
};

struct vb_merge;

/*
 * Opens the chain as vb_chain_open does, and checks. Of `options` the mode, the space check and sharing do not count.
 * Failures: those of vb_chain_open; INVALID (indexes, a backing path that leads elsewhere or does not fit the header), LOCKED,
 * SIZE (a block device that is too small for a commit), UNSUPPORTED (internal snapshots that need what a pull takes away), FORMAT.
 */
struct vb_merge *vb_merge_open(const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count, bool terminated,
			       const struct vb_merge_request *request, const struct vb_copy_options *options, struct vb_error *error);
/* As vb_copy_run. What was moved before a cancel stays moved. */
int vb_merge_run(struct vb_merge *merge, struct vb_error *error);
/* To be shown and controlled; valid until vb_merge_close. */
struct vb_copy *vb_merge_copy(struct vb_merge *merge);
const struct vb_chain *vb_merge_chain(const struct vb_merge *merge);
void vb_merge_close(struct vb_merge *merge);

#endif
