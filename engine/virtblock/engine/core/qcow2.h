/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 on disk: constants, byte order, the header, and the meaning of one table entry. Internal to the core.
 *
 * Owns: every number that the format fixes (QEMU's docs/interop/qcow2) and the limits that QEMU enforces on top of it.
 * Invariants: the format's integers are big-endian and are touched only through the vb_load_be and vb_store_be functions.
 * A `struct vb_qcow2_header` filled by vb_qcow2_header_read has passed every check that needs no table: field ranges,
 * alignment, table limits, feature bits, lengths of extensions.
 */
#ifndef VB_QCOW2_H
#define VB_QCOW2_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "error.h"
#include "policy.h"

#define VB_QCOW2_MAGIC 0x514649fbu   /* "QFI\xfb" */

#define VB_QCOW2_CLUSTER_BITS_MIN 9u
#define VB_QCOW2_CLUSTER_BITS_MAX 21u
#define VB_QCOW2_REFCOUNT_ORDER_MAX 6u
#define VB_QCOW2_REFCOUNT_ORDER_V2 4u
#define VB_QCOW2_L1_BYTES_MAX (32u * 1024 * 1024)
#define VB_QCOW2_REFTABLE_BYTES_MAX (8u * 1024 * 1024)
#define VB_QCOW2_SNAPSHOTS_MAX 65536u
#define VB_QCOW2_BACKING_NAME_MAX 1023u
#define VB_QCOW2_BACKING_FORMAT_MAX 15u
#define VB_QCOW2_DATA_FILE_NAME_MAX 1023u
#define VB_QCOW2_BITMAPS_MAX 65535u
#define VB_QCOW2_BITMAP_DIRECTORY_BYTES_MAX (VB_QCOW2_BITMAPS_MAX * 1024ull)

/* Byte offsets of header fields. */
enum {
	VB_QCOW2_AT_MAGIC = 0,
	VB_QCOW2_AT_VERSION = 4,
	VB_QCOW2_AT_BACKING_OFFSET = 8,
	VB_QCOW2_AT_BACKING_SIZE = 16,
	VB_QCOW2_AT_CLUSTER_BITS = 20,
	VB_QCOW2_AT_SIZE = 24,
	VB_QCOW2_AT_CRYPT_METHOD = 32,
	VB_QCOW2_AT_L1_SIZE = 36,
	VB_QCOW2_AT_L1_OFFSET = 40,
	VB_QCOW2_AT_REFTABLE_OFFSET = 48,
	VB_QCOW2_AT_REFTABLE_CLUSTERS = 56,
	VB_QCOW2_AT_SNAPSHOT_COUNT = 60,
	VB_QCOW2_AT_SNAPSHOTS_OFFSET = 64,
	VB_QCOW2_AT_INCOMPATIBLE = 72,
	VB_QCOW2_AT_COMPATIBLE = 80,
	VB_QCOW2_AT_AUTOCLEAR = 88,
	VB_QCOW2_AT_REFCOUNT_ORDER = 96,
	VB_QCOW2_AT_HEADER_LENGTH = 100,
	VB_QCOW2_AT_COMPRESSION = 104,
};
#define VB_QCOW2_HEADER_BYTES_V2 72u
#define VB_QCOW2_HEADER_BYTES_V3_MIN 104u
#define VB_QCOW2_HEADER_BYTES_V3 112u   /* what QEMU writes since 5.1 */

#define VB_QCOW2_INCOMPATIBLE_DIRTY (1ull << 0)
#define VB_QCOW2_INCOMPATIBLE_CORRUPT (1ull << 1)
#define VB_QCOW2_INCOMPATIBLE_DATA_FILE (1ull << 2)
#define VB_QCOW2_INCOMPATIBLE_COMPRESSION (1ull << 3)
#define VB_QCOW2_INCOMPATIBLE_EXTENDED_L2 (1ull << 4)
#define VB_QCOW2_COMPATIBLE_LAZY_REFCOUNTS (1ull << 0)
#define VB_QCOW2_AUTOCLEAR_BITMAPS (1ull << 0)
#define VB_QCOW2_AUTOCLEAR_RAW_EXTERNAL (1ull << 1)

#define VB_QCOW2_EXTENSION_END 0x00000000u
#define VB_QCOW2_EXTENSION_BACKING_FORMAT 0xe2792acau
#define VB_QCOW2_EXTENSION_FEATURE_NAMES 0x6803f857u
#define VB_QCOW2_EXTENSION_BITMAPS 0x23852875u
#define VB_QCOW2_EXTENSION_LUKS 0x0537be77u
#define VB_QCOW2_EXTENSION_DATA_FILE 0x44415441u

/* Table entries. */
#define VB_QCOW2_COPIED (1ull << 63)
#define VB_QCOW2_COMPRESSED (1ull << 62)
#define VB_QCOW2_ZERO (1ull << 0)
#define VB_QCOW2_OFFSET_MASK 0x00fffffffffffe00ull        /* bits 9 to 55, of L1 and of standard L2 entries */
#define VB_QCOW2_L1_RESERVED_MASK 0x7f000000000001ffull
#define VB_QCOW2_L2_RESERVED_MASK 0x3f000000000001feull   /* of standard L2 entries */
#define VB_QCOW2_REFTABLE_OFFSET_MASK 0xfffffffffffffe00ull
#define VB_QCOW2_COMPRESSED_SECTOR_BYTES 512u

/* Extended L2 entries: a second word, of one bit for each subcluster that is allocated (low half) and one for each that reads as zeros. */
#define VB_QCOW2_SUBCLUSTER_COUNT 32u
#define VB_QCOW2_EXTENDED_CLUSTER_BITS_MIN 14u   /* a subcluster is no smaller than a sector */

/* The header in host byte order, with what the extensions say. */
struct vb_qcow2_header {
	uint32_t version;
	uint32_t cluster_bits;
	uint32_t cluster_size_bytes;
	uint64_t size_bytes;               /* virtual size */
	uint32_t crypt_method;
	uint32_t l1_size;                  /* entries; may be more than the disk needs */
	uint32_t l1_needed;                /* entries that the virtual size needs; at most l1_size */
	uint64_t l1_offset_bytes;
	uint64_t reftable_offset_bytes;
	uint32_t reftable_clusters;
	uint32_t snapshot_count;
	uint64_t snapshots_offset_bytes;
	uint64_t incompatible_features;
	uint64_t compatible_features;
	uint64_t autoclear_features;
	uint32_t refcount_order;           /* width of a refcount is 1 << order bits */
	uint32_t header_length_bytes;
	uint8_t compression_type;          /* enum vb_compression */
	uint64_t extensions_end_bytes;     /* where the list of extensions ends: its end mark, or the first byte that is not its own */
	uint64_t extensions_limit_bytes;   /* how far the list may reach: the backing file's name, or the end of the header's cluster */
	uint64_t bitmaps_extension_bytes;  /* offset of the bitmaps extension's content; 0: there is none */
	bool has_bitmaps;                  /* it is there and valid; else the three fields below are 0 */
	uint32_t bitmap_count;
	uint64_t bitmap_directory_size_bytes;
	uint64_t bitmap_directory_offset_bytes;
	uint64_t backing_offset_bytes;     /* 0: none */
	char backing_name[VB_QCOW2_BACKING_NAME_MAX + 1];      /* "" if none */
	char backing_format[VB_QCOW2_BACKING_FORMAT_MAX + 1];  /* "" if not recorded */
	char data_file_name[VB_QCOW2_DATA_FILE_NAME_MAX + 1];  /* "" if the image holds its data itself */
};

static inline uint16_t vb_load_be16(const void *at)
{
	uint16_t value;
	memcpy(&value, at, sizeof(value));
	return be16toh(value);
}

static inline uint32_t vb_load_be32(const void *at)
{
	uint32_t value;
	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

static inline uint64_t vb_load_be64(const void *at)
{
	uint64_t value;
	memcpy(&value, at, sizeof(value));
	return be64toh(value);
}

static inline void vb_store_be16(void *at, uint16_t value)
{
	value = htobe16(value);
	memcpy(at, &value, sizeof(value));
}

static inline void vb_store_be32(void *at, uint32_t value)
{
	value = htobe32(value);
	memcpy(at, &value, sizeof(value));
}

static inline void vb_store_be64(void *at, uint64_t value)
{
	value = htobe64(value);
	memcpy(at, &value, sizeof(value));
}

/* Where a compressed cluster lies: any byte offset, and the length rounded up to whole sectors of the file (an upper bound: the
 * stream may be shorter, and the last sector may be shared with the next cluster). */
static inline void vb_qcow2_compressed_location(uint32_t cluster_bits, uint64_t entry, uint64_t *offset_bytes, uint32_t *length_bytes)
{
	uint32_t offset_bits = 62 - (cluster_bits - 8);
	uint64_t sectors = ((entry & (VB_QCOW2_COMPRESSED - 1)) >> offset_bits) + 1;

	*offset_bytes = entry & ((1ull << offset_bits) - 1);
	*length_bytes = (uint32_t)(sectors * VB_QCOW2_COMPRESSED_SECTOR_BYTES - *offset_bytes % VB_QCOW2_COMPRESSED_SECTOR_BYTES);
}

/* Guest bytes that one L2 table of standard entries maps. */
static inline uint64_t vb_qcow2_l2_span_bytes(uint32_t cluster_bits)
{
	return 1ull << (2 * cluster_bits - 3);
}

static inline bool vb_qcow2_has_extended_l2(const struct vb_qcow2_header *header)
{
	return (header->incompatible_features & VB_QCOW2_INCOMPATIBLE_EXTENDED_L2) != 0;
}

static inline uint32_t vb_qcow2_l2_entry_bytes(const struct vb_qcow2_header *header)
{
	return vb_qcow2_has_extended_l2(header) ? 16 : 8;
}

/* Guest bytes that one L2 table of this image maps. */
static inline uint64_t vb_qcow2_table_span_bytes(const struct vb_qcow2_header *header)
{
	return vb_qcow2_l2_span_bytes(header->cluster_bits) / (vb_qcow2_l2_entry_bytes(header) / 8);
}

/* One L2 entry. */
struct vb_l2_entry {
	uint64_t word;
	uint64_t bitmap;   /* extended entries only, else 0: subclusters that are allocated (low half), that read as zeros (high half) */
};

/* Of extended entries: of a whole cluster. */
#define VB_QCOW2_ALL_ALLOCATED 0x00000000ffffffffull
#define VB_QCOW2_ALL_ZERO 0xffffffff00000000ull

static inline struct vb_l2_entry vb_qcow2_load_entry(const struct vb_qcow2_header *header, const uint8_t *at)
{
	return (struct vb_l2_entry){
		.word = vb_load_be64(at),
		.bitmap = vb_qcow2_has_extended_l2(header) ? vb_load_be64(at + 8) : 0,
	};
}

static inline void vb_qcow2_store_entry(const struct vb_qcow2_header *header, uint8_t *at, struct vb_l2_entry entry)
{
	vb_store_be64(at, entry.word);
	if (vb_qcow2_has_extended_l2(header))
		vb_store_be64(at + 8, entry.bitmap);
}

/* Of an image that is to be read. Reads and checks header and extensions. An image that is unfinished (VB_UNFINISHED_MAGIC) is
 * VB_ERROR_FORMAT and says so. Features that this engine does not read (encryption) are VB_ERROR_UNSUPPORTED, by
 * name. */
int vb_qcow2_header_read(const struct vb_file *file, struct vb_qcow2_header *header, struct vb_error *error);

/* The same on bytes in memory: `head` is the start of a file of `file_size_bytes`, at least min(one cluster, the file) long; the cluster
 * size is that of the header. `path` only for messages. */
int vb_qcow2_header_parse(const uint8_t *head, size_t head_bytes, uint64_t file_size_bytes, const char *path,
			  struct vb_qcow2_header *header, struct vb_error *error);

#endif
