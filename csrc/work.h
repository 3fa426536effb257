/* SPDX-License-Identifier: MIT */
/*
 * Work: a job in plain C on a pool's threads, for the loop of the Lua state that submits it.
 *
 * `run` does it on a pool thread; then `done` is called on the loop's thread, below uv_run (no
 * raising Lua call but through concur_loop_protect).  Work that was cancelled before it began is
 * done without having run.  When the state closes first, `done` is not called any more.  `free` is
 * the last call in every case.
 *
 * Who submits embeds the structure and holds no reference of its own: from submit to `free` it
 * belongs to the pool, and between submit and `done` it may be cancelled.
 */
#ifndef CONCUR_WORK_H
#define CONCUR_WORK_H

#include "executor.h"

#pragma GCC visibility push(hidden)

typedef struct concur_work concur_work;
struct concur_work {
  concur_job job;
  void (*run)(concur_work *work);                     /* [pool thread] */
  void (*done)(concur_work *work, concur_loop *loop); /* [loop thread] */
  void (*free)(concur_work *work);                    /* [any thread] */
};

/* [loop thread] The executor to work on: the given one, or with NULL the default pool's.  Raises
   unless something can be submitted to it here and now. */
concur_executor *concur_work_executor(lua_State *L, concur_runtime *runtime,
                                      concur_executor *executor);

/* [loop thread] Sets the job up.  The three functions are the caller's to set. */
void concur_work_init(concur_work *work, concur_executor *executor, concur_loop *loop);

/* [loop thread] Hands it over, and keeps a driver waiting until it is done.  0; or a libuv error
   code: then `free` was called.  UV_ENOBUFS: the queue is full; UV_ECANCELED: the pool is closed. */
int concur_work_submit(concur_loop *loop, concur_work *work);

/* [loop thread] Asks it to stop.  True when it had not begun: it will not run. */
bool concur_work_cancel(concur_work *work);

/* True when it never ran and never will. */
static inline bool concur_work_is_off(const concur_work *work) {
  return atomic_load(&work->job.state) == CONCUR_JOB_CANCELLED;
}

#pragma GCC visibility pop

#endif
