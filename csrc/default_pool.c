/* SPDX-License-Identifier: MIT */
/*
 * The default pool, shared by a state and its workers (concur_shared_pool), and to_thread.
 *                                                                                   [loop thread]
 */
#include "environment.h"
#include "thread_pool.h"

/* Key of the default pool's view in the registry. */
static const char default_key;

/* Takes a pool out of the slot that somebody has shut down, so that a new one can be made. */
static void drop_closed_pool(concur_executors *executors) {
  concur_shared_pool *shared = executors->shared;
  uv_mutex_lock(&shared->mutex);
  concur_pool *pool = shared->closed ? NULL : shared->pool;
  if (pool != NULL) concur_pool_retain(pool);
  uv_mutex_unlock(&shared->mutex);
  if (pool == NULL) return;
  concur_worker_settings *settings = NULL;
  if (concur_pool_closing(pool)) {
    uv_mutex_lock(&shared->mutex);
    if (shared->pool == pool && !shared->closed) {
      settings = shared->settings;
      shared->pool = NULL;
      shared->settings = NULL;
    }
    uv_mutex_unlock(&shared->mutex);
  }
  concur_pool_release(pool);
  if (settings == NULL) return;
  if (executors->runtime->worker == NULL) {
    concur_executors_adopt(executors, pool, settings); /* its threads may still be ending */
  } else {
    concur_pool_release(pool);
    concur_worker_settings_release(settings);
  }
}

/* Pushes a view of the pool in the shared slot; false and nothing when it is empty or closed. */
static bool push_shared_view(lua_State *L, concur_runtime *runtime) {
  concur_executors *executors = concur_executors_of(L, runtime);
  concur_shared_pool *shared = executors->shared;
  drop_closed_pool(executors);
  concur_pool_view *view = concur_pool_view_new(L, runtime, CONCUR_CLASS_POOL);
  uv_mutex_lock(&shared->mutex);
  concur_pool *pool = shared->closed ? NULL : shared->pool;
  concur_worker_settings *settings = shared->settings;
  if (pool != NULL) {
    concur_pool_retain(pool);
    concur_worker_settings_retain(settings);
  }
  uv_mutex_unlock(&shared->mutex);
  if (pool != NULL) view->executor = concur_executor_new(executors, pool, settings, false);
  if (view->executor != NULL) return true;
  lua_pop(L, 1);
  if (pool == NULL) return false;
  concur_pool_release(pool);
  concur_worker_settings_release(settings);
  return luaL_error(L, "not enough memory") != 0;
}

/* Makes the default pool, unless another thread was faster. */
static void make_shared_pool(lua_State *L, concur_runtime *runtime) {
  concur_shared_pool *shared = concur_executors_of(L, runtime)->shared;
  concur_pool_view *view = concur_pool_view_new(L, runtime, CONCUR_CLASS_POOL);
  concur_thread_pool_open_view(L, runtime, view, "the default pool");
  concur_executor *executor = view->executor;
  concur_environment_capture(L, executor->settings);
  uv_mutex_lock(&shared->mutex);
  if (shared->pool == NULL && !shared->closed) {
    shared->pool = executor->pool;
    shared->settings = executor->settings;
    concur_pool_retain(executor->pool);
    concur_worker_settings_retain(executor->settings);
    executor->owns = false; /* the state that began it all does: see shared_close */
  }
  uv_mutex_unlock(&shared->mutex);
  lua_pop(L, 1);
}

/* Pushes this state's view of the default pool and returns it. */
static concur_pool_view *push_default(lua_State *L, concur_runtime *runtime) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &default_key) == LUA_TUSERDATA) {
    concur_pool_view *view = concur_pool_view_test(L, -1);
    /* Another state that shares the pool may have shut it down. */
    if (view != NULL && view->executor->owner != NULL && !view->executor->closed &&
        !concur_pool_closing(view->executor->pool)) {
      return view;
    }
  }
  lua_pop(L, 1);
  if (!push_shared_view(L, runtime)) {
    make_shared_pool(L, runtime);
    if (!push_shared_view(L, runtime)) {
      concur_error_raise(L, runtime, "InvalidState", "the default pool's state has closed");
    }
  }
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &default_key);
  return concur_pool_view_test(L, -1);
}

concur_executor *concur_executor_default(lua_State *L, concur_runtime *runtime) {
  concur_executor *executor = push_default(L, runtime)->executor;
  lua_pop(L, 1); /* the registry keeps it */
  return executor;
}

/*@lua
---Returns the default pool, which `concur.to_thread` uses and which this state shares with its
---workers; with an argument, makes that pool the default first.
---Raises `InvalidState` when a worker tries to replace it.
---@param pool? concur.ThreadPoolExecutor
---@return concur.ThreadPoolExecutor
function concur.default_executor(pool) end
*/
static int l_default_executor(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  if (lua_isnoneornil(L, 1)) {
    (void)push_default(L, runtime);
    return 1;
  }
  concur_pool_view *view = concur_pool_view_check(L, 1);
  (void)concur_class_check(L, 1, CONCUR_CLASS_POOL); /* of threads: workers share it */
  concur_executors *executors = concur_executors_of(L, runtime);
  concur_shared_pool *shared = executors->shared;
  if (runtime->worker != NULL) {
    return concur_error_raise(L, runtime, "InvalidState",
                              "a worker cannot replace the default pool that it shares");
  }
  if (view->executor->settings->environment == NULL) {
    concur_environment_capture(L, view->executor->settings);
  }
  concur_executor *executor = view->executor;
  uv_mutex_lock(&shared->mutex);
  concur_pool *old_pool = shared->pool;
  concur_worker_settings *old_settings = shared->settings;
  shared->pool = executor->pool;
  shared->settings = executor->settings;
  concur_pool_retain(executor->pool);
  concur_worker_settings_retain(executor->settings);
  uv_mutex_unlock(&shared->mutex);
  lua_settop(L, 1);
  lua_pushvalue(L, 1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &default_key);
  if (old_pool != NULL && old_pool != executor->pool) {
    /* Its jobs are still done; closing the state joins its threads. */
    concur_executors_adopt(executors, old_pool, old_settings);
  } else if (old_pool != NULL) {
    concur_pool_release(old_pool);
    concur_worker_settings_release(old_settings);
  }
  return 1;
}

/*@lua
---Runs `fn(...)` on a thread of the default pool, waits for it and returns its results, or raises its
---error, while other tasks go on.  `fn` is a Lua function (copied with its upvalues), a C function of
---a loaded module, or a name, `"module.function"`.
---Cancelled: the job is asked to stop, and `Cancelled` is raised when it has ended.
---@async
---@param fn function|string
---@param ... any arguments, copied
---@return any ... results, copied
function concur.to_thread(fn, ...) end
*/
static int l_to_thread(lua_State *L) {
  concur_pool_check_function(L, 1);
  (void)push_default(L, concur_runtime_of(L));
  lua_insert(L, 1);
  return concur_fiber_begin(L, concur_pool_run_body);
}

void concur_default_pool_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg functions[] = {
      {"default_executor", l_default_executor}, {"to_thread", l_to_thread}, {NULL, NULL}};
  concur_register(L, runtime, functions);
}
