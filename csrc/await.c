/* SPDX-License-Identifier: MIT */
/* See await.h.  Getters of a settled future neither check for cancellation nor switch. */
#include "await.h"

#include "callback.h"

/* ---- waiting ---- */

static const concur_wait wait_future = {.name = "future"};

int concur_await_results(lua_State *L, concur_fiber *fiber, int index, concur_future *future) {
  int count = concur_future_push_outcome(L, fiber->scheduler->runtime, index, future);
  return count >= 0 ? count : concur_fiber_rethrow_from(L, fiber);
}

/* True when waiting for `future` would close a circle of tasks that wait for each other.  Bounded:
   longer circles are found as a deadlock when the loop is idle. */
static bool await_cycle(const concur_fiber *fiber, concur_future *future) {
  for (int hops = 0; hops < 64; hops++) {
    const concur_task *task = concur_task_of_future(future);
    if (task == NULL || task->body == NULL) return false;
    const concur_fiber *next = &task->body->fiber;
    if (next == fiber) return true;
    if (next->state != CONCUR_FIBER_PARKED || next->wait != &wait_future ||
        concur_timer_active(&next->timer) || !concur_fiber_intact(next)) {
      return false;
    }
    future = next->target;
  }
  return false;
}

/* Stack: future [, timeout]. */
static int result_ready(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  concur_future *future = fiber->target;
  if (concur_future_settled(future)) return concur_await_results(L, fiber, 1, future);
  concur_error_new(L, runtime, "TimeoutError", "the future was not done within %f seconds",
                   (LUAI_UACNUMBER)lua_tonumber(L, 2));
  lua_pushvalue(L, 1);
  lua_setfield(L, -2, "future");
  return lua_error(L);
}

static int result_now(lua_State *L, concur_fiber *fiber, concur_future *future) {
  if (concur_future_settled(future)) return concur_await_results(L, fiber, 1, future);
  if (await_cycle(fiber, future)) {
    return concur_error_raise(L, fiber->scheduler->runtime, "Deadlock",
                              "a task waits for itself, directly or through other tasks");
  }
  if (lua_gettop(L) > 1 && !lua_isnil(L, 2)) {
    uint64_t delay = concur_check_duration(L, 2);
    concur_fiber_arm(L, fiber, concur_deadline_after(fiber->scheduler->loop, delay));
  }
  concur_list_append(&future->waiters, &fiber->waiter.node);
  return concur_fiber_park(L, fiber, &wait_future, future, result_ready);
}

static int result_wait(lua_State *L, concur_fiber *fiber) {
  return result_now(L, fiber, lua_touserdata(L, 1));
}

static int wait_for_result(lua_State *L, concur_future *future) {
  if (future->ops->refresh != NULL) future->ops->refresh(L, concur_runtime_of(L), future);
  if (concur_future_settled(future)) {
    return concur_await_results(L, concur_fiber_here(L), 1, future);
  }
  concur_fiber *fiber = concur_fiber_ready_here(L);
  return fiber != NULL ? result_now(L, fiber, future) : concur_fiber_begin_anywhere(L, result_wait);
}

/*@lua
---A result that comes later.
---@class concur.Future
local Future = {}

---Waits until the future has settled and returns all its results, or raises its error:
---`FutureCancelled` when it was cancelled, `TimeoutError` after `timeout` seconds (the future goes on).
---A settled future is looked at without switching.
---@async
---@param timeout? number seconds
---@return any ...
function Future:result(timeout) end
*/
static int l_future_result(lua_State *L) {
  concur_future *future = concur_future_check(L, 1);
  if (lua_gettop(L) > 1) {
    if (!lua_isnil(L, 2)) (void)concur_check_duration(L, 2);
    lua_settop(L, 2);
  }
  return wait_for_result(L, future);
}

