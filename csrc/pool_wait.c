/* SPDX-License-Identifier: MIT */
/*
 * See pool_wait.h.
 *
 * Fibers that wait for an event of a pool form a list in the executor.  While it is not empty, one
 * watch is with the pool; its mail wakes the first fiber (room) or all of them (end).  A waiting
 * fiber counts in loop->external_refs: the pool's threads will bring what it waits for.
 */
#include "pool_wait.h"

#include <stdlib.h>

#include "owned.h"
#include "platform.h"

typedef struct pool_watch {
  concur_watch watch;
  concur_executor *executor; /* holds a reference */
  concur_pool_event event;
} pool_watch;

static concur_loop *loop_of(const concur_executor *executor) {
  return executor->owner->runtime->scheduler->loop;
}

static void watch_free(pool_watch *watch) {
  concur_mailbox_release(watch->watch.reply);
  free(watch);
}

/* Wakes waiting fibers; they find out by themselves how things are.  False if there was none. */
static bool waiters_wake(concur_executor *executor, concur_node *waiters, bool all) {
  concur_node *node;
  bool any = false;
  while ((node = concur_list_pop(waiters)) != NULL) {
    concur_waiter *waiter = concur_container_of(node, concur_waiter, node);
    loop_of(executor)->external_refs--;
    waiter->notify(waiter, executor);
    any = true;
    if (!all) break;
  }
  return any;
}

/* A fiber that was woken runs within a few turns, or was ended by force. */
enum { LONGEST_REST = 64 };

/* True while somebody was woken for room and has not had its turn. */
static bool is_resting(const concur_executor *executor) {
  return executor->resting != NULL && executor->rested < LONGEST_REST;
}

bool concur_pool_wait_rests(concur_executor *executor) {
  /* With nothing ready nobody is on the way, and there may be no other turn. */
  if (loop_of(executor)->ready_head == NULL) executor->rested = LONGEST_REST;
  if (is_resting(executor)) executor->rested++;
  return is_resting(executor);
}

void concur_pool_wait_served(concur_executor *executor) {
  executor->rested = LONGEST_REST;
}

static void executor_watch(concur_executor *executor, concur_pool_event event, pool_watch *watch) {
  executor->watches[event] = &watch->watch;
  concur_pool_watch(executor->pool, event, &watch->watch);
}

static void on_event(concur_mail *mail, void *owner) {
  pool_watch *watch = concur_container_of(mail, pool_watch, watch.mail);
  concur_executor *executor = watch->executor;
  concur_node *waiters = &executor->waiters[watch->event];
  concur_loop *loop = owner;
  executor->watches[watch->event] = NULL;
  bool woken = waiters_wake(executor, waiters, watch->event == CONCUR_POOL_ENDED);
  if (woken && watch->event == CONCUR_POOL_ROOM && executor->resting == NULL) {
    /* There is room until the fiber that was woken has used it: nobody else is woken, and nobody
       overtakes it, before it had its turn. */
    executor->resting = &watch->watch;
    executor->rested = 0;
    if (!concur_node_linked(&executor->flusher.node)) {
      concur_list_append(&loop->flushers, &executor->flusher.node);
    }
    return;
  }
  watch_free(watch);
  concur_executor_release(executor);
}

void concur_pool_wait_rearm(concur_executor *executor) {
  if (is_resting(executor)) return;
  concur_watch *watch = executor->resting;
  executor->resting = NULL;
  if (watch == NULL) return;
  if (executor->watches[CONCUR_POOL_ROOM] == NULL &&
      !concur_list_empty(&executor->waiters[CONCUR_POOL_ROOM])) {
    executor_watch(executor, CONCUR_POOL_ROOM, concur_container_of(watch, pool_watch, watch));
    return;
  }
  watch_free(concur_container_of(watch, pool_watch, watch));
  concur_executor_release(executor);
}

static void on_event_dropped(concur_mail *mail) {
  watch_free(concur_container_of(mail, pool_watch, watch.mail));
}

/* Sees to it that a watch is with the pool.  Raises when out of memory. */
static void executor_need_watch(lua_State *L, concur_executor *executor, concur_pool_event event) {
  if (executor->watches[event] != NULL) return;
  if (event == CONCUR_POOL_ROOM && is_resting(executor)) return; /* see concur_pool_wait_rearm */
  pool_watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) luaL_error(L, "not enough memory");
  watch->watch.mail.deliver = on_event;
  watch->watch.mail.drop = on_event_dropped;
  watch->watch.reply = loop_of(executor)->mailbox;
  concur_mailbox_retain(watch->watch.reply);
  watch->executor = executor;
  watch->event = event;
  executor->references++;
  executor_watch(executor, event, watch);
  concur_taken(watch); /* by the pool, which posts it */
}

/* The wait is cancelled, or its time is over. */
static bool on_abort(concur_fiber *fiber) {
  concur_executor *executor = fiber->target;
  loop_of(executor)->external_refs--;
  concur_node_unlink(&fiber->waiter.node);
  return true;
}

static void on_detach(concur_fiber *fiber) {
  if (concur_node_linked(&fiber->waiter.node)) (void)on_abort(fiber);
}

static const concur_wait wait_room = {
    .name = "executor:submit", .abort = on_abort, .detach = on_detach};
static const concur_wait wait_end = {
    .name = "executor:shutdown", .abort = on_abort, .detach = on_detach};

bool concur_pool_room_is_wanted(const concur_executor *executor) {
  return is_resting(executor) || !concur_list_empty(&executor->waiters[CONCUR_POOL_ROOM]);
}

int concur_pool_wait_room(lua_State *L, concur_fiber *fiber, concur_executor *executor, bool again,
                          concur_resume resume) {
  concur_node *waiters = &executor->waiters[CONCUR_POOL_ROOM];
  executor_need_watch(L, executor, CONCUR_POOL_ROOM);
  loop_of(executor)->external_refs++;
  if (again) {
    concur_list_prepend(waiters, &fiber->waiter.node);
  } else {
    concur_list_append(waiters, &fiber->waiter.node);
  }
  return concur_fiber_park(L, fiber, &wait_room, executor, resume);
}

int concur_pool_wait_end(lua_State *L, concur_fiber *fiber, concur_executor *executor,
                         uint64_t timeout_ns, concur_resume resume) {
  executor_need_watch(L, executor, CONCUR_POOL_ENDED);
  if (timeout_ns != CONCUR_NEVER) {
    concur_fiber_arm(L, fiber, concur_deadline_after(loop_of(executor), timeout_ns));
  }
  loop_of(executor)->external_refs++;
  concur_list_append(&executor->waiters[CONCUR_POOL_ENDED], &fiber->waiter.node);
  return concur_fiber_park(L, fiber, &wait_end, executor, resume);
}

void concur_pool_wait_close(concur_executor *executor) {
  if (executor->resting != NULL) {
    watch_free(concur_container_of(executor->resting, pool_watch, watch));
    executor->resting = NULL;
    executor->references--;
  }
  for (int event = 0; event < CONCUR_POOL_EVENTS; event++) {
    concur_watch *watch = executor->watches[event];
    executor->watches[event] = NULL;
    if (watch == NULL) continue;
    executor->references--;
    if (concur_pool_unwatch(executor->pool, watch)) {
      watch_free(concur_container_of(watch, pool_watch, watch));
    }
  }
}

/* ---- a call ---- */

static const concur_wait wait_call = {
    .name = "to_thread", .abort = concur_owned_abort, .detach = concur_owned_detach};

int concur_pool_wait_call(lua_State *L, concur_fiber *fiber) {
  return concur_owned_wait(L, fiber, &wait_call);
}
