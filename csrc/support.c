/* SPDX-License-Identifier: MIT */
/* See support.h. */
#include "support.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <uv.h>

#ifndef _WIN32
#include <pthread.h>
#endif

/* ---- fork: a child of the host's fork must not touch what the parent's threads own ---- */

int concur_fork_generation;

#ifndef _WIN32
static uv_once_t fork_once = UV_ONCE_INIT;

static void on_fork_child(void) {
  concur_fork_generation++;
}

static void fork_watch(void) {
  (void)pthread_atfork(NULL, NULL, on_fork_child);
}
#endif

/* ---- the runtime ---- */

static char runtime_key; /* its address is the registry key */

concur_runtime *concur_runtime_find(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &runtime_key);
  concur_runtime *runtime = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return runtime;
}

static int registry_table(lua_State *L, int array, int hash) {
  lua_createtable(L, array, hash);
  return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Loads concur.errors, which replaces the metamethods below by its own; true when it did. */
static bool load_errors(lua_State *L, const char *metamethod, lua_CFunction stub) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "concur.errors");
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    return false;
  }
  return luaL_getmetafield(L, 1, metamethod) != LUA_TNIL && lua_tocfunction(L, -1) != stub;
}

/* "Kind: message" where concur.errors cannot be loaded. */
static int l_error_tostring(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  if (load_errors(L, "__tostring", l_error_tostring)) {
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
  }
  lua_getfield(L, 1, "kind");
  lua_getfield(L, 1, "message");
  const char *kind = lua_tostring(L, -2);
  const char *message = lua_tostring(L, -1);
  lua_pushfstring(L, "%s: %s", kind ? kind : "Error", message ? message : "");
  return 1;
}

static void error_class_define(lua_State *L, concur_runtime *runtime) {
  lua_createtable(L, 0, 4);
  lua_pushliteral(L, "concur.Error");
  lua_setfield(L, -2, "__name");
  lua_pushcfunction(L, l_error_tostring);
  lua_setfield(L, -2, "__tostring");
  runtime->error_pointer = lua_topointer(L, -1);
  runtime->error_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

concur_runtime *concur_runtime_open(lua_State *L) {
#ifndef _WIN32
  uv_once(&fork_once, fork_watch);
#endif
  concur_runtime *runtime = lua_newuserdatauv(L, sizeof *runtime, 1);
  memset(runtime, 0, sizeof *runtime);
  runtime->fork_generation = concur_fork_generation;
  concur_list_init(&runtime->holdings);
  lua_pushvalue(L, -1);
  runtime->self_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  runtime->keeper = lua_newthread(L);
  (void)luaL_ref(L, LUA_REGISTRYINDEX);
  lua_createtable(L, 64, 0);
  lua_xmove(L, runtime->keeper, 1); /* CONCUR_ANCHORS */
  runtime->traces_ref = registry_table(L, 0, 4);
  runtime->reports_ref = registry_table(L, 4, 0);
  runtime->settings_ref = registry_table(L, 0, 4);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  runtime->main_state = lua_tothread(L, -1);
  lua_pop(L, 1);
  error_class_define(L, runtime);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &runtime_key);
  return runtime;
}

void concur_runtime_check(lua_State *L, const concur_runtime *runtime) {
  if (runtime->closed) {
    concur_error_raise(L, runtime, "InvalidState", "the Lua state is closing");
  }
  concur_runtime_check_fork(L, runtime);
}

void concur_runtime_check_fork(lua_State *L, const concur_runtime *runtime) {
  if (concur_runtime_forked(runtime)) {
    concur_error_raise(L, runtime, "InvalidState",
                       "this process was forked: concur can only be used in the parent");
  }
}

/* ---- functions and classes ---- */

const char concur_class_tags[CONCUR_CLASS_COUNT] = {0};

void concur_register(lua_State *L, concur_runtime *runtime, const luaL_Reg *functions) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->self_ref);
  luaL_setfuncs(L, functions, 1);
}

static int count_functions(const luaL_Reg *functions) {
  int count = 0;
  while (functions != NULL && functions[count].name != NULL) count++;
  return count;
}

