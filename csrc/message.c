/* SPDX-License-Identifier: MIT */
/* Messages; message.h tells what they are and who owns them. */
#include "message.h"

#include <stdlib.h>
#include <string.h>

static void nothing_to_count(void *object) {
  (void)object;
}

const concur_shareable concur_lent_string = {"string", nothing_to_count, nothing_to_count};

concur_message *concur_message_new(size_t capacity) {
  if (capacity > SIZE_MAX - sizeof(concur_message)) return NULL;
  concur_message *message = malloc(sizeof *message + capacity);
  if (message == NULL) return NULL;
  *message = (concur_message){.capacity = capacity};
  return message;
}

concur_message *concur_message_from_bytes(const void *bytes, size_t size) {
  concur_message *message = concur_message_new(size);
  if (message == NULL) return NULL;
  if (size > 0) memcpy(message->bytes, bytes, size);
  message->size = size;
  return message;
}

bool concur_message_reserve(concur_message **message, size_t more) {
  concur_message *old = *message;
  if (old->capacity - old->size >= more) return true;
  if (more > SIZE_MAX / 4 || old->size > SIZE_MAX / 4) return false;
  size_t needed = old->size + more;
  size_t capacity = old->capacity * 2 > needed ? old->capacity * 2 : needed;
  concur_message *grown = realloc(old, sizeof *grown + capacity);
  if (grown == NULL) return false;
  grown->capacity = capacity;
  *message = grown;
  return true;
}

bool concur_message_attach(concur_message *message, const concur_attachment *attachment) {
  if (message->attachment_count == message->attachment_capacity) {
    uint32_t capacity = message->attachment_capacity == 0 ? 4 : message->attachment_capacity * 2;
    concur_attachment *grown = realloc(message->attachments, capacity * sizeof *grown);
    if (grown == NULL) return false;
    message->attachments = grown;
    message->attachment_capacity = capacity;
  }
  attachment->type->retain(attachment->object);
  message->attachments[message->attachment_count++] = *attachment;
  return true;
}

void concur_message_free(concur_message *message) {
  if (message == NULL) return;
  for (uint32_t i = 0; i < message->attachment_count; i++) {
    concur_attachment *attachment = &message->attachments[i];
    attachment->type->release(attachment->object);
  }
  free(message->attachments);
  free(message);
}

size_t concur_message_size(const concur_message *message) {
  return message->size;
}
