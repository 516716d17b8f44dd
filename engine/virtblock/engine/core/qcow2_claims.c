/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: see qcow2_claims.h. */
#include "qcow2_claims.h"

#include <stdlib.h>

#include "sys.h"

#define CLUSTERS_BEHIND_END_MAX (1ull << 20)
#define L1_WINDOW_BYTES 512u   /* divides every cluster */
#define SNAPSHOT_ENTRY_BYTES 40u
#define SNAPSHOT_TABLE_BYTES_MAX (64ull * 1024 * 1024)

static int corrupt(const struct vb_qcow2_claims *claims, uint64_t at_bytes, const char *what, uint64_t value, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_FORMAT, 0, claims->file->path, (int64_t)at_bytes,
		       "The image is corrupt: %s (0x%llx); `qemu-img check` tells more", what, (unsigned long long)value);
}

static bool is_set(const uint64_t *bits, uint64_t cluster)
{
	return (bits[cluster / 64] >> (cluster % 64)) & 1;
}

static bool test_and_set(uint64_t *bits, uint64_t cluster)
{
	uint64_t mask = 1ull << (cluster % 64);
	bool was_set = (bits[cluster / 64] & mask) != 0;

	bits[cluster / 64] |= mask;
	return was_set;
}

/* The clusters that a table or a cluster at `offset_bytes` takes; they lie among those with a refcount. */
static int find_clusters(const struct vb_qcow2_claims *claims, uint64_t offset_bytes, uint64_t length_bytes, uint64_t at_bytes,
			 uint64_t *first, uint64_t *end, struct vb_error *error)
{
	uint32_t bits = claims->header->cluster_bits;
	uint64_t mask = claims->header->cluster_size_bytes - 1;

	if ((offset_bytes & mask) != 0)
		return corrupt(claims, at_bytes, "an offset is not aligned to a cluster", offset_bytes, error);
	*first = offset_bytes >> bits;
	if (*first > claims->count || (length_bytes + mask) >> bits > claims->count - *first)
		return corrupt(claims, at_bytes, "an offset lies behind all clusters with a refcount", offset_bytes, error);
	*end = *first + ((length_bytes + mask) >> bits);
	return 0;
}

static int claim(struct vb_qcow2_claims *claims, uint64_t offset_bytes, uint64_t length_bytes, uint64_t at_bytes, struct vb_error *error)
{
	uint64_t first, end;

	if (find_clusters(claims, offset_bytes, length_bytes, at_bytes, &first, &end, error))
		return -1;
	for (uint64_t cluster = first; cluster < end; cluster++) {
		if (is_set(claims->fixed, cluster))
			return corrupt(claims, at_bytes, "an entry names a cluster of the header or the refcounts", offset_bytes, error);
		test_and_set(claims->bits, cluster);
	}
	return 0;
}

static int claim_fixed(struct vb_qcow2_claims *claims, uint64_t offset_bytes, uint64_t length_bytes, uint64_t at_bytes,
		       struct vb_error *error)
{
	uint64_t first, end;

	if (find_clusters(claims, offset_bytes, length_bytes, at_bytes, &first, &end, error))
		return -1;
	for (uint64_t cluster = first; cluster < end; cluster++)
		if (test_and_set(claims->bits, cluster) || test_and_set(claims->fixed, cluster))
			return corrupt(claims, at_bytes, "two entries name the same cluster", offset_bytes, error);
	return 0;
}

int vb_qcow2_claim_alone(struct vb_qcow2_claims *claims, uint64_t offset_bytes, uint64_t length_bytes, uint64_t at_bytes,
			 struct vb_error *error)
{
	uint64_t first, end, count;

	if (find_clusters(claims, offset_bytes, length_bytes, at_bytes, &first, &end, error))
		return -1;
	for (uint64_t cluster = first; cluster < end; cluster++) {
		if (test_and_set(claims->bits, cluster))
			return corrupt(claims, at_bytes, "two entries name the same cluster", cluster << claims->header->cluster_bits, error);
		if (vb_refcounts_get(claims->refcounts, cluster, &count, error))
			return -1;
		if (count != 1)
			return corrupt(claims, at_bytes, "the refcount of a bitmap's cluster is not 1", count, error);
	}
	return 0;
}

