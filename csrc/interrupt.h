/* SPDX-License-Identifier: MIT */
/*
 * Interrupts: ending Lua code that a worker runs and that does not look at its token.
 *
 * A call that was cancelled may be told to end by force.  The worker's thread gets a signal
 * (SIGURG, which by default does nothing); the handler sets a debug hook on whatever runs in that
 * worker, and the hook raises the call's Cancelled.  Code that swallows it gets the error again at
 * every instruction after a second interrupt, which also ends by force what waits: tasks of the
 * call that refuse to end, and waits behind a shield.  Without an interrupt no hook is installed,
 * since any hook halves the speed of Lua.
 *
 * Under ThreadSanitizer and on systems without such signals, calls that have `interrupt_after`
 * run with a counting hook that looks for the request; the others cannot be interrupted.
 */
#ifndef CONCUR_INTERRUPT_H
#define CONCUR_INTERRUPT_H

#include "worker.h"

#pragma GCC visibility push(hidden)

/* [worker thread] Around the Lua code of a call; `resume` instead of `begin` around the end of the
   tasks that it has left behind. */
void concur_interrupt_begin(concur_worker *worker);
void concur_interrupt_resume(concur_worker *worker);
void concur_interrupt_end(concur_worker *worker);

/* [worker thread] The running call was asked to stop, and has a loop: from now on an interrupt
   reaches what waits, too.  Until `look_no_more`, at the end of the call. */
void concur_interrupt_look(concur_worker *worker);
void concur_interrupt_look_no_more(concur_worker *worker);

/* [worker thread] Replaces coroutine.resume and coroutine.wrap by ones that tell which coroutine
   runs; the `coroutine` table is a global of the state. */
void concur_interrupt_open(lua_State *L, concur_worker *worker);

/* [any thread that knows the call to be alive] Tells the call's Lua code to end, if it runs. */
void concur_interrupt_call(concur_call *call);

/* [any thread] The same for every call of the pool that was asked to stop. */
void concur_interrupt_pool(concur_pool *pool);

/* "signal" or "hook": how interrupts are done in this build. */
extern const char *const concur_interrupt_kind;

/* [any thread] Asks the pool's running calls where they are, and gives them some milliseconds to
   say (concur_running.trace).  Only calls that are inside a C function answer. */
void concur_interrupt_trace(concur_pool *pool);

#pragma GCC visibility pop

#endif
