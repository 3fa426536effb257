/* SPDX-License-Identifier: MIT */
/*
 * See process_worker.h.
 *
 * One thread does everything: it reads a frame, runs the job in it, and writes the result before it
 * looks at the next one.  What was written is in memory that the pool has too: it stays there when
 * this process dies in the next job.  A second thread sleeps until the pool's process is gone and then
 * ends this one, whatever it is doing.
 *
 * The jobs have a Lua state of their own, made by worker.c; the one that called us only waits.  The
 * concur_pool here has no threads: it is what worker.c expects around a job.
 */
#include "process_worker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "executor.h"
#include "platform.h"
#include "process_link.h"
#include "process_setup.h"
#include "worker.h"

enum {
  SPIN_NS = 20000, /* how long it looks for the next job before it sleeps */
  SPIN_MISSES = 3, /* spins in vain before it rests */
  SPIN_REST = 32,  /* sleeps without spinning first */
  SPIN_CLOCK_INTERVAL = 16
};

/* Of a frame from the pool, whose state has checked how large it may be: what a message can hold. */
static const size_t frame_limit = UINT32_MAX;

typedef struct process_worker {
  concur_link link;
  concur_frame_parser parser;
  concur_pool *pool;                /* one reference */
  concur_mailbox *replies;          /* one reference; nothing is ever posted */
  concur_worker_settings *settings; /* one reference; NULL until SETUP */
  concur_thread thread;             /* as worker.c sees this thread */
  concur_shared_pool *shared;       /* borrowed from the state that called us */
  bool may_spin;                    /* there is a core to spare */
  uint8_t spin_misses, spin_rest;
} process_worker;

static const concur_call_kind calls = {.flat = true};

/* ---- this process ---- */

/* The pool is gone, or talks nonsense: nobody wants to know how this ends. */
_Noreturn static void leave(void) {
  _Exit(EXIT_SUCCESS);
}

_Noreturn static void give_up(const char *why) {
  (void)fprintf(stderr, "concur: a worker process %s\n", why);
  _Exit(EXIT_FAILURE);
}

static void lifeline_main(void *argument) {
  concur_link_await_end((int)(intptr_t)argument);
  leave();
}

static void on_sigint(int number) {
  (void)number;
}

/* Ctrl-C reaches every process of a terminal: what becomes of the jobs is the pool's to decide.  A
   handler, unlike SIG_IGN, is not inherited by what the jobs start. */
static void leave_sigint_to_pool(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_sigint;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  (void)sigaction(SIGINT, &action, NULL);
}

/* Closes what this process inherited besides the standard streams and the socket. */
static void close_other_descriptors(void) {
  enum { KEEP = CONCUR_LINK_SOCKET_FD };
  DIR *directory = opendir("/dev/fd");
  if (directory == NULL) {
    /* GCOVR_EXCL_START: without /proc, as in a bare chroot */
    for (int fd = KEEP + 1; fd < 1024; fd++) (void)close(fd);
    return;
    /* GCOVR_EXCL_STOP */
  }
  int others[256];
  size_t count;
  do {
    const struct dirent *entry;
    count = 0;
    rewinddir(directory);
    /* NOLINTNEXTLINE(concurrency-mt-unsafe): nobody else reads this directory stream */
    while (count < sizeof others / sizeof others[0] && (entry = readdir(directory)) != NULL) {
      int fd = (int)strtol(entry->d_name, NULL, 10);
      if (fd > KEEP && fd != dirfd(directory)) others[count++] = fd;
    }
    for (size_t i = 0; i < count; i++) (void)close(others[i]);
  } while (count > 0);
  (void)closedir(directory);
}

static int start_lifeline(int socket) {
  uv_thread_t id;
  int error = uv_thread_create(&id, lifeline_main, (void *)(intptr_t)socket);
  if (error == 0) concur_platform_detach(id);
  return error;
}

/* ---- sending ---- */

static void await_bell(process_worker *worker) {
  (void)fflush(stdout);
  if (concur_link_await_bell(&worker->link) <= 0) leave();
}

static void publish(process_worker *worker) {
  if (concur_ring_publish(&worker->link.out)) concur_link_ring_bell(&worker->link);
}

