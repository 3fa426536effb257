/* SPDX-License-Identifier: MIT */
/* The identity map; identity.h tells what it is for. */
#include "identity.h"

#include <stdlib.h>
#include <string.h>

/* Fibonacci hashing: the low bits of an address say little, the high half of the product much. */
static uint32_t hash_of(const void *address) {
  return (uint32_t)(((uint64_t)(uintptr_t)address * UINT64_C(0x9E3779B97F4A7C15)) >> 32);
}

/* The slot that holds the address, or the free one where it belongs. */
static concur_identity *slot_of(concur_identity *slots, uint32_t mask, const void *address) {
  uint32_t at = hash_of(address) & mask;
  while (slots[at].address != NULL && slots[at].address != address) at = (at + 1) & mask;
  return &slots[at];
}

void concur_identity_init(concur_identity_map *map) {
  memset(map->inside, 0, sizeof map->inside);
  map->slots = map->inside;
  map->mask = CONCUR_IDENTITY_INLINE - 1;
  map->count = 0;
}

void concur_identity_free(concur_identity_map *map) {
  if (map->slots != map->inside) free(map->slots);
  map->slots = map->inside;
}

concur_identity *concur_identity_find(const concur_identity_map *map, const void *address) {
  concur_identity *slot = slot_of(map->slots, map->mask, address);
  return slot->address == NULL ? NULL : slot;
}

static bool map_grow(concur_identity_map *map) {
  uint32_t old_size = map->mask + 1;
  if (old_size > UINT32_MAX / 8) return false;
  uint32_t size = old_size * 4;
  concur_identity *slots = calloc(size, sizeof *slots);
  if (slots == NULL) return false;
  for (uint32_t i = 0; i < old_size; i++) {
    if (map->slots[i].address == NULL) continue;
    *slot_of(slots, size - 1, map->slots[i].address) = map->slots[i];
  }
  concur_identity_free(map);
  map->slots = slots;
  map->mask = size - 1;
  return true;
}

concur_identity *concur_identity_add(concur_identity_map *map, const void *address, bool *added) {
  concur_identity *slot = slot_of(map->slots, map->mask, address);
  *added = slot->address == NULL;
  if (!*added) return slot;
  if (map->count >= map->mask / 4 * 3) { /* keep a quarter of the slots free */
    if (!map_grow(map)) return NULL;
    slot = slot_of(map->slots, map->mask, address);
  }
  map->count++;
  *slot = (concur_identity){.address = address};
  return slot;
}
