/* SPDX-License-Identifier: MIT */
/*
 * See scope.h.
 *
 * `cancelled` is kept up to date by scope_refresh, which walks down from a scope whose request,
 * shield or parent changed and stops where nothing changes.  The walk uses the tree's own links,
 * so depth costs no C stack.
 */
#include "scope.h"

#include <string.h>

#include "fiber.h"

enum { SCOPES_PER_CHUNK = 32, DEEPEST = 150 };

static char cancelled_id_key; /* hidden field of a Cancelled error: the id of its scope */

/* ---- the tree ---- */

static void scope_attach(concur_scope *scope, concur_scope *parent) {
  scope->parent = parent;
  scope->cancelled = scope->cancel_called;
  if (parent == NULL) return;
  concur_list_append(&parent->children, &scope->sibling);
  scope->cancelled = scope->cancelled || parent->cancelled;
}

static bool scope_effective(const concur_scope *scope) {
  return scope->cancel_called ||
         (!scope->shield && scope->parent != NULL && scope->parent->cancelled);
}

/* Brings one scope up to date; true when it changed.  Newly cancelled: tells the fiber in it. */
static bool scope_update(concur_scope *scope) {
  bool effective = scope_effective(scope);
  if (effective == scope->cancelled) return false;
  scope->cancelled = effective;
  if (effective && scope->fiber != NULL && scope->fiber->scope == scope) {
    concur_fiber_deliver(scope->fiber);
  }
  return true;
}

static concur_scope *scope_of_sibling(concur_node *node) {
  return concur_container_of(node, concur_scope, sibling);
}

/* The next scope after `scope` in a walk of the tree below `root` that skips what is below it. */
static concur_scope *scope_skip(concur_scope *scope, const concur_scope *root) {
  while (scope != root) {
    if (scope->sibling.next != &scope->parent->children) {
      return scope_of_sibling(scope->sibling.next);
    }
    scope = scope->parent;
  }
  return NULL;
}

static void scope_refresh(concur_scope *root) {
  concur_scope *scope = root;
  while (scope != NULL) {
    if (scope_update(scope) && !concur_list_empty(&scope->children)) {
      scope = scope_of_sibling(scope->children.next);
    } else {
      scope = scope_skip(scope, root);
    }
  }
}

/* ---- making, entering, leaving ---- */

static void scope_init(concur_scheduler *scheduler, concur_scope *scope, concur_fiber *fiber) {
  memset(scope, 0, sizeof *scope);
  concur_list_init(&scope->children);
  concur_timer_init(&scope->timer);
  scope->deadline_ns = CONCUR_NEVER;
  scope->fiber = fiber;
  scope->id = ++scheduler->next_scope_id;
}

void concur_scope_init_own(concur_scheduler *scheduler, concur_scope *scope, concur_fiber *fiber,
                           concur_scope *parent) {
  scope_init(scheduler, scope, fiber);
  scope->own = true;
  scope_attach(scope, parent);
}

/* Scopes are carved from userdata that stay anchored until Lua itself frees them, so that a handle
   never points to freed memory, not even in a finalizer during lua_close. */
static void scope_reserve(lua_State *L, concur_scheduler *scheduler) {
  if (scheduler->free_scopes != NULL) return;
  concur_scope *chunk = lua_newuserdatauv(L, SCOPES_PER_CHUNK * sizeof *chunk, 0);
  memset(chunk, 0, SCOPES_PER_CHUNK * sizeof *chunk);
  (void)concur_anchor(L, scheduler->runtime);
  for (int i = 0; i < SCOPES_PER_CHUNK; i++) {
    chunk[i].parent = scheduler->free_scopes;
    scheduler->free_scopes = &chunk[i];
  }
}

/* Never fails after scope_reserve. */
static concur_scope *scope_take(concur_scheduler *scheduler) {
  concur_scope *scope = scheduler->free_scopes;
  scheduler->free_scopes = scope->parent;
  scheduler->scope_count++;
  return scope;
}

/* True when the coroutine is running or has resumed the one that runs. */
static bool coroutine_active(lua_State *co) {
  lua_Debug frame;
  return lua_status(co) == LUA_OK && lua_getstack(co, 0, &frame) != 0;
}

void concur_scope_prepare(lua_State *L, concur_fiber *fiber) {
  concur_scheduler *scheduler = fiber->scheduler;
  if (fiber->scope->depth >= DEEPEST) {
    concur_error_raise(L, scheduler->runtime, "InvalidState",
                       "more than %d cancel scopes inside each other (Lua's limit on nested C "
                       "calls is near)", DEEPEST);
  }
  scope_reserve(L, scheduler);
}

