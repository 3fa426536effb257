/* SPDX-License-Identifier: MIT */
/*
 * Callbacks: call_soon, call_later, call_at, add_done_callback.
 *
 * A callback is a userdata (user values: 1 the function, 2 its arguments packed or nil, 3 the next
 * one of the same future), anchored from when it is made until it has run or was cancelled.  It runs
 * on the loop's thread through the door, in one FIFO with the tasks; its error goes to on_error.
 *
 * A future made by hand may never settle: its callbacks hang in its user value, so that both can be
 * collected together.  Their anchors are reserved, and filled when the future settles.  If that is while
 * they are being collected (a finalizer settles it), the callback's own finalizer fills it.
 *                                                                            [loop thread]
 */
#include "callback.h"

#include "fiber.h"
#include "report.h"

typedef struct callback {
  concur_ready ready;
  concur_waiter waiter; /* in a future's list */
  concur_timer timer;
  concur_runtime *runtime; /* borrowed */
  int slot;                /* anchors this; 0 once over */
  int count;               /* arguments */
  bool hanging;            /* kept by its future, not by its anchor */
  bool due;                /* its future settled while both were being collected */
  bool queued;             /* in the ready queue: cancelling waits for its turn there */
  bool cancelled;
} callback;

enum { CALLBACK_FUNCTION = 1, CALLBACK_ARGUMENTS = 2, CALLBACK_NEXT = 3 };

static char callbacks_key; /* registry: weak table address -> callback that hangs in a future */

/* ---- running ---- */

/* Pushes the function and its arguments; returns how many. */
static int push_call(lua_State *L, int self, const callback *entry) {
  int count = entry->count;
  luaL_checkstack(L, count + LUA_MINSTACK, "too many arguments");
  lua_getiuservalue(L, self, CALLBACK_FUNCTION);
  if (count > 0) lua_getiuservalue(L, self, CALLBACK_ARGUMENTS);
  if (count <= 1) return count;
  int packed = lua_gettop(L);
  for (int i = 1; i <= count; i++) lua_rawgeti(L, packed, i);
  lua_remove(L, packed);
  return count;
}

/* Argument: light userdata callback. */
static int l_call(lua_State *L) {
  callback *entry = lua_touserdata(L, 1);
  concur_runtime *runtime = entry->runtime;
  concur_anchor_push(L, runtime, entry->slot);
  concur_anchor_release(L, runtime, entry->slot);
  entry->slot = 0;
  if (entry->cancelled) return 0;
  lua_pushcfunction(L, concur_traceback_handler); /* 3 */
  int count = push_call(L, 2, entry);
  if (lua_pcall(L, count, 0, 3) == LUA_OK) return 0;
  concur_fiber_push_trace(L, &runtime->scheduler->top, -1);
  concur_report(L, runtime, -2, -1, "error in a callback of the event loop");
  return 0;
}

static void callback_run(concur_loop *loop, concur_ready *ready) {
  callback *entry = concur_container_of(ready, callback, ready);
  (void)concur_loop_protect(loop, l_call, entry);
}

static void callback_queue(callback *entry, concur_loop *loop) {
  entry->queued = true;
  concur_loop_ready(loop, &entry->ready);
}

static void on_callback_time(concur_timer *timer, void *context) {
  callback_queue(concur_container_of(timer, callback, timer), context);
}

/* Anchors a callback that was kept by its future.  Allocates nothing: the slots are there.  False when
   it is being collected: the weak table has forgotten it. */
