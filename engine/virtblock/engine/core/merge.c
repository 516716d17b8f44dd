/* SPDX-License-Identifier: Apache-2.0 */
/* Pull and commit. Owns: see merge.h. */
#include "merge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chain_walk.h"
#include "copy_state.h"
#include "destination.h"
#include "qcow2_backing.h"
#include "sys.h"

#define NO_LAYER SIZE_MAX

struct vb_merge {
	struct vb_chain *chain;
	struct vb_writer *writer;
	struct vb_copy *copy;
	struct vb_merge_span span;
	bool durable;
	size_t written_index;
	size_t referrer_index;       /* the image whose backing reference changes; NO_LAYER if none does */
	struct vb_file referrer;     /* open for writing; fd -1 where it is the written image or there is none */
	char *backing_path;          /* what it will record; NULL: nothing */
	uint64_t size_bytes;         /* of the written image, in the end */
};

static const struct vb_image_info *info_of(const struct vb_merge *merge, size_t index)
{
	return vb_layer_info(vb_chain_layer(merge->chain, index));
}

static const char *path_of(const struct vb_merge *merge, size_t index)
{
	return vb_layer_file(vb_chain_layer(merge->chain, index))->path;
}

static size_t depth_of(const struct vb_merge *merge)
{
	return vb_chain_depth(merge->chain);
}

/* The disk that the base will have to hold. qcow2 holds whole sectors. */
static uint64_t committed_size(const struct vb_merge *merge)
{
	uint64_t top_bytes = info_of(merge, merge->span.top_index)->virtual_size_bytes;
	uint64_t base_bytes = info_of(merge, merge->span.base_index)->virtual_size_bytes;

	if (top_bytes <= base_bytes)
		return base_bytes;
	return info_of(merge, merge->span.base_index)->format == VB_FORMAT_QCOW2 ? (top_bytes + 511) / 512 * 512 : top_bytes;
}

static int check_span(const struct vb_merge *merge, struct vb_error *error)
{
	size_t top = merge->span.top_index, base = merge->span.base_index, depth = depth_of(merge);

	if (merge->span.is_commit && (top >= base || base >= depth))
		return vb_fail(error, VB_ERROR_INVALID, EINVAL, path_of(merge, 0), -1,
			       "Image %zu of a chain of %zu cannot be committed into image %zu", top, depth, base);
	if (!merge->span.is_commit && (top != 0 || base == 0 || base > depth))
		return vb_fail(error, VB_ERROR_INVALID, EINVAL, path_of(merge, 0), -1,
			       "Image %zu of a chain of %zu cannot be the base of a pull into the top", base, depth);
	return 0;
}

/* Internal snapshots read through the backing file too, and a pull moves nothing for them. */
static int check_snapshots(const struct vb_merge *merge, struct vb_error *error)
{
	const struct vb_image_info *info = info_of(merge, 0);

	if (merge->span.is_commit || info->snapshot_count == 0 || merge->span.base_index == 1 || depth_of(merge) == 1)
		return 0;
	return vb_fail(error, VB_ERROR_UNSUPPORTED, ENOTSUP, path_of(merge, 0), -1,
		       "The image has internal snapshots (%u), which need the backing files that a pull would take away",
		       info->snapshot_count);
}

static int check_device(const struct vb_merge *merge, struct vb_error *error)
{
	const struct vb_file *file = &merge->writer->file;

	if (!merge->span.is_commit || merge->writer->spec.format != VB_FORMAT_RAW || !file->is_block_device ||
	    merge->size_bytes <= file->size_bytes)
		return 0;
	return vb_fail(error, VB_ERROR_SIZE, 0, file->path, -1, "The block device has %llu bytes, the image to commit into it has %llu",
		       (unsigned long long)file->size_bytes, (unsigned long long)merge->size_bytes);
}

static struct vb_backing_reference wanted_reference(const struct vb_merge *merge)
{
	struct vb_backing_reference wanted = {0};

	if (merge->backing_path) {
		wanted.path = merge->backing_path;
		wanted.format = info_of(merge, merge->span.base_index)->format == VB_FORMAT_RAW ? "raw" : "qcow2";
	}
	return wanted;
}

/* What will be recorded, and whether it can be: a wrong or too long name must not come to light when all is moved. */
static int prepare_reference(struct vb_merge *merge, const struct vb_policy *policy, const char *backing_path, struct vb_error *error)
{
	size_t referrer = merge->referrer_index, base = merge->span.base_index;

	if (referrer == NO_LAYER)
		return 0;
	if (base < depth_of(merge)) {
		merge->backing_path = strdup(backing_path ? backing_path : path_of(merge, base));
		if (!merge->backing_path)
			return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "No memory for a path");
		if (vb_chain_check_name(policy, merge->chain, referrer, merge->backing_path, base, error))
			return -1;
	}
	if (referrer != merge->written_index &&
	    vb_image_reopen(policy, vb_chain_layer(merge->chain, referrer), &merge->referrer, error))
		return -1;

	struct vb_backing_reference wanted = wanted_reference(merge);

	return vb_qcow2_backing_check(vb_layer_file(vb_chain_layer(merge->chain, referrer)), &wanted, error);
}

