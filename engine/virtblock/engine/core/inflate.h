/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding a raw deflate stream (RFC 1951) into memory, quickly. Internal to the core.
 *
 * Owns: the tables of one thread's decoder. Invariants: a success is right: the stream ended within the input and filled the output
 * exactly; nothing is read behind the input or written behind the output, whatever the stream says. It refuses more than other
 * decoders do (incomplete codes, streams longer than the output), so a refusal says nothing about the stream.
 */
#ifndef VB_INFLATE_H
#define VB_INFLATE_H

#include <stdbool.h>
#include <stddef.h>

struct vb_inflater;

/* NULL: this processor lacks what makes it quick (x86-64 with BMI2), or out of memory. */
struct vb_inflater *vb_inflater_new(void);
void vb_inflater_free(struct vb_inflater *inflater);
/* False: not decoded; the output is undefined then. */
bool vb_inflate(struct vb_inflater *inflater, const void *input, size_t input_length, void *output, size_t output_length);

#endif
