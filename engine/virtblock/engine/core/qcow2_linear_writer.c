/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New qcow2 destinations, written front to back (version 3, 16-bit refcounts).
 *
 * Owns: the partial file or block device, and which units of it were written. Invariants: the layout never changes after prepare(). A cluster is
 * referenced by the image exactly when a bit of it in `written` is set; one that is planned but was found to be zero stays a hole of the file, with
 * refcount 0, and its L2 entry says "zero" where a backing file would show through and nothing otherwise. With extended L2 entries the same
 * holds for each subcluster. In a preallocated image every cluster is referenced, and reads as zeros until it is written. Metadata
 * exists nowhere but in the plan's runs and these bits until publish() generates it; the header is the last thing written, so the
 * partial file, or the device, is no image before all else is durable.
 */
#include "qcow2_linear_writer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2_new_header.h"
#include "sys.h"

static struct linear_writer *linear(struct vb_writer *writer)
{
	return (struct linear_writer *)writer;
}

/* Room for everything, and no header: what the device held opens no more, and what it gets opens only when it is complete. */
static int prepare_device(struct linear_writer *self, struct vb_error *error)
{
	const struct vb_file *file = &self->base.file;

	if (self->layout.file_size_bytes > file->size_bytes)
		return vb_fail(error, VB_ERROR_SPACE, 0, file->path, -1, "The copy needs up to %llu bytes, the block device has %llu",
			       (unsigned long long)self->layout.file_size_bytes, (unsigned long long)file->size_bytes);
	return vb_writer_clear_device_head(&self->base, error);
}

/* The file's room is taken before anything is written to it. Where it must hold zeros, the copy writes them with all else, and here only those
 * that it does not write: there is no copy, or a backing file shows through. What an earlier run of the copy left has them, and data among them. */
static int preallocate(struct linear_writer *self, const struct vb_plan *plan, struct vb_error *error)
{
	const struct vb_qcow2_layout *layout = &self->layout;

	if (vb_writer_preallocate(&self->base, layout->file_size_bytes, &self->fills, error))
		return -1;
	if (!self->fills)
		return 0;
	if (plan && plan->mode == VB_PLAN_FULL)
		self->base.zero_needed = true;
	else if (self->base.is_fresh)
		return vb_writer_fill(&self->base, layout->data_offset_bytes, layout->data_count << layout->cluster_bits, error);
	return 0;
}

/* Bits of `written`. */
static uint64_t data_unit_count(const struct linear_writer *self)
{
	return self->layout.data_count * vb_qcow2_layout_units_per_cluster(&self->layout);
}

static int linear_prepare(struct vb_writer *writer, const struct vb_plan *plan, struct vb_error *error)
{
	struct linear_writer *self = linear(writer);

	if (vb_writer_check_plan(writer, plan, error) ||
	    vb_qcow2_layout_make(&self->layout, plan, writer->spec.virtual_size_bytes, &writer->spec, error))
		return -1;
	writer->is_in_source_order = self->layout.in_source_order;
	self->has_zero_entries = plan && plan->mode == VB_PLAN_TOP;
	self->written = calloc(data_unit_count(self) / 64 + 1, sizeof(*self->written));
	if (!self->written)
		return vb_fail(error, VB_ERROR_MEMORY, 0, writer->file.path, -1, "No memory for the map of %llu clusters",
			       (unsigned long long)self->layout.data_count);
	return self->is_device ? prepare_device(self, error) : preallocate(self, plan, error);
}

/* Sets or clears the bits [first, first + count); lanes may share the words at both ends. */
static void mark_written(struct linear_writer *self, uint64_t first, uint64_t count, bool is_written)
{
	uint64_t end = first + count;

	while (first < end) {
		uint64_t in_word = 64 - first % 64;
		uint64_t take = end - first < in_word ? end - first : in_word;
		uint64_t mask = (take == 64 ? ~0ull : (1ull << take) - 1) << (first % 64);

		if (is_written)
			atomic_fetch_or_explicit(&self->written[first / 64], mask, memory_order_relaxed);
		else
			atomic_fetch_and_explicit(&self->written[first / 64], ~mask, memory_order_relaxed);
		first += take;
	}
}

