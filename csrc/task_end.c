/* SPDX-License-Identifier: MIT */
/* Ends of tasks that are out of order: tampering, kill, the end of the state; and bare yields. */
#include "group.h"
#include "report.h"
#include "task.h"
#include "task_pool.h"

void concur_body_abandon_locks(lua_State *L, concur_body *body) {
  if (body->fiber.held_count == 0) return;
  body->fiber.scheduler->abandon_locks(L, &body->fiber);
}

/* ---- an unusable coroutine ---- */

typedef struct broken_end {
  concur_body *body;
  const char *message;
} broken_end;

/* Argument: light userdata broken_end.  Settles the task with an InvalidState. */
static int l_settle_broken(lua_State *L) {
  broken_end *end = lua_touserdata(L, 1);
  concur_body *body = end->body;
  concur_runtime *runtime = body->fiber.scheduler->runtime;
  concur_body_push_task(L, runtime, body);
  concur_body_abandon_locks(L, body);
  concur_error_new(L, runtime, "InvalidState", "%s", end->message);
  if (body->group != NULL) {
    lua_pushnil(L);
    concur_group_child_failed(L, runtime, body);
    lua_pop(L, 1);
  }
  concur_future_set_error(L, runtime, 2, &body->task->future, 0);
  return 0;
}

void concur_body_break(lua_State *L, concur_body *body, const char *message) {
  concur_fiber *fiber = &body->fiber;
  concur_scheduler *scheduler = fiber->scheduler;
  broken_end end = {body, message};
  /* What it waited for, or a coroutine that is still held somewhere, may point to the body of a task
     that had started: it is not used again. */
  bool started = fiber->co != NULL;
  concur_fiber_drop(fiber); /* what is stopped below may try to wake it */
  concur_loop_stop_timer(scheduler->loop, &fiber->timer);
  scheduler->end_generators(L, fiber, false);
  concur_scope_abandon_all(L, fiber);
  lua_pushcfunction(L, l_settle_broken);
  lua_pushlightuserdata(L, &end);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    if (body->group != NULL) concur_group_child_lost(body->group);
    concur_future_settle(&body->task->future, CONCUR_FAILED);
  }
  concur_body_retire(L, body);
  if (started) {
    concur_coroutine_drop(L, scheduler, body->co_slot);
  } else {
    concur_body_give_back(scheduler, body);
  }
}

/* ---- kill ---- */

/* Waits, or was taken off its wait by a cancellation that it has not seen yet. */
static bool can_kill(const concur_body *body) {
  const concur_fiber *fiber = &body->fiber;
  if (fiber->co == NULL) return false;
  return fiber->state == CONCUR_FIBER_PARKED || (fiber->state == CONCUR_FIBER_READY &&
                                                 fiber->outcome == CONCUR_OUTCOME_CANCELLED);
}

void concur_coroutine_close(lua_State *L, concur_runtime *runtime, lua_State *co) {
  if (lua_resetthread(co) == LUA_OK) return;
  lua_xmove(co, L, 1);
  if (concur_cancelled_id(L, runtime, -1) != 0) { /* it was interrupted, as it was to be */
    lua_pop(L, 1);
    return;
  }
  concur_report_safely(L, runtime, "error in a <close> variable of a killed task");
}

/* Argument: light userdata body. */
static int l_abandon_locks(lua_State *L) {
  concur_body_abandon_locks(L, lua_touserdata(L, 1));
  return 0;
}

static void abandon_locks_safely(lua_State *L, concur_body *body) {
  lua_pushcfunction(L, l_abandon_locks);
  lua_pushlightuserdata(L, body);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
}

