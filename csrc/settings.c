/* SPDX-License-Identifier: MIT */
/* See settings.h.  The Lua side checks what users give and restores what was there. [loop thread] */
#include "settings.h"

#include <stdio.h>

#include "callback.h"
#include "report.h"
#include "sigint.h"
#include "task_pool.h"

/* ---- settings ---- */

/* core.handle_sigint(boolean) -> what it was */
static int l_handle_sigint(lua_State *L) {
  concur_scheduler *scheduler = concur_runtime_of(L)->scheduler;
  luaL_checktype(L, 1, LUA_TBOOLEAN);
  bool old = !scheduler->ignore_sigint;
  scheduler->ignore_sigint = !lua_toboolean(L, 1);
  lua_pushboolean(L, old);
  return 1;
}

/* core.set_on_error(function or nil) -> what it was */
static int l_set_on_error(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  if (!lua_isnoneornil(L, 1)) concur_check_callable(L, 1);
  lua_settop(L, 1);
  lua_pushliteral(L, "on_error");
  lua_insert(L, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
  lua_pushvalue(L, 1);
  lua_rawget(L, 3);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, 2);
  lua_rawset(L, 3);
  return 1;
}

/* core.shuffle(seed or nil): the order of ready tasks follows the seed. */
static int l_shuffle(lua_State *L) {
  concur_loop *loop = concur_scheduler_loop(L, concur_runtime_of(L)->scheduler);
  if (lua_isnoneornil(L, 1)) {
    loop->shuffle = 0;
  } else {
    loop->shuffle = (uint64_t)luaL_checkinteger(L, 1) * UINT64_C(0x9E3779B97F4A7C15) + 1;
    loop->overtakes = concur_task_overtakes;
  }
  concur_loop_specials(loop);
  return 0;
}

/* core.slow_callback(seconds or nil) */
static int l_slow_callback(lua_State *L) {
  concur_loop *loop = concur_scheduler_loop(L, concur_runtime_of(L)->scheduler);
  loop->slow_ns = lua_isnoneornil(L, 1) ? 0 : concur_check_duration(L, 1);
  concur_loop_specials(loop);
  return 0;
}

static int l_die_by_sigint(lua_State *L) {
  (void)L;
  (void)fflush(NULL);
  concur_sigint_die();
  return 0;
}

/* ---- virtual clocks ---- */

typedef struct virtual_clock {
  uint64_t now_ns;
  concur_loop *loop; /* whose clock it is now; NULL: nobody's */
} virtual_clock;

static int l_clock(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  lua_Number start = luaL_optnumber(L, 1, 0);
  virtual_clock *clock = concur_class_new(L, runtime, CONCUR_CLASS_CLOCK, sizeof *clock, 0);
  clock->now_ns = concur_seconds_to_ns(start);
  return 1;
}

static virtual_clock *check_clock(lua_State *L, int index) {
  return concur_class_check(L, index, CONCUR_CLASS_CLOCK);
}

/* The clock counts for the loop that uses it, if that is still there. */
static bool clock_in_use(lua_State *L, const virtual_clock *clock) {
  concur_loop *loop = concur_runtime_of(L)->loop;
  return loop != NULL && clock->loop == loop && loop->is_virtual;
}

static int l_clock_now(lua_State *L) {
  virtual_clock *clock = check_clock(L, 1);
  uint64_t now = clock_in_use(L, clock) ? clock->loop->virtual_ns : clock->now_ns;
  lua_pushnumber(L, (lua_Number)now / 1e9);
  return 1;
}

static int l_clock_advance(lua_State *L) {
  virtual_clock *clock = check_clock(L, 1);
  uint64_t delta = concur_check_duration(L, 2);
  luaL_argcheck(L, delta < CONCUR_NEVER / 2, 2, "too far");
  *(clock_in_use(L, clock) ? &clock->loop->virtual_ns : &clock->now_ns) += delta;
  return 0;
}

static int l_clock_tostring(lua_State *L) {
  virtual_clock *clock = check_clock(L, 1);
  (void)l_clock_now(L);
  lua_pushfstring(L, "concur.testing.Clock (%s, at %f): %p",
                  clock_in_use(L, clock) ? "in use" : "idle", lua_tonumber(L, -1),
                  lua_topointer(L, 1));
  return 1;
}

