/* SPDX-License-Identifier: MIT */
/* See channel.h.  Cells that are over are collected in a list under the lock and told after it. */
#include "channel.h"

#include <stdlib.h>
#include <uv.h>

struct concur_parcel {
  concur_node node; /* in a channel's buffer */
  concur_message *message; /* owned */
};

struct concur_channel {
  atomic_int references;
  uint32_t capacity;
  uv_mutex_t mutex;
  uint32_t holders;
  uint32_t size;        /* parcels in `buffer`; above `capacity` only by what was returned */
  bool closed;
  concur_node buffer;   /* of parcels, oldest first */
  concur_node getters;  /* of cells that wait to receive */
  concur_node offers;   /* of cells that wait to send */
  concur_node watchers; /* of cells that wait for a chance to send */
};

static concur_channel_cell *cell_of(concur_node *node) {
  return concur_container_of(node, concur_channel_cell, node);
}

/* ---- parcels and cells ---- */

concur_parcel *concur_parcel_new(concur_message *message) {
  concur_parcel *parcel = calloc(1, sizeof *parcel);
  if (parcel == NULL) {
    concur_message_free(message);
    return NULL;
  }
  parcel->message = message;
  return parcel;
}

void concur_parcel_free(concur_parcel *parcel) {
  if (parcel == NULL) return;
  concur_message_free(parcel->message);
  free(parcel);
}

const concur_message *concur_parcel_message(const concur_parcel *parcel) {
  return parcel->message;
}

concur_channel_cell *concur_cell_new(concur_channel *channel, concur_mailbox *reply) {
  concur_channel_cell *cell = calloc(1, sizeof *cell);
  if (cell == NULL) return NULL;
  cell->channel = channel;
  cell->reply = reply;
  concur_channel_retain(channel);
  concur_mailbox_retain(reply);
  atomic_init(&cell->references, 1);
  cell->state = CONCUR_CELL_NEW;
  return cell;
}

void concur_cell_release(concur_channel_cell *cell) {
  if (atomic_fetch_sub(&cell->references, 1) != 1) return;
  concur_parcel_free(cell->parcel);
  concur_mailbox_release(cell->reply);
  concur_channel_release(cell->channel);
  free(cell);
}

/* [under the lock] The cell waits in the list; the list has a reference. */
static void cell_enqueue(concur_node *list, concur_channel_cell *cell) {
  atomic_fetch_add(&cell->references, 1);
  cell->state = CONCUR_CELL_WAITING;
  concur_list_append(list, &cell->node);
}

/* [under the lock] The cell's wait is over; the list's reference goes to `due`. */
static void cell_end(concur_channel_cell *cell, concur_cell_state state, concur_node *due) {
  concur_node_unlink(&cell->node);
  cell->state = state;
  concur_list_append(due, &cell->node);
}

static void cells_end(concur_node *list, concur_cell_state state, concur_node *due) {
  while (!concur_list_empty(list)) cell_end(cell_of(list->next), state, due);
}

/* [no lock held] Tells the owners; the reference goes with the mail. */
static void cells_post(concur_node *due) {
  concur_node *node;
  while ((node = concur_list_pop(due)) != NULL) {
    concur_channel_cell *cell = cell_of(node);
    concur_mailbox *reply = cell->reply;
    concur_mailbox_retain(reply); /* the cell may be gone once it was posted */
    if (!concur_mailbox_post(reply, &cell->mail)) cell->mail.drop(&cell->mail);
    concur_mailbox_release(reply);
  }
}

/* ---- channels ---- */

concur_channel *concur_channel_new(uint32_t capacity) {
  concur_channel *channel = calloc(1, sizeof *channel);
  if (channel == NULL) return NULL;
  if (uv_mutex_init(&channel->mutex) != 0) {
    free(channel);
    return NULL;
  }
  atomic_init(&channel->references, 1);
  channel->holders = 1;
  channel->capacity = capacity;
  concur_list_init(&channel->buffer);
  concur_list_init(&channel->getters);
  concur_list_init(&channel->offers);
  concur_list_init(&channel->watchers);
  return channel;
}

void concur_channel_retain(concur_channel *channel) {
  atomic_fetch_add(&channel->references, 1);
}

void concur_channel_release(concur_channel *channel) {
  if (atomic_fetch_sub(&channel->references, 1) != 1) return;
  concur_node *node; /* cells hold references, so none is left */
  while ((node = concur_list_pop(&channel->buffer)) != NULL) {
    concur_parcel_free(concur_container_of(node, concur_parcel, node));
  }
  uv_mutex_destroy(&channel->mutex);
  free(channel);
}

