/* SPDX-License-Identifier: MIT */
/* See report.h.  A queued report is a table {error, traceback or false, what}. */
#include "report.h"

#include <stdio.h>

void concur_report(lua_State *L, concur_runtime *runtime, int index, int traceback,
                   const char *what) {
  index = lua_absindex(L, index);
  if (traceback != 0) traceback = lua_absindex(L, traceback);
  luaL_checkstack(L, 4, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->reports_ref);
  lua_createtable(L, 3, 0);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, 1);
  if (traceback != 0 && lua_isstring(L, traceback)) {
    lua_pushvalue(L, traceback);
  } else {
    lua_pushboolean(L, 0);
  }
  lua_rawseti(L, -2, 2);
  lua_pushstring(L, what);
  lua_rawseti(L, -2, 3);
  lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
  lua_pop(L, 1);
  runtime->reports_pending = true;
}

/* Arguments: error, light userdata runtime, light userdata what. */
static int l_queue(lua_State *L) {
  concur_report(L, lua_touserdata(L, 2), 1, 0, lua_touserdata(L, 3));
  return 0;
}

void concur_report_safely(lua_State *L, concur_runtime *runtime, const char *what) {
  if (lua_checkstack(L, LUA_MINSTACK)) {
    lua_pushcfunction(L, l_queue);
    lua_insert(L, -2);
    lua_pushlightuserdata(L, runtime);
    lua_pushlightuserdata(L, (void *)what);
    if (lua_pcall(L, 3, 0, 0) == LUA_OK) return;
  }
  lua_pop(L, 1);
  (void)fprintf(stderr, "concur: %s; it could not be reported: not enough memory\n", what);
}

/* Stack: error, traceback or false, what.  Prints them; may raise (a __tostring that raises). */
static int l_print(lua_State *L) {
  const char *message = luaL_tolstring(L, 1, NULL);
  if (lua_isstring(L, 2)) {
    (void)fprintf(stderr, "concur: %s: %s\n%s\n", lua_tostring(L, 3), message, lua_tostring(L, 2));
  } else {
    (void)fprintf(stderr, "concur: %s: %s\n", lua_tostring(L, 3), message);
  }
  return 0;
}

/* Stack: error, traceback or false, what, handler.  Calls handler(error, context). */
static int l_hand_over(lua_State *L) {
  lua_pushvalue(L, 1);
  lua_createtable(L, 0, 2);
  lua_pushvalue(L, 3);
  lua_setfield(L, -2, "message");
  if (lua_isstring(L, 2)) {
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "traceback");
  }
  lua_call(L, 2, 0);
  return 0;
}

static void print_protected(lua_State *L) { /* error, traceback, what on top; popped */
  lua_pushcfunction(L, l_print);
  lua_insert(L, -4);
  if (lua_pcall(L, 3, 0, 0) != LUA_OK) {
    (void)fprintf(stderr, "concur: an error whose text cannot be made: %s\n",
                  lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1));
    lua_pop(L, 1);
  }
}

/* Hands one report (error, traceback, what on top; popped) to the handler below `settings`. */
static void report_deliver(lua_State *L, bool to_stderr, const concur_runtime *runtime) {
  if (!to_stderr) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
    lua_pushliteral(L, "on_error");
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1)) {
      lua_pushcfunction(L, l_hand_over);
      lua_insert(L, -5);
      if (lua_pcall(L, 4, 0, 0) != LUA_OK) {
        lua_pushboolean(L, 0);
        lua_pushliteral(L, "error in on_error");
        print_protected(L);
      }
      return;
    }
    lua_pop(L, 1);
  }
  print_protected(L);
}

static int l_flush(lua_State *L) { /* light userdata: runtime; boolean: to stderr */
  concur_runtime *runtime = lua_touserdata(L, 1);
  bool to_stderr = lua_toboolean(L, 2);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->reports_ref);
  int reports = lua_gettop(L);
  /* A handler may cause new reports: they join the same round, bounded by what was queued. */
  lua_Integer count = (lua_Integer)lua_rawlen(L, reports);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, reports, i);
    for (int part = 1; part <= 3; part++) lua_rawgeti(L, -part, part);
    lua_remove(L, -4);
    report_deliver(L, to_stderr, runtime);
    lua_settop(L, reports);
  }
  lua_Integer total = (lua_Integer)lua_rawlen(L, reports);
  for (lua_Integer i = 1; i <= total; i++) { /* close the gap */
    lua_rawgeti(L, reports, i + count);
    lua_rawseti(L, reports, i);
  }
  runtime->reports_pending = lua_rawlen(L, reports) > 0;
  return 0;
}

static void report_flush(lua_State *L, concur_runtime *runtime, bool to_stderr) {
  if (!runtime->reports_pending || runtime->reporting || !lua_checkstack(L, 8)) return;
  runtime->reports_pending = false;
  runtime->reporting = true;
  lua_pushcfunction(L, l_flush);
  lua_pushlightuserdata(L, runtime);
  lua_pushboolean(L, to_stderr);
  if (lua_pcall(L, 2, 0, 0) != LUA_OK) lua_pop(L, 1);
  runtime->reporting = false;
}

void concur_report_flush(lua_State *L, concur_runtime *runtime) {
  report_flush(L, runtime, false);
}

void concur_report_flush_to_stderr(lua_State *L, concur_runtime *runtime) {
  report_flush(L, runtime, true);
}
