/* SPDX-License-Identifier: MIT */
/*
 * concur.signal.receive: signals as an iterator, and as an arm of select.
 *
 * disposition.c counts the signals that arrive; a *receiver* remembers how far it has taken each of
 * its signals.  So nothing is queued and nothing can overflow, and each receiver sees each signal.
 *
 * A loop with receivers has one *hub*: an async handle that the handler of signals wakes, and the
 * list of the receivers.  Its callback hands the new signals to those who wait; the names exist
 * already, so that this needs no memory.  It keeps the loop alive while somebody waits.
 *
 * Who frees: the hub is malloc'd and freed by its close callback.  A receiver is the memory behind the
 * userdata that scripts hold (support.h), anchored while it is open.          [loop thread]
 */
#include "signal_receiver.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "disposition.h"
#include "run.h"
#include "select.h"

typedef struct concur_signal_hub {
  uv_async_t async;
  concur_loop *loop;     /* borrowed */
  concur_node receivers; /* those that are open */
} concur_signal_hub;

/* User value 1 of the memory: the list of the names. */
typedef struct signal_receiver {
  concur_node link;       /* in the hub's list while open */
  concur_signal_hub *hub; /* borrowed; NULL: closed */
  concur_backing backing; /* users: the userdata, and the hub while it is open */
  concur_node waiters;
  int count;
  int next;               /* where the next look begins, so that no signal starves another */
  struct {
    int number;
    uint32_t taken;       /* as concur_disposition_arrived counts */
  } signals[];
} signal_receiver;

/* The userdata. */
typedef struct box {
  signal_receiver *receiver; /* the memory behind it; NULL: finalized, or never made */
} box;

/* ---- the hub ---- */

static void on_hub_closed(uv_handle_t *handle) {
  free(concur_container_of(handle, concur_signal_hub, async));
}

static void hub_close(concur_signal_hub *hub) {
  concur_disposition_unwake(&hub->async);
  hub->loop->signals = NULL;
  uv_close((uv_handle_t *)&hub->async, on_hub_closed);
}

static void on_wake(uv_async_t *async);

static concur_signal_hub *hub_new(concur_loop *loop) {
  concur_signal_hub *hub = calloc(1, sizeof *hub);
  if (hub == NULL) return NULL;
  if (uv_async_init(&loop->uv, &hub->async, on_wake) != 0) {
    free(hub);
    return NULL;
  }
  uv_unref((uv_handle_t *)&hub->async);
  hub->loop = loop;
  concur_list_init(&hub->receivers);
  loop->signals = hub;
  if (concur_disposition_wake(&hub->async)) return hub;
  hub_close(hub);
  return NULL;
}

/* The hub keeps the loop alive while somebody waits for a signal: who waits for something else shall
   hear of a deadlock. */
static void update_ref(concur_signal_hub *hub) {
  bool waited = false;
  for (concur_node *node = hub->receivers.next; node != &hub->receivers; node = node->next) {
    const signal_receiver *self = concur_container_of(node, signal_receiver, link);
    waited = waited || !concur_list_empty(&self->waiters);
  }
  if (waited) {
    uv_ref((uv_handle_t *)&hub->async);
  } else {
    uv_unref((uv_handle_t *)&hub->async);
  }
}

static void receiver_update_ref(const signal_receiver *self) {
  if (self->hub != NULL) update_ref(self->hub);
}

/* ---- taking signals ---- */

/* The position of a signal that has arrived and was not taken; -1: there is none. */
static int receiver_pending(const signal_receiver *self) {
  for (int i = 0; self->hub != NULL && i < self->count; i++) {
    int at = (self->next + i) % self->count;
    if (concur_disposition_arrived(self->signals[at].number) != self->signals[at].taken) return at;
  }
  return -1;
}

static void receiver_take(signal_receiver *self, int at) {
  self->signals[at].taken++;
  self->next = (at + 1) % self->count;
  concur_disposition_took(self->signals[at].number, self->signals[at].taken);
}

/* Pushes the name of a signal of the receiver, which is open.  Needs 3 slots of the stack, and no
   memory. */
