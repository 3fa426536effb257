/* SPDX-License-Identifier: MIT */
/*
 * See pool.h.  The counters, all guarded by the pool's mutex:
 *
 *   alive = idle + busy          every thread that exists
 *   idle  >= sleeping (on `work`), spinning; the others are starting or come from a job
 *   busy  >= blocked             threads with a job, of which some wait for other jobs
 *
 * A thread may take a job while busy - blocked < workers.  Idle threads that do not sleep, and those
 * that were woken (`waking`), are on their way to look at the queue, so nobody needs to be woken while
 * there are any: each that takes a job calls pool_stir for the next.
 */
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform.h"

enum {
  SPIN_NS = 20000,       /* how long a thread looks for work before it sleeps */
  SPIN_MISSES = 3,       /* spins in vain before it rests */
  SPIN_REST = 32,        /* idle periods that a thread rests from spinning */
  SPIN_CLOCK_INTERVAL = 16 /* looks at the queue per look at the clock */
};

/* A thread beyond `workers`, made while others were blocked, waits this long for another use. */
static const uint64_t EXCESS_IDLE_NS = 5000000000u;

struct concur_pool {
  uv_mutex_t mutex;
  uv_cond_t work;     /* sleeping threads: a job came, or the pool closes */
  uv_cond_t ended;    /* concur_pool_join: a thread has ended */
  concur_pool_settings settings;
  concur_node queue;   /* of jobs, oldest first */
  concur_node threads; /* alive */
  concur_node finished; /* ended, to be joined */
  concur_node room_watches;
  concur_node end_watches;
  atomic_uint queued; /* length of `queue`; changes are guarded, spinning threads look without */
  uint32_t alive, idle, busy, blocked;
  uint32_t spinning, sleeping, waking;
  uint32_t next_number;
  bool closing;
  uint64_t submitted, completed, cancelled;
  atomic_uint_fast64_t last_number;
  atomic_int references;
};

/* ---- jobs ---- */

void concur_job_init(concur_job *job, concur_pool *pool, concur_mailbox *reply) {
  memset(job, 0, sizeof *job);
  atomic_init(&job->references, 1);
  atomic_init(&job->state, CONCUR_JOB_NEW);
  atomic_init(&job->cancelled, false);
  atomic_init(&job->trace_state, CONCUR_TRACE_NONE);
  job->pool = pool;
  job->reply = reply;
  concur_mailbox_retain(reply);
}

void concur_job_retain(concur_job *job) {
  atomic_fetch_add(&job->references, 1);
}

void concur_job_release(concur_job *job) {
  if (atomic_fetch_sub(&job->references, 1) != 1) return;
  concur_mailbox_release(job->reply);
  free(job->trace);
  job->free(job);
}

/* Sends a mail; its reference goes with it.  `mailbox` outlives the call, the mail may not. */
static void mail_send(concur_mailbox *mailbox, concur_mail *mail) {
  if (!concur_mailbox_post(mailbox, mail)) mail->drop(mail);
}

/* Sends the job back: its born reference goes with the mail.  The job's own reference to the
   mailbox may be gone as soon as the mail is there, so this takes another. */
static void job_reply(concur_job *job) {
  concur_mailbox *reply = job->reply;
  concur_mailbox_retain(reply);
  mail_send(reply, &job->mail);
  concur_mailbox_release(reply);
}

concur_job_cancel_end concur_job_cancel(concur_job *job) {
  concur_pool *pool = job->pool;
  concur_mailbox *mailbox = NULL;
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
    concur_node_unlink(&job->node);
    atomic_fetch_sub(&pool->queued, 1);
    pool->cancelled++;
    atomic_store(&job->state, CONCUR_JOB_CANCELLED);
    end = CONCUR_JOB_TAKEN_OFF;
    break;
  case CONCUR_JOB_RUNNING:
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
  if (mailbox != NULL) {
    mail_send(mailbox, &job->cancel_mail);
    concur_mailbox_release(mailbox);
  }
  return end;
}

