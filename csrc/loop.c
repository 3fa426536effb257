/* SPDX-License-Identifier: MIT */
/*
 * See loop.h.
 *
 * A turn of the driver: run what is ready, for about TURN_NS at most; fire the timers that are due;
 * deliver mail; let libuv look at its descriptors, until the earliest deadline.  If something is ready
 * it does not wait, and is not called each turn, because it is a system call or two: when the last
 * look is POLL_EVERY_NS old and everything that was ready then has had its step (what a look finds
 * queues behind it anyway, and stays with the system meanwhile), or POLL_AT_LEAST_NS old.  Looking at
 * the clock costs as much as half a task switch, so the number of steps between two looks follows the
 * measured length of a step.
 */
#include "loop.h"

#include <stdlib.h>

#include "platform.h"
#include "report.h"
#include "sigint.h"

enum { LONGEST_INTERVAL = 128, VIRTUAL_INTERVAL = 64 };

#define TURN_NS UINT64_C(50000)
#define POLL_EVERY_NS UINT64_C(200000)
#define POLL_AT_LEAST_NS UINT64_C(5000000)
#define NS_PER_MS UINT64_C(1000000)

/* ---- making and freeing ---- */

void concur_loop_end_poll(concur_loop *loop) {
  uv_stop(&loop->uv);
}

static void on_timer(uv_timer_t *timer) {
  concur_loop *loop = timer->data;
  loop->armed_ns = CONCUR_NEVER;
  concur_loop_end_poll(loop);
}

static void on_async(uv_async_t *async) {
  (void)async; /* waking up is all it is for */
}

static void loop_wake(void *target) {
  (void)uv_async_send(target);
}

static int loop_start_handles(concur_loop *loop) {
  int error = uv_timer_init(&loop->uv, &loop->timer);
  if (error != 0) return error;
  loop->timer.data = loop;
  uv_unref((uv_handle_t *)&loop->timer);
  error = uv_async_init(&loop->uv, &loop->async, on_async);
  if (error != 0) return error;
  loop->async.data = loop;
  (void)uv_run(&loop->uv, UV_RUN_NOWAIT); /* from here on its descriptor is watched: see fd */
  uv_unref((uv_handle_t *)&loop->async);
  loop->mailbox = concur_mailbox_new(loop_wake, &loop->async);
  return loop->mailbox == NULL ? UV_ENOMEM : 0;
}

static void on_walk(uv_handle_t *handle, void *data) {
  (void)data;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

static void loop_close_handles(concur_loop *loop) {
  concur_handle_close_all(&loop->handles);
  uv_walk(&loop->uv, on_walk, NULL);
  while (uv_loop_close(&loop->uv) == UV_EBUSY) uv_run(&loop->uv, UV_RUN_DEFAULT);
}

concur_loop *concur_loop_new(concur_runtime *runtime, int *error) {
  concur_platform_keep_memory();
  concur_loop *loop = calloc(1, sizeof *loop);
  *error = UV_ENOMEM;
  if (loop == NULL) return NULL;
  concur_platform_hold_standard_streams();
  *error = uv_loop_init(&loop->uv);
  if (*error != 0) {
    free(loop);
    return NULL;
  }
  loop->runtime = runtime;
  loop->ready_tail = &loop->ready_head;
  loop->poll_interval = 1;
  loop->armed_ns = CONCUR_NEVER;
  concur_list_init(&loop->flushers);
  concur_list_init(&loop->processes);
  concur_list_init(&loop->handles);
  concur_list_init(&loop->sources);
  *error = loop_start_handles(loop);
  if (*error != 0) {
    loop_close_handles(loop);
    free(loop);
    return NULL;
  }
  return loop;
}

void concur_loop_free(concur_loop *loop) {
  if (loop->dns != NULL) loop->dns_free(loop->dns);
  concur_mail *mail = concur_mailbox_close(loop->mailbox);
  while (mail != NULL) {
    concur_mail *next = mail->next;
    mail->drop(mail);
    mail = next;
  }
  concur_mailbox_release(loop->mailbox);
  concur_heap_free(&loop->timers);
  loop_close_handles(loop);
  if (loop->hub != NULL) loop->hub_free(loop->hub);
  free(loop);
}

/* ---- the parts of a turn ---- */

/* xorshift64*: good enough to shuffle, and the same everywhere. */
static uint64_t shuffle_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(2685821657736338717);
}

