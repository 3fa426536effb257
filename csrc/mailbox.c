/* SPDX-License-Identifier: MIT */
/* See mailbox.h.  All atomics are sequentially consistent: the sleep/post handshake is a store
   followed by a load on both sides, which weaker orders do not keep apart. */
#include "mailbox.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <uv.h>

struct concur_mailbox {
  _Atomic(concur_mail *) head; /* newest first, or &closed_mark */
  atomic_bool sleeping;        /* the owner waits for `wake` */
  char apart[64];              /* posters and owners of references do not share a cache line */
  atomic_int references;
  uv_mutex_t mutex;         /* guards wake and target */
  void (*wake)(void *);     /* guarded by mutex; NULL once closed */
  void *target;             /* guarded by mutex; borrowed from the owner until closed */
};

/* The head of a closed mailbox.  Never dereferenced. */
static concur_mail closed_mark;

concur_mailbox *concur_mailbox_new(void (*wake)(void *target), void *target) {
  concur_mailbox *mailbox = malloc(sizeof *mailbox);
  if (mailbox == NULL) return NULL;
  if (uv_mutex_init(&mailbox->mutex) != 0) {
    free(mailbox);
    return NULL;
  }
  atomic_init(&mailbox->head, NULL);
  atomic_init(&mailbox->sleeping, false);
  atomic_init(&mailbox->references, 1);
  mailbox->wake = wake;
  mailbox->target = target;
  return mailbox;
}

void concur_mailbox_retain(concur_mailbox *mailbox) {
  atomic_fetch_add(&mailbox->references, 1);
}

void concur_mailbox_release(concur_mailbox *mailbox) {
  if (atomic_fetch_sub(&mailbox->references, 1) != 1) return;
  uv_mutex_destroy(&mailbox->mutex);
  free(mailbox);
}

bool concur_mailbox_post(concur_mailbox *mailbox, concur_mail *mail) {
  concur_mail *head = atomic_load(&mailbox->head);
  do {
    if (head == &closed_mark) return false;
    mail->next = head;
  } while (!atomic_compare_exchange_weak(&mailbox->head, &head, mail));
  /* Only the poster that finds the owner asleep wakes it; the others were counted in by that. */
  if (atomic_load(&mailbox->sleeping) && atomic_exchange(&mailbox->sleeping, false)) {
    concur_mailbox_wake(mailbox);
  }
  return true;
}

void concur_mailbox_wake(concur_mailbox *mailbox) {
  uv_mutex_lock(&mailbox->mutex);
  if (mailbox->wake != NULL) mailbox->wake(mailbox->target);
  uv_mutex_unlock(&mailbox->mutex);
}

static concur_mail *mail_reverse(concur_mail *mail) {
  concur_mail *oldest = NULL;
  while (mail != NULL) {
    concur_mail *next = mail->next;
    mail->next = oldest;
    oldest = mail;
    mail = next;
  }
  return oldest;
}

concur_mail *concur_mailbox_take(concur_mailbox *mailbox) {
  concur_mail *head = atomic_load(&mailbox->head);
  if (head == NULL || head == &closed_mark) return NULL;
  return mail_reverse(atomic_exchange(&mailbox->head, NULL));
}

bool concur_mailbox_pending(const concur_mailbox *mailbox) {
  concur_mail *head = atomic_load(&mailbox->head);
  return head != NULL && head != &closed_mark;
}

bool concur_mailbox_sleep(concur_mailbox *mailbox) {
  atomic_store(&mailbox->sleeping, true);
  if (!concur_mailbox_pending(mailbox)) return true;
  atomic_store(&mailbox->sleeping, false);
  return false;
}

void concur_mailbox_awake(concur_mailbox *mailbox) {
  atomic_store(&mailbox->sleeping, false);
}

void concur_mailbox_set_wake(concur_mailbox *mailbox, void (*wake)(void *target), void *target) {
  uv_mutex_lock(&mailbox->mutex);
  mailbox->wake = wake;
  mailbox->target = target;
  uv_mutex_unlock(&mailbox->mutex);
}

concur_mail *concur_mailbox_close(concur_mailbox *mailbox) {
  concur_mail *rest = atomic_exchange(&mailbox->head, &closed_mark);
  concur_mailbox_set_wake(mailbox, NULL, NULL);
  return rest == &closed_mark ? NULL : mail_reverse(rest);
}
