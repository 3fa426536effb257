/* SPDX-License-Identifier: MIT */
/*
 * concur.Channel as Lua sees it: one userdata per state and channel, the waits of its methods, and
 * its arms for select.                                                            [loop thread]
 *
 * Values cross as messages.  A fiber that waits has a cell in the channel (channel.h); the cell's
 * mail wakes it, and what was received is decoded in the fiber itself.
 */
#include "channel_class.h"

#include <math.h>

#include "channel.h"
#include "fiber.h"
#include "select.h"
#include "transfer.h"

typedef struct handle {
  concur_channel *channel; /* as a holder; NULL until it is set up */
} handle;

/* Keys in the registry. */
static char handles_key; /* weak table: channel -> its userdata in this state */
static char box_key;     /* metatable of arms' boxes */

static handle *check_handle(lua_State *L) {
  handle *self = concur_class_check(L, 1, CONCUR_CLASS_CHANNEL);
  if (self->channel == NULL) luaL_argerror(L, 1, "the channel was finalized");
  return self;
}

/* ---- values ---- */

/* Encodes the value at `index`.  Raises TransferError. */
static concur_parcel *parcel_of(lua_State *L, int index) {
  concur_parcel *parcel = concur_parcel_new(concur_encode(L, index, 1, "value"));
  if (parcel == NULL) luaL_error(L, "not enough memory");
  return parcel;
}

static int l_decode(lua_State *L) {
  const concur_parcel *parcel = lua_touserdata(L, 1);
  return concur_decode(L, concur_parcel_message(parcel));
}

/* Pushes what was received; takes the parcel, also when it raises. */
static int push_received(lua_State *L, concur_parcel *parcel) {
  lua_pushcfunction(L, l_decode);
  lua_pushlightuserdata(L, parcel);
  int status = lua_pcall(L, 1, 1, 0);
  concur_parcel_free(parcel);
  return status == LUA_OK ? 1 : lua_error(L);
}

static int push_nothing(lua_State *L, const char *kind, const char *text) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), kind, "%s", text);
  return 2;
}

static int push_drained(lua_State *L) {
  return push_nothing(L, "Closed", "the channel is closed");
}

static int raise_closed(lua_State *L) {
  return concur_error_raise(L, concur_runtime_find(L), "Closed",
                            "cannot send: the channel is closed");
}

/* ---- cells ---- */

/* A waiting cell keeps the loop alive while somebody else holds the channel too. */
static void cell_count(concur_channel_cell *cell, concur_loop *loop) {
  bool shared = cell->owner != NULL && concur_channel_shared(cell->channel);
  if (shared && !cell->holds_loop) loop->external_refs++;
  if (!shared && cell->holds_loop) loop->external_refs--;
  cell->holds_loop = shared;
}

/* The owner does not wait any more. */
static void cell_forget(concur_channel_cell *cell, concur_loop *loop) {
  cell->owner = NULL;
  if (cell->holds_loop && loop != NULL) loop->external_refs--;
  cell->holds_loop = false;
}

static concur_channel_cell *cell_of_mail(concur_mail *mail) {
  return concur_container_of(mail, concur_channel_cell, mail);
}

static concur_channel_cell *cell_of_recount(concur_mail *mail) {
  return concur_container_of(mail, concur_channel_cell, recount);
}

static void on_recount(concur_mail *mail, void *owner) {
  concur_channel_cell *cell = cell_of_recount(mail);
  concur_cell_recounted(cell);
  cell_count(cell, owner);
  concur_cell_release(cell);
}

static void on_recount_dropped(concur_mail *mail) {
  concur_cell_release(cell_of_recount(mail));
}

/* [any thread] The state that waited is closed: what it received goes to the next one. */
static void on_over_dropped(concur_mail *mail) {
  concur_channel_cell *cell = cell_of_mail(mail);
  (void)concur_cell_withdraw(cell, true);
  concur_cell_release(cell);
}

static concur_channel_cell *cell_make(lua_State *L, concur_channel *channel, concur_loop *loop,
                                      void (*deliver)(concur_mail *mail, void *owner)) {
  concur_channel_cell *cell = concur_cell_new(channel, loop->mailbox);
  if (cell == NULL) {
    if (L != NULL) luaL_error(L, "not enough memory");
    return NULL;
  }
  cell->mail.deliver = deliver;
  cell->mail.drop = on_over_dropped;
  cell->recount.deliver = on_recount;
  cell->recount.drop = on_recount_dropped;
  return cell;
}

