/* SPDX-License-Identifier: MIT */
/* See frame.h. */
#include "frame.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Room for a body is made in steps of at least this size. */
static const size_t BODY_STEP = (size_t)256 * 1024;

static const unsigned char magic[3] = {0xC3, 'q', 'F'};

/* Where the fields of a header lie. */
enum {
  AT_VERSION = 3,
  AT_KIND,
  AT_DETAIL,
  AT_ZERO,
  AT_SLOT = 8,
  AT_EXTRA = 12,
  AT_ID = 16,
  AT_SIZE = 24
};

void concur_frame_write(unsigned char header[CONCUR_FRAME_HEADER], const concur_frame *frame) {
  memset(header, 0, CONCUR_FRAME_HEADER);
  memcpy(header, magic, sizeof magic);
  header[AT_VERSION] = CONCUR_FRAME_VERSION;
  header[AT_KIND] = frame->kind;
  header[AT_DETAIL] = frame->detail;
  memcpy(header + AT_SLOT, &frame->slot, sizeof frame->slot);
  memcpy(header + AT_EXTRA, &frame->extra, sizeof frame->extra);
  memcpy(header + AT_ID, &frame->id, sizeof frame->id);
  memcpy(header + AT_SIZE, &frame->size, sizeof frame->size);
}

void concur_frame_parser_init(concur_frame_parser *parser, size_t limit) {
  memset(parser, 0, sizeof *parser);
  parser->limit = limit;
  parser->state = CONCUR_FRAME_MORE;
}

void concur_frame_parser_free(concur_frame_parser *parser) {
  concur_message_free(parser->body);
  parser->body = NULL;
}

__attribute__((format(printf, 2, 3))) static concur_frame_state
parser_fail(concur_frame_parser *parser, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(parser->error, sizeof parser->error, format, arguments);
  va_end(arguments);
  parser->state = CONCUR_FRAME_BAD;
  return CONCUR_FRAME_BAD;
}

/* The header is complete. */
static concur_frame_state parse_header(concur_frame_parser *parser) {
  const unsigned char *header = parser->header;
  concur_frame *frame = &parser->frame;
  uint16_t zero;
  if (memcmp(header, magic, sizeof magic) != 0) {
    return parser_fail(parser, "bytes that are no frame (bad magic number)");
  }
  if (header[AT_VERSION] != CONCUR_FRAME_VERSION) {
    return parser_fail(parser, "a frame of protocol version %d; this side speaks another",
                       header[AT_VERSION]);
  }
  frame->kind = header[AT_KIND];
  frame->detail = header[AT_DETAIL];
  memcpy(&zero, header + AT_ZERO, sizeof zero);
  memcpy(&frame->slot, header + AT_SLOT, sizeof frame->slot);
  memcpy(&frame->extra, header + AT_EXTRA, sizeof frame->extra);
  memcpy(&frame->id, header + AT_ID, sizeof frame->id);
  memcpy(&frame->size, header + AT_SIZE, sizeof frame->size);
  if (frame->kind < CONCUR_FRAME_SETUP || frame->kind > CONCUR_FRAME_RESULT || zero != 0) {
    return parser_fail(parser, "a frame of the unknown kind %d", frame->kind);
  }
  if (frame->size > parser->limit) {
    return parser_fail(parser, "a frame of %" PRIu64 " bytes, beyond the limit", frame->size);
  }
  return CONCUR_FRAME_MORE;
}

/* Makes room behind what the body holds: doubling, never beyond its size. */
static bool body_reserve(concur_frame_parser *parser) {
  size_t have = parser->body != NULL ? parser->body->size : 0;
  size_t left = (size_t)parser->frame.size - have;
  size_t step = have > BODY_STEP ? have : BODY_STEP;
  size_t more = left < step ? left : step;
  if (parser->body == NULL) {
    parser->body = concur_message_new(more);
    return parser->body != NULL;
  }
  return concur_message_reserve(&parser->body, more);
}

static concur_frame_state feed_body(concur_frame_parser *parser, const unsigned char *bytes,
                                    size_t size, size_t *used) {
  size_t have = parser->body != NULL ? parser->body->size : 0;
  size_t left = (size_t)parser->frame.size - have;
  if (size > left) size = left;
  while (size > 0) {
    if ((parser->body == NULL || parser->body->capacity == parser->body->size) &&
        !body_reserve(parser)) {
      return parser_fail(parser, "a frame of %" PRIu64 " bytes: not enough memory",
                         parser->frame.size);
    }
    size_t room = parser->body->capacity - parser->body->size;
    size_t part = size < room ? size : room;
    memcpy(parser->body->bytes + parser->body->size, bytes, part);
    parser->body->size += part;
    bytes += part;
    size -= part;
    left -= part;
    *used += part;
  }
  parser->state = left == 0 ? CONCUR_FRAME_WHOLE : CONCUR_FRAME_MORE;
  return parser->state;
}

concur_frame_state concur_frame_feed(concur_frame_parser *parser, const unsigned char *bytes,
                                     size_t size, size_t *used) {
  *used = 0;
  if (parser->state == CONCUR_FRAME_BAD) return CONCUR_FRAME_BAD;
  if (parser->state == CONCUR_FRAME_WHOLE) {
    concur_frame_parser_free(parser);
    parser->header_size = 0;
    parser->state = CONCUR_FRAME_MORE;
  }
  size_t missing = CONCUR_FRAME_HEADER - parser->header_size;
  if (missing > 0) {
    size_t part = size < missing ? size : missing;
    memcpy(parser->header + parser->header_size, bytes, part);
    parser->header_size += part;
    *used = part;
    if (part < missing) return CONCUR_FRAME_MORE;
    if (parse_header(parser) == CONCUR_FRAME_BAD) return CONCUR_FRAME_BAD;
  }
  return feed_body(parser, bytes + *used, size - *used, used);
}

concur_message *concur_frame_take_body(concur_frame_parser *parser) {
  concur_message *body = parser->body;
  parser->body = NULL;
  return body;
}

bool concur_frame_between(const concur_frame_parser *parser) {
  return parser->state == CONCUR_FRAME_WHOLE || parser->header_size == 0;
}
