/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a destination, and the part that every kind of writer shares.
 *
 * Owns: the order of the checks and the choice of the writer. Invariants: nothing but an empty PATH (and its partial file) is made
 * before every check has passed; an existing destination is not changed here at all.
 */
#include "destination.h"

#include <errno.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>

#include "lock.h"
#include "qcow2_layout.h"
#include "sys.h"

#define RAW_UNIT_BYTES 4096u
#define DEVICE_HEADER_BYTES 4096u      /* the largest logical block: holds the magic, and is written whole */
#define FILL_BYTES (256u * 1024)
#define SHARE_BLOCK_MAX_BYTES 65536u   /* the largest block of a file system that shares; network ones name a transfer size */

int vb_destination_check_source(const struct vb_file *file, const struct vb_chain *source, struct vb_error *error)
{
	for (size_t index = 0; source && index < vb_chain_depth(source); index++) {
		const struct vb_layer *layer = vb_chain_layer(source, index);

		if (vb_file_is_same(vb_layer_file(layer), file))
			return vb_fail(error, VB_ERROR_SAME_FILE, 0, file->path, -1,
				       "The destination is the same file as the source's image '%s'", vb_layer_file(layer)->path);
		if (vb_file_is_same(vb_layer_data_file(layer), file))
			return vb_fail(error, VB_ERROR_SAME_FILE, 0, file->path, -1,
				       "The destination is the data file of the source's image '%s'", vb_layer_file(layer)->path);
	}
	return 0;
}

static int check_options(const struct vb_destination_spec *spec, struct vb_error *error)
{
	if (spec->reuse && (spec->extended_l2 || spec->preallocation != VB_PREALLOCATION_OFF))
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1,
			       "Only a new destination can be given extended L2 entries or be preallocated");
	if (spec->compression != VB_COMPRESS_NONE && (spec->extended_l2 || spec->preallocation != VB_PREALLOCATION_OFF))
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1,
			       "A compressed destination has no extended L2 entries and is not preallocated");
	if (spec->format == VB_FORMAT_RAW && (spec->extended_l2 || spec->preallocation == VB_PREALLOCATION_METADATA))
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1, "A raw destination has no %s",
			       spec->extended_l2 ? "L2 entries" : "metadata to preallocate");
	return 0;
}

static int check_spec(const struct vb_destination_spec *spec, struct vb_error *error)
{
	if (!spec->path || !*spec->path)
		return vb_fail(error, VB_ERROR_INVALID, 0, NULL, -1, "The destination has no path");
	if (spec->format != VB_FORMAT_RAW && spec->format != VB_FORMAT_QCOW2)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1, "Unknown destination format %d", (int)spec->format);
	if (spec->backing_path && (spec->format == VB_FORMAT_RAW || spec->reuse))
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1,
			       "Only a new qcow2 destination can be given a backing file");
	if (check_options(spec, error))
		return -1;
	if (spec->virtual_size_bytes > INT64_MAX)
		return vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1, "A disk cannot have %llu bytes",
			       (unsigned long long)spec->virtual_size_bytes);
	if (spec->compression != VB_COMPRESS_NONE && vb_qcow2_compressed_check(spec, error))
		return -1;
	return spec->format == VB_FORMAT_QCOW2 && !spec->reuse ? vb_qcow2_linear_check(spec, error) : 0;
}

/* `target` NULL: `file` is a block device. */
static struct vb_writer *new_qcow2(struct vb_file *target, struct vb_file *file, const struct vb_destination_spec *spec,
				   struct vb_error *error)
{
	if (spec->compression != VB_COMPRESS_NONE)
		return vb_qcow2_compressed_writer_new(target, file, spec, error);
	return vb_qcow2_linear_writer_new(target, file, spec, error);
}

/* What an earlier run completed: an image that is only held, and not changed any more. */
static struct vb_writer *open_complete(struct vb_file *target, const struct vb_destination_spec *spec, struct vb_error *error)
{
	struct vb_writer *writer = spec->format == VB_FORMAT_RAW
					   ? vb_raw_writer_existing(target, spec, VB_EXISTING_IMAGE, error)
					   : vb_qcow2_inplace_writer_open(target, spec, VB_EXISTING_IMAGE, error);

