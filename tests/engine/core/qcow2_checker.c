/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: one walk over everything that an image refers to, and the comparison with its refcounts. */
#include "qcow2_checker.h"

#include <stdarg.h>
#include <stdbool.h>

#include "check.h"
#include "qcow2.h"

#define BITMAPS_EXTENSION 0x23852875u
#define SNAPSHOT_FIXED_BYTES 40u
#define BITMAP_FIXED_BYTES 24u

enum role { ROLE_NONE = 0, ROLE_METADATA = 1, ROLE_L2 = 2, ROLE_DATA = 3, ROLE_PACKED = 4 };

struct walk {
	const uint8_t *bytes;
	uint64_t length;
	uint32_t version, cluster_bits, order, l2_entry_bytes;
	uint64_t cluster_bytes, cluster_count;
	bool has_data_file;
	uint32_t *references;
	uint8_t *roles;
	struct qcow2_findings *findings;
};

__attribute__((format(printf, 2, 3)))
static void fault(struct walk *walk, const char *format, ...)
{
	va_list arguments;

	if (walk->findings->error_count++ > 0)
		return;
	va_start(arguments, format);
	vsnprintf(walk->findings->first_error, sizeof(walk->findings->first_error), format, arguments);
	va_end(arguments);
}

static bool is_inside(const struct walk *walk, uint64_t offset_bytes, uint64_t length_bytes)
{
	return offset_bytes <= walk->length && length_bytes <= walk->length - offset_bytes;
}

static uint32_t load32(const struct walk *walk, uint64_t at)
{
	return is_inside(walk, at, 4) ? vb_load_be32(walk->bytes + at) : 0;
}

static uint64_t load64(const struct walk *walk, uint64_t at)
{
	return is_inside(walk, at, 8) ? vb_load_be64(walk->bytes + at) : 0;
}

/* Counts references to the clusters of a range. What has one owner is claimed by one; L2 tables and data may have several. */
static void refer(struct walk *walk, uint64_t offset_bytes, uint64_t length_bytes, enum role role)
{
	uint64_t first = offset_bytes >> walk->cluster_bits;
	uint64_t end = (offset_bytes + length_bytes + walk->cluster_bytes - 1) >> walk->cluster_bits;

	if (role != ROLE_PACKED && (offset_bytes & (walk->cluster_bytes - 1)))
		fault(walk, "offset %#llx is not aligned", (unsigned long long)offset_bytes);
	for (uint64_t cluster = first; cluster < end; cluster++) {
		if (cluster >= walk->cluster_count) {
			fault(walk, "cluster %llu lies behind the end of the file", (unsigned long long)cluster);
			return;
		}
		if (walk->roles[cluster] != ROLE_NONE && (walk->roles[cluster] != role || role == ROLE_METADATA))
			fault(walk, "cluster %llu is of kind %d and of kind %d", (unsigned long long)cluster, walk->roles[cluster], role);
		walk->roles[cluster] = (uint8_t)role;
		walk->references[cluster]++;
	}
}

static uint64_t count_of(const struct walk *walk, uint64_t cluster)
{
	uint32_t shift = walk->cluster_bits + 3 - walk->order;
	uint64_t table_bytes = load32(walk, 56) * walk->cluster_bytes;
	uint64_t index = cluster >> shift, entry = cluster & ((1ull << shift) - 1);
	uint64_t block = index * 8 < table_bytes ? load64(walk, load64(walk, 48) + index * 8) & ~511ull : 0;
	uint64_t bit = entry << walk->order;
	uint64_t at = block + bit / 8;

	if (block == 0 || !is_inside(walk, at, walk->order > 3 ? 1u << (walk->order - 3) : 1))
		return 0;
	switch (walk->order) {
	case 4:
		return vb_load_be16(walk->bytes + at);
	case 5:
		return vb_load_be32(walk->bytes + at);
	case 6:
		return vb_load_be64(walk->bytes + at);
	default:
		return (uint64_t)(walk->bytes[at] >> (bit % 8)) & ((1u << (1u << walk->order)) - 1);
	}
}

static void check_copied(struct walk *walk, const char *what, uint64_t entry)
{
	uint64_t cluster = (entry & VB_QCOW2_OFFSET_MASK) >> walk->cluster_bits;

	if ((count_of(walk, cluster) == 1) != ((entry & VB_QCOW2_COPIED) != 0))
		fault(walk, "%s %#llx: COPIED does not fit its refcount %llu", what, (unsigned long long)entry,
		      (unsigned long long)count_of(walk, cluster));
}

