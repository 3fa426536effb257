/* SPDX-License-Identifier: MIT */
/*
 * gather, settle, race, any: several inputs, all of them ended before the caller goes on.
 *
 * One *join* is a userdata with a watcher for each input.  Functions become tasks inside the join's
 * scope; futures are handed over.  Every input that settles tells its watcher, which decides by the
 * mode whether the rest is cancelled; the caller is woken when none is left.
 *
 * Frame: 1 the join (user values: 1 handles by position, 2 keys by position or nil), 2 the message
 * handler.                                                                   [loop thread]
 */
#include "join.h"

#include "await.h"
#include "report.h"

typedef enum join_mode { MODE_GATHER, MODE_SETTLE, MODE_RACE, MODE_ANY } join_mode;

typedef struct join join;

typedef struct watcher {
  concur_waiter waiter;  /* in the future's list until it settles */
  join *owner;
  concur_future *future; /* borrowed: the handles keep it */
} watcher;

struct join {
  concur_fiber *fiber; /* NULL once orphaned */
  concur_scope *scope; /* borrowed until left */
  int slot;    /* anchors this until it is left */
  int count;   /* inputs */
  int watched; /* inputs whose watcher is set up */
  int pending; /* of these, not settled */
  int chosen;  /* the first error (gather), the winner (race, any): position, or 0 */
  bool joining;
  bool cancelling; /* the rest was told to cancel */
  bool keyed;      /* input was a table with keys other than 1..n */
  bool listed;     /* input was a table */
  join_mode mode;
  watcher watchers[];
};

enum { JOIN_HANDLES = 1, JOIN_KEYS = 2 };

static const char *const mode_names[] = {"gather", "settle", "race", "any"};

/* ---- while it runs ---- */

static void cancel_rest(join *joint) {
  if (joint->cancelling) return;
  joint->cancelling = true;
  concur_scheduler *scheduler = joint->fiber->scheduler;
  concur_scope_cancel(scheduler, joint->scope);
  for (int i = 0; i < joint->watched; i++) {
    concur_future *future = joint->watchers[i].future;
    if (!concur_future_settled(future)) {
      future->ops->cancel_quietly(scheduler->runtime, future);
    }
  }
}

/* An input has settled: `position` counts from 1. */
static void input_settled(join *joint, int position, const concur_future *future) {
  bool good = future->state == CONCUR_DONE;
  bool choose = false;
  joint->pending--;
  switch (joint->mode) {
    case MODE_GATHER: choose = !good; break;
    case MODE_SETTLE: break;
    case MODE_RACE: choose = true; break;
    case MODE_ANY: choose = good; break;
  }
  if (choose && joint->chosen == 0) {
    joint->chosen = position;
    cancel_rest(joint);
  }
  if (joint->pending == 0 && joint->joining) {
    joint->joining = false;
    concur_fiber_wake(joint->fiber, CONCUR_OUTCOME_VALUE);
  }
}

static void on_input_settled(concur_waiter *waiter, void *source) {
  watcher *entry = concur_container_of(waiter, watcher, waiter);
  input_settled(entry->owner, (int)(entry - entry->owner->watchers) + 1, source);
}

static bool join_abort(concur_fiber *fiber) {
  cancel_rest(fiber->target);
  return false; /* the inputs end first */
}

static void join_detach(concur_fiber *fiber) {
  ((join *)fiber->target)->joining = false;
}

static const concur_wait join_waits[] = {
    {.name = "gather", .abort = join_abort, .detach = join_detach},
    {.name = "settle", .abort = join_abort, .detach = join_detach},
    {.name = "race", .abort = join_abort, .detach = join_detach},
    {.name = "any", .abort = join_abort, .detach = join_detach},
};

/* The caller is gone by force: the inputs are cancelled and nobody waits for them. */
static void join_orphan(lua_State *L, concur_scope *scope) {
  join *joint = scope->data;
  cancel_rest(joint);
  concur_anchor_release(L, joint->fiber->scheduler->runtime, joint->slot);
  for (int i = 0; i < joint->watched; i++) {
    concur_node_unlink(&joint->watchers[i].waiter.node);
  }
  joint->fiber = NULL;
}

/* ---- results ---- */

/* Pushes handle `position` (1..n); returns its future. */
static concur_future *push_handle(lua_State *L, const join *joint, int position) {
  lua_getiuservalue(L, 1, JOIN_HANDLES);
  lua_rawgeti(L, -1, position);
  lua_remove(L, -2);
  return joint->watchers[position - 1].future;
}