/* ---- waiting in a method ---- */

static void on_wait_over(concur_mail *mail, void *owner) {
  concur_channel_cell *cell = cell_of_mail(mail);
  concur_fiber *fiber = cell->owner;
  cell_forget(cell, owner);
  if (fiber != NULL) concur_fiber_wake(fiber, CONCUR_OUTCOME_VALUE);
  concur_cell_release(cell);
}

static bool on_abort(concur_fiber *fiber) {
  concur_channel_cell *cell = fiber->target;
  if (!concur_cell_withdraw(cell, false)) return false; /* it has happened: its mail is coming */
  cell_forget(cell, fiber->scheduler->loop);
  concur_cell_release(cell);
  return true;
}

static void on_detach(concur_fiber *fiber) {
  concur_channel_cell *cell = fiber->target;
  (void)concur_cell_withdraw(cell, true);
  cell_forget(cell, fiber->scheduler->loop);
  concur_cell_release(cell);
}

static const concur_wait wait_recv = {
    .name = "channel:recv", .abort = on_abort, .detach = on_detach};
static const concur_wait wait_send = {
    .name = "channel:send", .abort = on_abort, .detach = on_detach};

static int cell_park(lua_State *L, concur_fiber *fiber, concur_channel_cell *cell,
                     const concur_wait *wait, concur_resume resume) {
  cell->owner = fiber;
  cell_count(cell, fiber->scheduler->loop);
  return concur_fiber_park(L, fiber, wait, cell, resume);
}

static int recv_finish(lua_State *L, concur_channel_cell *cell) {
  concur_parcel *parcel = cell->parcel;
  cell->parcel = NULL;
  concur_cell_release(cell);
  return parcel != NULL ? push_received(L, parcel) : push_drained(L);
}

static int recv_ready(lua_State *L, concur_fiber *fiber) {
  return recv_finish(L, fiber->target);
}

/* Stack: the channel. */
static int recv_body(lua_State *L, concur_fiber *fiber) {
  concur_channel *channel = check_handle(L)->channel;
  concur_parcel *parcel = NULL;
  concur_channel_end end = concur_channel_try_recv(channel, &parcel);
  if (end == CONCUR_CHANNEL_DONE) return push_received(L, parcel);
  if (end == CONCUR_CHANNEL_CLOSED) return push_drained(L);
  concur_channel_cell *cell = cell_make(L, channel, fiber->scheduler->loop, on_wait_over);
  end = concur_channel_recv(cell);
  if (end != CONCUR_CHANNEL_WAIT) return recv_finish(L, cell);
  return cell_park(L, fiber, cell, &wait_recv, recv_ready);
}

static int send_finish(lua_State *L, concur_channel_cell *cell, bool sent) {
  concur_cell_release(cell);
  if (!sent) return raise_closed(L);
  lua_pushboolean(L, 1);
  return 1;
}

static int send_ready(lua_State *L, concur_fiber *fiber) {
  concur_channel_cell *cell = fiber->target;
  return send_finish(L, cell, cell->state == CONCUR_CELL_DONE);
}

/* Stack: the channel, the value. */
static int send_body(lua_State *L, concur_fiber *fiber) {
  concur_channel *channel = check_handle(L)->channel;
  concur_parcel *parcel = parcel_of(L, 2);
  concur_channel_end end = concur_channel_try_send(channel, parcel);
  if (end == CONCUR_CHANNEL_DONE) {
    lua_pushboolean(L, 1);
    return 1;
  }
  concur_channel_cell *cell =
      end == CONCUR_CHANNEL_WAIT
          ? cell_make(NULL, channel, fiber->scheduler->loop, on_wait_over)
          : NULL;
  if (cell == NULL) {
    concur_parcel_free(parcel);
    return end == CONCUR_CHANNEL_CLOSED ? raise_closed(L) : luaL_error(L, "not enough memory");
  }
  cell->parcel = parcel;
  end = concur_channel_send(cell);
  if (end != CONCUR_CHANNEL_WAIT) return send_finish(L, cell, end == CONCUR_CHANNEL_DONE);
  return cell_park(L, fiber, cell, &wait_send, send_ready);
}