/* ---- watches ---- */

/* Moves the first watch, or with `all` every watch, to `out`. [under the lock] */
static void watches_take(concur_node *watches, concur_node *out, bool all) {
  concur_node *node;
  while ((node = concur_list_pop(watches)) != NULL) {
    concur_list_append(out, node);
    if (!all) return;
  }
}

/* [no lock held] */
static void watches_post(concur_node *list) {
  concur_node *node;
  while ((node = concur_list_pop(list)) != NULL) {
    concur_watch *watch = concur_container_of(node, concur_watch, node);
    concur_mailbox *reply = watch->reply;
    concur_mailbox_retain(reply);
    mail_send(reply, &watch->mail);
    concur_mailbox_release(reply);
  }
}

static bool pool_is_full(const concur_pool *pool) {
  uint32_t limit = pool->settings.queue_size;
  return limit != 0 && atomic_load(&pool->queued) >= limit;
}

void concur_pool_watch(concur_pool *pool, concur_pool_event event, concur_watch *watch) {
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&pool->mutex);
  bool already = event == CONCUR_POOL_ROOM ? pool->closing || !pool_is_full(pool)
                                           : pool->closing && pool->alive == 0;
  if (already) {
    concur_list_append(&due, &watch->node);
  } else {
    concur_list_append(event == CONCUR_POOL_ROOM ? &pool->room_watches : &pool->end_watches,
                       &watch->node);
  }
  uv_mutex_unlock(&pool->mutex);
  watches_post(&due);
}

bool concur_pool_unwatch(concur_pool *pool, concur_watch *watch) {
  uv_mutex_lock(&pool->mutex);
  bool linked = concur_node_linked(&watch->node);
  concur_node_unlink(&watch->node);
  uv_mutex_unlock(&pool->mutex);
  return linked;
}

/* ---- threads ---- */

static void thread_main(void *argument);

/* Starts a thread. [under the lock, so that nobody sees it before its id is written] */
static int thread_start(concur_pool *pool) {
  concur_thread *thread = calloc(1, sizeof *thread);
  if (thread == NULL) return UV_ENOMEM;
  thread->pool = pool;
  thread->number = ++pool->next_number;
  concur_pool_retain(pool);
  int error = uv_thread_create(&thread->id, thread_main, thread);
  if (error != 0) {
    atomic_fetch_sub(&pool->references, 1); /* cannot be the last: the caller has one */
    free(thread);
    return error;
  }
  concur_list_append(&pool->threads, &thread->node);
  pool->alive++;
  pool->idle++;
  return 0;
}

static bool pool_may_take(const concur_pool *pool) {
  return atomic_load(&pool->queued) > 0 && pool->busy - pool->blocked < pool->settings.workers;
}

/* Sees to it that somebody looks at the queue if there is something to take.  An error means that
   no thread could be started where one was wanted. [under the lock] */
static int pool_stir(concur_pool *pool) {
  if (!pool_may_take(pool)) return 0;
  /* An idle thread that does not sleep looks at the queue before it does. */
  if (pool->idle > pool->sleeping || pool->waking > 0) return 0;
  if (pool->sleeping > 0) {
    pool->waking++;
    uv_cond_signal(&pool->work);
    return 0;
  }
  if (pool->alive >= pool->settings.thread_cap) return 0;
  return thread_start(pool);
}

