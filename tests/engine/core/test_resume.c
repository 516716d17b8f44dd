/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs that are killed at any system call, and resumed from their journal.
 *
 * Each job runs in a child process whose table of system calls kills it, without a word, at one of its changing calls; half of a
 * large write may be done by then. The parent then resumes it. Demanded: it ends, the result is the source's content, what the journal said was not read
 * again, and the journal knew what had been written before its last record began.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "copy_runner.h"
#include "digest_chain.h"
#include "merge.h"
#include "sys.h"

#define DISK_BYTES (6u * 1024 * 1024)
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KILLS_EACH 8u    /* the sanitizers look at the ways, the plain build at the moments */
#else
#define KILLS_EACH 14u   /* of 16 jobs: 224 */
#endif
#define SLOW_WRITE_US 200u   /* so that even a small copy lives long enough to have a journal */

/* What the child leaves to the parent, in shared memory. */
struct trace {
	atomic_uint call_count;
	atomic_ullong written_bytes;    /* of data, by writes that returned */
	atomic_ullong settled_bytes;    /* of those: when the journal's last sync ended: all of them are in what it records next */
	atomic_ullong total_bytes;      /* of a job that ended */
	atomic_ullong durable_bytes;    /* of those: in the journal for sure */
};

static struct trace *trace;
static unsigned kill_at;
static struct vb_sys table_without_sync;

static bool is_journal(int fd)
{
	char name[64], path[4096];
	ssize_t length;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	length = readlink(name, path, sizeof(path) - 1);
	if (length <= 0)
		return false;
	path[length] = '\0';
	return strstr(path, "/journal") != NULL;
}

/* Counts a changing call; true where it is the last one. */
static bool is_last(void)
{
	return atomic_fetch_add(&trace->call_count, 1) + 1 == kill_at;
}

static void die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static ssize_t on_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	bool dies = is_last();
	ssize_t result = 0;

	/* A signal cuts no write within a page. */
	if (!dies || length > 4096)
		result = pwrite(fd, buffer, dies ? length / 2 : length, offset);
	if (dies)
		die();
	if (length >= 4096 && !is_journal(fd)) {
		usleep(SLOW_WRITE_US);
		atomic_fetch_add(&trace->written_bytes, (unsigned long long)length);
	}
	return result;
}

static int on_fdatasync(int fd)
{
	if (is_last())
		die();
	/* What a killed process wrote survives it without: a sync only costs time here. */
	if (is_journal(fd)) {
		atomic_store(&trace->durable_bytes, atomic_load(&trace->settled_bytes));
		atomic_store(&trace->settled_bytes, atomic_load(&trace->written_bytes));
	}
	return 0;
}

static int on_fsync(int fd)
{
	(void)fd;
	if (is_last())
		die();
	return 0;
}

static int on_ftruncate(int fd, off_t length)
{
	if (is_last())
		die();
	return ftruncate(fd, length);
}

static int on_fallocate(int fd, int mode, off_t offset, off_t length)
{
	if (is_last())
		die();
	return fallocate(fd, mode, offset, length);
}

static int on_renameat(int old_folder_fd, const char *old_name, int new_folder_fd, const char *new_name)
{
	if (is_last())
		die();
	return renameat(old_folder_fd, old_name, new_folder_fd, new_name);
}

static int on_unlinkat(int folder_fd, const char *name, int flags)
{
	if (is_last())
		die();
	return unlinkat(folder_fd, name, flags);
}

static int skip_sync(int fd)
{
	(void)fd;
	return 0;
}

static void install_table(void)
{
	static struct vb_sys table;

	table = vb_sys_linux;
	table.pwrite = on_pwrite;
	table.fdatasync = on_fdatasync;
	table.fsync = on_fsync;
	table.ftruncate = on_ftruncate;
	table.fallocate = on_fallocate;
	table.renameat = on_renameat;
	table.unlinkat = on_unlinkat;
	vb_sys = &table;
}

/* One job: how it is set up, run, and judged. */
struct job {
	const char *name;
	void (*prepare)(const struct job *job);
	int (*run)(const struct job *job, bool resume, struct vb_copy_progress *progress, bool *is_resumed, char *digest, struct vb_error *error);
	void (*judge)(const struct job *job);
	enum vb_format source_format;
	enum vb_format format;
	enum vb_plan_mode mode;
	bool reuse;
	bool is_commit;
	bool is_extended;
	bool in_source_order;   /* as on a file system that is said to share extents, and then does not */
	enum vb_preallocation preallocation;
	const char *bitmap_name;
	bool counts_data;   /* each large write is data of the destination, once */
};