/* Moves one of the first nodes to the front, chosen by the seed, unless it must keep its turn. */
static void ready_shuffle(concur_loop *loop) {
  enum { WINDOW = 16 };
  uint64_t skip = shuffle_next(&loop->shuffle) % WINDOW;
  concur_ready **link = &loop->ready_head;
  while (skip-- > 0 && (*link)->next != NULL) link = &(*link)->next;
  concur_ready *chosen = *link;
  if (link == &loop->ready_head || !loop->overtakes(loop, chosen)) return;
  *link = chosen->next;
  if (loop->ready_tail == &chosen->next) loop->ready_tail = link;
  chosen->next = loop->ready_head;
  loop->ready_head = chosen;
}

static void report_slow(concur_loop *loop, uint64_t took_ns) {
  lua_State *L = loop->L;
  if (!lua_checkstack(L, LUA_MINSTACK)) return;
  lua_pushnumber(L, (lua_Number)took_ns / 1e9);
  concur_report_safely(L, loop->runtime, "slow callback, in seconds");
}

static void run_timed(concur_loop *loop, concur_ready *ready) {
  uint64_t start = uv_hrtime();
  ready->run(loop, ready);
  uint64_t took = uv_hrtime() - start;
  if (took > loop->slow_ns) report_slow(loop, took);
}

static concur_ready *ready_pop(concur_loop *loop) {
  concur_ready *ready = loop->ready_head;
  concur_ready *next = ready->next;
  loop->ready_head = next;
  if (ready == loop->round_last) loop->round_last = NULL;
  if (next == NULL) {
    loop->ready_tail = &loop->ready_head;
  } else { /* with many tasks, what the next ones need is far away: it comes while this one runs */
    concur_platform_prefetch(next->memory);
    concur_platform_prefetch(next->next);
  }
  return ready;
}

/* With test hooks, shuffling or timing. */
static void run_one_specially(concur_loop *loop) {
  if (loop->shuffle != 0) ready_shuffle(loop);
  concur_ready *ready = ready_pop(loop);
  if (loop->before_run != NULL) loop->before_run(loop);
  if (loop->slow_ns != 0) {
    run_timed(loop, ready);
  } else {
    ready->run(loop, ready);
  }
}

/* Runs at most `limit` ready nodes; stops early when the driver may leave. */
static void run_ready(concur_loop *loop, uint32_t limit) {
  while (loop->ready_head != NULL && limit-- > 0) {
    if (loop->special) {
      run_one_specially(loop);
    } else {
      concur_ready *ready = ready_pop(loop);
      ready->run(loop, ready);
    }
    if (loop->leave || loop->stop) return;
  }
}

static void fire_timers(concur_loop *loop) {
  if (loop->timers.count == 0) return;
  uint64_t now = concur_loop_now(loop);
  while (loop->timers.count > 0 && concur_heap_deadline(&loop->timers) <= now) {
    concur_timer *first = concur_heap_pop(&loop->timers);
    first->fire(first, loop);
  }
}

static void deliver_mail(concur_loop *loop) {
  concur_mail *mail = concur_mailbox_take(loop->mailbox);
  while (mail != NULL) {
    concur_mail *next = mail->next; /* deliver may free the mail */
    mail->deliver(mail, loop);
    mail = next;
  }
}

static bool sources_pending(const concur_loop *loop) {
  for (concur_node *node = loop->sources.next; node != &loop->sources; node = node->next) {
    concur_source *source = concur_container_of(node, concur_source, node);
    if (source->pending(source)) return true;
  }
  return false;
}

static void collect_sources(concur_loop *loop) {
  for (concur_node *node = loop->sources.next; node != &loop->sources;) {
    concur_source *source = concur_container_of(node, concur_source, node);
    node = node->next;
    if (source->pending(source)) source->collect(source); /* may unlink it */
  }
}

/* False when something has come meanwhile. */
static bool sources_sleep(concur_loop *loop) {
  for (concur_node *node = loop->sources.next; node != &loop->sources; node = node->next) {
    concur_source *source = concur_container_of(node, concur_source, node);
    if (!source->sleep(source)) return false;
  }
  return true;
}

/* What other threads and processes have sent. */
static void deliver(concur_loop *loop) {
  deliver_mail(loop);
  if (!concur_list_empty(&loop->sources)) collect_sources(loop);
}

bool concur_loop_pending(const concur_loop *loop) {
  return concur_mailbox_pending(loop->mailbox) || sources_pending(loop);
}

static void flush(concur_loop *loop) {
  for (concur_node *node = loop->flushers.next; node != &loop->flushers;) {
    concur_flusher *flusher = concur_container_of(node, concur_flusher, node);
    node = node->next;
    flusher->flush(flusher);
  }
}

