/* SPDX-License-Identifier: MIT */
/* concur.Lock.  See lock.c. */
#ifndef CONCUR_LOCK_H
#define CONCUR_LOCK_H

#include "parking.h"

#pragma GCC visibility push(hidden)

void concur_lock_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
