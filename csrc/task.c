/* SPDX-License-Identifier: MIT */
/*
 * See task.h.  Parts: the coroutine pool; spawn; the body of every task; the step; ends that are
 * out of order (bare yield, tampering, kill, close).
 *
 * The step runs on the loop's state and never raises.  What may raise for want of memory (packing
 * results, making a sentinel) happens inside the task's own coroutine; if it does, the coroutine
 * dies and the step settles the task without needing memory.
 */
#include "group.h"
#include "task.h"

#include <string.h>

#include "report.h"

#define CONCUR_BARE_YIELD_TEXT                                                     \
  "a task called coroutine.yield: nobody would resume it (to let others run, use " \
  "concur.checkpoint; for a generator, concur.wrap)"
#define CONCUR_TAMPERED_TEXT "the task's coroutine was closed or resumed from outside"

/* ---- coroutines ---- */

enum { IDLE_LIMIT = 1024 };

typedef struct coroutine {
  lua_State *co;
  int co_slot; /* anchors the coroutine */
  int slot;    /* anchors its task while it has one */
} coroutine;

struct concur_coroutine_pool {
  int count;
  coroutine idle[IDLE_LIMIT];
};

/* Makes sure that one idle coroutine is there; raises. */
static coroutine *pool_reserve(lua_State *L, concur_scheduler *scheduler) {
  struct concur_coroutine_pool *pool = scheduler->coroutines;
  if (pool->count == 0) {
    coroutine fresh;
    lua_pushboolean(L, 0);
    fresh.slot = concur_anchor(L, scheduler->runtime);
    fresh.co = lua_newthread(L);
    fresh.co_slot = concur_anchor(L, scheduler->runtime);
    pool->idle[pool->count++] = fresh;
  }
  return &pool->idle[pool->count - 1];
}

/* Gives a coroutine back that ended in order: its stack is empty. */
static void pool_give_back(lua_State *L, concur_scheduler *scheduler, coroutine used) {
  struct concur_coroutine_pool *pool = scheduler->coroutines;
  if (pool->count < IDLE_LIMIT) {
    pool->idle[pool->count++] = used;
  } else {
    concur_anchor_release(L, scheduler->runtime, used.co_slot);
    concur_anchor_release(L, scheduler->runtime, used.slot);
  }
}

/* ---- spawn ---- */

static void task_run(concur_loop *loop, concur_ready *ready);
static int task_main(lua_State *co);

static void task_init(concur_task *task, concur_scheduler *scheduler, concur_scope *parent,
                      concur_group *group) {
  concur_future_init(&task->future, &concur_task_ops);
  concur_fiber *fiber = &task->fiber;
  fiber->ready.run = task_run;
  fiber->waiter.notify = concur_fiber_notify;
  fiber->waiter.exchange = &concur_fiber_exchange;
  concur_list_init(&fiber->held);
  fiber->scheduler = scheduler;
  fiber->is_task = true;
  concur_timer_init(&fiber->timer);
  concur_scope_init_own(scheduler, &task->own, fiber, parent);
  fiber->scope = &task->own;
  task->group = group;
  task->id = ++scheduler->next_task_id;
  if (scheduler->teardown) concur_scope_cancel(scheduler, &task->own);
}

/* The new task (on top) shares the context variables of whoever spawns it. */
static void inherit_context(lua_State *L, concur_fiber *from, concur_task *task) {
  concur_fiber_push_context(L, from);
  lua_setiuservalue(L, -2, 2);
  task->fiber.has_context = true;
}

