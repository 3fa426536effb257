/* SPDX-License-Identifier: MIT */
/* gather, settle, race, any.  See join.c. */
#ifndef CONCUR_JOIN_H
#define CONCUR_JOIN_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_join_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
