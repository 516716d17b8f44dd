/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plans of random chains against a model: every layer is built cluster by cluster with known content, mixed cluster sizes, kinds and
 * virtual sizes, and what plan and reader give must be what the model says, flattened and in top mode.
 */
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "image_builder.h"
#include "qcow2.h"

#define SIZE_MAX_BYTES (768u * 1024)
#define LAYERS_MAX 5

/* What a chain must read as, and per byte whether the top layer says anything. */
struct model {
	uint8_t content[SIZE_MAX_BYTES + (64 * 1024)];
	bool is_top[SIZE_MAX_BYTES + (64 * 1024)];
	uint64_t size_bytes;
};

static unsigned long long seed;

static uint64_t pick(uint64_t below)
{
	return test_random(&seed) % below;
}

static void fill_cluster(uint8_t *cluster, uint32_t length)
{
	uint8_t base = (uint8_t)pick(255);
	bool is_random = pick(4) == 0;

	for (uint32_t i = 0; i < length; i++)
		cluster[i] = is_random ? (uint8_t)pick(256) : (uint8_t)(1 + (base + i / 97) % 255);
}

/* Puts one layer over what `model` reads as so far. */
static void build_layer(struct model *model, const char *path, const char *below)
{
	const uint32_t bits_choice[] = { 9, 10, 12, 16 };
	uint32_t bits = bits_choice[pick(4)], cluster_bytes = 1u << bits, version = pick(4) == 0 ? 2 : 3;
	uint64_t size = pick(4) == 0 ? 1 + pick(SIZE_MAX_BYTES) : (1 + pick(SIZE_MAX_BYTES / 512)) * 512;
	struct builder builder;
	uint64_t unallocated_run = 0;

	builder_start(&builder, path, version, bits, size);
	builder.compression = version == 3 && pick(2) ? VB_COMPRESSION_ZSTD : VB_COMPRESSION_DEFLATE;
	builder.backing_name = below;
	builder.backing_format = below != NULL ? "qcow2" : NULL;
	memset(model->is_top, 0, sizeof(model->is_top));
	if (size > model->size_bytes)
		memset(model->content + model->size_bytes, 0, size - model->size_bytes);
	for (uint64_t cluster = 0; cluster << bits < size; cluster++) {
		uint8_t *content = model->content + (cluster << bits);
		uint64_t kind = pick(6);

		if (unallocated_run > 0) {
			unallocated_run--;
			continue;
		}
		if (kind == 0) {
			unallocated_run = pick(bits < 12 ? 300 : 8);
			continue;
		}
		if (kind == 1 && version == 3) {
			memset(content, 0, cluster_bytes);
			builder_put_zero(&builder, cluster, pick(2) == 0);
		} else {
			fill_cluster(content, cluster_bytes);
			if (kind <= 3)
				builder_put_compressed(&builder, cluster, content);
			else
				builder_put_data(&builder, cluster, content);
		}
		memset(model->is_top + (cluster << bits), 1, cluster_bytes);
	}
	builder_finish(&builder);
	/* What lies behind the end of this layer is cut off for those above it. */
	memset(model->content + size, 0, sizeof(model->content) - size);
	memset(model->is_top + size, 0, sizeof(model->is_top) - size);
	model->size_bytes = size;
}

static void check_full(const struct model *model, const struct vb_chain *chain)
{
	const size_t pieces[] = { 512, 1000, 65536, 1 << 20 };
	struct vb_error error = { 0 };
	struct vb_plan *plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
	uint8_t *content;

	CHECK_OK(plan != NULL, error);
	check_plan(plan, chain);
	for (size_t i = 0; i < 4; i++) {
		content = calloc(1, model->size_bytes);
		CHECK(content != NULL);
		CHECK_OK(read_plan(chain, plan, content, pieces[i], &error) == 0, error);
		CHECK(memcmp(content, model->content, model->size_bytes) == 0);
		free(content);
	}
	vb_plan_free(plan);
}

static bool touches(const struct model *model, uint64_t start, uint64_t end)
{
	for (uint64_t i = start; i < end; i++) {
		if (model->is_top[i])
			return true;
	}
	return false;
}

