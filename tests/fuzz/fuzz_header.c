/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Header and extensions. The input is a qcow2 file.
 * Demanded: what is accepted keeps the limits of qcow2.h, and reading (to read) and parsing (to write in place) agree.
 */
#include <string.h>

#include "memory_files.h"
#include "oracle.h"
#include "qcow2.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const size_t mutate_skip_bytes;
const size_t mutate_skip_bytes = 0;

static void require_limits(const struct vb_qcow2_header *header, size_t file_bytes)
{
	REQUIRE(header->version == 2 || header->version == 3);
	REQUIRE(header->cluster_bits >= VB_QCOW2_CLUSTER_BITS_MIN && header->cluster_bits <= VB_QCOW2_CLUSTER_BITS_MAX);
	REQUIRE(header->cluster_size_bytes == 1u << header->cluster_bits);
	REQUIRE(header->size_bytes <= INT64_MAX);
	REQUIRE(header->l1_size <= VB_QCOW2_L1_BYTES_MAX / 8 && header->l1_needed <= header->l1_size);
	REQUIRE(header->l1_needed == 0 || header->l1_offset_bytes + header->l1_needed * 8ull <= file_bytes);
	REQUIRE(header->refcount_order <= VB_QCOW2_REFCOUNT_ORDER_MAX);
	REQUIRE(header->reftable_clusters > 0);
	REQUIRE((uint64_t)header->reftable_clusters << header->cluster_bits <= VB_QCOW2_REFTABLE_BYTES_MAX);
	REQUIRE(header->reftable_offset_bytes % header->cluster_size_bytes == 0);
	REQUIRE(header->snapshot_count <= VB_QCOW2_SNAPSHOTS_MAX);
	REQUIRE(header->bitmap_count <= VB_QCOW2_BITMAPS_MAX);
	REQUIRE(memchr(header->backing_name, '\0', sizeof(header->backing_name)) != NULL);
	REQUIRE(memchr(header->backing_format, '\0', sizeof(header->backing_format)) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vb_qcow2_header parsed, read;
	struct vb_error parse_error = { 0 }, read_error = { 0 };
	struct vb_file file;
	int parse_result, read_result;

	memory_files_start(data, size);
	file = memory_files_open();
	parse_result = vb_qcow2_header_parse(data, size, size, file.path, &parsed, &parse_error);
	read_result = vb_qcow2_header_read(&file, &read, &read_error);
	if (parse_result < 0)
		require_refusal(&parse_error);
	if (read_result < 0)
		require_refusal(&read_error);
	else
		require_limits(&read, size);
	REQUIRE(parse_result == read_result);
	/* Not the words: parsing has the whole file at hand, and may find a name for a feature behind the first cluster. */
	REQUIRE(parse_result < 0 ? parse_error.kind == read_error.kind : memcmp(&parsed, &read, sizeof(parsed)) == 0);
	vb_file_close(&file);
	memory_files_end();
	return 0;
}
