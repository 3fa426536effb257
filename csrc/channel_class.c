/* SPDX-License-Identifier: MIT */
/*
 * concur.Channel as Lua sees it: one userdata per state and channel, and the waits of its methods.
 *                                                                                   [loop thread]
 * Values cross as messages.  A fiber that waits has a cell in the channel (channel.h); the cell's
 * mail wakes it, and what was received is decoded in the fiber itself.
 */
#include "channel_class.h"

#include <math.h>

#include "channel_arms.h"
#include "channel_cell.h"
#include "fiber.h"
#include "transfer.h"

static char handles_key; /* registry: weak table, channel -> its userdata in this state */

/* ---- waiting ---- */

static void on_wait_over(concur_mail *mail, void *owner) {
  concur_channel_cell *cell = concur_cell_of_mail(mail);
  concur_fiber *fiber = cell->owner;
  concur_cell_forget(cell, owner);
  if (fiber != NULL) concur_fiber_wake(fiber, CONCUR_OUTCOME_VALUE);
  concur_cell_release(cell);
}

static bool on_abort(concur_fiber *fiber) {
  concur_channel_cell *cell = fiber->target;
  if (!concur_cell_withdraw(cell, false)) return false; /* it has happened: its mail is coming */
  concur_cell_forget(cell, fiber->scheduler->loop);
  concur_cell_release(cell);
  return true;
}

static void on_detach(concur_fiber *fiber) {
  concur_channel_cell *cell = fiber->target;
  (void)concur_cell_withdraw(cell, true);
  concur_cell_forget(cell, fiber->scheduler->loop);
  concur_cell_release(cell);
}

/* The cell is the fiber's, and not its coroutine's. */
static const concur_wait wait_recv = {.name = "channel:recv",
                                      .abort = on_abort,
                                      .detach = on_detach,
                                      .drop = on_detach,
                                      .anchored = true};
static const concur_wait wait_send = {.name = "channel:send",
                                      .abort = on_abort,
                                      .detach = on_detach,
                                      .drop = on_detach,
                                      .anchored = true};

static int cell_park(lua_State *L, concur_fiber *fiber, concur_channel_cell *cell,
                     const concur_wait *wait, concur_resume resume) {
  cell->owner = fiber;
  concur_cell_count(cell, fiber->scheduler->loop);
  return concur_fiber_park(L, fiber, wait, cell, resume);
}

static int recv_ready(lua_State *L, concur_fiber *fiber) {
  return concur_channel_recv_finish(L, fiber->target);
}

/* Stack: the channel. */
static int recv_body(lua_State *L, concur_fiber *fiber) {
  concur_channel *channel = concur_channel_check(L);
  concur_parcel *parcel = NULL;
  concur_channel_end end = concur_channel_try_recv(channel, &parcel);
  if (end == CONCUR_CHANNEL_DONE) return concur_channel_push(L, parcel);
  if (end == CONCUR_CHANNEL_CLOSED) return concur_channel_push_drained(L);
  concur_channel_cell *cell = concur_cell_make(L, channel, fiber->scheduler->loop, on_wait_over);
  end = concur_channel_recv(cell);
  if (end != CONCUR_CHANNEL_WAIT) return concur_channel_recv_finish(L, cell);
  return cell_park(L, fiber, cell, &wait_recv, recv_ready);
}

static int send_finish(lua_State *L, concur_channel_cell *cell, bool sent) {
  concur_cell_release(cell);
  if (!sent) return concur_channel_raise_closed(L);
  lua_pushboolean(L, 1);
  return 1;
}

static int send_ready(lua_State *L, concur_fiber *fiber) {
  concur_channel_cell *cell = fiber->target;
  return send_finish(L, cell, cell->state == CONCUR_CELL_DONE);
}

/* Stack: the channel, the value. */
static int send_body(lua_State *L, concur_fiber *fiber) {
  concur_channel *channel = concur_channel_check(L);
  concur_parcel *parcel = concur_channel_parcel(L, 2);
  concur_channel_end end = concur_channel_try_send(channel, parcel);
  if (end == CONCUR_CHANNEL_DONE) {
    lua_pushboolean(L, 1);
    return 1;
  }
  concur_channel_cell *cell =
      end == CONCUR_CHANNEL_WAIT
          ? concur_cell_make(NULL, channel, fiber->scheduler->loop, on_wait_over)
          : NULL;
  if (cell == NULL) {
    concur_parcel_free(parcel);
    return end == CONCUR_CHANNEL_CLOSED ? concur_channel_raise_closed(L)
                                        : luaL_error(L, "not enough memory");
  }
  cell->parcel = parcel;
  end = concur_channel_send(cell);
  if (end != CONCUR_CHANNEL_WAIT) return send_finish(L, cell, end == CONCUR_CHANNEL_DONE);
  return cell_park(L, fiber, cell, &wait_send, send_ready);
}

