/* SPDX-License-Identifier: MIT */
/*
 * Lua values between states: encode on one side, decode on the other.
 *
 * docs/reference/transfer.md says what crosses; docs/design/transfer.md says why it is done so.
 *
 *     sender's thread                    receiver's thread
 *     concur_encode  ->  message   ->    concur_decode, concur_message_free
 *
 * All functions here: [the state's own thread].  Between the two calls the message may be on any
 * thread, as long as one at a time has it.
 */
#ifndef CONCUR_TRANSFER_H
#define CONCUR_TRANSFER_H

#include <lua.h>

#include "message.h"
#include "state_memory.h"
#include "support.h"

#pragma GCC visibility push(hidden)

typedef enum concur_encode_mode {
  CONCUR_ENCODE_SHARED, /* for another state of this process */
  CONCUR_ENCODE_FLAT    /* for another process: attachments are refused */
} concur_encode_mode;

/*
 * Encodes `count` values from stack index `first`.  `what` names the roots of paths in errors:
 * "argument" makes "argument 1".  Returns a message that the caller owns, and leaves the stack as
 * it was.  Raises TransferError (fields `path`, and `cause` when a class's encode function failed),
 * or the string "not enough memory".  May call encode functions of the user's, which cannot yield.
 */
concur_message *concur_encode(lua_State *L, int first, int count, const char *what);
concur_message *concur_encode_as(lua_State *L, int first, int count, const char *what,
                                 concur_encode_mode mode);

/*
 * The same with all there is to say.  Long strings need not be copied: the message then points to
 * where they lie.
 *
 * With `lends` they must stay alive until the message was decoded or dropped: if there are any, a
 * table that holds them is pushed and *lends set to true; the caller anchors that table.  Else
 * nothing is pushed.  Whoever decodes copies them first (concur_borrowed_copy), which is quick and
 * runs no code of the user's but finalizers, so that the lender need not wait for long when it closes.
 *
 * With `pins`, the memory of this state, the blocks that they lie in are kept by the message.
 */
typedef struct concur_encode_options {
  const char *what; /* as above */
  int number;       /* of the first value: "argument 1" */
  concur_encode_mode mode;
  bool *lends;                     /* or NULL */
  const concur_state_memory *pins; /* or NULL */
} concur_encode_options;

concur_message *concur_encode_with(lua_State *L, int first, int count,
                                   const concur_encode_options *options);
/* As concur_encode_with; instead of raising, pushes the error and returns NULL. */
concur_message *concur_encode_caught(lua_State *L, int first, int count,
                                     const concur_encode_options *options);

/*
 * Pushes the values of a message and returns how many.  The message stays the caller's; it can be
 * decoded again.  Raises TransferError on damaged bytes, on a module or class that is not found in
 * this state, and when a decode function fails (`cause`); may run out of memory.  Then nothing
 * stays on the stack but the error.  May call `require` and decode functions.
 */
int concur_decode(lua_State *L, const concur_message *message);

/* Pushes a table of copies of the strings that were lent to the message.  May run out of memory. */
void concur_borrowed_copy(lua_State *L, const concur_message *message);
/* The same as concur_decode, with that table at stack index `copies`: what was lent may be gone. */
int concur_decode_copied(lua_State *L, const concur_message *message, int copies);

/*
 * Objects that states share: the userdata of one class in every state refer to one object.
 * One static instance per class; `base` is what layer 0 sees of it.
 */
typedef struct concur_share_class {
  concur_shareable base;
  /* Fills in `object` and `detail` for the userdata at `index`; the message retains the object
     itself.  Returns NULL, or why this userdata cannot cross ("it is closed").  Must not raise. */
  const char *(*unwrap)(lua_State *L, int index, concur_attachment *attachment);
  /* Pushes a userdata that holds a reference of its own.  May raise; must not leak then. */
  void (*wrap)(lua_State *L, const concur_attachment *attachment);
} concur_share_class;

/* Says that userdata with the metatable on top of the stack are of this class.  Pops nothing. */
void concur_share_class_bind(lua_State *L, const concur_share_class *share_class);

/* Registers what is needed in this state; adds to the table on top of the stack the functions
   `transferable`, `transfer_limit`, `encode`, `decode`.  Called once, by luaopen. */
void concur_transfer_open(lua_State *L, concur_runtime *runtime);

/* How large a message may become in this state, in bytes: 1 GiB unless set, 4 GiB at most. */
size_t concur_transfer_limit(lua_State *L);
void concur_transfer_set_limit(lua_State *L, size_t bytes);

#pragma GCC visibility pop

#endif
