/* SPDX-License-Identifier: MIT */
/*
 * Fibers: what can wait.  A fiber is a task, or the top-level context of a Lua state.
 *
 * Every wait in concur goes through this file: enter, park, wake, abort.
 *
 *   begin   checks the place (own yieldable coroutine, or top level with no loop running), then for
 *           cancellation, then that the fiber has not been served too often without a switch.
 *   park    records what is waited for and yields; at top level it drives the loop instead.
 *   wake    puts the fiber into the ready queue with an outcome.  Never fails.
 *   abort   asked by cancellation: takes the fiber off what it waits for, or says "too late".
 *
 * A fiber's wait node and timer live in the fiber, never on a coroutine's stack, because a
 * stranger can close the coroutine.  A fiber whose coroutine was tampered with never follows its
 * wait's target, and its memory stays until the state closes.
 *
 * States:  IDLE -> READY -> RUNNING -> PARKED -> READY ... -> DEAD      All: [loop thread].
 */
#ifndef CONCUR_FIBER_H
#define CONCUR_FIBER_H

#include "future.h"
#include "platform.h"
#include "scope.h"

#pragma GCC visibility push(hidden)

typedef struct concur_fiber concur_fiber;
typedef struct concur_scheduler concur_scheduler;

typedef enum concur_fiber_state {
  CONCUR_FIBER_IDLE,    /* made, not started; the top-level fiber before its first wait */
  CONCUR_FIBER_READY,   /* in the ready queue */
  CONCUR_FIBER_RUNNING, /* its Lua code runs, or (top level) the script does */
  CONCUR_FIBER_PARKED,  /* waits for its wake */
  CONCUR_FIBER_CLAIMED, /* parked, but what it offered was taken: its wake follows at once */
  CONCUR_FIBER_DEAD     /* ended */
} concur_fiber_state;

typedef enum concur_outcome {
  CONCUR_OUTCOME_VALUE,     /* what was waited for has come */
  CONCUR_OUTCOME_TIMEOUT,   /* the wait's own timer fired */
  CONCUR_OUTCOME_CANCELLED, /* taken off; Cancelled is raised on resume */
  CONCUR_OUTCOME_CLOSED     /* what was waited for was closed; a value given is an error */
} concur_outcome;

/* What ends the top-level fiber's wait besides its wake and its scopes. */
typedef enum concur_interruption {
  CONCUR_NOT_INTERRUPTED,
  CONCUR_BY_SIGINT,
  CONCUR_BY_DEADLOCK,
  CONCUR_BY_STOP
} concur_interruption;

/* What a fiber does after its wait: runs in the fiber's own coroutine, with the stack as it was at
   park (plus one value if one was given).  Returns its number of results, as a lua_CFunction. */
typedef int (*concur_resume)(lua_State *L, concur_fiber *fiber);

/* A kind of wait.  Static. */
typedef struct concur_wait {
  const char *name; /* for task:awaiting() and Deadlock: "sleep", "queue:get" */
  /* Cancellation: true when the fiber is off and will be woken with CANCELLED by the caller;
     false when it is too late, or when the wait ends by itself after it was told.  Must not raise.
     NULL: unlinking the node is all it takes. */
  bool (*abort)(concur_fiber *fiber);
  /* The fiber ends by force, whatever abort said: nothing may point to it afterwards.  Must not
     raise.  NULL: unlinking the node is all it takes. */
  void (*detach)(concur_fiber *fiber);
  bool stoppable; /* EventLoop:stop ends it in order */
  /* The state closes, or the coroutine was tampered with, while the fiber waits or before it took what
     had come: gives back what the fiber owns through `target`.  Userdata may be gone already.  NULL: it
     owns nothing. */
  void (*drop)(concur_fiber *fiber);
  bool anchored;  /* the target lives while the fiber waits, whatever becomes of its coroutine */
} concur_wait;

