/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A journal that somebody tampered with. The input: one byte of flags, two each for the words of granules and of the writer, two for
 * the number of patches; patches of two bytes place and one byte value; then slot 0 and slot 1, each two bytes of length before its payload.
 * Slots carry right checksums unless a flag says otherwise, so that what lies behind the checksum is reached.
 * Demanded: what is accepted fills exactly the caller's words and is written and read again the same; what is refused is told.
 */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "journal.h"
#include "memory_files.h"
#include "oracle.h"
#include "sys.h"

#define CONTROL_BYTES 7u
#define HEADER_BYTES 16384u
#define SLOT_HEAD_BYTES 24u
#define WORD_COUNT_MAX 512u
#define FLAG_BAD_CHECKSUM 1u
#define FLAG_HEADER_REPAIRED 2u
#define FLAG_OTHER_COUNTS 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
	const uint8_t *at;
	size_t left;
};

static unsigned take_u16(struct input *input)
{
	unsigned value = 0;

	if (input->left < 2) {
		input->left = 0;
		return 0;
	}
	value = input->at[0] | (unsigned)input->at[1] << 8;
	input->at += 2;
	input->left -= 2;
	return value;
}

static void put_u64(uint8_t *at, uint64_t value)
{
	for (int byte = 0; byte < 8; byte++)
		at[byte] = (uint8_t)(value >> (byte * 8));
}

static uint64_t get_u64(const uint8_t *at)
{
	uint64_t value = 0;

	for (int byte = 0; byte < 8; byte++)
		value |= (uint64_t)at[byte] << (byte * 8);
	return value;
}

static size_t slot_room(size_t todo_count, size_t written_count)
{
	size_t bytes = SLOT_HEAD_BYTES + 16 + vb_journal_packed_max(todo_count) + vb_journal_packed_max(written_count);

	return (bytes + 4095) / 4096 * 4096;
}

static void put_slot(uint8_t *slot, size_t room, uint64_t number, struct input *input, uint64_t header_checksum, bool is_bad)
{
	size_t length = take_u16(input);

	if (length > input->left)
		length = input->left;
	if (length > room - SLOT_HEAD_BYTES)
		length = room - SLOT_HEAD_BYTES;
	memcpy(slot + SLOT_HEAD_BYTES, input->at, length);
	input->at += length;
	input->left -= length;
	put_u64(slot, number);
	put_u64(slot + 8, length);
	put_u64(slot + 16, XXH3_64bits_withSeed(slot + SLOT_HEAD_BYTES, length, XXH3_64bits_withSeed(slot, 16, header_checksum)) + is_bad);
}

/* A journal of the core's own making, for its header; returns its length. */
static void make_header(uint8_t header[HEADER_BYTES], size_t todo_count, size_t written_count, const struct vb_journal_place *place)
{
	struct vb_journal_identity identity = { .kind = VB_JOURNAL_COPY, .granule_bytes = 65536, .layer_count = 2 };
	struct vb_error error = { 0 };
	struct vb_file file;
	struct vb_journal *journal = vb_journal_create(place, &identity, todo_count, written_count, &error);

	REQUIRE(journal != NULL);
	vb_journal_close(journal);
	file = memory_files_open();
	REQUIRE(vb_pread_exact(file.fd, "image", header, HEADER_BYTES, 0, &error) == 0);
	vb_file_close(&file);
}

static void require_again(struct vb_journal *journal, const struct vb_journal_place *place, struct vb_journal_state *state)
{
	struct vb_journal_state again = *state;
	struct vb_error error = { 0 };

	again.todo = calloc(state->todo_count + 1, sizeof(uint64_t));
	again.written = calloc(state->written_count + 1, sizeof(uint64_t));
	REQUIRE(again.todo != NULL && again.written != NULL);
	REQUIRE(vb_journal_write(journal, state, &error) == 0);
	vb_journal_close(journal);
	REQUIRE(vb_journal_open(place, &journal, &error) == 1);
	REQUIRE(vb_journal_read(journal, &again, &error) == 1);
	REQUIRE(memcmp(again.todo, state->todo, state->todo_count * 8) == 0);
	REQUIRE(memcmp(again.written, state->written, state->written_count * 8) == 0);
	REQUIRE(again.sum.low == state->sum.low && again.sum.high == state->sum.high);
	free(again.todo);
	free(again.written);
	vb_journal_close(journal);
}

static void read_journal(const struct vb_journal_place *place, size_t todo_count, size_t written_count)
{
	struct vb_journal_state state = { .todo_count = todo_count, .written_count = written_count };
	struct vb_error error = { 0 };
	struct vb_digest_sum sum;
	struct vb_journal *journal;
	bool is_complete;
	int result = vb_journal_open(place, &journal, &error);

	if (result < 0)
		require_refusal(&error);
	if (result != 1)
		return;
	REQUIRE(vb_journal_identity(journal)->layer_count <= VB_CHAIN_DEPTH_MAX);
	/* Of exactly the caller's size, so that a word too many is seen. */
	state.todo = malloc(todo_count * 8 + (todo_count == 0));
	state.written = malloc(written_count * 8 + (written_count == 0));
	REQUIRE(state.todo != NULL && state.written != NULL);
	if (vb_journal_read_end(journal, &sum, &is_complete, &error) < 0)
		require_refusal(&error);
	result = vb_journal_read(journal, &state, &error);
	if (result < 0)
		require_refusal(&error);
	if (result == 1)
		require_again(journal, place, &state);
	else
		vb_journal_close(journal);
	free(state.todo);
	free(state.written);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data + 1, size - 1 };
	struct vb_journal_place place;
	struct vb_error error = { 0 };
	size_t todo_count, written_count, room, patch_count;
	uint64_t checksum;
	uint8_t *file;

	if (size < CONTROL_BYTES)
		return 0;
	todo_count = take_u16(&input) % WORD_COUNT_MAX;
	written_count = take_u16(&input) % WORD_COUNT_MAX;
	patch_count = take_u16(&input) % 16;
	room = slot_room(todo_count, written_count);
	file = calloc(1, HEADER_BYTES + 2 * room);
	REQUIRE(file != NULL);
	memory_files_start(data, 0);
	REQUIRE(vb_journal_find_place("/disk/image", &place, &error) == 0);
	make_header(file, todo_count, written_count, &place);
	for (; patch_count > 0 && input.left >= 3; patch_count--, input.at++, input.left--) {
		unsigned place_bytes = take_u16(&input) % HEADER_BYTES;

		file[place_bytes] = *input.at;
	}
	checksum = XXH3_64bits(file, HEADER_BYTES - 8);
	if (data[0] & FLAG_HEADER_REPAIRED)
		put_u64(file + HEADER_BYTES - 8, checksum);
	checksum = get_u64(file + HEADER_BYTES - 8);
	put_slot(file + HEADER_BYTES, room, 4, &input, checksum, data[0] & FLAG_BAD_CHECKSUM);
	put_slot(file + HEADER_BYTES + room, room, 3, &input, checksum, false);
	vb_journal_leave_place(&place);
	memory_files_end();
	memory_files_start(file, HEADER_BYTES + 2 * room);
	free(file);
	REQUIRE(vb_journal_find_place("/disk/image", &place, &error) == 0);
	read_journal(&place, todo_count + ((data[0] & FLAG_OTHER_COUNTS) != 0), written_count);
	vb_journal_leave_place(&place);
	memory_files_end();
	return 0;
}
