/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L1 and L2 tables, the chain, the plan, and reading all that the plan lists. The input is a qcow2 file; it is its own backing
 * file too, should it name one.
 * Demanded: a map has no gaps and no overlaps, a plan keeps the promises of plan.h, and what is read whole is read the same in two pieces.
 */
#include <string.h>

#include "memory_files.h"
#include "oracle.h"
#include "plan.h"

#define CLUSTERS_MAX 65536u            /* of an image whose map is walked: time and memory grow with them */
#define READ_BYTES_MAX (2u * 1024 * 1024)   /* of one input */
#define PIECE_BYTES_MAX (256u * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern const size_t mutate_skip_bytes;
const size_t mutate_skip_bytes = 0;

struct walk {
	uint64_t end_bytes;
};

static int visit(void *opaque, const struct vb_extent *extent, struct vb_error *error)
{
	struct walk *walk = opaque;

	(void)error;
	REQUIRE(extent->start_bytes == walk->end_bytes && extent->length_bytes > 0);
	REQUIRE(extent->kind <= VB_EXTENT_COMPRESSED);
	REQUIRE((extent->kind == VB_EXTENT_COMPRESSED) == (extent->host_length_bytes > 0));
	walk->end_bytes += extent->length_bytes;
	return 0;
}

static void map_layers(const struct vb_chain *chain)
{
	for (size_t index = 0; index < vb_chain_depth(chain); index++) {
		struct vb_layer *layer = vb_chain_layer(chain, index);
		uint64_t size_bytes = vb_layer_info(layer)->virtual_size_bytes;
		struct vb_error error = { 0 };
		struct walk walk = { 0 };

		if (vb_layer_map(layer, 0, size_bytes, visit, &walk, &error) < 0)
			require_refusal(&error);
		else
			REQUIRE(walk.end_bytes == size_bytes);
	}
}

static void require_plan(const struct vb_plan *plan, size_t depth)
{
	uint64_t end_bytes = 0, data_bytes = 0, zero_bytes = 0;

	for (size_t index = 0; index < plan->extent_count; index++) {
		const struct vb_extent *extent = &plan->extents[index];

		REQUIRE(extent->start_bytes >= end_bytes && extent->length_bytes > 0);
		end_bytes = extent->start_bytes + extent->length_bytes;
		REQUIRE(end_bytes <= plan->size_bytes && extent->layer_index < depth);
		REQUIRE(extent->kind != VB_EXTENT_UNALLOCATED);
		REQUIRE(extent->kind != VB_EXTENT_ZERO || plan->mode == VB_PLAN_TOP);
		*(extent->kind == VB_EXTENT_ZERO ? &zero_bytes : &data_bytes) += extent->length_bytes;
		REQUIRE(vb_plan_find(plan, extent->start_bytes) == index && vb_plan_find(plan, end_bytes - 1) == index);
	}
	REQUIRE(data_bytes == plan->data_bytes && zero_bytes == plan->zero_bytes);
}

/* Reads a piece at once and in two parts; returns whether it could be read. */
static bool read_piece(struct vb_reader *reader, const struct vb_extent *extent, uint64_t skip_bytes, size_t length)
{
	static uint8_t whole[PIECE_BYTES_MAX], parts[PIECE_BYTES_MAX];
	struct vb_error error = { 0 }, part_error = { 0 };
	size_t half = length / 2;
	bool is_read = vb_reader_read(reader, extent, skip_bytes, whole, length, &error) == 0;
	bool is_read_in_parts = vb_reader_read(reader, extent, skip_bytes, parts, half, &part_error) == 0 &&
				vb_reader_read(reader, extent, skip_bytes + half, parts + half, length - half, &part_error) == 0;

	REQUIRE(is_read == is_read_in_parts);
	if (is_read)
		REQUIRE(memcmp(whole, parts, length) == 0);
	else
		require_refusal(&error);
	return is_read;
}

static void read_plan(const struct vb_chain *chain, const struct vb_plan *plan)
{
	struct vb_error error = { 0 };
	struct vb_reader *reader = vb_reader_new(chain, &error);
	uint64_t left_bytes = READ_BYTES_MAX;

	REQUIRE(reader != NULL);
	for (size_t index = 0; index < plan->extent_count && left_bytes > 0; index++) {
		const struct vb_extent *extent = &plan->extents[index];
		uint64_t done = 0;

		while (done < extent->length_bytes && left_bytes > 0) {
			uint64_t wanted = extent->length_bytes - done;
			size_t length = wanted < PIECE_BYTES_MAX ? (size_t)wanted : PIECE_BYTES_MAX;

			left_bytes -= length < left_bytes ? length : left_bytes;
			if (!read_piece(reader, extent, done, length))
				break;
			done += length;
		}
	}
	vb_reader_free(reader);
}

static void plan_and_read(const struct vb_chain *chain, enum vb_plan_mode mode, uint32_t unit_bytes)
{
	struct vb_error error = { 0 };
	struct vb_plan *plan = vb_plan_make(chain, mode, unit_bytes, NULL, &error);

	if (plan == NULL) {
		require_refusal(&error);
		return;
	}
	require_plan(plan, vb_chain_depth(chain));
	if (mode == VB_PLAN_FULL)
		read_plan(chain, plan);
	vb_plan_free(plan);
}

static bool is_small(const struct vb_chain *chain)
{
	for (size_t index = 0; index < vb_chain_depth(chain); index++) {
		const struct vb_image_info *info = vb_layer_info(vb_chain_layer(chain, index));

		if (info->format == VB_FORMAT_QCOW2 && info->virtual_size_bytes / info->cluster_size_bytes > CLUSTERS_MAX)
			return false;
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vb_error error = { 0 };
	struct vb_chain *chain;

	memory_files_start(data, size);
	chain = memory_files_chain(false, &error);
	if (chain == NULL) {
		require_refusal(&error);
		error = (struct vb_error){ 0 };
		chain = memory_files_chain(true, &error);
	}
	if (chain == NULL) {
		require_refusal(&error);
	} else if (is_small(chain)) {
		map_layers(chain);
		plan_and_read(chain, VB_PLAN_FULL, 0);
		plan_and_read(chain, VB_PLAN_TOP, 65536);
	}
	vb_chain_close(chain);
	memory_files_end();
	return 0;
}
