/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: what of the log is durable, the choice of what else survives, and the set of states that were seen. */
#include "crash_states.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "check.h"

enum fate { FATE_PENDING = 0, FATE_SURE = 1, FATE_DOUBTFUL = 2 };

static struct model_disk settled;            /* the beginning, and of each file what is sure up to `settled_ops` */
static size_t settled_ops[MODEL_FILES_MAX];
static uint8_t *fates;                       /* enum fate of each operation */
static uint32_t file_count;                  /* at the end of the log */
static size_t op_count, names_synced;        /* names_synced: operations up to the folder's last sync */
static XXH64_hash_t *seen;
static size_t seen_count, seen_capacity;

void crash_rewind(const struct model_disk *before)
{
	model_disk_copy(&settled, before);
	/* Files that are made later are empty at first. */
	while (settled.file_count < file_count)
		settled.files[settled.file_count++].mode = 0600;
	memset(settled_ops, 0, sizeof(settled_ops));
	memset(fates, 0, model_op_count + 1);
	op_count = names_synced = 0;
}

void crash_begin(const struct model_disk *before)
{
	file_count = model_disk.file_count;
	fates = malloc(model_op_count + 1);
	seen_count = 0;
	seen_capacity = 1024;
	seen = calloc(seen_capacity, sizeof(*seen));
	CHECK(fates != NULL && seen != NULL);
	crash_rewind(before);
}

void crash_end(void)
{
	free(fates);
	free(seen);
	fates = NULL;
	seen = NULL;
	model_disk_free(&settled);
}

static bool is_change(const struct model_op *op)
{
	return op->kind == MODEL_DATA || op->kind == MODEL_SIZE;
}

/* Puts the sectors of an operation whose bit in the pattern is set. */
static void put_sectors(struct model_file *file, const struct model_op *op, uint64_t from, uint64_t to)
{
	uint64_t start = op->offset_bytes + from * MODEL_SECTOR_BYTES;

	if (op->kind != MODEL_DATA || from >= to)
		return;
	if (op->offset_bytes + to * MODEL_SECTOR_BYTES > file->size_bytes)
		model_file_resize(file, op->offset_bytes + to * MODEL_SECTOR_BYTES);
	memcpy(file->bytes + start, op->bytes + from * MODEL_SECTOR_BYTES, (to - from) * MODEL_SECTOR_BYTES);
}

static uint64_t sector_count(const struct model_op *op)
{
	return op->length_bytes / MODEL_SECTOR_BYTES;
}

static void settle(uint32_t file)
{
	size_t index = settled_ops[file];

	for (; index < op_count; index++) {
		const struct model_op *op = &model_ops[index];

		if (!is_change(op) || op->file != file)
			continue;
		if (fates[index] != FATE_SURE)
			break;
		put_sectors(&settled.files[file], op, 0, sector_count(op));
		model_file_resize(&settled.files[file], op->size_bytes);
	}
	settled_ops[file] = index;
}

/* A sync of the file: what was pending is sure, or doubtful for ever. */
static void decide(uint32_t file, size_t end, enum fate fate)
{
	for (size_t index = settled_ops[file]; index < end; index++)
		if (is_change(&model_ops[index]) && model_ops[index].file == file && fates[index] == FATE_PENDING)
			fates[index] = (uint8_t)fate;
}

void crash_advance(size_t count)
{
	CHECK(count >= op_count && count <= model_op_count);
	for (; op_count < count; op_count++) {
		const struct model_op *op = &model_ops[op_count];

		if (op->kind == MODEL_SYNC || op->kind == MODEL_LOST_SYNC)
			decide(op->file, op_count, op->kind == MODEL_SYNC ? FATE_SURE : FATE_DOUBTFUL);
		if (op->kind == MODEL_SYNC)
			settle(op->file);
		if (op->kind == MODEL_NAMES_SYNC) {
			names_synced = op_count + 1;
			settled.names = op->names;
		}
	}
}

bool crash_is_pending(size_t op_index)
{
	return op_index < op_count && is_change(&model_ops[op_index]) && fates[op_index] != FATE_SURE;
}

