/* SPDX-License-Identifier: MIT */
/* What Runner and concur.testing set and ask: on_error, SIGINT, clocks, counters.  See settings.c. */
#ifndef CONCUR_SETTINGS_H
#define CONCUR_SETTINGS_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_settings_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