bool concur_task_kill(lua_State *L, concur_task *task) {
  concur_body *body = task->body;
  if (body == NULL || !can_kill(body)) return false;
  if (concur_in_finalizer(L)) { /* any allocation may run one, also in the middle of a spawn */
    concur_error_raise(L, body->fiber.scheduler->runtime, "InvalidState",
                       "cannot kill a task in a finalizer (__gc): cancel it instead");
    return false; /* never */
  }
  concur_fiber *fiber = &body->fiber;
  concur_scheduler *scheduler = fiber->scheduler;
  concur_runtime *runtime = scheduler->runtime;
  bool queued = fiber->state == CONCUR_FIBER_READY;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  if (!concur_fiber_intact(fiber)) {
    if (!queued) concur_body_break(L, body, CONCUR_TAMPERED_TEXT); /* else its step does */
    return !queued;
  }
  concur_fiber_detach(fiber);
  concur_body_push_task(L, runtime, body);
  fiber->state = CONCUR_FIBER_RUNNING; /* nothing can wake it or cancel it any more */
  if (!body->bare_yield) concur_fiber_quit(L, fiber, fiber->co);
  concur_fiber *killer = scheduler->current;
  concur_fiber *running = concur_fiber_running;
  scheduler->current = fiber; /* its clean-up releases what it holds */
  concur_fiber_running = NULL;
  scheduler->end_generators(L, fiber, true);
  concur_coroutine_close(L, runtime, fiber->co);
  concur_fiber_running = running;
  scheduler->current = killer;
  fiber->state = CONCUR_FIBER_DEAD;
  concur_scope_abandon_all(L, fiber);
  abandon_locks_safely(L, body);
  lua_pushnil(L);
  concur_future_set_cancelled(L, lua_gettop(L) - 1, &task->future);
  concur_body_retire(L, body);
  concur_coroutine_drop(L, scheduler, body->co_slot);
  lua_pop(L, 1);
  if (queued) {
    fiber->co = NULL; /* the body is given back when its turn comes */
  } else {
    concur_body_give_back(scheduler, body);
  }
  return true;
}

void concur_task_drop_all(concur_scheduler *scheduler) {
  concur_node *node;
  while ((node = concur_list_pop(&scheduler->tasks)) != NULL) {
    concur_body *body = concur_container_of(node, concur_body, link);
    concur_fiber_drop(&body->fiber);
    body->task->future.state = CONCUR_CANCELLED;
    body->task->body = NULL;
    scheduler->task_count--;
  }
}

/* ---- bare yields ---- */

const char *const concur_bare_yield_text =
    "a task called coroutine.yield: nobody would resume it (to let others run, use "
    "concur.checkpoint; for a generator, concur.wrap)";

/* Runs before the first instruction after the yield. */
static void on_bare_yield(lua_State *co, lua_Debug *frame) {
  (void)frame;
  concur_runtime *runtime = concur_runtime_find(co);
  concur_fiber *fiber = runtime->scheduler->current;
  if (fiber == NULL || fiber->co != co) {
    (void)lua_yield(co, 0); /* resumed by a stranger: the error waits for the scheduler */
    return;
  }
  concur_body *body = concur_body_of_fiber(fiber);
  lua_sethook(co, body->hook, body->hook_mask, body->hook_count);
  body->bare_yield = false;
  concur_error_raise(co, runtime, "InvalidState", "%s", concur_bare_yield_text);
}

void concur_body_yielded_bare(concur_loop *loop, concur_body *body) {
  static const concur_wait wait_bare = {.name = "coroutine.yield"};
  concur_fiber *fiber = &body->fiber;
  lua_State *co = fiber->co;
  if (!body->bare_yield) {
    body->hook = lua_gethook(co);
    body->hook_mask = lua_gethookmask(co);
    body->hook_count = lua_gethookcount(co);
    lua_sethook(co, on_bare_yield, LUA_MASKCOUNT, 1);
  }
  body->bare_yield = true;
  fiber->wait = &wait_bare;
  fiber->outcome = CONCUR_OUTCOME_VALUE;
  fiber->state = CONCUR_FIBER_READY;
  concur_loop_ready(loop, &fiber->ready);
}
