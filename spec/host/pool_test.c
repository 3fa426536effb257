/* SPDX-License-Identifier: MIT */
/*
 * Exercises csrc/pool.c without Lua: built and run by spec/pool_spec.lua, also under sanitizers.
 *
 *     pool_test SEED JOBS
 *
 * Several submitters share pools; each has a mailbox whose owner waits on a condition variable.
 * Every job must come back exactly once: delivered after it ran, delivered as cancelled, or taken
 * off by a cancel.  Prints what it saw; exits with 1 and a line per broken promise.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/platform.h"
#include "../../csrc/pool.h"

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      atomic_fetch_add(&failures, 1); \
    } \
  } while (0)

static atomic_int failures;
static atomic_int jobs_alive;

typedef struct owner {
  uv_mutex_t mutex;
  uv_cond_t cond;
  concur_mailbox *mailbox;
  bool woken;
  uint64_t random;
  int delivered, cancelled, taken_off;
} owner;

typedef struct test_job {
  concur_job job;
  owner *from;
  atomic_int runs;
  int spin; /* how long it works */
  uint64_t sleep_ns;
  struct test_job *nested_of;
} test_job;

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static void on_wake(void *target) {
  owner *self = target;
  uv_mutex_lock(&self->mutex);
  self->woken = true;
  uv_cond_signal(&self->cond);
  uv_mutex_unlock(&self->mutex);
}

static void owner_init(owner *self, uint64_t seed) {
  memset(self, 0, sizeof *self);
  uv_mutex_init(&self->mutex);
  uv_cond_init(&self->cond);
  self->mailbox = concur_mailbox_new(on_wake, self);
  self->random = seed * 0x9E3779B97F4A7C15u + 1;
}

/* Takes what has come; waits for something first if `wait`. */
static void owner_collect(owner *self, bool wait) {
  if (wait && concur_mailbox_sleep(self->mailbox)) {
    uv_mutex_lock(&self->mutex);
    while (!self->woken) uv_cond_wait(&self->cond, &self->mutex);
    self->woken = false;
    uv_mutex_unlock(&self->mutex);
    concur_mailbox_awake(self->mailbox);
  }
  concur_mail *mail = concur_mailbox_take(self->mailbox);
  while (mail != NULL) {
    concur_mail *next = mail->next;
    mail->deliver(mail, self);
    mail = next;
  }
}

static void owner_destroy(owner *self) {
  concur_mail *mail = concur_mailbox_close(self->mailbox);
  while (mail != NULL) {
    concur_mail *next = mail->next;
    mail->drop(mail);
    mail = next;
  }
  concur_mailbox_release(self->mailbox);
  uv_cond_destroy(&self->cond);
  uv_mutex_destroy(&self->mutex);
}

static void job_run(concur_job *job, concur_thread *thread) {
  test_job *self = concur_container_of(job, test_job, job);
  (void)thread;
  atomic_fetch_add(&self->runs, 1);
  for (int i = 0; i < self->spin && !concur_job_is_cancelled(job); i++) concur_platform_pause();
  if (self->sleep_ns > 0) uv_sleep((unsigned)(self->sleep_ns / 1000000u));
}

static void job_free(concur_job *job) {
  atomic_fetch_sub(&jobs_alive, 1);
  free(concur_container_of(job, test_job, job));
}

static void job_deliver(concur_mail *mail, void *owner_pointer) {
  test_job *self = concur_container_of(mail, test_job, job.mail);
  owner *to = owner_pointer;
  CHECK(self->from == to);
  if (atomic_load(&self->job.state) == CONCUR_JOB_CANCELLED) {
    CHECK(atomic_load(&self->runs) == 0);
    to->cancelled++;
  } else {
    CHECK(atomic_load(&self->runs) == 1);
    to->delivered++;
  }
  concur_job_release(&self->job);
}

static void job_drop(concur_mail *mail) {
  concur_job_release(&concur_container_of(mail, test_job, job.mail)->job);
}

static test_job *job_new(concur_pool *pool, owner *from) {
  test_job *self = calloc(1, sizeof *self);
  concur_job_init(&self->job, pool, from->mailbox);
  self->job.mail.deliver = job_deliver;
  self->job.mail.drop = job_drop;
  self->job.run = job_run;
  self->job.free = job_free;
  self->from = from;
  atomic_fetch_add(&jobs_alive, 1);
  return self;
}

static concur_pool *pool_new(uint32_t workers, uint64_t idle_ns, uint32_t queue_size) {
  concur_pool_settings settings = {workers, workers + 8, queue_size,
                                   concur_platform_cpu_count(), idle_ns};
  return concur_pool_new(&settings);
}