/*@lua
---A bounded queue of values between threads and their Lua states.
---@class concur.Channel
local Channel = {}

---Sends a copy of the value, in order; waits while the channel is full (with capacity 0: until
---somebody receives it).  Raises `Closed` when the channel is or gets closed before, `TransferError`
---for what cannot cross.  Cancelled: it was not sent.
---@async
---@param value any not nil
---@return true
function Channel:send(value) end
*/
static int l_send(lua_State *L) {
  (void)concur_channel_check(L);
  concur_channel_check_value(L);
  return concur_fiber_begin(L, send_body);
}

/*@lua
---Receives the next value; waits while there is none.  `nil, err` (kind `Closed`) once the channel is
---closed and drained.  Cancelled: nothing was received.
---@async
---@return any value
---@return concur.Error? err
function Channel:recv() end
*/
static int l_recv(lua_State *L) {
  (void)concur_channel_check(L);
  lua_settop(L, 1);
  return concur_fiber_begin(L, recv_body);
}

/*@lua
---Sends without waiting: `nil, err` (kind `WouldBlock`) when the channel is full (with capacity 0: when
---nobody waits to receive).  Raises `Closed`, `TransferError`.
---@param value any not nil
---@return true?
---@return concur.Error? err
function Channel:try_send(value) end
*/
static int l_try_send(lua_State *L) {
  concur_channel *channel = concur_channel_check(L);
  concur_channel_check_value(L);
  concur_parcel *parcel = concur_channel_parcel(L, 2);
  concur_channel_end end = concur_channel_try_send(channel, parcel);
  if (end == CONCUR_CHANNEL_DONE) {
    lua_pushboolean(L, 1);
    return 1;
  }
  concur_parcel_free(parcel);
  if (end == CONCUR_CHANNEL_CLOSED) return concur_channel_raise_closed(L);
  return concur_channel_push_nothing(L, "WouldBlock", "the channel is full");
}

/*@lua
---Receives without waiting: `nil, err` when there is nothing (kind `WouldBlock`), or the channel is
---closed and drained (kind `Closed`).
---@return any value
---@return concur.Error? err
function Channel:try_recv() end
*/
static int l_try_recv(lua_State *L) {
  concur_channel *channel = concur_channel_check(L);
  concur_parcel *parcel = NULL;
  switch (concur_channel_try_recv(channel, &parcel)) {
  case CONCUR_CHANNEL_DONE: return concur_channel_push(L, parcel);
  case CONCUR_CHANNEL_CLOSED: return concur_channel_push_drained(L);
  case CONCUR_CHANNEL_WAIT: break;
  }
  return concur_channel_push_nothing(L, "WouldBlock", "the channel is empty");
}

/* Upvalues: runtime, the channel. */
static int l_iterate(lua_State *L) {
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(2));
  return concur_fiber_begin(L, recv_body);
}

/*@lua
---`for value in channel:iter() do`: receives until the channel is closed and drained.
---@return fun(): any the iterator; may suspend
function Channel:iter() end
*/
static int l_iter(lua_State *L) {
  (void)concur_channel_check(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, l_iterate, 2);
  return 1;
}

/*@lua
---Closes the channel for everybody: nothing can be sent any more, what was sent can still be received.
---Those who wait to send get `Closed`. Idempotent; never waits.
function Channel:close() end
*/
static int l_close(lua_State *L) {
  if (concur_runtime_forked(concur_runtime_of(L))) return 0; /* another thread may hold its lock */
  concur_channel_close(concur_channel_check(L));
  return 0;
}

/*@lua
---@return boolean closed
function Channel:closed() end

---How many values wait to be received.
---@return integer
function Channel:size() end

---@return integer
function Channel:capacity() end
*/
static int l_closed(lua_State *L) {
  lua_pushboolean(L, concur_channel_is_closed(concur_channel_check(L)));
  return 1;
}

static int l_size(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_channel_size(concur_channel_check(L)));
  return 1;
}

static int l_capacity(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_channel_capacity(concur_channel_check(L)));
  return 1;
}

/* ---- the class ---- */

/* Pushes a new handle, empty. */
static concur_channel_handle *push_handle(lua_State *L, concur_runtime *runtime) {
  concur_channel_handle *self = concur_class_new(L, runtime, CONCUR_CLASS_CHANNEL, sizeof *self, 0);
  self->holding = concur_holding_new(L, runtime, concur_channel_let_go);
  return self;
}

