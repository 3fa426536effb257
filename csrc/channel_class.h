/* SPDX-License-Identifier: MIT */
/* concur.Channel.  See channel_class.c. */
#ifndef CONCUR_CHANNEL_CLASS_H
#define CONCUR_CHANNEL_CLASS_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_channel_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
