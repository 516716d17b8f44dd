/* SPDX-License-Identifier: Apache-2.0 */
/* The journal's file: what is read is what was written last and whole, whatever became of the write after it. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "journal.h"
#include "sys.h"

#define SECTOR_BYTES 512u
#define FILE_BYTES_MAX (512u * 1024)
#define WORDS 700u

struct content {
	uint64_t todo[WORDS];
	uint64_t written[WORDS];
	struct vb_digest_sum sum;
};

static struct vb_journal_identity an_identity(void)
{
	struct vb_journal_identity identity = {.kind = VB_JOURNAL_COPY, .granule_bytes = 65536, .virtual_size_bytes = 1 << 20};

	identity.layer_count = 2;
	identity.layers[1].inode = 77;
	identity.layers[1].head = vb_mark_of("head", 4);
	return identity;
}

static struct content some_content(unsigned long long seed)
{
	struct content content;

	for (size_t index = 0; index < WORDS; index++) {
		unsigned long long kind = test_random(&seed) % 4;

		content.todo[index] = kind == 0 ? test_random(&seed) : kind == 1 ? UINT64_MAX : 0;
		content.written[index] = index % 50 ? 0 : test_random(&seed);
	}
	content.sum.low = test_random(&seed);
	content.sum.high = test_random(&seed);
	return content;
}

static int write_content(struct vb_journal *journal, struct content *content, struct vb_error *error)
{
	struct vb_journal_state state = {content->sum, content->todo, WORDS, content->written, WORDS};

	return vb_journal_write(journal, &state, error);
}

/* What the journal at `place` says; returns as vb_journal_read, 0 also where there is no journal. */
static int read_content(const struct vb_journal_place *place, struct content *content)
{
	struct vb_error error = {0};
	struct vb_journal *journal;
	struct vb_journal_state state = {.todo = content->todo, .todo_count = WORDS, .written = content->written, .written_count = WORDS};
	int found = vb_journal_open(place, &journal, &error);

	CHECK_OK(found >= 0, error);
	if (found == 0)
		return 0;

	struct vb_journal_identity identity = an_identity();

	CHECK(memcmp(vb_journal_identity(journal), &identity, sizeof(identity)) == 0);
	found = vb_journal_read(journal, &state, &error);
	CHECK_OK(found >= 0, error);
	content->sum = state.sum;
	vb_journal_close(journal);
	return found;
}

static bool is_content(const struct content *left, const struct content *right)
{
	return memcmp(left->todo, right->todo, sizeof(left->todo)) == 0 && memcmp(left->written, right->written, sizeof(left->written)) == 0 &&
	       left->sum.low == right->sum.low && left->sum.high == right->sum.high;
}

static size_t load(const char *path, uint8_t *bytes)
{
	int fd = open(path, O_RDONLY);
	ssize_t length = read(fd, bytes, FILE_BYTES_MAX);

	CHECK(fd >= 0 && length >= 0);
	close(fd);
	return (size_t)length;
}

static void store(const char *path, const uint8_t *bytes, size_t length)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, bytes, length), length);
	close(fd);
}

static struct vb_journal *make(struct vb_journal_place *place)
{
	struct vb_error error = {0};
	struct vb_journal_identity identity = an_identity();
	struct vb_journal *journal;

	CHECK_OK(vb_journal_find_place(test_path("journal"), place, &error) == 0, error);
	journal = vb_journal_create(place, &identity, WORDS, WORDS, &error);
	CHECK_OK(journal != NULL, error);
	return journal;
}

static void runs_come_back(void)
{
	unsigned long long seed = 5;
	uint64_t words[300], again[300];
	uint8_t packed[300 * 9 + 20];

	for (int round = 0; round < 2000; round++) {
		size_t count = test_random(&seed) % 300, length;
		bool any, any_set;

		any = false;
		for (size_t index = 0; index < count; index++) {
			unsigned long long kind = test_random(&seed) % 3;

			words[index] = index && test_random(&seed) % 3 ? words[index - 1] : kind == 0 ? 0 : kind == 1 ? UINT64_MAX : test_random(&seed);
			any |= words[index] != 0;
		}
		length = vb_journal_pack(words, count, packed);
		CHECK(length <= vb_journal_packed_max(count));
		CHECK_EQUAL(vb_journal_unpack(packed, length, again, count, &any_set), length);
		CHECK(memcmp(words, again, count * sizeof(words[0])) == 0 && any == any_set);
		CHECK_EQUAL(vb_journal_unpack(packed, length, NULL, count, &any_set), length);
		CHECK(any == any_set);
		/* A list that is cut off is none. */
		if (length > 0)
			CHECK_EQUAL(vb_journal_unpack(packed, length - 1, again, count, &any_set), SIZE_MAX);
	}
}