static uint64_t unit_count_of(const struct vb_writer *writer, uint64_t length_bytes)
{
	return (length_bytes + writer->unit_bytes - 1) / writer->unit_bytes;
}

/* The disk may end inside its last unit. What the device held behind that would come to light if the disk grew. */
static int clear_unit_end(const struct vb_writer *writer, uint64_t host_bytes, struct vb_error *error)
{
	uint64_t rest = (0 - host_bytes) & (writer->unit_bytes - 1);
	uint8_t *zeros;
	int result;

	if (rest == 0)
		return 0;
	zeros = calloc(1, rest);
	if (!zeros)
		return vb_fail(error, VB_ERROR_MEMORY, 0, writer->file.path, -1, "No memory for the end of a unit");
	result = vb_pwrite_full(writer->file.fd, writer->file.path, zeros, rest, host_bytes, error);
	free(zeros);
	return result;
}

static int fail_unplanned(const struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error)
{
	return vb_fail(error, VB_ERROR_INTERNAL, 0, writer->file.path, -1, "%llu bytes of data at %llu were not planned",
		       (unsigned long long)length_bytes, (unsigned long long)start_bytes);
}

static uint64_t host_offset_of(const struct linear_writer *self, uint64_t rank)
{
	return self->layout.data_offset_bytes + (rank << self->layout.unit_bits);
}

/* What one run holds of the range, which begins in it. */
static int write_in_run(struct linear_writer *self, const struct vb_qcow2_run *run, uint64_t start_bytes, const uint8_t *buffer, size_t length,
			struct vb_error *error)
{
	const struct vb_writer *writer = &self->base;
	uint64_t rank = run->rank + ((start_bytes >> self->layout.unit_bits) - run->first_unit);
	uint64_t host_bytes = host_offset_of(self, rank);

	if (vb_pwrite_full(writer->file.fd, writer->file.path, buffer, length, host_bytes, error) ||
	    (self->is_device && clear_unit_end(writer, host_bytes + length, error)))
		return -1;
	mark_written(self, rank, unit_count_of(writer, length), true);
	return 0;
}

static int linear_write(struct vb_writer *writer, uint64_t start_bytes, const void *buffer, size_t length,
			struct vb_error *error)
{
	struct linear_writer *self = linear(writer);
	const uint8_t *bytes = buffer;

	if (vb_writer_check_range(writer, start_bytes, length, error))
		return -1;
	while (length > 0) {
		const struct vb_qcow2_run *run = vb_qcow2_layout_find(&self->layout, start_bytes >> self->layout.unit_bits);

		if (!run || run->rank == VB_QCOW2_RANK_ZERO)
			return fail_unplanned(writer, start_bytes, length, error);

		uint64_t room_bytes = ((run->first_unit + run->unit_count) << self->layout.unit_bits) - start_bytes;
		size_t piece = length < room_bytes ? length : (size_t)room_bytes;

		if (write_in_run(self, run, start_bytes, bytes, piece, error))
			return -1;
		start_bytes += piece;
		bytes += piece;
		length -= piece;
	}
	return 0;
}

/* The rank of a piece that one run holds and that lies at `wanted_rank`, UINT64_MAX being any; INTERNAL where it does not. */
static int find_rank(const struct linear_writer *self, const struct vb_share_piece *piece, uint64_t wanted_rank, uint64_t *rank,
		     struct vb_error *error)
{
	const struct vb_writer *writer = &self->base;

