/* SPDX-License-Identifier: MIT */
/*
 * See sigint.h.  The owner and its async handle are the only process-wide state besides the fork
 * counter.  What on_sigint reads is published before disposition.c may call it and cleared after that.
 */
#include "sigint.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <uv.h>

#include "disposition.h"
#include "loop.h"

static _Atomic(concur_loop *) owner;
static _Atomic(uv_async_t *) target;
static atomic_int arrived;
static atomic_bool taken; /* the first one was delivered to the owner */
static atomic_bool given_up; /* but the owner had no use for it */

static void on_sigint(int number) {
  if (atomic_fetch_add(&arrived, 1) > 0 || atomic_load(&taken)) {
    (void)signal(number, SIG_DFL);
    (void)raise(number); /* pending until this handler returns */
    return;
  }
  uv_async_t *async = atomic_load(&target);
  if (async != NULL) (void)uv_async_send(async);
}

bool concur_sigint_acquire(concur_loop *loop) {
  concur_loop *nobody = NULL;
  if (!atomic_compare_exchange_strong(&owner, &nobody, loop)) return false;
  atomic_store(&arrived, 0);
  atomic_store(&taken, false);
  atomic_store(&given_up, false);
  atomic_store(&target, &loop->async);
  if (concur_disposition_drive(on_sigint)) return true;
  atomic_store(&target, NULL);
  atomic_store(&owner, NULL);
  return false;
}

void concur_sigint_release(concur_loop *loop) {
  if (atomic_load(&owner) != loop) return;
  concur_disposition_undrive();
  atomic_store(&target, NULL);
  atomic_store(&owner, NULL);
  /* One that nobody here was told of belongs to whoever had SIGINT before. */
  bool unseen = !atomic_load(&taken) || atomic_load(&given_up);
  if (atomic_exchange(&arrived, 0) > 0 && unseen) (void)raise(SIGINT);
}

bool concur_sigint_take(concur_loop *loop) {
  if (atomic_load(&owner) != loop || atomic_load(&arrived) == 0 || atomic_load(&taken)) {
    return false;
  }
  atomic_store(&taken, true);
  return true;
}

void concur_sigint_give_up(concur_loop *loop) {
  if (atomic_load(&owner) == loop) atomic_store(&given_up, true);
}

void concur_sigint_die(void) {
  (void)signal(SIGINT, SIG_DFL);
  (void)raise(SIGINT);
}
