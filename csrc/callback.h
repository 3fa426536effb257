/* SPDX-License-Identifier: MIT */
/* Functions that the loop calls: call_soon, call_later, call_at, done callbacks.  See callback.c. */
#ifndef CONCUR_CALLBACK_H
#define CONCUR_CALLBACK_H

#include "future.h"

#pragma GCC visibility push(hidden)

void concur_callback_open(lua_State *L, concur_runtime *runtime);

/* Stack: future, function.  Calls function(future) when the future has settled, through the ready
   queue, also when it has already. */
void concur_callback_on_settled(lua_State *L, concur_runtime *runtime, concur_future *future);

/* Drops the calls of call_later and call_at that are not due yet. */
void concur_callback_drop_timers(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
