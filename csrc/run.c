/* SPDX-License-Identifier: MIT */
/*
 * concur.run and the other drivers, settings, counters, and the end of a runtime.
 *
 * run:  spawn the root task -> wait for it -> cancel all tasks -> wait until none is left -> report
 * what nobody retrieved -> results or error.  The waits are waits of the top-level fiber, so SIGINT
 * and deadlocks reach them as any other (fiber.c).                          [the state's thread]
 */
#include "run.h"

#include "await.h"
#include "callback.h"
#include "holding.h"
#include "report.h"
#include "sigint.h"
#include "task.h"

/* ---- concur.run ---- */

static bool run_abort(concur_fiber *fiber) {
  concur_future *root = fiber->target;
  concur_scheduler *scheduler = fiber->scheduler;
  if (!concur_future_settled(root)) {
    root->ops->cancel_quietly(scheduler->runtime, root);
  } else if (scheduler->interruption == CONCUR_BY_SIGINT) { /* it came after main had returned */
    concur_sigint_give_up(scheduler->loop);
  }
  return false; /* the root task ends first */
}

static bool never_abort(concur_fiber *fiber) {
  (void)fiber;
  return false;
}

static const concur_wait wait_run = {.name = "run", .abort = run_abort};
static const concur_wait wait_end = {.name = "the end of all tasks", .abort = never_abort};

static void on_last_task(concur_scheduler *scheduler) {
  concur_fiber *top = &scheduler->top;
  if (top->state == CONCUR_FIBER_PARKED && top->wait == &wait_end) {
    concur_fiber_wake(top, CONCUR_OUTCOME_VALUE);
  }
}

static void cancel_all(concur_scheduler *scheduler) {
  concur_node *node = scheduler->tasks.next;
  while (node != &scheduler->tasks) { /* cancelling runs no Lua code: the list stays as it is */
    concur_body *body = concur_container_of(node, concur_body, link);
    node = node->next;
    (void)concur_task_cancel(body->task);
  }
}

/* Cancels all tasks and goes on with `next` when none is left. */
static int end_tasks(lua_State *L, concur_fiber *fiber, concur_resume next) {
  concur_scheduler *scheduler = fiber->scheduler;
  scheduler->teardown = true;
  cancel_all(scheduler);
  if (scheduler->task_count == 0) return next(L, fiber);
  return concur_fiber_park(L, fiber, &wait_end, NULL, next);
}

static int run_finished(lua_State *L, concur_fiber *fiber) { /* stack: root task */
  concur_scheduler *scheduler = fiber->scheduler;
  concur_runtime *runtime = scheduler->runtime;
  concur_task *root = lua_touserdata(L, 1);
  if (scheduler->task_count > 0) return end_tasks(L, fiber, run_finished);
  scheduler->teardown = false;
  scheduler->running = false;
  lua_settop(L, 1);
  concur_interruption interruption = scheduler->interruption;
  scheduler->interruption = CONCUR_NOT_INTERRUPTED; /* what follows may raise */
  /* The root's own error is raised here, not reported. */
  int count = concur_future_push_outcome(L, runtime, 1, &root->future);
  concur_future_report_unretrieved(L, runtime);
  concur_report_flush(L, runtime);
  if (count >= 0) return count;
  bool cancelled = root->future.state == CONCUR_CANCELLED;
  if (cancelled && (interruption != CONCUR_NOT_INTERRUPTED || fiber->scope->cancelled)) {
    scheduler->interruption = interruption;
    return concur_fiber_raise_cancelled(L, fiber);
  }
  return concur_fiber_rethrow_from(L, fiber);
}

static int run_root_ended(lua_State *L, concur_fiber *fiber) {
  return end_tasks(L, fiber, run_finished);
}

static concur_fiber *enter_run(lua_State *L, concur_runtime *runtime) {
  concur_scheduler *scheduler = runtime->scheduler;
  bool driving = runtime->reporting || (scheduler->loop != NULL && scheduler->loop->L != NULL);
  if (scheduler->running || scheduler->current != NULL || driving) {
    concur_error_raise(L, runtime, "InvalidState",
                       "concur.run cannot be nested: the loop of this Lua state runs already "
                       "(call the function itself, or concur.spawn it)");
  }
  return concur_fiber_enter(L, runtime);
}

