/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a pool: until its queue has room, until its threads have ended, until a call is over.
 * The waits of executors.  [loop thread]
 */
#ifndef CONCUR_POOL_WAIT_H
#define CONCUR_POOL_WAIT_H

#include "executor.h"

#pragma GCC visibility push(hidden)

/* True when others wait for room already: whoever comes now waits behind them. */
bool concur_pool_room_is_wanted(const concur_executor *executor);

/* Parks the fiber until a job has left the executor's full queue; then `resume` tries again.  One
   who waits again, because another was faster, waits in front (`again`). */
int concur_pool_wait_room(lua_State *L, concur_fiber *fiber, concur_executor *executor, bool again,
                          concur_resume resume);

/* Parks the fiber until the closing pool's last thread is ending, for at most `timeout_ns`. */
int concur_pool_wait_end(lua_State *L, concur_fiber *fiber, concur_executor *executor,
                         uint64_t timeout_ns, concur_resume resume);

/* Waits for the call whose future is at index 1, the only value on the stack, and returns its
   results.  A cancelled wait asks the call to stop and goes on until it has ended; then it raises
   Cancelled, or the error that the call failed with. */
int concur_pool_wait_call(lua_State *L, concur_fiber *fiber);

/* The turn is over.  True while somebody who was woken has not had its turn yet. */
bool concur_pool_wait_rests(concur_executor *executor);
/* If nobody is on the way any more, the next one waits for room. */
void concur_pool_wait_rearm(concur_executor *executor);
/* The one who was woken has its turn. */
void concur_pool_wait_served(concur_executor *executor);

/* Forgets the executor's waits: the state is closing. */
void concur_pool_wait_close(concur_executor *executor);

#pragma GCC visibility pop

#endif
