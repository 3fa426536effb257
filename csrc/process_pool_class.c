/* SPDX-License-Identifier: MIT */
/*
 * concur.ProcessPoolExecutor: a pool whose jobs run in child processes.  Its methods are those of all
 * pools (pool_class.c); here are its options, and the functions that lua/concur/process_worker.lua
 * needs to find out how a worker is started.                                        [loop thread]
 */
#include "process_pool_class.h"

#include <stdlib.h>
#include <string.h>

#include "environment.h"
#include "options.h"
#include "platform.h"
#include "pool_class.h"
#include "process_pool.h"
#include "process_worker.h"
#include "transfer.h"

enum { MOST_WORKERS = 1024, MOST_CRASHES = 10 };

#define DEFAULT_GRACE_NS UINT64_C(1000000000)
#define DEFAULT_START_NS UINT64_C(30000000000)

static void free_command(void *command) {
  concur_process_command_free(command);
}

static const concur_call_kind process_calls = {
    .interrupt = concur_process_pool_interrupt,
    .interrupt_pool = concur_process_pool_interrupt_all,
    .trace = concur_process_pool_trace,
    .refresh = concur_process_pool_refresh,
    .crashes = concur_process_pool_crashes,
    .free_extra = free_command,
    .flat = true,
};

/* ---- options ---- */

/* Pushes the list of words that starts a worker, as lua/concur/process_worker.lua makes it from the
   option `command`. */
static void push_command(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "concur.process_worker");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "command");
  lua_getfield(L, 1, "command");
  lua_call(L, 1, 2);
  if (lua_isnil(L, -2)) luaL_argerror(L, 1, lua_tostring(L, -1));
  lua_pop(L, 1);
  lua_remove(L, -2);
}

/* Copies the list of words on top of the stack (popped) into the command; false: out of memory. */
static bool copy_words(lua_State *L, concur_process_command *command) {
  size_t count = (size_t)lua_rawlen(L, -1);
  command->args = calloc(count + 1, sizeof *command->args);
  if (command->args == NULL) return false;
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    const char *word = lua_tostring(L, -1);
    command->args[i] = word != NULL ? strdup(word) : NULL;
    concur_taken(command->args[i]); /* by the command */
    lua_pop(L, 1);
    if (command->args[i] == NULL) return false;
  }
  lua_pop(L, 1);
  return true;
}

static concur_child_stderr read_stderr(lua_State *L) {
  static const char *const names[] = {"inherit", "tee", "discard", NULL};
  int chosen = 0;
  if (concur_option_value(L, 1, "stderr", LUA_TSTRING)) {
    const char *name = lua_tostring(L, -1);
    while (names[chosen] != NULL && strcmp(names[chosen], name) != 0) chosen++;
    if (names[chosen] == NULL) {
      luaL_argerror(L, 1, "option 'stderr' must be \"inherit\", \"tee\" or \"discard\"");
    }
  }
  lua_pop(L, 1);
  return (concur_child_stderr)chosen;
}

/* Fills in what concerns the workers' processes.  What it raises on leaves to the settings what there
   is to free. */
static void read_command(lua_State *L, concur_worker_settings *settings) {
  concur_process_command *command = calloc(1, sizeof *command);
  if (command == NULL) luaL_error(L, "not enough memory");
  settings->extra = command;
  command->limit = concur_transfer_limit(L);
  command->stderr_mode = read_stderr(L);
  command->grace_ns = concur_option_duration(L, 1, "grace", DEFAULT_GRACE_NS);
  command->start_ns = concur_option_duration(L, 1, "start_timeout", DEFAULT_START_NS);
  command->most_crashes = concur_option_count(L, 1, "max_crashes", 1, MOST_CRASHES);
  push_command(L);
  if (!copy_words(L, command)) luaL_error(L, "not enough memory");
}

/* ---- the constructor ---- */

