/* SPDX-License-Identifier: MIT */
/*
 * concur.suspend(start): parks the task until `resume(...)` or `fail(error)` is called.
 *
 * What connects the two functions with the wait is a *resumer*, a userdata (user value 1: the values
 * or the error).  It is settled at most once; a call after that returns false, so that the caller
 * can dispose of what it brought.
 *
 * Frame: 1 start, 2 the resumer, 3 what start returned (on_cancel or nil).  Cancellation wakes the
 * task, which then asks on_cancel in its own coroutine: `false` means "cannot be stopped".
 *                                                                            [loop thread]
 */
#include "suspend.h"

#include "fiber.h"

typedef enum resumer_state { WAITING, RESUMED, FAILED, OVER } resumer_state;

typedef struct resumer {
  concur_fiber *fiber; /* parked on this while `parked` */
  int count;           /* values */
  resumer_state state;
  bool parked;
  bool cancel_asked;  /* woken by cancellation, on_cancel not asked yet */
  bool unstoppable;   /* on_cancel said no */
} resumer;

static bool suspend_abort(concur_fiber *fiber) {
  resumer *self = fiber->target;
  if (self->unstoppable || self->cancel_asked) return false;
  self->cancel_asked = true;
  self->parked = false;
  concur_fiber_wake(fiber, CONCUR_OUTCOME_VALUE); /* it asks on_cancel and raises itself */
  return false;
}

static void suspend_detach(concur_fiber *fiber) {
  resumer *self = fiber->target;
  self->parked = false;
  self->state = OVER;
}

static const concur_wait wait_suspend = {
    .name = "suspend", .abort = suspend_abort, .detach = suspend_detach};

/* ---- resume and fail: upvalue 2 is the resumer ---- */

static int settle(lua_State *L, resumer_state state) {
  resumer *self = lua_touserdata(L, lua_upvalueindex(2));
  if (self->state != WAITING) {
    lua_pushboolean(L, 0);
    return 1;
  }
  int count = lua_gettop(L);
  if (state == FAILED) {
    lua_settop(L, 1);
    count = 1;
  }
  if (count > 1) {
    lua_createtable(L, count, 0);
    lua_insert(L, 1);
    for (int i = count; i > 0; i--) lua_rawseti(L, 1, i);
  }
  if (self->state != WAITING) { /* a finalizer was faster */
    lua_pushboolean(L, 0);
    return 1;
  }
  if (count > 0) lua_setiuservalue(L, lua_upvalueindex(2), 1);
  self->count = count;
  self->state = state;
  if (self->parked) {
    self->parked = false;
    concur_fiber_wake(self->fiber, CONCUR_OUTCOME_VALUE);
  }
  lua_pushboolean(L, 1);
  return 1;
}

static int l_resume(lua_State *L) {
  return settle(L, RESUMED);
}

static int l_fail(lua_State *L) {
  return settle(L, FAILED);
}

/* ---- the wait ---- */

static int finish(lua_State *L, resumer *self) {
  resumer_state how = self->state;
  self->state = OVER;
  int count = self->count;
  if (count == 0) return 0;
  lua_getiuservalue(L, 2, 1);
  if (how == FAILED) return lua_error(L);
  if (count == 1) return 1;
  int packed = lua_gettop(L);
  luaL_checkstack(L, count, "too many values");
  for (int i = 1; i <= count; i++) lua_rawgeti(L, packed, i);
  return count;
}

static int suspend_woken(lua_State *L, concur_fiber *fiber);

static int suspend_park(lua_State *L, concur_fiber *fiber, resumer *self) {
  (void)concur_scheduler_loop(L, fiber->scheduler); /* the script's function may have closed the loop */
  self->fiber = fiber;
  self->parked = true;
  return concur_fiber_park(L, fiber, &wait_suspend, self, suspend_woken);
}

static int suspend_woken(lua_State *L, concur_fiber *fiber) {
  resumer *self = lua_touserdata(L, 2);
  lua_settop(L, 3);
  if (self->state != WAITING) return finish(L, self); /* the value stands, cancelled or not */
  self->cancel_asked = false;
  if (lua_isfunction(L, 3)) {
    concur_scope *scope = concur_scope_outermost_cancelled(fiber->scope);
    lua_pushvalue(L, 3);
    if (scope != NULL) {
      concur_scope_push_reason(L, fiber->scheduler->runtime, scope);
    } else {
      lua_pushnil(L);
    }
    lua_call(L, 1, 1);
    if (self->state != WAITING) return finish(L, self);
    if (lua_isboolean(L, -1) && !lua_toboolean(L, -1)) {
      self->unstoppable = true;
      lua_settop(L, 3);
      return suspend_park(L, fiber, self);
    }
  }
  self->state = OVER;
  return concur_fiber_raise_cancelled(L, fiber);
}

static int suspend_begin(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  lua_settop(L, 1);
  resumer *self = concur_class_new(L, runtime, CONCUR_CLASS_RESUMER, sizeof *self, 1);
  lua_pushvalue(L, 1);
  const lua_CFunction functions[] = {l_resume, l_fail};
  for (int i = 0; i < 2; i++) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, functions[i], 2);
  }
  lua_pushcfunction(L, concur_traceback_handler);
  lua_insert(L, 3);
  if (lua_pcall(L, 2, 1, 3) != LUA_OK) {
    self->state = OVER; /* a late resume must know that nobody takes what it brings */
    return concur_fiber_rethrow(L, fiber);
  }
  lua_remove(L, 3);
  if (!lua_isnil(L, 3) && !lua_isfunction(L, 3)) {
    self->state = OVER;
    return luaL_error(L, "the function given to 'suspend' must return a function (on_cancel) or "
                         "nothing, not %s", luaL_typename(L, 3));
  }
  if (self->state != WAITING) return finish(L, self);
  return suspend_park(L, fiber, self);
}

/*@lua
---The bridge to callback APIs: calls `start(resume, fail)`, then suspends until one of them is
---called; returns the arguments of `resume`, raises the argument of `fail`.  Both return `false` when
---it is too late.  `start` may return `on_cancel(reason)`, called when the wait is cancelled: unless it
---returns `false` ("cannot be stopped"), `Cancelled` is raised.
---@async
---@param start fun(resume: fun(...): boolean, fail: fun(error: any): boolean): fun(reason: any): boolean?|nil
---@return any ...
function concur.suspend(start) end
*/
static int l_suspend(lua_State *L) {
  concur_check_callable(L, 1);
  return concur_fiber_begin(L, suspend_begin);
}

void concur_suspend_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"suspend", l_suspend}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_RESUMER, "concur.Resumer", NULL, NULL);
  concur_register(L, runtime, functions);
}
