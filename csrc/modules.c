/* SPDX-License-Identifier: MIT */
/* The index of names; modules.h tells what it is for. */
#include "modules.h"

#include <lauxlib.h>
#include <string.h>

#include "place.h"
#include "wire.h"

enum {
  MAX_DEPTH = 3,      /* module.a.b.c */
  MAX_PATHS = 100000, /* of all modules together */
  MODULE_WANTED = NAMED_DATA | NAMED_MODULE
};

/* While the index is being made.  Lives on the C stack. */
typedef struct builder {
  concur_modules *modules;
  int paths;     /* stack index of the list of paths */
  bool standard; /* in one of Lua's own libraries */
  bool globals;  /* in _G: only its C functions are found by name, the rest is the program's */
  size_t size;   /* of `path` */
  char path[WIRE_MAX_PATH];
} builder;

void concur_modules_init(lua_State *L, concur_modules *modules) {
  concur_identity_init(&modules->index);
  modules->loaded = 0;
  lua_newtable(L);
  modules->paths_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

void concur_modules_free(concur_modules *modules) {
  concur_identity_free(&modules->index);
  concur_identity_init(&modules->index);
  modules->loaded = 0;
}

/* ---- making the index ---- */

/* Appends a name to the path; false when it does not fit or holds a zero. */
static bool path_enter(builder *build, lua_State *L, int name) {
  size_t size;
  if (lua_type(L, name) != LUA_TSTRING) return false;
  const char *text = lua_tolstring(L, name, &size);
  if (size + 1 > sizeof build->path - build->size || strlen(text) != size) return false;
  memcpy(build->path + build->size, text, size + 1);
  build->size += size + 1;
  return true;
}

/* Shorter is better; then what sorts first, so that every run chooses the same. */
static bool is_better(const builder *build, const char *path, size_t size) {
  if (build->size != size) return build->size < size;
  return memcmp(build->path, path, size) < 0;
}

/* Enters the value at `index` under the current path.  False if it was there before. */
static bool index_add(lua_State *L, builder *build, int index, concur_named kind) {
  concur_modules *modules = build->modules;
  bool added;
  if (modules->path_count >= MAX_PATHS) return false;
  concur_identity *entry = concur_identity_add(&modules->index, lua_topointer(L, index), &added);
  if (entry == NULL) luaL_error(L, "not enough memory");
  if (!added) {
    size_t size;
    if ((int)entry->first <= modules->standard_count || (int)entry->second != (int)kind) {
      return false;
    }
    lua_rawgeti(L, build->paths, (lua_Integer)entry->first);
    const char *path = lua_tolstring(L, -1, &size);
    bool better = is_better(build, path, size);
    lua_pop(L, 1);
    if (!better) return false;
  } else {
    entry->first = (uint32_t)++modules->path_count;
    entry->second = (uint32_t)kind;
  }
  lua_Integer number = (lua_Integer)entry->first;
  lua_pushlstring(L, build->path, build->size);
  lua_rawseti(L, build->paths, number);
  return added;
}

/* Enters the fields of the table on top of the stack. */
static void index_fields(lua_State *L, builder *build, int depth) {
  int table = lua_gettop(L);
  size_t size = build->size;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
    int type = lua_type(L, -1);
    if (type != LUA_TFUNCTION && type != LUA_TTABLE) continue;
    if (!path_enter(build, L, -2)) continue;
    if (type == LUA_TFUNCTION) {
      if (lua_iscfunction(L, -1) || (depth == 1 && !build->globals)) {
        index_add(L, build, -1, NAMED_FUNCTION);
      }
    } else if (!build->standard && depth < MAX_DEPTH) {
      if (index_add(L, build, -1, NAMED_TABLE)) index_fields(L, build, depth + 1);
    }
    build->size = size;
  }
}

static bool has_functions(lua_State *L, int table) {
  table = lua_absindex(L, table);
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
    if (lua_isfunction(L, -1)) {
      lua_pop(L, 2);
      return true;
    }
  }
  return false;
}

/* Enters the module whose name is at -2 and value at -1: itself, or with `fields` what is in it. */
static void index_module(lua_State *L, builder *build, bool fields) {
  int type = lua_type(L, -1);
  build->size = 0;
  if ((type != LUA_TTABLE && type != LUA_TFUNCTION) || !path_enter(build, L, -2)) return;
  build->globals = strcmp(build->path, LUA_GNAME) == 0;
  if (type == LUA_TFUNCTION) {
    if (!fields) index_add(L, build, -1, NAMED_FUNCTION);
  } else if (fields) {
    index_fields(L, build, 1);
  } else {
    bool code = lua_getmetatable(L, -1);
    if (code) lua_pop(L, 1);
    index_add(L, build, -1, code || has_functions(L, -1) ? NAMED_MODULE : NAMED_DATA);
  }
}