/* Looks for work for a short time without the lock. [lock held on entry and exit] */
static void thread_spin(concur_pool *pool, concur_thread *thread) {
  if (thread->spin_rest > 0) {
    thread->spin_rest--;
    return;
  }
  /* This thread, the submitter, and everybody who is busy or spins already. */
  uint32_t others = pool->busy - pool->blocked + pool->spinning;
  if (pool->closing || others + 2 > pool->settings.cores) return;
  pool->spinning++;
  uv_mutex_unlock(&pool->mutex);
  uint64_t end_ns = uv_hrtime() + SPIN_NS;
  bool found = false;
  do {
    for (int i = 0; i < SPIN_CLOCK_INTERVAL && !found; i++) {
      found = atomic_load(&pool->queued) > 0;
      concur_platform_pause();
    }
  } while (!found && uv_hrtime() < end_ns);
  uv_mutex_lock(&pool->mutex);
  pool->spinning--;
  thread->spin_misses = found ? 0 : (uint8_t)(thread->spin_misses + 1);
  if (thread->spin_misses >= SPIN_MISSES) {
    thread->spin_misses = 0;
    thread->spin_rest = SPIN_REST;
  }
}

/* Sleeps until somebody signals.  False when its idle time is over. [lock held] */
static bool thread_sleep(concur_pool *pool) {
  uint64_t limit_ns = pool->settings.idle_ns;
  bool excess = pool->alive - pool->blocked > pool->settings.workers;
  if (excess && limit_ns > EXCESS_IDLE_NS) limit_ns = EXCESS_IDLE_NS;
  bool in_time = true;
  pool->sleeping++;
  if (limit_ns == UINT64_MAX) {
    uv_cond_wait(&pool->work, &pool->mutex);
  } else {
    in_time = uv_cond_timedwait(&pool->work, &pool->mutex, limit_ns) == 0;
  }
  pool->sleeping--;
  /* Whoever wakes takes one wake-up off the books; each signal wakes at least one sleeper, so the
     count cannot stay above what is really on its way. */
  if (pool->waking > 0) pool->waking--;
  return in_time;
}

/* The next job, with the thread counted as busy; NULL when the thread must end. [lock held on entry
   and exit] */
static concur_job *thread_next(concur_pool *pool, concur_thread *thread, bool may_spin) {
  bool in_time = true;
  for (;;) {
    if (pool_may_take(pool)) {
      concur_job *job = concur_container_of(pool->queue.next, concur_job, node);
      concur_node_unlink(&job->node);
      atomic_fetch_sub(&pool->queued, 1);
      pool->idle--;
      pool->busy++;
      atomic_store(&job->state, CONCUR_JOB_RUNNING);
      job->thread = thread;
      thread->job = job;
      concur_job_retain(job);
      return job;
    }
    if ((pool->closing && atomic_load(&pool->queued) == 0) || !in_time) return NULL;
    if (may_spin) {
      may_spin = false;
      thread_spin(pool, thread);
      continue;
    }
    in_time = thread_sleep(pool);
  }
}

/* The thread is over: tells who waits for that.  Its structure and the pool may be gone
   afterwards. */
static void thread_end(concur_pool *pool, concur_thread *thread) {
  concur_node due;
  concur_list_init(&due);
  if (thread->local != NULL) thread->local_free(thread->local);
  uv_mutex_lock(&pool->mutex);
  pool->alive--;
  concur_node_unlink(&thread->node);
  if (thread->detached) {
    free(thread);
  } else {
    concur_list_append(&pool->finished, &thread->node);
  }
  if (pool->closing) {
    uv_cond_broadcast(&pool->work); /* the others may have waited for this one's turn */
    if (pool->alive == 0) watches_take(&pool->end_watches, &due, true);
  }
  uv_cond_broadcast(&pool->ended);
  uv_mutex_unlock(&pool->mutex);
  watches_post(&due);
  concur_pool_release(pool);
}

static void thread_run(concur_pool *pool, concur_thread *thread, concur_job *job) {
  concur_node room;
  concur_list_init(&room);
  pool_stir(pool);
  if (pool->room_watches.next != &pool->room_watches) {
    watches_take(&pool->room_watches, &room, false);
  }
  job->started_ns = uv_hrtime();
  uv_mutex_unlock(&pool->mutex);
  watches_post(&room);
  job->run(job, thread);
}

