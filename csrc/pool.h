/* SPDX-License-Identifier: MIT */
/*
 * The pool: OS threads that run jobs.  No Lua.
 *
 * A *job* is a structure with a function that a pool thread runs and a mail that goes back to the
 * one who submitted it.  What a job does is its own affair: the executor's jobs run Lua code in a
 * state that the thread keeps (concur_thread.local), others are plain C and never make one.
 *
 * One mutex per pool guards the queue, the threads and the counters; it is never held while a job
 * runs, while mail is posted or while another lock is taken.  Threads start on demand, up to
 * `workers` that run jobs at the same time.  One that blocks in a wait for other jobs does not
 * count (concur_pool_block), so that nested jobs cannot starve each other; `thread_cap` bounds the
 * number of threads whatever happens.  A submitter wakes (or starts) one thread, which wakes the
 * next if there is more to do.
 *
 * Who frees what: a job is reference-counted.  The reference it is born with travels: queue, thread,
 * mail; deliver or drop gives it back.  A thread holds one reference to the pool and frees its own
 * structure when it was detached; else whoever joins it does.  The pool is reference-counted and
 * needs nobody: threads that were abandoned end by themselves, whenever their job lets them.
 */
#ifndef CONCUR_POOL_H
#define CONCUR_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "list.h"
#include "mailbox.h"

#pragma GCC visibility push(hidden)

typedef struct concur_pool concur_pool;
typedef struct concur_thread concur_thread;
typedef struct concur_job concur_job;
typedef struct concur_watch concur_watch;

typedef enum concur_job_state {
  CONCUR_JOB_NEW,      /* in nobody's queue yet */
  CONCUR_JOB_QUEUED,   /* in the pool's queue */
  CONCUR_JOB_HANDED,   /* with a hand that has not begun with it, as far as is known */
  CONCUR_JOB_RUNNING,  /* on a thread */
  CONCUR_JOB_ENDED,    /* its reply is on the way, or was delivered */
  CONCUR_JOB_CANCELLED /* never ran and never will; the reply says so (if one is sent) */
} concur_job_state;

enum { CONCUR_TRACE_SIZE = 1024 };

/* What a running job is doing: asked for by somebody, written by its own thread. */
typedef enum concur_trace_state {
  CONCUR_TRACE_NONE,
  CONCUR_TRACE_WANTED, /* the job's thread may write */
  CONCUR_TRACE_THERE   /* it is written, for good */
} concur_trace_state;

typedef enum concur_refusal {
  CONCUR_NOT_REFUSED,
  CONCUR_NO_THREAD, /* none could be started for it */
  CONCUR_ALL_WAIT   /* every thread that may exist waits for other jobs */
} concur_refusal;

struct concur_job {
  concur_node node;        /* submitter's batch, then the pool's queue (guarded by the pool) */
  concur_mail mail;        /* the reply; `deliver` and `drop` come from the kind of job */
  concur_mail cancel_mail; /* to the thread's own mailbox: "your job was cancelled" */
  concur_mailbox *reply;   /* one reference */
  concur_pool *pool;       /* borrowed: the submitter and then the thread hold the pool */
  concur_thread *thread;   /* guarded; not NULL while RUNNING */
  atomic_int references;
  atomic_int state;      /* concur_job_state; changes are guarded, looks are not */
  atomic_bool cancelled; /* the token: somebody wants it to stop */
  bool cancel_posted;    /* guarded: cancel_mail was used */
  bool nested;           /* a worker submitted it, and may wait for it in a thread of this very pool */
  uint8_t refused;       /* concur_refusal: why it came back CANCELLED though nobody cancelled it */
  atomic_uint_fast64_t started_ns; /* when it began to run; 0: not yet */
  const char *name;                /* owned by the kind of job until `free`; may be NULL */
  char *trace;            /* guarded: owned, CONCUR_TRACE_SIZE bytes; NULL until asked for */
  atomic_int trace_state; /* concur_trace_state: who may touch `trace` */
  void (*run)(concur_job *job, concur_thread *thread); /* [pool thread] */
  void (*free)(concur_job *job);                       /* [any thread] */
};

struct concur_thread {
  concur_node node;        /* in the pool's threads or ended; guarded */
  concur_pool *pool;       /* one reference, the thread's own */
  concur_job *job;         /* guarded; one reference; what it runs */
  concur_mailbox *mailbox; /* guarded; one reference; how a running job is reached, or NULL */
  uv_thread_t id;          /* written before the pool's mutex is first released */
  uint32_t number;         /* counts from 1 in its pool */
  bool detached;           /* guarded: nobody will join it */
  bool blocked;            /* guarded: waits for other jobs */
  uint8_t spin_misses;     /* [pool thread] spins in a row that saw no job */
  uint8_t spin_rest;       /* [pool thread] idle periods to pass without spinning */
  uint32_t handed;         /* guarded: of a hand, the jobs that it has */
  void *local;             /* [pool thread] what the jobs keep between them: a worker, or NULL */
  void (*local_free)(void *local); /* [pool thread] set with `local` */
};

