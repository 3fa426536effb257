/* SPDX-License-Identifier: MIT */
/* What concur.compat.socket asks the system for: options of sockets by LuaSocket's names, and some
   more.  See raw_socket.c. */
#ifndef CONCUR_RAW_SOCKET_H
#define CONCUR_RAW_SOCKET_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* Adds its functions to the table on top of the stack.  Called by luaopen. */
void concur_raw_socket_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