static void send_bytes(process_worker *worker, const void *bytes, size_t size) {
  concur_ring *ring = &worker->link.out;
  const unsigned char *at = bytes;
  while (size > 0) {
    size_t written = concur_ring_write(ring, at, size);
    at += written;
    size -= written;
    if (size == 0) return;
    publish(worker);
    if (ring->damaged) leave();
    if (concur_ring_want_room(ring)) await_bell(worker);
  }
}

static void send_frame(process_worker *worker, const concur_frame *frame, const void *body) {
  unsigned char header[CONCUR_FRAME_HEADER];
  concur_frame_write(header, frame);
  send_bytes(worker, header, sizeof header);
  if (frame->size > 0) send_bytes(worker, body, (size_t)frame->size);
  publish(worker);
}

/* ---- receiving ---- */

/* Looks for a frame for a short time, if that was worth it lately. */
static bool spin(process_worker *worker) {
  if (!worker->may_spin) return false;
  if (worker->spin_rest > 0) {
    worker->spin_rest--;
    return false;
  }
  uint64_t end_ns = uv_hrtime() + SPIN_NS;
  bool found = false;
  do {
    for (int i = 0; i < SPIN_CLOCK_INTERVAL && !found; i++) {
      found = concur_ring_pending(&worker->link.in);
      concur_platform_pause();
    }
  } while (!found && uv_hrtime() < end_ns);
  worker->spin_misses = found ? 0 : (uint8_t)(worker->spin_misses + 1);
  if (worker->spin_misses >= SPIN_MISSES) {
    worker->spin_misses = 0;
    worker->spin_rest = SPIN_REST;
  }
  return found;
}

/* Waits for the next frame. */
static const concur_frame *next_frame(process_worker *worker) {
  concur_ring *ring = &worker->link.in;
  for (;;) {
    const unsigned char *bytes;
    size_t used, size = concur_ring_peek(ring, &bytes);
    if (size > 0) {
      concur_frame_state state = concur_frame_feed(&worker->parser, bytes, size, &used);
      concur_ring_skip(ring, used);
      if (concur_ring_release(ring)) concur_link_ring_bell(&worker->link);
      if (state == CONCUR_FRAME_WHOLE) return &worker->parser.frame;
      if (state == CONCUR_FRAME_MORE) continue;
      (void)fprintf(stderr, "concur: a worker's pool sent %s\n", worker->parser.error);
      _Exit(EXIT_FAILURE);
    }
    if (ring->damaged) leave();
    if (!spin(worker) && concur_ring_want_data(ring)) await_bell(worker);
  }
}

/* ---- jobs ---- */

static void answer(process_worker *worker, const concur_frame *job, const concur_call *call,
                   uint64_t took_ns) {
  uint64_t took_us = took_ns / 1000;
  concur_frame frame = {.kind = CONCUR_FRAME_RESULT,
                        .detail = call->outcome,
                        .slot = job->slot,
                        .extra = took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX,
                        .id = job->id};
  if (call->outcome == CONCUR_CALL_RESULTS && call->results.count >= 0) {
    frame.detail |= CONCUR_FRAME_INLINE;
    frame.size = sizeof call->results;
    send_frame(worker, &frame, &call->results);
  } else {
    frame.size = call->output != NULL ? call->output->size : 0;
    send_frame(worker, &frame, call->output != NULL ? call->output->bytes : NULL);
  }
  (void)concur_link_change_slot(&worker->link, job->slot, CONCUR_SLOT_STARTED,
                                CONCUR_SLOT_ANSWERED);
}

static void run_job(process_worker *worker, const concur_frame *given) {
  concur_frame job = *given;
  concur_message *input = concur_frame_take_body(&worker->parser);
  if (job.slot >= CONCUR_LINK_SLOTS || worker->settings == NULL) leave();
  if (!concur_link_change_slot(&worker->link, job.slot, CONCUR_SLOT_SENT, CONCUR_SLOT_STARTED)) {
    concur_message_free(input);
    concur_link_set_slot(&worker->link, job.slot, CONCUR_SLOT_FREE);
    concur_link_ring_bell(&worker->link); /* the pool may have waited for a free slot */
    return;
  }
  concur_call *call = concur_call_new(worker->pool, worker->replies, worker->settings, NULL);
  if (call == NULL) give_up("has not enough memory");
  call->input = input;
  concur_call_unpack_retries(call, job.extra);
  atomic_store(&call->job.state, CONCUR_JOB_RUNNING);
  call->job.thread = &worker->thread;
  worker->thread.job = &call->job;
  uint64_t begin_ns = uv_hrtime();
  concur_worker_run(&call->job, &worker->thread);
  answer(worker, &job, call, uv_hrtime() - begin_ns);
  worker->thread.job = NULL;
  concur_job_release(&call->job);
}

