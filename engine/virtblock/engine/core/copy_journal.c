/* SPDX-License-Identifier: Apache-2.0 */
/* A copy's journal. Owns: see copy_journal.h; and the thread that writes it. */
#include "copy_journal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "point.h"

#define INTERVAL_DEFAULT_MS 2000u
#define INTERVAL_MAX_NS (30ull * 1000000000)
#define SHARE_OF_TIME 50u   /* a checkpoint may take one part in so many */

struct vb_writer *vb_copy_open_destination(const struct vb_policy *policy, const struct vb_destination_spec *spec,
					   const struct vb_chain *source, const struct vb_copy_options *options, struct vb_error *error)
{
	struct vb_destination_spec own = *spec;
	struct vb_journal_place place;
	struct vb_journal *journal = NULL;
	struct vb_digest_sum sum;
	bool is_complete;
	int found;

	/* Compressed clusters lie where they came to lie: nothing but the process that wrote them knows. */
	if (!options->journal_path || !options->resume || spec->compression != VB_COMPRESS_NONE)
		return vb_writer_open(policy, spec, source, error);
	if (vb_journal_find_place(options->journal_path, &place, error))
		return NULL;
	found = vb_journal_open(&place, &journal, error);
	/* Without a whole slot nothing of the partial file is known to be durable, and it is begun anew. */
	if (found == 1 && !spec->reuse) {
		found = vb_journal_read_end(journal, &sum, &is_complete, error);
		if (found == 1)
			own.resumed_inode = vb_journal_identity(journal)->destination_inode;
	}
	vb_journal_close(journal);
	vb_journal_leave_place(&place);
	return found < 0 ? NULL : vb_writer_open(policy, &own, source, error);
}

struct vb_copy_journal {
	struct vb_journal_place place;
	struct vb_journal_identity now;
	struct vb_journal *file;
	struct vb_journal_state state;
	bool is_found;        /* `file` is an earlier run's, and not yet restored from */
	bool has_state;       /* the file holds a whole slot */
	uint64_t recorded_count;   /* granules that it says are to do */
	bool has_begun;       /* what the bits say is also in the digest: sharing is over, and the lanes may run */
	bool has_failed;      /* a checkpoint failed: what it should have made durable is lost */
	pthread_t thread;
	bool has_thread;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	bool stop;            /* under the mutex */
};

static void discard(struct vb_copy_journal *journal)
{
	vb_journal_close(journal->file);
	journal->file = NULL;
	journal->has_state = false;
	vb_journal_remove(&journal->place);
}

/* Begins anew: what the journal says is of no file that is there. */
static void drop_found(struct vb_copy_journal *journal)
{
	discard(journal);
	journal->is_found = false;
}

/* A reused destination that lost its mark is complete, or is somebody else's now. Of a copy by a bitmap the journal comes first, so it may
 * not have begun: then it begins. */
static int check_marked(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_digest_sum sum;
	bool is_complete = false;

	if (!copy->destination->is_fresh || !copy->destination->spec.reuse)
		return 0;
	if (vb_journal_read_end(copy->journal->file, &sum, &is_complete, error) < 0)
		return -1;
	copy->destination->published = is_complete;
	if (is_complete)
		return 0;
	if (copy->is_incremental) {
		drop_found(copy->journal);
		return 0;
	}
	return vb_fail(error, VB_ERROR_CHANGED, 0, copy->destination->spec.path, -1,
		       "The destination is no longer marked as the unfinished copy that it was: something else has used it");
}

/* A merge that had moved everything has changed its own chain last. What is left of it, if anything, needs no journal. */
static int forget_merged(struct vb_copy *copy)
{
	struct vb_digest_sum sum;
	struct vb_error ignored;
	bool is_complete = false;

	if (copy->options.journal_kind == VB_JOURNAL_COPY ||
	    vb_journal_read_end(copy->journal->file, &sum, &is_complete, &ignored) != 1 || !is_complete)
		return -1;
	drop_found(copy->journal);
	return 0;
}

static bool is_image_of(const struct vb_copy *copy, const struct vb_file *file)
{
	for (size_t index = 0; index < vb_chain_depth(copy->source); index++) {
		const struct vb_layer *layer = vb_chain_layer(copy->source, index);

		if (vb_file_is_same(vb_layer_file(layer), file) || vb_file_is_same(vb_layer_data_file(layer), file))
			return true;
	}
	return vb_file_is_same(&copy->destination->file, file);
}

