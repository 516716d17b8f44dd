/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: what of a copy is durable, in one small file.
 *
 * Owns: the file's form. A header that never changes says which job it belongs to; two slots are written in turn, each with a growing
 * number and a checksum over itself and the header, so that a write that is torn or lost leaves the slot before it.
 * Invariants: a journal that can be read says only what was durable on the destination when it was written: the caller makes it so
 * before it calls vb_journal_write. What is read is not trusted: every count is bounded before memory is taken, and a slot counts only with
 * its checksum. It is no error that there is none, or none that is whole: it means that nothing is known.
 */
#ifndef VB_JOURNAL_H
#define VB_JOURNAL_H

#include "digest.h"
#include "image.h"

enum vb_journal_kind { VB_JOURNAL_COPY = 1, VB_JOURNAL_PULL = 2, VB_JOURNAL_COMMIT = 3 };

/* 128 bits that stand for something that is only ever compared. */
struct vb_mark {
	uint64_t low, high;
};

struct vb_mark vb_mark_of(const void *bytes, size_t length);

/* An image of the source as it was. Of the image that the job itself writes only what stays is filled. */
struct vb_journal_layer {
	uint64_t inode;
	uint64_t size_bytes;
	uint64_t modified_ns;       /* of a block device: vb_device_state */
	struct vb_mark head;        /* of its first bytes */
	struct vb_mark data_file;   /* the same of its external data file, in one; zeros: it has none */
};

struct vb_journal_identity {
	uint64_t kind;                    /* enum vb_journal_kind */
	uint64_t granule_bytes;
	uint64_t virtual_size_bytes;
	uint64_t has_digest;
	struct vb_mark options;           /* all else that decides where a byte goes */
	struct vb_mark plan;              /* of its extents */
	uint64_t destination_device;      /* a block device's number; 0 for a file, whose device may be numbered anew by a restart */
	uint64_t destination_inode;
	uint64_t layer_count;
	struct vb_journal_layer layers[VB_CHAIN_DEPTH_MAX];
};

/* What a slot holds. `todo`: one bit per granule that is not durable; `written`: what the destination's writer keeps besides. */
struct vb_journal_state {
	struct vb_digest_sum sum;
	uint64_t *todo;
	size_t todo_count;      /* words */
	uint64_t *written;
	size_t written_count;   /* words */
};

/* Where a journal is, or will be: its folder is open, so that no link can lead elsewhere later. */
struct vb_journal_place {
	int folder_fd;
	char *path;
	const char *name;   /* last component, points into `path` */
};

int vb_journal_find_place(const char *path, struct vb_journal_place *place, struct vb_error *error);
void vb_journal_leave_place(struct vb_journal_place *place);
/* 1: a file lies there, and *found says which one it is; 0: none does; negative: error. */
int vb_journal_find_file(const struct vb_journal_place *place, struct vb_file *found, struct vb_error *error);
/* Removes the file, if there is one. What comes of it is of no interest: a stale journal is recognised. */
void vb_journal_remove(const struct vb_journal_place *place);

struct vb_journal;

/* Makes the file anew; nothing is durable before the first vb_journal_write. `place` must stay. */
struct vb_journal *vb_journal_create(const struct vb_journal_place *place, const struct vb_journal_identity *identity, size_t todo_count,
				     size_t written_count, struct vb_error *error);
/* 1: *journal is open; 0: there is none, or none with a whole header; negative: error. */
int vb_journal_open(const struct vb_journal_place *place, struct vb_journal **journal, struct vb_error *error);
void vb_journal_close(struct vb_journal *journal);
const struct vb_journal_identity *vb_journal_identity(const struct vb_journal *journal);

/* Durable when it returns 0; when it fails the state before is still there. */
int vb_journal_write(struct vb_journal *journal, const struct vb_journal_state *state, struct vb_error *error);
/* Fills the caller's words with the newest whole slot. 1: filled; 0: no slot is whole; negative: error, among them counts that are
 * not the journal's. */
int vb_journal_read(struct vb_journal *journal, struct vb_journal_state *state, struct vb_error *error);
/* The newest whole slot without its words. Returns as vb_journal_read; *is_complete: nothing was left to do. */
int vb_journal_read_end(struct vb_journal *journal, struct vb_digest_sum *sum, bool *is_complete, struct vb_error *error);

/* Words as runs of zeros, of ones, and of others. Room for `count` words at worst. */
size_t vb_journal_packed_max(size_t count);
size_t vb_journal_pack(const uint64_t *words, size_t count, uint8_t *out);
/* Reads exactly `count` words; returns how many bytes they took, SIZE_MAX when the bytes are not such a list. `words` may be NULL: only
 * *any_set is filled. */
size_t vb_journal_unpack(const uint8_t *in, size_t length, uint64_t *words, size_t count, bool *any_set);

#endif