concur_task *concur_task_spawn(lua_State *L, concur_runtime *runtime, int count,
                               concur_scope *parent, concur_group *group) {
  concur_scheduler *scheduler = runtime->scheduler;
  concur_loop *loop = concur_scheduler_loop(L, scheduler);
  luaL_checkstack(L, 6, NULL);
  coroutine *taken = pool_reserve(L, scheduler);
  lua_State *co = taken->co;
  if (!lua_checkstack(co, count + 8)) luaL_error(L, "not enough memory");
  concur_task *task = concur_class_new(L, runtime, CONCUR_CLASS_TASK, sizeof *task, 2);
  concur_fiber *current = concur_fiber_current(scheduler);
  if (current->has_context) inherit_context(L, current, task);
  /* From here nothing fails. */
  task_init(task, scheduler, parent, group);
  scheduler->coroutines->count--;
  task->fiber.co = co;
  task->fiber.leaf = co;
  task->co_slot = taken->co_slot;
  task->slot = taken->slot;
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->anchors_ref);
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, task->slot);
  lua_pop(L, 1);
  lua_pushcfunction(co, task_main);
  lua_pushvalue(L, -1);
  lua_xmove(L, co, 1);
  lua_pushcfunction(co, concur_traceback_handler);
  lua_insert(L, -(count + 2)); /* the task below the function: what the caller keeps */
  lua_xmove(L, co, count + 1);
  task->fiber.base = count + 3;
  task->fiber.state = CONCUR_FIBER_READY;
  concur_list_append(&scheduler->tasks, &task->link);
  scheduler->task_count++;
  concur_loop_ready(loop, &task->fiber.ready);
  return task;
}

/* ---- the end of a task ---- */

/* Takes the ended task out of everything.  Allocates nothing, never raises. */
static void task_retire(lua_State *L, concur_task *task) {
  concur_fiber *fiber = &task->fiber;
  concur_scheduler *scheduler = fiber->scheduler;
  fiber->state = CONCUR_FIBER_DEAD;
  concur_fiber_clear_trace(L, fiber);
  concur_scope_drop(L, scheduler, &task->own);
  concur_node_unlink(&task->link);
  scheduler->task_count--;
  lua_rawgeti(L, LUA_REGISTRYINDEX, scheduler->runtime->anchors_ref);
  lua_pushboolean(L, 0);
  lua_rawseti(L, -2, task->slot);
  lua_pop(L, 1);
  if (task->group != NULL) concur_group_child_ended(L, task);
  if (scheduler->task_count == 0 && scheduler->on_last_task != NULL) {
    scheduler->on_last_task(scheduler);
  }
}

/* [in the task's coroutine] The body raised; the error is on top. */
static void task_failed(lua_State *co, concur_task *task) {
  concur_runtime *runtime = task->fiber.scheduler->runtime;
  (void)concur_scope_replace_stale(co, runtime, &task->own);
  uint64_t id = concur_cancelled_id(co, runtime, -1);
  if (id != 0) {
    lua_getfield(co, -1, "reason");
    if (task->group != NULL && id != task->own.id && id != task->group->scope_id) {
      task->group->child_cancelled = true;
    }
    concur_future_set_cancelled(co, 1, &task->future);
    return;
  }
  concur_fiber_push_trace(co, &task->fiber, -1);
  if (task->group != NULL) concur_group_child_failed(co, runtime, task);
  lua_pushvalue(co, -2);
  concur_future_set_error(co, runtime, 1, &task->future, lua_gettop(co) - 1);
}

/* A task that ends must not hold locks: who waits for them gets an error instead of hanging. */
static void abandon_locks(lua_State *L, concur_task *task) {
  if (concur_list_empty(&task->fiber.held)) return;
  task->fiber.scheduler->abandon_locks(L, &task->fiber);
}

/* [in the task's coroutine] */
static int task_end(lua_State *co, int status, lua_KContext context) {
  concur_task *task = (concur_task *)context;
  bool ended = status == LUA_OK || status == LUA_YIELD;
  abandon_locks(co, task);
  if (ended && task->bare_yield) { /* nothing was left to run in which to raise the error */
    concur_error_new(co, task->fiber.scheduler->runtime, "InvalidState", CONCUR_BARE_YIELD_TEXT);
    ended = false;
  }
  if (ended) {
    concur_future_set_results(co, 1, &task->future, lua_gettop(co) - 2);
  } else {
    task_failed(co, task);
  }
  task_retire(co, task);
  return 0;
}

/* [in the task's coroutine] Stack: task, handler, function, arguments. */
static int task_main(lua_State *co) {
  concur_task *task = lua_touserdata(co, 1);
  lua_KContext context = (lua_KContext)task;
  task->started = true;
  int status = lua_pcallk(co, lua_gettop(co) - 3, LUA_MULTRET, 2, context, task_end);
  return task_end(co, status, context);
}

