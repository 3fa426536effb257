/* SPDX-License-Identifier: MIT */
/*
 * Process pools: the host (pool.h) that hands the jobs of a pool to child processes.
 *
 *   process_pool.c   how many workers there are, who gets which job, crashes, the end
 *   process_child.c  one worker as its pool sees it: starting it, its link, its slots, its stderr
 *   process_worker.c the program in the worker
 *
 * All on the loop's thread, and without Lua: replies go through the loop's mailbox, like those of
 * threads.  Nothing here waits, except for closing the state.  libuv's callbacks only note what has
 * happened; it is dealt with when the loop collects (concur_source).
 *
 * Memory: the process pool is malloc'd and lives as long as its concur_pool, whose host it is, and
 * until its timer is closed.  A child is malloc'd and freed when it has left the pool and its handles
 * are closed.  docs/design/process-pool.md has the rest.
 */
#ifndef CONCUR_PROCESS_POOL_H
#define CONCUR_PROCESS_POOL_H

#include "call.h"
#include "handle.h"
#include "loop.h"
#include "process.h"
#include "process_link.h"
#include "process_setup.h"

#pragma GCC visibility push(hidden)

typedef struct concur_process_pool concur_process_pool;
typedef struct concur_child concur_child;

typedef enum concur_child_stderr {
  CONCUR_STDERR_INHERIT, /* the worker writes where this process does */
  CONCUR_STDERR_TEE,     /* the same, and its end is kept for WorkerCrashed */
  CONCUR_STDERR_DISCARD
} concur_child_stderr;

/* How to start workers.  Owned, with all in it. */
typedef struct concur_process_command {
  char **args; /* the program and its arguments; ends with NULL */
  concur_child_stderr stderr_mode;
  uint64_t grace_ns; /* from TERM to KILL */
  uint64_t start_ns; /* from the start of a process until it must have attached */
  uint32_t
      most_crashes; /* in a row, without a finished job between them; then the pool is broken */
  size_t limit;     /* bytes of one message */
} concur_process_command;

void concur_process_command_free(concur_process_command *command);

/* ---- the pool ---- */

struct concur_process_pool {
  concur_source source;             /* in loop->sources until the end */
  concur_loop *loop;                /* borrowed; NULL once it was left */
  concur_pool *pool;                /* borrowed: this is its host */
  concur_worker_settings *settings; /* one reference; its `extra` is the command */
  concur_message *setup; /* owned; what each worker is sent first; NULL until the first one */
  concur_node children;  /* of concur_child, those whose process was not seen to end */
  uint32_t child_count;
  uint64_t next_id;       /* of jobs */
  uint64_t job_ns;        /* how long jobs take, about; 0: not known yet */
  uint32_t ahead;         /* jobs that one worker is given at a time */
  uint64_t idle_ns;       /* after which a worker without jobs ends */
  bool bounded;           /* the queue has a limit: jobs wait there, not in workers */
  uint32_t crashes;       /* in a row */
  uint32_t failed_starts; /* in a row */
  uint64_t crash_count;   /* ever */
  uint64_t not_before_ns; /* when the next worker may be started; uv_hrtime */
  bool held_up;           /* another worker would be started, but for that */
  uint64_t due_ns;        /* what the timer is armed for */
  bool due;               /* the timer has fired */
  bool stirring;          /* inside of dispatch */
  bool gone;              /* the concur_pool is; freed with the timer */
  concur_handle handle;   /* of `timer` */
  uv_timer_t timer;       /* for back-off, idle workers, workers that do not quit */
};

extern const concur_pool_host concur_process_pool_host;

/* Makes the host of a pool, which owns it from then on.  NULL when out of memory. */
concur_process_pool *concur_process_pool_new(concur_loop *loop, concur_pool *concur,
                                             concur_worker_settings *settings, uint64_t idle_ns,
                                             bool bounded);

/* Kinds of calls (call.h): how much a job's state is known, ending jobs by force. */
void concur_process_pool_refresh(concur_call *call);
uint64_t concur_process_pool_crashes(concur_pool *concur);
void concur_process_pool_trace(concur_pool *concur);
void concur_process_pool_interrupt(concur_call *call);
void concur_process_pool_interrupt_all(concur_pool *concur);

/* What a child reports. */
void concur_process_pool_ready(concur_process_pool *pool);
/* Takes the message. */
void concur_process_pool_init_failed(concur_process_pool *pool, concur_message *error);
/* The call has its outcome, and is not the child's any more. */
void concur_process_pool_answered(concur_process_pool *pool, concur_child *child, concur_call *call,
                                  uint64_t took_ns);

