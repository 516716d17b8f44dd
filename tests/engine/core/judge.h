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

/* Said with whatever is found wrong. */
extern char judge_occasion[256];

enum moment {
	MOMENT_ANY = 1,         /* anything that the promise allows */
	MOMENT_REPEATED = 2,    /* the job had success after one that broke off: the last content, and perhaps clusters that leaked */
	MOMENT_END = 3          /* the job had success: the last content */
};

/* Judges the model disk as it is. */
enum verdict judge(const struct scenario *scenario, const struct contents *contents, enum moment moment);
/* The scenario's source and backing files are what they were. */
void judge_sources(const struct scenario *scenario);

/* After a success: a new file has the owner and the mode that the empty one had. */
void judge_owner(const struct scenario *scenario);

/* The same image by qemu-img: what check_qcow2_bytes and the core say of it must be what QEMU says. */
void judge_with_qemu(const struct scenario *scenario, enum verdict verdict);

#endif
