/* SPDX-License-Identifier: MIT */
/*
 * See capi_job.h.
 *
 * A job is one block: the reference that the work function sees, and the work that the pool sees.
 * The work holds one reference to the promise, and the block is freed with the promise.  `drop` is called
 * once: after delivery, or, when there is none any more, with the work's last reference.
 */
#include "capi_job.h"

#include <stdlib.h>

#include "pool_class.h"
#include "work.h"

/* What the options had in version 1.  Fields that are appended count if `size` covers them. */
#define OPTIONS_SIZE (offsetof(concur_job_options, pool) + sizeof(int))

typedef struct c_job {
  concur_future_ref ref; /* first: the block is freed through it */
  concur_work work;
  concur_work_fn function;
  concur_push_fn done;
  concur_drop_fn drop; /* NULL: nothing to do, or it was called */
  void *data;
  bool worked; /* the function was called; written before the mail is sent */
} c_job;

static c_job *job_of_work(concur_work *work) {
  return concur_container_of(work, c_job, work);
}

static void job_drop(c_job *job) {
  concur_drop_fn drop = job->drop;
  job->drop = NULL;
  if (drop != NULL) drop(job->data);
}

static void on_run(concur_work *work) {
  c_job *job = job_of_work(work);
  if (!concur_promise_begin(&job->ref.promise)) return;
  job->worked = true;
  job->function(&job->ref, job->data);
  concur_promise_end(&job->ref.promise);
}

/* What the future of a job that no thread has run fails with. */
static concur_promise_error refusals[] = {
    [CONCUR_NO_THREAD] = {"BrokenExecutor", "no thread could be started for the job"},
    [CONCUR_ALL_WAIT] = {"InvalidState", "cannot submit: all threads of the pool have jobs that wait "
                                         "for other jobs, and no more may be started"}};

static void on_done(concur_work *work, concur_loop *loop) {
  c_job *job = job_of_work(work);
  concur_payload *payload = &job->ref.promise.payload;
  if (payload->kind == CONCUR_PAYLOAD_NONE && job->worked) {
    payload->kind = CONCUR_PAYLOAD_RESULTS;
    payload->push = job->done;
    payload->data = job->data;
  } else if (payload->kind == CONCUR_PAYLOAD_NONE && work->job.refused != CONCUR_NOT_REFUSED) {
    payload->kind = CONCUR_PAYLOAD_ERROR;
    payload->data = &refusals[work->job.refused];
  } /* else it has settled itself; or it never ran, and is cancelled */
  concur_capi_future_deliver(&job->ref, loop);
  job_drop(job);
}

static void on_work_free(concur_work *work) {
  c_job *job = job_of_work(work);
  job_drop(job);
  concur_promise_release(&job->ref.promise);
}

static void on_promise_free(concur_promise *promise) {
  c_job *job = concur_container_of(promise, c_job, ref.promise);
  free(job->ref.name);
  free(job);
}

/* ---- submitting ---- */

typedef struct submission {
  concur_capi *capi;
  c_job call; /* function, done, drop, data */
  const concur_job_options *options;
  bool taken; /* the job has the data */
} submission;

static const concur_job_options no_options = {.size = sizeof(concur_job_options)};

/* A job for the executor, with everything but its future; NULL when out of memory. */
static c_job *job_new(const submission *self, concur_executor *executor, concur_loop *loop) {
  c_job *job = calloc(1, sizeof *job);
  if (job == NULL) return NULL;
  concur_promise *promise = &job->ref.promise;
  if (!concur_capi_future_set_name(&job->ref, self->options->name) ||
      concur_promise_init(promise, loop->mailbox, true) != 0) {
    free(job->ref.name);
    free(job);
    return NULL;
  }
  promise->free = on_promise_free;
  promise->cancel = self->options->cancel;
  promise->cancel_data = self->call.data;
  job->function = self->call.function;
  job->done = self->call.done;
  job->drop = self->call.drop;
  job->data = self->call.data;
  concur_work_init(&job->work, executor, loop);
  job->work.job.name = job->ref.name;
  job->work.run = on_run;
  job->work.done = on_done;
  job->work.free = on_work_free;
  job->ref.work = &job->work;
  return job;
}

