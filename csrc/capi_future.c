/* SPDX-License-Identifier: MIT */
/*
 * See capi_future.h.
 *
 * A settled promise's mail reaches the loop, which calls future_deliver: through the door, the payload
 * becomes the future's results or error.  Cancelling goes the other way: the future's operations ask
 * the promise, and the promise's cancel function decides.
 */
#include "capi_future.h"

#include <stdlib.h>

#include "report.h"
#include "work.h"

/* What the options had in version 1.  Fields that are appended count if `size` covers them. */
#define OPTIONS_SIZE (offsetof(concur_future_options, flags) + sizeof(unsigned))

/* User values of such a future; the first is concur_future's own. */
enum { FUTURE_REASON = 2, FUTURE_VALUES = 2 };

typedef struct c_future {
  concur_future future;
  concur_future_ref *ref; /* one looking reference while pending; else NULL */
} c_future;

static c_future *c_future_of(concur_future *future) {
  return concur_container_of(future, c_future, future);
}

static concur_future_ref *ref_of_promise(concur_promise *promise) {
  return concur_container_of(promise, concur_future_ref, promise);
}

/* Future and reference part.  [L: any coroutine of the state, with two free slots] */
static void ref_part(lua_State *L, concur_future_ref *ref) {
  concur_runtime *runtime = ref->capi->runtime;
  concur_node_unlink(&ref->link);
  if (ref->holds_loop) runtime->loop->external_refs--;
  ref->holds_loop = false;
  c_future_of(ref->future)->ref = NULL;
  ref->future = NULL;
  concur_anchor_release(L, runtime, ref->slot);
  concur_promise_release(&ref->promise);
}

/* ---- cancelling ---- */

/* Asks; true when the future is to be settled as cancelled now. */
static bool ref_cancel(concur_future_ref *ref) {
  bool at_once = concur_promise_cancel(&ref->promise) == CONCUR_PROMISE_CANCELLED;
  return ref->work != NULL ? concur_work_cancel(ref->work) : at_once;
}

static void c_future_cancel(lua_State *L, concur_runtime *runtime, int index, concur_future *future,
                            int reason) {
  (void)runtime;
  concur_future_ref *ref = c_future_of(future)->ref;
  if (ref == NULL) return;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 4, NULL);
  if (!future->cancel_requested && reason != 0) {
    lua_pushvalue(L, reason);
    lua_setiuservalue(L, index, FUTURE_REASON);
  }
  future->cancel_requested = true;
  if (!ref_cancel(ref)) return;
  ref_part(L, ref);
  lua_getiuservalue(L, index, FUTURE_REASON);
  concur_future_set_cancelled(L, index, future);
}

static void c_future_cancel_quietly(concur_runtime *runtime, concur_future *future) {
  concur_future_ref *ref = c_future_of(future)->ref;
  if (ref == NULL) return;
  future->cancel_requested = true;
  if (!ref_cancel(ref)) return;
  ref_part(runtime->main_state, ref); /* inside a C function whenever this runs */
  concur_future_settle(future, CONCUR_CANCELLED);
}

static void c_future_push_name(lua_State *L, int index, const concur_future *future) {
  (void)index;
  const concur_future_ref *ref = ((const c_future *)(const void *)future)->ref;
  if (ref != NULL && ref->name != NULL) {
    lua_pushfstring(L, "%s '%s'", ref->work != NULL ? "job" : "future", ref->name);
  } else {
    lua_pushstring(L, ref != NULL && ref->work != NULL ? "a job" : "a future of C");
  }
}

static void c_future_refresh(lua_State *L, concur_runtime *runtime, concur_future *future) {
  concur_executor_collect(L, runtime);
  const concur_future_ref *ref = c_future_of(future)->ref;
  if (ref != NULL && ref->work != NULL && future->state == CONCUR_PENDING &&
      atomic_load(&ref->work->job.state) >= CONCUR_JOB_RUNNING) {
    future->state = CONCUR_RUNNING;
  }
}

static const concur_future_ops c_future_ops = {c_future_cancel, c_future_cancel_quietly,
                                               c_future_push_name, c_future_refresh};