concur_scope *concur_scope_enter(lua_State *L, concur_fiber *fiber) {
  concur_scheduler *scheduler = fiber->scheduler;
  int anchor = 0;
  concur_scope_prepare(L, fiber);
  if (!fiber->is_task && !lua_pushthread(L)) {
    anchor = concur_anchor(L, scheduler->runtime);
  } else if (!fiber->is_task) {
    lua_pop(L, 1);
  }
  concur_scope *scope = scope_take(scheduler);
  scope_init(scheduler, scope, fiber);
  scope->opened_in = L;
  scope->depth = (uint16_t)(fiber->scope->depth + 1);
  scope->anchor = anchor;
  scope_attach(scope, fiber->scope);
  fiber->scope = scope;
  return scope;
}

static const void *handle_key(const concur_scope *scope);

/* Takes what belongs to the scope out of the traces table; the handle keeps what scripts may ask. */
static void scope_forget(lua_State *L, concur_runtime *runtime, concur_scope *scope) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->traces_ref);
  if (scope->has_handle) {
    lua_rawgetp(L, -1, handle_key(scope));
    concur_scope_handle *handle = lua_touserdata(L, -1);
    handle->cancel_called = scope->cancel_called;
    handle->caught = scope->caught;
    lua_pop(L, 1);
    lua_pushnil(L);
    lua_rawsetp(L, -2, handle_key(scope));
  }
  if (scope->has_reason) {
    lua_pushnil(L);
    lua_rawsetp(L, -2, scope);
  }
  lua_pop(L, 1);
  scope->has_handle = false;
  scope->has_reason = false;
}

void concur_scope_drop(lua_State *L, concur_scheduler *scheduler, concur_scope *scope) {
  if (scheduler->loop != NULL) concur_loop_stop_timer(scheduler->loop, &scope->timer);
  concur_node_unlink(&scope->sibling);
  concur_node *child;
  while ((child = concur_list_pop(&scope->children)) != NULL) {
    /* Only out of order can something be left inside: it goes on below the parent. */
    concur_scope *inner = scope_of_sibling(child);
    inner->parent = scope->parent;
    if (inner->parent != NULL) concur_list_append(&inner->parent->children, child);
    scope_refresh(inner);
  }
  if (scope->has_reason || scope->has_handle) scope_forget(L, scheduler->runtime, scope);
  if (scope->anchor != 0) concur_anchor_release(L, scheduler->runtime, scope->anchor);
  scope->anchor = 0;
  scope->fiber = NULL;
  if (scope->own) return;
  scope->id = 0;
  scope->parent = scheduler->free_scopes;
  scheduler->free_scopes = scope;
  scheduler->scope_count--;
}

/* Leaves the fiber's innermost scope without its frame, which may find out later by its id. */
static void scope_abandon(lua_State *L, concur_fiber *fiber) {
  concur_scope *scope = fiber->scope;
  fiber->scope = scope->parent;
  if (scope->orphan != NULL) scope->orphan(L, scope);
  concur_scope_drop(L, fiber->scheduler, scope);
}

void concur_scope_abandon_all(lua_State *L, concur_fiber *fiber) {
  while (!fiber->scope->own) scope_abandon(L, fiber);
}

/* At top level scopes may be entered in any coroutine.  One that was left suspended or closed with
   its scope open must not keep that scope in force for everybody else. */
static void discard_stale(lua_State *L, concur_fiber *fiber) {
  while (!fiber->is_task && !fiber->scope->own && fiber->scope->opened_in != L &&
         !coroutine_active(fiber->scope->opened_in)) {
    scope_abandon(L, fiber);
  }
}

void concur_scope_settle_top(lua_State *L, concur_fiber *fiber) {
  if (!fiber->scope->own) discard_stale(L, fiber);
}

bool concur_scope_leave(lua_State *L, concur_fiber *fiber, concur_scope *scope) {
  bool in_order = true;
  while (fiber->scope != scope) { /* opened later, in another coroutine, and still open */
    in_order = false;
    scope_abandon(L, fiber);
  }
  fiber->scope = scope->parent;
  concur_scope_drop(L, fiber->scheduler, scope);
  return in_order;
}

/* ---- requests ---- */

void concur_scope_cancel(concur_scope *scope) {
  if (scope->cancel_called) return;
  scope->cancel_called = true;
  scope_refresh(scope);
}

void concur_scope_cancel_with(lua_State *L, concur_scheduler *scheduler, concur_scope *scope,
                              int reason) {
  if (!scope->cancel_called && reason != 0 && !lua_isnoneornil(L, reason)) {
    reason = lua_absindex(L, reason);
    lua_rawgeti(L, LUA_REGISTRYINDEX, scheduler->runtime->traces_ref);
    lua_pushvalue(L, reason);
    lua_rawsetp(L, -2, scope);
    lua_pop(L, 1);
    scope->has_reason = true;
  }
  concur_scope_cancel(scope);
}

static void on_deadline(concur_timer *timer, void *context) {
  (void)context;
  concur_scope *scope = concur_container_of(timer, concur_scope, timer);
  if (!scope->cancel_called) scope->timed_out = true;
  concur_scope_cancel(scope);
}

