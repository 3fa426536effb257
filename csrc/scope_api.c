/* SPDX-License-Identifier: MIT */
/*
 * The functions that open a cancel scope, and what scripts see of one.
 *
 * Frame of each such function: 1 the scope's id (or its handle), 2 the message handler, 3 the body,
 * then its arguments.  The body runs under lua_pcallk, so it may wait, and scope_done runs exactly
 * once when it is over.                                                      [loop thread]
 */
#include <math.h>

#include "fiber.h"

enum { MODE_SCOPE, MODE_TIMEOUT, MODE_MOVE_ON, MODE_SHIELD };

static int raise_timeout(lua_State *L, concur_runtime *runtime, uint64_t delay_ns) {
  if (delay_ns == CONCUR_NEVER) {
    return concur_error_raise(L, runtime, "TimeoutError", "the deadline has passed");
  }
  return concur_error_raise(L, runtime, "TimeoutError", "timed out after %f seconds",
                            (LUAI_UACNUMBER)((lua_Number)delay_ns / 1e9));
}

/* The scope's own Cancelled reached its edge. */
static int scope_caught(lua_State *L, concur_runtime *runtime, const concur_scope *left) {
  lua_settop(L, 0);
  if (left->mode == MODE_TIMEOUT && left->timed_out) {
    return raise_timeout(L, runtime, left->delay_ns);
  }
  if (left->mode == MODE_TIMEOUT || left->mode == MODE_SHIELD) return 0;
  lua_pushboolean(L, 0);
  return 1;
}

/* Passes the error on top on; a Cancelled whose scope is not around here is a mistake. */
int concur_scope_pass_on(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  if (concur_scope_replace_stale(L, runtime, fiber->scope)) return lua_error(L);
  return concur_fiber_rethrow(L, fiber);
}

static uint64_t frame_id(lua_State *L) {
  if (lua_isinteger(L, 1)) return (uint64_t)lua_tointeger(L, 1);
  return ((concur_scope_handle *)lua_touserdata(L, 1))->id;
}

static int raise_out_of_order(lua_State *L, concur_runtime *runtime) {
  return concur_error_raise(L, runtime, "InvalidState",
                            "a cancel scope was left out of order: a coroutine that opened one "
                            "was suspended or closed before the scope ended");
}

static int scope_done(lua_State *L, int status, lua_KContext context) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_scope *scope = (concur_scope *)context;
  if (scope->id != frame_id(L)) return raise_out_of_order(L, runtime);
  concur_fiber *fiber = scope->fiber;
  bool failed = status != LUA_OK && status != LUA_YIELD;
  bool own_cancelled = failed && concur_cancelled_id(L, runtime, -1) == scope->id;
  scope->caught = own_cancelled && (scope->shield || !scope->parent->cancelled);
  concur_scope left = *scope; /* its flags outlive it */
  if (!concur_scope_leave(L, fiber, scope)) return raise_out_of_order(L, runtime);
  if (own_cancelled && !left.caught) { /* of several cancelled scopes the outermost catches */
    return concur_fiber_raise_cancelled(L, fiber);
  }
  if (left.caught) return scope_caught(L, runtime, &left);
  if (failed) return concur_scope_pass_on(L, fiber);
  if (left.mode == MODE_TIMEOUT || left.mode == MODE_SHIELD) return lua_gettop(L) - 2;
  lua_pushboolean(L, 1);
  lua_replace(L, 2);
  return lua_gettop(L) - 1;
}

/* Stack: anything, handler, body, arguments.  Runs the body in a new scope. */
static int scope_run(lua_State *L, concur_scope *scope) {
  lua_KContext context = (lua_KContext)scope;
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 2, context, scope_done);
  return scope_done(L, status, context);
}

/* Stack: seconds, body, arguments. */
static int run_with_deadline(lua_State *L, int mode, bool absolute) {
  concur_runtime *runtime = concur_runtime_of(L);
  uint64_t delay = concur_check_duration(L, 1);
  concur_check_callable(L, 2);
  concur_fiber *fiber = concur_fiber_enter(L, runtime);
  concur_loop *loop = fiber->scheduler->loop;
  luaL_checkstack(L, 6, NULL);
  concur_scope_prepare(L, fiber);
  if (!concur_loop_reserve_timer(loop)) return luaL_error(L, "not enough memory");
  lua_pushcfunction(L, concur_traceback_handler);
  lua_insert(L, 2);
  concur_scope *scope = concur_scope_enter(L, fiber);
  scope->mode = (uint8_t)mode;
  scope->delay_ns = absolute ? CONCUR_NEVER : delay;
  lua_pushinteger(L, (lua_Integer)scope->id);
  lua_replace(L, 1);
  concur_scope_set_deadline(L, fiber->scheduler, scope,
                            absolute ? delay : concur_deadline_after(loop, delay));
  return scope_run(L, scope);
}