/* ---- delivering ---- */

/* Argument: the payload.  Its results are the results. */
static int l_push(lua_State *L) {
  concur_payload *payload = lua_touserdata(L, 1);
  lua_settop(L, 0);
  if (payload->push == NULL) return 0;
  int count = payload->push(L, payload->data);
  payload->drop = NULL; /* taken */
  return count;
}

/* The future is at index 2. */
static void settle_with_results(lua_State *L, concur_future_ref *ref) {
  concur_runtime *runtime = ref->capi->runtime;
  lua_pushcfunction(L, concur_traceback_handler); /* 3 */
  lua_pushcfunction(L, l_push);
  lua_pushlightuserdata(L, &ref->promise.payload);
  if (lua_pcall(L, 1, LUA_MULTRET, 3) == LUA_OK) {
    concur_future_set_results(L, 2, ref->future, lua_gettop(L) - 3);
    return;
  }
  concur_fiber_push_trace(L, &runtime->scheduler->top, -1);
  lua_replace(L, 3);
  concur_future_set_error(L, runtime, 2, ref->future, 3);
}

static void settle_with_error(lua_State *L, concur_future_ref *ref) {
  concur_runtime *runtime = ref->capi->runtime;
  const concur_promise_error *error = ref->promise.payload.data;
  if (error->kind != NULL) {
    concur_error_new(L, runtime, error->kind, "%s", error->message);
  } else {
    lua_pushstring(L, error->message);
  }
  concur_future_set_error(L, runtime, 2, ref->future, 0);
}

/* Argument: the reference. */
static int l_settle(lua_State *L) {
  concur_future_ref *ref = lua_touserdata(L, 1);
  concur_anchor_push(L, ref->capi->runtime, ref->slot); /* 2 */
  switch (ref->promise.payload.kind) {
  case CONCUR_PAYLOAD_RESULTS: settle_with_results(L, ref); break;
  case CONCUR_PAYLOAD_ERROR: settle_with_error(L, ref); break;
  case CONCUR_PAYLOAD_NONE:
  case CONCUR_PAYLOAD_CANCELLED:
    lua_getiuservalue(L, 2, FUTURE_REASON);
    concur_future_set_cancelled(L, 2, ref->future);
    break;
  }
  return 0;
}

void concur_capi_future_deliver(concur_future_ref *ref, concur_loop *loop) {
  if (ref->future == NULL) return;
  (void)concur_loop_protect(loop, l_settle, ref);
  concur_payload_drop(&ref->promise.payload);
  concur_future *future = ref->future;
  ref_part(loop->L, ref);
  /* Only when memory is short: there was none for the error either. */
  if (!concur_future_settled(future)) concur_future_settle(future, CONCUR_FAILED);
}

static void on_settled(concur_mail *mail, void *owner) {
  concur_promise *promise = concur_container_of(mail, concur_promise, mail);
  concur_capi_future_deliver(ref_of_promise(promise), owner);
  concur_promise_release(promise);
}

static void on_settled_dropped(concur_mail *mail) {
  concur_promise *promise = concur_container_of(mail, concur_promise, mail);
  concur_payload_drop(&promise->payload);
  concur_promise_release(promise);
}

/* ---- making ---- */

int concur_capi_future_push(lua_State *L, concur_capi *capi) {
  luaL_checkstack(L, 6, NULL);
  c_future *future =
      concur_class_new(L, capi->runtime, CONCUR_CLASS_JOB_FUTURE, sizeof *future, FUTURE_VALUES);
  concur_future_init(&future->future, &c_future_ops);
  lua_pushvalue(L, -1);
  return concur_anchor(L, capi->runtime);
}

void concur_capi_future_bind(lua_State *L, concur_capi *capi, int slot, concur_future_ref *ref) {
  c_future *future = lua_touserdata(L, -1);
  future->ref = ref;
  ref->future = &future->future;
  ref->slot = slot;
  ref->capi = capi;
  concur_list_append(&capi->futures, &ref->link);
  concur_promise_retain(&ref->promise);
}

