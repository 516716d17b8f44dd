/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Owns: parsing and checking a qcow2 header and its extensions.
 * Every check that fails names the field, its value and the limit. The limits are QEMU's (block/qcow2.c), so what QEMU opens read-only
 * opens here, but for the features that are refused by name.
 */
#include <errno.h>
#include <stdlib.h>

#include "image.h"
#include "qcow2.h"
#include "sys.h"
#include "writer.h"

#define FEATURE_NAME_BYTES 48u
#define KNOWN_INCOMPATIBLE                                                                                                  \
	(VB_QCOW2_INCOMPATIBLE_DIRTY | VB_QCOW2_INCOMPATIBLE_CORRUPT | VB_QCOW2_INCOMPATIBLE_DATA_FILE |                    \
	 VB_QCOW2_INCOMPATIBLE_COMPRESSION | VB_QCOW2_INCOMPATIBLE_EXTENDED_L2)

/* What a parse step works on. */
struct parse {
	const uint8_t *head;
	size_t head_bytes;
	uint64_t file_size_bytes;
	const char *path;
	struct vb_qcow2_header *header;
	struct vb_error *error;
};

typedef unsigned long long ull;

static int refuse(const struct parse *parse, int64_t at, const char *field, uint64_t value, const char *rule)
{
	return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, at, "Invalid qcow2 header: %s is %llu, but %s", field, (ull)value, rule);
}

static int refuse_above(const struct parse *parse, int64_t at, const char *field, uint64_t value, uint64_t limit)
{
	return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, at, "Invalid qcow2 header: %s is %llu, more than the limit of %llu", field,
		       (ull)value, (ull)limit);
}

static int refuse_feature(const struct parse *parse, const char *feature)
{
	return vb_fail(parse->error, VB_ERROR_UNSUPPORTED, ENOTSUP, parse->path, -1, "A qcow2 image with %s is not supported", feature);
}

static int parse_start(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;
	uint32_t magic = parse->head_bytes >= 4 ? vb_load_be32(parse->head + VB_QCOW2_AT_MAGIC) : 0;

	if (magic == VB_UNFINISHED_MAGIC)
		return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, 0, "The image is an unfinished copy");
	if (magic != VB_QCOW2_MAGIC)
		return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, 0, "Image is not in qcow2 format");
	if (parse->head_bytes < VB_QCOW2_HEADER_BYTES_V2)
		return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, -1,
			       "The file is truncated: %llu bytes do not hold a qcow2 header", (ull)parse->file_size_bytes);
	header->version = vb_load_be32(parse->head + VB_QCOW2_AT_VERSION);
	if (header->version != 2 && header->version != 3)
		return vb_fail(parse->error, VB_ERROR_UNSUPPORTED, ENOTSUP, parse->path, VB_QCOW2_AT_VERSION,
			       "Unsupported qcow2 version %u", header->version);
	header->cluster_bits = vb_load_be32(parse->head + VB_QCOW2_AT_CLUSTER_BITS);
	if (header->cluster_bits < VB_QCOW2_CLUSTER_BITS_MIN || header->cluster_bits > VB_QCOW2_CLUSTER_BITS_MAX)
		return refuse(parse, VB_QCOW2_AT_CLUSTER_BITS, "cluster_bits", header->cluster_bits, "must be between 9 and 21");
	header->cluster_size_bytes = 1u << header->cluster_bits;
	return 0;
}

static int parse_version2(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;

	header->refcount_order = VB_QCOW2_REFCOUNT_ORDER_V2;
	header->header_length_bytes = VB_QCOW2_HEADER_BYTES_V2;
	return 0;
}

static int parse_version3(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;

	if (parse->head_bytes < VB_QCOW2_HEADER_BYTES_V3_MIN)
		return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, -1,
			       "The file is truncated: %llu bytes do not hold a qcow2 version 3 header", (ull)parse->file_size_bytes);
	header->incompatible_features = vb_load_be64(parse->head + VB_QCOW2_AT_INCOMPATIBLE);
	header->compatible_features = vb_load_be64(parse->head + VB_QCOW2_AT_COMPATIBLE);
	header->autoclear_features = vb_load_be64(parse->head + VB_QCOW2_AT_AUTOCLEAR);
	header->refcount_order = vb_load_be32(parse->head + VB_QCOW2_AT_REFCOUNT_ORDER);
	header->header_length_bytes = vb_load_be32(parse->head + VB_QCOW2_AT_HEADER_LENGTH);
	if (header->header_length_bytes < VB_QCOW2_HEADER_BYTES_V3_MIN)
		return refuse(parse, VB_QCOW2_AT_HEADER_LENGTH, "header_length", header->header_length_bytes, "must be at least 104");
	if (header->header_length_bytes > header->cluster_size_bytes)
		return refuse_above(parse, VB_QCOW2_AT_HEADER_LENGTH, "header_length", header->header_length_bytes,
				    header->cluster_size_bytes);
	if (header->header_length_bytes > VB_QCOW2_AT_COMPRESSION && parse->head_bytes > VB_QCOW2_AT_COMPRESSION)
		header->compression_type = parse->head[VB_QCOW2_AT_COMPRESSION];
	return 0;
}

