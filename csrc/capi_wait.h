/* SPDX-License-Identifier: MIT */
/* Waiting in a C function: `await` and `join` of include/concur.h; `cancel`. */
#ifndef CONCUR_CAPI_WAIT_H
#define CONCUR_CAPI_WAIT_H

#include "capi_state.h"

#pragma GCC visibility push(hidden)

/* The table of the core's functions is on top of the stack. */
void concur_capi_wait_open(lua_State *L, concur_runtime *runtime);

int concur_capi_await(lua_State *L, int index, lua_KContext context, lua_KFunction k);
int concur_capi_join(lua_State *L, int index, lua_KContext context, lua_KFunction k);
int concur_capi_cancel(lua_State *L, int index);

#pragma GCC visibility pop

#endif