static void push_key(lua_State *L, const join *joint, int position) {
  if (!joint->keyed) {
    lua_pushinteger(L, position);
    return;
  }
  lua_getiuservalue(L, 1, JOIN_KEYS);
  lua_rawgeti(L, -1, position);
  lua_remove(L, -2);
}

/* Pushes the first result of a future that is done, or nil. */
static void push_first_result(lua_State *L, int index, const concur_future *future) {
  if (future->count == 0) {
    lua_pushnil(L);
    return;
  }
  lua_getiuservalue(L, index, 1);
  if (future->count > 1) {
    lua_rawgeti(L, -1, 1);
    lua_remove(L, -2);
  }
}

static int gather_results(lua_State *L, const join *joint) {
  int count = joint->count;
  if (!joint->listed) {
    luaL_checkstack(L, count + 2, "too many results");
    for (int i = 1; i <= count; i++) {
      concur_future *future = push_handle(L, joint, i);
      push_first_result(L, lua_gettop(L), future);
      lua_remove(L, -2);
    }
    return count;
  }
  lua_getiuservalue(L, 1, JOIN_HANDLES);
  int handles = lua_gettop(L);
  lua_createtable(L, joint->keyed ? 0 : count, joint->keyed ? count : 1);
  int results = handles + 1;
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, handles, i);
    if (joint->keyed) push_key(L, joint, i);
    push_first_result(L, results + 1, joint->watchers[i - 1].future);
    if (joint->keyed) {
      lua_rawset(L, results);
    } else {
      lua_rawseti(L, results, i);
    }
    lua_pop(L, 1);
  }
  if (!joint->keyed) {
    lua_pushinteger(L, count);
    lua_setfield(L, results, "n");
  }
  return 1;
}

/* Pushes {ok=true, value=, n=, ...} or {ok=false, error=} for handle `position`. */
static void push_settled(lua_State *L, concur_runtime *runtime, const join *joint, int position) {
  concur_future *future = push_handle(L, joint, position);
  int handle = lua_gettop(L);
  if (future->state != CONCUR_DONE) {
    lua_createtable(L, 0, 3);
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "ok");
    concur_future_push_error(L, runtime, handle, future);
    lua_setfield(L, -3, "traceback");
    lua_setfield(L, -2, "error");
  } else {
    int count = concur_future_push_outcome(L, runtime, handle, future);
    lua_createtable(L, count, 3);
    lua_insert(L, handle + 1);
    for (int i = count; i > 0; i--) lua_rawseti(L, handle + 1, i);
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "ok");
    lua_pushinteger(L, count);
    lua_setfield(L, -2, "n");
    lua_rawgeti(L, -1, 1);
    lua_setfield(L, -2, "value");
  }
  lua_remove(L, handle);
}

static int settle_results(lua_State *L, concur_runtime *runtime, const join *joint) {
  int count = joint->count;
  if (!joint->listed) {
    luaL_checkstack(L, count + 8, "too many results");
    for (int i = 1; i <= count; i++) push_settled(L, runtime, joint, i);
    return count;
  }
  lua_createtable(L, joint->keyed ? 0 : count, joint->keyed ? count : 1);
  int results = lua_gettop(L);
  for (int i = 1; i <= count; i++) {
    push_key(L, joint, i);
    push_settled(L, runtime, joint, i);
    lua_rawset(L, results);
  }
  if (!joint->keyed) {
    lua_pushinteger(L, count);
    lua_setfield(L, results, "n");
  }
  return 1;
}

/* Raises the error of handle `position`. */
static int raise_error_of(lua_State *L, concur_fiber *fiber, const join *joint, int position) {
  concur_future *future = push_handle(L, joint, position);
  concur_future_push_error(L, fiber->scheduler->runtime, -1, future);
  return concur_fiber_rethrow_from(L, fiber);
}

/* The errors that nobody gets from the call itself go to on_error. */
static void report_others(lua_State *L, concur_runtime *runtime, const join *joint) {
  for (int i = 1; i <= joint->count; i++) {
    concur_future *future = joint->watchers[i - 1].future;
    if (i == joint->chosen || future->state != CONCUR_FAILED || future->retrieved) continue;
    push_handle(L, joint, i);
    concur_future_push_error(L, runtime, -1, future);
    lua_pushfstring(L, "error in input %d of %s after it was over", i, mode_names[joint->mode]);
    concur_report(L, runtime, -3, -2, lua_tostring(L, -1));
    lua_pop(L, 4);
  }
}

