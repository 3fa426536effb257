/* SPDX-License-Identifier: MIT */
/* See state_memory.h. */
#include "state_memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* AddressSanitizer shall see every block, unless the build says otherwise. */
#if defined(CONCUR_SMALL_BLOCKS)
/* as given */
#elif defined(__SANITIZE_ADDRESS__)
#define CONCUR_SMALL_BLOCKS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CONCUR_SMALL_BLOCKS 0
#endif
#endif
#ifndef CONCUR_SMALL_BLOCKS
#define CONCUR_SMALL_BLOCKS 1
#endif

enum {
  CHUNK_SIZE = 32 * 1024,
  RESERVE_SIZE = 8 * 1024,
  BIG_LEAST = 64 * 1024,
  SPARE_MOST = 4 * 1024 * 1024, /* bytes of a block that is kept */
  PIN_SEARCH = 64               /* big blocks that are looked through for a string */
};

/* In front of the bytes that Lua sees. */
typedef struct concur_big_block {
  concur_node link;      /* in the state's list, until the state frees it */
  size_t size;           /* of the bytes behind */
  atomic_int references; /* the state's, and one for each pin */
  max_align_t bytes[];
} concur_big_block;

static bool is_small(size_t size) {
  return CONCUR_SMALL_BLOCKS && size <= CONCUR_SMALL_MOST;
}

static bool is_big(size_t size) {
  return size >= BIG_LEAST;
}

/* ---- small blocks ---- */

static size_t class_of(size_t size) {
  return (size + CONCUR_SMALL_STEP - 1) / CONCUR_SMALL_STEP;
}

/* What is left of the old chunk is lost: less than one block. */
static void chunk_use(concur_state_memory *memory, concur_chunk *chunk, size_t size) {
  chunk->next = memory->chunks;
  memory->chunks = chunk;
  memory->fresh = (char *)chunk + CONCUR_SMALL_STEP;
  memory->fresh_end = (char *)chunk + size;
}

static bool chunk_new(concur_state_memory *memory) {
  concur_chunk *chunk = malloc(CHUNK_SIZE);
  if (chunk == NULL) return false;
  chunk_use(memory, chunk, CHUNK_SIZE);
  return true;
}

static void *small_take(concur_state_memory *memory, size_t size) {
  size_t class = class_of(size);
  concur_free_block *block = memory->free[class];
  if (block != NULL) {
    memory->free[class] = block->next;
    return block;
  }
  size_t rounded = class * CONCUR_SMALL_STEP;
  if ((size_t)(memory->fresh_end - memory->fresh) < rounded && !chunk_new(memory)) return NULL;
  void *fresh = memory->fresh;
  memory->fresh += rounded;
  return fresh;
}

static void small_give(concur_state_memory *memory, void *address, size_t size) {
  concur_free_block *block = address;
  block->next = memory->free[class_of(size)];
  memory->free[class_of(size)] = block;
}

/* ---- big blocks ---- */

static concur_big_block *big_of(void *bytes) {
  return concur_container_of(bytes, concur_big_block, bytes);
}

static concur_big_block *spare_take(concur_state_memory *memory, size_t size) {
  for (int i = 0; i < CONCUR_SPARE_BLOCKS; i++) {
    concur_big_block *block = memory->spares[i];
    if (block != NULL && block->size >= size && block->size / 2 <= size) {
      memory->spares[i] = NULL;
      return block;
    }
  }
  return NULL;
}

/* Keeps the block; false when it is too large, or others are kept already. */
static bool spare_give(concur_state_memory *memory, concur_big_block *block) {
  for (int i = 0; i < CONCUR_SPARE_BLOCKS && block->size <= SPARE_MOST; i++) {
    if (memory->spares[i] != NULL) continue;
    memory->spares[i] = block;
    return true;
  }
  return false;
}

static void *big_take(concur_state_memory *memory, size_t size) {
  concur_big_block *block = spare_take(memory, size);
  if (block == NULL) {
    if (size > SIZE_MAX - sizeof *block) return NULL;
    block = malloc(sizeof *block + size);
    if (block == NULL) return NULL;
    block->size = size;
  }
  atomic_init(&block->references, 1);
  concur_list_prepend(&memory->big, &block->link);
  return block->bytes;
}