static struct vb_plan *plan_merge(const struct vb_copy *copy, struct vb_error *error)
{
	const struct vb_merge *merge = copy->owner;

	return vb_plan_make_merge(merge->chain, &merge->span, merge->size_bytes, merge->writer->unit_bytes, &copy->cancelled, error);
}

/* One unit of the base, being read as the base alone and what is below it. */
struct tail {
	struct vb_reader *reader;
	uint8_t *bytes;
	uint64_t start_bytes;
	uint64_t end_bytes;
	bool is_held;     /* by some layer */
};

static int read_tail_piece(void *opaque, struct vb_extent *extent, size_t level, struct vb_error *error)
{
	struct tail *tail = opaque;

	extent->layer_index = (uint16_t)level;
	tail->is_held |= extent->kind != VB_EXTENT_UNALLOCATED;
	return vb_reader_read(tail->reader, extent, 0, tail->bytes + (extent->start_bytes - tail->start_bytes),
			      (size_t)extent->length_bytes, error);
}

static int read_tail(const struct vb_merge *merge, struct tail *tail, struct vb_error *error)
{
	struct vb_chain_walk *walk = calloc(1, sizeof(*walk));
	int result;

	if (!walk)
		return vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "No memory for a walk through the chain");
	vb_chain_walk_start(walk, merge->chain, depth_of(merge), NULL);
	result = vb_chain_walk_range(walk, merge->span.base_index, tail->start_bytes, tail->end_bytes, read_tail_piece, tail, error);
	vb_chain_walk_end(walk);
	free(walk);
	return result;
}

/* Puts the cluster in which the base ends into the base, whole: growing must not bring to light what its file or the images below
 * have behind that end. */
static int fill_tail(const struct vb_merge *merge, uint64_t below_bytes, struct vb_error *error)
{
	struct vb_writer *writer = merge->writer;
	uint64_t end_bytes = writer->spec.virtual_size_bytes;
	struct tail tail = {.start_bytes = end_bytes & ~(uint64_t)(writer->unit_bytes - 1), .end_bytes = end_bytes};
	int result = -1;

	if (tail.start_bytes == end_bytes)
		return 0;
	tail.bytes = malloc(writer->unit_bytes);
	tail.reader = vb_reader_new(merge->chain, error);
	if (!tail.bytes)
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "No memory for a cluster");
	else if (tail.reader && read_tail(merge, &tail, error) == 0)
		result = 0;
	if (result == 0 && (tail.is_held || below_bytes > end_bytes))
		result = writer->ops->write(writer, tail.start_bytes, tail.bytes, (size_t)(end_bytes - tail.start_bytes), error);
	vb_reader_free(tail.reader);
	free(tail.bytes);
	return result;
}

static int grow_raw(struct vb_writer *writer, uint64_t size_bytes, struct vb_error *error)
{
	if (vb_sys->ftruncate(writer->file.fd, (off_t)size_bytes))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, writer->file.path, -1, "Cannot set the image's length to %llu bytes",
			       (unsigned long long)size_bytes);
	writer->spec.virtual_size_bytes = size_bytes;
	return 0;
}

static int grow(const struct vb_merge *merge, struct vb_error *error)
{
	struct vb_writer *writer = merge->writer;
	size_t below = merge->span.base_index + 1;
	uint64_t below_bytes = below < depth_of(merge) ? info_of(merge, below)->virtual_size_bytes : 0;

	if (merge->size_bytes <= writer->spec.virtual_size_bytes)
		return 0;
	if (writer->spec.format == VB_FORMAT_RAW)
		return grow_raw(writer, merge->size_bytes, error);
	return fill_tail(merge, below_bytes, error) || vb_qcow2_grow(writer, merge->size_bytes, below_bytes, error) ? -1 : 0;
}

static int prepare_merge(const struct vb_copy *copy, struct vb_error *error)
{
	const struct vb_merge *merge = copy->owner;

	if (merge->span.is_commit && grow(merge, error))
		return -1;
	return merge->writer->ops->prepare(merge->writer, copy->plan, error);
}

static int publish_merge(const struct vb_copy *copy, struct vb_error *error)
{
	const struct vb_merge *merge = copy->owner;
	struct vb_backing_reference wanted = wanted_reference(merge);

	if (merge->writer->ops->publish(merge->writer, error))
		return -1;
	if (merge->referrer_index == NO_LAYER)
		return 0;
	return vb_qcow2_backing_change(merge->referrer.fd >= 0 ? &merge->referrer : &merge->writer->file, &wanted, merge->durable, error);
}

