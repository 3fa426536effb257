/* SPDX-License-Identifier: MIT */
/*
 * Task groups.
 *
 * Frame of task_group: 1 the group, 2 the message handler, 3 the body, then its arguments (the
 * group first); after the body: its results, or its Cancelled, from 3 on.
 *
 * States: open (the body runs) -> joining (the body is over, children are not) -> closed.  A child
 * counts from spawn until it is retired; new children may come while others are left.  The first
 * real error, of a child or the body, cancels the scope.
 *
 * If the owner's frame is lost (killed), the children are cancelled and the group only counts them
 * down; it is released with the last one.                                    [loop thread]
 */
#include "group.h"

static const char *const error_fields[] = {"errors", "tracebacks", "tasks"};

/* ---- errors ---- */

static void new_error_group(lua_State *L, concur_runtime *runtime) {
  concur_error_new(L, runtime, "ErrorGroup", "in a task group");
  for (int i = 0; i < 3; i++) {
    lua_newtable(L);
    lua_setfield(L, -2, error_fields[i]);
  }
  lua_pushinteger(L, 0);
  lua_setfield(L, -2, "n");
}

/* Appends the value at `index` as entry `n` of a field of the ErrorGroup on top of the stack. */
static void add_field(lua_State *L, const char *field, int index, int n) {
  lua_getfield(L, -1, field);
  if (lua_isnil(L, index)) {
    lua_pushboolean(L, 0);
  } else {
    lua_pushvalue(L, index);
  }
  lua_rawseti(L, -2, n);
  lua_pop(L, 1);
}

/* Records an error; indices are absolute; `task` 0 means the group's body. */
static void record_error(lua_State *L, concur_runtime *runtime, int group_index,
                         concur_group *group, int error, int traceback, int task) {
  luaL_checkstack(L, 6, NULL);
  if (lua_getiuservalue(L, group_index, 1) == LUA_TNIL) {
    lua_pop(L, 1);
    new_error_group(L, runtime);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, group_index, 1);
  }
  int n = group->error_count + 1;
  lua_getfield(L, -1, "errors");
  lua_pushvalue(L, error);
  lua_rawseti(L, -2, n);
  lua_pop(L, 1);
  add_field(L, "tracebacks", traceback, n);
  if (task != 0) add_field(L, "tasks", task, n);
  lua_pushinteger(L, n);
  lua_setfield(L, -2, "n");
  lua_pop(L, 1);
  group->error_count = n;
}

void concur_group_child_failed(lua_State *co, concur_runtime *runtime, concur_body *body) {
  concur_group *group = body->group;
  if (group->owner == NULL) return; /* nobody to raise it: it is reported as never retrieved */
  int traceback = lua_gettop(co);
  luaL_checkstack(co, 4, NULL);
  concur_anchor_push(co, runtime, group->slot);
  concur_body_push_task(co, runtime, body);
  record_error(co, runtime, traceback + 1, group, traceback - 1, traceback, traceback + 2);
  lua_settop(co, traceback);
  body->task->future.retrieved = true;
  concur_scope_cancel(group->scope);
}

void concur_group_child_lost(concur_group *group) {
  group->out_of_memory = true;
  if (group->owner != NULL) concur_scope_cancel(group->scope);
}

/* ---- joining ---- */

static void release(lua_State *L, concur_runtime *runtime, concur_group *group) {
  if (group->slot == 0) return;
  int slot = group->slot;
  group->slot = 0;
  concur_anchor_release(L, runtime, slot);
}

void concur_group_child_ended(lua_State *L, concur_body *body) {
  concur_group *group = body->group;
  body->group = NULL;
  if (--group->pending > 0) return;
  if (group->owner == NULL) {
    release(L, body->fiber.scheduler->runtime, group);
  } else if (group->joining) {
    group->joining = false;
    concur_fiber_wake(group->owner, CONCUR_OUTCOME_VALUE);
  }
}

/* Cancellation reaches the children through the scopes; what interrupts the top level does not. */
static bool group_abort(concur_fiber *fiber) {
  concur_group *group = fiber->target;
  if (!fiber->is_task && fiber->scheduler->interruption != CONCUR_NOT_INTERRUPTED) {
    concur_scope_cancel(group->scope);
  }
  return false;
}

static void group_detach(concur_fiber *fiber) {
  ((concur_group *)fiber->target)->joining = false;
}

static const concur_wait wait_group = {
    .name = "task_group", .abort = group_abort, .detach = group_detach};

static void group_orphan(lua_State *L, concur_scope *scope) {
  concur_group *group = scope->data;
  concur_scheduler *scheduler = group->owner->scheduler;
  for (concur_node *node = scope->children.next; node != &scope->children; node = node->next) {
    concur_scope_cancel(concur_container_of(node, concur_scope, sibling));
  }
  group->owner = NULL;
  group->scope = NULL;
  group->joining = false;
  group->closed = true;
  if (group->pending == 0) release(L, scheduler->runtime, group); /* else with the last child */
}

static int group_raise(lua_State *L, concur_group *group) {
  if (group->error_count == 0) return luaL_error(L, "not enough memory");
  lua_getiuservalue(L, 1, 1);
  return lua_error(L);
}

static int raise_out_of_order(lua_State *L, concur_runtime *runtime) {
  return concur_error_raise(L, runtime, "InvalidState",
                            "a task group was left out of order: a coroutine that opened it, or a "
                            "scope inside it, was suspended or closed before it ended");
}