/*@lua
---An executor whose jobs run in child processes: Lua interpreters that this one starts.
---@class concur.ProcessPoolExecutor: concur.ThreadPoolExecutor
local ProcessPoolExecutor = {}

---Returns what the pool is doing: numbers of `processes`, of those that are `idle` or `running` a job;
---of jobs `queued`, `submitted`, `completed`, `cancelled` before they ran; of `processes_started` so far,
---and of `crashes` among them.
---@return {processes: integer, idle: integer, running: integer, queued: integer, submitted: integer, completed: integer, cancelled: integer, processes_started: integer, crashes: integer}
function ProcessPoolExecutor:stats() end

---Makes a pool of processes.  None is started before the first job.  Its methods are those of a pool
---of threads.  A job that ends its process (a crash in C, `os.exit`, a signal) fails with
---`WorkerCrashed`; no other job is harmed, and the process is replaced.
---
---Options: `workers` jobs run at the same time (default: `concur.cpu_count()`); `init`, a function that
---each worker runs first; `queue_size`, how many jobs may wait, so that `submit` waits when there are
---more; `max_jobs`, after which a worker is replaced by a new one; `max_memory` in bytes of one
---worker's Lua state, beyond which its job fails; `idle`, seconds after which a worker without a job
---ends; `name`; `grace`, seconds from TERM to KILL for a worker that is ended (1); `max_crashes` in a
---row, without a finished job between them, after which the pool gives up with `BrokenExecutor` (10);
---`start_timeout`, seconds that a process has for making itself known to the pool (30);
---`stderr`: `"inherit"` (default), `"tee"` (the same, and its end becomes `WorkerCrashed.stderr`) or
---`"discard"`; `command`: the path of a Lua interpreter, or a list of words that starts a program which
---calls `require("concur.process_worker").run()`.  Without it the interpreter that runs this program
---is used.
---@param options? integer|{workers?: integer, init?: function, queue_size?: integer, max_jobs?: integer, max_memory?: number, idle?: number, name?: string, grace?: number, max_crashes?: integer, start_timeout?: number, stderr?: string, command?: string|string[]} a number is the number of workers
---@return concur.ProcessPoolExecutor
function concur.ProcessPoolExecutor(options) end
*/
static int l_process_pool(lua_State *L) {
  static const char *const names[] = {"workers", "init",  "queue_size",  "max_jobs",
                                      "idle",    "name",  "max_memory",  "command",
                                      "stderr",  "grace", "max_crashes", "start_timeout", NULL};
  concur_runtime *runtime = concur_runtime_of(L);
  concur_runtime_check(L, runtime);
  concur_pool_check_options(L, names);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  uint32_t workers = concur_option_count(L, 1, "workers", 1, concur_platform_cpu_count());
  luaL_argcheck(L, workers <= MOST_WORKERS, 1, "too many workers (1024 at most)");
  concur_pool_settings limits = {.workers = workers,
                                 .thread_cap = UINT32_MAX,
                                 .queue_size = concur_option_count(L, 1, "queue_size", 1, 0),
                                 .host = &concur_process_pool_host};
  uint64_t idle_ns = concur_option_duration(L, 1, "idle", CONCUR_NEVER);
  bool named = concur_option_value(L, 1, "name", LUA_TSTRING);
  concur_pool_view *view = concur_pool_view_new(L, runtime, CONCUR_CLASS_PROCESS_POOL);
  concur_pool_view_open(L, runtime, view, &process_calls, &limits,
                        named ? lua_tostring(L, 2) : "ProcessPoolExecutor");
  concur_executor *executor = view->executor;
  read_command(L, executor->settings);
  concur_pool_read_worker_options(L, executor->settings);
  if (concur_process_pool_new(loop, executor->pool, executor->settings, idle_ns,
                              limits.queue_size != 0) == NULL) {
    luaL_error(L, "not enough memory");
  }
  return 1;
}

/* ---- for lua/concur/process_worker.lua ---- */

/* core.location() -> the file that this module was loaded from, or nil */
static int l_location(lua_State *L) {
  lua_pushstring(L, concur_platform_module_path());
  return 1;
}

/* core.interpreter() -> the Lua interpreter that runs this program, or nil */
static int l_interpreter(lua_State *L) {
  concur_environment_push_interpreter(L);
  return 1;
}

void concur_process_pool_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg functions[] = {{"ProcessPoolExecutor", l_process_pool},
                                       {"process_worker", concur_process_worker},
                                       {"location", l_location},
                                       {"interpreter", l_interpreter},
                                       {NULL, NULL}};
  concur_register(L, runtime, functions);
  concur_pool_class_define(L, runtime, CONCUR_CLASS_PROCESS_POOL, "concur.ProcessPoolExecutor");
}
