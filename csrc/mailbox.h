/* SPDX-License-Identifier: MIT */
/*
 * The mailbox: the only way into a loop from another thread.
 *
 * A lock-free stack of mails.  Any thread posts; the owner takes everything with one exchange and
 * gets it in posting order.  The poster calls the wake function only when the owner has said that
 * it is going to sleep, so a busy owner costs a poster two atomic operations and no system call.
 * Once closed, posting fails for ever and the poster disposes of its mail.
 *
 * Refcounted: the owner holds one reference, every party that may still post holds one.  The wake
 * target (a uv_async_t, a condition variable) belongs to the owner and is only touched under the
 * mailbox's mutex, so that closing can take it away from posters that are late.
 */
#ifndef CONCUR_MAILBOX_H
#define CONCUR_MAILBOX_H

#include <stdbool.h>

#pragma GCC visibility push(hidden)

typedef struct concur_mail concur_mail;
typedef struct concur_mailbox concur_mailbox;

/* Embedded in whatever travels.  Exactly one of `deliver` and `drop` is called, once. */
struct concur_mail {
  concur_mail *next;                               /* valid while in a mailbox */
  void (*deliver)(concur_mail *mail, void *owner); /* [owner's thread] */
  void (*drop)(concur_mail *mail);                 /* [any thread] no Lua in here */
};

/* [any thread] A new mailbox with one reference, or NULL when out of memory.  `wake(target)` may
   be called from any thread, under the mailbox's mutex; it must not post, and must not block. */
concur_mailbox *concur_mailbox_new(void (*wake)(void *target), void *target);

/* [any thread] */
void concur_mailbox_retain(concur_mailbox *mailbox);
void concur_mailbox_release(concur_mailbox *mailbox);

/* [any thread] Hands the mail over.  False when closed: the mail is still the caller's, who must
   then run its `drop`. */
bool concur_mailbox_post(concur_mailbox *mailbox, concur_mail *mail);

/* [owner] Everything posted so far, oldest first, linked by `next`; NULL when empty or closed. */
concur_mail *concur_mailbox_take(concur_mailbox *mailbox);

/* [owner] Announces that the owner is about to sleep and wants to be woken.  False when mail has
   arrived already: do not sleep.  Call concur_mailbox_awake after waking. */
bool concur_mailbox_sleep(concur_mailbox *mailbox);
void concur_mailbox_awake(concur_mailbox *mailbox);

/* [owner] True when there is something to take. */
bool concur_mailbox_pending(const concur_mailbox *mailbox);

/* [owner] Changes how the owner is woken. */
void concur_mailbox_set_wake(concur_mailbox *mailbox, void (*wake)(void *target), void *target);

/* [any thread] Wakes the owner whether or not mail has arrived. */
void concur_mailbox_wake(concur_mailbox *mailbox);

/* [owner] Closes for good and returns what had not been taken, oldest first (the caller drops it).
   After this returns no thread calls the wake function any more. */
concur_mail *concur_mailbox_close(concur_mailbox *mailbox);

#pragma GCC visibility pop

#endif
