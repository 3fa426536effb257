/* SPDX-License-Identifier: MIT */
/*
 * concur.ThreadPoolExecutor, as Lua sees it, and the functions that use the default pool.
 *
 * A pool's userdata is a view: an executor and the options that its calls get.  User value 1 holds
 * the name among the options.  What can be said with futures (map, shutdown) is written in
 * lua/concur/executor.lua, which is loaded when one of its methods is first looked up.
 *                                                                                   [loop thread]
 */
#include <math.h>

#include "channel_class.h"
#include "environment.h"
#include "executor.h"
#include "interrupt.h"
#include "platform.h"
#include "pool_wait.h"
#include "transfer.h"
#include "worker.h"

enum {
  DEFAULT_WORKERS_BEYOND_CORES = 4,
  DEFAULT_WORKERS_MOST = 32,
  MOST_WORKERS = 4096,
  THREADS_BEYOND_WORKERS = 128 /* for jobs that wait for jobs */
};

typedef struct pool_view {
  concur_executor *executor; /* one reference; NULL until it is set up */
  concur_call_options options; /* `name` is kept alive by user value 1 */
  concur_function_cache functions;
} pool_view;

/* ---- arguments ---- */

static pool_view *check_view(lua_State *L, int index) {
  pool_view *view = concur_class_check(L, index, CONCUR_CLASS_POOL);
  if (view->executor == NULL) luaL_argerror(L, index, "the pool was finalized");
  return view;
}

/* The function of a call: a Lua or C function, or a name. */
static void check_function(lua_State *L, int index) {
  int type = lua_type(L, index);
  if (type != LUA_TFUNCTION && type != LUA_TSTRING) {
    luaL_typeerror(L, index, "function, or a string \"module.function\",");
  }
}

/* The integer field `name` of the table at `index`, or `otherwise`. */
static uint32_t option_count(lua_State *L, int index, const char *name, uint32_t least,
                             uint32_t otherwise) {
  uint32_t value = otherwise;
  if (lua_getfield(L, index, name) != LUA_TNIL) {
    int is_integer;
    lua_Integer given = lua_tointegerx(L, -1, &is_integer);
    if (!is_integer || given < (lua_Integer)least || given > UINT32_MAX) {
      luaL_argerror(L, index, lua_pushfstring(L, "option '%s' must be an integer of at least %d",
                                              name, (int)least));
    }
    value = (uint32_t)given;
  }
  lua_pop(L, 1);
  return value;
}

