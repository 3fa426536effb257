/* SPDX-License-Identifier: MIT */
/*
 * concur.select and its arms.
 *
 * An *arm* is one thing that select may do: get from a queue, put into one, wait for an event, a
 * future, a time.  Each kind has its operations; other files add kinds with concur_arm_new.
 *                                                                            [loop thread]
 */
#ifndef CONCUR_SELECT_H
#define CONCUR_SELECT_H

#include "parking.h"

#pragma GCC visibility push(hidden)

typedef struct concur_arm concur_arm;

/* The operations of a kind of arm; `index` is the arm's stack index.  Static. */
typedef struct concur_arm_ops {
  const char *name;
  /* Commits at once if that is possible: pushes the results and returns how many.  -1: it must
     wait (nothing changed).  May raise. */
  int (*attempt)(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber);
  /* Links arm->waiter where it will be notified.  False: out of memory.  Must not raise. */
  bool (*link)(concur_arm *arm, concur_loop *loop);
  /* Takes it off again.  Must not raise.  NULL: unlinking the node is all it takes. */
  void (*unlink)(concur_arm *arm, concur_loop *loop);
  /* The arm was chosen after waiting: pushes the results and returns how many, or raises.  If a
     value was given it is on top of the stack already.  `closed`: what it waited for was closed.
     -1: nothing is there after all; the select goes on waiting, and counts `after` anew. */
  int (*finish)(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber, bool closed);
} concur_arm_ops;

/* User values: 1 what it waits for, 2 the value to put. */
struct concur_arm {
  const concur_arm_ops *ops;
  void *target; /* the C part of user value 1, or the memory behind it */
  const void *owner; /* user value 1, if that is a userdata: a script may have replaced it */
  concur_waiter waiter;
  concur_timer timer;
  uint64_t delay_ns;
  concur_node siblings; /* ring of the arms of one select, while it waits */
  concur_fiber *fiber;  /* valid while siblings is linked */
  int slot;             /* of one in the ring: anchors all its arms; else 0 */
  bool chosen;          /* and its select has not run since */
};

void concur_select_open(lua_State *L, concur_runtime *runtime);

/* Pushes a new arm for the object at `target_index`; with `value_index` != 0 the value there goes
   with it. */
concur_arm *concur_arm_new(lua_State *L, concur_runtime *runtime, const concur_arm_ops *ops,
                           int target_index, int value_index);

#pragma GCC visibility pop

#endif
