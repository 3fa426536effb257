/* SPDX-License-Identifier: MIT */
/*
 * The memory of one worker's Lua state.  No Lua here; concur_state_allocate has the form of lua_Alloc.
 *
 * Three sizes:
 *   small (up to 512 bytes)   from chunks, by classes of 16 bytes; what is freed waits in a list of
 *                             its class.  One thread, so no locks.  Chunks go back with the state.
 *   medium                    malloc.
 *   big (from 64 KiB on)      malloc, with a counter: a message can *pin* the block that a string
 *                             lies in, instead of copying it.  A few freed ones are kept for the next
 *                             string: otherwise glibc gives their memory back to the system each time,
 *                             and every page of the next one is a page fault.
 *
 * A pinned block outlives the string, and if need be the state; the last pin frees it.
 *
 * [the state's own thread], but for the release of a pin: [any thread].
 */
#ifndef CONCUR_STATE_MEMORY_H
#define CONCUR_STATE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "list.h"
#include "message.h"

#pragma GCC visibility push(hidden)

enum {
  CONCUR_SMALL_MOST = 512, /* bytes */
  CONCUR_SMALL_STEP = 16,
  CONCUR_SMALL_CLASSES = CONCUR_SMALL_MOST / CONCUR_SMALL_STEP + 1,
  CONCUR_SPARE_BLOCKS = 4
};

typedef struct concur_free_block {
  struct concur_free_block *next;
} concur_free_block;

typedef struct concur_chunk {
  struct concur_chunk *next;
} concur_chunk;

typedef struct concur_state_memory {
  size_t used;                                   /* bytes that the state holds */
  size_t limit;                                  /* growth beyond it is refused; 0: none */
  bool hit_limit;                                /* it was refused */
  concur_free_block *free[CONCUR_SMALL_CLASSES]; /* by size, rounded up */
  char *fresh, *fresh_end; /* the part of the newest chunk that nobody had yet */
  concur_chunk *chunks;    /* owned */
  concur_chunk *reserve;   /* owned: for lua_close; NULL once that has begun */
  concur_node big;         /* the state's big blocks, newest first */
  struct concur_big_block *spares[CONCUR_SPARE_BLOCKS]; /* owned; NULL: none */
} concur_state_memory;

/* False when out of memory. */
bool concur_state_memory_init(concur_state_memory *memory);
/* Before lua_close: from here on there is no limit, and memory for a few finalizers although malloc
   has none; what those do not let go (channels, buffers) would stay for ever. */
void concur_state_memory_use_reserve(concur_state_memory *memory);
/* After lua_close. */
void concur_state_memory_free(concur_state_memory *memory);

/* A lua_Alloc; `user` is the concur_state_memory. */
void *concur_state_allocate(void *user, void *block, size_t old_size, size_t size);

/* Fills in an attachment that keeps the big block around `inside` alive; the message that it is put
   into pins the block.  False when there is no such block. */
bool concur_state_memory_pin(const concur_state_memory *memory, const void *inside,
                             concur_attachment *attachment);

#pragma GCC visibility pop

#endif