/* What every switch touches comes first: with many tasks its time is that of fetching memory. */
struct concur_fiber {
  concur_ready ready;
  lua_State *co;            /* a task's coroutine (anchored), from its first step on; top level: NULL */
  lua_State *leaf;          /* the coroutine that may suspend this fiber: `co`, or a generator's */
  concur_scope *scope;      /* innermost; never NULL while the fiber lives */
  concur_scheduler *scheduler;
  concur_resume resume;     /* valid from park to resume */
  int base;                 /* stack height of the leaf at park */
  uint8_t state;            /* concur_fiber_state */
  uint8_t outcome;          /* concur_outcome */
  bool given;               /* a value was given to it since park */
  bool is_task;
  const concur_wait *wait;  /* valid while PARKED */
  void *target;             /* valid while PARKED and intact (or wait->anchored); borrowed */
  concur_waiter waiter;     /* in the wait list of `target` while PARKED */
  int held_count;           /* all locks that it holds */
  bool has_context;         /* has context variables of its own */
  bool has_trace;           /* the traces table holds an error and its first traceback */
  bool rethrown;            /* and that error is on its way up right now */
  bool quitting;            /* its coroutine is about to be closed: see concur_fiber_quit */
  uint64_t id;              /* of its task; top level, and between two tasks: 0 */
  struct generator *generators; /* that run in it, innermost first (generator.c); borrowed */
  concur_timer timer;       /* of a wait with its own time-out */
};

/* One per runtime; lives until lua_close. */
struct concur_scheduler {
  concur_fiber *current;   /* the fiber whose code runs now inside the loop; NULL at top level */
  int quick;               /* waits that were over at once since the last switch */
  concur_loop *loop;       /* owned; NULL until first used and after close */
  concur_runtime *runtime; /* borrowed */
  concur_fiber top;        /* the top-level context */
  concur_scope top_scope;  /* its outermost scope */
  concur_node tasks;       /* all tasks that have not ended */
  uint32_t task_count;
  uint64_t next_task_id;
  uint64_t next_scope_id;
  concur_node idlers;      /* fibers that wait until everything else waits */
  bool ignore_sigint;      /* leave SIGINT to the host */
  bool running;            /* inside concur.run */
  bool teardown;           /* run ends: new tasks start cancelled */
  concur_interruption interruption; /* being delivered to the top-level fiber */
  int deadlocks;           /* met during one top-level wait */
  uint64_t switches;       /* times that a task was resumed */
  /* Set by task.c, which this layer does not know. */
  void (*kill_all)(lua_State *L, concur_scheduler *scheduler);
  /* The fiber ends out of order: its generators are over; their coroutines are closed if `close`. */
  void (*end_generators)(lua_State *L, concur_fiber *fiber, bool close);
  void (*abandon_locks)(lua_State *L, concur_fiber *fiber); /* lock.c */
  void (*describe_tasks)(luaL_Buffer *text, concur_scheduler *scheduler);
  uint32_t scope_count;    /* scopes in use, for leak checks */
  concur_scope *free_scopes;
  struct concur_task_pool *pool; /* anchored; task_pool.c */
  void (*on_last_task)(concur_scheduler *scheduler); /* run.c: told when no task is left */
};

enum { CONCUR_QUICK_LIMIT = 128 };

void concur_scheduler_open(lua_State *L, concur_runtime *runtime);

CONCUR_RARE concur_loop *concur_scheduler_make_loop(lua_State *L, concur_scheduler *scheduler);

/* The loop of this state, made on first use.  Raises. */
static inline concur_loop *concur_scheduler_loop(lua_State *L, concur_scheduler *scheduler) {
  if (scheduler->loop != NULL && !concur_runtime_forked(scheduler->runtime)) {
    return scheduler->loop;
  }
  return concur_scheduler_make_loop(L, scheduler);
}

/* The fiber on whose behalf Lua code runs now: the running task, else the top-level fiber. */
static inline concur_fiber *concur_fiber_current(concur_scheduler *scheduler) {
  return scheduler->current != NULL ? scheduler->current : &scheduler->top;
}

/* The fiber that may wait here; raises an error that says what to do instead when none may. */
concur_fiber *concur_fiber_enter(lua_State *L, concur_runtime *runtime);

