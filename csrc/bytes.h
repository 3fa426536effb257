/* SPDX-License-Identifier: MIT */
/*
 * A buffer of bytes: appended at its end, consumed at its beginning.  No Lua; belongs to one thread.
 *
 * The memory is malloc'd at the first byte and given back when the buffer is empty, unless it is so
 * small that keeping it costs less than getting it again.  Who embeds a buffer frees it.
 */
#ifndef CONCUR_BYTES_H
#define CONCUR_BYTES_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

typedef struct concur_bytes {
  char *memory;    /* owned; NULL while there is none */
  size_t start;    /* where the content begins */
  size_t size;     /* of the content */
  size_t capacity; /* of the memory */
} concur_bytes;

static inline const char *concur_bytes_data(const concur_bytes *bytes) {
  return bytes->memory != NULL ? bytes->memory + bytes->start : "";
}

/* Makes room for `more` bytes at the end; false when out of memory, and nothing changed. */
bool concur_bytes_reserve(concur_bytes *bytes, size_t more);

/* Appends a copy; false when out of memory, and nothing changed.  Cannot fail after a reserve. */
bool concur_bytes_append(concur_bytes *bytes, const void *data, size_t size);

/* Takes `count` bytes, at most what is there, off the beginning. */
void concur_bytes_consume(concur_bytes *bytes, size_t count);

/* Gives the memory back; the buffer is empty and can be used again. */
void concur_bytes_free(concur_bytes *bytes);

#pragma GCC visibility pop

#endif
