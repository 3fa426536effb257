/* SPDX-License-Identifier: MIT */
/*
 * Where in a value the encoder is: what a TransferError's `path` is made from.
 *
 * Places form a list from the value in hand to the root.  They live on the C stack of the encoder,
 * one per open table or function, and cost nothing until a path is asked for.
 */
#ifndef CONCUR_PLACE_H
#define CONCUR_PLACE_H

#include <lua.h>

#pragma GCC visibility push(hidden)

typedef enum concur_place_kind {
  PLACE_ROOT,    /* `name` and `number`: argument 2 */
  PLACE_TEXT,    /* the string at stack index `number`: a path made earlier */
  PLACE_FIELD,   /* the key at stack index `number` */
  PLACE_KEY,     /* the key itself */
  PLACE_UPVALUE, /* `name` */
  PLACE_RESULT   /* result `number` of the encode function of class `name` */
} concur_place_kind;

typedef struct concur_place {
  const struct concur_place *up; /* borrowed: further out on the same C stack; NULL at the root */
  concur_place_kind kind;
  int number;
  const char *name; /* borrowed from Lua, which holds it for as long as the place */
} concur_place;

/* Pushes the path of a place: `argument 2.options[3]`, `upvalue 'cfg'.socket`.  Long paths lose
   their middle. */
void concur_place_push(lua_State *L, const concur_place *place);

/* Raises TransferError: "<path>: <text>", with the field `path`, and `cause` when the value on top
   of the stack is one (`has_cause`).  `place` may be NULL: then there is no path.  Never returns. */
int concur_refuse(lua_State *L, const concur_place *place, int has_cause, const char *format, ...);

#pragma GCC visibility pop

#endif
