/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Crashes, replayed: from the log of what a writer changed and synced, files are built as a power loss may leave them at any
 * moment, and judged. A destination that is not complete never looks complete; an image that a tool changes stays a good
 * image.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "copy_runner.h"
#include "qcow2.h"
#include "sys_recorder.h"

#define DISK_BYTES (600u * 1024)

static struct vb_error error;
static char *disk_path, *copy_path, *crashed_path;

static uint8_t *load_file(const char *path, uint64_t *length, uint64_t *inode)
{
	struct stat status;
	FILE *file = fopen(path, "rb");
	uint8_t *bytes;

	CHECK(file != NULL);
	CHECK_EQUAL(fstat(fileno(file), &status), 0);
	*length = (uint64_t)status.st_size;
	*inode = status.st_ino;
	bytes = malloc(*length + 1);
	CHECK(bytes != NULL);
	CHECK_EQUAL(fread(bytes, 1, *length, file), *length);
	fclose(file);
	return bytes;
}

static void record_copy(enum vb_format format, bool reuse)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = format,
		.reuse = reuse,
		.lane_count = 1,
		.cluster_size_bytes = 4096,
	};

	recorder_start(0, 0);
	CHECK_OK(run_copy(&request, NULL, &error) == 0, error);
	recorder_stop();
}

/* New destinations: when the name appears, nothing of the file is still unsynced. */
static void names_appear_only_over_durable_files(void)
{
	for (enum vb_format format = VB_FORMAT_RAW; format <= VB_FORMAT_QCOW2; format++) {
		bool is_dirty = false, is_renamed = false;

		unlink(copy_path);
		record_copy(format, false);
		for (size_t index = 0; index < record_count; index++) {
			if (records[index].kind == RECORD_RENAME) {
				CHECK(!is_dirty && !is_renamed);
				is_renamed = true;
			} else if (records[index].kind == RECORD_SYNC) {
				is_dirty = false;
			} else {
				CHECK(!is_renamed);
				is_dirty = true;
			}
		}
		CHECK(is_renamed);
		CHECK_EQUAL(records[record_count - 1].kind, RECORD_SYNC);   /* the folder */
	}
}

/* The partial file of a qcow2 destination is no image before it is the whole image. */
static void partial_qcow2_is_no_image(void)
{
	uint64_t length, inode;
	unsigned complete_count = 0;

	unlink(copy_path);
	record_copy(VB_FORMAT_QCOW2, false);
	free(load_file(copy_path, &length, &inode));
	for (size_t count = 0; count <= record_count; count++) {
		for (unsigned long long seed = 0; seed < 6; seed++) {
			struct vb_chain *chain;

			make_crashed(crashed_path, (const uint8_t *)"", 0, inode, count, seed);
			chain = open_chain(crashed_path, VB_FORMAT_QCOW2, &error);
			if (chain == NULL)
				continue;
			vb_chain_close(chain);
			check_same(disk_path, VB_FORMAT_RAW, crashed_path, VB_FORMAT_QCOW2);
			complete_count++;
		}
	}
	CHECK(complete_count > 0);
}

/* An existing destination: what it was, or marked, or complete. Marked, it is taken over and completed. */
static void judge_reused(enum vb_format format, const char *old_path, size_t count, bool take_over)
{
	struct vb_chain *chain;
	bool is_marked;

	if (format == VB_FORMAT_RAW) {
		is_marked = file_size(crashed_path) != DISK_BYTES;
	} else {
		chain = open_chain(crashed_path, format, &error);
		is_marked = chain == NULL;
		if (is_marked)
			CHECK_ERROR(error, VB_ERROR_FORMAT, "unfinished");
		vb_chain_close(chain);
	}
	if (!is_marked && count < record_count / 2)
		check_same(old_path, format, crashed_path, format);
	else if (!is_marked)
		check_same(disk_path, VB_FORMAT_RAW, crashed_path, format);
	if (!take_over || !is_marked)
		return;

	struct copy_request again = {
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = crashed_path,
		.format = format,
		.reuse = true,
	};

	CHECK_OK(run_copy(&again, NULL, &error) == 0, error);
	check_same(disk_path, VB_FORMAT_RAW, crashed_path, format);
	if (format == VB_FORMAT_QCOW2)
		check_image(crashed_path, true);
}

static void crash_reused(enum vb_format format, const char *old_name)
{
	uint64_t length, inode;
	uint8_t *before;

	CHECK_EQUAL(test_shell("rm -f copy && cp %s copy", old_name), 0);
	before = load_file(copy_path, &length, &inode);
	record_copy(format, true);
	CHECK(record_count > 5);
	for (size_t count = 0; count <= record_count; count++) {
		for (unsigned long long seed = 0; seed < 4; seed++) {
			make_crashed(crashed_path, before, length, inode, count, seed);
			judge_reused(format, test_path("%s", old_name), count, (count + seed) % 7 == 0);
		}
	}
	free(before);
}

static void reused_raw_is_old_or_marked_or_complete(void)
{
	crash_reused(VB_FORMAT_RAW, "old");
}

static void reused_qcow2_is_old_or_marked_or_complete(void)
{
	crash_reused(VB_FORMAT_QCOW2, "old.qcow2");
	crash_reused(VB_FORMAT_QCOW2, "snapshot.qcow2");
	crash_reused(VB_FORMAT_QCOW2, "compressed.qcow2");
}

/* What change_image asked for, by sectors of 512 bytes. */
#define CHANGED_BYTE 0xab
static bool was_written[DISK_BYTES / 512], was_zeroed[DISK_BYTES / 512];

