/* SPDX-License-Identifier: MIT */
/* concur.ProcessPoolExecutor, as Lua sees it.  [loop thread] */
#ifndef CONCUR_PROCESS_POOL_CLASS_H
#define CONCUR_PROCESS_POOL_CLASS_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* Called by luaopen: defines the class and sets functions into the table on top of the stack. */
void concur_process_pool_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