/* Arms the libuv timer for `deadline_ns`, rounded up to its milliseconds. */
static void arm(concur_loop *loop, uint64_t deadline_ns) {
  if (deadline_ns == loop->armed_ns) return;
  loop->armed_ns = deadline_ns;
  if (deadline_ns == CONCUR_NEVER) {
    (void)uv_timer_stop(&loop->timer);
    return;
  }
  uv_update_time(&loop->uv);
  uint64_t now = uv_hrtime();
  uint64_t wait_ns = deadline_ns > now ? deadline_ns - now : 0;
  (void)uv_timer_start(&loop->timer, on_timer, (wait_ns + NS_PER_MS - 1) / NS_PER_MS, 0);
}

/* Lets libuv look at its descriptors, waiting as `mode` says.  uv_run does not poll at all with
   nothing referenced, and only polling makes it watch new descriptors. */
static void poll_libuv(concur_loop *loop, uv_run_mode mode) {
  uv_ref((uv_handle_t *)&loop->async);
  uv_run(&loop->uv, mode);
  uv_unref((uv_handle_t *)&loop->async);
  loop->round_last =
      loop->ready_head == NULL ? NULL : concur_container_of(loop->ready_tail, concur_ready, next);
  loop->polled_ns = loop->turned_ns = uv_hrtime();
}

static void poll_now(concur_loop *loop) {
  poll_libuv(loop, UV_RUN_NOWAIT);
}

/* Waits in libuv until something comes or the deadline passes. */
static void poll_wait(concur_loop *loop, uint64_t deadline_ns) {
  if (!concur_mailbox_sleep(loop->mailbox)) return;
  if (!sources_sleep(loop)) {
    concur_mailbox_awake(loop->mailbox);
    return;
  }
  arm(loop, deadline_ns);
  if (loop->blocking != NULL) loop->blocking(loop, true);
  poll_libuv(loop, UV_RUN_ONCE);
  if (loop->blocking != NULL) loop->blocking(loop, false);
  concur_mailbox_awake(loop->mailbox);
}

bool concur_loop_alive(const concur_loop *loop) {
  return loop->ready_head != NULL || loop->timers.count > loop->weak_timers || loop->external_refs > 0 ||
         uv_loop_alive(&loop->uv) || concur_loop_pending(loop);
}

/* True when the turn has lasted long enough although something is ready. */
static bool turn_over(concur_loop *loop) {
  if (loop->is_virtual) return true; /* by steps alone, so that a run can be repeated */
  uint64_t elapsed = uv_hrtime() - loop->turned_ns;
  if (elapsed < TURN_NS / 2) {
    if (loop->poll_interval < LONGEST_INTERVAL) loop->poll_interval *= 2;
    return false;
  }
  if (elapsed > TURN_NS * 2) {
    uint64_t interval = loop->poll_interval * TURN_NS / elapsed;
    loop->poll_interval = interval > 0 ? (uint32_t)interval : 1;
  }
  return elapsed >= TURN_NS;
}

/* Ends a turn with something ready: looks at the descriptors if that is due. */
static void turn(concur_loop *loop) {
  loop->turned_ns = uv_hrtime();
  uint64_t due_ns = loop->round_last == NULL ? POLL_EVERY_NS : POLL_AT_LEAST_NS;
  if (loop->is_virtual || loop->turned_ns - loop->polled_ns >= due_ns) poll_now(loop);
}

/* Tells who waits for the loop to be idle, after one empty poll; true when it is not any more. */
static bool announce_idle(concur_loop *loop) {
  if (loop->on_idle == NULL || loop->external_refs > 0) return false;
  poll_now(loop);
  deliver(loop);
  return loop->ready_head != NULL || loop->on_idle(loop);
}

/* Waits for something to come, at most until `limit_ns` on the real clock.  Nothing is ready. */
static void idle(concur_loop *loop, uint64_t limit_ns) {
  if (loop->is_virtual) {
    poll_now(loop); /* the one empty poll: what is there already comes first */
    deliver(loop);
    if (loop->ready_head != NULL) return;
    if (loop->external_refs == 0 && loop->timers.count > 0) {
      uint64_t deadline = concur_heap_deadline(&loop->timers);
      if (deadline > loop->virtual_ns) loop->virtual_ns = deadline;
      return;
    }
    poll_wait(loop, limit_ns);
    return;
  }
  if (loop->external_refs > 0 && loop->spin != NULL && loop->spin(loop)) return;
  uint64_t deadline = concur_heap_deadline(&loop->timers);
  poll_wait(loop, deadline < limit_ns ? deadline : limit_ns);
}

