/* SPDX-License-Identifier: MIT */
/*
 * Threads of a pool: how they start, find jobs, spin, sleep and end.  pool_state.h explains the
 * counters; docs/design/executors.md why nobody is woken twice or forgotten.       [pool thread]
 */
#include "pool_state.h"

#include <stdlib.h>

#include "platform.h"

enum {
  SPIN_NS = 20000,         /* how long a thread looks for work before it sleeps */
  SPIN_MISSES = 3,         /* spins in vain before it rests */
  SPIN_REST = 32,          /* idle periods that a thread rests from spinning */
  SPIN_CLOCK_INTERVAL = 16 /* looks at the queue per look at the clock */
};

/* A thread beyond `workers`, made while others were blocked, waits this long for another use. */
static const uint64_t EXCESS_IDLE_NS = UINT64_C(5000000000);

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

int concur_pool_stir(concur_pool *pool) {
  if (pool->settings.host != NULL) return 0; /* it is told later, without the lock */
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

/* What a thread has to send back as soon as it does not hold the lock. */
typedef struct leaving {
  concur_job *job;         /* the thread's own reference; NULL: nothing */
  concur_mailbox *mailbox; /* one reference, or NULL */
} leaving;

/* The thread's job has run. [lock held] */
static void job_leave(concur_pool *pool, concur_thread *thread, leaving *left) {
  left->job = thread->job;
  left->mailbox = thread->mailbox;
  thread->job = NULL;
  thread->mailbox = NULL;
  left->job->thread = NULL;
  atomic_store(&left->job->state, CONCUR_JOB_ENDED);
  pool->busy--;
  pool->idle++;
  pool->completed++;
}

/* [no lock held] */
static void job_send(leaving *left) {
  if (left->job == NULL) return;
  if (left->mailbox != NULL) concur_mailbox_release(left->mailbox);
  concur_job_reply_held(left->job);
  concur_job_release(left->job);
  left->job = NULL;
}

/* The next job, with the thread counted as busy; NULL when the thread must end.  One that follows at
   once is taken before the last one is sent back: that spares a lock.  [lock held on entry and exit] */
static concur_job *thread_next(concur_pool *pool, concur_thread *thread, leaving *left) {
  bool in_time = true;
  bool may_spin = left->job != NULL;
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
    if (left->job != NULL) {
      uv_mutex_unlock(&pool->mutex);
      job_send(left);
      uv_mutex_lock(&pool->mutex);
      continue;
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
    if (pool->alive == 0) concur_watches_take(&pool->end_watches, &due, true);
  }
  uv_cond_broadcast(&pool->ended);
  uv_mutex_unlock(&pool->mutex);
  concur_watches_post(&due);
  concur_pool_release(pool);
}

/* Sends the last job back and runs this one. [lock held on entry and exit] */
static void thread_run(concur_pool *pool, concur_thread *thread, concur_job *job, leaving *left) {
  concur_node room;
  concur_list_init(&room);
  concur_pool_stir(pool);
  if (pool->room_watches.next != &pool->room_watches) {
    concur_watches_take(&pool->room_watches, &room, false);
  }
  uv_mutex_unlock(&pool->mutex);
  job_send(left);
  concur_watches_post(&room);
  atomic_store(&job->started_ns, uv_hrtime());
  job->run(job, thread);
  uv_mutex_lock(&pool->mutex);
  job_leave(pool, thread, left);
}

static void thread_main(void *argument) {
  concur_thread *thread = argument;
  concur_pool *pool = thread->pool;
  concur_job *job;
  leaving left = {NULL, NULL};
  uv_mutex_lock(&pool->mutex);
  while ((job = thread_next(pool, thread, &left)) != NULL) thread_run(pool, thread, job, &left);
  pool->idle--;
  uv_mutex_unlock(&pool->mutex);
  thread_end(pool, thread);
}

static void job_refuse(concur_pool *pool, concur_job *job, concur_refusal why,
                       concur_node *refused) {
  job->refused = (uint8_t)why;
  atomic_store(&job->state, CONCUR_JOB_CANCELLED);
  atomic_fetch_sub(&pool->queued, 1);
  pool->cancelled++;
  concur_node_unlink(&job->node);
  concur_list_append(refused, &job->node);
}

/* Moves to `refused` what nobody is left to run, and to `due` who waits for room. */
static void queue_refuse(concur_pool *pool, concur_refusal why, concur_node *refused,
                         concur_node *due) {
  concur_watches_take(&pool->room_watches, due, true);
  concur_node *node, *next;
  for (node = pool->queue.next; node != &pool->queue; node = next) {
    concur_job *job = concur_container_of(node, concur_job, node);
    next = node->next;
    /* Other jobs can wait until a thread has what it waits for. */
    if (why == CONCUR_NO_THREAD || job->nested) job_refuse(pool, job, why, refused);
  }
}

void concur_pool_block(concur_thread *thread, bool blocks) {
  concur_pool *pool = thread->pool;
  concur_node refused, due;
  concur_list_init(&refused);
  concur_list_init(&due);
  uv_mutex_lock(&pool->mutex);
  if (blocks && !thread->blocked) {
    thread->blocked = true;
    pool->blocked++;
    if (concur_pool_stir(pool) != 0 && !concur_pool_has_taker(pool)) {
      queue_refuse(pool, CONCUR_NO_THREAD, &refused, &due);
    } else if (pool->blocked >= pool->settings.thread_cap) {
      queue_refuse(pool, CONCUR_ALL_WAIT, &refused, &due);
    }
  } else if (!blocks && thread->blocked) {
    thread->blocked = false;
    pool->blocked--;
  }
  uv_mutex_unlock(&pool->mutex);
  concur_node *node;
  while ((node = concur_list_pop(&refused)) != NULL) {
    concur_job_reply(concur_container_of(node, concur_job, node));
  }
  concur_watches_post(&due);
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