/* The name that the image itself gives to an incompatible feature; "" if it gives none. */
static void feature_name(const struct parse *parse, uint32_t bit, char name[FEATURE_NAME_BYTES])
{
	uint64_t at = parse->header->header_length_bytes;

	name[0] = '\0';
	while (at + 8 <= parse->head_bytes) {
		uint32_t type = vb_load_be32(parse->head + at), length = vb_load_be32(parse->head + at + 4);

		at += 8;
		if (type == VB_QCOW2_EXTENSION_END || length > parse->head_bytes - at)
			return;
		for (uint64_t entry = at; type == VB_QCOW2_EXTENSION_FEATURE_NAMES && entry + FEATURE_NAME_BYTES <= at + length;
		     entry += FEATURE_NAME_BYTES) {
			if (parse->head[entry] != 0 || parse->head[entry + 1] != bit)
				continue;
			memcpy(name, parse->head + entry + 2, FEATURE_NAME_BYTES - 2);
			name[FEATURE_NAME_BYTES - 2] = '\0';
			return;
		}
		at += ((uint64_t)length + 7) & ~7ull;
	}
}

static int check_unknown_features(const struct parse *parse)
{
	uint64_t unknown = parse->header->incompatible_features & ~KNOWN_INCOMPATIBLE;
	char name[FEATURE_NAME_BYTES];
	uint32_t bit;

	if (unknown == 0)
		return 0;
	bit = (uint32_t)__builtin_ctzll(unknown);
	feature_name(parse, bit, name);
	return vb_fail(parse->error, VB_ERROR_UNSUPPORTED, ENOTSUP, parse->path, VB_QCOW2_AT_INCOMPATIBLE,
		       "Unsupported qcow2 feature: incompatible feature bit %u%s%s%s", bit, name[0] != '\0' ? " (\"" : "", name,
		       name[0] != '\0' ? "\")" : "");
}

static int check_compression(const struct parse *parse)
{
	uint8_t type = parse->header->compression_type;
	bool bit = (parse->header->incompatible_features & VB_QCOW2_INCOMPATIBLE_COMPRESSION) != 0;

	if (bit && type == VB_COMPRESSION_DEFLATE)
		return refuse(parse, VB_QCOW2_AT_COMPRESSION, "compression_type", type, "The compression feature bit is set");
	if (!bit && type != VB_COMPRESSION_DEFLATE)
		return refuse(parse, VB_QCOW2_AT_COMPRESSION, "compression_type", type, "The compression feature bit is not set");
	if (type > VB_COMPRESSION_ZSTD)
		return vb_fail(parse->error, VB_ERROR_UNSUPPORTED, ENOTSUP, parse->path, VB_QCOW2_AT_COMPRESSION,
			       "Unsupported qcow2 compression type %u", type);
	return 0;
}

static int check_features(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;

	if (check_unknown_features(parse) < 0 || check_compression(parse) < 0)
		return -1;
	if (vb_qcow2_has_extended_l2(header) && header->cluster_bits < VB_QCOW2_EXTENDED_CLUSTER_BITS_MIN)
		return refuse(parse, VB_QCOW2_AT_CLUSTER_BITS, "cluster_bits", header->cluster_bits,
			      "extended L2 entries need at least 14");
	if (header->refcount_order > VB_QCOW2_REFCOUNT_ORDER_MAX)
		return refuse_above(parse, VB_QCOW2_AT_REFCOUNT_ORDER, "refcount_order", header->refcount_order,
				    VB_QCOW2_REFCOUNT_ORDER_MAX);
	header->crypt_method = vb_load_be32(parse->head + VB_QCOW2_AT_CRYPT_METHOD);
	if (header->crypt_method == 1)
		return refuse_feature(parse, "AES encryption");
	if (header->crypt_method == 2)
		return refuse_feature(parse, "LUKS encryption");
	if (header->crypt_method != 0)
		return refuse(parse, VB_QCOW2_AT_CRYPT_METHOD, "crypt_method", header->crypt_method, "0 to 2 are defined");
	return 0;
}

