/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw destinations: a new file, an existing file, a block device.
 *
 * Owns: writing guest bytes at their own offset, and zeroing by the cheapest means that the file system or device has.
 * Invariants: a new file is filled under its partial name; an existing file that a copy fills carries the unfinished trailer
 * durably from before its first change until everything is durable; a block device carries no mark.
 */
#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "destination.h"
#include "sys.h"

#define TRAILER_BYTES 512u
#define DEVICE_BLOCK_BYTES 4096u          /* the largest logical block that block devices have */
#define ZERO_BUFFER_BYTES (64u * 1024)

/* Rungs of the ladder that makes a range read as zeros, cheapest first; a rung that is not supported is left for good. */
enum zero_rung { RUNG_DEVICE = 0, RUNG_PUNCH = 1, RUNG_ZERO_RANGE = 2, RUNG_WRITE = 3 };

struct raw_writer {
	struct vb_writer base;
	struct vb_file target;   /* new file only */
	bool is_new;
	bool is_marked;          /* carries the trailer, or will from prepare() on */
	bool has_trailer;        /* found on the file: an earlier copy did not finish */
	bool fills;              /* zeros are written as any other data */
	atomic_int rung;
};

static struct raw_writer *raw(struct vb_writer *writer)
{
	return (struct raw_writer *)writer;
}

static void make_trailer(uint8_t trailer[TRAILER_BYTES])
{
	memset(trailer, 0, TRAILER_BYTES);
	memcpy(trailer, VB_UNFINISHED_TRAILER, sizeof(VB_UNFINISHED_TRAILER) - 1);
}

static int put_trailer(struct vb_writer *writer, struct vb_error *error)
{
	uint8_t trailer[TRAILER_BYTES];

	make_trailer(trailer);
	if (vb_pwrite_full(writer->file.fd, writer->file.path, trailer, sizeof(trailer), writer->spec.virtual_size_bytes, error))
		return -1;
	return vb_writer_sync(writer, error);
}

/* Nothing else of the file has changed yet: without the mark, or with a part of it, it must not stay longer than it was. */
static int mark(struct vb_writer *writer, struct vb_error *error)
{
	if (put_trailer(writer, error) == 0)
		return 0;
	(void)!vb_sys->ftruncate(writer->file.fd, (off_t)writer->spec.virtual_size_bytes);
	return -1;
}

static int set_file_size(struct vb_writer *writer, struct vb_error *error)
{
	uint64_t size_bytes = writer->spec.virtual_size_bytes;

	if (vb_sys->ftruncate(writer->file.fd, (off_t)size_bytes))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, writer->file.path, -1, "Cannot set the file's length to %llu bytes",
			       (unsigned long long)size_bytes);
	return 0;
}

/* With a plan the copy fills what must be filled; every zero of a full copy passes by here. */
static int prepare_new(struct raw_writer *self, const struct vb_plan *plan, struct vb_error *error)
{
	uint64_t size_bytes = self->base.spec.virtual_size_bytes;

	if (set_file_size(&self->base, error) || vb_writer_preallocate(&self->base, size_bytes, &self->fills, error))
		return -1;
	self->base.zero_needed = self->fills && plan;
	return self->fills && !plan ? vb_writer_fill(&self->base, 0, size_bytes, error) : 0;
}

static int raw_prepare(struct vb_writer *writer, const struct vb_plan *plan, struct vb_error *error)
{
	if (raw(writer)->is_new)
		return prepare_new(raw(writer), plan, error);
	if (raw(writer)->is_marked && !raw(writer)->has_trailer)
		return mark(writer, error);
	return 0;
}

static int raw_write(struct vb_writer *writer, uint64_t start_bytes, const void *buffer, size_t length, struct vb_error *error)
{
	if (vb_writer_check_range(writer, start_bytes, length, error))
		return -1;
	return vb_pwrite_full(writer->file.fd, writer->file.path, buffer, length, start_bytes, error);
}

/* What lies together in the disk lies together here, and nothing else does: one piece alone can be shared at once. */
static int raw_share(struct vb_writer *writer, const struct vb_share *share, struct vb_error *error)
{
	const struct vb_share_piece *piece = &share->pieces[0];

	if (share->piece_count != 1)
		return vb_fail(error, VB_ERROR_INTERNAL, 0, writer->file.path, -1, "%zu pieces to be shared at once", share->piece_count);
	if (vb_writer_check_range(writer, piece->start_bytes, piece->length_bytes, error))
		return -1;
	return vb_writer_share_range(writer, piece->start_bytes, share->source, share->source_offset_bytes, piece->length_bytes, error);
}