/* A new destination's name, which is on an empty file until the end; every other destination is written under its own. */
static bool is_at_destination(const struct vb_copy *copy, const struct vb_file *file, struct vb_error *error)
{
	const char *path = copy->destination->file.path;
	size_t length = strlen(path), suffix_length = strlen(VB_PARTIAL_SUFFIX);
	struct vb_journal_place place = {.folder_fd = -1};
	struct vb_file named;
	bool is_same = false;
	char *name;

	if (length <= suffix_length || strcmp(path + length - suffix_length, VB_PARTIAL_SUFFIX) != 0)
		return false;
	name = strndup(path, length - suffix_length);
	if (name && vb_journal_find_place(name, &place, error) == 0)
		is_same = vb_journal_find_file(&place, &named, error) == 1 && vb_file_is_same(&named, file);
	vb_journal_leave_place(&place);
	free(name);
	return is_same;
}

/* Whatever lies where the journal will be is removed, now or at the end: it must be none of the copy's own files. */
static int find_place(const struct vb_copy *copy, struct vb_journal_place *place, struct vb_error *error)
{
	struct vb_error ignored;
	struct vb_file there;
	int found;

	if (vb_journal_find_place(copy->options.journal_path, place, error))
		return -1;
	found = vb_journal_find_file(place, &there, error);
	if (found == 1 && (is_image_of(copy, &there) || is_at_destination(copy, &there, &ignored)))
		found = vb_fail(error, VB_ERROR_SAME_FILE, 0, place->path, -1, "The journal is the same file as an image of the copy");
	return found < 0 ? -1 : 0;
}

/* This copy keeps none, and what another left is none of its own. */
static int remove_stale(const struct vb_copy *copy, struct vb_error *error)
{
	struct vb_journal_place place = {.folder_fd = -1};
	int result = find_place(copy, &place, error);

	if (result == 0)
		vb_journal_remove(&place);
	vb_journal_leave_place(&place);
	return result;
}

bool vb_copy_has_found(const struct vb_copy *copy)
{
	return copy->journal && copy->journal->is_found;
}

/* Whether the journal that is there is this job's and of use: else CHANGED, or the copy begins anew. */
static int examine_found(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_copy_journal *journal = copy->journal;
	struct vb_digest_sum sum;
	bool is_complete;
	int found;

	/* Its partial file is gone: PATH is empty, and there is nothing that could be taken for a part of the copy. */
	if (copy->destination->is_fresh && !copy->destination->spec.reuse) {
		drop_found(journal);
		return 0;
	}
	if (vb_copy_identify(copy, &journal->now, error))
		return -1;
	if (copy->destination->published) {
		if (vb_copy_check_sources(copy, vb_journal_identity(journal->file), &journal->now, error))
			return -1;
	} else if (vb_copy_check_identity(copy, vb_journal_identity(journal->file), &journal->now, error)) {
		return forget_merged(copy);
	} else if (check_marked(copy, error)) {
		return -1;
	}
	if (!journal->is_found)
		return 0;
	found = vb_journal_read_end(journal->file, &sum, &is_complete, error);
	if (found == 0)
		drop_found(journal);
	atomic_store(&copy->is_resumed, found == 1);
	return found < 0 ? -1 : 0;
}

