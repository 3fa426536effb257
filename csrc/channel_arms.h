/* SPDX-License-Identifier: MIT */
/* A channel's arms for select.  See channel_arms.c. */
#ifndef CONCUR_CHANNEL_ARMS_H
#define CONCUR_CHANNEL_ARMS_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* Channel:receiving and Channel:sending. */
int concur_channel_l_receiving(lua_State *L);
int concur_channel_l_sending(lua_State *L);

void concur_channel_arms_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