static void walk_entry(struct walk *walk, uint64_t entry, uint64_t subclusters, bool is_active)
{
	uint64_t offset_bytes = entry & VB_QCOW2_OFFSET_MASK;
	uint32_t length;

	if (entry & VB_QCOW2_COMPRESSED) {
		if (entry & VB_QCOW2_COPIED)
			fault(walk, "a compressed entry %#llx is COPIED", (unsigned long long)entry);
		vb_qcow2_compressed_location(walk->cluster_bits, entry, &offset_bytes, &length);
		refer(walk, offset_bytes, length, ROLE_PACKED);
		return;
	}
	if (entry & VB_QCOW2_L2_RESERVED_MASK)
		fault(walk, "reserved bits in an L2 entry %#llx", (unsigned long long)entry);
	if ((entry & VB_QCOW2_ZERO) && (walk->version < 3 || walk->l2_entry_bytes == 16))
		fault(walk, "the zero flag in an L2 entry %#llx that has none", (unsigned long long)entry);
	if ((subclusters >> 32) & (subclusters & UINT32_MAX))
		fault(walk, "subclusters %#llx are both data and zeros", (unsigned long long)subclusters);
	if (offset_bytes == 0 && (subclusters & UINT32_MAX))
		fault(walk, "subclusters %#llx have no cluster", (unsigned long long)subclusters);
	if (offset_bytes == 0 || walk->has_data_file)
		return;
	refer(walk, offset_bytes, walk->cluster_bytes, ROLE_DATA);
	if (is_active)
		check_copied(walk, "L2 entry", entry);
}

static void walk_l1(struct walk *walk, uint64_t l1_bytes, uint32_t l1_size, bool is_active)
{
	if (l1_size == 0)
		return;
	refer(walk, l1_bytes, l1_size * 8ull, ROLE_METADATA);
	for (uint32_t index = 0; index < l1_size; index++) {
		uint64_t entry = load64(walk, l1_bytes + index * 8ull);
		uint64_t l2_bytes = entry & VB_QCOW2_OFFSET_MASK;

		if (entry & VB_QCOW2_L1_RESERVED_MASK)
			fault(walk, "reserved bits in an L1 entry %#llx", (unsigned long long)entry);
		if (l2_bytes == 0)
			continue;
		refer(walk, l2_bytes, walk->cluster_bytes, ROLE_L2);
		if (is_active)
			check_copied(walk, "L1 entry", entry);
		for (uint64_t at = 0; at < walk->cluster_bytes; at += walk->l2_entry_bytes)
			walk_entry(walk, load64(walk, l2_bytes + at),
				   walk->l2_entry_bytes == 16 ? load64(walk, l2_bytes + at + 8) : 0, is_active);
	}
}

static void walk_snapshots(struct walk *walk)
{
	uint64_t start = load64(walk, 64), at = start;

	for (uint32_t left = load32(walk, 60); left > 0; left--) {
		if (!is_inside(walk, at, SNAPSHOT_FIXED_BYTES)) {
			fault(walk, "the snapshot table is cut off");
			return;
		}

		uint64_t names = load32(walk, at + 12);

		walk_l1(walk, load64(walk, at), load32(walk, at + 8), false);
		at += SNAPSHOT_FIXED_BYTES + load32(walk, at + 36) + (names >> 16) + (names & 0xffff);
		at = (at + 7) / 8 * 8;
	}
	if (at > start)
		refer(walk, start, at - start, ROLE_METADATA);
}

static void walk_bitmap(struct walk *walk, uint64_t table_bytes, uint32_t table_size)
{
	if (table_size == 0)
		return;
	refer(walk, table_bytes, table_size * 8ull, ROLE_METADATA);
	for (uint32_t index = 0; index < table_size; index++) {
		uint64_t offset_bytes = load64(walk, table_bytes + index * 8ull) & VB_QCOW2_OFFSET_MASK;

		if (offset_bytes)
			refer(walk, offset_bytes, walk->cluster_bytes, ROLE_METADATA);
	}
}

/* `at`: the extension's data: count, reserved, size and offset of the directory. */
static void walk_bitmaps(struct walk *walk, uint64_t at)
{
	uint64_t size_bytes = load64(walk, at + 8), start = load64(walk, at + 16), entry = start;

	for (uint32_t left = load32(walk, at); left > 0; left--) {
		if (!is_inside(walk, entry, BITMAP_FIXED_BYTES) || entry + BITMAP_FIXED_BYTES > start + size_bytes) {
			fault(walk, "the bitmap directory is cut off");
			return;
		}
		walk_bitmap(walk, load64(walk, entry), load32(walk, entry + 8));
		entry += BITMAP_FIXED_BYTES + (load32(walk, entry + 16) & 0xffff) + load32(walk, entry + 20);
		entry = (entry + 7) / 8 * 8;
	}
	if (entry != start + size_bytes)
		fault(walk, "the bitmap directory has %llu bytes, its entries %llu", (unsigned long long)size_bytes,
		      (unsigned long long)(entry - start));
	if (size_bytes)
		refer(walk, start, size_bytes, ROLE_METADATA);
}

