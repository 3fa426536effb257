/* SPDX-License-Identifier: MIT */
/*
 * Channels in select: what receives waits with a cell like any receiver; what sends waits to be told
 * that there may be room, since it must not hand its value over before the select is decided.
 * docs/design/executors.md, Channels.                                              [loop thread]
 */
#include "channel_arms.h"

#include "channel_cell.h"
#include "fiber.h"
#include "holding.h"
#include "select.h"

static char holder_key; /* registry: the metatable of holders */

/* What an arm waits with: user value 1 of the arm is a userdata, this is the memory behind that
   (support.h).  The userdata's finalizer, or the end of the state (holding.h), releases it. */
typedef struct box {
  concur_backing backing;    /* user: the holding */
  concur_channel *channel;   /* one reference; NULL once it was released */
  concur_channel_cell *cell; /* the owner's reference; NULL while not waiting */
  concur_parcel *parcel;     /* owned: the value to send, encoded */
  bool over;                 /* the arm was chosen: `cell` is kept for its finish */
  bool closed;               /* sending: the channel was closed */
} box;

/* The userdata. */
typedef struct holder {
  concur_holding *holding; /* owned; of the box */
} holder;

/* Its user values, besides the box. */
enum { HOLDER_CHANNEL = 2, HOLDER_VALUE = 3 };

static void box_forget(box *self, concur_loop *loop) {
  concur_channel_cell *cell = self->cell;
  if (cell == NULL) return;
  self->cell = NULL;
  (void)concur_cell_withdraw(cell, true);
  concur_cell_forget(cell, loop);
  concur_cell_release(cell);
}

static void box_release(void *object) {
  box *self = object;
  box_forget(self, self->backing.runtime->loop);
  concur_parcel_free(self->parcel);
  concur_channel_release(self->channel);
  self->parcel = NULL;
  self->channel = NULL;
  concur_memory_leave(&self->backing);
}

static int l_holder_gc(lua_State *L) {
  holder *owner = lua_touserdata(L, 1);
  if (owner == NULL || !lua_getmetatable(L, 1)) return 0;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &holder_key);
  if (!lua_rawequal(L, -1, -2)) return 0; /* called by hand, with something else */
  if (concur_runtime_forked(concur_runtime_of(L))) {
    concur_holding_abandon(owner->holding); /* another thread may have had the channel's lock */
  } else {
    concur_holding_end(owner->holding);
  }
  owner->holding = NULL;
  return 0;
}

static void arm_unlink(concur_arm *arm, concur_loop *loop) {
  box *self = arm->target;
  if (!self->over) {
    box_forget(self, loop);
  } else if (self->cell != NULL) {
    concur_cell_forget(self->cell, loop);
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
  concur_channel_cell *cell = concur_cell_of_mail(mail);
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
  case CONCUR_CHANNEL_DONE: return concur_channel_push(L, parcel);
  case CONCUR_CHANNEL_CLOSED: return concur_channel_push_drained(L);
  case CONCUR_CHANNEL_WAIT: break;
  }
  return -1;
}

static bool receiving_link(concur_arm *arm, concur_loop *loop) {
  box *self = arm->target;
  concur_channel_cell *cell = concur_cell_make(NULL, self->channel, loop, on_receiving_over);
  if (cell == NULL) return false;
  self->cell = cell;
  self->over = false;
  cell->owner = arm;
  switch (concur_channel_recv(cell)) {
  case CONCUR_CHANNEL_DONE: cell_post_self(cell, CONCUR_CELL_DONE); break;
  case CONCUR_CHANNEL_CLOSED: cell_post_self(cell, CONCUR_CELL_CLOSED); break;
  case CONCUR_CHANNEL_WAIT: break;
  }
  concur_cell_count(cell, loop);
  return true;
}

static int receiving_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                            bool closed) {
  box *self = arm->target;
  (void)index;
  (void)fiber;
  (void)closed;
  check_box(L, self);
  concur_channel_cell *cell = self->cell;
  self->cell = NULL;
  return concur_channel_recv_finish(L, cell);
}

static const concur_arm_ops receiving_ops = {"receiving", receiving_attempt, receiving_link,
                                             arm_unlink, receiving_finish};

/* Sending may succeed now: tries, in the moment in which the select is decided. */
static void on_sending_possible(concur_mail *mail, void *owner) {
  concur_channel_cell *cell = concur_cell_of_mail(mail);
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
    if (lua_getiuservalue(L, -1, HOLDER_VALUE) == LUA_TNIL) {
      luaL_error(L, "the arm has lost its value");
    }
    self->parcel = concur_channel_parcel(L, lua_gettop(L));
    lua_pop(L, 2);
  }
  switch (concur_channel_try_send(self->channel, self->parcel)) {
  case CONCUR_CHANNEL_DONE: self->parcel = NULL; return 0;
  case CONCUR_CHANNEL_CLOSED: return concur_channel_raise_closed(L);
  case CONCUR_CHANNEL_WAIT: break;
  }
  return -1;
}

static bool sending_link(concur_arm *arm, concur_loop *loop) {
  box *self = arm->target;
  concur_channel_cell *cell = concur_cell_make(NULL, self->channel, loop, on_sending_possible);
  if (cell == NULL) return false;
  self->cell = cell;
  self->over = false;
  self->closed = false;
  cell->owner = arm;
  if (!concur_channel_watch(cell)) cell_post_self(cell, CONCUR_CELL_DONE);
  concur_cell_count(cell, loop);
  return true;
}

static int sending_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                          bool closed) {
  box *self = arm->target;
  (void)index;
  (void)fiber;
  (void)closed;
  check_box(L, self);
  concur_cell_release(self->cell);
  self->cell = NULL;
  return self->closed ? concur_channel_raise_closed(L) : 0;
}

static const concur_arm_ops sending_ops = {"sending", sending_attempt, sending_link, arm_unlink,
                                           sending_finish};

/* Pushes an arm for the channel at index 1 (and the value at index 2). */
static int push_arm(lua_State *L, const concur_arm_ops *ops) {
  concur_runtime *runtime = concur_runtime_of(L);
  holder *owner = lua_newuserdatauv(L, sizeof *owner, HOLDER_VALUE);
  owner->holding = NULL;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &holder_key);
  lua_setmetatable(L, -2);
  owner->holding = concur_holding_new(L, runtime, box_release);
  concur_backing backing;
  box *self = concur_memory_new(L, runtime, sizeof *self, 0, &backing);
  *self = (box){.backing = backing, .channel = concur_channel_check(L)};
  concur_channel_retain(self->channel);
  owner->holding->object = self;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, HOLDER_CHANNEL);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, -2, HOLDER_VALUE);
  concur_arm_new(L, runtime, ops, lua_gettop(L), 0)->target = self;
  return 1;
}

/*@lua
---An arm for `concur.select`: receives.  Results as of `recv`.
---@return concur.Arm
function Channel:receiving() end
*/
int concur_channel_l_receiving(lua_State *L) {
  (void)concur_channel_check(L);
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
int concur_channel_l_sending(lua_State *L) {
  (void)concur_channel_check(L);
  concur_channel_check_value(L);
  return push_arm(L, &sending_ops);
}

void concur_channel_arms_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg metamethods[] = {{"__gc", l_holder_gc}, {NULL, NULL}};
  lua_createtable(L, 0, 1);
  concur_register(L, runtime, metamethods);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &holder_key);
}