/*@lua
---Runs `main(...)` as the root task of this state's loop; returns its results or raises its error.
---At its end all tasks of this state are cancelled and have ended.  Raises `Interrupted` on Ctrl-C
---and `Deadlock` when nothing can go on.
---@param main function
---@param ... any arguments of main
---@return any ...
function concur.run(main, ...) end
*/
static int l_run(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_check_callable(L, 1);
  concur_fiber *fiber = enter_run(L, runtime);
  concur_scheduler *scheduler = fiber->scheduler;
  concur_task *root = concur_task_spawn(L, runtime, lua_gettop(L) - 1, fiber->scope, NULL);
  lua_replace(L, 1);
  lua_settop(L, 1);
  scheduler->running = true;
  scheduler->on_last_task = on_last_task;
  concur_list_append(&root->future.waiters, &fiber->waiter.node);
  return concur_fiber_park(L, fiber, &wait_run, &root->future, run_root_ended);
}

static int tasks_ended(lua_State *L, concur_fiber *fiber) {
  if (fiber->scheduler->task_count > 0) return end_tasks(L, fiber, tasks_ended);
  fiber->scheduler->teardown = false;
  fiber->scheduler->interruption = CONCUR_NOT_INTERRUPTED;
  concur_future_report_unretrieved(L, fiber->scheduler->runtime);
  concur_report_flush(L, fiber->scheduler->runtime);
  return 0;
}

void concur_run_end_tasks(lua_State *L, concur_runtime *runtime) {
  concur_scheduler *scheduler = runtime->scheduler;
  if (scheduler->loop == NULL) return;
  scheduler->on_last_task = on_last_task;
  scheduler->top.leaf = L;
  (void)end_tasks(L, &scheduler->top, tasks_ended);
}

/* ---- run_forever, stop, step ---- */

static const concur_wait wait_forever = {.name = "run_forever", .stoppable = true};

static int nothing(lua_State *L, concur_fiber *fiber) {
  (void)L;
  (void)fiber;
  return 0;
}

static int forever_wait(lua_State *L, concur_fiber *fiber) {
  return concur_fiber_park(L, fiber, &wait_forever, NULL, nothing);
}

static int l_run_forever(lua_State *L) {
  (void)enter_run(L, concur_runtime_of(L));
  lua_settop(L, 0);
  return concur_fiber_begin(L, forever_wait);
}

static void on_stop(concur_loop *loop, concur_ready *ready) {
  (void)ready;
  if (loop->stopping) loop->stop = true;
  loop->stopping = false;
}

/* What is ready now still runs, what that makes ready does not. */
static int l_stop(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  if (runtime->scheduler->running) {
    return concur_error_raise(L, runtime, "InvalidState",
                              "EventLoop:stop() inside concur.run: return from the main function "
                              "or cancel its task instead");
  }
  if (!loop->stopping) {
    loop->stopping = true;
    loop->stopper.run = on_stop;
    concur_loop_ready(loop, &loop->stopper);
  }
  return 0;
}

static concur_loop *enter_embedded(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_scheduler *scheduler = runtime->scheduler;
  concur_loop *loop = concur_scheduler_loop(L, scheduler);
  if (concur_in_finalizer(L)) {
    concur_error_raise(L, runtime, "InvalidState", "not possible in a finalizer (__gc)");
  }
  if (loop->L != NULL || scheduler->current != NULL || runtime->reporting) {
    concur_error_raise(L, runtime, "InvalidState", "the loop runs already");
  }
  return loop;
}

static int l_step(lua_State *L) {
  uint64_t max_ns = luaL_opt(L, concur_check_duration, 1, 0);
  concur_loop *loop = enter_embedded(L);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  concur_loop_step(loop, L, max_ns);
  return 0;
}

static int l_next_timeout(lua_State *L) {
  concur_loop *loop = concur_scheduler_loop(L, concur_runtime_of(L)->scheduler);
  uint64_t timeout = concur_loop_next_timeout(loop);
  if (timeout == CONCUR_NEVER) {
    lua_pushnil(L);
  } else {
    lua_pushnumber(L, (lua_Number)timeout / 1e9);
  }
  return 1;
}

static int l_fd(lua_State *L) {
  concur_loop *loop = concur_scheduler_loop(L, concur_runtime_of(L)->scheduler);
  int fd = uv_backend_fd(&loop->uv);
  if (fd < 0) {
    lua_pushnil(L);
  } else {
    lua_pushinteger(L, fd);
  }
  return 1;
}

