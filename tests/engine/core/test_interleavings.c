/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies whose threads meet in a chosen order (script.h): a cancel, a pause, a guest's write or another lane's failure at each point of a
 * chunk's way from its claim to its release. Demanded each time: what is not on the destination is still dirty or in flight, the
 * first error is the one that is told, a destination that is not complete does not look complete, and a copy after it is right.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "copy_runner.h"
#include "copy_state.h"
#include "qcow2.h"
#include "script.h"
#include "sys.h"

#define CHUNK_COUNT 4u
#define DISK_BYTES ((uint64_t)CHUNK_COUNT * VB_CHUNK_BYTES)
#define GUEST_BYTES 65536u

enum kind { NEW_RAW, NEW_QCOW2, REUSED_RAW, REUSED_QCOW2, KIND_COUNT };

struct stage {
	enum kind kind;
	struct vb_policy *policy;
	struct vb_chain *chain;
	struct vb_writer *writer;
	struct vb_copy *copy;
	pthread_t runner;
	int result;
	struct vb_error error;
};

static struct vb_error error;
static char *disk_path, *copy_path;

static enum vb_format format_of(enum kind kind)
{
	return kind == NEW_RAW || kind == REUSED_RAW ? VB_FORMAT_RAW : VB_FORMAT_QCOW2;
}

static bool is_reused(enum kind kind)
{
	return kind == REUSED_RAW || kind == REUSED_QCOW2;
}

static void make_files(enum kind kind)
{
	CHECK_EQUAL(test_shell("rm -f copy copy.* && head -c %llu /dev/urandom >disk", (unsigned long long)DISK_BYTES), 0);
	if (is_reused(kind))
		CHECK_EQUAL(test_shell("head -c %llu /dev/urandom >old && qemu-img convert -f raw -O %s old copy", (unsigned long long)DISK_BYTES,
				       kind == REUSED_RAW ? "raw" : "qcow2"), 0);
}

/* One copy, ready to run: lane_count lanes over four chunks of data. */
static void open_stage(struct stage *stage, enum kind kind, uint32_t lane_count)
{
	const struct vb_layer_spec source = {.path = disk_path, .format = VB_FORMAT_RAW};
	struct vb_destination_spec spec = {
		.path = copy_path,
		.format = format_of(kind),
		.reuse = is_reused(kind),
		.virtual_size_bytes = DISK_BYTES,
		.cluster_size_bytes = 65536,
		.durable = true,
	};
	struct vb_copy_options options = {.lane_count = lane_count, .granule_bytes = 65536, .reflink = VB_REFLINK_NEVER};

	*stage = (struct stage){.kind = kind, .policy = vb_policy_new(NULL, 0, &error)};
	CHECK_OK(stage->policy != NULL, error);
	stage->chain = vb_chain_open(stage->policy, &source, 1, false, VB_LOCK_READER, &error);
	CHECK_OK(stage->chain != NULL, error);
	stage->writer = vb_writer_open(stage->policy, &spec, stage->chain, &error);
	CHECK_OK(stage->writer != NULL, error);
	stage->copy = vb_copy_new(stage->chain, stage->writer, &options, &error);
	CHECK_OK(stage->copy != NULL, error);
}

static void *run_stage(void *opaque)
{
	struct stage *stage = opaque;

	stage->result = vb_copy_run(stage->copy, &stage->error);
	return NULL;
}

static void start_stage(struct stage *stage, const char *script)
{
	script_start(script);
	CHECK_EQUAL(pthread_create(&stage->runner, NULL, run_stage, stage), 0);
}

static void join_stage(struct stage *stage)
{
	CHECK_EQUAL(pthread_join(stage->runner, NULL), 0);
	script_end();
}

static void close_stage(struct stage *stage)
{
	vb_copy_free(stage->copy);
	stage->writer->ops->close(stage->writer);
	vb_chain_close(stage->chain);
	vb_policy_free(stage->policy);
}

/* What is shown while threads run: never more nor less than all of it. */
static struct vb_copy_progress look(const struct stage *stage)
{
	struct vb_copy_progress progress;
	uint8_t cells[16];

