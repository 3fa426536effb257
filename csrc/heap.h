/* SPDX-License-Identifier: MIT */
/*
 * The timer heap: a 4-ary heap of deadlines.  Each timer knows its place in the heap, so stopping
 * one is O(log n).  Equal deadlines fire in the order in which they were started.
 *
 * The deadlines are in the heap's array, not in the timers: a million timers lie all over the
 * memory, and sifting must not wait for each of them.
 * No Lua; belongs to the loop's thread.  The heap owns the array, never the timers.
 */
#ifndef CONCUR_HEAP_H
#define CONCUR_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

#define CONCUR_TIMER_IDLE UINT32_MAX /* value of `index` while a timer is not in the heap */
#define CONCUR_NEVER UINT64_MAX      /* a deadline that never comes */

typedef struct concur_timer concur_timer;
struct concur_timer {
  uint64_t sequence; /* breaks ties first in, first out */
  void (*fire)(concur_timer *timer, void *context);
  uint32_t index; /* place in the heap, or CONCUR_TIMER_IDLE */
};

typedef struct concur_heap_entry {
  uint64_t deadline_ns;
  concur_timer *timer; /* borrowed while it is in the heap */
} concur_heap_entry;

typedef struct concur_heap {
  concur_heap_entry *entries; /* owned */
  uint32_t count;
  uint32_t capacity;
  uint64_t next_sequence;
} concur_heap;

static inline void concur_timer_init(concur_timer *timer) {
  timer->index = CONCUR_TIMER_IDLE;
}

static inline bool concur_timer_active(const concur_timer *timer) {
  return timer->index != CONCUR_TIMER_IDLE;
}

/* Makes room for one more timer; false when out of memory.  Inserting after this cannot fail. */
bool concur_heap_reserve(concur_heap *heap);

/* Inserts an idle timer; room must have been reserved. */
void concur_heap_insert(concur_heap *heap, concur_timer *timer, uint64_t deadline_ns);

/* Removes a timer; does nothing when it is idle. */
void concur_heap_remove(concur_heap *heap, concur_timer *timer);

/* The earliest deadline; CONCUR_NEVER when there is none. */
static inline uint64_t concur_heap_deadline(const concur_heap *heap) {
  return heap->count > 0 ? heap->entries[0].deadline_ns : CONCUR_NEVER;
}

/* When this timer fires; CONCUR_NEVER when it is idle. */
static inline uint64_t concur_heap_deadline_of(const concur_heap *heap, const concur_timer *timer) {
  return concur_timer_active(timer) ? heap->entries[timer->index].deadline_ns : CONCUR_NEVER;
}

/* Takes the earliest timer out; there is one. */
concur_timer *concur_heap_pop(concur_heap *heap);

/* Frees the array.  Timers still inside become idle. */
void concur_heap_free(concur_heap *heap);

#pragma GCC visibility pop

#endif
