/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a future that belongs to the wait: cancelled, it asks the future to cancel, goes on
 * until that has settled, and raises Cancelled then (or the error that the future failed with).
 * to_thread is like this.                                                         [loop thread]
 */
#ifndef CONCUR_OWNED_H
#define CONCUR_OWNED_H

#include "await.h"

#pragma GCC visibility push(hidden)

/* `abort` and `detach` of such a wait. */
bool concur_owned_abort(concur_fiber *fiber);
void concur_owned_detach(concur_fiber *fiber);

/* Waits for the future at index 1 of the frame and returns its results.  `wait` is one with the two
   functions above. */
int concur_owned_wait(lua_State *L, concur_fiber *fiber, const concur_wait *wait);

#pragma GCC visibility pop

#endif
