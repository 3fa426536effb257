/* SPDX-License-Identifier: MIT */
/* See bytes.h. */
#include "bytes.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 512, KEPT_CAPACITY = 4096 };

bool concur_bytes_reserve(concur_bytes *bytes, size_t more) {
  if (more <= bytes->capacity - bytes->start - bytes->size) return true;
  if (more > PTRDIFF_MAX - bytes->size) return false;
  size_t needed = bytes->size + more;
  if (needed <= bytes->capacity && bytes->start >= bytes->size) { /* no byte is moved twice */
    memcpy(bytes->memory, concur_bytes_data(bytes), bytes->size);
    bytes->start = 0;
    return true;
  }
  /* With room to spare behind them, so that bytes are moved seldom however they come and go. */
  size_t wanted = bytes->size > PTRDIFF_MAX / 4 ? needed : needed + bytes->size / 2;
  size_t capacity = bytes->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : bytes->capacity;
  while (capacity < wanted) capacity = capacity > PTRDIFF_MAX / 2 ? wanted : capacity * 2;
  char *memory = malloc(capacity);
  if (memory == NULL) return false;
  if (bytes->size > 0) memcpy(memory, concur_bytes_data(bytes), bytes->size);
  free(bytes->memory);
  bytes->memory = memory;
  bytes->start = 0;
  bytes->capacity = capacity;
  return true;
}

bool concur_bytes_append(concur_bytes *bytes, const void *data, size_t size) {
  if (!concur_bytes_reserve(bytes, size)) return false;
  if (size > 0) memcpy(bytes->memory + bytes->start + bytes->size, data, size);
  bytes->size += size;
  return true;
}

void concur_bytes_consume(concur_bytes *bytes, size_t count) {
  if (count < bytes->size) {
    bytes->start += count;
    bytes->size -= count;
  } else if (bytes->capacity > KEPT_CAPACITY) {
    concur_bytes_free(bytes);
  } else {
    bytes->start = 0;
    bytes->size = 0;
  }
}

void concur_bytes_free(concur_bytes *bytes) {
  free(bytes->memory);
  memset(bytes, 0, sizeof *bytes);
}
