/* SPDX-License-Identifier: MIT */
/*
 * See executor.h.  Parts: views of pools; submitting; what comes back; futures of calls; the default
 * pool; closing.
 *
 * A call's life on this side:  submit (encode, anchor the future, gather)  ->  publish, when the
 * loop turns or the batch is long  ->  its mail is delivered  ->  the future settles.
 */
#include "executor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "environment.h"
#include "interrupt.h"
#include "platform.h"
#include "pool_wait.h"
#include "transfer.h"
#include "worker.h"

enum {
  LONGEST_BATCH = 64,   /* calls gathered before they are published although the turn goes on */
  SPIN_NS = 20000,      /* how long the loop looks for mail before it sleeps */
  SPIN_MISSES = 3,      /* spins in vain before it rests */
  SPIN_REST = 32,       /* waits that it rests from spinning */
  SPIN_CLOCK_INTERVAL = 16
};

/* User values of a job's future; the first is concur_future's own. */
enum { FUTURE_REASON = 2, FUTURE_VALUES = 2 };

/* How long closing a state waits for jobs that were asked to stop. */
#define CLOSE_GRACE_NS UINT64_C(2000000000)

const concur_call_options concur_call_defaults = {.interrupt_after_ns = CONCUR_NEVER};

/* A call's future. */
typedef struct job_future {
  concur_future future;
  concur_call *call; /* borrowed while in flight; NULL once it was delivered */
} job_future;

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
  runtime->executors = executors;
  return executors;
}

uint32_t concur_executor_job_count(const concur_runtime *runtime) {
  const concur_executors *executors = runtime->executors;
  return executors != NULL ? executors->call_count : 0;
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
    if (!concur_mailbox_post(call->job.reply, &call->job.mail)) call->job.mail.drop(&call->job.mail);
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

/* ---- what comes back ---- */

/* Pushes the error of a call from what the worker sent: is_library, error, text, traceback. */
static void push_call_error(lua_State *L, concur_runtime *runtime, const concur_message *output) {
  int base = lua_gettop(L);
  if (output == NULL || concur_decode(L, output) != 4) {
    lua_settop(L, base);
    concur_error_new(L, runtime, "RemoteError", "not enough memory in the worker");
    lua_pushnil(L);
    return;
  }
  if (lua_toboolean(L, base + 1)) {
    lua_pushvalue(L, base + 2);
    lua_pushnil(L);
    lua_setfield(L, -2, "traceback"); /* that was there: here it is raised anew */
  } else {
    concur_error_new(L, runtime, "RemoteError", "%s", lua_tostring(L, base + 3));
    lua_pushvalue(L, base + 2);
    lua_setfield(L, -2, "value");
  }
  lua_pushvalue(L, base + 4);
  lua_setfield(L, -2, "remote_traceback");
  lua_replace(L, base + 1);
  lua_pushvalue(L, base + 4);
  lua_replace(L, base + 2);
  lua_settop(L, base + 2);
}

/* Pushes the error of a pool whose init failed with `cause`, or whose threads could not start. */
static void push_broken(lua_State *L, concur_runtime *runtime, const char *name,
                        const concur_message *cause) {
  if (cause == NULL) {
    concur_error_new(L, runtime, "BrokenExecutor", "no worker of %s could be started", name);
    return;
  }
  push_call_error(L, runtime, cause);
  lua_pop(L, 1);
  lua_pushliteral(L, "message");
  lua_rawget(L, -2);
  const char *text = lua_tostring(L, -1);
  concur_error_new(L, runtime, "BrokenExecutor", "the init function of %s failed: %s", name,
                   text != NULL ? text : "?");
  lua_pushvalue(L, -3);
  lua_setfield(L, -2, "cause");
  lua_replace(L, -3);
  lua_pop(L, 1);
}

static int raise_broken(lua_State *L, concur_runtime *runtime, concur_worker_settings *settings) {
  /* The message is copied into Lua's memory, so that nothing is lost if pushing the error raises. */
  concur_message *cause = concur_worker_settings_cause(settings);
  if (cause != NULL) {
    size_t size = sizeof *cause + cause->size;
    void *copy = lua_newuserdatauv(L, size, 0);
    memcpy(copy, cause, size);
    concur_message_free(cause);
    cause = copy;
  }
  push_broken(L, runtime, settings->name, cause);
  return lua_error(L);
}

/* Argument: the call.  Settles its future with what came. */
static int l_settle(lua_State *L) {
  concur_call *call = lua_touserdata(L, 1);
  concur_executor *executor = call->executor;
  concur_runtime *runtime = executor->owner->runtime;
  concur_future *future = call->future;
  concur_anchor_push(L, runtime, call->slot); /* index 2: the future */
  if (concur_future_settled(future)) return 0;
  if (atomic_load(&call->job.state) == CONCUR_JOB_CANCELLED) call->outcome = CONCUR_CALL_CANCELLED;
  switch ((concur_call_outcome)call->outcome) {
  case CONCUR_CALL_RESULTS: {
    int count = call->results.count >= 0 ? concur_inline_push(L, &call->results)
                                         : concur_decode(L, call->output);
    concur_future_set_results(L, 2, future, count);
    break;
  }
  case CONCUR_CALL_ERROR:
    push_call_error(L, runtime, call->output);
    lua_insert(L, 3); /* index 3: the traceback, 4: the error */
    concur_future_set_error(L, runtime, 2, future, 0);
    break;
  case CONCUR_CALL_BROKEN:
    push_broken(L, runtime, call->settings->name, call->output);
    concur_future_set_error(L, runtime, 2, future, 0);
    break;
  case CONCUR_CALL_CANCELLED:
    lua_getiuservalue(L, 2, FUTURE_REASON);
    concur_future_set_cancelled(L, 2, future);
    break;
  }
  return 0;
}

/* Arguments: the call, an error.  What could not be decoded is the call's error. */
static int l_settle_with_error(lua_State *L) {
  concur_call *call = lua_touserdata(L, 1);
  concur_executor *executor = call->executor;
  concur_runtime *runtime = executor->owner->runtime;
  concur_anchor_push(L, runtime, call->slot);
  lua_insert(L, 2);
  concur_future_set_error(L, runtime, 2, call->future, 0);
  return 0;
}

static void call_settle_quietly(concur_call *call, concur_future_state state) {
  if (call->future != NULL && !concur_future_settled(call->future)) {
    concur_future_settle(call->future, state);
  }
}

/* Argument: the call.  Settles the future, whatever happens, and lets it go. */
static int l_complete(lua_State *L) {
  concur_call *call = lua_touserdata(L, 1);
  concur_executor *executor = call->executor;
  concur_runtime *runtime = executor->owner->runtime;
  lua_pushcfunction(L, l_settle);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pushcfunction(L, l_settle_with_error);
    lua_insert(L, -2);
    lua_pushvalue(L, 1);
    lua_insert(L, -2);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) call_settle_quietly(call, CONCUR_FAILED);
  }
  concur_anchor_release(L, runtime, call->slot);
  call->slot = 0;
  return 0;
}