static void check_value(lua_State *L) {
  luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "nil cannot be sent through a channel");
  lua_settop(L, 2);
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
  (void)check_handle(L);
  check_value(L);
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
  (void)check_handle(L);
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
  const handle *self = check_handle(L);
  check_value(L);
  concur_parcel *parcel = parcel_of(L, 2);
  concur_channel_end end = concur_channel_try_send(self->channel, parcel);
  if (end == CONCUR_CHANNEL_DONE) {
    lua_pushboolean(L, 1);
    return 1;
  }
  concur_parcel_free(parcel);
  if (end == CONCUR_CHANNEL_CLOSED) return raise_closed(L);
  return push_nothing(L, "WouldBlock", "the channel is full");
}

/*@lua
---Receives without waiting: `nil, err` when there is nothing (kind `WouldBlock`), or the channel is
---closed and drained (kind `Closed`).
---@return any value
---@return concur.Error? err
function Channel:try_recv() end
*/
static int l_try_recv(lua_State *L) {
  const handle *self = check_handle(L);
  concur_parcel *parcel = NULL;
  switch (concur_channel_try_recv(self->channel, &parcel)) {
  case CONCUR_CHANNEL_DONE: return push_received(L, parcel);
  case CONCUR_CHANNEL_CLOSED: return push_drained(L);
  case CONCUR_CHANNEL_WAIT: break;
  }
  return push_nothing(L, "WouldBlock", "the channel is empty");
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
  (void)check_handle(L);
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
  concur_channel_close(check_handle(L)->channel);
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
  lua_pushboolean(L, concur_channel_is_closed(check_handle(L)->channel));
  return 1;
}

static int l_size(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_channel_size(check_handle(L)->channel));
  return 1;
}

static int l_capacity(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_channel_capacity(check_handle(L)->channel));
  return 1;
}

/* ---- arms for select ---- */

/* What an arm waits with; a userdata, user value 1 of the arm.  Its own user value 1 is the channel's
   userdata, 2 the value to send. */
typedef struct box {
  concur_channel *channel;   /* one reference; NULL until it is set up */
  concur_channel_cell *cell; /* the owner's reference; NULL while not waiting */
  concur_parcel *parcel;     /* owned: the value to send, encoded */
  bool over;                 /* the arm was chosen: `cell` is kept for its finish */
  bool closed;               /* sending: the channel was closed */
} box;

static void box_forget(box *self, concur_loop *loop) {
  concur_channel_cell *cell = self->cell;
  if (cell == NULL) return;
  self->cell = NULL;
  (void)concur_cell_withdraw(cell, true);
  cell_forget(cell, loop);
  concur_cell_release(cell);
}

static int l_box_gc(lua_State *L) {
  box *self = lua_touserdata(L, 1);
  if (self == NULL || !lua_getmetatable(L, 1)) return 0;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &box_key);
  if (!lua_rawequal(L, -1, -2)) return 0; /* called by hand, with something else */
  box_forget(self, concur_runtime_of(L)->loop);
  concur_parcel_free(self->parcel);
  if (self->channel != NULL) concur_channel_release(self->channel);
  self->parcel = NULL;
  self->channel = NULL;
  return 0;
}

static void arm_unlink(concur_arm *arm, concur_loop *loop) {
  box *self = arm->target;
  if (!self->over) {
    box_forget(self, loop);
  } else if (self->cell != NULL) {
    cell_forget(self->cell, loop);
  }
}

static void arm_chosen(concur_arm *arm) {
  ((box *)arm->target)->over = true;
  arm->waiter.notify(&arm->waiter, NULL);
}

/* It happened while the cell was being linked: its own mail tells, through the loop, as ever. */
static void cell_post_self(concur_channel_cell *cell, concur_cell_state state) {
  cell->state = state;
  atomic_fetch_add(&cell->references, 1);
  if (!concur_mailbox_post(cell->reply, &cell->mail)) cell->mail.drop(&cell->mail);
}

static void on_receiving_over(concur_mail *mail, void *owner) {
  concur_channel_cell *cell = cell_of_mail(mail);
  concur_arm *arm = cell->owner;
  (void)owner;
  if (arm != NULL) arm_chosen(arm);
  concur_cell_release(cell);
}