/* The tables get their final sizes at once: what is set first is then found at the first look, so
   `__index` comes first here, and the methods that are called most come first in their lists. */
void concur_class_define(lua_State *L, concur_runtime *runtime, concur_class class,
                         const char *name, const luaL_Reg *methods,
                         const luaL_Reg *metamethods) {
  lua_createtable(L, 0, count_functions(metamethods) + 3);
  if (methods != NULL) {
    lua_createtable(L, 0, count_functions(methods));
    concur_register(L, runtime, methods);
    lua_setfield(L, -2, "__index");
  }
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__name");
  lua_pushstring(L, name);
  lua_setfield(L, -2, "__metatable");
  if (metamethods != NULL) concur_register(L, runtime, metamethods);
  runtime->class_ref[class] = luaL_ref(L, LUA_REGISTRYINDEX);
}

void *concur_class_new(lua_State *L, const concur_runtime *runtime, concur_class class,
                       size_t size, int values) {
  const char *tag = &concur_class_tags[class];
  char *object = lua_newuserdatauv(L, size + sizeof tag, values);
  memset(object, 0, size);
  memcpy(object + size, &tag, sizeof tag);
  concur_class_set(L, runtime, class);
  return object;
}

void concur_class_mismatch(lua_State *L, int index, concur_class class) {
  if (lua_isnone(L, index)) lua_settop(L, index); /* what is pushed below is not the argument */
  lua_rawgeti(L, LUA_REGISTRYINDEX, concur_runtime_find(L)->class_ref[class]);
  lua_getfield(L, -1, "__name");
  luaL_typeerror(L, index, lua_tostring(L, -1));
}

/* ---- anchors ---- */

int concur_anchor(lua_State *L, concur_runtime *runtime) {
  lua_State *keeper = runtime->keeper;
  int slot = runtime->free_anchor;
  if (slot != 0) {
    lua_rawgeti(keeper, CONCUR_ANCHORS, slot);
    runtime->free_anchor = (int)lua_tointeger(keeper, -1);
    lua_pop(keeper, 1);
    concur_anchor_set(L, runtime, slot);
    return slot;
  }
  /* A new slot: may raise, which is for L to do, never for the keeper. */
  lua_pushvalue(keeper, CONCUR_ANCHORS);
  lua_xmove(keeper, L, 1);
  lua_insert(L, -2);
  slot = runtime->anchor_count + 1;
  lua_rawseti(L, -2, slot);
  runtime->anchor_count = slot;
  lua_pop(L, 1);
  return slot;
}

void concur_anchor_reserve(lua_State *L, concur_runtime *runtime) {
  if (concur_anchor_is_free(runtime)) return;
  lua_pushboolean(L, 0);
  concur_anchor_release(L, runtime, concur_anchor(L, runtime));
}

void concur_anchor_release(lua_State *L, concur_runtime *runtime, int slot) {
  (void)L;
  lua_pushinteger(runtime->keeper, runtime->free_anchor);
  lua_rawseti(runtime->keeper, CONCUR_ANCHORS, slot);
  runtime->free_anchor = slot;
}

void *concur_memory_new(lua_State *L, concur_runtime *runtime, size_t size, int values,
                        concur_backing *backing) {
  const char *tag = NULL; /* of no class, whatever the memory before it looks like */
  char *memory = lua_newuserdatauv(L, size + sizeof tag, values);
  memcpy(memory + size, &tag, sizeof tag);
  lua_pushvalue(L, -1);
  lua_setiuservalue(L, -3, 1);
  *backing = (concur_backing){.runtime = runtime, .slot = concur_anchor(L, runtime), .users = 1};
  return memory;
}

void concur_memory_leave(concur_backing *backing) {
  if (--backing->users > 0) return;
  concur_anchor_release(backing->runtime->keeper, backing->runtime, backing->slot);
}

/* ---- errors ---- */