/* What comes before running: due timers, mail, reports, an interrupt.  */
static void collect(concur_loop *loop) {
  fire_timers(loop);
  deliver(loop);
  if (loop->runtime->reports_pending) concur_report_flush(loop->L, loop->runtime);
  if (concur_sigint_take(loop)) loop->interrupted = true;
}

/* ---- drivers ---- */

static void enter(concur_loop *loop, lua_State *L) {
  loop->L = L;
  loop->leave = false;
  loop->polled_ns = loop->turned_ns = uv_hrtime();
}

static void leave(concur_loop *loop) {
  flush(loop);
  loop->L = NULL;
}

concur_drive_end concur_loop_drive(concur_loop *loop, lua_State *L) {
  concur_drive_end end = CONCUR_DRIVE_LEFT;
  enter(loop, L);
  collect(loop);
  for (;;) {
    run_ready(loop, loop->is_virtual ? VIRTUAL_INTERVAL : loop->poll_interval);
    if (loop->leave) break;
    if (loop->ready_head != NULL && !loop->stop && !turn_over(loop)) continue;
    flush(loop);
    if (loop->stop) { /* timers that are due by now are the next driver's */
      loop->stop = false;
      end = CONCUR_DRIVE_STOPPED;
      break;
    }
    collect(loop);
    if (loop->interrupted) {
      loop->interrupted = false;
      end = CONCUR_DRIVE_INTERRUPTED;
      break;
    }
    if (loop->ready_head != NULL) {
      turn(loop);
    } else if (announce_idle(loop)) {
      continue;
    } else if (!concur_loop_alive(loop)) {
      end = CONCUR_DRIVE_DEADLOCK;
      break;
    } else {
      idle(loop, CONCUR_NEVER);
    }
    collect(loop);
  }
  leave(loop);
  return end;
}

void concur_loop_step(concur_loop *loop, lua_State *L, uint64_t max_ns) {
  uint64_t now = uv_hrtime();
  uint64_t limit = max_ns > CONCUR_NEVER - now ? CONCUR_NEVER : now + max_ns;
  concur_mailbox_awake(loop->mailbox);
  enter(loop, L);
  poll_now(loop);
  collect(loop);
  if (loop->ready_head == NULL && max_ns > 0 && !loop->leave) {
    flush(loop);
    idle(loop, limit);
    collect(loop);
  }
  /* What is ready now, but not what that makes ready: a host's turn must end. */
  uint32_t count = 0;
  for (concur_ready *ready = loop->ready_head; ready != NULL; ready = ready->next) count++;
  run_ready(loop, count);
  loop->stop = false; /* nothing here that it could stop */
  if (loop->runtime->reports_pending) concur_report_flush(loop->L, loop->runtime);
  leave(loop);
  /* From here the host sleeps on the descriptor: whoever posts must wake it. */
  if (!concur_mailbox_sleep(loop->mailbox) || !sources_sleep(loop)) loop_wake(&loop->async);
}

/* When libuv itself has something to do, whatever comes: a timer of its own, a handle to close, a
   descriptor that only polling makes it watch. */
static uint64_t uv_due_ns(concur_loop *loop, uint64_t now) {
  uv_update_time(&loop->uv);
  uv_ref((uv_handle_t *)&loop->async);
  int wait_ms = uv_backend_timeout(&loop->uv);
  uv_unref((uv_handle_t *)&loop->async);
  return wait_ms < 0 ? CONCUR_NEVER : now + (uint64_t)wait_ms * NS_PER_MS;
}

uint64_t concur_loop_next_timeout(concur_loop *loop) {
  if (loop->ready_head != NULL || concur_loop_pending(loop) || loop->runtime->reports_pending) {
    return 0;
  }
  if (loop->is_virtual && loop->timers.count > 0) return 0;
  uint64_t now = uv_hrtime();
  uint64_t deadline = concur_heap_deadline(&loop->timers);
  uint64_t uv_deadline = uv_due_ns(loop, now);
  if (uv_deadline < deadline) deadline = uv_deadline;
  if (deadline == CONCUR_NEVER) return CONCUR_NEVER;
  return deadline > now ? deadline - now : 0;
}

void concur_loop_collect(concur_loop *loop, lua_State *L) {
  lua_State *outer = loop->L;
  if (outer == NULL) loop->L = L;
  deliver(loop);
  loop->L = outer;
}

bool concur_loop_protect(concur_loop *loop, lua_CFunction function, void *data) {
  lua_State *L = loop->L;
  if (loop->closing || L == NULL || !lua_checkstack(L, LUA_MINSTACK)) return false;
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, data);
  if (lua_pcall(L, 1, 0, 0) == LUA_OK) return true;
  concur_report_safely(L, loop->runtime, "error in a callback");
  return false;
}