/* Makes the Lua state that the jobs will run in. */
static void set_up(process_worker *worker) {
  concur_message *setup = concur_frame_take_body(&worker->parser);
  if (worker->settings != NULL) leave();
  worker->settings = concur_process_setup_read(setup, &calls, worker->shared);
  concur_message_free(setup);
  if (worker->settings == NULL) {
    give_up("cannot be set up: not enough memory, or what its pool has sent is no set-up");
  }
  concur_frame frame = {.kind = CONCUR_FRAME_READY};
  if (concur_worker_prepare(worker->settings, &worker->thread)) {
    send_frame(worker, &frame, NULL);
    return;
  }
  concur_message *cause = concur_worker_settings_cause(worker->settings);
  frame.kind = CONCUR_FRAME_FAILED;
  frame.size = cause != NULL ? cause->size : 0;
  send_frame(worker, &frame, cause != NULL ? cause->bytes : NULL);
  concur_message_free(cause);
}

static void work(process_worker *worker) {
  for (;;) {
    const concur_frame *frame = next_frame(worker);
    switch ((concur_frame_kind)frame->kind) {
    case CONCUR_FRAME_SETUP: set_up(worker); break;
    case CONCUR_FRAME_JOB: run_job(worker, frame); break;
    case CONCUR_FRAME_QUIT: return;
    case CONCUR_FRAME_READY:
    case CONCUR_FRAME_FAILED:
    case CONCUR_FRAME_RESULT: leave(); break;
    }
  }
}

/* ---- the whole ---- */

static void on_wake(void *target) {
  (void)target;
}

static process_worker *worker_new(concur_shared_pool *shared) {
  static const concur_pool_settings limits = {.workers = 1, .thread_cap = 1, .idle_ns = UINT64_MAX};
  process_worker *worker = calloc(1, sizeof *worker);
  if (worker == NULL) return NULL;
  worker->pool = concur_pool_new(&limits);
  worker->replies = concur_mailbox_new(on_wake, NULL);
  if (worker->pool == NULL || worker->replies == NULL) {
    if (worker->pool != NULL) concur_pool_release(worker->pool);
    if (worker->replies != NULL) concur_mailbox_release(worker->replies);
    free(worker);
    return NULL;
  }
  worker->shared = shared;
  worker->thread.pool = worker->pool;
  worker->thread.number = (uint32_t)getpid();
  worker->may_spin = concur_platform_cpu_count() > 1;
  concur_frame_parser_init(&worker->parser, frame_limit);
  return worker;
}

/* The link stays open: the lifeline sleeps on it until the process ends. */
static void worker_free(process_worker *worker) {
  concur_thread *thread = &worker->thread;
  if (thread->local != NULL) thread->local_free(thread->local);
  if (thread->mailbox != NULL) concur_mailbox_release(thread->mailbox);
  if (worker->settings != NULL) concur_worker_settings_release(worker->settings);
  concur_frame_parser_free(&worker->parser);
  concur_mailbox_release(worker->replies);
  concur_pool_release(worker->pool);
  free(worker);
}

int concur_process_worker(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_runtime_check(L, runtime);
  concur_shared_pool *shared = concur_executors_of(L, runtime)->shared;
  process_worker *worker = worker_new(shared);
  if (worker == NULL) return luaL_error(L, "not enough memory");
  int error = concur_link_attach(&worker->link);
  if (error == 0) error = start_lifeline(worker->link.socket);
  if (error != 0) {
    worker_free(worker);
    return luaL_error(L, error == UV_EPROTO
                             ? "the pool of this worker belongs to another version of concur"
                             : "this is no process that a ProcessPoolExecutor has started");
  }
  close_other_descriptors();
  leave_sigint_to_pool();
  work(worker);
  worker_free(worker);
  return 0;
}
