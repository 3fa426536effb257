/* SPDX-License-Identifier: MIT */
/* See hooks.h.  The functions live in the settings table, as on_switch and on_wait. */
#include "hooks.h"

#include "report.h"

/* Calls the hook `name`, which is set. */
static void call_hook(lua_State *L, concur_runtime *runtime, const char *name) {
  if (!lua_checkstack(L, LUA_MINSTACK)) return;
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) concur_report_safely(L, runtime, "error in a test hook");
}

void concur_hook_wait(lua_State *L, concur_runtime *runtime) {
  call_hook(L, runtime, "on_wait");
}

void concur_hook_switch(concur_loop *loop) {
  call_hook(loop->L, loop->runtime, "on_switch");
}

bool concur_hook_switch_wanted(lua_State *L, const concur_runtime *runtime) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
  lua_getfield(L, -1, "on_switch");
  bool wanted = !lua_isnil(L, -1);
  lua_pop(L, 2);
  return wanted;
}

static int set_hook(lua_State *L, concur_runtime *runtime, const char *name) {
  if (!lua_isnoneornil(L, 1)) concur_check_callable(L, 1);
  lua_settop(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
  lua_insert(L, 1);
  lua_setfield(L, 1, name);
  return 0;
}

static int l_on_wait(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  bool on = !lua_isnoneornil(L, 1);
  set_hook(L, runtime, "on_wait");
  runtime->watched = on;
  return 0;
}

/* Takes effect at once in a running loop, else when the next driver starts. */
static int l_on_switch(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  bool on = !lua_isnoneornil(L, 1);
  set_hook(L, runtime, "on_switch");
  if (runtime->loop != NULL) {
    runtime->loop->before_run = on ? concur_hook_switch : NULL;
    concur_loop_specials(runtime->loop);
  }
  return 0;
}

void concur_hooks_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {
      {"on_wait", l_on_wait}, {"on_switch", l_on_switch}, {NULL, NULL}};
  concur_register(L, runtime, functions);
}