	vb_copy_progress(stage->copy, &progress);
	vb_copy_map(stage->copy, cells, sizeof(cells));
	CHECK_EQUAL(progress.moved_bytes + progress.remaining_bytes, progress.total_bytes);
	for (size_t index = 0; index < sizeof(cells); index++)
		CHECK(cells[index] >= VB_CELL_TODO && cells[index] <= VB_CELL_FAILED);
	return progress;
}

static bool looks_complete(const struct stage *stage)
{
	uint64_t size_bytes;
	uint8_t *bytes;
	struct vb_error ignored;

	if (!exists(copy_path) || file_size(copy_path) == 0)
		return false;
	if (stage->kind == REUSED_RAW)
		return file_size(copy_path) == DISK_BYTES;
	bytes = read_image(copy_path, format_of(stage->kind), &size_bytes, &ignored);
	free(bytes);
	return bytes != NULL;
}

static void check_copied(enum kind kind)
{
	check_same(disk_path, VB_FORMAT_RAW, copy_path, format_of(kind));
	if (format_of(kind) == VB_FORMAT_QCOW2)
		check_image(copy_path, false);
}

/* The same copy again, without a script; what is left may have leaked clusters. */
static void copy_again(enum kind kind)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = format_of(kind),
		.reuse = is_reused(kind),
		.lane_count = 2,
	};

	CHECK_OK(run_copy(&request, NULL, &error) == 0, error);
	check_same(disk_path, VB_FORMAT_RAW, copy_path, format_of(kind));
	if (format_of(kind) == VB_FORMAT_QCOW2)
		check_image(copy_path, true);
}

/* A copy that ended early: so many chunks are done, all others are not forgotten. */
static void check_broken_off(struct stage *stage, enum vb_error_kind kind, unsigned chunks_moved)
{
	struct vb_copy_progress progress = look(stage);

	CHECK(stage->result < 0);
	CHECK_ERROR(stage->error, kind, "");
	CHECK_EQUAL(progress.phase, VB_COPY_FAILED);
	CHECK_EQUAL(progress.moved_bytes, chunks_moved * (uint64_t)VB_CHUNK_BYTES);
	CHECK_EQUAL(vb_bitmap_in_flight_bytes(stage->copy->bitmap), 0);
	close_stage(stage);
	CHECK(!looks_complete(stage));
	copy_again(stage->kind);
}

static void check_done(struct stage *stage)
{
	CHECK_OK(stage->result == 0, stage->error);
	CHECK_EQUAL(look(stage).phase, VB_COPY_DONE);
	close_stage(stage);
	check_copied(stage->kind);
}

/* What is queued to be written when the cancel comes is not written; what was written counts. */
static void cancel_at_every_point(void)
{
	static const struct { const char *script; unsigned moved_queued, moved; } cases[] = {
		{"A:copy plans > M:cancel > A:go", 0, 0},
		{"A:bitmap claimed > M:cancel > A:go", 0, 0},
		{"A:lane read > M:cancel > A:go", 0, 1},
		{"A:lane writes > M:cancel > A:go", 1, 1},
		{"A:lane wrote > M:cancel > A:go", 1, 1},
		{"A:bitmap released > M:cancel > A:go", 1, 1},
		{"A:lane found nothing > M:cancel > A:go", CHUNK_COUNT, CHUNK_COUNT},
		{"A:copy moved > M:cancel > A:go", CHUNK_COUNT, CHUNK_COUNT},
	};
	struct stage stage;

	for (enum kind kind = 0; kind < KIND_COUNT; kind++) {
		for (size_t index = 0; index < sizeof(cases) / sizeof(cases[0]); index++) {
			make_files(kind);
			open_stage(&stage, kind, 1);
			start_stage(&stage, cases[index].script);
			script_turn("cancel");
			look(&stage);
			vb_copy_cancel(stage.copy);
			script_next();
			join_stage(&stage);
			if (index == 0) {
				CHECK(stage.result < 0);
				CHECK_ERROR(stage.error, VB_ERROR_CANCELLED, "");
				close_stage(&stage);
				CHECK(is_reused(kind) == looks_complete(&stage));   /* nothing was touched */
				copy_again(kind);
				continue;
			}
			check_broken_off(&stage, VB_ERROR_CANCELLED,
					 stage.writer->writes_in_turn ? cases[index].moved_queued : cases[index].moved);
		}
	}
}

