/* SPDX-License-Identifier: MIT */
/*
 * What channel_class.c (methods) and channel_arms.c (select) share: a channel's userdata, values on
 * their way, and cells (channel.h) that wait for a loop of this state.              [loop thread]
 */
#ifndef CONCUR_CHANNEL_CELL_H
#define CONCUR_CHANNEL_CELL_H

#include "channel.h"
#include "holding.h"
#include "loop.h"
#include "support.h"

#pragma GCC visibility push(hidden)

/* The userdata of class CONCUR_CLASS_CHANNEL. */
typedef struct concur_channel_handle {
  concur_channel *channel; /* borrowed from the holding; NULL until it is set up */
  concur_holding *holding; /* owned */
} concur_channel_handle;

/* The channel at index 1.  Raises. */
concur_channel *concur_channel_check(lua_State *L);

/* Raises unless index 2 has a value that can be sent; leaves two values on the stack. */
void concur_channel_check_value(lua_State *L);
/* Encodes the value at `index`.  Raises TransferError. */
concur_parcel *concur_channel_parcel(lua_State *L, int index);
/* Pushes what was received and returns 1; takes the parcel, also when it raises. */
int concur_channel_push(lua_State *L, concur_parcel *parcel);

/* Pushes nil and an error of the kind; returns 2. */
int concur_channel_push_nothing(lua_State *L, const char *kind, const char *text);
/* The same for a channel that is closed and drained. */
int concur_channel_push_drained(lua_State *L);
/* Raises Closed: nothing can be sent. */
int concur_channel_raise_closed(lua_State *L);

/* A cell whose mail goes to the loop.  Out of memory: raises, or returns NULL where L is NULL. */
concur_channel_cell *concur_cell_make(lua_State *L, concur_channel *channel, concur_loop *loop,
                                      void (*deliver)(concur_mail *mail, void *owner));
concur_channel_cell *concur_cell_of_mail(concur_mail *mail);
/* A waiting cell keeps the loop alive while somebody else holds the channel too. */
void concur_cell_count(concur_channel_cell *cell, concur_loop *loop);
/* The owner does not wait any more. */
void concur_cell_forget(concur_channel_cell *cell, concur_loop *loop);
/* What a receiving cell got, as results of `recv`; releases the cell. */
int concur_channel_recv_finish(lua_State *L, concur_channel_cell *cell);

#pragma GCC visibility pop

#endif
