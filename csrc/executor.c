/* SPDX-License-Identifier: MIT */
/*
 * See executor.h.  Parts: views of pools, publishing, mail, submitting.
 *
 * A call's life on this side:  submit (encode, anchor the future, gather)  ->  publish, when the
 * loop turns or the batch is long  ->  its mail is delivered (reply.c)  ->  the future settles.
 */
#include "executor.h"

#include <stdlib.h>

#include "call_future.h"
#include "environment.h"
#include "platform.h"
#include "pool_wait.h"
#include "reply.h"
#include "transfer.h"
#include "worker.h"

enum {
  MOST_KEPT = 1024,   /* calls whose memory waits for the next ones */
  LONGEST_BATCH = 64, /* calls gathered before they are published although the turn goes on */
  SPIN_NS = 20000,    /* how long the loop looks for mail before it sleeps */
  SPIN_MISSES = 3,    /* spins in vain before it rests */
  SPIN_REST = 32,     /* waits that it rests from spinning */
  SPIN_CLOCK_INTERVAL = 16
};

const concur_call_options concur_call_defaults = {.interrupt_after_ns = CONCUR_NEVER};

/* ---- the executors of a state ---- */

concur_executors *concur_executors_of(lua_State *L, concur_runtime *runtime) {
  if (runtime->executors != NULL) return runtime->executors;
  concur_runtime_check(L, runtime);
  concur_executors *executors = calloc(1, sizeof *executors);
  if (executors == NULL) luaL_error(L, "not enough memory");
  if (runtime->worker != NULL) {
    executors->shared = runtime->worker->settings->shared;
    concur_shared_pool_retain(executors->shared);
  } else {
    executors->shared = concur_shared_pool_new();
  }
  if (executors->shared == NULL) {
    free(executors);
    luaL_error(L, "not enough memory");
  }
  executors->runtime = runtime;
  executors->cores = concur_platform_cpu_count();
  concur_list_init(&executors->views);
  concur_list_init(&executors->calls);
  concur_list_init(&executors->kept);
  runtime->executors = executors;
  return executors;
}

/* ---- views ---- */

/* The loop's turn is over. */
static void on_flush(concur_flusher *flusher) {
  concur_executor *executor = concur_container_of(flusher, concur_executor, flusher);
  concur_executor_publish(executor);
  if (!concur_pool_wait_rests(executor)) concur_node_unlink(&flusher->node);
  concur_pool_wait_rearm(executor);
}

void concur_executor_release(concur_executor *executor) {
  if (--executor->references > 0) return;
  /* Nobody can submit any more: the threads end when the queue is empty.  The view stays in the
     list, so that closing the state can join them, unless they are gone already. */
  if (executor->owns) {
    concur_pool_close(executor->pool, false);
    if (concur_pool_join(executor->pool, 0) > 0) return;
  }
  concur_node_unlink(&executor->link);
  concur_node_unlink(&executor->flusher.node);
  concur_pool_release(executor->pool);
  concur_worker_settings_release(executor->settings);
  free(executor);
}

/* Frees views that only wait for their threads to end. */
static void executors_sweep(concur_executors *executors) {
  for (concur_node *node = executors->views.next; node != &executors->views;) {
    concur_executor *executor = concur_container_of(node, concur_executor, link);
    node = node->next;
    if (executor->references == 0) {
      executor->references = 1;
      concur_executor_release(executor);
    }
  }
}

concur_executor *concur_executor_new(concur_executors *executors, concur_pool *pool,
                                     concur_worker_settings *settings, bool owns) {
  executors_sweep(executors);
  concur_executor *executor = calloc(1, sizeof *executor);
  if (executor == NULL) return NULL;
  executor->owner = executors;
  executor->pool = pool;
  executor->settings = settings;
  executor->owns = owns;
  executor->references = 1;
  executor->flusher.flush = on_flush;
  concur_list_init(&executor->batch);
  for (int i = 0; i < CONCUR_POOL_EVENTS; i++) concur_list_init(&executor->waiters[i]);
  concur_list_append(&executors->views, &executor->link);
  return executor;
}

void concur_executors_adopt(concur_executors *executors, concur_pool *pool,
                            concur_worker_settings *settings) {
  concur_executor *executor = concur_executor_new(executors, pool, settings, true);
  if (executor != NULL) {
    concur_executor_release(executor);
    return;
  }
  concur_pool_close(pool, false);
  concur_pool_detach(pool);
  concur_pool_release(pool);
  concur_worker_settings_release(settings);
}

/* ---- publishing ---- */

void concur_executor_publish(concur_executor *executor) {
  if (executor->batch_count == 0) return;
  uint32_t count = executor->batch_count;
  executor->batch_count = 0;
  int error = concur_pool_publish(executor->pool, &executor->batch, count);
  if (error == 0) return;
  /* The pool was closed meanwhile, or the system has no thread to give: the calls come back as ones
     that never ran. */
  concur_node *node;
  while ((node = concur_list_pop(&executor->batch)) != NULL) {
    concur_call *call = concur_container_of(node, concur_call, job.node);
    call->outcome = error == UV_ECANCELED ? CONCUR_CALL_CANCELLED : CONCUR_CALL_BROKEN;
    atomic_store(&call->job.state, error == UV_ECANCELED ? CONCUR_JOB_CANCELLED : CONCUR_JOB_ENDED);
    if (!concur_mailbox_post(call->job.reply, &call->job.mail))
      call->job.mail.drop(&call->job.mail);
  }
}

