/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One copy: its life and its control.
 *
 * Owns: the order of the phases: plan, room, layout, dirty set, gaps, sharing, lanes, publish. Invariants: see copy.h; the destination is published
 * only when the dirty bitmap is empty, nothing is in flight, no lane failed and nobody cancelled.
 */
#include "copy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "copy_journal.h"
#include "copy_state.h"
#include "point.h"
#include "qcow2_bitmaps.h"
#include "sys.h"

uint64_t vb_copy_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

bool vb_copy_is_cancelled(const struct vb_copy *copy)
{
	return __atomic_load_n(&copy->cancelled, __ATOMIC_RELAXED);
}

static int check_sizes(const struct vb_chain *source, const struct vb_writer *destination, struct vb_error *error)
{
	uint64_t source_bytes = vb_chain_size_bytes(source);

	if (destination->spec.virtual_size_bytes == source_bytes)
		return 0;
	return vb_fail(error, VB_ERROR_SIZE, 0, destination->spec.path, -1,
		       "The destination was opened for a disk of %llu bytes, the source has %llu",
		       (unsigned long long)destination->spec.virtual_size_bytes, (unsigned long long)source_bytes);
}

/* `bitmap_bytes`: the granularity of a persistent bitmap; 0: none. Where that is finer, so are the granules. */
static uint32_t choose_granule(const struct vb_copy_options *options, uint64_t size_bytes, uint32_t unit_bytes, uint32_t bitmap_bytes)
{
	uint32_t granule_bytes = options->granule_bytes ? options->granule_bytes : vb_bitmap_default_granule(size_bytes);

	if (options->granule_bytes == 0 && granule_bytes == VB_GRANULE_DEFAULT_BYTES && bitmap_bytes != 0 && bitmap_bytes < granule_bytes)
		granule_bytes = bitmap_bytes < VB_GRANULE_MIN_BYTES ? VB_GRANULE_MIN_BYTES : bitmap_bytes;
	return granule_bytes < unit_bytes ? unit_bytes : granule_bytes;
}

static int check_incremental(const struct vb_writer *destination, const struct vb_copy_options *options, struct vb_error *error)
{
	if (!options->bitmap_name)
		return 0;
	if (!destination->spec.reuse)
		return vb_fail(error, VB_ERROR_INVALID, 0, destination->spec.path, -1,
			       "Only an earlier copy can be brought up to date by a bitmap: the destination must be reused");
	return 0;
}

/* The one unfinished copy that a bitmap may go on with is its own. */
static int check_unfinished(const struct vb_copy *copy, struct vb_error *error)
{
	const struct vb_writer *destination = copy->destination;

	if (!destination->was_unfinished || vb_copy_has_found(copy))
		return 0;
	return vb_fail(error, VB_ERROR_INVALID, 0, destination->spec.path, -1,
		       "The destination is an unfinished copy, which lacks more than a bitmap knows: copy it again without one");
}

/* The dirty set, empty or what the persistent bitmap marks. */
static int make_bitmap(struct vb_copy *copy, struct vb_error *error)
{
	const char *name = copy->options.bitmap_name;
	struct vb_persistent_bitmap persistent = {0};
	int result = 0;

	copy->options.bitmap_name = NULL;
	if (name && vb_persistent_bitmap_open(copy->source, name, &persistent, error))
		return -1;
	copy->is_incremental = name != NULL;
	copy->options.granule_bytes =
		choose_granule(&copy->options, copy->size_bytes, copy->destination->unit_bytes, persistent.granularity_bytes);
	copy->bitmap = vb_bitmap_new(copy->size_bytes, copy->options.granule_bytes, error);
	if (!copy->bitmap)
		result = -1;
	else if (name)
		result = vb_persistent_bitmap_load(copy->source, &persistent, copy->bitmap, error);
	vb_persistent_bitmap_release(&persistent);
	return result;
}

struct vb_copy *vb_copy_new_with(const struct vb_chain *source, struct vb_writer *destination, uint64_t size_bytes,
				 const struct vb_copy_options *options, const struct vb_copy_steps *steps, void *owner,
				 struct vb_error *error)
{
	struct vb_copy *copy = calloc(1, sizeof(*copy));

	if (!copy) {
		vb_fail(error, VB_ERROR_MEMORY, 0, NULL, -1, "No memory for the copy");
		return NULL;
	}
	copy->source = source;
	copy->destination = destination;
	copy->steps = steps;
	copy->owner = owner;
	copy->size_bytes = size_bytes;
	copy->options = *options;
	pthread_mutex_init(&copy->error_mutex, NULL);
	pthread_mutex_init(&copy->release_mutex, NULL);
	atomic_init(&copy->phase, VB_COPY_NEW);
	atomic_init(&copy->failed_bytes, UINT64_MAX);
	vb_copy_choose_order(copy);
	copy->throttle = vb_throttle_new(options->bandwidth_bytes_per_s, error);
	if (copy->throttle && make_bitmap(copy, error) == 0 && vb_copy_open_digest(copy, error) == 0 &&
	    vb_copy_check_reflink(copy, error) == 0 && vb_copy_open_journal(copy, error) == 0)
		return copy;
	vb_copy_free(copy);
	return NULL;
}

