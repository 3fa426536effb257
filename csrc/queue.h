/* SPDX-License-Identifier: MIT */
/* Queue, LifoQueue, PriorityQueue.  See queue.c. */
#ifndef CONCUR_QUEUE_H
#define CONCUR_QUEUE_H

#include "parking.h"

#pragma GCC visibility push(hidden)

typedef struct concur_queue concur_queue;

void concur_queue_open(lua_State *L, concur_runtime *runtime);

/* For select.  `index` is the queue's stack index. */
typedef enum concur_queue_try { CONCUR_QUEUE_DONE, CONCUR_QUEUE_WAIT, CONCUR_QUEUE_CLOSED } concur_queue_try;

/* Takes an item if there is one: it is on top then, other values may be below it. */
concur_queue_try concur_queue_try_get(lua_State *L, int index, concur_queue *queue);
/* Puts the value on top of the stack (popped when done) if there is room. */
concur_queue_try concur_queue_try_put(lua_State *L, int index, concur_queue *queue);

concur_node *concur_queue_getters(concur_queue *queue);
concur_node *concur_queue_putters(concur_queue *queue);

#pragma GCC visibility pop

#endif