/* ---- several threads that submit and cancel at random ---- */

typedef struct submitter {
  owner own;
  concur_pool *pool;
  int jobs;
  uv_thread_t id;
} submitter;

static void submit_batch(submitter *self, int count) {
  concur_node batch;
  test_job *made[8];
  concur_list_init(&batch);
  for (int i = 0; i < count; i++) {
    made[i] = job_new(self->pool, &self->own);
    made[i]->spin = (int)(next_random(&self->own.random) % 200);
    concur_job_retain(&made[i]->job);
    concur_list_append(&batch, &made[i]->job.node);
  }
  CHECK(concur_pool_publish(self->pool, &batch, (uint32_t)count) == 0);
  CHECK(concur_list_empty(&batch));
  for (int i = 0; i < count; i++) {
    if (next_random(&self->own.random) % 4 == 0 &&
        concur_job_cancel(&made[i]->job) == CONCUR_JOB_TAKEN_OFF) {
      CHECK(atomic_load(&made[i]->runs) == 0);
      self->own.taken_off++;
      concur_job_release(&made[i]->job);
    }
    concur_job_release(&made[i]->job);
  }
}

static int owner_count(const owner *self) {
  return self->delivered + self->cancelled + self->taken_off;
}

static void submitter_main(void *argument) {
  submitter *self = argument;
  int submitted = 0;
  while (submitted < self->jobs) {
    int count = 1 + (int)(next_random(&self->own.random) % 8);
    submit_batch(self, count);
    submitted += count;
    owner_collect(&self->own, submitted - owner_count(&self->own) > 200);
  }
  while (owner_count(&self->own) < submitted) owner_collect(&self->own, true);
  CHECK(owner_count(&self->own) == submitted);
}

static void test_many_submitters(uint64_t seed, int jobs) {
  enum { SUBMITTERS = 4 };
  submitter submitters[SUBMITTERS];
  /* An idle time short enough that threads come and go while jobs arrive. */
  concur_pool *pool = pool_new(3, 1000000, 0);
  for (int i = 0; i < SUBMITTERS; i++) {
    owner_init(&submitters[i].own, seed + (uint64_t)i);
    submitters[i].pool = pool;
    submitters[i].jobs = jobs;
    uv_thread_create(&submitters[i].id, submitter_main, &submitters[i]);
  }
  for (int i = 0; i < SUBMITTERS; i++) uv_thread_join(&submitters[i].id);
  concur_pool_close(pool, false);
  CHECK(concur_pool_join(pool, UINT64_MAX) == 0);
  for (int i = 0; i < SUBMITTERS; i++) owner_destroy(&submitters[i].own);
  concur_pool_release(pool);
  CHECK(atomic_load(&jobs_alive) == 0);
}

/* ---- closing with jobs queued and running ---- */

static void test_close_drops(uint64_t seed) {
  owner self;
  owner_init(&self, seed);
  for (int round = 0; round < 50; round++) {
    concur_pool *pool = pool_new(2, UINT64_MAX, 0);
    concur_node batch;
    concur_list_init(&batch);
    for (int i = 0; i < 20; i++) {
      test_job *job = job_new(pool, &self);
      job->spin = 2000;
      concur_list_append(&batch, &job->job.node);
    }
    CHECK(concur_pool_publish(pool, &batch, 20) == 0);
    concur_pool_close(pool, true);
    CHECK(concur_pool_join(pool, UINT64_MAX) == 0);
    concur_list_init(&batch);
    test_job *late = job_new(pool, &self);
    concur_list_append(&batch, &late->job.node);
    CHECK(concur_pool_publish(pool, &batch, 1) == UV_ECANCELED);
    concur_job_release(&late->job);
    concur_pool_release(pool);
    owner_collect(&self, false);
    CHECK(owner_count(&self) == (round + 1) * 20);
  }
  owner_destroy(&self);
  CHECK(atomic_load(&jobs_alive) == 0);
}

/* ---- a stuck job outlives the pool's owner and the mailbox ---- */

static void test_detach(uint64_t seed) {
  owner self;
  owner_init(&self, seed);
  concur_pool *pool = pool_new(1, UINT64_MAX, 0);
  concur_node batch;
  concur_list_init(&batch);
  test_job *job = job_new(pool, &self);
  job->sleep_ns = 200000000;
  concur_list_append(&batch, &job->job.node);
  CHECK(concur_pool_publish(pool, &batch, 1) == 0);
  uv_sleep(20);
  concur_pool_close(pool, true);
  CHECK(concur_pool_join(pool, 10000000) == 1);
  concur_pool_detach(pool);
  concur_pool_release(pool);
  owner_destroy(&self);
  for (int i = 0; i < 500 && atomic_load(&jobs_alive) != 0; i++) uv_sleep(10);
  CHECK(atomic_load(&jobs_alive) == 0);
}

