/* SPDX-License-Identifier: MIT */
/*
 * Connecting to one address; several at once are lua/concur/net.lua's.           [loop thread]
 *
 * An *attempt* is libuv's request and lives until its callback has run, which libuv promises, also
 * when the stream is closed meanwhile.  The fiber that waits points to the attempt and the attempt
 * to it; cancelled, it closes the stream.  The outcome is left in the stream itself: it is open, or
 * tells why it is not.
 */
#include "connect.h"

#include <errno.h>
#include <stdlib.h>

typedef struct attempt {
  uv_connect_t request;
  concur_stream *stream; /* borrowed: its handle lives as long as the request */
  concur_fiber *fiber;   /* parked; NULL: given up */
  concur_tcp_options options;
} attempt;

/* Gives the attempt up; the callback comes all the same. */
static bool abort_attempt(concur_fiber *fiber) {
  attempt *self = fiber->target;
  self->fiber = NULL;
  concur_stream_abort(self->stream);
  return true;
}

static void detach_attempt(concur_fiber *fiber) {
  (void)abort_attempt(fiber);
}

static const concur_wait wait_connect = {
    .name = "connect", .abort = abort_attempt, .detach = detach_attempt};

static void on_connect(uv_connect_t *request, int status) {
  attempt *self = concur_container_of(request, attempt, request);
  if (self->fiber != NULL) {
    if (status == 0) {
      concur_tcp_options_set(&self->options, (uv_tcp_t *)concur_stream_handle(self->stream));
      concur_stream_opened(self->stream, CONCUR_STREAM_READABLE | CONCUR_STREAM_WRITABLE);
    } else {
      concur_stream_fail_opening(self->stream, status);
    }
    concur_fiber_wake(self->fiber, CONCUR_OUTCOME_VALUE);
  }
  free(self);
}

/* Pushes nil and an error that names the address. */
static int fail(lua_State *L, int error, const concur_address *address) {
  char text[CONCUR_ADDRESS_TEXT_SIZE];
  concur_address_format(address, text, sizeof text);
  return concur_os_error(L, concur_runtime_of(L), error, "connect", "address", text);
}

/* Stack: host, port, options, the stream. */
static int connected(lua_State *L, concur_fiber *fiber) {
  (void)fiber;
  int error = concur_stream_opening_error(L, 4);
  if (error == 0) return 1;
  concur_address address;
  concur_socket_check_address(L, 1, &address);
  return fail(L, error, &address);
}

/* Starts connecting.  A libuv code; the attempt is freed unless it is 0. */
static int start(attempt *self, const concur_address *address, const concur_address *from) {
  uv_tcp_t *tcp = (uv_tcp_t *)concur_stream_handle(self->stream);
  int error = 0;
  if (from->size > 0) error = uv_tcp_bind(tcp, concur_address_sockaddr(from), 0);
  if (error == 0) {
    error = uv_tcp_connect(&self->request, tcp, concur_address_sockaddr(address), on_connect);
  }
  if (error != 0) free(self);
  return error;
}

/* `local_address` and `local_port` of the options at index 3; size 0: neither is there. */
static void read_local(lua_State *L, const concur_address *to, concur_address *from) {
  from->size = 0;
  if (!lua_istable(L, 3)) return;
  bool address = lua_getfield(L, 3, "local_address") != LUA_TNIL;
  bool port = lua_getfield(L, 3, "local_port") != LUA_TNIL;
  if (address || port) {
    int is_port = 1;
    lua_Integer number = port ? lua_tointegerx(L, -1, &is_port) : 0;
    size_t length;
    if (!address) lua_pushstring(L, to->storage.ss_family == AF_INET6 ? "::" : "0.0.0.0");
    const char *host = lua_tolstring(L, address ? -2 : -1, &length);
    luaL_argcheck(L, is_port && number >= 0 && number <= UINT16_MAX, 3,
                  "option 'local_port' is not a port");
    luaL_argcheck(L, host != NULL && strlen(host) == length &&
                         concur_address_parse(from, host, (int)number) == 0,
                  3, "option 'local_address' is not an IP address");
  }
  lua_settop(L, 3);
}

/* Stack: host, port, options. */
static int connect_body(lua_State *L, concur_fiber *fiber) {
  concur_address address;
  concur_address from;
  concur_socket_check_address(L, 1, &address);
  read_local(L, &address, &from);
  concur_tcp_options options = concur_tcp_options_read(L, 3);
  concur_stream *stream = concur_stream_new(L, fiber->scheduler->runtime, CONCUR_STREAM_TCP);
  char text[CONCUR_ADDRESS_TEXT_SIZE];
  concur_address_format(&address, text, sizeof text);
  concur_stream_set_peer(stream, text);
  attempt *self = calloc(1, sizeof *self);
  if (self == NULL) return luaL_error(L, "not enough memory");
  self->stream = stream;
  self->fiber = fiber;
  self->options = options;
  int error = start(self, &address, &from);
  if (error == 0) return concur_fiber_park(L, fiber, &wait_connect, self, connected);
  concur_stream_abort(stream);
  return fail(L, error, &address);
}

/* core.connect_tcp(host, port [, options]): host is a number.  -> stream, or nil, err.  Suspends.
   Options: local_address, local_port, nodelay, keepalive; others are not looked at. */
static int l_connect_tcp(lua_State *L) {
  concur_address address;
  lua_settop(L, 3);
  concur_socket_check_address(L, 1, &address);
  read_local(L, &address, &address);
  (void)concur_tcp_options_read(L, 3);
  return concur_fiber_begin(L, connect_body);
}

/* core.connect_unix(path) -> stream, or nil, err.  Never suspends: EAGAIN means that the server's
   queue is full. */
static int l_connect_unix(lua_State *L) {
  concur_address address;
  lua_settop(L, 1);
  concur_socket_check_path(L, 1, &address);
  concur_stream *stream = concur_stream_new(L, concur_runtime_of(L), CONCUR_STREAM_PIPE);
  int fd;
  int error = concur_socket_new(AF_UNIX, &fd);
  if (error == 0) {
    int result;
    do {
      result = connect(fd, concur_address_sockaddr(&address), address.size);
    } while (result != 0 && errno == EINTR);
    error = result == 0 ? concur_socket_into(stream, fd) : uv_translate_sys_error(errno);
  }
  if (error == 0) return 1;
  concur_socket_close(fd);
  concur_stream_abort(stream);
  return fail(L, error, &address);
}

void concur_connect_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {
      {"connect_tcp", l_connect_tcp}, {"connect_unix", l_connect_unix}, {NULL, NULL}};
  concur_register(L, runtime, functions);
}
