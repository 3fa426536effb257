/* SPDX-License-Identifier: MIT */
/*
 * Datagrams: concur.Udp.                                                         [loop thread]
 *
 * Sending and receiving are the system's own calls, made by the task itself; libuv only watches the
 * descriptor for tasks that must wait.  So a task that is cancelled has sent or taken nothing, and
 * one that needs not wait makes one system call.
 *
 * Receivers wait in line.  An event wakes the first of them, who takes the datagram when it runs;
 * until then (`promised`) nobody else does.  The watch for reading stays on while tasks receive, and
 * is taken off by the first event that finds nobody waiting.
 *
 * Names of hosts are looked up by lua/concur/net_udp.lua; here a host is a number.
 *
 * Who frees: the structure goes in the poll handle's close callback; the userdata points to it and is
 * pointed to by it (handle.h).
 */
#include "udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fiber.h"
#include "parking.h"
#include "select.h"
#include "socket.h"
#include "udp_options.h"

enum {
  LARGEST = 65536,      /* no datagram is larger */
  LONGEST_PROMISE = 64  /* events: whoever has not run by then was ended out of order */
};

typedef struct udp {
  concur_handle handle; /* `owner` is the box */
  uv_poll_t poll;
  int fd;                /* owned; -1: closed */
  int family;            /* AF_INET, AF_INET6 */
  int watched;           /* events that `poll` is started for; 0: stopped */
  bool promised;         /* a receiver was woken and has not run yet */
  uint8_t promise_age;   /* events since */
  concur_node receivers; /* of waiters: fibers, arms */
  concur_node senders;   /* of fibers */
  char buffer[LARGEST];
} udp;

/* The userdata. */
typedef struct box {
  udp *udp; /* borrowed; NULL: closed */
} box;

static box *check_box(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_UDP);
}

static udp *check_udp(lua_State *L) {
  udp *self = check_box(L)->udp;
  if (self == NULL) concur_error_raise(L, concur_runtime_of(L), "Closed", "the socket is closed");
  return self;
}

static int push_closed(lua_State *L) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "Closed", "the socket was closed");
  return 2;
}

/* Pushes nil and an error; `address` may be NULL. */
static int fail(lua_State *L, int error, const char *call, const concur_address *address) {
  char text[CONCUR_ADDRESS_TEXT_SIZE];
  if (address != NULL) concur_address_format(address, text, sizeof text);
  return concur_os_error(L, concur_runtime_find(L), error, call, "address",
                         address != NULL ? text : NULL);
}

static int last_error(void) {
  return uv_translate_sys_error(errno);
}

/* ---- waiting ---- */

/* The loop waits for the socket only while somebody does. */
static void count_waiters(udp *self) {
  bool waits = !concur_list_empty(&self->receivers) || !concur_list_empty(&self->senders);
  if (waits) {
    uv_ref(self->handle.uv);
  } else {
    uv_unref(self->handle.uv);
  }
}

static void on_poll(uv_poll_t *poll_handle, int status, int events);

/* Watches for `events`, a sum of libuv's; 0: for nothing. */
static int watch(udp *self, int events) {
  if (events == self->watched) return 0;
  self->watched = 0;
  int error = events != 0 ? uv_poll_start(&self->poll, events, on_poll) : uv_poll_stop(&self->poll);
  if (error == 0) self->watched = events;
  return error;
}

static void wake_receiver(udp *self) {
  if (self->promised && ++self->promise_age < LONGEST_PROMISE) return;
  self->promised = concur_parking_wake_first(&self->receivers, self);
  self->promise_age = 0;
  if (!self->promised) (void)watch(self, self->watched & ~UV_READABLE);
}

static void wake_sender(udp *self) {
  (void)concur_parking_wake_first(&self->senders, self);
  if (concur_list_empty(&self->senders)) (void)watch(self, self->watched & ~UV_WRITABLE);
}

