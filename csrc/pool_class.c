/* SPDX-License-Identifier: MIT */
/*
 * See pool_class.h.  What can be said with futures (map, shutdown) is written in
 * lua/concur/executor.lua, which is loaded when one of its methods is first looked up.
 *                                                                                   [loop thread]
 */
#include "pool_class.h"

#include <string.h>

#include "holding.h"
#include "options.h"
#include "pool_wait.h"
#include "transfer.h"

/* ---- views ---- */

/* The userdata. */
typedef struct box {
  concur_pool_view *view;  /* the memory behind it; NULL: could not be made */
  concur_holding *holding; /* owned; of the view */
} box;

/* The userdata at `index` if it is a pool of any class, else NULL. */
static box *box_test(lua_State *L, int index) {
  box *owner = concur_class_test(L, index, CONCUR_CLASS_POOL);
  return owner != NULL ? owner : concur_class_test(L, index, CONCUR_CLASS_PROCESS_POOL);
}

concur_pool_view *concur_pool_view_test(lua_State *L, int index) {
  const box *owner = box_test(L, index);
  bool usable = owner != NULL && owner->view != NULL && owner->view->executor != NULL;
  return usable ? owner->view : NULL;
}

concur_pool_view *concur_pool_view_check(lua_State *L, int index) {
  concur_pool_view *view = concur_pool_view_test(L, index);
  if (view == NULL) {
    if (box_test(L, index) == NULL) concur_class_mismatch(L, index, CONCUR_CLASS_POOL);
    luaL_argerror(L, index, "the pool was finalized");
  }
  return view;
}

static void view_release(void *object) {
  concur_pool_view *view = object;
  concur_executor *executor = view->executor;
  concur_function_cache_free(view->backing.runtime->keeper, &view->functions);
  view->executor = NULL;
  if (executor != NULL) concur_executor_release(executor);
  concur_memory_leave(&view->backing);
}

void concur_pool_check_options(lua_State *L, const char *const *names) {
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
}

void concur_pool_read_worker_options(lua_State *L, concur_worker_settings *settings) {
  concur_encode_mode mode = settings->kind->flat ? CONCUR_ENCODE_FLAT : CONCUR_ENCODE_SHARED;
  settings->max_jobs = concur_option_count(L, 1, "max_jobs", 1, 0);
  if (concur_option_value(L, 1, "max_memory", LUA_TNUMBER)) {
    lua_Number bytes = lua_tonumber(L, -1);
    luaL_argcheck(L, bytes >= 1 && bytes < 1e18, 1,
                  "option 'max_memory' must be a number of bytes");
    settings->max_memory = concur_size_from((lua_Integer)bytes);
  }
  lua_pop(L, 1);
  if (concur_option_value(L, 1, "init", LUA_TFUNCTION)) {
    settings->init = concur_encode_as(L, lua_gettop(L), 1, "init", mode);
  }
  lua_pop(L, 1);
}

void concur_pool_check_function(lua_State *L, int index) {
  int type = lua_type(L, index);
  if (type != LUA_TFUNCTION && type != LUA_TSTRING) {
    luaL_typeerror(L, index, "function, or a string \"module.function\",");
  }
}

concur_pool_view *concur_pool_view_new(lua_State *L, concur_runtime *runtime, concur_class class) {
  box *owner = concur_class_new(L, runtime, class, sizeof *owner, CONCUR_POOL_NAME);
  owner->holding = concur_holding_new(L, runtime, view_release);
  concur_backing backing;
  concur_pool_view *view = concur_memory_new(L, runtime, sizeof *view, 0, &backing);
  memset(view, 0, sizeof *view);
  view->backing = backing;
  view->class = class;
  view->options = concur_call_defaults;
  owner->holding->object = view;
  owner->view = view;
  return view;
}

