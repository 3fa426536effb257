/* SPDX-License-Identifier: MIT */
/* See owned.h. */
#include "owned.h"

bool concur_owned_abort(concur_fiber *fiber) {
  concur_future *future = fiber->target;
  future->ops->cancel_quietly(fiber->scheduler->runtime, future);
  return false; /* its end wakes the fiber, whenever that is */
}

void concur_owned_detach(concur_fiber *fiber) {
  concur_future *future = fiber->target;
  concur_node_unlink(&fiber->waiter.node);
  if (!concur_future_settled(future)) (void)concur_owned_abort(fiber);
}

static int owned_ended(lua_State *L, concur_fiber *fiber) {
  concur_future *future = lua_touserdata(L, 1);
  bool failed = future->state == CONCUR_FAILED;
  if (future->cancel_requested && concur_fiber_cancelled(fiber) && !failed) {
    return concur_fiber_raise_cancelled(L, fiber);
  }
  return concur_await_results(L, fiber, 1, future);
}

int concur_owned_wait(lua_State *L, concur_fiber *fiber, const concur_wait *wait) {
  concur_future *future = lua_touserdata(L, 1);
  future->retrieved = true; /* whatever comes is raised here */
  if (concur_future_settled(future)) return owned_ended(L, fiber);
  concur_list_append(&future->waiters, &fiber->waiter.node);
  return concur_fiber_park(L, fiber, wait, future, owned_ended);
}
