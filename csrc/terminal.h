/* SPDX-License-Identifier: MIT */
/*
 * How wide the terminal is that a standard stream leads to.         All: [the state's own thread].
 */
#ifndef CONCUR_TERMINAL_H
#define CONCUR_TERMINAL_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* Sets `terminal_width` into the table on top of the stack. */
void concur_terminal_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