	if (writer) {
		writer->spec.virtual_size_bytes = spec->virtual_size_bytes;
		writer->published = true;
	}
	return writer;
}

static struct vb_writer *open_new(const struct vb_policy *policy, const struct vb_destination_spec *spec, bool exclusive,
				  const struct vb_chain *source, struct vb_error *error)
{
	struct vb_file target, partial;
	enum vb_new_file_state state;
	struct vb_writer *writer;

	if (vb_new_file_open(policy, spec->path, exclusive, source, spec->resumed_inode, &target, &partial, &state, error))
		return NULL;
	if (state == VB_NEW_FILE_COMPLETE)
		return open_complete(&target, spec, error);
	writer = spec->format == VB_FORMAT_RAW ? vb_raw_writer_new(&target, &partial, spec, error)
					       : new_qcow2(&target, &partial, spec, error);
	if (writer) {
		writer->is_fresh = state == VB_NEW_FILE_FRESH;
		writer->keeps_unfinished = state == VB_NEW_FILE_UNFINISHED;
	}
	return writer;
}

/* Claims a block device against mounts and other claims: O_EXCL without O_CREAT, by the name in the folder that the policy allowed. */
static int claim_device(struct vb_file *file, struct vb_error *error)
{
	struct stat status;
	int fd = vb_sys->openat(file->folder_fd, file->name, O_RDWR | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0);

	if (fd < 0)
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot claim the block device");
	vb_sys->close(file->fd);
	file->fd = fd;
	if (vb_sys->fstat(fd, &status))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, file->path, -1, "Cannot read the block device's status");
	if (!S_ISBLK(status.st_mode) || status.st_rdev != file->device)
		return vb_fail(error, VB_ERROR_DENIED, EACCES, file->path, -1, "The block device was replaced while it was opened");
	return 0;
}

int vb_existing_open(const struct vb_policy *policy, const char *path, struct vb_file *file, struct vb_error *error)
{
	if (vb_policy_open(policy, path, O_RDWR, 0, file, error))
		return -1;
	if (!file->is_block_device || claim_device(file, error) == 0)
		return 0;
	vb_file_close(file);
	return -1;
}

/* An existing destination, locked against everybody, and none of the source's images. */
static int open_guarded(const struct vb_policy *policy, const char *path, const struct vb_chain *source, struct vb_file *file,
			struct vb_error *error)
{
	if (vb_existing_open(policy, path, file, error))
		return -1;
	if (vb_destination_check_source(file, source, error) == 0 && vb_lock_image(file, VB_LOCK_WRITER, error) == 0)
		return 0;
	vb_file_close(file);
	return -1;
}

static struct vb_writer *open_existing_writer(struct vb_file *file, const struct vb_destination_spec *spec,
					      enum vb_existing_role role, struct vb_error *error)
{
	if (spec->format == VB_FORMAT_RAW)
		return vb_raw_writer_existing(file, spec, role, error);
	return vb_qcow2_inplace_writer_open(file, spec, role, error);
}

static struct vb_writer *open_reused(const struct vb_policy *policy, const struct vb_destination_spec *spec,
				     enum vb_existing_role role, const struct vb_chain *source, struct vb_error *error)
{
	struct vb_file file;

	return open_guarded(policy, spec->path, source, &file, error) ? NULL : open_existing_writer(&file, spec, role, error);
}

int vb_image_reopen(const struct vb_policy *policy, const struct vb_layer *layer, struct vb_file *file, struct vb_error *error)
{
	const struct vb_file *known = vb_layer_file(layer);

	if (vb_existing_open(policy, known->path, file, error))
		return -1;
	if (file->device == known->device && file->inode == known->inode)
		return 0;
	vb_fail(error, VB_ERROR_DENIED, EACCES, known->path, -1, "The image was replaced by another file while it was opened");
	vb_file_close(file);
	return -1;
}

struct vb_writer *vb_image_open_merged(const struct vb_policy *policy, const struct vb_layer *layer, enum vb_existing_role role,
				       bool durable, struct vb_error *error)
{
	struct vb_file file;

	if (vb_image_reopen(policy, layer, &file, error))
		return NULL;

	struct vb_destination_spec spec = {
		.path = vb_layer_file(layer)->path,
		.format = vb_layer_info(layer)->format,
		.reuse = true,
		.durable = durable,
	};

	return open_existing_writer(&file, &spec, role, error);
}

