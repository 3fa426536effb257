/* SPDX-License-Identifier: MIT */
/* concur.Semaphore and its permits.  See semaphore.c. */
#ifndef CONCUR_SEMAPHORE_H
#define CONCUR_SEMAPHORE_H

#include "parking.h"

#pragma GCC visibility push(hidden)

void concur_semaphore_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
