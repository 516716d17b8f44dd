/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: writing qcow2 files for tests. Layout: header, empty refcount table, then content as it comes, L2 tables, L1 table. */
#include "image_builder.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "check.h"
#include "qcow2.h"

static uint64_t cluster_bytes(const struct builder *builder)
{
	return 1ull << builder->cluster_bits;
}

static void put(int fd, const void *bytes, size_t length, uint64_t offset_bytes)
{
	CHECK_EQUAL(pwrite(fd, bytes, length, (off_t)offset_bytes), length);
}

void builder_start(struct builder *builder, const char *path, uint32_t version, uint32_t cluster_bits, uint64_t size_bytes)
{
	uint64_t span = vb_qcow2_l2_span_bytes(cluster_bits);

	*builder = (struct builder){ .version = version, .cluster_bits = cluster_bits, .size_bytes = size_bytes };
	snprintf(builder->path, sizeof(builder->path), "%s", path);
	builder->fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(builder->fd >= 0);
	builder->end_bytes = 2 * cluster_bytes(builder);
	builder->l1_count = (size_bytes + span - 1) / span;
	builder->l1 = calloc(builder->l1_count + 1, sizeof(*builder->l1));
	builder->l2 = calloc(builder->l1_count + 1, sizeof(*builder->l2));
	CHECK(builder->l1 != NULL && builder->l2 != NULL);
}

uint64_t *builder_entry(struct builder *builder, uint64_t cluster)
{
	uint64_t count = cluster_bytes(builder) / 8, slot = cluster / count;

	CHECK(slot < builder->l1_count);
	if (builder->l2[slot] == NULL)
		builder->l2[slot] = calloc(count, sizeof(uint64_t));
	CHECK(builder->l2[slot] != NULL);
	return &builder->l2[slot][cluster % count];
}

static uint64_t take_aligned(struct builder *builder)
{
	uint64_t mask = cluster_bytes(builder) - 1, offset = (builder->end_bytes + mask) & ~mask;

	builder->end_bytes = offset + cluster_bytes(builder);
	return offset;
}

void builder_put_data(struct builder *builder, uint64_t cluster, const void *content)
{
	uint64_t offset = take_aligned(builder);

	put(builder->fd, content, cluster_bytes(builder), offset);
	*builder_entry(builder, cluster) = offset | VB_QCOW2_COPIED;
}

void builder_put_zero(struct builder *builder, uint64_t cluster, bool preallocated)
{
	uint64_t offset = 0;

	if (preallocated) {
		char *garbage = malloc(cluster_bytes(builder));

		CHECK(garbage != NULL);
		memset(garbage, 0x5a, cluster_bytes(builder));
		offset = take_aligned(builder);
		put(builder->fd, garbage, cluster_bytes(builder), offset);
		free(garbage);
	}
	*builder_entry(builder, cluster) = offset | VB_QCOW2_ZERO;
}

