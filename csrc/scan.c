/* SPDX-License-Identifier: MIT */
/* See scan.h. */
#include "scan.h"

#include <ctype.h>
#include <string.h>

static concur_scan_end found(concur_scan_result *result, size_t size, size_t taken) {
  result->begin = 0;
  result->size = size;
  result->taken = taken;
  return CONCUR_SCAN_DONE;
}

/* "l" and "L". */
static concur_scan_end look_line(concur_scan *scan, const char *data, size_t size, bool ended,
                                 concur_scan_result *result) {
  const char *newline =
      size > scan->seen ? memchr(data + scan->seen, '\n', size - scan->seen) : NULL;
  size_t extra = scan->kind == CONCUR_SCAN_LINE_END;
  if (newline != NULL) {
    size_t length = (size_t)(newline - data);
    if (length > scan->limit) return CONCUR_SCAN_OVERRUN;
    return found(result, length + extra, length + 1);
  }
  if (size > scan->limit) return CONCUR_SCAN_OVERRUN;
  scan->seen = size;
  if (!ended) return CONCUR_SCAN_MORE;
  return size > 0 ? found(result, size, size) : CONCUR_SCAN_EMPTY;
}

static concur_scan_end look_until(concur_scan *scan, const char *data, size_t size, bool ended,
                                  concur_scan_result *result) {
  size_t length = scan->separator_size;
  const char *at = size > scan->seen
                       ? memmem(data + scan->seen, size - scan->seen, scan->separator, length)
                       : NULL;
  if (at != NULL) {
    size_t end = (size_t)(at - data) + length;
    return end > scan->limit ? CONCUR_SCAN_OVERRUN : found(result, end, end);
  }
  scan->seen = size >= length ? size - length + 1 : 0;
  if (scan->seen + length > scan->limit) return CONCUR_SCAN_OVERRUN; /* wherever it begins */
  if (!ended) return CONCUR_SCAN_MORE;
  if (size == 0) return CONCUR_SCAN_EMPTY;
  (void)found(result, size, size);
  return CONCUR_SCAN_PARTIAL;
}

/* ---- "n": accepts what liolib.c accepts, with the same bytes consumed ---- */

typedef struct number_text {
  const char *data;
  size_t size, at;
  size_t begin;  /* of the text of the number */
  bool too_long; /* more than fits into liolib's buffer: no number, however it goes on */
} number_text;

static int number_peek(const number_text *text) {
  return text->at < text->size ? (unsigned char)text->data[text->at] : -1;
}

/* Accepts one more character of the text; false when it became too long. */
static bool number_next(number_text *text) {
  if (text->at - text->begin >= CONCUR_SCAN_NUMBER_SIZE) {
    text->too_long = true;
    return false;
  }
  text->at++;
  return true;
}

static bool number_either(number_text *text, const char *set) {
  int c = number_peek(text);
  return c > 0 && strchr(set, c) != NULL && number_next(text);
}

static int number_digits(number_text *text, bool hexadecimal) {
  int count = 0;
  for (;; count++) {
    int c = number_peek(text);
    if (c < 0 || !(hexadecimal ? isxdigit(c) : isdigit(c)) || !number_next(text)) return count;
  }
}

static concur_scan_end look_number(concur_scan *scan, const char *data, size_t size, bool ended,
                                   concur_scan_result *result) {
  number_text text = {.data = data, .size = size, .at = scan->seen};
  while (number_peek(&text) >= 0 && isspace(number_peek(&text))) text.at++;
  scan->seen = text.at; /* only white space: what is behind it is short and looked at again */
  if (text.at > scan->limit) return CONCUR_SCAN_OVERRUN;
  text.begin = text.at;
  bool hexadecimal = false;
  int digits = 0;
  (void)number_either(&text, "+-");
  if (number_either(&text, "0")) {
    if (number_either(&text, "xX")) {
      hexadecimal = true;
    } else {
      digits = 1;
    }
  }
  digits += number_digits(&text, hexadecimal);
  if (number_either(&text, ".")) digits += number_digits(&text, hexadecimal);
  if (digits > 0 && number_either(&text, hexadecimal ? "pP" : "eE")) {
    (void)number_either(&text, "+-");
    (void)number_digits(&text, false);
  }
  if (text.at == size && !text.too_long && !ended) return CONCUR_SCAN_MORE; /* it may go on */
  result->begin = text.begin;
  result->size = text.too_long ? 0 : text.at - text.begin;
  result->taken = text.at;
  return CONCUR_SCAN_DONE;
}

concur_scan_end concur_scan_look(concur_scan *scan, const char *data, size_t size, bool ended,
                                 concur_scan_result *result) {
  switch (scan->kind) {
  case CONCUR_SCAN_LINE:
  case CONCUR_SCAN_LINE_END: return look_line(scan, data, size, ended, result);
  case CONCUR_SCAN_UNTIL: return look_until(scan, data, size, ended, result);
  case CONCUR_SCAN_NUMBER: return look_number(scan, data, size, ended, result);
  case CONCUR_SCAN_ALL:
    if (size > scan->limit) return CONCUR_SCAN_OVERRUN;
    return ended ? found(result, size, size) : CONCUR_SCAN_MORE;
  case CONCUR_SCAN_SOME:
    if (size > scan->limit) size = scan->limit;
    if (size > 0) return found(result, size, size);
    return ended ? CONCUR_SCAN_EMPTY : CONCUR_SCAN_MORE;
  case CONCUR_SCAN_COUNT:
    if (scan->limit == 0 && size > 0) return found(result, 0, 0); /* "is there more?" */
    if (size >= scan->limit && scan->limit > 0) return found(result, scan->limit, scan->limit);
    if (!ended) return CONCUR_SCAN_MORE;
    return size > 0 ? found(result, size, size) : CONCUR_SCAN_EMPTY;
  }
  return CONCUR_SCAN_MORE; /* GCOVR_EXCL_LINE: there is no other kind */
}
