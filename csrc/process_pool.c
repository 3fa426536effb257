/* SPDX-License-Identifier: MIT */
/*
 * See process_pool.h: who gets which job, crashes, the end.
 *
 * Everything that may have changed who could do what ends in `dispatch`: it fills the workers, starts
 * new ones, takes jobs back from those that are behind for those that have none, tells workers to
 * quit, and sets the timer for what has to wait.
 */
#include "process_pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <uv.h>

/* A worker is handed about this much work ahead, if its jobs are short. */
#define AHEAD_NS UINT64_C(300000)

enum {
  MOST_FAILED_STARTS = 3, /* in a row: then the pool is broken */
  FIRST_BACK_OFF_MS = 5,  /* after the second crash in a row; doubles */
  LONGEST_BACK_OFF_MS = 1000
};

#define NS_PER_MS UINT64_C(1000000)

static void dispatch(concur_process_pool *pool);

static const concur_process_command *command_of(const concur_process_pool *pool) {
  return pool->settings->extra;
}

void concur_process_command_free(concur_process_command *command) {
  if (command == NULL) return;
  for (char **arg = command->args; arg != NULL && *arg != NULL; arg++) free(*arg);
  free(command->args);
  free(command);
}

/* False when there is nothing to do any more: the loop was closed, or this is a child of a fork by the
   host, whose parent has the workers. */
static bool is_at_work(const concur_process_pool *pool) {
  return pool->loop != NULL && !concur_runtime_forked(pool->loop->runtime);
}

static concur_child *child_of(concur_node *node) {
  return concur_container_of(node, concur_child, node);
}

/* ---- a pool that is broken ---- */

/* Sends what is queued back: it cannot be run. */
static void refuse_queue(concur_process_pool *pool) {
  concur_job *job;
  while ((job = concur_pool_refuse(pool->pool)) != NULL) {
    concur_call *call = concur_container_of(job, concur_call, job);
    call->outcome = CONCUR_CALL_BROKEN;
    call->output = concur_worker_settings_cause(pool->settings);
    concur_job_reply(job);
  }
}

/* Takes the cause, which may be NULL.  What runs goes on.  The first cause counts, also when there was
   no memory for it: `crashed` says what it is. */
static void pool_break(concur_process_pool *pool, concur_message *cause, bool crashed) {
  if (atomic_load(&pool->settings->broken)) {
    concur_message_free(cause);
    return;
  }
  pool->settings->crashed = crashed;
  concur_worker_settings_break(pool->settings, cause);
}

void concur_process_pool_ready(concur_process_pool *pool) {
  pool->failed_starts = 0;
}

void concur_process_pool_init_failed(concur_process_pool *pool, concur_message *error) {
  pool_break(pool, error, false);
}

/* ---- starting workers ---- */

/* What every worker is sent first (process_setup.h); false when out of memory. */
static bool pool_setup(concur_process_pool *pool) {
  if (pool->setup == NULL) {
    pool->setup = concur_process_setup_new(pool->settings, command_of(pool)->limit);
  }
  return pool->setup != NULL;
}

static uint64_t back_off_ns(uint32_t crashes) {
  uint64_t delay_ms = 0;
  if (crashes >= 2) {
    uint32_t doubles = crashes - 2 < 16 ? crashes - 2 : 16;
    delay_ms = (uint64_t)FIRST_BACK_OFF_MS << doubles;
  }
  return (delay_ms < LONGEST_BACK_OFF_MS ? delay_ms : LONGEST_BACK_OFF_MS) * NS_PER_MS;
}

/* Why no process could be started, as a concur_crash. */
static concur_message *start_error(const concur_process_pool *pool, int error) {
  const char *program = command_of(pool)->args[0];
  concur_crash crash = {.code = -1, .error = error, .text_size = (uint32_t)strlen(program)};
  concur_message *message = concur_message_new(sizeof crash + crash.text_size);
  if (message == NULL) return NULL;
  memcpy(message->bytes, &crash, sizeof crash);
  memcpy(message->bytes + sizeof crash, program, crash.text_size);
  message->size = message->capacity;
  return message;
}

/* The system may have room for another process later. */
static bool is_shortage(int error) {
  return error == UV_EAGAIN || error == UV_ENOMEM || error == UV_EMFILE || error == UV_ENFILE;
}

