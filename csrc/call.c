/* SPDX-License-Identifier: MIT */
/* See call.h. */
#include "call.h"

#include <stdlib.h>
#include <string.h>

static char *text_copy(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = malloc(size);
  if (copy != NULL) memcpy(copy, text, size);
  return copy;
}

/* ---- calls ---- */

/* Frees what the call itself holds. */
static void call_let_go(concur_call *call) {
  if (call->function != NULL) concur_function_release(call->function);
  concur_message_free(call->input);
  concur_message_free(call->output);
  concur_worker_settings_release(call->settings);
  free(call->name);
}

static void call_free(concur_job *job) {
  concur_call *call = concur_container_of(job, concur_call, job);
  call_let_go(call);
  free(call);
}

void concur_call_clear(concur_call *call) {
  concur_job_clear(&call->job);
  call_let_go(call);
}

bool concur_call_init(concur_call *call, concur_pool *pool, concur_mailbox *reply,
                      concur_worker_settings *settings, const char *name) {
  char *copy = name != NULL ? text_copy(name) : NULL;
  if (name != NULL && copy == NULL) return false;
  concur_job_init(&call->job, pool, reply);
  call->job.free = call_free;
  call->job.name = copy;
  call->function = NULL;
  call->arguments.count = -1; /* the rest of it needs no value */
  call->input = NULL;
  call->output = NULL;
  call->outcome = CONCUR_CALL_RESULTS;
  call->retries = 0;
  call->retry_delay_ms = 0;
  atomic_init(&call->interrupts, 0);
  atomic_init(&call->loan, CONCUR_LOAN_NONE);
  call->settings = settings;
  concur_worker_settings_retain(settings);
  call->name = copy;
  call->executor = NULL;
  call->future = NULL;
  call->slot = 0;
  call->lent_slot = 0;
  call->link = (concur_node){NULL, NULL};
  call->abandon = false;
  call->interrupt_after_ns = CONCUR_NEVER;
  concur_timer_init(&call->interrupt_timer);
  call->holds_loop = false;
  return true;
}

concur_call *concur_call_new(concur_pool *pool, concur_mailbox *reply,
                             concur_worker_settings *settings, const char *name) {
  concur_call *call = malloc(sizeof *call);
  if (call != NULL && concur_call_init(call, pool, reply, settings, name)) return call;
  free(call);
  return NULL;
}

bool concur_call_loan_begin(concur_call *call) {
  int open = CONCUR_LOAN_OPEN;
  return atomic_compare_exchange_strong(&call->loan, &open, CONCUR_LOAN_COPYING);
}

void concur_call_loan_end(concur_call *call) {
  int copying = CONCUR_LOAN_COPYING;
  (void)atomic_compare_exchange_strong(&call->loan, &copying, CONCUR_LOAN_OVER);
}

void concur_call_loan_revoke(concur_call *call) {
  int open = CONCUR_LOAN_OPEN;
  (void)atomic_compare_exchange_strong(&call->loan, &open, CONCUR_LOAN_REVOKED);
  while (atomic_load(&call->loan) == CONCUR_LOAN_COPYING) uv_sleep(1);
}

bool concur_call_again(concur_call *call, uint32_t *delay_ms) {
  if (call->outcome != CONCUR_CALL_ERROR || call->retries == 0) return false;
  call->retries--;
  *delay_ms = call->retry_delay_ms;
  bool doubles = call->retry_delay_ms <= CONCUR_RETRY_DELAY_MOST_MS / 2;
  call->retry_delay_ms = doubles ? call->retry_delay_ms * 2 : CONCUR_RETRY_DELAY_MOST_MS;
  return !concur_job_is_cancelled(&call->job);
}

bool concur_inline_check(const concur_inline *values) {
  if (values->count < 0 || values->count > CONCUR_INLINE_VALUES) return false;
  for (int i = 0; i < values->count; i++) {
    const concur_scalar *scalar = &values->scalars[i];
    if (scalar->type > CONCUR_SCALAR_STRING) return false;
    if (scalar->type == CONCUR_SCALAR_STRING &&
        scalar->as.string.offset + scalar->as.string.size > CONCUR_INLINE_BYTES) {
      return false;
    }
  }
  return true;
}