/* ---- ends out of order ---- */

typedef struct broken_end {
  concur_task *task;
  const char *message;
} broken_end;

/* Argument: light userdata broken_end.  Settles the task with an InvalidState. */
static int l_settle_broken(lua_State *L) {
  broken_end *end = lua_touserdata(L, 1);
  concur_task *task = end->task;
  concur_runtime *runtime = task->fiber.scheduler->runtime;
  concur_task_push(L, runtime, task);
  abandon_locks(L, task);
  concur_error_new(L, runtime, "InvalidState", "%s", end->message);
  if (task->group != NULL) {
    lua_pushnil(L);
    concur_group_child_failed(L, runtime, task);
    lua_pop(L, 1);
  }
  concur_future_set_error(L, runtime, 2, &task->future, 0);
  return 0;
}

/* Settles a task whose coroutine is unusable, and drops the coroutine. */
static void task_break(lua_State *L, concur_task *task, const char *message) {
  concur_runtime *runtime = task->fiber.scheduler->runtime;
  broken_end end = {task, message};
  if (task->fiber.scheduler->loop != NULL) {
    concur_loop_stop_timer(task->fiber.scheduler->loop, &task->fiber.timer);
  }
  concur_scope_abandon_all(L, &task->fiber);
  lua_pushcfunction(L, l_settle_broken);
  lua_pushlightuserdata(L, &end);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    if (task->group != NULL) task->group->out_of_memory = true;
    concur_future_settle(&task->future, CONCUR_FAILED);
  }
  bool waiting = task->fiber.outcome == CONCUR_OUTCOME_CANCELLED ||
                 task->fiber.outcome == CONCUR_OUTCOME_TIMEOUT ||
                 task->fiber.state == CONCUR_FIBER_PARKED;
  int co_slot = task->co_slot;
  int slot = task->slot;
  if (waiting) { /* what it waited for may still point to it: the memory must stay (see fiber.h) */
    concur_task_push(L, runtime, task);
    task_retire(L, task);
    lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->anchors_ref);
    lua_insert(L, -2);
    lua_rawseti(L, -2, slot);
    lua_pop(L, 1);
  } else {
    task_retire(L, task);
    concur_anchor_release(L, runtime, slot);
  }
  concur_anchor_release(L, runtime, co_slot);
}

/* Closes the coroutine of a parked task; an error from a `<close>` is reported. */
static void close_coroutine(lua_State *L, concur_runtime *runtime, lua_State *co) {
  int status = lua_resetthread(co);
  if (status == LUA_OK) return;
  lua_xmove(co, L, 1);
  concur_report(L, runtime, -1, 0, "error in a <close> variable of a killed task");
  lua_pop(L, 1);
}

bool concur_task_kill(lua_State *L, concur_task *task) {
  concur_fiber *fiber = &task->fiber;
  concur_scheduler *scheduler = fiber->scheduler;
  concur_runtime *runtime = scheduler->runtime;
  if (fiber->state != CONCUR_FIBER_PARKED) return false;
  if (!concur_fiber_intact(fiber)) {
    task_break(L, task, CONCUR_TAMPERED_TEXT);
    return true;
  }
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (fiber->wait->detach != NULL) {
    fiber->wait->detach(fiber);
  } else {
    concur_node_unlink(&fiber->waiter.node);
  }
  concur_loop_stop_timer(scheduler->loop, &fiber->timer);
  int co_slot = task->co_slot;
  int slot = task->slot;
  lua_State *co = fiber->co;
  concur_task_push(L, runtime, task); /* keeps it while its last code runs */
  fiber->state = CONCUR_FIBER_RUNNING;
  close_coroutine(L, runtime, co);
  concur_scope_abandon_all(L, &task->fiber);
  abandon_locks(L, task);
  lua_pushliteral(L, "killed");
  concur_future_set_cancelled(L, -2, &task->future);
  task_retire(L, task);
  lua_pop(L, 1);
  concur_anchor_release(L, runtime, slot);
  concur_anchor_release(L, runtime, co_slot);
  return true;
}