/* True where concur_fiber_enter would not raise: for what is done in any place, and waits only where
   that is possible.  Never raises. */
bool concur_fiber_may_wait(lua_State *L, const concur_runtime *runtime);

/* The task that this thread runs, of whatever state; NULL outside of tasks and while one is killed.
   When its leaf is `L` it is the current fiber of that state, found without asking Lua. */
extern CONCUR_THREAD_LOCAL concur_fiber *concur_fiber_running;

/* The current fiber, in a function registered with concur_register. */
static inline concur_fiber *concur_fiber_here(lua_State *L) {
  concur_fiber *fiber = concur_fiber_running;
  if (fiber != NULL && fiber->leaf == L) return fiber;
  return concur_fiber_current(concur_runtime_of(L)->scheduler);
}

/* The same as concur_runtime_of, sooner. */
static inline concur_runtime *concur_runtime_here(lua_State *L) {
  concur_fiber *fiber = concur_fiber_running;
  if (fiber != NULL && fiber->leaf == L) return fiber->scheduler->runtime;
  return concur_runtime_of(L);
}

/* The short way of the next function: the running task, if it may wait here and now; else NULL. */
static inline concur_fiber *concur_fiber_ready_here(lua_State *L) {
  concur_fiber *fiber = concur_fiber_running;
  if (fiber == NULL || fiber->leaf != L || fiber->scope->cancelled) return NULL;
  concur_scheduler *scheduler = fiber->scheduler;
  const concur_runtime *runtime = scheduler->runtime;
  if (scheduler->quick >= CONCUR_QUICK_LIMIT || runtime->watched ||
      concur_runtime_forked(runtime) || !lua_isyieldable(L)) {
    return NULL;
  }
  scheduler->quick++;
  return fiber;
}

CONCUR_RARE int concur_fiber_begin_anywhere(lua_State *L, concur_resume body);

/* Starts every function that may suspend: enter, deliver cancellation, share the processor, then
   `body`.  Call as `return concur_fiber_begin(L, body)`, arguments already checked. */
static inline int concur_fiber_begin(lua_State *L, concur_resume body) {
  concur_fiber *fiber = concur_fiber_ready_here(L);
  return fiber != NULL ? body(L, fiber) : concur_fiber_begin_anywhere(L, body);
}

/* Parks the fiber; `resume` runs when it is woken with VALUE, TIMEOUT or CLOSED.  Call as
   `return concur_fiber_park(...)`.  The node must be linked, the timer started, before. */
int concur_fiber_park(lua_State *L, concur_fiber *fiber, const concur_wait *wait, void *target,
                      concur_resume resume);

/* Wakes a parked fiber whose node is unlinked; does nothing to any other.  Never fails. */
void concur_fiber_wake(concur_fiber *fiber, concur_outcome outcome);

/* notify function of a fiber's own waiter: wakes it with VALUE. */
void concur_fiber_notify(concur_waiter *waiter, void *source);

/* Starts the fiber's timer so that it is taken off and woken with TIMEOUT at the deadline.  Raises
   when out of memory; call before linking. */
void concur_fiber_arm(lua_State *L, concur_fiber *fiber, uint64_t deadline_ns);

/* Gives the value on top of the stack of `L` to a parked fiber (at most one; popped): it is on top
   of the stack when `resume` runs, and `given` is true.  False when the fiber's coroutine is not
   intact: then the value stays where it is.  Raises nothing for tasks. */
bool concur_fiber_give(lua_State *L, concur_fiber *fiber);

/* A parked fiber's value was taken: cancellation, its time-out and kill leave it alone from now on,
   until it is woken, which must follow. */
void concur_fiber_claim(concur_fiber *fiber);

/* The exchange of a fiber's own waiter.  What a fiber offers is at index 2 of its frame; at top
   level it must be stashed before parking. */
extern const concur_exchange concur_fiber_exchange;
void concur_fiber_stash(lua_State *L, concur_fiber *fiber, int index);

