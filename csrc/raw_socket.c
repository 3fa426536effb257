/* SPDX-License-Identifier: MIT */
/*
 * What concur.compat.socket asks the system for, about descriptors that streams own: plain calls
 * that never wait.  No state.                                                     [loop thread]
 *
 * The functions take the descriptor as their first argument and answer nil, errno when they fail.
 */
#include "raw_socket.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "wait_fd.h"

typedef enum option_kind { FLAG, NUMBER, LINGER, ERROR } option_kind;

typedef struct option {
  const char *name; /* LuaSocket's */
  int level;
  int number;
  option_kind kind;
} option;

static const option options[] = {
    {"keepalive", SOL_SOCKET, SO_KEEPALIVE, FLAG},
    {"reuseaddr", SOL_SOCKET, SO_REUSEADDR, FLAG},
    {"reuseport", SOL_SOCKET, SO_REUSEPORT, FLAG},
    {"dontroute", SOL_SOCKET, SO_DONTROUTE, FLAG},
    {"broadcast", SOL_SOCKET, SO_BROADCAST, FLAG},
    {"linger", SOL_SOCKET, SO_LINGER, LINGER},
    {"error", SOL_SOCKET, SO_ERROR, ERROR},
    {"recv-buffer-size", SOL_SOCKET, SO_RCVBUF, NUMBER},
    {"send-buffer-size", SOL_SOCKET, SO_SNDBUF, NUMBER},
    {"tcp-nodelay", IPPROTO_TCP, TCP_NODELAY, FLAG},
#ifdef TCP_KEEPIDLE
    {"tcp-keepidle", IPPROTO_TCP, TCP_KEEPIDLE, NUMBER},
    {"tcp-keepcnt", IPPROTO_TCP, TCP_KEEPCNT, NUMBER},
    {"tcp-keepintvl", IPPROTO_TCP, TCP_KEEPINTVL, NUMBER},
#endif
    {"ipv6-v6only", IPPROTO_IPV6, IPV6_V6ONLY, FLAG},
    {"ip-multicast-loop", IPPROTO_IP, IP_MULTICAST_LOOP, FLAG},
    {"ip-multicast-ttl", IPPROTO_IP, IP_MULTICAST_TTL, NUMBER},
    {"ipv6-unicast-hops", IPPROTO_IPV6, IPV6_UNICAST_HOPS, NUMBER},
    {"ipv6-multicast-hops", IPPROTO_IPV6, IPV6_MULTICAST_HOPS, NUMBER},
    {"ipv6-multicast-loop", IPPROTO_IPV6, IPV6_MULTICAST_LOOP, FLAG},
};

static const option *find_option(const char *name) {
  for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
    if (strcmp(options[i].name, name) == 0) return &options[i];
  }
  return NULL;
}

/* The system's words for an error, which are the ones that LuaSocket's users compare with. */
static void push_text(lua_State *L, int error) {
  /* NOLINTNEXTLINE(concurrency-mt-unsafe): constants, or the thread's own (glibc 2.32, musl) */
  lua_pushstring(L, strerror(error));
}

static int fail(lua_State *L) {
  int error = errno;
  luaL_pushfail(L);
  lua_pushinteger(L, error);
  return 2;
}

/* core.socket_option_kind(name) -> "boolean", "number", "table", "error" (only to be read), or nil
   for an unknown one */
static int l_option_kind(lua_State *L) {
  static const char *const kinds[] = {"boolean", "number", "table", "error"};
  const option *self = find_option(luaL_checkstring(L, 1));
  if (self == NULL) return 0;
  lua_pushstring(L, kinds[self->kind]);
  return 1;
}

/* C has no such conversion for numbers that do not fit, and NaN. */
static int clamp_to_int(lua_Number number) {
  if (number >= INT_MAX) return INT_MAX;
  if (number > INT_MIN) return (int)number;
  return number <= INT_MIN ? INT_MIN : 0;
}

