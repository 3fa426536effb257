/* SPDX-License-Identifier: MIT */
/* concur.Event.  See event.c. */
#ifndef CONCUR_EVENT_H
#define CONCUR_EVENT_H

#include "parking.h"

#pragma GCC visibility push(hidden)

void concur_event_open(lua_State *L, concur_runtime *runtime);

/* For select: the wait list of an event, or NULL when it is set. */
concur_node *concur_event_waiters(void *self);

#pragma GCC visibility pop

#endif