static concur_child *start_child(concur_process_pool *pool) {
  int error = UV_ENOMEM;
  concur_child *child = pool_setup(pool) ? concur_child_start(pool, &error) : NULL;
  if (child != NULL) return child;
  pool->failed_starts++;
  pool->not_before_ns = uv_hrtime() + back_off_ns(pool->failed_starts + 1);
  bool patient = is_shortage(error) &&
                 (pool->child_count > 0 || pool->failed_starts < command_of(pool)->most_crashes);
  if (!patient) pool_break(pool, start_error(pool, error), true);
  return NULL;
}

/* ---- handing jobs out ---- */

/* How many jobs one worker is given at a time. */
static uint32_t jobs_ahead(const concur_process_pool *pool) {
  if (pool->job_ns == 0) return 1;
  uint64_t count = 1 + AHEAD_NS / pool->job_ns;
  return count < CONCUR_LINK_SLOTS ? (uint32_t)count : CONCUR_LINK_SLOTS;
}

/* Who is given the next job: a worker that has none, else a new one, else one that is fast enough to
   have some ahead; NULL: it waits. */
static concur_child *choose_child(concur_process_pool *pool) {
  concur_child *best = NULL;
  uint32_t count = 0; /* of workers that count: those that end make room for others */
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    concur_child *child = child_of(node);
    if (!child->quitting && !child->ending && !child->ended) count++;
    uint32_t handed = child->hand.handed;
    bool better = best == NULL || handed < best->hand.handed;
    if (!better || !concur_child_accepts(child) || concur_child_free_slot(child) == NULL)
      continue;
    if (handed == 0) return child;
    best = child;
  }
  pool->held_up = count < concur_pool_workers(pool->pool);
  if (pool->held_up && uv_hrtime() >= pool->not_before_ns) {
    concur_child *child = start_child(pool);
    if (child != NULL) return child;
  }
  return best != NULL && best->hand.handed < pool->ahead ? best : NULL;
}

/* The next job goes to the child, which accepts; false when that cannot be. */
static bool send_job(concur_process_pool *pool, concur_child *child) {
  concur_child_slot *slot = concur_child_free_slot(child);
  concur_job *job = slot != NULL ? concur_pool_hand_over(pool->pool, &child->hand) : NULL;
  if (job == NULL) return false;
  concur_child_send(child, slot, job, ++pool->next_id);
  return true;
}

static void send_jobs(concur_process_pool *pool) {
  while (concur_pool_queued(pool->pool) > 0 && !atomic_load(&pool->settings->broken)) {
    concur_child *child = choose_child(pool);
    if (child == NULL || !send_job(pool, child)) return;
  }
}

/* The call goes back to the front of the queue, if the worker has not begun with it. */
static bool take_back(concur_child *child, concur_child_slot *slot) {
  concur_call *call = slot->call;
  if (!concur_child_revoke(child, slot)) return false;
  concur_hand_gives_back(&child->hand, &call->job);
  return true;
}

/* Nothing is queued: a worker without jobs takes one that waits behind another worker's, or, if it
   can begin at once, for the start of one. */
static void share_jobs(concur_process_pool *pool) {
  concur_child *idle = NULL, *behind = NULL;
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    concur_child *child = child_of(node);
    bool free = child->hand.handed == 0 && concur_child_accepts(child) &&
                concur_child_free_slot(child) != NULL;
    if (free && (idle == NULL || child->ready)) idle = child;
    bool has_more = child->hand.handed > (child->ready ? 1 : 0);
    if (has_more && (behind == NULL || child->hand.handed > behind->hand.handed)) behind = child;
  }
  if (idle == NULL || behind == NULL || (behind->hand.handed == 1 && !idle->ready)) return;
  if (take_back(behind, concur_child_newest(behind))) (void)send_job(pool, idle);
}

/* ---- ends ---- */

/* Tells workers to quit that are not needed: the pool closes, they have done their jobs, or they were
   idle for too long. */
static void retire(concur_process_pool *pool, bool closing) {
  uint64_t now_ns = uv_hrtime();
  uint32_t most_jobs = pool->settings->max_jobs;
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    concur_child *child = child_of(node);
    if (now_ns >= child->leave_by_ns && !child->ended) concur_child_end(child, true);
    concur_child_check_attached(child, now_ns);
    if (child->hand.handed > 0 || child->quitting || child->lost) continue;
    bool worn = most_jobs != 0 && child->sent_jobs >= most_jobs;
    bool unused = pool->idle_ns != CONCUR_NEVER && now_ns - child->idle_since_ns >= pool->idle_ns;
    if (closing || worn || unused) concur_child_quit(child);
  }
}