static void newest_is_read(void)
{
	struct vb_journal_place place;
	struct vb_journal *journal = make(&place);
	struct vb_error error = {0};
	struct content found;

	CHECK_EQUAL(read_content(&place, &found), 0);
	for (unsigned round = 1; round < 8; round++) {
		struct content content = some_content(round);

		CHECK_OK(write_content(journal, &content, &error) == 0, error);
		CHECK_EQUAL(read_content(&place, &found), 1);
		CHECK(is_content(&found, &content));
	}
	vb_journal_close(journal);
	vb_journal_remove(&place);
	CHECK_EQUAL(read_content(&place, &found), 0);
	vb_journal_leave_place(&place);
}

/* A journal that was found is gone on with: numbers go on, so that the newest stays the newest. */
static void found_one_is_written_on(void)
{
	struct vb_journal_place place;
	struct vb_journal *journal = make(&place);
	struct vb_error error = {0};
	struct content found;

	for (unsigned round = 1; round < 6; round++) {
		struct content content = some_content(round);
		struct vb_journal_state state = {.todo = found.todo, .todo_count = WORDS, .written = found.written, .written_count = WORDS};
		bool is_complete;

		CHECK_OK(write_content(journal, &content, &error) == 0, error);
		vb_journal_close(journal);
		CHECK_EQUAL(vb_journal_open(&place, &journal, &error), 1);
		CHECK_EQUAL(vb_journal_read_end(journal, &found.sum, &is_complete, &error), 1);
		CHECK(!is_complete);
		CHECK_EQUAL(vb_journal_read(journal, &state, &error), 1);
		found.sum = state.sum;
		CHECK(is_content(&found, &content));
	}
	vb_journal_close(journal);
	vb_journal_leave_place(&place);
}

/* Of the third write any sectors may have reached the disk: then the second counts, or the third if all of it is there. */
static void torn_writes_leave_the_one_before(void)
{
	static uint8_t before[FILE_BYTES_MAX], after[FILE_BYTES_MAX], torn[FILE_BYTES_MAX];
	struct vb_journal_place place;
	struct vb_journal *journal = make(&place);
	struct vb_error error = {0};
	struct content second = some_content(2), third = some_content(3), first = some_content(1), found;
	unsigned long long seed = 9;

	CHECK_OK(write_content(journal, &first, &error) == 0 && write_content(journal, &second, &error) == 0, error);

	size_t before_bytes = load(place.path, before);

	CHECK_OK(write_content(journal, &third, &error) == 0, error);
	vb_journal_close(journal);

	size_t after_bytes = load(place.path, after);
	unsigned seconds = 0, thirds = 0;

	CHECK(before_bytes <= after_bytes);
	memset(before + before_bytes, 0, sizeof(before) - before_bytes);
	for (unsigned round = 0; round < 400; round++) {
		unsigned long long density = round < 20 ? 0 : round < 40 ? 100 : test_random(&seed) % 100;
		size_t length = test_random(&seed) % 2 ? after_bytes : before_bytes;

		for (size_t at = 0; at < after_bytes; at += SECTOR_BYTES)
			memcpy(torn + at, test_random(&seed) % 100 < density ? after + at : before + at, SECTOR_BYTES);
		store(place.path, torn, length);
		CHECK_EQUAL(read_content(&place, &found), 1);
		CHECK(is_content(&found, &second) || is_content(&found, &third));
		seconds += is_content(&found, &second);
		thirds += is_content(&found, &third);
		CHECK(is_content(&found, &second) || memcmp(torn, after, length) == 0);
	}
	CHECK(seconds > 100 && thirds > 0);
	vb_journal_leave_place(&place);
}

static void damaged_bytes_are_seen(void)
{
	static uint8_t bytes[FILE_BYTES_MAX];
	struct vb_journal_place place;
	struct vb_journal *journal = make(&place);
	struct vb_error error = {0};
	struct content content = some_content(4), found;

	CHECK_OK(write_content(journal, &content, &error) == 0, error);
	vb_journal_close(journal);

	size_t length = load(place.path, bytes);

	for (size_t at = 0; at < length; at += at < 400 ? 1 : 97) {
		bytes[at] ^= 0x10;
		store(place.path, bytes, length);
		/* The other slot's place and what a slot does not reach hold nothing that counts. */
		if (read_content(&place, &found) == 1)
			CHECK(is_content(&found, &content) && at >= 16384);
		bytes[at] ^= 0x10;
	}
	for (size_t cut = 0; cut < 16384; cut += 1000) {
		store(place.path, bytes, cut);
		CHECK_EQUAL(read_content(&place, &found), 0);
	}
	store(place.path, bytes, length - 1);
	CHECK_EQUAL(read_content(&place, &found), 0);
	vb_journal_leave_place(&place);
}