/* [under the lock] Up to `most` cells of the list that are to be recounted, each with a reference. */
static uint32_t cells_to_recount(concur_node *list, concur_channel_cell **cells, uint32_t most) {
  uint32_t count = 0;
  for (concur_node *node = list->next; node != list && count < most; node = node->next) {
    concur_channel_cell *cell = cell_of(node);
    if (cell->recounting) continue;
    cell->recounting = true;
    atomic_fetch_add(&cell->references, 1);
    cells[count++] = cell;
  }
  return count;
}

/* The number of holders has crossed the line between one and more. */
static void channel_recount(concur_channel *channel) {
  enum { MOST = 16 };
  concur_channel_cell *cells[MOST];
  uint32_t count;
  do {
    uv_mutex_lock(&channel->mutex);
    count = cells_to_recount(&channel->getters, cells, MOST);
    if (count == 0) count = cells_to_recount(&channel->offers, cells, MOST);
    if (count == 0) count = cells_to_recount(&channel->watchers, cells, MOST);
    uv_mutex_unlock(&channel->mutex);
    for (uint32_t i = 0; i < count; i++) {
      concur_mailbox *reply = cells[i]->reply;
      concur_mailbox_retain(reply);
      if (!concur_mailbox_post(reply, &cells[i]->recount)) cells[i]->recount.drop(&cells[i]->recount);
      concur_mailbox_release(reply);
    }
  } while (count > 0);
}

void concur_cell_recounted(concur_channel_cell *cell) {
  uv_mutex_lock(&cell->channel->mutex);
  cell->recounting = false;
  uv_mutex_unlock(&cell->channel->mutex);
}

void concur_channel_hold(void *object) {
  concur_channel *channel = object;
  concur_channel_retain(channel);
  uv_mutex_lock(&channel->mutex);
  bool crossed = channel->holders++ == 1;
  uv_mutex_unlock(&channel->mutex);
  if (crossed) channel_recount(channel);
}

void concur_channel_let_go(void *object) {
  concur_channel *channel = object;
  uv_mutex_lock(&channel->mutex);
  bool crossed = --channel->holders == 1;
  uv_mutex_unlock(&channel->mutex);
  if (crossed) channel_recount(channel);
  concur_channel_release(channel);
}

bool concur_channel_shared(concur_channel *channel) {
  uv_mutex_lock(&channel->mutex);
  bool shared = channel->holders > 1;
  uv_mutex_unlock(&channel->mutex);
  return shared;
}

/* ---- the two sides meet ---- */

/* [under the lock] */
static concur_channel_end channel_put(concur_channel *channel, concur_parcel *parcel,
                                      concur_node *due) {
  if (channel->closed) return CONCUR_CHANNEL_CLOSED;
  if (!concur_list_empty(&channel->getters)) {
    concur_channel_cell *getter = cell_of(channel->getters.next);
    getter->parcel = parcel;
    cell_end(getter, CONCUR_CELL_DONE, due);
    return CONCUR_CHANNEL_DONE;
  }
  if (channel->size >= channel->capacity) return CONCUR_CHANNEL_WAIT;
  concur_list_append(&channel->buffer, &parcel->node);
  channel->size++;
  return CONCUR_CHANNEL_DONE;
}

/* [under the lock] Takes the parcel of the first offer, whose sender is done. */
static concur_parcel *offer_accept(concur_channel *channel, concur_node *due) {
  concur_channel_cell *offer = cell_of(channel->offers.next);
  concur_parcel *parcel = offer->parcel;
  offer->parcel = NULL;
  cell_end(offer, CONCUR_CELL_DONE, due);
  return parcel;
}

/* [under the lock] */
static concur_channel_end channel_get(concur_channel *channel, concur_parcel **parcel,
                                      concur_node *due) {
  concur_node *first = concur_list_pop(&channel->buffer);
  if (first != NULL) {
    *parcel = concur_container_of(first, concur_parcel, node);
    channel->size--;
    if (channel->size < channel->capacity) {
      if (!concur_list_empty(&channel->offers)) {
        concur_parcel *next = offer_accept(channel, due);
        concur_list_append(&channel->buffer, &next->node);
        channel->size++;
      } else {
        cells_end(&channel->watchers, CONCUR_CELL_DONE, due);
      }
    }
    return CONCUR_CHANNEL_DONE;
  }
  if (!concur_list_empty(&channel->offers)) {
    *parcel = offer_accept(channel, due);
    return CONCUR_CHANNEL_DONE;
  }
  return channel->closed ? CONCUR_CHANNEL_CLOSED : CONCUR_CHANNEL_WAIT;
}

