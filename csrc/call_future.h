/* SPDX-License-Identifier: MIT */
/*
 * The futures that `submit` returns: each belongs to one call until its reply was delivered.
 * Cancelling one takes its call out of the queue or asks the worker to stop, and may interrupt it
 * after a time.                                                                     [loop thread]
 */
#ifndef CONCUR_CALL_FUTURE_H
#define CONCUR_CALL_FUTURE_H

#include "executor.h"
#include "future.h"

#pragma GCC visibility push(hidden)

typedef struct concur_call_future {
  concur_future future;
  concur_call *call; /* borrowed while in flight; NULL once it was delivered */
} concur_call_future;

/* User values of such a future; the first is concur_future's own. */
enum { CONCUR_CALL_FUTURE_REASON = 2, CONCUR_CALL_FUTURE_VALUES = 2 };

extern const concur_future_ops concur_call_future_ops;

static inline concur_call_future *concur_call_future_of(concur_future *future) {
  return concur_container_of(future, concur_call_future, future);
}

/* Lets the future go, and the strings that were lent.  Never raises. */
void concur_call_release_anchors(lua_State *L, concur_runtime *runtime, concur_call *call);

/* The call's loop need not wait for it any more. */
void concur_call_let_loop_go(concur_call *call);

/* Settles the call's future, if it is not, without Lua. */
void concur_call_settle_quietly(concur_call *call, concur_future_state state);

#pragma GCC visibility pop

#endif
