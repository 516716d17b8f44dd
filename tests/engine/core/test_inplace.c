/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Existing qcow2 images written in place: every refcount width, tables that must grow, snapshots that must stay, features that
 * are given up or refused, and images that lie about themselves.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "check.h"
#include "copy.h"
#include "copy_runner.h"
#include "image_builder.h"
#include "qcow2.h"
#include "sys.h"

#define MIB (1024ull * 1024)

static struct vb_error error;
static struct vb_policy *policy;
static char *disk_path, *copy_path;

static struct copy_request onto_copy(void)
{
	return (struct copy_request){
		.source = disk_path,
		.source_format = VB_FORMAT_RAW,
		.destination = copy_path,
		.format = VB_FORMAT_QCOW2,
		.reuse = true,
		.lane_count = 2,
	};
}

static void copy_onto(void)
{
	struct copy_request request = onto_copy();

	CHECK_OK(run_copy(&request, NULL, &error) == 0, error);
	check_same(disk_path, VB_FORMAT_RAW, copy_path, VB_FORMAT_QCOW2);
	check_image(copy_path, false);
}

static void every_refcount_width(void)
{
	make_disk(disk_path, 2 * MIB, 30, 5);
	for (unsigned bits = 1; bits <= 64; bits *= 2) {
		for (unsigned cluster = 512; cluster <= 65536; cluster *= 128) {
			CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f qcow2 -o refcount_bits=%u,cluster_size=%u copy 2M && "
					       "qemu-io -f qcow2 -c 'write -P 3 100k 500k' copy >io.log", bits, cluster), 0);
			copy_onto();
		}
	}
}

/* With clusters of 512 bytes a refcount block counts 128 KiB and a cluster of their table 8 MiB: both must be added to. */
static void refcount_table_grows(void)
{
	CHECK_EQUAL(test_shell("rm -f copy && head -c 20M /dev/urandom >disk && "
			       "qemu-img create -q -f qcow2 -o cluster_size=512 copy 20M"), 0);
	copy_onto();
}

static void snapshots_keep_their_content(void)
{
	make_disk(disk_path, 4 * MIB, 40, 6);
	make_disk(test_path("old"), 4 * MIB, 40, 7);
	CHECK_EQUAL(test_shell("rm -f copy && qemu-img convert -f raw -O qcow2 old copy && qemu-img snapshot -c one copy && "
			       "qemu-io -f qcow2 -c 'write -P 3 1M 1M' copy >io.log"), 0);
	copy_onto();
	CHECK_EQUAL(test_shell("qemu-img convert -l snapshot.name=one -O raw copy back && cmp back old"), 0);
}

static void compressed_clusters_are_replaced(void)
{
	make_disk(disk_path, 4 * MIB, 40, 8);
	CHECK_EQUAL(test_shell("rm -f copy && yes compressible | head -c 4M >old && qemu-img convert -c -f raw -O qcow2 old copy"), 0);
	copy_onto();
}

static void preallocated_images_keep_their_room(void)
{
	make_disk(disk_path, 4 * MIB, 10, 9);
	CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f qcow2 -o preallocation=metadata copy 4M"), 0);

	uint64_t before = file_size(copy_path);

	copy_onto();
	CHECK_EQUAL(file_size(copy_path), before);
}

/* Whoever changes an image without keeping its bitmaps must say so, and leak none of their clusters. */
static void bitmaps_are_declared_invalid(void)
{
	make_disk(disk_path, 1 * MIB, 10, 10);
	CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f qcow2 copy 1M && qemu-img bitmap --add copy one && "
			       "qemu-img bitmap --add --disable copy other"), 0);

	struct copy_request request = onto_copy();

	CHECK_OK(run_copy(&request, NULL, &error) == 0, error);
	check_same(disk_path, VB_FORMAT_RAW, copy_path, VB_FORMAT_QCOW2);
	check_image(copy_path, true);
	CHECK_EQUAL(test_shell("[ \"$(qemu-img info -U copy | grep -c in-use)\" = 2 ]"), 0);
	CHECK_EQUAL(test_shell("qemu-img bitmap --remove copy other && qemu-img bitmap --remove copy one"), 0);
	check_image(copy_path, true);
}

static void refuse(enum vb_error_kind kind, const char *words)
{
	struct copy_request request = onto_copy();

	CHECK_EQUAL(test_shell("cp copy before"), 0);
	CHECK(run_copy(&request, NULL, &error) < 0);
	CHECK_ERROR(error, kind, words);
	CHECK_EQUAL(test_shell("cmp copy before"), 0);
}

static void make_plain(void)
{
	CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f qcow2 copy 1M && qemu-io -f qcow2 -c 'write -P 3 0 256k' copy >io.log"), 0);
}