/* The duration in the field `name` of the table at `index`, or `otherwise`. */
static uint64_t option_duration(lua_State *L, int index, const char *name, uint64_t otherwise) {
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

/* Pushes the field `name` of the table at `index` if it is of the type, nil if it is nil. */
static bool option_value(lua_State *L, int index, const char *name, int type) {
  int actual = lua_getfield(L, index, name);
  if (actual != type && actual != LUA_TNIL) {
    luaL_argerror(L, index, lua_pushfstring(L, "option '%s' must be a %s, got %s", name,
                                            lua_typename(L, type), concur_type_name(L, -1)));
  }
  return actual != LUA_TNIL;
}

/* ---- making pools ---- */

static uint32_t default_workers(void) {
  uint32_t workers = concur_platform_cpu_count() + DEFAULT_WORKERS_BEYOND_CORES;
  return workers < DEFAULT_WORKERS_MOST ? workers : DEFAULT_WORKERS_MOST;
}

static pool_view *view_new(lua_State *L, concur_runtime *runtime) {
  pool_view *view = concur_class_new(L, runtime, CONCUR_CLASS_POOL, sizeof *view, 1);
  view->options = concur_call_defaults;
  return view;
}

/* Makes an executor that owns a new pool, for the view. */
static void view_open(lua_State *L, concur_runtime *runtime, pool_view *view,
                      const concur_pool_settings *limits, const char *name) {
  concur_executors *executors = concur_executors_of(L, runtime);
  concur_worker_settings *settings = concur_worker_settings_new(name, executors->shared);
  concur_pool *pool = settings != NULL ? concur_pool_new(limits) : NULL;
  if (pool != NULL) view->executor = concur_executor_new(executors, pool, settings, true);
  if (view->executor == NULL) {
    if (pool != NULL) concur_pool_release(pool);
    if (settings != NULL) concur_worker_settings_release(settings);
    luaL_error(L, "not enough memory");
  }
  view->executor->bounded = limits->queue_size != 0;
}

static concur_pool_settings pool_limits(uint32_t workers) {
  concur_pool_settings limits = {.workers = workers,
                                 .thread_cap = workers + THREADS_BEYOND_WORKERS,
                                 .cores = concur_platform_cpu_count(),
                                 .idle_ns = CONCUR_NEVER};
  return limits;
}

/* Options of a pool that concern its workers' states; the table is at index 1. */
static void read_worker_options(lua_State *L, concur_worker_settings *settings) {
  settings->max_jobs = option_count(L, 1, "max_jobs", 1, 0);
  if (option_value(L, 1, "max_memory", LUA_TNUMBER)) {
    lua_Number bytes = lua_tonumber(L, -1);
    luaL_argcheck(L, bytes >= 1 && bytes < 1e18, 1, "option 'max_memory' must be a number of bytes");
    settings->max_memory = (size_t)bytes;
  }
  lua_pop(L, 1);
  if (option_value(L, 1, "init", LUA_TFUNCTION)) {
    settings->init = concur_encode(L, lua_gettop(L), 1, "init");
  }
  lua_pop(L, 1);
}

/*@lua
---An executor with OS threads, each with a Lua state of its own.
---@class concur.ThreadPoolExecutor
local ThreadPoolExecutor = {}

---Makes a pool of threads.  No thread is started before the first job.
---
---Options: `workers` jobs run at the same time (default: `min(32, concur.cpu_count() + 4)`);
---`init`, a function that each worker's state runs first; `queue_size`, how many jobs may wait, so
---that `submit` waits when there are more; `max_jobs`, after which a worker gets a fresh state;
---`max_memory` in bytes of one worker's state, beyond which its job fails; `idle`, seconds after
---which a thread without a job ends; `name`.
---@param options? integer|{workers?: integer, init?: function, queue_size?: integer, max_jobs?: integer, max_memory?: number, idle?: number, name?: string} a number is the number of workers
---@return concur.ThreadPoolExecutor
function concur.ThreadPoolExecutor(options) end
*/
static int l_thread_pool(lua_State *L) {
  static const char *const names[] = {"workers",    "init", "queue_size", "max_jobs",
                                      "max_memory", "idle", "name",       NULL};
  concur_runtime *runtime = concur_runtime_of(L);
  concur_runtime_check(L, runtime);
  lua_settop(L, 1);
  if (!lua_istable(L, 1)) {
    lua_newtable(L);
    if (!lua_isnil(L, 1)) {
      (void)luaL_checkinteger(L, 1);
      lua_pushvalue(L, 1);
      lua_setfield(L, -2, "workers");
    }
    lua_replace(L, 1);
  }
  concur_check_options(L, 1, names);
  uint32_t workers = option_count(L, 1, "workers", 1, default_workers());
  luaL_argcheck(L, workers <= MOST_WORKERS, 1, "too many workers (4096 at most)");
  concur_pool_settings limits = pool_limits(workers);
  limits.queue_size = option_count(L, 1, "queue_size", 1, 0);
  limits.idle_ns = option_duration(L, 1, "idle", CONCUR_NEVER);
  bool named = option_value(L, 1, "name", LUA_TSTRING);
  pool_view *view = view_new(L, runtime);
  view_open(L, runtime, view, &limits, named ? lua_tostring(L, 2) : "ThreadPoolExecutor");
  read_worker_options(L, view->executor->settings);
  return 1;
}

/*@lua
---Returns how many processors this process may use; affinity and cgroup limits count.
---@return integer
function concur.cpu_count() end
*/
static int l_cpu_count(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_platform_cpu_count());
  return 1;
}