/* What is not there is no device. */
static int find_block_device(const struct vb_policy *policy, const char *path, bool *found, struct vb_error *error)
{
	struct vb_error cause;
	struct vb_file file;

	*found = false;
	if (vb_policy_open(policy, path, O_RDONLY, 0, &file, &cause)) {
		if (cause.kind == VB_ERROR_SYSTEM && cause.system_errno == ENOENT)
			return 0;
		*error = cause;
		return -1;
	}
	*found = file.is_block_device;
	vb_file_close(&file);
	return 0;
}

/* A device is never made, so what the copy finds on it stays where it writes nothing: raw is zeroed, a new qcow2 refers to what it
 * wrote alone. */
static struct vb_writer *open_device(const struct vb_policy *policy, const struct vb_destination_spec *spec,
				     const struct vb_chain *source, struct vb_error *error)
{
	struct vb_file file;

	if (spec->preallocation != VB_PREALLOCATION_OFF) {
		vb_fail(error, VB_ERROR_INVALID, 0, spec->path, -1, "A block device has its room and cannot be preallocated");
		return NULL;
	}
	if (spec->format == VB_FORMAT_RAW)
		return open_reused(policy, spec, VB_EXISTING_DESTINATION, source, error);
	return open_guarded(policy, spec->path, source, &file, error) ? NULL : new_qcow2(NULL, &file, spec, error);
}

static struct vb_writer *open_destination(const struct vb_policy *policy, const struct vb_destination_spec *spec,
					  const struct vb_chain *source, struct vb_error *error)
{
	bool is_device;

	if (check_spec(spec, error))
		return NULL;
	if (spec->reuse)
		return open_reused(policy, spec, VB_EXISTING_DESTINATION, source, error);
	if (find_block_device(policy, spec->path, &is_device, error))
		return NULL;
	return is_device ? open_device(policy, spec, source, error) : open_new(policy, spec, false, source, error);
}

struct vb_writer *vb_writer_open(const struct vb_policy *policy, const struct vb_destination_spec *spec,
				 const struct vb_chain *source, struct vb_error *error)
{
	struct vb_writer *writer = open_destination(policy, spec, source, error);

	if (writer)
		writer->drops_cached = true;
	return writer;
}

struct vb_writer *vb_destination_create(const struct vb_policy *policy, const struct vb_destination_spec *spec,
					struct vb_error *error)
{
	return check_spec(spec, error) ? NULL : open_new(policy, spec, true, NULL, error);
}

struct vb_writer *vb_image_open_writable(const struct vb_policy *policy, const char *path, enum vb_format format,
					 struct vb_error *error)
{
	struct vb_destination_spec spec = {.path = path, .format = format, .reuse = true, .durable = true};

	if (check_spec(&spec, error))
		return NULL;

	struct vb_writer *writer = open_reused(policy, &spec, VB_EXISTING_IMAGE, NULL, error);

	if (writer && writer->ops->prepare(writer, NULL, error)) {
		writer->ops->close(writer);
		return NULL;
	}
	return writer;
}

/* Units that the plan's DATA touches; neighbours that share a unit count it once. */
static uint64_t touched_bytes(const struct vb_plan *plan, uint64_t unit_bytes)
{
	uint64_t total = 0, next = 0;

	for (size_t index = 0; index < plan->extent_count; index++) {
		const struct vb_extent *extent = &plan->extents[index];
		uint64_t first = extent->start_bytes / unit_bytes;
		uint64_t end = (extent->start_bytes + extent->length_bytes + unit_bytes - 1) / unit_bytes;

		if (extent->kind == VB_EXTENT_ZERO)
			continue;
		if (first < next)
			first = next;
		if (first < end) {
			total += (end - first) * unit_bytes;
			next = end;
		}
	}
	return total;
}