static void on_poll(uv_poll_t *poll_handle, int status, int events) {
  udp *self = concur_container_of(concur_handle_of(poll_handle), udp, handle);
  if (status < 0) { /* libuv has stopped; the next call tells why */
    events = UV_READABLE | UV_WRITABLE;
    self->watched = 0;
  }
  if ((events & UV_READABLE) != 0) wake_receiver(self);
  if ((events & UV_WRITABLE) != 0) wake_sender(self);
  count_waiters(self);
}

static void leave(concur_fiber *fiber) {
  udp *self = fiber->target;
  concur_node_unlink(&fiber->waiter.node);
  count_waiters(self);
}

static bool abort_wait(concur_fiber *fiber) {
  leave(fiber);
  return true;
}

static const concur_wait wait_receive = {
    .name = "Udp:recv_from", .abort = abort_wait, .detach = leave};
static const concur_wait wait_send = {.name = "Udp:send_to", .abort = abort_wait, .detach = leave};

/* Somebody is going to wait for `event`, in the list that it is told of by `waiters`. */
static int expect(udp *self, int event) {
  int error = watch(self, self->watched | event);
  if (error == 0) uv_ref(self->handle.uv);
  return error;
}

/* ---- receiving ---- */

/* Takes a datagram and pushes data, host, port and, if its end is missing, true; or nil, err.  0:
   there is none.  Stack index 2: the largest size, or nil. */
static int try_receive(lua_State *L, udp *self, lua_Integer max) {
  concur_address from = {.size = sizeof from.storage};
  struct iovec part = {.iov_base = self->buffer, .iov_len = (size_t)max};
  struct msghdr message = {.msg_name = &from.storage,
                           .msg_namelen = from.size,
                           .msg_iov = &part,
                           .msg_iovlen = 1};
  ssize_t size;
  do {
    size = recvmsg(self->fd, &message, 0);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return errno == EAGAIN ? 0 : fail(L, last_error(), "recv_from", NULL);
  from.size = message.msg_namelen;
  lua_pushlstring(L, self->buffer, (size_t)size);
  (void)concur_socket_push_address(L, &from);
  if ((message.msg_flags & MSG_TRUNC) == 0) return 3;
  lua_pushboolean(L, 1);
  return 4;
}

static int receive_ready(lua_State *L, concur_fiber *fiber);

static int receive_later(lua_State *L, concur_fiber *fiber, udp *self) {
  int error = expect(self, UV_READABLE);
  if (error != 0) return fail(L, error, "recv_from", NULL);
  return concur_parking_park(L, fiber, &self->receivers, &wait_receive, self, receive_ready);
}

/* Woken: the datagram is this fiber's.  (The system may have dropped it after all.) */
static int receive_ready(lua_State *L, concur_fiber *fiber) {
  udp *self = check_box(L)->udp;
  lua_settop(L, 2);
  if (self == NULL) return push_closed(L);
  self->promised = false;
  int count = try_receive(L, self, lua_tointeger(L, 2));
  return count > 0 ? count : receive_later(L, fiber, self);
}

/* True when the next datagram is nobody else's. */
static bool may_receive(const udp *self) {
  return !self->promised && concur_list_empty(&self->receivers);
}

/* Stack: the socket, the largest size. */
static int receive_body(lua_State *L, concur_fiber *fiber) {
  udp *self = check_box(L)->udp;
  if (self == NULL) return push_closed(L);
  int count = may_receive(self) ? try_receive(L, self, lua_tointeger(L, 2)) : 0;
  return count > 0 ? count : receive_later(L, fiber, self);
}

/*@lua
---A socket for datagrams.
---@class concur.Udp
local Udp = {}

---Waits for the next datagram.  Cancelled, none was taken.
---@async
---@param max? integer bytes: of a longer datagram the rest is dropped; default 65536, any datagram
---@return string? data may be empty
---@return string|concur.Error host a number; or `OSError` (`ECONNREFUSED`: nobody received what was sent
---  from a connected socket), or `Closed`: the socket was closed meanwhile
---@return integer? port
---@return true? truncated the datagram was longer than `max`
function Udp:recv_from(max) end
*/
static int l_recv_from(lua_State *L) {
  (void)check_udp(L);
  lua_Integer max = luaL_optinteger(L, 2, LARGEST);
  luaL_argcheck(L, max >= 0, 2, "size must not be negative");
  lua_settop(L, 1);
  lua_pushinteger(L, max < LARGEST ? max : LARGEST);
  return concur_fiber_begin(L, receive_body);
}

/* ---- the arm: user value 1 is the userdata ---- */

static int arm_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  (void)index;
  (void)fiber;
  udp *self = ((const box *)arm->target)->udp;
  if (self == NULL) return push_closed(L);
  int count = may_receive(self) ? try_receive(L, self, LARGEST) : 0;
  return count > 0 ? count : -1;
}