typedef enum concur_job_cancel_end {
  CONCUR_JOB_TAKEN_OFF, /* it was queued: it never runs, no reply; its reference is the caller's */
  CONCUR_JOB_ASKED,     /* it runs: the token is set, the thread was told; the reply will come */
  CONCUR_JOB_TOO_LATE   /* it has ended: the reply is on the way */
} concur_job_cancel_end;

/*
 * Who runs the jobs of a pool that has no threads: its owner's loop hands them to something else
 * (processes).  All: [owner's thread], no lock held.
 */
typedef struct concur_pool_host {
  /* Jobs were queued, or the pool closes. */
  void (*stir)(void *host);
  /* Asks a HANDED or RUNNING job to stop; what concur_job_cancel is to say. */
  concur_job_cancel_end (*cancel)(void *host, concur_job *job);
  /* Takes every HANDED job back into the queue, as far as it has not begun. */
  void (*take_back)(void *host);
  /* Asks every job that has begun to stop. */
  void (*cancel_running)(void *host);
  /* See concur_pool_join and concur_pool_detach. */
  uint32_t (*join)(void *host, uint64_t timeout_ns);
  void (*detach)(void *host);
  /* The pool is gone. */
  void (*free)(void *host);
} concur_pool_host;

typedef struct concur_pool_settings {
  uint32_t workers;    /* jobs that run at the same time; at least 1 */
  uint32_t thread_cap; /* threads in all, those that are blocked included; at least `workers` */
  uint32_t queue_size; /* jobs that may wait; 0: no limit */
  uint32_t cores;      /* processors: with none to spare nobody spins */
  uint64_t idle_ns;    /* a thread without a job ends after this; UINT64_MAX: never */
  const concur_pool_host *host; /* static; NULL: threads run the jobs */
} concur_pool_settings;

typedef struct concur_pool_stats {
  uint32_t threads, idle, running, blocked, queued;
  uint64_t submitted, completed, cancelled, threads_started;
} concur_pool_stats;

/* ---- jobs ---- */

/* Zeroes the job and sets what it needs to travel.  `reply` is retained. */
void concur_job_init(concur_job *job, concur_pool *pool, concur_mailbox *reply);
void concur_job_retain(concur_job *job);
/* [any thread] The last one calls `free`. */
void concur_job_release(concur_job *job);
/* For who keeps jobs to use them again instead: true when the caller's reference is the last one; then
   lets go of what concur_job_init and the pool gave it. */
bool concur_job_is_last(const concur_job *job);
void concur_job_clear(concur_job *job);

/* [any thread] True once somebody asked the job to stop. */
static inline bool concur_job_is_cancelled(const concur_job *job) {
  return atomic_load(&job->cancelled);
}

/* [any thread that knows the job to be alive] */
concur_job_cancel_end concur_job_cancel(concur_job *job);

/* ---- pools ---- */

/* A pool with one reference and no thread, or NULL when out of memory. */
concur_pool *concur_pool_new(const concur_pool_settings *settings);
void concur_pool_retain(concur_pool *pool);
void concur_pool_release(concur_pool *pool);

/* [any thread] Queues the list of NEW jobs, which is empty afterwards.  0, or a libuv error code and
   the list unchanged: UV_ECANCELED when the pool is closing, UV_ENOBUFS when its queue is full, or
   why the first thread could not be started. */
int concur_pool_publish(concur_pool *pool, concur_node *jobs, uint32_t count);

/* [any thread] True when a job published now would be taken up at once. */
bool concur_pool_has_room(const concur_pool *pool);

/* [pool thread] The thread's job begins to wait for other jobs, or goes on.  If no thread can be
   started to run those, and none is left, they come back as refused; so do nested ones when all the
   threads that may exist wait. */
void concur_pool_block(concur_thread *thread, bool blocks);

/* [any thread] True when every thread that may exist but one is blocked: one more nested wait would
   hang.  Two threads may ask before either waits, so the last one that waits finds out again. */
bool concur_pool_exhausted(concur_pool *pool);

/* [pool thread] Sets how the running job is reached; retained.  True when the job was cancelled
   already, in which case no mail comes. */