/* Stack: an object.  Leaves its `__await` and the object, or raises. */
static void prepare_await(lua_State *L) {
  if (luaL_getmetafield(L, 1, "__await") == LUA_TNIL) {
    const char *hint = lua_isfunction(L, 1) ? " (call the function, or concur.spawn it)" : "";
    luaL_argerror(L, 1, lua_pushfstring(L, "awaitable expected, got %s%s",
                                        concur_type_name(L, 1), hint));
  }
  lua_insert(L, 1);
  lua_settop(L, 2);
}

static int on_awaited(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  return lua_gettop(L);
}

/*@lua
---Waits for a Future, a Task, or an object whose metatable has `__await` (which is called in the
---current task; its results are the results).  Raises what it failed with.
---@async
---@param awaitable concur.Future|concur.Task|table
---@return any ...
function concur.await(awaitable) end
*/
static int l_await(lua_State *L) {
  luaL_checkany(L, 1);
  concur_future *future = concur_future_test(L, 1);
  if (future != NULL) {
    lua_settop(L, 1);
    return wait_for_result(L, future);
  }
  prepare_await(L);
  lua_callk(L, 1, LUA_MULTRET, 0, on_awaited);
  return lua_gettop(L);
}

/* ---- looking ---- */

static concur_future *check_fresh(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_future *future = concur_future_check(L, 1);
  if (future->ops->refresh != NULL) future->ops->refresh(L, runtime, future);
  return future;
}

/*@lua
---@return "pending"|"running"|"done"|"failed"|"cancelled" state `running` only for jobs of executors
function Future:state() end

---True when it has settled, however.
---@return boolean
function Future:done() end

---@return boolean
function Future:cancelled() end

---The error it failed with, or nil when it succeeded; a `FutureCancelled` when it was cancelled.
---Raises `InvalidState` while it is pending.
---@return any error
function Future:exception() end
*/
static int l_future_state(lua_State *L) {
  lua_pushstring(L, concur_future_state_name(check_fresh(L)));
  return 1;
}

static int l_future_done(lua_State *L) {
  lua_pushboolean(L, concur_future_settled(check_fresh(L)));
  return 1;
}

static int l_future_cancelled(lua_State *L) {
  lua_pushboolean(L, check_fresh(L)->state == CONCUR_CANCELLED);
  return 1;
}

static int l_future_exception(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_future *future = check_fresh(L);
  if (!concur_future_settled(future)) {
    return concur_error_raise(L, runtime, "InvalidState", "the future has not settled yet");
  }
  if (future->state == CONCUR_DONE) {
    lua_pushnil(L);
  } else {
    concur_future_push_error(L, runtime, 1, future);
    lua_pop(L, 1);
  }
  return 1;
}

/* ---- acting ---- */

/*@lua
---Asks for cancellation; never suspends.  A future made by hand and a queued job settle at once, a
---task and a running job when they have ended.  The first reason wins.
---@param reason? any
---@return boolean requested true while it has not settled, false once it has
function Future:cancel(reason) end
*/
static int l_future_cancel(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_future *future = check_fresh(L);
  lua_settop(L, 2);
  bool pending = !concur_future_settled(future);
  if (pending) future->ops->cancel(L, runtime, 1, future, 2);
  lua_pushboolean(L, pending);
  return 1;
}

/*@lua
---Calls `fn(future)` on the loop's thread when it has settled, also if it has already; in one line
---with the tasks that wait for it.  An error in `fn` goes to `on_error`.  `fn` may not suspend.
---@param fn fun(future: concur.Future)
function Future:add_done_callback(fn) end
*/
static int l_future_add_done_callback(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_future *future = concur_future_check(L, 1);
  concur_check_callable(L, 2);
  concur_callback_on_settled(L, runtime, future);
  return 0;
}

static int l_future_tostring(lua_State *L) {
  concur_future *future = concur_future_check(L, 1);
  const char *state = concur_future_state_name(future);
  concur_task *task = concur_task_of_future(future);
  if (task == NULL) {
    lua_pushfstring(L, "%s (%s): %p", concur_type_name(L, 1), state, lua_topointer(L, 1));
  } else {
    concur_task_push_name(L, 1, task);
    lua_pushfstring(L, "concur.Task '%s' (%s): %p", lua_tostring(L, -1), state,
                    lua_topointer(L, 1));
  }
  return 1;
}

