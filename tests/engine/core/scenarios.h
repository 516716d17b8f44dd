/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jobs that are crashed and made to fail, each with its files on the model disk and with what must be true of them at any moment.
 *
 * Owns: the table of scenarios. A new kind of job is a new row.
 */
#ifndef SCENARIOS_H
#define SCENARIOS_H

#include "model_disk.h"
#include "writer.h"

#define SCENARIO_PATH MODEL_FOLDER "/copy"
#define SCENARIO_NAME "copy"
/* Of an empty file that the caller made for somebody else. */
#define SCENARIO_OWNER 107u
#define SCENARIO_MODE 0640u
/* By the bitmap "first" of the images that have one to be changed. */
#define SCENARIO_MARKED_BYTES (10u * 1024)
#define CONTENTS_MAX 24u

enum promise {
	/* The name leads to nothing, to an empty file, or to the whole new image; a partial file opens only as that. */
	PROMISE_NEW = 1,
	/* The image is as it was, does not open, or is complete; one that does not open is taken over by the next copy. */
	PROMISE_MARKED = 2,
	/* The image opens at every moment, each byte is what it was or was to become, and no cluster counts too little. */
	PROMISE_GOOD = 3,
	/* Nothing before the job's success. */
	PROMISE_AT_THE_END = 4
};

enum bitmap_change { BITMAP_NONE = 0, BITMAP_ADD, BITMAP_REMOVE, BITMAP_CLEAR };

struct scenario {
	const char *name;
	enum promise promise;
	enum vb_format format;             /* of SCENARIO_PATH */
	int (*run)(const struct scenario *scenario, struct vb_error *error);
	/* Names of files that scenarios_make makes; NULL: none. */
	const char *image;                 /* what SCENARIO_PATH is at first */
	const char *source;                /* "source" */
	const char *middle;                /* under its own name: an image between SCENARIO_PATH and the bottom */
	const char *backing;               /* under its own name: the bottom */
	uint32_t cluster_bytes;            /* of a new image */
	uint64_t size_bytes;               /* made or resized: the size wanted */
	size_t top_index;                  /* of a commit */
	size_t base_index;                 /* of a pull or commit */
	const char *end_name;              /* the file that reads as the disk too in the end */
	enum bitmap_change bitmap_change;
	enum vb_compress compression;      /* of a new image */
	enum vb_preallocation preallocation;
	const char *bitmap_name;           /* of the source: SCENARIO_PATH is an earlier copy, and only what it marks is copied */
	const char *data_file;             /* under its own name: holds the data of the source */
	uint32_t lane_count;               /* 0: one */
	bool has_journal;                  /* of a copy by a bitmap: written before and behind all that is moved; repeated, it is resumed */
	bool extended_l2;                  /* of a new image */
	bool is_shared;                    /* copied by sharing extents where that can be */
	bool is_source_qcow2;              /* though its name does not say so */
	bool is_device;                    /* SCENARIO_PATH is a block device */
	bool is_new;                       /* on a device: formatted, not reused */
	bool is_single;                    /* not to be repeated after a crash: the name is taken */
	bool is_leaky;                     /* what a job gives up (bitmaps) stays in the file, with its refcounts */
	uint32_t moves_at;                 /* the header field of a table that must have moved; 0: none */
};

/* What the image may read as, from before the job to its end. */
struct contents {
	uint8_t *bytes[CONTENTS_MAX];
	uint64_t size_bytes[CONTENTS_MAX];
	size_t count;
};

extern const struct scenario scenarios[];
extern const size_t scenario_count;

/* Makes the images of all scenarios with qemu-img in the test's folder. */
void scenarios_make(void);
/* Puts the scenario's files on the emptied model disk. */
void scenario_prepare(const struct scenario *scenario);
/* What a run after scenario_prepare shall lead through; to be freed. */
void scenario_learn(const struct scenario *scenario, struct contents *contents);
void contents_free(struct contents *contents);

#endif
