/* SPDX-License-Identifier: MIT */
/*
 * Streams: bytes in order, in and out, over any libuv stream; with the methods of Lua's files.
 *
 * A *stream* is a structure around a uv_tcp_t or uv_pipe_t.  Scripts hold a userdata that points to
 * it.  How another file makes one (a connection, a pipe of a child process):
 *
 *   concur_stream *stream = concur_stream_new(L, runtime, CONCUR_STREAM_PIPE);  // pushes it, closed
 *   uv_stream_t *uv = concur_stream_handle(stream);   // initialised, without a descriptor
 *   ... uv_spawn, uv_accept, uv_tcp_open, uv_tcp_connect ... on `uv`
 *   concur_stream_opened(stream, CONCUR_STREAM_READABLE);  // from now on it can be used
 *
 * Until it is opened every method says that the stream is closed.  If opening fails, leave it: its
 * finalizer closes the handle, or call concur_stream_abort.  While libuv works on the handle (a
 * connect request) the structure stays where it is, whatever happens to the userdata.
 *
 * Who frees: the structure is the memory behind the userdata (support.h), anchored until the handle's
 * close callback; docs/design/streams.md has the states.  Everything here: [loop thread].
 */
#ifndef CONCUR_STREAM_H
#define CONCUR_STREAM_H

#include <uv.h>

#include "fiber.h"

#pragma GCC visibility push(hidden)

typedef struct concur_stream concur_stream;

typedef enum concur_stream_kind {
  CONCUR_STREAM_TCP, /* uv_tcp_t */
  CONCUR_STREAM_PIPE /* uv_pipe_t: pipes and Unix sockets */
} concur_stream_kind;

/* Directions of concur_stream_opened. */
enum { CONCUR_STREAM_READABLE = 1, CONCUR_STREAM_WRITABLE = 2 };

/* Defines the class.  Called by luaopen. */
void concur_stream_open(lua_State *L, concur_runtime *runtime);

/* Pushes a new stream, closed as yet, whose libuv handle is initialised.  Makes the loop if there is
   none.  Raises. */
concur_stream *concur_stream_new(lua_State *L, concur_runtime *runtime, concur_stream_kind kind);

/* The libuv handle: until concur_stream_opened for whoever opens it, then only to ask it things. */
uv_stream_t *concur_stream_handle(concur_stream *stream);

/* The handle has its descriptor: the methods work, in the directions given. */
void concur_stream_opened(concur_stream *stream, unsigned directions);

/* The name of the other side, for messages of errors: copied, cut when it is long.  May be NULL. */
void concur_stream_set_peer(concur_stream *stream, const char *peer);

/* It could not be opened: it is closed, and this is the (libuv) reason. */
void concur_stream_fail_opening(concur_stream *stream, int error);
/* 0 when the stream at `index` is open, else why it could not be opened. */
int concur_stream_opening_error(lua_State *L, int index);

/* Closes at once; what was not sent is lost.  The userdata stays, closed.  Idempotent, never fails. */
void concur_stream_abort(concur_stream *stream);

/* The stream at `index`: NULL when the userdata there is a stream that is closed or not opened yet;
   an argument error when it is something else. */
concur_stream *concur_stream_test(lua_State *L, int index);
/* The same, and Closed is raised where test returns NULL. */
concur_stream *concur_stream_check(lua_State *L, int index);

/* The kind of an open stream. */
concur_stream_kind concur_stream_kind_of(const concur_stream *stream);

/* Adds methods to the class: for files above this one.  Called while luaopen runs. */
void concur_stream_add_methods(lua_State *L, concur_runtime *runtime, const luaL_Reg *methods);

#pragma GCC visibility pop

#endif
