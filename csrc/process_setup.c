/* SPDX-License-Identifier: MIT */
/* See process_setup.h. */
#include "process_setup.h"

#include <string.h>

typedef struct setup_header {
  uint64_t limit;
  uint64_t max_memory;
  uint64_t name_size; /* with the zero at its end */
  uint64_t environment_size;
  uint64_t init_size; /* 0: there is none */
} setup_header;

static void put(concur_message *message, const void *bytes, size_t size) {
  if (size > 0) memcpy(message->bytes + message->size, bytes, size);
  message->size += size;
}

concur_message *concur_process_setup_new(const concur_worker_settings *settings, size_t limit) {
  const concur_message *environment = settings->environment, *init = settings->init;
  size_t name_size = strlen(settings->name) + 1, init_size = init != NULL ? init->size : 0;
  setup_header header = {.limit = limit,
                         .max_memory = settings->max_memory,
                         .name_size = name_size,
                         .environment_size = environment->size,
                         .init_size = init_size};
  concur_message *message =
      concur_message_new(sizeof header + name_size + environment->size + init_size);
  if (message == NULL) return NULL;
  put(message, &header, sizeof header);
  put(message, settings->name, name_size);
  put(message, environment->bytes, environment->size);
  if (init != NULL) put(message, init->bytes, init_size);
  return message;
}

/* The next `size` bytes of those that are left; NULL when there are not so many. */
static const unsigned char *take(const concur_message *setup, size_t *at, uint64_t size) {
  if (size > setup->size - *at) return NULL;
  const unsigned char *bytes = setup->bytes + *at;
  *at += (size_t)size;
  return bytes;
}

concur_worker_settings *concur_process_setup_read(const concur_message *setup,
                                                  const concur_call_kind *kind,
                                                  concur_shared_pool *shared) {
  setup_header header;
  if (setup == NULL || setup->size < sizeof header) return NULL;
  memcpy(&header, setup->bytes, sizeof header);
  size_t at = sizeof header;
  const unsigned char *name = take(setup, &at, header.name_size);
  if (name == NULL) return NULL;
  const unsigned char *environment = take(setup, &at, header.environment_size);
  if (environment == NULL) return NULL;
  const unsigned char *init = take(setup, &at, header.init_size);
  if (init == NULL || header.name_size == 0 || name[header.name_size - 1] != '\0') return NULL;
  concur_worker_settings *settings = concur_worker_settings_new(kind, (const char *)name, shared);
  if (settings == NULL) return NULL;
  settings->message_limit = (size_t)header.limit;
  settings->max_memory = (size_t)header.max_memory;
  settings->environment = concur_message_from_bytes(environment, (size_t)header.environment_size);
  if (header.init_size > 0) {
    settings->init = concur_message_from_bytes(init, (size_t)header.init_size);
  }
  if (settings->environment != NULL && (header.init_size == 0 || settings->init != NULL)) {
    return settings;
  }
  concur_worker_settings_release(settings);
  return NULL;
}