/* run() in a child that dies at changing call `at` (0: never); true if it died. */
static bool run_in_child(const struct job *job, unsigned at)
{
	int status;
	pid_t child;

	memset(trace, 0, sizeof(*trace));
	fflush(NULL);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		struct vb_error error = {0};
		struct vb_copy_progress progress = {0};
		char digest[VB_DIGEST_TEXT_BYTES];

		kill_at = at;
		install_table();
		if (job->run(job, false, &progress, NULL, digest, &error)) {
			fprintf(stderr, "%s: %s: %s\n", job->name, error.path, error.message);
			_exit(1);
		}
		atomic_store(&trace->total_bytes, progress.total_bytes);
		_exit(0);
	}
	CHECK_EQUAL(waitpid(child, &status, 0), child);
	CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
	return WIFSIGNALED(status);
}

static const char *source_path(const struct job *job)
{
	if (job->bitmap_name != NULL)
		return test_path("marked.qcow2");
	return test_path(job->source_format == VB_FORMAT_RAW ? "disk.raw" : "top.qcow2");
}

static void check_digest(const struct job *job, const char *digest)
{
	char wanted[VB_DIGEST_TEXT_BYTES];
	struct vb_error error = {0};
	struct vb_chain *chain = open_chain(source_path(job), job->source_format, &error);

	CHECK_OK(chain != NULL, error);
	CHECK_OK(vb_digest_chain(chain, false, NULL, wanted, &error) == 0, error);
	CHECK(strcmp(digest, wanted) == 0);
	vb_chain_close(chain);
}

/* Runs on after the death; true if it had less to do than at first. */
static bool resume(const struct job *job, uint64_t whole_bytes)
{
	struct vb_copy_progress progress = {0};
	struct vb_error error = {0};
	bool is_resumed = false, was_complete, had_journal = exists(test_path("journal"));
	char digest[VB_DIGEST_TEXT_BYTES] = "";
	int result = job->run(job, true, &progress, &is_resumed, digest, &error);

	/* It died behind its end, and nothing tells it from another file that is there. */
	if (result && error.kind == VB_ERROR_EXISTS && !had_journal && !exists(test_path("copy.virtblock-partial"))) {
		job->judge(job);
		return false;
	}
	CHECK_OK(result == 0, error);
	job->judge(job);
	CHECK(!exists(test_path("journal")));
	was_complete = is_resumed && progress.total_bytes == 0;
	if (job->mode == VB_PLAN_FULL && job->bitmap_name == NULL)
		check_digest(job, digest);
	/* Nothing that the journal has is read again. */
	CHECK(is_resumed || progress.resumed_bytes == 0);
	if (!was_complete)
		CHECK(progress.read_bytes + progress.resumed_bytes <= progress.total_bytes);
	if (job->counts_data && !was_complete) {
		uint64_t durable_bytes = atomic_load(&trace->durable_bytes);
		uint64_t slack_bytes = 2 * VB_CHUNK_BYTES;   /* what two lanes had written and not yet released */

		if (progress.resumed_bytes + slack_bytes < durable_bytes)
			fprintf(stderr, "%s: %llu bytes were durable, %llu were resumed\n", job->name, (unsigned long long)durable_bytes,
				(unsigned long long)progress.resumed_bytes);
		CHECK(progress.resumed_bytes + slack_bytes >= durable_bytes);
	}
	/* The plan of a pull leaves out what is there already. */
	return progress.resumed_bytes > 0 || progress.total_bytes < whole_bytes;
}

/* How many of the jobs that were killed had less to do afterwards: when the journal is written is up to its thread. */
static unsigned kill_everywhere(const struct job *job)
{
	unsigned long long seed = 11;
	unsigned died = 0, went_on = 0;

	job->prepare(job);
	CHECK(!run_in_child(job, 0));
	job->judge(job);

	unsigned call_count = atomic_load(&trace->call_count);
	uint64_t whole_bytes = atomic_load(&trace->total_bytes);

	for (unsigned kill = 0; kill < KILLS_EACH; kill++) {
		/* The first and the last calls each, and some between. How many there are varies with the journal's thread. */
		unsigned at = kill < 4 ? kill + 1 : kill < 10 ? call_count - (kill - 4) : 1 + (unsigned)(test_random(&seed) % call_count);

		job->prepare(job);
		died += run_in_child(job, at);
		went_on += resume(job, whole_bytes);
	}
	printf("  %s: %u calls, died at %u, %u went on from a journal\n", job->name, call_count, died, went_on);
	CHECK(died > KILLS_EACH / 4);
	return went_on;
}

