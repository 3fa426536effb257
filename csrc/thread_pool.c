/* SPDX-License-Identifier: MIT */
/*
 * concur.ThreadPoolExecutor: a pool whose threads have a Lua state each (worker.c), and what scripts
 * in those states can ask for.                                                      [loop thread]
 */
#include "thread_pool.h"

#include "channel_class.h"
#include "interrupt.h"
#include "options.h"
#include "platform.h"
#include "transfer.h"
#include "worker.h"

enum {
  DEFAULT_WORKERS_BEYOND_CORES = 4,
  DEFAULT_WORKERS_MOST = 32,
  MOST_WORKERS = 4096,
  THREADS_BEYOND_WORKERS = 128 /* for jobs that wait for jobs */
};

static const concur_call_kind thread_calls = {
    .run = concur_worker_run,
    .cancel = concur_worker_on_cancel,
    .drop_cancel = concur_worker_drop_cancel,
    .interrupt = concur_interrupt_call,
    .interrupt_pool = concur_interrupt_pool,
    .trace = concur_interrupt_trace,
};

static uint32_t default_workers(void) {
  uint32_t workers = concur_platform_cpu_count() + DEFAULT_WORKERS_BEYOND_CORES;
  return workers < DEFAULT_WORKERS_MOST ? workers : DEFAULT_WORKERS_MOST;
}

static concur_pool_settings pool_limits(uint32_t workers) {
  concur_pool_settings limits = {.workers = workers,
                                 .thread_cap = workers + THREADS_BEYOND_WORKERS,
                                 .cores = concur_platform_cpu_count(),
                                 .idle_ns = CONCUR_NEVER};
  return limits;
}

void concur_thread_pool_open_view(lua_State *L, concur_runtime *runtime, concur_pool_view *view,
                                  const char *name) {
  concur_pool_settings limits = pool_limits(default_workers());
  concur_pool_view_open(L, runtime, view, &thread_calls, &limits, name);
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
  concur_pool_check_options(L, names);
  uint32_t workers = concur_option_count(L, 1, "workers", 1, default_workers());
  luaL_argcheck(L, workers <= MOST_WORKERS, 1, "too many workers (4096 at most)");
  concur_pool_settings limits = pool_limits(workers);
  limits.queue_size = concur_option_count(L, 1, "queue_size", 1, 0);
  limits.idle_ns = concur_option_duration(L, 1, "idle", CONCUR_NEVER);
  bool named = concur_option_value(L, 1, "name", LUA_TSTRING);
  concur_pool_view *view = concur_pool_view_new(L, runtime, CONCUR_CLASS_POOL);
  concur_pool_view_open(L, runtime, view, &thread_calls, &limits,
                        named ? lua_tostring(L, 2) : "ThreadPoolExecutor");
  concur_pool_read_worker_options(L, view->executor->settings);
  return 1;
}

/* ---- in workers, and everywhere ---- */

/*@lua
---Returns how many processors this process may use; affinity and cgroup limits count.
---@return integer
function concur.cpu_count() end
*/
static int l_cpu_count(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_platform_cpu_count());
  return 1;
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

/* core.at_job_end(fn): in a worker, calls fn at the end of each job. */
static int l_at_job_end(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_argcheck(L, runtime->worker != NULL, 1, "there are jobs only in workers");
  lua_settop(L, 1);
  concur_worker_at_end(L, runtime->worker);
  return 0;
}

void concur_executor_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg functions[] = {{"ThreadPoolExecutor", l_thread_pool},
                                       {"cpu_count", l_cpu_count},
                                       {"cancelled", l_cancelled},
                                       {"at_job_end", l_at_job_end},
                                       {NULL, NULL}};
  concur_register(L, runtime, functions);
  lua_pushstring(L, concur_interrupt_kind);
  lua_setfield(L, -2, "interrupts");
  concur_default_pool_open(L, runtime);
  concur_pool_shutdown_open(L, runtime);
  concur_pool_class_define(L, runtime, CONCUR_CLASS_POOL, "concur.ThreadPoolExecutor");
  concur_channel_open(L, runtime);
}