/* A compressed cluster may be said to be longer than the file is. */
static int claim_compressed(struct vb_qcow2_claims *claims, uint64_t entry, uint64_t at_bytes, struct vb_error *error)
{
	uint64_t offset_bytes;
	uint32_t length;

	vb_qcow2_compressed_location(claims->header->cluster_bits, entry, &offset_bytes, &length);

	uint64_t cluster = offset_bytes >> claims->header->cluster_bits;
	uint64_t last = (offset_bytes + length - 1) >> claims->header->cluster_bits;

	if (cluster >= claims->count)
		return corrupt(claims, at_bytes, "compressed data lies behind all clusters with a refcount", entry, error);
	for (; cluster <= last && cluster < claims->count; cluster++) {
		if (is_set(claims->fixed, cluster))
			return corrupt(claims, at_bytes, "compressed data lies in the header or the refcounts", entry, error);
		test_and_set(claims->bits, cluster);
	}
	return 0;
}

static int claim_data(struct vb_qcow2_claims *claims, const uint8_t *table, uint64_t table_bytes, struct vb_error *error)
{
	uint32_t step = vb_qcow2_l2_entry_bytes(claims->header);
	int result = 0;

	/* The offsets of data are those of another file. */
	if (claims->header->incompatible_features & VB_QCOW2_INCOMPATIBLE_DATA_FILE)
		return 0;
	for (uint32_t at = 0; at < claims->header->cluster_size_bytes && result == 0; at += step) {
		uint64_t entry = vb_load_be64(table + at);

		if (entry & VB_QCOW2_COMPRESSED)
			result = claim_compressed(claims, entry, table_bytes + at, error);
		else if (entry & VB_QCOW2_OFFSET_MASK)
			result = claim(claims, entry & VB_QCOW2_OFFSET_MASK, 1, table_bytes + at, error);
	}
	return result;
}

/* One L2 table with all it names, unless that was done already for another. `table` is a buffer of one cluster. */
static int claim_l2(struct vb_qcow2_claims *claims, uint64_t offset_bytes, uint64_t at_bytes, uint8_t *table, struct vb_error *error)
{
	if (claim(claims, offset_bytes, 1, at_bytes, error))
		return -1;
	if (test_and_set(claims->tables, offset_bytes >> claims->header->cluster_bits))
		return 0;
	if (vb_pread_full(claims->file->fd, claims->file->path, table, claims->header->cluster_size_bytes, offset_bytes, error))
		return -1;
	return claim_data(claims, table, offset_bytes, error);
}

static int claim_l1_entries(struct vb_qcow2_claims *claims, uint64_t at_bytes, uint64_t length, uint8_t *table, struct vb_error *error)
{
	uint8_t window[L1_WINDOW_BYTES];

	if (vb_pread_full(claims->file->fd, claims->file->path, window, length, at_bytes, error))
		return -1;
	for (uint64_t at = 0; at < length; at += sizeof(uint64_t)) {
		uint64_t offset_bytes = vb_load_be64(window + at) & VB_QCOW2_OFFSET_MASK;

		if (offset_bytes && claim_l2(claims, offset_bytes, at_bytes + at, table, error))
			return -1;
	}
	return 0;
}

/* Snapshots may name one L1 table many times, and parts of it: each of its clusters is walked once, to its end or to the table's. */
static int claim_l1(struct vb_qcow2_claims *claims, uint64_t offset_bytes, uint64_t entry_count, uint64_t at_bytes, uint8_t *table,
		    struct vb_error *error)
{
	uint64_t length_bytes = entry_count * sizeof(uint64_t), cluster_bytes = claims->header->cluster_size_bytes;
	bool is_walked = false;

	if (length_bytes == 0)
		return 0;
	if (claim(claims, offset_bytes, length_bytes, at_bytes, error))
		return -1;
	for (uint64_t at = 0; at < length_bytes; at += L1_WINDOW_BYTES) {
		uint64_t rest = length_bytes - at;

		/* The last cluster is walked again: another table's part of it may have been shorter. */
		if (at % cluster_bytes == 0)
			is_walked = test_and_set(claims->tables, (offset_bytes + at) >> claims->header->cluster_bits) && rest >= cluster_bytes;
		if (!is_walked && claim_l1_entries(claims, offset_bytes + at, rest < L1_WINDOW_BYTES ? rest : L1_WINDOW_BYTES, table, error))
			return -1;
	}
	return 0;
}

