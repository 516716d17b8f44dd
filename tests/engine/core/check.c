/* SPDX-License-Identifier: Apache-2.0 */
/* Owns: the tests' folder and the shell. */
#include "check.h"

#include <stdarg.h>
#include <sys/wait.h>

#define BUFFER_COUNT 8
#define BUFFER_BYTES 4096

static const char *test_folder(void)
{
	static char own[] = "/tmp/core-test-XXXXXX";
	static const char *folder;

	if (folder == NULL)
		folder = getenv("TEST_FOLDER");
	if (folder == NULL)
		folder = mkdtemp(own);
	CHECK(folder != NULL);
	return folder;
}

const char *test_path(const char *format, ...)
{
	static char buffers[BUFFER_COUNT][BUFFER_BYTES];
	static unsigned next;
	char *buffer = buffers[next++ % BUFFER_COUNT];
	int length = snprintf(buffer, BUFFER_BYTES, "%s/", test_folder());
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(buffer + length, BUFFER_BYTES - (size_t)length, format, arguments);
	va_end(arguments);
	return buffer;
}

int test_shell(const char *format, ...)
{
	char command[8192];
	int length = snprintf(command, sizeof(command), "cd '%s' && ", test_folder()), status;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(command + length, sizeof(command) - (size_t)length, format, arguments);
	va_end(arguments);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

unsigned long long test_random(unsigned long long *state)
{
	unsigned long long value;

	*state += 0x9e3779b97f4a7c15ull;
	value = *state;
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
	return value ^ (value >> 31);
}