	if (vb_writer_check_range(writer, piece->start_bytes, piece->length_bytes, error))
		return -1;
	if (vb_qcow2_layout_find_rank(&self->layout, piece->start_bytes >> self->layout.unit_bits,
				      unit_count_of(writer, piece->length_bytes), rank) &&
	    (wanted_rank == UINT64_MAX || *rank == wanted_rank))
		return 0;
	return fail_unplanned(writer, piece->start_bytes, piece->length_bytes, error);
}

static int linear_share(struct vb_writer *writer, const struct vb_share *share, struct vb_error *error)
{
	struct linear_writer *self = linear(writer);
	uint64_t first_rank = 0, next_rank = UINT64_MAX, length_bytes = 0, rank;

	for (size_t index = 0; index < share->piece_count; index++) {
		if ((length_bytes & (writer->unit_bytes - 1)) != 0)
			return fail_unplanned(writer, share->pieces[index].start_bytes, share->pieces[index].length_bytes, error);
		if (find_rank(self, &share->pieces[index], next_rank, &rank, error))
			return -1;
		if (index == 0)
			first_rank = rank;
		next_rank = rank + unit_count_of(writer, share->pieces[index].length_bytes);
		length_bytes += share->pieces[index].length_bytes;
	}
	if (vb_writer_share_range(writer, host_offset_of(self, first_rank), share->source, share->source_offset_bytes, length_bytes, error))
		return -1;
	mark_written(self, first_rank, next_rank - first_rank, true);
	return 0;
}

/* Units without a run need nothing: they say nothing, and none is asked for over a backing file. */
static int linear_zero(struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error)
{
	struct linear_writer *self = linear(writer);

	if (vb_writer_check_range(writer, start_bytes, length_bytes, error))
		return -1;

	uint64_t unit = start_bytes >> self->layout.unit_bits;
	uint64_t end = unit + unit_count_of(writer, length_bytes);

	if (self->fills && !self->has_zero_entries)
		return vb_writer_fill(writer, host_offset_of(self, unit), length_bytes, error);
	while (unit < end) {
		const struct vb_qcow2_run *run = vb_qcow2_layout_find(&self->layout, unit);
		uint64_t run_end = run ? run->first_unit + run->unit_count : unit + 1;
		uint64_t stop = run_end < end ? run_end : end;

		if (!run && self->has_zero_entries)
			return vb_fail(error, VB_ERROR_INTERNAL, 0, writer->file.path, -1, "Zeros at %llu were not planned",
				       (unsigned long long)(unit << self->layout.unit_bits));
		if (run && run->rank != VB_QCOW2_RANK_ZERO)
			mark_written(self, run->rank + (unit - run->first_unit), stop - unit, false);
		unit = stop;
	}
	return 0;
}

/* The data alone: where it lies follows from the plan, and the tables come last. */
static int linear_checkpoint(struct vb_writer *writer, struct vb_error *error)
{
	return vb_writer_sync(writer, error);
}

static size_t state_words(const struct vb_writer *writer)
{
	return (size_t)(data_unit_count((const struct linear_writer *)writer) / 64 + 1);
}

static void save_state(const struct vb_writer *writer, uint64_t *words)
{
	const struct linear_writer *self = (const struct linear_writer *)writer;

	for (size_t index = 0; index < state_words(writer); index++)
		words[index] = atomic_load_explicit(&self->written[index], memory_order_relaxed);
}

/* Bits without a unit are of no use, and would be read as some. */
static void load_state(struct vb_writer *writer, const uint64_t *words)
{
	struct linear_writer *self = linear(writer);
	size_t count = state_words(writer);

	for (size_t index = 0; index < count; index++)
		atomic_store_explicit(&self->written[index], words[index], memory_order_relaxed);
	atomic_fetch_and_explicit(&self->written[count - 1], (1ull << (data_unit_count(self) % 64)) - 1, memory_order_relaxed);
}