/* core.use_clock(clock or nil): the loop's clock becomes virtual, or real again. */
static int l_use_clock(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  virtual_clock *clock = lua_isnoneornil(L, 1) ? NULL : check_clock(L, 1);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  concur_callback_drop_timers(L, runtime); /* calls that were never due */
  if (loop->timers.count > 0) {
    return concur_error_raise(L, runtime, "InvalidState",
                              "cannot change the clock while timers are pending");
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->settings_ref);
  lua_getfield(L, -1, "clock");
  virtual_clock *old = concur_class_test(L, -1, CONCUR_CLASS_CLOCK);
  if (old != NULL && loop->is_virtual && old->loop == loop) old->now_ns = loop->virtual_ns;
  if (old != NULL) old->loop = NULL;
  loop->is_virtual = clock != NULL;
  if (clock != NULL) {
    clock->loop = loop;
    loop->virtual_ns = clock->now_ns;
  }
  lua_pushvalue(L, 1);
  lua_setfield(L, -3, "clock");
  return 1; /* the old one */
}

/* ---- looking ---- */

static void count_handle(uv_handle_t *handle, void *data) {
  if (!uv_is_closing(handle)) ++*(lua_Integer *)data;
}

static void set_count(lua_State *L, const char *name, lua_Integer count) {
  lua_pushinteger(L, count);
  lua_setfield(L, -2, name);
}

/* core.counters() -> what is alive now; makes no loop. */
static int l_counters(lua_State *L) {
  concur_scheduler *scheduler = concur_runtime_of(L)->scheduler;
  concur_loop *loop = scheduler->loop;
  lua_Integer handles = 0;
  if (loop != NULL) {
    uv_walk(&loop->uv, count_handle, &handles);
    handles -= 2; /* the loop's own timer and async */
  }
  lua_createtable(L, 0, 6);
  set_count(L, "tasks", scheduler->task_count);
  set_count(L, "scopes", scheduler->scope_count);
  set_count(L, "timers", loop != NULL ? loop->timers.count : 0);
  set_count(L, "jobs", loop != NULL ? loop->external_refs : 0);
  set_count(L, "handles", handles);
  return 1;
}

static int l_switches(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)concur_runtime_of(L)->scheduler->switches);
  return 1;
}

/* core.idle_coroutines() -> how many wait for a task */
static int l_idle_coroutines(lua_State *L) {
  lua_pushinteger(L, concur_coroutines_idle(concur_runtime_of(L)->scheduler));
  return 1;
}

/* ---- errors, for what is written in Lua ---- */

/* core.rethrow(e): raises an error caught just now again, with its first traceback. */
static int l_rethrow(lua_State *L) {
  lua_settop(L, 1);
  return concur_fiber_rethrow(L, concur_fiber_current(concur_runtime_of(L)->scheduler));
}

/* core.first_traceback(e) -> string or nil */
static int l_first_traceback(lua_State *L) {
  lua_settop(L, 1);
  concur_fiber_push_trace(L, concur_fiber_current(concur_runtime_of(L)->scheduler), 1);
  return 1;
}

/* core.report(e, what [, traceback]): to on_error at the loop's next turn. */
static int l_report(lua_State *L) {
  luaL_checkany(L, 1);
  const char *what = luaL_checkstring(L, 2);
  concur_report(L, concur_runtime_of(L), 1, lua_isstring(L, 3) ? 3 : 0, what);
  return 0;
}

void concur_settings_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"set_on_error", l_set_on_error},
                                {"handle_sigint", l_handle_sigint},
                                {"shuffle", l_shuffle},
                                {"slow_callback", l_slow_callback},
                                {"die_by_sigint", l_die_by_sigint},
                                {"Clock", l_clock},
                                {"use_clock", l_use_clock},
                                {"counters", l_counters},
                                {"switches", l_switches},
                                {"idle_coroutines", l_idle_coroutines},
                                {"rethrow", l_rethrow},
                                {"first_traceback", l_first_traceback},
                                {"report", l_report},
                                {NULL, NULL}};
  const luaL_Reg clock_methods[] = {
      {"now", l_clock_now}, {"advance", l_clock_advance}, {NULL, NULL}};
  const luaL_Reg clock_metamethods[] = {{"__tostring", l_clock_tostring}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_CLOCK, "concur.testing.Clock", clock_methods,
                      clock_metamethods);
  concur_register(L, runtime, functions);
}