static void thread_main(void *argument) {
  concur_thread *thread = argument;
  concur_pool *pool = thread->pool;
  bool ran = false;
  uv_mutex_lock(&pool->mutex);
  for (;;) {
    concur_job *job = thread_next(pool, thread, ran);
    if (job == NULL) break;
    thread_run(pool, thread, job);
    ran = true;
    uv_mutex_lock(&pool->mutex);
    concur_mailbox *mailbox = thread->mailbox;
    thread->mailbox = NULL;
    thread->job = NULL;
    job->thread = NULL;
    atomic_store(&job->state, CONCUR_JOB_ENDED);
    pool->busy--;
    pool->idle++;
    pool->completed++;
    uv_mutex_unlock(&pool->mutex);
    if (mailbox != NULL) concur_mailbox_release(mailbox);
    job_reply(job);
    concur_job_release(job);
    uv_mutex_lock(&pool->mutex);
  }
  pool->idle--;
  uv_mutex_unlock(&pool->mutex);
  thread_end(pool, thread);
}

void concur_pool_block(concur_thread *thread, bool blocks) {
  concur_pool *pool = thread->pool;
  uv_mutex_lock(&pool->mutex);
  if (blocks && !thread->blocked) {
    thread->blocked = true;
    pool->blocked++;
    pool_stir(pool);
  } else if (!blocks && thread->blocked) {
    thread->blocked = false;
    pool->blocked--;
  }
  uv_mutex_unlock(&pool->mutex);
}

bool concur_pool_exhausted(concur_pool *pool) {
  uv_mutex_lock(&pool->mutex);
  bool exhausted = pool->blocked + 1 >= pool->settings.thread_cap;
  uv_mutex_unlock(&pool->mutex);
  return exhausted;
}

bool concur_thread_set_mailbox(concur_thread *thread, concur_mailbox *mailbox) {
  concur_pool *pool = thread->pool;
  concur_mailbox_retain(mailbox);
  uv_mutex_lock(&pool->mutex);
  concur_mailbox *old = thread->mailbox;
  thread->mailbox = mailbox;
  bool cancelled = thread->job != NULL && concur_job_is_cancelled(thread->job);
  uv_mutex_unlock(&pool->mutex);
  if (old != NULL) concur_mailbox_release(old);
  return cancelled;
}

/* ---- pools ---- */

concur_pool *concur_pool_new(const concur_pool_settings *settings) {
  concur_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) return NULL;
  if (uv_mutex_init(&pool->mutex) != 0) goto fail_mutex;
  if (uv_cond_init(&pool->work) != 0) goto fail_work;
  if (uv_cond_init(&pool->ended) != 0) goto fail_ended;
  pool->settings = *settings;
  concur_list_init(&pool->queue);
  concur_list_init(&pool->threads);
  concur_list_init(&pool->finished);
  concur_list_init(&pool->room_watches);
  concur_list_init(&pool->end_watches);
  atomic_init(&pool->queued, 0);
  atomic_init(&pool->last_number, 0);
  atomic_init(&pool->references, 1);
  return pool;
fail_ended:
  uv_cond_destroy(&pool->work);
fail_work:
  uv_mutex_destroy(&pool->mutex);
fail_mutex:
  free(pool);
  return NULL;
}

void concur_pool_retain(concur_pool *pool) {
  atomic_fetch_add(&pool->references, 1);
}

/* Frees thread structures that were not joined: their threads are past their last use of them. */
static void threads_free(concur_node *list) {
  concur_node *node;
  while ((node = concur_list_pop(list)) != NULL) {
    concur_thread *thread = concur_container_of(node, concur_thread, node);
    concur_platform_detach(thread->id);
    free(thread);
  }
}

void concur_pool_release(concur_pool *pool) {
  if (atomic_fetch_sub(&pool->references, 1) != 1) return;
  threads_free(&pool->finished);
  uv_cond_destroy(&pool->ended);
  uv_cond_destroy(&pool->work);
  uv_mutex_destroy(&pool->mutex);
  free(pool);
}

