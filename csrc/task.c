/* SPDX-License-Identifier: MIT */
/*
 * See task.h.  Here: spawn, the body of every task, the step.  Ends out of order: task_end.c.
 *
 * The step runs on the loop's state and never raises.  What may raise for want of memory (packing
 * results, making a sentinel) happens inside the task's own coroutine; if it does, the coroutine
 * dies and the step settles the task without needing memory.
 */
#include "task.h"

#include "group.h"
#include "task_pool.h"

/* More arguments than this travel in a table. */
enum { MOST_USER_VALUES = 64 };

static void task_run(concur_loop *loop, concur_ready *ready);

/* ---- spawn ---- */

static void body_init(concur_body *body, concur_scheduler *scheduler, concur_task *task) {
  concur_fiber *fiber = &body->fiber;
  fiber->ready.run = task_run;
  fiber->waiter.node.next = NULL;
  fiber->waiter.notify = concur_fiber_notify;
  fiber->waiter.exchange = &concur_fiber_exchange;
  fiber->wait = NULL;
  fiber->scheduler = scheduler;
  fiber->co = NULL;
  fiber->leaf = NULL;
  fiber->state = CONCUR_FIBER_READY;
  fiber->outcome = CONCUR_OUTCOME_VALUE;
  fiber->is_task = true;
  fiber->given = false;
  fiber->has_context = false;
  fiber->has_trace = false;
  fiber->rethrown = false;
  fiber->held_count = 0;
  fiber->generators = NULL;
  concur_timer_init(&fiber->timer);
  body->task = task;
  body->status = CONCUR_NOT_ENDED;
  body->bare_yield = false;
}

/* Pushes a table of `count` values from stack index `first` on. */
static void pack(lua_State *L, int first, int count) {
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  lua_createtable(L, count, 0);
  for (int i = 0; i < count; i++) {
    lua_pushvalue(L, first + i);
    lua_rawseti(L, -2, i + 1);
  }
}

/* Pushes the new task's userdata, which holds its function and arguments. */
static concur_task *task_new(lua_State *L, concur_runtime *runtime, int function, int count) {
  int first = function + 1;
  if (count > MOST_USER_VALUES) {
    pack(L, first, count);
    first = lua_gettop(L);
    count = 1;
  }
  concur_task *task = concur_class_new(L, runtime, CONCUR_CLASS_TASK, sizeof *task,
                                       CONCUR_TASK_ARGUMENTS - 1 + count);
  concur_future_init(&task->future, &concur_task_ops);
  lua_pushvalue(L, function);
  lua_setiuservalue(L, -2, CONCUR_TASK_OUTCOME);
  for (int i = 0; i < count; i++) {
    lua_pushvalue(L, first + i);
    lua_setiuservalue(L, -2, CONCUR_TASK_ARGUMENTS + i);
  }
  return task;
}

concur_task *concur_task_spawn(lua_State *L, concur_runtime *runtime, int count,
                               concur_scope *parent, concur_group *group) {
  concur_scheduler *scheduler = runtime->scheduler;
  concur_loop *loop = concur_scheduler_loop(L, scheduler);
  concur_task *task = task_new(L, runtime, lua_gettop(L) - count, count);
  concur_fiber *current = concur_fiber_current(scheduler);
  if (current->has_context) concur_fiber_inherit_context(L, current);
  concur_body *body = concur_body_peek(L, scheduler);
  if (group != NULL && group->closed) { /* in a finalizer, just now */
    concur_error_raise(L, runtime, "InvalidState", "the task group has ended");
  }
  /* From here nothing fails, and no finalizer runs that could spawn too. */
  concur_body_take(scheduler, body);
  body_init(body, scheduler, task);
  body->fiber.has_context = current->has_context;
  if (group != NULL) group->pending++;
  concur_scope_init_own(scheduler, &body->own, &body->fiber,
                        group != NULL ? group->scope : parent);
  body->fiber.scope = &body->own;
  body->group = group;
  body->arguments = count;
  task->body = body;
  task->id = body->fiber.id = ++scheduler->next_task_id;
  if (scheduler->teardown) concur_scope_cancel(&body->own);
  lua_pushvalue(L, -1);
  concur_anchor_set(L, runtime, body->slot);
  concur_list_append(&scheduler->tasks, &body->link);
  scheduler->task_count++;
  concur_loop_ready(loop, &body->fiber.ready);
  return task;
}

