/* SPDX-License-Identifier: MIT */
/*
 * Exercises csrc/state_memory.c without Lua: built and run by spec/state_memory_spec.lua, also under
 * sanitizers.  Blocks of all sizes are taken, resized and given back at random, each filled with its
 * own pattern; pins of big ones travel to another thread, which checks and releases them, also after
 * the state's memory has gone.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "../../csrc/state_memory.h"

enum { BLOCKS = 300, PINS = 64 };

static uint64_t random_state;

static uint32_t random_below(uint32_t limit) {
  random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)((random_state >> 33) % limit);
}

static void check(bool condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "wrong: %s\n", what);
  exit(1);
}

/* ---- blocks ---- */

typedef struct block {
  unsigned char *bytes; /* NULL: none */
  size_t size;
  unsigned char pattern;
} block;

static block blocks[BLOCKS];
static concur_state_memory memory;

static size_t random_size(void) {
  switch (random_below(6)) {
  case 0: return 1 + random_below(64);
  case 1:
  case 2: return 1 + random_below(600);
  case 3: return 1 + random_below(5000);
  case 4: return 60000 + random_below(10000);
  default: return 1 + random_below(300000);
  }
}

static void fill(block *b) {
  b->pattern = (unsigned char)random_below(256);
  memset(b->bytes, b->pattern, b->size);
}

static void check_block(const block *b, size_t size) {
  for (size_t i = 0; i < size; i++) check(b->bytes[i] == b->pattern, "a block was overwritten");
}

static size_t total(void) {
  size_t sum = 0;
  for (int i = 0; i < BLOCKS; i++) sum += blocks[i].bytes != NULL ? blocks[i].size : 0;
  return sum;
}

static void change(block *b) {
  size_t size = random_size();
  if (b->bytes == NULL) {
    b->bytes = concur_state_allocate(&memory, NULL, random_below(9), size);
    check(b->bytes != NULL, "no memory");
    b->size = size;
    fill(b);
  } else if (random_below(3) == 0) {
    unsigned char *moved = concur_state_allocate(&memory, b->bytes, b->size, size);
    check(moved != NULL, "no memory to resize");
    b->bytes = moved;
    check_block(b, size < b->size ? size : b->size);
    b->size = size;
    fill(b);
  } else {
    check_block(b, b->size);
    check(concur_state_allocate(&memory, b->bytes, b->size, 0) == NULL, "freeing gives something");
    b->bytes = NULL;
  }
}

/* ---- pins, on their way to another thread ---- */

typedef struct pin {
  atomic_int full;
  concur_attachment owner;
  const unsigned char *bytes;
  size_t size;
  unsigned char pattern;
} pin;

static pin pins[PINS];
static atomic_bool over;
static unsigned long released;

static bool pin_take(pin *p) {
  if (atomic_load(&p->full) == 0) return false;
  for (size_t i = 0; i < p->size; i++) check(p->bytes[i] == p->pattern, "a pinned block changed");
  p->owner.type->release(p->owner.object);
  released++;
  atomic_store(&p->full, 0);
  return true;
}

static void reader(void *argument) {
  (void)argument;
  for (;;) {
    bool last = atomic_load(&over); /* before the look: what was put there earlier is seen */
    bool any = false;
    for (int i = 0; i < PINS; i++) any = pin_take(&pins[i]) || any;
    if (last && !any) return;
  }
}

/* Pins the block, which from then on is not written any more: it is given back. */
static bool pin_block(block *b) {
  pin *p = &pins[random_below(PINS)];
  if (b->bytes == NULL || atomic_load(&p->full) != 0) return false;
  concur_attachment owner;
  bool pinned =
      concur_state_memory_pin(&memory, b->bytes + random_below((uint32_t)b->size), &owner);
  check(pinned == (b->size >= 65536), "what can be pinned");
  if (!pinned) return false;
  owner.type->retain(owner.object);
  p->owner = owner;
  p->bytes = b->bytes;
  p->size = b->size;
  p->pattern = b->pattern;
  atomic_store(&p->full, 1);
  concur_state_allocate(&memory, b->bytes, b->size, 0);
  b->bytes = NULL;
  return true;
}

static void limits(void) {
  memory.limit = memory.used + 1000;
  check(concur_state_allocate(&memory, NULL, 0, 2000) == NULL, "the limit does not hold");
  check(memory.hit_limit, "the limit was not noted");
  void *small = concur_state_allocate(&memory, NULL, 0, 500);
  check(small != NULL, "the limit holds too early");
  check(concur_state_allocate(&memory, small, 500, 5000) == NULL, "the limit is for growth too");
  concur_state_allocate(&memory, small, 500, 0);
  memory.limit = 0;
}

int main(int count, char **arguments) {
  uint64_t seed = strtoull(count > 1 ? arguments[1] : "1", NULL, 10);
  int steps = atoi(count > 2 ? arguments[2] : "1000");
  unsigned long pinned = 0;
  uv_thread_t thread;
  random_state = seed;
  concur_state_memory_init(&memory);
  check(uv_thread_create(&thread, reader, NULL) == 0, "no thread");
  for (int i = 0; i < steps; i++) {
    block *b = &blocks[random_below(BLOCKS)];
    if (random_below(4) != 0) {
      change(b);
    } else if (pin_block(b)) {
      pinned++;
    }
    if (i % 100 == 0) check(memory.used == total(), "what is counted");
  }
  limits();
  for (int i = 0; i < BLOCKS; i++) {
    if (pin_block(&blocks[i])) pinned++;
    if (blocks[i].bytes != NULL) {
      concur_state_allocate(&memory, blocks[i].bytes, blocks[i].size, 0);
    }
  }
  check(memory.used == 0, "all was given back");
  concur_state_memory_free(&memory);
  atomic_store(&over, true);
  uv_thread_join(&thread);
  check(released == pinned, "each pin is released once");
  printf("seed %llu: ok\n", (unsigned long long)seed);
  return 0;
}