/* Adds a job to the batch.  The first one goes out at once if somebody could begin with it. */
static void executor_gather(concur_executor *executor, concur_call *call) {
  concur_loop *loop = executor->owner->runtime->scheduler->loop;
  concur_list_append(&executor->batch, &call->job.node);
  executor->batch_count++;
  bool turning = loop->L != NULL; /* the flusher will be called */
  bool first = !concur_node_linked(&executor->flusher.node);
  if (turning && first) concur_list_append(&loop->flushers, &executor->flusher.node);
  if (!turning || first || executor->batch_count >= LONGEST_BATCH) {
    concur_executor_publish(executor);
  }
}

/* ---- mail ---- */

void concur_executor_collect(lua_State *L, concur_runtime *runtime) {
  concur_loop *loop = runtime->scheduler->loop;
  if (loop == NULL || concur_runtime_forked(runtime)) return;
  if (concur_loop_pending(loop)) concur_loop_collect(loop, L);
}

/* Waits for mail without sleeping, while there are jobs and a core to spare. */
bool concur_executor_spin(concur_loop *loop) {
  concur_executors *executors = loop->runtime->executors;
  if (executors == NULL || executors->call_count + executors->work_count == 0) return false;
  if (executors->cores < 2) return false;
  if (executors->spin_rest > 0) {
    executors->spin_rest--;
    return false;
  }
  uint64_t end_ns = uv_hrtime() + SPIN_NS;
  bool found = false;
  do {
    for (int i = 0; i < SPIN_CLOCK_INTERVAL && !found; i++) {
      found = concur_loop_pending(loop);
      concur_platform_pause();
    }
  } while (!found && uv_hrtime() < end_ns);
  executors->spin_misses = found ? 0 : (uint8_t)(executors->spin_misses + 1);
  if (executors->spin_misses >= SPIN_MISSES) {
    executors->spin_misses = 0;
    executors->spin_rest = SPIN_REST;
  }
  return found;
}

/* ---- submitting ---- */

void concur_executor_check(lua_State *L, concur_executor *executor) {
  concur_runtime *runtime = executor->owner != NULL ? executor->owner->runtime : NULL;
  if (runtime == NULL || executor->closed) {
    runtime = concur_runtime_find(L);
    concur_error_raise(L, runtime, "Closed", "cannot submit: %s was shut down",
                       executor->settings->name);
  }
  concur_runtime_check(L, runtime);
  if (atomic_load(&executor->settings->broken)) {
    concur_call_raise_broken(L, runtime, executor->settings);
  }
  if (runtime->worker != NULL && concur_pool_exhausted(executor->pool)) {
    concur_call_push_exhausted(L, runtime, executor->settings);
    lua_error(L);
  }
}

/* A call for the executor, in kept memory if there is some; NULL when memory is too short. */
static concur_call *call_new(concur_executor *executor, const char *name) {
  concur_executors *executors = executor->owner;
  concur_mailbox *reply = executors->runtime->scheduler->loop->mailbox;
  concur_node *node = concur_list_pop(&executors->kept);
  concur_call *call;
  if (node == NULL) {
    call = concur_call_new(executor->pool, reply, executor->settings, name);
  } else {
    executors->kept_count--;
    call = concur_container_of(node, concur_call, link);
    if (!concur_call_init(call, executor->pool, reply, executor->settings, name)) {
      free(call);
      call = NULL;
    }
  }
  if (call != NULL) call->job.nested = executors->runtime->worker != NULL;
  return call;
}

void concur_executors_take_back(concur_executors *executors, concur_call *call) {
  if (executors->kept_count >= MOST_KEPT || !concur_job_is_last(&call->job)) {
    concur_job_release(&call->job);
    return;
  }
  concur_call_clear(call);
  concur_list_prepend(&executors->kept, &call->link);
  executors->kept_count++;
}

/* Frees the call that ran out of memory on its way out, if there is one. */
static void unanchored_free(lua_State *L, concur_executors *executors) {
  concur_call *call = executors->unanchored;
  executors->unanchored = NULL;
  if (call == NULL) return;
  concur_call_release_anchors(L, executors->runtime, call);
  concur_job_release(&call->job);
}

/* Encodes `count` values from stack index `first` into the call's message; returns whether strings in
   it are lent.  This runs code of the user's, which may submit other calls and close pools and loops;
   nobody else knows of this call yet.  Raises, with the call freed. */