static void index_standard(lua_State *L, builder *build, int loaded) {
  static const char *const names[] = {"string", "table", "math",      "io",      "os",
                                      "utf8",   "debug", "coroutine", "package", LUA_GNAME};
  build->standard = true;
  for (int pass = 0; pass < 2; pass++) {
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
      lua_pushstring(L, names[i]);
      lua_pushvalue(L, -1);
      lua_rawget(L, loaded);
      index_module(L, build, pass == 1);
      lua_pop(L, 2);
    }
  }
  build->standard = false;
  build->modules->standard_count = build->modules->path_count;
}

/* Pushes package.loaded. */
static void push_loaded(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
}

/* A number that changes when a module is loaded, replaced or forgotten. */
static uint64_t loaded_now(lua_State *L) {
  uint64_t sum = 0;
  push_loaded(L);
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
    sum += (uint64_t)(uintptr_t)lua_topointer(L, -1) * UINT64_C(0x9E3779B97F4A7C16) + 2;
  }
  lua_pop(L, 1);
  return sum | 1; /* never 0 */
}

static void index_make(lua_State *L, concur_modules *modules) {
  builder build = {.modules = modules};
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  concur_modules_free(modules);
  modules->path_count = modules->standard_count = 0;
  push_loaded(L);
  int loaded = lua_gettop(L);
  lua_newtable(L);
  build.paths = lua_gettop(L);
  index_standard(L, &build, loaded);
  /* Modules first: a module that is also a field of another one keeps its own name. */
  for (int pass = 0; pass < 2; pass++) {
    for (lua_pushnil(L); lua_next(L, loaded); lua_pop(L, 1)) {
      bool globals = lua_type(L, -2) == LUA_TSTRING && strcmp(lua_tostring(L, -2), LUA_GNAME) == 0;
      if (!globals) index_module(L, &build, pass == 1);
    }
  }
  lua_rawseti(L, LUA_REGISTRYINDEX, modules->paths_ref);
  lua_pop(L, 1);
  modules->loaded = loaded_now(L);
}

/* ---- finding ---- */

/* Whether the path still leads to the value at `index`.  Raw, so that no code runs. */
static bool path_leads_to(lua_State *L, const char *path, size_t size, int index) {
  luaL_checkstack(L, 4, "not enough memory");
  push_loaded(L);
  for (const char *name = path; name < path + size; name += strlen(name) + 1) {
    if (!lua_istable(L, -1)) break;
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    lua_remove(L, -2);
  }
  bool same = lua_rawequal(L, -1, index);
  lua_pop(L, 1);
  return same;
}

concur_named concur_modules_find(lua_State *L, concur_modules *modules, int index, int wanted,
                                 bool refresh) {
  index = lua_absindex(L, index);
  if (modules->loaded == 0 || (refresh && modules->loaded != loaded_now(L))) {
    index_make(L, modules);
  }
  const concur_identity *entry = concur_identity_find(&modules->index, lua_topointer(L, index));
  if (entry == NULL || ((int)entry->second & wanted) == 0) return NAMED_NOTHING;
  concur_named kind = (concur_named)entry->second;
  size_t size;
  lua_rawgeti(L, LUA_REGISTRYINDEX, modules->paths_ref);
  lua_rawgeti(L, -1, (lua_Integer)entry->first);
  lua_remove(L, -2);
  const char *path = lua_tolstring(L, -1, &size);
  /* A finalizer that ran while the index was made may have made another one: no path then. */
  if (path != NULL && path_leads_to(L, path, size, index)) return kind;
  lua_pop(L, 1);
  return NAMED_NOTHING;
}

/* ---- following a path on the other side ---- */

bool concur_modules_require(lua_State *L) {
  push_loaded(L);
  lua_getfield(L, -1, LUA_GNAME);
  lua_remove(L, -2);
  if (lua_istable(L, -1)) {
    lua_pushliteral(L, "require");
    lua_rawget(L, -2);
    lua_remove(L, -2);
  }
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 2);
    lua_pushliteral(L, "there is no function 'require' in this state");
    return false;
  }
  lua_insert(L, -2);
  return lua_pcall(L, 1, 1, 0) == LUA_OK;
}

/* Pushes the module, required if it is not loaded. */
static void push_module(lua_State *L, const char *name) {
  push_loaded(L);
  lua_pushstring(L, name);
  lua_rawget(L, -2);
  lua_remove(L, -2);
  if (!lua_isnil(L, -1)) return;
  lua_pop(L, 1);
  lua_pushstring(L, name);
  if (concur_modules_require(L)) return;
  const char *reason = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "its loader failed";
  concur_refuse(L, NULL, 1, "module '%s' cannot be loaded on the receiving side: %s", name, reason);
}

void concur_modules_push(lua_State *L, const char *path, size_t size) {
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  push_module(L, path);
  for (const char *name = path + strlen(path) + 1; name < path + size; name += strlen(name) + 1) {
    if (lua_istable(L, -1)) {
      lua_getfield(L, -1, name); /* not raw: a module may load its parts on demand */
    } else {
      lua_pushnil(L);
    }
    if (lua_isnil(L, -1)) {
      concur_refuse(L, NULL, 0, "module '%s' has no '%s' on the receiving side", path, name);
    }
    lua_remove(L, -2);
  }
}
