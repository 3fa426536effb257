/* SPDX-License-Identifier: MIT */
/* Sockets that listen: concur.Listener.  See listener.c. */
#ifndef CONCUR_LISTENER_H
#define CONCUR_LISTENER_H

#include "socket.h"

#pragma GCC visibility push(hidden)

/* Adds `listen_tcp`, `listen_unix`, `listen_fd` to the table on top of the stack. */
void concur_listener_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
