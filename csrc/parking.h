/* SPDX-License-Identifier: MIT */
/*
 * Parking: the one mechanism under all synchronisation primitives.
 *
 * A primitive has a list of waiters, first in, first out.  Whoever makes it available hands it
 * directly to the first one, before that one runs: nobody can come in between, so nothing is lost,
 * doubled or starved.  Cancellation takes a waiter out of the list, or comes too late, and then
 * what was handed over stands.                                              [loop thread]
 */
#ifndef CONCUR_PARKING_H
#define CONCUR_PARKING_H

#include "fiber.h"

#pragma GCC visibility push(hidden)

void concur_parking_open(lua_State *L, concur_runtime *runtime);

static inline concur_waiter *concur_waiter_of(concur_node *node) {
  return concur_container_of(node, concur_waiter, node);
}

/* Takes the first waiter out that is not broken; NULL when there is none. */
concur_waiter *concur_parking_pop(concur_node *waiters);

/* Takes the first waiter out and notifies it; false when there is none. */
bool concur_parking_wake_first(concur_node *waiters, void *source);

/* Takes all out and notifies them. */
void concur_parking_wake_all(concur_node *waiters, void *source);

/* Takes all out and tells them that what they wait for is closed. */
void concur_parking_close(concur_node *waiters);

/* Gives the value on top of the stack (popped) to the first waiter that can take it; false when
   there is none: the value stays. */
bool concur_parking_give(lua_State *L, concur_node *waiters);

/* Takes out the first waiter that offers a value and pushes that; the caller notifies it.  NULL
   (nothing pushed) when there is none. */
concur_waiter *concur_parking_take(lua_State *L, concur_node *waiters);

/* Pushes nil and a WouldBlock with this text; returns 2. */
int concur_would_block(lua_State *L, const concur_runtime *runtime, const char *text);

/* How many wait. */
int concur_parking_count(const concur_node *waiters);

/* Parks in the list until notified. */
int concur_parking_park(lua_State *L, concur_fiber *fiber, concur_node *waiters,
                        const concur_wait *wait, void *target, concur_resume resume);

#pragma GCC visibility pop

#endif
