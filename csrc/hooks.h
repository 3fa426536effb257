/* SPDX-License-Identifier: MIT */
/*
 * Hooks for tests that must act at an exact moment: before every switch, before every wait.
 * Internal: reachable as core.on_switch and core.on_wait, off by default.  [loop thread]
 */
#ifndef CONCUR_HOOKS_H
#define CONCUR_HOOKS_H

#include "loop.h"

#pragma GCC visibility push(hidden)

void concur_hooks_open(lua_State *L, concur_runtime *runtime);

/* Calls the wait hook, in the coroutine that is about to wait.  An error in it is reported. */
void concur_hook_wait(lua_State *L, concur_runtime *runtime);

/* Calls the switch hook, if one is set; `before_run` of a loop. */
void concur_hook_switch(concur_loop *loop);

/* True when a switch hook is set. */
bool concur_hook_switch_wanted(lua_State *L, const concur_runtime *runtime);

#pragma GCC visibility pop

#endif
