/* SPDX-License-Identifier: MIT */
/*
 * See environment.h.  The message holds seven values: path, cpath, a table of the Lua functions in
 * package.preload, a list of the searchers that are Lua functions, whether luarocks' loader was there,
 * the state of lua/concur/serialize.lua, and the interpreter that runs the program.  Functions that
 * cannot cross, or drag too much along, are left out: a worker without an exotic searcher is better
 * than none.  C functions of package.preload (modules that the host has linked in) go as pointers.
 */
#include "environment.h"

#include <lauxlib.h>

#include "transfer.h"

/* A preload function or a searcher may bring its upvalues, but not half of a program. */
static const size_t LARGEST_FUNCTION = (size_t)256 * 1024;

/* ---- capturing ---- */

static concur_encode_mode mode_of(const concur_worker_settings *settings) {
  return settings->kind->flat ? CONCUR_ENCODE_FLAT : CONCUR_ENCODE_SHARED;
}

/* Arguments: a function, a concur_encode_mode.  Returns whether it crosses. */
static int l_try(lua_State *L) {
  concur_encode_mode mode = (concur_encode_mode)lua_tointeger(L, 2);
  concur_message *message = concur_encode_as(L, 1, 1, "function", mode);
  lua_pushboolean(L, concur_message_size(message) <= LARGEST_FUNCTION);
  concur_message_free(message);
  return 1;
}

/* True when the Lua function on top of the stack can be sent. */
static bool function_crosses(lua_State *L, const concur_worker_settings *settings) {
  lua_pushcfunction(L, l_try);
  lua_pushvalue(L, -2);
  lua_pushinteger(L, mode_of(settings));
  bool crosses = lua_pcall(L, 2, 1, 0) == LUA_OK && lua_toboolean(L, -1);
  lua_pop(L, 1);
  return crosses;
}

/* Notes a C function of package.preload; key and function are on top of the stack. */
static void capture_c_function(lua_State *L, concur_worker_settings *settings) {
  if (lua_type(L, -2) != LUA_TSTRING) return;
  if (lua_getupvalue(L, -1, 1) != NULL) {
    lua_pop(L, 1);
    return; /* has upvalues: a pointer is not enough */
  }
  void (*function)(void) = (void (*)(void))lua_tocfunction(L, -1);
  if (!concur_worker_settings_preload(settings, lua_tostring(L, -2), function)) {
    luaL_error(L, "not enough memory");
  }
}

/* Pushes a table of the functions in package.preload that cross; `package` is at `index`. */
static void push_preload(lua_State *L, int index, concur_worker_settings *settings) {
  lua_newtable(L);
  int copy = lua_gettop(L);
  lua_getfield(L, index, "preload");
  lua_pushnil(L);
  while (lua_istable(L, copy + 1) && lua_next(L, copy + 1) != 0) {
    if (lua_iscfunction(L, -1)) {
      capture_c_function(L, settings);
    } else if (lua_isfunction(L, -1) && function_crosses(L, settings)) {
      lua_pushvalue(L, -2);
      lua_pushvalue(L, -2);
      lua_settable(L, copy);
    }
    lua_pop(L, 1);
  }
  lua_settop(L, copy);
}

/* Pushes a list of the searchers that are Lua functions and cross, but for luarocks' own (a
   function of package.loaded["luarocks.loader"]), and then whether that was there. */
static void push_searchers(lua_State *L, int index, const concur_worker_settings *settings) {
  lua_newtable(L);
  int list = lua_gettop(L);
  lua_getfield(L, index, "loaded");
  bool luarocks = lua_getfield(L, -1, "luarocks.loader") == LUA_TTABLE;
  if (luarocks) {
    lua_getfield(L, -1, "luarocks_loader");
  } else {
    lua_pushnil(L);
  }
  int known = lua_gettop(L);
  lua_getfield(L, index, "searchers");
  lua_Integer count = lua_istable(L, -1) ? (lua_Integer)lua_rawlen(L, -1) : 0;
  for (lua_Integer i = 1; i <= count; i++) {
    if (lua_rawgeti(L, known + 1, i) == LUA_TFUNCTION && !lua_iscfunction(L, -1) &&
        !lua_rawequal(L, -1, known) && function_crosses(L, settings)) {
      lua_rawseti(L, list, (lua_Integer)lua_rawlen(L, list) + 1);
    } else {
      lua_pop(L, 1);
    }
  }
  lua_settop(L, list);
  lua_pushboolean(L, luarocks);
}

