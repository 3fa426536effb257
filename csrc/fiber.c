/* SPDX-License-Identifier: MIT */
/* See fiber.h.  Parts: where waiting is allowed; park and resume; wake, give, cancel; the top-level
   fiber, which drives the loop while it is parked. */
#include "fiber.h"

#include <string.h>

#include "hooks.h"
#include "report.h"
#include "sigint.h"

CONCUR_THREAD_LOCAL concur_fiber *concur_fiber_running;

/* ---- the scheduler ---- */

static void top_run(concur_loop *loop, concur_ready *ready) {
  (void)ready;
  loop->leave = true;
}

void concur_scheduler_open(lua_State *L, concur_runtime *runtime) {
  concur_scheduler *scheduler = lua_newuserdatauv(L, sizeof *scheduler, 0);
  memset(scheduler, 0, sizeof *scheduler);
  (void)concur_anchor(L, runtime);
  runtime->scheduler = scheduler;
  scheduler->runtime = runtime;
  concur_list_init(&scheduler->tasks);
  concur_list_init(&scheduler->idlers);
  concur_fiber *top = &scheduler->top;
  concur_scope_init_own(scheduler, &scheduler->top_scope, top, NULL);
  top->scope = &scheduler->top_scope;
  top->scheduler = scheduler;
  top->ready.run = top_run;
  top->waiter.notify = concur_fiber_notify;
  top->waiter.exchange = &concur_fiber_exchange;
  top->state = CONCUR_FIBER_RUNNING;
  concur_timer_init(&top->timer);
}

concur_loop *concur_scheduler_make_loop(lua_State *L, concur_scheduler *scheduler) {
  concur_runtime_check(L, scheduler->runtime);
  int error;
  scheduler->loop = concur_loop_new(scheduler->runtime, &error);
  if (scheduler->loop == NULL) {
    concur_os_error(L, scheduler->runtime, error, "making the event loop", NULL, NULL);
    lua_error(L);
  }
  scheduler->runtime->loop = scheduler->loop;
  if (concur_hook_switch_wanted(L, scheduler->runtime)) {
    scheduler->loop->before_run = concur_hook_switch;
    concur_loop_specials(scheduler->loop);
  }
  if (scheduler->runtime->loop_made != NULL) {
    scheduler->runtime->loop_made(scheduler->runtime, scheduler->loop);
  }
  return scheduler->loop;
}

/* ---- where waiting is allowed ---- */

static int raise_misplaced(lua_State *L, concur_runtime *runtime) {
  concur_fiber *current = runtime->scheduler->current;
  if (current == NULL) {
    return concur_error_raise(L, runtime, "InvalidState",
                              "cannot wait in a callback of the event loop or in on_error: "
                              "start a task there with concur.spawn and wait in it");
  }
  if (L == current->leaf) {
    return concur_error_raise(L, runtime, "InvalidState",
                              "cannot wait here, below a C function that cannot be suspended "
                              "(table.sort, string.gsub, require, __tostring, a message handler, "
                              "a hook, ...): wait before or after that call");
  }
  return concur_error_raise(L, runtime, "InvalidState",
                            "cannot wait in a coroutine of your own inside a task: wait in the "
                            "task itself, use concur.wrap for a generator that waits, or "
                            "concur.spawn for something that runs at the same time");
}

static concur_fiber *enter_elsewhere(lua_State *L, concur_runtime *runtime) {
  concur_scheduler *scheduler = runtime->scheduler;
  concur_runtime_check(L, runtime);
  if (concur_in_finalizer(L)) {
    concur_error_raise(L, runtime, "InvalidState", "cannot wait in a finalizer (__gc)");
  }
  if (scheduler->current != NULL || runtime->reporting ||
      (scheduler->loop != NULL && scheduler->loop->L != NULL)) {
    raise_misplaced(L, runtime);
  }
  (void)concur_scheduler_loop(L, scheduler);
  concur_scope_settle_top(L, &scheduler->top);
  scheduler->top.leaf = L;
  return &scheduler->top;
}

concur_fiber *concur_fiber_enter(lua_State *L, concur_runtime *runtime) {
  concur_fiber *fiber = runtime->scheduler->current;
  if (fiber != NULL && L == fiber->leaf && lua_isyieldable(L) && !concur_runtime_forked(runtime)) {
    return fiber;
  }
  return enter_elsewhere(L, runtime);
}

