/* SPDX-License-Identifier: MIT */
/*
 * See interrupt.h.
 *
 * A hook belongs to one coroutine, so the handler sets it on all that may be running: the state's
 * main thread, the innermost coroutine that coroutine.resume or wrap is running, and the task that
 * runs.  Hooks on the others do no harm: after an interrupt the state is not used again.
 *
 * A hook does not reach what waits.  So once a call was asked to stop, a timer in its loop looks at
 * the interrupts too, and ends what still waits after the second one by force.
 */
#include "interrupt.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "platform.h"
#include "task.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CONCUR_POLL_INTERRUPTS 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(_WIN32)
#define CONCUR_POLL_INTERRUPTS 1
#endif
#ifndef CONCUR_POLL_INTERRUPTS
#define CONCUR_POLL_INTERRUPTS 0
#include <pthread.h>
#endif

const char *const concur_interrupt_kind = CONCUR_POLL_INTERRUPTS ? "hook" : "signal";

enum {
  POLL_INSTRUCTIONS = 10000, /* instructions between two looks, where signals cannot be used */
  PERSISTENT = 2             /* from this interrupt on, the error comes again and again */
};

#define LOOK_AGAIN_NS UINT64_C(10000000) /* between two looks of the timer */

/* The worker whose call runs on this thread. */
static CONCUR_THREAD_LOCAL concur_worker *running;

static void on_hook(lua_State *L, lua_Debug *activation);

/* Raises Cancelled in L: that of the call, or of its task that runs.  [in the hook] */
static void raise_cancelled(lua_State *L, concur_worker *worker) {
  concur_fiber *fiber = worker->runtime->scheduler->current;
  concur_scope *scope = worker->scope;
  worker->worn = true;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  concur_scope_cancel(worker->scope);
  if (fiber != NULL) {
    (void)concur_task_cancel(concur_task_of_fiber(fiber));
    scope = &concur_body_of_fiber(fiber)->own;
  }
  concur_scope_push_cancelled(L, worker->runtime, scope);
  lua_error(L);
}

static void on_hook(lua_State *L, lua_Debug *activation) {
  (void)activation;
  concur_worker *worker = running;
  unsigned interrupts =
      worker != NULL && worker->scope != NULL ? atomic_load(&worker->call->interrupts) : 0;
  if (interrupts == 0) {
    if (!CONCUR_POLL_INTERRUPTS) lua_sethook(L, NULL, 0, 0);
    return;
  }
  if (interrupts >= PERSISTENT) {
    lua_sethook(L, on_hook, LUA_MASKCOUNT, 1);
  } else if (worker->interrupts_seen == interrupts) {
    /* It had its one error for this interrupt. */
    if (!CONCUR_POLL_INTERRUPTS) lua_sethook(L, NULL, 0, 0);
    return;
  } else if (!CONCUR_POLL_INTERRUPTS) {
    lua_sethook(L, NULL, 0, 0);
  }
  worker->interrupts_seen = interrupts;
  raise_cancelled(L, worker);
}

/* Sets the hook wherever Lua code of this worker may be running. */
static void hook_everywhere(concur_worker *worker) {
  lua_sethook(worker->L, on_hook, LUA_MASKCOUNT, 1);
  if (worker->nested != NULL) lua_sethook(worker->nested, on_hook, LUA_MASKCOUNT, 1);
  const concur_fiber *fiber = worker->runtime->scheduler->current;
  if (fiber != NULL && fiber->leaf != NULL) lua_sethook(fiber->leaf, on_hook, LUA_MASKCOUNT, 1);
}

/* ---- telling the thread ---- */

#if CONCUR_POLL_INTERRUPTS

static void poke_thread(uv_thread_t id) {
  (void)id; /* the hook looks by itself */
}

static void install(void) {
}

void concur_interrupt_trace(concur_pool *pool) {
  (void)pool;
}

#else

/* Writes the call stack of L into the job's trace.  [in the signal handler]  Only if a C function is
   on top, which has not returned for a long time: then nothing in Lua's state is changing.  Nothing
   here allocates. */
static void write_trace(lua_State *L, concur_job *job) {
  lua_Debug frame;
  size_t used = 0;
  for (int level = 0; level < 16 && lua_getstack(L, level, &frame); level++) {
    (void)lua_getinfo(L, "Sln", &frame);
    if (level == 0 && frame.what[0] != 'C') return;
    char *to = job->trace + used;
    size_t room = CONCUR_TRACE_SIZE - used;
    int written;
    if (frame.what[0] == 'C') {
      written = snprintf(to, room, "\n\t[C]: in '%s'", frame.name != NULL ? frame.name : "?");
    } else if (frame.name != NULL) {
      written = snprintf(to, room, "\n\t%s:%d: in '%s'", frame.short_src, frame.currentline,
                         frame.name);
    } else {
      written = snprintf(to, room, "\n\t%s:%d: in function <%s:%d>", frame.short_src,
                         frame.currentline, frame.short_src, frame.linedefined);
    }
    if (written < 0 || (size_t)written >= CONCUR_TRACE_SIZE - used) break;
    used += (size_t)written;
  }
  atomic_store(&job->trace_state, CONCUR_TRACE_THERE);
}