static bool call_encode(lua_State *L, concur_call *call, concur_executor *executor, int first,
                        int count) {
  bool lends = false, flat = executor->settings->kind->flat;
  concur_encode_options options = {
      .what = "argument",
      .number = call->function != NULL ? 2 : 1,
      .mode = flat ? CONCUR_ENCODE_FLAT : CONCUR_ENCODE_SHARED,
      .lends = flat || call->retries > 0 ? NULL : &lends /* who tries again reads it again */
  };
  call->input = concur_encode_caught(L, first, count, &options);
  bool encoded = call->input != NULL;
  if (encoded && !executor->closed) return lends;
  concur_job_release(&call->job);
  if (!encoded) lua_error(L);
  concur_executor_check(L, executor); /* raises */
  return false;
}

/* Anchors the future on top of the stack, and with `lends` the strings on top of that, which it pops.
   May run out of memory: then the call is freed later.  Runs no code but this. */
static void call_anchor(lua_State *L, concur_call *call, concur_executors *executors, bool lends) {
  unanchored_free(L, executors);
  executors->unanchored = call;
  if (lends) {
    call->lent_slot = concur_anchor(L, executors->runtime);
    atomic_store(&call->loan, CONCUR_LOAN_OPEN);
  }
  lua_pushvalue(L, -1);
  call->slot = concur_anchor(L, executors->runtime);
  executors->unanchored = NULL;
}

/* Makes the call of `count` values from `first`, for the new future on top of the stack. */
static concur_call *call_make(lua_State *L, concur_executor *executor, int first, int count,
                              const concur_call_options *options,
                              concur_function_cache *functions) {
  const concur_call_kind *kind = executor->settings->kind;
  concur_function *function = NULL;
  if (functions != NULL && !kind->flat) {
    function = concur_function_of(L, functions, executor->pool, first);
  }
  /* A finalizer may have closed it meanwhile. */
  concur_call *call = executor->closed ? NULL : call_new(executor, options->name);
  if (call == NULL) {
    if (function != NULL) concur_function_release(function);
    concur_executor_check(L, executor);
    luaL_error(L, "not enough memory");
  }
  call->function = function;
  call->executor = executor;
  call->retries = options->retries;
  call->retry_delay_ms = options->retry_delay_ms;
  int skipped = function != NULL ? 1 : 0;
  bool lends = false;
  if (skipped == 0 || options->retries > 0 ||
      !concur_inline_take(L, first + 1, count - 1, &call->arguments)) {
    lends = call_encode(L, call, executor, first + skipped, count - skipped);
  }
  call_anchor(L, call, executor->owner, lends);
  call->job.run = kind->run;
  call->job.mail.deliver = concur_call_on_reply;
  call->job.mail.drop = concur_call_on_reply_dropped;
  call->job.cancel_mail.deliver = kind->cancel;
  call->job.cancel_mail.drop = kind->drop_cancel;
  call->abandon = options->abandon;
  call->interrupt_after_ns = options->interrupt_after_ns;
  return call;
}

static void call_link(concur_call *call, concur_executor *executor, concur_call_future *future) {
  concur_executors *executors = executor->owner;
  concur_loop *loop = executors->runtime->scheduler->loop;
  future->call = call;
  call->future = &future->future;
  call->holds_loop = true;
  loop->external_refs++;
  loop->spin = concur_executor_spin;
  executor->references++;
  executors->call_count++;
  concur_list_append(&executors->calls, &call->link);
}

/* Puts a call of a bounded pool into its queue; false, and everything undone, when it is full. */
static bool call_offer(lua_State *L, concur_call *call, concur_executor *executor) {
  concur_node one;
  concur_list_init(&one);
  concur_list_append(&one, &call->job.node);
  int error = concur_pool_publish(executor->pool, &one, 1);
  if (error == 0) return true;
  concur_node_unlink(&call->job.node);
  concur_call_release_anchors(L, executor->owner->runtime, call);
  concur_job_release(&call->job);
  if (error == UV_ENOBUFS) return false;
  concur_os_error(L, executor->owner->runtime, error, "starting a worker thread", NULL, NULL);
  return lua_error(L) != 0;
}

bool concur_executor_submit(lua_State *L, concur_executor *executor, int first,
                            const concur_call_options *options, concur_function_cache *functions) {
  concur_executor_check(L, executor);
  concur_runtime *runtime = executor->owner->runtime;
  (void)concur_scheduler_loop(L, runtime->scheduler);
  if (executor->bounded && !concur_pool_has_room(executor->pool)) return false;
  if (executor->settings->environment == NULL) {
    concur_environment_capture(L, executor->settings);
  }
  luaL_checkstack(L, 8, NULL);
  int count = lua_gettop(L) - first + 1;
  concur_call_future *future = concur_class_new(L, runtime, CONCUR_CLASS_JOB_FUTURE, sizeof *future,
                                                CONCUR_CALL_FUTURE_VALUES);
  concur_future_init(&future->future, &concur_call_future_ops);
  concur_call *call = call_make(L, executor, first, count, options, functions);
  if (executor->bounded) {
    if (!call_offer(L, call, executor)) {
      lua_pop(L, 1);
      return false;
    }
    call_link(call, executor, future);
  } else {
    call_link(call, executor, future);
    executor_gather(executor, call);
  }
  lua_replace(L, first);
  lua_settop(L, first);
  return true;
}
