/* SPDX-License-Identifier: MIT */
/*
 * The traceback of an error as it was where the error was raised first, however many protected calls
 * it passes on its way; declared in fiber.h.  One error is kept for each fiber, in the traces table.
 *                                                                            [loop thread]
 */
#include "fiber.h"

/* Keys in the traces table: the fiber's address for the error, the next byte for the traceback. */
static const void *trace_key(const concur_fiber *fiber) {
  return (const char *)fiber + 1;
}

static void store_trace(lua_State *L, concur_fiber *fiber) { /* error, traceback on top; popped */
  lua_rawgeti(L, LUA_REGISTRYINDEX, fiber->scheduler->runtime->traces_ref);
  lua_insert(L, -3);
  lua_rawsetp(L, -3, trace_key(fiber));
  lua_rawsetp(L, -2, fiber);
  lua_pop(L, 1);
  fiber->has_trace = true;
}

static bool trace_is_of(lua_State *L, concur_fiber *fiber, int index) {
  if (!fiber->has_trace) return false;
  index = lua_absindex(L, index);
  lua_rawgeti(L, LUA_REGISTRYINDEX, fiber->scheduler->runtime->traces_ref);
  lua_rawgetp(L, -1, fiber);
  bool same = lua_rawequal(L, -1, index);
  lua_pop(L, 2);
  return same;
}

void concur_fiber_push_trace(lua_State *L, concur_fiber *fiber, int index) {
  luaL_checkstack(L, 4, NULL);
  if (!trace_is_of(L, fiber, index)) {
    lua_pushnil(L);
    return;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, fiber->scheduler->runtime->traces_ref);
  lua_rawgetp(L, -1, trace_key(fiber));
  lua_remove(L, -2);
}

void concur_fiber_clear_trace(lua_State *L, concur_fiber *fiber) {
  if (!fiber->has_trace) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, fiber->scheduler->runtime->traces_ref);
  lua_pushnil(L);
  lua_rawsetp(L, -2, fiber);
  lua_pushnil(L);
  lua_rawsetp(L, -2, trace_key(fiber));
  lua_pop(L, 1);
  fiber->has_trace = false;
  fiber->rethrown = false;
}

int concur_traceback_handler(lua_State *L) {
  concur_runtime *runtime = concur_runtime_find(L);
  if (concur_cancelled_id(L, runtime, 1) != 0) return 1;
  concur_fiber *fiber = concur_fiber_current(runtime->scheduler);
  bool rethrown = fiber->rethrown && trace_is_of(L, fiber, 1);
  fiber->rethrown = false;
  if (rethrown) return 1;
  luaL_traceback(L, L, NULL, 1);
  if (concur_error_test(L, runtime, 1)) {
    lua_pushliteral(L, "traceback");
    if (lua_rawget(L, 1) == LUA_TNIL) {
      lua_pushliteral(L, "traceback");
      lua_pushvalue(L, -3);
      lua_rawset(L, 1);
    }
    lua_pop(L, 1);
  }
  lua_pushvalue(L, 1);
  lua_insert(L, -2);
  store_trace(L, fiber);
  return 1;
}

int concur_fiber_rethrow(lua_State *L, concur_fiber *fiber) {
  fiber->rethrown = fiber->has_trace;
  return lua_error(L);
}

/* Sets the traceback of the library error at `index` if it has none: one that came from a worker, or
   was made and never raised, is raised first where somebody asks for it. */
static void complete_error(lua_State *L, const concur_runtime *runtime, int index) {
  if (!concur_error_test(L, runtime, index)) return;
  index = lua_absindex(L, index);
  lua_pushliteral(L, "traceback");
  if (lua_rawget(L, index) == LUA_TNIL) {
    lua_pushliteral(L, "traceback");
    luaL_traceback(L, L, NULL, 0);
    lua_rawset(L, index);
  }
  lua_pop(L, 1);
}

int concur_fiber_rethrow_from(lua_State *L, concur_fiber *fiber) {
  luaL_checkstack(L, 8, NULL);
  complete_error(L, fiber->scheduler->runtime, -2);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return lua_error(L);
  }
  lua_pushvalue(L, -2);
  lua_insert(L, -2);
  store_trace(L, fiber);
  return concur_fiber_rethrow(L, fiber);
}
