/* SPDX-License-Identifier: MIT */
/*
 * See join.h.  Functions become tasks inside the join's scope; futures are handed over.  Every input
 * that settles tells its entry, which decides by the mode whether the rest is cancelled; the caller
 * is woken when none is left.
 */
#include "join.h"

const char *const concur_join_names[] = {"gather", "settle", "race", "any"};

/* ---- while it runs ---- */

static void cancel_rest(concur_join *join) {
  if (join->cancelling) return;
  join->cancelling = true;
  concur_scheduler *scheduler = join->fiber->scheduler;
  concur_scope_cancel(join->scope);
  for (int i = 0; i < join->watched; i++) {
    concur_future *future = join->entries[i].future;
    if (!concur_future_settled(future)) {
      future->ops->cancel_quietly(scheduler->runtime, future);
    }
  }
}

/* An input has settled: `position` counts from 1. */
static void input_settled(concur_join *join, int position, const concur_future *future) {
  bool good = future->state == CONCUR_DONE;
  bool choose = false;
  join->pending--;
  switch (join->inputs.mode) {
    case CONCUR_GATHER: choose = !good; break;
    case CONCUR_SETTLE: break;
    case CONCUR_RACE: choose = true; break;
    case CONCUR_ANY: choose = good; break;
  }
  if (choose && join->chosen == 0) {
    join->chosen = position;
    cancel_rest(join);
  }
  if (join->pending == 0 && join->parked) {
    join->parked = false;
    concur_fiber_wake(join->fiber, CONCUR_OUTCOME_VALUE);
  }
}

static void on_input_settled(concur_waiter *waiter, void *source) {
  concur_join_entry *entry = concur_container_of(waiter, concur_join_entry, waiter);
  input_settled(entry->join, (int)(entry - entry->join->entries) + 1, source);
}

static bool join_abort(concur_fiber *fiber) {
  cancel_rest(fiber->target);
  return false; /* the inputs end first */
}

static void join_detach(concur_fiber *fiber) {
  ((concur_join *)fiber->target)->parked = false;
}

static const concur_wait join_waits[] = {
    {.name = "gather", .abort = join_abort, .detach = join_detach},
    {.name = "settle", .abort = join_abort, .detach = join_detach},
    {.name = "race", .abort = join_abort, .detach = join_detach},
    {.name = "any", .abort = join_abort, .detach = join_detach},
};

/* The caller is gone by force: the inputs are cancelled and nobody waits for them. */
static void join_orphan(lua_State *L, concur_scope *scope) {
  concur_join *join = scope->data;
  cancel_rest(join);
  concur_anchor_release(L, join->fiber->scheduler->runtime, join->slot);
  for (int i = 0; i < join->watched; i++) {
    concur_node_unlink(&join->entries[i].waiter.node);
  }
  join->fiber = NULL;
}

/* ---- the end ---- */

static void join_leave(lua_State *L, concur_fiber *fiber, concur_join *join) {
  (void)concur_scope_leave(L, fiber, join->scope);
  join->scope = NULL;
  concur_anchor_release(L, fiber->scheduler->runtime, join->slot);
}

static int join_end(lua_State *L, concur_fiber *fiber) {
  concur_join *join = lua_touserdata(L, 1);
  join_leave(L, fiber, join);
  return concur_join_finish(L, fiber, join);
}

static int join_wait(lua_State *L, concur_fiber *fiber) {
  concur_join *join = lua_touserdata(L, 1);
  if (join->pending == 0) return join_end(L, fiber);
  join->parked = true;
  return concur_fiber_park(L, fiber, &join_waits[join->inputs.mode], join, join_wait);
}

/* ---- starting ---- */

/* Arguments: join, handles.  Replaces each function by its task and watches everything. */
static int l_start_inputs(lua_State *L) {
  concur_join *join = lua_touserdata(L, 1);
  concur_runtime *runtime = join->fiber->scheduler->runtime;
  for (int i = 1; i <= join->inputs.count; i++) {
    bool function = lua_rawgeti(L, 2, i) == LUA_TFUNCTION;
    concur_future *future = function ? NULL : concur_future_test(L, -1);
    if (future == NULL) {
      future = &concur_task_spawn(L, runtime, 0, join->scope, NULL)->future;
      lua_rawseti(L, 2, i); /* the slot exists: cannot fail */
    }
    concur_join_entry *entry = &join->entries[i - 1];
    entry->join = join;
    entry->future = future;
    entry->waiter.notify = on_input_settled;
    join->watched = i;
    join->pending++;
    if (concur_future_settled(future)) {
      input_settled(join, i, future);
    } else {
      concur_list_append(&future->waiters, &entry->waiter.node);
      if (join->cancelling) future->ops->cancel_quietly(runtime, future);
    }
    lua_pop(L, 1);
  }
  return 0;
}

/* Starting failed (out of memory): what was started is stopped and joined, then the error raised. */
static int join_failed_wait(lua_State *L, concur_fiber *fiber) {
  concur_join *join = lua_touserdata(L, 1);
  if (join->pending > 0) {
    join->parked = true;
    return concur_fiber_park(L, fiber, &join_waits[join->inputs.mode], join, join_failed_wait);
  }
  join_leave(L, fiber, join);
  return concur_fiber_rethrow(L, fiber);
}

static int inputs_started(lua_State *L, int status, lua_KContext context) {
  (void)context;
  concur_join *join = lua_touserdata(L, 1);
  if (status == LUA_OK) return join_wait(L, join->fiber);
  cancel_rest(join);
  return join_failed_wait(L, join->fiber);
}

static int join_begin(lua_State *L, concur_fiber *fiber) {
  concur_join *join = lua_touserdata(L, 1);
  join->fiber = fiber;
  lua_pushcfunction(L, l_start_inputs);
  lua_pushvalue(L, 1);
  lua_getiuservalue(L, 1, CONCUR_JOIN_HANDLES);
  concur_scope_prepare(L, fiber);
  lua_pushvalue(L, 1);
  join->slot = concur_anchor(L, fiber->scheduler->runtime);
  concur_scope *scope = concur_scope_enter(L, fiber);
  scope->orphan = join_orphan;
  scope->data = join;
  join->scope = scope;
  int status = lua_pcall(L, 2, 0, 0);
  return inputs_started(L, status, 0);
}

static int join_call(lua_State *L, concur_join_mode mode) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_inputs inputs = {.mode = mode};
  concur_join_read(L, runtime, &inputs);
  if (inputs.count == 0 && (mode == CONCUR_RACE || mode == CONCUR_ANY)) {
    return luaL_argerror(L, 1, "at least one function, future or task expected");
  }
  size_t size = sizeof(concur_join) + (size_t)inputs.count * sizeof(concur_join_entry);
  concur_join *join = concur_class_new(L, runtime, CONCUR_CLASS_JOIN, size, 2);
  join->inputs = inputs;
  lua_insert(L, -3);
  lua_setiuservalue(L, -3, CONCUR_JOIN_KEYS);
  lua_setiuservalue(L, -2, CONCUR_JOIN_HANDLES);
  lua_insert(L, 1);
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
  return join_call(L, CONCUR_GATHER);
}

static int l_settle(lua_State *L) {
  return join_call(L, CONCUR_SETTLE);
}

static int l_race(lua_State *L) {
  return join_call(L, CONCUR_RACE);
}

static int l_any(lua_State *L) {
  return join_call(L, CONCUR_ANY);
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
