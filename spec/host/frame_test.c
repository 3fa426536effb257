/* SPDX-License-Identifier: MIT */
/*
 * Exercises csrc/frame.c and csrc/ring.c without Lua: built and run by spec/frame_spec.lua, also under
 * sanitizers.
 *
 *     frame_test NAME [SEED]     runs one test; exits with 1 and a line per broken promise
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/frame.h"
#include "../../csrc/ring.h"

static int failures;

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      failures++; \
    } \
  } while (0)

static uint64_t state;

static uint64_t random_number(void) {
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * UINT64_C(2685821657736338717);
}

/* ---- frames ---- */

enum { LIMIT = 1 << 20 };

static const concur_frame sample = {.kind = CONCUR_FRAME_RESULT,
                                    .detail = CONCUR_FRAME_INLINE | 1,
                                    .slot = 31,
                                    .extra = 123456,
                                    .id = UINT64_C(0x123456789ABCDEF),
                                    .size = 5};

static void test_round_trip(void) {
  unsigned char bytes[CONCUR_FRAME_HEADER + 5];
  concur_frame_write(bytes, &sample);
  /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): bytes, no string */
  memcpy(bytes + CONCUR_FRAME_HEADER, "hello", 5);
  for (size_t step = 1; step <= sizeof bytes; step++) {
    concur_frame_parser parser;
    concur_frame_state end = CONCUR_FRAME_MORE;
    concur_frame_parser_init(&parser, LIMIT);
    CHECK(concur_frame_between(&parser));
    for (size_t at = 0, used; at < sizeof bytes; at += used) {
      CHECK(end == CONCUR_FRAME_MORE);
      size_t piece = step < sizeof bytes - at ? step : sizeof bytes - at;
      end = concur_frame_feed(&parser, bytes + at, piece, &used);
      CHECK(used == piece);
      if (used == 0) break;
      CHECK(concur_frame_between(&parser) == (at + used == sizeof bytes));
    }
    CHECK(end == CONCUR_FRAME_WHOLE);
    CHECK(parser.frame.kind == sample.kind && parser.frame.detail == sample.detail);
    CHECK(parser.frame.slot == sample.slot && parser.frame.extra == sample.extra);
    CHECK(parser.frame.id == sample.id && parser.frame.size == 5);
    concur_message *body = concur_frame_take_body(&parser);
    CHECK(body != NULL && body->size == 5 && memcmp(body->bytes, "hello", 5) == 0);
    CHECK(concur_frame_take_body(&parser) == NULL);
    concur_message_free(body);
    concur_frame_parser_free(&parser);
  }
}

/* The parser's complaint about a header with one thing changed. */
static void expect_bad(size_t at, unsigned char value, const char *text) {
  unsigned char header[CONCUR_FRAME_HEADER];
  concur_frame_parser parser;
  size_t used;
  concur_frame_write(header, &sample);
  header[at] = value;
  concur_frame_parser_init(&parser, LIMIT);
  CHECK(concur_frame_feed(&parser, header, sizeof header, &used) == CONCUR_FRAME_BAD);
  if (strstr(parser.error, text) == NULL) {
    fprintf(stderr, "'%s' does not say '%s'\n", parser.error, text);
    failures++;
  }
  CHECK(concur_frame_feed(&parser, header, sizeof header, &used) == CONCUR_FRAME_BAD && used == 0);
  concur_frame_parser_free(&parser);
}

static void test_bad(void) {
  expect_bad(0, 'G', "bad magic number");
  expect_bad(2, 'f', "bad magic number");
  expect_bad(3, 2, "protocol version 2");
  expect_bad(4, 0, "unknown kind 0");
  expect_bad(4, 7, "unknown kind 7");
  expect_bad(6, 1, "unknown kind");
  expect_bad(28, 1, "beyond the limit"); /* a length of 2^32 or of 2^24 bytes, by the byte order */
}

static void test_limit(void) {
  unsigned char header[CONCUR_FRAME_HEADER];
  concur_frame frame = sample;
  concur_frame_parser parser;
  size_t used;
  frame.size = LIMIT; /* just allowed, announced only: no memory until bytes come */
  concur_frame_write(header, &frame);
  concur_frame_parser_init(&parser, LIMIT);
  CHECK(concur_frame_feed(&parser, header, sizeof header, &used) == CONCUR_FRAME_MORE);
  CHECK(parser.body == NULL && !concur_frame_between(&parser));
  CHECK(concur_frame_feed(&parser, header, 1, &used) == CONCUR_FRAME_MORE);
  CHECK(parser.body != NULL && parser.body->capacity < LIMIT);
  concur_frame_parser_free(&parser);
  frame.size = LIMIT + 1;
  concur_frame_write(header, &frame);
  concur_frame_parser_init(&parser, LIMIT);
  CHECK(concur_frame_feed(&parser, header, sizeof header, &used) == CONCUR_FRAME_BAD);
  concur_frame_parser_free(&parser);
}

/* ---- rings ---- */

enum { RING = 256, BYTES = 200000 };

typedef struct ring_pair {
  concur_ring_shared shared;
  unsigned char bytes[RING];
  concur_ring writer, reader;
  uint64_t seed;
} ring_pair;

