/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: how a failure is put into its record; text that does not fit is cut at a character's start and marked with "...". */
#include "error.h"

#include <stdio.h>
#include <string.h>

static void mark_cut(char *text, size_t capacity)
{
	size_t end = capacity - sizeof("...");

	/* Never leave half of a UTF-8 sequence behind. */
	while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
		end--;
	memcpy(text + end, "...", sizeof("..."));
}

static void put_path(struct vb_error *error, const char *path)
{
	size_t length = path != NULL ? strlen(path) : 0;

	if (length < sizeof(error->path)) {
		if (length > 0)
			memmove(error->path, path, length);
		error->path[length] = '\0';
		return;
	}
	memmove(error->path, path, sizeof(error->path));
	mark_cut(error->path, sizeof(error->path));
}

int vb_fail(struct vb_error *error, enum vb_error_kind kind, int system_errno, const char *path, int64_t offset_bytes,
	    const char *format, ...)
{
	va_list arguments;
	int length;

	if (error == NULL)
		return -1;
	error->kind = kind;
	error->system_errno = system_errno;
	error->offset_bytes = offset_bytes;
	put_path(error, path);
	va_start(arguments, format);
	length = vsnprintf(error->message, sizeof(error->message), format, arguments);
	va_end(arguments);
	if (length < 0)
		error->message[0] = '\0';
	else if ((size_t)length >= sizeof(error->message))
		mark_cut(error->message, sizeof(error->message));
	return -1;
}