/* An image that a tool changes: every byte is what it was or what it was to become, and at most clusters leak. */
static void judge_changed(const uint8_t *old)
{
	uint64_t size;
	uint8_t *now = read_image(crashed_path, VB_FORMAT_QCOW2, &size, &error);

	CHECK_OK(now != NULL, error);
	CHECK_EQUAL(size, DISK_BYTES);
	for (uint64_t at = 0; at < size; at++)
		CHECK(now[at] == old[at] || (was_written[at / 512] && now[at] == CHANGED_BYTE) || (was_zeroed[at / 512] && now[at] == 0));
	free(now);
	check_image(crashed_path, true);
}

static void change_image(void)
{
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	struct vb_writer *writer;
	uint8_t *piece = malloc(300 * 1024);
	unsigned long long state = 3;

	CHECK(piece != NULL);
	memset(piece, CHANGED_BYTE, 300 * 1024);
	memset(was_written, 0, sizeof(was_written));
	memset(was_zeroed, 0, sizeof(was_zeroed));
	recorder_start(0, 0);
	writer = vb_image_open_writable(policy, copy_path, VB_FORMAT_QCOW2, &error);
	CHECK_OK(writer != NULL, error);
	for (unsigned index = 0; index < 12; index++) {
		uint64_t start = test_random(&state) % (DISK_BYTES / writer->unit_bytes - 1) * writer->unit_bytes;
		uint64_t length = (1 + test_random(&state) % 6) * writer->unit_bytes;

		if (length > DISK_BYTES - start)
			length = DISK_BYTES - start;
		memset((index % 4 == 3 ? was_zeroed : was_written) + start / 512, 1, (length + 511) / 512);
		if (index % 4 == 3)
			CHECK_OK(writer->ops->zero(writer, start, length, &error) == 0, error);
		else
			CHECK_OK(writer->ops->write(writer, start, piece, length, &error) == 0, error);
		if (index % 5 == 4)
			CHECK_OK(writer->ops->publish(writer, &error) == 0, error);
	}
	CHECK_OK(writer->ops->publish(writer, &error) == 0, error);
	writer->ops->close(writer);
	recorder_stop();
	vb_policy_free(policy);
	free(piece);
}

static void changed_image_stays_good(const char *name)
{
	uint64_t length, inode, size;
	uint8_t *before, *old;

	CHECK_EQUAL(test_shell("rm -f copy && cp %s copy", name), 0);
	before = load_file(copy_path, &length, &inode);
	old = read_image(copy_path, VB_FORMAT_QCOW2, &size, &error);
	CHECK_OK(old != NULL, error);
	change_image();
	check_image(copy_path, false);
	for (size_t count = 0; count <= record_count; count++) {
		make_crashed(crashed_path, before, length, inode, count, count % 5);
		judge_changed(old);
	}
	check_same(copy_path, VB_FORMAT_QCOW2, crashed_path, VB_FORMAT_QCOW2);
	free(before);
	free(old);
}

static void changed_images_stay_good(void)
{
	changed_image_stays_good("old.qcow2");
	changed_image_stays_good("snapshot.qcow2");
	changed_image_stays_good("compressed.qcow2");
	changed_image_stays_good("tiny.qcow2");
}

/* Growing: the old size and content, or the new size with zeros behind them. */
static void grown_image_is_old_or_new(void)
{
	struct vb_policy *policy = vb_policy_new(NULL, 0, &error);
	uint64_t length, inode, size;
	uint8_t *before, *old;

	CHECK_EQUAL(test_shell("rm -f copy && cp tiny.qcow2 copy"), 0);
	before = load_file(copy_path, &length, &inode);
	old = read_image(copy_path, VB_FORMAT_QCOW2, &size, &error);
	CHECK(old != NULL);
	recorder_start(0, 0);
	CHECK_OK(vb_image_resize(policy, copy_path, VB_FORMAT_QCOW2, 40 * DISK_BYTES, &error) == 0, error);
	recorder_stop();
	for (size_t count = 0; count <= record_count; count++) {
		uint8_t *now;

		make_crashed(crashed_path, before, length, inode, count, count % 4);
		check_image(crashed_path, true);
		now = read_image(crashed_path, VB_FORMAT_QCOW2, &size, &error);
		CHECK_OK(now != NULL, error);
		CHECK(size == DISK_BYTES || size == 40 * DISK_BYTES);
		CHECK(memcmp(now, old, DISK_BYTES) == 0);
		for (uint64_t at = DISK_BYTES; at < size; at++)
			CHECK_EQUAL(now[at], 0);
		free(now);
	}
	free(before);
	free(old);
	vb_policy_free(policy);
}

int main(void)
{
	disk_path = strdup(test_path("disk"));
	copy_path = strdup(test_path("copy"));
	crashed_path = strdup(test_path("crashed"));
	make_disk(disk_path, DISK_BYTES, 12, 1);
	make_disk(test_path("old"), DISK_BYTES, 12, 2);
	CHECK_EQUAL(test_shell("qemu-img convert -f raw -O qcow2 -o cluster_size=4096 old old.qcow2 && "
			       "qemu-img convert -f raw -O qcow2 -o cluster_size=512,compat=0.10 old tiny.qcow2 && "
			       "qemu-img convert -c -f raw -O qcow2 -o cluster_size=4096 old compressed.qcow2 && "
			       "cp old.qcow2 snapshot.qcow2 && qemu-img snapshot -c one snapshot.qcow2"), 0);
	RUN(names_appear_only_over_durable_files);
	RUN(partial_qcow2_is_no_image);
	RUN(reused_raw_is_old_or_marked_or_complete);
	RUN(reused_qcow2_is_old_or_marked_or_complete);
	RUN(changed_images_stay_good);
	RUN(grown_image_is_old_or_new);
	recorder_forget();
	free(disk_path);
	free(copy_path);
	free(crashed_path);
	return 0;
}
