/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the files, the names and the log. */
#include "model_disk.h"

#include <unistd.h>

#include "check.h"

struct model_disk model_disk;
struct model_op *model_ops;
size_t model_op_count;

static size_t op_capacity;
static bool is_recording;

static uint64_t sector_end(uint64_t offset_bytes)
{
	return (offset_bytes + MODEL_SECTOR_BYTES - 1) / MODEL_SECTOR_BYTES * MODEL_SECTOR_BYTES;
}

void model_file_resize(struct model_file *file, uint64_t size_bytes)
{
	uint64_t wanted = sector_end(size_bytes);

	if (wanted > file->capacity_bytes) {
		uint64_t capacity = wanted > 2 * file->capacity_bytes ? wanted : 2 * file->capacity_bytes;

		file->bytes = realloc(file->bytes, capacity);
		CHECK(file->bytes != NULL);
		memset(file->bytes + file->capacity_bytes, 0, capacity - file->capacity_bytes);
		file->capacity_bytes = capacity;
	}
	if (size_bytes < file->size_bytes)
		memset(file->bytes + size_bytes, 0, file->size_bytes - size_bytes);
	file->size_bytes = size_bytes;
}

void model_disk_copy(struct model_disk *to, const struct model_disk *from)
{
	for (uint32_t index = from->file_count; index < to->file_count; index++)
		model_file_resize(&to->files[index], 0);
	for (uint32_t index = 0; index < from->file_count; index++) {
		model_file_resize(&to->files[index], from->files[index].size_bytes);
		if (from->files[index].size_bytes > 0)
			memcpy(to->files[index].bytes, from->files[index].bytes, from->files[index].size_bytes);
		to->files[index].mode = from->files[index].mode;
		to->files[index].owner = from->files[index].owner;
		to->files[index].is_device = from->files[index].is_device;
	}
	to->file_count = from->file_count;
	to->names = from->names;
}

void model_disk_free(struct model_disk *disk)
{
	for (uint32_t index = 0; index < MODEL_FILES_MAX; index++)
		free(disk->files[index].bytes);
	*disk = (struct model_disk){0};
}

static struct model_op *add_op(enum model_op_kind kind, uint32_t file)
{
	if (model_op_count == op_capacity) {
		op_capacity = op_capacity ? op_capacity * 2 : 1024;
		model_ops = realloc(model_ops, op_capacity * sizeof(*model_ops));
		CHECK(model_ops != NULL);
	}
	model_ops[model_op_count] = (struct model_op){.kind = kind, .file = file};
	return &model_ops[model_op_count++];
}

/* The file was changed in this range, and perhaps in its size. */
void model_log_change(uint32_t file_index, uint64_t offset_bytes, uint64_t length_bytes)
{
	const struct model_file *file = &model_disk.files[file_index];
	uint64_t start = offset_bytes / MODEL_SECTOR_BYTES * MODEL_SECTOR_BYTES;
	uint64_t end = sector_end(offset_bytes + length_bytes);
	struct model_op *op;

	if (!is_recording)
		return;
	op = add_op(length_bytes ? MODEL_DATA : MODEL_SIZE, file_index);
	op->size_bytes = file->size_bytes;
	if (!length_bytes)
		return;
	CHECK(end <= file->capacity_bytes);
	op->offset_bytes = start;
	op->length_bytes = end - start;
	op->bytes = malloc(end - start);
	CHECK(op->bytes != NULL);
	memcpy(op->bytes, file->bytes + start, end - start);
}

void model_log_names(enum model_op_kind kind)
{
	if (is_recording)
		add_op(kind, MODEL_NO_FILE)->names = model_disk.names;
}

void model_log_sync(uint32_t file, bool is_lost)
{
	if (is_recording)
		add_op(is_lost ? MODEL_LOST_SYNC : MODEL_SYNC, file);
}