static void call_let_loop_go(concur_call *call) {
  concur_executor *executor = call->executor;
  concur_loop *loop = executor->owner->runtime->scheduler->loop;
  if (!call->holds_loop) return;
  call->holds_loop = false;
  loop->external_refs--;
}

/* Settles the future of a call with plain results, which needs no memory, and so no protection.
   False when this is not such a call. */
static bool call_settle_plainly(concur_call *call, concur_loop *loop) {
  lua_State *L = loop->L;
  concur_runtime *runtime = loop->runtime;
  if (call->outcome != CONCUR_CALL_RESULTS || call->results.count < 0 ||
      !concur_inline_is_plain(&call->results) || L == NULL || loop->closing ||
      atomic_load(&call->job.state) != CONCUR_JOB_ENDED ||
      concur_future_settled(call->future) || !lua_checkstack(L, 8)) {
    return false;
  }
  concur_anchor_push(L, runtime, call->slot);
  int index = lua_gettop(L);
  concur_future_set_results(L, index, call->future, concur_inline_push(L, &call->results));
  concur_anchor_release(L, runtime, call->slot);
  lua_settop(L, index - 1);
  call->slot = 0;
  return true;
}

static void on_reply(concur_mail *mail, void *owner) {
  concur_call *call = concur_container_of(mail, concur_call, job.mail);
  concur_loop *loop = owner;
  concur_executor *executor = call->executor;
  call_let_loop_go(call);
  concur_loop_stop_timer(loop, &call->interrupt_timer);
  concur_node_unlink(&call->link);
  executor->owner->call_count--;
  if (call->future != NULL) {
    if (!call_settle_plainly(call, loop) && !concur_loop_protect(loop, l_complete, call)) {
      call_settle_quietly(call, CONCUR_FAILED);
    }
    concur_container_of(call->future, job_future, future)->call = NULL;
    call->future = NULL;
  }
  concur_executor_release(executor);
  concur_job_release(&call->job);
}

