/* SPDX-License-Identifier: MIT */
/* See options.h.                                                        [the state's own thread] */
#include "options.h"

#include <math.h>

uint32_t concur_option_count(lua_State *L, int index, const char *name, uint32_t least,
                             uint32_t otherwise) {
  uint32_t value = otherwise;
  if (lua_getfield(L, index, name) != LUA_TNIL) {
    int is_integer;
    lua_Integer given = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer || given < (lua_Integer)least || given > UINT32_MAX) {
      luaL_argerror(
          L, index,
          lua_pushfstring(L, "option '%s' must be an integer of at least %d", name, (int)least));
    }
    value = (uint32_t)given;
  }
  lua_pop(L, 1);
  return value;
}

uint64_t concur_option_duration(lua_State *L, int index, const char *name, uint64_t otherwise) {
  uint64_t value = otherwise;
  if (lua_getfield(L, index, name) != LUA_TNIL) {
    int is_number;
    lua_Number seconds = lua_tonumberx(L, -1, &is_number);
    if (!is_number || isnan(seconds)) {
      luaL_argerror(L, index, lua_pushfstring(L, "option '%s' must be a number of seconds", name));
    }
    value = concur_seconds_to_ns(seconds);
  }
  lua_pop(L, 1);
  return value;
}

bool concur_option_value(lua_State *L, int index, const char *name, int type) {
  int actual = lua_getfield(L, index, name);
  if (actual != type && actual != LUA_TNIL) {
    luaL_argerror(L, index,
                  lua_pushfstring(L, "option '%s' must be a %s, got %s", name,
                                  lua_typename(L, type), concur_type_name(L, -1)));
  }
  return actual != LUA_TNIL;
}