/* Nothing that comes once all is moved makes a good copy a bad one. */
static void a_cancel_may_come_too_late(void)
{
	struct stage stage;

	for (enum kind kind = 0; kind < KIND_COUNT; kind++) {
		make_files(kind);
		open_stage(&stage, kind, 1);
		start_stage(&stage, "A:copy publishes > M:cancel > A:go");
		script_turn("cancel");
		CHECK(!looks_complete(&stage));
		vb_copy_cancel(stage.copy);
		script_next();
		join_stage(&stage);
		check_done(&stage);
	}
}

/* As a hypervisor would: the guest's write, then the mark. */
static void guest_writes(struct stage *stage, uint64_t start_bytes)
{
	static uint8_t piece[GUEST_BYTES];
	static uint8_t value = 1;
	int fd = open(disk_path, O_WRONLY);

	memset(piece, value++ % 255 + 1, sizeof(piece));
	CHECK(fd >= 0);
	CHECK_EQUAL(pwrite(fd, piece, sizeof(piece), (off_t)start_bytes), sizeof(piece));
	close(fd);
	vb_bitmap_set(stage->copy->bitmap, start_bytes, sizeof(piece));
}

/* Wherever the first chunk is, and wherever the write goes: the destination gets it. */
static void late_writes_are_copied(void)
{
	static const char *const scripts[] = {
		"A:bitmap claimed > M:guest > A:go", "A:lane read > M:guest > A:go", "A:lane writes > M:guest > A:go",
		"A:lane wrote > M:guest > A:go", "A:bitmap released > M:guest > A:go",
	};
	static const uint64_t places[] = {GUEST_BYTES, DISK_BYTES - GUEST_BYTES};
	struct stage stage;

	for (size_t index = 0; index < KIND_COUNT * sizeof(scripts) / sizeof(scripts[0]); index++) {
		enum kind kind = (enum kind)(index % KIND_COUNT);

		for (size_t place = 0; place < sizeof(places) / sizeof(places[0]); place++) {
			make_files(kind);
			open_stage(&stage, kind, 1);
			start_stage(&stage, scripts[index / KIND_COUNT]);
			script_turn("guest");
			guest_writes(&stage, places[place]);
			CHECK(vb_bitmap_get(stage.copy->bitmap, places[place]));
			script_next();
			join_stage(&stage);
			check_done(&stage);
		}
	}
}

/* While A has read the first chunk and not written it, the guest writes to it and B moves all else: B must leave it to A, whose older
 * content would come last. */
static void a_chunk_in_flight_is_nobody_elses(void)
{
	static const char *const scripts[] = {
		"A:bitmap claimed > M:guest > B:lane found nothing > A:go",
		"A:lane read > M:guest > B:lane found nothing > A:go",
		"A:lane writes > M:guest > B:lane found nothing > A:go",
		"A:lane wrote > M:guest > B:lane found nothing > A:go",
	};
	struct stage stage;

	for (size_t index = 0; index < KIND_COUNT * sizeof(scripts) / sizeof(scripts[0]); index++) {
		make_files((enum kind)(index % KIND_COUNT));
		open_stage(&stage, (enum kind)(index % KIND_COUNT), 2);
		start_stage(&stage, scripts[index / KIND_COUNT]);
		script_turn("guest");
		guest_writes(&stage, 0);
		guest_writes(&stage, VB_CHUNK_BYTES - GUEST_BYTES);
		look(&stage);
		script_next();
		join_stage(&stage);
		check_done(&stage);
	}
}

/* Marked again while it is read: written once, it still counts as to be done. */
static void a_mark_in_flight_outlives_the_move(void)
{
	struct stage stage;

	make_files(NEW_RAW);
	open_stage(&stage, NEW_RAW, 1);
	start_stage(&stage, "A:lane read > M:guest > A:go > A:bitmap released > M:look > A:go");
	script_turn("guest");
	guest_writes(&stage, 0);
	script_next();
	script_turn("look");
	CHECK_EQUAL(look(&stage).remaining_bytes, DISK_BYTES - VB_CHUNK_BYTES + GUEST_BYTES);
	CHECK_EQUAL(vb_bitmap_in_flight_bytes(stage.copy->bitmap), 0);
	script_next();
	join_stage(&stage);
	check_done(&stage);
}

