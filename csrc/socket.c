/* SPDX-License-Identifier: MIT */
/*
 * Sockets under streams: descriptors in and out, pairs, addresses, options.      [loop thread]
 *
 * A descriptor belongs to the stream from the moment that opening it succeeded; before that it is
 * still the caller's.
 */
#include "socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

enum { KEEPALIVE_SECONDS = 60, KEEPALIVE_MOST = 32767 };

int concur_socket_new(int family, int *fd) {
  *fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  return *fd >= 0 ? 0 : uv_translate_sys_error(errno);
}

void concur_socket_close(int fd) {
  if (fd >= 0) (void)close(fd);
}

/* ---- descriptors ---- */

/* The directions that the descriptor allows. */
static unsigned directions_of(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags == -1) return 0;
  int mode = flags & O_ACCMODE;
  if (mode == O_RDONLY) return CONCUR_STREAM_READABLE;
  if (mode == O_WRONLY) return CONCUR_STREAM_WRITABLE;
  return CONCUR_STREAM_READABLE | CONCUR_STREAM_WRITABLE;
}

int concur_socket_into(concur_stream *stream, int fd) {
  uv_stream_t *uv = concur_stream_handle(stream);
  int error = concur_stream_kind_of(stream) == CONCUR_STREAM_TCP
                  ? uv_tcp_open((uv_tcp_t *)uv, fd)
                  : uv_pipe_open((uv_pipe_t *)uv, fd);
  if (error != 0) return error;
  concur_address peer;
  char text[CONCUR_ADDRESS_TEXT_SIZE];
  if (concur_address_of_peer(&peer, fd) == 0) {
    concur_address_format(&peer, text, sizeof text);
    concur_stream_set_peer(stream, text);
  }
  concur_stream_opened(stream, directions_of(fd));
  return 0;
}

static bool is_listening(int fd) {
  int listens = 0;
  socklen_t size = sizeof listens;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens;
}

/* core.stream_from_fd(fd): the stream owns the descriptor when it succeeded. */
static int l_stream_from_fd(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd <= INT_MAX, 1, "not a descriptor");
  concur_stream_kind kind;
  switch (is_listening((int)fd) ? UV_UNKNOWN_HANDLE : uv_guess_handle((uv_file)fd)) {
  case UV_TCP: kind = CONCUR_STREAM_TCP; break;
  case UV_NAMED_PIPE: kind = CONCUR_STREAM_PIPE; break;
  default:
    if (fcntl((int)fd, F_GETFD) == -1) {
      return concur_os_error(L, runtime, UV_EBADF, "from_fd", NULL, NULL);
    }
    return concur_os_error(L, runtime, UV_EINVAL, "from_fd (not a pipe or stream socket)", NULL,
                           NULL);
  }
  concur_stream *stream = concur_stream_new(L, runtime, kind);
  int error = concur_socket_into(stream, (int)fd);
  if (error == 0) return 1;
  concur_stream_abort(stream);
  return concur_os_error(L, runtime, error, "from_fd", NULL, NULL);
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
    error = concur_socket_into(ends[i], fds[i]);
    if (error != 0) {
      for (; i < 2; i++) concur_socket_close(fds[i]);
    }
  }
  if (error == 0) return 2;
  for (int i = 0; i < 2; i++) concur_stream_abort(ends[i]);
  return concur_os_error(L, runtime, error, "socketpair", NULL, NULL);
}

/* ---- addresses ---- */

int concur_socket_push_address(lua_State *L, const concur_address *address) {
  char host[CONCUR_ADDRESS_HOST_SIZE];
  int port;
  size_t size;
  const char *path = concur_address_path(address, &size);
  if (path != NULL) {
    lua_pushlstring(L, path, size);
    lua_pushnil(L);
  } else if (concur_address_host(address, host, &port)) {
    lua_pushstring(L, host);
    lua_pushinteger(L, port);
  } else {
    /* GCOVR_EXCL_START: another family: no socket of such a one is opened here */
    lua_pushnil(L);
    lua_pushnil(L);
    /* GCOVR_EXCL_STOP */
  }
  return 2;
}

void concur_socket_check_address(lua_State *L, int index, concur_address *address) {
  size_t length;
  const char *host = luaL_checklstring(L, index, &length);
  lua_Integer port = luaL_checkinteger(L, index + 1);
  luaL_argcheck(L, port >= 0 && port <= UINT16_MAX, index + 1, "port out of range");
  if (strlen(host) != length || concur_address_parse(address, host, (int)port) != 0) {
    luaL_argerror(L, index, "not an IP address");
  }
}

/* What is wrong with a path; NULL: nothing, and *address is set. */
static const char *path_problem(const char *path, size_t size, concur_address *address) {
  if (size == 0) return "the path is empty";
  if (path[0] != '\0' && strlen(path) != size) return "the path contains a zero byte";
  return concur_address_from_path(address, path, size) == 0
             ? NULL
             : "the path is too long for a Unix socket";
}

void concur_socket_check_path(lua_State *L, int index, concur_address *address) {
  size_t size;
  const char *path = luaL_checklstring(L, index, &size);
  const char *problem = path_problem(path, size, address);
  if (problem != NULL) luaL_argerror(L, index, problem);
}

/* core.path_problem(path) -> what makes it unfit for a Unix socket, or nil.  For net.lua, which tells
   it in the name of the function that the user called. */
static int l_path_problem(lua_State *L) {
  size_t size;
  concur_address address;
  const char *path = luaL_checklstring(L, 1, &size);
  lua_pushstring(L, path_problem(path, size, &address)); /* NULL is nil */
  return 1;
}