concur_channel_end concur_channel_try_send(concur_channel *channel, concur_parcel *parcel) {
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&channel->mutex);
  concur_channel_end end = channel_put(channel, parcel, &due);
  uv_mutex_unlock(&channel->mutex);
  cells_post(&due);
  return end;
}

concur_channel_end concur_channel_try_recv(concur_channel *channel, concur_parcel **parcel) {
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&channel->mutex);
  concur_channel_end end = channel_get(channel, parcel, &due);
  uv_mutex_unlock(&channel->mutex);
  cells_post(&due);
  return end;
}

concur_channel_end concur_channel_recv(concur_channel_cell *cell) {
  concur_channel *channel = cell->channel;
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&channel->mutex);
  concur_channel_end end = channel_get(channel, &cell->parcel, &due);
  if (end == CONCUR_CHANNEL_WAIT) {
    cell_enqueue(&channel->getters, cell);
    cells_end(&channel->watchers, CONCUR_CELL_DONE, &due); /* now one of them can send */
  }
  uv_mutex_unlock(&channel->mutex);
  cells_post(&due);
  return end;
}

concur_channel_end concur_channel_send(concur_channel_cell *cell) {
  concur_channel *channel = cell->channel;
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&channel->mutex);
  concur_channel_end end = channel_put(channel, cell->parcel, &due);
  if (end == CONCUR_CHANNEL_DONE) cell->parcel = NULL;
  if (end == CONCUR_CHANNEL_WAIT) cell_enqueue(&channel->offers, cell);
  uv_mutex_unlock(&channel->mutex);
  cells_post(&due);
  return end;
}

bool concur_channel_watch(concur_channel_cell *cell) {
  concur_channel *channel = cell->channel;
  uv_mutex_lock(&channel->mutex);
  bool possible = channel->closed || !concur_list_empty(&channel->getters) ||
                  channel->size < channel->capacity;
  if (!possible) cell_enqueue(&channel->watchers, cell);
  uv_mutex_unlock(&channel->mutex);
  return !possible;
}

/* [under the lock] */
static void channel_unget(concur_channel *channel, concur_parcel *parcel, concur_node *due) {
  if (!concur_list_empty(&channel->getters)) {
    concur_channel_cell *getter = cell_of(channel->getters.next);
    getter->parcel = parcel;
    cell_end(getter, CONCUR_CELL_DONE, due);
    return;
  }
  concur_list_prepend(&channel->buffer, &parcel->node);
  channel->size++;
}

bool concur_cell_withdraw(concur_channel_cell *cell, bool undo) {
  concur_channel *channel = cell->channel;
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&channel->mutex);
  bool waited = cell->state == CONCUR_CELL_WAITING;
  if (waited) {
    concur_node_unlink(&cell->node);
    cell->state = CONCUR_CELL_WITHDRAWN;
  } else if (undo && cell->state == CONCUR_CELL_DONE && cell->parcel != NULL) {
    concur_parcel *parcel = cell->parcel;
    cell->parcel = NULL;
    cell->state = CONCUR_CELL_WITHDRAWN;
    channel_unget(channel, parcel, &due);
  }
  uv_mutex_unlock(&channel->mutex);
  cells_post(&due);
  if (waited) concur_cell_release(cell);
  return waited;
}

void concur_channel_close(concur_channel *channel) {
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&channel->mutex);
  channel->closed = true;
  cells_end(&channel->getters, CONCUR_CELL_CLOSED, &due);
  cells_end(&channel->offers, CONCUR_CELL_CLOSED, &due);
  cells_end(&channel->watchers, CONCUR_CELL_DONE, &due);
  uv_mutex_unlock(&channel->mutex);
  cells_post(&due);
}

bool concur_channel_is_closed(concur_channel *channel) {
  uv_mutex_lock(&channel->mutex);
  bool closed = channel->closed;
  uv_mutex_unlock(&channel->mutex);
  return closed;
}

uint32_t concur_channel_size(concur_channel *channel) {
  uv_mutex_lock(&channel->mutex);
  uint32_t size = channel->size;
  uv_mutex_unlock(&channel->mutex);
  return size;
}

uint32_t concur_channel_capacity(const concur_channel *channel) {
  return channel->capacity;
}