/*@lua
---Calls `fn(...)` and returns its results; raises `TimeoutError` if it was not done after `seconds`
---and ended by that (it is cancelled, and its clean-up awaited).
---@async
---@param seconds number
---@param fn function
---@param ... any arguments of fn
---@return any ...
function concur.timeout(seconds, fn, ...) end

---The same with a deadline on the loop's clock (`concur.now()`).
---@async
---@param deadline number seconds on the loop's clock
---@param fn function
---@param ... any
---@return any ...
function concur.timeout_at(deadline, fn, ...) end

---Calls `fn(...)`; returns `true` and its results, or `false` when time ran out and ended it.
---@async
---@param seconds number
---@param fn function
---@param ... any
---@return boolean in_time
---@return any ...
function concur.move_on_after(seconds, fn, ...) end

---The same with a deadline on the loop's clock.
---@async
---@param deadline number
---@param fn function
---@param ... any
---@return boolean in_time
---@return any ...
function concur.move_on_at(deadline, fn, ...) end
*/
static int l_timeout(lua_State *L) {
  return run_with_deadline(L, MODE_TIMEOUT, false);
}

static int l_timeout_at(lua_State *L) {
  return run_with_deadline(L, MODE_TIMEOUT, true);
}

static int l_move_on_after(lua_State *L) {
  return run_with_deadline(L, MODE_MOVE_ON, false);
}

static int l_move_on_at(lua_State *L) {
  return run_with_deadline(L, MODE_MOVE_ON, true);
}

/* The options of concur.cancel_scope at `index`. */
static void scope_options(lua_State *L, int index, uint64_t *deadline_ns, bool *shield) {
  static const char *const names[] = {"deadline", "shield", NULL};
  *deadline_ns = CONCUR_NEVER;
  *shield = false;
  if (lua_isnoneornil(L, index)) return;
  luaL_checktype(L, index, LUA_TTABLE);
  concur_check_options(L, index, names);
  if (lua_getfield(L, index, "deadline") != LUA_TNIL) {
    lua_Number deadline = lua_tonumber(L, -1);
    if (!lua_isnumber(L, -1) || isnan(deadline)) {
      luaL_argerror(L, index, "option 'deadline' must be a number of seconds");
    }
    *deadline_ns = concur_seconds_to_ns(deadline);
  }
  if (lua_getfield(L, index, "shield") != LUA_TNIL && !lua_isboolean(L, -1)) {
    luaL_argerror(L, index, "option 'shield' must be a boolean");
  }
  *shield = lua_toboolean(L, -1);
  lua_pop(L, 2);
}

/*@lua
---Calls `fn(scope)`; everything that waits inside can be cancelled with `scope:cancel()`.
---Returns `true` and the results of `fn`, or `false` when the scope's cancellation ended it.
---@async
---@param fn fun(scope: concur.CancelScope): any ...
---@param options? {deadline?: number, shield?: boolean} deadline on the loop's clock
---@return boolean completed
---@return any ...
function concur.cancel_scope(fn, options) end
*/
static int l_cancel_scope(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  uint64_t deadline_ns;
  bool shield;
  concur_check_callable(L, 1);
  scope_options(L, 2, &deadline_ns, &shield);
  concur_fiber *fiber = concur_fiber_enter(L, runtime);
  concur_scheduler *scheduler = fiber->scheduler;
  lua_settop(L, 1);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_insert(L, 1);
  concur_scope_handle *handle =
      concur_class_new(L, runtime, CONCUR_CLASS_SCOPE, sizeof *handle, 0);
  lua_insert(L, 1);
  lua_pushvalue(L, 1);
  concur_scope_prepare(L, fiber);
  if (!concur_loop_reserve_timer(scheduler->loop)) return luaL_error(L, "not enough memory");
  concur_scope *scope = concur_scope_enter_with_handle(L, fiber, handle);
  scope->mode = MODE_SCOPE;
  if (shield) concur_scope_set_shield(scope, true);
  concur_scope_set_deadline(L, scheduler, scope, deadline_ns);
  return scope_run(L, scope);
}