int vb_copy_open_journal(struct vb_copy *copy, struct vb_error *error)
{
	pthread_condattr_t monotonic;
	struct vb_copy_journal *journal;
	int found;

	if (!copy->options.journal_path)
		return 0;
	if (!copy->destination->can_resume)
		return remove_stale(copy, error);
	if (!copy->destination->spec.durable)
		return vb_fail(error, VB_ERROR_INVALID, 0, copy->destination->spec.path, -1,
			       "Only what is made durable can be resumed: a journal and durable=False exclude each other");
	journal = calloc(1, sizeof(*journal));
	if (!journal)
		return vb_fail(error, VB_ERROR_MEMORY, 0, copy->options.journal_path, -1, "No memory for the journal");
	pthread_mutex_init(&journal->mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&journal->wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	copy->journal = journal;
	if (find_place(copy, &journal->place, error))
		return -1;
	if (!copy->options.resume) {
		vb_journal_remove(&journal->place);
		return 0;
	}
	found = vb_journal_open(&journal->place, &journal->file, error);
	journal->is_found = found == 1;
	return found == 1 ? examine_found(copy, error) : found;
}

void vb_copy_close_journal(struct vb_copy *copy)
{
	struct vb_copy_journal *journal = copy->journal;

	if (!journal)
		return;
	vb_journal_close(journal->file);
	vb_journal_leave_place(&journal->place);
	pthread_cond_destroy(&journal->wake);
	pthread_mutex_destroy(&journal->mutex);
	free(journal->state.todo);
	free(journal->state.written);
	free(journal);
	copy->journal = NULL;
}

static int make_state(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_journal_state *state = &copy->journal->state;
	const struct vb_writer *destination = copy->destination;

	if (state->todo)
		return 0;
	state->todo_count = vb_bitmap_word_count(copy->bitmap);
	state->written_count = destination->ops->state_words ? destination->ops->state_words(destination) : 0;
	state->todo = calloc(state->todo_count + 1, sizeof(*state->todo));
	state->written = calloc(state->written_count + 1, sizeof(*state->written));
	if (state->todo && state->written)
		return 0;
	return vb_fail(error, VB_ERROR_MEMORY, 0, copy->journal->place.path, -1, "No memory for the journal");
}

static uint64_t count_todo(const struct vb_journal_state *state)
{
	uint64_t count = 0;

	for (size_t index = 0; index < state->todo_count; index++)
		count += (uint64_t)__builtin_popcountll(state->todo[index]);
	return count;
}

static void take_state(struct vb_copy *copy)
{
	struct vb_copy_journal *journal = copy->journal;
	uint64_t before_bytes = vb_bitmap_dirty_bytes(copy->bitmap);

	/* The plan of a pull is what the image does not hold yet: it knows better, even if a guest has used the image since. */
	journal->recorded_count = UINT64_MAX;
	if (copy->options.journal_kind != VB_JOURNAL_PULL) {
		vb_bitmap_keep(copy->bitmap, journal->state.todo);
		journal->recorded_count = count_todo(&journal->state);
	}
	if (journal->state.written_count)
		copy->destination->ops->load_state(copy->destination, journal->state.written);
	copy->digest_sum = journal->state.sum;
	copy->has_digest = vb_journal_identity(journal->file)->has_digest;
	atomic_store(&copy->resumed_bytes, before_bytes - vb_bitmap_dirty_bytes(copy->bitmap));
	atomic_store(&copy->durable_bytes, atomic_load(&copy->resumed_bytes));
}

int vb_copy_begin_journal(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_copy_journal *journal = copy->journal;

	if (!journal || !copy->is_incremental || journal->is_found)
		return 0;
	if (vb_copy_identify(copy, &journal->now, error) || make_state(copy, error))
		return -1;
	vb_bitmap_save(copy->bitmap, journal->state.todo);
	journal->file =
		vb_journal_create(&journal->place, &journal->now, journal->state.todo_count, journal->state.written_count, error);
	if (!journal->file || vb_journal_write(journal->file, &journal->state, error))
		return -1;
	journal->has_state = true;
	journal->recorded_count = count_todo(&journal->state);
	return 0;
}

int vb_copy_restore(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_copy_journal *journal = copy->journal;

	if (!journal)
		return 0;
	if (vb_copy_identify(copy, &journal->now, error) || make_state(copy, error))
		return -1;
	if (!journal->is_found)
		return 0;
	if (vb_copy_check_identity(copy, vb_journal_identity(journal->file), &journal->now, error) ||
	    vb_journal_read(journal->file, &journal->state, error) < 0)
		return -1;
	journal->is_found = false;
	journal->has_state = true;
	take_state(copy);
	return 0;
}

int vb_copy_take_published(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_copy_journal *journal = copy->journal;
	bool is_complete = false;

	atomic_store(&copy->is_resumed, true);
	if (!journal->file)
		return 0;
	if (vb_journal_read_end(journal->file, &copy->digest_sum, &is_complete, error) < 0)
		return -1;
	copy->has_digest = is_complete && vb_journal_identity(journal->file)->has_digest;
	if (!copy->options.journal_stays)
		drop_found(journal);
	return 0;
}

/* The journal itself may fail: the state before is still there, and the copy needs it only after a misfortune. */
static void write_state(struct vb_copy *copy)
{
	struct vb_copy_journal *journal = copy->journal;
	struct vb_error ignored;

	journal->now.has_digest = copy->has_digest;   /* sharing may have ended it */
	if (!journal->file)
		journal->file = vb_journal_create(&journal->place, &journal->now, journal->state.todo_count, journal->state.written_count,
						  &ignored);
	if (!journal->file || vb_journal_write(journal->file, &journal->state, &ignored))
		return;
	journal->has_state = true;
	journal->recorded_count = count_todo(&journal->state);

	uint64_t total_bytes = atomic_load(&copy->total_bytes);
	uint64_t todo_bytes = journal->recorded_count * vb_bitmap_granule_bytes(copy->bitmap);

	atomic_store(&copy->durable_bytes, todo_bytes < total_bytes ? total_bytes - todo_bytes : 0);
}

/* The order is the invariant: what is done, then durable, then recorded. Granules only ever leave the set, so one of the same size is the
 * one that is recorded already. */
static int record(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_copy_journal *journal = copy->journal;
	struct vb_writer *destination = copy->destination;

	pthread_mutex_lock(&copy->release_mutex);
	vb_bitmap_save(copy->bitmap, journal->state.todo);
	journal->state.sum = copy->digest_sum;
	pthread_mutex_unlock(&copy->release_mutex);
	VB_POINT("journal noted");
	if (journal->has_state && count_todo(&journal->state) == journal->recorded_count)
		return 0;
	if (destination->ops->checkpoint(destination, error)) {
		journal->has_failed = true;
		return -1;
	}
	VB_POINT("journal made durable");
	if (journal->state.written_count)
		destination->ops->save_state(destination, journal->state.written);
	write_state(copy);
	VB_POINT("journal recorded");
	return 0;
}

/* Waits; false when the copy has come to its end. */
static bool wait_for(struct vb_copy_journal *journal, uint64_t interval_ns)
{
	uint64_t until_ns = vb_copy_now_ns() + interval_ns;
	struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000), .tv_nsec = (long)(until_ns % 1000000000)};
	int result = 0;

	pthread_mutex_lock(&journal->mutex);
	while (!journal->stop && result == 0)
		result = pthread_cond_timedwait(&journal->wake, &journal->mutex, &until);

	bool goes_on = !journal->stop;

	pthread_mutex_unlock(&journal->mutex);
	return goes_on;
}

