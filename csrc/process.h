/* SPDX-License-Identifier: MIT */
/*
 * Child processes: started with uv_spawn, noticed when they end, ended in order, always reaped.
 *
 * A concur_process is malloc'd and belongs to one loop, in whose list it is; who started it holds it
 * until concur_process_release.  It frees itself when it was released, has ended and was reaped.
 *
 * States:  RUNNING -> ENDED (its exit status is known) -> GONE (reaped; nothing of it is waited for)
 *
 * How an exit is noticed: on Linux by a descriptor of the process (pidfd), so that neither libuv nor
 * anybody else needs SIGCHLD; where there is none, by libuv.  docs/design/processes.md says why.
 *
 * All functions: [loop thread].  None of them raises, and none needs a Lua state.
 */
#ifndef CONCUR_PROCESS_H
#define CONCUR_PROCESS_H

#include "loop.h"

#pragma GCC visibility push(hidden)

typedef enum concur_process_state {
  CONCUR_PROCESS_RUNNING,
  CONCUR_PROCESS_ENDED,
  CONCUR_PROCESS_GONE
} concur_process_state;

/* All is borrowed for the call. */
typedef struct concur_process_options {
  const char *file; /* searched in the child's PATH unless there is a slash in it */
  char **args;      /* ends with NULL; args[0] is the name that the child sees */
  char **env;       /* "NAME=value" ..., ends with NULL; NULL: the environment of this process */
  const char *cwd;  /* NULL: that of this process */
  const int *fds;   /* what the child gets as its descriptors 0, 1, ...; they stay the caller's.
                       -1: /dev/null below 3, nothing from there on */
  int fd_count;
  bool own_group;   /* a session and process group of its own: it is ended with all its children */
  bool detached;    /* own_group, and it is left alone when it is released or the loop closes */
  bool hold;        /* with own_group: stays a zombie until concur_process_end or _release, so that
                       its group can still be named when only grandchildren are left */
  int64_t uid, gid; /* -1: as this process */
  uint64_t grace_ns; /* from TERM to KILL; CONCUR_NEVER: no KILL */
} concur_process_options;

typedef struct concur_process {
  concur_node node;    /* in loop->processes until GONE */
  concur_loop *loop;   /* borrowed; valid until GONE */
  /* The owner's: called at each change of state, below uv_run: must not raise.  Not called any more
     after the release, nor when the loop closes, which makes it GONE. */
  void (*on_change)(struct concur_process *process);
  void *owner;
  int pid;
  int pidfd;           /* owned; -1: libuv tells when it ends */
  concur_process_state state;
  int code;            /* from ENDED on; -1 when a signal ended it, or it is not known */
  int signal;          /* the signal that ended it; 0: none */
  bool status_lost;    /* something else in this process has reaped it */
  bool own_group, detached, hold;
  bool ending;         /* it was asked to end */
  bool killed;         /* KILL was sent to what is left of its group, or since the loop closes */
  bool released;
  uint64_t grace_ns;
  uint64_t kill_at_ns; /* while ending; uv_hrtime */
  uint64_t look_ms;    /* while the rest of the group is looked for: until the next look */
  int handles;         /* of the three below, how many are not closed yet */
  uv_process_t uv;
  uv_poll_t poll;
  uv_timer_t timer;
} concur_process;

/* Starts a program.  0, or a libuv error code: UV_ENOENT, UV_EACCES, UV_EAGAIN, ...  Sets `on_change`
   and `owner` to NULL: nothing is told before the loop runs again. */
int concur_process_spawn(concur_loop *loop, const concur_process_options *options,
                         concur_process **result);

/* Sends a signal to the process, not to its group.  UV_ESRCH once it has ended. */
int concur_process_kill(concur_process *process, int number);

/* Asks it to end, with own_group the whole group: TERM now, KILL when the grace time is over, reaped.
   Idempotent. */
void concur_process_end(concur_process *process);

/* The same without a grace time. */
void concur_process_end_now(concur_process *process);

/* Whether its running keeps the loop alive; true at first.  False where nobody waits for it, or
   somebody who is known to the loop by other means. */
void concur_process_ref(concur_process *process, bool ref);

/* Reaps one that was held and has ended, and leaves its group alone. */
void concur_process_let_go(concur_process *process);

/* Frees it, at once or when it is GONE.  If it still runs it is ended, unless it is detached. */
void concur_process_release(concur_process *process);

/* For tests: with false, children that are started from now on, by any loop, are watched as on systems
   without pidfd. */
void concur_process_use_pidfd(bool use);

#pragma GCC visibility pop

#endif
