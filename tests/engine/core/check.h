/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every test of the core uses: CHECK, and a folder of its own. A failed CHECK ends the test program with its place.
 * A program that is missing (qemu-img, qemu-io) is a failed test, never a skipped one.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

#define CHECK(condition)                                                                             \
	do {                                                                                         \
		if (!(condition)) {                                                                  \
			fprintf(stderr, "%s:%d: %s: failed: %s\n", __FILE__, __LINE__, __func__, #condition); \
			exit(1);                                                                     \
		}                                                                                    \
	} while (0)

#define CHECK_EQUAL(left, right)                                                                     \
	do {                                                                                         \
		long long left_value = (long long)(left), right_value = (long long)(right);          \
		if (left_value != right_value) {                                                     \
			fprintf(stderr, "%s:%d: %s: %s is %lld, not %s (%lld)\n", __FILE__, __LINE__, __func__, #left, left_value, \
				#right, right_value);                                                \
			exit(1);                                                                     \
		}                                                                                    \
	} while (0)

/* The call must succeed; what it put into `error` is shown when it does not. */
#define CHECK_OK(call, error)                                                                        \
	do {                                                                                         \
		if (!(call)) {                                                                       \
			fprintf(stderr, "%s:%d: %s: %s: kind %d, errno %d, offset %lld, path \"%s\": %s\n", __FILE__, __LINE__, __func__, \
				#call, (int)(error).kind, (error).system_errno, (long long)(error).offset_bytes, (error).path, (error).message); \
			exit(1);                                                                     \
		}                                                                                    \
	} while (0)

/* The error must be of this kind and its message must contain these words. */
#define CHECK_ERROR(error, expected_kind, words)                                                     \
	do {                                                                                         \
		if ((error).kind != (expected_kind) || strstr((error).message, (words)) == NULL) {   \
			fprintf(stderr, "%s:%d: %s: wanted kind %d with \"%s\", got kind %d, errno %d, path \"%s\": %s\n", __FILE__, __LINE__, \
				__func__, (int)(expected_kind), (words), (int)(error).kind, (error).system_errno, (error).path, \
				(error).message);                                                    \
			exit(1);                                                                     \
		}                                                                                    \
	} while (0)

#define RUN(test)                                                                                    \
	do {                                                                                         \
		printf("%s\n", #test);                                                               \
		fflush(stdout);                                                                      \
		test();                                                                              \
	} while (0)

/* A path in the test's own folder (TEST_FOLDER, or a new one under /tmp). The result is one of a few static buffers. */
const char *test_path(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Runs a command in the test's folder through the shell; returns its exit code. */
int test_shell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A small deterministic generator: the same seed gives the same numbers everywhere. */
unsigned long long test_random(unsigned long long *state);

#endif
