/* SPDX-License-Identifier: Apache-2.0 */
/* Opening chains: which files are followed, in which format, and every reason to refuse, with kind, path and words. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "image_builder.h"
#include "qcow2.h"

#define SIZE_BYTES (256u * 1024)
#define CLUSTER 65536u

static struct vb_error error;

/* An image whose cluster `mark` is full of the byte `mark` + 1. */
static void make_image(const char *name, const char *below, const char *format, uint8_t mark)
{
	static uint8_t content[CLUSTER];
	struct builder builder;

	builder_start(&builder, test_path("%s", name), 3, 16, SIZE_BYTES);
	builder.backing_name = below;
	builder.backing_format = format;
	memset(content, mark + 1, sizeof(content));
	builder_put_data(&builder, mark, content);
	builder_finish(&builder);
}

static void make_raw(const char *name, uint8_t value)
{
	static uint8_t content[SIZE_BYTES];
	int fd = open(test_path("%s", name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	memset(content, value, sizeof(content));
	CHECK_EQUAL(write(fd, content, sizeof(content)), sizeof(content));
	close(fd);
}

/* Opens by specs of names (relative to the test's folder) and formats, under a policy of one folder or none. */
static struct vb_chain *open_specs(const char *folder, const char *const *names, const enum vb_format *formats, size_t count,
				   bool terminated)
{
	struct vb_policy *policy;
	struct vb_layer_spec specs[8];
	struct vb_chain *chain;

	error = (struct vb_error){ 0 };
	policy = vb_policy_new(&folder, folder != NULL ? 1 : 0, &error);
	CHECK_OK(policy != NULL, error);
	for (size_t i = 0; i < count; i++)
		specs[i] = (struct vb_layer_spec){ .path = test_path("%s", names[i]), .format = formats[i] };
	chain = vb_chain_open(policy, specs, count, terminated, VB_LOCK_READER, &error);
	vb_policy_free(policy);
	return chain;
}

static struct vb_chain *open_top(const char *name)
{
	const enum vb_format format = VB_FORMAT_QCOW2;

	return open_specs(NULL, &name, &format, 1, false);
}

static void check_open_top(const char *name, size_t depth)
{
	struct vb_chain *chain = open_top(name);

	CHECK_OK(chain != NULL, error);
	CHECK_EQUAL(vb_chain_depth(chain), depth);
	vb_chain_close(chain);
}

static void check_refused_top(const char *name, enum vb_error_kind kind, const char *path, const char *words)
{
	CHECK(open_top(name) == NULL);
	CHECK_ERROR(error, kind, words);
	CHECK(strcmp(error.path, test_path("%s", path)) == 0);
}

static void test_follows_headers(void)
{
	struct vb_chain *chain;
	uint8_t *content;

	make_raw("bottom.raw", 9);
	make_image("middle", "bottom.raw", "raw", 0);
	make_image("top", test_path("middle"), "qcow2", 1);
	chain = open_top("top");
	CHECK_OK(chain != NULL, error);
	CHECK_EQUAL(vb_chain_depth(chain), 3);
	CHECK_EQUAL(vb_layer_info(vb_chain_layer(chain, 2))->format, VB_FORMAT_RAW);
	content = read_chain(chain, &error);
	CHECK_OK(content != NULL, error);
	CHECK_EQUAL(content[0], 1);
	CHECK_EQUAL(content[CLUSTER], 2);
	CHECK_EQUAL(content[2 * CLUSTER], 9);
	free(content);
	vb_chain_close(chain);
}

static void test_terminated(void)
{
	const char *names[] = { "top", "middle" };
	const enum vb_format formats[] = { VB_FORMAT_QCOW2, VB_FORMAT_QCOW2 };
	struct vb_chain *chain = open_specs(NULL, names, formats, 2, true);
	uint8_t *content;

	CHECK_OK(chain != NULL, error);
	CHECK_EQUAL(vb_chain_depth(chain), 2);
	content = read_chain(chain, &error);
	CHECK_OK(content != NULL, error);
	CHECK_EQUAL(content[2 * CLUSTER], 0);
	free(content);
	vb_chain_close(chain);
	chain = open_specs(NULL, names, formats, 2, false);
	CHECK_OK(chain != NULL, error);
	CHECK_EQUAL(vb_chain_depth(chain), 3);
	vb_chain_close(chain);
}

static void test_names(void)
{
	make_image("strip", "file:bottom.raw", "raw", 0);
	check_open_top("strip", 2);
	CHECK_EQUAL(test_shell("mkdir -p sub/deeper && cp bottom.raw 'sub/with:colon'"), 0);
	make_image("sub/colon", "./with:colon", "raw", 0);
	check_open_top("sub/colon", 2);
	make_image("sub/up", "../bottom.raw", "raw", 0);
	check_open_top("sub/up", 2);
	/* Through a link, names resolve from where the link is, as QEMU does. */
	CHECK_EQUAL(test_shell("ln -sf ../up sub/deeper/up && ln -sf sub/colon outside"), 0);
	CHECK(open_top("sub/deeper/up") == NULL);
	CHECK_ERROR(error, VB_ERROR_BACKING, "missing");
	CHECK_EQUAL(test_shell("! qemu-img convert -f qcow2 -O raw sub/deeper/up x.raw 2>/dev/null"), 0);
	CHECK_EQUAL(test_shell("! qemu-img convert -f qcow2 -O raw outside x.raw 2>/dev/null"), 0);
	CHECK(open_top("outside") == NULL);

	make_image("nbd", "nbd://localhost:1/x", "raw", 0);
	check_refused_top("nbd", VB_ERROR_DENIED, "nbd", "protocol");
	make_image("json", "json:{\"driver\":\"raw\",\"file\":{\"filename\":\"/etc/shadow\"}}", "raw", 0);
	check_refused_top("json", VB_ERROR_DENIED, "json", "protocol");
	make_image("nested", "file:json:{}", "raw", 0);
	check_refused_top("nested", VB_ERROR_DENIED, "nested", "protocol");
}

static void test_missing(void)
{
	make_image("orphan", "gone.qcow2", "qcow2", 0);
	check_refused_top("orphan", VB_ERROR_BACKING, "gone.qcow2", "missing");
	CHECK_EQUAL(error.system_errno, ENOENT);
	CHECK(strstr(error.message, test_path("orphan")) != NULL);
	make_image("orphan", "no-folder/gone.qcow2", "qcow2", 0);
	check_refused_top("orphan", VB_ERROR_BACKING, "no-folder/gone.qcow2", "missing");
	make_image("orphan", "bottom.raw/gone.qcow2", "qcow2", 0);
	check_refused_top("orphan", VB_ERROR_BACKING, "bottom.raw/gone.qcow2", "missing");
	CHECK_EQUAL(test_shell("ln -sf nowhere dangling"), 0);
	make_image("orphan", "dangling", "qcow2", 0);
	check_refused_top("orphan", VB_ERROR_BACKING, "dangling", "missing");
	/* The top itself is no backing file. */
	check_refused_top("gone.qcow2", VB_ERROR_SYSTEM, "gone.qcow2", "Cannot open");
	CHECK_EQUAL(error.system_errno, ENOENT);
}

static void test_formats(void)
{
	make_image("unsaid", "bottom.raw", NULL, 0);
	check_refused_top("unsaid", VB_ERROR_BACKING_FORMAT, "unsaid", "not recorded");
	make_image("vmdk", "bottom.raw", "vmdk", 0);
	check_refused_top("vmdk", VB_ERROR_UNSUPPORTED, "vmdk", "\"vmdk\"");
	make_image("wrong", "bottom.raw", "qcow2", 0);
	check_refused_top("wrong", VB_ERROR_FORMAT, "bottom.raw", "not in qcow2 format");
	CHECK(strstr(error.message, test_path("wrong")) != NULL);
	/* A qcow2 image under the format raw is bytes, never followed. */
	make_image("blind", "top", "raw", 0);
	check_open_top("blind", 2);
}

/* The definition's format counts where the image recorded none. */
static void test_specs(void)
{
	const enum vb_format formats[] = { VB_FORMAT_QCOW2, VB_FORMAT_RAW, VB_FORMAT_RAW };
	const char *names[] = { "unsaid", "bottom.raw", "bottom.raw" };
	struct vb_chain *chain = open_specs(NULL, names, formats, 2, false);

	CHECK_OK(chain != NULL, error);
	vb_chain_close(chain);
	CHECK_EQUAL(test_shell("ln -f bottom.raw other-name.raw && ln -sf bottom.raw soft.raw && cp bottom.raw copy.raw"), 0);
	names[1] = "other-name.raw";
	chain = open_specs(NULL, names, formats, 2, false);
	CHECK_OK(chain != NULL, error);
	vb_chain_close(chain);
	names[1] = "soft.raw";
	chain = open_specs(NULL, names, formats, 2, false);
	CHECK_OK(chain != NULL, error);
	vb_chain_close(chain);
	names[1] = "copy.raw";
	CHECK(open_specs(NULL, names, formats, 2, false) == NULL);
	CHECK_ERROR(error, VB_ERROR_BACKING, "another file");
	names[1] = "bottom.raw";
	CHECK(open_specs(NULL, names, formats, 3, false) == NULL);
	CHECK_ERROR(error, VB_ERROR_BACKING, "records no backing file");
	names[1] = "absent.raw";
	CHECK(open_specs(NULL, names, formats, 2, false) == NULL);
	CHECK_ERROR(error, VB_ERROR_BACKING, "missing");
	CHECK(open_specs(NULL, names, formats, 0, false) == NULL);
	CHECK_ERROR(error, VB_ERROR_INVALID, "top image");
}

static void test_loops_and_depth(void)
{
	make_image("self", "self", "qcow2", 0);
	check_refused_top("self", VB_ERROR_BACKING, "self", "loop");
	make_image("a", "b", "qcow2", 0);
	make_image("b", "c", "qcow2", 0);
	make_image("c", "a", "qcow2", 0);
	check_refused_top("a", VB_ERROR_BACKING, "a", "loop");
	CHECK_EQUAL(test_shell("ln -f a hard-link"), 0);
	make_image("c", "hard-link", "qcow2", 0);
	check_refused_top("a", VB_ERROR_BACKING, "hard-link", "loop");
	for (unsigned i = 0; i <= VB_CHAIN_DEPTH_MAX; i++) {
		char name[16], below[16];

		snprintf(name, sizeof(name), "deep-%u", i);
		snprintf(below, sizeof(below), "deep-%u", i - 1);
		make_image(name, i == 0 ? NULL : below, i == 0 ? NULL : "qcow2", (uint8_t)(i % 4));
	}
	check_open_top("deep-199", VB_CHAIN_DEPTH_MAX);
	check_refused_top("deep-200", VB_ERROR_BACKING, "deep-0", "deeper than 200");
}

static void test_policy_holds_for_backing_files(void)
{
	const enum vb_format formats[] = { VB_FORMAT_QCOW2, VB_FORMAT_RAW };
	const char *names[] = { "jail/top", "secret" };
	struct vb_chain *chain;

	CHECK_EQUAL(test_shell("mkdir -p jail && cp bottom.raw secret && cp bottom.raw jail/inside && ln -sf ../secret jail/link"), 0);
	make_image("jail/top", "inside", "raw", 0);
	chain = open_specs(test_path("jail"), names, formats, 1, false);
	CHECK_OK(chain != NULL, error);
	vb_chain_close(chain);
	make_image("jail/top", "../secret", "raw", 0);
	CHECK(open_specs(test_path("jail"), names, formats, 1, false) == NULL);
	CHECK_ERROR(error, VB_ERROR_DENIED, "outside every allowed folder");
	CHECK(strstr(error.message, "jail/top") != NULL);
	make_image("jail/top", "link", "raw", 0);
	CHECK(open_specs(test_path("jail"), names, formats, 1, false) == NULL);
	CHECK_ERROR(error, VB_ERROR_DENIED, "outside every allowed folder");
	/* Not even when the definition names it too. */
	CHECK(open_specs(test_path("jail"), names, formats, 2, false) == NULL);
	CHECK_ERROR(error, VB_ERROR_DENIED, "outside");
	make_image("jail/top", "/dev/null", "raw", 0);
	CHECK(open_top("jail/top") == NULL);
	CHECK_ERROR(error, VB_ERROR_DENIED, "character device");
	CHECK(strcmp(error.path, "/dev/null") == 0);
}

int main(void)
{
	RUN(test_follows_headers);
	RUN(test_terminated);
	RUN(test_names);
	RUN(test_missing);
	RUN(test_formats);
	RUN(test_specs);
	RUN(test_loops_and_depth);
	RUN(test_policy_holds_for_backing_files);
	return 0;
}