static void on_timer(uv_timer_t *timer) {
  concur_process_pool *pool = concur_container_of(timer, concur_process_pool, timer);
  pool->due_ns = CONCUR_NEVER;
  pool->due = true;
  concur_loop_end_poll(pool->loop);
}

static uint64_t earlier(uint64_t one_ns, uint64_t other_ns) {
  return one_ns < other_ns ? one_ns : other_ns;
}

/* Arms the timer for the next thing that has to wait for its time. */
static void arm_timer(concur_process_pool *pool) {
  bool held_up = pool->held_up && concur_pool_queued(pool->pool) > 0;
  uint64_t due_ns = held_up ? pool->not_before_ns : CONCUR_NEVER;
  uint64_t now_ns = uv_hrtime();
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    const concur_child *child = child_of(node);
    if (!child->ending) due_ns = earlier(due_ns, earlier(child->leave_by_ns, child->attach_by_ns));
    bool may_idle = child->hand.handed == 0 && !child->quitting && !child->lost;
    if (may_idle && pool->idle_ns != CONCUR_NEVER) {
      due_ns = earlier(due_ns, child->idle_since_ns + pool->idle_ns);
    }
  }
  if (due_ns == pool->due_ns) return;
  pool->due_ns = due_ns;
  if (due_ns == CONCUR_NEVER) {
    (void)uv_timer_stop(&pool->timer);
    return;
  }
  uint64_t wait_ns = due_ns > now_ns ? due_ns - now_ns : 0;
  uv_update_time(&pool->loop->uv);
  (void)uv_timer_start(&pool->timer, on_timer, wait_ns / NS_PER_MS + 1, 0);
}

static void dispatch(concur_process_pool *pool) {
  if (!is_at_work(pool) || pool->loop->closing || pool->stirring) return;
  pool->stirring = true;
  bool closing = concur_pool_closing(pool->pool);
  send_jobs(pool);
  if (atomic_load(&pool->settings->broken)) refuse_queue(pool);
  bool empty = concur_pool_queued(pool->pool) == 0;
  if (empty) share_jobs(pool);
  retire(pool, closing && empty);
  arm_timer(pool);
  if (closing && empty && pool->child_count == 0) {
    concur_pool_close(pool->pool, false); /* tells those who wait for the end */
  }
  pool->stirring = false;
}

/* ---- what workers bring ---- */

void concur_process_pool_answered(concur_process_pool *pool, concur_child *child, concur_call *call,
                                  uint64_t took_ns) {
  if (took_ns == 0) took_ns = 1000;
  pool->job_ns = pool->job_ns == 0 ? took_ns : pool->job_ns - pool->job_ns / 8 + took_ns / 8;
  pool->ahead = pool->bounded ? 1 : jobs_ahead(pool);
  pool->crashes = 0;
  concur_hand_is_done(&child->hand, &call->job, CONCUR_JOB_ENDED);
  concur_job_reply(&call->job);
}

/* The worker has ended while it ran the call. */
static void call_crashed(concur_child *child, concur_call *call) {
  concur_thread *hand = &child->hand;
  bool asked = concur_job_is_cancelled(&call->job);
  if (!asked && call->retries > 0) {
    call->retries--;
    concur_hand_gives_back(hand, &call->job);
    return;
  }
  concur_message_free(call->output);
  call->output = asked ? NULL : concur_child_obituary(child);
  call->outcome = asked ? CONCUR_CALL_CANCELLED : CONCUR_CALL_CRASHED;
  concur_hand_is_done(hand, &call->job, CONCUR_JOB_ENDED);
  concur_job_reply(&call->job);
}

/* What a worker that has ended leaves behind: newest first, so that the queue has them in order. */
static void bury_calls(concur_child *child) {
  concur_child_slot *slot;
  while ((slot = concur_child_newest(child)) != NULL) {
    bool begun = concur_child_has_begun(child, slot);
    concur_call *call = concur_child_empty(child, slot);
    if (begun) {
      call_crashed(child, call);
    } else {
      concur_hand_gives_back(&child->hand, &call->job);
    }
  }
}