static const struct vb_copy_steps merge_steps = {.plan = plan_merge, .prepare = prepare_merge, .publish = publish_merge};

static int open_chain(struct vb_merge *merge, const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count,
		      bool terminated, struct vb_error *error)
{
	struct vb_merge_span *span = &merge->span;
	size_t written[2];
	size_t count = 0;

	written[count++] = span->is_commit ? span->base_index : 0;
	if (span->is_commit && span->top_index > 0)
		written[count++] = span->top_index - 1;
	merge->chain = vb_chain_open_to_merge(policy, specs, spec_count, terminated, written, count, error);
	if (!merge->chain)
		return -1;
	if (!span->is_commit && span->base_index == SIZE_MAX)
		span->base_index = depth_of(merge);
	if (check_span(merge, error) || check_snapshots(merge, error))
		return -1;
	merge->written_index = written[0];
	merge->referrer_index = count == 2 ? written[1] : NO_LAYER;
	/* A raw image records nothing, and a single one has nothing to forget. */
	if (!span->is_commit && depth_of(merge) > 1)
		merge->referrer_index = 0;
	return 0;
}

static int open_writer(struct vb_merge *merge, const struct vb_policy *policy, struct vb_error *error)
{
	enum vb_existing_role role = merge->span.is_commit ? VB_EXISTING_IMAGE : VB_EXISTING_PULLED;

	merge->writer = vb_image_open_merged(policy, vb_chain_layer(merge->chain, merge->written_index), role, merge->durable, error);
	if (!merge->writer)
		return -1;
	merge->size_bytes = merge->span.is_commit ? committed_size(merge) : merge->writer->spec.virtual_size_bytes;
	if (merge->writer->spec.format == VB_FORMAT_QCOW2 && vb_qcow2_check_growth(merge->writer, merge->size_bytes, error))
		return -1;
	return check_device(merge, error);
}

static int open_all(struct vb_merge *merge, const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count,
		    bool terminated, const char *backing_path, const struct vb_copy_options *options, struct vb_error *error)
{
	struct vb_copy_options own = *options;

	own.mode = VB_PLAN_MERGE;
	own.check_space = false;
	own.reflink = VB_REFLINK_NEVER;
	own.journal_kind = merge->span.is_commit ? VB_JOURNAL_COMMIT : VB_JOURNAL_PULL;
	own.journal_first_layer = merge->span.is_commit ? merge->span.top_index : 0;
	own.journal_salt = (uint64_t)merge->span.top_index << 32 | merge->span.base_index;
	if (open_chain(merge, policy, specs, spec_count, terminated, error) || open_writer(merge, policy, error) ||
	    prepare_reference(merge, policy, backing_path, error))
		return -1;
	merge->copy = vb_copy_new_with(merge->chain, merge->writer, merge->size_bytes, &own, &merge_steps, merge, error);
	return merge->copy ? 0 : -1;
}

struct vb_merge *vb_merge_open(const struct vb_policy *policy, const struct vb_layer_spec *specs, size_t spec_count, bool terminated,
			       const struct vb_merge_request *request, const struct vb_copy_options *options, struct vb_error *error)
{
	struct vb_merge *merge = calloc(1, sizeof(*merge));

	if (!merge) {
		vb_fail(error, VB_ERROR_MEMORY, ENOMEM, NULL, -1, "No memory for the merge");
		return NULL;
	}
	merge->span = request->span;
	merge->durable = request->durable;
	merge->referrer_index = NO_LAYER;
	merge->referrer = (struct vb_file){.fd = -1, .folder_fd = -1};
	if (open_all(merge, policy, specs, spec_count, terminated, request->backing_path, options, error) == 0)
		return merge;
	vb_merge_close(merge);
	return NULL;
}

/* What a cancelled merge has moved is made to count: nothing leaks, and the next run need not move it again. That it fails harms nothing. */
static void keep_moved(const struct vb_merge *merge)
{
	struct vb_error ignored;

	if (atomic_load(&merge->copy->is_planned))
		merge->writer->ops->checkpoint(merge->writer, &ignored);
}

int vb_merge_run(struct vb_merge *merge, struct vb_error *error)
{
	int result = vb_copy_run(merge->copy, error);

	if (result && error->kind == VB_ERROR_CANCELLED)
		keep_moved(merge);
	return result;
}

struct vb_copy *vb_merge_copy(struct vb_merge *merge)
{
	return merge->copy;
}

const struct vb_chain *vb_merge_chain(const struct vb_merge *merge)
{
	return merge->chain;
}

void vb_merge_close(struct vb_merge *merge)
{
	if (!merge)
		return;
	vb_copy_free(merge->copy);
	if (merge->writer)
		merge->writer->ops->close(merge->writer);
	vb_file_close(&merge->referrer);
	if (merge->chain)
		vb_chain_close(merge->chain);
	free(merge->backing_path);
	free(merge);
}