/* The state that waited is gone, and with it what `future` and `executor` point to. */
static void on_reply_dropped(concur_mail *mail) {
  concur_job_release(&concur_container_of(mail, concur_call, job.mail)->job);
}

void concur_executor_collect(lua_State *L, concur_runtime *runtime) {
  concur_loop *loop = runtime->scheduler->loop;
  if (loop != NULL && concur_mailbox_pending(loop->mailbox)) concur_loop_collect(loop, L);
}

/* ---- waiting for mail without sleeping ---- */

static bool on_spin(concur_loop *loop) {
  concur_executors *executors = loop->runtime->executors;
  if (executors == NULL || executors->call_count == 0 || executors->cores < 2) return false;
  if (executors->spin_rest > 0) {
    executors->spin_rest--;
    return false;
  }
  uint64_t end_ns = uv_hrtime() + SPIN_NS;
  bool found = false;
  do {
    for (int i = 0; i < SPIN_CLOCK_INTERVAL && !found; i++) {
      found = concur_mailbox_pending(loop->mailbox);
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

/* ---- futures of calls ---- */

static job_future *job_future_of(concur_future *future) {
  return concur_container_of(future, job_future, future);
}

/* At least this long between two interrupts, so that clean-up can run after the first. */
#define INTERRUPT_AGAIN_NS UINT64_C(100000000)

static void on_interrupt_due(concur_timer *timer, void *context) {
  concur_call *call = concur_container_of(timer, concur_call, interrupt_timer);
  concur_loop *loop = context;
  bool first = atomic_load(&call->interrupts) == 0;
  concur_interrupt_call(call);
  if (!first || !concur_loop_reserve_timer(loop)) return;
  uint64_t delay_ns = call->interrupt_after_ns;
  if (delay_ns < INTERRUPT_AGAIN_NS) delay_ns = INTERRUPT_AGAIN_NS;
  concur_loop_start_timer(loop, timer, concur_deadline_after(loop, delay_ns));
}

/* Starts counting towards the interrupt of a call that was asked to stop. */
static void call_arm_interrupt(concur_call *call, concur_loop *loop) {
  if (call->interrupt_after_ns == CONCUR_NEVER || atomic_load(&call->interrupts) > 0 ||
      concur_timer_active(&call->interrupt_timer) || !concur_loop_reserve_timer(loop)) {
    return;
  }
  call->interrupt_timer.fire = on_interrupt_due;
  concur_loop_start_timer(loop, &call->interrupt_timer,
                          concur_deadline_after(loop, call->interrupt_after_ns));
}

/* Asks the call to stop.  True when its future is to be settled as cancelled now: it will never
   run, or is not waited for. */
static bool call_cancel(concur_call *call) {
  concur_executor *executor = call->executor;
  concur_loop *loop = executor->owner->runtime->scheduler->loop;
  bool gathered = atomic_load(&call->job.state) == CONCUR_JOB_NEW;
  switch (concur_job_cancel(&call->job)) {
  case CONCUR_JOB_TAKEN_OFF:
    if (gathered) executor->batch_count--;
    /* Its own mail frees it, at the next turn. */
    if (!concur_mailbox_post(call->job.reply, &call->job.mail)) {
      call->job.mail.drop(&call->job.mail);
    }
    return true;
  case CONCUR_JOB_ASKED:
    call_arm_interrupt(call, loop);
    if (call->abandon) call_let_loop_go(call);
    return call->abandon;
  case CONCUR_JOB_TOO_LATE: break;
  }
  return false;
}

static void job_future_cancel(lua_State *L, concur_runtime *runtime, int index,
                              concur_future *future, int reason) {
  (void)runtime;
  concur_call *call = job_future_of(future)->call;
  if (call == NULL) return;
  if (!future->cancel_requested && reason != 0) {
    lua_pushvalue(L, reason);
    lua_setiuservalue(L, index, FUTURE_REASON);
  }
  future->cancel_requested = true;
  if (call_cancel(call)) {
    lua_getiuservalue(L, index, FUTURE_REASON);
    concur_future_set_cancelled(L, index, future);
  }
}

static void job_future_cancel_quietly(concur_runtime *runtime, concur_future *future) {
  (void)runtime;
  concur_call *call = job_future_of(future)->call;
  if (call == NULL) return;
  future->cancel_requested = true;
  if (call_cancel(call)) concur_future_settle(future, CONCUR_CANCELLED);
}

static void job_future_push_name(lua_State *L, int index, const concur_future *future) {
  (void)index;
  const job_future *self = (const job_future *)(const void *)future;
  if (self->call != NULL && self->call->name != NULL) {
    lua_pushfstring(L, "job '%s'", self->call->name);
  } else {
    lua_pushliteral(L, "a job");
  }
}

static void job_future_refresh(lua_State *L, concur_runtime *runtime, concur_future *future) {
  concur_executor_collect(L, runtime);
  concur_call *call = job_future_of(future)->call;
  if (future->state == CONCUR_PENDING && call != NULL &&
      atomic_load(&call->job.state) >= CONCUR_JOB_RUNNING) {
    future->state = CONCUR_RUNNING;
  }
}

static const concur_future_ops job_future_ops = {job_future_cancel, job_future_cancel_quietly,
                                                 job_future_push_name, job_future_refresh};

/* ---- submitting ---- */

/* Raises unless a call can be submitted here and now. */
static void executor_check(lua_State *L, concur_executor *executor) {
  concur_runtime *runtime = executor->owner != NULL ? executor->owner->runtime : NULL;
  if (runtime == NULL || executor->closed) {
    runtime = concur_runtime_find(L);
    concur_error_raise(L, runtime, "Closed", "cannot submit: %s was shut down",
                       executor->settings->name);
  }
  concur_runtime_check(L, runtime);
  if (atomic_load(&executor->settings->broken)) {
    raise_broken(L, runtime, executor->settings);
  }
  if (runtime->worker != NULL && concur_pool_exhausted(executor->pool)) {
    concur_error_raise(L, runtime, "InvalidState",
                       "cannot submit: jobs of %s wait for jobs that wait for jobs ..., and no "
                       "more threads may be started",
                       executor->settings->name);
  }
}

/* Fills in what the worker needs: `count` values from stack index `first`. */
static void call_encode(lua_State *L, concur_call *call, int first, int count,
                        concur_function_cache *functions) {
  if (functions != NULL && concur_inline_take(L, first + 1, count - 1, &call->arguments)) {
    call->function = concur_function_of(L, functions, call->job.pool, first);
  }
  if (call->function == NULL) call->input = concur_encode(L, first, count, "argument");
}

/* Makes the call of `count` values from `first`, for the new future on top of the stack. */
static concur_call *call_make(lua_State *L, concur_executor *executor, int first, int count,
                              const concur_call_options *options,
                              concur_function_cache *functions) {
  concur_executors *executors = executor->owner;
  concur_loop *loop = executors->runtime->scheduler->loop;
  concur_call *call =
      concur_call_new(executor->pool, loop->mailbox, executor->settings, options->name);
  if (call == NULL) luaL_error(L, "not enough memory");
  if (executors->unanchored != NULL) concur_job_release(&executors->unanchored->job);
  executors->unanchored = call; /* what follows may raise: then the call is freed later */
  call_encode(L, call, first, count, functions);
  lua_pushvalue(L, -1);
  call->slot = concur_anchor(L, executors->runtime);
  executors->unanchored = NULL;
  call->job.run = concur_worker_run;
  call->job.mail.deliver = on_reply;
  call->job.mail.drop = on_reply_dropped;
  call->job.cancel_mail.deliver = concur_worker_on_cancel;
  call->job.cancel_mail.drop = concur_worker_drop_cancel;
  call->retries = options->retries;
  call->abandon = options->abandon;
  call->interrupt_after_ns = options->interrupt_after_ns;
  return call;
}

static void call_link(concur_call *call, concur_executor *executor, job_future *future) {
  concur_executors *executors = executor->owner;
  concur_loop *loop = executors->runtime->scheduler->loop;
  future->call = call;
  call->future = &future->future;
  call->executor = executor;
  call->holds_loop = true;
  loop->external_refs++;
  loop->spin = on_spin;
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
  concur_anchor_release(L, executor->owner->runtime, call->slot);
  concur_job_release(&call->job);
  if (error == UV_EAGAIN) return false;
  concur_os_error(L, executor->owner->runtime, error, "starting a worker thread", NULL, NULL);
  return lua_error(L) != 0;
}

bool concur_executor_submit(lua_State *L, concur_executor *executor, int first,
                            const concur_call_options *options, concur_function_cache *functions) {
  executor_check(L, executor);
  concur_runtime *runtime = executor->owner->runtime;
  (void)concur_scheduler_loop(L, runtime->scheduler);
  if (executor->bounded && !concur_pool_has_room(executor->pool)) return false;
  if (executor->settings->environment == NULL) {
    concur_environment_capture(L, executor->settings);
  }
  luaL_checkstack(L, 8, NULL);
  int count = lua_gettop(L) - first + 1;
  job_future *future =
      concur_class_new(L, runtime, CONCUR_CLASS_JOB_FUTURE, sizeof *future, FUTURE_VALUES);
  concur_future_init(&future->future, &job_future_ops);
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

/* ---- closing ---- */

void concur_executor_abandon(concur_executor *executor) {
  concur_executors *executors = executor->owner;
  if (executors == NULL) return;
  executor->abandoned = true;
  for (concur_node *node = executors->calls.next; node != &executors->calls; node = node->next) {
    concur_call *call = concur_container_of(node, concur_call, link);
    if (call->executor != executor) continue;
    call_let_loop_go(call);
    call_settle_quietly(call, CONCUR_CANCELLED);
  }
  concur_pool_detach(executor->pool);
}

/* Calls that have not been handed out yet go; the others are asked to stop. */
static void calls_cancel(concur_executors *executors, concur_loop *loop) {
  concur_node *node;
  while ((node = concur_list_pop(&executors->calls)) != NULL) {
    concur_call *call = concur_container_of(node, concur_call, link);
    concur_executor *executor = call->executor;
    concur_loop_stop_timer(loop, &call->interrupt_timer);
    call_let_loop_go(call);
    if (!concur_future_settled(call->future)) call->future->state = CONCUR_CANCELLED;
    job_future_of(call->future)->call = NULL;
    call->future = NULL;
    executor->references--;
    if (concur_job_cancel(&call->job) == CONCUR_JOB_TAKEN_OFF) {
      concur_job_release(&call->job);
    } /* else the pool or the mailbox holds the reference */
  }
  executors->call_count = 0;
}

static void report_stuck(concur_pool *pool, const char *pool_name) {
  enum { MOST = 16 };
  concur_running running[MOST];
  concur_interrupt_trace(pool);
  uint32_t count = concur_pool_list_running(pool, running, MOST);
  for (uint32_t i = 0; i < count && i < MOST; i++) {
    bool named = running[i].name[0] != '\0';
    fprintf(stderr,
            "concur: %s%s%s of %s has not stopped (it has run for %.1f s); its thread is left "
            "behind%s\n",
            named ? "job '" : "a job", running[i].name, named ? "'" : "", pool_name,
            (double)running[i].running_ns / 1e9, running[i].trace);
  }
}

/* Waits for the pool's threads and leaves behind those that do not end.  Busy Lua code gets a moment
   to see its token before it is interrupted, and is interrupted for good after half of the time. */
static void pool_finish(concur_pool *pool, const char *name, uint64_t begin_ns) {
  static const uint64_t stages_ns[] = {CLOSE_GRACE_NS / 20, CLOSE_GRACE_NS / 2, CLOSE_GRACE_NS};
  for (size_t i = 0; i < sizeof stages_ns / sizeof stages_ns[0]; i++) {
    if (i > 0) concur_interrupt_pool(pool);
    uint64_t passed_ns = uv_hrtime() - begin_ns;
    uint64_t left_ns = stages_ns[i] > passed_ns ? stages_ns[i] - passed_ns : 0;
    if (concur_pool_join(pool, left_ns) == 0) return;
  }
  report_stuck(pool, name);
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
    pool_finish(shared->pool, shared->settings->name, begin_ns);
    shared_empty(shared);
  }
  concur_node *node;
  while ((node = concur_list_pop(&executors->views)) != NULL) {
    concur_executor *executor = concur_container_of(node, concur_executor, link);
    if (executor->owns && !executor->abandoned) {
      pool_finish(executor->pool, executor->settings->name, begin_ns);
    }
    concur_node_unlink(&executor->flusher.node);
    executor->owner = NULL; /* what is left are userdata: they free it */
    executor->references++;
    concur_executor_release(executor);
  }
}

void concur_executor_close(lua_State *L, concur_runtime *runtime) {
  (void)L;
  concur_executors *executors = runtime->executors;
  concur_loop *loop = runtime->scheduler->loop;
  if (executors == NULL || concur_runtime_forked(runtime)) return;
  runtime->executors = NULL;
  if (loop != NULL) calls_cancel(executors, loop);
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
  concur_shared_pool_release(executors->shared);
  free(executors);
}