/* Pushes package.loaded["concur.serialize"].state, or nil. */
static void push_serialized(lua_State *L, int index) {
  int top = lua_gettop(L);
  lua_getfield(L, index, "loaded");
  if (lua_getfield(L, -1, "concur.serialize") == LUA_TTABLE) {
    lua_getfield(L, -1, "state");
  } else {
    lua_pushnil(L);
  }
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
}

static const char interpreter_key; /* registry: the path that a worker was told */

void concur_environment_push_interpreter(lua_State *L) {
  char path[4096];
  size_t size = sizeof path;
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &interpreter_key) == LUA_TSTRING) return;
  lua_pop(L, 1);
  int top = lua_gettop(L);
  /* lua(1) puts its own name into `arg`, below the script's, which has index 0. */
  bool runs_script = lua_getglobal(L, "arg") == LUA_TTABLE && lua_rawgeti(L, -1, -1) == LUA_TSTRING;
  lua_settop(L, top);
  bool known = uv_exepath(path, &size) == 0;
  const char *slash = known ? strrchr(path, '/') : NULL;
  if (known && (runs_script || (slash != NULL && strncmp(slash + 1, "lua", 3) == 0))) {
    lua_pushlstring(L, path, size);
  } else {
    lua_pushnil(L);
  }
}

void concur_environment_capture(lua_State *L, concur_worker_settings *settings) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 16, NULL);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "package") == LUA_TTABLE) {
    int package = lua_gettop(L);
    lua_getfield(L, package, "path");
    lua_getfield(L, package, "cpath");
    push_preload(L, package, settings);
    push_searchers(L, package, settings);
    if (settings->kind->flat) {
      lua_pushnil(L); /* a process has its own copy of every module */
    } else {
      push_serialized(L, package);
    }
    concur_environment_push_interpreter(L);
    settings->environment =
        concur_encode_as(L, package + 1, 7, "package setting", mode_of(settings));
  } else {
    settings->environment = concur_encode(L, top + 1, 0, "package setting"); /* nothing */
  }
  lua_settop(L, top);
}

/* ---- applying ---- */

/* Calls `require(name)`; what it raises is dropped: a worker can do without. */
static void require_quietly(lua_State *L, const char *name) {
  lua_getglobal(L, "require");
  lua_pushstring(L, name);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
}

/* Copies the fields of the table at `from` into package.preload. */
static void apply_preload(lua_State *L, int package, int from) {
  lua_getfield(L, package, "preload");
  lua_pushnil(L);
  while (lua_next(L, from) != 0) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_settable(L, -4);
  }
  lua_pop(L, 1);
}

/* Puts the searchers of the list at `from` behind the first standard one, which looks at preload. */
static void apply_searchers(lua_State *L, int package, int from) {
  lua_getfield(L, package, "searchers");
  lua_Integer extra = (lua_Integer)lua_rawlen(L, from), have = (lua_Integer)lua_rawlen(L, -1);
  for (lua_Integer i = have; i >= 2; i--) {
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, i + extra);
  }
  for (lua_Integer i = 1; i <= extra; i++) {
    lua_rawgeti(L, from, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pop(L, 1);
}

void concur_environment_apply(lua_State *L, const concur_worker_settings *settings) {
  lua_getglobal(L, "package");
  int package = lua_gettop(L);
  lua_getfield(L, package, "preload");
  for (uint32_t i = 0; i < settings->preload_count; i++) {
    lua_pushcfunction(L, (lua_CFunction)settings->preloads[i].function);
    lua_setfield(L, -2, settings->preloads[i].name);
  }
  lua_pop(L, 1);
  if (settings->environment != NULL && concur_decode(L, settings->environment) == 7) {
    int path = package + 1, cpath = path + 1, preload = path + 2, searchers = path + 3;
    lua_pushvalue(L, path);
    lua_setfield(L, package, "path");
    lua_pushvalue(L, cpath);
    lua_setfield(L, package, "cpath");
    apply_preload(L, package, preload);
    apply_searchers(L, package, searchers);
    lua_pushvalue(L, path + 6);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &interpreter_key);
    if (lua_toboolean(L, path + 4)) require_quietly(L, "luarocks.loader");
    if (lua_istable(L, path + 5)) {
      lua_getglobal(L, "require");
      lua_pushliteral(L, "concur.serialize");
      lua_call(L, 1, 1);
      lua_getfield(L, -1, "install");
      lua_pushvalue(L, path + 5);
      lua_call(L, 1, 0);
    }
  }
  lua_settop(L, package - 1);
}
