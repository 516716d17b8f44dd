/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interleavings, scripted: the order in which threads pass the named points of the core (point.h) and of the test.
 *
 * A script is "A:lane wrote > M:cancel > A:go > *:copy publishes": steps of actors, each of which waits for all before it. An actor is a letter:
 * whichever thread first comes to a point that is the letter's next step is that actor from then on. '*' is any thread. "go" after a
 * step keeps the actor at that step's point until it is the turn of "go". Points that are not in the rest of the script are passed freely.
 * Invariants: a script that cannot go on ends the test program after SCRIPT_WAIT_S, saying where; waiting and going on use relaxed atomics
 * alone, so that a script hides no race from a sanitizer.
 */
#ifndef SCRIPT_H
#define SCRIPT_H

#include <stdbool.h>

#define SCRIPT_WAIT_S 120u

/* No other thread that passes points may run. */
void script_start(const char *text);
/* Every step was made. Here too: no other thread. */
void script_end(void);

/* For the test's own steps: waits for the step's turn; and lets the script go on. */
void script_turn(const char *name);
void script_next(void);

/* The calling thread's letter; 0 if it has none. */
char script_actor(void);

#endif