bool concur_fiber_may_wait(lua_State *L, const concur_runtime *runtime) {
  const concur_scheduler *scheduler = runtime->scheduler;
  const concur_fiber *fiber = scheduler->current;
  if (runtime->closed || concur_runtime_forked(runtime)) return false;
  if (fiber != NULL) return L == fiber->leaf && lua_isyieldable(L);
  return !concur_in_finalizer(L) && !runtime->reporting &&
         (scheduler->loop == NULL || scheduler->loop->L == NULL);
}

/* ---- park and resume ---- */

static const concur_wait wait_turn = {.name = "checkpoint"};

static int drive_top(lua_State *L, concur_fiber *fiber);
static void deliver_parking(concur_fiber *fiber);

/* Takes the value that was given to the top-level fiber; a task has it on its stack already. */
static void top_take(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->self_ref);
  lua_getiuservalue(L, -1, 1);
  lua_pushnil(L);
  lua_setiuservalue(L, -3, 1);
  lua_remove(L, -2);
}

int concur_fiber_resume(lua_State *L, concur_fiber *fiber) {
  if (fiber->outcome == CONCUR_OUTCOME_CANCELLED) return concur_fiber_raise_cancelled(L, fiber);
  return fiber->resume(L, fiber);
}

static int on_resume(lua_State *L, int status, lua_KContext context);

/* A stranger resumed the coroutine: drops what it passed and goes on waiting. */
CONCUR_RARE static int refuse_resume(lua_State *L, concur_fiber *fiber) {
  lua_settop(L, fiber->base + fiber->given);
  return concur_fiber_stay(L, fiber, (lua_KContext)fiber, on_resume);
}

/* Continuation of every parked task. */
static int on_resume(lua_State *L, int status, lua_KContext context) {
  concur_fiber *fiber = (concur_fiber *)context;
  if (status != LUA_YIELD) return concur_fiber_stay(L, NULL, context, on_resume);
  bool due = fiber->scheduler->current == fiber && fiber->leaf == L &&
             fiber->state == CONCUR_FIBER_RUNNING && !fiber->quitting;
  return due ? concur_fiber_resume(L, fiber) : refuse_resume(L, fiber);
}

static int l_yield(lua_State *L) {
  return lua_yield(L, 0);
}

int concur_fiber_stay(lua_State *L, const concur_fiber *fiber, lua_KContext context,
                      lua_KFunction again) {
  if (fiber == NULL || !fiber->quitting) return lua_yieldk(L, 0, context, again);
  lua_pushcfunction(L, l_yield);
  return lua_pcallk(L, 0, 0, 0, context, again); /* without memory: `again`, and its status says so */
}

void concur_fiber_quit(lua_State *L, concur_fiber *fiber, lua_State *co) {
  if (co == NULL || lua_status(co) != LUA_YIELD || !lua_checkstack(co, LUA_MINSTACK)) return;
  int results;
  fiber->quitting = true;
  (void)lua_resume(co, L, 0, &results);
  fiber->quitting = false;
}

static int suspend(lua_State *L, concur_fiber *fiber, concur_resume resume) {
  fiber->resume = resume;
  fiber->base = lua_gettop(L);
  if (!fiber->is_task) return drive_top(L, fiber);
  return lua_yieldk(L, 0, (lua_KContext)fiber, on_resume);
}

int concur_fiber_park(lua_State *L, concur_fiber *fiber, const concur_wait *wait, void *target,
                      concur_resume resume) {
  fiber->state = CONCUR_FIBER_PARKED;
  fiber->wait = wait;
  fiber->target = target;
  fiber->given = false;
  /* Code of the user's may have run since `begin`, and cancelled this very task. */
  if (concur_fiber_cancelled(fiber)) deliver_parking(fiber);
  return suspend(L, fiber, resume);
}

bool concur_fiber_gives_turn(const concur_fiber *fiber) {
  return fiber->wait == &wait_turn;
}

/* Puts the running fiber at the end of the ready queue. */
static inline void take_turn(concur_fiber *fiber, concur_outcome outcome) {
  fiber->wait = &wait_turn;
  fiber->given = false;
  fiber->state = CONCUR_FIBER_READY;
  fiber->outcome = (uint8_t)outcome;
  concur_loop_ready(fiber->scheduler->loop, &fiber->ready);
}

int concur_fiber_yield(lua_State *L, concur_fiber *fiber, concur_resume body) {
  take_turn(fiber, CONCUR_OUTCOME_VALUE);
  return suspend(L, fiber, body);
}