/* Raises if a script has called the box's finalizer. */
static void check_box(lua_State *L, const box *self) {
  if (self->channel == NULL) luaL_error(L, "the arm was finalized");
}

static int receiving_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  box *self = arm->target;
  check_box(L, self);
  concur_parcel *parcel = NULL;
  (void)index;
  (void)fiber;
  switch (concur_channel_try_recv(self->channel, &parcel)) {
  case CONCUR_CHANNEL_DONE: return push_received(L, parcel);
  case CONCUR_CHANNEL_CLOSED: return push_drained(L);
  case CONCUR_CHANNEL_WAIT: break;
  }
  return -1;
}

static bool receiving_link(concur_arm *arm, concur_loop *loop) {
  box *self = arm->target;
  concur_channel_cell *cell = cell_make(NULL, self->channel, loop, on_receiving_over);
  if (cell == NULL) return false;
  self->cell = cell;
  self->over = false;
  cell->owner = arm;
  switch (concur_channel_recv(cell)) {
  case CONCUR_CHANNEL_DONE: cell_post_self(cell, CONCUR_CELL_DONE); break;
  case CONCUR_CHANNEL_CLOSED: cell_post_self(cell, CONCUR_CELL_CLOSED); break;
  case CONCUR_CHANNEL_WAIT: break;
  }
  cell_count(cell, loop);
  return true;
}

static int receiving_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                            bool closed) {
  box *self = arm->target;
  concur_channel_cell *cell = self->cell;
  (void)index;
  (void)fiber;
  (void)closed;
  self->cell = NULL;
  return recv_finish(L, cell);
}

static const concur_arm_ops receiving_ops = {"receiving", receiving_attempt, receiving_link,
                                             arm_unlink, receiving_finish};

/* Sending may succeed now: tries, in the moment in which the select is decided. */
static void on_sending_possible(concur_mail *mail, void *owner) {
  concur_channel_cell *cell = cell_of_mail(mail);
  concur_arm *arm = cell->owner;
  (void)owner;
  while (arm != NULL) {
    box *self = arm->target;
    concur_channel_end end = concur_channel_try_send(self->channel, self->parcel);
    if (end != CONCUR_CHANNEL_WAIT) {
      self->closed = end == CONCUR_CHANNEL_CLOSED;
      if (end == CONCUR_CHANNEL_DONE) self->parcel = NULL;
      arm_chosen(arm);
      break;
    }
    if (concur_channel_watch(cell)) break; /* somebody was faster: waits again */
  }
  concur_cell_release(cell);
}

static int sending_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  box *self = arm->target;
  (void)fiber;
  check_box(L, self);
  if (self->parcel == NULL) {
    lua_getiuservalue(L, index, 1);
    lua_getiuservalue(L, -1, 2);
    self->parcel = parcel_of(L, lua_gettop(L));
    lua_pop(L, 2);
  }
  switch (concur_channel_try_send(self->channel, self->parcel)) {
  case CONCUR_CHANNEL_DONE: self->parcel = NULL; return 0;
  case CONCUR_CHANNEL_CLOSED: return raise_closed(L);
  case CONCUR_CHANNEL_WAIT: break;
  }
  return -1;
}

static bool sending_link(concur_arm *arm, concur_loop *loop) {
  box *self = arm->target;
  concur_channel_cell *cell = cell_make(NULL, self->channel, loop, on_sending_possible);
  if (cell == NULL) return false;
  self->cell = cell;
  self->over = false;
  self->closed = false;
  cell->owner = arm;
  if (!concur_channel_watch(cell)) cell_post_self(cell, CONCUR_CELL_DONE);
  cell_count(cell, loop);
  return true;
}

static int sending_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                          bool closed) {
  box *self = arm->target;
  (void)index;
  (void)fiber;
  (void)closed;
  concur_cell_release(self->cell);
  self->cell = NULL;
  return self->closed ? raise_closed(L) : 0;
}

static const concur_arm_ops sending_ops = {"sending", sending_attempt, sending_link, arm_unlink,
                                           sending_finish};

