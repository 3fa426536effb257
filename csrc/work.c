/* SPDX-License-Identifier: MIT */
/* See work.h.  The job's mail is what calls `done`; `free` is what the job's last release calls. */
#include "work.h"

static concur_work *work_of_job(concur_job *job) {
  return concur_container_of(job, concur_work, job);
}

static void work_run(concur_job *job, concur_thread *thread) {
  (void)thread;
  concur_work *work = work_of_job(job);
  work->run(work);
}

static void on_done(concur_mail *mail, void *owner) {
  concur_work *work = concur_container_of(mail, concur_work, job.mail);
  concur_loop *loop = owner;
  concur_executors *executors = loop->runtime->executors;
  executors->work_count--;
  loop->external_refs--;
  work->done(work, loop);
  concur_job_release(&work->job);
}

static void on_dropped(concur_mail *mail) {
  concur_job_release(&concur_container_of(mail, concur_work, job.mail)->job);
}

static void work_free(concur_job *job) {
  concur_work *work = work_of_job(job);
  concur_pool *pool = job->pool;
  work->free(work);
  concur_pool_release(pool);
}

concur_executor *concur_work_executor(lua_State *L, concur_runtime *runtime,
                                      concur_executor *executor) {
  (void)concur_scheduler_loop(L, runtime->scheduler);
  if (executor == NULL) executor = concur_executor_default(L, runtime);
  concur_executor_check(L, executor);
  return executor;
}

void concur_work_init(concur_work *work, concur_executor *executor, concur_loop *loop) {
  concur_job_init(&work->job, executor->pool, loop->mailbox);
  concur_pool_retain(executor->pool); /* it may outlive the state, and all who know the pool */
  work->job.nested = loop->runtime->worker != NULL;
  work->job.run = work_run;
  work->job.free = work_free;
  work->job.mail.deliver = on_done;
  work->job.mail.drop = on_dropped;
}

int concur_work_submit(concur_loop *loop, concur_work *work) {
  concur_node one;
  concur_list_init(&one);
  concur_list_append(&one, &work->job.node);
  int error = concur_pool_publish(work->job.pool, &one, 1);
  if (error != 0) {
    concur_node_unlink(&work->job.node);
    concur_job_release(&work->job);
    return error;
  }
  concur_executors *executors = loop->runtime->executors;
  executors->work_count++;
  loop->spin = concur_executor_spin;
  loop->external_refs++;
  return 0;
}

bool concur_work_cancel(concur_work *work) {
  if (concur_job_cancel(&work->job) != CONCUR_JOB_TAKEN_OFF) return false;
  /* The reference that the queue had goes with the mail. */
  concur_mailbox *reply = work->job.reply;
  if (!concur_mailbox_post(reply, &work->job.mail)) work->job.mail.drop(&work->job.mail);
  return true;
}
