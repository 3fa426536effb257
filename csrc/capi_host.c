/* SPDX-License-Identifier: MIT */
/* See capi_host.h.  A host calls these outside of any protected call, so nothing here may raise. */
#include "capi_host.h"

static const char step_key; /* registry: EventLoop:step */

int concur_capi_step(lua_State *L, double max_seconds) {
  if (!lua_checkstack(L, LUA_MINSTACK)) return LUA_ERRMEM;
  if (concur_capi_test(L, "step") == NULL) {
    lua_pushliteral(L, "step of concur.h: concur is not loaded in this Lua state");
    return LUA_ERRRUN;
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, &step_key);
  lua_pushnumber(L, max_seconds);
  return lua_pcall(L, 1, 0, 0);
}

static int l_make_loop(lua_State *L) {
  (void)concur_capi_loop(L, concur_capi_of(L, "fd"));
  return 0;
}

int concur_capi_fd(lua_State *L) {
  concur_capi *capi = concur_capi_test(L, "fd");
  if (capi == NULL) return -1;
  lua_pushcfunction(L, l_make_loop);
  if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    return -1;
  }
  return uv_backend_fd(&capi->runtime->loop->uv);
}

double concur_capi_next_timeout(lua_State *L) {
  const concur_capi *capi = concur_capi_test(L, "next_timeout");
  if (capi == NULL || capi->runtime->loop == NULL) return -1;
  uint64_t timeout_ns = concur_loop_next_timeout(capi->runtime->loop);
  return timeout_ns == CONCUR_NEVER ? -1 : (double)timeout_ns / 1e9;
}

int concur_capi_alive(lua_State *L) {
  const concur_capi *capi = concur_capi_test(L, "alive");
  return capi != NULL && capi->runtime->loop != NULL && concur_loop_alive(capi->runtime->loop);
}

/* ---- errors; these may raise when memory is short ---- */

void concur_capi_push_error(lua_State *L, const char *kind, const char *message) {
  luaL_checkstack(L, 6, NULL);
  concur_error_new(L, concur_capi_of(L, "push_error")->runtime, kind, "%s", message);
}

void concur_capi_push_os_error(lua_State *L, int error_number, const char *call, const char *path) {
  luaL_checkstack(L, 6, NULL);
  concur_runtime *runtime = concur_capi_of(L, "push_os_error")->runtime;
  (void)concur_os_error(L, runtime, uv_translate_sys_error(error_number), call, "path", path);
  lua_remove(L, -2); /* the nil */
}

void concur_capi_host_open(lua_State *L) {
  lua_getfield(L, -1, "step");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &step_key);
}
