/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sharing extents, over a file system that is made up: the call that shares copies bytes as the kernel would, notes what it was asked,
 * and is refused, or fails half way, as each test wants it.
 */
#include <errno.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "copy_runner.h"
#include "sys.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define BLOCK_BYTES 4096u

static struct vb_error error;
static char *disk_path, *copy_path, *partial_path;
static struct vb_sys table;
static long file_system = XFS_SUPER_MAGIC;
static enum vb_format source_format = VB_FORMAT_RAW;
static unsigned call_count;     /* of clone_range */
static unsigned refuse_from;    /* the first call that is refused; 0: none */
static int refuse_errno;
static bool is_half_done;       /* a refused call shared the first half all the same */

static void share_bytes(int fd, const struct file_clone_range *range, uint64_t length)
{
	uint8_t *bytes = malloc(length);

	CHECK(bytes != NULL);
	CHECK_EQUAL(pread((int)range->src_fd, bytes, length, (off_t)range->src_offset), length);
	CHECK_EQUAL(pwrite(fd, bytes, length, (off_t)range->dest_offset), length);
	free(bytes);
}

static int on_clone_range(int fd, const struct file_clone_range *range)
{
	struct stat status;

	CHECK_EQUAL((range->src_offset | range->src_length | range->dest_offset) % BLOCK_BYTES, 0);
	CHECK_EQUAL(fstat((int)range->src_fd, &status), 0);
	CHECK(range->src_length > 0 && range->src_offset + range->src_length <= (uint64_t)status.st_size);
	call_count++;
	if (refuse_from == 0 || call_count < refuse_from) {
		share_bytes(fd, range, range->src_length);
		return 0;
	}
	if (is_half_done)
		share_bytes(fd, range, range->src_length / 2 / BLOCK_BYTES * BLOCK_BYTES);
	errno = refuse_errno;
	return -1;
}

static int on_fstatfs(int fd, struct statfs *status)
{
	int result = vb_sys_linux.fstatfs(fd, status);

	status->f_type = file_system;
	status->f_bsize = BLOCK_BYTES;
	return result;
}

static int copy_with(enum vb_format format, enum vb_reflink reflink, uint32_t cluster_bytes, struct vb_copy_progress *progress)
{
	struct copy_request request = {
		.source = disk_path,
		.source_format = source_format,
		.destination = copy_path,
		.format = format,
		.cluster_size_bytes = cluster_bytes,
		.lane_count = 2,
		.reflink = reflink,
	};
	int result;

	unlink(copy_path);
	call_count = 0;
	table = vb_sys_linux;
	table.clone_range = on_clone_range;
	table.fstatfs = on_fstatfs;
	vb_sys = &table;
	result = run_copy(&request, progress, &error);
	vb_sys = &vb_sys_linux;
	CHECK(!exists(partial_path));
	return result;
}

static void check_copy(enum vb_format format)
{
	check_same(disk_path, source_format, copy_path, format);
	if (format == VB_FORMAT_QCOW2)
		check_image(copy_path, false);
}

static void refuse(unsigned from, int number, bool half_done)
{
	refuse_from = from;
	refuse_errno = number;
	is_half_done = half_done;
}

/* Pieces that begin and end anywhere: what does not fill granules is copied around what is shared. */
static void shares_and_copies_mixed(void)
{
	static const uint64_t sizes[] = {8 * MIB, 8 * MIB + 4096, 8 * MIB + 777};
	struct vb_copy_progress progress;

	refuse(0, 0, false);
	for (unsigned long long seed = 1; seed <= 12; seed++) {
		make_disk(disk_path, sizes[seed % 3], 60, seed);
		for (int format = VB_FORMAT_RAW; format <= VB_FORMAT_QCOW2; format++) {
			for (uint32_t cluster = 512; cluster <= 2 * MIB; cluster *= 16) {
				CHECK_OK(copy_with((enum vb_format)format, VB_REFLINK_AUTO, cluster, &progress) == 0, error);
				CHECK_EQUAL(progress.moved_bytes, progress.total_bytes);
				CHECK(cluster != 65536 || (call_count > 0 && progress.shared_bytes > 0));
				check_copy((enum vb_format)format);
			}
		}
	}
}

