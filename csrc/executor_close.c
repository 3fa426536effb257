/* SPDX-License-Identifier: MIT */
/*
 * The end of a state's executors: step 3 to 5 of the close sequence in ARCHITECTURE.md, and giving
 * up a pool whose jobs do not stop.                                                 [loop thread]
 */
#include <stdio.h>
#include <stdlib.h>

#include "call_future.h"
#include "pool_wait.h"
#include "run.h"

/* How long closing a state waits for jobs that were asked to stop. */
#define CLOSE_GRACE_NS UINT64_C(2000000000)

void concur_executor_abandon(concur_executor *executor) {
  concur_executors *executors = executor->owner;
  if (executors == NULL) return;
  executor->abandoned = true;
  for (concur_node *node = executors->calls.next; node != &executors->calls; node = node->next) {
    concur_call *call = concur_container_of(node, concur_call, link);
    if (call->executor != executor) continue;
    concur_call_let_loop_go(call);
    concur_call_settle_quietly(call, CONCUR_CANCELLED);
  }
  concur_pool_detach(executor->pool);
}

/* Calls that have not been handed out yet go; the others are asked to stop. */
static void calls_cancel(lua_State *L, concur_executors *executors, concur_loop *loop) {
  concur_node *node;
  while ((node = concur_list_pop(&executors->calls)) != NULL) {
    concur_call *call = concur_container_of(node, concur_call, link);
    concur_executor *executor = call->executor;
    concur_loop_stop_timer(loop, &call->interrupt_timer);
    concur_call_let_loop_go(call);
    if (!concur_future_settled(call->future)) call->future->state = CONCUR_CANCELLED;
    concur_call_future_of(call->future)->call = NULL;
    call->future = NULL;
    executor->references--;
    bool taken_off = concur_job_cancel(&call->job) == CONCUR_JOB_TAKEN_OFF;
    if (!taken_off) concur_call_loan_revoke(call);
    concur_call_release_anchors(L, executors->runtime, call);
    if (taken_off) concur_job_release(&call->job); /* else the pool or the mailbox has it */
  }
  executors->call_count = 0;
}

static void report_stuck(concur_pool *pool, const concur_worker_settings *settings) {
  enum { MOST = 16 };
  concur_running running[MOST];
  settings->kind->trace(pool);
  uint32_t count = concur_pool_list_running(pool, running, MOST);
  for (uint32_t i = 0; i < count && i < MOST; i++) {
    bool named = running[i].name[0] != '\0';
    (void)fprintf(stderr,
                  "concur: %s%s%s of %s has not stopped (it has run for %.1f s); its thread is "
                  "left behind%s\n",
                  named ? "job '" : "a job", running[i].name, named ? "'" : "", settings->name,
                  (double)running[i].running_ns / 1e9, running[i].trace);
  }
}

/* Waits for the pool's threads and leaves behind those that do not end.  Busy Lua code gets a moment
   to see its token before it is interrupted, and is interrupted for good after half of the time. */
static void pool_finish(concur_pool *pool, const concur_worker_settings *settings,
                        uint64_t begin_ns) {
  static const uint64_t stages_ns[] = {CLOSE_GRACE_NS / 20, CLOSE_GRACE_NS / 2, CLOSE_GRACE_NS};
  for (size_t i = 0; i < sizeof stages_ns / sizeof stages_ns[0]; i++) {
    if (i > 0) settings->kind->interrupt_pool(pool);
    uint64_t passed_ns = uv_hrtime() - begin_ns;
    uint64_t left_ns = stages_ns[i] > passed_ns ? stages_ns[i] - passed_ns : 0;
    if (concur_pool_join(pool, left_ns) == 0) return;
  }
  report_stuck(pool, settings);
  concur_pool_detach(pool);
}

/* The default pool belongs to the state that began it all. */
static void shared_close(concur_executors *executors) {
  concur_shared_pool *shared = executors->shared;
  if (executors->runtime->worker != NULL) return;
  uv_mutex_lock(&shared->mutex);
  shared->closed = true;
  uv_mutex_unlock(&shared->mutex);
  if (shared->pool == NULL) return; /* closed: nobody changes it any more */
  concur_pool_close(shared->pool, true);
  concur_pool_cancel_running(shared->pool);
}

/* Settings and slot hold each other: this parts them. */
static void shared_empty(concur_shared_pool *shared) {
  uv_mutex_lock(&shared->mutex);
  concur_pool *pool = shared->pool;
  concur_worker_settings *settings = shared->settings;
  shared->pool = NULL;
  shared->settings = NULL;
  uv_mutex_unlock(&shared->mutex);
  concur_pool_release(pool);
  concur_worker_settings_release(settings);
}

static void views_close(concur_executors *executors) {
  for (concur_node *node = executors->views.next; node != &executors->views; node = node->next) {
    concur_executor *executor = concur_container_of(node, concur_executor, link);
    executor->closed = true;
    concur_pool_wait_close(executor);
    if (!executor->owns) continue;
    concur_pool_close(executor->pool, true);
    concur_pool_cancel_running(executor->pool);
  }
}

static void views_finish(concur_executors *executors) {
  uint64_t begin_ns = uv_hrtime();
  concur_shared_pool *shared = executors->shared;
  if (executors->runtime->worker == NULL && shared->pool != NULL) {
    pool_finish(shared->pool, shared->settings, begin_ns);
    shared_empty(shared);
  }
  concur_node *node;
  while ((node = concur_list_pop(&executors->views)) != NULL) {
    concur_executor *executor = concur_container_of(node, concur_executor, link);
    if (executor->owns && !executor->abandoned) {
      pool_finish(executor->pool, executor->settings, begin_ns);
    }
    concur_node_unlink(&executor->flusher.node);
    executor->owner = NULL; /* what is left are userdata: they free it */
    executor->references++;
    concur_executor_release(executor);
  }
}

void concur_executor_close(lua_State *L, concur_runtime *runtime) {
  concur_executors *executors = runtime->executors;
  concur_loop *loop = runtime->scheduler->loop;
  if (executors == NULL || concur_runtime_forked(runtime)) return;
  runtime->executors = NULL;
  if (loop != NULL) calls_cancel(L, executors, loop);
  views_close(executors);
  shared_close(executors);
  views_finish(executors);
  if (loop != NULL) {
    concur_mail *mail = concur_mailbox_close(loop->mailbox);
    while (mail != NULL) {
      concur_mail *next = mail->next;
      mail->drop(mail);
      mail = next;
    }
  }
  if (executors->unanchored != NULL) concur_job_release(&executors->unanchored->job);
  concur_node *node;
  while ((node = concur_list_pop(&executors->kept)) != NULL) {
    free(concur_container_of(node, concur_call, link));
  }
  concur_shared_pool_release(executors->shared);
  free(executors);
}
