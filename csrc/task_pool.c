/* SPDX-License-Identifier: MIT */
/* See task_pool.h. */
#include "task_pool.h"

#include <string.h>

enum { IDLE_COROUTINES = 1024, BODIES_PER_CHUNK = 64 };

struct concur_task_pool {
  concur_body *idle_bodies; /* linked by `next_idle` */
  int count;
  concur_coroutine idle[IDLE_COROUTINES];
};

void concur_task_pool_open(lua_State *L, concur_runtime *runtime) {
  struct concur_task_pool *pool = lua_newuserdatauv(L, sizeof *pool, 0);
  pool->idle_bodies = NULL;
  pool->count = 0;
  (void)concur_anchor(L, runtime);
  runtime->scheduler->pool = pool;
}

/* ---- bodies ---- */

static void add_bodies(lua_State *L, concur_scheduler *scheduler) {
  struct concur_task_pool *pool = scheduler->pool;
  concur_body *chunk = lua_newuserdatauv(L, BODIES_PER_CHUNK * sizeof *chunk, 0);
  memset(chunk, 0, BODIES_PER_CHUNK * sizeof *chunk);
  (void)concur_anchor(L, scheduler->runtime);
  for (int i = BODIES_PER_CHUNK - 1; i >= 0; i--) {
    lua_pushboolean(L, 0);
    chunk[i].slot = concur_anchor(L, scheduler->runtime); /* raising: the rest stays unused */
    chunk[i].next_idle = pool->idle_bodies;
    pool->idle_bodies = &chunk[i];
  }
}

concur_body *concur_body_peek(lua_State *L, concur_scheduler *scheduler) {
  while (scheduler->pool->idle_bodies == NULL) add_bodies(L, scheduler);
  return scheduler->pool->idle_bodies;
}

void concur_body_take(concur_scheduler *scheduler, concur_body *body) {
  scheduler->pool->idle_bodies = body->next_idle;
}

void concur_body_give_back(concur_scheduler *scheduler, concur_body *body) {
  body->next_idle = scheduler->pool->idle_bodies;
  scheduler->pool->idle_bodies = body;
}

/* ---- coroutines ---- */

/* Argument: light userdata concur_coroutine. */
static int l_make(lua_State *L) {
  concur_coroutine *fresh = lua_touserdata(L, 1);
  lua_State *co = lua_newthread(L);
  fresh->slot = concur_anchor(L, concur_runtime_find(L));
  fresh->co = co;
  return 0;
}

concur_coroutine concur_coroutine_take(lua_State *L, concur_scheduler *scheduler) {
  struct concur_task_pool *pool = scheduler->pool;
  if (pool->count > 0) return pool->idle[--pool->count];
  concur_coroutine fresh = {NULL, 0};
  lua_pushcfunction(L, l_make);
  lua_pushlightuserdata(L, &fresh);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    fresh.co = NULL;
  }
  return fresh;
}

void concur_coroutine_give_back(lua_State *L, concur_scheduler *scheduler,
                                concur_coroutine coroutine) {
  struct concur_task_pool *pool = scheduler->pool;
  if (pool->count < IDLE_COROUTINES) {
    pool->idle[pool->count++] = coroutine;
  } else {
    concur_anchor_release(L, scheduler->runtime, coroutine.slot);
  }
}