static int raise_refused(lua_State *L, concur_runtime *runtime, const concur_executor *executor,
                         int error) {
  const char *name = executor->settings->name;
  if (error == UV_ENOBUFS) {
    return concur_error_raise(L, runtime, "WouldBlock", "the queue of %s is full", name);
  }
  if (error == UV_ECANCELED) {
    /* GCOVR_EXCL_START: since it was checked, by another thread */
    return concur_error_raise(L, runtime, "Closed", "cannot submit: %s was shut down", name);
    /* GCOVR_EXCL_STOP */
  }
  concur_os_error(L, runtime, error, "starting a worker thread", NULL, NULL);
  return lua_error(L);
}

/* The executor that the options ask for.  Raises. */
static concur_executor *find_executor(lua_State *L, concur_runtime *runtime, int pool) {
  if (lua_isnil(L, pool)) return concur_work_executor(L, runtime, NULL);
  bool of_threads = concur_class_test(L, pool, CONCUR_CLASS_POOL) != NULL;
  concur_pool_view *view = of_threads ? concur_pool_view_test(L, pool) : NULL;
  if (view == NULL) {
    luaL_error(L,
               "submit of concur.h: options->pool must be the stack index of a "
               "ThreadPoolExecutor, not of %s",
               concur_type_name(L, pool));
  }
  return concur_work_executor(L, runtime, view->executor);
}

/* Arguments: the submission, a pool or nil.  Returns the future. */
static int l_submit(lua_State *L) {
  submission *self = lua_touserdata(L, 1);
  concur_capi *capi = self->capi;
  concur_runtime *runtime = capi->runtime;
  concur_loop *loop = concur_capi_loop(L, capi);
  concur_executor *executor = find_executor(L, runtime, 2);
  int slot = concur_capi_future_push(L, capi);
  c_job *job = job_new(self, executor, loop);
  if (job == NULL) {
    concur_anchor_release(L, runtime, slot);
    return luaL_error(L, "not enough memory");
  }
  self->taken = true;
  int error = concur_work_submit(loop, &job->work);
  if (error != 0) {
    concur_anchor_release(L, runtime, slot);
    return raise_refused(L, runtime, executor, error);
  }
  /* It may run already; its mail is delivered on this thread. */
  concur_capi_future_bind(L, capi, slot, &job->ref);
  return 1;
}

/* What is wrong with the options, or NULL. */
static const char *check_options(const concur_job_options *options) {
  if (options->size >= OPTIONS_SIZE) return NULL;
  return "submit of concur.h: options->size must be sizeof(concur_job_options)";
}

void concur_capi_submit(lua_State *L, concur_work_fn work, concur_push_fn done, concur_drop_fn drop,
                        void *data, const concur_job_options *options) {
  submission self = {.options = options != NULL ? options : &no_options};
  self.call.function = work;
  self.call.done = done;
  self.call.drop = drop;
  self.call.data = data;
  self.capi = concur_capi_test(L, "submit");
  const char *wrong = check_options(self.options);
  if (self.capi == NULL) wrong = "submit of concur.h: concur is not loaded in this Lua state";
  if (wrong != NULL || !lua_checkstack(L, 4)) {
    if (drop != NULL) drop(data);
    luaL_error(L, "%s", wrong != NULL ? wrong : "stack overflow");
  }
  int pool = self.options->pool != 0 ? lua_absindex(L, self.options->pool) : 0;
  lua_pushcfunction(L, l_submit);
  lua_pushlightuserdata(L, &self);
  if (pool != 0) {
    lua_pushvalue(L, pool);
  } else {
    lua_pushnil(L);
  }
  if (lua_pcall(L, 2, 1, 0) == LUA_OK) return;
  if (!self.taken && drop != NULL) drop(data);
  lua_error(L);
}