static bool arm_link(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  udp *self = ((const box *)arm->target)->udp;
  if (self == NULL || expect(self, UV_READABLE) != 0) return false;
  concur_list_append(&self->receivers, &arm->waiter.node);
  return true;
}

static void arm_unlink(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  udp *self = ((const box *)arm->target)->udp;
  concur_node_unlink(&arm->waiter.node);
  if (self != NULL) count_waiters(self);
}

static int arm_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber, bool closed) {
  (void)index;
  (void)fiber;
  udp *self = ((const box *)arm->target)->udp;
  if (closed || self == NULL) return push_closed(L);
  self->promised = false;
  int count = try_receive(L, self, LARGEST);
  return count > 0 ? count : fail(L, UV_EAGAIN, "recv_from", NULL);
}

static const concur_arm_ops receive_ops = {"receiving", arm_attempt, arm_link, arm_unlink,
                                           arm_finish};

/*@lua
---An arm for `concur.select` that takes the next datagram; its results are those of `recv_from`.
---@return concur.Arm
function Udp:receiving() end
*/
static int l_receiving(lua_State *L) {
  (void)check_udp(L);
  (void)concur_arm_new(L, concur_runtime_of(L), &receive_ops, 1, 0);
  return 1;
}

/* ---- sending ---- */

/* Stack: the socket, data, host or nil (connected), port. */
static int send_body(lua_State *L, concur_fiber *fiber) {
  udp *self = check_box(L)->udp;
  if (self == NULL) return push_closed(L);
  concur_address to = {.size = 0};
  size_t size;
  const char *data = lua_tolstring(L, 2, &size);
  bool has_host = !lua_isnil(L, 3);
  if (has_host) concur_socket_check_address(L, 3, &to);
  ssize_t sent;
  do {
    sent = sendto(self->fd, data, size, MSG_NOSIGNAL,
                  has_host ? concur_address_sockaddr(&to) : NULL, to.size);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) {
    lua_pushboolean(L, 1);
    return 1;
  }
  int error = last_error();
  if (error == UV_EAGAIN) error = expect(self, UV_WRITABLE);
  if (error != 0) return fail(L, error, "send_to", has_host ? &to : NULL);
  return concur_parking_park(L, fiber, &self->senders, &wait_send, self, send_body);
}

/*@lua
---Sends a datagram.  Waits only while the system has no room for it.  Cancelled, it was not sent.
---@async
---@param data string|number
---@param host string a number or a name
---@param port integer
---@return true?
---@return concur.Error? error `OSError`: `EMSGSIZE`, `EACCES` (a broadcast without the option), ...; or
---  `Closed`: the socket was closed meanwhile
function Udp:send_to(data, host, port) end

---Sends a datagram to the address that the socket is connected to.
---@async
---@param data string|number
---@return true?
---@return concur.Error? error as for `send_to`; `EDESTADDRREQ`: it is not connected; `ECONNREFUSED`: the
---  one before reached nobody
function Udp:send(data) end
*/
static int l_send_to(lua_State *L) {
  concur_address address;
  (void)check_udp(L);
  (void)luaL_checkstring(L, 2);
  concur_socket_check_address(L, 3, &address);
  lua_settop(L, 4);
  return concur_fiber_begin(L, send_body);
}