/*@lua
---Calls `fn(...)` so that no cancellation from outside enters, and returns its results.
---@async
---@param fn function
---@param ... any
---@return any ...
function concur.shield(fn, ...) end
*/
static int l_shield(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_check_callable(L, 1);
  concur_fiber *fiber = concur_fiber_enter(L, runtime);
  luaL_checkstack(L, 6, NULL);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_insert(L, 1);
  lua_pushnil(L);
  lua_insert(L, 1);
  concur_scope *scope = concur_scope_enter(L, fiber);
  scope->mode = MODE_SHIELD;
  lua_pushinteger(L, (lua_Integer)scope->id);
  lua_replace(L, 1);
  concur_scope_set_shield(scope, true);
  return scope_run(L, scope);
}

/* ---- the handle ---- */

/*@lua
---A cancel scope, while it is open and (for looking) after.
---@class concur.CancelScope
local CancelScope = {}

---Cancels everything that waits inside, until the scope is left; never suspends.
---@param reason? any the first one wins
---@return boolean requested true the first time
function CancelScope:cancel(reason) end

---The deadline; given one, sets it (`math.huge`: none).  Raises `InvalidState` to set it on a scope
---that was left.
---@param deadline? number seconds on the loop's clock
---@return number deadline
function CancelScope:deadline(deadline) end

---Whether cancellation from outside is kept out; given a boolean, sets it.
---@param shield? boolean
---@return boolean
function CancelScope:shield(shield) end

---@return boolean called somebody, or the deadline, has cancelled this scope
function CancelScope:cancel_called() end

---@return boolean caught its cancellation ended the body
function CancelScope:cancelled_caught() end
*/
static concur_scope_handle *check_handle(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_SCOPE);
}

/* The scope of the handle, NULL once it was left. */
static concur_scope *live_scope(const concur_scope_handle *handle) {
  return handle->scope->id == handle->id ? handle->scope : NULL;
}

static concur_scope *check_live_scope(lua_State *L) {
  concur_scope *scope = live_scope(check_handle(L));
  if (scope == NULL) {
    concur_error_raise(L, concur_runtime_of(L), "InvalidState", "the cancel scope was left");
  }
  return scope;
}

static int l_scope_cancel(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_scope *scope = live_scope(check_handle(L));
  bool first = scope != NULL && !scope->cancel_called;
  lua_settop(L, 2);
  if (first) concur_scope_cancel_with(L, runtime->scheduler, scope, 2);
  lua_pushboolean(L, first);
  return 1;
}

static lua_Number seconds_of(uint64_t deadline_ns) {
  return deadline_ns == CONCUR_NEVER ? (lua_Number)HUGE_VAL : (lua_Number)deadline_ns / 1e9;
}

static int l_scope_deadline(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  if (!lua_isnoneornil(L, 2)) {
    uint64_t deadline = concur_check_duration(L, 2);
    concur_scope_set_deadline(L, runtime->scheduler, check_live_scope(L), deadline);
  }
  lua_pushnumber(L, seconds_of(check_live_scope(L)->deadline_ns));
  return 1;
}

static int l_scope_shield(lua_State *L) {
  if (!lua_isnoneornil(L, 2)) {
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    concur_scope_set_shield(check_live_scope(L), lua_toboolean(L, 2));
  }
  lua_pushboolean(L, check_live_scope(L)->shield);
  return 1;
}

static int l_scope_cancel_called(lua_State *L) {
  concur_scope_handle *handle = check_handle(L);
  concur_scope *scope = live_scope(handle);
  lua_pushboolean(L, scope != NULL ? scope->cancel_called : handle->cancel_called);
  return 1;
}

static int l_scope_cancelled_caught(lua_State *L) {
  lua_pushboolean(L, check_handle(L)->caught);
  return 1;
}

static int l_scope_tostring(lua_State *L) {
  concur_scope_handle *handle = check_handle(L);
  concur_scope *scope = live_scope(handle);
  const char *state = scope == NULL ? "left" : scope->cancel_called ? "cancelled" : "open";
  lua_pushfstring(L, "concur.CancelScope (%s): %p", state, lua_topointer(L, 1));
  return 1;
}

