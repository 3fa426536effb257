/* SPDX-License-Identifier: MIT */
/*
 * The event loop of one Lua state: the ready queue, the timer heap, the mailbox, libuv.
 *
 * Everything that waits to run is a `concur_ready` node in one FIFO; the loop knows nothing of
 * tasks.  One libuv timer is armed for the earliest deadline, one libuv async wakes the loop when
 * mail arrives.  Neither keeps the loop alive: what does is a libuv handle that its owner
 * references, or `external_refs` (jobs, futures held by C), or a timer in the heap.
 *
 * All functions: [loop thread].  The loop is malloc'd and owned by the scheduler (fiber.h); it is
 * freed by concur_loop_free, after every handle's close callback has run.
 *
 * No raising Lua call may happen below uv_run, except inside concur_loop_protect.
 */
#ifndef CONCUR_LOOP_H
#define CONCUR_LOOP_H

#include <uv.h>

#include "handle.h"
#include "heap.h"
#include "list.h"
#include "mailbox.h"
#include "support.h"

#pragma GCC visibility push(hidden)

typedef struct concur_loop concur_loop;
typedef struct concur_ready concur_ready;

struct concur_ready {
  concur_ready *next;
  const void *memory; /* what `run` touches first, to be fetched ahead; may be NULL */
  void (*run)(concur_loop *loop, concur_ready *ready);
};

/* A hook that runs each time the loop turns from running what is ready to waiting: publish
   gathered jobs, flush gathered writes.  Linked and owned by who needs it. */
typedef struct concur_flusher {
  concur_node node;
  void (*flush)(struct concur_flusher *flusher);
} concur_flusher;

/* Something that comes without a descriptor while the loop is awake: what other processes write into
   shared memory.  Linked in loop->sources, owned by who needs it. */
typedef struct concur_source {
  concur_node node;
  bool (*pending)(struct concur_source *source); /* there is something to collect: a cheap look */
  void (*collect)(struct concur_source *source); /* delivers it; loop->L is set */
  /* The loop is about to sleep: from here on a descriptor must wake it.  False: it must not sleep. */
  bool (*sleep)(struct concur_source *source);
} concur_source;

struct concur_loop {
  concur_ready *ready_head;
  concur_ready **ready_tail;
  lua_State *L;      /* the state that drives the loop; NULL while nothing does */
  bool leave;        /* set by what the driver waits for */
  bool stop;         /* EventLoop:stop, once what was ready before it has run */
  concur_ready stopper; /* sets `stop`; in the ready queue while `stopping` */
  bool stopping;
  bool interrupted;  /* SIGINT arrived (copied from the signal flag) */
  bool closing;      /* no Lua code runs any more */
  bool is_virtual;   /* virtual clock */
  uint64_t virtual_ns;
  uint64_t turned_ns;       /* when the driver's last turn ended */
  uint64_t polled_ns;       /* when libuv was last polled */
  const concur_ready *round_last; /* of those that were ready then, the last; NULL once it has run */
  uint32_t poll_interval;   /* steps between looks at the clock */
  uint64_t shuffle;         /* state of the generator that shuffles; 0 = first in, first out */
  /* Which of the first nodes may be moved before those that were there earlier; set with `shuffle`. */
  bool (*overtakes)(concur_loop *loop, const concur_ready *ready);
  concur_heap timers;
  uint32_t weak_timers;   /* of those in the heap, the ones that keep no driver waiting */
  concur_node flushers;
  concur_node processes;  /* of concur_process: children that are not gone (process.c) */
  concur_node handles;    /* of concur_handle: closed with the loop */
  struct concur_hub *hub; /* owned: what the streams share (hub.c); NULL until the first one */
  void (*hub_free)(struct concur_hub *hub);
  struct concur_dns *dns; /* owned: lookups on their way (dns.c); NULL until the first one */
  void (*dns_free)(struct concur_dns *dns);
  concur_node sources;    /* of concur_source */
  struct concur_signal_hub *signals; /* owned by signal.c: while receivers are open; else NULL */
  uint32_t external_refs; /* jobs in flight and futures held by C: they keep a driver waiting */
  /* Spins for mail for at most some microseconds before sleeping; NULL or set by the executor. */
  bool (*spin)(concur_loop *loop);
  /* NULL, or told before (true) and after (false) the loop may sleep in libuv (worker.c). */
  void (*blocking)(concur_loop *loop, bool begins);
  /* NULL, or called before each node is run (test hook). */
  void (*before_run)(concur_loop *loop);
  bool special;       /* shuffle, slow_ns or before_run is set: see concur_loop_specials */
  uint64_t slow_ns;   /* steps that take longer are reported; 0: not looked at */
  /* NULL, or called when nothing is ready and nothing was there to poll; true: look again. */
  bool (*on_idle)(concur_loop *loop);
  concur_mailbox *mailbox; /* one reference */
  concur_runtime *runtime; /* borrowed: outlives the loop */
  uv_loop_t uv;
  uv_timer_t timer;
  uv_async_t async;
  uint64_t armed_ns; /* what `timer` is armed for; CONCUR_NEVER when it is not */
};

