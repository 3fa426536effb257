/* SPDX-License-Identifier: MIT */
/*
 * What the functions of include/concur.h know of a Lua state, and what they share.  [loop thread]
 */
#ifndef CONCUR_CAPI_STATE_H
#define CONCUR_CAPI_STATE_H

#include <concur.h>

#include "fiber.h"

#pragma GCC visibility push(hidden)

/* In Lua's memory, anchored: lives as long as the runtime. */
typedef struct concur_capi {
  concur_runtime *runtime; /* borrowed: outlives this */
  concur_node futures;     /* of concur_future_ref, not settled */
  concur_node timers;      /* of concur_timer_ref, also those at rest */
  uint32_t holds;          /* counted in the loop's external_refs */
  uv_thread_t thread;      /* the state's own */
} concur_capi;

/* Makes it, and fills in runtime->capi. */
void concur_capi_state_open(lua_State *L, concur_runtime *runtime);

/* What belongs to the state of L, for the function of this name.  Raises when concur is not loaded
   there.  In a debug build it ends the process when this is the wrong thread. */
concur_capi *concur_capi_of(lua_State *L, const char *function);
/* The same; NULL instead of raising. */
concur_capi *concur_capi_test(lua_State *L, const char *function);

/* In a debug build ends the process unless this is the thread. */
void concur_capi_check_thread(uv_thread_t thread, const char *function);

/* The loop of the state, made on first use.  Raises. */
concur_loop *concur_capi_loop(lua_State *L, concur_capi *capi);

/* Calls `call(L, data)` through the door; its error goes to on_error.  True when it returned. */
bool concur_capi_call(concur_loop *loop, concur_call_fn call, void *data);

#pragma GCC visibility pop

#endif