uint64_t vb_writer_required_bytes(const struct vb_plan *plan, const struct vb_destination_spec *spec)
{
	struct vb_qcow2_layout layout;
	struct vb_error error;

	if (spec->format == VB_FORMAT_RAW)
		return spec->preallocation == VB_PREALLOCATION_OFF ? touched_bytes(plan, RAW_UNIT_BYTES) : plan->size_bytes;
	if (vb_qcow2_layout_make(&layout, plan, plan->size_bytes, spec, &error))
		return UINT64_MAX;
	vb_qcow2_layout_free(&layout);
	if (spec->preallocation != VB_PREALLOCATION_METADATA)
		return layout.file_size_bytes;
	return layout.file_size_bytes - ((layout.data_count - layout.planned_count) << layout.cluster_bits);
}

static char *copy_text(const char *text, bool *failed)
{
	char *copy = text ? strdup(text) : NULL;

	*failed |= text && !copy;
	return copy;
}

int vb_writer_init(struct vb_writer *writer, const struct vb_writer_ops *ops, struct vb_file *file,
		   const struct vb_destination_spec *spec, struct vb_error *error)
{
	bool failed = false;

	*writer = (struct vb_writer){.ops = ops, .file = *file, .spec = *spec, .unit_bytes = RAW_UNIT_BYTES};
	*file = (struct vb_file){.fd = -1, .folder_fd = -1};
	writer->spec.path = copy_text(spec->path, &failed);
	writer->spec.backing_path = copy_text(spec->backing_path, &failed);
	writer->spec.backing_format = copy_text(spec->backing_format, &failed);
	if (!failed)
		return 0;
	return vb_fail(error, VB_ERROR_MEMORY, 0, spec->path, -1, "No memory for the destination");
}

void vb_writer_release(struct vb_writer *writer)
{
	vb_file_close(&writer->file);
	free((char *)writer->spec.path);
	free((char *)writer->spec.backing_path);
	free((char *)writer->spec.backing_format);
}

int vb_writer_check_range(const struct vb_writer *writer, uint64_t start_bytes, uint64_t length_bytes, struct vb_error *error)
{
	uint64_t size_bytes = writer->spec.virtual_size_bytes;
	uint64_t unit_mask = writer->unit_bytes - 1;

	if (start_bytes > size_bytes || length_bytes > size_bytes - start_bytes)
		return vb_fail(error, VB_ERROR_INVALID, 0, writer->file.path, -1,
			       "%llu bytes at %llu reach beyond the disk's end at %llu", (unsigned long long)length_bytes,
			       (unsigned long long)start_bytes, (unsigned long long)size_bytes);
	if (writer->spec.format == VB_FORMAT_QCOW2 &&
	    ((start_bytes & unit_mask) != 0 ||
	     ((length_bytes & unit_mask) != 0 && start_bytes + length_bytes != size_bytes)))
		return vb_fail(error, VB_ERROR_INVALID, 0, writer->file.path, -1,
			       "%llu bytes at %llu are not whole clusters or subclusters of %u bytes", (unsigned long long)length_bytes,
			       (unsigned long long)start_bytes, writer->unit_bytes);
	return 0;
}

int vb_writer_sync(struct vb_writer *writer, struct vb_error *error)
{
	if (!writer->spec.durable)
		return 0;
	if (atomic_load(&writer->has_failed_sync))
		return vb_fail(error, VB_ERROR_SYSTEM, EIO, writer->file.path, -1, "An earlier sync of the file failed");
	if (vb_fdatasync(writer->file.fd, writer->file.path, error) == 0)
		return 0;
	atomic_store(&writer->has_failed_sync, true);
	return -1;
}

int vb_writer_check_plan(const struct vb_writer *writer, const struct vb_plan *plan, struct vb_error *error)
{
	if (plan && plan->mode == VB_PLAN_FULL && writer->spec.backing_path)
		return vb_fail(error, VB_ERROR_INVALID, 0, writer->file.path, -1,
			       "A full copy would be mixed with its backing file '%s'", writer->spec.backing_path);
	return 0;
}

int vb_writer_clear_device_head(struct vb_writer *writer, struct vb_error *error)
{
	static const uint8_t zeros[DEVICE_HEADER_BYTES];

	if (vb_pwrite_full(writer->file.fd, writer->file.path, zeros, sizeof(zeros), 0, error))
		return -1;
	return vb_writer_sync(writer, error);
}

static bool has_no_fallocate(int system_errno)
{
	return system_errno == EOPNOTSUPP || system_errno == ENOSYS;
}

