/* SPDX-License-Identifier: MIT */
/*
 * Sending and receiving datagrams; see udp.c.                                    [loop thread]
 *
 * Both are the system's own calls, made by the task itself; libuv only watches the descriptor for
 * tasks that must wait.  So a task that is cancelled has sent or taken nothing, and one that need
 * not wait makes one system call.
 *
 * Receivers wait in line.  An event wakes the first of them, who takes the datagram when it runs;
 * until then (`promised`) nobody else does.  The watch for reading stays on while tasks receive,
 * and is taken off by the first event that finds nobody waiting.
 */
#include <sys/socket.h>

#include "parking.h"
#include "select.h"
#include "udp_state.h"

/* Events for which a woken receiver is waited for: by then it was ended out of order. */
enum { LONGEST_PROMISE = 64 };

/* ---- waiting ---- */

/* The loop waits for the socket only while somebody does. */
static void count_waiters(concur_udp *self) {
  bool waits = !concur_list_empty(&self->receivers) || !concur_list_empty(&self->senders);
  if (waits) {
    uv_ref(self->handle.uv);
  } else {
    uv_unref(self->handle.uv);
  }
}

static void on_poll(uv_poll_t *poll_handle, int status, int events);

/* Watches for `events`, a sum of libuv's; 0: for nothing. */
static int watch(concur_udp *self, int events) {
  if (events == self->watched) return 0;
  self->watched = 0;
  int error = events != 0 ? uv_poll_start(&self->poll, events, on_poll) : uv_poll_stop(&self->poll);
  if (error == 0) self->watched = events;
  return error;
}

static void wake_receiver(concur_udp *self) {
  if (self->promised && ++self->promise_age < LONGEST_PROMISE) return;
  self->promised = concur_parking_wake_first(&self->receivers, self);
  self->promise_age = 0;
  if (!self->promised) (void)watch(self, self->watched & ~UV_READABLE);
}

static void wake_sender(concur_udp *self) {
  (void)concur_parking_wake_first(&self->senders, self);
  if (concur_list_empty(&self->senders)) (void)watch(self, self->watched & ~UV_WRITABLE);
}

static void on_poll(uv_poll_t *poll_handle, int status, int events) {
  concur_udp *self = concur_container_of(concur_handle_of(poll_handle), concur_udp, handle);
  if (status < 0) { /* libuv has stopped; the next call tells why */
    events = UV_READABLE | UV_WRITABLE;
    self->watched = 0;
  }
  if ((events & UV_READABLE) != 0) wake_receiver(self);
  if ((events & UV_WRITABLE) != 0) wake_sender(self);
  count_waiters(self);
}

