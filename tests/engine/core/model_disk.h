/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in memory that forgets what was not synced.
 *
 * Owns: one folder of files behind the core's table of system calls, and the log of every change since the recording began. A
 * log entry holds whole sectors as they were after the change, because that is what a page cache may have written by then. Syncs and
 * changes of names are entries too. Invariants: a file opened for reading cannot be written; nothing touches the machine's own files.
 * The calls may come from many threads; the rest of this interface is for one.
 */
#ifndef MODEL_DISK_H
#define MODEL_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sys.h"

#define MODEL_FOLDER "/disk"
#define MODEL_SECTOR_BYTES 512u
#define MODEL_FILES_MAX 24u
#define MODEL_NAMES_MAX 12u
#define MODEL_NAME_BYTES 64u
#define MODEL_NO_FILE UINT32_MAX

struct model_file {
	uint8_t *bytes;          /* zeros behind size_bytes up to the capacity */
	uint64_t size_bytes;
	uint64_t capacity_bytes; /* whole sectors */
	mode_t mode;
	uid_t owner;
	bool is_device;          /* a block device, of this size for ever */
};

struct model_name {
	char name[MODEL_NAME_BYTES];
	uint32_t file;
};

struct model_names {
	struct model_name entries[MODEL_NAMES_MAX];
	uint32_t count;
};

struct model_disk {
	struct model_file files[MODEL_FILES_MAX];
	uint32_t file_count;
	struct model_names names;
};

enum model_op_kind {
	MODEL_DATA = 1,          /* sectors of a file changed; perhaps its size too */
	MODEL_SIZE = 2,          /* the size alone, but for what was cut off */
	MODEL_SYNC = 3,          /* all before it of this file is durable */
	MODEL_LOST_SYNC = 4,     /* a sync that failed: what it should have written may never be */
	MODEL_NAMES = 5,         /* the folder's entries changed */
	MODEL_NAMES_SYNC = 6     /* the folder as it is now is durable */
};

struct model_op {
	enum model_op_kind kind;
	uint32_t file;
	uint64_t offset_bytes;   /* DATA: of the first sector */
	uint64_t length_bytes;   /* DATA: of whole sectors */
	uint8_t *bytes;          /* DATA */
	uint64_t size_bytes;     /* DATA, SIZE: the file's size after it */
	struct model_names names;
};

extern struct model_disk model_disk;     /* what the calls work on */
extern struct model_op *model_ops;
extern size_t model_op_count;

extern const struct vb_sys model_sys;

/* Points vb_sys to the model and empties it; model_end puts the real table back and frees. */
void model_start(void);
void model_end(void);
void model_clear(void);

/* A file with this content, durable. */
uint32_t model_put(const char *name, const void *bytes, size_t length);
/* The same from a file of the machine. */
uint32_t model_load(const char *name, const char *real_path);
/* The other way. */
void model_save(const struct model_disk *disk, const char *name, const char *real_path);
/* NULL if the folder has no such name. */
const struct model_file *model_find(const struct model_disk *disk, const char *name);

/* From now on everything is logged, from an empty log; until model_pause. */
void model_record(void);
void model_pause(void);
/* Descriptors that are open. */
unsigned model_open_count(void);

void model_disk_copy(struct model_disk *to, const struct model_disk *from);
void model_disk_free(struct model_disk *disk);
/* Room for `size_bytes`, and that as the size; what is new is zeros. */
void model_file_resize(struct model_file *file, uint64_t size_bytes);

/* For the calls. */
uint32_t model_add_file(void);
struct model_name *model_find_name(struct model_names *names, const char *name);
/* The entry of that name, made if missing. */
struct model_name *model_add_name(const char *name);
void model_remove_name(struct model_name *entry);
/* The file was changed in this range and perhaps in its size; 0 bytes: in its size alone. */
void model_log_change(uint32_t file_index, uint64_t offset_bytes, uint64_t length_bytes);
void model_log_names(enum model_op_kind kind);
void model_log_sync(uint32_t file, bool is_lost);

/* For a table of faults laid over this one: tells the log that a sync failed. */
void model_note_lost_sync(int fd);

#endif