/* A new loop, or NULL with *error set to a libuv code. */
concur_loop *concur_loop_new(concur_runtime *runtime, int *error);

/* Closes every handle, runs their close callbacks, frees the loop.  `closing` must be set. */
void concur_loop_free(concur_loop *loop);

/* Appends to the ready queue.  Never fails. */
static inline void concur_loop_ready(concur_loop *loop, concur_ready *ready) {
  ready->next = NULL;
  *loop->ready_tail = ready;
  loop->ready_tail = &ready->next;
}

/* The loop's clock, in nanoseconds: monotonic, or virtual. */
static inline uint64_t concur_loop_now(const concur_loop *loop) {
  return loop->is_virtual ? loop->virtual_ns : uv_hrtime();
}

/* The deadline that is `delay_ns` from now; CONCUR_NEVER stays never. */
static inline uint64_t concur_deadline_after(const concur_loop *loop, uint64_t delay_ns) {
  uint64_t now = concur_loop_now(loop);
  return delay_ns < CONCUR_NEVER - now ? now + delay_ns : CONCUR_NEVER;
}

/* Makes room in the heap for one more timer; false when out of memory. */
static inline bool concur_loop_reserve_timer(concur_loop *loop) {
  return concur_heap_reserve(&loop->timers);
}

/* Starts an idle timer for which room was reserved; CONCUR_NEVER starts nothing. */
static inline void concur_loop_start_timer(concur_loop *loop, concur_timer *timer,
                                           uint64_t deadline_ns) {
  if (deadline_ns != CONCUR_NEVER) concur_heap_insert(&loop->timers, timer, deadline_ns);
}

static inline void concur_loop_stop_timer(concur_loop *loop, concur_timer *timer) {
  if (timer->index != CONCUR_TIMER_IDLE) concur_heap_remove(&loop->timers, timer);
}

/* To be called after a change of shuffle, slow_ns or before_run. */
static inline void concur_loop_specials(concur_loop *loop) {
  loop->special = loop->shuffle != 0 || loop->slow_ns != 0 || loop->before_run != NULL;
}

typedef enum concur_drive_end {
  CONCUR_DRIVE_LEFT,        /* `leave` was set */
  CONCUR_DRIVE_DEADLOCK,    /* nothing is ready and nothing can come */
  CONCUR_DRIVE_INTERRUPTED, /* SIGINT */
  CONCUR_DRIVE_STOPPED,     /* EventLoop:stop */
  CONCUR_DRIVE_TIME_UP      /* step: the time given is over */
} concur_drive_end;

/* Runs until `leave` is set or one of the other ends.  Never raises. */
concur_drive_end concur_loop_drive(concur_loop *loop, lua_State *L);

/* Runs what is ready, then waits for at most `max_ns` for something to come and runs that. */
void concur_loop_step(concur_loop *loop, lua_State *L, uint64_t max_ns);

/* Nanoseconds until the loop, or libuv, has something to do: 0 when it has now, as long as libuv has
   not begun to watch some descriptor; CONCUR_NEVER when only a descriptor or mail can bring it. */
uint64_t concur_loop_next_timeout(concur_loop *loop);

/* True when a driver has something to wait for. */
bool concur_loop_alive(const concur_loop *loop);

/* True when there is mail, or a source has something. */
bool concur_loop_pending(const concur_loop *loop);

/* In the callback of a timer of libuv's, for there is something to collect: libuv (before 1.45) runs
   due timers before it polls, and would wait then for whatever else comes. */
void concur_loop_end_poll(concur_loop *loop);

/* Delivers what is there now, also when nothing drives the loop. */
void concur_loop_collect(concur_loop *loop, lua_State *L);

/* The one door from C callbacks into Lua: calls `function` with `data` as light userdata, under
   lua_pcall, on the driving state.  An error goes to on_error.  True on success. */
bool concur_loop_protect(concur_loop *loop, lua_CFunction function, void *data);

#pragma GCC visibility pop

#endif
