/* SPDX-License-Identifier: MIT */
/*
 * Shortcuts for small jobs: what most of them send does not need a message.
 *
 * Up to four scalars and short strings lie in the call itself (concur_inline).  A function without
 * upvalues of its own, sent for the second time, is encoded once (concur_function) and from then on
 * named by a number; a worker decodes it once and keeps it.
 *
 * Caches have a fixed number of slots, chosen by address or number; a newcomer takes the place.
 */
#ifndef CONCUR_SHORTCUT_H
#define CONCUR_SHORTCUT_H

#include <lua.h>

#include "call.h"

#pragma GCC visibility push(hidden)

enum { CONCUR_CACHE_SLOTS = 32 }; /* a power of two */

/* [owner's thread] Which functions were sent through one view of a pool. */
typedef struct concur_function_cache {
  int table_ref; /* registry: slot + 1 -> the function, so that its address stays its own; 0: none */
  struct {
    const void *address;       /* of the function that was sent last, or that `function` is */
    concur_function *function; /* one reference; NULL: sent only once so far */
  } slots[CONCUR_CACHE_SLOTS];
} concur_function_cache;

/* [worker thread] The functions that a worker's state knows. */
typedef struct concur_known_functions {
  int table_ref; /* registry: slot + 1 -> function; 0: none */
  uint64_t numbers[CONCUR_CACHE_SLOTS]; /* 0: free */
} concur_known_functions;

/* Copies `count` values from stack index `first`; false (and nothing) if they are too many, too
   large or of other types. */
bool concur_inline_take(lua_State *L, int first, int count, concur_inline *values);
/* Pushes them. */
int concur_inline_push(lua_State *L, const concur_inline *values);
/* True when pushing them allocates nothing. */
bool concur_inline_is_plain(const concur_inline *values);

/* [owner's thread] The function at `index` as one that is known by number, with a reference; NULL if
   it is not one.  Raises TransferError when it cannot cross. */
concur_function *concur_function_of(lua_State *L, concur_function_cache *cache, concur_pool *pool,
                                    int index);
void concur_function_cache_free(lua_State *L, concur_function_cache *cache);

/* [worker thread] Pushes the function.  Raises. */
void concur_function_push(lua_State *L, concur_known_functions *known,
                          const concur_function *function);

#pragma GCC visibility pop

#endif
