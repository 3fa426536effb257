/* SPDX-License-Identifier: MIT */
/*
 * See sigint.h.  The owner and its async handle are the only process-wide state besides the fork
 * counter.  The handler reads `target`: it is published before the handler is installed and cleared
 * after the old handler is back, so it never sees a handle that is gone.
 */
#include "sigint.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <uv.h>

#include "loop.h"

static _Atomic(concur_loop *) owner;
static _Atomic(uv_async_t *) target;
static atomic_int arrived;
static atomic_bool taken; /* the first one was delivered to the owner */
static atomic_bool given_up; /* but the owner had no use for it */

#ifndef _WIN32
static struct sigaction old_action;

static void on_sigint(int number) {
  if (atomic_fetch_add(&arrived, 1) > 0 || atomic_load(&taken)) {
    (void)signal(number, SIG_DFL);
    (void)raise(number); /* pending until this handler returns */
    return;
  }
  uv_async_t *async = atomic_load(&target);
  if (async != NULL) (void)uv_async_send(async);
}

static bool install(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_sigint;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  if (sigaction(SIGINT, NULL, &old_action) != 0) return false;
  if (!(old_action.sa_flags & SA_SIGINFO) && old_action.sa_handler == SIG_IGN) return false;
  return sigaction(SIGINT, &action, NULL) == 0;
}

/* Restores the old handler, unless somebody installed another one meanwhile. */
static void uninstall(void) {
  struct sigaction now;
  if (sigaction(SIGINT, NULL, &now) == 0 && now.sa_handler == on_sigint) {
    (void)sigaction(SIGINT, &old_action, NULL);
  }
}
#else
static void (*old_handler)(int);

static void on_sigint(int number) {
  if (atomic_fetch_add(&arrived, 1) > 0 || atomic_load(&taken)) {
    (void)signal(number, SIG_DFL);
    (void)raise(number);
    return;
  }
  (void)signal(number, on_sigint);
  uv_async_t *async = atomic_load(&target);
  if (async != NULL) (void)uv_async_send(async);
}

static bool install(void) {
  old_handler = signal(SIGINT, on_sigint);
  if (old_handler == SIG_IGN) (void)signal(SIGINT, SIG_IGN);
  return old_handler != SIG_ERR && old_handler != SIG_IGN;
}

static void uninstall(void) {
  (void)signal(SIGINT, old_handler);
}
#endif

bool concur_sigint_acquire(concur_loop *loop) {
  concur_loop *nobody = NULL;
  if (!atomic_compare_exchange_strong(&owner, &nobody, loop)) return false;
  atomic_store(&arrived, 0);
  atomic_store(&taken, false);
  atomic_store(&given_up, false);
  atomic_store(&target, &loop->async);
  if (install()) return true;
  atomic_store(&target, NULL);
  atomic_store(&owner, NULL);
  return false;
}

void concur_sigint_release(concur_loop *loop) {
  if (atomic_load(&owner) != loop) return;
  uninstall();
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
