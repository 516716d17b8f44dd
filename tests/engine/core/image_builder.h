/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds qcow2 images cluster by cluster, also ones that no other program would write. Reference counts are left empty: reading does not need
 * them. Guest content is what the caller put, so a test knows what must be read.
 */
#ifndef IMAGE_BUILDER_H
#define IMAGE_BUILDER_H

#include <stdbool.h>
#include <stdint.h>

#include "image.h"

struct builder {
	char path[4096];
	int fd;
	uint32_t version;
	uint32_t cluster_bits;
	uint64_t size_bytes;
	enum vb_compression compression;
	const char *backing_name;     /* NULL: none */
	const char *backing_format;   /* NULL: not recorded */
	uint64_t end_bytes;           /* next free byte of the file; data clusters are aligned when put */
	uint64_t l1_count;
	uint64_t *l1;                 /* host order */
	uint64_t **l2;                /* host order, NULL where absent */
};

/* Clusters are 1 << cluster_bits; the caller may set compression and backing before builder_finish. */
void builder_start(struct builder *builder, const char *path, uint32_t version, uint32_t cluster_bits, uint64_t size_bytes);
/* The L2 entry of a guest cluster, to be set to anything. */
uint64_t *builder_entry(struct builder *builder, uint64_t cluster);
/* Puts one whole cluster of content. builder_put_compressed returns the entry's content offset; the entry names exactly the sectors needed. */
void builder_put_data(struct builder *builder, uint64_t cluster, const void *content);
void builder_put_zero(struct builder *builder, uint64_t cluster, bool preallocated);
void builder_put_compressed(struct builder *builder, uint64_t cluster, const void *content);
/* Compresses one cluster as QEMU would; returns the length, 0 if it does not get shorter. */
size_t builder_compress(enum vb_compression compression, const void *content, size_t length, void *output, size_t capacity);
uint64_t builder_compressed_entry(uint32_t cluster_bits, uint64_t offset_bytes, uint64_t length_bytes);
/* Writes tables and header, and closes the file. */
void builder_finish(struct builder *builder);

/* Changes bytes of a finished file. */
void patch_be32(const char *path, uint64_t offset_bytes, uint32_t value);
void patch_be64(const char *path, uint64_t offset_bytes, uint64_t value);
void cut_file(const char *path, uint64_t size_bytes);

#endif