/* Ends what refuses to end by force: all tasks and, if that frees nobody, the wait of the top level.
   Outside of a drive, or from one of its timers. */
void concur_fiber_break_top(lua_State *L, concur_scheduler *scheduler);

/* Takes a parked fiber off what it waits for, by force: nothing points to it afterwards. */
void concur_fiber_detach(concur_fiber *fiber);

/* The fiber will not run any more. */
void concur_fiber_drop(concur_fiber *fiber);

/* Prepares a coroutine of a parked task for lua_resetthread.  Up to Lua 5.4.6 that leaves the message
   handler of the innermost protected call in force, although its place on the stack is given up: an
   error in a <close> variable would call whatever lies there.  So the coroutine is made to wait inside
   of a protected call without one. */
void concur_fiber_quit(lua_State *L, concur_fiber *fiber, lua_State *co);

/* What a continuation of a parked coroutine returns when it was resumed by somebody else; it is called
   again, not with LUA_YIELD, when memory was too short to make a quitting one wait, and calls this
   with no fiber then. */
int concur_fiber_stay(lua_State *L, const concur_fiber *fiber, lua_KContext context,
                      lua_KFunction again);

/* True when the coroutine of a suspended task is as the task left it. */
static inline bool concur_fiber_suspended(const concur_fiber *fiber) {
  return lua_status(fiber->co) == LUA_YIELD &&
         (fiber->leaf == fiber->co || lua_status(fiber->leaf) == LUA_YIELD);
}

/* The same of any parked fiber. */
static inline bool concur_fiber_intact(const concur_fiber *fiber) {
  if (!fiber->is_task) return true;
  return fiber->state != CONCUR_FIBER_DEAD && concur_fiber_suspended(fiber);
}

/* Delivers cancellation to a fiber if it is parked and can be taken off. */
void concur_fiber_deliver(concur_fiber *fiber);

/* Lets every other ready fiber run once; then `body`.  Call as `return ...`. */
int concur_fiber_yield(lua_State *L, concur_fiber *fiber, concur_resume body);

/* Continues a fiber whose wait is over, in its own coroutine. */
int concur_fiber_resume(lua_State *L, concur_fiber *fiber);

/* Raises Cancelled for the outermost cancelled scope around the fiber; at top level also what else
   interrupted it. */
CONCUR_RARE int concur_fiber_raise_cancelled(lua_State *L, concur_fiber *fiber);

/* True of a fiber that is ready because it lets the others have a turn first (`sleep(0)`). */
bool concur_fiber_gives_turn(const concur_fiber *fiber);

/* True when the fiber must not go on waiting: a scope around it is cancelled, or SIGINT came. */
static inline bool concur_fiber_cancelled(const concur_fiber *fiber) {
  return fiber->scope->cancelled || (!fiber->is_task && fiber->scheduler->interruption != CONCUR_NOT_INTERRUPTED);
}

/* Pushes the table of the fiber's context variables (shared: copy before writing), or nil. */
void concur_fiber_push_context(lua_State *L, concur_fiber *fiber);

/* The new task on top of the stack gets the context that the fiber has.  May raise (memory). */
void concur_fiber_inherit_context(lua_State *L, concur_fiber *from);

/* ---- protected calls that keep the first traceback ---- */

/* Message handler for lua_pcallk: remembers the traceback of an error where it was raised. */
int concur_traceback_handler(lua_State *L);

/* Raises the error on top of the stack again, keeping its first traceback. */
int concur_fiber_rethrow(lua_State *L, concur_fiber *fiber);

/* The same for an error that came from elsewhere: its traceback (or nil) is on top, the error is
   below it. */
int concur_fiber_rethrow_from(lua_State *L, concur_fiber *fiber);

/* Pushes the first traceback (string, or nil) of the error at `index`, caught just now. */
void concur_fiber_push_trace(lua_State *L, concur_fiber *fiber, int index);

/* Forgets the fiber's stored error and traceback. */
void concur_fiber_clear_trace(lua_State *L, concur_fiber *fiber);

#pragma GCC visibility pop

#endif
