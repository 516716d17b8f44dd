/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing chains: equal content in unlike images, the first difference to the byte, sizes with and without padding, cancelling. */
#include <fcntl.h>
#include <unistd.h>

#include "chain_content.h"
#include "check.h"
#include "copy.h"

static struct vb_error error;

static int compare(const char *left, enum vb_format left_format, const char *right, enum vb_format right_format, bool pad, uint64_t *offset)
{
	struct vb_chain *chains[2] = { open_chain(test_path("%s", left), left_format, &error),
				       open_chain(test_path("%s", right), right_format, &error) };
	int result;

	CHECK_OK(chains[0] != NULL && chains[1] != NULL, error);
	error = (struct vb_error){ 0 };
	result = vb_compare(chains[0], chains[1], pad, offset, NULL, &error);
	vb_chain_close(chains[0]);
	vb_chain_close(chains[1]);
	return result;
}

static void poke(const char *path, uint64_t at, uint8_t value)
{
	int fd = open(test_path("%s", path), O_WRONLY);

	CHECK_EQUAL(pwrite(fd, &value, 1, (off_t)at), 1);
	close(fd);
}

static void make_images(void)
{
	CHECK_EQUAL(test_shell("python3 -c \"import random; r = random.Random(1); f = open('a.raw', 'wb'); f.seek(300000); f.write(r.randbytes(500000)); "
			       "f.seek(2 << 20); f.write(b'text' * 100000); f.truncate(4 << 20)\" && "
			       "qemu-img convert -f raw -O qcow2 -c -o cluster_size=2M a.raw packed.qcow2 && "
			       "qemu-img convert -f raw -O qcow2 -o cluster_size=512 a.raw small.qcow2 && "
			       "qemu-img create -q -f qcow2 -b small.qcow2 -F qcow2 over.qcow2 && "
			       "qemu-io -f qcow2 -c 'write -z 0 64k' over.qcow2 >/dev/null && cp a.raw b.raw && cp a.raw longer.raw && truncate -s 6M longer.raw"),
		    0);
}

static void test_equal(void)
{
	const char *images[] = { "packed.qcow2", "small.qcow2", "over.qcow2" };
	uint64_t offset;

	for (int i = 0; i < 3; i++) {
		CHECK_EQUAL(compare("a.raw", VB_FORMAT_RAW, images[i], VB_FORMAT_QCOW2, false, &offset), 1);
		for (int j = 0; j < 3; j++)
			CHECK_EQUAL(compare(images[i], VB_FORMAT_QCOW2, images[j], VB_FORMAT_QCOW2, false, &offset), 1);
	}
}

static void test_difference(void)
{
	const uint64_t places[] = { 0, 4095, 299999, 300000, 524288, 799999, 2097152, 4194303 };
	uint64_t offset;

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		uint8_t kept = 0;
		int fd = open(test_path("b.raw"), O_RDONLY);

		CHECK_EQUAL(pread(fd, &kept, 1, (off_t)places[i]), 1);
		close(fd);
		poke("b.raw", places[i], (uint8_t)(kept + 1));
		CHECK_EQUAL(compare("b.raw", VB_FORMAT_RAW, "over.qcow2", VB_FORMAT_QCOW2, false, &offset), 0);
		CHECK_EQUAL(offset, places[i]);
		CHECK_EQUAL(compare("packed.qcow2", VB_FORMAT_QCOW2, "b.raw", VB_FORMAT_RAW, true, &offset), 0);
		CHECK_EQUAL(offset, places[i]);
		poke("b.raw", places[i], kept);
	}
	CHECK_EQUAL(compare("b.raw", VB_FORMAT_RAW, "over.qcow2", VB_FORMAT_QCOW2, false, &offset), 1);
}

static void test_sizes(void)
{
	uint64_t offset;

	CHECK_EQUAL(compare("longer.raw", VB_FORMAT_RAW, "a.raw", VB_FORMAT_RAW, false, &offset), -1);
	CHECK_ERROR(error, VB_ERROR_SIZE, "6291456 and 4194304");
	CHECK_EQUAL(compare("longer.raw", VB_FORMAT_RAW, "a.raw", VB_FORMAT_RAW, true, &offset), 1);
	CHECK_EQUAL(compare("a.raw", VB_FORMAT_RAW, "longer.raw", VB_FORMAT_RAW, true, &offset), 1);
	poke("longer.raw", 5000000, 1);
	CHECK_EQUAL(compare("a.raw", VB_FORMAT_RAW, "longer.raw", VB_FORMAT_RAW, true, &offset), 0);
	CHECK_EQUAL(offset, 5000000);
}

static void test_cancel(void)
{
	struct vb_chain *chain = open_chain(test_path("a.raw"), VB_FORMAT_RAW, &error);
	const bool cancelled = true;
	uint64_t offset;

	CHECK_EQUAL(vb_compare(chain, chain, false, &offset, &cancelled, &error), -1);
	CHECK_ERROR(error, VB_ERROR_CANCELLED, "Cancelled");
	vb_chain_close(chain);
}

int main(void)
{
	RUN(make_images);
	RUN(test_equal);
	RUN(test_difference);
	RUN(test_sizes);
	RUN(test_cancel);
	return 0;
}