/* Cancelled, or served too often in a row: the way through the scheduler. */
static int begin_later(lua_State *L, concur_fiber *fiber, concur_resume body) {
  bool cancelled = concur_fiber_cancelled(fiber);
  take_turn(fiber, cancelled ? CONCUR_OUTCOME_CANCELLED : CONCUR_OUTCOME_VALUE);
  return suspend(L, fiber, body);
}

int concur_fiber_begin_anywhere(lua_State *L, concur_resume body) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_fiber *fiber = concur_fiber_enter(L, runtime);
  if (runtime->watched) concur_hook_wait(L, runtime);
  if (concur_fiber_cancelled(fiber) || ++runtime->scheduler->quick > CONCUR_QUICK_LIMIT) {
    runtime->scheduler->quick = 0;
    return begin_later(L, fiber, body);
  }
  return body(L, fiber);
}

/* ---- wake, give, cancel ---- */

void concur_fiber_wake(concur_fiber *fiber, concur_outcome outcome) {
  concur_loop *loop = fiber->scheduler->loop;
  /* Any other state: it was ended by force, or woken to find out that its coroutine was tampered
     with, before what it waited for could be told. */
  if (fiber->state != CONCUR_FIBER_PARKED && fiber->state != CONCUR_FIBER_CLAIMED) return;
  fiber->state = CONCUR_FIBER_READY;
  fiber->outcome = (uint8_t)outcome;
  if (loop == NULL) return; /* the state closes: nothing will run any more */
  concur_loop_stop_timer(loop, &fiber->timer);
  concur_loop_ready(loop, &fiber->ready);
}

void concur_fiber_notify(concur_waiter *waiter, void *source) {
  (void)source;
  concur_fiber_wake(concur_container_of(waiter, concur_fiber, waiter), CONCUR_OUTCOME_VALUE);
}

/* Takes a parked fiber off what it waits for; false when it is too late. */
static bool fiber_take_off(concur_fiber *fiber) {
  if (fiber->wait->abort != NULL) return fiber->wait->abort(fiber);
  concur_node_unlink(&fiber->waiter.node);
  return true;
}

static bool fiber_abort(concur_fiber *fiber) {
  /* It waits for the time alone. */
  if (fiber->wait->abort == NULL && !concur_node_linked(&fiber->waiter.node)) return true;
  /* Tampered with: what it waits for may be gone.  The node stays linked, and the fiber's memory is
     not used again; the step will find out. */
  bool gone = !fiber->wait->anchored && !concur_fiber_intact(fiber);
  return gone || fiber_take_off(fiber);
}

/* The same for a fiber that is about to suspend: its coroutine still runs. */
static void deliver_parking(concur_fiber *fiber) {
  if (fiber_take_off(fiber)) concur_fiber_wake(fiber, CONCUR_OUTCOME_CANCELLED);
}

void concur_fiber_deliver(concur_fiber *fiber) {
  if (fiber->state == CONCUR_FIBER_READY && fiber->wait == &wait_turn) {
    fiber->outcome = CONCUR_OUTCOME_CANCELLED; /* a mere turn has no value to lose */
  } else if (fiber->state == CONCUR_FIBER_PARKED && fiber_abort(fiber)) {
    concur_fiber_wake(fiber, CONCUR_OUTCOME_CANCELLED);
  }
}

void concur_fiber_detach(concur_fiber *fiber) {
  if (fiber->state != CONCUR_FIBER_PARKED) return;
  if (fiber->wait->detach != NULL) {
    fiber->wait->detach(fiber);
  } else {
    concur_node_unlink(&fiber->waiter.node);
  }
  concur_loop_stop_timer(fiber->scheduler->loop, &fiber->timer);
}

void concur_fiber_drop(concur_fiber *fiber) {
  /* What was cancelled was taken off, and has given it back then. */
  bool waits = fiber->state == CONCUR_FIBER_PARKED ||
               (fiber->state == CONCUR_FIBER_READY && fiber->outcome != CONCUR_OUTCOME_CANCELLED);
  if (waits && fiber->wait != NULL && fiber->wait->drop != NULL) fiber->wait->drop(fiber);
  fiber->state = CONCUR_FIBER_DEAD;
}

static void on_wait_timeout(concur_timer *timer, void *context) {
  (void)context;
  concur_fiber *fiber = concur_container_of(timer, concur_fiber, timer);
  if (fiber->state == CONCUR_FIBER_PARKED && fiber_abort(fiber)) {
    concur_fiber_wake(fiber, CONCUR_OUTCOME_TIMEOUT);
  }
}

