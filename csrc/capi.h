/* SPDX-License-Identifier: MIT */
/* The table of include/concur.h, for other C modules.  [loop thread] */
#ifndef CONCUR_CAPI_H
#define CONCUR_CAPI_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* Called by luaopen last, with the table of the core's functions on top of the stack. */
void concur_capi_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