static int group_exit(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  concur_group *group = lua_touserdata(L, 1);
  concur_scope *scope = group->scope;
  bool cancelled = scope->cancel_called;
  group->closed = true;
  group->scope = NULL;
  release(L, runtime, group);
  bool caught = group->body_failed && concur_cancelled_id(L, runtime, -1) == group->scope_id;
  scope->caught = caught;
  bool in_order = concur_scope_leave(L, fiber, scope);
  if (group->error_count > 0 || group->out_of_memory) return group_raise(L, group);
  if (!in_order) return raise_out_of_order(L, runtime);
  if (group->body_failed && !caught) return concur_scope_pass_on(L, fiber);
  bool interrupted =
      !fiber->is_task && fiber->scheduler->interruption != CONCUR_NOT_INTERRUPTED;
  /* Of several cancelled scopes the outermost catches. */
  if (interrupted || ((group->child_cancelled || caught) && fiber->scope->cancelled)) {
    return concur_fiber_raise_cancelled(L, fiber);
  }
  return caught || cancelled ? 0 : lua_gettop(L) - 2;
}

static int group_join(lua_State *L, concur_fiber *fiber) {
  concur_group *group = lua_touserdata(L, 1);
  if (group->pending == 0) return group_exit(L, fiber);
  group->joining = true;
  return concur_fiber_park(L, fiber, &wait_group, group, group_join);
}

static int body_done(lua_State *L, int status, lua_KContext context) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_group *group = (concur_group *)context;
  if (group->owner == NULL) {
    return raise_out_of_order(L, runtime);
  }
  concur_fiber *fiber = group->owner;
  group->body_failed = status != LUA_OK && status != LUA_YIELD;
  if (group->body_failed) {
    (void)concur_scope_replace_stale(L, runtime, fiber->scope);
    if (concur_cancelled_id(L, runtime, -1) == 0) {
      concur_fiber_push_trace(L, fiber, -1);
      int traceback = lua_gettop(L);
      record_error(L, runtime, 1, group, traceback - 1, traceback, 0);
      lua_settop(L, traceback - 1);
    }
    concur_scope_cancel(group->scope);
  }
  return group_join(L, fiber);
}

/*@lua
---Calls `fn(group, ...)` and returns its results once every task of the group has ended.  An error,
---of a task or of `fn`, cancels the rest and is raised in an `ErrorGroup` with all real errors.
---@async
---@param fn fun(group: concur.TaskGroup, ...): any ...
---@param ... any
---@return any ... nothing after `group:cancel()`
function concur.task_group(fn, ...) end
*/
static int l_task_group(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_check_callable(L, 1);
  concur_fiber *fiber = concur_fiber_enter(L, runtime);
  luaL_checkstack(L, 6, NULL);
  concur_group *group = concur_class_new(L, runtime, CONCUR_CLASS_GROUP, sizeof *group, 1);
  lua_pushvalue(L, -1);
  lua_insert(L, 2);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_insert(L, 1);
  lua_insert(L, 1);
  concur_scope_prepare(L, fiber);
  lua_pushvalue(L, 1);
  group->slot = concur_anchor(L, runtime);
  concur_scope *scope = concur_scope_enter(L, fiber);
  scope->orphan = group_orphan;
  scope->data = group;
  group->scope = scope;
  group->scope_id = scope->id;
  group->owner = fiber;
  lua_KContext context = (lua_KContext)group;
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 2, context, body_done);
  return body_done(L, status, context);
}

/* ---- the group that scripts see ---- */

static concur_group *check_group(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_GROUP);
}

static concur_group *check_open_group(lua_State *L) {
  concur_group *group = check_group(L);
  if (group->closed) {
    concur_error_raise(L, concur_runtime_of(L), "InvalidState", "the task group has ended");
  }
  return group;
}

/*@lua
---A task group, while its body and its tasks run.
---@class concur.TaskGroup
local TaskGroup = {}

---Starts a task in the group; never suspends.
---@param fn function
---@param ... any
---@return concur.Task
function TaskGroup:spawn(fn, ...) end

---Cancels everything in the group; `task_group` then returns nothing.  Never suspends.
---@param reason? any
---@return boolean requested true the first time
function TaskGroup:cancel(reason) end
*/
static int l_group_spawn(lua_State *L) {
  concur_runtime *runtime = concur_runtime_here(L);
  concur_group *group = check_open_group(L);
  concur_check_callable(L, 2);
  concur_task_spawn(L, runtime, lua_gettop(L) - 2, NULL, group);
  return 1;
}

static int l_group_cancel(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_group *group = check_group(L);
  lua_settop(L, 2);
  bool first = !group->closed && !group->scope->cancel_called;
  if (first) concur_scope_cancel_with(L, runtime->scheduler, group->scope, 2);
  lua_pushboolean(L, first);
  return 1;
}

static int l_group_tostring(lua_State *L) {
  concur_group *group = check_group(L);
  lua_pushfstring(L, "concur.TaskGroup (%s, %d tasks): %p", group->closed ? "ended" : "open",
                  (int)group->pending, lua_topointer(L, 1));
  return 1;
}

void concur_group_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {
      {"spawn", l_group_spawn}, {"cancel", l_group_cancel}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__tostring", l_group_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"task_group", l_task_group}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_GROUP, "concur.TaskGroup", methods, metamethods);
  concur_register(L, runtime, functions);
}