/* ---- the default pool ---- */

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
  pool_view *view = view_new(L, runtime);
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
  pool_view *view = view_new(L, runtime);
  concur_pool_settings limits = pool_limits(default_workers());
  view_open(L, runtime, view, &limits, "the default pool");
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
static pool_view *push_default(lua_State *L, concur_runtime *runtime) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &default_key) == LUA_TUSERDATA) {
    pool_view *view = lua_touserdata(L, -1);
    if (view->executor != NULL && view->executor->owner != NULL && !view->executor->closed) {
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
  return lua_touserdata(L, -1);
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
  pool_view *view = check_view(L, 1);
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

/* ---- submitting ---- */

/* Stack: view, function, arguments.  Submits and goes on with `then`, or waits for room first and
   calls `retry`. */
static int submit_and(lua_State *L, concur_fiber *fiber, bool again, concur_resume then,
                      concur_resume retry) {
  pool_view *view = check_view(L, 1);
  concur_executor *executor = view->executor;
  if (again) concur_pool_wait_served(executor);
  if ((!again && concur_pool_room_is_wanted(executor)) ||
      !concur_executor_submit(L, executor, 2, &view->options, &view->functions)) {
    return concur_pool_wait_room(L, fiber, executor, again, retry);
  }
  return then(L, fiber);
}

static int give_future(lua_State *L, concur_fiber *fiber) {
  (void)L;
  (void)fiber;
  return 1;
}

static int submit_again(lua_State *L, concur_fiber *fiber) {
  return submit_and(L, fiber, true, give_future, submit_again);
}

static int submit_body(lua_State *L, concur_fiber *fiber) {
  return submit_and(L, fiber, false, give_future, submit_again);
}

/*@lua
---Hands a job to the pool: `fn(...)`, run on one of its threads.  `fn` is a Lua function (copied with
---its upvalues), a C function of a loaded module, or a name, `"module.function"`.
---Waits, if the pool has a `queue_size`, until the queue has room; otherwise it never waits.
---Raises `TransferError` for what cannot be sent, `Closed` after shutdown, `BrokenExecutor`.
---@async
---@param fn function|string
---@param ... any arguments, copied
---@return concur.Future
function ThreadPoolExecutor:submit(fn, ...) end
*/
static int l_submit(lua_State *L) {
  pool_view *view = check_view(L, 1);
  check_function(L, 2);
  if (view->executor->bounded) return concur_fiber_begin(L, submit_body);
  (void)concur_executor_submit(L, view->executor, 2, &view->options, &view->functions);
  return 1;
}

/*@lua
---The same as `submit` without waiting: `nil, err` (kind `WouldBlock`) when the queue is full.
---@param fn function|string
---@param ... any arguments, copied
---@return concur.Future? future
---@return concur.Error? err
function ThreadPoolExecutor:try_submit(fn, ...) end
*/
static int l_try_submit(lua_State *L) {
  pool_view *view = check_view(L, 1);
  check_function(L, 2);
  if (concur_executor_submit(L, view->executor, 2, &view->options, &view->functions)) return 1;
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_of(L), "WouldBlock", "the queue of %s is full",
                   view->executor->settings->name);
  return 2;
}

/* Stack: view, the call's future. */
static int wait_for_call(lua_State *L, concur_fiber *fiber) {
  lua_remove(L, 1);
  return concur_pool_wait_call(L, fiber);
}

static int run_again(lua_State *L, concur_fiber *fiber) {
  return submit_and(L, fiber, true, wait_for_call, run_again);
}

static int run_body(lua_State *L, concur_fiber *fiber) {
  return submit_and(L, fiber, false, wait_for_call, run_again);
}

/*@lua
---Runs `fn(...)` on a thread of the pool, waits for it and returns its results, or raises its error.
---Cancelled: the job is asked to stop, and `Cancelled` is raised when it has ended (at once for a job
---that had not begun, or with the option `abandon`).
---@async
---@param fn function|string as for `submit`
---@param ... any arguments, copied
---@return any ... results, copied
function ThreadPoolExecutor:run(fn, ...) end
*/
static int l_run(lua_State *L) {
  (void)check_view(L, 1);
  check_function(L, 2);
  return concur_fiber_begin(L, run_body);
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
  check_function(L, 1);
  (void)push_default(L, concur_runtime_of(L));
  lua_insert(L, 1);
  return concur_fiber_begin(L, run_body);
}

/*@lua
---Returns true when the running job was asked to stop: its future was cancelled, its pool shuts down.
---Outside of jobs: whether a scope around the caller is cancelled.  Never raises, never waits.
---@return boolean
function concur.cancelled() end
*/
static int l_cancelled(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  bool cancelled = runtime->worker != NULL && concur_worker_cancelled(runtime->worker);
  concur_fiber *fiber = concur_fiber_current(runtime->scheduler);
  lua_pushboolean(L, cancelled || concur_fiber_cancelled(fiber));
  return 1;
}

/* ---- views and looks ---- */

/*@lua
---Returns a view of the pool whose jobs get these options: `name` of the jobs, for messages; `retry`,
---how many times a job that failed is tried again; `abandon`: who waits for a cancelled job does not
---wait for its end, and its late result is dropped; `interrupt_after`: seconds after which a
---cancelled job's Lua code is ended by force.  A view shares everything else with its pool.
---@param options {name?: string, retry?: integer, abandon?: boolean, interrupt_after?: number}
---@return concur.ThreadPoolExecutor
function ThreadPoolExecutor:options(options) end
*/
static int l_options(lua_State *L) {
  static const char *const names[] = {"name", "retry", "abandon", "interrupt_after", NULL};
  concur_runtime *runtime = concur_runtime_of(L);
  pool_view *view = check_view(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  concur_check_options(L, 2, names);
  concur_call_options options = view->options;
  options.retries = option_count(L, 2, "retry", 0, options.retries);
  options.interrupt_after_ns = option_duration(L, 2, "interrupt_after", options.interrupt_after_ns);
  if (option_value(L, 2, "abandon", LUA_TBOOLEAN)) options.abandon = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (option_value(L, 2, "name", LUA_TSTRING)) {
    options.name = lua_tostring(L, -1);
  } else {
    lua_pop(L, 1);
    lua_getiuservalue(L, 1, 1);
  }
  pool_view *derived = view_new(L, runtime);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, 1);
  derived->options = options;
  derived->executor = view->executor;
  view->executor->references++;
  return 1;
}

static void set_count(lua_State *L, const char *name, uint64_t count) {
  lua_pushinteger(L, (lua_Integer)count);
  lua_setfield(L, -2, name);
}

/*@lua
---Returns what the pool is doing: numbers of `threads`, of those that are `idle`, `running` a job, or
---`blocked` in a wait for other jobs; of jobs `queued`, `submitted`, `completed`, `cancelled` before they
---ran; and of `threads_started` so far.
---@return {threads: integer, idle: integer, running: integer, blocked: integer, queued: integer, submitted: integer, completed: integer, cancelled: integer, threads_started: integer}
function ThreadPoolExecutor:stats() end
*/
static int l_stats(lua_State *L) {
  pool_view *view = check_view(L, 1);
  concur_pool_stats stats;
  concur_pool_get_stats(view->executor->pool, &stats);
  lua_createtable(L, 0, 9);
  set_count(L, "threads", stats.threads);
  set_count(L, "idle", stats.idle);
  set_count(L, "running", stats.running);
  set_count(L, "blocked", stats.blocked);
  set_count(L, "queued", stats.queued + view->executor->batch_count);
  set_count(L, "submitted", stats.submitted + view->executor->batch_count);
  set_count(L, "completed", stats.completed);
  set_count(L, "cancelled", stats.cancelled);
  set_count(L, "threads_started", stats.threads_started);
  return 1;
}

/* ---- shutting down; lua/concur/executor.lua puts the parts together ---- */

/* core.pool_close(pool, drop): accepts nothing any more; with `drop` the queued jobs are cancelled. */
static int l_pool_close(lua_State *L) {
  pool_view *view = check_view(L, 1);
  concur_executor *executor = view->executor;
  executor->closed = true;
  if (executor->owner == NULL) return 0;
  concur_executor_publish(executor);
  concur_pool_close(executor->pool, lua_toboolean(L, 2));
  return 0;
}

/* core.pool_stop(pool, by_force): asks the running jobs to stop. */
static int l_pool_stop(lua_State *L) {
  pool_view *view = check_view(L, 1);
  concur_pool_cancel_running(view->executor->pool);
  if (lua_toboolean(L, 2)) concur_interrupt_pool(view->executor->pool);
  return 0;
}

/* Stack: view, ...  Returns true when all threads have ended and were joined. */
static int join_ended(lua_State *L, concur_fiber *fiber) {
  concur_executor *executor = check_view(L, 1)->executor;
  concur_pool_stats stats;
  concur_pool_get_stats(executor->pool, &stats);
  if (stats.threads == 0) {
    concur_pool_reap(executor->pool);
    /* All replies have been posted: what the jobs left is cleared away now. */
    concur_executor_collect(L, fiber->scheduler->runtime);
  }
  lua_pushboolean(L, stats.threads == 0);
  return 1;
}

static int join_body(lua_State *L, concur_fiber *fiber) {
  concur_executor *executor = check_view(L, 1)->executor;
  concur_pool_stats stats;
  concur_pool_get_stats(executor->pool, &stats);
  if (stats.threads == 0 || executor->owner == NULL) return join_ended(L, fiber);
  uint64_t timeout_ns = lua_isnil(L, 2) ? CONCUR_NEVER : concur_check_duration(L, 2);
  return concur_pool_wait_end(L, fiber, executor, timeout_ns, join_ended);
}

/* core.pool_join(pool, seconds or nil): waits for a closed pool's threads; false when time ran out. */
static int l_pool_join(lua_State *L) {
  (void)check_view(L, 1);
  lua_settop(L, 2);
  return concur_fiber_begin(L, join_body);
}

/* core.pool_running(pool): a list of {name=, seconds=, traceback=} of the jobs that run now. */
static int l_pool_running(lua_State *L) {
  enum { MOST = 32 };
  concur_running running[MOST];
  concur_pool *pool = check_view(L, 1)->executor->pool;
  concur_interrupt_trace(pool);
  uint32_t count = concur_pool_list_running(pool, running, MOST);
  lua_newtable(L);
  for (uint32_t i = 0; i < count && i < MOST; i++) {
    lua_createtable(L, 0, 2);
    if (running[i].name[0] != '\0') {
      lua_pushstring(L, running[i].name);
      lua_setfield(L, -2, "name");
    }
    if (running[i].trace[0] != '\0') {
      lua_pushfstring(L, "stack traceback:%s", running[i].trace);
      lua_setfield(L, -2, "traceback");
    }
    lua_pushnumber(L, (lua_Number)running[i].running_ns / 1e9);
    lua_setfield(L, -2, "seconds");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* core.pool_abandon(pool): what still runs is given up. */
static int l_pool_abandon(lua_State *L) {
  concur_executor_abandon(check_view(L, 1)->executor);
  return 0;
}

/* core.pool_name(pool) */
static int l_pool_name(lua_State *L) {
  lua_pushstring(L, check_view(L, 1)->executor->settings->name);
  return 1;
}

/* core.pool_workers(pool): how many jobs run at the same time. */
static int l_pool_workers(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_pool_workers(check_view(L, 1)->executor->pool));
  return 1;
}

/* core.at_job_end(fn): in a worker, calls fn at the end of each job. */
static int l_at_job_end(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_argcheck(L, runtime->worker != NULL, 1, "there are jobs only in workers");
  lua_settop(L, 1);
  concur_worker_at_end(L, runtime->worker);
  return 0;
}

/* ---- the class ---- */

static int on_lua_part_done(lua_State *L, int status, lua_KContext context) {
  (void)L;
  (void)status;
  (void)context;
  return 0;
}

/* Calls the function `name` of lua/concur/executor.lua with the arguments of this one. */
static int call_lua_part(lua_State *L, const char *name) {
  int count = lua_gettop(L);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "concur.executor");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, name);
  lua_insert(L, 1);
  lua_settop(L, count + 1);
  lua_callk(L, count, 0, 0, on_lua_part_done);
  return 0;
}