/* A table must start at a cluster and end where a file can end. */
static int check_table(const struct parse *parse, int64_t at, const char *field, uint64_t offset_bytes, uint64_t length_bytes)
{
	if (offset_bytes % parse->header->cluster_size_bytes != 0)
		return refuse(parse, at, field, offset_bytes, "must be a multiple of the cluster size");
	if (offset_bytes > INT64_MAX - length_bytes)
		return refuse(parse, at, field, offset_bytes, "no file can be that long");
	return 0;
}

static int check_inside(const struct parse *parse, int64_t at, const char *table, uint64_t offset_bytes, uint64_t length_bytes)
{
	if (offset_bytes <= parse->file_size_bytes && length_bytes <= parse->file_size_bytes - offset_bytes)
		return 0;
	return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, at,
		       "The file is truncated: the %s of %llu bytes at offset %llu lies beyond the end of the file at %llu", table,
		       (ull)length_bytes, (ull)offset_bytes, (ull)parse->file_size_bytes);
}

static int parse_l1(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;
	uint64_t span = vb_qcow2_table_span_bytes(header), needed;

	header->size_bytes = vb_load_be64(parse->head + VB_QCOW2_AT_SIZE);
	header->l1_size = vb_load_be32(parse->head + VB_QCOW2_AT_L1_SIZE);
	header->l1_offset_bytes = vb_load_be64(parse->head + VB_QCOW2_AT_L1_OFFSET);
	if (header->size_bytes > INT64_MAX)
		return refuse_above(parse, VB_QCOW2_AT_SIZE, "size", header->size_bytes, INT64_MAX);
	if (header->l1_size > VB_QCOW2_L1_BYTES_MAX / 8)
		return refuse_above(parse, VB_QCOW2_AT_L1_SIZE, "l1_size", header->l1_size, VB_QCOW2_L1_BYTES_MAX / 8);
	needed = header->size_bytes / span + (header->size_bytes % span != 0);
	if (needed > header->l1_size)
		return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, VB_QCOW2_AT_L1_SIZE,
			       "Invalid qcow2 header: L1 table is too small: l1_size is %u, but a virtual size of %llu bytes needs %llu",
			       header->l1_size, (ull)header->size_bytes, (ull)needed);
	header->l1_needed = (uint32_t)needed;
	if (check_table(parse, VB_QCOW2_AT_L1_OFFSET, "l1_table_offset", header->l1_offset_bytes, header->l1_size * 8ull) < 0)
		return -1;
	return needed == 0 ? 0 : check_inside(parse, VB_QCOW2_AT_L1_OFFSET, "L1 table", header->l1_offset_bytes, needed * 8);
}

static int parse_refcounts(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;
	uint32_t limit = VB_QCOW2_REFTABLE_BYTES_MAX >> header->cluster_bits;

	header->reftable_offset_bytes = vb_load_be64(parse->head + VB_QCOW2_AT_REFTABLE_OFFSET);
	header->reftable_clusters = vb_load_be32(parse->head + VB_QCOW2_AT_REFTABLE_CLUSTERS);
	if (header->reftable_clusters == 0)
		return refuse(parse, VB_QCOW2_AT_REFTABLE_CLUSTERS, "refcount_table_clusters", 0,
			      "every image has a reference count table");
	if (header->reftable_clusters > limit)
		return refuse_above(parse, VB_QCOW2_AT_REFTABLE_CLUSTERS, "refcount_table_clusters", header->reftable_clusters, limit);
	if (check_table(parse, VB_QCOW2_AT_REFTABLE_OFFSET, "refcount_table_offset", header->reftable_offset_bytes,
			(uint64_t)header->reftable_clusters << header->cluster_bits) < 0)
		return -1;
	/* Reading takes nothing from it; that it starts inside the file is what tells a whole image from a cut one. */
	return check_inside(parse, VB_QCOW2_AT_REFTABLE_OFFSET, "refcount table", header->reftable_offset_bytes, 1);
}

static int parse_snapshots(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;

	header->snapshot_count = vb_load_be32(parse->head + VB_QCOW2_AT_SNAPSHOT_COUNT);
	header->snapshots_offset_bytes = vb_load_be64(parse->head + VB_QCOW2_AT_SNAPSHOTS_OFFSET);
	if (header->snapshot_count > VB_QCOW2_SNAPSHOTS_MAX)
		return refuse_above(parse, VB_QCOW2_AT_SNAPSHOT_COUNT, "nb_snapshots", header->snapshot_count, VB_QCOW2_SNAPSHOTS_MAX);
	return check_table(parse, VB_QCOW2_AT_SNAPSHOTS_OFFSET, "snapshots_offset", header->snapshots_offset_bytes, 0);
}

