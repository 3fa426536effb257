/* SPDX-License-Identifier: MIT */
/*
 * What the files of the pool share: pool.c (pools), pool_job.c (jobs and watches), pool_thread.c
 * (threads).  Nobody else includes this.  The counters, all guarded by the pool's mutex:
 *
 *   alive = idle + busy          every thread that exists
 *   idle  >= sleeping (on `work`), spinning; the others are starting or come from a job
 *   busy  >= blocked             threads with a job, of which some wait for other jobs
 *
 * A thread may take a job while busy - blocked < workers.  Idle threads that do not sleep, and those
 * that were woken (`waking`), are on their way to look at the queue, so nobody needs to be woken while
 * there are any: each that takes a job calls concur_pool_stir for the next.
 */
#ifndef CONCUR_POOL_STATE_H
#define CONCUR_POOL_STATE_H

#include "pool.h"

#pragma GCC visibility push(hidden)

struct concur_pool {
  uv_mutex_t mutex;
  uv_cond_t work;  /* sleeping threads: a job came, or the pool closes */
  uv_cond_t ended; /* concur_pool_join: a thread has ended */
  concur_pool_settings settings;
  void *host;           /* for settings.host */
  concur_node queue;    /* of jobs, oldest first */
  concur_node threads;  /* alive */
  concur_node finished; /* ended, to be joined */
  concur_node room_watches;
  concur_node end_watches;
  atomic_uint queued; /* length of `queue`; changes are guarded, spinning threads look without */
  uint32_t alive, idle, busy, blocked;
  uint32_t spinning, sleeping, waking;
  uint32_t next_number;
  atomic_bool closing; /* changes are guarded, concur_pool_closing looks without */
  uint64_t submitted, completed, cancelled;
  atomic_uint_fast64_t last_number;
  atomic_int references;
};

static inline bool concur_pool_is_full(const concur_pool *pool) {
  uint32_t limit = pool->settings.queue_size;
  return limit != 0 && atomic_load(&pool->queued) >= limit;
}

/* True when a thread will look at the queue again: one that is ending, or that waits for other jobs,
   may not. [under the lock] */
static inline bool concur_pool_has_taker(const concur_pool *pool) {
  return pool->idle + pool->busy > pool->blocked;
}

/* True when there is no thread, and nothing left for one: a host may have to wait before it can have
   the next hand. [under the lock] */
static inline bool concur_pool_has_ended(const concur_pool *pool) {
  return pool->alive == 0 && (pool->host == NULL || atomic_load(&pool->queued) == 0);
}

/* ---- pool_job.c ---- */

/* As concur_job_reply, where the caller has another reference.  [no lock held] */
void concur_job_reply_held(concur_job *job);

/* Moves the first watch, or with `all` every watch, to `out`. [under the lock] */
void concur_watches_take(concur_node *watches, concur_node *out, bool all);
/* Posts and empties what was taken. [no lock held] */
void concur_watches_post(concur_node *list);

/* ---- pool_thread.c ---- */

/* Sees to it that somebody looks at the queue if there is something to take.  An error means that
   no thread could be started where one was wanted. [under the lock] */
int concur_pool_stir(concur_pool *pool);

#pragma GCC visibility pop

#endif