void concur_pool_view_open(lua_State *L, concur_runtime *runtime, concur_pool_view *view,
                           const concur_call_kind *kind, const concur_pool_settings *limits,
                           const char *name) {
  concur_executors *executors = concur_executors_of(L, runtime);
  concur_worker_settings *settings = concur_worker_settings_new(kind, name, executors->shared);
  concur_pool *pool = settings != NULL ? concur_pool_new(limits) : NULL;
  if (pool != NULL) view->executor = concur_executor_new(executors, pool, settings, true);
  if (view->executor == NULL) {
    if (pool != NULL) concur_pool_release(pool);
    if (settings != NULL) concur_worker_settings_release(settings);
    luaL_error(L, "not enough memory");
  }
  view->executor->bounded = limits->queue_size != 0;
}

/* ---- submitting ---- */

/* Stack: view, function, arguments.  Submits and goes on with `then`, or waits for room first and
   calls `retry`. */
static int submit_and(lua_State *L, concur_fiber *fiber, bool again, concur_resume then,
                      concur_resume retry) {
  concur_pool_view *view = concur_pool_view_check(L, 1);
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
  concur_pool_view *view = concur_pool_view_check(L, 1);
  concur_pool_check_function(L, 2);
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
  concur_pool_view *view = concur_pool_view_check(L, 1);
  concur_pool_check_function(L, 2);
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

int concur_pool_run_body(lua_State *L, concur_fiber *fiber) {
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
  (void)concur_pool_view_check(L, 1);
  concur_pool_check_function(L, 2);
  return concur_fiber_begin(L, concur_pool_run_body);
}

/* ---- views and looks ---- */

/* The option `retry` of the table at index 2: a number, or {times=, delay=}. */
static void read_retry(lua_State *L, concur_call_options *options) {
  static const char *const names[] = {"times", "delay", NULL};
  if (lua_getfield(L, 2, "retry") == LUA_TTABLE) {
    lua_pushvalue(L, 2);
    lua_insert(L, -2);
    lua_replace(L, 2); /* so that errors name the right argument */
    concur_check_options(L, 2, names);
    options->retries = concur_option_count(L, 2, "times", 0, 1);
    uint64_t delay_ms = concur_option_duration(L, 2, "delay", 0) / 1000000;
    luaL_argcheck(L, delay_ms <= CONCUR_RETRY_DELAY_MOST_MS, 2, "option 'delay' is too long");
    options->retry_delay_ms = (uint32_t)delay_ms;
    lua_replace(L, 2);
  } else {
    bool given = !lua_isnil(L, -1);
    lua_pop(L, 1);
    options->retries = concur_option_count(L, 2, "retry", 0, options->retries);
    if (given) options->retry_delay_ms = 0;
  }
  luaL_argcheck(L, options->retries <= CONCUR_RETRIES_MOST, 2, "option 'retry': 255 at most");
}

/*@lua
---Returns a view of the pool whose jobs get these options: `name` of the jobs, for messages; `retry`,
---how many times a job that failed is tried again, or `{times=, delay=}` with seconds until it is, which
---are doubled for each further try; `abandon`: who waits for a cancelled job does not
---wait for its end, and its late result is dropped; `interrupt_after`: seconds after which a
---cancelled job's Lua code is ended by force.  A view shares everything else with its pool.
---@param options {name?: string, retry?: integer|{times?: integer, delay?: number}, abandon?: boolean, interrupt_after?: number}
---@return concur.ThreadPoolExecutor
function ThreadPoolExecutor:options(options) end
*/
static int l_options(lua_State *L) {
  static const char *const names[] = {"name", "retry", "abandon", "interrupt_after", NULL};
  concur_runtime *runtime = concur_runtime_of(L);
  concur_pool_view *view = concur_pool_view_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  concur_check_options(L, 2, names);
  concur_call_options options = view->options;
  read_retry(L, &options);
  options.interrupt_after_ns =
      concur_option_duration(L, 2, "interrupt_after", options.interrupt_after_ns);
  if (concur_option_value(L, 2, "abandon", LUA_TBOOLEAN)) options.abandon = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (concur_option_value(L, 2, "name", LUA_TSTRING)) {
    options.name = lua_tostring(L, -1);
  } else {
    lua_pop(L, 1);
    lua_getiuservalue(L, 1, CONCUR_POOL_NAME);
  }
  concur_pool_view *derived = concur_pool_view_new(L, runtime, view->class);
  lua_insert(L, -2);
  lua_setiuservalue(L, -2, CONCUR_POOL_NAME);
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
  concur_pool_view *view = concur_pool_view_check(L, 1);
  concur_executor *executor = view->executor;
  const concur_call_kind *kind = executor->settings->kind;
  concur_pool_stats stats;
  concur_runtime_check_fork(L, concur_runtime_of(L));
  concur_pool_get_stats(executor->pool, &stats);
  lua_createtable(L, 0, 10);
  set_count(L, kind->flat ? "processes" : "threads", stats.threads);
  set_count(L, kind->flat ? "processes_started" : "threads_started", stats.threads_started);
  set_count(L, "idle", stats.idle);
  set_count(L, "running", stats.running);
  if (!kind->flat) set_count(L, "blocked", stats.blocked);
  set_count(L, "queued", stats.queued + executor->batch_count);
  set_count(L, "submitted", stats.submitted + executor->batch_count);
  set_count(L, "completed", stats.completed);
  set_count(L, "cancelled", stats.cancelled);
  if (kind->crashes != NULL) set_count(L, "crashes", kind->crashes(executor->pool));
  return 1;
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
  (void)concur_pool_view_check(L, 1);
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
  box *owner = box_test(L, 1);
  if (owner == NULL) return 0;
  if (concur_runtime_forked(concur_runtime_of(L))) {
    if (owner->view != NULL) concur_function_cache_free(L, &owner->view->functions);
    concur_holding_abandon(owner->holding);
  } else {
    concur_holding_end(owner->holding);
  }
  owner->holding = NULL;
  return 0;
}

static int l_pool_tostring(lua_State *L) {
  const concur_executor *executor = concur_pool_view_check(L, 1)->executor;
  const concur_worker_settings *settings = executor->settings;
  lua_getmetatable(L, 1);
  lua_getfield(L, -1, "__name");
  const char *class = lua_tostring(L, -1);
  const char *short_name = strrchr(class, '.') + 1;
  if (concur_runtime_forked(concur_runtime_of(L))) {
    lua_pushfstring(L, "%s (of the parent process)", class);
    return 1;
  }
  concur_pool_stats stats;
  concur_pool_get_stats(executor->pool, &stats);
  bool named = strcmp(short_name, settings->name) != 0; /* else by the class, see the constructors */
  lua_pushfstring(L, "%s: %s%s(%s%d %s, %d jobs running, %d queued)", class,
                  named ? settings->name : "", named ? " " : "",
                  executor->closed ? "shut down, " : "", (int)stats.threads,
                  settings->kind->flat ? "processes" : "threads",
                  (int)(stats.running + stats.blocked), (int)stats.queued);
  return 1;
}

void concur_pool_class_define(lua_State *L, concur_runtime *runtime, concur_class class,
                              const char *name) {
  static const luaL_Reg methods[] = {{"submit", l_submit}, {"try_submit", l_try_submit},
                                     {"run", l_run},       {"options", l_options},
                                     {"stats", l_stats},   {NULL, NULL}};
  static const luaL_Reg metamethods[] = {{"__close", l_pool_mt_close},
                                         {"__gc", l_pool_gc},
                                         {"__tostring", l_pool_tostring},
                                         {NULL, NULL}};
  concur_class_define(L, runtime, class, name, methods, metamethods);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[class]);
  lua_getfield(L, -1, "__index");
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_pool_find_method);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
  lua_pop(L, 2);
}
