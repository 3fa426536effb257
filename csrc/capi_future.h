/* SPDX-License-Identifier: MIT */
/*
 * The C end of futures, settled from any thread.  The functions are described in include/concur.h.
 */
#ifndef CONCUR_CAPI_FUTURE_H
#define CONCUR_CAPI_FUTURE_H

#include "capi_state.h"
#include "promise.h"

#pragma GCC visibility push(hidden)

struct concur_work;

/* The pending future of Lua and this point to each other; when it settles, or the state closes, they
   part.  The promise comes first; what is below belongs to the loop's thread. */
struct concur_future_ref {
  concur_promise promise;
  concur_capi *capi;     /* borrowed; valid while `future` is not NULL */
  concur_future *future; /* anchored by `slot`; NULL once settled or closed */
  int slot;
  concur_node link;         /* in capi->futures while `future` is not NULL */
  bool holds_loop;          /* counted in the loop's external_refs */
  struct concur_work *work; /* of a job (capi_job.c); else NULL */
  char *name;               /* owned; NULL: not named */
};

concur_future_ref *concur_capi_future_new(lua_State *L, const concur_future_options *options);
void concur_capi_future_retain(concur_future_ref *ref);
void concur_capi_future_release(concur_future_ref *ref);
int concur_capi_settle(concur_future_ref *ref, concur_push_fn push, concur_drop_fn drop,
                       void *data);
int concur_capi_fail(concur_future_ref *ref, const char *kind, const char *message);
int concur_capi_settle_cancelled(concur_future_ref *ref);
int concur_capi_cancelled(const concur_future_ref *ref);

/* Pushes a new future and anchors it; returns its slot.  Raises. */
int concur_capi_future_push(lua_State *L, concur_capi *capi);

/* Joins the pushed future on top of the stack and a new reference, whose promise is initialized. */
void concur_capi_future_bind(lua_State *L, concur_capi *capi, int slot, concur_future_ref *ref);

/* Copies the name; false when out of memory. */
bool concur_capi_future_set_name(concur_future_ref *ref, const char *name);

/* Ends a new future, which nobody knows yet and nobody is to hear of; releases the reference. */
void concur_capi_future_discard(lua_State *L, concur_future_ref *ref);

/* Settles the future with the payload of the promise, if both are still together. */
void concur_capi_future_deliver(concur_future_ref *ref, concur_loop *loop);

/* Asks all that is pending to stop, and parts it: the state closes. */
void concur_capi_futures_close(lua_State *L, concur_capi *capi);

#pragma GCC visibility pop

#endif
