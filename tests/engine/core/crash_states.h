/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The states in which a crash may leave the model disk.
 *
 * What was synced is there. Of what came after a file's last sync, any sector may be as it was after any of the changes, or as before;
 * the size likewise; and the folder's entries are those of any moment since its last sync. A sync that failed makes nothing durable, and what it
 * should have written may be gone for good, whatever later syncs say.
 */
#ifndef CRASH_STATES_H
#define CRASH_STATES_H

#include "model_disk.h"

enum survival_kind {
	SURVIVES_NOTHING = 0,   /* of what is not synced */
	SURVIVES_ALL,
	SURVIVES_ONE,           /* the operation `which` alone */
	SURVIVES_ALL_BUT_ONE,
	SURVIVES_SOME           /* chosen by `seed`: operations, whole or torn, sizes, entries */
};

struct survival {
	enum survival_kind kind;
	size_t which;
	unsigned long long seed;
};

/* Takes the log of model_disk.h over `before`, the disk when the recording began; the model disk is what it became. The log stays as it is
 * until crash_end. */
void crash_begin(const struct model_disk *before);
void crash_end(void);
/* Back to no operations at all; what was seen stays so. */
void crash_rewind(const struct model_disk *before);
/* How many operations happened before the crash: never lower than the last time. */
void crash_advance(size_t op_count);
/* Whether the operation may be lost; those of names and syncs never are by themselves. */
bool crash_is_pending(size_t op_index);
void crash_make(const struct survival *survival, struct model_disk *state);

/* Whether a state was never seen since crash_begin; from now on it was. */
bool crash_is_new_state(const struct model_disk *state);

#endif