static bool callback_catch(callback *entry) {
  lua_State *L = entry->runtime->main_state; /* inside a C function whenever this runs */
  lua_rawgetp(L, LUA_REGISTRYINDEX, &callbacks_key);
  bool found = lua_rawgetp(L, -1, entry) != LUA_TNIL;
  if (found) {
    concur_anchor_set(L, entry->runtime, entry->slot);
    entry->hanging = false;
  } else {
    entry->due = true;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return found;
}

static void on_future_settled(concur_waiter *waiter, void *source) {
  (void)source;
  callback *entry = concur_container_of(waiter, callback, waiter);
  concur_loop *loop = entry->runtime->loop;
  if (entry->hanging && !callback_catch(entry)) return;
  if (loop != NULL) callback_queue(entry, loop);
}

/* ---- making ---- */

/* Makes an anchored callback of the function at `function` and all that is above it; replaces them
   by the callback. */
static callback *callback_new(lua_State *L, concur_runtime *runtime, int function) {
  luaL_checkstack(L, 6, NULL);
  int count = lua_gettop(L) - function;
  callback *entry = concur_class_new(L, runtime, CONCUR_CLASS_CALLBACK, sizeof *entry, 3);
  entry->runtime = runtime;
  entry->count = count;
  entry->ready.run = callback_run;
  entry->waiter.notify = on_future_settled;
  concur_timer_init(&entry->timer);
  lua_insert(L, function);
  if (count > 1) {
    lua_createtable(L, count, 0);
    lua_insert(L, function + 2);
    for (int i = count; i > 0; i--) lua_rawseti(L, function + 2, i);
  }
  if (count > 0) lua_setiuservalue(L, function, CALLBACK_ARGUMENTS);
  lua_setiuservalue(L, function, CALLBACK_FUNCTION);
  lua_pushvalue(L, function);
  entry->slot = concur_anchor(L, runtime);
  return entry;
}

/* Stack: future, callback.  From its anchor into the future's user value. */
static void callback_hang(lua_State *L, callback *entry) {
  concur_runtime *runtime = entry->runtime;
  lua_rawgetp(L, LUA_REGISTRYINDEX, &callbacks_key);
  lua_pushvalue(L, 2);
  lua_rawsetp(L, -2, entry);
  lua_getiuservalue(L, 1, 1);
  lua_setiuservalue(L, 2, CALLBACK_NEXT);
  lua_pushvalue(L, 2);
  lua_setiuservalue(L, 1, 1);
  concur_anchor_clear(runtime, entry->slot);
  entry->hanging = true;
  lua_settop(L, 2);
}

void concur_callback_on_settled(lua_State *L, concur_runtime *runtime, concur_future *future) {
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  lua_settop(L, 2);
  lua_pushvalue(L, 1);
  callback *entry = callback_new(L, runtime, 2);
  if (concur_future_settled(future)) {
    callback_queue(entry, loop);
    return;
  }
  if (concur_class_test(L, 1, CONCUR_CLASS_FUTURE) != NULL) callback_hang(L, entry);
  concur_list_append(&future->waiters, &entry->waiter.node);
}

static void callback_drop(lua_State *L, callback *entry) {
  entry->cancelled = true;
  if (entry->runtime->loop != NULL) concur_loop_stop_timer(entry->runtime->loop, &entry->timer);
  concur_anchor_release(L, entry->runtime, entry->slot);
  entry->slot = 0;
}

static int call_at(lua_State *L, concur_runtime *runtime, int function, uint64_t deadline_ns) {
  callback *entry = callback_new(L, runtime, function);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  if (!concur_loop_reserve_timer(loop)) {
    callback_drop(L, entry);
    return luaL_error(L, "not enough memory");
  }
  entry->timer.fire = on_callback_time;
  concur_loop_start_timer(loop, &entry->timer, deadline_ns);
  return 1;
}

/* loop:call_soon(fn, ...) */
static int l_call_soon(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_check_callable(L, 1);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  callback *entry = callback_new(L, runtime, 1);
  callback_queue(entry, loop);
  return 1;
}

static int l_call_later(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  uint64_t delay = concur_check_duration(L, 1);
  concur_check_callable(L, 2);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  return call_at(L, runtime, 2, concur_deadline_after(loop, delay));
}

static int l_call_at(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  uint64_t deadline = concur_check_duration(L, 1);
  concur_check_callable(L, 2);
  return call_at(L, runtime, 2, deadline);
}

void concur_callback_drop_timers(lua_State *L, concur_runtime *runtime) {
  concur_heap *timers = &runtime->loop->timers;
  for (uint32_t i = 0; i < timers->count;) {
    concur_timer *timer = timers->entries[i].timer;
    if (timer->fire == on_callback_time) {
      callback_drop(L, concur_container_of(timer, callback, timer)); /* another comes to i */
    } else {
      i++;
    }
  }
}

/* ---- the handle ---- */

/*@lua
---A scheduled call, from `call_soon`, `call_later` or `call_at`.
---@class concur.Handle
local Handle = {}

---Cancels the call; never suspends.
---@return boolean cancelled false when it has run or was cancelled already
function Handle:cancel() end

---@return boolean
function Handle:cancelled() end
*/
static int l_callback_cancel(lua_State *L) {
  callback *entry = concur_class_check(L, 1, CONCUR_CLASS_CALLBACK);
  bool pending = entry->slot != 0 && !entry->cancelled;
  if (pending) {
    entry->cancelled = true;
    if (!entry->queued) callback_drop(L, entry);
    lua_pushnil(L);
    lua_setiuservalue(L, 1, CALLBACK_ARGUMENTS);
  }
  lua_pushboolean(L, pending);
  return 1;
}

static int l_callback_cancelled(lua_State *L) {
  callback *entry = concur_class_check(L, 1, CONCUR_CLASS_CALLBACK);
  lua_pushboolean(L, entry->cancelled);
  return 1;
}

static int l_callback_tostring(lua_State *L) {
  callback *entry = concur_class_check(L, 1, CONCUR_CLASS_CALLBACK);
  const char *state = entry->cancelled ? "cancelled" : entry->slot != 0 ? "pending" : "done";
  lua_pushfstring(L, "concur.Handle (%s): %p", state, lua_topointer(L, 1));
  return 1;
}

/* A callback that hung in a future is collected with it and gives its slot back; unless a finalizer
   of the same round has settled the future.  Should Lua drop this finalizer, only the slot is lost. */
static int l_callback_gc(lua_State *L) {
  callback *entry = concur_class_test(L, 1, CONCUR_CLASS_CALLBACK);
  if (entry == NULL || !entry->hanging || entry->runtime->closed) return 0;
  entry->hanging = false;
  if (entry->due && entry->runtime->loop != NULL) {
    lua_pushvalue(L, 1);
    concur_anchor_set(L, entry->runtime, entry->slot);
    callback_queue(entry, entry->runtime->loop);
  } else {
    concur_node_unlink(&entry->waiter.node);
    concur_anchor_release(L, entry->runtime, entry->slot);
    entry->slot = 0;
  }
  return 0;
}

void concur_callback_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {
      {"cancel", l_callback_cancel}, {"cancelled", l_callback_cancelled}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {
      {"__gc", l_callback_gc}, {"__tostring", l_callback_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"call_soon", l_call_soon},
                                {"call_later", l_call_later},
                                {"call_at", l_call_at},
                                {NULL, NULL}};
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &callbacks_key);
  concur_class_define(L, runtime, CONCUR_CLASS_CALLBACK, "concur.Handle", methods, metamethods);
  concur_register(L, runtime, functions);
}
