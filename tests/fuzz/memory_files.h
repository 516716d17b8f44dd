/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file system of two files in memory, behind the core's table of system calls.
 *
 * /disk/image is the input of the fuzzer. Every other name leads to one other file that holds the same bytes, so that an image
 * which names a backing file gets one. Nothing touches the machine's own files.
 * The image grows at most to MEMORY_FILE_BYTES_MAX; a write behind that fails with ENOSPC.
 */
#ifndef MEMORY_FILES_H
#define MEMORY_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"

#define MEMORY_FILE_BYTES_MAX (8u * 1024 * 1024)
#define MEMORY_IMAGE_PATH "/disk/image"

/* Replaces the table and the content of both files. The bytes are copied. */
void memory_files_start(const uint8_t *bytes, size_t length);
/* Nothing may be open any more: a descriptor that was left open is a broken promise. */
void memory_files_end(void);

/* The image as vb_policy_open would return it, for reading and writing. */
struct vb_file memory_files_open(void);
/* The chain whose top is the image; NULL with `error` filled. `terminated`: no backing file is followed. */
struct vb_chain *memory_files_chain(bool terminated, struct vb_error *error);

#endif