static int linear_publish(struct vb_writer *writer, struct vb_error *error)
{
	struct linear_writer *self = linear(writer);

	/* Data and tables in one sync: nothing finds either without the header. */
	if (vb_qcow2_linear_write_metadata(self, error) || vb_writer_sync(writer, error))
		return -1;
	if (vb_qcow2_linear_write_header(self, error) || vb_writer_sync(writer, error))
		return -1;
	if (self->is_device) {
		writer->published = true;
		return 0;
	}
	return vb_new_file_publish(writer, &self->target, error);
}

static int linear_unpublish(struct vb_writer *writer, struct vb_error *error)
{
	uint8_t magic[4];

	vb_store_be32(magic, VB_UNFINISHED_MAGIC);
	if (vb_pwrite_full(writer->file.fd, writer->file.path, magic, sizeof(magic), VB_QCOW2_AT_MAGIC, error))
		return -1;
	return vb_writer_sync(writer, error);
}

static void linear_close(struct vb_writer *writer)
{
	struct linear_writer *self = linear(writer);

	if (!self->is_device)
		vb_new_file_close(writer, &self->target);
	vb_writer_release(writer);
	vb_qcow2_layout_free(&self->layout);
	free(self->written);
	free(self);
}

static const struct vb_writer_ops linear_ops = {
	.prepare = linear_prepare,
	.write = linear_write,
	.zero = linear_zero,
	.share = linear_share,
	.write_back = vb_writer_start_write_back,
	.checkpoint = linear_checkpoint,
	.state_words = state_words,
	.save_state = save_state,
	.load_state = load_state,
	.publish = linear_publish,
	.unpublish = linear_unpublish,
	.close = linear_close,
};

static int check_backing(const struct vb_destination_spec *spec, struct vb_error *error)
{
	if (!spec->backing_path)
		return 0;
	if (spec->preallocation != VB_PREALLOCATION_OFF && !spec->extended_l2)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1,
			       "An image with a backing file can be preallocated only with extended L2 entries");
	if (!spec->backing_format || !*spec->backing_format)
		return vb_fail(error, VB_ERROR_BACKING_FORMAT, 0, spec->path, -1,
			       "The format of the backing file '%s' must be given", spec->backing_path);
	if (strlen(spec->backing_format) > VB_QCOW2_BACKING_FORMAT_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1, "The backing format '%s' is longer than %u bytes",
			       spec->backing_format, VB_QCOW2_BACKING_FORMAT_MAX);

	size_t length = strlen(spec->backing_path);
	size_t room = spec->cluster_size_bytes - vb_qcow2_new_header_name_offset(spec);

	if (room > VB_QCOW2_BACKING_NAME_MAX)
		room = VB_QCOW2_BACKING_NAME_MAX;
	if (length == 0 || length > room)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1,
			       "A backing file name of %zu bytes does not fit: it may have 1 to %zu with clusters of %u bytes", length,
			       room, spec->cluster_size_bytes);
	return 0;
}

int vb_qcow2_linear_check(const struct vb_destination_spec *spec, struct vb_error *error)
{
	return vb_qcow2_check_cluster_size(spec, error) || check_backing(spec, error) ? -1 : 0;
}

struct vb_writer *vb_qcow2_linear_writer_new(struct vb_file *target, struct vb_file *file,
					     const struct vb_destination_spec *spec, struct vb_error *error)
{
	struct linear_writer *self = calloc(1, sizeof(*self));

	if (!self) {
		vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the destination");
		vb_new_file_discard(target, file);
		return NULL;
	}
	self->is_device = target == NULL;
	if (target)
		self->target = *target;
	if (vb_writer_init(&self->base, &linear_ops, file, spec, error)) {
		linear_close(&self->base);
		return NULL;
	}
	self->base.unit_bytes = vb_qcow2_unit_bytes(spec);
	self->base.can_resume = true;
	self->base.zero_needed = spec->backing_path != NULL;
	self->base.writes_in_turn = !self->is_device;
	if (!self->is_device)
		vb_writer_find_sharing(&self->base);
	return &self->base;
}
