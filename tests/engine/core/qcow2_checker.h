/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a qcow2 file in memory is consistent: what `qemu-img check` looks for, in microseconds.
 *
 * Every reference (header, refcount table and blocks, L1 and L2 tables of the active image and of its snapshots, data, compressed data,
 * the snapshot table, bitmaps) is counted and compared with the refcounts. Shares no code with the core beyond byte order. An error is
 * what may destroy data: a count too low, two owners of what has one, COPIED where it is not true, an offset out of the file.
 */
#ifndef QCOW2_CHECKER_H
#define QCOW2_CHECKER_H

#include <stddef.h>
#include <stdint.h>

struct qcow2_findings {
	unsigned error_count;
	unsigned leak_count;      /* clusters whose count is too high */
	char first_error[200];
};

void check_qcow2_bytes(const uint8_t *bytes, size_t length, struct qcow2_findings *findings);

#endif