static void big_give(concur_state_memory *memory, void *bytes) {
  concur_big_block *block = big_of(bytes);
  concur_node_unlink(&block->link);
  if (atomic_fetch_sub(&block->references, 1) != 1) return; /* pinned: the last pin frees it */
  if (!spare_give(memory, block)) free(block);
}

/* Only strings are pinned, and they never change their size. */
static void *big_resize(concur_state_memory *memory, void *bytes, size_t size) {
  concur_big_block *block = big_of(bytes);
  if (size > SIZE_MAX - sizeof *block) return NULL;
  concur_node_unlink(&block->link);
  concur_big_block *moved = realloc(block, sizeof *block + size);
  if (moved != NULL) {
    block = moved;
    block->size = size;
  }
  concur_list_prepend(&memory->big, &block->link);
  return moved != NULL ? moved->bytes : NULL;
}

static void pin_retain(void *object) {
  concur_big_block *block = object;
  atomic_fetch_add(&block->references, 1);
}

static void pin_release(void *object) {
  concur_big_block *block = object;
  if (atomic_fetch_sub(&block->references, 1) == 1) free(block);
}

static const concur_shareable pinned_string = {"string", pin_retain, pin_release};

bool concur_state_memory_pin(const concur_state_memory *memory, const void *inside,
                             concur_attachment *attachment) {
  const char *address = inside;
  const concur_node *node = memory->big.next;
  for (int i = 0; node != &memory->big && i < PIN_SEARCH; node = node->next, i++) {
    concur_big_block *block = concur_container_of(node, concur_big_block, link);
    const char *begin = (const char *)block->bytes;
    if (address < begin || address >= begin + block->size) continue;
    attachment->type = &pinned_string;
    attachment->object = block;
    return true;
  }
  return false;
}

/* ---- all sizes ---- */

static void *block_take(concur_state_memory *memory, size_t size) {
  if (is_small(size)) return small_take(memory, size);
  return is_big(size) ? big_take(memory, size) : malloc(size);
}

static void block_give(concur_state_memory *memory, void *block, size_t size) {
  if (is_small(size)) {
    small_give(memory, block, size);
  } else if (is_big(size)) {
    big_give(memory, block);
  } else {
    free(block);
  }
}

static void *block_resize(concur_state_memory *memory, void *block, size_t old_size, size_t size) {
  if (is_small(old_size)) {
    if (is_small(size) && class_of(old_size) == class_of(size)) return block;
  } else if (is_big(old_size) && is_big(size)) {
    return big_resize(memory, block, size);
  } else if (!is_big(old_size) && !is_small(size) && !is_big(size)) {
    return realloc(block, size);
  }
  void *moved = block_take(memory, size);
  if (moved == NULL) return NULL;
  memcpy(moved, block, old_size < size ? old_size : size);
  block_give(memory, block, old_size);
  return moved;
}

void *concur_state_allocate(void *user, void *block, size_t old_size, size_t size) {
  concur_state_memory *memory = user;
  size_t old = block == NULL ? 0 : old_size; /* of a new block, old_size is its type */
  if (size == 0) {
    if (block != NULL) block_give(memory, block, old);
    memory->used -= old;
    return NULL;
  }
  if (memory->limit != 0 && size > old && memory->used + (size - old) > memory->limit) {
    memory->hit_limit = true;
    return NULL;
  }
  void *given = block == NULL ? block_take(memory, size) : block_resize(memory, block, old, size);
  if (given != NULL) memory->used = memory->used - old + size;
  return given;
}

bool concur_state_memory_init(concur_state_memory *memory) {
  memset(memory, 0, sizeof *memory);
  concur_list_init(&memory->big);
  memory->reserve = malloc(RESERVE_SIZE);
  return memory->reserve != NULL;
}

void concur_state_memory_use_reserve(concur_state_memory *memory) {
  memory->limit = 0;
  if (memory->reserve != NULL) chunk_use(memory, memory->reserve, RESERVE_SIZE);
  memory->reserve = NULL;
}

void concur_state_memory_free(concur_state_memory *memory) {
  while (memory->chunks != NULL) {
    concur_chunk *chunk = memory->chunks;
    memory->chunks = chunk->next;
    free(chunk);
  }
  free(memory->reserve);
  for (int i = 0; i < CONCUR_SPARE_BLOCKS; i++) free(memory->spares[i]);
}
