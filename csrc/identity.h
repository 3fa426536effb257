/* SPDX-License-Identifier: MIT */
/*
 * A hash from addresses to two numbers: how the encoder knows what it has met before.
 *
 * Open addressing.  The first few dozen entries lie inside the map, so that a small message
 * allocates nothing; the map must therefore not be moved or copied.  Entries are never removed.
 * Owned by one function or one Lua state, used by one thread at a time.
 */
#ifndef CONCUR_IDENTITY_H
#define CONCUR_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

enum { CONCUR_IDENTITY_INLINE = 32 }; /* a power of two */

typedef struct concur_identity {
  const void *address; /* NULL: a free slot */
  uint32_t first;      /* both numbers are the user's; 0 in a new entry */
  uint32_t second;
} concur_identity;

typedef struct concur_identity_map {
  concur_identity *slots; /* `inside`, or owned */
  uint32_t mask;          /* number of slots - 1 */
  uint32_t count;
  concur_identity inside[CONCUR_IDENTITY_INLINE];
} concur_identity_map;

void concur_identity_init(concur_identity_map *map);
void concur_identity_free(concur_identity_map *map);

/* The entry of an address, or NULL. */
concur_identity *concur_identity_find(const concur_identity_map *map, const void *address);

/* The entry of an address, made if there is none (*added tells).  Valid until the next one is
   added.  NULL when memory is short. */
concur_identity *concur_identity_add(concur_identity_map *map, const void *address, bool *added);

#pragma GCC visibility pop

#endif
