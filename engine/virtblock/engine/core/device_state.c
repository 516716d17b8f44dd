/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the files under /sys/dev/block that tell a device's state, and their form. */
#include "device_state.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "journal.h"
#include "sys.h"

#define TEXT_BYTES 512u
#define PATH_BYTES 96u

struct marks {
	char boot_id[TEXT_BYTES];
	char sequence[TEXT_BYTES];   /* of the disk: another one for each that was ever there */
	unsigned long long written_sectors, discarded_sectors;
};

/* `text` has TEXT_BYTES and is filled with zeros. */
static bool read_text(const char *path, char *text)
{
	int fd = vb_sys->openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	ssize_t length;

	if (fd < 0)
		return false;
	memset(text, 0, TEXT_BYTES);
	length = vb_sys->pread(fd, text, TEXT_BYTES - 1, 0);
	vb_sys->close(fd);
	return length > 0;
}

static bool read_of_device(uint64_t device, const char *name, char *text)
{
	char path[PATH_BYTES];

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(device), minor(device), name);
	return read_text(path, text);
}

/* A partition lies in its disk's folder, and has counts of its own. */
static bool read_of_disk(uint64_t device, const char *own_name, const char *parents_name, char *text)
{
	return read_of_device(device, own_name, text) || read_of_device(device, parents_name, text);
}

static bool read_marks(uint64_t device, struct marks *marks)
{
	char text[TEXT_BYTES];

	if (!read_of_disk(device, "queue/iostats", "../queue/iostats", text) || text[0] == '0')
		return false;
	if (!read_of_device(device, "stat", text))
		return false;
	/* Discards came to the end of the line later, and not every kernel tells them. */
	if (sscanf(text, "%*s %*s %*s %*s %*s %*s %llu %*s %*s %*s %*s %*s %*s %llu", &marks->written_sectors,
		   &marks->discarded_sectors) < 1)
		return false;
	return read_of_disk(device, "diskseq", "../diskseq", marks->sequence) && read_text("/proc/sys/kernel/random/boot_id", marks->boot_id);
}

uint64_t vb_device_state(uint64_t device)
{
	struct marks marks;
	struct timespec now;

	memset(&marks, 0, sizeof(marks));
	if (read_marks(device, &marks))
		return vb_mark_of(&marks, sizeof(marks)).low;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}
