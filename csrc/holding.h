/* SPDX-License-Identifier: MIT */
/*
 * Holdings: what of C's a userdata holds, listed with its runtime.
 *
 * A finalizer is not enough for what was malloc'd, or is shared with other states.  Lua calls it like a
 * function, and drops it for good when memory is too short for that call: the object is collected
 * without.  So a userdata that holds a channel, a buffer, a pool or a process has a holding, which its
 * finalizer ends; those that are left when the state closes are ended then.
 *
 * All functions: [the state's own thread].
 */
#ifndef CONCUR_HOLDING_H
#define CONCUR_HOLDING_H

#include "support.h"

#pragma GCC visibility push(hidden)

typedef struct concur_holding {
  concur_node node;              /* in the runtime's list */
  void *object;                  /* owned, in the way that `release` undoes; NULL: nothing yet */
  void (*release)(void *object); /* never raises */
} concur_holding;

/* An empty holding; the caller sets `object` when it has it.  Raises when memory is short. */
concur_holding *concur_holding_new(lua_State *L, concur_runtime *runtime,
                                   void (*release)(void *object));

/* Releases the object and frees the holding.  NULL is allowed. */
void concur_holding_end(concur_holding *holding);

/* In a child of a fork by the host: frees the holding alone, for the object stays the parent's.  NULL is
   allowed. */
void concur_holding_abandon(concur_holding *holding);

/* The state closes: ends all that are left. */
void concur_holdings_end(concur_runtime *runtime);

#pragma GCC visibility pop

#endif