static void *journal_thread(void *opaque)
{
	struct vb_copy *copy = opaque;
	uint32_t interval_ms = copy->options.journal_interval_ms ? copy->options.journal_interval_ms : INTERVAL_DEFAULT_MS;
	uint64_t shortest_ns = interval_ms * 1000000ull, interval_ns = shortest_ns;
	struct vb_error error;

	while (wait_for(copy->journal, interval_ns)) {
		uint64_t began_ns = vb_copy_now_ns();

		if (record(copy, &error)) {
			vb_copy_report_error(copy, &error, UINT64_MAX);
			break;
		}
		interval_ns = (vb_copy_now_ns() - began_ns) * SHARE_OF_TIME;
		if (interval_ns > INTERVAL_MAX_NS)
			interval_ns = INTERVAL_MAX_NS;
		if (interval_ns < shortest_ns || copy->options.journal_interval_ms)
			interval_ns = shortest_ns;
	}
	return NULL;
}

void vb_copy_start_journal(struct vb_copy *copy)
{
	sigset_t all, before;

	if (!copy->journal)
		return;
	copy->journal->has_begun = true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	copy->journal->has_thread = pthread_create(&copy->journal->thread, NULL, journal_thread, copy) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void vb_copy_stop_journal(struct vb_copy *copy)
{
	struct vb_copy_journal *journal = copy->journal;

	if (!journal || !journal->has_thread)
		return;
	pthread_mutex_lock(&journal->mutex);
	journal->stop = true;
	pthread_cond_signal(&journal->wake);
	pthread_mutex_unlock(&journal->mutex);
	pthread_join(journal->thread, NULL);
	journal->has_thread = false;
}

int vb_copy_seal_journal(struct vb_copy *copy, struct vb_error *error)
{
	struct vb_copy_journal *journal = copy->journal;

	if (!journal || (!journal->has_state && !copy->options.journal_stays))
		return 0;
	if (record(copy, error))
		return -1;
	/* What it said before would be wrong of a destination that is complete. */
	if (journal->recorded_count != 0 || !journal->has_state)
		discard(journal);
	return 0;
}

void vb_copy_settle_journal(struct vb_copy *copy, bool is_published)
{
	struct vb_copy_journal *journal = copy->journal;
	bool keeps = !is_published && atomic_load(&copy->keeps_unfinished);
	struct vb_error ignored;

	/* Refused, or ended before it could be restored from: all stays as it was found. */
	if (!journal || (journal->is_found && !is_published))
		return;
	if (keeps && journal->has_begun && !journal->has_failed)
		record(copy, &ignored);
	copy->destination->keeps_unfinished = keeps && journal->has_state;
	if (!copy->destination->keeps_unfinished && !(is_published && copy->options.journal_stays))
		discard(journal);
}