static void retrieve_all(lua_State *L, concur_runtime *runtime, const join *joint) {
  for (int i = 1; i <= joint->count; i++) {
    concur_future *future = push_handle(L, joint, i);
    if (future->state == CONCUR_FAILED) {
      concur_future_push_error(L, runtime, -1, future);
      lua_pop(L, 2);
    }
    lua_pop(L, 1);
  }
}

static int race_results(lua_State *L, concur_fiber *fiber, const join *joint) {
  concur_future *future = joint->watchers[joint->chosen - 1].future;
  if (future->state != CONCUR_DONE) return raise_error_of(L, fiber, joint, joint->chosen);
  push_key(L, joint, joint->chosen);
  push_handle(L, joint, joint->chosen);
  int handle = lua_gettop(L);
  int count = concur_future_push_outcome(L, fiber->scheduler->runtime, handle, future);
  lua_remove(L, handle);
  return count + 1;
}

/* Nothing succeeded: an ErrorGroup of all errors. */
static int any_raise(lua_State *L, concur_runtime *runtime, const join *joint) {
  concur_error_new(L, runtime, "ErrorGroup", "every input of any failed");
  int group = lua_gettop(L);
  lua_createtable(L, joint->count, 0);
  lua_createtable(L, joint->count, 0);
  for (int i = 1; i <= joint->count; i++) {
    concur_future *future = push_handle(L, joint, i);
    concur_future_push_error(L, runtime, -1, future);
    if (lua_isnil(L, -1)) {
      lua_pop(L, 1);
      lua_pushboolean(L, 0);
    }
    lua_rawseti(L, group + 2, i);
    lua_rawseti(L, group + 1, i);
    lua_pop(L, 1);
  }
  lua_setfield(L, group, "tracebacks");
  lua_setfield(L, group, "errors");
  lua_getiuservalue(L, 1, JOIN_HANDLES);
  lua_setfield(L, group, "tasks");
  lua_pushinteger(L, joint->count);
  lua_setfield(L, group, "n");
  return lua_error(L);
}

/* An error is real when the input ended by itself, not by the cancellation of the caller. */
static bool ended_by_caller(const concur_fiber *fiber, const join *joint) {
  if (!concur_fiber_cancelled(fiber)) return false;
  bool incomplete = false;
  for (int i = 0; i < joint->count; i++) {
    const concur_future *future = joint->watchers[i].future;
    incomplete = incomplete || future->state == CONCUR_CANCELLED;
  }
  if (joint->chosen == 0) return incomplete;
  return joint->watchers[joint->chosen - 1].future->state == CONCUR_CANCELLED;
}

static void join_leave(lua_State *L, concur_fiber *fiber, join *joint) {
  (void)concur_scope_leave(L, fiber, joint->scope);
  joint->scope = NULL;
  concur_anchor_release(L, fiber->scheduler->runtime, joint->slot);
}

static int join_finish(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  join *joint = lua_touserdata(L, 1);
  join_leave(L, fiber, joint);
  if (joint->mode == MODE_ANY && joint->chosen != 0) {
    retrieve_all(L, runtime, joint); /* a success makes the failures before it expected */
  }
  if (joint->mode != MODE_SETTLE && joint->chosen != 0) report_others(L, runtime, joint);
  if (ended_by_caller(fiber, joint)) return concur_fiber_raise_cancelled(L, fiber);
  switch (joint->mode) {
    case MODE_GATHER:
      if (joint->chosen != 0) return raise_error_of(L, fiber, joint, joint->chosen);
      return gather_results(L, joint);
    case MODE_SETTLE: return settle_results(L, runtime, joint);
    case MODE_RACE: return race_results(L, fiber, joint);
    case MODE_ANY:
      if (joint->chosen != 0) return race_results(L, fiber, joint);
      return any_raise(L, runtime, joint);
  }
  return 0;
}

static int join_wait(lua_State *L, concur_fiber *fiber) {
  join *joint = lua_touserdata(L, 1);
  if (joint->pending == 0) return join_finish(L, fiber);
  joint->joining = true;
  return concur_fiber_park(L, fiber, &join_waits[joint->mode], joint, join_wait);
}

/* ---- starting ---- */