int concur_pool_publish(concur_pool *pool, concur_node *jobs, uint32_t count) {
  if (count == 0) return 0;
  int error = 0;
  concur_node *first = jobs->next, *last = jobs->prev;
  uv_mutex_lock(&pool->mutex);
  if (pool->closing) {
    error = UV_ECANCELED;
  } else if (pool_is_full(pool)) {
    error = UV_EAGAIN;
  } else {
    for (concur_node *node = first; node != jobs; node = node->next) {
      atomic_store(&concur_container_of(node, concur_job, node)->state, CONCUR_JOB_QUEUED);
    }
    concur_node *tail = pool->queue.prev;
    tail->next = first;
    first->prev = tail;
    last->next = &pool->queue;
    pool->queue.prev = last;
    atomic_fetch_add(&pool->queued, count);
    error = pool_stir(pool);
    if (error != 0 && pool->alive > 0) error = 0; /* those that there are will do it */
    if (error != 0) {
      tail->next = &pool->queue;
      pool->queue.prev = tail;
      first->prev = jobs;
      last->next = jobs;
      atomic_fetch_sub(&pool->queued, count);
      for (concur_node *node = first; node != jobs; node = node->next) {
        atomic_store(&concur_container_of(node, concur_job, node)->state, CONCUR_JOB_NEW);
      }
    } else {
      pool->submitted += count;
      concur_list_init(jobs);
    }
  }
  bool reap = !concur_list_empty(&pool->finished);
  uv_mutex_unlock(&pool->mutex);
  if (reap) concur_pool_reap(pool);
  return error;
}

bool concur_pool_has_room(const concur_pool *pool) {
  return !pool_is_full(pool);
}

void concur_pool_close(concur_pool *pool, bool drop) {
  concur_node dropped, due;
  concur_list_init(&dropped);
  concur_list_init(&due);
  uv_mutex_lock(&pool->mutex);
  pool->closing = true;
  concur_node *node;
  while (drop && (node = concur_list_pop(&pool->queue)) != NULL) {
    concur_job *job = concur_container_of(node, concur_job, node);
    atomic_store(&job->state, CONCUR_JOB_CANCELLED);
    atomic_store(&job->cancelled, true);
    atomic_fetch_sub(&pool->queued, 1);
    pool->cancelled++;
    concur_list_append(&dropped, node);
  }
  watches_take(&pool->room_watches, &due, true);
  if (pool->alive == 0) watches_take(&pool->end_watches, &due, true);
  uv_cond_broadcast(&pool->work);
  uv_mutex_unlock(&pool->mutex);
  while ((node = concur_list_pop(&dropped)) != NULL) {
    job_reply(concur_container_of(node, concur_job, node));
  }
  watches_post(&due);
}

bool concur_pool_closing(concur_pool *pool) {
  uv_mutex_lock(&pool->mutex);
  bool closing = pool->closing;
  uv_mutex_unlock(&pool->mutex);
  return closing;
}

/* Takes a reference to a running job that was not asked to stop yet; NULL when there is none. */
static concur_job *pool_next_uncancelled(concur_pool *pool) {
  concur_job *found = NULL;
  uv_mutex_lock(&pool->mutex);
  for (concur_node *node = pool->threads.next; node != &pool->threads; node = node->next) {
    concur_job *job = concur_container_of(node, concur_thread, node)->job;
    if (job != NULL && !concur_job_is_cancelled(job)) {
      concur_job_retain(job);
      found = job;
      break;
    }
  }
  uv_mutex_unlock(&pool->mutex);
  return found;
}

void concur_pool_cancel_running(concur_pool *pool) {
  concur_job *job;
  while ((job = pool_next_uncancelled(pool)) != NULL) {
    concur_job_cancel(job);
    concur_job_release(job);
  }
}

void concur_pool_reap(concur_pool *pool) {
  concur_node ended;
  concur_list_init(&ended);
  uv_mutex_lock(&pool->mutex);
  watches_take(&pool->finished, &ended, true);
  uv_mutex_unlock(&pool->mutex);
  concur_node *node;
  while ((node = concur_list_pop(&ended)) != NULL) {
    concur_thread *thread = concur_container_of(node, concur_thread, node);
    uv_thread_join(&thread->id);
    free(thread);
  }
}

