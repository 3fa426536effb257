/* SPDX-License-Identifier: MIT */
/*
 * gather, settle, race, any: several inputs, all of them ended before the caller goes on.
 *
 * join_inputs.c reads and checks what a call was given, join.c runs it, join_results.c makes what
 * it returns.  A *join* is a userdata with an entry for each input; it lies at index 1 of the
 * caller's frame.  Its user values: the handles (futures by position; before the start, functions
 * too) and the keys by position, or nil.                                     [loop thread]
 */
#ifndef CONCUR_JOIN_H
#define CONCUR_JOIN_H

#include "task.h"

#pragma GCC visibility push(hidden)

typedef enum concur_join_mode {
  CONCUR_GATHER,
  CONCUR_SETTLE,
  CONCUR_RACE,
  CONCUR_ANY
} concur_join_mode;

extern const char *const concur_join_names[]; /* by mode: "gather", ... */

enum { CONCUR_JOIN_HANDLES = 1, CONCUR_JOIN_KEYS = 2 };

/* What a call was given. */
typedef struct concur_inputs {
  concur_join_mode mode;
  bool listed; /* in a table */
  bool keyed;  /* in a table with keys other than 1..n */
  int count;
} concur_inputs;

typedef struct concur_join concur_join;

typedef struct concur_join_entry {
  concur_waiter waiter; /* in the future's list until it settles */
  concur_join *join;
  concur_future *future; /* borrowed: the handles keep it */
} concur_join_entry;

struct concur_join {
  concur_inputs inputs;
  concur_fiber *fiber; /* NULL once orphaned */
  concur_scope *scope; /* borrowed until left */
  int slot;            /* anchors this until it is left */
  int watched;         /* inputs whose entry is set up */
  int pending;         /* of these, not settled */
  int chosen;          /* the first error (gather), the winner (race, any): position, or 0 */
  bool parked;         /* the caller waits for the last one */
  bool cancelling;     /* the rest was told to cancel */
  concur_join_entry entries[];
};

void concur_join_open(lua_State *L, concur_runtime *runtime);

/* Checks all arguments of a call before anything is started, and pushes the handles and the keys.
   `mode` is set. */
void concur_join_read(lua_State *L, concur_runtime *runtime, concur_inputs *inputs);

/* All inputs have ended, the join is left: pushes what the call returns, or raises. */
int concur_join_finish(lua_State *L, concur_fiber *fiber, const concur_join *join);

#pragma GCC visibility pop

#endif