/* Arguments: join, handles.  Replaces each function by its task and watches everything. */
static int l_start_inputs(lua_State *L) {
  join *joint = lua_touserdata(L, 1);
  concur_runtime *runtime = joint->fiber->scheduler->runtime;
  for (int i = 1; i <= joint->count; i++) {
    bool function = lua_rawgeti(L, 2, i) == LUA_TFUNCTION;
    concur_future *future = function ? NULL : concur_future_test(L, -1);
    if (future == NULL) {
      future = &concur_task_spawn(L, runtime, 0, joint->scope, NULL)->future;
      lua_pushvalue(L, -1);
      lua_rawseti(L, 2, i); /* the slot exists: cannot fail */
    }
    watcher *entry = &joint->watchers[i - 1];
    entry->owner = joint;
    entry->future = future;
    entry->waiter.notify = on_input_settled;
    joint->watched = i;
    joint->pending++;
    if (concur_future_settled(future)) {
      input_settled(joint, i, future);
    } else {
      concur_list_append(&future->waiters, &entry->waiter.node);
      if (joint->cancelling) future->ops->cancel_quietly(runtime, future);
    }
    lua_pop(L, 1);
  }
  return 0;
}

/* Starting failed (out of memory): what was started is stopped and joined, then the error raised. */
static int join_failed_wait(lua_State *L, concur_fiber *fiber) {
  join *joint = lua_touserdata(L, 1);
  if (joint->pending > 0) {
    joint->joining = true;
    return concur_fiber_park(L, fiber, &join_waits[joint->mode], joint, join_failed_wait);
  }
  join_leave(L, fiber, joint);
  return concur_fiber_rethrow(L, fiber);
}

static int raise_bad_input(lua_State *L, const join *joint, int position) {
  const char *hint = "function, future or task expected, got %s";
  const char *text = lua_pushfstring(L, hint, concur_type_name(L, -1));
  if (!joint->listed) return luaL_argerror(L, position, text);
  push_key(L, joint, position);
  const char *key = luaL_tolstring(L, -1, NULL);
  return luaL_argerror(L, 1, lua_pushfstring(L, "entry '%s': %s", key, text));
}

/* Checks every entry of the handles at `handles` before anything is started. */
static void check_inputs(lua_State *L, concur_runtime *runtime, const join *joint, int handles) {
  const concur_fiber *current = concur_fiber_current(runtime->scheduler);
  for (int i = 1; i <= joint->count; i++) {
    if (lua_rawgeti(L, handles, i) == LUA_TFUNCTION) {
      lua_pop(L, 1);
      continue;
    }
    concur_future *future = concur_future_test(L, -1);
    if (future == NULL && !concur_is_callable(L, -1)) raise_bad_input(L, joint, i);
    concur_task *task = future != NULL ? concur_task_of_future(future) : NULL;
    if (task != NULL && task->body != NULL && &task->body->fiber == current) {
      concur_error_raise(L, runtime, "Deadlock", "a task waits for itself in %s",
                         mode_names[joint->mode]);
    }
    lua_pop(L, 1);
  }
}

/* Copies the list part of the table at index 1 to the handles; returns its length. */
static int copy_list(lua_State *L, int handles) {
  int length = (int)lua_rawlen(L, 1);
  for (int i = 1; i <= length; i++) {
    lua_rawgeti(L, 1, i);
    lua_rawseti(L, handles, i);
  }
  return length;
}

/* The table at index 1 has keys besides 1..length: notes the key of every input, appends the rest. */
static int copy_keyed(lua_State *L, int handles, int length) {
  int count = length;
  lua_newtable(L);
  for (int i = 1; i <= length; i++) {
    lua_pushinteger(L, i);
    lua_rawseti(L, handles + 1, i);
  }
  lua_pushnil(L);
  while (lua_next(L, 1) != 0) {
    lua_Integer key = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : 0;
    if (key >= 1 && key <= length) {
      lua_pop(L, 1);
      continue;
    }
    lua_rawseti(L, handles, ++count);
    lua_pushvalue(L, -1);
    lua_rawseti(L, handles + 1, count);
  }
  return count;
}

/* The inputs of a table at index 1: pushes handles and keys (or nil); returns their number. */
static int inputs_of_table(lua_State *L, bool *keyed) {
  int entries = 0;
  lua_pushnil(L);
  while (lua_next(L, 1) != 0) {
    lua_pop(L, 1);
    entries++;
  }
  lua_createtable(L, entries, 0);
  int handles = lua_gettop(L);
  int length = copy_list(L, handles);
  *keyed = entries != length;
  if (*keyed) return copy_keyed(L, handles, length);
  lua_pushnil(L);
  return length;
}

