/* SPDX-License-Identifier: MIT */
/*
 * Streams on descriptors that are there already: from outside, and pairs.      [loop thread]
 *
 * A descriptor belongs to the stream from the moment that opening it succeeded; before that it is
 * still the caller's.
 */
#include "socket.h"

#include <fcntl.h>
#include <unistd.h>

/* The directions that the descriptor allows. */
static unsigned directions_of(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags == -1) return 0;
  int mode = flags & O_ACCMODE;
  if (mode == O_RDONLY) return CONCUR_STREAM_READABLE;
  if (mode == O_WRONLY) return CONCUR_STREAM_WRITABLE;
  return CONCUR_STREAM_READABLE | CONCUR_STREAM_WRITABLE;
}

/* Puts the descriptor into a new stream.  A libuv error code. */
static int open_fd(concur_stream *stream, int fd) {
  uv_stream_t *uv = concur_stream_handle(stream);
  int error = concur_stream_kind_of(stream) == CONCUR_STREAM_TCP
                  ? uv_tcp_open((uv_tcp_t *)uv, fd)
                  : uv_pipe_open((uv_pipe_t *)uv, fd);
  if (error == 0) concur_stream_opened(stream, directions_of(fd));
  return error;
}

/* core.stream_from_fd(fd): the stream owns the descriptor when it succeeded. */
static int l_stream_from_fd(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd <= INT_MAX, 1, "not a descriptor");
  concur_stream_kind kind;
  switch (uv_guess_handle((uv_file)fd)) {
  case UV_TCP: kind = CONCUR_STREAM_TCP; break;
  case UV_NAMED_PIPE: kind = CONCUR_STREAM_PIPE; break;
  default: return concur_os_error(L, runtime, UV_EINVAL, "not a pipe or stream socket", NULL, NULL);
  }
  concur_stream *stream = concur_stream_new(L, runtime, kind);
  int error = open_fd(stream, (int)fd);
  if (error == 0) return 1;
  concur_stream_abort(stream);
  return concur_os_error(L, runtime, error, "opening a descriptor", NULL, NULL);
}

/* core.socketpair() -> two streams that are connected to each other */
static int l_socketpair(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  lua_settop(L, 0);
  concur_stream *ends[2];
  for (int i = 0; i < 2; i++) ends[i] = concur_stream_new(L, runtime, CONCUR_STREAM_PIPE);
  uv_os_sock_t fds[2];
  int error = uv_socketpair(SOCK_STREAM, 0, fds, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE);
  for (int i = 0; i < 2 && error == 0; i++) {
    error = open_fd(ends[i], fds[i]);
    if (error != 0) {
      for (; i < 2; i++) (void)close(fds[i]);
    }
  }
  if (error == 0) return 2;
  for (int i = 0; i < 2; i++) concur_stream_abort(ends[i]);
  return concur_os_error(L, runtime, error, "socketpair", NULL, NULL);
}

void concur_socket_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {
      {"stream_from_fd", l_stream_from_fd}, {"socketpair", l_socketpair}, {NULL, NULL}};
  concur_register(L, runtime, functions);
}
