/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Refcounts: reading them, taking clusters, giving some back, and a checkpoint. The input: eight bytes that choose up to seven steps, then a
 * qcow2 file. What the in-place writer checks before it changes anything is demanded of the file here too: no cluster of the refcounts' own
 * is named twice, and each lies before the end of what is counted.
 * Demanded: a count is what the specification reads in the file; a cluster is given out once, and only if nobody had it; and what a
 * checkpoint leaves in the file is all of that, and nothing else changed.
 */
#include <string.h>

#include "memory_files.h"
#include "oracle.h"
#include "qcow2_refcounts.h"
#include "sys.h"

#define CONTROL_BYTES 8u
#define CLUSTERS_SEEN 512u    /* of the beginning: whose counts are compared, beside those that were taken */
#define TAKEN_MAX 64u
#define KNOWN_CLUSTERS 16384u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const size_t mutate_skip_bytes;
const size_t mutate_skip_bytes = CONTROL_BYTES;

struct ledger {
	const struct vb_qcow2_header *header;
	struct vb_refcounts *refcounts;
	uint64_t old_end;                     /* no cluster from here on had a count */
	uint64_t old_table, old_table_clusters;
	uint64_t before[CLUSTERS_SEEN];
	uint64_t taken[TAKEN_MAX];
	bool is_dropped[TAKEN_MAX];
	size_t taken_count;
};

static void read_file(const struct vb_file *file, void *buffer, size_t length, uint64_t offset_bytes)
{
	struct vb_error error;

	REQUIRE(vb_pread_full(file->fd, file->path, buffer, length, offset_bytes, &error) == 0);
}

/* By the specification: the table, the block, and in it bits from the lowest one on, or a big-endian number. */
static uint64_t count_in_file(const struct vb_file *file, const struct vb_qcow2_header *header, uint64_t cluster)
{
	uint64_t bits = 1ull << header->refcount_order, per_block = header->cluster_size_bytes * 8 / bits, count = 0;
	uint8_t field[8];

	if (cluster / per_block >= header->reftable_clusters * header->cluster_size_bytes / 8)
		return 0;
	read_file(file, field, 8, header->reftable_offset_bytes + cluster / per_block * 8);

	uint64_t block_bytes = vb_load_be64(field) & ~511ull, bit = cluster % per_block * bits;

	if (block_bytes == 0)
		return 0;
	read_file(file, field, 8, block_bytes + bit / 8);
	if (bits < 8)
		return field[0] >> bit % 8 & ((1u << bits) - 1);
	for (uint64_t byte = 0; byte < bits / 8; byte++)
		count = count << 8 | field[byte];
	return count;
}

static bool claim(uint8_t *known, uint64_t cluster, uint64_t end)
{
	if (cluster >= end || cluster >= KNOWN_CLUSTERS || known[cluster])
		return false;
	known[cluster] = 1;
	return true;
}

static bool is_sound(const struct vb_refcounts *refcounts, const struct vb_qcow2_header *header)
{
	static uint8_t known[KNOWN_CLUSTERS];
	uint64_t first = refcounts->table_offset_bytes >> header->cluster_bits;
	bool is_good;

	memset(known, 0, sizeof(known));
	is_good = claim(known, 0, refcounts->next_cluster);
	for (uint64_t index = 0; is_good && index < refcounts->table_clusters; index++)
		is_good = claim(known, first + index, refcounts->next_cluster);
	for (uint64_t index = 0; is_good && index < refcounts->block_capacity; index++)
		is_good = refcounts->table[index] == 0 || claim(known, refcounts->table[index] >> header->cluster_bits, refcounts->next_cluster);
	return is_good;
}

static bool is_taken(const struct ledger *ledger, uint64_t cluster)
{
	for (size_t index = 0; index < ledger->taken_count; index++)
		if (ledger->taken[index] == cluster)
			return true;
	return false;
}

static void enter(struct ledger *ledger, uint64_t first, uint64_t count)
{
	for (uint64_t cluster = first; cluster < first + count; cluster++) {
		REQUIRE(cluster >= ledger->old_end && !is_taken(ledger, cluster) && ledger->taken_count < TAKEN_MAX);
		ledger->taken[ledger->taken_count] = cluster;
		ledger->is_dropped[ledger->taken_count++] = false;
	}
}

static int drop_one(struct ledger *ledger, uint8_t which, struct vb_error *error)
{
	size_t index = ledger->taken_count > 0 ? which % ledger->taken_count : 0;

	if (ledger->taken_count == 0 || ledger->is_dropped[index])
		return 0;
	ledger->is_dropped[index] = true;
	return which & 64 ? vb_refcounts_drop_later(ledger->refcounts, ledger->taken[index], 1, error)
			  : vb_refcounts_drop_shared_later(ledger->refcounts, ledger->taken[index], 1, error);
}