static int parse_backing(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;
	uint32_t length = vb_load_be32(parse->head + VB_QCOW2_AT_BACKING_SIZE), limit = VB_QCOW2_BACKING_NAME_MAX;

	header->backing_offset_bytes = vb_load_be64(parse->head + VB_QCOW2_AT_BACKING_OFFSET);
	if (header->backing_offset_bytes == 0)
		return 0;
	if (header->backing_offset_bytes > header->cluster_size_bytes)
		return refuse_above(parse, VB_QCOW2_AT_BACKING_OFFSET, "backing_file_offset", header->backing_offset_bytes,
				    header->cluster_size_bytes);
	if (limit > header->cluster_size_bytes - header->backing_offset_bytes)
		limit = (uint32_t)(header->cluster_size_bytes - header->backing_offset_bytes);
	if (length > limit)
		return refuse_above(parse, VB_QCOW2_AT_BACKING_SIZE, "backing_file_size", length, limit);
	if (check_inside(parse, VB_QCOW2_AT_BACKING_OFFSET, "backing file's name", header->backing_offset_bytes, length) < 0)
		return -1;
	memcpy(header->backing_name, parse->head + header->backing_offset_bytes, length);
	header->backing_name[length] = '\0';
	return 0;
}

static int parse_bitmaps(const struct parse *parse, uint64_t at, uint32_t length)
{
	struct vb_qcow2_header *header = parse->header;

	if (length != 24)
		return refuse(parse, (int64_t)at, "length of the bitmaps extension", length, "must be 24");
	header->bitmaps_extension_bytes = at;
	/* Written by a program that knows no bitmaps: what is recorded is not valid any more, and QEMU ignores it. */
	if ((header->autoclear_features & VB_QCOW2_AUTOCLEAR_BITMAPS) == 0)
		return 0;
	header->bitmap_count = vb_load_be32(parse->head + at);
	header->bitmap_directory_size_bytes = vb_load_be64(parse->head + at + 8);
	header->bitmap_directory_offset_bytes = vb_load_be64(parse->head + at + 16);
	if (header->bitmap_count == 0 || header->bitmap_count > VB_QCOW2_BITMAPS_MAX)
		return refuse(parse, (int64_t)at, "nb_bitmaps", header->bitmap_count, "must be between 1 and 65535");
	if (vb_load_be32(parse->head + at + 4) != 0)
		return refuse(parse, (int64_t)at + 4, "reserved field of the bitmaps extension", vb_load_be32(parse->head + at + 4),
			      "must be 0");
	if (header->bitmap_directory_size_bytes > VB_QCOW2_BITMAP_DIRECTORY_BYTES_MAX)
		return refuse_above(parse, (int64_t)at + 8, "bitmap_directory_size", header->bitmap_directory_size_bytes,
				    VB_QCOW2_BITMAP_DIRECTORY_BYTES_MAX);
	header->has_bitmaps = true;
	return check_table(parse, (int64_t)at + 16, "bitmap_directory_offset", header->bitmap_directory_offset_bytes,
			   header->bitmap_directory_size_bytes);
}

/* Without its feature bit the extension is left over, and QEMU ignores it. */
static int parse_data_file(const struct parse *parse, uint64_t at, uint32_t length)
{
	struct vb_qcow2_header *header = parse->header;

	if ((header->incompatible_features & VB_QCOW2_INCOMPATIBLE_DATA_FILE) == 0)
		return 0;
	if (length > VB_QCOW2_DATA_FILE_NAME_MAX)
		return refuse_above(parse, (int64_t)at, "length of the data file's name", length, VB_QCOW2_DATA_FILE_NAME_MAX);
	memcpy(header->data_file_name, parse->head + at, length);
	header->data_file_name[length] = '\0';
	return 0;
}