static void push_name(lua_State *L, const signal_receiver *self, int at) {
  concur_anchor_push(L, self->backing.runtime, self->backing.slot);
  if (lua_getiuservalue(L, -1, 1) == LUA_TTABLE) {
    lua_rawgeti(L, -1, at + 1);
  } else {
    lua_pushnil(L); /* a script took them away */
  }
  lua_insert(L, -3);
  lua_pop(L, 2);
}

/* Takes the signal and pushes its name. */
static void push_taken(lua_State *L, signal_receiver *self, int at) {
  push_name(L, self, at);
  receiver_take(self, at);
}

/* Hands what has arrived to those who wait.  Nothing here can raise. */
static void hand_over(lua_State *L, signal_receiver *self) {
  int at;
  while (!concur_list_empty(&self->waiters) && (at = receiver_pending(self)) >= 0) {
    push_name(L, self, at);
    if (!concur_parking_give(L, &self->waiters)) {
      lua_pop(L, 1);
      return;
    }
    receiver_take(self, at);
  }
}

static void on_wake(uv_async_t *async) {
  concur_signal_hub *hub = concur_container_of(async, concur_signal_hub, async);
  lua_State *L = hub->loop->L;
  if (hub->loop->closing || L == NULL) return;
  bool room = lua_checkstack(L, LUA_MINSTACK);
  for (concur_node *node = hub->receivers.next; node != &hub->receivers; node = node->next) {
    signal_receiver *self = concur_container_of(node, signal_receiver, link);
    if (room) {
      hand_over(L, self);
    } else if (receiver_pending(self) >= 0) {
      /* GCOVR_EXCL_START: the stack is full: they look for themselves */
      concur_parking_wake_all(&self->waiters, self);
      /* GCOVR_EXCL_STOP */
    }
  }
  update_ref(hub);
}

/* ---- closing ---- */

static void receiver_close(signal_receiver *self) {
  concur_signal_hub *hub = self->hub;
  if (hub == NULL) return;
  self->hub = NULL;
  concur_node_unlink(&self->link);
  for (int i = 0; i < self->count; i++) concur_disposition_unreceive(self->signals[i].number);
  if (concur_list_empty(&hub->receivers)) {
    hub_close(hub);
  } else {
    update_ref(hub);
  }
  concur_memory_leave(&self->backing);
}

void concur_signal_close(concur_loop *loop) {
  while (loop->signals != NULL) {
    receiver_close(concur_container_of(loop->signals->receivers.next, signal_receiver, link));
  }
}

static signal_receiver *check_receiver(lua_State *L) {
  signal_receiver *self =
      ((const box *)concur_class_check(L, 1, CONCUR_CLASS_SIGNAL_RECEIVER))->receiver;
  if (self == NULL) luaL_argerror(L, 1, "the receiver was finalized");
  return self;
}

/*@lua
---Signals as they arrive: an iterator over their names.
---@class concur.signal.Receiver
---@operator call: string
local Receiver = {}

---Closes the receiver: those who wait get `nil`.  When it was the last one for a signal, the old
---handler is back, and gets a signal that arrived and was not taken.  Idempotent; never suspends.
function Receiver:close() end
*/
static int l_close(lua_State *L) {
  signal_receiver *self = check_receiver(L);
  if (concur_runtime_forked(concur_runtime_of(L))) return 0; /* the parent's goes on */
  receiver_close(self);
  concur_parking_wake_all(&self->waiters, self);
  return 0;
}

static int l_gc(lua_State *L) {
  box *owner = concur_class_test(L, 1, CONCUR_CLASS_SIGNAL_RECEIVER);
  if (owner == NULL || owner->receiver == NULL) return 0;
  if (concur_runtime_forked(concur_runtime_of(L))) return 0; /* the parent's */
  signal_receiver *self = owner->receiver;
  owner->receiver = NULL;
  receiver_close(self);
  concur_memory_leave(&self->backing);
  return 0;
}

/* ---- receiving ---- */

static void detach(concur_fiber *fiber) {
  concur_node_unlink(&fiber->waiter.node);
  receiver_update_ref(fiber->target);
}