static int l_send(lua_State *L) {
  (void)check_udp(L);
  (void)luaL_checkstring(L, 2);
  lua_settop(L, 2);
  lua_settop(L, 4);
  return concur_fiber_begin(L, send_body);
}

/* ---- addresses and options ---- */

/*@lua
---Sends to this address from now on, and receives only what comes from there.  Without arguments: from
---and to everywhere again.  Suspends only to look a name up.
---@async
---@param host? string
---@param port? integer
---@return true?
---@return concur.Error? error
function Udp:connect(host, port) end
*/
static int l_connect(lua_State *L) {
  const udp *self = check_udp(L);
  concur_address to = {.size = sizeof(struct sockaddr)};
  bool has_host = !lua_isnoneornil(L, 2);
  to.storage.ss_family = AF_UNSPEC;
  if (has_host) concur_socket_check_address(L, 2, &to);
  if (connect(self->fd, concur_address_sockaddr(&to), to.size) != 0) {
    return fail(L, last_error(), "connect", has_host ? &to : NULL);
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
  int error = ask(&address, check_udp(L)->fd);
  return error == 0 ? concur_socket_push_address(L, &address) : fail(L, error, call, NULL);
}

static int l_address(lua_State *L) {
  return push_address_by(L, concur_address_of_socket, "address");
}

static int l_peer_address(lua_State *L) {
  return push_address_by(L, concur_address_of_peer, "peer_address");
}

static int l_fd(lua_State *L) {
  lua_pushinteger(L, check_udp(L)->fd);
  return 1;
}

/* Sets options of the table at `index`; true, or nil and an error. */
static int set_options(lua_State *L, int index, int fd, int family) {
  const char *failed;
  int error = concur_udp_options_set(L, index, fd, family, &failed);
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
  const udp *self = check_udp(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  concur_check_options(L, 2, concur_udp_option_names);
  return set_options(L, 2, self->fd, self->family);
}

static int change_membership(lua_State *L, bool join) {
  const udp *self = check_udp(L);
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

static void close_descriptor(udp *self) {
  if (self->fd >= 0) (void)close(self->fd);
  self->fd = -1;
}

static void release(concur_handle *handle) {
  udp *self = concur_container_of(handle, udp, handle);
  box *owner = handle->owner;
  if (owner != NULL) owner->udp = NULL;
  close_descriptor(self); /* there still if the loop closed it */
  free(self);
}

static void udp_close(udp *self) {
  box *owner = self->handle.owner;
  if (owner != NULL) owner->udp = NULL;
  self->handle.owner = NULL;
  concur_handle_close(&self->handle); /* libuv stops watching before the descriptor is closed */
  close_descriptor(self);
  concur_parking_close(&self->receivers);
  concur_parking_close(&self->senders);
}

/* A bound descriptor.  A libuv code. */
static int descriptor_new(lua_State *L, const concur_address *address, int *fd) {
  int family = address->storage.ss_family;
  int on = 1;
  *fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (*fd < 0) return last_error();
  bool reuseaddr = lua_istable(L, 3) && lua_getfield(L, 3, "reuseaddr") && lua_toboolean(L, -1);
  bool reuseport = lua_istable(L, 3) && lua_getfield(L, 3, "reuseport") && lua_toboolean(L, -1);
  int only = lua_istable(L, 3) && lua_getfield(L, 3, "ipv6only") && lua_toboolean(L, -1);
  bool ok = (!reuseaddr || setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0) &&
            (!reuseport || setsockopt(*fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0) &&
            (family != AF_INET6 ||
             setsockopt(*fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) == 0) &&
            bind(*fd, concur_address_sockaddr(address), address->size) == 0;
  return ok ? 0 : last_error();
}

/* Makes the structure that owns the descriptor from now on.  A libuv code. */
static int udp_new(concur_loop *loop, box *owner, int fd, int family) {
  udp *self = malloc(sizeof *self);
  if (self == NULL) return UV_ENOMEM;
  memset(self, 0, offsetof(udp, buffer));
  int error = uv_poll_init(&loop->uv, &self->poll, fd);
  if (error != 0) {
    free(self);
    return error;
  }
  concur_handle_begin(&loop->handles, &self->handle, (uv_handle_t *)&self->poll, release);
  uv_unref(self->handle.uv);
  concur_list_init(&self->receivers);
  concur_list_init(&self->senders);
  self->fd = fd;
  self->family = family;
  self->handle.owner = owner;
  owner->udp = self;
  return 0;
}

/* core.udp(host, port [, options]): host is a number.  -> socket, or nil, err. */
static int l_udp(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_address address;
  const char *failed;
  lua_settop(L, 3);
  concur_socket_check_address(L, 1, &address);
  if (!lua_isnil(L, 3)) {
    luaL_checktype(L, 3, LUA_TTABLE);
    (void)concur_udp_options_set(L, 3, -1, AF_INET, &failed); /* checks their types */
  }
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  box *owner = concur_class_new(L, runtime, CONCUR_CLASS_UDP, sizeof *owner, 0);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  int fd;
  int error = descriptor_new(L, &address, &fd);
  if (error == 0) error = udp_new(loop, owner, fd, address.storage.ss_family);
  if (error != 0) {
    if (fd >= 0) (void)close(fd);
    return fail(L, error, "udp", &address);
  }
  lua_settop(L, 4);
  if (lua_isnil(L, 3)) return 1;
  int count = set_options(L, 3, owner->udp->fd, owner->udp->family);
  if (count == 1) {
    lua_settop(L, 4);
  } else if (owner->udp != NULL) {
    udp_close(owner->udp);
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
  udp *self = check_box(L)->udp;
  if (self != NULL) udp_close(self);
  return 0;
}

static int l_gc(lua_State *L) {
  const box *owner = concur_class_test(L, 1, CONCUR_CLASS_UDP);
  if (owner == NULL || owner->udp == NULL) return 0;
  if (!concur_runtime_forked(concur_runtime_of(L))) udp_close(owner->udp);
  return 0;
}

static int l_closed(lua_State *L) {
  lua_pushboolean(L, check_box(L)->udp == NULL);
  return 1;
}

static int l_tostring(lua_State *L) {
  const box *owner = check_box(L);
  concur_address address;
  char text[CONCUR_ADDRESS_TEXT_SIZE] = "closed";
  if (owner->udp != NULL && concur_address_of_socket(&address, owner->udp->fd) == 0) {
    concur_address_format(&address, text, sizeof text);
  }
  lua_pushfstring(L, "concur.Udp: %s (%p)", text, (const void *)owner);
  return 1;
}

void concur_udp_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"udp", l_udp}, {NULL, NULL}};
  const luaL_Reg methods[] = {{"recv_from", l_recv_from}, {"receiving", l_receiving},
                              {"send_to", l_send_to},     {"send", l_send},
                              {"connect", l_connect},     {"address", l_address},
                              {"peer_address", l_peer_address}, {"fd", l_fd},
                              {"set", l_set},             {"join", l_join},
                              {"leave", l_leave},         {"close", l_close},
                              {"closed", l_closed},       {NULL, NULL}};
  const luaL_Reg metamethods[] = {
      {"__close", l_close}, {"__gc", l_gc}, {"__tostring", l_tostring}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_UDP, "concur.Udp", methods, metamethods);
  concur_register(L, runtime, functions);
  /* Methods that look names up are added to these. */
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_UDP]);
  lua_getfield(L, -1, "__index");
  lua_setfield(L, -3, "udp_methods");
  lua_pop(L, 1);
}
