/* SPDX-License-Identifier: MIT */
/*
 * A message: a flat buffer of bytes, and attachments.
 *
 * The bytes hold no pointer, so a message without attachments can go through a pipe as it is.  An
 * attachment is one reference to an object that several Lua states share (a Channel, a
 * SharedBuffer), or tells where a long string lies; the bytes name it by its index.
 *
 * [any thread], one at a time: a message has one owner, who may free it on any thread.  What the
 * bytes mean is told in wire.h; encode.c writes them and decode.c reads them.
 */
#ifndef CONCUR_MESSAGE_H
#define CONCUR_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* A kind of object that states share.  One static instance per kind. */
typedef struct concur_shareable {
  const char *name;              /* "SharedBuffer": for messages to people */
  void (*retain)(void *object);  /* [any thread] */
  void (*release)(void *object); /* [any thread]; the last one frees */
} concur_shareable;

typedef struct concur_attachment {
  const concur_shareable *type;
  void *object;     /* ref: owned by the message */
  size_t detail[2]; /* which part of the object, in terms that its type chooses */
} concur_attachment;

/* The type of attachments that are no object: a string that the sender keeps alive.  Not counted. */
extern const concur_shareable concur_lent_string;

/* One block of memory: this header and the bytes behind it.  Growing moves it. */
typedef struct concur_message {
  size_t size;
  size_t capacity;
  concur_attachment *attachments; /* owned; NULL while there are none */
  uint32_t attachment_count;
  uint32_t attachment_capacity;
  unsigned char bytes[];
} concur_message;

/* A new empty message with room for `capacity` bytes, or NULL when memory is short. */
concur_message *concur_message_new(size_t capacity);

/* A message that holds a copy of these bytes (which came out of a pipe), or NULL. */
concur_message *concur_message_from_bytes(const void *bytes, size_t size);

/* Makes room for `more` bytes behind the ones in use; may move the message.  False when memory is
   short: the message is then as it was. */
bool concur_message_reserve(concur_message **message, size_t more);

/* Attaches an object and retains it.  Returns false when memory is short. */
bool concur_message_attach(concur_message *message, const concur_attachment *attachment);

/* Releases what is attached and frees the message.  NULL is allowed. */
void concur_message_free(concur_message *message);

/* How many bytes it holds. */
size_t concur_message_size(const concur_message *message);

#pragma GCC visibility pop

#endif