static void unfit_images_are_refused_untouched(void)
{
	make_disk(disk_path, 1 * MIB, 10, 11);
	make_plain();
	patch_be64(copy_path, VB_QCOW2_AT_INCOMPATIBLE, VB_QCOW2_INCOMPATIBLE_DIRTY);
	refuse(VB_ERROR_FORMAT, "not closed cleanly");
	patch_be64(copy_path, VB_QCOW2_AT_INCOMPATIBLE, VB_QCOW2_INCOMPATIBLE_CORRUPT);
	refuse(VB_ERROR_FORMAT, "marked corrupt");
	CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f qcow2 copy 2M"), 0);
	refuse(VB_ERROR_SIZE, "has 2097152 bytes, the source has 1048576");
}

static uint64_t load_be64(uint64_t offset_bytes)
{
	uint8_t bytes[8];
	int fd = open(copy_path, O_RDONLY);

	CHECK(fd >= 0);
	CHECK_EQUAL(pread(fd, bytes, 8, (off_t)offset_bytes), 8);
	close(fd);
	return vb_load_be64(bytes);
}

/* Images whose tables point at each other: an honest writer would destroy them, or report success over a broken copy. */
static void lying_images_are_found_out(void)
{
	make_disk(disk_path, 1 * MIB, 0, 12);
	CHECK_EQUAL(test_shell("yes noise | head -c 1M >disk"), 0);
	make_plain();

	uint64_t l1_bytes = load_be64(VB_QCOW2_AT_L1_OFFSET);
	uint64_t l2_bytes = load_be64(l1_bytes) & VB_QCOW2_OFFSET_MASK;
	struct copy_request request = onto_copy();
	static const char *const lies[] = {"two guest clusters share one", "data over the refcount table", "data over the L2 table",
					   "data behind the end", "L2 table over the refcount table", "reserved bits"};

	for (size_t lie = 0; lie < sizeof(lies) / sizeof(lies[0]); lie++) {
		make_plain();
		if (lie == 0)
			patch_be64(copy_path, l2_bytes + 8, load_be64(l2_bytes));
		else if (lie == 1)
			patch_be64(copy_path, l2_bytes, VB_QCOW2_COPIED | load_be64(VB_QCOW2_AT_REFTABLE_OFFSET));
		else if (lie == 2)
			patch_be64(copy_path, l2_bytes, VB_QCOW2_COPIED | l2_bytes);
		else if (lie == 3)
			patch_be64(copy_path, l2_bytes, VB_QCOW2_COPIED | (1ull << 40));
		else if (lie == 4)
			patch_be64(copy_path, l1_bytes, VB_QCOW2_COPIED | load_be64(VB_QCOW2_AT_REFTABLE_OFFSET));
		else if (lie == 5)
			patch_be64(copy_path, l2_bytes, load_be64(l2_bytes) | (1ull << 60));
		if (run_copy(&request, NULL, &error) == 0)
			fprintf(stderr, "not found out: %s\n", lies[lie]);
		CHECK_ERROR(error, VB_ERROR_FORMAT, "The image is corrupt");
		CHECK(error.offset_bytes > 0);
		error = (struct vb_error){0};
	}
}

/* Extended entries can contradict themselves as well. */
static void lying_subclusters_are_found_out(void)
{
	static const struct { const char *words; uint64_t word_bits, bitmap; } lies[] = {
		{"both allocated and zero", 0, 0x0000000100000001ull},
		{"reserved bits", VB_QCOW2_ZERO, VB_QCOW2_ALL_ALLOCATED},
		{"has a subcluster bitmap", VB_QCOW2_COMPRESSED, VB_QCOW2_ALL_ALLOCATED},
		{"no cluster for them", 0, 1},
	};
	struct copy_request request = onto_copy();

	make_disk(disk_path, 1 * MIB, 0, 12);
	CHECK_EQUAL(test_shell("yes noise | head -c 1M >disk"), 0);
	for (size_t lie = 0; lie < sizeof(lies) / sizeof(lies[0]); lie++) {
		CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f qcow2 -o extended_l2=on copy 1M && "
				       "qemu-io -f qcow2 -c 'write -P 3 0 256k' copy >io.log"), 0);

		uint64_t l2_bytes = load_be64(load_be64(VB_QCOW2_AT_L1_OFFSET)) & VB_QCOW2_OFFSET_MASK;
		uint64_t word = load_be64(l2_bytes + 16);

		if (lies[lie].word_bits == VB_QCOW2_COMPRESSED)
			word &= ~VB_QCOW2_COPIED;
		if (lies[lie].bitmap == 1)
			word = 0;
		patch_be64(copy_path, l2_bytes + 16, word | lies[lie].word_bits);
		patch_be64(copy_path, l2_bytes + 24, lies[lie].bitmap);
		CHECK(run_copy(&request, NULL, &error) < 0);
		CHECK_ERROR(error, VB_ERROR_FORMAT, lies[lie].words);
		CHECK_EQUAL(error.offset_bytes, l2_bytes + 16);
		error = (struct vb_error){0};
	}
}

