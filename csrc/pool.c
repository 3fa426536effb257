/* SPDX-License-Identifier: MIT */
/* See pool.h: making pools, publishing jobs, looking at what runs, closing. */
#include "pool_state.h"

#include <stdio.h>
#include <stdlib.h>

#include "platform.h"

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
  atomic_init(&pool->closing, false);
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
  if (pool->host != NULL) pool->settings.host->free(pool->host);
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
  } else if (concur_pool_is_full(pool)) {
    error = UV_ENOBUFS;
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
    error = concur_pool_stir(pool);
    if (error != 0 && concur_pool_has_taker(pool)) error = 0;
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
  if (error == 0 && pool->host != NULL) pool->settings.host->stir(pool->host);
  return error;
}

bool concur_pool_has_room(const concur_pool *pool) {
  return !concur_pool_is_full(pool);
}

void concur_pool_close(concur_pool *pool, bool drop) {
  concur_node dropped, due;
  concur_list_init(&dropped);
  concur_list_init(&due);
  if (drop && pool->host != NULL) pool->settings.host->take_back(pool->host);
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
  concur_watches_take(&pool->room_watches, &due, true);
  if (concur_pool_has_ended(pool)) concur_watches_take(&pool->end_watches, &due, true);
  uv_cond_broadcast(&pool->work);
  uv_mutex_unlock(&pool->mutex);
  while ((node = concur_list_pop(&dropped)) != NULL) {
    concur_job_reply(concur_container_of(node, concur_job, node));
  }
  concur_watches_post(&due);
  if (pool->host != NULL) pool->settings.host->stir(pool->host);
}

bool concur_pool_closing(const concur_pool *pool) {
  return atomic_load(&pool->closing);
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
  if (pool->host != NULL) {
    pool->settings.host->cancel_running(pool->host);
    return;
  }
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
  concur_watches_take(&pool->finished, &ended, true);
  uv_mutex_unlock(&pool->mutex);
  concur_node *node;
  while ((node = concur_list_pop(&ended)) != NULL) {
    concur_thread *thread = concur_container_of(node, concur_thread, node);
    uv_thread_join(&thread->id);
    free(thread);
  }
}

uint32_t concur_pool_join(concur_pool *pool, uint64_t timeout_ns) {
  if (pool->host != NULL) return pool->settings.host->join(pool->host, timeout_ns);
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
  if (pool->host != NULL) {
    pool->settings.host->detach(pool->host);
    return;
  }
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
      (void)snprintf(entry->name, sizeof entry->name, "%s", job->name != NULL ? job->name : "");
      uint64_t started_ns = atomic_load(&job->started_ns);
      entry->running_ns = started_ns != 0 && started_ns < now_ns ? now_ns - started_ns : 0;
      bool traced = atomic_load(&job->trace_state) == CONCUR_TRACE_THERE;
      (void)snprintf(entry->trace, sizeof entry->trace, "%s", traced ? job->trace : "");
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
