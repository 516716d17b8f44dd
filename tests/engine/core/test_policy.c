/* SPDX-License-Identifier: Apache-2.0 */
/* The one door to files: what is opened, made, denied, and what the record of an open file says. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "policy.h"

static struct vb_error error;
static struct vb_file file;

static struct vb_policy *policy_of(const char *first, const char *second)
{
	const char *folders[2] = { first, second };
	struct vb_policy *policy = vb_policy_new(folders, first == NULL ? 0 : second == NULL ? 1 : 2, &error);

	CHECK_OK(policy != NULL, error);
	return policy;
}

static bool opens(const struct vb_policy *policy, const char *path, int flags)
{
	error = (struct vb_error){ 0 };
	if (vb_policy_open(policy, path, flags, 0600, &file, &error) < 0) {
		CHECK_EQUAL(file.fd, -1);
		CHECK(error.kind != VB_ERROR_NONE);
		vb_file_close(&file);
		return false;
	}
	CHECK(file.fd >= 0 && file.folder_fd >= 0);
	CHECK((fcntl(file.fd, F_GETFD) & FD_CLOEXEC) != 0);
	CHECK((fcntl(file.folder_fd, F_GETFD) & FD_CLOEXEC) != 0);
	return true;
}

static bool opens_and_closes(const struct vb_policy *policy, const char *path, int flags)
{
	bool result = opens(policy, path, flags);

	vb_file_close(&file);
	vb_file_close(&file);
	return result;
}

static void test_record(void)
{
	struct vb_policy *policy = policy_of(NULL, NULL);
	struct stat status, other;

	CHECK_EQUAL(test_shell("mkdir -p a/b && printf 12345 >a/b/disk && ln -sf a/b/disk link"), 0);
	CHECK(opens(policy, test_path("link"), O_RDONLY));
	CHECK_EQUAL(stat(test_path("a/b/disk"), &status), 0);
	CHECK(strcmp(file.path, test_path("a/b/disk")) == 0 && file.path[0] == '/');
	CHECK(strcmp(file.name, "disk") == 0);
	CHECK_EQUAL(file.device, status.st_dev);
	CHECK_EQUAL(file.inode, status.st_ino);
	CHECK_EQUAL(file.size_bytes, 5);
	CHECK(!file.is_block_device && !file.is_created);
	CHECK_EQUAL(fstatat(file.folder_fd, "disk", &other, 0), 0);
	CHECK_EQUAL(other.st_ino, status.st_ino);
	vb_file_close(&file);
	CHECK_EQUAL(file.fd, -1);
	vb_policy_free(policy);
}

static void test_create(void)
{
	struct vb_policy *policy = policy_of(NULL, NULL);
	struct stat status;

	CHECK(opens(policy, test_path("made"), O_RDWR | O_CREAT));
	CHECK(file.is_created);
	CHECK_EQUAL(fstat(file.fd, &status), 0);
	CHECK_EQUAL(status.st_mode & 0777, 0600);
	CHECK_EQUAL(write(file.fd, "x", 1), 1);
	vb_file_close(&file);
	CHECK(opens(policy, test_path("made"), O_RDWR | O_CREAT));
	CHECK(!file.is_created);
	CHECK_EQUAL(file.size_bytes, 1);
	vb_file_close(&file);
	CHECK(!opens_and_closes(policy, test_path("made"), O_RDWR | O_CREAT | O_EXCL));
	CHECK_EQUAL(error.kind, VB_ERROR_SYSTEM);
	CHECK_EQUAL(error.system_errno, EEXIST);
	CHECK(!opens_and_closes(policy, test_path("no-folder/made"), O_RDWR | O_CREAT));
	CHECK_EQUAL(error.system_errno, ENOENT);
	CHECK(!opens_and_closes(policy, test_path("absent"), O_RDONLY));
	CHECK_EQUAL(error.kind, VB_ERROR_SYSTEM);
	CHECK_EQUAL(error.system_errno, ENOENT);
	CHECK(!opens_and_closes(policy, test_path("made/inside"), O_RDONLY));
	CHECK_EQUAL(error.system_errno, ENOTDIR);
	CHECK(!opens_and_closes(policy, "", O_RDONLY));
	CHECK(!opens_and_closes(policy, test_path("a/b/"), O_RDWR | O_CREAT));
	/* A link to nothing is not followed to make what it names. */
	CHECK_EQUAL(test_shell("ln -sf would-be dangling"), 0);
	CHECK(!opens_and_closes(policy, test_path("dangling"), O_RDWR | O_CREAT));
	CHECK_EQUAL(error.system_errno, ENOENT);
	CHECK(access(test_path("would-be"), F_OK) < 0);
	vb_policy_free(policy);
}