static void trace_running(concur_worker *worker) {
  const concur_fiber *fiber = worker->runtime->scheduler->current;
  lua_State *L = worker->nested != NULL ? worker->nested : worker->L;
  if (fiber != NULL && fiber->leaf != NULL) L = fiber->leaf;
  write_trace(L, &worker->call->job);
}

/* What the host does on SIGURG: the handler that ours has replaced, and those that it installed over
   ours later.  An entry is never written again once `host` has named it; 0: there is none. */
enum { MOST_HOSTS = 16 };
static struct sigaction host_actions[MOST_HOSTS];
static int host_count; /* guarded by `installing` */
static atomic_int host;
static atomic_flag installing = ATOMIC_FLAG_INIT;
static _Thread_local volatile sig_atomic_t passing_on; /* the host's handler may call ours in turn */

static void pass_on(int number, siginfo_t *info, void *context) {
  int index = atomic_load(&host);
  if (index == 0 || passing_on) return;
  const struct sigaction *action = &host_actions[index - 1];
  passing_on = 1;
  if ((action->sa_flags & SA_SIGINFO) != 0) {
    action->sa_sigaction(number, info, context);
  } else if (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN) {
    action->sa_handler(number);
  }
  passing_on = 0;
}

/* [on the worker's thread, at any point of its code] */
static void on_signal(int number, siginfo_t *info, void *context) {
  concur_worker *worker = running;
  if (worker != NULL) {
    if (atomic_load(&worker->call->interrupts) > 0) hook_everywhere(worker);
    if (atomic_load(&worker->call->job.trace_state) == CONCUR_TRACE_WANTED) trace_running(worker);
  } else {
    pass_on(number, info, context);
  }
}

static bool is_same(const struct sigaction *one, const struct sigaction *other) {
  if ((one->sa_flags & SA_SIGINFO) != (other->sa_flags & SA_SIGINFO)) return false;
  return (one->sa_flags & SA_SIGINFO) != 0 ? one->sa_sigaction == other->sa_sigaction
                                           : one->sa_handler == other->sa_handler;
}

/* The entry for a handler of the host's, from 1; 0 when there is no room. */
static int host_entry(const struct sigaction *action) {
  for (int i = 0; i < MOST_HOSTS; i++) {
    const struct sigaction *entry = &host_actions[i];
    if (i >= host_count) {
      host_actions[i] = *action;
      host_count++;
    }
    if (is_same(entry, action)) return i + 1;
  }
  return 0;
}

/* Installs our handler, again if the host has installed one of its own meanwhile.  Every interrupt
   looks: they are rare. */
static void install(void) {
  struct sigaction action = {.sa_sigaction = on_signal,
                             .sa_flags = SA_RESTART | SA_ONSTACK | SA_SIGINFO};
  struct sigaction now;
  if (atomic_flag_test_and_set(&installing)) return; /* another thread does it */
  if (sigaction(SIGURG, NULL, &now) == 0 && !is_same(&now, &action)) {
    int entry = host_entry(&now);
    sigemptyset(&action.sa_mask);
    if (entry != 0) {
      atomic_store(&host, entry);
      sigaction(SIGURG, &action, NULL);
    }
  }
  atomic_flag_clear(&installing);
}

static void poke_thread(uv_thread_t id) {
  pthread_kill(id, SIGURG);
}

/* [under the pool's lock] */
static bool wants_trace(concur_job *job) {
  if (job->run != concur_worker_run || job->trace != NULL) return false;
  job->trace = calloc(1, CONCUR_TRACE_SIZE);
  if (job->trace != NULL) atomic_store(&job->trace_state, CONCUR_TRACE_WANTED);
  return job->trace != NULL;
}

void concur_interrupt_trace(concur_pool *pool) {
  enum { ANSWER_MS = 20 };
  install();
  concur_pool_poke_running(pool, wants_trace, poke_thread);
  uv_sleep(ANSWER_MS);
}

#endif

void concur_interrupt_call(concur_call *call) {
  install();
  atomic_fetch_add(&call->interrupts, 1);
  concur_pool_poke(&call->job, poke_thread);
}

static bool wants_interrupt(concur_job *job) {
  if (job->run != concur_worker_run || !concur_job_is_cancelled(job)) return false;
  atomic_fetch_add(&concur_container_of(job, concur_call, job)->interrupts, 1);
  return true;
}

void concur_interrupt_pool(concur_pool *pool) {
  install();
  concur_pool_poke_running(pool, wants_interrupt, poke_thread);
}

/* ---- around a call ---- */

void concur_interrupt_begin(concur_worker *worker) {
  worker->nested = NULL;
  worker->interrupts_seen = 0;
  concur_interrupt_resume(worker);
}

