/* SPDX-License-Identifier: MIT */
/* See capi_state.h. */
#include "capi_state.h"

#include <stdio.h>
#include <stdlib.h>

#include "report.h"

void concur_capi_state_open(lua_State *L, concur_runtime *runtime) {
  concur_capi *capi = lua_newuserdatauv(L, sizeof *capi, 0);
  memset(capi, 0, sizeof *capi);
  capi->runtime = runtime;
  concur_list_init(&capi->futures);
  concur_list_init(&capi->timers);
  capi->thread = uv_thread_self();
  (void)concur_anchor(L, runtime);
  runtime->capi = capi;
}

/* An error cannot be raised here: it would jump into the stack of the state's own thread. */
void concur_capi_check_thread(uv_thread_t thread, const char *function) {
#ifdef CONCUR_DEBUG
  /* GCOVR_EXCL_START: spec/capi_spec.lua has it; abort() writes down no counts */
  uv_thread_t self = uv_thread_self();
  if (uv_thread_equal(&self, &thread)) return;
  (void)fprintf(stderr,
                "concur: %s of concur.h was called on the wrong thread: only the thread of the Lua "
                "state may call it (use settle, fail or post from others)\n",
                function);
  (void)fflush(stderr);
  abort();
  /* GCOVR_EXCL_STOP */
#else
  (void)thread;
  (void)function;
#endif
}

concur_capi *concur_capi_test(lua_State *L, const char *function) {
  if (!lua_checkstack(L, 4)) return NULL;
  concur_runtime *runtime = concur_runtime_find(L);
  if (runtime == NULL || runtime->capi == NULL) return NULL;
  concur_capi_check_thread(runtime->capi->thread, function);
  return runtime->capi;
}

concur_capi *concur_capi_of(lua_State *L, const char *function) {
  concur_capi *capi = concur_capi_test(L, function);
  if (capi == NULL) {
    luaL_error(L,
               "%s of concur.h: concur is not loaded in this Lua state (call concur_api_get in "
               "the luaopen function of your module)",
               function);
  }
  return capi;
}

concur_loop *concur_capi_loop(lua_State *L, concur_capi *capi) {
  concur_runtime_check(L, capi->runtime);
  return concur_scheduler_loop(L, capi->runtime->scheduler);
}

/* ---- calling back ---- */

typedef struct callback {
  concur_runtime *runtime;
  concur_call_fn call;
  void *data;
  bool returned;
} callback;

static int l_call(lua_State *L) {
  callback *self = lua_touserdata(L, 1);
  lua_settop(L, 0);
  self->call(L, self->data);
  self->returned = true;
  return 0;
}

/* Argument: the callback. */
static int l_call_and_report(lua_State *L) {
  callback *self = lua_touserdata(L, 1);
  concur_runtime *runtime = self->runtime;
  lua_pushcfunction(L, concur_traceback_handler);
  lua_pushcfunction(L, l_call);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 1, 0, 2) == LUA_OK) return 0;
  concur_fiber_push_trace(L, &runtime->scheduler->top, -1);
  concur_report(L, runtime, -2, -1, "error in a callback of a C module");
  return 0;
}

bool concur_capi_call(concur_loop *loop, concur_call_fn call, void *data) {
  callback self = {loop->runtime, call, data, false};
  (void)concur_loop_protect(loop, l_call_and_report, &self);
  return self.returned;
}