/* A source of its own for each format; made once, and the copies' places cleared each time. */
static void make_sources(void)
{
	make_disk(test_path("disk.raw"), DISK_BYTES, 60, 3);
	CHECK_EQUAL(test_shell("qemu-img convert -q -f raw -O qcow2 -o cluster_size=16k disk.raw base.qcow2 && "
			       "qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o cluster_size=32k middle.qcow2 && "
			       "qemu-io -f qcow2 -c 'write -P 7 1M 700k' -c 'write -z 100k 90k' middle.qcow2 >/dev/null && "
			       "qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 top.qcow2 && "
			       "qemu-io -f qcow2 -c 'write -P 9 3M 1500k' -c 'write -P 5 20k 3k' top.qcow2 >/dev/null && mkdir -p kept && "
			       "cp base.qcow2 middle.qcow2 top.qcow2 kept/ && "
			       "qemu-img convert -q -f raw -O qcow2 disk.raw marked.qcow2 && qemu-img bitmap --add marked.qcow2 since && "
			       "cp disk.raw marked.raw && qemu-img convert -q -f raw -O qcow2 disk.raw marked.copy && "
			       "qemu-io -f qcow2 -c 'write -P 8 100k 1500k' -c 'write -P 6 3M 2M' -c 'write -z 2M 300k' marked.qcow2 >/dev/null"),
		    0);
}

static void prepare_copy(const struct job *job)
{
	test_shell("rm -f copy copy.virtblock-partial journal");
	if (job->bitmap_name != NULL)
		CHECK_EQUAL(test_shell("cp %s copy", job->format == VB_FORMAT_RAW ? "marked.raw" : "marked.copy"), 0);
	else if (job->reuse && job->format == VB_FORMAT_RAW)
		make_disk(test_path("copy"), DISK_BYTES, 30, 99);
	else if (job->reuse)
		CHECK_EQUAL(test_shell("qemu-img create -q -f qcow2 copy %u && qemu-io -f qcow2 -c 'write -P 3 0 2M' -c 'write -P 4 5M 1M' copy "
				       ">/dev/null",
				       DISK_BYTES),
			    0);
}

static int claim_xfs(int fd, struct statfs *status)
{
	int result = vb_sys_linux.fstatfs(fd, status);

	status->f_type = XFS_SUPER_MAGIC;
	return result;
}

static int run_one_copy(const struct job *job, bool is_again, struct vb_copy_progress *progress, bool *is_resumed, char *digest,
			struct vb_error *error)
{
	struct copy_request request = {
		.source = source_path(job),
		.source_format = job->source_format,
		.destination = test_path("copy"),
		.format = job->format,
		.mode = job->mode,
		.reuse = job->reuse,
		.backing_path = job->mode == VB_PLAN_TOP ? test_path("middle.qcow2") : NULL,
		.backing_format = job->mode == VB_PLAN_TOP ? "qcow2" : NULL,
		.cluster_size_bytes = job->in_source_order ? 16384 : 65536,
		.extended_l2 = job->is_extended,
		.preallocation = job->preallocation,
		.bitmap_name = job->bitmap_name,
		.lane_count = 2,
		.journal_path = test_path("journal"),
		.journal_interval_ms = 1,
		.resume = is_again,
		.digest = digest,
		.is_resumed = is_resumed,
	};
	const struct vb_sys *before = vb_sys;
	struct vb_sys table = *before;
	int result;

	if (job->in_source_order)
		table.fstatfs = claim_xfs;
	vb_sys = &table;
	result = run_copy(&request, progress, error);
	vb_sys = before;
	return result;
}

static void judge_copy(const struct job *job)
{
	check_same(source_path(job), job->source_format, test_path("copy"), job->format);
	if (job->format == VB_FORMAT_QCOW2)
		check_image(test_path("copy"), job->reuse);
	CHECK(!exists(test_path("copy.virtblock-partial")));
}

static void prepare_merge(const struct job *job)
{
	(void)job;
	CHECK_EQUAL(test_shell("rm -f journal && cp kept/base.qcow2 kept/middle.qcow2 kept/top.qcow2 ."), 0);
}

static int run_one_merge(const struct job *job, bool is_again, struct vb_copy_progress *progress, bool *is_resumed, char *digest,
			 struct vb_error *error)
{
	const struct vb_layer_spec spec = {.path = test_path("top.qcow2"), .format = VB_FORMAT_QCOW2};
	struct vb_merge_request request = {
		.span = {.is_commit = job->is_commit, .base_index = job->is_commit ? 2 : SIZE_MAX},
		.durable = true,
	};
	struct vb_copy_options options = {
		.lane_count = 2, .journal_path = test_path("journal"), .journal_interval_ms = 1, .resume = is_again};
	struct vb_policy *policy = vb_policy_new(NULL, 0, error);
	struct vb_merge *merge = policy == NULL ? NULL : vb_merge_open(policy, &spec, 1, false, &request, &options, error);
	int result = merge == NULL ? -1 : vb_merge_run(merge, error);

