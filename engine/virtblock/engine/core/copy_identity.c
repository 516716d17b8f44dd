/* SPDX-License-Identifier: Apache-2.0 */
/* Which job a journal belongs to. Owns: what is compared, and the words for each difference. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "copy_journal.h"
#include "device_state.h"
#include "sys.h"

#define HEAD_BYTES (64u * 1024)
#define EXTENTS_AT_ONCE 64u
#define EXTENT_WORDS 4u

static struct vb_mark mark_text(const char *text)
{
	return text ? vb_mark_of(text, strlen(text)) : (struct vb_mark){0};
}

/* All that decides where a byte of the destination goes, besides the plan. */
static struct vb_mark mark_options(const struct vb_copy *copy)
{
	const struct vb_destination_spec *spec = &copy->destination->spec;
	struct vb_mark path = mark_text(spec->backing_path), format = mark_text(spec->backing_format);
	const uint64_t values[] = {
		(uint64_t)copy->options.mode, (uint64_t)spec->format, spec->reuse, spec->cluster_size_bytes, spec->extended_l2,
		spec->compression, spec->preallocation, spec->in_source_order, copy->destination->unit_bytes, copy->is_incremental, copy->options.journal_salt,
		path.low, path.high, format.low, format.high,
	};

	return vb_mark_of(values, sizeof(values));
}

static struct vb_mark mark_plan(const struct vb_plan *plan)
{
	uint64_t words[2 + EXTENTS_AT_ONCE * EXTENT_WORDS] = {0};
	struct vb_mark mark = {plan->extent_count, plan->size_bytes};

	for (size_t first = 0; first < plan->extent_count; first += EXTENTS_AT_ONCE) {
		size_t count = 2;

		words[0] = mark.low;
		words[1] = mark.high;
		for (size_t index = first; index < plan->extent_count && index < first + EXTENTS_AT_ONCE; index++) {
			const struct vb_extent *extent = &plan->extents[index];

			words[count++] = extent->start_bytes;
			words[count++] = extent->length_bytes;
			words[count++] = extent->host_offset_bytes;
			words[count++] = (uint64_t)extent->host_length_bytes << 32 | (uint64_t)extent->layer_index << 8 | extent->kind;
		}
		mark = vb_mark_of(words, count * sizeof(words[0]));
	}
	return mark;
}

static int identify_file(const struct vb_file *file, struct vb_journal_layer *layer, struct vb_error *error)
{
	struct stat status;
	uint8_t *head;
	int result;

	if (vb_sys->fstat(file->fd, &status))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot read the image's status");
	layer->inode = file->inode;
	layer->size_bytes = file->size_bytes;
	if (file->is_block_device)
		layer->modified_ns = vb_device_state(file->device);
	else
		layer->modified_ns = (uint64_t)status.st_mtim.tv_sec * 1000000000ull + (uint64_t)status.st_mtim.tv_nsec;
	head = malloc(HEAD_BYTES);
	if (!head)
		return vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the image's header");
	result = vb_pread_full(file->fd, file->path, head, HEAD_BYTES, 0, error);
	layer->head = vb_mark_of(head, HEAD_BYTES);
	free(head);
	return result;
}

/* `may_change`: all but which file it is. */
static int identify_layer(const struct vb_layer *layer, bool may_change, struct vb_journal_layer *identity, struct vb_error *error)
{
	const struct vb_file *file = vb_layer_file(layer), *data_file = vb_layer_data_file(layer);
	struct vb_journal_layer of_data = {0};

	identity->inode = file->inode;
	if (!may_change && identify_file(file, identity, error))
		return -1;
	if (may_change || data_file == file)
		return 0;
	if (identify_file(data_file, &of_data, error))
		return -1;
	identity->data_file = vb_mark_of(&of_data, sizeof(of_data));
	return 0;
}

int vb_copy_identify(const struct vb_copy *copy, struct vb_journal_identity *identity, struct vb_error *error)
{
	const struct vb_file *destination = &copy->destination->file;

	*identity = (struct vb_journal_identity){
		.kind = (uint64_t)copy->options.journal_kind,
		.granule_bytes = copy->options.granule_bytes,
		.virtual_size_bytes = copy->size_bytes,
		.has_digest = copy->has_digest,
		.options = mark_options(copy),
		.destination_device = destination->is_block_device ? destination->device : 0,
		.destination_inode = destination->inode,
		.layer_count = vb_chain_depth(copy->source),
	};
	/* A merge changes what its own plan is made of. */
	if (copy->plan && copy->options.journal_kind == VB_JOURNAL_COPY)
		identity->plan = mark_plan(copy->plan);
	for (size_t index = 0; index < identity->layer_count; index++) {
		const struct vb_layer *layer = vb_chain_layer(copy->source, index);
		bool may_change = index < copy->options.journal_first_layer || vb_file_is_same(vb_layer_file(layer), destination);

		if (identify_layer(layer, may_change, &identity->layers[index], error))
			return -1;
	}
	return 0;
}

