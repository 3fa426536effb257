/* SPDX-License-Identifier: MIT */
/*
 * See capi_loop.h.
 *
 * A loop reference *is* the loop's mailbox: counted, usable from any thread, closed with the loop.
 * A timer is the module's until timer_free; while its loop lives it is in the state's list, so that
 * closing the loop can take it out of the heap.
 */
#include "capi_loop.h"

#include <math.h>
#include <stdlib.h>

/* ---- the loop from other threads ---- */

static concur_mailbox *mailbox_of(concur_loop_ref *ref) {
  return (concur_mailbox *)ref;
}

concur_loop_ref *concur_capi_loop_ref(lua_State *L) {
  concur_loop *loop = concur_capi_loop(L, concur_capi_of(L, "loop"));
  concur_mailbox_retain(loop->mailbox);
  return (concur_loop_ref *)loop->mailbox;
}

void concur_capi_loop_retain(concur_loop_ref *ref) {
  concur_mailbox_retain(mailbox_of(ref));
}

void concur_capi_loop_release(concur_loop_ref *ref) {
  concur_mailbox_release(mailbox_of(ref));
}

typedef struct posted {
  concur_mail mail;
  concur_call_fn call;
  concur_drop_fn drop;
  void *data; /* owned until it is taken by `call` or dropped */
} posted;

static void on_posted_dropped(concur_mail *mail) {
  posted *self = concur_container_of(mail, posted, mail);
  if (self->drop != NULL) self->drop(self->data);
  free(self);
}

static void on_posted(concur_mail *mail, void *owner) {
  posted *self = concur_container_of(mail, posted, mail);
  bool taken = concur_capi_call(owner, self->call, self->data);
  if (!taken && self->drop != NULL) self->drop(self->data);
  free(self);
}

int concur_capi_post(concur_loop_ref *ref, concur_call_fn call, concur_drop_fn drop, void *data) {
  posted *self = malloc(sizeof *self);
  if (self == NULL) {
    if (drop != NULL) drop(data);
    return 0;
  }
  *self = (posted){{NULL, on_posted, on_posted_dropped}, call, drop, data};
  if (concur_mailbox_post(mailbox_of(ref), &self->mail)) return 1;
  on_posted_dropped(&self->mail);
  return 0;
}

/* ---- keeping a driver waiting ---- */

void concur_capi_hold(lua_State *L) {
  concur_capi *capi = concur_capi_of(L, "hold");
  concur_capi_loop(L, capi)->external_refs++;
  capi->holds++;
}

void concur_capi_unhold(lua_State *L) {
  concur_capi *capi = concur_capi_of(L, "unhold");
  if (capi->holds == 0) {
    concur_error_raise(L, capi->runtime, "InvalidState", "unhold of concur.h without a hold");
  }
  capi->holds--;
  capi->runtime->loop->external_refs--;
}

double concur_capi_now(lua_State *L) {
  const concur_loop *loop = concur_capi_of(L, "now")->runtime->loop;
  return (double)(loop != NULL ? concur_loop_now(loop) : uv_hrtime()) / 1e9;
}

/* ---- timers ---- */

struct concur_timer_ref {
  concur_timer timer;
  concur_node link;   /* in capi->timers; unlinked once the loop has closed */
  concur_capi *capi;  /* borrowed while linked */
  uv_thread_t thread; /* the state's own, for checks */
  concur_call_fn call;
  void *data; /* borrowed */
  bool weak;
};

/* Takes it out of the heap if it is there. */
static void timer_rest(concur_timer_ref *ref, concur_loop *loop) {
  if (!concur_timer_active(&ref->timer)) return;
  concur_loop_stop_timer(loop, &ref->timer);
  if (ref->weak) loop->weak_timers--;
}

static void on_time(concur_timer *timer, void *context) {
  concur_timer_ref *ref = concur_container_of(timer, concur_timer_ref, timer);
  concur_loop *loop = context;
  if (ref->weak) loop->weak_timers--;
  (void)concur_capi_call(loop, ref->call, ref->data); /* may free it */
}

concur_timer_ref *concur_capi_timer_new(lua_State *L, concur_call_fn call, void *data,
                                        unsigned flags) {
  concur_capi *capi = concur_capi_of(L, "timer_new");
  (void)concur_capi_loop(L, capi);
  concur_timer_ref *ref = calloc(1, sizeof *ref);
  if (ref == NULL) luaL_error(L, "not enough memory");
  concur_timer_init(&ref->timer);
  ref->timer.fire = on_time;
  ref->capi = capi;
  ref->thread = capi->thread;
  ref->call = call;
  ref->data = data;
  ref->weak = (flags & CONCUR_WEAK) != 0;
  concur_list_append(&capi->timers, &ref->link);
  return ref;
}

/* The timer's loop; NULL once it has closed. */
static concur_loop *loop_of_timer(const concur_timer_ref *ref, const char *function) {
  concur_capi_check_thread(ref->thread, function);
  return concur_node_linked(&ref->link) ? ref->capi->runtime->loop : NULL;
}

int concur_capi_timer_set(concur_timer_ref *ref, double seconds) {
  concur_loop *loop = loop_of_timer(ref, "timer_set");
  if (loop == NULL || !concur_loop_reserve_timer(loop)) return 0;
  timer_rest(ref, loop);
  uint64_t delay_ns = isnan(seconds) ? 0 : concur_seconds_to_ns(seconds);
  concur_loop_start_timer(loop, &ref->timer, concur_deadline_after(loop, delay_ns));
  if (ref->weak && concur_timer_active(&ref->timer)) loop->weak_timers++;
  return 1;
}

void concur_capi_timer_stop(concur_timer_ref *ref) {
  concur_loop *loop = loop_of_timer(ref, "timer_stop");
  if (loop != NULL) timer_rest(ref, loop);
}

void concur_capi_timer_free(concur_timer_ref *ref) {
  if (ref == NULL) return;
  concur_loop *loop = loop_of_timer(ref, "timer_free");
  if (loop != NULL) timer_rest(ref, loop);
  concur_node_unlink(&ref->link);
  free(ref);
}

/* ---- closing ---- */

void concur_capi_loop_close(concur_capi *capi) {
  concur_loop *loop = capi->runtime->loop;
  concur_node *node;
  while ((node = concur_list_pop(&capi->timers)) != NULL) {
    timer_rest(concur_container_of(node, concur_timer_ref, link), loop);
  }
  loop->external_refs -= capi->holds;
  capi->holds = 0;
}
