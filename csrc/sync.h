/* SPDX-License-Identifier: MIT */
/* Lock, Event, Semaphore.  See sync.c. */
#ifndef CONCUR_SYNC_H
#define CONCUR_SYNC_H

#include "parking.h"

#pragma GCC visibility push(hidden)

void concur_sync_open(lua_State *L, concur_runtime *runtime);

/* For select: the wait list of an event, or NULL when it is set. */
concur_node *concur_event_waiters(void *event);

#pragma GCC visibility pop

#endif
