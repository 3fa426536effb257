/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer target: the read formats of streams.  Any bytes, read with a chain of formats, limits and
 * separators that the input itself chooses, once with everything there and once arriving in pieces.
 * Both times the same must come out; nothing lies outside of what was there, or beyond its limit.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "scan.h"

enum { READS = 8, MOST_SEPARATOR = 5 };

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

/* What one read gave. */
typedef struct reading {
  concur_scan_end end;
  uint64_t hash; /* of the bytes that it returned */
  size_t size;
  size_t taken;
} reading;

static uint64_t hash_of(const char *bytes, size_t size) {
  uint64_t hash = 1;
  for (size_t i = 0; i < size; i++) hash = (hash ^ (uint8_t)bytes[i]) * UINT64_C(1099511628211);
  return hash;
}

/* The scan that two bytes of the input describe; its separator lies in the input as well. */
static concur_scan scan_of(const uint8_t *recipe, const char *separator) {
  concur_scan scan = {.kind = (concur_scan_kind)(recipe[0] % 7)};
  scan.limit = recipe[1] & 0x80 ? SIZE_MAX : (size_t)(recipe[1] & 0x7f);
  if (scan.limit == 0 && scan.kind == CONCUR_SCAN_SOME) scan.limit = 1;
  scan.separator = separator;
  scan.separator_size = (size_t)(recipe[0] / 7 % MOST_SEPARATOR) + 1;
  return scan;
}

/* A copy of exactly the bytes that are there: reading beyond them is found. */
static concur_scan_end look(concur_scan *scan, const concur_bytes *bytes, bool ended,
                            concur_scan_result *result) {
  char *exact = malloc(bytes->size + 1);
  if (exact == NULL) abort();
  memcpy(exact + 1, concur_bytes_data(bytes), bytes->size);
  *result = (concur_scan_result){0, 0, 0};
  concur_scan_end end = concur_scan_look(scan, exact + 1, bytes->size, ended, result);
  bool found = end == CONCUR_SCAN_DONE || end == CONCUR_SCAN_PARTIAL;
  if (found && (result->begin > bytes->size || result->size > bytes->size - result->begin ||
                result->taken > bytes->size || result->begin + result->size > result->taken)) {
    abort();
  }
  /* The newline that "L" returns does not count; a number has a limit of its own. */
  size_t uncounted = scan->kind == CONCUR_SCAN_LINE_END ? 1 : 0;
  if (found && scan->kind != CONCUR_SCAN_NUMBER && result->size > uncounted &&
      result->size - uncounted > scan->limit) {
    abort();
  }
  free(exact);
  return end;
}

/* Reads once; the pieces come as they are needed. */
static reading read_once(concur_scan scan, concur_bytes *bytes, const uint8_t **rest, size_t *left,
                         size_t piece) {
  reading got = {CONCUR_SCAN_MORE, 1, 0, 0};
  for (;;) {
    concur_scan_result result;
    got.end = look(&scan, bytes, *left == 0, &result);
    if (got.end == CONCUR_SCAN_DONE || got.end == CONCUR_SCAN_PARTIAL) {
      got.hash = hash_of(concur_bytes_data(bytes) + result.begin, result.size);
      got.size = result.size;
      got.taken = result.taken;
      concur_bytes_consume(bytes, result.taken);
    }
    if (got.end != CONCUR_SCAN_MORE) return got;
    if (*left == 0) abort(); /* nothing more comes: this must be an answer */
    size_t count = piece < *left ? piece : *left;
    if (!concur_bytes_append(bytes, *rest, count)) abort();
    *rest += count;
    *left -= count;
  }
}

/* Reads READS times. */
static void read_all(const uint8_t *input, size_t size, size_t piece, reading *readings) {
  char separator[MOST_SEPARATOR];
  memcpy(separator, input, sizeof separator);
  const uint8_t *recipes = input + MOST_SEPARATOR;
  const uint8_t *rest = recipes + (size_t)2 * READS;
  size_t left = size - (size_t)(rest - input);
  concur_bytes bytes = {NULL, 0, 0, 0};
  if (piece == 0) piece = left + 1;
  if (piece > left && left > 0) {
    if (!concur_bytes_append(&bytes, rest, left)) abort();
    left = 0;
  }
  for (int i = 0; i < READS; i++) {
    const uint8_t *recipe = recipes + (ptrdiff_t)2 * i;
    readings[i] = read_once(scan_of(recipe, separator), &bytes, &rest, &left, piece);
  }
  concur_bytes_free(&bytes);
}

/* What is there at the moment decides what SOME returns, and when a line is found to be too long. */
static bool depends_on_pieces(const uint8_t *input) {
  for (int i = 0; i < READS; i++) {
    if (input[MOST_SEPARATOR + 2 * i] % 7 == CONCUR_SCAN_SOME) return true;
  }
  return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  reading whole[READS], pieces[READS];
  if (size < MOST_SEPARATOR + 2 * READS + 1) return 0;
  size_t piece = (size_t)(input[size - 1] % 7) + 1;
  read_all(input, size - 1, 0, whole);
  read_all(input, size - 1, piece, pieces);
  if (depends_on_pieces(input)) return 0;
  for (int i = 0; i < READS; i++) {
    if (whole[i].end != pieces[i].end || whole[i].hash != pieces[i].hash ||
        whole[i].size != pieces[i].size || whole[i].taken != pieces[i].taken) {
      abort();
    }
  }
  return 0;
}
