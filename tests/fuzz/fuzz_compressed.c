/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compressed clusters. The input: one byte that chooses the method (bit 0) and the cluster size (bits 1 to 3), one that shifts
 * the stream within its sector, then the stream. The target puts it as the first and the last of three clusters into an image.
 * Demanded: a cluster decodes wholly or not at all, whole or in pieces to the same bytes, and after a failure the reader's
 * decoders still decode.
 */
#include <string.h>

#include "memory_files.h"
#include "oracle.h"
#include "plan.h"
#include "qcow2.h"

#define CONTROL_BYTES 2u
#define CLUSTER_BITS_MAX 16u
#define GUEST_CLUSTERS 3u
#define PIECES 3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_header(uint8_t *head, uint32_t cluster_bits, bool is_zstd)
{
	vb_store_be32(head + VB_QCOW2_AT_MAGIC, VB_QCOW2_MAGIC);
	vb_store_be32(head + VB_QCOW2_AT_VERSION, 3);
	vb_store_be32(head + VB_QCOW2_AT_CLUSTER_BITS, cluster_bits);
	vb_store_be64(head + VB_QCOW2_AT_SIZE, (uint64_t)GUEST_CLUSTERS << cluster_bits);
	vb_store_be32(head + VB_QCOW2_AT_L1_SIZE, 1);
	vb_store_be64(head + VB_QCOW2_AT_L1_OFFSET, 1ull << cluster_bits);
	vb_store_be64(head + VB_QCOW2_AT_REFTABLE_OFFSET, 1ull << cluster_bits);
	vb_store_be32(head + VB_QCOW2_AT_REFTABLE_CLUSTERS, 1);
	vb_store_be64(head + VB_QCOW2_AT_INCOMPATIBLE, is_zstd ? VB_QCOW2_INCOMPATIBLE_COMPRESSION : 0);
	vb_store_be32(head + VB_QCOW2_AT_REFCOUNT_ORDER, 4);
	vb_store_be32(head + VB_QCOW2_AT_HEADER_LENGTH, VB_QCOW2_HEADER_BYTES_V3);
	head[VB_QCOW2_AT_COMPRESSION] = is_zstd ? VB_COMPRESSION_ZSTD : VB_COMPRESSION_DEFLATE;
}

/* Header, L1 and L2 in a cluster each, then the stream. */
static uint8_t *build_image(const uint8_t *data, size_t size, size_t *length)
{
	uint32_t cluster_bits = VB_QCOW2_CLUSTER_BITS_MIN + (data[0] >> 1) % (CLUSTER_BITS_MAX - VB_QCOW2_CLUSTER_BITS_MIN + 1);
	uint64_t cluster_bytes = 1ull << cluster_bits, offset_bytes = 3 * cluster_bytes + data[1];
	size_t stream_bytes = size - CONTROL_BYTES;
	uint64_t sector_count, entry;
	uint8_t *image;

	if (stream_bytes > cluster_bytes)
		stream_bytes = cluster_bytes;
	sector_count = (offset_bytes + stream_bytes - (stream_bytes > 0)) / 512 - offset_bytes / 512;
	entry = VB_QCOW2_COMPRESSED | sector_count << (62 - (cluster_bits - 8)) | offset_bytes;
	*length = offset_bytes + stream_bytes;
	image = calloc(1, *length);
	REQUIRE(image != NULL);
	put_header(image, cluster_bits, (data[0] & 1) != 0);
	vb_store_be64(image + cluster_bytes, 2 * cluster_bytes | VB_QCOW2_COPIED);
	vb_store_be64(image + 2 * cluster_bytes, entry);
	vb_store_be64(image + 2 * cluster_bytes + 16, entry);
	memcpy(image + offset_bytes, data + CONTROL_BYTES, stream_bytes);
	return image;
}

static bool read_in_pieces(struct vb_reader *reader, const struct vb_extent *extent, uint8_t *bytes, struct vb_error *error)
{
	size_t length = (size_t)extent->length_bytes, piece = length / PIECES;

	for (size_t done = 0; done < length;) {
		size_t wanted = piece < length - done ? piece : length - done;

		if (vb_reader_read(reader, extent, done, bytes + done, wanted, error) < 0)
			return false;
		done += wanted;
	}
	return true;
}

/* The first extent whole, the last in pieces: both are of one stream. */
static void read_both(const struct vb_chain *chain, const struct vb_plan *plan)
{
	static uint8_t whole[1u << CLUSTER_BITS_MAX], pieces[1u << CLUSTER_BITS_MAX];
	struct vb_error error = { 0 }, piece_error = { 0 };
	struct vb_reader *reader = vb_reader_new(chain, &error);
	const struct vb_extent *first = &plan->extents[0], *last = &plan->extents[plan->extent_count - 1];
	bool is_read, is_read_in_pieces;

	REQUIRE(reader != NULL && first->kind == VB_EXTENT_COMPRESSED && last->kind == VB_EXTENT_COMPRESSED);
	memset(whole, 0x5a, sizeof(whole));
	memset(pieces, 0xa5, sizeof(pieces));
	is_read = vb_reader_read(reader, first, 0, whole, (size_t)first->length_bytes, &error) == 0;
	is_read_in_pieces = read_in_pieces(reader, last, pieces, &piece_error);
	REQUIRE(is_read == is_read_in_pieces);
	if (is_read)
		REQUIRE(memcmp(whole, pieces, (size_t)first->length_bytes) == 0);
	else
		require_refusal(&error);
	vb_reader_free(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vb_error error = { 0 };
	struct vb_chain *chain;
	struct vb_plan *plan;
	uint8_t *image;
	size_t length;

	if (size < CONTROL_BYTES)
		return 0;
	image = build_image(data, size, &length);
	memory_files_start(image, length);
	free(image);
	chain = memory_files_chain(false, &error);
	REQUIRE(chain != NULL);
	plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
	/* A stream of no bytes may begin at the end of the file, which is refused. */
	if (plan == NULL) {
		require_refusal(&error);
	} else {
		REQUIRE(plan->data_bytes == 2 * vb_chain_size_bytes(chain) / GUEST_CLUSTERS);
		read_both(chain, plan);
	}
	vb_plan_free(plan);
	vb_chain_close(chain);
	memory_files_end();
	return 0;
}