static int l_kill_all(lua_State *L) {
  concur_scheduler *scheduler = lua_touserdata(L, 1);
  concur_node *node = scheduler->tasks.next;
  while (node != &scheduler->tasks) {
    concur_task *task = concur_container_of(node, concur_task, link);
    node = node->next;
    if (task->fiber.state != CONCUR_FIBER_PARKED) continue;
    concur_task_kill(L, task);
    node = scheduler->tasks.next; /* what it closed may have changed the list */
  }
  return 0;
}

static void kill_all(lua_State *L, concur_scheduler *scheduler) {
  if (!lua_checkstack(L, LUA_MINSTACK)) return;
  scheduler->loop->L = L; /* waiting is not possible in what runs now */
  lua_pushcfunction(L, l_kill_all);
  lua_pushlightuserdata(L, scheduler);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  scheduler->loop->L = NULL;
}

void concur_task_drop_all(lua_State *L, concur_scheduler *scheduler) {
  (void)L;
  concur_node *node;
  while ((node = concur_list_pop(&scheduler->tasks)) != NULL) {
    concur_task *task = concur_container_of(node, concur_task, link);
    task->fiber.state = CONCUR_FIBER_DEAD;
    task->future.state = CONCUR_CANCELLED;
    scheduler->task_count--;
  }
}

/* ---- bare yields ---- */

typedef struct saved_hook {
  lua_Hook function;
  int mask;
  int count;
} saved_hook;

static void hook_save(lua_State *co, saved_hook *hook) {
  hook->function = lua_gethook(co);
  hook->mask = lua_gethookmask(co);
  hook->count = lua_gethookcount(co);
}

static void hook_restore(lua_State *co, const saved_hook *hook) {
  lua_sethook(co, hook->function, hook->mask, hook->count);
}

/* Runs before the first instruction after the yield. */
static void on_bare_yield(lua_State *co, lua_Debug *frame) {
  (void)frame;
  concur_runtime *runtime = concur_runtime_find(co);
  concur_fiber *fiber = runtime->scheduler->current;
  lua_sethook(co, NULL, 0, 0); /* the step restores the user's */
  concur_task_of_fiber(fiber)->bare_yield = false;
  concur_error_raise(co, runtime, "InvalidState", CONCUR_BARE_YIELD_TEXT);
}

/* ---- the step ---- */

/* The task's code called coroutine.yield itself: its next step raises an error there. */
static void task_yielded_bare(concur_loop *loop, concur_task *task, int results) {
  static const concur_wait wait_bare = {.name = "coroutine.yield"};
  lua_pop(task->fiber.co, results);
  task->bare_yield = true;
  task->fiber.wait = &wait_bare;
  task->fiber.state = CONCUR_FIBER_READY;
  concur_loop_ready(loop, &task->fiber.ready);
}

/* True unless a stranger closed the coroutine or resumed it before its start. */
static bool can_step(concur_task *task) {
  lua_State *co = task->fiber.co;
  if (task->started) return concur_fiber_intact(&task->fiber);
  return lua_status(co) == LUA_OK && lua_gettop(co) == task->fiber.base + 1 &&
         lua_touserdata(co, 2) == task;
}

static int resume_with_hook(lua_State *co, lua_State *from, int *results) {
  saved_hook hook;
  hook_save(co, &hook);
  lua_sethook(co, on_bare_yield, LUA_MASKCOUNT, 1);
  int status = lua_resume(co, from, 0, results);
  hook_restore(co, &hook);
  return status;
}

/* The coroutine died outside of the body's protection: out of memory while it ended. */
static void task_died(lua_State *L, concur_task *task) {
  if (task->fiber.state == CONCUR_FIBER_DEAD) return; /* it had settled before */
  task_break(L, task, "not enough memory to end the task");
}