static void fail_to_write_twice(const char *words, uint64_t offset_bytes)
{
	static const uint8_t piece[65536];
	struct vb_writer *writer = vb_image_open_writable(policy, copy_path, VB_FORMAT_QCOW2, &error);

	CHECK_OK(writer != NULL, error);
	for (unsigned time = 0; time < 2; time++) {
		error = (struct vb_error){0};
		CHECK(writer->ops->write(writer, time * sizeof(piece), piece, sizeof(piece), &error) < 0);
		CHECK_ERROR(error, VB_ERROR_FORMAT, words);
		CHECK_EQUAL(error.offset_bytes, offset_bytes);
	}
	writer->ops->close(writer);
}

/* The second of two lanes must not say that what the first one has checked is claimed twice. */
static void the_first_reason_stays(void)
{
	make_plain();

	uint64_t entry_at = (load_be64(load_be64(VB_QCOW2_AT_L1_OFFSET)) & VB_QCOW2_OFFSET_MASK) + 16;

	patch_be64(copy_path, entry_at, load_be64(entry_at) | (1ull << 60));
	fail_to_write_twice("reserved bits", entry_at);
}

static void made_images_are_clean(void)
{
	static const uint64_t sizes[] = {0, 512, 1000, 5 * MIB + 512, 1ull << 40};
	static const uint32_t clusters[] = {512, 65536, 2 * 1024 * 1024};

	CHECK_EQUAL(test_shell("truncate -s 1M 'some base'"), 0);
	for (size_t size = 0; size < sizeof(sizes) / sizeof(sizes[0]); size++) {
		for (size_t cluster = 0; cluster < sizeof(clusters) / sizeof(clusters[0]); cluster++) {
			struct vb_destination_spec spec = {
				.path = copy_path,
				.format = VB_FORMAT_QCOW2,
				.virtual_size_bytes = sizes[size],
				.cluster_size_bytes = clusters[cluster],
				.backing_path = size % 2 ? "some base" : NULL,
				.backing_format = "raw",
				.durable = true,
			};

			unlink(copy_path);
			if (sizes[size] == 1ull << 40 && clusters[cluster] == 512) {
				CHECK(vb_image_create(policy, &spec, &error) < 0);
				CHECK_ERROR(error, VB_ERROR_INVALID, "larger clusters");
				CHECK(!exists(copy_path));
				continue;
			}
			CHECK_OK(vb_image_create(policy, &spec, &error) == 0, error);
			check_image(copy_path, false);
			CHECK_EQUAL(test_shell("qemu-img info --output=json copy | grep -q '\"virtual-size\": %llu,'",
					       (unsigned long long)(sizes[size] + 511) / 512 * 512), 0);
			CHECK(vb_image_create(policy, &spec, &error) < 0);
			CHECK_ERROR(error, VB_ERROR_EXISTS, "");
		}
	}
}

