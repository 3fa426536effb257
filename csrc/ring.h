/* SPDX-License-Identifier: MIT */
/*
 * A ring of bytes in memory that two processes share: one writes, the other reads.
 *
 * Each end keeps its own position in memory of its own and publishes it in the shared part; what it
 * reads there of the other end it checks, since the other process may have scribbled over it.  What
 * was published stays readable when its writer dies in the next moment.
 *
 * Nobody waits here.  One who is going to sleep says so (want_data, want_room), and the other end's
 * next publish or release tells that it is to be woken: once.
 *
 * No Lua.  Each end: one thread at a time.
 */
#ifndef CONCUR_RING_H
#define CONCUR_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* The shared part, zeroed at first.  Each field has a line of the cache to itself. */
typedef struct concur_ring_shared {
  _Alignas(64) _Atomic uint64_t written; /* bytes ever written */
  _Alignas(64) _Atomic uint64_t read;    /* bytes ever read */
  _Alignas(64) atomic_uint reader_waits; /* 1: is to be woken when something was written */
  _Alignas(64) atomic_uint writer_waits; /* 1: is to be woken when something was read */
} concur_ring_shared;

/* One end, in memory of its own process. */
typedef struct concur_ring {
  concur_ring_shared *shared;
  unsigned char *bytes; /* shared */
  size_t capacity;      /* a power of two */
  uint64_t position;    /* bytes that this end has written or read */
  uint64_t other;       /* the other end's position when it was last looked at */
  bool damaged;         /* the other end's position cannot be true */
} concur_ring;

void concur_ring_init(concur_ring *ring, concur_ring_shared *shared, unsigned char *bytes,
                      size_t capacity);

/* ---- writer ---- */

/* Copies as many of the bytes as there is room for; returns how many.  Not seen until published. */
size_t concur_ring_write(concur_ring *ring, const void *bytes, size_t size);
/* True when something could be written, or when the ring is damaged. */
bool concur_ring_has_room(concur_ring *ring);
/* Lets the reader see what was written.  True when the reader is to be woken. */
bool concur_ring_publish(concur_ring *ring);
/* The writer is going to sleep.  False when there is room: it should not. */
bool concur_ring_want_room(concur_ring *ring);

/* ---- reader ---- */

/* True when there is something to read, or when the ring is damaged. */
bool concur_ring_pending(concur_ring *ring);
/* Some bytes that were written and not read, in one piece; 0 when there are none, or when the ring
   is damaged. */
size_t concur_ring_peek(concur_ring *ring, const unsigned char **bytes);
/* That many of them were read. */
static inline void concur_ring_skip(concur_ring *ring, size_t size) {
  ring->position += size;
}
/* Gives the room of what was read back.  True when the writer is to be woken. */
bool concur_ring_release(concur_ring *ring);
/* The reader is going to sleep.  False when there is something to read: it should not. */
bool concur_ring_want_data(concur_ring *ring);

#pragma GCC visibility pop

#endif