/* Some of the sectors: the first ones, the last ones, or any. */
static void put_torn(struct model_file *file, const struct model_op *op, unsigned long long *seed)
{
	uint64_t count = sector_count(op), kind = test_random(seed) % 4;
	uint64_t at = count ? test_random(seed) % (count + 1) : 0;

	if (kind == 0)
		put_sectors(file, op, 0, at);
	else if (kind == 1)
		put_sectors(file, op, at, count);
	for (uint64_t sector = 0; kind > 1 && sector < count; sector++)
		if (test_random(seed) % 2)
			put_sectors(file, op, sector, sector + 1);
}

/* What of one file survives; the size is that of the last surviving change, or now and then another one's. */
static void put_file(uint32_t index, const struct survival *survival, struct model_file *file, unsigned long long *seed)
{
	uint64_t size_bytes = settled.files[index].size_bytes;
	uint64_t chance = 1ull << (1 + test_random(seed) % 3);   /* one of 2, 4 or 8 … */
	bool is_loss = test_random(seed) % 2;                    /* … is lost, or survives */
	bool are_sizes_free = survival->kind == SURVIVES_SOME && test_random(seed) % 8 == 0;

	for (size_t at = settled_ops[index]; at < op_count; at++) {
		const struct model_op *op = &model_ops[at];
		bool survives = survival->kind == SURVIVES_ALL || (survival->kind == SURVIVES_ONE && at == survival->which) ||
				(survival->kind == SURVIVES_ALL_BUT_ONE && at != survival->which);

		if (!is_change(op) || op->file != index)
			continue;
		if (survival->kind == SURVIVES_SOME)
			survives = (test_random(seed) % chance == 0) != is_loss;
		if (fates[at] == FATE_SURE)
			survives = true;
		if (survives && survival->kind == SURVIVES_SOME && fates[at] != FATE_SURE && test_random(seed) % 4 == 0)
			put_torn(file, op, seed);
		else if (survives)
			put_sectors(file, op, 0, sector_count(op));
		if (fates[at] == FATE_SURE || (are_sizes_free ? test_random(seed) % 2 : survives))
			size_bytes = op->size_bytes;
	}
	model_file_resize(file, size_bytes);
}

static void put_names(const struct survival *survival, struct model_disk *state, unsigned long long *seed)
{
	size_t changes = 0, wanted;

	for (size_t index = names_synced; index < op_count; index++)
		changes += model_ops[index].kind == MODEL_NAMES;
	wanted = survival->kind == SURVIVES_SOME ? test_random(seed) % (changes + 1) : survival->kind == SURVIVES_NOTHING ? 0 : changes;
	for (size_t index = names_synced; index < op_count && wanted > 0; index++)
		if (model_ops[index].kind == MODEL_NAMES && wanted-- > 0)
			state->names = model_ops[index].names;
}

void crash_make(const struct survival *survival, struct model_disk *state)
{
	unsigned long long seed = survival->seed;

	model_disk_copy(state, &settled);
	for (uint32_t file = 0; file < settled.file_count; file++)
		put_file(file, survival, &state->files[file], &seed);
	put_names(survival, state, &seed);
}

static XXH64_hash_t hash_state(const struct model_disk *state)
{
	XXH64_hash_t hash = state->names.count;

	for (uint32_t index = 0; index < state->names.count; index++) {
		const struct model_name *name = &state->names.entries[index];
		const struct model_file *file = &state->files[name->file];

		hash = XXH3_64bits_withSeed(name->name, strlen(name->name), hash);
		hash = XXH3_64bits_withSeed(file->bytes, file->size_bytes, hash ^ file->size_bytes);
	}
	return hash ? hash : 1;
}

static bool insert(XXH64_hash_t hash)
{
	size_t slot = hash & (seen_capacity - 1);

	while (seen[slot] != 0 && seen[slot] != hash)
		slot = (slot + 1) & (seen_capacity - 1);
	if (seen[slot] == hash)
		return false;
	seen[slot] = hash;
	seen_count++;
	return true;
}

bool crash_is_new_state(const struct model_disk *state)
{
	if (2 * seen_count >= seen_capacity) {
		XXH64_hash_t *old = seen;
		size_t old_capacity = seen_capacity;

		seen_capacity *= 2;
		seen = calloc(seen_capacity, sizeof(*seen));
		CHECK(seen != NULL);
		seen_count = 0;
		for (size_t index = 0; index < old_capacity; index++)
			if (old[index] != 0)
				insert(old[index]);
		free(old);
	}
	return insert(hash_state(state));
}