static void leave(concur_fiber *fiber) {
  concur_udp *self = fiber->target;
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
static int expect(concur_udp *self, int event) {
  int error = watch(self, self->watched | event);
  if (error == 0) uv_ref(self->handle.uv);
  return error;
}

/* ---- receiving ---- */

/* Takes a datagram and pushes data, host, port and, if its end is missing, true; or nil, err.  0:
   there is none.  Stack index 2: the largest size, or nil. */
static int try_receive(lua_State *L, concur_udp *self, lua_Integer max) {
  concur_address from = {.size = sizeof from.storage};
  struct iovec part = {.iov_base = self->buffer, .iov_len = (size_t)max};
  struct msghdr message = {
      .msg_name = &from.storage, .msg_namelen = from.size, .msg_iov = &part, .msg_iovlen = 1};
  ssize_t size;
  do {
    size = recvmsg(self->fd, &message, 0);
  } while (size < 0 && errno == EINTR);
  if (size < 0)
    return errno == EAGAIN ? 0 : concur_udp_fail(L, concur_udp_last_error(), "recv_from", NULL);
  from.size = message.msg_namelen;
  lua_pushlstring(L, self->buffer, (size_t)size);
  (void)concur_socket_push_address(L, &from);
  if ((message.msg_flags & MSG_TRUNC) == 0) return 3;
  lua_pushboolean(L, 1);
  return 4;
}

static int receive_ready(lua_State *L, concur_fiber *fiber);

static int receive_later(lua_State *L, concur_fiber *fiber, concur_udp *self) {
  int error = expect(self, UV_READABLE);
  if (error != 0) return concur_udp_fail(L, error, "recv_from", NULL);
  return concur_parking_park(L, fiber, &self->receivers, &wait_receive, self, receive_ready);
}

/* Woken: the datagram is this fiber's.  (The system may have dropped it after all.) */
static int receive_ready(lua_State *L, concur_fiber *fiber) {
  concur_udp *self = concur_udp_test(L);
  lua_settop(L, 2);
  if (self == NULL) return concur_udp_push_closed(L);
  self->promised = false;
  int count = try_receive(L, self, lua_tointeger(L, 2));
  return count > 0 ? count : receive_later(L, fiber, self);
}

/* True when the next datagram is nobody else's. */
static bool may_receive(const concur_udp *self) {
  return !self->promised && concur_list_empty(&self->receivers);
}

/* Stack: the socket, the largest size. */
static int receive_body(lua_State *L, concur_fiber *fiber) {
  concur_udp *self = concur_udp_test(L);
  if (self == NULL) return concur_udp_push_closed(L);
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
---@return string|concur.Error host a number; or `OSError` (`ECONNREFUSED`: nobody received what was
---  sent from a connected socket), or `Closed`: the socket was closed meanwhile
---@return integer? port
---@return true? truncated the datagram was longer than `max`
function Udp:recv_from(max) end
*/
static int l_recv_from(lua_State *L) {
  (void)concur_udp_check(L);
  lua_Integer max = luaL_optinteger(L, 2, CONCUR_UDP_LARGEST);
  luaL_argcheck(L, max >= 0, 2, "size must not be negative");
  lua_settop(L, 1);
  lua_pushinteger(L, max < CONCUR_UDP_LARGEST ? max : CONCUR_UDP_LARGEST);
  return concur_fiber_begin(L, receive_body);
}

/* ---- the arm: user value 1 is the userdata ---- */

static int arm_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  (void)index;
  (void)fiber;
  concur_udp *self = concur_udp_in(arm->target);
  if (self == NULL) return concur_udp_push_closed(L);
  int count = may_receive(self) ? try_receive(L, self, CONCUR_UDP_LARGEST) : 0;
  return count > 0 ? count : -1;
}

static bool arm_link(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_udp *self = concur_udp_in(arm->target);
  if (self == NULL || expect(self, UV_READABLE) != 0) return false;
  concur_list_append(&self->receivers, &arm->waiter.node);
  return true;
}

static void arm_unlink(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_udp *self = concur_udp_in(arm->target);
  concur_node_unlink(&arm->waiter.node);
  if (self != NULL) count_waiters(self);
}

static int arm_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber, bool closed) {
  (void)index;
  (void)fiber;
  concur_udp *self = concur_udp_in(arm->target);
  if (closed || self == NULL) return concur_udp_push_closed(L);
  self->promised = false;
  int count = try_receive(L, self, CONCUR_UDP_LARGEST);
  return count > 0 ? count : -1; /* the system has dropped it */
}

static const concur_arm_ops receive_ops = {"receiving", arm_attempt, arm_link, arm_unlink,
                                           arm_finish};

/*@lua
---An arm for `concur.select` that takes the next datagram; its results are those of `recv_from`.
---@return concur.Arm
function Udp:receiving() end
*/
static int l_receiving(lua_State *L) {
  (void)concur_udp_check(L);
  (void)concur_arm_new(L, concur_runtime_of(L), &receive_ops, 1, 0);
  return 1;
}

/* ---- sending ---- */

/* Stack: the socket, data, host or nil (connected), port. */
static int send_body(lua_State *L, concur_fiber *fiber) {
  concur_udp *self = concur_udp_test(L);
  if (self == NULL) return concur_udp_push_closed(L);
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
  int error = concur_udp_last_error();
  if (error == UV_EAGAIN) error = expect(self, UV_WRITABLE);
  if (error != 0) return concur_udp_fail(L, error, "send_to", has_host ? &to : NULL);
  return concur_parking_park(L, fiber, &self->senders, &wait_send, self, send_body);
}

/*@lua
---Sends a datagram.  Waits only while the system has no room for it.  Cancelled, it was not sent.
---@async
---@param data string|number
---@param host string a number or a name
---@param port integer
---@return true?
---@return concur.Error? error `OSError`: `EMSGSIZE`, `EACCES` (a broadcast without the option),
---  ...; or `Closed`: the socket was closed meanwhile
function Udp:send_to(data, host, port) end

---Sends a datagram to the address that the socket is connected to.
---@async
---@param data string|number
---@return true?
---@return concur.Error? error as for `send_to`; `EDESTADDRREQ`: it is not connected;
---  `ECONNREFUSED`: the one before reached nobody
function Udp:send(data) end
*/
static int l_send_to(lua_State *L) {
  concur_address address;
  (void)concur_udp_check(L);
  (void)luaL_checkstring(L, 2);
  concur_socket_check_address(L, 3, &address);
  lua_settop(L, 4);
  return concur_fiber_begin(L, send_body);
}

static int l_send(lua_State *L) {
  (void)concur_udp_check(L);
  (void)luaL_checkstring(L, 2);
  lua_settop(L, 2);
  lua_settop(L, 4);
  return concur_fiber_begin(L, send_body);
}

const luaL_Reg concur_udp_io_methods[] = {{"recv_from", l_recv_from},
                                          {"receiving", l_receiving},
                                          {"send_to", l_send_to},
                                          {"send", l_send},
                                          {NULL, NULL}};
