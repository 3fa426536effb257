/* SPDX-License-Identifier: MIT */
/*
 * Process pools: the host (pool.h) that hands the jobs of a pool to child processes.
 *
 *   process_pool.c   how many workers there are, who gets which job, crashes, the end
 *   process_child.c  one worker as its pool sees it: starting it, its link, its slots, its stderr
 *   process_worker.c the program in the worker
 *
 * All on the loop's thread.  Nothing here waits, except for closing the state.  libuv's callbacks only
 * note what has happened; everything else is done when the loop collects (concur_source), where Lua
 * may be called through the loop's door.
 *
 * Memory: the process pool is malloc'd and lives as long as its concur_pool, whose host it is, and
 * until its timer is closed.  A child is malloc'd and freed when its process is gone and its handles
 * are closed.  docs/design/process-pool.md has the rest.
 */
#ifndef CONCUR_PROCESS_POOL_H
#define CONCUR_PROCESS_POOL_H

#include "call.h"
#include "loop.h"
#include "process.h"
#include "process_link.h"

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
  uint64_t grace_ns;    /* from TERM to KILL */
  uint32_t most_crashes; /* in a row, without a finished job between them; then the pool is broken */
  size_t limit;         /* bytes of one message */
} concur_process_command;

void concur_process_command_free(concur_process_command *command);

/* ---- the pool ---- */

struct concur_process_pool {
  concur_source source;   /* in loop->sources until the end */
  concur_loop *loop;      /* borrowed; NULL once it was left */
  concur_pool *pool;      /* borrowed: this is its host */
  concur_worker_settings *settings; /* one reference; its `extra` is the command */
  concur_message *setup;  /* owned; what each worker is sent first; NULL until the first one */
  concur_node children;   /* of concur_child, those whose process was not seen to end */
  uint32_t child_count;
  uint64_t next_id;       /* of jobs */
  uint64_t job_ns;        /* how long jobs take, about; 0: not known yet */
  uint32_t crashes;       /* in a row */
  uint32_t failed_starts; /* in a row */
  uint64_t crash_count;   /* ever */
  uint64_t not_before_ns; /* when the next worker may be started; uv_hrtime */
  bool stirring;          /* inside of dispatch */
  bool gone;              /* the concur_pool is */
  bool timer_closed;
  uv_timer_t timer;       /* for back-off, idle workers, workers that do not quit */
};

extern const concur_pool_host concur_process_pool_host;

/* Makes the host of a pool.  NULL, with *error set, when it cannot. */
concur_process_pool *concur_process_pool_new(concur_loop *loop, concur_pool *pool,
                                             concur_worker_settings *settings, int *error);

/* What a child reports. */
void concur_process_pool_ready(concur_process_pool *pool, concur_child *child);
void concur_process_pool_init_failed(concur_process_pool *pool, concur_message *error);
void concur_process_pool_answered(concur_process_pool *pool, concur_child *child, concur_call *call,
                                  uint64_t took_ns);

/* Sends a call's reply; gives the reference to it away. */
void concur_process_pool_reply(concur_process_pool *pool, concur_call *call);

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
  bool revoked;      /* what is left of it in the link will be skipped */
  concur_job *ghost; /* one reference: of a revoked call that is half sent */
  concur_outgoing outgoing;
} concur_child_slot;

enum { CONCUR_STDERR_TAIL = 4096 };

struct concur_child {
  concur_node node;          /* in pool->children */
  concur_process_pool *pool; /* borrowed; NULL once it was removed from it */
  concur_thread hand;
  concur_process *process;   /* owned until its end was handled */
  concur_link link;
  concur_frame_parser parser;
  concur_node outgoing;      /* of concur_outgoing */
  concur_outgoing setup, quit;
  concur_child_slot slots[CONCUR_LINK_SLOTS];
  uint32_t sent_jobs;
  uint64_t idle_since_ns;    /* while it has no job; uv_hrtime */
  uint64_t quit_at_ns;       /* when it was told to quit */
  uint8_t stderr_mode;
  bool ready;                /* it has run init */
  bool quitting;             /* it was told that no job will come */
  bool ending;               /* it is being ended by force */
  bool look;                 /* bells, or its end: something to collect */
  bool ended;                /* its process has ended */
  bool blocked;              /* the ring is full */
  int handles;               /* libuv's, not yet closed */
  int stderr_fd;             /* owned: where its stderr is read; -1: not at all */
  size_t tail_size;
  char complaint[128];       /* what was wrong with what it sent; "": nothing */
  char tail[CONCUR_STDERR_TAIL]; /* the end of its stderr */
  uv_poll_t bell, stderr_poll;
};

/* Starts a worker for the pool.  NULL, with *error set, when that is not possible. */
concur_child *concur_child_start(concur_process_pool *pool, int *error);

/* True when it may be given a job. */
bool concur_child_accepts(const concur_child *child);
/* Hands a job to it; the pool has one, and it accepts. */
void concur_child_send(concur_child *child, concur_job *job, uint64_t id);
/* Tells it that no job will come: it ends by itself. */
void concur_child_quit(concur_child *child);
/* Ends it by TERM, then KILL; or (now) by KILL. */
void concur_child_end(concur_child *child, bool now);

/* Takes the newest job back that it has not begun with; NULL when there is none. */
concur_call *concur_child_take_back(concur_child *child);
/* Takes back this call; false when it has begun. */
bool concur_child_revoke(concur_child *child, concur_call *call);

/* True when it wants to be collected. */
bool concur_child_pending(concur_child *child);
/* Takes what has come out of the link, and sends what waits for room. */
void concur_child_collect(concur_child *child);
/* True when it will ring its bell from here on; see concur_source. */
bool concur_child_sleep(concur_child *child);

/* The first of its calls, in the order of sending, from the slot's id on; NULL at the end. */
concur_child_slot *concur_child_first_slot(concur_child *child);

/* What is said of its end: a message for CONCUR_CALL_CRASHED; NULL when out of memory. */
concur_message *concur_child_obituary(const concur_child *child);

/* It has left the pool: closes everything, frees it in the end. */
void concur_child_release(concur_child *child);

#pragma GCC visibility pop

#endif