static int l_pool_mt_close(lua_State *L) {
  (void)check_view(L, 1);
  return call_lua_part(L, "close");
}

/* __index of the table of methods: what executor.lua defines. */
static int l_pool_find_method(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "concur.executor");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "methods");
  lua_pushvalue(L, 2);
  lua_gettable(L, -2);
  return 1;
}

static int l_pool_gc(lua_State *L) {
  pool_view *view = concur_class_test(L, 1, CONCUR_CLASS_POOL);
  if (view == NULL) return 0; /* called by hand */
  concur_executor *executor = view->executor;
  concur_function_cache_free(L, &view->functions);
  view->executor = NULL;
  if (executor != NULL) concur_executor_release(executor);
  return 0;
}

static int l_pool_tostring(lua_State *L) {
  const concur_executor *executor = check_view(L, 1)->executor;
  concur_pool_stats stats;
  concur_pool_get_stats(executor->pool, &stats);
  lua_pushfstring(L, "concur.ThreadPoolExecutor: %s (%s%d threads, %d jobs running, %d queued)",
                  executor->settings->name, executor->closed ? "shut down, " : "",
                  (int)stats.threads, (int)(stats.running + stats.blocked), (int)stats.queued);
  return 1;
}

void concur_executor_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg methods[] = {{"submit", l_submit},   {"try_submit", l_try_submit},
                                     {"run", l_run},         {"options", l_options},
                                     {"stats", l_stats},     {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__close", l_pool_mt_close},
                                         {"__gc", l_pool_gc},
                                         {"__tostring", l_pool_tostring},
                                         {NULL, NULL}};
  static const luaL_Reg functions[] = {{"ThreadPoolExecutor", l_thread_pool},
                                       {"cpu_count", l_cpu_count},
                                       {"default_executor", l_default_executor},
                                       {"to_thread", l_to_thread},
                                       {"cancelled", l_cancelled},
                                       {"pool_close", l_pool_close},
                                       {"pool_stop", l_pool_stop},
                                       {"pool_join", l_pool_join},
                                       {"pool_running", l_pool_running},
                                       {"pool_abandon", l_pool_abandon},
                                       {"pool_name", l_pool_name},
                                       {"pool_workers", l_pool_workers},
                                       {"at_job_end", l_at_job_end},
                                       {NULL, NULL}};
  concur_register(L, runtime, functions);
  lua_pushstring(L, concur_interrupt_kind);
  lua_setfield(L, -2, "interrupts");
  concur_class_define(L, runtime, CONCUR_CLASS_POOL, "concur.ThreadPoolExecutor", methods,
                      metamethods);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_POOL]);
  lua_getfield(L, -1, "__index");
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_pool_find_method);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  lua_pop(L, 2);
  concur_channel_open(L, runtime);
}
