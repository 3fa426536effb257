/* SPDX-License-Identifier: MIT */
/*
 * Frames: the messages between a process pool and its workers.
 *
 *     magic:u8*3 version:u8 kind:u8 detail:u8 zero:u16 slot:u32 extra:u32 id:u64 size:u64 body
 *
 * Numbers are in native byte order: both ends are on one machine.  The bytes come through shared
 * memory (ring.h), in pieces of any size; the parser takes each piece as it comes.  It believes
 * nothing: a wrong magic number, another version, an unknown kind, a length beyond the limit are
 * errors that say what was wrong, and memory grows with the bytes that have come, not with the
 * length that was announced.
 *
 * No Lua, no system call.  A parser belongs to one thread.
 */
#ifndef CONCUR_FRAME_H
#define CONCUR_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "message.h"

#pragma GCC visibility push(hidden)

enum { CONCUR_FRAME_VERSION = 1, CONCUR_FRAME_HEADER = 32 };

typedef enum concur_frame_kind {
  CONCUR_FRAME_SETUP = 1, /* to the worker: how to make its state (process_setup.h) */
  CONCUR_FRAME_JOB,       /* to the worker: a function and its arguments; slot, id; extra: see
                             concur_call_pack_retries */
  CONCUR_FRAME_QUIT,      /* to the worker: no more jobs will come */
  CONCUR_FRAME_READY,     /* to the pool: the state is made and init has run */
  CONCUR_FRAME_FAILED,    /* to the pool: init failed; the body is the error */
  CONCUR_FRAME_RESULT     /* to the pool: slot, id; detail: concur_call_outcome and the flag below;
                             extra: microseconds that the job took */
} concur_frame_kind;

enum { CONCUR_FRAME_INLINE = 0x80 }; /* in `detail`: the body is a concur_inline */

typedef struct concur_frame {
  uint8_t kind; /* concur_frame_kind */
  uint8_t detail;
  uint32_t slot;
  uint32_t extra;
  uint64_t id;
  uint64_t size; /* of the body */
} concur_frame;

/* Writes the header of a frame. */
void concur_frame_write(unsigned char header[CONCUR_FRAME_HEADER], const concur_frame *frame);

typedef enum concur_frame_state {
  CONCUR_FRAME_MORE,  /* all bytes were taken; the frame is not complete */
  CONCUR_FRAME_WHOLE, /* `frame` and `body` are there, until the next call */
  CONCUR_FRAME_BAD    /* `error` says why; nothing that follows can be read */
} concur_frame_state;

typedef struct concur_frame_parser {
  concur_frame frame;
  concur_message *body; /* owned; NULL when `frame.size` is 0 or it was taken */
  size_t limit;         /* of bodies */
  size_t header_size;   /* bytes of the header that have come */
  concur_frame_state state;
  unsigned char header[CONCUR_FRAME_HEADER];
  char error[96];
} concur_frame_parser;

void concur_frame_parser_init(concur_frame_parser *parser, size_t limit);
void concur_frame_parser_free(concur_frame_parser *parser);

/* Takes bytes up to the end of one frame; *used says how many. */
concur_frame_state concur_frame_feed(concur_frame_parser *parser, const unsigned char *bytes,
                                     size_t size, size_t *used);

/* The body becomes the caller's; NULL when the frame has none. */
concur_message *concur_frame_take_body(concur_frame_parser *parser);

/* True between frames: an end here is no truncation. */
bool concur_frame_between(const concur_frame_parser *parser);

#pragma GCC visibility pop

#endif