/* A mark that no lane sees any more: before the last look the copy fails and says so; after it, the copy is of the moment before, and the
 * mark stays for whoever goes on. */
static void marks_at_the_end_are_not_lost(void)
{
	struct stage stage;

	for (enum kind kind = 0; kind < KIND_COUNT; kind++) {
		make_files(kind);
		open_stage(&stage, kind, 1);
		start_stage(&stage, "A:copy moved > M:guest > A:go");
		script_turn("guest");
		guest_writes(&stage, VB_CHUNK_BYTES);
		script_next();
		join_stage(&stage);
		CHECK(stage.result < 0);
		CHECK_ERROR(stage.error, VB_ERROR_INTERNAL, "65536 bytes left");
		close_stage(&stage);
		CHECK(!looks_complete(&stage));
		copy_again(kind);

		make_files(kind);
		CHECK_EQUAL(test_shell("cp disk before"), 0);
		open_stage(&stage, kind, 1);
		start_stage(&stage, "A:copy publishes > M:guest > A:go");
		script_turn("guest");
		guest_writes(&stage, VB_CHUNK_BYTES);
		script_next();
		join_stage(&stage);
		CHECK_OK(stage.result == 0, stage.error);
		CHECK_EQUAL(vb_bitmap_dirty_bytes(stage.copy->bitmap), GUEST_BYTES);
		close_stage(&stage);
		check_same(test_path("before"), VB_FORMAT_RAW, copy_path, format_of(kind));
	}
}

/* A pause holds the end off too, also when it comes behind the last chunk. */
static void pause_and_the_last_chunk(void)
{
	static const char *const scripts[] = {
		"A:lane found nothing > M:pause > A:go > A:throttle sleeps paused > M:look > A:copy publishes",
		"A:copy moved > M:pause > A:go > A:throttle sleeps paused > M:look > A:copy publishes",
		"A:lane found nothing > B:lane found nothing > M:pause > A:go > B:go > *:throttle sleeps paused > M:look > *:copy publishes",
	};
	struct stage stage;

	for (size_t index = 0; index < KIND_COUNT * sizeof(scripts) / sizeof(scripts[0]); index++) {
		make_files((enum kind)(index % KIND_COUNT));
		open_stage(&stage, (enum kind)(index % KIND_COUNT), index / KIND_COUNT == 2 ? 2 : 1);
		start_stage(&stage, scripts[index / KIND_COUNT]);
		script_turn("pause");
		vb_copy_pause(stage.copy);
		script_next();
		script_turn("look");
		CHECK_EQUAL(look(&stage).phase, VB_COPY_COPYING);
		CHECK_EQUAL(look(&stage).remaining_bytes, 0);
		CHECK(look(&stage).paused);
		CHECK(!looks_complete(&stage));
		vb_copy_resume(stage.copy);
		script_next();
		join_stage(&stage);
		check_done(&stage);
	}
}

/* Paused with a chunk claimed: it stays in flight, waking up for another reason does not move it, and a cancel gives it back. */
static void a_paused_chunk_is_kept(void)
{
	static const char script[] = "A:bitmap claimed > M:pause > A:go > A:throttle sleeps paused > M:again > "
				     "A:throttle sleeps paused > M:end > A:bitmap released";
	struct stage stage;

	for (unsigned round = 0; round < 2u * KIND_COUNT; round++) {
		bool is_cancelled = round % 2 != 0;

		make_files((enum kind)(round / 2));
		open_stage(&stage, (enum kind)(round / 2), 1);
		start_stage(&stage, script);
		script_turn("pause");
		vb_copy_pause(stage.copy);
		script_next();
		script_turn("again");
		vb_copy_set_bandwidth(stage.copy, 0);
		script_next();
		script_turn("end");
		CHECK_EQUAL(vb_bitmap_in_flight_bytes(stage.copy->bitmap), VB_CHUNK_BYTES);
		CHECK_EQUAL(look(&stage).remaining_bytes, DISK_BYTES);
		if (is_cancelled)
			vb_copy_cancel(stage.copy);
		else
			vb_copy_resume(stage.copy);
		script_next();
		join_stage(&stage);
		if (is_cancelled)
			check_broken_off(&stage, VB_ERROR_CANCELLED, 0);
		else
			check_done(&stage);
	}
}

