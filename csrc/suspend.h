/* SPDX-License-Identifier: MIT */
/* concur.suspend: the bridge to callback APIs.  See suspend.c. */
#ifndef CONCUR_SUSPEND_H
#define CONCUR_SUSPEND_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_suspend_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