static bool are_equal(struct vb_mark left, struct vb_mark right)
{
	return left.low == right.low && left.high == right.high;
}

static int check_layer(const struct vb_layer *layer, const struct vb_journal_layer *found, const struct vb_journal_layer *now,
		       struct vb_error *error)
{
	const struct vb_file *file = vb_layer_file(layer);

	if (found->inode != now->inode)
		return vb_fail(error, VB_ERROR_CHANGED, 0, file->path, -1,
			       "The source is another file than when the job was begun (inode %llu, now %llu)",
			       (unsigned long long)found->inode, (unsigned long long)now->inode);
	if (found->size_bytes != now->size_bytes)
		return vb_fail(error, VB_ERROR_CHANGED, 0, file->path, -1,
			       "The source had a length of %llu bytes when the job was begun and has %llu now",
			       (unsigned long long)found->size_bytes, (unsigned long long)now->size_bytes);
	if (found->modified_ns != now->modified_ns && file->is_block_device)
		return vb_fail(error, VB_ERROR_CHANGED, 0, file->path, -1,
			       "The source device was written after the job was begun, or the host was started anew");
	if (found->modified_ns != now->modified_ns)
		return vb_fail(error, VB_ERROR_CHANGED, 0, file->path, -1,
			       "The source was modified after the job was begun (at %llu.%09llu, before at %llu.%09llu)",
			       (unsigned long long)now->modified_ns / 1000000000, (unsigned long long)now->modified_ns % 1000000000,
			       (unsigned long long)found->modified_ns / 1000000000, (unsigned long long)found->modified_ns % 1000000000);
	if (!are_equal(found->head, now->head))
		return vb_fail(error, VB_ERROR_CHANGED, 0, file->path, -1, "The source's header is not what it was when the job was begun");
	if (!are_equal(found->data_file, now->data_file))
		return vb_fail(error, VB_ERROR_CHANGED, 0, vb_layer_data_file(layer)->path, -1,
			       "The source's external data file is not what it was when the job was begun");
	return 0;
}

static int check_options(const struct vb_copy *copy, const struct vb_journal_identity *found, const struct vb_journal_identity *now,
			 struct vb_error *error)
{
	const char *path = copy->destination->spec.path;

	if (found->kind != now->kind)
		return vb_fail(error, VB_ERROR_CHANGED, 0, path, -1, "The journal belongs to a job of another kind");
	if (found->virtual_size_bytes != now->virtual_size_bytes)
		return vb_fail(error, VB_ERROR_CHANGED, 0, path, -1, "The disk had %llu bytes when the job was begun and has %llu now",
			       (unsigned long long)found->virtual_size_bytes, (unsigned long long)now->virtual_size_bytes);
	if (found->granule_bytes != now->granule_bytes)
		return vb_fail(error, VB_ERROR_CHANGED, 0, path, -1, "The job was begun with granules of %llu bytes, not of %llu",
			       (unsigned long long)found->granule_bytes, (unsigned long long)now->granule_bytes);
	if (!are_equal(found->options, now->options))
		return vb_fail(error, VB_ERROR_CHANGED, 0, path, -1,
			       "The job was begun with another mode or bitmap, or another format, cluster size, kind of L2 entries, "
			       "preallocation or backing file for the destination");
	return 0;
}

int vb_copy_check_sources(const struct vb_copy *copy, const struct vb_journal_identity *found, const struct vb_journal_identity *now,
			  struct vb_error *error)
{
	const struct vb_mark none = {0};

	if (found->layer_count != now->layer_count)
		return vb_fail(error, VB_ERROR_CHANGED, 0, vb_layer_file(vb_chain_layer(copy->source, 0))->path, -1,
			       "The source's chain had %llu images when the job was begun and has %llu now",
			       (unsigned long long)found->layer_count, (unsigned long long)now->layer_count);
	for (size_t index = 0; index < now->layer_count; index++)
		if (check_layer(vb_chain_layer(copy->source, index), &found->layers[index], &now->layers[index], error))
			return -1;
	if (are_equal(found->plan, now->plan) || are_equal(found->plan, none) || are_equal(now->plan, none))
		return 0;
	return vb_fail(error, VB_ERROR_CHANGED, 0, vb_layer_file(vb_chain_layer(copy->source, 0))->path, -1,
		       "The source holds its data at other places than when the job was begun");
}

int vb_copy_check_identity(const struct vb_copy *copy, const struct vb_journal_identity *found, const struct vb_journal_identity *now,
			   struct vb_error *error)
{
	if (found->destination_device != now->destination_device || found->destination_inode != now->destination_inode)
		return vb_fail(error, VB_ERROR_CHANGED, 0, copy->destination->file.path, -1,
			       "The destination is not the one that the job was begun with (inode %llu, now %llu)",
			       (unsigned long long)found->destination_inode, (unsigned long long)now->destination_inode);
	if (check_options(copy, found, now, error))
		return -1;
	return vb_copy_check_sources(copy, found, now, error);
}