/* ---- the end in order ---- */

void concur_body_retire(lua_State *L, concur_body *body) {
  concur_fiber *fiber = &body->fiber;
  concur_scheduler *scheduler = fiber->scheduler;
  fiber->state = CONCUR_FIBER_DEAD;
  fiber->id = 0;
  if (fiber->has_trace) concur_fiber_clear_trace(L, fiber);
  concur_scope_drop(L, scheduler, &body->own);
  concur_node_unlink(&body->link);
  scheduler->task_count--;
  body->task->body = NULL;
  body->task = NULL;
  concur_anchor_clear(scheduler->runtime, body->slot);
  if (body->group != NULL) concur_group_child_ended(L, body);
  if (scheduler->task_count == 0 && scheduler->on_last_task != NULL) {
    scheduler->on_last_task(scheduler);
  }
}

/* [in the task's coroutine] The function raised; the error is on top. */
static void body_failed(lua_State *co, concur_body *body) {
  concur_runtime *runtime = body->fiber.scheduler->runtime;
  concur_task *task = body->task;
  (void)concur_scope_replace_stale(co, runtime, &body->own);
  uint64_t id = concur_cancelled_id(co, runtime, -1);
  if (id != 0) {
    lua_pushliteral(co, "reason"); /* raw: a hook of an interrupt may still raise in Lua code */
    lua_rawget(co, -2);
    if (body->group != NULL && id != body->own.id && id != body->group->scope_id) {
      body->group->child_cancelled = true;
    }
    concur_future_set_cancelled(co, 1, &task->future);
    return;
  }
  concur_fiber_push_trace(co, &body->fiber, -1);
  if (body->group != NULL) concur_group_child_failed(co, runtime, body);
  lua_pushvalue(co, -2);
  concur_future_set_error(co, runtime, 1, &task->future, lua_gettop(co) - 1);
}

/* [in the task's coroutine] */
static int body_end(lua_State *co, int status, lua_KContext context) {
  concur_body *body = (concur_body *)context;
  if (body->status == CONCUR_NOT_ENDED) body->status = (int8_t)status;
  if (body->fiber.scheduler->current != &body->fiber || body->fiber.co != co) {
    /* A stranger resumed the coroutine; the end waits for the scheduler. */
    return lua_yieldk(co, 0, context, body_end);
  }
  bool ended = body->status == LUA_OK || body->status == LUA_YIELD;
  if (body->fiber.held_count > 0) concur_body_abandon_locks(co, body);
  if (body->bare_yield) lua_sethook(co, body->hook, body->hook_mask, body->hook_count);
  if (ended && body->bare_yield) { /* nothing was left to run in which to raise the error */
    concur_error_new(co, body->fiber.scheduler->runtime, "InvalidState", "%s",
                     concur_bare_yield_text);
    ended = false;
  }
  if (ended) {
    int results = lua_gettop(co) - 2;
    if (results == 0) { /* lets the function go */
      lua_pushnil(co);
      lua_setiuservalue(co, 1, CONCUR_TASK_OUTCOME);
    }
    concur_future_set_results(co, 1, &body->task->future, results);
  } else {
    body_failed(co, body);
  }
  /* A return hook of the task's would run once more, without a task. */
  if (lua_gethook(co) != NULL) lua_sethook(co, NULL, 0, 0);
  concur_body_retire(co, body);
  return 0;
}

