/* SPDX-License-Identifier: MIT */
/*
 * Hands: what stands in for a thread in a pool whose jobs are run elsewhere, by a host on the owner's
 * loop.  A hand counts as a thread (alive; busy while it has jobs), so that queue, room, statistics
 * and the end of the pool are the same for both kinds.  See pool.h.             [owner's thread]
 */
#include "pool_state.h"

void concur_pool_set_host(concur_pool *pool, void *host) {
  pool->host = host;
}

void concur_pool_add_hand(concur_pool *pool, concur_thread *hand) {
  uv_mutex_lock(&pool->mutex);
  hand->pool = pool;
  hand->number = ++pool->next_number;
  concur_list_append(&pool->threads, &hand->node);
  pool->alive++;
  pool->idle++;
  uv_mutex_unlock(&pool->mutex);
}

void concur_pool_remove_hand(concur_pool *pool, concur_thread *hand) {
  concur_node due;
  concur_list_init(&due);
  uv_mutex_lock(&pool->mutex);
  concur_node_unlink(&hand->node);
  pool->alive--;
  pool->idle--;
  if (pool->closing && concur_pool_has_ended(pool)) {
    concur_watches_take(&pool->end_watches, &due, true);
  }
  uv_mutex_unlock(&pool->mutex);
  concur_watches_post(&due);
}

void *concur_pool_get_host(const concur_pool *pool) {
  return pool->host;
}

uint32_t concur_pool_queued(const concur_pool *pool) {
  return atomic_load(&pool->queued);
}

concur_job *concur_pool_hand_over(concur_pool *pool, concur_thread *hand) {
  concur_job *job = NULL;
  concur_node room;
  concur_list_init(&room);
  uv_mutex_lock(&pool->mutex);
  concur_node *node = concur_list_pop(&pool->queue);
  if (node != NULL) {
    job = concur_container_of(node, concur_job, node);
    atomic_fetch_sub(&pool->queued, 1);
    atomic_store(&job->state, CONCUR_JOB_HANDED);
    job->thread = hand;
    job->started_ns = uv_hrtime();
    if (hand->handed++ == 0) {
      pool->idle--;
      pool->busy++;
    }
    concur_watches_take(&pool->room_watches, &room, false);
  }
  uv_mutex_unlock(&pool->mutex);
  concur_watches_post(&room);
  return job;
}

void concur_hand_begins(concur_thread *hand, concur_job *job) {
  concur_pool *pool = hand->pool;
  uv_mutex_lock(&pool->mutex);
  atomic_store(&job->state, CONCUR_JOB_RUNNING);
  job->started_ns = uv_hrtime();
  hand->job = job;
  uv_mutex_unlock(&pool->mutex);
}

/* [under the lock] */
static void hand_lets_go(concur_pool *pool, concur_thread *hand, concur_job *job) {
  if (hand->job == job) hand->job = NULL;
  job->thread = NULL;
  if (--hand->handed == 0) {
    pool->idle++;
    pool->busy--;
  }
}

void concur_hand_gives_back(concur_thread *hand, concur_job *job) {
  concur_pool *pool = hand->pool;
  uv_mutex_lock(&pool->mutex);
  hand_lets_go(pool, hand, job);
  atomic_store(&job->state, CONCUR_JOB_QUEUED);
  concur_list_prepend(&pool->queue, &job->node);
  atomic_fetch_add(&pool->queued, 1);
  uv_mutex_unlock(&pool->mutex);
}

concur_job *concur_pool_refuse(concur_pool *pool) {
  concur_node room;
  concur_list_init(&room);
  uv_mutex_lock(&pool->mutex);
  concur_node *node = concur_list_pop(&pool->queue);
  concur_job *job = node != NULL ? concur_container_of(node, concur_job, node) : NULL;
  if (job != NULL) {
    atomic_store(&job->state, CONCUR_JOB_ENDED);
    atomic_fetch_sub(&pool->queued, 1);
    pool->completed++;
    concur_watches_take(&pool->room_watches, &room, false);
  }
  uv_mutex_unlock(&pool->mutex);
  concur_watches_post(&room);
  return job;
}

void concur_hand_is_done(concur_thread *hand, concur_job *job, concur_job_state state) {
  concur_pool *pool = hand->pool;
  uv_mutex_lock(&pool->mutex);
  hand_lets_go(pool, hand, job);
  atomic_store(&job->state, state);
  if (state == CONCUR_JOB_CANCELLED) {
    pool->cancelled++;
  } else {
    pool->completed++;
  }
  uv_mutex_unlock(&pool->mutex);
}