/* Writes zeros where the file has data; a block device has data everywhere. */
static int zero_by_writing(struct vb_writer *writer, uint64_t start_bytes, uint64_t end_bytes, struct vb_error *error)
{
	static const uint8_t zeros[ZERO_BUFFER_BYTES];

	while (start_bytes < end_bytes) {
		if (!writer->file.is_block_device) {
			off_t data = vb_sys->lseek(writer->file.fd, (off_t)start_bytes, SEEK_DATA);

			if (data < 0 && errno == ENXIO)
				return 0;
			if (data > (off_t)start_bytes)
				start_bytes = (uint64_t)data;
			if (start_bytes >= end_bytes)
				return 0;
		}

		uint64_t length = end_bytes - start_bytes;

		if (length > sizeof(zeros))
			length = sizeof(zeros);
		if (vb_pwrite_full(writer->file.fd, writer->file.path, zeros, (size_t)length, start_bytes, error))
			return -1;
		start_bytes += length;
	}
	return 0;
}

static int try_rung(struct vb_writer *writer, int rung, uint64_t start_bytes, uint64_t length_bytes)
{
	uint64_t range[2] = {start_bytes, length_bytes};
	int mode = FALLOC_FL_KEEP_SIZE | (rung == RUNG_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
	int result;

	do {
		result = rung == RUNG_DEVICE ? vb_sys->ioctl_u64(writer->file.fd, BLKZEROOUT, range)
					     : vb_sys->fallocate(writer->file.fd, mode, (off_t)start_bytes, (off_t)length_bytes);
	} while (result && errno == EINTR);
	return result;
}

static bool is_unsupported(int system_errno)
{
	return system_errno == EOPNOTSUPP || system_errno == ENOSYS || system_errno == ENOTTY || system_errno == EINVAL ||
	       system_errno == ENODEV;
}

static int zero_range(struct vb_writer *writer, uint64_t start_bytes, uint64_t end_bytes, struct vb_error *error)
{
	struct raw_writer *self = raw(writer);

	if (start_bytes >= end_bytes)
		return 0;
	for (int rung = atomic_load(&self->rung); rung < RUNG_WRITE; rung++) {
		if (try_rung(writer, rung, start_bytes, end_bytes - start_bytes) == 0)
			return 0;
		if (!is_unsupported(errno))
			return vb_fail(error, VB_ERROR_SYSTEM, errno, writer->file.path, (int64_t)start_bytes,
				       "Cannot zero %llu bytes", (unsigned long long)(end_bytes - start_bytes));
		atomic_store(&self->rung, rung + 1);
	}
	return zero_by_writing(writer, start_bytes, end_bytes, error);
}

static int raw_zero(struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error)
{
	uint64_t end_bytes = start_bytes + length_bytes;

	if (vb_writer_check_range(writer, start_bytes, length_bytes, error))
		return -1;
	if (raw(writer)->fills)
		return vb_writer_fill(writer, start_bytes, length_bytes, error);
	if (!writer->file.is_block_device)
		return zero_range(writer, start_bytes, end_bytes, error);

	/* A device takes whole blocks only: what sticks out at either end is written. */
	uint64_t inner_start = (start_bytes + DEVICE_BLOCK_BYTES - 1) / DEVICE_BLOCK_BYTES * DEVICE_BLOCK_BYTES;
	uint64_t inner_end = end_bytes / DEVICE_BLOCK_BYTES * DEVICE_BLOCK_BYTES;

	if (inner_start >= inner_end)
		return zero_by_writing(writer, start_bytes, end_bytes, error);
	if (zero_by_writing(writer, start_bytes, inner_start, error) || zero_range(writer, inner_start, inner_end, error))
		return -1;
	return zero_by_writing(writer, inner_end, end_bytes, error);
}

static int raw_checkpoint(struct vb_writer *writer, struct vb_error *error)
{
	return vb_writer_sync(writer, error);
}

static int raw_publish(struct vb_writer *writer, struct vb_error *error)
{
	struct raw_writer *self = raw(writer);

	if (vb_writer_sync(writer, error))
		return -1;
	if (self->is_new)
		return vb_new_file_publish(writer, &self->target, error);
	if (self->is_marked) {
		if (set_file_size(writer, error))
			return -1;
		if (writer->spec.durable && vb_fsync(writer->file.fd, writer->file.path, error))
			return -1;
	}
	writer->published = true;
	return 0;
}

static int raw_unpublish(struct vb_writer *writer, struct vb_error *error)
{
	if (writer->file.is_block_device)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, writer->file.path, -1, "A raw block device cannot be marked unfinished");
	return put_trailer(writer, error);
}

