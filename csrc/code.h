/* SPDX-License-Identifier: MIT */
/*
 * Functions as code: dumped once on the sender's side, loaded once on the receiver's.
 *
 * The sender's cache maps a function (weakly) to its dump.  The receiver's maps a record (code and
 * cells of a PURE function, wire.h) to the function that was made from it; it is direct-mapped, so
 * that a newer function takes the place of an older one.  Both are bounded.
 *
 * Owned by the transfer state of one Lua state.  [the state's own thread]
 */
#ifndef CONCUR_CODE_H
#define CONCUR_CODE_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

enum { CONCUR_CODE_SLOTS = 256 }; /* a power of two */

typedef struct concur_code_slot {
  uint64_t hash;
  uint64_t message; /* the number of the message that used it last */
} concur_code_slot;

typedef struct concur_code {
  int dumps_ref;     /* registry: function -> hash and dump, weak keys */
  int dump_count;    /* since the table was made; some may be gone */
  size_t dump_bytes; /* likewise */
  int functions_ref; /* registry: list, by slot */
  int records_ref;   /* registry: list of strings, by slot */
  uint64_t message;  /* counts the messages decoded here */
  concur_code_slot slots[CONCUR_CODE_SLOTS];
} concur_code;

void concur_code_init(lua_State *L, concur_code *code);

/* Pushes a string: the hash (8 bytes) and the dump of the Lua function at `index`.  When the
   function is not in the cache it pushes nil instead, if `only_cached`. */
void concur_code_push_dump(lua_State *L, concur_code *code, int index, bool only_cached);

/* What the receiver's cache is asked for. */
typedef struct concur_code_record {
  const void *bytes; /* borrowed from the message */
  size_t size;
  uint64_t hash;    /* of the bytes */
  uint64_t message; /* number of the message (from concur_code.message) */
} concur_code_record;

/* Pushes a function made from this record, unless this message has it already; false if none. */
bool concur_code_find(lua_State *L, concur_code *code, const concur_code_record *record);

/* Keeps the function on top of the stack for this record. */
void concur_code_keep(lua_State *L, concur_code *code, const concur_code_record *record);

#pragma GCC visibility pop

#endif
