/* SPDX-License-Identifier: MIT */
/* Connecting to one address.  See connect.c. */
#ifndef CONCUR_CONNECT_H
#define CONCUR_CONNECT_H

#include "socket.h"

#pragma GCC visibility push(hidden)

/* Adds `connect_tcp` and `connect_unix` to the table on top of the stack. */
void concur_connect_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