/* ---- looking around ---- */

/*@lua
---The innermost cancel scope (or group) that the running task has opened; nil outside of any.
---@return concur.CancelScope|nil
function concur.current_scope() end

---The earliest deadline that applies to a wait here: `math.huge` when there is none, `-math.huge`
---when the wait would be cancelled at once.
---@return number seconds on the loop's clock
function concur.effective_deadline() end
*/
static int l_current_scope(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_fiber *fiber = concur_fiber_current(runtime->scheduler);
  if (fiber->scope->own) {
    lua_pushnil(L);
  } else {
    concur_scope_push_handle(L, runtime, fiber->scope);
  }
  return 1;
}

static int l_effective_deadline(lua_State *L) {
  concur_fiber *fiber = concur_fiber_current(concur_runtime_of(L)->scheduler);
  const concur_scope *scope = fiber->scope; /* never NULL: the outermost is the fiber's own */
  bool cancelled = scope->cancelled;
  uint64_t earliest = scope->deadline_ns;
  while (!scope->shield && scope->parent != NULL) {
    scope = scope->parent;
    if (scope->deadline_ns < earliest) earliest = scope->deadline_ns;
  }
  lua_pushnumber(L, cancelled ? -(lua_Number)HUGE_VAL : seconds_of(earliest));
  return 1;
}

/* ---- pcall and xpcall that let Cancelled pass ---- */

static int pcall_done(lua_State *L, int status, lua_KContext first) {
  concur_runtime *runtime = concur_runtime_of(L);
  bool failed = status != LUA_OK && status != LUA_YIELD;
  if (failed && concur_cancelled_id(L, runtime, -1) != 0) {
    return concur_fiber_rethrow(L, concur_fiber_current(runtime->scheduler));
  }
  lua_pushboolean(L, !failed);
  if (failed) {
    lua_insert(L, -2);
    return 2;
  }
  lua_insert(L, (int)first);
  return lua_gettop(L) - (int)first + 1;
}

/*@lua
---As Lua's `pcall`, but a `Cancelled` error passes through.
---@async
---@param fn function
---@param ... any
---@return boolean ok
---@return any ...
function concur.pcall(fn, ...) end

---As Lua's `xpcall`, but a `Cancelled` error passes through, without the handler.
---@async
---@param fn function
---@param handler function
---@param ... any
---@return boolean ok
---@return any ...
function concur.xpcall(fn, handler, ...) end
*/
static int l_pcall(lua_State *L) {
  luaL_checkany(L, 1);
  int status = lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, 1, pcall_done);
  return pcall_done(L, status, 1);
}

/* Message handler: the user's (upvalue 2), but not for Cancelled. */
static int l_xpcall_handler(lua_State *L) {
  if (concur_cancelled_id(L, concur_runtime_of(L), 1) != 0) return 1;
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  return 1;
}

static int l_xpcall(lua_State *L) {
  luaL_checktype(L, 2, LUA_TFUNCTION);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 2);
  lua_pushcclosure(L, l_xpcall_handler, 2);
  lua_replace(L, 2);
  lua_pushvalue(L, 1); /* function, handler, arguments -> function, handler, function, arguments */
  lua_insert(L, 3);
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 2, 3, pcall_done);
  return pcall_done(L, status, 3);
}

void concur_scope_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"cancel", l_scope_cancel},
                              {"deadline", l_scope_deadline},
                              {"shield", l_scope_shield},
                              {"cancel_called", l_scope_cancel_called},
                              {"cancelled_caught", l_scope_cancelled_caught},
                              {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__tostring", l_scope_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"timeout", l_timeout},
                                {"timeout_at", l_timeout_at},
                                {"move_on_after", l_move_on_after},
                                {"move_on_at", l_move_on_at},
                                {"cancel_scope", l_cancel_scope},
                                {"shield", l_shield},
                                {"current_scope", l_current_scope},
                                {"effective_deadline", l_effective_deadline},
                                {"pcall", l_pcall},
                                {"xpcall", l_xpcall},
                                {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_SCOPE, "concur.CancelScope", methods, metamethods);
  concur_register(L, runtime, functions);
}
