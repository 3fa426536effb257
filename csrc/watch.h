/* SPDX-License-Identifier: MIT */
/* Completion order of futures, for concur.wait and concur.as_completed.  See watch.c. */
#ifndef CONCUR_WATCH_H
#define CONCUR_WATCH_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_watch_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