static void walk_extensions(struct walk *walk)
{
	bool are_bitmaps_valid = walk->version >= 3 && (load64(walk, 88) & VB_QCOW2_AUTOCLEAR_BITMAPS) != 0;
	uint64_t at = walk->version >= 3 ? load32(walk, 100) : VB_QCOW2_HEADER_BYTES_V2;

	while (at + 8 <= walk->cluster_bytes && load32(walk, at) != 0) {
		uint64_t length = load32(walk, at + 4);

		if (length > walk->cluster_bytes - at - 8) {
			fault(walk, "a header extension is longer than the header");
			return;
		}
		if (load32(walk, at) == BITMAPS_EXTENSION && are_bitmaps_valid)
			walk_bitmaps(walk, at + 8);
		at += 8 + (length + 7) / 8 * 8;
	}
}

static void walk_refcount_tables(struct walk *walk)
{
	uint64_t table_bytes = load64(walk, 48), length = load32(walk, 56) * walk->cluster_bytes;

	refer(walk, table_bytes, length, ROLE_METADATA);
	for (uint64_t at = 0; at < length; at += 8) {
		uint64_t block = load64(walk, table_bytes + at);

		if (block)
			refer(walk, block, walk->cluster_bytes, ROLE_METADATA);
	}
}

static void compare_counts(struct walk *walk)
{
	uint64_t counted = (uint64_t)load32(walk, 56) << (2 * walk->cluster_bits - walk->order);
	uint64_t end = walk->cluster_count < counted ? walk->cluster_count : counted;

	for (uint64_t cluster = 0; cluster < end; cluster++) {
		uint64_t count = count_of(walk, cluster);

		if (count < walk->references[cluster])
			fault(walk, "cluster %llu has refcount %llu and %u references", (unsigned long long)cluster, (unsigned long long)count,
			      walk->references[cluster]);
		walk->findings->leak_count += count > walk->references[cluster];
	}
	for (uint64_t cluster = end; cluster < walk->cluster_count; cluster++)
		if (walk->references[cluster])
			fault(walk, "cluster %llu is behind the refcount table", (unsigned long long)cluster);
}

static bool start_walk(struct walk *walk)
{
	if (walk->length < VB_QCOW2_HEADER_BYTES_V2 || load32(walk, 0) != VB_QCOW2_MAGIC) {
		fault(walk, "no qcow2 header");
		return false;
	}
	walk->version = load32(walk, 4);
	walk->cluster_bits = load32(walk, 20);
	walk->order = walk->version >= 3 ? load32(walk, 96) : VB_QCOW2_REFCOUNT_ORDER_V2;
	if (walk->cluster_bits < 9 || walk->cluster_bits > 21 || walk->order > 6 || walk->version < 2 || walk->version > 3) {
		fault(walk, "a header out of bounds");
		return false;
	}
	walk->l2_entry_bytes = walk->version >= 3 && (load64(walk, 72) & VB_QCOW2_INCOMPATIBLE_EXTENDED_L2) ? 16 : 8;
	walk->has_data_file = walk->version >= 3 && (load64(walk, 72) & VB_QCOW2_INCOMPATIBLE_DATA_FILE) != 0;
	walk->cluster_bytes = 1ull << walk->cluster_bits;
	walk->cluster_count = (walk->length + walk->cluster_bytes - 1) >> walk->cluster_bits;
	walk->references = calloc(walk->cluster_count + 1, sizeof(*walk->references));
	walk->roles = calloc(walk->cluster_count + 1, 1);
	CHECK(walk->references != NULL && walk->roles != NULL);
	return true;
}

void check_qcow2_bytes(const uint8_t *bytes, size_t length, struct qcow2_findings *findings)
{
	struct walk walk = {.bytes = bytes, .length = length, .findings = findings};

	*findings = (struct qcow2_findings){0};
	if (!start_walk(&walk))
		return;
	refer(&walk, 0, walk.cluster_bytes, ROLE_METADATA);
	walk_refcount_tables(&walk);
	walk_l1(&walk, load64(&walk, 40), load32(&walk, 36), true);
	walk_snapshots(&walk);
	walk_extensions(&walk);
	compare_counts(&walk);
	free(walk.references);
	free(walk.roles);
}