void concur_interrupt_resume(concur_worker *worker) {
  if (CONCUR_POLL_INTERRUPTS && worker->call->interrupt_after_ns != CONCUR_NEVER) {
    lua_sethook(worker->L, on_hook, LUA_MASKCOUNT, POLL_INSTRUCTIONS);
  }
  running = worker;
  atomic_signal_fence(memory_order_seq_cst);
  /* An interrupt that came earlier found nobody to hook. */
  if (atomic_load(&worker->call->interrupts) > 0) hook_everywhere(worker);
}

void concur_interrupt_end(concur_worker *worker) {
  running = NULL;
  atomic_signal_fence(memory_order_seq_cst);
  lua_sethook(worker->L, NULL, 0, 0);
}

/* ---- what waits ---- */

static void on_look(concur_timer *timer, void *context);

void concur_interrupt_look(concur_worker *worker) {
  concur_loop *loop = worker->runtime->scheduler->loop;
  if (concur_timer_active(&worker->look) || !concur_loop_reserve_timer(loop)) return;
  worker->look.fire = on_look;
  concur_loop_start_timer(loop, &worker->look, concur_deadline_after(loop, LOOK_AGAIN_NS));
  loop->weak_timers++; /* a deadlock stays one */
}

void concur_interrupt_look_no_more(concur_worker *worker) {
  concur_loop *loop = worker->runtime->scheduler->loop;
  if (loop != NULL && concur_timer_active(&worker->look)) {
    concur_loop_stop_timer(loop, &worker->look);
    loop->weak_timers--;
  }
  concur_timer_init(&worker->look);
}

/* Ends what the call waits for, and its tasks: again and again, since what they close may spawn. */
static void on_look(concur_timer *timer, void *context) {
  concur_worker *worker = concur_container_of(timer, concur_worker, look);
  concur_loop *loop = context;
  concur_scheduler *scheduler = worker->runtime->scheduler;
  loop->weak_timers--;
  if (atomic_load(&worker->call->interrupts) >= PERSISTENT) {
    worker->worn = true;
    hook_everywhere(worker);
    for (concur_node *node = scheduler->tasks.next; node != &scheduler->tasks; node = node->next) {
      const concur_body *body = concur_container_of(node, concur_body, link);
      if (body->fiber.leaf != NULL) lua_sethook(body->fiber.leaf, on_hook, LUA_MASKCOUNT, 1);
    }
    concur_fiber_break_top(loop->L, scheduler);
  }
  concur_interrupt_look(worker);
}

/* ---- coroutines that are known ---- */

/* Resumes `co` with the `count` values on top of L's stack.  Returns the number of results moved
   to L, or -1 with the error on top of L's stack. */
static int resume_tracked(lua_State *L, lua_State *co, int count) {
  concur_worker *worker = lua_touserdata(L, lua_upvalueindex(1));
  int results;
  if (!lua_checkstack(co, count)) {
    lua_pushliteral(L, "too many arguments to resume");
    return -1;
  }
  lua_xmove(L, co, count);
  lua_State *outer = worker->nested;
  worker->nested = co;
  int status = lua_resume(co, L, count, &results);
  worker->nested = outer;
  if (worker == running && atomic_load(&worker->call->interrupts) >= PERSISTENT) {
    hook_everywhere(worker); /* what runs now is another coroutine than the one that was hooked */
  }
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    return -1;
  }
  if (!lua_checkstack(L, results + 1)) {
    lua_pop(co, results);
    lua_pushliteral(L, "too many results to resume");
    return -1;
  }
  lua_xmove(co, L, results);
  return results;
}

static int l_resume(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTHREAD);
  int results = resume_tracked(L, lua_tothread(L, 1), lua_gettop(L) - 1);
  lua_pushboolean(L, results >= 0);
  if (results < 0) results = 1;
  lua_insert(L, -(results + 1));
  return results + 1;
}

/* Upvalues: the worker, the coroutine. */
static int l_wrapped(lua_State *L) {
  lua_State *co = lua_tothread(L, lua_upvalueindex(2));
  int results = resume_tracked(L, co, lua_gettop(L));
  if (results >= 0) return results;
  int status = lua_status(co);
  if (status != LUA_OK && status != LUA_YIELD) {
    /* It died: close what it left open; an error in there replaces the first one. */
    if (lua_resetthread(co) != LUA_OK && lua_gettop(co) > 0) lua_xmove(co, L, 1);
  }
  if (lua_type(L, -1) == LUA_TSTRING) {
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

static int l_wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_State *co = lua_newthread(L);
  lua_pushvalue(L, 1);
  lua_xmove(L, co, 1);
  lua_pushcclosure(L, l_wrapped, 2);
  return 1;
}

void concur_interrupt_open(lua_State *L, concur_worker *worker) {
  const luaL_Reg functions[] = {{"resume", l_resume}, {"wrap", l_wrap}, {NULL, NULL}};
  lua_getglobal(L, "coroutine");
  lua_pushlightuserdata(L, worker);
  luaL_setfuncs(L, functions, 1);
  lua_pop(L, 1);
}