void concur_fiber_arm(lua_State *L, concur_fiber *fiber, uint64_t deadline_ns) {
  concur_loop *loop = fiber->scheduler->loop;
  if (!concur_loop_reserve_timer(loop)) luaL_error(L, "not enough memory");
  fiber->timer.fire = on_wait_timeout;
  concur_loop_start_timer(loop, &fiber->timer, deadline_ns);
}

bool concur_fiber_give(lua_State *L, concur_fiber *fiber) {
  if (!fiber->is_task) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, fiber->scheduler->runtime->self_ref);
    lua_insert(L, -2);
    lua_setiuservalue(L, -2, 1);
    lua_pop(L, 1);
  } else if (!concur_fiber_intact(fiber)) {
    return false;
  } else {
    lua_xmove(L, fiber->leaf, 1);
  }
  fiber->given = true;
  return true;
}

static concur_fiber *fiber_of_waiter(concur_waiter *waiter) {
  return concur_container_of(waiter, concur_fiber, waiter);
}

static bool fiber_give(lua_State *L, concur_waiter *waiter) {
  concur_fiber *fiber = fiber_of_waiter(waiter);
  bool given = concur_fiber_give(L, fiber);
  concur_fiber_wake(fiber, CONCUR_OUTCOME_VALUE); /* broken: its step finds out */
  return given;
}

void concur_fiber_claim(concur_fiber *fiber) {
  fiber->state = CONCUR_FIBER_CLAIMED;
  if (fiber->scheduler->loop != NULL) {
    concur_loop_stop_timer(fiber->scheduler->loop, &fiber->timer);
  }
}

static bool fiber_take(lua_State *L, concur_waiter *waiter) {
  concur_fiber *fiber = fiber_of_waiter(waiter);
  if (!concur_fiber_intact(fiber)) {
    concur_fiber_wake(fiber, CONCUR_OUTCOME_VALUE);
    return false;
  }
  concur_fiber_claim(fiber);
  if (!fiber->is_task) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, fiber->scheduler->runtime->traces_ref);
    lua_rawgetp(L, -1, &fiber->waiter);
    lua_remove(L, -2);
  } else {
    lua_pushvalue(fiber->leaf, 2);
    lua_xmove(fiber->leaf, L, 1);
  }
  return true;
}

static void fiber_close(concur_waiter *waiter) {
  concur_fiber_wake(fiber_of_waiter(waiter), CONCUR_OUTCOME_CLOSED);
}

static void fiber_fail(lua_State *L, concur_waiter *waiter) {
  concur_fiber *fiber = fiber_of_waiter(waiter);
  if (!concur_fiber_give(L, fiber)) lua_pop(L, 1);
  concur_fiber_wake(fiber, CONCUR_OUTCOME_CLOSED);
}

const concur_exchange concur_fiber_exchange = {fiber_give, fiber_take, fiber_close, fiber_fail};

void concur_fiber_stash(lua_State *L, concur_fiber *fiber, int index) {
  if (fiber->is_task) return;
  index = lua_absindex(L, index);
  lua_rawgeti(L, LUA_REGISTRYINDEX, fiber->scheduler->runtime->traces_ref);
  lua_pushvalue(L, index);
  lua_rawsetp(L, -2, &fiber->waiter);
  lua_pop(L, 1);
}

/* ---- the top-level fiber ---- */

/* Pushes the text of a Deadlock: what every task waits on.  Argument: the scheduler. */
static int l_deadlock_text(lua_State *L) {
  concur_scheduler *scheduler = lua_touserdata(L, 1);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  luaL_addstring(&text, "every task waits and nothing can wake one");
  if (scheduler->top.state == CONCUR_FIBER_PARKED) {
    luaL_addstring(&text, "\n  top level: ");
    luaL_addstring(&text, scheduler->top.wait->name);
  }
  scheduler->describe_tasks(&text, scheduler);
  luaL_pushresult(&text);
  lua_rawgeti(L, LUA_REGISTRYINDEX, scheduler->runtime->traces_ref);
  lua_insert(L, -2);
  lua_rawsetp(L, -2, &scheduler->interruption);
  return 0;
}

static void remember_deadlock(lua_State *L, concur_scheduler *scheduler) {
  if (!lua_checkstack(L, LUA_MINSTACK)) return;
  lua_pushcfunction(L, l_deadlock_text);
  lua_pushlightuserdata(L, scheduler);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) lua_pop(L, 1);
}