void concur_scope_set_deadline(lua_State *L, concur_scheduler *scheduler, concur_scope *scope,
                               uint64_t deadline_ns) {
  concur_loop *loop = concur_scheduler_loop(L, scheduler);
  if (!concur_loop_reserve_timer(loop)) luaL_error(L, "not enough memory");
  concur_loop_stop_timer(loop, &scope->timer);
  scope->deadline_ns = deadline_ns;
  if (scope->cancel_called || deadline_ns == CONCUR_NEVER) return;
  if (deadline_ns <= concur_loop_now(loop)) {
    scope->timed_out = true;
    concur_scope_cancel(scope);
    return;
  }
  scope->timer.fire = on_deadline;
  concur_loop_start_timer(loop, &scope->timer, deadline_ns);
}

void concur_scope_set_shield(concur_scope *scope, bool shield) {
  if (scope->shield == shield) return;
  scope->shield = shield;
  scope_refresh(scope);
}

/* ---- looking ---- */

concur_scope *concur_scope_outermost_cancelled(concur_scope *scope) {
  concur_scope *outermost = NULL;
  for (; scope != NULL; scope = scope->parent) {
    if (scope->cancel_called) outermost = scope;
    if (scope->shield) break;
  }
  return outermost;
}

bool concur_scope_encloses(const concur_scope *scope, uint64_t id) {
  while (scope != NULL && scope->id != id) scope = scope->parent;
  return scope != NULL;
}

void concur_scope_push_reason(lua_State *L, const concur_runtime *runtime,
                              const concur_scope *scope) {
  if (!scope->has_reason) {
    lua_pushnil(L);
    return;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->traces_ref);
  lua_rawgetp(L, -1, scope);
  lua_remove(L, -2);
}

void concur_scope_push_cancelled(lua_State *L, concur_runtime *runtime, concur_scope *scope) {
  luaL_checkstack(L, 6, NULL);
  concur_scope_push_reason(L, runtime, scope);
  if (scope->timed_out) {
    concur_error_new(L, runtime, "Cancelled", "cancelled: the deadline has passed");
  } else if (lua_type(L, -1) == LUA_TSTRING) { /* no `__tostring` here: it could raise */
    concur_error_new(L, runtime, "Cancelled", "cancelled: %s", lua_tostring(L, -1));
  } else {
    concur_error_new(L, runtime, "Cancelled", "cancelled");
  }
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "reason");
  lua_pushinteger(L, (lua_Integer)scope->id);
  lua_rawsetp(L, -2, &cancelled_id_key);
  lua_remove(L, -2);
}

uint64_t concur_cancelled_id(lua_State *L, const concur_runtime *runtime, int index) {
  if (!concur_error_test(L, runtime, index)) return 0;
  index = lua_absindex(L, index);
  luaL_checkstack(L, 2, NULL);
  lua_rawgetp(L, index, &cancelled_id_key);
  uint64_t id = (uint64_t)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return id;
}

bool concur_scope_replace_stale(lua_State *L, concur_runtime *runtime, const concur_scope *scope) {
  uint64_t id = concur_cancelled_id(L, runtime, -1);
  if (id == 0 || concur_scope_encloses(scope, id)) return false;
  concur_error_new(L, runtime, "InvalidState",
                   "a Cancelled error was raised outside of the scope it belongs to");
  lua_insert(L, -2);
  lua_setfield(L, -2, "cause");
  return true;
}

/* ---- the handle that scripts see ---- */

static const void *handle_key(const concur_scope *scope) {
  return (const char *)scope + 1;
}

void concur_scope_push_handle(lua_State *L, concur_runtime *runtime, concur_scope *scope) {
  luaL_checkstack(L, 4, NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->traces_ref);
  if (scope->has_handle) {
    lua_rawgetp(L, -1, handle_key(scope));
  } else {
    concur_scope_handle *handle =
        concur_class_new(L, runtime, CONCUR_CLASS_SCOPE, sizeof *handle, 0);
    handle->scope = scope;
    handle->id = scope->id;
    lua_pushvalue(L, -1);
    lua_rawsetp(L, -3, handle_key(scope));
    scope->has_handle = true;
  }
  lua_remove(L, -2);
}

concur_scope *concur_scope_enter_with_handle(lua_State *L, concur_fiber *fiber,
                                             concur_scope_handle *handle) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  luaL_checkstack(L, 4, NULL);
  scope_reserve(L, fiber->scheduler);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->traces_ref);
  lua_pushvalue(L, -2);
  lua_rawsetp(L, -2, handle_key(fiber->scheduler->free_scopes)); /* the one that comes next */
  lua_pop(L, 1);
  concur_scope *scope = concur_scope_enter(L, fiber);
  handle->scope = scope;
  handle->id = scope->id;
  scope->has_handle = true;
  return scope;
}