/* ---- futures settled by hand ---- */

static void manual_cancel(lua_State *L, concur_runtime *runtime, int index, concur_future *future,
                          int reason) {
  (void)runtime;
  if (reason != 0) {
    lua_pushvalue(L, reason);
  } else {
    lua_pushnil(L);
  }
  future->cancel_requested = true;
  concur_future_set_cancelled(L, lua_absindex(L, index), future);
}

static void manual_cancel_quietly(concur_runtime *runtime, concur_future *future) {
  (void)runtime;
  future->cancel_requested = true;
  concur_future_settle(future, CONCUR_CANCELLED);
}

static const concur_future_ops manual_ops = {manual_cancel, manual_cancel_quietly, NULL, NULL};

/*@lua
---A future to be settled by hand.
---@return concur.Future
function concur.Future() end

---Settles a future made with `concur.Future()`; never suspends.
---@param ... any the results
---@return boolean settled false when it had settled already
function Future:set_result(...) end

---Settles a future made with `concur.Future()` with an error, any value; never suspends.
---@param error any
---@return boolean settled false when it had settled already
function Future:set_exception(error) end
*/
static int l_future(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_future *future =
      concur_class_new(L, runtime, CONCUR_CLASS_FUTURE, sizeof *future, 1);
  concur_future_init(future, &manual_ops);
  return 1;
}

static int l_future_set_result(lua_State *L) {
  concur_future *future = concur_class_check(L, 1, CONCUR_CLASS_FUTURE);
  bool settled = !concur_future_settled(future) &&
                 concur_future_set_results(L, 1, future, lua_gettop(L) - 1);
  lua_pushboolean(L, settled);
  return 1;
}

static int l_future_set_exception(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_future *future = concur_class_check(L, 1, CONCUR_CLASS_FUTURE);
  lua_settop(L, 2);
  bool settled = !concur_future_settled(future) &&
                 concur_future_set_error(L, runtime, 1, future, 0);
  lua_pushboolean(L, settled);
  return 1;
}

/* ---- tasks ---- */

/*@lua
---Starts a background task; it runs `fn(...)` from the loop's next turn on.  It inherits the
---context variables and no cancel scope; its error belongs to whoever retrieves it.  Never suspends.
---@param fn function
---@param ... any its arguments
---@return concur.Task
function concur.spawn(fn, ...) end
*/
static int l_spawn(lua_State *L) {
  concur_runtime *runtime = concur_runtime_here(L);
  concur_check_callable(L, 1);
  concur_task_spawn(L, runtime, lua_gettop(L) - 1, NULL, NULL);
  return 1;
}

static concur_task *check_task(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_TASK);
}

/*@lua
---A function that runs at the same time as others; also a `concur.Future` of its end.
---@class concur.Task : concur.Future
local Task = {}

---@return string name "Task-1", ... unless it was given one
function Task:name() end

---@param name string
function Task:set_name(name) end

---The stack of a task that has not ended, or the first traceback of its error.
---@return string|nil
function Task:traceback() end

---What a parked task waits for ("sleep", "future", ...), and the future if it is one.
---@return string|nil kind nil when it does not wait
function Task:awaiting() end

---Ends a parked task that keeps refusing to be cancelled, shields included: its `<close>` variables
---run (a wait in them raises), it settles as cancelled.
---@return boolean killed false when it was not parked
function Task:kill() end
*/
static int l_task_name(lua_State *L) {
  concur_task_push_name(L, 1, check_task(L));
  return 1;
}

static int l_task_set_name(lua_State *L) {
  concur_task *task = check_task(L);
  luaL_checkstring(L, 2);
  lua_settop(L, 2);
  concur_task_set_name(L, 1, task);
  return 0;
}