static void raw_close(struct vb_writer *writer)
{
	if (raw(writer)->is_new)
		vb_new_file_close(writer, &raw(writer)->target);
	vb_writer_release(writer);
	free(writer);
}

static const struct vb_writer_ops raw_ops = {
	.prepare = raw_prepare,
	.write = raw_write,
	.zero = raw_zero,
	.share = raw_share,
	.write_back = vb_writer_start_write_back,
	.checkpoint = raw_checkpoint,
	.publish = raw_publish,
	.unpublish = raw_unpublish,
	.close = raw_close,
};

/* `target` is NULL for an existing destination. */
static struct raw_writer *raw_allocate(struct vb_file *target, struct vb_file *file, const struct vb_destination_spec *spec,
				       struct vb_error *error)
{
	struct raw_writer *self = calloc(1, sizeof(*self));

	if (!self) {
		vb_fail(error, VB_ERROR_MEMORY, 0, file->path, -1, "No memory for the destination");
		vb_new_file_discard(target, file);
		return NULL;
	}
	self->is_new = target != NULL;
	if (target)
		self->target = *target;
	if (vb_writer_init(&self->base, &raw_ops, file, spec, error)) {
		raw_close(&self->base);
		return NULL;
	}
	self->base.writes_in_turn = !self->base.file.is_block_device;
	self->base.can_resume = true;
	atomic_init(&self->rung, self->base.file.is_block_device ? RUNG_DEVICE : RUNG_PUNCH);
	return self;
}

struct vb_writer *vb_raw_writer_new(struct vb_file *target, struct vb_file *file, const struct vb_destination_spec *spec,
				    struct vb_error *error)
{
	struct raw_writer *self = raw_allocate(target, file, spec, error);

	if (!self)
		return NULL;
	vb_writer_find_sharing(&self->base);
	return &self->base;
}

int vb_raw_find_trailer(const struct vb_file *file, uint64_t offset_bytes, bool *found, struct vb_error *error)
{
	uint8_t wanted[TRAILER_BYTES], there[TRAILER_BYTES];

	*found = false;
	if (file->is_block_device || file->size_bytes < TRAILER_BYTES || file->size_bytes - TRAILER_BYTES != offset_bytes)
		return 0;
	if (vb_pread_exact(file->fd, file->path, there, sizeof(there), offset_bytes, error))
		return -1;
	make_trailer(wanted);
	*found = memcmp(wanted, there, sizeof(there)) == 0;
	return 0;
}

int vb_raw_check_finished(const struct vb_file *file, struct vb_error *error)
{
	bool found;

	if (vb_raw_find_trailer(file, file->size_bytes - TRAILER_BYTES, &found, error))
		return -1;
	if (found)
		return vb_fail(error, VB_ERROR_FORMAT, 0, file->path, -1, "The image is an unfinished copy");
	return 0;
}

static int check_existing_size(struct raw_writer *self, struct vb_error *error)
{
	const struct vb_file *file = &self->base.file;
	uint64_t wanted_bytes = self->base.spec.virtual_size_bytes;

	if (vb_raw_find_trailer(file, wanted_bytes, &self->has_trailer, error))
		return -1;
	self->base.was_unfinished = self->has_trailer;
	if (self->has_trailer || file->size_bytes == wanted_bytes ||
	    (file->is_block_device && file->size_bytes > wanted_bytes))
		return 0;
	return vb_fail(error, VB_ERROR_SIZE, 0, file->path, -1, "The destination has %llu bytes, the source has %llu",
		       (unsigned long long)file->size_bytes, (unsigned long long)wanted_bytes);
}

struct vb_writer *vb_raw_writer_existing(struct vb_file *file, const struct vb_destination_spec *spec,
					 enum vb_existing_role role, struct vb_error *error)
{
	struct raw_writer *self = raw_allocate(NULL, file, spec, error);
	int result;

	if (!self)
		return NULL;
	self->base.zero_needed = true;
	if (role != VB_EXISTING_DESTINATION) {
		self->base.spec.virtual_size_bytes = self->base.file.size_bytes;
		result = vb_raw_check_finished(&self->base.file, error);
	} else {
		self->is_marked = !self->base.file.is_block_device;
		result = check_existing_size(self, error);
		self->base.is_fresh = self->is_marked && !self->has_trailer;
	}
	if (result) {
		raw_close(&self->base);
		return NULL;
	}
	return &self->base;
}