static int inputs_of_arguments(lua_State *L) {
  int count = lua_gettop(L);
  lua_createtable(L, count, 0);
  lua_insert(L, 1);
  for (int i = count; i > 0; i--) lua_rawseti(L, 1, i);
  lua_pushnil(L);
  return count;
}

/* True when the call's only argument is a table of inputs rather than an input. */
static bool is_table_form(lua_State *L) {
  return lua_gettop(L) == 1 && lua_istable(L, 1) && !concur_is_callable(L, 1);
}

static int inputs_started(lua_State *L, int status, lua_KContext context) {
  (void)context;
  join *joint = lua_touserdata(L, 1);
  if (status == LUA_OK) return join_wait(L, joint->fiber);
  cancel_rest(joint);
  return join_failed_wait(L, joint->fiber);
}

static int join_begin(lua_State *L, concur_fiber *fiber) {
  join *joint = lua_touserdata(L, 1);
  joint->fiber = fiber;
  lua_pushcfunction(L, l_start_inputs);
  lua_pushvalue(L, 1);
  lua_getiuservalue(L, 1, JOIN_HANDLES);
  concur_scope_prepare(L, fiber);
  lua_pushvalue(L, 1);
  joint->slot = concur_anchor(L, fiber->scheduler->runtime);
  concur_scope *scope = concur_scope_enter(L, fiber);
  scope->orphan = join_orphan;
  scope->data = joint;
  joint->scope = scope;
  int status = lua_pcall(L, 2, 0, 0);
  return inputs_started(L, status, 0);
}

static int join_call(lua_State *L, join_mode mode) {
  concur_runtime *runtime = concur_runtime_of(L);
  bool listed = is_table_form(L);
  bool keyed = false;
  luaL_checkstack(L, 8, NULL);
  int count = listed ? inputs_of_table(L, &keyed) : inputs_of_arguments(L);
  if (count == 0 && (mode == MODE_RACE || mode == MODE_ANY)) {
    return luaL_argerror(L, 1, "at least one function, future or task expected");
  }
  int keys = lua_gettop(L);
  size_t size = sizeof(join) + (size_t)count * sizeof(watcher);
  join *joint = concur_class_new(L, runtime, CONCUR_CLASS_JOIN, size, 2);
  joint->mode = mode;
  joint->count = count;
  joint->listed = listed;
  joint->keyed = keyed;
  lua_pushvalue(L, keys);
  lua_setiuservalue(L, -2, JOIN_KEYS);
  lua_pushvalue(L, keys - 1);
  lua_setiuservalue(L, -2, JOIN_HANDLES);
  lua_replace(L, 1); /* the handles at 1 (argument form) live in the join now */
  lua_settop(L, 1);
  lua_getiuservalue(L, 1, JOIN_HANDLES);
  check_inputs(L, runtime, joint, lua_gettop(L));
  lua_settop(L, 1);
  return concur_fiber_begin(L, join_begin);
}

/*@lua
---Runs all inputs at the same time and returns the first result of each, in input order; a table of
---inputs gives a table with the same keys (and `n` for a list).  The first error is raised after the
---others were cancelled and had ended.  Functions become tasks inside the caller's scopes; futures
---and tasks are handed over (cancelled with the rest).
---@async
---@param ... function|concur.Future|table
---@return any ...
function concur.gather(...) end

---Runs all inputs to their ends and never fails because of them: each gives
---`{ok=true, value=first, n=, ...}` or `{ok=false, error=, traceback=}`.
---@async
---@param ... function|concur.Future|table
---@return table ...
function concur.settle(...) end

---The first input to settle wins: its key or position and its results, or its error is raised.  The
---others are cancelled, and have ended when this returns.
---@async
---@param ... function|concur.Future|table
---@return any key
---@return any ...
function concur.race(...) end

---The first input to succeed wins: its key or position and its results.  When none does, an
---`ErrorGroup` of all errors is raised.
---@async
---@param ... function|concur.Future|table
---@return any key
---@return any ...
function concur.any(...) end
*/
static int l_gather(lua_State *L) {
  return join_call(L, MODE_GATHER);
}

static int l_settle(lua_State *L) {
  return join_call(L, MODE_SETTLE);
}

static int l_race(lua_State *L) {
  return join_call(L, MODE_RACE);
}

static int l_any(lua_State *L) {
  return join_call(L, MODE_ANY);
}

void concur_join_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"gather", l_gather},
                                {"settle", l_settle},
                                {"race", l_race},
                                {"any", l_any},
                                {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_JOIN, "concur.Join", NULL, NULL);
  concur_register(L, runtime, functions);
}
