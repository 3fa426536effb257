/* SPDX-License-Identifier: MIT */
/*
 * concur.wrap(fn): as coroutine.wrap, but the body may wait.
 *
 * The body runs in a coroutine of its own, which is the fiber's leaf while it runs.  When it parks
 * the fiber, the consumer's coroutine yields too, up to the scheduler; when the scheduler resumes the
 * task, every generator on the way resumes the next one in, down to the leaf.  A plain
 * coroutine.yield in the body hands its values to the consumer.
 *
 * The body runs under lua_pcallk, so that its `<close>` variables may wait when it fails.
 * User value 1: the coroutine.                                               [loop thread]
 */
#include "generator.h"

#include "task.h"

enum { MOST_REFUSALS = 100 };

typedef enum generator_state { SUSPENDED, RUNNING, OVER } generator_state;

typedef struct generator {
  struct generator *outer; /* the one that called this, in the same fiber, while RUNNING */
  lua_State *co;       /* user value 1 keeps it */
  concur_fiber *fiber; /* whose leaf `co` is while RUNNING in a task; else NULL */
  int slot;            /* anchors this while RUNNING in a task: a stranger can empty the stack that
                          keeps it */
  uint64_t task_id;    /* of that task: its body may get another */
  uint64_t scope_id;   /* the scope that the consumer was in when it called */
  generator_state state;
  bool started;
  bool failed;  /* the body raised: its error is the only result */
  bool closing; /* close() unwinds the body */
  int refused;  /* yields inside a scope that it opened */
} generator;

static generator *check_generator(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_GENERATOR);
}

/* ---- the body ---- */

static char closing_mark; /* its address is the error that unwinds a body that is closed */

static int body_done(lua_State *co, int status, lua_KContext context) {
  generator *self = (generator *)context;
  self->failed = status != LUA_OK && status != LUA_YIELD;
  if (self->failed && lua_touserdata(co, -1) == &closing_mark) {
    self->failed = false;
    return 0;
  }
  return lua_gettop(co) - 2;
}

/* Stack: the generator (which lives as long as its body may go on), message handler, function,
   arguments. */
static int body_main(lua_State *co) {
  lua_KContext context = (lua_KContext)lua_touserdata(co, 1);
  int status = lua_pcallk(co, lua_gettop(co) - 3, LUA_MULTRET, 2, context, body_done);
  return body_done(co, status, context);
}

/* Raises in the body where it yielded: it may not leave a scope that it opened behind. */
static void on_yield_in_scope(lua_State *co, lua_Debug *frame) {
  (void)frame;
  lua_sethook(co, NULL, 0, 0);
  concur_error_raise(co, concur_runtime_find(co), "InvalidState",
                     "a generator yielded inside a cancel scope that it opened: leave the scope "
                     "before yielding");
}

static void on_closing(lua_State *co, lua_Debug *frame) {
  (void)frame;
  lua_sethook(co, NULL, 0, 0);
  lua_pushlightuserdata(co, &closing_mark);
  lua_error(co);
}

/* ---- calling ---- */

static int generator_continue(lua_State *L, int status, lua_KContext context);

/* The body is over: its results, or its error. */
static int generator_over(lua_State *L, generator *self, int results) {
  concur_runtime *runtime = concur_runtime_of(L);
  self->state = OVER;
  luaL_checkstack(L, results, "too many results");
  lua_xmove(self->co, L, results);
  if (!self->failed) return results;
  return concur_fiber_rethrow(L, concur_fiber_current(runtime->scheduler));
}

static bool left_scope_open(const concur_runtime *runtime, const generator *self) {
  return concur_fiber_current(runtime->scheduler)->scope->id != self->scope_id;
}

static int resume_with_error(lua_State *L, generator *self, int *results) {
  lua_pop(self->co, *results);
  lua_sethook(self->co, on_yield_in_scope, LUA_MASKCOUNT, 1);
  int status = lua_resume(self->co, L, 0, results);
  lua_sethook(self->co, NULL, 0, 0);
  return status;
}

/* Resumes the body with `arguments` on its stack; frame: 1 the generator. */
static int generator_resume(lua_State *L, generator *self, int arguments) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_fiber *fiber = self->fiber;
  int results = 0;
  int status = lua_resume(self->co, L, arguments, &results);
  for (;;) {
    bool parked = status == LUA_YIELD && fiber != NULL && fiber->state != CONCUR_FIBER_RUNNING;
    if (parked) return lua_yieldk(L, 0, (lua_KContext)self, generator_continue);
    if (status != LUA_YIELD || self->closing || !left_scope_open(runtime, self)) break;
    if (self->refused++ > MOST_REFUSALS) { /* it catches the error and yields again */
      self->closing = true;
      break;
    }
    status = resume_with_error(L, self, &results);
  }
  if (fiber != NULL) {
    fiber->leaf = L;
    fiber->generators = self->outer;
    concur_anchor_release(L, runtime, self->slot);
  }
  self->fiber = NULL;
  if (status == LUA_YIELD && self->closing) {
    self->state = OVER;
    (void)lua_resetthread(self->co);
    return concur_error_raise(L, runtime, "InvalidState",
                              "the generator was closed: it yielded where it may not");
  }
  if (status == LUA_YIELD) {
    self->state = SUSPENDED;
    luaL_checkstack(L, results, "too many values");
    lua_xmove(self->co, L, results);
    return results;
  }
  if (status != LUA_OK) {
    self->failed = true;
    results = 1;
  }
  return generator_over(L, self, results);
}