static bool abort_wait(concur_fiber *fiber) {
  detach(fiber);
  return true;
}

static const concur_wait wait_signal = {
    .name = "signal", .abort = abort_wait, .detach = detach};

static int receive_begin(lua_State *L, concur_fiber *fiber);

static int receive_done(lua_State *L, concur_fiber *fiber) {
  return fiber->given ? 1 : receive_begin(L, fiber);
}

/* Frame: the receiver. */
static int receive_begin(lua_State *L, concur_fiber *fiber) {
  signal_receiver *self = check_receiver(L);
  int at = receiver_pending(self);
  if (at >= 0) {
    push_taken(L, self, at);
    return 1;
  }
  if (self->hub == NULL) {
    lua_pushnil(L);
    return 1;
  }
  concur_list_append(&self->waiters, &fiber->waiter.node);
  receiver_update_ref(self);
  return concur_fiber_park(L, fiber, &wait_signal, self, receive_done);
}

static int l_call(lua_State *L) {
  (void)check_receiver(L);
  lua_settop(L, 1);
  return concur_fiber_begin(L, receive_begin);
}

static int arm_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  (void)index;
  (void)fiber;
  signal_receiver *self = arm->target;
  int at = receiver_pending(self);
  if (at < 0 && self->hub != NULL) return -1;
  if (at < 0) {
    lua_pushnil(L);
    return 1;
  }
  push_taken(L, self, at);
  return 1;
}

static bool arm_link(concur_arm *arm, concur_loop *loop) {
  signal_receiver *self = arm->target;
  (void)loop;
  concur_list_append(&self->waiters, &arm->waiter.node);
  receiver_update_ref(self);
  return true;
}

static void arm_unlink(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_node_unlink(&arm->waiter.node);
  receiver_update_ref(arm->target);
}

static int arm_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber, bool closed) {
  (void)closed;
  if (fiber->given) return 1;
  int results = arm_attempt(L, index, arm, fiber);
  return results >= 0 ? results : luaL_error(L, "not enough memory"); /* to hand it over */
}

static const concur_arm_ops arm_ops = {"signal", arm_attempt, arm_link, arm_unlink, arm_finish};

/*@lua
---An arm for `concur.select` that takes the next signal; its result is the name, `nil` once closed.
---@return concur.Arm
function Receiver:receiving() end
*/
static int l_receiving(lua_State *L) {
  signal_receiver *self = check_receiver(L);
  concur_arm_new(L, concur_runtime_of(L), &arm_ops, 1, 0)->target = self;
  return 1;
}

static int l_tostring(lua_State *L) {
  const signal_receiver *self = check_receiver(L);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  luaL_addstring(&text, "concur.signal.Receiver (");
  for (int i = 0; i < self->count; i++) {
    luaL_addstring(&text, concur_signal_name(self->signals[i].number));
    luaL_addstring(&text, i + 1 < self->count ? " " : "");
  }
  luaL_addstring(&text, self->hub != NULL ? ")" : ", closed)");
  luaL_pushresult(&text);
  lua_pushfstring(L, "%s: %p", lua_tostring(L, -1), lua_topointer(L, 1));
  return 1;
}

/* ---- opening ---- */

/* Signals that mean an error in the program: going on after their handler makes no sense. */
static bool is_fault(int number) {
  static const int faults[] = {SIGSEGV, SIGFPE, SIGILL, SIGABRT,
#ifndef _WIN32
                               SIGBUS, SIGTRAP, SIGSYS,
#endif
  };
  for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
    if (faults[i] == number) return true;
  }
  return false;
}

static const char *refusal(int number) {
  if (number == 0) return "there is no such signal on this system; names are like 'SIGTERM'";
  if (is_fault(number)) return "it means an error in the program, which cannot go on";
#ifndef _WIN32
  if (number == SIGKILL || number == SIGSTOP) return "no program can receive it";
  if (number == SIGURG) return "concur itself uses it, to interrupt workers";
#endif
  return NULL;
}

