/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every fuzz target demands. REQUIRE ends the process where a promise of the core is broken, so that libFuzzer keeps the input.
 * Crashes, leaks, hangs and memory are watched by the sanitizers and by libFuzzer itself.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <stdio.h>
#include <stdlib.h>

#include "error.h"

#define REQUIRE(condition)                                                                                          \
	do {                                                                                                        \
		if (!(condition)) {                                                                                 \
			fprintf(stderr, "%s:%d: %s: broken promise: %s\n", __FILE__, __LINE__, __func__, #condition); \
			abort();                                                                                    \
		}                                                                                                   \
	} while (0)

/* A failure says what is wrong with the image, and never that the core broke an invariant of its own. */
static inline void require_refusal(const struct vb_error *error)
{
	if (error->kind == VB_ERROR_NONE || error->kind == VB_ERROR_INTERNAL || error->message[0] == '\0') {
		fprintf(stderr, "a failure of kind %d: \"%s\"\n", (int)error->kind, error->message);
		abort();
	}
}

#endif
