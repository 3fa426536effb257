/* SPDX-License-Identifier: MIT */
/*
 * A worker: the Lua state of one pool thread, made with its first call and closed with the thread
 * (or earlier: after max_jobs, after an interrupt).
 *
 * A call runs at the top level of the state, so that whatever waits in it drives the state's own
 * loop.  The loop is made only when something first waits; then its mailbox becomes the way in
 * which a cancelled call is told, and its hooks tell the pool when the thread is blocked.
 *
 * Everything here: [the worker's own thread], but for what call.h shares.
 */
#ifndef CONCUR_WORKER_H
#define CONCUR_WORKER_H

#include <lua.h>

#include "call.h"
#include "scope.h"
#include "shortcut.h"
#include "state_memory.h"
#include "support.h"

/* luaopen of the core, which a worker opens in its state. */
int luaopen_concur_core(lua_State *L);

#pragma GCC visibility push(hidden)

typedef struct concur_worker {
  lua_State *L;                     /* owned */
  concur_runtime *runtime;          /* of L; NULL until the core is open there */
  concur_thread *thread;            /* borrowed: the worker is its `local` */
  concur_worker_settings *settings; /* one reference */
  concur_call *call;                /* borrowed while it runs; NULL between calls */
  concur_scope *scope;              /* of the running call; NULL outside */
  lua_State *nested;            /* innermost coroutine that coroutine.resume is running, or NULL */
  unsigned interrupts_seen;     /* of the running call's interrupts, those that raised an error */
  concur_known_functions known; /* to this state */
  concur_timer look;            /* in the loop, once the running call was asked to stop */
  uint32_t pause_ms;        /* before the next try of the call */
  uint32_t calls;               /* run so far */
  bool has_end_hook;            /* a function is called at the end of each call */
  bool worn;                    /* must not run another call */
  concur_state_memory memory;   /* of L */
} concur_worker;

/* Makes the thread's state, unless it has one; false when the pool is broken or memory too short. */
bool concur_worker_prepare(concur_worker_settings *settings, concur_thread *thread);

/* The `run` of a call's job. */
void concur_worker_run(concur_job *job, concur_thread *thread);

/* The `deliver` and `drop` of a call's cancel_mail. */
void concur_worker_on_cancel(concur_mail *mail, void *owner);
void concur_worker_drop_cancel(concur_mail *mail);

/* True when the call that this worker runs was asked to stop. */
static inline bool concur_worker_cancelled(const concur_worker *worker) {
  return worker->call != NULL && concur_job_is_cancelled(&worker->call->job);
}

/* What a call is named in messages: its own name, or "a job". */
const char *concur_call_title(const concur_call *call);

/* Calls the function on top of the stack (popped) at the end of each call of this worker. */
void concur_worker_at_end(lua_State *L, concur_worker *worker);

#pragma GCC visibility pop

#endif
