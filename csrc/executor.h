/* SPDX-License-Identifier: MIT */
/*
 * Executors: how a Lua state submits calls to pools and gets their results back.
 *
 * An `executor` is one state's view of one pool: the calls that it gathers within a turn of the
 * loop and publishes together, and those who wait for room in the queue.  Most pools have one view,
 * of the state that owns them; the default pool has one per state that uses it.
 *
 * A submitted call is in the runtime's list until its mail is delivered; its future is anchored for
 * as long and counts in loop->external_refs, so that a driver waits for it.
 *
 * All functions: [loop thread].
 */
#ifndef CONCUR_EXECUTOR_H
#define CONCUR_EXECUTOR_H

#include "call.h"
#include "fiber.h"
#include "shortcut.h"

#pragma GCC visibility push(hidden)

typedef struct concur_executor concur_executor;

/* The executors of one runtime. */
typedef struct concur_executors {
  concur_runtime *runtime;
  concur_node views; /* of concur_executor */
  concur_node calls; /* in flight, submitted by this state */
  uint32_t call_count;
  uint32_t work_count;        /* C work on its way (work.c) */
  concur_node kept; /* of calls that are over: their memory is used again */
  uint32_t kept_count;
  concur_shared_pool *shared; /* one reference: the default pool's slot */
  concur_call *unanchored;    /* owned: a call that ran out of memory on its way out */
  uint8_t spin_misses;        /* spins in a row that saw no mail */
  uint8_t spin_rest;          /* waits to pass without spinning */
  uint32_t cores;
} concur_executors;

struct concur_executor {
  concur_node link;                 /* in executors->views */
  concur_executors *owner;          /* NULL once the state's executors were closed */
  concur_pool *pool;                /* one reference */
  concur_worker_settings *settings; /* one reference */
  concur_flusher flusher; /* linked from the first submission in a turn to the turn's end */
  concur_node batch;      /* of jobs, not yet published */
  uint32_t batch_count;
  uint32_t references; /* userdata and calls in flight */
  bool owns;           /* closing the state closes the pool */
  bool closed;         /* shut down: nothing is accepted any more */
  bool abandoned;      /* its threads were given up: nobody waits for them again */
  bool bounded;        /* the queue has a limit: submit may wait */
  concur_node waiters[CONCUR_POOL_EVENTS];   /* of fibers that wait for the pool (pool_wait.c) */
  concur_watch *watches[CONCUR_POOL_EVENTS]; /* with the pool or its mail on the way; or NULL */
  concur_watch *resting; /* the watch for room, until the one it woke has had its turn; or NULL */
  uint32_t rested;       /* turns that `resting` has lasted */
};

/* How one call is to be treated; see pool:options. */
typedef struct concur_call_options {
  uint64_t interrupt_after_ns; /* CONCUR_NEVER: never */
  uint32_t retries;
  uint32_t retry_delay_ms;
  bool abandon;
  const char *name; /* borrowed; NULL: none */
} concur_call_options;

extern const concur_call_options concur_call_defaults;

/* The executors of a state, made on first use.  Raises when out of memory. */
concur_executors *concur_executors_of(lua_State *L, concur_runtime *runtime);

/* A view with one reference, of a new pool (owned) or an existing one.  Takes `pool` and `settings`
   on success.  NULL when out of memory. */
concur_executor *concur_executor_new(concur_executors *executors, concur_pool *pool,
                                     concur_worker_settings *settings, bool owns);
void concur_executor_release(concur_executor *executor);

/* Takes the reference to a call that is over. */
void concur_executors_take_back(concur_executors *executors, concur_call *call);

/* Takes a pool over whose last user has gone: it works its queue off; closing the state joins it. */
void concur_executors_adopt(concur_executors *executors, concur_pool *pool,
                            concur_worker_settings *settings);

/* Gives up what still runs: its futures are cancelled now, its threads end unjoined. */
void concur_executor_abandon(concur_executor *executor);

/* Submits the function at stack index `first` with the values above it as arguments, all of which
   are replaced by the future.  False, and nothing changed, when a bounded queue is full.  Raises
   TransferError, BrokenExecutor, Closed, InvalidState.  `functions` may be NULL. */
bool concur_executor_submit(lua_State *L, concur_executor *executor, int first,
                            const concur_call_options *options, concur_function_cache *functions);

/* Raises unless something can be submitted here and now. */
void concur_executor_check(lua_State *L, concur_executor *executor);

/* This state's view of the default pool, which is made if there is none; it stays valid until
   somebody replaces it.  Raises.  In default_pool.c. */
concur_executor *concur_executor_default(lua_State *L, concur_runtime *runtime);

/* `spin` of a loop to which replies will come: looks for mail for a moment. */
bool concur_executor_spin(concur_loop *loop);

/* What is gathered goes to the pool now. */
void concur_executor_publish(concur_executor *executor);

/* Delivers what has come, also when no driver runs. */
void concur_executor_collect(lua_State *L, concur_runtime *runtime);

/* Called by luaopen: defines the class and sets functions into the table on top of the stack.
   In thread_pool.c. */
void concur_executor_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
