/* SPDX-License-Identifier: MIT */
/*
 * The environment of a worker's state: how `require` finds in it what it finds in the state that
 * made the pool.  Captured once per pool, at its first job, on the owner's thread; applied to every
 * state that a worker of the pool makes.
 */
#ifndef CONCUR_ENVIRONMENT_H
#define CONCUR_ENVIRONMENT_H

#include <lua.h>

#include "call.h"

#pragma GCC visibility push(hidden)

/* [owner's thread] Fills in settings->environment and settings->preloads from L's `package`.
   Raises. */
void concur_environment_capture(lua_State *L, concur_worker_settings *settings);

/* Pushes the path of the interpreter that runs this program, here or in the state that this worker
   comes from; nil when the program is none of Lua's own. */
void concur_environment_push_interpreter(lua_State *L);

/* [worker thread] Sets L's `package` up.  Raises. */
void concur_environment_apply(lua_State *L, const concur_worker_settings *settings);

#pragma GCC visibility pop

#endif