static int make_step(struct ledger *ledger, uint8_t control, struct vb_error *error)
{
	uint64_t wanted = 1 + (control >> 2) % 9, first = 0, got = 0;

	switch (control % 4) {
	case 0:
		if (vb_refcounts_allocate(ledger->refcounts, wanted, &first, &got, error))
			return -1;
		REQUIRE(got >= 1 && got <= wanted);
		enter(ledger, first, got);
		return 0;
	case 1:
		if (vb_refcounts_allocate_run(ledger->refcounts, wanted, &first, error))
			return -1;
		enter(ledger, first, wanted);
		return 0;
	case 2:
		return drop_one(ledger, control >> 2, error);
	default:
		return 0;
	}
}

static int checkpoint(struct vb_refcounts *refcounts, struct vb_error *error)
{
	bool wrote;

	return vb_refcounts_write_blocks(refcounts, &wrote, error) || vb_refcounts_write_table(refcounts, &wrote, error) ||
			       vb_refcounts_write_header(refcounts, &wrote, error) || vb_refcounts_drop(refcounts, error) ||
			       vb_refcounts_write_blocks(refcounts, &wrote, error)
		       ? -1
		       : 0;
}

/* The refcounts' own clusters moved perhaps: a new table or block has one reference, an old table lost one. */
static void require_counts(const struct ledger *ledger, const struct vb_file *file)
{
	const struct vb_refcounts *refcounts = ledger->refcounts;
	struct vb_qcow2_header header = *ledger->header;
	uint32_t cluster_bits = header.cluster_bits;
	bool has_moved = refcounts->table_offset_bytes >> cluster_bits != ledger->old_table;

	header.reftable_offset_bytes = refcounts->table_offset_bytes;
	header.reftable_clusters = (uint32_t)refcounts->table_clusters;
	for (uint64_t index = 0; index < refcounts->block_capacity; index++)
		if (refcounts->table[index] >> cluster_bits >= ledger->old_end)
			REQUIRE(count_in_file(file, &header, refcounts->table[index] >> cluster_bits) == 1);
	for (uint64_t index = 0; has_moved && index < refcounts->table_clusters; index++)
		REQUIRE(count_in_file(file, &header, (refcounts->table_offset_bytes >> cluster_bits) + index) == 1);
	for (size_t index = 0; index < ledger->taken_count; index++)
		REQUIRE(count_in_file(file, &header, ledger->taken[index]) == !ledger->is_dropped[index]);
	for (uint64_t cluster = 0; cluster < CLUSTERS_SEEN && cluster < ledger->old_end; cluster++) {
		bool was_table = has_moved && cluster - ledger->old_table < ledger->old_table_clusters;

		REQUIRE(count_in_file(file, &header, cluster) == ledger->before[cluster] - was_table);
	}
}

static void change_counts(struct ledger *ledger, const struct vb_file *file, const uint8_t *control)
{
	struct vb_error error = {0};
	int result = 0;

	for (unsigned step = 1; step < CONTROL_BYTES && result == 0; step++)
		result = make_step(ledger, control[step], &error);
	if (result == 0)
		result = checkpoint(ledger->refcounts, &error);
	if (result == 0)
		require_counts(ledger, file);
	else
		require_refusal(&error);
}

static void try_refcounts(const struct vb_file *file, const struct vb_qcow2_header *header, const uint8_t *control)
{
	static struct ledger ledger;
	struct vb_refcounts refcounts;
	struct vb_error error = {0};

	if (vb_refcounts_open(&refcounts, file, header, &error)) {
		require_refusal(&error);
		return;
	}
	ledger = (struct ledger){.header = header, .refcounts = &refcounts, .old_end = refcounts.next_cluster};
	ledger.old_table = refcounts.table_offset_bytes >> header->cluster_bits;
	ledger.old_table_clusters = refcounts.table_clusters;
	for (uint64_t cluster = 0; cluster < CLUSTERS_SEEN; cluster++) {
		REQUIRE(vb_refcounts_get(&refcounts, cluster, &ledger.before[cluster], &error) == 0);
		REQUIRE(ledger.before[cluster] == count_in_file(file, header, cluster));
		REQUIRE(ledger.before[cluster] == 0 || cluster < ledger.old_end);
	}
	if (is_sound(&refcounts, header))
		change_counts(&ledger, file, control);
	vb_refcounts_close(&refcounts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vb_qcow2_header header;
	struct vb_error error = {0};
	struct vb_file file;

	if (size < CONTROL_BYTES + VB_QCOW2_HEADER_BYTES_V2)
		return 0;
	memory_files_start(data + CONTROL_BYTES, size - CONTROL_BYTES);
	file = memory_files_open();
	if (vb_qcow2_header_parse(data + CONTROL_BYTES, size - CONTROL_BYTES, file.size_bytes, file.path, &header, &error))
		require_refusal(&error);
	else
		try_refcounts(&file, &header, data);
	vb_file_close(&file);
	memory_files_end();
	return 0;
}