static int parse_extension(const struct parse *parse, uint32_t type, uint64_t at, uint32_t length)
{
	struct vb_qcow2_header *header = parse->header;

	switch (type) {
	case VB_QCOW2_EXTENSION_BACKING_FORMAT:
		if (length > VB_QCOW2_BACKING_FORMAT_MAX)
			return refuse_above(parse, (int64_t)at, "length of the backing format", length, VB_QCOW2_BACKING_FORMAT_MAX);
		memcpy(header->backing_format, parse->head + at, length);
		header->backing_format[length] = '\0';
		return 0;
	case VB_QCOW2_EXTENSION_DATA_FILE:
		return parse_data_file(parse, at, length);
	case VB_QCOW2_EXTENSION_LUKS:
		return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, (int64_t)at,
			       "Invalid qcow2 header: an encryption header, but crypt_method is 0");
	case VB_QCOW2_EXTENSION_BITMAPS:
		return parse_bitmaps(parse, at, length);
	default:
		return 0;
	}
}

static int parse_extensions(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;
	uint64_t end = header->backing_offset_bytes != 0 ? header->backing_offset_bytes : header->cluster_size_bytes;
	uint64_t at = header->header_length_bytes;

	header->extensions_limit_bytes = end;
	/* A file that ends inside its first cluster reads as zeros from there, and type 0 ends the list. */
	while (at < end && at + 8 <= parse->head_bytes) {
		uint32_t type = vb_load_be32(parse->head + at), length = vb_load_be32(parse->head + at + 4);

		header->extensions_end_bytes = at;
		at += 8;
		if (type == VB_QCOW2_EXTENSION_END)
			return 0;
		if (at > end || length > end - at || length > parse->head_bytes - at)
			return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, (int64_t)at - 8,
				       "Invalid qcow2 header: extension 0x%08x of %u bytes is longer than the %llu bytes left for it", type,
				       length, (ull)(at > end ? 0 : end - at));
		if (parse_extension(parse, type, at, length) < 0)
			return -1;
		at += ((uint64_t)length + 7) & ~7ull;
	}
	header->extensions_end_bytes = at;
	return 0;
}

static int parse_all(const struct parse *parse)
{
	struct vb_qcow2_header *header = parse->header;

	memset(header, 0, sizeof(*header));
	if (parse_start(parse) < 0)
		return -1;
	if (parse->head_bytes < header->cluster_size_bytes && parse->head_bytes < parse->file_size_bytes)
		return vb_fail(parse->error, VB_ERROR_INTERNAL, 0, parse->path, -1, "%zu bytes given of a header cluster of %u",
			       parse->head_bytes, header->cluster_size_bytes);
	if ((header->version == 2 ? parse_version2(parse) : parse_version3(parse)) < 0)
		return -1;
	if (check_features(parse) < 0 || parse_refcounts(parse) < 0 || parse_snapshots(parse) < 0 || parse_l1(parse) < 0)
		return -1;
	if (parse_backing(parse) < 0 || parse_extensions(parse) < 0)
		return -1;
	if ((header->incompatible_features & VB_QCOW2_INCOMPATIBLE_DATA_FILE) != 0 && header->data_file_name[0] == '\0')
		return vb_fail(parse->error, VB_ERROR_FORMAT, 0, parse->path, VB_QCOW2_AT_INCOMPATIBLE,
			       "Invalid qcow2 header: the image keeps its data in an external file and does not name it");
	return 0;
}

int vb_qcow2_header_parse(const uint8_t *head, size_t head_bytes, uint64_t file_size_bytes, const char *path,
			  struct vb_qcow2_header *header, struct vb_error *error)
{
	return parse_all(&(const struct parse){ head, head_bytes, file_size_bytes, path, header, error });
}

int vb_qcow2_header_read(const struct vb_file *file, struct vb_qcow2_header *header, struct vb_error *error)
{
	uint8_t start[VB_QCOW2_HEADER_BYTES_V2];
	uint64_t start_bytes = file->size_bytes < sizeof(start) ? file->size_bytes : sizeof(start);
	const struct parse parse = { start, (size_t)start_bytes, file->size_bytes, file->path, header, error };
	uint64_t head_bytes;
	uint8_t *head;
	int result;

	memset(header, 0, sizeof(*header));
	if (vb_pread_exact(file->fd, file->path, start, (size_t)start_bytes, 0, error) < 0 || parse_start(&parse) < 0)
		return -1;
	head_bytes = file->size_bytes < header->cluster_size_bytes ? file->size_bytes : header->cluster_size_bytes;
	head = malloc((size_t)head_bytes);
	if (head == NULL)
		return vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "Out of memory for a header of %llu bytes", (ull)head_bytes);
	result = vb_pread_exact(file->fd, file->path, head, (size_t)head_bytes, 0, error);
	if (result == 0)
		result = parse_all(&(const struct parse){ head, (size_t)head_bytes, file->size_bytes, file->path, header, error });
	free(head);
	return result;
}
