/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Source images: one layer, and the chain of layers that a disk is made of. Read only.
 *
 * Owns: opening and validating images (raw, qcow2 2 and 3), their allocation maps, and reading one extent.
 * Invariants: a source is opened O_RDONLY and never written. A layer's map covers every byte of [0, size) in ascending,
 * gapless extents. All limits on tables are checked before memory is taken. A layer and a chain are immutable after open and
 * may be read by many lanes at once, each with its own `vb_reader`.
 */
#ifndef VB_IMAGE_H
#define VB_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "lock.h"
#include "policy.h"

enum vb_format { VB_FORMAT_RAW = 1, VB_FORMAT_QCOW2 = 2 };
enum vb_compression { VB_COMPRESSION_DEFLATE = 0, VB_COMPRESSION_ZSTD = 1 };

#define VB_CHAIN_DEPTH_MAX 200u   /* libvirt's own limit for a backing chain */

enum vb_extent_kind {
	VB_EXTENT_UNALLOCATED = 0,   /* this layer says nothing: the layer below decides, zeros at the bottom */
	VB_EXTENT_ZERO = 1,          /* reads as zeros, whatever lies below */
	VB_EXTENT_DATA = 2,          /* at host_offset in the layer's file, contiguous */
	VB_EXTENT_COMPRESSED = 3     /* one compressed cluster (or a part of its content) */
};

/* What one layer knows of a guest range. For COMPRESSED, host_offset and host_length name the compressed bytes of the whole
 * cluster, and the extent never reaches over the end of that cluster's content. */
struct vb_extent {
	uint64_t start_bytes;
	uint64_t length_bytes;
	uint64_t host_offset_bytes;
	uint32_t host_length_bytes;   /* COMPRESSED only */
	uint16_t layer_index;         /* 0 is the top; filled by the chain */
	uint8_t kind;                 /* enum vb_extent_kind */
};

static inline bool vb_extent_is_data(const struct vb_extent *extent)
{
	return extent->kind == VB_EXTENT_DATA || extent->kind == VB_EXTENT_COMPRESSED;
}

/* What an image says of itself; valid as long as its layer is. */
struct vb_image_info {
	enum vb_format format;
	uint64_t virtual_size_bytes;      /* to the byte, also where it is no multiple of 512 (QEMU rounds raw up and qcow2 down) */
	uint64_t allocated_bytes;         /* st_blocks * 512 of the file */
	const char *backing_path;         /* as recorded, NULL if none */
	const char *backing_format;       /* as recorded, NULL if not recorded */
	const char *data_path;            /* the external data file as recorded, NULL if the image holds its data itself */
	uint32_t cluster_size_bytes;      /* 0 for raw */
	uint32_t version;                 /* qcow2: 2 or 3; 0 for raw */
	enum vb_compression compression;
	uint32_t refcount_bits;
	uint32_t snapshot_count;
	uint64_t incompatible_features;
	uint64_t compatible_features;
	uint64_t autoclear_features;
	bool has_compressed;              /* false only if known to have none; true is "may have" */
};

struct vb_layer;
struct vb_chain;

/* Opens one image alone, its backing file not followed, an external data file not opened. `file` is taken over (closed with the layer, also on failure). */
struct vb_layer *vb_layer_open(struct vb_file *file, enum vb_format format, struct vb_error *error);
void vb_layer_close(struct vb_layer *layer);
const struct vb_image_info *vb_layer_info(const struct vb_layer *layer);
const struct vb_file *vb_layer_file(const struct vb_layer *layer);
/* Where DATA extents lie: the image's external data file, for most the image itself. */
const struct vb_file *vb_layer_data_file(const struct vb_layer *layer);

/* Calls `visit` for every extent of [start, start+length) in order; neighbours of one kind that are contiguous are merged.
 * A range beyond virtual_size is reported as one UNALLOCATED extent. `visit` returns 0 to go on, negative to stop. */
typedef int (*vb_extent_visitor)(void *opaque, const struct vb_extent *extent, struct vb_error *error);
int vb_layer_map(struct vb_layer *layer, uint64_t start_bytes, uint64_t length_bytes, vb_extent_visitor visit, void *opaque,
		 struct vb_error *error);

/* One image of a chain that the caller names (from the domain's definition). */
struct vb_layer_spec {
	const char *path;
	enum vb_format format;
};

/*
 * Opens a chain. specs[0] is the top and is required. Further specs are what the domain's definition says of the backing
 * images, in order; each must be the file that the image above names (same device and inode), and its format counts even where
 * the image recorded none. Below the last spec the images' own headers are followed: a backing format must be recorded
 * (VB_ERROR_BACKING_FORMAT otherwise), relative names resolve from the folder of the image that holds them, names with a
 * protocol or "json:" are VB_ERROR_DENIED ("file:" is stripped), a missing file is VB_ERROR_BACKING with ENOENT, a file that occurs twice is
 * VB_ERROR_BACKING (loop). An external data file must be named by the image and to the policy (vb_policy_name_data_file), both names leading to
 * one file that is no image of the chain; else VB_ERROR_DENIED. `terminated`: the last spec is the bottom by the definition, follow nothing below it.
 * Every layer gets a lock of `role` (READER or NONE).
 */
struct vb_chain *vb_chain_open(const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count,
			       bool terminated, enum vb_lock_role role, struct vb_error *error);
/* Likewise for a merge: every layer gets the reader's lock, but those of the indexes `written` the writer's. */
struct vb_chain *vb_chain_open_to_merge(const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count,
					bool terminated, const size_t *written, size_t written_count, struct vb_error *error);
/* Whether `recorded`, were layer `index` to record it, would lead to layer `below_index`; INVALID if not. */
int vb_chain_check_name(const struct vb_policy *policy, const struct vb_chain *chain, size_t index, const char *recorded,
			size_t below_index, struct vb_error *error);
void vb_chain_close(struct vb_chain *chain);
size_t vb_chain_depth(const struct vb_chain *chain);
struct vb_layer *vb_chain_layer(const struct vb_chain *chain, size_t index);
uint64_t vb_chain_size_bytes(const struct vb_chain *chain);   /* of the top */

/* "raw" or "qcow2" by the first bytes, 0 on failure; only for REUSE_EXT, where libvirt probes too. An unfinished copy in a qcow2
 * file counts as qcow2. */
enum vb_format vb_format_probe(const struct vb_file *file, struct vb_error *error);

/* A lane's private means to read: decompressors and their buffers. Not shared between threads. */
struct vb_reader;
struct vb_reader *vb_reader_new(const struct vb_chain *chain, struct vb_error *error);
void vb_reader_free(struct vb_reader *reader);
/* Reads extent bytes [skip, skip+length) of a DATA or COMPRESSED extent of the chain's plan into buffer. A whole compressed cluster
 * decoded last is kept, so that reading it in pieces decodes once. */
int vb_reader_read(struct vb_reader *reader, const struct vb_extent *extent, uint64_t skip_bytes, void *buffer, size_t length,
		   struct vb_error *error);

#endif