void vb_copy_free(struct vb_copy *copy)
{
	if (!copy)
		return;
	vb_copy_close_journal(copy);
	vb_plan_free(copy->plan);
	vb_bitmap_free(copy->bitmap);
	vb_copy_close_digest(copy);
	vb_throttle_free(copy->throttle);
	pthread_mutex_destroy(&copy->error_mutex);
	pthread_mutex_destroy(&copy->release_mutex);
	free(copy);
}

void vb_copy_cancel(struct vb_copy *copy)
{
	__atomic_store_n(&copy->cancelled, true, __ATOMIC_RELAXED);
	atomic_store(&copy->stop, true);
	vb_throttle_cancel(copy->throttle);
}

void vb_copy_keep_unfinished(struct vb_copy *copy, bool keeps)
{
	atomic_store(&copy->keeps_unfinished, keeps);
}

bool vb_copy_is_resumed(const struct vb_copy *copy)
{
	return atomic_load(&copy->is_resumed);
}

void vb_copy_pause(struct vb_copy *copy)
{
	vb_throttle_pause(copy->throttle);
}

void vb_copy_resume(struct vb_copy *copy)
{
	vb_throttle_resume(copy->throttle);
}

void vb_copy_set_bandwidth(struct vb_copy *copy, uint64_t bandwidth_bytes_per_s)
{
	vb_throttle_set_rate(copy->throttle, bandwidth_bytes_per_s);
}

static int check_space(const struct vb_copy *copy, struct vb_error *error)
{
	const struct vb_writer *destination = copy->destination;
	struct statfs room;

	if (!copy->options.check_space || destination->spec.reuse || destination->file.is_block_device)
		return 0;
	/* What compression will save is known at the end alone, and a bound without it would refuse most copies that do fit. */
	if (destination->spec.compression != VB_COMPRESS_NONE)
		return 0;
	if (vb_sys->fstatfs(destination->file.fd, &room))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, destination->file.path, -1,
			       "Cannot read the free space of the destination's file system");

	uint64_t free_bytes = (uint64_t)room.f_bavail * (uint64_t)(room.f_frsize ? room.f_frsize : room.f_bsize);
	uint64_t required_bytes = vb_writer_required_bytes(copy->plan, &destination->spec);
	uint64_t promised_bytes = vb_copy_promised_bytes(copy);

	/* No room would be enough; prepare() tells why. */
	if (required_bytes == UINT64_MAX)
		return 0;

	required_bytes -= promised_bytes < required_bytes ? promised_bytes : required_bytes;
	if (required_bytes <= free_bytes)
		return 0;
	return vb_fail(error, VB_ERROR_SPACE, 0, destination->spec.path, -1,
		       "The copy needs up to %llu bytes, the destination's file system has %llu free",
		       (unsigned long long)required_bytes, (unsigned long long)free_bytes);
}

static uint32_t choose_chunk(const struct vb_copy *copy)
{
	uint32_t chunk_bytes = VB_CHUNK_BYTES;

	if (chunk_bytes < copy->options.granule_bytes)
		chunk_bytes = copy->options.granule_bytes;
	if (chunk_bytes < copy->plan->compressed_unit_bytes)
		chunk_bytes = copy->plan->compressed_unit_bytes;
	return chunk_bytes;
}

/* What is dirty: every extent; and everything, where the destination's own content must go. The rest is known to be right. */
static void make_dirty_set(struct vb_copy *copy)
{
	bool is_full = copy->plan->mode == VB_PLAN_FULL;

	if (copy->is_incremental) {
		atomic_store(&copy->total_bytes, vb_bitmap_dirty_bytes(copy->bitmap));
		return;
	}
	if (is_full && copy->destination->zero_needed)
		vb_bitmap_set(copy->bitmap, 0, copy->plan->size_bytes);
	else
		for (size_t index = 0; index < copy->plan->extent_count; index++)
			vb_bitmap_set(copy->bitmap, copy->plan->extents[index].start_bytes,
				      copy->plan->extents[index].length_bytes);

	uint64_t dirty_bytes = vb_bitmap_dirty_bytes(copy->bitmap);

	atomic_store(&copy->total_bytes, dirty_bytes);
	if (is_full)
		atomic_store(&copy->zero_bytes, copy->plan->size_bytes - dirty_bytes);
}

