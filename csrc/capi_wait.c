/* SPDX-License-Identifier: MIT */
/*
 * See capi_wait.h.
 *
 * A wait must run in a frame of its own, of a function that has the runtime as its upvalue; so the
 * C function that waits calls one of ours, with a continuation, as any Lua function could be called.
 */
#include "capi_wait.h"

#include "hooks.h"
#include "owned.h"

static const char await_key; /* registry: concur.await */
static const char join_key;  /* registry: l_join */

/* ---- join: the future belongs to the wait ---- */

static const concur_wait wait_join = {
    .name = "C module", .abort = concur_owned_abort, .detach = concur_owned_detach};

static int join_body(lua_State *L, concur_fiber *fiber) {
  return concur_owned_wait(L, fiber, &wait_join);
}

static int l_enter(lua_State *L) {
  (void)concur_fiber_enter(L, concur_runtime_find(L));
  return 0;
}

/* The fiber that may wait here.  Where none may, nobody will wait for the future: it is asked to
   cancel before the error is raised. */
static concur_fiber *enter_or_cancel(lua_State *L, concur_runtime *runtime, concur_future *future) {
  concur_fiber *fiber = runtime->scheduler->current;
  bool forked = concur_runtime_forked(runtime);
  if (fiber != NULL && L == fiber->leaf && lua_isyieldable(L) && !forked) return fiber;
  lua_pushcfunction(L, l_enter);
  if (lua_pcall(L, 0, 0, 0) == LUA_OK) return &runtime->scheduler->top;
  if (!forked) future->ops->cancel_quietly(runtime, future);
  future->retrieved = true;
  lua_error(L);
  return NULL; /* GCOVR_EXCL_LINE: lua_error does not return */
}

/* Unlike other waits this one begins even if the task is cancelled: the future must be asked to
   cancel, and be waited for. */
static int l_join(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_future *future = concur_future_check(L, 1);
  if (future->ops->refresh != NULL) future->ops->refresh(L, runtime, future);
  if (concur_future_settled(future)) return concur_fiber_begin(L, join_body);
  concur_fiber *fiber = enter_or_cancel(L, runtime, future);
  if (runtime->watched) concur_hook_wait(L, runtime);
  return join_body(L, fiber);
}

/* ---- the functions ---- */

/* Continuation of a wait without one: what is above the old height is returned. */
static int give_results(lua_State *L, int status, lua_KContext height) {
  (void)status;
  return lua_gettop(L) - (int)height;
}

static int wait_with(lua_State *L, const void *key, int index, lua_KContext context,
                     lua_KFunction k) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 4, NULL);
  if (k == NULL) {
    k = give_results;
    context = lua_gettop(L);
  }
  lua_rawgetp(L, LUA_REGISTRYINDEX, key);
  lua_pushvalue(L, index);
  lua_callk(L, 1, LUA_MULTRET, context, k);
  return k(L, LUA_OK, context);
}

int concur_capi_await(lua_State *L, int index, lua_KContext context, lua_KFunction k) {
  (void)concur_capi_of(L, "await");
  return wait_with(L, &await_key, index, context, k);
}

int concur_capi_join(lua_State *L, int index, lua_KContext context, lua_KFunction k) {
  (void)concur_capi_of(L, "join");
  return wait_with(L, &join_key, index, context, k);
}

int concur_capi_cancel(lua_State *L, int index) {
  concur_runtime *runtime = concur_capi_of(L, "cancel")->runtime;
  concur_future *future = concur_future_check(L, index);
  if (future->ops->refresh != NULL) future->ops->refresh(L, runtime, future);
  if (concur_future_settled(future)) return 0;
  future->ops->cancel(L, runtime, lua_absindex(L, index), future, 0);
  return 1;
}

void concur_capi_wait_open(lua_State *L, concur_runtime *runtime) {
  lua_getfield(L, -1, "await");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &await_key);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->self_ref);
  lua_pushcclosure(L, l_join, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &join_key);
}