/* Touched units are there in full with the flattened content; other units are gaps. */
static void check_top(const struct model *model, const struct vb_chain *chain, uint32_t unit)
{
	struct vb_error error = { 0 };
	struct vb_plan *plan = vb_plan_make(chain, VB_PLAN_TOP, unit, NULL, &error);
	uint8_t *content = malloc(model->size_bytes);
	uint64_t listed = 0;

	CHECK_OK(plan != NULL, error);
	CHECK(content != NULL);
	check_plan(plan, chain);
	CHECK_OK(read_plan(chain, plan, content, 300000, &error) == 0, error);
	for (uint64_t start = 0; start < model->size_bytes; start += unit) {
		uint64_t end = start + unit < model->size_bytes ? start + unit : model->size_bytes;
		size_t index = vb_plan_find(plan, start);
		bool is_listed = index < plan->extent_count && plan->extents[index].start_bytes < end;

		CHECK_EQUAL(is_listed, touches(model, start, end));
		if (!is_listed)
			continue;
		CHECK(memcmp(content + start, model->content + start, end - start) == 0);
		listed += end - start;
	}
	CHECK_EQUAL(listed, plan->data_bytes + plan->zero_bytes);
	free(content);
	vb_plan_free(plan);
}

static void test_random_chains(void)
{
	static struct model model;

	for (int round = 0; round < 40; round++) {
		uint64_t depth = 1 + pick(LAYERS_MAX);
		struct vb_error error = { 0 };
		struct vb_chain *chain;
		char name[32], below[32];

		memset(&model, 0, sizeof(model));
		for (uint64_t i = 0; i < depth; i++) {
			snprintf(name, sizeof(name), "layer-%d", (int)i);
			snprintf(below, sizeof(below), "layer-%d", (int)i - 1);
			build_layer(&model, test_path("%s", name), i == 0 ? NULL : below);
		}
		chain = open_chain(test_path("%s", name), VB_FORMAT_QCOW2, &error);
		CHECK_OK(chain != NULL, error);
		CHECK_EQUAL(vb_chain_depth(chain), depth);
		check_full(&model, chain);
		for (uint32_t unit = 512; unit <= 2 * 1024 * 1024; unit *= 4)
			check_top(&model, chain, unit);
		vb_chain_close(chain);
	}
}

static void test_units_are_checked(void)
{
	struct vb_error error = { 0 };
	struct builder builder;
	struct vb_chain *chain;

	builder_start(&builder, test_path("unit"), 3, 16, 65536);
	builder_finish(&builder);
	chain = open_chain(test_path("unit"), VB_FORMAT_QCOW2, &error);
	CHECK_OK(chain != NULL, error);
	for (uint32_t unit = 0; unit < 2048; unit += 256) {
		struct vb_plan *plan = vb_plan_make(chain, VB_PLAN_TOP, unit, NULL, &error);

		CHECK_EQUAL(plan != NULL, unit == 512 || unit == 1024);
		if (plan == NULL)
			CHECK_ERROR(error, VB_ERROR_INVALID, "power of two");
		vb_plan_free(plan);
	}
	vb_chain_close(chain);
}

/* The largest image there is, nearly empty, costs next to nothing. */
static void test_huge(void)
{
	const uint64_t size = (1ull << 61) - (1ull << 39) + 512;
	static uint8_t cluster[2 * 1024 * 1024];
	struct vb_error error = { 0 };
	struct builder builder;
	struct vb_chain *chain;
	struct vb_plan *plan;

	memset(cluster, 7, sizeof(cluster));
	builder_start(&builder, test_path("huge"), 3, 21, size);
	builder_put_data(&builder, 0, cluster);
	builder_put_data(&builder, size >> 21, cluster);
	builder_finish(&builder);
	chain = open_chain(test_path("huge"), VB_FORMAT_QCOW2, &error);
	CHECK_OK(chain != NULL, error);
	plan = vb_plan_make(chain, VB_PLAN_FULL, 0, NULL, &error);
	CHECK_OK(plan != NULL, error);
	check_plan(plan, chain);
	CHECK_EQUAL(plan->extent_count, 2);
	CHECK_EQUAL(plan->data_bytes, sizeof(cluster) + 512);
	vb_plan_free(plan);
	vb_chain_close(chain);
	unlink(test_path("huge"));
}

static void test_cancel(void)
{
	const bool cancelled = true;
	struct vb_error error = { 0 };
	struct builder builder;
	struct vb_chain *chain;

	builder_start(&builder, test_path("cancel"), 3, 16, 65536);
	*builder_entry(&builder, 0) = VB_QCOW2_ZERO;
	builder_finish(&builder);
	chain = open_chain(test_path("cancel"), VB_FORMAT_QCOW2, &error);
	CHECK_OK(chain != NULL, error);
	CHECK(vb_plan_make(chain, VB_PLAN_FULL, 0, &cancelled, &error) == NULL);
	CHECK_ERROR(error, VB_ERROR_CANCELLED, "Cancelled");
	vb_chain_close(chain);
}

int main(void)
{
	const char *from = getenv("TEST_SEED");

	seed = from != NULL ? strtoull(from, NULL, 0) : 1;
	RUN(test_random_chains);
	RUN(test_units_are_checked);
	RUN(test_huge);
	RUN(test_cancel);
	return 0;
}