static size_t compress_deflate(const void *content, size_t length, void *output, size_t capacity)
{
	z_stream stream = { 0 };
	size_t result;

	CHECK_EQUAL(deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
	stream.next_in = (Bytef *)(uintptr_t)content;
	stream.avail_in = (uInt)length;
	stream.next_out = output;
	stream.avail_out = (uInt)capacity;
	result = deflate(&stream, Z_FINISH) == Z_STREAM_END ? stream.total_out : 0;
	deflateEnd(&stream);
	return result;
}

size_t builder_compress(enum vb_compression compression, const void *content, size_t length, void *output, size_t capacity)
{
	size_t result;

	if (compression == VB_COMPRESSION_DEFLATE)
		return compress_deflate(content, length, output, capacity);
	result = ZSTD_compress(output, capacity, content, length, 3);
	return ZSTD_isError(result) ? 0 : result;
}

uint64_t builder_compressed_entry(uint32_t cluster_bits, uint64_t offset_bytes, uint64_t length_bytes)
{
	uint64_t sectors = (offset_bytes + length_bytes - 1) / 512 - offset_bytes / 512;

	return VB_QCOW2_COMPRESSED | sectors << (62 - (cluster_bits - 8)) | offset_bytes;
}

void builder_put_compressed(struct builder *builder, uint64_t cluster, const void *content)
{
	size_t capacity = cluster_bytes(builder) - 1, length;
	void *output = malloc(capacity);

	CHECK(output != NULL);
	length = builder_compress(builder->compression, content, cluster_bytes(builder), output, capacity);
	if (length == 0) {
		builder_put_data(builder, cluster, content);
	} else {
		/* One byte behind the last: clusters share sectors and cross the borders of host clusters. */
		put(builder->fd, output, length, builder->end_bytes);
		*builder_entry(builder, cluster) = builder_compressed_entry(builder->cluster_bits, builder->end_bytes, length);
		builder->end_bytes += length;
	}
	free(output);
}

static void write_tables(struct builder *builder, uint64_t *l1_offset)
{
	uint64_t count = cluster_bytes(builder) / 8;

	for (uint64_t slot = 0; slot < builder->l1_count; slot++) {
		uint64_t offset;

		if (builder->l2[slot] == NULL)
			continue;
		offset = take_aligned(builder);
		for (uint64_t i = 0; i < count; i++)
			vb_store_be64(&builder->l2[slot][i], builder->l2[slot][i]);
		put(builder->fd, builder->l2[slot], cluster_bytes(builder), offset);
		free(builder->l2[slot]);
		if (builder->l1[slot] == 0)
			builder->l1[slot] = offset | VB_QCOW2_COPIED;
	}
	*l1_offset = take_aligned(builder);
	for (uint64_t slot = 0; slot < builder->l1_count; slot++)
		vb_store_be64(&builder->l1[slot], builder->l1[slot]);
	put(builder->fd, builder->l1, builder->l1_count * 8, *l1_offset);
}

static size_t write_extensions(const struct builder *builder, uint8_t *head, size_t at)
{
	if (builder->backing_format != NULL) {
		size_t length = strlen(builder->backing_format);

		vb_store_be32(head + at, VB_QCOW2_EXTENSION_BACKING_FORMAT);
		vb_store_be32(head + at + 4, (uint32_t)length);
		memcpy(head + at + 8, builder->backing_format, length);
		at += 8 + ((length + 7) & ~(size_t)7);
	}
	return at + 8;
}

void builder_finish(struct builder *builder)
{
	uint8_t head[512] = { 0 };
	uint64_t l1_offset;
	size_t at = builder->version == 2 ? VB_QCOW2_HEADER_BYTES_V2 : VB_QCOW2_HEADER_BYTES_V3;

	write_tables(builder, &l1_offset);
	vb_store_be32(head + VB_QCOW2_AT_MAGIC, VB_QCOW2_MAGIC);
	vb_store_be32(head + VB_QCOW2_AT_VERSION, builder->version);
	vb_store_be32(head + VB_QCOW2_AT_CLUSTER_BITS, builder->cluster_bits);
	vb_store_be64(head + VB_QCOW2_AT_SIZE, builder->size_bytes);
	vb_store_be32(head + VB_QCOW2_AT_L1_SIZE, (uint32_t)builder->l1_count);
	vb_store_be64(head + VB_QCOW2_AT_L1_OFFSET, l1_offset);
	vb_store_be64(head + VB_QCOW2_AT_REFTABLE_OFFSET, cluster_bytes(builder));
	vb_store_be32(head + VB_QCOW2_AT_REFTABLE_CLUSTERS, 1);
	if (builder->version == 3) {
		vb_store_be32(head + VB_QCOW2_AT_REFCOUNT_ORDER, 4);
		vb_store_be32(head + VB_QCOW2_AT_HEADER_LENGTH, VB_QCOW2_HEADER_BYTES_V3);
		if (builder->compression == VB_COMPRESSION_ZSTD) {
			vb_store_be64(head + VB_QCOW2_AT_INCOMPATIBLE, VB_QCOW2_INCOMPATIBLE_COMPRESSION);
			head[VB_QCOW2_AT_COMPRESSION] = VB_COMPRESSION_ZSTD;
		}
	}
	at = write_extensions(builder, head, at);
	if (builder->backing_name != NULL) {
		CHECK(at + strlen(builder->backing_name) <= sizeof(head));
		memcpy(head + at, builder->backing_name, strlen(builder->backing_name));
		vb_store_be64(head + VB_QCOW2_AT_BACKING_OFFSET, at);
		vb_store_be32(head + VB_QCOW2_AT_BACKING_SIZE, (uint32_t)strlen(builder->backing_name));
	}
	put(builder->fd, head, sizeof(head), 0);
	close(builder->fd);
	free(builder->l1);
	free(builder->l2);
}

void patch_be32(const char *path, uint64_t offset_bytes, uint32_t value)
{
	int fd = open(path, O_RDWR);

	vb_store_be32(&value, value);
	CHECK(fd >= 0);
	put(fd, &value, sizeof(value), offset_bytes);
	close(fd);
}

void patch_be64(const char *path, uint64_t offset_bytes, uint64_t value)
{
	int fd = open(path, O_RDWR);

	vb_store_be64(&value, value);
	CHECK(fd >= 0);
	put(fd, &value, sizeof(value), offset_bytes);
	close(fd);
}

void cut_file(const char *path, uint64_t size_bytes)
{
	CHECK_EQUAL(truncate(path, (off_t)size_bytes), 0);
}