/* [in the task's coroutine] Stack: task, handler, function, arguments. */
static int task_main(lua_State *co) {
  concur_body *body = concur_body_of_fiber(concur_fiber_running);
  lua_KContext context = (lua_KContext)body;
  int status = lua_pcallk(co, body->arguments, LUA_MULTRET, 2, context, body_end);
  return body_end(co, status, context);
}

/* ---- the step ---- */

/* Pushes the arguments of the task at index `task`, which lets go of them. */
static void push_arguments(lua_State *co, int task, int count) {
  int kept = count > MOST_USER_VALUES ? 1 : count;
  for (int i = 0; i < kept; i++) {
    lua_getiuservalue(co, task, CONCUR_TASK_ARGUMENTS + i);
    lua_pushnil(co);
    lua_setiuservalue(co, task, CONCUR_TASK_ARGUMENTS + i);
  }
  if (kept == count) return;
  int packed = lua_gettop(co);
  for (int i = 1; i <= count; i++) lua_rawgeti(co, packed, i);
  lua_remove(co, packed);
}

/* Gives the body a coroutine with everything on its stack; false when out of memory. */
static bool body_prepare(lua_State *L, concur_body *body) {
  enum { SURE = LUA_MINSTACK - 8 }; /* so many arguments find room in any coroutine */
  concur_scheduler *scheduler = body->fiber.scheduler;
  int count = body->arguments;
  concur_coroutine coroutine = concur_coroutine_take(L, scheduler);
  lua_State *co = coroutine.co;
  if (co == NULL) return false;
  if (count > SURE && !lua_checkstack(co, count + 8)) {
    concur_coroutine_drop(L, scheduler, coroutine.slot);
    return false;
  }
  body->fiber.co = co;
  body->fiber.ready.memory = co;
  body->fiber.leaf = co;
  body->co_slot = coroutine.slot;
  lua_pushcfunction(co, task_main);
  concur_body_push_task(co, scheduler->runtime, body);
  lua_pushcfunction(co, concur_traceback_handler);
  lua_getiuservalue(co, 2, CONCUR_TASK_OUTCOME); /* stays until the outcome replaces it */
  if (count > 0) push_arguments(co, 2, count);
  return true;
}

/* The coroutine came to its end: the task has settled, or died for want of memory. */
static void body_ended(lua_State *L, concur_body *body, int status) {
  concur_scheduler *scheduler = body->fiber.scheduler;
  if (body->fiber.state != CONCUR_FIBER_DEAD) {
    concur_body_break(L, body, status == LUA_OK ? CONCUR_TAMPERED_TEXT
                                                : "not enough memory to end the task");
    return;
  }
  concur_coroutine used = {body->fiber.co, body->co_slot};
  if (status == LUA_OK) {
    lua_settop(used.co, 0);
    if (lua_gethook(used.co) != lua_gethook(L)) { /* a hook of the task's own ends with it */
      lua_sethook(used.co, lua_gethook(L), lua_gethookmask(L), lua_gethookcount(L));
    }
    concur_coroutine_give_back(L, scheduler, used);
  } else {
    concur_coroutine_drop(L, scheduler, used.slot);
  }
  concur_body_give_back(scheduler, body);
}

/* Before the first step; false when there will be none. */
static bool body_start(lua_State *L, concur_body *body) {
  if (body->fiber.state == CONCUR_FIBER_DEAD) { /* killed while in the ready queue */
    concur_body_give_back(body->fiber.scheduler, body);
    return false;
  }
  if (body_prepare(L, body)) return true;
  concur_body_break(L, body, "not enough memory to start the task");
  return false;
}

