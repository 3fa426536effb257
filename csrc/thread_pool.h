/* SPDX-License-Identifier: MIT */
/* concur.ThreadPoolExecutor.  See thread_pool.c. */
#ifndef CONCUR_THREAD_POOL_H
#define CONCUR_THREAD_POOL_H

#include "pool_class.h"

#pragma GCC visibility push(hidden)

/* Makes a pool of threads with default settings, for the view.  Raises. */
void concur_thread_pool_open_view(lua_State *L, concur_runtime *runtime, concur_pool_view *view,
                                  const char *name);

/* default_pool.c: sets its functions into the table on top of the stack. */
void concur_default_pool_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