static void error_new_va(lua_State *L, const concur_runtime *runtime, const char *kind,
                         const char *format, va_list arguments) {
  lua_createtable(L, 0, 4);
  lua_pushstring(L, kind);
  lua_setfield(L, -2, "kind");
  lua_pushvfstring(L, format, arguments);
  lua_setfield(L, -2, "message");
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->error_ref);
  lua_setmetatable(L, -2);
}

void concur_error_new(lua_State *L, const concur_runtime *runtime, const char *kind,
                      const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  error_new_va(L, runtime, kind, format, arguments);
  va_end(arguments);
}

int concur_error_raise(lua_State *L, const concur_runtime *runtime, const char *kind,
                       const char *format, ...) {
  luaL_checkstack(L, 8, NULL);
  va_list arguments;
  va_start(arguments, format);
  error_new_va(L, runtime, kind, format, arguments);
  va_end(arguments);
  luaL_traceback(L, L, NULL, 0);
  lua_setfield(L, -2, "traceback");
  return lua_error(L);
}

bool concur_error_test(lua_State *L, const concur_runtime *runtime, int index) {
  if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index)) return false;
  bool same = lua_topointer(L, -1) == runtime->error_pointer;
  lua_pop(L, 1);
  return same;
}

int concur_os_error(lua_State *L, const concur_runtime *runtime, int code, const char *call,
                    const char *subject_field, const char *subject) {
  luaL_pushfail(L);
  if (subject != NULL) {
    concur_error_new(L, runtime, "OSError", "%s %s: %s (%s)", call, subject, uv_strerror(code),
                     uv_err_name(code));
    lua_pushstring(L, subject);
    lua_setfield(L, -2, subject_field);
  } else {
    concur_error_new(L, runtime, "OSError", "%s: %s (%s)", call, uv_strerror(code),
                     uv_err_name(code));
  }
  lua_pushstring(L, uv_err_name(code));
  lua_setfield(L, -2, "code");
  lua_pushinteger(L, -code);
  lua_setfield(L, -2, "errno");
  lua_pushstring(L, call);
  lua_setfield(L, -2, "call");
  return 2;
}

/* ---- arguments ---- */

uint64_t concur_seconds_to_ns(lua_Number seconds) {
  if (!(seconds > 0)) return 0;
  lua_Number ns = seconds * 1e9;
  if (ns >= 9.2e18) return CONCUR_NEVER_NS;
  uint64_t whole = (uint64_t)ns;
  return (lua_Number)whole < ns ? whole + 1 : whole; /* never early */
}

uint64_t concur_check_duration(lua_State *L, int index) {
  lua_Number seconds = luaL_checknumber(L, index);
  luaL_argcheck(L, !isnan(seconds), index, "duration must not be NaN");
  return concur_seconds_to_ns(seconds);
}

bool concur_is_callable(lua_State *L, int index) {
  if (lua_isfunction(L, index)) return true;
  if (luaL_getmetafield(L, index, "__call") == LUA_TNIL) return false;
  lua_pop(L, 1);
  return true;
}

const char *concur_type_name(lua_State *L, int index) {
  if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING) {
    const char *name = lua_tostring(L, -1); /* the metatable keeps it */
    lua_pop(L, 1);
    return name;
  }
  if (lua_type(L, index) == LUA_TLIGHTUSERDATA) return "light userdata";
  if (lua_isnone(L, index)) return "no value";
  return luaL_typename(L, index);
}

void concur_check_callable(lua_State *L, int index) {
  if (!concur_is_callable(L, index)) luaL_typeerror(L, index, "function");
}

void concur_check_options(lua_State *L, int index, const char *const *names) {
  index = lua_absindex(L, index);
  lua_pushnil(L);
  while (lua_next(L, index) != 0) {
    lua_pop(L, 1);
    const char *const *name = names;
    if (lua_type(L, -1) == LUA_TSTRING) {
      while (*name != NULL && strcmp(*name, lua_tostring(L, -1)) != 0) name++;
    }
    if (lua_type(L, -1) != LUA_TSTRING || *name == NULL) {
      const char *key = luaL_tolstring(L, -1, NULL);
      luaL_argerror(L, index, lua_pushfstring(L, "unknown option '%s'", key));
    }
  }
}
