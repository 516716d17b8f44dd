/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: reading whole chains in tests, and the invariants of plans. */
#include "chain_content.h"

#include "check.h"

struct vb_chain *open_chain(const char *path, enum vb_format format, struct vb_error *error)
{
	const struct vb_layer_spec spec = { .path = path, .format = format };
	struct vb_policy *policy = vb_policy_new(NULL, 0, error);
	struct vb_chain *chain;

	CHECK(policy != NULL);
	chain = vb_chain_open(policy, &spec, 1, false, VB_LOCK_READER, error);
	vb_policy_free(policy);
	return chain;
}

int read_plan(const struct vb_chain *chain, const struct vb_plan *plan, uint8_t *content, size_t piece_bytes, struct vb_error *error)
{
	struct vb_reader *reader = vb_reader_new(chain, error);
	int result = reader == NULL ? -1 : 0;

	for (size_t i = 0; i < plan->extent_count && result == 0; i++) {
		const struct vb_extent *extent = &plan->extents[i];

		for (uint64_t skip = 0; skip < extent->length_bytes && result == 0; skip += piece_bytes) {
			uint64_t left = extent->length_bytes - skip;

			result = vb_reader_read(reader, extent, skip, content + extent->start_bytes + skip,
						left < piece_bytes ? (size_t)left : piece_bytes, error);
		}
	}
	vb_reader_free(reader);
	return result;
}

uint8_t *read_chain(const struct vb_chain *chain, struct vb_error *error)
{
	struct vb_plan *plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, error);
	uint8_t *content;

	if (plan == NULL)
		return NULL;
	content = calloc(1, plan->size_bytes + 1);
	CHECK(content != NULL);
	if (read_plan(chain, plan, content, 256 * 1024, error) < 0) {
		free(content);
		content = NULL;
	}
	vb_plan_free(plan);
	return content;
}

uint8_t *read_image(const char *path, enum vb_format format, uint64_t *size_bytes, struct vb_error *error)
{
	struct vb_chain *chain = open_chain(path, format, error);
	uint8_t *content;

	if (chain == NULL)
		return NULL;
	*size_bytes = vb_chain_size_bytes(chain);
	content = read_chain(chain, error);
	vb_chain_close(chain);
	return content;
}

void check_plan(const struct vb_plan *plan, const struct vb_chain *chain)
{
	uint64_t data = 0, zero = 0, end = 0;
	uint32_t unit = 0;

	CHECK_EQUAL(plan->size_bytes, vb_chain_size_bytes(chain));
	for (size_t i = 0; i < plan->extent_count; i++) {
		const struct vb_extent *extent = &plan->extents[i];
		uint32_t cluster = vb_layer_info(vb_chain_layer(chain, extent->layer_index))->cluster_size_bytes;

		CHECK(extent->length_bytes > 0);
		CHECK(extent->start_bytes >= end);
		end = extent->start_bytes + extent->length_bytes;
		CHECK(end <= plan->size_bytes);
		CHECK(extent->layer_index < vb_chain_depth(chain));
		if (extent->kind == VB_EXTENT_ZERO) {
			CHECK(plan->mode == VB_PLAN_TOP);
			zero += extent->length_bytes;
			continue;
		}
		data += extent->length_bytes;
		CHECK(extent->kind == VB_EXTENT_DATA || extent->kind == VB_EXTENT_COMPRESSED);
		if (extent->kind == VB_EXTENT_COMPRESSED) {
			CHECK(extent->start_bytes / cluster == (end - 1) / cluster);
			unit = cluster > unit ? cluster : unit;
		}
		CHECK_EQUAL(vb_plan_find(plan, extent->start_bytes), i);
		CHECK_EQUAL(vb_plan_find(plan, end - 1), i);
		CHECK_EQUAL(vb_plan_find(plan, end), i + 1);
	}
	CHECK_EQUAL(plan->data_bytes, data);
	CHECK_EQUAL(plan->zero_bytes, zero);
	CHECK_EQUAL(plan->compressed_unit_bytes, unit);
	CHECK_EQUAL(vb_plan_find(plan, plan->size_bytes), plan->extent_count);
}
