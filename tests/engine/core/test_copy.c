/* SPDX-License-Identifier: Apache-2.0 */
/* Whole copies: every format, cluster size, lane count and granule, onto new and existing destinations; control; and what
 * is left after a failure. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "copy_runner.h"
#include "sys.h"

#define KIB 1024ull
#define MIB (1024ull * 1024)

static struct vb_error error;
static char *disk_path, *copy_path, *top_path;

static void copy_ok(const struct copy_request *request, struct vb_copy_progress *progress)
{
	CHECK_OK(run_copy(request, progress, &error) == 0, error);
	check_same(request->source, request->source_format, request->destination, request->format);
	if (request->format == VB_FORMAT_QCOW2)
		check_image(request->destination, false);
	CHECK(!exists(test_path("copy" VB_PARTIAL_SUFFIX)));
}

/* Full mode accounts for every byte exactly once. */
static void check_sums(const struct vb_copy_progress *progress)
{
	CHECK_EQUAL(progress->phase, VB_COPY_DONE);
	CHECK_EQUAL(progress->remaining_bytes, 0);
	CHECK_EQUAL(progress->moved_bytes, progress->total_bytes);
	CHECK_EQUAL(progress->written_bytes + progress->zero_bytes, progress->size_bytes);
}

static void every_cluster_size_and_lane_count(void)
{
	static const uint32_t clusters[] = {512, 4096, 65536, 2 * 1024 * 1024};
	static const uint64_t sizes[] = {1, 511, 4097, 200 * KIB, 5 * MIB + 700};
	struct vb_copy_progress progress;

	for (size_t size = 0; size < sizeof(sizes) / sizeof(sizes[0]); size++) {
		make_disk(disk_path, sizes[size], 12, size);
		for (size_t index = 0; index < 2 * sizeof(clusters) / sizeof(clusters[0]); index++) {
			struct copy_request request = {
				.source = disk_path,
				.source_format = VB_FORMAT_RAW,
				.destination = copy_path,
				.format = VB_FORMAT_QCOW2,
				.cluster_size_bytes = clusters[index / 2],
				.lane_count = index % 2 ? 4 : 1,
				.granule_bytes = index % 2 ? 4096 : 0,
			};

			copy_ok(&request, &progress);
			check_sums(&progress);
			unlink(copy_path);
		}
	}
}

static void raw_holes_stay_holes(void)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = VB_FORMAT_RAW,
	};
	struct vb_copy_progress progress;
	struct stat status;

	/* One megabyte of zeros that is stored, and one block of data. */
	CHECK_EQUAL(test_shell("rm -f disk && truncate -s 64M disk && dd if=/dev/zero of=disk bs=1M count=1 seek=3 conv=notrunc status=none && "
			       "printf x | dd of=disk bs=1 seek=50000000 conv=notrunc status=none"), 0);
	copy_ok(&request, &progress);
	check_sums(&progress);
	CHECK_EQUAL(progress.written_bytes, 4096);
	CHECK_EQUAL(stat(copy_path, &status), 0);
	CHECK(status.st_blocks * 512 <= 16384);
	unlink(copy_path);
}

static void chains_flatten_or_keep_their_backing_file(void)
{
	for (unsigned round = 0; round < 6; round++) {
		uint32_t cluster = round % 3 == 0 ? 4096 : round % 3 == 1 ? 65536 : 512;
		struct copy_request request = {
			.source = top_path,
			.source_format = VB_FORMAT_QCOW2,
			.destination = copy_path,
			.format = round % 2 ? VB_FORMAT_RAW : VB_FORMAT_QCOW2,
			.cluster_size_bytes = cluster,
		};

		make_disk(test_path("base"), 3 * MIB + 512, 10, round);
		CHECK_EQUAL(test_shell("rm -f top copy && qemu-img create -q -f qcow2 -b base -F raw -o cluster_size=%u top 5M && "
				       "qemu-io -f qcow2 -c 'write -P 1 1000k 70k' -c 'write -z 64k 64k' -c 'write -z 300k 3k' "
				       "-c 'write -P 0 2M 200k' -c 'write -P 9 5100k 20k' top >io.log",
				       1u << (9 + round * 2)), 0);
		copy_ok(&request, NULL);
		unlink(request.destination);
		request.format = VB_FORMAT_QCOW2;
		request.mode = VB_PLAN_TOP;
		request.backing_path = "base";
		request.backing_format = "raw";
		copy_ok(&request, NULL);
		CHECK_EQUAL(test_shell("qemu-img info copy | grep -q '^backing file: base' && "
				       "qemu-img info copy | grep -q '^backing file format: raw'"), 0);
		unlink(request.destination);
	}
}

