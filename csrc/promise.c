/* SPDX-License-Identifier: MIT */
/* See promise.h.  The mutex is held while the cancel function runs, and while nothing else does: mail is
   posted and payloads are dropped outside of it, unless the cancel function settles the promise. */
#include "promise.h"

#include <stdlib.h>
#include <string.h>

int concur_promise_init(concur_promise *promise, concur_mailbox *reply, bool job) {
  memset(promise, 0, sizeof *promise);
  int error = uv_mutex_init_recursive(&promise->mutex);
  if (error != 0) return error;
  atomic_init(&promise->references, 1);
  atomic_init(&promise->holders, 1);
  atomic_init(&promise->cancelled, false);
  promise->reply = reply;
  promise->job = job;
  promise->armed = !job;
  concur_mailbox_retain(reply);
  return 0;
}

void concur_promise_retain(concur_promise *promise) {
  atomic_fetch_add(&promise->references, 1);
}

void concur_promise_release(concur_promise *promise) {
  if (atomic_fetch_sub(&promise->references, 1) != 1) return;
  concur_payload_drop(&promise->payload);
  concur_mailbox_release(promise->reply);
  uv_mutex_destroy(&promise->mutex);
  promise->free(promise);
}

void concur_promise_hold(concur_promise *promise) {
  atomic_fetch_add(&promise->holders, 1);
  concur_promise_retain(promise);
}

/* Nobody can settle it any more. */
static void promise_abandon(concur_promise *promise) {
  const concur_payload cancelled = {.kind = CONCUR_PAYLOAD_CANCELLED};
  if (atomic_load(&promise->cancelled)) {
    (void)concur_promise_settle(promise, &cancelled);
  } else {
    (void)concur_promise_fail(promise, "Closed", "a C module has let go of the future unsettled");
  }
}

void concur_promise_let_go(concur_promise *promise) {
  if (atomic_fetch_sub(&promise->holders, 1) == 1 && !promise->job) promise_abandon(promise);
  concur_promise_release(promise);
}

void concur_payload_drop(concur_payload *payload) {
  concur_payload dropped = *payload;
  memset(payload, 0, sizeof *payload);
  if (dropped.drop != NULL) dropped.drop(dropped.data);
}

/* ---- settling ---- */

/* Puts the payload there if that is still possible. */
static bool promise_claim(concur_promise *promise, const concur_payload *payload) {
  uv_mutex_lock(&promise->mutex);
  bool pending = promise->state == CONCUR_PROMISE_PENDING;
  if (pending) {
    promise->state = CONCUR_PROMISE_SETTLED;
    promise->armed = false;
    promise->payload = *payload;
  }
  uv_mutex_unlock(&promise->mutex);
  return pending;
}

bool concur_promise_settle(concur_promise *promise, const concur_payload *payload) {
  if (!promise_claim(promise, payload)) {
    if (payload->drop != NULL) payload->drop(payload->data);
    return false;
  }
  if (promise->job) return true;
  concur_promise_retain(promise); /* the mail's */
  if (concur_mailbox_post(promise->reply, &promise->mail)) return true;
  /* GCOVR_EXCL_START: the loop has closed since the claim, on another thread */
  concur_payload_drop(&promise->payload);
  promise->mail.drop(&promise->mail);
  return false;
  /* GCOVR_EXCL_STOP */
}

/* The texts in one block; NULL when out of memory. */
static concur_promise_error *error_new(const char *kind, const char *message) {
  size_t kind_size = kind != NULL ? strlen(kind) + 1 : 0;
  size_t message_size = strlen(message) + 1;
  concur_promise_error *error = malloc(sizeof *error + kind_size + message_size);
  if (error == NULL) return NULL;
  char *texts = (char *)(error + 1);
  error->kind = NULL;
  if (kind != NULL) error->kind = memcpy(texts, kind, kind_size);
  error->message = memcpy(texts + kind_size, message, message_size);
  return error;
}

bool concur_promise_fail(concur_promise *promise, const char *kind, const char *message) {
  static concur_promise_error no_memory = {NULL, "not enough memory"};
  concur_promise_error *error = error_new(kind, message);
  const concur_payload payload = {.kind = CONCUR_PAYLOAD_ERROR,
                                  .drop = error != NULL ? free : NULL,
                                  .data = error != NULL ? error : &no_memory};
  return concur_promise_settle(promise, &payload);
}

/* ---- stopping ---- */

/* Asks once.  True when the promise may be given up at once. [under the lock] */
static bool promise_ask(concur_promise *promise) {
  bool first = !atomic_exchange(&promise->cancelled, true);
  if (promise->cancel == NULL) return true;
  if (!first || !promise->armed) return false;
  return promise->cancel(promise->cancel_data) != 0;
}

concur_promise_cancel_end concur_promise_cancel(concur_promise *promise) {
  concur_promise_cancel_end end = CONCUR_PROMISE_TOO_LATE;
  uv_mutex_lock(&promise->mutex);
  if (promise->state == CONCUR_PROMISE_PENDING) {
    end = CONCUR_PROMISE_LATER;
    bool at_once = promise_ask(promise);
    if (at_once && !promise->job && promise->state == CONCUR_PROMISE_PENDING) {
      promise->state = CONCUR_PROMISE_OVER;
      end = CONCUR_PROMISE_CANCELLED;
    }
  }
  uv_mutex_unlock(&promise->mutex);
  return end;
}

void concur_promise_close(concur_promise *promise) {
  uv_mutex_lock(&promise->mutex);
  if (promise->state == CONCUR_PROMISE_PENDING) (void)promise_ask(promise);
  atomic_store(&promise->cancelled, true);
  bool pending = promise->state == CONCUR_PROMISE_PENDING;
  if (pending && !promise->job) promise->state = CONCUR_PROMISE_OVER;
  uv_mutex_unlock(&promise->mutex);
}

bool concur_promise_begin(concur_promise *promise) {
  uv_mutex_lock(&promise->mutex);
  bool wanted = !atomic_load(&promise->cancelled);
  promise->armed = wanted;
  uv_mutex_unlock(&promise->mutex);
  return wanted;
}

void concur_promise_end(concur_promise *promise) {
  uv_mutex_lock(&promise->mutex);
  promise->armed = false;
  if (promise->state == CONCUR_PROMISE_PENDING) promise->state = CONCUR_PROMISE_OVER;
  uv_mutex_unlock(&promise->mutex);
}
