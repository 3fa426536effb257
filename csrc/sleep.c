/* SPDX-License-Identifier: MIT */
/* Waiting for the time alone, and giving way.                                [loop thread] */
#include "sleep.h"

static const concur_wait wait_sleep = {.name = "sleep"};

static int slept(lua_State *L, concur_fiber *fiber) {
  (void)L;
  return fiber->base - 1; /* the other arguments */
}

static int sleep_wait(lua_State *L, concur_fiber *fiber) {
  uint64_t delay = concur_check_duration(L, 1);
  if (delay == 0) return concur_fiber_yield(L, fiber, slept);
  concur_fiber_arm(L, fiber, concur_deadline_after(fiber->scheduler->loop, delay));
  return concur_fiber_park(L, fiber, &wait_sleep, NULL, slept);
}

/*@lua
---Suspends for at least `seconds` and returns the other arguments; `sleep(0)` lets every other ready
---task run once.
---@async
---@param seconds number NaN is an argument error, negative counts as 0, `math.huge` is for ever
---@param ... any
---@return any ...
function concur.sleep(seconds, ...) end

---Lets every other ready task run once, and raises if the task is cancelled.
---@async
function concur.checkpoint() end

---Suspends until cancelled.
---@async
function concur.sleep_forever() end
*/
CONCUR_RARE static int sleep_for_long(lua_State *L) {
  (void)concur_check_duration(L, 1);
  return concur_fiber_begin(L, sleep_wait);
}

static int l_sleep(lua_State *L) {
  int is_integer;
  if (lua_tointegerx(L, 1, &is_integer) != 0 || !is_integer) return sleep_for_long(L);
  concur_fiber *fiber = concur_fiber_ready_here(L);
  return fiber != NULL ? concur_fiber_yield(L, fiber, slept) : sleep_for_long(L);
}

static int nothing(lua_State *L, concur_fiber *fiber) {
  (void)L;
  (void)fiber;
  return 0;
}

static int checkpoint_wait(lua_State *L, concur_fiber *fiber) {
  return concur_fiber_yield(L, fiber, nothing);
}

static int l_checkpoint(lua_State *L) {
  return concur_fiber_begin(L, checkpoint_wait);
}

/* core.checkpoint_if_cancelled(): raises if cancelled, switches only if it was not for too long; the
   way in for waits written in Lua that can finish at once. */
static int l_checkpoint_if_cancelled(lua_State *L) {
  lua_settop(L, 0);
  return concur_fiber_begin(L, nothing);
}

static int sleep_forever_wait(lua_State *L, concur_fiber *fiber) {
  return concur_fiber_park(L, fiber, &wait_sleep, NULL, nothing);
}

static int l_sleep_forever(lua_State *L) {
  return concur_fiber_begin(L, sleep_forever_wait);
}

void concur_sleep_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"sleep", l_sleep},
                                {"checkpoint", l_checkpoint},
                                {"checkpoint_if_cancelled", l_checkpoint_if_cancelled},
                                {"sleep_forever", l_sleep_forever},
                                {NULL, NULL}};
  concur_register(L, runtime, functions);
}
