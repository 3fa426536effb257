/* SPDX-License-Identifier: MIT */
/*
 * Futures: a result that comes later, and who waits for it.
 *
 * A future is a userdata with user values; its C part begins with `concur_future`.  User value 1
 * holds the outcome: nothing, the single result, a table of the results, or (failed) a sentinel
 * userdata with the error and its first traceback.  The sentinel has a finalizer: if it is
 * collected before anybody retrieved the error, the error is reported.  (A finalizer on the future
 * itself would make every future slower.)
 *
 * Who waits is a list of `concur_waiter`s, notified in order, on the loop's thread, when the future
 * settles.  Waiters know futures; futures know nothing of tasks.  All: [loop thread].
 */
#ifndef CONCUR_FUTURE_H
#define CONCUR_FUTURE_H

#include "list.h"
#include "loop.h"
#include "support.h"

#pragma GCC visibility push(hidden)

typedef struct concur_future concur_future;
typedef struct concur_waiter concur_waiter;

typedef enum concur_future_state {
  CONCUR_PENDING,
  CONCUR_RUNNING, /* a job that a worker has taken */
  CONCUR_DONE,
  CONCUR_FAILED,
  CONCUR_CANCELLED
} concur_future_state;

/* How a value changes hands with one who waits; for queues.  Static. */
typedef struct concur_exchange {
  /* Gives the value on top of the stack (popped) to an unlinked waiter and notifies it.  False when
     the waiter is broken: the value stays, the next one is asked. */
  bool (*give)(lua_State *L, concur_waiter *waiter);
  /* Pushes the value that an unlinked waiter wants to hand over; it is to be notified next.  False
     (nothing pushed) when it is broken. */
  bool (*take)(lua_State *L, concur_waiter *waiter);
  /* What was waited for is closed: notifies the waiter. */
  void (*close)(concur_waiter *waiter);
  /* What the waiter offered was refused with the error on top of the stack (popped). */
  void (*fail)(lua_State *L, concur_waiter *waiter);
} concur_exchange;

/* A place in a wait list.  Owned by the one who waits and linked only while it waits. */
struct concur_waiter {
  concur_node node;
  const concur_exchange *exchange; /* NULL where no values change hands */
  /* The wait is over: the node is unlinked already.  Must not raise and must not allocate.
     `source` is what was waited for. */
  void (*notify)(concur_waiter *waiter, void *source);
};

typedef struct concur_future_ops {
  /* Asks the pending or running future at `index` to cancel; the reason is at stack index `reason`
     (0: none).  May raise only before it has changed anything. */
  void (*cancel)(lua_State *L, concur_runtime *runtime, int index, concur_future *future,
                 int reason);
  /* The same from C without Lua at hand: never raises. */
  void (*cancel_quietly)(concur_runtime *runtime, concur_future *future);
  /* Pushes what the future is called in reports ("task 'Task-3'"). */
  void (*push_name)(lua_State *L, int index, const concur_future *future);
  /* Brings the state up to date (finished completions are collected); may be NULL. */
  void (*refresh)(lua_State *L, concur_runtime *runtime, concur_future *future);
} concur_future_ops;

struct concur_future {
  concur_node waiters;          /* list of concur_waiter */
  const concur_future_ops *ops; /* static */
  int count;                    /* results when done */
  uint8_t state;                /* concur_future_state */
  bool cancel_requested;
  bool retrieved; /* somebody has taken responsibility for the error */
};

/* Defines the sentinel's class. */
void concur_future_open(lua_State *L, concur_runtime *runtime);

void concur_future_init(concur_future *future, const concur_future_ops *ops);

/* The future (task, job future) at `index`, or NULL. */
concur_future *concur_future_test(lua_State *L, int index);
/* The same, or an argument error. */
concur_future *concur_future_check(lua_State *L, int index);

static inline bool concur_future_settled(const concur_future *future) {
  return future->state >= CONCUR_DONE;
}

/* Settles with the top `count` values of the stack as results, which are popped.  The future is at
   `index`.  Raises (out of memory) before anything changed.  False: it had settled already, perhaps
   in a finalizer that ran meanwhile. */
bool concur_future_set_results(lua_State *L, int index, concur_future *future, int count);

/* Settles with the error on top of the stack, which is popped; `traceback_index` is the stack index
   of its first traceback or 0.  Raises before anything changed.  False as above. */
bool concur_future_set_error(lua_State *L, concur_runtime *runtime, int index,
                             concur_future *future, int traceback_index);

/* Settles a pending future as cancelled; the reason on top is popped.  Never raises. */
void concur_future_set_cancelled(lua_State *L, int index, concur_future *future);

/* Settles without Lua: the results in user value 1 stay as they are.  Never raises. */
void concur_future_settle(concur_future *future, concur_future_state state);

/* Pushes the results of a settled future and returns how many; or returns -1 with its error and
   first traceback pushed, as concur_future_push_error does. */
int concur_future_push_outcome(lua_State *L, concur_runtime *runtime, int index,
                               concur_future *future);

/* Pushes the error and its first traceback (string or nil) of a failed or cancelled future (for
   cancelled: a new FutureCancelled and nil).  Marks it as retrieved. */
void concur_future_push_error(lua_State *L, concur_runtime *runtime, int index,
                              concur_future *future);

/* Pushes the first traceback of a failed future, or nil; this is not retrieving the error. */
void concur_future_push_traceback(lua_State *L, int index);

/* "pending", "running", "done", "failed", "cancelled". */
const char *concur_future_state_name(const concur_future *future);

/* Hands every failed and never retrieved error that is still reachable to on_error (end of run). */
void concur_future_report_unretrieved(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