/* The handle takes over the caller's part as a holder. */
static void fill_handle(concur_channel_handle *self, concur_channel *channel) {
  self->holding->object = channel;
  self->channel = channel;
}

/* Remembers the handle on top of the stack, so that this state has one for each channel. */
static void remember_handle(lua_State *L, const concur_channel_handle *self) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &handles_key);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, self->channel);
  lua_pop(L, 1);
}

/*@lua
---Makes a channel. It can be an argument, an upvalue or a result of a job, and a value in a channel.
---@param capacity? integer values that it holds; 0 (the default): `send` waits until somebody receives
---@return concur.Channel
function concur.Channel(capacity) end
*/
static int l_channel(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  uint32_t capacity = 0;
  if (lua_isnumber(L, 1) && lua_tonumber(L, 1) == HUGE_VAL) {
    capacity = UINT32_MAX;
  } else {
    lua_Integer given = luaL_optinteger(L, 1, 0);
    luaL_argcheck(L, given >= 0 && given < UINT32_MAX, 1, "capacity must not be negative");
    capacity = (uint32_t)given;
  }
  concur_channel_handle *self = push_handle(L, runtime);
  concur_channel *channel = concur_channel_new(capacity);
  if (channel == NULL) luaL_error(L, "not enough memory");
  fill_handle(self, channel);
  remember_handle(L, self);
  return 1;
}

static int l_gc(lua_State *L) {
  concur_channel_handle *self = concur_class_test(L, 1, CONCUR_CLASS_CHANNEL);
  if (self == NULL) return 0; /* called by hand */
  self->channel = NULL;
  if (concur_runtime_forked(concur_runtime_of(L))) {
    concur_holding_abandon(self->holding);
  } else {
    concur_holding_end(self->holding);
  }
  self->holding = NULL;
  return 0;
}

static int l_tostring(lua_State *L) {
  const concur_channel_handle *self = concur_class_check(L, 1, CONCUR_CLASS_CHANNEL);
  concur_channel *channel = self->channel;
  if (channel == NULL) {
    lua_pushliteral(L, "concur.Channel (finalized)");
    return 1;
  }
  if (concur_runtime_forked(concur_runtime_of(L))) {
    lua_pushliteral(L, "concur.Channel (of the parent process)");
    return 1;
  }
  lua_pushfstring(L, "concur.Channel (%s%d of %I): %p",
                  concur_channel_is_closed(channel) ? "closed, " : "",
                  (int)concur_channel_size(channel), (LUAI_UACINT)concur_channel_capacity(channel),
                  (void *)channel);
  return 1;
}

static const char *channel_unwrap(lua_State *L, int index, concur_attachment *attachment) {
  attachment->object = ((concur_channel_handle *)lua_touserdata(L, index))->channel;
  return attachment->object != NULL ? NULL : "it was finalized";
}

static void channel_wrap(lua_State *L, const concur_attachment *attachment) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &handles_key);
  lua_rawgetp(L, -1, attachment->object);
  lua_remove(L, -2);
  if (!lua_isnil(L, -1)) return;
  lua_pop(L, 1);
  concur_channel_handle *self = push_handle(L, concur_runtime_find(L));
  concur_channel_hold(attachment->object);
  fill_handle(self, attachment->object);
  remember_handle(L, self);
}

static const concur_share_class share_class = {
    .base = {"Channel", concur_channel_hold, concur_channel_let_go},
    .unwrap = channel_unwrap,
    .wrap = channel_wrap,
};

void concur_channel_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg methods[] = {{"send", l_send},
                                     {"recv", l_recv},
                                     {"try_send", l_try_send},
                                     {"try_recv", l_try_recv},
                                     {"iter", l_iter},
                                     {"close", l_close},
                                     {"closed", l_closed},
                                     {"size", l_size},
                                     {"capacity", l_capacity},
                                     {"receiving", concur_channel_l_receiving},
                                     {"sending", concur_channel_l_sending},
                                     {NULL, NULL}};
  static const luaL_Reg metamethods[] = {
      {"__gc", l_gc}, {"__close", l_close}, {"__tostring", l_tostring}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"Channel", l_channel}, {NULL, NULL}};
  lua_newtable(L); /* weak values */
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &handles_key);
  concur_channel_arms_open(L, runtime);
  concur_class_define(L, runtime, CONCUR_CLASS_CHANNEL, "concur.Channel", methods, metamethods);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_CHANNEL]);
  concur_share_class_bind(L, &share_class);
  lua_pop(L, 1);
  concur_register(L, runtime, functions);
}
