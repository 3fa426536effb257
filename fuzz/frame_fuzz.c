/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer target: any bytes into the parser of frames, once in one piece and once in pieces whose
 * sizes the first byte chooses.  Both times the same frames must come out, or the same complaint;
 * no frame is larger than the limit, and a body holds no more memory than a few times its bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

enum { LIMIT = 1 << 20, MOST_FRAMES = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* What came out of one pass. */
typedef struct outcome {
  int frames;
  concur_frame_state state;
  uint64_t hash; /* of frames and bodies */
  bool between;
} outcome;

static uint64_t mix(uint64_t hash, const void *bytes, size_t size) {
  const unsigned char *at = bytes;
  for (size_t i = 0; i < size; i++) hash = (hash ^ at[i]) * UINT64_C(1099511628211);
  return hash;
}

static void note_frame(outcome *result, concur_frame_parser *parser) {
  const concur_frame *frame = &parser->frame;
  size_t have = parser->body != NULL ? parser->body->size : 0;
  if (frame->size > LIMIT || frame->size != have) abort();
  result->frames++;
  result->hash = mix(result->hash, &frame->kind, sizeof frame->kind);
  result->hash = mix(result->hash, &frame->detail, sizeof frame->detail);
  result->hash = mix(result->hash, &frame->slot, sizeof frame->slot);
  result->hash = mix(result->hash, &frame->id, sizeof frame->id);
  if (have > 0) result->hash = mix(result->hash, parser->body->bytes, have);
  if (result->frames % 2 == 0) concur_message_free(concur_frame_take_body(parser));
}

/* `step` 0: all at once. */
static outcome parse(const uint8_t *bytes, size_t size, size_t step) {
  concur_frame_parser parser;
  outcome result = {.state = CONCUR_FRAME_MORE, .hash = 1};
  size_t at = 0;
  concur_frame_parser_init(&parser, LIMIT);
  while (at < size && result.state != CONCUR_FRAME_BAD && result.frames < MOST_FRAMES) {
    size_t piece = step == 0 || step > size - at ? size - at : step, used;
    result.state = concur_frame_feed(&parser, bytes + at, piece, &used);
    if (used > piece || (result.state == CONCUR_FRAME_MORE && used != piece)) abort();
    at += used;
    if (result.state == CONCUR_FRAME_WHOLE) note_frame(&result, &parser);
    if (parser.body != NULL && parser.body->capacity > 2 * (size + (1 << 18))) abort();
  }
  if (result.state == CONCUR_FRAME_BAD && parser.error[0] == '\0') abort();
  result.between = concur_frame_between(&parser);
  concur_frame_parser_free(&parser);
  return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  if (size == 0) return 0;
  outcome whole = parse(bytes + 1, size - 1, 0);
  outcome pieces = parse(bytes + 1, size - 1, 1 + bytes[0] % 70);
  if (whole.frames != pieces.frames || whole.state != pieces.state || whole.hash != pieces.hash ||
      whole.between != pieces.between) {
    abort();
  }
  return 0;
}