	digest[0] = '\0';
	if (merge != NULL && progress != NULL)
		vb_copy_progress(vb_merge_copy(merge), progress);
	if (merge != NULL && is_resumed != NULL)
		*is_resumed = vb_copy_is_resumed(vb_merge_copy(merge));
	vb_merge_close(merge);
	vb_policy_free(policy);
	return result;
}

static void judge_merge(const struct job *job)
{
	check_same(test_path("kept/top.qcow2"), VB_FORMAT_QCOW2, test_path("top.qcow2"), VB_FORMAT_QCOW2);
	check_image(test_path("top.qcow2"), true);
	check_image(test_path("base.qcow2"), true);
	if (job->is_commit)
		check_same(test_path("kept/top.qcow2"), VB_FORMAT_QCOW2, test_path("base.qcow2"), VB_FORMAT_QCOW2);
	else
		CHECK_EQUAL(test_shell("qemu-img info top.qcow2 | grep -q 'backing file' && exit 1 || exit 0"), 0);
}

#define COPY_JOB(...) {.prepare = prepare_copy, .run = run_one_copy, .judge = judge_copy, __VA_ARGS__}
#define MERGE_JOB(...) {.prepare = prepare_merge, .run = run_one_merge, .judge = judge_merge, .mode = VB_PLAN_MERGE, __VA_ARGS__}

static const struct job jobs[] = {
	COPY_JOB(.name = "new raw", .source_format = VB_FORMAT_RAW, .format = VB_FORMAT_RAW, .counts_data = true),
	COPY_JOB(.name = "new qcow2", .source_format = VB_FORMAT_RAW, .format = VB_FORMAT_QCOW2, .counts_data = true),
	COPY_JOB(.name = "reused raw", .source_format = VB_FORMAT_RAW, .format = VB_FORMAT_RAW, .reuse = true),
	COPY_JOB(.name = "reused qcow2", .source_format = VB_FORMAT_RAW, .format = VB_FORMAT_QCOW2, .reuse = true),
	COPY_JOB(.name = "chain to qcow2", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_QCOW2, .counts_data = true),
	COPY_JOB(.name = "chain to qcow2 in source order", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_QCOW2,
		 .in_source_order = true, .counts_data = true),
	COPY_JOB(.name = "chain to raw", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_RAW, .counts_data = true),
	COPY_JOB(.name = "shallow", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_QCOW2, .mode = VB_PLAN_TOP),
	COPY_JOB(.name = "extended L2", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_QCOW2, .is_extended = true, .counts_data = true),
	COPY_JOB(.name = "preallocated raw", .source_format = VB_FORMAT_RAW, .format = VB_FORMAT_RAW,
		 .preallocation = VB_PREALLOCATION_FULL),
	COPY_JOB(.name = "preallocated qcow2", .source_format = VB_FORMAT_RAW, .format = VB_FORMAT_QCOW2,
		 .preallocation = VB_PREALLOCATION_FALLOC),
	COPY_JOB(.name = "shallow, extended L2, preallocated", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_QCOW2,
		 .mode = VB_PLAN_TOP, .is_extended = true, .preallocation = VB_PREALLOCATION_FULL),
	COPY_JOB(.name = "by a bitmap to raw", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_RAW, .reuse = true,
		 .bitmap_name = "since"),
	COPY_JOB(.name = "by a bitmap to qcow2", .source_format = VB_FORMAT_QCOW2, .format = VB_FORMAT_QCOW2, .reuse = true,
		 .bitmap_name = "since"),
	MERGE_JOB(.name = "pull"),
	MERGE_JOB(.name = "commit", .is_commit = true),
};

static void killed_jobs_go_on(void)
{
	unsigned went_on = 0;

	make_sources();
	for (size_t index = 0; index < sizeof(jobs) / sizeof(jobs[0]); index++)
		went_on += kill_everywhere(&jobs[index]);
	CHECK(went_on > KILLS_EACH);
}

int main(void)
{
	trace = mmap(NULL, sizeof(*trace), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(trace != MAP_FAILED);
	table_without_sync = vb_sys_linux;
	table_without_sync.fdatasync = skip_sync;
	table_without_sync.fsync = skip_sync;
	vb_sys = &table_without_sync;
	RUN(killed_jobs_go_on);
	return 0;
}