static void pair_init(ring_pair *pair) {
  memset(pair, 0, sizeof *pair);
  concur_ring_init(&pair->writer, &pair->shared, pair->bytes, RING);
  concur_ring_init(&pair->reader, &pair->shared, pair->bytes, RING);
}

static void *write_all(void *argument) {
  ring_pair *pair = argument;
  unsigned char value = 0;
  for (size_t sent = 0; sent < BYTES;) {
    unsigned char piece[97];
    size_t size = 1 + pair->seed++ % sizeof piece;
    if (size > BYTES - sent) size = BYTES - sent;
    for (size_t i = 0; i < size; i++) piece[i] = (unsigned char)(value + i);
    size_t written = concur_ring_write(&pair->writer, piece, size);
    (void)concur_ring_publish(&pair->writer);
    value = (unsigned char)(value + written);
    sent += written;
  }
  return NULL;
}

static void test_ring(void) {
  static ring_pair pair;
  pthread_t thread;
  pair_init(&pair);
  pair.seed = random_number();
  CHECK(pthread_create(&thread, NULL, write_all, &pair) == 0);
  unsigned char value = 0;
  bool same = true;
  for (size_t got = 0; got < BYTES;) {
    const unsigned char *bytes;
    size_t size = concur_ring_peek(&pair.reader, &bytes);
    for (size_t i = 0; i < size; i++) same = same && bytes[i] == value++;
    concur_ring_skip(&pair.reader, size);
    (void)concur_ring_release(&pair.reader);
    got += size;
  }
  pthread_join(thread, NULL);
  CHECK(same && !pair.reader.damaged && !pair.writer.damaged);
  CHECK(!concur_ring_pending(&pair.reader));
}

/* Who said that it sleeps is to be woken, once; who finds something must not sleep. */
static void test_waking(void) {
  static ring_pair pair;
  static const unsigned char filling[RING];
  const unsigned char *bytes;
  pair_init(&pair);
  CHECK(concur_ring_write(&pair.writer, "a", 1) == 1);
  CHECK(concur_ring_peek(&pair.reader, &bytes) == 0); /* not published */
  CHECK(!concur_ring_publish(&pair.writer));          /* nobody sleeps */
  CHECK(!concur_ring_want_data(&pair.reader));        /* there is something */
  CHECK(concur_ring_peek(&pair.reader, &bytes) == 1 && *bytes == 'a');
  concur_ring_skip(&pair.reader, 1);
  CHECK(!concur_ring_release(&pair.reader));
  CHECK(concur_ring_want_data(&pair.reader));
  CHECK(concur_ring_write(&pair.writer, filling, RING) == RING);
  CHECK(concur_ring_publish(&pair.writer));
  CHECK(!concur_ring_publish(&pair.writer));
  CHECK(concur_ring_write(&pair.writer, "b", 1) == 0);
  CHECK(concur_ring_want_room(&pair.writer));
  CHECK(concur_ring_peek(&pair.reader, &bytes) == RING - 1); /* up to the edge */
  concur_ring_skip(&pair.reader, RING - 1);
  CHECK(concur_ring_release(&pair.reader));
  CHECK(!concur_ring_release(&pair.reader));
  CHECK(!concur_ring_want_room(&pair.writer));
  CHECK(concur_ring_write(&pair.writer, filling, RING) == RING - 1);
}

/* What the other process scribbled into the shared part. */
static void test_damage(void) {
  static ring_pair pair;
  const unsigned char *bytes;
  pair_init(&pair);
  atomic_store(&pair.shared.written, UINT64_MAX);
  CHECK(concur_ring_pending(&pair.reader));
  CHECK(concur_ring_peek(&pair.reader, &bytes) == 0 && pair.reader.damaged);
  pair_init(&pair);
  atomic_store(&pair.shared.written, RING + 1);
  CHECK(concur_ring_peek(&pair.reader, &bytes) == 0 && pair.reader.damaged);
  pair_init(&pair);
  (void)concur_ring_write(&pair.writer, "0123456789", 10);
  atomic_store(&pair.shared.read, 11);
  static const unsigned char filling[RING];
  CHECK(concur_ring_write(&pair.writer, filling, RING) == 0 && pair.writer.damaged);
  CHECK(!concur_ring_want_room(&pair.writer));
  atomic_store(&pair.shared.read, UINT64_C(1) << 60); /* what is written stays within the ring */
  CHECK(concur_ring_write(&pair.writer, filling, RING) == 0);
  CHECK(concur_ring_write(&pair.writer, filling, 1) == 1);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*run)(void);
  } tests[] = {{"round_trip", test_round_trip}, {"bad", test_bad},
               {"limit", test_limit},           {"ring", test_ring},
               {"waking", test_waking},         {"damage", test_damage}};
  state = argc > 2 ? strtoull(argv[2], NULL, 10) | 1 : 1;
  for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
    if (argc > 1 && strcmp(tests[i].name, argv[1]) == 0) {
      tests[i].run();
      printf("%s\n", failures == 0 ? "ok" : "failed");
      return failures != 0;
    }
  }
  fprintf(stderr, "no such test\n");
  return 2;
}
