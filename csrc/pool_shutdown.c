/* SPDX-License-Identifier: MIT */
/*
 * Shutting a pool down, and looking at what still runs: the parts that lua/concur/executor.lua puts
 * together.                                                                         [loop thread]
 */
#include "pool_class.h"
#include "pool_wait.h"

/* core.pool_close(pool, drop): accepts nothing any more; with `drop` the queued jobs are cancelled.
   False in a child of fork, where the pool, and whoever holds its lock, is the parent's. */
static int l_pool_close(lua_State *L) {
  concur_pool_view *view = concur_pool_view_check(L, 1);
  concur_executor *executor = view->executor;
  bool forked = concur_runtime_forked(concur_runtime_of(L));
  executor->closed = true;
  lua_pushboolean(L, !forked);
  if (forked || executor->owner == NULL) return 1;
  concur_executor_publish(executor);
  concur_pool_close(executor->pool, lua_toboolean(L, 2));
  return 1;
}

/* core.pool_stop(pool, by_force): asks the running jobs to stop. */
static int l_pool_stop(lua_State *L) {
  concur_pool_view *view = concur_pool_view_check(L, 1);
  concur_executor *executor = view->executor;
  concur_pool_cancel_running(executor->pool);
  if (lua_toboolean(L, 2)) executor->settings->kind->interrupt_pool(executor->pool);
  return 0;
}

/* A pool of processes can be without one for a moment, although there is something to do. */
static bool has_ended(const concur_executor *executor, const concur_pool_stats *stats) {
  bool waits = executor->settings->kind->flat && stats->queued > 0;
  return stats->threads == 0 && !waits;
}

/* Stack: view, ...  Returns true when all threads have ended and were joined. */
static int join_ended(lua_State *L, concur_fiber *fiber) {
  concur_executor *executor = concur_pool_view_check(L, 1)->executor;
  concur_pool_stats stats;
  concur_pool_get_stats(executor->pool, &stats);
  bool ended = has_ended(executor, &stats);
  if (ended) {
    concur_pool_reap(executor->pool);
    /* All replies have been posted: what the jobs left is cleared away now. */
    concur_executor_collect(L, fiber->scheduler->runtime);
  }
  lua_pushboolean(L, ended);
  return 1;
}

static int join_body(lua_State *L, concur_fiber *fiber) {
  concur_executor *executor = concur_pool_view_check(L, 1)->executor;
  concur_pool_stats stats;
  concur_pool_get_stats(executor->pool, &stats);
  if (has_ended(executor, &stats) || executor->owner == NULL) return join_ended(L, fiber);
  uint64_t timeout_ns = lua_isnil(L, 2) ? CONCUR_NEVER : concur_check_duration(L, 2);
  return concur_pool_wait_end(L, fiber, executor, timeout_ns, join_ended);
}

/* core.pool_join(pool, seconds or nil): waits for a closed pool's threads; false when time ran out. */
static int l_pool_join(lua_State *L) {
  (void)concur_pool_view_check(L, 1);
  lua_settop(L, 2);
  return concur_fiber_begin(L, join_body);
}

/* core.pool_running(pool): a list of {name=, seconds=, traceback=} of the jobs that run now. */
static int l_pool_running(lua_State *L) {
  enum { MOST = 32 };
  concur_running running[MOST];
  concur_executor *executor = concur_pool_view_check(L, 1)->executor;
  concur_pool *pool = executor->pool;
  executor->settings->kind->trace(pool);
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
  concur_executor_abandon(concur_pool_view_check(L, 1)->executor);
  return 0;
}

/* core.pool_name(pool) */
static int l_pool_name(lua_State *L) {
  lua_pushstring(L, concur_pool_view_check(L, 1)->executor->settings->name);
  return 1;
}

/* core.pool_workers(pool): how many jobs run at the same time. */
static int l_pool_workers(lua_State *L) {
  lua_pushinteger(L,
                  (lua_Integer)concur_pool_workers(concur_pool_view_check(L, 1)->executor->pool));
  return 1;
}

void concur_pool_shutdown_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg functions[] = {
      {"pool_close", l_pool_close},     {"pool_stop", l_pool_stop},
      {"pool_join", l_pool_join},       {"pool_running", l_pool_running},
      {"pool_abandon", l_pool_abandon}, {"pool_name", l_pool_name},
      {"pool_workers", l_pool_workers}, {NULL, NULL}};
  concur_register(L, runtime, functions);
}