static void test_kinds(void)
{
	static const struct {
		const char *path;
		const char *words;
	} cases[] = { { "fifo", "a pipe" }, { "folder", "a folder" }, { "/dev/zero", "a character device" }, { "/", "a folder" } };
	struct vb_policy *policy = policy_of(NULL, NULL);

	CHECK_EQUAL(test_shell("mkfifo fifo && mkdir folder"), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *path = cases[i].path[0] == '/' ? cases[i].path : test_path("%s", cases[i].path);

		CHECK(!opens_and_closes(policy, path, O_RDONLY));
		CHECK_ERROR(error, VB_ERROR_DENIED, cases[i].words);
	}
	vb_policy_free(policy);
}

static void test_folders(void)
{
	struct vb_policy *policy;

	CHECK_EQUAL(test_shell("mkdir -p one/sub two three one-more && for i in one one/sub two three one-more; do echo x >$i/disk; done && "
			       "ln -sf ../three/disk one/out && ln -sf ../two/disk one/across && ln -sf ../three one/out-folder && "
			       "ln -sf one linked"), 0);
	policy = policy_of(test_path("one"), test_path("two"));
	CHECK(opens_and_closes(policy, test_path("one/disk"), O_RDONLY));
	CHECK(opens_and_closes(policy, test_path("one/sub/disk"), O_RDONLY));
	CHECK(opens_and_closes(policy, test_path("two/disk"), O_RDWR));
	CHECK(opens_and_closes(policy, test_path("two/new"), O_RDWR | O_CREAT));
	CHECK(opens_and_closes(policy, test_path("one/across"), O_RDONLY));
	CHECK(opens_and_closes(policy, test_path("linked/disk"), O_RDONLY));
	CHECK(opens_and_closes(policy, test_path("one/sub/../../two/disk"), O_RDONLY));
	CHECK(!opens_and_closes(policy, test_path("three/disk"), O_RDONLY));
	CHECK_ERROR(error, VB_ERROR_DENIED, "outside every allowed folder");
	CHECK(!opens_and_closes(policy, test_path("one-more/disk"), O_RDONLY));
	CHECK_EQUAL(error.kind, VB_ERROR_DENIED);
	CHECK(!opens_and_closes(policy, test_path("one/out"), O_RDONLY));
	CHECK_EQUAL(error.kind, VB_ERROR_DENIED);
	CHECK(!opens_and_closes(policy, test_path("one/out-folder/disk"), O_RDONLY));
	CHECK_EQUAL(error.kind, VB_ERROR_DENIED);
	CHECK(!opens_and_closes(policy, test_path("one/out-folder/new"), O_RDWR | O_CREAT));
	CHECK_EQUAL(error.kind, VB_ERROR_DENIED);
	CHECK(!opens_and_closes(policy, test_path("three/new"), O_RDWR | O_CREAT));
	CHECK_EQUAL(error.kind, VB_ERROR_DENIED);
	CHECK(access(test_path("three/new"), F_OK) < 0);
	CHECK(!opens_and_closes(policy, test_path("one/absent"), O_RDONLY));
	CHECK_EQUAL(error.system_errno, ENOENT);
	vb_policy_free(policy);
	policy = policy_of("/", NULL);
	CHECK(opens_and_closes(policy, test_path("three/disk"), O_RDONLY));
	vb_policy_free(policy);
}

static void test_folders_must_exist(void)
{
	const char *folders[] = { test_path("one"), test_path("nowhere") };

	CHECK(vb_policy_new(folders, 2, &error) == NULL);
	CHECK_EQUAL(error.kind, VB_ERROR_SYSTEM);
	CHECK_EQUAL(error.system_errno, ENOENT);
	folders[1] = test_path("one/disk");
	CHECK(vb_policy_new(folders, 2, &error) == NULL);
	CHECK_EQUAL(error.system_errno, ENOTDIR);
}

int main(void)
{
	RUN(test_record);
	RUN(test_create);
	RUN(test_kinds);
	RUN(test_folders);
	RUN(test_folders_must_exist);
	return 0;
}
