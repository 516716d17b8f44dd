/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Persistent bitmaps on disk: constants, and what reading and changing share. Internal to the core.
 *
 * Owns: every number that the format fixes for bitmaps (QEMU's docs/interop/qcow2) and QEMU's limits on top of it.
 */
#ifndef VB_QCOW2_BITMAP_FORMAT_H
#define VB_QCOW2_BITMAP_FORMAT_H

#include "qcow2.h"
#include "qcow2_bitmaps.h"

#define VB_QCOW2_BITMAPS_EXTENSION_BYTES 24u   /* count, reserved, size and offset of the directory */
#define VB_QCOW2_BITMAP_ENTRY_BYTES 24u        /* the fixed part of an entry of the directory */
#define VB_QCOW2_BITMAP_TYPE_DIRTY 1u
#define VB_QCOW2_BITMAP_GRANULARITY_BITS_MIN 9u
#define VB_QCOW2_BITMAP_GRANULARITY_BITS_MAX 31u
#define VB_QCOW2_BITMAP_BITS_MAX (1ull << 32)
#define VB_QCOW2_BITMAP_TABLE_SIZE_MAX (1u << 27)

#define VB_QCOW2_BITMAP_IN_USE (1u << 0)
#define VB_QCOW2_BITMAP_AUTO (1u << 1)
#define VB_QCOW2_BITMAP_FLAGS_RESERVED 0xfffffffcu   /* bit 2 speaks of extra data, which nobody writes */

#define VB_QCOW2_BITMAP_ALL_ONES (1ull << 0)   /* in a table entry without a cluster */
#define VB_QCOW2_BITMAP_TABLE_RESERVED 0xff000000000001feull

/* Table entries that a bitmap of this granularity has, and whether its bits stay within the limit. */
uint64_t vb_qcow2_bitmap_table_size(const struct vb_qcow2_header *header, uint32_t granularity_bytes);
bool vb_qcow2_bitmap_fits(const struct vb_qcow2_header *header, uint32_t granularity_bytes);

/* As vb_persistent_bitmaps_read, of a header that was read already. */
int vb_qcow2_bitmaps_read(const struct vb_file *file, const struct vb_qcow2_header *header, struct vb_persistent_bitmaps *bitmaps,
			  struct vb_error *error);
/* Says of every valid bitmap, durably, that it does not mark all that was written. The directory lies where the header says, alone and
 * within the file; its size does not change. */
int vb_qcow2_bitmaps_set_in_use(const struct vb_file *file, const struct vb_qcow2_header *header, struct vb_error *error);
/* BITMAP with the reason when the bitmap says nothing. */
int vb_persistent_bitmap_check_usable(const struct vb_persistent_bitmap *bitmap, const char *path, struct vb_error *error);

/* Every entry of a bitmap's table in order; `visit` returns 0 to go on. */
typedef int (*vb_bitmap_table_visitor)(void *opaque, uint64_t index, uint64_t entry, uint64_t at_bytes, struct vb_error *error);
int vb_qcow2_visit_bitmap_table(const struct vb_file *file, const struct vb_persistent_bitmap *bitmap, vb_bitmap_table_visitor visit,
				void *opaque, struct vb_error *error);
int vb_qcow2_check_bitmap_table_entry(const struct vb_file *file, uint32_t cluster_bytes, uint64_t entry, uint64_t at_bytes,
				      struct vb_error *error);

#endif