static void existing_destinations_keep_nothing_of_their_own(void)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.reuse = true,
	};
	struct vb_copy_progress progress;

	for (unsigned round = 0; round < 8; round++) {
		uint64_t size = round % 2 ? 4 * MIB : 4 * MIB + 512;

		request.format = round % 4 < 2 ? VB_FORMAT_RAW : VB_FORMAT_QCOW2;
		request.lane_count = round % 3 + 1;
		make_disk(disk_path, size, 15, round);
		make_disk(test_path("old"), size, 40, round + 100);
		CHECK_EQUAL(test_shell("rm -f copy && qemu-img convert -f raw -O %s old copy",
				       request.format == VB_FORMAT_RAW ? "raw" : "qcow2"), 0);
		copy_ok(&request, &progress);
		check_sums(&progress);
	}
	unlink(request.destination);
}

static void reused_overlay_takes_the_top_alone(void)
{
	struct copy_request request = {
		.source = top_path,
		.source_format = VB_FORMAT_QCOW2,
		.destination = copy_path,
		.format = VB_FORMAT_QCOW2,
		.mode = VB_PLAN_TOP,
		.reuse = true,
	};

	for (unsigned version = 2; version <= 3; version++) {
		make_disk(test_path("base"), 4 * MIB, 20, version);
		CHECK_EQUAL(test_shell("rm -f top copy && qemu-img create -q -f qcow2 -b base -F raw top && "
				       "qemu-io -f qcow2 -c 'write -P 1 1000k 70k' -c 'write -z 64k 64k' -c 'write -P 0 2M 200k' top >io.log && "
				       "qemu-img create -q -f qcow2 -b base -F raw -o compat=%s copy", version == 2 ? "0.10" : "1.1"), 0);
		copy_ok(&request, NULL);
	}
	unlink(request.destination);
}

