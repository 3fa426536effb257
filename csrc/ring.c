/* SPDX-License-Identifier: MIT */
/* See ring.h. */
#include "ring.h"

#include <string.h>

/* NOLINTNEXTLINE(readability-non-const-parameter): the ring writes to them */
void concur_ring_init(concur_ring *ring, concur_ring_shared *shared, unsigned char *bytes,
                      size_t capacity) {
  *ring = (concur_ring){.shared = shared, .bytes = bytes, .capacity = capacity};
}

/* ---- writer ---- */

/* How many bytes may be written. */
static size_t ring_room(concur_ring *ring) {
  uint64_t other = atomic_load(&ring->shared->read);
  uint64_t used = ring->position - other;
  if (used > ring->capacity) { /* concur_ring_write goes on counting with what could be true */
    ring->damaged = true;
    return 0;
  }
  ring->other = other;
  return ring->capacity - (size_t)used;
}

size_t concur_ring_write(concur_ring *ring, const void *bytes, size_t size) {
  const unsigned char *from = bytes;
  size_t room = ring->capacity - (size_t)(ring->position - ring->other);
  if (room < size) room = ring_room(ring);
  if (size > room) size = room;
  size_t at = (size_t)ring->position & (ring->capacity - 1);
  size_t first = size < ring->capacity - at ? size : ring->capacity - at;
  if (first > 0) memcpy(ring->bytes + at, from, first);
  if (size > first) memcpy(ring->bytes, from + first, size - first);
  ring->position += size;
  return size;
}

bool concur_ring_has_room(concur_ring *ring) {
  return ring_room(ring) > 0 || ring->damaged;
}

bool concur_ring_publish(concur_ring *ring) {
  atomic_store(&ring->shared->written, ring->position);
  return atomic_load(&ring->shared->reader_waits) != 0 &&
         atomic_exchange(&ring->shared->reader_waits, 0) != 0;
}

bool concur_ring_want_room(concur_ring *ring) {
  atomic_store(&ring->shared->writer_waits, 1);
  if (ring_room(ring) == 0 && !ring->damaged) return true;
  atomic_store(&ring->shared->writer_waits, 0);
  return false;
}

/* ---- reader ---- */

bool concur_ring_pending(concur_ring *ring) {
  ring->other = atomic_load(&ring->shared->written);
  if (ring->other - ring->position > ring->capacity) ring->damaged = true;
  return ring->other != ring->position;
}

size_t concur_ring_peek(concur_ring *ring, const unsigned char **bytes) {
  if (ring->other == ring->position && !concur_ring_pending(ring)) return 0;
  if (ring->damaged) return 0;
  size_t at = (size_t)ring->position & (ring->capacity - 1);
  size_t there = (size_t)(ring->other - ring->position);
  *bytes = ring->bytes + at;
  return there < ring->capacity - at ? there : ring->capacity - at;
}

bool concur_ring_release(concur_ring *ring) {
  atomic_store(&ring->shared->read, ring->position);
  return atomic_load(&ring->shared->writer_waits) != 0 &&
         atomic_exchange(&ring->shared->writer_waits, 0) != 0;
}

bool concur_ring_want_data(concur_ring *ring) {
  atomic_store(&ring->shared->reader_waits, 1);
  if (!concur_ring_pending(ring)) return true;
  atomic_store(&ring->shared->reader_waits, 0);
  return false;
}
