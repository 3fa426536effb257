/* SPDX-License-Identifier: MIT */
/* Datagrams: concur.Udp.  See udp.c. */
#ifndef CONCUR_UDP_H
#define CONCUR_UDP_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* Defines the class; adds `udp`, `udp_methods` and what lua/concur/net_udp.lua needs to the table
   on top of the stack.  Called by luaopen. */
void concur_udp_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
