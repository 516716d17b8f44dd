/* SPDX-License-Identifier: Apache-2.0 */
/* Running whole copies in tests, and making disks worth copying. */
#ifndef COPY_RUNNER_H
#define COPY_RUNNER_H

#include "copy.h"

/* Zero means: the default of the copy, raw format is 1. `check_space` is always on, and copies are durable. */
struct copy_request {
	const char *source;
	enum vb_format source_format;
	const char *destination;
	enum vb_format format;
	enum vb_plan_mode mode;
	bool reuse;
	const char *backing_path;
	const char *backing_format;
	uint32_t cluster_size_bytes;
	bool extended_l2;
	enum vb_preallocation preallocation;
	uint32_t granule_bytes;
	uint32_t lane_count;
	uint64_t bandwidth_bytes_per_s;
	enum vb_reflink reflink;
	enum vb_compress compression;
	const char *folder;   /* the only one that is allowed; NULL: all are */
	const char *bitmap_name;
	const char *data_file;   /* of the source */
	const char *journal_path;
	bool resume;
	uint32_t journal_interval_ms;
	bool keeps_unfinished;
	char *digest;        /* filled with the digest of the copy; NULL: not wanted */
	bool *is_resumed;    /* filled; may be NULL */
};

/* Opens, copies, closes. `progress` (may be NULL) is the last one of the copy. */
int run_copy(const struct copy_request *request, struct vb_copy_progress *progress, struct vb_error *error);

/* A raw disk of pieces of noise, holes, and zeros that are stored; the same for the same seed. Pieces begin anywhere. */
void make_disk(const char *path, uint64_t size_bytes, unsigned piece_count, unsigned long long seed);
/* Both read the same: byte for byte, the longer one's rest being zeros (a qcow2 disk ends at a multiple of 512). */
void check_same(const char *left, enum vb_format left_format, const char *right, enum vb_format right_format);
/* `qemu-img check` finds nothing; with `leaks_allowed` it may find clusters that nobody uses. */
void check_image(const char *path, bool leaks_allowed);
uint64_t file_size(const char *path);
bool exists(const char *path);

#endif