static void write_and_grow(uint32_t cluster, uint64_t from_bytes, uint64_t to_bytes, bool has_backing)
{
	static uint8_t piece[65536];
	struct vb_writer *writer;
	uint64_t last = (to_bytes - 1) / cluster * cluster;

	CHECK_EQUAL(test_shell("rm -f copy copy.raw && truncate -s 0 base && head -c 3M /dev/urandom >base && "
			       "qemu-img create -q -f qcow2 -o cluster_size=%u %s copy %llu && qemu-img convert -f qcow2 -O raw copy copy.raw && "
			       "truncate -s %llu copy.raw", cluster, has_backing ? "-b base -F raw" : "",
			       (unsigned long long)from_bytes, (unsigned long long)to_bytes), 0);
	CHECK_OK(vb_image_resize(policy, copy_path, VB_FORMAT_QCOW2, to_bytes, &error) == 0, error);
	check_image(copy_path, false);
	check_same(copy_path, VB_FORMAT_QCOW2, test_path("copy.raw"), VB_FORMAT_RAW);
	writer = vb_image_open_writable(policy, copy_path, VB_FORMAT_QCOW2, &error);
	CHECK_OK(writer != NULL, error);
	CHECK_OK(writer->ops->write(writer, last, piece, to_bytes - last < sizeof(piece) ? to_bytes - last : sizeof(piece), &error) == 0,
		 error);
	CHECK(writer->ops->write(writer, last + 1, piece, 1, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_INVALID, "whole clusters");
	CHECK(writer->ops->write(writer, (to_bytes + cluster) / cluster * cluster, piece, cluster, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_INVALID, "beyond the disk's end");
	CHECK_OK(writer->ops->publish(writer, &error) == 0, error);
	writer->ops->close(writer);
	check_image(copy_path, false);
}

static void images_grow(void)
{
	write_and_grow(512, 100 * 1024, 40 * MIB, false);
	write_and_grow(512, 512, 1 * MIB, true);
	write_and_grow(65536, 1 * MIB, 5 * MIB, true);
	write_and_grow(65536, 1 * MIB, 2000 * MIB, true);
	write_and_grow(4096, 5000 * 512, 9 * MIB, false);
	CHECK(vb_image_resize(policy, copy_path, VB_FORMAT_QCOW2, 512, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_UNSUPPORTED, "cannot be shrunk");
	CHECK_EQUAL(test_shell("qemu-img snapshot -c one copy"), 0);
	CHECK(vb_image_resize(policy, copy_path, VB_FORMAT_QCOW2, 100 * MIB, &error) < 0);
	CHECK_ERROR(error, VB_ERROR_UNSUPPORTED, "internal snapshots");
	CHECK_EQUAL(test_shell("rm -f copy && truncate -s 1000 copy"), 0);
	CHECK_OK(vb_image_resize(policy, copy_path, VB_FORMAT_RAW, 3 * MIB, &error) == 0, error);
	CHECK_EQUAL(file_size(copy_path), 3 * MIB);
	CHECK_OK(vb_image_resize(policy, copy_path, VB_FORMAT_RAW, 10, &error) == 0, error);
	CHECK_EQUAL(file_size(copy_path), 10);
}

static struct vb_writer *open_with_data(enum vb_format format, uint8_t byte)
{
	static uint8_t piece[65536];

	CHECK_EQUAL(test_shell("rm -f copy && qemu-img create -q -f %s copy 1M", format == VB_FORMAT_RAW ? "raw" : "qcow2"), 0);

	struct vb_writer *writer = vb_image_open_writable(policy, copy_path, format, &error);

	CHECK_OK(writer != NULL, error);
	memset(piece, byte, sizeof(piece));
	CHECK_OK(writer->ops->write(writer, 65536, piece, sizeof(piece), &error) == 0, error);
	return writer;
}

static void what_a_checkpoint_holds_is_found(void)
{
	for (enum vb_format format = VB_FORMAT_RAW; format <= VB_FORMAT_QCOW2; format++) {
		struct vb_writer *writer = open_with_data(format, 7);

		CHECK_OK(writer->ops->checkpoint(writer, &error) == 0, error);
		CHECK_OK(writer->ops->checkpoint(writer, &error) == 0, error);
		writer->ops->close(writer);
		CHECK_EQUAL(test_shell("qemu-io -f %s -c 'read -P 7 64k 64k' -c 'read -P 0 128k 800k' copy >io.log && ! grep -q failed io.log",
				       format == VB_FORMAT_RAW ? "raw" : "qcow2"), 0);
	}
	check_image(copy_path, false);
}

static int failing_fdatasync(int fd)
{
	(void)fd;
	errno = EIO;
	return -1;
}

/* The kernel tells once that pages were lost; who asks again is told that all is well. */
static void a_failed_sync_is_final(void)
{
	struct vb_sys failing = vb_sys_linux;

	failing.fdatasync = failing_fdatasync;
	for (enum vb_format format = VB_FORMAT_RAW; format <= VB_FORMAT_QCOW2; format++) {
		struct vb_writer *writer = open_with_data(format, 8);

		vb_sys = &failing;
		CHECK(writer->ops->checkpoint(writer, &error) < 0);
		vb_sys = &vb_sys_linux;
		CHECK(writer->ops->checkpoint(writer, &error) < 0);
		CHECK_ERROR(error, VB_ERROR_SYSTEM, "An earlier sync");
		CHECK(writer->ops->publish(writer, &error) < 0);
		writer->ops->close(writer);
	}
	check_image(copy_path, false);
	CHECK_EQUAL(test_shell("qemu-io -f qcow2 -c 'read -P 0 0 1M' copy >io.log && ! grep -q failed io.log"), 0);
}

int main(void)
{
	policy = vb_policy_new(NULL, 0, &error);
	disk_path = strdup(test_path("disk"));
	copy_path = strdup(test_path("copy"));
	RUN(every_refcount_width);
	RUN(refcount_table_grows);
	RUN(snapshots_keep_their_content);
	RUN(compressed_clusters_are_replaced);
	RUN(preallocated_images_keep_their_room);
	RUN(bitmaps_are_declared_invalid);
	RUN(unfit_images_are_refused_untouched);
	RUN(lying_images_are_found_out);
	RUN(lying_subclusters_are_found_out);
	RUN(the_first_reason_stays);
	RUN(made_images_are_clean);
	RUN(images_grow);
	RUN(what_a_checkpoint_holds_is_found);
	RUN(a_failed_sync_is_final);
	vb_policy_free(policy);
	free(disk_path);
	free(copy_path);
	return 0;
}