static void task_run(concur_loop *loop, concur_ready *ready) {
  concur_fiber *fiber = concur_container_of(ready, concur_fiber, ready);
  concur_body *body = concur_body_of_fiber(fiber);
  concur_scheduler *scheduler = fiber->scheduler;
  lua_State *L = loop->L;
  int arguments = 0;
  if (fiber->co == NULL) {
    if (!body_start(L, body)) return;
    arguments = body->arguments + 3;
  } else if (!concur_fiber_suspended(fiber)) {
    concur_body_break(L, body, CONCUR_TAMPERED_TEXT);
    return;
  }
  fiber->state = CONCUR_FIBER_RUNNING;
  scheduler->current = fiber;
  scheduler->quick = 0;
  scheduler->switches++;
  concur_fiber *outer = concur_fiber_running; /* of another state that this one runs inside of */
  concur_fiber_running = fiber;
  int results = 0;
  int status = lua_resume(fiber->co, L, arguments, &results);
  concur_fiber_running = outer;
  scheduler->current = NULL;
  if (status != LUA_YIELD) {
    body_ended(L, body, status);
  } else if (fiber->state == CONCUR_FIBER_RUNNING) {
    lua_pop(fiber->co, results);
    concur_body_yielded_bare(loop, body);
  }
}

/* ---- as a future ---- */

bool concur_task_cancel(concur_task *task) {
  if (task->body == NULL) return false;
  task->future.cancel_requested = true;
  concur_scope_cancel(&task->body->own);
  return true;
}

static void task_cancel_with(lua_State *L, concur_runtime *runtime, int index,
                             concur_future *future, int reason) {
  (void)index;
  concur_task *task = concur_container_of(future, concur_task, future);
  concur_scope_cancel_with(L, runtime->scheduler, &task->body->own, reason);
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
    .cancel = task_cancel_with,
    .cancel_quietly = task_cancel_quietly,
    .push_name = task_push_report_name,
};

void concur_body_push_task(lua_State *L, concur_runtime *runtime, const concur_body *body) {
  concur_anchor_push(L, runtime, body->slot);
}

/* ---- for the layer below ---- */

static void describe_name(luaL_Buffer *text, concur_runtime *runtime, const concur_body *body) {
  lua_State *L = text->L;
  concur_body_push_task(L, runtime, body);
  concur_task_push_name(L, -1, body->task);
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
    const concur_body *body = concur_container_of(node, concur_body, link);
    const concur_fiber *fiber = &body->fiber;
    luaL_addstring(text, "\n  ");
    describe_name(text, scheduler->runtime, body);
    luaL_addstring(text, ": ");
    luaL_addstring(text, fiber->state == CONCUR_FIBER_PARKED ? fiber->wait->name : "ready");
  }
}

static int l_kill_all(lua_State *L) {
  concur_scheduler *scheduler = lua_touserdata(L, 1);
  concur_node *node = scheduler->tasks.next;
  while (node != &scheduler->tasks) {
    concur_body *body = concur_container_of(node, concur_body, link);
    node = node->next;
    /* What the killed task closed may have changed the list: from the start again. */
    if (concur_task_kill(L, body->task)) node = scheduler->tasks.next;
  }
  return 0;
}

static void kill_all(lua_State *L, concur_scheduler *scheduler) {
  if (!lua_checkstack(L, LUA_MINSTACK)) return;
  lua_State *outer = scheduler->loop->L;
  scheduler->loop->L = L; /* waiting is not possible in what runs now */
  lua_pushcfunction(L, l_kill_all);
  lua_pushlightuserdata(L, scheduler);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
  scheduler->loop->L = outer;
}

bool concur_task_overtakes(concur_loop *loop, const concur_ready *ready) {
  const concur_fiber *top = &loop->runtime->scheduler->top;
  if (ready != &top->ready && ready->run != task_run) return true; /* a callback */
  return !concur_fiber_gives_turn(concur_container_of(ready, concur_fiber, ready));
}

void concur_task_open(lua_State *L, concur_runtime *runtime) {
  concur_scheduler *scheduler = runtime->scheduler;
  concur_task_pool_open(L, runtime);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &names_key);
  scheduler->kill_all = kill_all;
  scheduler->describe_tasks = describe_tasks;
}
