/* SPDX-License-Identifier: MIT */
/*
 * Datagrams: concur.Udp, its making and closing, addresses and options.  Sending and receiving are
 * in udp_io.c.                                                                   [loop thread]
 *
 * Names of hosts are looked up by lua/concur/net_udp.lua; here a host is a number.
 *
 * Who frees: the structure is the memory behind the userdata (support.h), anchored until the poll
 * handle's close callback.
 */
#include "udp.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "parking.h"
#include "udp_options.h"
#include "udp_state.h"

concur_udp *concur_udp_test(lua_State *L) {
  return concur_udp_in(concur_class_check(L, 1, CONCUR_CLASS_UDP));
}

concur_udp *concur_udp_check(lua_State *L) {
  concur_udp *self = concur_udp_test(L);
  if (self == NULL) concur_error_raise(L, concur_runtime_of(L), "Closed", "the socket is closed");
  return self;
}

int concur_udp_push_closed(lua_State *L) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "Closed", "the socket was closed");
  return 2;
}

int concur_udp_fail(lua_State *L, int error, const char *call, const concur_address *address) {
  char text[CONCUR_ADDRESS_TEXT_SIZE];
  if (address != NULL) concur_address_format(address, text, sizeof text);
  return concur_os_error(L, concur_runtime_find(L), error, call, "address",
                         address != NULL ? text : NULL);
}

/* ---- addresses and options ---- */

