/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal's file. Owns: its form, see journal.h:
 *
 *   0      header: magic, the counts of words, the identity, its layers; the last 8 bytes of 16 KiB are XXH3_64 of those before
 *   16 KiB slot 0, then slot 1, each with room for the worst case; what was not written is a hole
 *
 * A slot: number, length, XXH3_64 (seeded with the header's) of both and of the payload, payload. Numbers grow by one and their parity
 * is the slot, so a new one never overwrites the newest whole one. All values are 8 bytes, low ones first.
 */
#include "journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "sys.h"

#define MAGIC 0x31306c6e726a4256ull   /* "VBjrnl01" */
#define HEADER_BYTES (16u * 1024)
#define SLOT_HEAD_BYTES 24u
#define SUM_BYTES 16u
#define SLOT_ALIGNMENT 4096u
#define WORD_COUNT_MAX (1ull << 30)   /* 8 GiB of bits: far above what any disk has; keeps sums of lengths inside 64 bits */

struct vb_journal {
	const struct vb_journal_place *place;
	int fd;
	uint64_t todo_count;
	uint64_t written_count;
	struct vb_journal_identity identity;
	uint64_t header_checksum;
	uint64_t number;      /* of the newest whole slot; 0: none */
	uint8_t *slot;        /* one slot in the making, or as it was read */
	size_t slot_bytes;    /* room in `slot` */
	bool is_searched;     /* `number` and `slot` are what the file holds */
};

struct vb_mark vb_mark_of(const void *bytes, size_t length)
{
	XXH128_hash_t hash = XXH3_128bits(bytes, length);

	return (struct vb_mark){hash.low64, hash.high64};
}

static void put_u64(uint8_t **at, uint64_t value)
{
	for (int byte = 0; byte < 8; byte++)
		*(*at)++ = (uint8_t)(value >> (byte * 8));
}

static uint64_t get_u64(const uint8_t **at)
{
	uint64_t value = 0;

	for (int byte = 0; byte < 8; byte++)
		value |= (uint64_t)*(*at)++ << (byte * 8);
	return value;
}

static size_t payload_bytes_max(const struct vb_journal *journal)
{
	return SUM_BYTES + vb_journal_packed_max(journal->todo_count) + vb_journal_packed_max(journal->written_count);
}

static uint64_t slot_offset(const struct vb_journal *journal, uint64_t number)
{
	uint64_t room = (SLOT_HEAD_BYTES + payload_bytes_max(journal) + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;

	return HEADER_BYTES + number % 2 * room;
}

/* One list of the header's values serves both ways. */
static void visit_identity(struct vb_journal_identity *identity, void (*visit)(uint8_t **at, uint64_t *value), uint8_t **at)
{
	uint64_t *fields[] = {
		&identity->kind,        &identity->granule_bytes, &identity->virtual_size_bytes, &identity->has_digest,
		&identity->options.low, &identity->options.high,  &identity->plan.low,           &identity->plan.high,
		&identity->destination_device, &identity->destination_inode, &identity->layer_count,
	};

	for (size_t index = 0; index < sizeof(fields) / sizeof(fields[0]); index++)
		visit(at, fields[index]);
	for (size_t index = 0; index < VB_CHAIN_DEPTH_MAX; index++) {
		struct vb_journal_layer *layer = &identity->layers[index];

		visit(at, &layer->inode);
		visit(at, &layer->size_bytes);
		visit(at, &layer->modified_ns);
		visit(at, &layer->head.low);
		visit(at, &layer->head.high);
		visit(at, &layer->data_file.low);
		visit(at, &layer->data_file.high);
	}
}

static void put_field(uint8_t **at, uint64_t *value)
{
	put_u64(at, *value);
}

static void get_field(uint8_t **at, uint64_t *value)
{
	*value = get_u64((const uint8_t **)at);
}

static void fill_header(struct vb_journal *journal, uint8_t header[HEADER_BYTES])
{
	uint8_t *at = header;

	memset(header, 0, HEADER_BYTES);
	put_u64(&at, MAGIC);
	put_u64(&at, journal->todo_count);
	put_u64(&at, journal->written_count);
	visit_identity(&journal->identity, put_field, &at);
	journal->header_checksum = XXH3_64bits(header, HEADER_BYTES - 8);
	at = header + HEADER_BYTES - 8;
	put_u64(&at, journal->header_checksum);
}

/* False where the header is not whole. */
static bool parse_header(struct vb_journal *journal, uint8_t header[HEADER_BYTES])
{
	const uint8_t *read_at = header, *checksum_at = header + HEADER_BYTES - 8;
	uint64_t magic = get_u64(&read_at);

	journal->header_checksum = get_u64(&checksum_at);
	if (magic != MAGIC || journal->header_checksum != XXH3_64bits(header, HEADER_BYTES - 8))
		return false;
	journal->todo_count = get_u64(&read_at);
	journal->written_count = get_u64(&read_at);

	uint8_t *at = header + (read_at - header);

	visit_identity(&journal->identity, get_field, &at);
	return journal->todo_count <= WORD_COUNT_MAX && journal->written_count <= WORD_COUNT_MAX &&
	       journal->identity.layer_count <= VB_CHAIN_DEPTH_MAX;
}

int vb_journal_find_place(const char *path, struct vb_journal_place *place, struct vb_error *error)
{
	const char *slash = strrchr(path, '/');
	char *copy = strdup(path);
	char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	int result = -1;

	*place = (struct vb_journal_place){.folder_fd = -1};
	if (!copy || !folder) {
		vb_fail(error, VB_ERROR_MEMORY, 0, path, -1, "No memory for the journal's name");
	} else if (!*path || (slash && !slash[1])) {
		vb_fail(error, VB_ERROR_INVALID, 0, path, -1, "The journal has no name");
	} else {
		place->folder_fd = vb_sys->openat(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
		result = place->folder_fd >= 0 ? 0 : vb_fail(error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot open the journal's folder");
	}
	free(folder);
	if (result) {
		free(copy);
		return -1;
	}
	place->path = copy;
	place->name = copy + (slash ? slash - path + 1 : 0);
	return 0;
}

void vb_journal_leave_place(struct vb_journal_place *place)
{
	if (!place->path)
		return;
	vb_sys->close(place->folder_fd);
	free(place->path);
	*place = (struct vb_journal_place){.folder_fd = -1};
}

int vb_journal_find_file(const struct vb_journal_place *place, struct vb_file *found, struct vb_error *error)
{
	int fd = vb_sys->openat(place->folder_fd, place->name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	struct stat status;
	int result;

	if (fd < 0)
		return errno == ENOENT ? 0 : vb_fail(error, VB_ERROR_SYSTEM, errno, place->path, -1, "Cannot open the journal");
	result = vb_sys->fstat(fd, &status) == 0 ? 1 : vb_fail(error, VB_ERROR_SYSTEM, errno, place->path, -1, "Cannot read the journal's status");
	vb_sys->close(fd);
	if (result == 1 && !S_ISREG(status.st_mode))
		return vb_fail(error, VB_ERROR_FORMAT, 0, place->path, -1, "The journal is not a file");
	if (result == 1)
		*found = (struct vb_file){.fd = -1, .folder_fd = -1, .device = status.st_dev, .inode = status.st_ino};
	return result;
}

void vb_journal_remove(const struct vb_journal_place *place)
{
	vb_sys->unlinkat(place->folder_fd, place->name, 0);
}

static struct vb_journal *allocate(const struct vb_journal_place *place, struct vb_error *error)
{
	struct vb_journal *journal = calloc(1, sizeof(*journal));

	if (!journal) {
		vb_fail(error, VB_ERROR_MEMORY, 0, place->path, -1, "No memory for the journal");
		return NULL;
	}
	journal->place = place;
	journal->fd = -1;
	return journal;
}

void vb_journal_close(struct vb_journal *journal)
{
	if (!journal)
		return;
	if (journal->fd >= 0)
		vb_sys->close(journal->fd);
	free(journal->slot);
	free(journal);
}

static int make_file(struct vb_journal *journal, struct vb_error *error)
{
	const struct vb_journal_place *place = journal->place;
	uint8_t *header = malloc(HEADER_BYTES);
	int result;

	if (!header)
		return vb_fail(error, VB_ERROR_MEMORY, 0, place->path, -1, "No memory for the journal");
	vb_journal_remove(place);
	journal->fd = vb_sys->openat(place->folder_fd, place->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (journal->fd < 0)
		result = vb_fail(error, VB_ERROR_SYSTEM, errno, place->path, -1, "Cannot make the journal");
	else {
		fill_header(journal, header);
		result = vb_pwrite_full(journal->fd, place->path, header, HEADER_BYTES, 0, error);
	}
	free(header);
	return result;
}

struct vb_journal *vb_journal_create(const struct vb_journal_place *place, const struct vb_journal_identity *identity, size_t todo_count,
				     size_t written_count, struct vb_error *error)
{
	struct vb_journal *journal = allocate(place, error);

	if (!journal)
		return NULL;
	journal->identity = *identity;
	journal->todo_count = todo_count;
	journal->written_count = written_count;
	journal->is_searched = true;
	if (make_file(journal, error) == 0)
		return journal;
	vb_journal_close(journal);
	return NULL;
}

/* 1: whole; 0: not; negative: error. */
static int read_header(struct vb_journal *journal, struct vb_error *error)
{
	uint8_t *header = malloc(HEADER_BYTES);
	int result;

	if (!header)
		return vb_fail(error, VB_ERROR_MEMORY, 0, journal->place->path, -1, "No memory for the journal");
	result = vb_pread_full(journal->fd, journal->place->path, header, HEADER_BYTES, 0, error);
	if (!result)
		result = parse_header(journal, header);
	free(header);
	return result;
}

int vb_journal_open(const struct vb_journal_place *place, struct vb_journal **result, struct vb_error *error)
{
	struct vb_journal *journal = allocate(place, error);
	struct stat status;
	int found = -1;

	if (!journal)
		return -1;
	*result = NULL;
	journal->fd = vb_sys->openat(place->folder_fd, place->name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0);
	if (journal->fd < 0)
		found = errno == ENOENT ? 0 : vb_fail(error, VB_ERROR_SYSTEM, errno, place->path, -1, "Cannot open the journal");
	else if (vb_sys->fstat(journal->fd, &status))
		vb_fail(error, VB_ERROR_SYSTEM, errno, place->path, -1, "Cannot read the journal's status");
	else if (!S_ISREG(status.st_mode))
		vb_fail(error, VB_ERROR_FORMAT, 0, place->path, -1, "The journal is not a file");
	else
		found = read_header(journal, error);
	if (found == 1)
		*result = journal;
	else
		vb_journal_close(journal);
	return found;
}

const struct vb_journal_identity *vb_journal_identity(const struct vb_journal *journal)
{
	return &journal->identity;
}

static uint64_t slot_checksum(const struct vb_journal *journal, const uint8_t *slot, size_t payload_bytes)
{
	uint64_t of_head = XXH3_64bits_withSeed(slot, 16, journal->header_checksum);

	return XXH3_64bits_withSeed(slot + SLOT_HEAD_BYTES, payload_bytes, of_head);
}

/* A file that was made is found again only when its folder is durable too. */
static int sync_all(struct vb_journal *journal, struct vb_error *error)
{
	if (vb_fdatasync(journal->fd, journal->place->path, error))
		return -1;
	return journal->number == 0 ? vb_fsync(journal->place->folder_fd, journal->place->path, error) : 0;
}

static int make_room(struct vb_journal *journal, struct vb_error *error)
{
	size_t wanted_bytes = SLOT_HEAD_BYTES + payload_bytes_max(journal);

	if (journal->slot_bytes == wanted_bytes)
		return 0;
	free(journal->slot);
	journal->slot = malloc(wanted_bytes);
	journal->slot_bytes = journal->slot ? wanted_bytes : 0;
	return journal->slot ? 0 : vb_fail(error, VB_ERROR_MEMORY, 0, journal->place->path, -1, "No memory for the journal");
}

int vb_journal_write(struct vb_journal *journal, const struct vb_journal_state *state, struct vb_error *error)
{
	uint64_t number = journal->number + 1;
	uint8_t *at, *checksum_at;
	size_t payload_bytes = SUM_BYTES;

	if (state->todo_count != journal->todo_count || state->written_count != journal->written_count)
		return vb_fail(error, VB_ERROR_INTERNAL, 0, journal->place->path, -1, "The journal was made for another number of granules");
	if (make_room(journal, error))
		return -1;
	at = journal->slot + SLOT_HEAD_BYTES;
	put_u64(&at, state->sum.low);
	put_u64(&at, state->sum.high);
	payload_bytes += vb_journal_pack(state->todo, state->todo_count, journal->slot + SLOT_HEAD_BYTES + payload_bytes);
	payload_bytes += vb_journal_pack(state->written, state->written_count, journal->slot + SLOT_HEAD_BYTES + payload_bytes);
	at = journal->slot;
	put_u64(&at, number);
	put_u64(&at, payload_bytes);
	checksum_at = at;
	put_u64(&checksum_at, slot_checksum(journal, journal->slot, payload_bytes));
	if (vb_pwrite_full(journal->fd, journal->place->path, journal->slot, SLOT_HEAD_BYTES + payload_bytes, slot_offset(journal, number),
			   error) ||
	    sync_all(journal, error))
		return -1;
	journal->number = number;
	return 0;
}

/* Reads slot 0 or 1 into memory of its own. 1: whole; 0: not; negative: error. */
static int read_slot(struct vb_journal *journal, uint64_t parity, uint8_t **slot, uint64_t *number, struct vb_error *error)
{
	const char *path = journal->place->path;
	uint64_t offset_bytes = slot_offset(journal, parity), payload_bytes;
	uint8_t head[SLOT_HEAD_BYTES];
	const uint8_t *at = head;
	struct stat status;

	*slot = NULL;
	if (vb_pread_full(journal->fd, path, head, sizeof(head), offset_bytes, error))
		return -1;
	*number = get_u64(&at);
	payload_bytes = get_u64(&at);
	if (vb_sys->fstat(journal->fd, &status))
		return vb_fail(error, VB_ERROR_SYSTEM, errno, path, -1, "Cannot read the journal's status");
	if (*number == 0 || *number % 2 != parity || payload_bytes < SUM_BYTES || payload_bytes > payload_bytes_max(journal) ||
	    offset_bytes + SLOT_HEAD_BYTES + payload_bytes > (uint64_t)status.st_size)
		return 0;
	*slot = malloc(SLOT_HEAD_BYTES + payload_bytes);
	if (!*slot)
		return vb_fail(error, VB_ERROR_MEMORY, 0, path, -1, "No memory for the journal's %llu bytes", (unsigned long long)payload_bytes);
	if (vb_pread_full(journal->fd, path, *slot, SLOT_HEAD_BYTES + payload_bytes, offset_bytes, error))
		return -1;
	return memcmp(*slot, head, sizeof(head)) == 0 && get_u64(&at) == slot_checksum(journal, *slot, payload_bytes);
}

static int find_newest(struct vb_journal *journal, struct vb_error *error)
{
	for (uint64_t parity = 0; !journal->is_searched && parity < 2; parity++) {
		uint64_t number;
		uint8_t *slot;
		int result = read_slot(journal, parity, &slot, &number, error);

		if (result == 1 && number > journal->number) {
			free(journal->slot);
			journal->slot = slot;
			journal->slot_bytes = 0;   /* room for itself alone */
			journal->number = number;
			continue;
		}
		free(slot);
		if (result < 0)
			return -1;
	}
	journal->is_searched = true;
	return 0;
}

/* Both lists of the newest slot; words may be NULL. */
static int unpack_newest(struct vb_journal *journal, uint64_t *todo, uint64_t *written, struct vb_digest_sum *sum, bool *any_todo,
			 struct vb_error *error)
{
	const uint8_t *at = journal->slot + 8;
	size_t length = (size_t)get_u64(&at) - SUM_BYTES, took_todo, took_written;
	bool any_written;

	at = journal->slot + SLOT_HEAD_BYTES;
	sum->low = get_u64(&at);
	sum->high = get_u64(&at);
	took_todo = vb_journal_unpack(at, length, todo, journal->todo_count, any_todo);
	if (took_todo != SIZE_MAX) {
		took_written = vb_journal_unpack(at + took_todo, length - took_todo, written, journal->written_count, &any_written);
		if (took_written != SIZE_MAX && took_todo + took_written == length)
			return 0;
	}
	return vb_fail(error, VB_ERROR_FORMAT, 0, journal->place->path, (int64_t)slot_offset(journal, journal->number),
		       "The journal's slot is not what its checksum says");
}

int vb_journal_read(struct vb_journal *journal, struct vb_journal_state *state, struct vb_error *error)
{
	bool any_todo;
	int result;

	if (state->todo_count != journal->todo_count || state->written_count != journal->written_count)
		return vb_fail(error, VB_ERROR_FORMAT, 0, journal->place->path, -1,
			       "The journal speaks of %llu words of granules and %llu of the destination; the copy has %zu and %zu",
			       (unsigned long long)journal->todo_count, (unsigned long long)journal->written_count, state->todo_count,
			       state->written_count);
	if (find_newest(journal, error))
		return -1;
	if (journal->number == 0)
		return 0;
	result = unpack_newest(journal, state->todo, state->written, &state->sum, &any_todo, error);
	return result ? -1 : 1;
}

int vb_journal_read_end(struct vb_journal *journal, struct vb_digest_sum *sum, bool *is_complete, struct vb_error *error)
{
	bool any_todo;

	if (find_newest(journal, error))
		return -1;
	if (journal->number == 0)
		return 0;
	if (unpack_newest(journal, NULL, NULL, sum, &any_todo, error))
		return -1;
	*is_complete = !any_todo;
	return 1;
}