static void never_does_not_ask(void)
{
	refuse(0, 0, false);
	CHECK_OK(copy_with(VB_FORMAT_RAW, VB_REFLINK_NEVER, 65536, NULL) == 0, error);
	CHECK_EQUAL(call_count, 0);
	check_copy(VB_FORMAT_RAW);
}

/* Whatever was shared before, and whatever a refused call did: the lanes write the rest. One refusal is enough. */
static void refusals_are_taken_once(void)
{
	static const int numbers[] = {EOPNOTSUPP, EXDEV, EINVAL, ENOTTY, EPERM, ENOSPC};
	struct vb_copy_progress progress;

	for (unsigned index = 0; index < sizeof(numbers) / sizeof(numbers[0]); index++) {
		for (unsigned from = 1; from <= 3; from += 2) {
			for (int format = VB_FORMAT_RAW; format <= VB_FORMAT_QCOW2; format++) {
				refuse(from, numbers[index], index % 2 == 1);
				CHECK_OK(copy_with((enum vb_format)format, VB_REFLINK_AUTO, 65536, &progress) == 0, error);
				CHECK_EQUAL(call_count, from);
				CHECK((progress.shared_bytes > 0) == (from > 1));
				CHECK_EQUAL(progress.moved_bytes, progress.total_bytes);
				check_copy((enum vb_format)format);
			}
		}
	}
}

static void always_says_why_not(void)
{
	refuse(2, EXDEV, false);
	CHECK(copy_with(VB_FORMAT_QCOW2, VB_REFLINK_ALWAYS, 65536, NULL) < 0);
	CHECK_ERROR(error, VB_ERROR_UNSUPPORTED, "Cannot share the extents of");
	CHECK_EQUAL(error.system_errno, EXDEV);
	CHECK_EQUAL(file_size(copy_path), 0);
	refuse(0, 0, false);
	CHECK_OK(copy_with(VB_FORMAT_QCOW2, VB_REFLINK_ALWAYS, 65536, NULL) == 0, error);
	check_copy(VB_FORMAT_QCOW2);
}

/* A disk that fails is not a file system that cannot share. */
static void failures_end_the_copy(void)
{
	refuse(2, EIO, true);
	CHECK(copy_with(VB_FORMAT_RAW, VB_REFLINK_AUTO, 65536, NULL) < 0);
	CHECK_ERROR(error, VB_ERROR_SYSTEM, "Cannot share the extents of");
	CHECK_EQUAL(error.system_errno, EIO);
	CHECK_EQUAL(file_size(copy_path), 0);
}

#define CHAIN_CLUSTER_COUNT 128u   /* of 64 KiB */

static void write_cluster(const char *path, unsigned cluster)
{
	CHECK_EQUAL(test_shell("qemu-io -f qcow2 -c 'write -P %u %uk 64k' %s >/dev/null", 1 + cluster % 254, cluster * 64, path), 0);
}

/* Clusters of two layers that lie in their files in the reverse of the guest's order, and alternate between the layers. */
static void make_scattered_chain(void)
{
	CHECK_EQUAL(test_shell("rm -f below disk && qemu-img create -q -f qcow2 below %uk && qemu-img create -q -f qcow2 -b below -F qcow2 disk",
			       CHAIN_CLUSTER_COUNT * 64), 0);
	for (unsigned cluster = CHAIN_CLUSTER_COUNT; cluster > 0; cluster -= 2) {
		write_cluster("below", cluster - 1);
		write_cluster("disk", cluster - 2);
	}
}