/* core.socket_set(fd, name, value): true, or nil and errno */
static int l_set(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  const option *self = find_option(luaL_checkstring(L, 2));
  luaL_argcheck(L, self != NULL, 2, "unknown option");
  struct linger linger = {.l_onoff = 0};
  int number = 0;
  const void *value = &number;
  socklen_t size = sizeof number;
  switch (self->kind) {
  case FLAG: number = lua_toboolean(L, 3); break;
  case NUMBER: number = clamp_to_int(luaL_checknumber(L, 3)); break;
  case ERROR: return luaL_argerror(L, 2, "this option can only be read");
  case LINGER:
    luaL_checktype(L, 3, LUA_TTABLE);
    lua_getfield(L, 3, "on");
    lua_getfield(L, 3, "timeout");
    linger.l_onoff = lua_toboolean(L, -2);
    linger.l_linger = clamp_to_int(lua_tonumber(L, -1));
    value = &linger;
    size = sizeof linger;
    break;
  }
  if (setsockopt(fd, self->level, self->number, value, size) != 0) return fail(L);
  lua_pushboolean(L, 1);
  return 1;
}

/* core.socket_get(fd, name): the value, or nil and errno */
static int l_get(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  const option *self = find_option(luaL_checkstring(L, 2));
  luaL_argcheck(L, self != NULL, 2, "unknown option");
  struct linger linger = {.l_onoff = 0};
  int number = 0;
  void *value = self->kind == LINGER ? (void *)&linger : (void *)&number;
  socklen_t size = self->kind == LINGER ? sizeof linger : sizeof number;
  if (getsockopt(fd, self->level, self->number, value, &size) != 0) return fail(L);
  switch (self->kind) {
  case FLAG: lua_pushboolean(L, number); break;
  case NUMBER: lua_pushnumber(L, number); break;
  case ERROR:
    if (number == 0) return 0;
    push_text(L, number);
    break;
  case LINGER:
    lua_newtable(L);
    lua_pushboolean(L, linger.l_onoff);
    lua_setfield(L, -2, "on");
    lua_pushinteger(L, linger.l_linger);
    lua_setfield(L, -2, "timeout");
    break;
  }
  return 1;
}

/* core.socket_stop_receiving(fd): nothing is received any more */
static int l_stop_receiving(lua_State *L) {
  if (shutdown((int)luaL_checkinteger(L, 1), SHUT_RD) != 0) return fail(L);
  lua_pushboolean(L, 1);
  return 1;
}

/* core.socket_ready(fd, "r" or "w"): does not wait */
static int l_ready(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  int event = *luaL_checkstring(L, 2) == 'w' ? CONCUR_FD_WRITE : CONCUR_FD_READ;
  lua_pushboolean(L, concur_fd_probe(fd, event) != 0); /* an error: the next call will tell */
  return 1;
}

/* core.strerror(errno) */
static int l_strerror(lua_State *L) {
  push_text(L, (int)luaL_checkinteger(L, 1));
  return 1;
}

/* core.wall_time(): seconds since 1970 */
static int l_wall_time(lua_State *L) {
  uv_timeval64_t now;
  if (uv_gettimeofday(&now) != 0) return 0;
  lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_usec / 1e6);
  return 1;
}

/* core.host_name() */
static int l_host_name(lua_State *L) {
  char name[UV_MAXHOSTNAMESIZE];
  size_t size = sizeof name;
  if (uv_os_gethostname(name, &size) != 0) return 0;
  lua_pushlstring(L, name, size);
  return 1;
}

void concur_raw_socket_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"socket_option_kind", l_option_kind},
                                {"socket_set", l_set},
                                {"socket_get", l_get},
                                {"socket_stop_receiving", l_stop_receiving},
                                {"socket_ready", l_ready},
                                {"strerror", l_strerror},
                                {"wall_time", l_wall_time},
                                {"host_name", l_host_name},
                                {NULL, NULL}};
  concur_register(L, runtime, functions);
}
