/* SPDX-License-Identifier: MIT */
/* See heap.h.  Four children a node: half the depth of a binary heap for the same comparisons. */
#include "heap.h"

#include <stdlib.h>

enum { ARITY = 4, FIRST_CAPACITY = 64 };

static bool entry_before(concur_heap_entry a, concur_heap_entry b) {
  if (a.deadline_ns != b.deadline_ns) return a.deadline_ns < b.deadline_ns;
  return a.timer->sequence < b.timer->sequence;
}

static void heap_place(concur_heap *heap, concur_heap_entry entry, uint32_t index) {
  heap->entries[index] = entry;
  entry.timer->index = index;
}

static void heap_sift_up(concur_heap *heap, concur_heap_entry entry, uint32_t index) {
  while (index > 0) {
    uint32_t parent = (index - 1) / ARITY;
    if (!entry_before(entry, heap->entries[parent])) break;
    heap_place(heap, heap->entries[parent], index);
    index = parent;
  }
  heap_place(heap, entry, index);
}

static void heap_sift_down(concur_heap *heap, concur_heap_entry entry, uint32_t index) {
  for (;;) {
    uint32_t child = index * ARITY + 1;
    if (child >= heap->count) break;
    uint32_t end = child + ARITY < heap->count ? child + ARITY : heap->count;
    uint32_t best = child;
    while (++child < end) {
      if (entry_before(heap->entries[child], heap->entries[best])) best = child;
    }
    if (!entry_before(heap->entries[best], entry)) break;
    heap_place(heap, heap->entries[best], index);
    index = best;
  }
  heap_place(heap, entry, index);
}

bool concur_heap_reserve(concur_heap *heap) {
  if (heap->count < heap->capacity) return true;
  if (heap->capacity > UINT32_MAX / 4) return false;
  uint32_t capacity = heap->capacity == 0 ? FIRST_CAPACITY : heap->capacity * 2;
  concur_heap_entry *entries = realloc(heap->entries, capacity * sizeof *entries);
  if (entries == NULL) return false;
  heap->entries = entries;
  heap->capacity = capacity;
  return true;
}

void concur_heap_insert(concur_heap *heap, concur_timer *timer, uint64_t deadline_ns) {
  timer->sequence = heap->next_sequence++;
  heap_sift_up(heap, (concur_heap_entry){deadline_ns, timer}, heap->count++);
}

void concur_heap_remove(concur_heap *heap, concur_timer *timer) {
  uint32_t index = timer->index;
  if (index == CONCUR_TIMER_IDLE) return;
  timer->index = CONCUR_TIMER_IDLE;
  concur_heap_entry last = heap->entries[--heap->count];
  if (last.timer == timer) return;
  if (index > 0 && entry_before(last, heap->entries[(index - 1) / ARITY])) {
    heap_sift_up(heap, last, index);
  } else {
    heap_sift_down(heap, last, index);
  }
}

concur_timer *concur_heap_pop(concur_heap *heap) {
  concur_timer *first = heap->entries[0].timer;
  concur_heap_remove(heap, first);
  return first;
}

void concur_heap_free(concur_heap *heap) {
  for (uint32_t i = 0; i < heap->count; i++) heap->entries[i].timer->index = CONCUR_TIMER_IDLE;
  free(heap->entries);
  heap->entries = NULL;
  heap->count = 0;
  heap->capacity = 0;
}
