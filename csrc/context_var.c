/* SPDX-License-Identifier: MIT */
/*
 * Context variables.
 *
 * A fiber's context is a table variable -> value, shared with the tasks it spawns and never changed
 * once made: `set` makes a copy.  A weak table keeps the contexts of tasks (few have one, so it has no
 * place in the task itself), the settings table that of the top level.  nil is kept as a mark, so
 * that it differs from "not set".                                            [loop thread]
 */
#include "context_var.h"

#include "task.h"

static char nil_mark; /* its address stands for nil in a context */

typedef struct context_var {
  char unused; /* the object's identity is all it needs; user value 1: the default */
} context_var;

static char contexts_key; /* registry: weak-keyed table task -> context */

void concur_fiber_push_context(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  if (!fiber->has_context) {
    lua_pushnil(L);
  } else if (fiber->is_task) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &contexts_key);
    concur_body_push_task(L, runtime, concur_body_of_fiber(fiber));
    lua_rawget(L, -2);
    lua_remove(L, -2);
  } else {
    lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
    lua_getfield(L, -1, "context");
    lua_remove(L, -2);
  }
}

void concur_fiber_inherit_context(lua_State *L, concur_fiber *from) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &contexts_key);
  lua_pushvalue(L, -2);
  concur_fiber_push_context(L, from);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* Makes the table on top of the stack (popped) the fiber's context. */
static void set_context(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  if (fiber->is_task) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &contexts_key);
    concur_body_push_task(L, runtime, concur_body_of_fiber(fiber));
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
  } else {
    lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "context");
  }
  lua_pop(L, 2);
  fiber->has_context = true;
}

/* Gives the running fiber a copy of its context in which the variable at `variable` has the value on
   top of the stack (popped); with `unset`, no value. */
static void change(lua_State *L, int variable, bool unset) {
  concur_fiber *fiber = concur_fiber_current(concur_runtime_of(L)->scheduler);
  int value = lua_gettop(L);
  luaL_checkstack(L, 8, NULL);
  lua_newtable(L);
  concur_fiber_push_context(L, fiber);
  if (lua_istable(L, -1)) {
    lua_pushnil(L);
    while (lua_next(L, -2) != 0) {
      lua_pushvalue(L, -2);
      lua_insert(L, -2);
      lua_rawset(L, value + 1);
    }
  }
  lua_pop(L, 1);
  lua_pushvalue(L, variable);
  if (unset) {
    lua_pushnil(L);
  } else if (lua_isnil(L, value)) {
    lua_pushlightuserdata(L, &nil_mark);
  } else {
    lua_pushvalue(L, value);
  }
  lua_rawset(L, value + 1);
  set_context(L, fiber);
  lua_settop(L, value - 1);
}

/* Pushes the raw entry of the variable at `variable` in the running context: nil when not set. */
static void push_entry(lua_State *L, int variable) {
  concur_fiber *fiber = concur_fiber_current(concur_runtime_of(L)->scheduler);
  concur_fiber_push_context(L, fiber);
  if (!lua_istable(L, -1)) return;
  lua_pushvalue(L, variable);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

static void check_variable(lua_State *L) {
  (void)concur_class_check(L, 1, CONCUR_CLASS_CONTEXT_VAR);
}

/*@lua
---A variable with a value of its own in each task; a new task starts with a copy of its spawner's.
---@class concur.ContextVar
local ContextVar = {}

---@param default any the value where it was never set
---@return concur.ContextVar
function concur.ContextVar(default) end

---@return any value
function ContextVar:get() end

---Sets the value for the running task and the tasks that it spawns from now on.
---@param value any
function ContextVar:set(value) end

---Calls `fn(...)` with the variable set to `value`, then restores it, also after an error.
---@async
---@param value any
---@param fn function
---@param ... any
---@return any ... results of fn
function ContextVar:with(value, fn, ...) end
*/
static int l_context_var(lua_State *L) {
  lua_settop(L, 1);
  (void)concur_class_new(L, concur_runtime_of(L), CONCUR_CLASS_CONTEXT_VAR, sizeof(context_var), 1);
  lua_insert(L, 1);
  lua_setiuservalue(L, 1, 1);
  return 1;
}

static int l_get(lua_State *L) {
  check_variable(L);
  push_entry(L, 1);
  if (lua_isnil(L, -1)) {
    lua_getiuservalue(L, 1, 1);
  } else if (lua_touserdata(L, -1) == &nil_mark) {
    lua_pushnil(L);
  }
  return 1;
}

static int l_set(lua_State *L) {
  check_variable(L);
  luaL_checkany(L, 2);
  lua_settop(L, 2);
  change(L, 1, false);
  return 0;
}

/* Frame: variable, old entry, handler, results or error. */
static int with_done(lua_State *L, int status, lua_KContext context) {
  (void)context;
  concur_runtime *runtime = concur_runtime_of(L);
  bool unset = lua_isnil(L, 2);
  if (lua_touserdata(L, 2) == &nil_mark) {
    lua_pushnil(L);
  } else {
    lua_pushvalue(L, 2);
  }
  change(L, 1, unset);
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - 3;
  return concur_fiber_rethrow(L, concur_fiber_current(runtime->scheduler));
}

static int l_with(lua_State *L) { /* variable, value, function, arguments */
  check_variable(L);
  concur_check_callable(L, 3);
  luaL_checkstack(L, 4, NULL);
  push_entry(L, 1);
  lua_insert(L, 2); /* variable, old, value, function, arguments */
  lua_pushvalue(L, 3);
  change(L, 1, false);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_replace(L, 3);
  int status = lua_pcallk(L, lua_gettop(L) - 4, LUA_MULTRET, 3, 0, with_done);
  return with_done(L, status, 0);
}

static int l_tostring(lua_State *L) {
  check_variable(L);
  push_entry(L, 1);
  lua_pushfstring(L, "concur.ContextVar (%s): %p", lua_isnil(L, -1) ? "default" : "set",
                  lua_topointer(L, 1));
  return 1;
}

void concur_context_var_open(lua_State *L, concur_runtime *runtime) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &contexts_key);
  const luaL_Reg methods[] = {{"get", l_get}, {"set", l_set}, {"with", l_with}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__tostring", l_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"ContextVar", l_context_var}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_CONTEXT_VAR, "concur.ContextVar", methods,
                      metamethods);
  concur_register(L, runtime, functions);
}