static void count_crash(concur_process_pool *pool, const concur_child *child) {
  pool->crash_count++;
  pool->crashes++;
  /* Not killed, or for this: it does not work. */
  if (!child->ready && (child->signal == 0 || child->late)) pool->failed_starts++;
  pool->not_before_ns = uv_hrtime() + back_off_ns(pool->crashes);
  if (pool->failed_starts >= MOST_FAILED_STARTS ||
      pool->crashes >= command_of(pool)->most_crashes) {
    pool_break(pool, concur_child_obituary(child), true);
  }
}

static void bury(concur_process_pool *pool, concur_child *child) {
  bool told = child->ending && !child->lost && child->complaint[0] == '\0';
  bool in_order = child->quitting && child->code == 0 && child->signal == 0;
  if (!told && !in_order) count_crash(pool, child);
  bury_calls(child);
  concur_child_release(child);
}

static concur_process_pool *pool_of_source(concur_source *source) {
  return concur_container_of(source, concur_process_pool, source);
}

static bool on_pending(concur_source *source) {
  const concur_process_pool *pool = pool_of_source(source);
  if (pool->due) return true;
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    if (concur_child_pending(child_of(node))) return true;
  }
  return false;
}

static void on_collect(concur_source *source) {
  concur_process_pool *pool = pool_of_source(source);
  pool->due = false;
  for (concur_node *node = pool->children.next; node != &pool->children;) {
    concur_child *child = child_of(node);
    node = node->next;
    if (concur_child_pending(child)) concur_child_collect(child);
    if (child->ended) bury(pool, child);
  }
  dispatch(pool);
}

static bool on_sleep(concur_source *source) {
  const concur_process_pool *pool = pool_of_source(source);
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    if (!concur_child_sleep(child_of(node))) return false;
  }
  return true;
}

/* ---- stopping ---- */

/* Whatever the worker has not begun with goes back: then nothing can begin after what runs now. */
static void take_all_back(concur_child *child) {
  concur_child_slot *slot;
  while ((slot = concur_child_newest(child)) != NULL && take_back(child, slot)) continue;
}

static concur_child *child_of_job(const concur_job *job) {
  return concur_container_of(job->thread, concur_child, hand);
}

/* The slot of a call that the child has. */
static concur_child_slot *slot_of(concur_child *child, const concur_call *call) {
  concur_child_slot *slot = child->slots;
  while (slot->call != call) slot++;
  return slot;
}

static concur_job_cancel_end on_cancel(void *host, concur_job *job) {
  concur_process_pool *pool = host;
  concur_child *child = child_of_job(job);
  concur_call *call = concur_container_of(job, concur_call, job);
  concur_child_slot *slot = slot_of(child, call);
  if (concur_child_revoke(child, slot)) {
    concur_hand_is_done(&child->hand, job, CONCUR_JOB_CANCELLED);
    dispatch(pool);
    return CONCUR_JOB_TAKEN_OFF;
  }
  take_all_back(child);
  concur_job_cancel_end end = CONCUR_JOB_TOO_LATE;
  if (!concur_child_has_answered(child, slot)) {
    concur_child_end(child, false);
    end = CONCUR_JOB_ASKED;
  }
  dispatch(pool);
  return end;
}

static void on_take_back(void *host) {
  concur_process_pool *pool = host;
  if (!is_at_work(pool)) return;
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    take_all_back(child_of(node));
  }
}

static void on_cancel_running(void *host) {
  concur_process_pool *pool = host;
  if (!is_at_work(pool)) return;
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    concur_child *child = child_of(node);
    take_all_back(child);
    concur_child_slot *slot = concur_child_oldest(child);
    if (slot == NULL) continue;
    atomic_store(&slot->call->job.cancelled, true);
    concur_child_end(child, false);
  }
  dispatch(pool);
}

void concur_process_pool_interrupt(concur_call *call) {
  if (call->job.thread != NULL) concur_child_end(child_of_job(&call->job), true);
}

void concur_process_pool_interrupt_all(concur_pool *concur) {
  concur_process_pool *pool = concur_pool_get_host(concur);
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    concur_child *child = child_of(node);
    if (!child->quitting || uv_hrtime() >= child->leave_by_ns) concur_child_end(child, true);
  }
}

/* ---- looking ---- */

static void child_refresh(concur_child *child) {
  concur_child_slot *slot = concur_child_oldest(child);
  if (slot != NULL && child->hand.job != &slot->call->job && concur_child_has_begun(child, slot)) {
    concur_hand_begins(&child->hand, &slot->call->job);
  }
}

