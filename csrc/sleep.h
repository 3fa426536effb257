/* SPDX-License-Identifier: MIT */
/* concur.sleep, checkpoint, sleep_forever.  See sleep.c. */
#ifndef CONCUR_SLEEP_H
#define CONCUR_SLEEP_H

#include "fiber.h"

#pragma GCC visibility push(hidden)

void concur_sleep_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
