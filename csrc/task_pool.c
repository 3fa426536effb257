/* SPDX-License-Identifier: MIT */
/*
 * See task_pool.h.
 *
 * How many coroutines are kept: making one costs ten times as much as using it again, and a burst
 * of tasks seldom comes alone; but each takes about a kilobyte, and what a burst needed must not be
 * held for good.  So as many stay as were in use at once in the last second; of what is above that,
 * half goes each second, a few at the end of each task.  A loop that runs no tasks gives nothing
 * back.
 */
#include "task_pool.h"

#include <string.h>

enum {
  BODIES_PER_CHUNK = 64,
  CACHE_LINE = 64, /* bodies are multiples of it */
  FIRST_CAPACITY = 64,
  ALWAYS_KEPT = 1024, /* coroutines */
  DROPPED_AT_ONCE = 64
};

#define PERIOD_NS UINT64_C(1000000000)

struct concur_task_pool {
  concur_body *idle_bodies; /* linked by `next_idle` */
  /* Coroutines. */
  concur_coroutine *idle; /* anchored array with room for all there are */
  int idle_slot;          /* anchors it */
  uint32_t idle_count;
  uint32_t capacity;
  uint32_t total;       /* idle or in use */
  uint32_t most_used;   /* at once, in this period */
  uint32_t limit;       /* of `total`, from the periods before */
  uint64_t period_began; /* on the loop's clock */
};

void concur_task_pool_open(lua_State *L, concur_runtime *runtime) {
  struct concur_task_pool *pool = lua_newuserdatauv(L, sizeof *pool, 0);
  memset(pool, 0, sizeof *pool);
  pool->limit = ALWAYS_KEPT;
  (void)concur_anchor(L, runtime);
  runtime->scheduler->pool = pool;
}

/* ---- bodies ---- */

static void add_bodies(lua_State *L, concur_scheduler *scheduler) {
  struct concur_task_pool *pool = scheduler->pool;
  size_t size = BODIES_PER_CHUNK * sizeof(concur_body) + CACHE_LINE;
  char *memory = lua_newuserdatauv(L, size, 0);
  memset(memory, 0, size);
  concur_body *chunk = (void *)(memory + CACHE_LINE - (uintptr_t)memory % CACHE_LINE);
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

/* Makes room in the array for one more than there are. */
static void reserve_idle(lua_State *L, concur_runtime *runtime, struct concur_task_pool *pool) {
  if (pool->total < pool->capacity) return;
  uint32_t capacity = pool->capacity == 0 ? FIRST_CAPACITY : pool->capacity * 2;
  concur_coroutine *idle = lua_newuserdatauv(L, capacity * sizeof *idle, 0);
  int slot = concur_anchor(L, runtime);
  if (pool->capacity > 0) {
    memcpy(idle, pool->idle, pool->idle_count * sizeof *idle);
    concur_anchor_release(L, runtime, pool->idle_slot);
  }
  pool->idle = idle;
  pool->idle_slot = slot;
  pool->capacity = capacity;
}

/* Argument: light userdata concur_coroutine. */
static int l_make(lua_State *L) {
  concur_coroutine *fresh = lua_touserdata(L, 1);
  concur_runtime *runtime = concur_runtime_find(L);
  reserve_idle(L, runtime, runtime->scheduler->pool);
  lua_State *co = lua_newthread(L);
  fresh->slot = concur_anchor(L, runtime);
  fresh->co = co;
  return 0;
}

static concur_coroutine coroutine_make(lua_State *L, struct concur_task_pool *pool) {
  concur_coroutine fresh = {NULL, 0};
  lua_pushcfunction(L, l_make);
  lua_pushlightuserdata(L, &fresh);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) {
    pool->total++;
  } else {
    lua_pop(L, 1);
  }
  return fresh;
}

concur_coroutine concur_coroutine_take(lua_State *L, concur_scheduler *scheduler) {
  struct concur_task_pool *pool = scheduler->pool;
  concur_coroutine taken =
      pool->idle_count > 0 ? pool->idle[--pool->idle_count] : coroutine_make(L, pool);
  uint32_t used = pool->total - pool->idle_count;
  if (used > pool->most_used) pool->most_used = used;
  return taken;
}

void concur_coroutine_drop(lua_State *L, concur_scheduler *scheduler, int slot) {
  concur_anchor_release(L, scheduler->runtime, slot);
  scheduler->pool->total--;
}

static void begin_period(struct concur_task_pool *pool, uint64_t now) {
  pool->limit /= 2;
  if (pool->limit < pool->most_used) pool->limit = pool->most_used;
  if (pool->limit < ALWAYS_KEPT) pool->limit = ALWAYS_KEPT;
  pool->most_used = pool->total - pool->idle_count;
  pool->period_began = now;
}

/* Drops idle coroutines that there were no use for lately. */
static void drop_idle(lua_State *L, concur_scheduler *scheduler, struct concur_task_pool *pool) {
  for (int i = 0; i < DROPPED_AT_ONCE; i++) {
    if (pool->idle_count == 0 || pool->total <= pool->limit || pool->total <= pool->most_used) {
      return;
    }
    concur_coroutine_drop(L, scheduler, pool->idle[--pool->idle_count].slot);
  }
}

void concur_coroutine_give_back(lua_State *L, concur_scheduler *scheduler,
                                concur_coroutine coroutine) {
  struct concur_task_pool *pool = scheduler->pool;
  const concur_loop *loop = scheduler->loop;
  uint64_t now = loop->is_virtual ? loop->virtual_ns : loop->polled_ns;
  pool->idle[pool->idle_count++] = coroutine; /* there is room for all that were made */
  if (now - pool->period_began >= PERIOD_NS) begin_period(pool, now); /* also when it went back */
  if (pool->total > pool->limit) drop_idle(L, scheduler, pool);
}

uint32_t concur_coroutines_idle(const concur_scheduler *scheduler) {
  return scheduler->pool->idle_count;
}