/* ---- one worker ---- */

/* What is on its way into the link. */
typedef struct concur_outgoing {
  concur_node node; /* in child->outgoing until all of it was sent */
  unsigned char header[CONCUR_FRAME_HEADER];
  const concur_message *body; /* borrowed; NULL: none */
  size_t sent;                /* bytes, of header and body together */
} concur_outgoing;

typedef struct concur_child_slot {
  concur_call *call; /* with the reference that travels; NULL: none */
  uint64_t id;
  concur_job *ghost; /* one reference: of a revoked call that is half sent */
  concur_outgoing outgoing;
} concur_child_slot;

enum { CONCUR_STDERR_TAIL = 4096 };

struct concur_child {
  concur_node node;          /* in pool->children */
  concur_process_pool *pool; /* borrowed; NULL once it has left */
  concur_thread hand;
  concur_process *process; /* owned; NULL once it has left */
  concur_link link;
  concur_frame_parser parser;
  concur_node outgoing; /* of concur_outgoing */
  concur_outgoing setup, quit;
  concur_child_slot slots[CONCUR_LINK_SLOTS];
  uint32_t sent_jobs;
  uint64_t idle_since_ns; /* while it has no job; uv_hrtime */
  uint64_t leave_by_ns;   /* once it should end by itself: when it is ended by force; or NEVER */
  uint64_t attach_by_ns;  /* until it has attached: when it is given up; or NEVER */
  bool ready;             /* it has run init */
  bool late;              /* it had not attached by then */
  bool quitting;          /* it was told that no job will come */
  bool lost;              /* its end of the link is closed, and nobody told it to end */
  bool ending;            /* it is being ended by force */
  bool look;              /* a bell has rung, or the process has ended */
  bool ended;             /* the process has ended; code and signal say how */
  bool blocked;           /* there was no room in the link; its bell will ring */
  int code, signal;
  int stderr_fd; /* owned: where its stderr is read; -1: not at all */
  int handles;   /* of the two below, those that are not closed */
  concur_handle bell_handle, stderr_handle;
  uv_poll_t bell, stderr_poll;
  char complaint[192]; /* what was wrong with what it sent; "": nothing */
  size_t tail_size;
  char tail[CONCUR_STDERR_TAIL]; /* the end of its stderr */
};

/* Starts a worker for the pool.  NULL, with *error set, when that is not possible. */
concur_child *concur_child_start(concur_process_pool *pool, int *error);

/* Looks whether the worker has attached in time; if not, it is ended, and its obituary says why. */
void concur_child_check_attached(concur_child *child, uint64_t now_ns);

/* True when it may be given a job. */
bool concur_child_accepts(const concur_child *child);
/* A slot that one more job can be put into; NULL when there is none.  The child's own process takes
   part in the answer, so the next one may be another. */
concur_child_slot *concur_child_free_slot(concur_child *child);
/* Hands a job to it, which accepts, in this free slot. */
void concur_child_send(concur_child *child, concur_child_slot *slot, concur_job *job, uint64_t id);
/* Tells it that no job will come: it ends by itself. */
void concur_child_quit(concur_child *child);
/* Ends it by TERM, then KILL; or (now) by KILL. */
void concur_child_end(concur_child *child, bool now);

/* Takes the call in the slot back, unless it has begun with it (false).  The slot is empty then. */
bool concur_child_revoke(concur_child *child, concur_child_slot *slot);

/* True when it wants to be collected. */
bool concur_child_pending(concur_child *child);
/* Takes what has come out of the link, and sends what waits for room. */
void concur_child_collect(concur_child *child);
/* True when it will ring its bell from here on; see concur_source. */
bool concur_child_sleep(concur_child *child);

/* The call that it has or will have begun with: its oldest; NULL when it has none. */
concur_child_slot *concur_child_oldest(concur_child *child);
concur_child_slot *concur_child_newest(concur_child *child);
/* True when it has begun with the call in the slot. */
bool concur_child_has_begun(const concur_child *child, const concur_child_slot *slot);
/* True when its result is in the link. */
bool concur_child_has_answered(const concur_child *child, const concur_child_slot *slot);
/* It has no business with the call any more; returns it. */
concur_call *concur_child_empty(concur_child *child, concur_child_slot *slot);

/* What is said of its end: a message for CONCUR_CALL_CRASHED; NULL when out of memory. */
concur_message *concur_child_obituary(const concur_child *child);

/* It has left the pool: closes everything, frees it in the end. */
void concur_child_release(concur_child *child);

#pragma GCC visibility pop

#endif