/* Pushes an arm for the channel at index 1 (and the value at index 2). */
static int push_arm(lua_State *L, const concur_arm_ops *ops) {
  box *self = lua_newuserdatauv(L, sizeof *self, 2);
  *self = (box){.channel = NULL};
  lua_rawgetp(L, LUA_REGISTRYINDEX, &box_key);
  lua_setmetatable(L, -2);
  self->channel = ((handle *)lua_touserdata(L, 1))->channel;
  concur_channel_retain(self->channel);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, 2);
  concur_arm_new(L, concur_runtime_of(L), ops, lua_gettop(L), 0);
  return 1;
}

/*@lua
---An arm for `concur.select`: receives.  Results as of `recv`.
---@return concur.Arm
function Channel:receiving() end
*/
static int l_receiving(lua_State *L) {
  (void)check_handle(L);
  lua_settop(L, 1);
  lua_pushnil(L);
  return push_arm(L, &receiving_ops);
}

/*@lua
---An arm for `concur.select`: sends the value.  Raises in `select` as `send` does.
---@param value any not nil
---@return concur.Arm
function Channel:sending(value) end
*/
static int l_sending(lua_State *L) {
  (void)check_handle(L);
  check_value(L);
  return push_arm(L, &sending_ops);
}

/* ---- the class ---- */

/* Pushes a new handle, empty. */
static handle *push_handle(lua_State *L, const concur_runtime *runtime) {
  return concur_class_new(L, runtime, CONCUR_CLASS_CHANNEL, sizeof(handle), 0);
}

/* Remembers the handle on top of the stack, so that this state has one for each channel. */
static void remember_handle(lua_State *L, const handle *self) {
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
  handle *self = push_handle(L, runtime);
  self->channel = concur_channel_new(capacity);
  if (self->channel == NULL) luaL_error(L, "not enough memory");
  remember_handle(L, self);
  return 1;
}

static int l_gc(lua_State *L) {
  handle *self = concur_class_test(L, 1, CONCUR_CLASS_CHANNEL);
  if (self == NULL) return 0; /* called by hand */
  concur_channel *channel = self->channel;
  self->channel = NULL;
  if (channel != NULL) concur_channel_let_go(channel);
  return 0;
}

static int l_tostring(lua_State *L) {
  const handle *self = concur_class_check(L, 1, CONCUR_CLASS_CHANNEL);
  concur_channel *channel = self->channel;
  if (channel == NULL) {
    lua_pushliteral(L, "concur.Channel (finalized)");
    return 1;
  }
  lua_pushfstring(L, "concur.Channel (%s%d of %I): %p",
                  concur_channel_is_closed(channel) ? "closed, " : "",
                  (int)concur_channel_size(channel),
                  (LUAI_UACINT)concur_channel_capacity(channel), (void *)channel);
  return 1;
}

static const char *channel_unwrap(lua_State *L, int index, concur_attachment *attachment) {
  attachment->object = ((handle *)lua_touserdata(L, index))->channel;
  return attachment->object != NULL ? NULL : "it was finalized";
}

static void channel_wrap(lua_State *L, const concur_attachment *attachment) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &handles_key);
  lua_rawgetp(L, -1, attachment->object);
  lua_remove(L, -2);
  if (!lua_isnil(L, -1)) return;
  lua_pop(L, 1);
  handle *self = push_handle(L, concur_runtime_find(L));
  concur_channel_hold(attachment->object);
  self->channel = attachment->object;
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
                                     {"receiving", l_receiving},
                                     {"sending", l_sending},
                                     {NULL, NULL}};
  static const luaL_Reg metamethods[] = {
      {"__gc", l_gc}, {"__close", l_close}, {"__tostring", l_tostring}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"Channel", l_channel}, {NULL, NULL}};
  static const luaL_Reg box_metamethods[] = {{"__gc", l_box_gc}, {NULL, NULL}};
  lua_newtable(L); /* weak values */
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &handles_key);
  lua_createtable(L, 0, 1);
  concur_register(L, runtime, box_metamethods);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &box_key);
  concur_class_define(L, runtime, CONCUR_CLASS_CHANNEL, "concur.Channel", methods, metamethods);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_CHANNEL]);
  concur_share_class_bind(L, &share_class);
  lua_pop(L, 1);
  concur_register(L, runtime, functions);
}