static int check_signal(lua_State *L, int index) {
  const char *name = luaL_checkstring(L, index);
  int number = concur_signal_number(name);
  const char *why = refusal(number);
  if (why != NULL) luaL_argerror(L, index, lua_pushfstring(L, "signal '%s': %s", name, why));
  for (int i = 1; i < index; i++) {
    if (strcmp(lua_tostring(L, i), name) == 0) {
      luaL_argerror(L, index, lua_pushfstring(L, "signal '%s' is named twice", name));
    }
  }
  return number;
}

/* Pushes a receiver that is closed, as yet.  The names are on the stack from 1 on, and as a list on top
   of it, which is popped.  Raises. */
static signal_receiver *receiver_new(lua_State *L, concur_runtime *runtime, int count) {
  box *owner = concur_class_new(L, runtime, CONCUR_CLASS_SIGNAL_RECEIVER, sizeof *owner, 1);
  size_t size = sizeof(signal_receiver) + (size_t)count * sizeof(((signal_receiver *)0)->signals[0]);
  concur_backing backing;
  signal_receiver *self = concur_memory_new(L, runtime, size, 1, &backing);
  memset(self, 0, size);
  self->backing = backing;
  self->count = count;
  concur_list_init(&self->waiters);
  for (int i = 0; i < count; i++) {
    self->signals[i].number = concur_signal_number(lua_tostring(L, i + 1));
  }
  concur_anchor_push(L, runtime, backing.slot);
  lua_rotate(L, -3, -1); /* list, userdata, memory: the list comes to the top */
  lua_setiuservalue(L, -2, 1);
  lua_pop(L, 1);
  owner->receiver = self;
  return self;
}

/* Takes the signals; 0, or a libuv error code, and then it is closed. */
static int receiver_open(signal_receiver *self, concur_loop *loop) {
  concur_signal_hub *hub = loop->signals != NULL ? loop->signals : hub_new(loop);
  if (hub == NULL) return UV_ENOMEM;
  self->hub = hub;
  self->backing.users++;
  concur_list_append(&hub->receivers, &self->link);
  int count = self->count;
  int error = 0;
  for (self->count = 0; error == 0 && self->count < count;) {
    error = concur_disposition_receive(self->signals[self->count].number,
                                       &self->signals[self->count].taken);
    if (error == 0) self->count++;
  }
  if (error != 0) receiver_close(self);
  return error;
}

/* core.receive_signals(name, ...) -> receiver, nil, nil, receiver */
static int l_receive(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  int count = lua_gettop(L);
  luaL_argcheck(L, count > 0, 1, "name of a signal expected, got no value");
  for (int i = 1; i <= count; i++) (void)check_signal(L, i);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  lua_createtable(L, count, 0);
  for (int i = 1; i <= count; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, -2, i);
  }
  signal_receiver *self = receiver_new(L, runtime, count);
  int error = receiver_open(self, loop);
  if (error != 0) {
    concur_os_error(L, runtime, error, "receiving signals", NULL, NULL);
    return lua_error(L);
  }
  lua_pushnil(L);
  lua_pushnil(L);
  lua_pushvalue(L, -3);
  return 4;
}

/* core.raise_signal(name): sends a signal to this process. */
static int l_raise(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  const char *name = luaL_checkstring(L, 1);
  int number = concur_signal_number(name);
  if (number == 0) luaL_argerror(L, 1, lua_pushfstring(L, "signal '%s': %s", name, refusal(0)));
  int error = uv_kill((int)getpid(), number);
  if (error != 0) return concur_os_error(L, runtime, error, "kill", NULL, NULL);
  lua_pushboolean(L, 1);
  return 1;
}

void concur_signal_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"close", l_close}, {"receiving", l_receiving}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__call", l_call},         {"__close", l_close},
                                  {"__gc", l_gc},             {"__tostring", l_tostring},
                                  {NULL, NULL}};
  const luaL_Reg functions[] = {
      {"receive_signals", l_receive}, {"raise_signal", l_raise}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_SIGNAL_RECEIVER, "concur.signal.Receiver", methods,
                      metamethods);
  concur_register(L, runtime, functions);
}
