/* SPDX-License-Identifier: MIT */
/* See future.h. */
#include "future.h"

#include <stdlib.h>

#include "report.h"

/* The error of a failed future.  User values: 1 error, 2 first traceback or nil, 3 what failed.
   A weak table knows all of them by address: no list, because Lua frees an object without running
   its finalizer when that cannot be called (at the limit of nested C calls). */
typedef struct sentinel {
  uint64_t sequence; /* order of the failures */
  bool unretrieved;
} sentinel;

static char sentinels_key; /* registry: weak table address -> sentinel */

enum { SENTINEL_ERROR = 1, SENTINEL_TRACEBACK = 2, SENTINEL_NAME = 3 };

static const char *const state_names[] = {"pending", "running", "done", "failed", "cancelled"};

const char *concur_future_state_name(const concur_future *future) {
  return state_names[future->state];
}

void concur_future_init(concur_future *future, const concur_future_ops *ops) {
  concur_list_init(&future->waiters);
  future->ops = ops;
  future->count = 0;
  future->state = CONCUR_PENDING;
  future->cancel_requested = false;
  future->retrieved = false;
}

concur_future *concur_future_test(lua_State *L, int index) {
  void *object = lua_touserdata(L, index);
  const char *tag = concur_class_tag_of(L, index, object);
  bool is_future = tag >= &concur_class_tags[CONCUR_CLASS_FUTURE] &&
                   tag <= &concur_class_tags[CONCUR_CLASS_JOB_FUTURE];
  return is_future ? object : NULL;
}

concur_future *concur_future_check(lua_State *L, int index) {
  concur_future *future = concur_future_test(L, index);
  if (future == NULL) luaL_typeerror(L, index, "future or task");
  return future;
}

/* ---- settling ---- */

void concur_future_settle(concur_future *future, concur_future_state state) {
  future->state = (uint8_t)state;
  concur_node *node;
  while ((node = concur_list_pop(&future->waiters)) != NULL) {
    concur_waiter *waiter = concur_container_of(node, concur_waiter, node);
    waiter->notify(waiter, future);
  }
}

bool concur_future_set_results(lua_State *L, int index, concur_future *future, int count) {
  if (count > 1) {
    int first = lua_gettop(L) - count + 1;
    lua_createtable(L, count, 0);
    lua_insert(L, first);
    for (int i = count; i > 0; i--) lua_rawseti(L, first, i);
  }
  if (concur_future_settled(future)) {
    if (count > 0) lua_pop(L, 1);
    return false;
  }
  if (count > 0) lua_setiuservalue(L, index, 1);
  future->count = count;
  concur_future_settle(future, CONCUR_DONE);
  return true;
}

/* Pushes a sentinel for the error at `error`. */
static sentinel *push_sentinel(lua_State *L, concur_runtime *runtime, int index,
                               const concur_future *future, int error, int traceback) {
  sentinel *mark =
      concur_class_new(L, runtime, CONCUR_CLASS_SENTINEL, sizeof *mark, SENTINEL_NAME);
  if (future->ops->push_name != NULL) {
    future->ops->push_name(L, index, future);
  } else {
    lua_pushliteral(L, "future");
  }
  lua_setiuservalue(L, -2, SENTINEL_NAME);
  if (traceback != 0) {
    lua_pushvalue(L, traceback);
    lua_setiuservalue(L, -2, SENTINEL_TRACEBACK);
  }
  lua_pushvalue(L, error);
  lua_setiuservalue(L, -2, SENTINEL_ERROR);
  return mark;
}

bool concur_future_set_error(lua_State *L, concur_runtime *runtime, int index,
                             concur_future *future, int traceback_index) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 6, NULL);
  int error = lua_gettop(L);
  sentinel *mark = push_sentinel(L, runtime, index, future, error, traceback_index);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &sentinels_key);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, mark);
  lua_pop(L, 1);
  bool pending = !concur_future_settled(future);
  if (pending) {
    mark->sequence = ++runtime->failures;
    mark->unretrieved = !future->retrieved;
    lua_setiuservalue(L, index, 1);
    concur_future_settle(future, CONCUR_FAILED);
  }
  lua_settop(L, error - 1);
  return pending;
}

void concur_future_set_cancelled(lua_State *L, int index, concur_future *future) {
  lua_setiuservalue(L, index, 1);
  concur_future_settle(future, CONCUR_CANCELLED);
}

/* ---- looking at the outcome ---- */

static void push_future_cancelled(lua_State *L, concur_runtime *runtime, int index) {
  index = lua_absindex(L, index);
  lua_getiuservalue(L, index, 1);
  if (lua_type(L, -1) == LUA_TSTRING) { /* no `__tostring` here: it could raise */
    concur_error_new(L, runtime, "FutureCancelled", "the future was cancelled: %s",
                     lua_tostring(L, -1));
  } else {
    concur_error_new(L, runtime, "FutureCancelled", "the future was cancelled");
  }
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "reason");
  lua_remove(L, -2);
}