static int fail_if_cancelled(const struct vb_copy *copy, struct vb_error *error)
{
	if (!vb_copy_is_cancelled(copy))
		return 0;
	return vb_fail(error, VB_ERROR_CANCELLED, 0, NULL, -1, "The copy was cancelled");
}

static struct vb_plan *plan_copy(const struct vb_copy *copy, struct vb_error *error)
{
	if (copy->is_incremental)
		return vb_plan_make_within(copy->source, copy->bitmap, &copy->cancelled, error);
	return vb_plan_make(copy->source, copy->options.mode, copy->destination->unit_bytes, &copy->cancelled, error);
}

static int prepare_copy(const struct vb_copy *copy, struct vb_error *error)
{
	if (check_space(copy, error))
		return -1;
	return copy->destination->ops->prepare(copy->destination, copy->plan, error);
}

static int publish_copy(const struct vb_copy *copy, struct vb_error *error)
{
	return copy->destination->ops->publish(copy->destination, error);
}

static const struct vb_copy_steps copy_steps = {.plan = plan_copy, .prepare = prepare_copy, .publish = publish_copy};

struct vb_copy *vb_copy_new(const struct vb_chain *source, struct vb_writer *destination, const struct vb_copy_options *options,
			    struct vb_error *error)
{
	if (check_sizes(source, destination, error) || check_incremental(destination, options, error))
		return NULL;

	struct vb_copy_options own = *options;

	own.journal_kind = VB_JOURNAL_COPY;
	own.journal_salt = options->bitmap_name ? vb_mark_of(options->bitmap_name, strlen(options->bitmap_name)).low : 0;

	struct vb_copy *copy =
		vb_copy_new_with(source, destination, vb_chain_size_bytes(source), &own, &copy_steps, NULL, error);

	if (copy && options->bitmap_name && check_unfinished(copy, error)) {
		vb_copy_free(copy);
		return NULL;
	}
	return copy;
}

static int plan(struct vb_copy *copy, struct vb_error *error)
{
	atomic_store(&copy->phase, VB_COPY_PLANNING);
	VB_POINT("copy plans");
	copy->plan = copy->steps->plan(copy, error);
	if (!copy->plan || fail_if_cancelled(copy, error) || vb_copy_begin_journal(copy, error) || copy->steps->prepare(copy, error))
		return -1;
	copy->chunk_bytes = choose_chunk(copy);
	make_dirty_set(copy);
	if (vb_copy_restore(copy, error))
		return -1;
	atomic_store(&copy->is_planned, true);
	return 0;
}

static int move(struct vb_copy *copy, struct vb_error *error)
{
	atomic_store(&copy->phase, VB_COPY_COPYING);
	if (copy->plan->mode == VB_PLAN_FULL && copy->destination->zero_needed && vb_copy_zero_gaps(copy, error))
		return -1;
	if (vb_copy_share(copy, error) || vb_copy_digest_shared(copy, error))
		return -1;
	vb_copy_start_journal(copy);
	vb_copy_run_lanes(copy);
	VB_POINT("copy moved");

	/* A pause holds the end off too; a cancel is heard for the last time. */
	bool may_end = vb_throttle_pass(copy->throttle, 0);

	if (vb_copy_has_failed(copy, error))
		return -1;
	if (!may_end || vb_copy_is_cancelled(copy))
		return fail_if_cancelled(copy, error);
	if (vb_bitmap_remaining_bytes(copy->bitmap))
		return vb_fail(error, VB_ERROR_INTERNAL, 0, NULL, -1, "The lanes ended with %llu bytes left",
			       (unsigned long long)vb_bitmap_remaining_bytes(copy->bitmap));
	return 0;
}

static int publish(struct vb_copy *copy, struct vb_error *error)
{
	atomic_store(&copy->phase, VB_COPY_FLUSHING);
	VB_POINT("copy publishes");
	return copy->steps->publish(copy, error);
}

static int run(struct vb_copy *copy, struct vb_error *error)
{
	int result = plan(copy, error) || move(copy, error) ? -1 : 0;

	vb_copy_stop_journal(copy);
	if (!result && vb_copy_has_failed(copy, error))
		result = -1;
	if (!result && (vb_copy_seal_journal(copy, error) || publish(copy, error)))
		result = -1;
	vb_copy_settle_journal(copy, result == 0);
	return result;
}

int vb_copy_run(struct vb_copy *copy, struct vb_error *error)
{
	if (atomic_exchange(&copy->was_run, true))
		return vb_fail(error, VB_ERROR_INTERNAL, 0, NULL, -1, "A copy runs only once");
	atomic_store(&copy->started_ns, vb_copy_now_ns());

	int result = copy->destination->published ? vb_copy_take_published(copy, error) : run(copy, error);

	atomic_store(&copy->ended_ns, vb_copy_now_ns());
	atomic_store(&copy->phase, result ? VB_COPY_FAILED : VB_COPY_DONE);
	return result;
}