static void refusals_name_the_reason(void)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = VB_FORMAT_QCOW2,
	};

	make_disk(disk_path, 1 * MIB, 4, 1);
	CHECK_EQUAL(test_shell("echo content >copy"), 0);
	CHECK(run_copy(&request, NULL, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_EXISTS, "not empty (8 bytes)");
	request.reuse = true;
	CHECK(run_copy(&request, NULL, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_FORMAT, "not in qcow2 format");
	request.format = VB_FORMAT_RAW;
	CHECK(run_copy(&request, NULL, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_SIZE, "has 8 bytes, the source has 1048576");
	request.destination = request.source;
	CHECK(run_copy(&request, NULL, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_SAME_FILE, "same file");
	char *nothing_path = strdup(test_path("nothing"));

	request.destination = nothing_path;
	CHECK(run_copy(&request, NULL, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_SYSTEM, "");
	CHECK(!exists(nothing_path));
	request.reuse = false;
	request.format = VB_FORMAT_QCOW2;
	request.cluster_size_bytes = 1000;
	CHECK(run_copy(&request, NULL, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_INVALID, "power of two");
	CHECK(!exists(nothing_path));
	CHECK_EQUAL(test_shell("test \"$(cat copy)\" = content"), 0);
	unlink(copy_path);
	free(nothing_path);
}

static atomic_uint drop_count;

static int count_drops(int fd, off_t offset, off_t length, int advice)
{
	char link[64], name[4096];

	if (advice != POSIX_FADV_DONTNEED)
		return vb_sys_linux.fadvise(fd, offset, length, advice);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t name_length = readlink(link, name, sizeof(name) - 1);

	CHECK(name_length > 0);
	name[name_length] = '\0';
	CHECK(strncmp(name, copy_path, strlen(copy_path)) == 0);
	atomic_fetch_add(&drop_count, 1);
	return EIO;   /* nobody minds */
}

/* What a copy has written, and only that, leaves the page cache; of an image that stays in use nothing does. */
static void what_is_on_the_disk_leaves_the_cache(void)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = VB_FORMAT_QCOW2,
		.lane_count = 1,
	};
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	struct vb_sys calls = vb_sys_linux;

	CHECK_EQUAL(test_shell("rm -f disk && head -c 40M /dev/urandom >disk"), 0);
	calls.fadvise = count_drops;
	vb_sys = &calls;
	for (unsigned reuse = 0; reuse < 2; reuse++) {
		request.reuse = reuse;
		atomic_store(&drop_count, 0);
		copy_ok(&request, NULL);
		CHECK(drop_count >= 4 && drop_count <= 5);   /* each 8 MiB */
	}

	struct vb_writer *writer = vb_image_open_writable(policy, copy_path, VB_FORMAT_QCOW2, &error);

	CHECK_OK(writer != NULL, error);
	atomic_store(&drop_count, 0);
	writer->ops->write_back(writer);
	CHECK_EQUAL(drop_count, 0);
	writer->ops->close(writer);
	vb_sys = &vb_sys_linux;
	vb_policy_free(policy);
	unlink(copy_path);
}

static void a_second_copy_to_the_same_path_is_locked_out(void)
{
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	struct vb_destination_spec spec = {
		.path = copy_path, .format = VB_FORMAT_RAW, .virtual_size_bytes = MIB, .durable = true};
	struct vb_writer *first = vb_writer_open(policy, &spec, NULL, &error);

	CHECK_OK(first != NULL, error);
	CHECK(vb_writer_open(policy, &spec, NULL, &error) == NULL);
	CHECK_ERROR(error, VB_ERROR_LOCKED, "");
	CHECK(exists(test_path("copy" VB_PARTIAL_SUFFIX)));
	first->ops->close(first);
	CHECK(!exists(test_path("copy" VB_PARTIAL_SUFFIX)));
	CHECK_EQUAL(file_size(copy_path), 0);
	unlink(copy_path);
	vb_policy_free(policy);
}

/* A link where the partial file goes must not lead the copy elsewhere. */
static void what_lies_at_the_partial_name_is_replaced_not_followed(void)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = VB_FORMAT_RAW,
	};

	make_disk(disk_path, 1 * MIB, 4, 1);
	CHECK_EQUAL(test_shell("echo precious >other && ln -s other copy%s", VB_PARTIAL_SUFFIX), 0);
	copy_ok(&request, NULL);
	CHECK_EQUAL(test_shell("test \"$(cat other)\" = precious && test ! -L copy"), 0);
	unlink(copy_path);
}

/* Control, from another thread. */
struct running {
	struct vb_copy *copy;
	struct vb_error error;
	int result;
	pthread_t thread;
};

static void *run_in_thread(void *opaque)
{
	struct running *running = opaque;

	running->result = vb_copy_run(running->copy, &running->error);
	return NULL;
}

static struct vb_copy_progress wait_until_moving(const struct vb_copy *copy)
{
	struct vb_copy_progress progress;

	do {
		usleep(2000);
		vb_copy_progress(copy, &progress);
	} while (progress.moved_bytes == 0);
	return progress;
}

static void pause_limit_and_cancel_reach_a_running_copy(void)
{
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	const struct vb_layer_spec layer = {.path = disk_path, .format = VB_FORMAT_RAW};
	struct vb_destination_spec spec = {
		.path = copy_path, .format = VB_FORMAT_QCOW2, .virtual_size_bytes = 16 * MIB, .cluster_size_bytes = 65536};
	struct vb_copy_options options = {.bandwidth_bytes_per_s = 4 * MIB, .lane_count = 3};
	struct vb_copy_progress before, after;
	struct running running = {0};
	uint8_t cells[50];

	CHECK_EQUAL(test_shell("head -c 16M /dev/urandom >disk"), 0);

	struct vb_chain *chain = vb_chain_open(policy, &layer, 1, false, VB_LOCK_READER, &error);

	CHECK_OK(chain != NULL, error);
	for (unsigned round = 0; round < 2; round++) {
		struct vb_writer *writer = vb_writer_open(policy, &spec, chain, &error);

		CHECK_OK(writer != NULL, error);
		running.copy = vb_copy_new(chain, writer, &options, &error);
		CHECK_EQUAL(pthread_create(&running.thread, NULL, run_in_thread, &running), 0);
		wait_until_moving(running.copy);
		vb_copy_pause(running.copy);
		usleep(300 * 1000);   /* whoever was through the gate ends */
		vb_copy_progress(running.copy, &before);
		CHECK(before.paused && before.remaining_bytes > 0);
		usleep(200 * 1000);
		vb_copy_progress(running.copy, &after);
		CHECK_EQUAL(after.moved_bytes, before.moved_bytes);
		vb_copy_map(running.copy, cells, sizeof(cells));
		CHECK(memchr(cells, VB_CELL_TODO, sizeof(cells)) != NULL);
		if (round == 0) {
			vb_copy_cancel(running.copy);
		} else {
			vb_copy_set_bandwidth(running.copy, 0);
			vb_copy_resume(running.copy);
		}
		pthread_join(running.thread, NULL);
		vb_copy_progress(running.copy, &after);
		vb_copy_map(running.copy, cells, sizeof(cells));
		if (round == 0) {
			CHECK_EQUAL(running.result, -1);
			CHECK_ERROR(running.error, VB_ERROR_CANCELLED, "cancelled");
			CHECK_EQUAL(after.phase, VB_COPY_FAILED);
		} else {
			CHECK_OK(running.result == 0, running.error);
			check_sums(&after);
			CHECK(memchr(cells, VB_CELL_TODO, sizeof(cells)) == NULL);
		}
		CHECK(vb_copy_run(running.copy, &error) < 0);
		vb_copy_free(running.copy);
		writer->ops->close(writer);
		CHECK_EQUAL(file_size(spec.path) == 0, round == 0);
		CHECK(!exists(test_path("copy" VB_PARTIAL_SUFFIX)));
	}
	check_same(layer.path, VB_FORMAT_RAW, spec.path, VB_FORMAT_QCOW2);
	vb_chain_close(chain);
	vb_policy_free(policy);
	unlink(spec.path);
}

/* 16 TiB with a little data in every TiB, in all formats: what is counted and laid out grows with the data alone. */
static void a_huge_sparse_disk_costs_little(void)
{
	char *huge_path = strdup(test_path("huge"));
	struct copy_request request = {
		.source = huge_path,
		.source_format = VB_FORMAT_QCOW2,
		.destination = copy_path,
		.format = VB_FORMAT_QCOW2,
	};
	struct vb_copy_progress progress;

	CHECK_EQUAL(test_shell("qemu-img create -q -f qcow2 huge 16T && for t in 0 3 7 15; do "
			       "qemu-io -f qcow2 -c \"write -P 7 ${t}T 1M\" -c \"write -P 8 ${t}555G 64k\" huge || exit 1; done >io.log"), 0);
	for (unsigned round = 0; round < 2; round++) {
		CHECK_OK(run_copy(&request, &progress, &error) == 0, error);
		check_sums(&progress);
		CHECK(progress.total_bytes < 32 * MIB);
		/* Four pieces of 1 MiB and four of 64 KiB; with clusters of 2 MiB each of the eight takes a whole one. */
		CHECK_EQUAL(progress.written_bytes, round == 0 ? 4 * MIB + 4 * 64 * KIB : 16 * MIB);
		if (round == 0)
			check_image(request.destination, false);
		check_same(request.source, VB_FORMAT_QCOW2, request.destination, request.format);
		unlink(request.destination);
		request.cluster_size_bytes = 2 * MIB;
	}
	free(huge_path);
}

int main(void)
{
	disk_path = strdup(test_path("disk"));
	copy_path = strdup(test_path("copy"));
	top_path = strdup(test_path("top"));
	RUN(every_cluster_size_and_lane_count);
	RUN(raw_holes_stay_holes);
	RUN(chains_flatten_or_keep_their_backing_file);
	RUN(existing_destinations_keep_nothing_of_their_own);
	RUN(reused_overlay_takes_the_top_alone);
	RUN(refusals_name_the_reason);
	RUN(what_is_on_the_disk_leaves_the_cache);
	RUN(a_second_copy_to_the_same_path_is_locked_out);
	RUN(what_lies_at_the_partial_name_is_replaced_not_followed);
	RUN(pause_limit_and_cancel_reach_a_running_copy);
	RUN(a_huge_sparse_disk_costs_little);
	return 0;
}