void concur_future_push_error(lua_State *L, concur_runtime *runtime, int index,
                              concur_future *future) {
  index = lua_absindex(L, index);
  luaL_checkstack(L, 6, NULL);
  if (future->state == CONCUR_CANCELLED) {
    push_future_cancelled(L, runtime, index);
    lua_pushnil(L);
    return;
  }
  future->retrieved = true;
  lua_getiuservalue(L, index, 1);
  sentinel *mark = concur_class_test(L, -1, CONCUR_CLASS_SENTINEL);
  if (mark == NULL) { /* failed for want of memory: there was none for a sentinel either */
    lua_pop(L, 1);
    lua_pushliteral(L, "not enough memory");
    lua_pushnil(L);
    return;
  }
  mark->unretrieved = false;
  lua_getiuservalue(L, -1, SENTINEL_ERROR);
  lua_getiuservalue(L, -2, SENTINEL_TRACEBACK);
  lua_remove(L, -3);
}

void concur_future_push_traceback(lua_State *L, int index) {
  lua_getiuservalue(L, index, 1);
  if (concur_class_test(L, -1, CONCUR_CLASS_SENTINEL) != NULL) {
    lua_getiuservalue(L, -1, SENTINEL_TRACEBACK);
  } else {
    lua_pushnil(L);
  }
  lua_remove(L, -2);
}

int concur_future_push_outcome(lua_State *L, concur_runtime *runtime, int index,
                               concur_future *future) {
  if (future->state != CONCUR_DONE) {
    concur_future_push_error(L, runtime, index, future);
    return -1;
  }
  if (future->count == 0) return 0;
  lua_getiuservalue(L, index, 1);
  if (future->count == 1) return 1;
  int table = lua_gettop(L);
  luaL_checkstack(L, future->count, "too many results");
  for (int i = 1; i <= future->count; i++) lua_rawgeti(L, table, i);
  lua_remove(L, table);
  return future->count;
}

/* ---- errors that nobody retrieved ---- */

/* Reports the error of the sentinel at `index`. */
static void sentinel_report(lua_State *L, concur_runtime *runtime, int index, sentinel *mark) {
  index = lua_absindex(L, index);
  mark->unretrieved = false; /* first: what follows may raise */
  luaL_checkstack(L, 8, NULL);
  lua_getiuservalue(L, index, SENTINEL_ERROR);
  lua_getiuservalue(L, index, SENTINEL_TRACEBACK);
  lua_getiuservalue(L, index, SENTINEL_NAME);
  const char *name = lua_tostring(L, -1);
  const char *what = lua_pushfstring(L, "the error of %s was never retrieved", name);
  concur_report(L, runtime, -4, -3, what);
  lua_pop(L, 4);
}

static int l_sentinel_gc(lua_State *L) {
  sentinel *mark = concur_class_test(L, 1, CONCUR_CLASS_SENTINEL);
  if (mark == NULL || !mark->unretrieved) return 0;
  concur_runtime *runtime = concur_runtime_of(L);
  sentinel_report(L, runtime, 1, mark);
  /* At lua_close the loop may be gone already, and will not come back. */
  if (runtime->closed) concur_report_flush_to_stderr(L, runtime);
  return 0;
}

static int compare_sequences(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a;
  uint64_t y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

/* Argument: light userdata runtime.  What is being finalized is not in the table any more: its
   finalizer reports it. */
static int l_report_unretrieved(lua_State *L) {
  concur_runtime *runtime = lua_touserdata(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &sentinels_key); /* 2 */
  lua_newtable(L);                                   /* 3: sequence -> sentinel, which it keeps */
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, 2) != 0; lua_pop(L, 1)) {
    const sentinel *mark = lua_touserdata(L, -1);
    if (!mark->unretrieved) continue;
    lua_pushvalue(L, -1);
    lua_rawseti(L, 3, (lua_Integer)mark->sequence);
    count++;
  }
  uint64_t *order = lua_newuserdatauv(L, count * sizeof *order + 1, 0);
  size_t filled = 0;
  for (lua_pushnil(L); lua_next(L, 3) != 0; lua_pop(L, 1)) {
    order[filled++] = (uint64_t)lua_tointeger(L, -2);
  }
  qsort(order, filled, sizeof *order, compare_sequences);
  for (size_t i = 0; i < filled; i++) {
    lua_rawgeti(L, 3, (lua_Integer)order[i]);
    sentinel *mark = lua_touserdata(L, -1);
    if (mark->unretrieved) sentinel_report(L, runtime, -1, mark);
    lua_pop(L, 1);
  }
  return 0;
}

void concur_future_report_unretrieved(lua_State *L, concur_runtime *runtime) {
  if (runtime->failures == runtime->failures_reported) return;
  runtime->failures_reported = runtime->failures;
  lua_pushcfunction(L, l_report_unretrieved);
  lua_pushlightuserdata(L, runtime);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
}

void concur_future_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg metamethods[] = {{"__gc", l_sentinel_gc}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_SENTINEL, "concur.Sentinel", NULL, metamethods);
  lua_newtable(L); /* weak: address of a sentinel -> the sentinel */
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &sentinels_key);
}
