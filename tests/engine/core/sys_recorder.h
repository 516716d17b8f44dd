/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of system calls, made to fail on purpose and to keep a log of what was changed.
 *
 * While it is installed, every call is counted, one can be made to fail, descriptors are counted, and every change to files
 * opened for writing is logged with its content. From the log, the states can be built in which a crash may leave one file:
 * what was synced is there, of what came after the last sync any part may be. One lane only: the log has one order.
 */
#ifndef SYS_RECORDER_H
#define SYS_RECORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum record_kind { RECORD_WRITE, RECORD_PUNCH, RECORD_SIZE, RECORD_SYNC, RECORD_RENAME };

struct record {
	enum record_kind kind;
	uint64_t inode;
	uint64_t offset;
	uint64_t length;   /* of the change; for RECORD_SIZE the new size is in `offset` */
	uint8_t *bytes;    /* RECORD_WRITE */
};

extern struct record *records;
extern size_t record_count;

/* Installs the table. fail_at 0: nothing fails; else the call of that number fails with fail_errno. */
void recorder_start(unsigned fail_at, int fail_errno);
/* Puts the real table back; returns whether the call that was to fail was reached. */
bool recorder_stop(void);
/* Descriptors opened and not closed since recorder_start. */
int recorder_open_fds(void);
void recorder_forget(void);

/* Makes `path` what a crash after the first `count` records may leave of the file `inode` that had `before` as content: all
 * that was synced by then, and of the rest what `seed` chooses (0: nothing, 1: all). */
void make_crashed(const char *path, const uint8_t *before, uint64_t before_bytes, uint64_t inode, size_t count,
		  unsigned long long seed);

#endif
