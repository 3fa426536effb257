/* SPDX-License-Identifier: MIT */
/* Streams on descriptors that are there already.  See socket.c. */
#ifndef CONCUR_SOCKET_H
#define CONCUR_SOCKET_H

#include "stream.h"

#pragma GCC visibility push(hidden)

/* Adds `socketpair`, `stream_from_fd` to the table on top of the stack. */
void concur_socket_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