bool concur_thread_set_mailbox(concur_thread *thread, concur_mailbox *mailbox);

/* [any thread] No job is accepted any more.  The queue is worked off, or with `drop` its jobs are
   cancelled, with a reply.  Idempotent. */
void concur_pool_close(concur_pool *pool, bool drop);
bool concur_pool_closing(const concur_pool *pool);

/* [any thread] Asks every running job to stop. */
void concur_pool_cancel_running(concur_pool *pool);

/* [any thread but the pool's own] Waits until every thread has ended, for at most `timeout_ns`, and
   joins those that have.  Returns how many are left. */
uint32_t concur_pool_join(concur_pool *pool, uint64_t timeout_ns);

/* [any thread] Gives up the threads that are left: they end by themselves, unjoined. */
void concur_pool_detach(concur_pool *pool);

/* [any thread] Joins threads that have ended already. */
void concur_pool_reap(concur_pool *pool);

/* [any thread] A number that was not given before, from 1. */
uint64_t concur_pool_next_number(concur_pool *pool);

/* How many jobs run at the same time at most. */
uint32_t concur_pool_workers(const concur_pool *pool);

void concur_pool_get_stats(concur_pool *pool, concur_pool_stats *stats);

/* A look at a running job. */
typedef struct concur_running {
  char name[64];                 /* empty: not named */
  char trace[CONCUR_TRACE_SIZE]; /* where it is; empty: not known */
  uint64_t running_ns;           /* for how long */
} concur_running;

/* [any thread] Fills in at most `capacity` entries; returns how many jobs run. */
uint32_t concur_pool_list_running(concur_pool *pool, concur_running *entries, uint32_t capacity);

/* [any thread] Calls `poke` with the thread that runs the job, if one does, under the pool's lock. */
void concur_pool_poke(concur_job *job, void (*poke)(uv_thread_t id));
/* The same for every running job that `wants` chooses. */
void concur_pool_poke_running(concur_pool *pool, bool (*wants)(concur_job *job),
                              void (*poke)(uv_thread_t id));

/* ---- hands: for a pool with a host, what stands in for a thread (pool_hand.c) ---- */

/* All: [owner's thread].  A hand is a concur_thread that its host owns, zeroed at first; it may have
   several jobs at a time.  A job that it has is the host's: with the reference that travels. */

/* Gives the pool its host; and asks for it. */
void concur_pool_set_host(concur_pool *pool, void *host);
void *concur_pool_get_host(const concur_pool *pool);

void concur_pool_add_hand(concur_pool *pool, concur_thread *hand);
/* It has no jobs any more. */
void concur_pool_remove_hand(concur_pool *pool, concur_thread *hand);

/* How many jobs are queued. */
uint32_t concur_pool_queued(const concur_pool *pool);
/* The first queued job, now HANDED to the hand; NULL when there is none. */
concur_job *concur_pool_hand_over(concur_pool *pool, concur_thread *hand);
/* The hand has begun with the job. */
void concur_hand_begins(concur_thread *hand, concur_job *job);
/* The hand gives a job back to the front of the queue. */
void concur_hand_gives_back(concur_thread *hand, concur_job *job);
/* Takes the first queued job off, as ENDED: nobody will run it.  NULL when there is none. */
concur_job *concur_pool_refuse(concur_pool *pool);
/* The job is over, as ENDED or CANCELLED; its mail is still to be sent (concur_job_reply). */
void concur_hand_is_done(concur_thread *hand, concur_job *job, concur_job_state state);

/* Sends the job back: its born reference goes with the mail.  [no lock held] */
void concur_job_reply(concur_job *job);

/* ---- watches: a mail when something happens to the pool, once ---- */

typedef enum concur_pool_event {
  CONCUR_POOL_ROOM,  /* a job left a full queue */
  CONCUR_POOL_ENDED, /* the pool closes and its last thread is ending */
  CONCUR_POOL_EVENTS /* how many there are */
} concur_pool_event;

struct concur_watch {
  concur_node node;      /* guarded by the pool */
  concur_mail mail;      /* deliver or drop, set by the owner, frees the watch */
  concur_mailbox *reply; /* one reference */
};

/* [any thread] Posts the watch's mail when the event comes (at once if it is already so). */
void concur_pool_watch(concur_pool *pool, concur_pool_event event, concur_watch *watch);
/* [any thread] True when the watch was taken back: it is the caller's.  False: its mail was or will
   be handed over, so the watch must be reachable still. */
bool concur_pool_unwatch(concur_pool *pool, concur_watch *watch);

#pragma GCC visibility pop

#endif