/*@lua
---Sends to this address from now on, and receives only what comes from there.  Without arguments:
---from and to everywhere again.  Suspends only to look a name up.
---@async
---@param host? string
---@param port? integer
---@return true?
---@return concur.Error? error
function Udp:connect(host, port) end
*/
static int l_connect(lua_State *L) {
  const concur_udp *self = concur_udp_check(L);
  concur_address to = {.size = sizeof(struct sockaddr)};
  bool has_host = !lua_isnoneornil(L, 2);
  to.storage.ss_family = AF_UNSPEC;
  if (has_host) concur_socket_check_address(L, 2, &to);
  if (connect(self->fd, concur_address_sockaddr(&to), to.size) != 0) {
    return concur_udp_fail(L, concur_udp_last_error(), "connect", has_host ? &to : NULL);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/*@lua
---@return string? host where it receives
---@return integer|concur.Error|nil port
function Udp:address() end

---@return string? host where it is connected to
---@return integer|concur.Error|nil port or an `OSError` (`ENOTCONN`)
function Udp:peer_address() end

---The number of the descriptor.  It stays the socket's.
---@return integer
function Udp:fd() end
*/
static int push_address_by(lua_State *L, int (*ask)(concur_address *address, int fd),
                           const char *call) {
  concur_address address;
  int error = ask(&address, concur_udp_check(L)->fd);
  return error == 0 ? concur_socket_push_address(L, &address)
                    : concur_udp_fail(L, error, call, NULL);
}

static int l_address(lua_State *L) {
  return push_address_by(L, concur_address_of_socket, "address");
}

static int l_peer_address(lua_State *L) {
  return push_address_by(L, concur_address_of_peer, "peer_address");
}

static int l_fd(lua_State *L) {
  lua_pushinteger(L, concur_udp_check(L)->fd);
  return 1;
}

/* True, or nil and an error. */
static int set_options(lua_State *L, const concur_udp *self, const concur_udp_options *options) {
  const char *failed;
  int error = concur_udp_options_set(options, self->fd, self->family, &failed);
  if (error == 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  lua_pushfstring(L, "option '%s'", failed);
  return concur_os_error(L, concur_runtime_find(L), error, lua_tostring(L, -1), NULL, NULL);
}

/*@lua
---Changes options: `broadcast`, `ttl`, `multicast_ttl`, `multicast_loop`, `multicast_interface`,
---`receive_buffer`, `send_buffer`.
---@param options table
---@return true?
---@return concur.Error? error
function Udp:set(options) end

---Joins a multicast group.
---@param group string the number of the group
---@param interface? string its name, for IPv4 also its address; nil: the system chooses
---@return true?
---@return concur.Error? error `OSError`: `ENODEV`: no such interface, `EINVAL`: no such group
function Udp:join(group, interface) end

---Leaves a multicast group.
---@param group string
---@param interface? string as for `join`
---@return true?
---@return concur.Error? error
function Udp:leave(group, interface) end
*/
static int l_set(lua_State *L) {
  concur_udp_options options;
  (void)concur_udp_check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  concur_check_options(L, 2, concur_udp_option_names);
  concur_udp_options_read(L, 2, &options);
  return set_options(L, concur_udp_check(L), &options); /* a metamethod may have closed it */
}

static int change_membership(lua_State *L, bool join) {
  const concur_udp *self = concur_udp_check(L);
  const char *group = luaL_checkstring(L, 2);
  const char *interface = luaL_optstring(L, 3, NULL);
  int error = concur_udp_membership(self->fd, group, interface, join);
  if (error == 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  return concur_os_error(L, concur_runtime_of(L), error, join ? "join" : "leave", "address", group);
}

static int l_join(lua_State *L) {
  return change_membership(L, true);
}

static int l_leave(lua_State *L) {
  return change_membership(L, false);
}

/* ---- making and closing ---- */

static void close_descriptor(concur_udp *self) {
  if (self->fd >= 0) (void)close(self->fd);
  self->fd = -1;
}

static void release(concur_handle *handle) {
  concur_udp *self = concur_container_of(handle, concur_udp, handle);
  close_descriptor(self); /* there still if the loop closed it */
  concur_memory_leave(&self->backing);
}

static void udp_close(concur_udp *self) {
  concur_handle_close(&self->handle); /* libuv stops watching before the descriptor is closed */
  close_descriptor(self);
  concur_parking_close(&self->receivers);
  concur_parking_close(&self->senders);
}

/* What a socket is made with. */
typedef struct make_options {
  bool reuseaddr;
  bool reuseport;
  bool ipv6only;
  concur_udp_options later; /* those that may also be set later */
} make_options;

static bool option_flag(lua_State *L, int index, const char *name) {
  lua_getfield(L, index, name);
  bool value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

/* Reads the table at `index`, if there is one.  May run metamethods, and raise. */
static make_options make_options_read(lua_State *L, int index) {
  make_options options = {.reuseaddr = false};
  if (lua_isnil(L, index)) return options;
  luaL_checktype(L, index, LUA_TTABLE);
  options.reuseaddr = option_flag(L, index, "reuseaddr");
  options.reuseport = option_flag(L, index, "reuseport");
  options.ipv6only = option_flag(L, index, "ipv6only");
  concur_udp_options_read(L, index, &options.later);
  return options;
}

static bool set_flag(int fd, int level, int option, bool value) {
  int number = value;
  return setsockopt(fd, level, option, &number, sizeof number) == 0;
}

/* A bound descriptor.  A libuv code. */
static int descriptor_new(const concur_address *address, const make_options *options, int *fd) {
  int family = address->storage.ss_family;
  *fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (*fd < 0) return concur_udp_last_error();
  bool ok = (!options->reuseaddr || set_flag(*fd, SOL_SOCKET, SO_REUSEADDR, true)) &&
            (!options->reuseport || set_flag(*fd, SOL_SOCKET, SO_REUSEPORT, true)) &&
            (family != AF_INET6 || set_flag(*fd, IPPROTO_IPV6, IPV6_V6ONLY, options->ipv6only)) &&
            bind(*fd, concur_address_sockaddr(address), address->size) == 0;
  return ok ? 0 : concur_udp_last_error();
}

/* Pushes a socket that is closed, as yet.  Raises. */
static concur_udp *udp_new(lua_State *L, concur_runtime *runtime) {
  concur_udp_box *owner = concur_class_new(L, runtime, CONCUR_CLASS_UDP, sizeof *owner, 1);
  concur_backing backing;
  concur_udp *self = concur_memory_new(L, runtime, sizeof *self, 0, &backing);
  memset(self, 0, offsetof(concur_udp, buffer));
  self->backing = backing;
  self->fd = -1;
  concur_list_init(&self->receivers);
  concur_list_init(&self->senders);
  owner->udp = self;
  return self;
}

/* Begins with a descriptor, which it owns if this returns 0; a libuv code otherwise. */
static int udp_start(concur_udp *self, int fd, int family) {
  concur_loop *loop = self->backing.runtime->loop;
  int error = uv_poll_init(&loop->uv, &self->poll, fd);
  if (error != 0) return error;
  concur_handle_begin(&loop->handles, &self->handle, (uv_handle_t *)&self->poll, release);
  self->backing.users++;
  uv_unref(self->handle.uv);
  self->fd = fd;
  self->family = family;
  return 0;
}

/* core.udp(host, port [, options]): host is a number.  -> socket, or nil, err. */
static int l_udp(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_address address;
  lua_settop(L, 3);
  concur_socket_check_address(L, 1, &address);
  make_options options = make_options_read(L, 3);
  (void)concur_scheduler_loop(L, runtime->scheduler);
  concur_udp *self = udp_new(L, runtime);
  int fd;
  int error = descriptor_new(&address, &options, &fd);
  if (error == 0) error = udp_start(self, fd, address.storage.ss_family);
  if (error != 0) {
    if (fd >= 0) (void)close(fd);
    return concur_udp_fail(L, error, "udp", &address);
  }
  int count = set_options(L, self, &options.later);
  if (count == 1) {
    lua_settop(L, 4);
  } else if (self->fd >= 0) {
    udp_close(self);
  }
  return count;
}

/*@lua
---Closes the socket.  Who waits for it gets `nil, Closed`.  Idempotent; never waits.
function Udp:close() end

---@return boolean closed
function Udp:closed() end
*/
static int l_close(lua_State *L) {
  concur_udp *self = concur_udp_test(L);
  if (self != NULL) udp_close(self);
  return 0;
}

static int l_gc(lua_State *L) {
  concur_udp_box *owner = concur_class_test(L, 1, CONCUR_CLASS_UDP);
  if (owner == NULL || owner->udp == NULL) return 0;
  if (concur_runtime_forked(concur_runtime_of(L))) return 0; /* the parent's */
  concur_udp *self = owner->udp;
  (void)l_close(L);
  owner->udp = NULL;
  concur_memory_leave(&self->backing);
  return 0;
}

static int l_closed(lua_State *L) {
  lua_pushboolean(L, concur_udp_test(L) == NULL);
  return 1;
}

static int l_tostring(lua_State *L) {
  const concur_udp *self = concur_udp_test(L);
  concur_address address;
  char text[CONCUR_ADDRESS_TEXT_SIZE] = "closed";
  if (self != NULL && concur_address_of_socket(&address, self->fd) == 0) {
    concur_address_format(&address, text, sizeof text);
  }
  lua_pushfstring(L, "concur.Udp: %s (%p)", text, lua_topointer(L, 1));
  return 1;
}

void concur_udp_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"udp", l_udp}, {NULL, NULL}};
  const luaL_Reg methods[] = {{"connect", l_connect},
                              {"address", l_address},
                              {"peer_address", l_peer_address},
                              {"fd", l_fd},
                              {"set", l_set},
                              {"join", l_join},
                              {"leave", l_leave},
                              {"close", l_close},
                              {"closed", l_closed},
                              {NULL, NULL}};
  const luaL_Reg metamethods[] = {
      {"__close", l_close}, {"__gc", l_gc}, {"__tostring", l_tostring}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_UDP, "concur.Udp", methods, metamethods);
  concur_register(L, runtime, functions);
  /* Methods that look names up are added to these. */
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_UDP]);
  lua_getfield(L, -1, "__index");
  concur_register(L, runtime, concur_udp_io_methods);
  lua_setfield(L, -3, "udp_methods");
  lua_pop(L, 1);
}