uint32_t concur_pool_join(concur_pool *pool, uint64_t timeout_ns) {
  uint64_t begin_ns = uv_hrtime();
  uv_mutex_lock(&pool->mutex);
  while (pool->alive > 0) {
    if (timeout_ns == UINT64_MAX) {
      uv_cond_wait(&pool->ended, &pool->mutex);
      continue;
    }
    uint64_t passed_ns = uv_hrtime() - begin_ns;
    if (passed_ns >= timeout_ns) break;
    uv_cond_timedwait(&pool->ended, &pool->mutex, timeout_ns - passed_ns);
  }
  uint32_t left = pool->alive;
  uv_mutex_unlock(&pool->mutex);
  concur_pool_reap(pool);
  return left;
}

void concur_pool_detach(concur_pool *pool) {
  uv_mutex_lock(&pool->mutex);
  for (concur_node *node = pool->threads.next; node != &pool->threads; node = node->next) {
    concur_thread *thread = concur_container_of(node, concur_thread, node);
    if (thread->detached) continue;
    thread->detached = true;
    concur_platform_detach(thread->id);
  }
  uv_mutex_unlock(&pool->mutex);
}

uint64_t concur_pool_next_number(concur_pool *pool) {
  return atomic_fetch_add(&pool->last_number, 1) + 1;
}

uint32_t concur_pool_workers(const concur_pool *pool) {
  return pool->settings.workers;
}

void concur_pool_get_stats(concur_pool *pool, concur_pool_stats *stats) {
  uv_mutex_lock(&pool->mutex);
  stats->threads = pool->alive;
  stats->idle = pool->idle;
  stats->running = pool->busy - pool->blocked;
  stats->blocked = pool->blocked;
  stats->queued = atomic_load(&pool->queued);
  stats->submitted = pool->submitted;
  stats->completed = pool->completed;
  stats->cancelled = pool->cancelled;
  stats->threads_started = pool->next_number;
  uv_mutex_unlock(&pool->mutex);
}

uint32_t concur_pool_list_running(concur_pool *pool, concur_running *entries, uint32_t capacity) {
  uint64_t now_ns = uv_hrtime();
  uint32_t count = 0;
  uv_mutex_lock(&pool->mutex);
  for (concur_node *node = pool->threads.next; node != &pool->threads; node = node->next) {
    const concur_job *job = concur_container_of(node, concur_thread, node)->job;
    if (job == NULL) continue;
    if (count < capacity) {
      concur_running *entry = &entries[count];
      snprintf(entry->name, sizeof entry->name, "%s", job->name != NULL ? job->name : "");
      entry->running_ns = now_ns - job->started_ns;
      bool traced = atomic_load(&job->trace_state) == CONCUR_TRACE_THERE;
      snprintf(entry->trace, sizeof entry->trace, "%s", traced ? job->trace : "");
    }
    count++;
  }
  uv_mutex_unlock(&pool->mutex);
  return count;
}

void concur_pool_poke(concur_job *job, void (*poke)(uv_thread_t id)) {
  concur_pool *pool = job->pool;
  uv_mutex_lock(&pool->mutex);
  if (job->thread != NULL) poke(job->thread->id);
  uv_mutex_unlock(&pool->mutex);
}

void concur_pool_poke_running(concur_pool *pool, bool (*wants)(concur_job *job),
                              void (*poke)(uv_thread_t id)) {
  uv_mutex_lock(&pool->mutex);
  for (concur_node *node = pool->threads.next; node != &pool->threads; node = node->next) {
    concur_thread *thread = concur_container_of(node, concur_thread, node);
    if (thread->job != NULL && wants(thread->job)) poke(thread->id);
  }
  uv_mutex_unlock(&pool->mutex);
}
