/* SPDX-License-Identifier: MIT */
/*
 * The format of messages, known to encode.c and decode.c only.
 *
 *     message  = magic:u32 count:u32 value*count body*
 *     value    = a tag and what the table below says
 *     body     = what a LATER value left out, in the order of those values
 *
 * Numbers are in native byte order: a message is read by the process that wrote it, or by another
 * one on the same machine; the magic number makes a stranger's message an error.
 *
 * A value that is met a second time is written as REF to the offset of its first tag.  Only then
 * is that tag marked SHARED, so that the reader remembers nothing that it will not need.
 *
 * Tables and functions nested deeper than WIRE_INLINE_DEPTH are marked LATER: their header stands
 * where they belong, their content follows as a body.  So depth costs no stack on either side.
 * What an object's `encode` returned is a *unit*: its bodies follow it at once, since the reader
 * needs all of it before it can call `decode`.
 */
#ifndef CONCUR_WIRE_H
#define CONCUR_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#pragma GCC visibility push(hidden)

#define WIRE_MAGIC UINT32_C(0x4355E501) /* the last byte is the version */

enum {
  WIRE_INLINE_DEPTH = 100, /* from here on, tables and functions are LATER */
  WIRE_MAX_DEPTH = 400,    /* of objects with an encode function */
  WIRE_SHARED_STRING = 64, /* strings of at least this size are written once */
  WIRE_MAX_RESULTS = 255,  /* of an encode function */
  WIRE_MAX_UPVALUES = 255,
  WIRE_MAX_PATH = 1000 /* bytes of a module's name and the fields below it */
};

/* Tags.  The upper bits are flags. */
enum {
  WIRE_NIL = 1,
  WIRE_FALSE,
  WIRE_TRUE,
  WIRE_INT8,       /* i8 */
  WIRE_INT64,      /* i64 */
  WIRE_FLOAT,      /* f64 */
  WIRE_STRING8,    /* size:u8 bytes */
  WIRE_STRING32,   /* size:u32 bytes; may be SHARED */
  WIRE_NULL,       /* the light userdata NULL */
  WIRE_GLOBALS,    /* the globals table */
  WIRE_REF,        /* offset:u32 of a tag that is SHARED */
  WIRE_NAMED,      /* size:u16 path: "module\0" or "module\0field\0field\0" */
  WIRE_ATTACHMENT, /* index:u32; may be SHARED */
  WIRE_BORROWED,   /* index:u32 of an attachment: where a string lies; may be SHARED */
  WIRE_TABLE,      /* wire_table_header, value*array, (value value)*pairs; SHARED, LATER */
  WIRE_FUNCTION,   /* wire_function_header, code, cell*upvalues; SHARED, LATER, PURE */
  WIRE_INSTANCE,   /* value, TABLE: the metatable, which stays what it is there, and the fields */
  WIRE_OBJECT,     /* size:u8 name of the class, count:u8 value*count body*; may be SHARED */
  WIRE_REBUILT,    /* count:u8 value*count body*: a function and its arguments; may be SHARED */
  WIRE_CLASS,      /* size:u8 name: the metatable of a class, only inside INSTANCE */

  /* Cells: how the upvalues of a function are written. */
  WIRE_ENV,      /* the reader's globals */
  WIRE_CELL,     /* value; may be SHARED by other functions */
  WIRE_CELL_REF, /* offset:u32 of a CELL that is SHARED */
  WIRE_SELF,     /* only inside a CELL: the function that it belongs to */

  WIRE_TAG_MASK = 0x1F,
  WIRE_PURE = 0x20,  /* all cells are ENV, NAMED or SELF: the reader may reuse a loaded copy */
  WIRE_LATER = 0x40, /* the content follows as a body */
  WIRE_SHARED = 0x80 /* a REF or CELL_REF to it follows */
};

/* Headers are written and read with memcpy: the bytes are not aligned. */
typedef struct wire_table_header {
  uint32_t array; /* values of the keys 1, 2, 3, ... */
  uint32_t pairs;
} wire_table_header;

typedef struct wire_function_header {
  uint64_t hash; /* wire_hash of the code */
  uint32_t code_size;
  uint32_t cells_size; /* of a PURE function */
  uint32_t upvalues;
  uint32_t reserved; /* 0 */
} wire_function_header;

/* A fast 64-bit hash.  It finds code in the reader's cache, and keeps damaged code from Lua's
   loader, which trusts what it reads.  It does not stop a forger: see docs/design/transfer.md. */
static inline uint64_t wire_hash(const void *bytes, size_t size) {
  const unsigned char *at = bytes;
  const uint64_t prime = UINT64_C(0x9E3779B97F4A7C15);
  uint64_t hash = size * prime;
  uint64_t word;
  for (; size >= sizeof word; at += sizeof word, size -= sizeof word) {
    memcpy(&word, at, sizeof word);
    hash = (hash ^ word) * prime;
    hash ^= hash >> 32;
  }
  word = 0;
  memcpy(&word, at, size);
  hash = (hash ^ word) * prime;
  return hash ^ (hash >> 29);
}

#pragma GCC visibility pop

#endif
