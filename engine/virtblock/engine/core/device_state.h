/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a block device was written. Owns: what the kernel counts of one. */
#ifndef VB_DEVICE_STATE_H
#define VB_DEVICE_STATE_H

#include <stdint.h>

/* A number that is another one after any write or discard by anybody on this host, for another device under the number, and after
 * a boot, which begins the counts anew. Where the kernel counts nothing it is never the same: what cannot be known has changed.
 * `device`: st_rdev. */
uint64_t vb_device_state(uint64_t device);

#endif