void concur_process_pool_refresh(concur_call *call) {
  if (atomic_load(&call->job.state) == CONCUR_JOB_HANDED) child_refresh(child_of_job(&call->job));
}

uint64_t concur_process_pool_crashes(concur_pool *concur) {
  const concur_process_pool *pool = concur_pool_get_host(concur);
  return pool->crash_count;
}

/* GCOVR_EXCL_START: asked when KILL has not ended a worker: its disk does not answer */
void concur_process_pool_trace(concur_pool *concur) {
  concur_process_pool *pool = concur_pool_get_host(concur);
  for (concur_node *node = pool->children.next; node != &pool->children; node = node->next) {
    child_refresh(child_of(node));
  }
}
/* GCOVR_EXCL_STOP */

/* ---- the host ---- */

static void on_stir(void *host) {
  dispatch(host);
}

/* The loop closes: nobody else looks. */
static void look_for_ends(concur_process_pool *pool) {
  for (concur_node *node = pool->children.next; node != &pool->children;) {
    concur_child *child = child_of(node);
    siginfo_t info = {.si_pid = 0};
    node = node->next;
    int result = waitid(P_PID, (id_t)child->process->pid, &info, WEXITED | WNOHANG | WNOWAIT);
    if (result == 0 && info.si_pid == 0) continue;
    concur_child_collect(child);
    bury_calls(child);
    concur_child_release(child); /* the loop reaps it */
  }
}

static uint32_t on_join(void *host, uint64_t timeout_ns) {
  concur_process_pool *pool = host;
  if (!is_at_work(pool)) return 0;
  if (!pool->loop->closing) return pool->child_count + concur_pool_queued(pool->pool);
  uint64_t begin_ns = uv_hrtime();
  retire(pool, true);
  for (;;) {
    look_for_ends(pool);
    if (pool->child_count == 0 || uv_hrtime() - begin_ns >= timeout_ns) return pool->child_count;
    uv_sleep(1);
  }
}

static void on_detach(void *host) {
  concur_process_pool *pool = host;
  if (!is_at_work(pool)) return;
  for (concur_node *node = pool->children.next; node != &pool->children;) {
    /* GCOVR_EXCL_START: see concur_process_pool_trace */
    concur_child *child = child_of(node);
    node = node->next;
    concur_child_end(child, true);
    bury_calls(child);
    concur_child_release(child);
    /* GCOVR_EXCL_STOP */
  }
}

/* The timer is closed, by on_free or with the loop. */
static void on_released(concur_handle *handle) {
  concur_process_pool *pool = concur_container_of(handle, concur_process_pool, handle);
  concur_node_unlink(&pool->source.node);
  pool->loop = NULL;
  if (!pool->gone) return;
  concur_message_free(pool->setup);
  concur_worker_settings_release(pool->settings);
  free(pool);
}

static void on_free(void *host) {
  concur_process_pool *pool = host;
  pool->gone = true;
  if (is_at_work(pool)) {
    on_detach(pool);
    concur_handle_close(&pool->handle);
  } else if (pool->loop == NULL) {
    on_released(&pool->handle);
  } /* else it leaks, like everything else in a forked child */
}

const concur_pool_host concur_process_pool_host = {
    on_stir, on_cancel, on_take_back, on_cancel_running, on_join, on_detach, on_free};

concur_process_pool *concur_process_pool_new(concur_loop *loop, concur_pool *concur,
                                             concur_worker_settings *settings, uint64_t idle_ns,
                                             bool bounded) {
  concur_process_pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) return NULL;
  if (uv_timer_init(&loop->uv, &pool->timer) != 0) {
    free(pool);
    return NULL;
  }
  pool->loop = loop;
  pool->pool = concur;
  pool->settings = settings;
  pool->idle_ns = idle_ns;
  pool->bounded = bounded;
  pool->ahead = 1;
  pool->due_ns = CONCUR_NEVER;
  concur_worker_settings_retain(settings);
  concur_list_init(&pool->children);
  pool->source = (concur_source){.pending = on_pending, .collect = on_collect, .sleep = on_sleep};
  concur_list_append(&loop->sources, &pool->source.node);
  uv_unref((uv_handle_t *)&pool->timer);
  concur_handle_begin(&loop->handles, &pool->handle, (uv_handle_t *)&pool->timer, on_released);
  concur_pool_set_host(concur, pool);
  return pool;
}
