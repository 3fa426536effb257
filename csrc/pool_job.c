/* SPDX-License-Identifier: MIT */
/*
 * Jobs of a pool, and watches: what travels back to the one who submitted, and how a job is told to
 * stop.  See pool.h.                                                                [any thread]
 */
#include "pool_state.h"

#include <stdlib.h>
#include <string.h>

/* ---- jobs ---- */

void concur_job_init(concur_job *job, concur_pool *pool, concur_mailbox *reply) {
  memset(job, 0, sizeof *job);
  atomic_init(&job->references, 1);
  atomic_init(&job->state, CONCUR_JOB_NEW);
  atomic_init(&job->cancelled, false);
  atomic_init(&job->trace_state, CONCUR_TRACE_NONE);
  atomic_init(&job->started_ns, 0);
  job->pool = pool;
  job->reply = reply;
  concur_mailbox_retain(reply);
}

void concur_job_retain(concur_job *job) {
  atomic_fetch_add(&job->references, 1);
}

void concur_job_release(concur_job *job) {
  if (atomic_fetch_sub(&job->references, 1) != 1) return;
  concur_job_clear(job);
  job->free(job);
}

bool concur_job_is_last(const concur_job *job) {
  return atomic_load(&job->references) == 1;
}

void concur_job_clear(concur_job *job) {
  concur_mailbox_release(job->reply);
  free(job->trace);
}

/* Sends a mail; its reference goes with it.  `mailbox` outlives the call, the mail may not. */
static void mail_send(concur_mailbox *mailbox, concur_mail *mail) {
  if (!concur_mailbox_post(mailbox, mail)) mail->drop(mail);
}

void concur_job_reply_held(concur_job *job) {
  mail_send(job->reply, &job->mail);
}

void concur_job_reply(concur_job *job) {
  concur_job_retain(job); /* it may be gone as soon as the mail is there, and its mailbox with it */
  concur_job_reply_held(job);
  concur_job_release(job);
}

/* Takes a job off the queue; who waited for that is moved to `due`. [under the lock] */
static void job_take_off(concur_pool *pool, concur_job *job, concur_node *due) {
  concur_node_unlink(&job->node);
  atomic_fetch_sub(&pool->queued, 1);
  pool->cancelled++;
  atomic_store(&job->state, CONCUR_JOB_CANCELLED);
  concur_watches_take(&pool->room_watches, due, false);
  if (pool->closing && concur_pool_has_ended(pool)) {
    concur_watches_take(&pool->end_watches, due, true);
  }
}

concur_job_cancel_end concur_job_cancel(concur_job *job) {
  concur_pool *pool = job->pool;
  concur_mailbox *mailbox = NULL;
  concur_node due;
  concur_list_init(&due);
  concur_job_cancel_end end = CONCUR_JOB_TOO_LATE;
  uv_mutex_lock(&pool->mutex);
  atomic_store(&job->cancelled, true);
  switch ((concur_job_state)atomic_load(&job->state)) {
  case CONCUR_JOB_NEW:
    concur_node_unlink(&job->node); /* from the caller's own batch */
    atomic_store(&job->state, CONCUR_JOB_CANCELLED);
    end = CONCUR_JOB_TAKEN_OFF;
    break;
  case CONCUR_JOB_QUEUED:
    job_take_off(pool, job, &due);
    end = CONCUR_JOB_TAKEN_OFF;
    break;
  case CONCUR_JOB_HANDED:
  case CONCUR_JOB_RUNNING:
    if (pool->host != NULL) {
      uv_mutex_unlock(&pool->mutex);
      return pool->settings.host->cancel(pool->host, job);
    }
    end = CONCUR_JOB_ASKED;
    if (job->thread->mailbox != NULL && !job->cancel_posted) {
      job->cancel_posted = true;
      mailbox = job->thread->mailbox;
      concur_mailbox_retain(mailbox);
      concur_job_retain(job);
    }
    break;
  case CONCUR_JOB_ENDED:
  case CONCUR_JOB_CANCELLED: break;
  }
  uv_mutex_unlock(&pool->mutex);
  concur_watches_post(&due);
  if (mailbox != NULL) {
    mail_send(mailbox, &job->cancel_mail);
    concur_mailbox_release(mailbox);
  }
  return end;
}

/* ---- watches ---- */

void concur_watches_take(concur_node *watches, concur_node *out, bool all) {
  concur_node *node;
  while ((node = concur_list_pop(watches)) != NULL) {
    concur_list_append(out, node);
    if (!all) return;
  }
}

void concur_watches_post(concur_node *list) {
  concur_node *node;
  while ((node = concur_list_pop(list)) != NULL) {
    concur_watch *watch = concur_container_of(node, concur_watch, node);
    concur_mailbox *reply = watch->reply;
    concur_mailbox_retain(reply);
    mail_send(reply, &watch->mail);
    concur_mailbox_release(reply);
  }
}

void concur_pool_watch(concur_pool *pool, concur_pool_event event, concur_watch *watch) {
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&pool->mutex);
  bool already = event == CONCUR_POOL_ROOM ? pool->closing || !concur_pool_is_full(pool)
                                           : pool->closing && concur_pool_has_ended(pool);
  if (already) {
    concur_list_append(&due, &watch->node);
  } else {
    concur_list_append(event == CONCUR_POOL_ROOM ? &pool->room_watches : &pool->end_watches,
                       &watch->node);
  }
  uv_mutex_unlock(&pool->mutex);
  concur_watches_post(&due);
}

bool concur_pool_unwatch(concur_pool *pool, concur_watch *watch) {
  uv_mutex_lock(&pool->mutex);
  bool linked = concur_node_linked(&watch->node);
  concur_node_unlink(&watch->node);
  uv_mutex_unlock(&pool->mutex);
  return linked;
}
