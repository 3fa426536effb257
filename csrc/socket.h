/* SPDX-License-Identifier: MIT */
/* Sockets under streams: descriptors, addresses, options.  See socket.c. */
#ifndef CONCUR_SOCKET_H
#define CONCUR_SOCKET_H

#include "address.h"
#include "stream.h"

#pragma GCC visibility push(hidden)

/* Adds its functions to the table on top of the stack, and methods to concur.Stream. */
void concur_socket_open(lua_State *L, concur_runtime *runtime);

/* A new non-blocking socket that no child process inherits.  *fd, and 0 or a libuv code. */
int concur_socket_new(int family, int *fd);

/* Closes a descriptor that no stream owns. */
void concur_socket_close(int fd);

/* Puts a connected descriptor into a stream that is not open yet, which owns it when this returns 0;
   a libuv code otherwise. */
int concur_socket_into(concur_stream *stream, int fd);

/* What every TCP connection of ours is set to. */
typedef struct concur_tcp_options {
  bool nodelay;           /* true at first */
  unsigned keepalive_s;   /* seconds until the first probe; 0: off */
} concur_tcp_options;

/* Reads `nodelay` and `keepalive` of the table at `index`, if there is one. */
concur_tcp_options concur_tcp_options_read(lua_State *L, int index);
/* Sets them; failures do not matter. */
void concur_tcp_options_set(const concur_tcp_options *options, uv_tcp_t *tcp);

/* Pushes an address as scripts see it: host and port, or a path (an abstract name with its zero
   byte) and nil.  Returns 2. */
int concur_socket_push_address(lua_State *L, const concur_address *address);

/* The address of host (a number) and port at `index` and the next one; raises an argument error. */
void concur_socket_check_address(lua_State *L, int index, concur_address *address);
/* The same for a path at `index`. */
void concur_socket_check_path(lua_State *L, int index, concur_address *address);

#pragma GCC visibility pop

#endif
