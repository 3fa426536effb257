/* SPDX-License-Identifier: MIT */
/*
 * Cancel scopes: a tree.  Each fiber has a chain of scopes it is in, the innermost in fiber->scope.
 * The outermost of a task is the task's own scope, embedded in the task; its parent is the scope of
 * the group or combinator that owns the task, or none.  Other scopes come from a free list.
 *
 * `cancel_called` is the request; `cancelled` says whether waits directly inside must raise: own
 * request, or the parent is cancelled and this is no shield.  `cancelled` is pushed down the tree
 * when a request or a shield changes, so that looking is one load.
 *
 * A Cancelled error carries the id of the scope that it belongs to; that scope alone catches it.
 * Scope structures are never given back to malloc before lua_close, so a handle (pointer and id)
 * can always look whether its scope still is the one it meant.          All: [loop thread].
 */
#ifndef CONCUR_SCOPE_H
#define CONCUR_SCOPE_H

#include "heap.h"
#include "list.h"
#include "support.h"

#pragma GCC visibility push(hidden)

struct concur_fiber;
struct concur_scheduler;

typedef struct concur_scope concur_scope;
struct concur_scope {
  concur_scope *parent;       /* NULL: nothing outside */
  concur_node children;       /* scopes whose parent this is */
  concur_node sibling;        /* in parent->children */
  struct concur_fiber *fiber; /* who opened it; NULL once orphaned */
  uint64_t id;                /* unique in this state; 0 while free */
  bool cancel_called;
  bool cancelled; /* effective, see above */
  bool shield;
  bool caught;      /* its Cancelled reached its edge */
  bool timed_out;   /* cancelled by its own deadline */
  bool has_reason;  /* a reason is in the traces table under this scope */
  bool has_handle;  /* so is the handle that scripts see, under its next byte */
  uint8_t mode;     /* scope_api.c: what the function that opened it returns */
  uint16_t depth;   /* scopes of this fiber around it */
  bool own;         /* embedded in a task (or the top-level fiber) */
  int anchor;       /* slot of `opened_in`, top level only; 0: none */
  concur_timer timer;      /* the deadline */
  uint64_t deadline_ns;    /* CONCUR_NEVER: none */
  uint64_t delay_ns;       /* of concur.timeout, for its message */
  lua_State *opened_in;    /* the coroutine that opened it; borrowed, compared, and at top level
                              anchored by `anchor` */
  /* The frame that opened the scope is gone for good (killed, tampered with): stops what lives
     inside and lets go of the scope, which is dropped next.  NULL for scopes with nothing inside. */
  void (*orphan)(lua_State *L, concur_scope *scope);
  void *data; /* for `orphan`: the group or join that owns what lives inside; borrowed */
};

/* [scope_api.c] Registers the functions and the class. */
void concur_scope_open(lua_State *L, concur_runtime *runtime);

/* Initialises an embedded outermost scope under `parent` (may be NULL). */
void concur_scope_init_own(struct concur_scheduler *scheduler, concur_scope *scope,
                           struct concur_fiber *fiber, concur_scope *parent);

/* Raises what concur_scope_enter would raise, so that this can be done before anything is linked. */
void concur_scope_prepare(lua_State *L, struct concur_fiber *fiber);

/* Enters a new scope on the fiber; raises when out of memory or in a foreign coroutine. */
concur_scope *concur_scope_enter(lua_State *L, struct concur_fiber *fiber);

struct concur_scope_handle;
/* The same, with the handle on top of the stack as its handle. */
concur_scope *concur_scope_enter_with_handle(lua_State *L, struct concur_fiber *fiber,
                                             struct concur_scope_handle *handle);

/* Replaces a Cancelled on top of the stack whose scope is not around `scope` by an InvalidState that
   has it as its cause; true when it did. */
bool concur_scope_replace_stale(lua_State *L, concur_runtime *runtime, const concur_scope *scope);

/* Raises the error on top of the stack again, from a scope's edge: a Cancelled whose scope is not
   around the fiber becomes an InvalidState. */
int concur_scope_pass_on(lua_State *L, struct concur_fiber *fiber);

/* Top level, before a wait: takes scopes out whose coroutine was left suspended or was closed. */
void concur_scope_settle_top(lua_State *L, struct concur_fiber *fiber);

/* Leaves the innermost scope and frees it.  False when it is not the innermost: it is taken out
   all the same, with everything inside it, and the caller raises an error. */
bool concur_scope_leave(lua_State *L, struct concur_fiber *fiber, concur_scope *scope);

/* Takes the fiber out of every scope that it opened: their frames are gone. */
void concur_scope_abandon_all(lua_State *L, struct concur_fiber *fiber);

/* Takes a scope out of the tree and, unless embedded, frees it. */
void concur_scope_drop(lua_State *L, struct concur_scheduler *scheduler, concur_scope *scope);

/* Requests cancellation; the first request wins.  Never raises. */
void concur_scope_cancel(concur_scope *scope);

/* The same with the reason at stack index `reason` (0 or nil: none).  Raises before any change. */
void concur_scope_cancel_with(lua_State *L, struct concur_scheduler *scheduler,
                              concur_scope *scope, int reason);

/* Sets the deadline (CONCUR_NEVER: none); over already means cancelled at once.  Raises before any
   change when out of memory. */
void concur_scope_set_deadline(lua_State *L, struct concur_scheduler *scheduler,
                               concur_scope *scope, uint64_t deadline_ns);

void concur_scope_set_shield(concur_scope *scope, bool shield);

/* The outermost cancelled scope that reaches this one; NULL when none does. */
concur_scope *concur_scope_outermost_cancelled(concur_scope *scope);

/* True when a scope with this id is `scope` or around it. */
bool concur_scope_encloses(const concur_scope *scope, uint64_t id);

/* Pushes the Cancelled error of a scope. */
void concur_scope_push_cancelled(lua_State *L, concur_runtime *runtime, concur_scope *scope);

/* The id of the scope that the Cancelled error at `index` belongs to; 0 for any other value. */
uint64_t concur_cancelled_id(lua_State *L, const concur_runtime *runtime, int index);

/* Pushes the reason of a scope, or nil. */
void concur_scope_push_reason(lua_State *L, const concur_runtime *runtime,
                              const concur_scope *scope);

/* What scripts see of a scope (class concur.CancelScope): one userdata for each scope. */
typedef struct concur_scope_handle {
  concur_scope *scope; /* valid while scope->id == id */
  uint64_t id;
  bool cancel_called; /* as they were when the scope was left */
  bool caught;
} concur_scope_handle;

void concur_scope_push_handle(lua_State *L, concur_runtime *runtime, concur_scope *scope);

#pragma GCC visibility pop

#endif