static int generator_continue(lua_State *L, int status, lua_KContext context) {
  generator *self = (generator *)context;
  concur_fiber *fiber = self->fiber;
  lua_settop(L, 1);
  if (status != LUA_YIELD) return concur_fiber_stay(L, NULL, context, generator_continue);
  if (fiber == NULL || fiber->quitting || fiber->scheduler->current != fiber ||
      fiber->state != CONCUR_FIBER_RUNNING || concur_task_of_fiber(fiber)->id != self->task_id) {
    return concur_fiber_stay(L, fiber, context, generator_continue); /* resumed by a stranger */
  }
  return generator_resume(L, self, 0);
}

/* Makes the body the leaf of the running task, if this is a place to wait, and resumes it. */
static int generator_enter(lua_State *L, generator *self, int arguments) {
  concur_scheduler *scheduler = concur_runtime_of(L)->scheduler;
  concur_fiber *fiber = scheduler->current;
  if (fiber != NULL && fiber->leaf == L && lua_isyieldable(L)) {
    lua_pushvalue(L, 1);
    self->slot = concur_anchor(L, scheduler->runtime);
    self->fiber = fiber;
    self->task_id = concur_task_of_fiber(fiber)->id;
    self->outer = fiber->generators;
    fiber->generators = self;
    fiber->leaf = self->co;
  }
  self->scope_id = concur_fiber_current(scheduler)->scope->id;
  self->state = RUNNING;
  return generator_resume(L, self, arguments);
}

static void check_suspended(lua_State *L, const generator *self) {
  if (self->state == RUNNING) {
    concur_error_raise(L, concur_runtime_of(L), "InvalidState", "the generator runs already");
  }
}

/* True unless a stranger closed its coroutine or resumed it to its end. */
static bool is_intact(const generator *self) {
  return !self->started || lua_status(self->co) == LUA_YIELD;
}

static int l_call(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  generator *self = check_generator(L);
  check_suspended(L, self);
  if (self->state == OVER) {
    return concur_error_raise(L, runtime, "InvalidState", "the generator is over");
  }
  if (!is_intact(self)) {
    self->state = OVER;
    return concur_error_raise(L, runtime, "InvalidState",
                              "the generator's coroutine was closed or resumed from outside");
  }
  int arguments = lua_gettop(L) - 1;
  if (!lua_checkstack(self->co, arguments + 4)) return luaL_error(L, "not enough memory");
  lua_xmove(L, self->co, arguments);
  if (!self->started) arguments += 3; /* generator, handler and function below */
  self->started = true;
  return generator_enter(L, self, arguments);
}

/*@lua
---As `coroutine.wrap`, but `fn` may also suspend the task that calls the generator: `coroutine.yield`
---hands values to the caller, waits go to the scheduler.  May not yield inside a cancel scope that it
---opened.  For a `for` loop that is left early, pass it as the fourth value or close it.
---@param fn function
---@return concur.Generator
function concur.wrap(fn) end

---A generator; call it to resume it.
---@class concur.Generator
---@overload fun(...): ...
local Generator = {}

---Closes it: the `<close>` variables of its body run, and may wait; their error is raised.
---@async
function Generator:close() end
*/
static int l_wrap(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_check_callable(L, 1);
  lua_settop(L, 1);
  generator *self = concur_class_new(L, runtime, CONCUR_CLASS_GENERATOR, sizeof *self, 1);
  self->state = SUSPENDED;
  self->co = lua_newthread(L);
  lua_setiuservalue(L, 2, 1);
  lua_pushcfunction(self->co, body_main);
  lua_pushvalue(L, 2);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_pushvalue(L, 1);
  lua_xmove(L, self->co, 3);
  return 1;
}

static int l_close(lua_State *L) {
  generator *self = check_generator(L);
  check_suspended(L, self);
  if (self->state == OVER) return 0;
  if (!self->started || !is_intact(self)) {
    self->state = OVER;
    return 0;
  }
  lua_settop(L, 1);
  self->closing = true;
  lua_sethook(self->co, on_closing, LUA_MASKCOUNT, 1);
  return generator_enter(L, self, 0);
}

static int l_tostring(lua_State *L) {
  static const char *const names[] = {"suspended", "running", "over"};
  generator *self = check_generator(L);
  lua_pushfstring(L, "concur.Generator (%s): %p", names[self->state], lua_topointer(L, 1));
  return 1;
}

/* `end_generators` of the scheduler. */
static void end_generators(lua_State *L, concur_fiber *fiber, bool close) {
  generator *self;
  while ((self = fiber->generators) != NULL) {
    if (close) concur_fiber_quit(L, fiber, self->co);
    fiber->generators = self->outer;
    self->state = OVER;
    self->fiber = NULL;
    if (close) concur_coroutine_close(L, fiber->scheduler->runtime, self->co);
    concur_anchor_release(L, fiber->scheduler->runtime, self->slot);
  }
}

void concur_generator_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"close", l_close}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {
      {"__call", l_call}, {"__close", l_close}, {"__tostring", l_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"wrap", l_wrap}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_GENERATOR, "concur.Generator", methods,
                      metamethods);
  concur_register(L, runtime, functions);
  runtime->scheduler->end_generators = end_generators;
}