/* core.host_problem(host) -> what makes it unfit to be looked up, or nil.  Likewise. */
static int l_host_problem(lua_State *L) {
  size_t size;
  const char *host = luaL_checklstring(L, 1, &size);
  const char *problem = NULL;
  if (strlen(host) != size) problem = "the host contains a zero byte";
  if (size >= NI_MAXHOST) problem = "the host is too long";
  lua_pushstring(L, problem);
  return 1;
}

/* core.ip_family(text) -> "inet" or "inet6" if it is an IP address that can be used here, else nil. */
static int l_ip_family(lua_State *L) {
  size_t size;
  concur_address address;
  const char *text = luaL_checklstring(L, 1, &size);
  if (strlen(text) != size || concur_address_parse(&address, text, 0) != 0) {
    luaL_pushfail(L);
  } else {
    lua_pushstring(L, address.storage.ss_family == AF_INET6 ? "inet6" : "inet");
  }
  return 1;
}

typedef int (*address_function)(concur_address *address, int fd);

static int push_address_by(lua_State *L, address_function ask, const char *call) {
  concur_stream *stream = concur_stream_check(L, 1);
  uv_os_fd_t fd;
  concur_address address;
  int error = uv_fileno((uv_handle_t *)concur_stream_handle(stream), &fd);
  if (error == 0) error = ask(&address, fd);
  if (error != 0) return concur_os_error(L, concur_runtime_of(L), error, call, NULL, NULL);
  return concur_socket_push_address(L, &address);
}

/*@lua
---The address of the other side.
---@return string? host a number; of a Unix socket its path ("" without one; abstract names begin with
---  a zero byte)
---@return integer|concur.Error|nil port nil for Unix sockets
function Stream:peer_address() end

---The address of this side.
---@return string? host
---@return integer|concur.Error|nil port
function Stream:local_address() end
*/
static int l_peer_address(lua_State *L) {
  return push_address_by(L, concur_address_of_peer, "peer_address");
}

static int l_local_address(lua_State *L) {
  return push_address_by(L, concur_address_of_socket, "local_address");
}

/* ---- options of TCP ---- */

/* `keepalive`: false, true, or seconds. */
static unsigned keepalive_at(lua_State *L, int value, int argument) {
  if (lua_isboolean(L, value)) return lua_toboolean(L, value) ? KEEPALIVE_SECONDS : 0;
  lua_Number seconds = lua_tonumber(L, value);
  luaL_argcheck(L, lua_type(L, value) == LUA_TNUMBER && seconds > 0 && seconds <= KEEPALIVE_MOST,
                argument, "keepalive must be a boolean or seconds from 1 to 32767");
  return (unsigned)ceil(seconds);
}

concur_tcp_options concur_tcp_options_read(lua_State *L, int index) {
  concur_tcp_options options = {.nodelay = true};
  if (!lua_istable(L, index)) return options;
  if (lua_getfield(L, index, "nodelay") != LUA_TNIL) options.nodelay = lua_toboolean(L, -1);
  if (lua_getfield(L, index, "keepalive") != LUA_TNIL) {
    options.keepalive_s = keepalive_at(L, lua_gettop(L), index);
  }
  lua_pop(L, 2);
  return options;
}

void concur_tcp_options_set(const concur_tcp_options *options, uv_tcp_t *tcp) {
  if (options->nodelay) (void)uv_tcp_nodelay(tcp, 1);
  if (options->keepalive_s > 0) (void)uv_tcp_keepalive(tcp, 1, options->keepalive_s);
}

static uv_tcp_t *check_tcp(lua_State *L) {
  concur_stream *stream = concur_stream_check(L, 1);
  luaL_argcheck(L, concur_stream_kind_of(stream) == CONCUR_STREAM_TCP, 1, "not a TCP stream");
  return (uv_tcp_t *)concur_stream_handle(stream);
}

static int set_result(lua_State *L, int error, const char *call) {
  if (error != 0) return concur_os_error(L, concur_runtime_of(L), error, call, NULL, NULL);
  lua_settop(L, 1);
  return 1;
}

/*@lua
---TCP: sends small writes at once (on at first), instead of waiting for the answer to earlier ones.
---@param on boolean
---@return concur.Stream? self
---@return concur.Error? error
function Stream:nodelay(on) end

---TCP: probes a connection that is silent, so that a peer that vanished is noticed (`ETIMEDOUT`).
---@param on boolean|number seconds of silence before the first probe (true: 60)
---@return concur.Stream? self
---@return concur.Error? error
function Stream:keepalive(on) end
*/
static int l_nodelay(lua_State *L) {
  uv_tcp_t *tcp = check_tcp(L);
  luaL_checkany(L, 2);
  return set_result(L, uv_tcp_nodelay(tcp, lua_toboolean(L, 2)), "nodelay");
}

static int l_keepalive(lua_State *L) {
  uv_tcp_t *tcp = check_tcp(L);
  luaL_checkany(L, 2);
  unsigned seconds = keepalive_at(L, 2, 2);
  return set_result(L, uv_tcp_keepalive(tcp, seconds > 0, seconds), "keepalive");
}

void concur_socket_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {
      {"stream_from_fd", l_stream_from_fd}, {"socketpair", l_socketpair},
      {"path_problem", l_path_problem},     {"host_problem", l_host_problem},
      {"ip_family", l_ip_family},           {NULL, NULL}};
  const luaL_Reg methods[] = {{"peer_address", l_peer_address},
                              {"local_address", l_local_address},
                              {"nodelay", l_nodelay},
                              {"keepalive", l_keepalive},
                              {NULL, NULL}};
  concur_register(L, runtime, functions);
  concur_stream_add_methods(L, runtime, methods);
}