/* ---- functions that are known by number ---- */

concur_function *concur_function_new(concur_message *message, uint64_t number) {
  concur_function *function = calloc(1, sizeof *function);
  if (function == NULL) {
    concur_message_free(message);
    return NULL;
  }
  atomic_init(&function->references, 1);
  function->number = number;
  function->message = message;
  return function;
}

void concur_function_retain(concur_function *function) {
  atomic_fetch_add(&function->references, 1);
}

void concur_function_release(concur_function *function) {
  if (atomic_fetch_sub(&function->references, 1) != 1) return;
  concur_message_free(function->message);
  free(function);
}

/* ---- settings of a pool's workers ---- */

concur_worker_settings *concur_worker_settings_new(const concur_call_kind *kind, const char *name,
                                                   concur_shared_pool *shared) {
  concur_worker_settings *settings = calloc(1, sizeof *settings);
  if (settings == NULL) return NULL;
  settings->name = text_copy(name);
  if (settings->name == NULL || uv_mutex_init(&settings->mutex) != 0) {
    free(settings->name);
    free(settings);
    return NULL;
  }
  settings->kind = kind;
  atomic_init(&settings->references, 1);
  atomic_init(&settings->broken, false);
  settings->shared = shared;
  concur_shared_pool_retain(shared);
  return settings;
}

void concur_worker_settings_retain(concur_worker_settings *settings) {
  atomic_fetch_add(&settings->references, 1);
}

void concur_worker_settings_release(concur_worker_settings *settings) {
  if (atomic_fetch_sub(&settings->references, 1) != 1) return;
  for (uint32_t i = 0; i < settings->preload_count; i++) free(settings->preloads[i].name);
  free(settings->preloads);
  if (settings->extra != NULL) settings->kind->free_extra(settings->extra);
  concur_message_free(settings->environment);
  concur_message_free(settings->init);
  concur_message_free(settings->cause);
  concur_shared_pool_release(settings->shared);
  uv_mutex_destroy(&settings->mutex);
  free(settings->name);
  free(settings);
}

bool concur_worker_settings_preload(concur_worker_settings *settings, const char *name,
                                    void (*function)(void)) {
  size_t size = (settings->preload_count + 1) * sizeof *settings->preloads;
  concur_preload *preloads = realloc(settings->preloads, size);
  if (preloads == NULL) return false;
  settings->preloads = preloads;
  char *copy = text_copy(name);
  if (copy == NULL) return false;
  preloads[settings->preload_count++] = (concur_preload){copy, function};
  return true;
}

void concur_worker_settings_break(concur_worker_settings *settings, concur_message *cause) {
  uv_mutex_lock(&settings->mutex);
  if (settings->cause == NULL) {
    settings->cause = cause;
    cause = NULL;
  }
  atomic_store(&settings->broken, true);
  uv_mutex_unlock(&settings->mutex);
  concur_message_free(cause);
}

concur_message *concur_worker_settings_cause(concur_worker_settings *settings) {
  concur_message *copy = NULL;
  uv_mutex_lock(&settings->mutex);
  if (settings->cause != NULL) {
    copy = concur_message_from_bytes(settings->cause->bytes, settings->cause->size);
  }
  uv_mutex_unlock(&settings->mutex);
  return copy;
}

/* ---- the default pool's slot ---- */

concur_shared_pool *concur_shared_pool_new(void) {
  concur_shared_pool *shared = calloc(1, sizeof *shared);
  if (shared == NULL) return NULL;
  if (uv_mutex_init(&shared->mutex) != 0) {
    free(shared);
    return NULL;
  }
  atomic_init(&shared->references, 1);
  return shared;
}

void concur_shared_pool_retain(concur_shared_pool *shared) {
  atomic_fetch_add(&shared->references, 1);
}

void concur_shared_pool_release(concur_shared_pool *shared) {
  if (atomic_fetch_sub(&shared->references, 1) != 1) return;
  if (shared->pool != NULL) concur_pool_release(shared->pool);
  concur_worker_settings *settings = shared->settings;
  uv_mutex_destroy(&shared->mutex);
  free(shared);
  if (settings != NULL) concur_worker_settings_release(settings);
}