static int claim_snapshots(struct vb_qcow2_claims *claims, uint8_t *table, struct vb_error *error)
{
	uint64_t start_bytes = claims->header->snapshots_offset_bytes, at = 0;
	uint8_t entry[SNAPSHOT_ENTRY_BYTES];

	for (uint32_t index = 0; index < claims->header->snapshot_count; index++) {
		uint64_t l1_entries;

		if (at > SNAPSHOT_TABLE_BYTES_MAX)
			return corrupt(claims, start_bytes, "the snapshot table is too long", at, error);
		if (vb_pread_exact(claims->file->fd, claims->file->path, entry, sizeof(entry), start_bytes + at, error))
			return -1;
		l1_entries = vb_load_be32(entry + 8);
		if (l1_entries > VB_QCOW2_L1_BYTES_MAX / sizeof(uint64_t))
			return corrupt(claims, start_bytes + at + 8, "the L1 table of a snapshot is too long", l1_entries, error);
		if (claim_l1(claims, vb_load_be64(entry), l1_entries, start_bytes + at, table, error))
			return -1;
		at += SNAPSHOT_ENTRY_BYTES + vb_load_be32(entry + 36) + vb_load_be16(entry + 12) + vb_load_be16(entry + 14);
		at = (at + 7) & ~7ull;
	}
	return at ? claim(claims, start_bytes, at, VB_QCOW2_AT_SNAPSHOTS_OFFSET, error) : 0;
}

static int claim_refcounts(struct vb_qcow2_claims *claims, struct vb_error *error)
{
	const struct vb_refcounts *refcounts = claims->refcounts;

	if (claim_fixed(claims, 0, 1, 0, error) ||
	    claim_fixed(claims, refcounts->table_offset_bytes, refcounts->table_clusters << claims->header->cluster_bits,
			VB_QCOW2_AT_REFTABLE_OFFSET, error))
		return -1;
	for (uint64_t index = 0; index < refcounts->block_capacity; index++)
		if (refcounts->table[index] && claim_fixed(claims, refcounts->table[index], 1,
							   refcounts->table_offset_bytes + index * sizeof(uint64_t), error))
			return -1;
	return 0;
}

static int claim_all(struct vb_qcow2_claims *claims, uint8_t *table, struct vb_error *error)
{
	const struct vb_qcow2_header *header = claims->header;

	return claim_refcounts(claims, error) ||
			       claim_l1(claims, header->l1_offset_bytes, header->l1_size, VB_QCOW2_AT_L1_OFFSET, table, error) ||
			       claim_snapshots(claims, table, error)
		       ? -1
		       : 0;
}

int vb_qcow2_claims_open(struct vb_qcow2_claims *claims, const struct vb_file *file, const struct vb_qcow2_header *header,
			 struct vb_refcounts *refcounts, struct vb_error *error)
{
	uint64_t file_clusters = (file->size_bytes >> header->cluster_bits) + 1;
	uint8_t *table = malloc(header->cluster_size_bytes);
	int result;

	*claims = (struct vb_qcow2_claims){.file = file, .header = header, .refcounts = refcounts, .count = refcounts->next_cluster};
	/* Preallocated clusters may lie behind the file's end, but counts far behind it must not take memory. */
	if (claims->count > file_clusters + CLUSTERS_BEHIND_END_MAX)
		claims->count = file_clusters + CLUSTERS_BEHIND_END_MAX;
	claims->bits = calloc(claims->count / 64 + 1, sizeof(*claims->bits));
	claims->fixed = calloc(claims->count / 64 + 1, sizeof(*claims->fixed));
	claims->tables = calloc(claims->count / 64 + 1, sizeof(*claims->tables));
	if (!table || !claims->bits || !claims->fixed || !claims->tables)
		result = vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the image's tables");
	else
		result = claim_all(claims, table, error);
	free(table);
	if (result)
		vb_qcow2_claims_close(claims);
	return result;
}

void vb_qcow2_claims_close(struct vb_qcow2_claims *claims)
{
	free(claims->bits);
	free(claims->fixed);
	free(claims->tables);
	*claims = (struct vb_qcow2_claims){0};
}
