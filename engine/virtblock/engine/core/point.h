/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named points in what threads do, at which tests hold one thread until another has come to its own.
 *
 * Invariants: nothing is compiled at a point but in the tests, which define VB_POINTS and the function. A name is its place's alone: what the
 * thread is about to do, or has just done. No mutex is held at a point, but at those that say that a thread goes to sleep.
 */
#ifndef VB_POINT_H
#define VB_POINT_H

#ifdef VB_POINTS
void vb_point(const char *name);
#define VB_POINT(name) vb_point(name)
#else
#define VB_POINT(name) ((void)0)
#endif

#endif