struct model_name *model_find_name(struct model_names *names, const char *name)
{
	for (uint32_t index = 0; index < names->count; index++)
		if (strcmp(names->entries[index].name, name) == 0)
			return &names->entries[index];
	return NULL;
}

struct model_name *model_add_name(const char *name)
{
	struct model_name *entry = model_find_name(&model_disk.names, name);

	CHECK(strlen(name) < MODEL_NAME_BYTES && strchr(name, '/') == NULL);
	if (entry == NULL) {
		CHECK(model_disk.names.count < MODEL_NAMES_MAX);
		entry = &model_disk.names.entries[model_disk.names.count++];
		snprintf(entry->name, sizeof(entry->name), "%s", name);
	}
	return entry;
}

void model_remove_name(struct model_name *entry)
{
	*entry = model_disk.names.entries[--model_disk.names.count];
	memset(&model_disk.names.entries[model_disk.names.count], 0, sizeof(*entry));
}

uint32_t model_add_file(void)
{
	CHECK(model_disk.file_count < MODEL_FILES_MAX);
	model_file_resize(&model_disk.files[model_disk.file_count], 0);
	model_disk.files[model_disk.file_count].mode = 0600;
	model_disk.files[model_disk.file_count].owner = getuid();
	model_disk.files[model_disk.file_count].is_device = false;
	return model_disk.file_count++;
}

static void forget_ops(void)
{
	for (size_t index = 0; index < model_op_count; index++)
		free(model_ops[index].bytes);
	model_op_count = 0;
}

void model_clear(void)
{
	CHECK_EQUAL(model_open_count(), 0);
	is_recording = false;
	forget_ops();
	for (uint32_t index = 0; index < model_disk.file_count; index++)
		model_file_resize(&model_disk.files[index], 0);
	model_disk.file_count = 0;
	memset(&model_disk.names, 0, sizeof(model_disk.names));
}

void model_start(void)
{
	vb_sys = &model_sys;
	model_clear();
}

void model_end(void)
{
	vb_sys = &vb_sys_linux;
	model_clear();
	model_disk_free(&model_disk);
	free(model_ops);
	model_ops = NULL;
	op_capacity = 0;
}

void model_record(void)
{
	forget_ops();
	is_recording = true;
}

void model_pause(void)
{
	is_recording = false;
}

uint32_t model_put(const char *name, const void *bytes, size_t length)
{
	uint32_t file = model_add_file();

	model_file_resize(&model_disk.files[file], length);
	if (length > 0)
		memcpy(model_disk.files[file].bytes, bytes, length);
	model_add_name(name)->file = file;
	return file;
}

uint32_t model_load(const char *name, const char *real_path)
{
	FILE *file = fopen(real_path, "rb");
	struct stat status;
	uint8_t *bytes;
	uint32_t result;

	CHECK(file != NULL);
	CHECK_EQUAL(fstat(fileno(file), &status), 0);
	bytes = malloc((size_t)status.st_size + 1);
	CHECK(bytes != NULL);
	CHECK_EQUAL(fread(bytes, 1, (size_t)status.st_size, file), status.st_size);
	fclose(file);
	result = model_put(name, bytes, (size_t)status.st_size);
	free(bytes);
	return result;
}

const struct model_file *model_find(const struct model_disk *disk, const char *name)
{
	for (uint32_t index = 0; index < disk->names.count; index++)
		if (strcmp(disk->names.entries[index].name, name) == 0)
			return &disk->files[disk->names.entries[index].file];
	return NULL;
}

void model_save(const struct model_disk *disk, const char *name, const char *real_path)
{
	const struct model_file *content = model_find(disk, name);
	FILE *file = fopen(real_path, "wb");

	CHECK(content != NULL && file != NULL);
	CHECK_EQUAL(fwrite(content->bytes, 1, content->size_bytes, file), content->size_bytes);
	CHECK_EQUAL(fclose(file), 0);
}
