/* SPDX-License-Identifier: MIT */
/*
 * What the files of the encoder share: encode.c (values and tables), encode_function.c,
 * encode_object.c (classes, userdata, and what is refused).  transfer.h is the way in.
 *
 * The encoder lives on the C stack of concur_encode, for one message.  It works under lua_pcall,
 * since almost anything in it can raise; what it malloc'd is freed behind that call.
 *
 * All functions: [the state's own thread], `index` is an absolute stack index, the stack is left as
 * it was, memory errors and TransferError are raised.
 */
#ifndef CONCUR_ENCODER_H
#define CONCUR_ENCODER_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "identity.h"
#include "message.h"
#include "place.h"
#include "state_memory.h"
#include "transfer_state.h"
#include "wire.h"

#pragma GCC visibility push(hidden)

typedef struct concur_encoder {
  lua_State *L;
  concur_message *message; /* owned until concur_encode returns it */
  concur_transfer_state *state;
  const concur_place *place; /* where we are; on the C stack */
  const void *globals;
  const char *what; /* "argument" */
  int count;
  int number; /* of the first value, for paths */
  int depth;
  int later;       /* stack slot: nil, or the table of what waits */
  int later_first; /* of this unit: the first that waits, */
  int later_end;   /* and the first free number */
  int lent;        /* stack slot: nil, or the table of strings that the message points into */
  int lent_count;
  size_t borrowed;                 /* bytes of strings that stay where they are */
  bool lends;                      /* strings may be lent */
  bool flat;                       /* no attachments */
  const concur_state_memory *pins; /* where strings may be pinned, or NULL */
  bool is_fresh;                   /* the index of modules was compared with package.loaded */
  bool gc_stopped;
  concur_identity_map seen; /* first: offset of the tag; second: see the users */
} concur_encoder;

/* ---- bytes ---- */

/* Makes room for `size` more bytes; raises because of the limit or the memory. */
void concur_encoder_grow(concur_encoder *e, size_t size);

/* Takes `size` bytes at the end of the message. */
static inline unsigned char *concur_encoder_take(concur_encoder *e, size_t size) {
  if (e->message->capacity - e->message->size < size) concur_encoder_grow(e, size);
  unsigned char *at = e->message->bytes + e->message->size;
  e->message->size += size;
  return at;
}

/* The offset of what is written next. */
static inline uint32_t concur_encoder_here(const concur_encoder *e) {
  return (uint32_t)e->message->size;
}

static inline void concur_encoder_tag(concur_encoder *e, int tag) {
  *concur_encoder_take(e, 1) = (unsigned char)tag;
}

static inline void concur_encoder_tag_u32(concur_encoder *e, int tag, uint32_t number) {
  unsigned char *at = concur_encoder_take(e, 1 + sizeof number);
  *at = (unsigned char)tag;
  memcpy(at + 1, &number, sizeof number);
}

static inline void concur_encoder_bytes(concur_encoder *e, const void *bytes, size_t size) {
  memcpy(concur_encoder_take(e, size), bytes, size);
}

/* ---- encode.c ---- */

/* Writes any value. */
void concur_encoder_value(concur_encoder *e, int index);

/* Writes a table as its fields; its metatable, if any, was dealt with. */
void concur_encoder_fields(concur_encoder *e, int index, bool is_error);

/* The entry of an address among what was seen; *added when it is new. */
concur_identity *concur_encoder_seen(concur_encoder *e, const void *address, bool *added);

/* If the address was seen, writes a reference.  Else notes that its tag will stand here. */
bool concur_encoder_again(concur_encoder *e, const void *address);

/* In `second` of a seen object: its encoded values are being written, do not refer to it. */
enum { CONCUR_ENCODER_UNFINISHED = 1 };

/* If the value is found in a loaded module as one of `wanted` (concur_named), writes its name.
   With `refresh` modules that were loaded lately are seen. */
bool concur_encoder_named(concur_encoder *e, int index, int wanted, bool refresh);

/* Puts the content of the value, whose header stands at `at`, off until its unit ends. */
void concur_encoder_put_off(concur_encoder *e, int index, uint32_t at);

/* Writes `count` values from stack index `first`, results of an encode function of `class`, and
   all that was put off among them. */
void concur_encoder_unit(concur_encoder *e, int first, int count, const char *class);

/* Attaches to the message; returns the attachment's number. */
uint32_t concur_encoder_attach(concur_encoder *e, const concur_attachment *attachment);

/* ---- encode_function.c ---- */

/* Writes a function.  True if the reader gets it by name. */
bool concur_encoder_function(concur_encoder *e, int index);

/* Writes the upvalues of a function and completes its header, which stands at `at`. */
void concur_encoder_cells(concur_encoder *e, int function, uint32_t at);

/* ---- encode_object.c ---- */

/* Writes a table, not seen before, whose metatable is on top of the stack.  Pops the metatable. */
void concur_encoder_object(concur_encoder *e, int object);

/* Writes a full userdata. */
void concur_encoder_userdata(concur_encoder *e, int index);

#pragma GCC visibility pop

#endif
