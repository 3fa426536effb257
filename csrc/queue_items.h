/* SPDX-License-Identifier: MIT */
/*
 * What is inside a queue: values in the order in which they will come out.
 *
 * Belongs to a queue, whose userdata keeps the values in its user values.  `index` is that
 * userdata's absolute stack index everywhere.  What raises does so before anything has changed.
 *                                                                            [loop thread]
 */
#ifndef CONCUR_QUEUE_ITEMS_H
#define CONCUR_QUEUE_ITEMS_H

#include "support.h"

#pragma GCC visibility push(hidden)

typedef enum concur_order { CONCUR_FIFO, CONCUR_LIFO, CONCUR_PRIORITY } concur_order;

typedef struct concur_items {
  concur_order order;
  bool in_place;        /* first in, first out, in the user values themselves */
  lua_Integer count;
  lua_Integer head;     /* FIFO: the first item is in slot head + 1; they wrap */
  lua_Integer capacity; /* FIFO: slots there are */
  uint64_t arrivals;    /* PRIORITY: order of the next item */
  uint64_t version;     /* changes with every change: a comparison may run anything */
} concur_items;

/* How many user values the userdata of a queue needs; `limit` 0: none. */
int concur_items_user_values(concur_order order, lua_Integer limit);

/* Prepares a new queue's userdata; `less` is the stack index of a function, or of nil. */
void concur_items_init(lua_State *L, int index, concur_items *items, concur_order order,
                       lua_Integer limit, int less);

/* Stores the value on top of the stack, popped. */
void concur_items_store(lua_State *L, int index, concur_items *items);

/* Takes the next one out; there is one.  It is on top then, other values may be below it. */
void concur_items_fetch(lua_State *L, int index, concur_items *items);

/* Drops all; returns how many there were. */
lua_Integer concur_items_clear(lua_State *L, int index, concur_items *items);

#pragma GCC visibility pop

#endif