/* ---- a job that waits for another job of a pool with one worker ---- */

static atomic_int inner_done;

static void inner_run(concur_job *job, concur_thread *thread) {
  job_run(job, thread);
  atomic_store(&inner_done, 1);
}

static void outer_run(concur_job *job, concur_thread *thread) {
  test_job *self = concur_container_of(job, test_job, job);
  atomic_fetch_add(&self->runs, 1);
  test_job *inner = job_new(thread->pool, self->from);
  inner->job.run = inner_run;
  concur_node batch;
  concur_list_init(&batch);
  concur_list_append(&batch, &inner->job.node);
  CHECK(concur_pool_publish(thread->pool, &batch, 1) == 0);
  concur_pool_block(thread, true);
  while (!atomic_load(&inner_done)) uv_sleep(1);
  concur_pool_block(thread, false);
}

static void test_nested(uint64_t seed) {
  owner self;
  owner_init(&self, seed);
  concur_pool *pool = pool_new(1, UINT64_MAX, 0);
  test_job *outer = job_new(pool, &self);
  outer->job.run = outer_run;
  concur_node batch;
  concur_list_init(&batch);
  concur_list_append(&batch, &outer->job.node);
  CHECK(concur_pool_publish(pool, &batch, 1) == 0);
  while (owner_count(&self) < 2) owner_collect(&self, true);
  concur_pool_close(pool, false);
  CHECK(concur_pool_join(pool, UINT64_MAX) == 0);
  concur_pool_release(pool);
  owner_destroy(&self);
  CHECK(atomic_load(&jobs_alive) == 0);
}

/* ---- a full queue, and the watch that says when there is room ---- */

typedef struct test_watch {
  concur_watch watch;
  int *count;
} test_watch;

static void watch_deliver(concur_mail *mail, void *unused) {
  test_watch *self = concur_container_of(mail, test_watch, watch.mail);
  (void)unused;
  ++*self->count;
  concur_mailbox_release(self->watch.reply);
  free(self);
}

static void watch_drop(concur_mail *mail) {
  watch_deliver(mail, NULL);
}

static void watch_pool(concur_pool *pool, owner *self, concur_pool_event event, int *count) {
  test_watch *watch = calloc(1, sizeof *watch);
  watch->watch.mail.deliver = watch_deliver;
  watch->watch.mail.drop = watch_drop;
  watch->watch.reply = self->mailbox;
  concur_mailbox_retain(self->mailbox);
  watch->count = count;
  concur_pool_watch(pool, event, &watch->watch);
}

static void test_watches(uint64_t seed) {
  owner self;
  int rooms = 0, ends = 0, submitted = 0;
  owner_init(&self, seed);
  concur_pool *pool = pool_new(1, UINT64_MAX, 2);
  watch_pool(pool, &self, CONCUR_POOL_ENDED, &ends);
  while (submitted < 200) {
    concur_node batch;
    concur_list_init(&batch);
    test_job *job = job_new(pool, &self);
    job->spin = 500;
    concur_list_append(&batch, &job->job.node);
    int error;
    while ((error = concur_pool_publish(pool, &batch, 1)) == UV_ENOBUFS) {
      int before = rooms;
      watch_pool(pool, &self, CONCUR_POOL_ROOM, &rooms);
      while (rooms == before) owner_collect(&self, true);
    }
    CHECK(error == 0);
    submitted++;
  }
  while (owner_count(&self) < submitted) owner_collect(&self, true);
  CHECK(ends == 0);
  concur_pool_close(pool, false);
  while (ends == 0) owner_collect(&self, true);
  CHECK(concur_pool_join(pool, UINT64_MAX) == 0);
  concur_pool_stats stats;
  concur_pool_get_stats(pool, &stats);
  CHECK(stats.completed == 200 && stats.threads == 0 && stats.queued == 0);
  concur_pool_release(pool);
  owner_destroy(&self);
  CHECK(atomic_load(&jobs_alive) == 0);
}

int main(int argc, char **argv) {
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
  int jobs = argc > 2 ? atoi(argv[2]) : 5000;
  test_many_submitters(seed, jobs);
  test_close_drops(seed);
  test_detach(seed);
  test_nested(seed);
  test_watches(seed);
  if (atomic_load(&failures) > 0) return 1;
  printf("seed %llu: ok\n", (unsigned long long)seed);
  return 0;
}
