/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: one wrapper for each slot. */
#include "fault_table.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "model_disk.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const struct vb_sys *base;
static struct fault fault;
static bool has_struck;
unsigned fault_call_counts[SLOT_COUNT];

#define SLOT_STRING(slot, type, failed, parameters, arguments) [SLOT_##slot] = #slot,
const char *const fault_slot_names[SLOT_COUNT] = {FAULT_SLOTS(SLOT_STRING)};

/* What may pass by itself passes at the next try: else nothing would ever end. */
static bool is_passing(void)
{
	return fault.number == EINTR || fault.number == FAULT_SHORT;
}

static bool is_due(unsigned call)
{
	if (fault.first == 0 || call < fault.first)
		return false;
	return call == fault.first || (fault.is_lasting && (!is_passing() || (call - fault.first) % 2 == 0));
}

/* How this call fails; 0: it does not. */
static int strikes(enum fault_slot slot)
{
	int number = 0;

	pthread_mutex_lock(&mutex);

	unsigned call = ++fault_call_counts[slot];

	if (slot == fault.slot && is_due(call)) {
		has_struck = true;
		number = fault.number == FAULT_FULL && call > fault.first ? ENOSPC : fault.number;
	}
	pthread_mutex_unlock(&mutex);
	return number;
}

/* What the call does though it fails: a descriptor is closed, half is moved, and what was to be synced may be lost for good. */
static long fail(int number, enum fault_slot slot, int fd, size_t length, const void *buffer, off_t offset)
{
	if (slot == SLOT_close)
		base->close(fd);
	if ((slot == SLOT_fdatasync || slot == SLOT_fsync) && number != EINTR && base == &model_sys)
		model_note_lost_sync(fd);
	/* A full disk takes whole sectors. */
	length = number == FAULT_FULL ? length / 2 / MODEL_SECTOR_BYTES * MODEL_SECTOR_BYTES : (length + 1) / 2;
	if (number < 0 && length > 0 && slot == SLOT_pread)
		return base->pread(fd, (void *)(uintptr_t)buffer, length, offset);
	if (number < 0 && length > 0 && slot == SLOT_pwrite)
		return base->pwrite(fd, buffer, length, offset);
	errno = number == FAULT_FULL ? ENOSPC : number;
	return -1;
}

static ssize_t on_pread(int fd, void *buffer, size_t length, off_t offset)
{
	int number = strikes(SLOT_pread);

	return number ? fail(number, SLOT_pread, fd, length, buffer, offset) : base->pread(fd, buffer, length, offset);
}

static ssize_t on_pwrite(int fd, const void *buffer, size_t length, off_t offset)
{
	int number = strikes(SLOT_pwrite);

	return number ? fail(number, SLOT_pwrite, fd, length, buffer, offset) : base->pwrite(fd, buffer, length, offset);
}

static int on_close(int fd)
{
	int number = strikes(SLOT_close);

	return number ? (int)fail(number, SLOT_close, fd, 0, NULL, 0) : base->close(fd);
}

static int on_fdatasync(int fd)
{
	int number = strikes(SLOT_fdatasync);

	return number ? (int)fail(number, SLOT_fdatasync, fd, 0, NULL, 0) : base->fdatasync(fd);
}

static int on_fsync(int fd)
{
	int number = strikes(SLOT_fsync);

	return number ? (int)fail(number, SLOT_fsync, fd, 0, NULL, 0) : base->fsync(fd);
}

/* The slots whose failure does nothing. */
#define PLAIN_WRAPPER(slot, type, failed, parameters, arguments)   \
	__attribute__((unused)) static type plain_##slot parameters \
	{                                                           \
		int number = strikes(SLOT_##slot);                  \
								    \
		if (number) {                                       \
			errno = number;                             \
			return failed;                              \
		}                                                   \
		return base->slot arguments;                        \
	}
FAULT_SLOTS(PLAIN_WRAPPER)

#define PLAIN_ENTRY(slot, type, failed, parameters, arguments) .slot = plain_##slot,

void fault_start(const struct vb_sys *over, const struct fault *wanted)
{
	static struct vb_sys table;

	base = over;
	fault = *wanted;
	has_struck = false;
	memset(fault_call_counts, 0, sizeof(fault_call_counts));
	table = (struct vb_sys){FAULT_SLOTS(PLAIN_ENTRY)};
	table.pread = on_pread;
	table.pwrite = on_pwrite;
	table.close = on_close;
	table.fdatasync = on_fdatasync;
	table.fsync = on_fsync;
	vb_sys = &table;
}

bool fault_stop(void)
{
	vb_sys = base;
	return has_struck;
}