static void task_run(concur_loop *loop, concur_ready *ready) {
  concur_fiber *fiber = concur_container_of(ready, concur_fiber, ready);
  concur_task *task = concur_task_of_fiber(fiber);
  concur_scheduler *scheduler = fiber->scheduler;
  lua_State *co = fiber->co;
  if (!can_step(task)) {
    task_break(loop->L, task, CONCUR_TAMPERED_TEXT);
    return;
  }
  coroutine used = {co, task->co_slot, task->slot};
  fiber->state = CONCUR_FIBER_RUNNING;
  scheduler->current = fiber;
  scheduler->quick = 0;
  scheduler->switches++;
  int results = 0;
  int status;
  if (task->bare_yield) {
    status = resume_with_hook(co, loop->L, &results);
  } else {
    status = lua_resume(co, loop->L, task->started ? 0 : fiber->base, &results);
  }
  scheduler->current = NULL;
  if (status == LUA_YIELD) {
    if (fiber->state == CONCUR_FIBER_RUNNING) task_yielded_bare(loop, task, results);
  } else if (status == LUA_OK) {
    lua_settop(co, 0);
    pool_give_back(loop->L, scheduler, used);
  } else {
    task_died(loop->L, task);
  }
}

/* ---- as a future ---- */

bool concur_task_cancel(concur_task *task) {
  if (concur_future_settled(&task->future)) return false;
  task->future.cancel_requested = true;
  concur_scope_cancel(task->fiber.scheduler, &task->own);
  return true;
}

static void task_cancel_with(lua_State *L, concur_runtime *runtime, int index,
                             concur_future *future, int reason) {
  (void)index;
  concur_task *task = concur_container_of(future, concur_task, future);
  concur_scope_cancel_with(L, runtime->scheduler, &task->own, reason);
  future->cancel_requested = true;
}

static void task_cancel_quietly(concur_runtime *runtime, concur_future *future) {
  (void)runtime;
  (void)concur_task_cancel(concur_container_of(future, concur_task, future));
}

static char names_key; /* registry: weak-keyed table task -> name */

void concur_task_push_name(lua_State *L, int index, const concur_task *task) {
  luaL_checkstack(L, 4, NULL);
  if (!task->named) {
    lua_pushfstring(L, "Task-%I", (LUAI_UACINT)task->id);
    return;
  }
  index = lua_absindex(L, index);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &names_key);
  lua_pushvalue(L, index);
  lua_rawget(L, -2);
  lua_remove(L, -2);
}

void concur_task_set_name(lua_State *L, int index, concur_task *task) {
  index = lua_absindex(L, index);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &names_key);
  lua_pushvalue(L, index);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 2);
  task->named = true;
}

static void task_push_report_name(lua_State *L, int index, const concur_future *future) {
  concur_task_push_name(L, index, concur_container_of(future, const concur_task, future));
  lua_pushfstring(L, "task '%s'", lua_tostring(L, -1));
  lua_remove(L, -2);
}

const concur_future_ops concur_task_ops = {
    task_cancel_with,
    task_cancel_quietly,
    task_push_report_name,
    NULL,
};

void concur_task_push(lua_State *L, concur_runtime *runtime, const concur_task *task) {
  concur_anchor_push(L, runtime, task->slot);
}

static void describe_name(luaL_Buffer *text, concur_runtime *runtime, const concur_task *task) {
  lua_State *L = text->L;
  concur_task_push(L, runtime, task);
  concur_task_push_name(L, -1, task);
  lua_remove(L, -2);
  luaL_addvalue(text);
}

static void describe_tasks(luaL_Buffer *text, concur_scheduler *scheduler) {
  int left = 20; /* a readable message */
  for (concur_node *node = scheduler->tasks.next; node != &scheduler->tasks; node = node->next) {
    if (left-- == 0) {
      luaL_addstring(text, "\n  ...");
      return;
    }
    const concur_task *task = concur_container_of(node, concur_task, link);
    const concur_fiber *fiber = &task->fiber;
    luaL_addstring(text, "\n  ");
    describe_name(text, scheduler->runtime, task);
    luaL_addstring(text, ": ");
    luaL_addstring(text, fiber->state == CONCUR_FIBER_PARKED ? fiber->wait->name : "ready");
  }
}

void concur_task_open(lua_State *L, concur_runtime *runtime) {
  concur_scheduler *scheduler = runtime->scheduler;
  scheduler->coroutines = lua_newuserdatauv(L, sizeof *scheduler->coroutines, 0);
  scheduler->coroutines->count = 0;
  (void)concur_anchor(L, runtime);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &names_key);
  scheduler->kill_all = kill_all;
  scheduler->describe_tasks = describe_tasks;
}