/* At one byte a second the first chunk would take a day. */
static void a_sleeper_hears_of_a_new_limit_and_of_a_cancel(void)
{
	struct stage stage;

	for (unsigned round = 0; round < 2; round++) {
		make_files(NEW_RAW);
		open_stage(&stage, NEW_RAW, 1);
		vb_copy_set_bandwidth(stage.copy, 1);
		start_stage(&stage, "A:throttle sleeps for tokens > M:act > A:bitmap released");
		script_turn("act");
		if (round == 0)
			vb_copy_set_bandwidth(stage.copy, 0);
		else
			vb_copy_cancel(stage.copy);
		script_next();
		join_stage(&stage);
		if (round == 0)
			check_done(&stage);
		else
			check_broken_off(&stage, VB_ERROR_CANCELLED, 0);
	}
}

/* The calls of one lane fail, each lane's with a number of its own. */
static int error_of(char actor)
{
	return actor == 'A' ? EIO : actor == 'B' ? ENOSPC : 0;
}

static const char *failing_actors;

static bool is_failing(void)
{
	char actor = script_actor();

	if (actor == 0 || strchr(failing_actors, actor) == NULL)
		return false;
	errno = error_of(actor);
	return true;
}

static ssize_t failing_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	return is_failing() ? -1 : vb_sys_linux.pwrite(fd, buffer, length, offset);
}

static ssize_t failing_pread(int fd, void *buffer, size_t length, off_t offset)
{
	return is_failing() ? -1 : vb_sys_linux.pread(fd, buffer, length, offset);
}

static void fail_lane(enum kind kind, bool is_reading, const char *actors, const char *script, unsigned chunks_moved)
{
	struct vb_sys table = vb_sys_linux;
	struct stage stage;

	make_files(kind);
	open_stage(&stage, kind, 2);
	if (is_reading)
		table.pread = failing_pread;
	else
		table.pwrite = failing_pwrite;
	failing_actors = actors;
	vb_sys = &table;
	start_stage(&stage, script);
	join_stage(&stage);
	vb_sys = &vb_sys_linux;
	CHECK_EQUAL(stage.error.system_errno, EIO);
	check_broken_off(&stage, VB_ERROR_SYSTEM, chunks_moved);
}

/* A fails while B is anywhere. Where one lane writes for all, what waits for it is given up. */
static void one_lane_fails_beside_another(void)
{
	for (enum kind kind = 0; kind < KIND_COUNT; kind++) {
		bool is_queued = kind != REUSED_QCOW2;

		/* B's read is done when A's fails, and nobody writes yet. */
		fail_lane(kind, true, "A", "A:bitmap claimed > B:lane read > A:go > A:lane failed > B:go", is_queued ? 0 : 1);
		/* B is within its write. */
		fail_lane(kind, true, "A", "A:bitmap claimed > B:lane writes > A:go > A:lane failed > B:go", 1);
		/* B has written, and does not count it yet. */
		fail_lane(kind, true, "A", "A:bitmap claimed > B:lane wrote > A:go > A:lane failed > B:go", 1);
		if (is_queued) {
			fail_lane(kind, false, "A", "A:lane read > B:lane read > A:lane writes > B:go > B:queue took in > A:go > "
				  "A:lane failed > B:go", 0);
			continue;
		}
		fail_lane(kind, false, "A", "A:lane writes > B:lane writes > A:go > A:lane failed > B:go", 1);
		fail_lane(kind, false, "A", "A:lane writes > B:lane wrote > A:go > A:lane failed > B:go", 1);
	}
}

