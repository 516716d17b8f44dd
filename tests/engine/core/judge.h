/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the model disk holds what a scenario promises at any moment. A broken promise ends the test program, with the state's
 * image in the test's folder as "judged".
 */
#ifndef JUDGE_H
#define JUDGE_H

#include "scenarios.h"

/* What was found. */
enum verdict {
	VERDICT_NOTHING = 1,    /* no file, or an empty one */
	VERDICT_MARKED = 2,     /* unfinished: does not open */
	VERDICT_LENGTHENED = 3, /* a raw file with its old content, and behind it a part of a mark that did not come to be */
	VERDICT_GOOD = 4        /* opens, and is right */
};

/* Judges the model disk as it is; `is_ended`: the job had success, so that nothing but the last content will do. */
enum verdict judge(const struct scenario *scenario, const struct contents *contents, bool is_ended);
/* The scenario's source and backing files are what they were. */
void judge_sources(const struct scenario *scenario);

/* The same image by qemu-img: what check_qcow2_bytes and the core say of it must be what QEMU says. */
void judge_with_qemu(const struct scenario *scenario, enum verdict verdict);

#endif