static int l_task_traceback(lua_State *L) {
  concur_task *task = check_task(L);
  if (task->future.state == CONCUR_FAILED) {
    concur_future_push_traceback(L, 1);
    return 1;
  }
  if (task->body == NULL || task->body->fiber.co == NULL) {
    lua_pushnil(L);
  } else {
    luaL_traceback(L, task->body->fiber.leaf, NULL, 0);
  }
  return 1;
}

static int l_task_awaiting(lua_State *L) {
  concur_body *body = check_task(L)->body;
  if (body == NULL || body->fiber.state != CONCUR_FIBER_PARKED) {
    lua_pushnil(L);
    return 1;
  }
  lua_pushstring(L, body->fiber.wait->name);
  if (body->fiber.wait == &wait_future && concur_fiber_intact(&body->fiber)) {
    lua_State *leaf = body->fiber.leaf; /* the future is the first argument of its wait */
    if (lua_checkstack(leaf, 1)) {
      lua_pushvalue(leaf, 1);
      lua_xmove(leaf, L, 1);
      return 2;
    }
  }
  return 1;
}

static int l_task_kill(lua_State *L) {
  lua_pushboolean(L, concur_task_kill(L, check_task(L)));
  return 1;
}

/*@lua
---The task whose code runs now; nil at top level and in callbacks.
---@return concur.Task|nil
function concur.current_task() end

---All tasks that have not ended.
---@return concur.Task[]
function concur.all_tasks() end
*/
static int l_current_task(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_fiber *fiber = runtime->scheduler->current;
  if (fiber == NULL) {
    lua_pushnil(L);
  } else {
    concur_body_push_task(L, runtime, concur_body_of_fiber(fiber));
  }
  return 1;
}

/* core.may_wait(): false where a wait would raise, as in the clean-up of a task that was killed. */
static int l_may_wait(lua_State *L) {
  lua_pushboolean(L, concur_fiber_may_wait(L, concur_runtime_of(L)));
  return 1;
}

static int l_all_tasks(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_scheduler *scheduler = runtime->scheduler;
  lua_createtable(L, (int)scheduler->task_count, 0);
  lua_Integer count = 0;
  for (concur_node *node = scheduler->tasks.next; node != &scheduler->tasks; node = node->next) {
    concur_body_push_task(L, runtime, concur_container_of(node, concur_body, link));
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

/* ---- registration ---- */

#define FUTURE_METHODS                                                                      \
  {"result", l_future_result}, {"state", l_future_state}, {"done", l_future_done},          \
      {"cancelled", l_future_cancelled}, {"exception", l_future_exception},                 \
      {"cancel", l_future_cancel}, {"add_done_callback", l_future_add_done_callback}

void concur_await_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg future_methods[] = {FUTURE_METHODS,
                                     {"set_result", l_future_set_result},
                                     {"set_exception", l_future_set_exception},
                                     {NULL, NULL}};
  const luaL_Reg job_methods[] = {FUTURE_METHODS, {NULL, NULL}};
  const luaL_Reg task_methods[] = {FUTURE_METHODS,
                                   {"name", l_task_name},
                                   {"set_name", l_task_set_name},
                                   {"traceback", l_task_traceback},
                                   {"awaiting", l_task_awaiting},
                                   {"kill", l_task_kill},
                                   {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__tostring", l_future_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"await", l_await},
                                {"Future", l_future},
                                {"spawn", l_spawn},
                                {"current_task", l_current_task},
                                {"may_wait", l_may_wait},
                                {"all_tasks", l_all_tasks},
                                {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_FUTURE, "concur.Future", future_methods,
                      metamethods);
  concur_class_define(L, runtime, CONCUR_CLASS_JOB_FUTURE, "concur.JobFuture", job_methods,
                      metamethods);
  concur_class_define(L, runtime, CONCUR_CLASS_TASK, "concur.Task", task_methods, metamethods);
  concur_register(L, runtime, functions);
}