/* A sleeps nowhere when it fails, and B sleeps, for tokens that come in a day, or in a pause: B wakes, and the copy ends. */
static void a_failure_wakes_who_sleeps(void)
{
	static const char *const scripts[] = {
		"A:lane writes > B:lane read > M:hold > B:go > B:throttle sleeps for tokens > A:go > A:lane failed",
		"A:lane writes > B:lane read > M:hold > B:go > B:throttle sleeps paused > A:go > A:lane failed",
	};
	struct vb_sys table = vb_sys_linux;
	struct stage stage;

	table.pwrite = failing_pwrite;
	failing_actors = "A";
	for (unsigned round = 0; round < 2u * KIND_COUNT; round++) {
		make_files((enum kind)(round / 2));
		open_stage(&stage, (enum kind)(round / 2), 2);
		vb_sys = &table;
		start_stage(&stage, scripts[round % 2]);
		script_turn("hold");
		if (round % 2 == 0)
			vb_copy_set_bandwidth(stage.copy, 1);
		else
			vb_copy_pause(stage.copy);
		script_next();
		join_stage(&stage);
		vb_sys = &vb_sys_linux;
		CHECK_EQUAL(stage.error.system_errno, EIO);
		check_broken_off(&stage, VB_ERROR_SYSTEM, stage.writer->writes_in_turn ? 0 : 1);
	}
}

/* Two fail: the one that reports first is told, also while the other is on its way to report. */
static void the_first_of_two_failures_is_told(void)
{
	fail_lane(REUSED_QCOW2, false, "AB", "A:lane writes > B:lane writes > A:go > A:lane failed > B:go > B:lane failed", 0);
	fail_lane(REUSED_QCOW2, false, "AB", "A:lane writes > B:lane writes > B:go > B:lane fails > A:go > A:lane fails > A:lane failed > "
		  "B:go > B:lane failed", 0);
	fail_lane(NEW_RAW, true, "AB", "A:bitmap claimed > B:bitmap claimed > B:go > B:lane fails > A:go > A:lane fails > A:lane failed > "
		  "B:go > B:lane failed", 0);
}

/* Both lanes need one table, which is corrupt: whichever reports first, the reason is the table's. */
static void two_lanes_meet_a_corrupt_table(void)
{
	struct stage stage;

	make_files(REUSED_QCOW2);
	CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f qcow2 copy %llu && qemu-io -f qcow2 -c 'write -P 3 0 256k' copy >io.log",
			       (unsigned long long)DISK_BYTES), 0);

	int fd = open(copy_path, O_RDWR);
	uint8_t field[8];

	CHECK(fd >= 0 && pread(fd, field, 8, VB_QCOW2_AT_L1_OFFSET) == 8);
	CHECK_EQUAL(pread(fd, field, 8, (off_t)vb_load_be64(field)), 8);

	uint64_t entry_bytes = (vb_load_be64(field) & VB_QCOW2_OFFSET_MASK) + 8;

	CHECK_EQUAL(pread(fd, field, 8, (off_t)entry_bytes), 8);
	vb_store_be64(field, vb_load_be64(field) | 1ull << 60);
	CHECK_EQUAL(pwrite(fd, field, 8, (off_t)entry_bytes), 8);
	close(fd);
	open_stage(&stage, REUSED_QCOW2, 2);
	start_stage(&stage, "A:lane writes > B:lane writes > A:go > A:lane fails > B:go > B:lane failed > A:go");
	join_stage(&stage);
	CHECK(stage.result < 0);
	CHECK_ERROR(stage.error, VB_ERROR_FORMAT, "reserved bits");
	CHECK_EQUAL(stage.error.offset_bytes, entry_bytes);
	close_stage(&stage);
}

int main(void)
{
	disk_path = strdup(test_path("disk"));
	copy_path = strdup(test_path("copy"));
	RUN(cancel_at_every_point);
	RUN(a_cancel_may_come_too_late);
	RUN(late_writes_are_copied);
	RUN(a_chunk_in_flight_is_nobody_elses);
	RUN(a_mark_in_flight_outlives_the_move);
	RUN(marks_at_the_end_are_not_lost);
	RUN(pause_and_the_last_chunk);
	RUN(a_paused_chunk_is_kept);
	RUN(a_sleeper_hears_of_a_new_limit_and_of_a_cancel);
	RUN(one_lane_fails_beside_another);
	RUN(a_failure_wakes_who_sleeps);
	RUN(the_first_of_two_failures_is_told);
	RUN(two_lanes_meet_a_corrupt_table);
	free(disk_path);
	free(copy_path);
	return 0;
}