static int l_is_running(lua_State *L) {
  concur_loop *loop = concur_runtime_of(L)->loop;
  lua_pushboolean(L, loop != NULL && loop->L != NULL);
  return 1;
}

/*@lua
---The loop's clock: monotonic seconds from an arbitrary start; virtual under `testing.Clock`.
---@return number seconds
function concur.now() end
*/
static int l_now(lua_State *L) {
  concur_loop *loop = concur_runtime_of(L)->loop;
  uint64_t now = loop != NULL ? concur_loop_now(loop) : uv_hrtime();
  lua_pushnumber(L, (lua_Number)now / 1e9);
  return 1;
}

/* ---- waiting until everything else waits (for tests) ---- */

static const concur_wait wait_idle = {.name = "wait_until_idle"};

/* `idle` of the loop: everybody who waits for this moment is woken. */
static bool on_idle(concur_loop *loop) {
  concur_node *idlers = &loop->runtime->scheduler->idlers;
  bool any = !concur_list_empty(idlers);
  concur_node *node;
  while ((node = concur_list_pop(idlers)) != NULL) {
    concur_waiter *waiter = concur_container_of(node, concur_waiter, node);
    waiter->notify(waiter, loop);
  }
  loop->on_idle = NULL;
  return any;
}

static int idle_begin(lua_State *L, concur_fiber *fiber) {
  fiber->scheduler->loop->on_idle = on_idle;
  concur_list_append(&fiber->scheduler->idlers, &fiber->waiter.node);
  return concur_fiber_park(L, fiber, &wait_idle, NULL, nothing);
}

static int l_wait_until_idle(lua_State *L) {
  return concur_fiber_begin(L, idle_begin);
}

/* ---- the end ---- */

void concur_run_close(lua_State *L, concur_runtime *runtime) {
  concur_scheduler *scheduler = runtime->scheduler;
  concur_loop *loop = scheduler->loop;
  if (loop != NULL) loop->closing = true;
  concur_capi_close(L, runtime);
  concur_executor_close(L, runtime);
  concur_task_drop_all(scheduler);
  if (scheduler->top.state == CONCUR_FIBER_PARKED) concur_fiber_drop(&scheduler->top); /* os.exit */
  if (loop == NULL) return;
  concur_signal_close(loop);
  concur_process_close(loop);
  concur_sigint_release(loop);
  scheduler->loop = NULL;
  runtime->loop = NULL;
  concur_loop_free(loop);
}

/* EventLoop:close(): ends all tasks in order, then the loop; the next use makes a new one. */
static int l_close(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_scheduler *scheduler = runtime->scheduler;
  if (scheduler->loop == NULL || concur_runtime_forked(runtime)) return 0;
  (void)enter_embedded(L);
  if (!scheduler->top.scope->own) { /* its deadline would be lost with the loop */
    return concur_error_raise(L, runtime, "InvalidState",
                              "the loop cannot be closed inside a cancel scope");
  }
  concur_run_end_tasks(L, runtime);
  concur_run_close(L, runtime);
  return 0;
}

/* lua_close, or the end of the process in a task: no Lua code runs any more. */
static int l_runtime_gc(lua_State *L) {
  concur_runtime *runtime = lua_touserdata(L, 1);
  if (runtime->closed) return 0;
  runtime->closed = true;
  if (concur_runtime_forked(runtime)) return 0; /* the parent's threads and handles: not ours */
  concur_run_close(L, runtime);
  concur_holdings_end(runtime);
  concur_report_flush_to_stderr(L, runtime);
  return 0;
}

static void set_finalizer(lua_State *L, concur_runtime *runtime) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->self_ref);
  lua_createtable(L, 0, 2);
  lua_pushliteral(L, "concur.Runtime");
  lua_setfield(L, -2, "__name");
  lua_pushcfunction(L, l_runtime_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_pop(L, 1);
}

void concur_run_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"run", l_run},
                                {"run_forever", l_run_forever},
                                {"stop", l_stop},
                                {"step", l_step},
                                {"next_timeout", l_next_timeout},
                                {"fd", l_fd},
                                {"is_running", l_is_running},
                                {"now", l_now},
                                {"close", l_close},
                                {"wait_until_idle", l_wait_until_idle},
                                {NULL, NULL}};
  concur_register(L, runtime, functions);
  set_finalizer(L, runtime);
}
