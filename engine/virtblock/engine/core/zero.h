/* SPDX-License-Identifier: Apache-2.0 */
/* Finding zeros while the chunk is hot in the cache. Owns: the scan and its dispatch by CPU; nothing else. */
#ifndef VB_ZERO_H
#define VB_ZERO_H

#include <stdbool.h>
#include <stddef.h>

bool vb_is_zero(const void *buffer, size_t length);

#endif
