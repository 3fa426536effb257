/* SPDX-License-Identifier: MIT */
/* See join.h.  Here: what gather, settle, race and any are given. */
#include "join.h"

/* The value on top of the stack is no input.  `key`: stack index of its key, or 0; `position` is
   that of an argument. */
static int raise_bad_input(lua_State *L, int position, int key) {
  const char *hint = "function, future or task expected, got %s";
  const char *text = lua_pushfstring(L, hint, concur_type_name(L, -1));
  if (key == 0) return luaL_argerror(L, position, text);
  const char *name = luaL_tolstring(L, key, NULL);
  return luaL_argerror(L, 1, lua_pushfstring(L, "entry '%s': %s", name, text));
}

/* Checks the value on top of the stack. */
static void check_input(lua_State *L, concur_runtime *runtime, concur_join_mode mode, int position,
                        int key) {
  if (lua_type(L, -1) == LUA_TFUNCTION) return;
  concur_future *future = concur_future_test(L, -1);
  if (future == NULL && !concur_is_callable(L, -1)) raise_bad_input(L, position, key);
  const concur_task *task = future != NULL ? concur_task_of_future(future) : NULL;
  if (task != NULL && task->body != NULL &&
      &task->body->fiber == concur_fiber_current(runtime->scheduler)) {
    concur_error_raise(L, runtime, "Deadlock", "a task waits for itself in %s",
                       concur_join_names[mode]);
  }
}

/* The arguments are the inputs. */
static void read_arguments(lua_State *L, concur_runtime *runtime, concur_inputs *inputs) {
  inputs->count = lua_gettop(L);
  lua_createtable(L, inputs->count, 0);
  for (int i = 1; i <= inputs->count; i++) {
    lua_pushvalue(L, i);
    check_input(L, runtime, inputs->mode, i, 0);
    lua_rawseti(L, inputs->count + 1, i);
  }
  lua_pushnil(L);
}

/* The table at index 1 has nothing but 1, 2, ... n, and comes in this order: then the handles, a
   table on top of the stack, are filled.  False when it turns out to be otherwise. */
static bool read_list(lua_State *L, concur_runtime *runtime, concur_inputs *inputs) {
  int handles = lua_gettop(L);
  lua_pushnil(L);
  while (lua_next(L, 1) != 0) {
    if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) != inputs->count + 1) {
      lua_settop(L, handles);
      inputs->count = 0;
      return false;
    }
    check_input(L, runtime, inputs->mode, 0, handles + 1);
    lua_rawseti(L, handles, ++inputs->count);
  }
  return true;
}

/* Any table: the handles and the keys, two tables on top of the stack, are filled; 1, 2, ... n come
   first. */
static void read_table(lua_State *L, concur_runtime *runtime, concur_inputs *inputs) {
  int handles = lua_gettop(L) - 1;
  int length = (int)lua_rawlen(L, 1);
  for (int i = 1; i <= length; i++) {
    lua_pushinteger(L, i);
    lua_pushvalue(L, -1);
    lua_rawseti(L, handles + 1, i);
    lua_rawgeti(L, 1, i);
    check_input(L, runtime, inputs->mode, 0, handles + 2);
    lua_rawseti(L, handles, i);
    lua_pop(L, 1);
  }
  inputs->count = length;
  lua_pushnil(L);
  while (lua_next(L, 1) != 0) {
    lua_Integer key = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : 0;
    if (key < 1 || key > length) {
      inputs->keyed = true;
      inputs->count++;
      check_input(L, runtime, inputs->mode, 0, handles + 2);
      lua_pushvalue(L, -2);
      lua_rawseti(L, handles + 1, inputs->count);
      lua_pushvalue(L, -1);
      lua_rawseti(L, handles, inputs->count);
    }
    lua_pop(L, 1);
  }
}

/* True when the call's only argument is a table of inputs rather than an input. */
static bool is_table_form(lua_State *L) {
  return lua_gettop(L) == 1 && lua_istable(L, 1) && !concur_is_callable(L, 1);
}

void concur_join_read(lua_State *L, concur_runtime *runtime, concur_inputs *inputs) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  inputs->count = 0;
  inputs->keyed = false;
  inputs->listed = is_table_form(L);
  if (!inputs->listed) {
    read_arguments(L, runtime, inputs);
    return;
  }
  lua_createtable(L, (int)lua_rawlen(L, 1), 1); /* 1: for `n`, if these become the results */
  bool list = read_list(L, runtime, inputs);
  lua_newtable(L);
  if (!list) read_table(L, runtime, inputs);
  if (!inputs->keyed) { /* positions say it all */
    lua_pop(L, 1);
    lua_pushnil(L);
  }
}
