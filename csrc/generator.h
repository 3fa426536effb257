/* SPDX-License-Identifier: MIT */
/* concur.wrap: generators that may suspend the surrounding task.  See generator.c. */
#ifndef CONCUR_GENERATOR_H
#define CONCUR_GENERATOR_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_generator_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
