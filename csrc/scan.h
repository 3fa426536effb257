/* SPDX-License-Identifier: MIT */
/*
 * What a read looks for, and whether the bytes that are there contain it.  No Lua, no I/O: a scan
 * looks and tells, it consumes nothing.  The formats are those of Lua's `io` library.
 */
#ifndef CONCUR_SCAN_H
#define CONCUR_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

typedef enum concur_scan_kind {
  CONCUR_SCAN_LINE,     /* "l": up to a newline, without it */
  CONCUR_SCAN_LINE_END, /* "L": with it */
  CONCUR_SCAN_NUMBER,   /* "n" */
  CONCUR_SCAN_ALL,      /* "a": up to the end */
  CONCUR_SCAN_COUNT,    /* exactly `limit` bytes, fewer only at the end */
  CONCUR_SCAN_SOME,     /* what is there, at least one byte, at most `limit` */
  CONCUR_SCAN_UNTIL     /* up to and with the separator */
} concur_scan_kind;

typedef struct concur_scan {
  concur_scan_kind kind;
  size_t limit;           /* COUNT, SOME: how many; the others: the most that may be returned */
  const char *separator;  /* UNTIL: borrowed, at least one byte */
  size_t separator_size;
  size_t seen;            /* bytes that were looked at in vain: the next look begins behind them */
} concur_scan;

typedef enum concur_scan_end {
  CONCUR_SCAN_MORE,    /* not yet */
  CONCUR_SCAN_DONE,    /* found: `begin`, `size`, `taken` say where */
  CONCUR_SCAN_EMPTY,   /* the end came first, with nothing before it */
  CONCUR_SCAN_PARTIAL, /* UNTIL: the end came first; what was before it is found */
  CONCUR_SCAN_OVERRUN  /* longer than the limit */
} concur_scan_end;

typedef struct concur_scan_result {
  size_t begin; /* where the bytes to return begin */
  size_t size;  /* how many; NUMBER: 0 when what is there is none */
  size_t taken; /* how many to consume */
} concur_scan_result;

enum { CONCUR_SCAN_NUMBER_SIZE = 200 }; /* the longest text of a number, as in liolib.c */

/* Looks at `size` bytes; `ended`: no more will come. */
concur_scan_end concur_scan_look(concur_scan *scan, const char *data, size_t size, bool ended,
                                 concur_scan_result *result);

#pragma GCC visibility pop

#endif
