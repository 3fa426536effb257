/* SPDX-License-Identifier: MIT */
/* See join.h.  Here: what gather, settle, race and any return, raise and report. */
#include "join.h"

#include "report.h"

/* Pushes handle `position` (1..n); returns its future. */
static concur_future *push_handle(lua_State *L, const concur_join *join, int position) {
  lua_getiuservalue(L, 1, CONCUR_JOIN_HANDLES);
  lua_rawgeti(L, -1, position);
  lua_remove(L, -2);
  return join->entries[position - 1].future;
}

static void push_key(lua_State *L, const concur_join *join, int position) {
  if (!join->inputs.keyed) {
    lua_pushinteger(L, position);
    return;
  }
  lua_getiuservalue(L, 1, CONCUR_JOIN_KEYS);
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

static int gather_results(lua_State *L, const concur_join *join) {
  int count = join->inputs.count;
  if (!join->inputs.listed) {
    luaL_checkstack(L, count + 2, "too many results");
    for (int i = 1; i <= count; i++) {
      concur_future *future = push_handle(L, join, i);
      push_first_result(L, lua_gettop(L), future);
      lua_remove(L, -2);
    }
    return count;
  }
  lua_getiuservalue(L, 1, CONCUR_JOIN_HANDLES);
  int handles = lua_gettop(L);
  /* Nobody needs the handles of a list any more: the results replace them. */
  if (join->inputs.keyed) lua_createtable(L, 0, count);
  int results = lua_gettop(L);
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, handles, i);
    if (join->inputs.keyed) push_key(L, join, i);
    push_first_result(L, results + 1, join->entries[i - 1].future);
    if (join->inputs.keyed) {
      lua_rawset(L, results);
    } else {
      lua_rawseti(L, results, i);
    }
    lua_pop(L, 1);
  }
  if (!join->inputs.keyed) {
    lua_pushinteger(L, count);
    lua_setfield(L, results, "n");
  }
  return 1;
}

/* Pushes {ok=true, value=, n=, ...} or {ok=false, error=} for handle `position`. */
static void push_settled(lua_State *L, concur_runtime *runtime, const concur_join *join, int position) {
  concur_future *future = push_handle(L, join, position);
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

static int settle_results(lua_State *L, concur_runtime *runtime, const concur_join *join) {
  int count = join->inputs.count;
  if (!join->inputs.listed) {
    luaL_checkstack(L, count + 8, "too many results");
    for (int i = 1; i <= count; i++) push_settled(L, runtime, join, i);
    return count;
  }
  lua_createtable(L, join->inputs.keyed ? 0 : count, join->inputs.keyed ? count : 1);
  int results = lua_gettop(L);
  for (int i = 1; i <= count; i++) {
    push_key(L, join, i);
    push_settled(L, runtime, join, i);
    lua_rawset(L, results);
  }
  if (!join->inputs.keyed) {
    lua_pushinteger(L, count);
    lua_setfield(L, results, "n");
  }
  return 1;
}

/* Raises the error of handle `position`. */
static int raise_error_of(lua_State *L, concur_fiber *fiber, const concur_join *join, int position) {
  concur_future *future = push_handle(L, join, position);
  concur_future_push_error(L, fiber->scheduler->runtime, -1, future);
  return concur_fiber_rethrow_from(L, fiber);
}

/* The errors that nobody gets from the call itself go to on_error. */
static void report_others(lua_State *L, concur_runtime *runtime, const concur_join *join) {
  for (int i = 1; i <= join->inputs.count; i++) {
    concur_future *future = join->entries[i - 1].future;
    if (i == join->chosen || future->state != CONCUR_FAILED || future->retrieved) continue;
    push_handle(L, join, i);
    concur_future_push_error(L, runtime, -1, future);
    lua_pushfstring(L, "error in input %d of %s after it was over", i, concur_join_names[join->inputs.mode]);
    concur_report(L, runtime, -3, -2, lua_tostring(L, -1));
    lua_pop(L, 4);
  }
}

static void retrieve_all(lua_State *L, concur_runtime *runtime, const concur_join *join) {
  for (int i = 1; i <= join->inputs.count; i++) {
    concur_future *future = push_handle(L, join, i);
    if (future->state == CONCUR_FAILED) {
      concur_future_push_error(L, runtime, -1, future);
      lua_pop(L, 2);
    }
    lua_pop(L, 1);
  }
}

static int race_results(lua_State *L, concur_fiber *fiber, const concur_join *join) {
  concur_future *future = join->entries[join->chosen - 1].future;
  if (future->state != CONCUR_DONE) return raise_error_of(L, fiber, join, join->chosen);
  push_key(L, join, join->chosen);
  push_handle(L, join, join->chosen);
  int handle = lua_gettop(L);
  int count = concur_future_push_outcome(L, fiber->scheduler->runtime, handle, future);
  lua_remove(L, handle);
  return count + 1;
}

/* Nothing succeeded: an ErrorGroup of all errors. */
static int any_raise(lua_State *L, concur_runtime *runtime, const concur_join *join) {
  concur_error_new(L, runtime, "ErrorGroup", "every input of any failed");
  int group = lua_gettop(L);
  lua_createtable(L, join->inputs.count, 0);
  lua_createtable(L, join->inputs.count, 0);
  for (int i = 1; i <= join->inputs.count; i++) {
    concur_future *future = push_handle(L, join, i);
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
  lua_getiuservalue(L, 1, CONCUR_JOIN_HANDLES);
  lua_setfield(L, group, "tasks");
  lua_pushinteger(L, join->inputs.count);
  lua_setfield(L, group, "n");
  return lua_error(L);
}

/* An error is real when the input ended by itself, not by the cancellation of the caller. */
static bool ended_by_caller(const concur_fiber *fiber, const concur_join *join) {
  if (!concur_fiber_cancelled(fiber)) return false;
  bool incomplete = false;
  for (int i = 0; i < join->inputs.count; i++) {
    const concur_future *future = join->entries[i].future;
    incomplete = incomplete || future->state == CONCUR_CANCELLED;
  }
  if (join->chosen == 0) return incomplete;
  return join->entries[join->chosen - 1].future->state == CONCUR_CANCELLED;
}

int concur_join_finish(lua_State *L, concur_fiber *fiber, const concur_join *join) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  if (join->inputs.mode == CONCUR_ANY && join->chosen != 0) {
    retrieve_all(L, runtime, join); /* a success makes the failures before it expected */
  }
  if (join->inputs.mode != CONCUR_SETTLE && join->chosen != 0) report_others(L, runtime, join);
  if (ended_by_caller(fiber, join)) return concur_fiber_raise_cancelled(L, fiber);
  switch (join->inputs.mode) {
    case CONCUR_GATHER:
      if (join->chosen != 0) return raise_error_of(L, fiber, join, join->chosen);
      return gather_results(L, join);
    case CONCUR_SETTLE: return settle_results(L, runtime, join);
    case CONCUR_RACE: return race_results(L, fiber, join);
    case CONCUR_ANY:
      if (join->chosen != 0) return race_results(L, fiber, join);
      return any_raise(L, runtime, join);
  }
  return 0; /* GCOVR_EXCL_LINE: each mode has returned */
}
