/* SPDX-License-Identifier: MIT */
/*
 * Channels: bounded queues of messages between Lua states.  No Lua here; see channel_class.c.
 *
 * One mutex per channel guards all of it.  A *parcel* is a message on its way, allocated by its
 * sender, so that nothing that moves it later can fail.  A *cell* is somebody's wait: to receive, to
 * send its parcel, or (for select) to be told that sending may succeed.  The two sides meet under the
 * mutex: whoever comes second completes the cell of the one who waits, and its mail then tells the
 * waiter's loop.  A wait that is taken back in time never happened; what was received in vain
 * (withdrawn later, or the receiver's state has closed) returns to the front.
 *
 * Invariants:  getters wait  =>  nothing is buffered or offered.
 *              offers wait   =>  the buffer is full.
 *
 * Counted are references (memory: handles, cells, messages that carry the channel) and among them
 * holders (who could still send or receive: handles and messages).  A waiter whose channel has no
 * other holder waits for something that only its own state can bring, and must not keep its loop
 * alive: crossing that line posts the cells' `recount` mail.
 */
#ifndef CONCUR_CHANNEL_H
#define CONCUR_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "list.h"
#include "mailbox.h"
#include "message.h"

#pragma GCC visibility push(hidden)

typedef struct concur_channel concur_channel;
typedef struct concur_parcel concur_parcel;
typedef struct concur_channel_cell concur_channel_cell;

typedef enum concur_channel_end {
  CONCUR_CHANNEL_DONE,
  CONCUR_CHANNEL_WAIT,  /* not now */
  CONCUR_CHANNEL_CLOSED /* closed, and for receivers also drained */
} concur_channel_end;

typedef enum concur_cell_state {
  CONCUR_CELL_NEW,
  CONCUR_CELL_WAITING,   /* in one of the channel's lists, with a reference */
  CONCUR_CELL_DONE,      /* received (`parcel` is there) or sent; the mail has the reference */
  CONCUR_CELL_CLOSED,    /* the channel was closed; the mail has the reference */
  CONCUR_CELL_WITHDRAWN  /* taken back */
} concur_cell_state;

struct concur_channel_cell {
  concur_node node;         /* guarded */
  concur_mail mail;         /* the wait is over; functions from the owner */
  concur_mail recount;      /* the number of holders has crossed the line; functions from the owner */
  concur_channel *channel;  /* one reference */
  concur_mailbox *reply;    /* one reference */
  concur_parcel *parcel;    /* guarded; owned; to send, or received */
  atomic_int references;
  concur_cell_state state;  /* guarded */
  bool recounting;          /* guarded: `recount` is on its way */
  /* owner's thread */
  void *owner;              /* who waits; NULL once it does not any more */
  bool holds_loop;          /* counted in loop->external_refs */
};

/* Takes the message; frees it and returns NULL when out of memory. */
concur_parcel *concur_parcel_new(concur_message *message);
void concur_parcel_free(concur_parcel *parcel);
const concur_message *concur_parcel_message(const concur_parcel *parcel);

/* [any thread, all of these] */
concur_channel *concur_channel_new(uint32_t capacity);
void concur_channel_retain(concur_channel *channel);
void concur_channel_release(concur_channel *channel);
/* As a holder: these count references as well. */
void concur_channel_hold(void *object);
void concur_channel_let_go(void *object);
bool concur_channel_shared(concur_channel *channel); /* more than one holder */

/* DONE takes the parcel. */
concur_channel_end concur_channel_try_send(concur_channel *channel, concur_parcel *parcel);
concur_channel_end concur_channel_try_recv(concur_channel *channel, concur_parcel **parcel);

/* A cell with one reference, the owner's; NULL when out of memory. */
concur_channel_cell *concur_cell_new(concur_channel *channel, concur_mailbox *reply);
void concur_cell_release(concur_channel_cell *cell);

/* At once, or the cell waits.  DONE: received into cell->parcel, or cell->parcel was sent. */
concur_channel_end concur_channel_recv(concur_channel_cell *cell);
concur_channel_end concur_channel_send(concur_channel_cell *cell);
/* Waits until sending may succeed.  False when it may right now: the cell is not waiting. */
bool concur_channel_watch(concur_channel_cell *cell);

/* Takes a waiting cell back: true.  False when it is over already; with `undo`, what it received
   returns to the channel. */
bool concur_cell_withdraw(concur_channel_cell *cell, bool undo);

/* The `recount` mail has arrived: another one may be sent. */
void concur_cell_recounted(concur_channel_cell *cell);

void concur_channel_close(concur_channel *channel);
bool concur_channel_is_closed(concur_channel *channel);
uint32_t concur_channel_size(concur_channel *channel);
uint32_t concur_channel_capacity(const concur_channel *channel);

#pragma GCC visibility pop

#endif