/* One call for all of a layer where the file system is known to share; one for each cluster where it is not. */
static void what_lies_together_is_shared_at_once(void)
{
	struct vb_copy_progress progress;

	make_scattered_chain();
	source_format = VB_FORMAT_QCOW2;
	refuse(0, 0, false);
	CHECK_OK(copy_with(VB_FORMAT_QCOW2, VB_REFLINK_AUTO, 65536, &progress) == 0, error);
	CHECK_EQUAL(progress.shared_bytes, CHAIN_CLUSTER_COUNT * 64 * KIB);
	/* The guest's order is backwards in the file, so a neighbour in the file is the one before in the disk. */
	CHECK(call_count <= 4);
	check_copy(VB_FORMAT_QCOW2);
	file_system = EXT4_SUPER_MAGIC;
	CHECK_OK(copy_with(VB_FORMAT_QCOW2, VB_REFLINK_AUTO, 65536, &progress) == 0, error);
	CHECK_EQUAL(call_count, CHAIN_CLUSTER_COUNT);
	check_copy(VB_FORMAT_QCOW2);
	file_system = XFS_SUPER_MAGIC;
}

/* Other clusters than the source's have no one place in it, so the order is the guest's; and what was refused is written in any order. */
static void source_order_is_not_had_everywhere(void)
{
	static const uint32_t clusters[] = {4096, 131072, 2 * MIB};
	struct vb_copy_progress progress;

	refuse(0, 0, false);
	for (unsigned index = 0; index < sizeof(clusters) / sizeof(clusters[0]); index++) {
		CHECK_OK(copy_with(VB_FORMAT_QCOW2, VB_REFLINK_AUTO, clusters[index], &progress) == 0, error);
		CHECK(call_count <= 4 || clusters[index] > 65536);
		check_copy(VB_FORMAT_QCOW2);
	}
	for (unsigned from = 1; from <= 2; from++) {
		refuse(from, EOPNOTSUPP, true);
		CHECK_OK(copy_with(VB_FORMAT_QCOW2, VB_REFLINK_AUTO, 65536, &progress) == 0, error);
		CHECK_EQUAL(call_count, from);
		CHECK(progress.shared_bytes < progress.total_bytes);
		check_copy(VB_FORMAT_QCOW2);
	}
	refuse(0, 0, false);
	CHECK_OK(copy_with(VB_FORMAT_RAW, VB_REFLINK_AUTO, 65536, &progress) == 0, error);
	CHECK_EQUAL(call_count, CHAIN_CLUSTER_COUNT);
	check_copy(VB_FORMAT_RAW);
	source_format = VB_FORMAT_RAW;
}

/* The disk's end fills a part of a cluster. What lies behind that part in the source's file belongs to the next cluster, not beside it. */
static void the_end_of_the_disk_ends_a_call(void)
{
	struct vb_copy_progress progress;

	CHECK_EQUAL(test_shell("rm -f disk && qemu-img create -q -f qcow2 -o cluster_size=4k disk 260k && "
			       "qemu-io -f qcow2 -c 'write -P 9 256k 4k' -c 'write -P 1 0 64k' -c 'write -P 2 64k 64k' disk >/dev/null"), 0);
	source_format = VB_FORMAT_QCOW2;
	refuse(0, 0, false);
	CHECK_OK(copy_with(VB_FORMAT_QCOW2, VB_REFLINK_AUTO, 65536, &progress) == 0, error);
	CHECK_EQUAL(progress.shared_bytes, 132 * KIB);
	check_copy(VB_FORMAT_QCOW2);
	source_format = VB_FORMAT_RAW;
}

int main(void)
{
	disk_path = strdup(test_path("disk"));
	copy_path = strdup(test_path("copy"));
	partial_path = strdup(test_path("copy" VB_PARTIAL_SUFFIX));
	RUN(shares_and_copies_mixed);
	make_disk(disk_path, 8 * MIB, 60, 3);
	RUN(never_does_not_ask);
	RUN(refusals_are_taken_once);
	RUN(always_says_why_not);
	RUN(failures_end_the_copy);
	RUN(what_lies_together_is_shared_at_once);
	RUN(source_order_is_not_had_everywhere);
	RUN(the_end_of_the_disk_ends_a_call);
	free(disk_path);
	free(copy_path);
	free(partial_path);
	return 0;
}