bool concur_capi_future_set_name(concur_future_ref *ref, const char *name) {
  if (name == NULL) return true;
  size_t size = strlen(name) + 1;
  ref->name = malloc(size);
  if (ref->name != NULL) memcpy(ref->name, name, size);
  return ref->name != NULL;
}

static void future_free(concur_promise *promise) {
  concur_future_ref *ref = ref_of_promise(promise);
  free(ref->name);
  free(ref);
}

/* A reference with an initialized promise, or NULL. */
static concur_future_ref *ref_new(concur_loop *loop, const concur_future_options *options) {
  concur_future_ref *ref = calloc(1, sizeof *ref);
  if (ref == NULL) return NULL;
  if (concur_promise_init(&ref->promise, loop->mailbox, false) != 0) {
    free(ref);
    return NULL;
  }
  ref->promise.free = future_free;
  ref->promise.mail.deliver = on_settled;
  ref->promise.mail.drop = on_settled_dropped;
  if (options == NULL) return ref;
  ref->promise.cancel = options->cancel;
  ref->promise.cancel_data = options->cancel_data;
  if (concur_capi_future_set_name(ref, options->name)) return ref;
  concur_promise_release(&ref->promise);
  return NULL;
}

concur_future_ref *concur_capi_future_new(lua_State *L, const concur_future_options *options) {
  concur_capi *capi = concur_capi_of(L, "future_new");
  if (options != NULL && options->size < OPTIONS_SIZE) {
    luaL_error(L, "future_new of concur.h: options->size must be sizeof(concur_future_options)");
  }
  concur_loop *loop = concur_capi_loop(L, capi);
  int slot = concur_capi_future_push(L, capi);
  concur_future_ref *ref = ref_new(loop, options);
  if (ref == NULL) {
    concur_anchor_release(L, capi->runtime, slot);
    luaL_error(L, "not enough memory");
  }
  concur_capi_future_bind(L, capi, slot, ref);
  ref->holds_loop = options == NULL || (options->flags & CONCUR_WEAK) == 0;
  if (ref->holds_loop) loop->external_refs++;
  return ref;
}

void concur_capi_future_discard(lua_State *L, concur_future_ref *ref) {
  concur_future *future = ref->future;
  concur_promise_close(&ref->promise);
  ref_part(L, ref);
  concur_future_settle(future, CONCUR_CANCELLED);
  concur_capi_future_release(ref);
}

void concur_capi_future_retain(concur_future_ref *ref) {
  concur_promise_hold(&ref->promise);
}

void concur_capi_future_release(concur_future_ref *ref) {
  concur_promise_let_go(&ref->promise);
}

/* ---- settling: from any thread ---- */

int concur_capi_settle(concur_future_ref *ref, concur_push_fn push, concur_drop_fn drop,
                       void *data) {
  const concur_payload payload = {CONCUR_PAYLOAD_RESULTS, push, drop, data};
  return concur_promise_settle(&ref->promise, &payload);
}

int concur_capi_fail(concur_future_ref *ref, const char *kind, const char *message) {
  return concur_promise_fail(&ref->promise, kind, message != NULL ? message : "");
}

int concur_capi_settle_cancelled(concur_future_ref *ref) {
  const concur_payload payload = {.kind = CONCUR_PAYLOAD_CANCELLED};
  return concur_promise_settle(&ref->promise, &payload);
}

int concur_capi_cancelled(const concur_future_ref *ref) {
  return atomic_load(&ref->promise.cancelled);
}

/* ---- closing ---- */

void concur_capi_futures_close(lua_State *L, concur_capi *capi) {
  while (!concur_list_empty(&capi->futures)) {
    concur_future_ref *ref = concur_container_of(capi->futures.next, concur_future_ref, link);
    concur_promise_close(&ref->promise);
    if (ref->work != NULL) (void)concur_work_cancel(ref->work);
    if (!concur_future_settled(ref->future)) ref->future->state = CONCUR_CANCELLED;
    ref_part(L, ref);
  }
}