int vb_writer_preallocate(struct vb_writer *writer, uint64_t size_bytes, bool *fills, struct vb_error *error)
{
	int result;

	*fills = false;
	if (writer->spec.preallocation < VB_PREALLOCATION_FALLOC || size_bytes == 0)
		return 0;
	do {
		result = vb_sys->fallocate(writer->file.fd, 0, 0, (off_t)size_bytes);
	} while (result && errno == EINTR);
	if (result && !has_no_fallocate(errno))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, writer->file.path, -1, "Cannot preallocate %llu bytes",
			       (unsigned long long)size_bytes);
	*fills = result || writer->spec.preallocation == VB_PREALLOCATION_FULL;
	return 0;
}

int vb_writer_fill(const struct vb_writer *writer, uint64_t offset_bytes, uint64_t length_bytes, struct vb_error *error)
{
	static const uint8_t zeros[FILL_BYTES];

	while (length_bytes > 0) {
		size_t piece = length_bytes < FILL_BYTES ? (size_t)length_bytes : FILL_BYTES;

		if (vb_pwrite_full(writer->file.fd, writer->file.path, zeros, piece, offset_bytes, error))
			return -1;
		offset_bytes += piece;
		length_bytes -= piece;
	}
	return 0;
}

void vb_writer_start_write_back(struct vb_writer *writer)
{
	if (!writer->spec.durable)
		return;
	vb_sys->sync_file_range(writer->file.fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	/* What is still being written stays for the next time. */
	if (writer->drops_cached)
		vb_sys->fadvise(writer->file.fd, 0, 0, POSIX_FADV_DONTNEED);
}

void vb_writer_find_sharing(struct vb_writer *writer)
{
	struct statfs status;

	/* A shared extent takes room when it is written to, which is what these were to do before. */
	if (writer->spec.preallocation >= VB_PREALLOCATION_FALLOC)
		return;
	writer->share_block_bytes = RAW_UNIT_BYTES;
	if (vb_sys->fstatfs(writer->file.fd, &status))
		return;
	writer->is_share_likely = status.f_type == XFS_SUPER_MAGIC || status.f_type == BTRFS_SUPER_MAGIC;
	if (status.f_bsize >= 512 && status.f_bsize <= SHARE_BLOCK_MAX_BYTES && (status.f_bsize & (status.f_bsize - 1)) == 0)
		writer->share_block_bytes = (uint32_t)status.f_bsize;
}

/* Errors that say "not this file, not here"; a copy by reading and writing may still be had. ENOSPC: a full allocation group refuses
 * to share while others have room. */
static bool is_share_refusal(int system_errno)
{
	static const int refusals[] = {EOPNOTSUPP, ENOTTY, ENOSYS, EXDEV, EINVAL, EPERM, EACCES, ETXTBSY, EBADF, ENOSPC, EMLINK};

	for (size_t index = 0; index < sizeof(refusals) / sizeof(refusals[0]); index++)
		if (refusals[index] == system_errno)
			return true;
	return false;
}

int vb_writer_share_range(const struct vb_writer *writer, uint64_t offset_bytes, const struct vb_file *source,
			  uint64_t source_offset_bytes, uint64_t length_bytes, struct vb_error *error)
{
	struct file_clone_range range = {
		.src_fd = source->fd,
		.src_offset = source_offset_bytes,
		.src_length = length_bytes,
		.dest_offset = offset_bytes,
	};
	int result;

	if (((offset_bytes | source_offset_bytes | length_bytes) & (writer->share_block_bytes - 1)) != 0)
		return vb_fail(error, VB_ERROR_UNSUPPORTED, 0, writer->file.path, (int64_t)offset_bytes,
			       "%llu bytes at %llu of '%s' cannot be shared: they do not lie on the file system's blocks of %u bytes",
			       (unsigned long long)length_bytes, (unsigned long long)source_offset_bytes, source->path,
			       writer->share_block_bytes);
	do {
		result = vb_sys->clone_range(writer->file.fd, &range);
	} while (result && errno == EINTR);
	if (result == 0)
		return 0;
	return vb_fail(error, is_share_refusal(errno) ? VB_ERROR_UNSUPPORTED : VB_ERROR_SYSTEM, errno, writer->file.path,
		       (int64_t)offset_bytes, "Cannot share the extents of '%s'", source->path);
}