static bool sync_fails;

static int failing_fdatasync(int fd)
{
	if (!sync_fails)
		return fdatasync(fd);
	errno = EIO;
	return -1;
}

static void failed_sync_leaves_the_one_before(void)
{
	struct vb_journal_place place;
	struct vb_journal *journal = make(&place);
	struct vb_sys table = vb_sys_linux;
	struct vb_error error = {0};
	struct content first = some_content(1), second = some_content(2), third = some_content(3), found;

	table.fdatasync = failing_fdatasync;
	vb_sys = &table;
	sync_fails = false;
	CHECK_OK(write_content(journal, &first, &error) == 0, error);
	sync_fails = true;
	CHECK_EQUAL(write_content(journal, &second, &error), -1);
	CHECK_EQUAL(error.system_errno, EIO);
	sync_fails = false;
	/* The slot that failed is written again; the first one was never touched. */
	CHECK_OK(write_content(journal, &third, &error) == 0, error);
	CHECK_EQUAL(read_content(&place, &found), 1);
	CHECK(is_content(&found, &third));
	vb_sys = &vb_sys_linux;
	vb_journal_close(journal);
	vb_journal_leave_place(&place);
}

static void other_counts_are_refused(void)
{
	struct vb_journal_place place;
	struct vb_journal *journal = make(&place);
	struct vb_error error = {0};
	struct content content = some_content(1);
	struct vb_journal_state state = {.todo = content.todo, .todo_count = WORDS - 1, .written = content.written, .written_count = WORDS};

	CHECK_OK(write_content(journal, &content, &error) == 0, error);
	vb_journal_close(journal);
	CHECK_EQUAL(vb_journal_open(&place, &journal, &error), 1);
	CHECK_EQUAL(vb_journal_read(journal, &state, &error), -1);
	CHECK_ERROR(error, VB_ERROR_FORMAT, "words");
	vb_journal_close(journal);
	vb_journal_leave_place(&place);
}

/* The bits of a disk of 16 TiB with little to do. */
static void sparse_bits_take_little_room(void)
{
	static uint64_t todo[1u << 20];
	struct vb_journal_place place;
	struct vb_error error = {0};
	struct vb_journal_identity identity = an_identity();
	struct vb_journal_state state = {.todo = todo, .todo_count = 1u << 20};
	struct stat status;

	for (size_t index = 0; index < 1000; index++)
		todo[index * 1001] = 1ull << (index % 64);
	CHECK_OK(vb_journal_find_place(test_path("sparse"), &place, &error) == 0, error);

	struct vb_journal *journal = vb_journal_create(&place, &identity, state.todo_count, 0, &error);

	for (unsigned round = 0; round < 4; round++)
		CHECK_OK(journal != NULL && vb_journal_write(journal, &state, &error) == 0, error);
	CHECK_EQUAL(stat(place.path, &status), 0);
	CHECK(status.st_blocks * 512 < 128 * 1024);
	vb_journal_close(journal);
	vb_journal_leave_place(&place);
}

/* What is no file is no journal, and a link is not followed. */
static void only_files_are_opened(void)
{
	struct vb_journal_place place;
	struct vb_journal *journal = NULL;
	struct vb_error error = {0};

	CHECK_OK(vb_journal_find_place(test_path("strange"), &place, &error) == 0, error);
	CHECK_EQUAL(mkfifo(place.path, 0600), 0);
	CHECK_EQUAL(vb_journal_open(&place, &journal, &error), -1);
	CHECK_ERROR(error, VB_ERROR_FORMAT, "not a file");
	CHECK_EQUAL(unlink(place.path), 0);
	CHECK_EQUAL(symlink("journal", place.path), 0);
	CHECK_EQUAL(vb_journal_open(&place, &journal, &error), -1);
	CHECK_EQUAL(error.system_errno, ELOOP);
	vb_journal_leave_place(&place);
	CHECK_EQUAL(vb_journal_find_place(test_path("none/journal"), &place, &error), -1);
	CHECK_EQUAL(error.system_errno, ENOENT);
}

int main(void)
{
	RUN(runs_come_back);
	RUN(newest_is_read);
	RUN(found_one_is_written_on);
	RUN(torn_writes_leave_the_one_before);
	RUN(damaged_bytes_are_seen);
	RUN(failed_sync_leaves_the_one_before);
	RUN(other_counts_are_refused);
	RUN(sparse_bits_take_little_room);
	RUN(only_files_are_opened);
	return 0;
}