void concur_fiber_break_top(lua_State *L, concur_scheduler *scheduler) {
  concur_fiber *fiber = &scheduler->top;
  scheduler->kill_all(L, scheduler);
  if (fiber->state == CONCUR_FIBER_PARKED && scheduler->loop->ready_head == NULL) {
    concur_fiber_detach(fiber);
    concur_fiber_wake(fiber, CONCUR_OUTCOME_CANCELLED);
  }
}

/* Interrupts the parked top-level fiber.  What it waits for may take its time to end; a second
   deadlock on the way means that some task refuses. */
static void interrupt_top(lua_State *L, concur_fiber *fiber, concur_interruption cause) {
  concur_scheduler *scheduler = fiber->scheduler;
  if (cause == CONCUR_BY_DEADLOCK && ++scheduler->deadlocks > 1) {
    concur_fiber_break_top(L, scheduler);
    return;
  }
  if (cause == CONCUR_BY_SIGINT && fiber->state != CONCUR_FIBER_PARKED) {
    concur_sigint_give_up(scheduler->loop); /* what was waited for has come already */
    return;
  }
  if (cause == CONCUR_BY_DEADLOCK) remember_deadlock(L, scheduler);
  if (scheduler->interruption == CONCUR_NOT_INTERRUPTED) scheduler->interruption = cause;
  concur_fiber_deliver(fiber);
}

/* Raises nothing by itself: what is waited for was linked before. */
static int drive_top(lua_State *L, concur_fiber *fiber) {
  concur_scheduler *scheduler = fiber->scheduler;
  concur_loop *loop = scheduler->loop;
  bool sigint = !scheduler->ignore_sigint && scheduler->runtime->worker == NULL &&
                concur_sigint_acquire(loop);
  scheduler->quick = 0;
  scheduler->deadlocks = 0;
  for (;;) {
    concur_drive_end end = concur_loop_drive(loop, L);
    if (end == CONCUR_DRIVE_LEFT) break;
    if (end == CONCUR_DRIVE_STOPPED && fiber->wait->stoppable) {
      fiber->outcome = CONCUR_OUTCOME_VALUE; /* at once: what is ready stays for the next driver */
      break;
    }
    if (end == CONCUR_DRIVE_INTERRUPTED) interrupt_top(L, fiber, CONCUR_BY_SIGINT);
    if (end == CONCUR_DRIVE_DEADLOCK) interrupt_top(L, fiber, CONCUR_BY_DEADLOCK);
    if (end == CONCUR_DRIVE_STOPPED) interrupt_top(L, fiber, CONCUR_BY_STOP);
  }
  if (sigint) concur_sigint_release(loop);
  fiber->state = CONCUR_FIBER_RUNNING;
  if (fiber->given) top_take(L, fiber);
  return concur_fiber_resume(L, fiber);
}

/* Raises what interrupted the top-level fiber. */
static int raise_interruption(lua_State *L, concur_scheduler *scheduler) {
  concur_runtime *runtime = scheduler->runtime;
  concur_interruption cause = scheduler->interruption;
  scheduler->interruption = CONCUR_NOT_INTERRUPTED;
  if (cause == CONCUR_BY_SIGINT) {
    return concur_error_raise(L, runtime, "Interrupted", "interrupted by SIGINT");
  }
  if (cause == CONCUR_BY_STOP) {
    return concur_error_raise(L, runtime, "InvalidState",
                              "EventLoop:stop() ended a wait that is not run_forever()");
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->traces_ref);
  lua_rawgetp(L, -1, &scheduler->interruption);
  lua_pushnil(L);
  lua_rawsetp(L, -3, &scheduler->interruption);
  const char *text = lua_tostring(L, -1);
  return concur_error_raise(L, runtime, "Deadlock", "%s", text != NULL ? text : "deadlock");
}

int concur_fiber_raise_cancelled(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  concur_scope *scope = concur_scope_outermost_cancelled(fiber->scope);
  if (!fiber->is_task && fiber->scheduler->interruption != CONCUR_NOT_INTERRUPTED) {
    return raise_interruption(L, fiber->scheduler);
  }
  /* A shield may have gone up after the wait was taken off: whoever asked is still outside it. */
  for (concur_scope *outer = fiber->scope; scope == NULL && outer != NULL; outer = outer->parent) {
    if (outer->cancel_called) scope = outer;
  }
  if (scope == NULL) {
    return concur_error_raise(L, runtime, "InvalidState", "the wait was taken off");
  }
  concur_scope_push_cancelled(L, runtime, scope);
  return lua_error(L);
}
