/* SPDX-License-Identifier: MIT */
/* Waiting for futures, and the methods of concur.Future and concur.Task.  See await.c. */
#ifndef CONCUR_AWAIT_H
#define CONCUR_AWAIT_H

#include "task.h"

#pragma GCC visibility push(hidden)

void concur_await_open(lua_State *L, concur_runtime *runtime);

/* Pushes the results of the settled future at `index` (returns how many), or raises its error in
   the fiber, with its first traceback. */
int concur_await_results(lua_State *L, concur_fiber *fiber, int index, concur_future *future);

#pragma GCC visibility pop

#endif
