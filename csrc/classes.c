/* SPDX-License-Identifier: MIT */
/* Registered classes; classes.h tells how they are kept. */
#include "classes.h"

#include <lauxlib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "place.h"
#include "support.h"

void concur_classes_init(lua_State *L, concur_transfer_state *state) {
  lua_newtable(L);
  state->classes_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_newtable(L);
  state->class_names_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Registers the record on top of the stack, and pops it. */
static void add_record(lua_State *L, concur_transfer_state *state) {
  int record = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->classes_ref);
  lua_getfield(L, record, "metatable");
  lua_pushvalue(L, record);
  lua_rawset(L, -3);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->class_names_ref);
  lua_getfield(L, record, "name");
  lua_pushvalue(L, record);
  lua_rawset(L, -3);
  lua_settop(L, record - 1);
}

void concur_classes_add(lua_State *L, concur_transfer_state *state, const char *name) {
  lua_createtable(L, 0, 2);
  lua_insert(L, -2);
  lua_setfield(L, -2, "metatable");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "name");
  add_record(L, state);
}

/* Pushes the record of a name, or nil. */
static void push_record(lua_State *L, const concur_transfer_state *state, int name) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->class_names_ref);
  lua_pushvalue(L, name);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

/* Whether the error on top of the stack is require's own: there is no such module. */
static bool is_not_found(lua_State *L, const char *module) {
  if (lua_type(L, -1) != LUA_TSTRING) return false;
  lua_pushfstring(L, "module '%s' not found:", module);
  size_t size;
  const char *start = lua_tolstring(L, -1, &size);
  bool same = strncmp(lua_tostring(L, -2), start, size) == 0;
  lua_pop(L, 1);
  return same;
}

void concur_classes_push(lua_State *L, concur_transfer_state *state) {
  int name = lua_gettop(L);
  size_t size;
  const char *text = lua_tolstring(L, name, &size);
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  push_record(L, state, name);
  while (lua_isnil(L, -1) && size > 0) {
    lua_settop(L, name);
    const char *module = lua_pushlstring(L, text, size); /* stays below what require leaves */
    lua_pushvalue(L, -1);
    if (!concur_modules_require(L) && !is_not_found(L, module)) {
      const char *reason = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
      concur_refuse(L, NULL, 1,
                    "the module of class '%s' cannot be loaded on the receiving side: "
                    "%s",
                    text, reason);
    }
    push_record(L, state, name);
    while (size > 0 && text[size - 1] != '.' && text[size - 1] != ':') size--;
    if (size > 0) size--;
  }
  if (lua_isnil(L, -1)) {
    concur_refuse(L, NULL, 0,
                  "class '%s' is not registered on the receiving side; call "
                  "concur.transferable in a module whose name the class name starts with, such as "
                  "'module.Class'",
                  text);
  }
  lua_replace(L, name);
  lua_settop(L, name);
}

/* Checks the options at stack index 3 and sets them into the record on top of the stack. */
static void take_functions(lua_State *L) {
  static const char *const names[] = {"encode", "decode", NULL};
  luaL_checktype(L, 3, LUA_TTABLE);
  concur_check_options(L, 3, names);
  int given = 0;
  for (int i = 0; names[i] != NULL; i++) {
    int type = lua_getfield(L, 3, names[i]);
    if (type == LUA_TNIL) {
      lua_pop(L, 1);
      continue;
    }
    if (type != LUA_TFUNCTION) {
      luaL_argerror(
          L, 3,
          lua_pushfstring(L, "%s must be a function, not %s", names[i], luaL_typename(L, -1)));
    }
    lua_setfield(L, -2, names[i]);
    given++;
  }
  luaL_argcheck(L, given != 1, 3, "encode and decode come together");
}

/*@lua
---Says how objects of a class cross to other Lua states.  Both sides must do so: register a class in
---the module that defines it, under the module's name ("shapes.Point" in module "shapes").  Never
---suspends.
---@param name string what both sides call the class
---@param metatable table the metatable of its objects
---@param functions? {encode: (fun(object: any): any ...), decode: (fun(...: any): any)}
---  how an object becomes values that can cross, and an object again; without them its fields are
---  copied
---@return table metatable
function concur.transferable(name, metatable, functions) end
*/
int concur_classes_l_transferable(lua_State *L) {
  size_t size;
  const char *name = luaL_checklstring(L, 1, &size);
  luaL_argcheck(L, size > 0 && size <= UINT8_MAX && strlen(name) == size, 1,
                "a name of 1 to 255 characters expected");
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 3);
  lua_createtable(L, 0, 4);
  lua_pushvalue(L, 1);
  lua_setfield(L, 4, "name");
  lua_pushvalue(L, 2);
  lua_setfield(L, 4, "metatable");
  if (!lua_isnil(L, 3)) take_functions(L);
  add_record(L, concur_transfer_state_of(L));
  lua_pushvalue(L, 2);
  return 1;
}
