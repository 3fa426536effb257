/* SPDX-License-Identifier: MIT */
/*
 * Lock, on parking.h.
 *
 * A task counts the locks that it holds, so that one which ends with locks is noticed and reported.
 * Whoever waits for one of them gets an error then, and is found by a look at all that wait: nothing
 * points to a lock but who waits for it, and keeps it alive.
 * A lock whose owner has ended belongs to nobody: owners are known by their task's id.
 *                                                                            [loop thread]
 */
#include "lock.h"

#include "report.h"
#include "task.h"

typedef struct lock {
  concur_node waiters;
  concur_fiber *owner; /* NULL: free; valid while its id is owner_id */
  uint64_t owner_id;
} lock;

static const concur_wait wait_lock = {.name = "Lock:acquire"};

static lock *check_lock(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_LOCK);
}

/* The fiber that has the lock; NULL when it is free or its owner has ended. */
static concur_fiber *lock_owner(const lock *self) {
  return self->owner != NULL && self->owner->id == self->owner_id ? self->owner : NULL;
}

static void lock_own(lock *self, concur_fiber *fiber) {
  self->owner = fiber;
  self->owner_id = fiber->id;
  fiber->held_count++;
}

/* Hands the lock to the first waiter, or frees it. */
static void lock_pass_on(lock *self) {
  self->owner->held_count--;
  self->owner = NULL;
  concur_waiter *waiter = concur_parking_pop(&self->waiters);
  if (waiter == NULL) return;
  concur_fiber *next = concur_container_of(waiter, concur_fiber, waiter);
  lock_own(self, next);
  concur_fiber_wake(next, CONCUR_OUTCOME_VALUE);
}

static int lock_acquired(lua_State *L, concur_fiber *fiber) {
  lock *self = fiber->target;
  if (lock_owner(self) != fiber) {
    return concur_error_raise(L, fiber->scheduler->runtime, "InvalidState",
                              "the task that held the lock ended without releasing it");
  }
  if (fiber->base > 1) lua_settop(L, 1);
  return 1;
}

static int raise_owned(lua_State *L, concur_fiber *fiber) {
  return concur_error_raise(L, fiber->scheduler->runtime, "InvalidState",
                            "this task holds the lock already (a Lock is not reentrant)");
}

static int lock_take(lua_State *L, concur_fiber *fiber, lock *self) {
  concur_fiber *owner = lock_owner(self);
  if (owner == NULL) {
    lock_own(self, fiber);
    if (lua_gettop(L) > 1) lua_settop(L, 1);
    return 1;
  }
  if (owner == fiber) return raise_owned(L, fiber);
  return concur_parking_park(L, fiber, &self->waiters, &wait_lock, self, lock_acquired);
}

static int lock_wait(lua_State *L, concur_fiber *fiber) {
  return lock_take(L, fiber, lua_touserdata(L, 1));
}

/*@lua
---Mutual exclusion between tasks; first come, first served; not reentrant.
---@class concur.Lock
local Lock = {}

---@return concur.Lock
function concur.Lock() end

---Waits until the lock is free and takes it: `local _ <close> = lock:acquire()`.
---Raises `InvalidState` when this task has it, or when the task that had it ended without releasing.
---@async
---@return concur.Lock lock itself; its `<close>` releases it
function Lock:acquire() end

---Takes the lock if it is free; never suspends.
---@return concur.Lock|nil
---@return concur.Error|nil err of kind `WouldBlock`
function Lock:try_acquire() end

---Gives the lock to the first in line; never suspends.  Raises `InvalidState` unless the running task
---has it.
function Lock:release() end

---Calls `fn(...)` holding the lock.
---@async
---@param fn function
---@param ... any
---@return any ...
function Lock:with(fn, ...) end

---@return boolean
function Lock:locked() end

---@return boolean held by the running task, or by the top level outside of tasks
function Lock:held() end

---@return concur.Task|nil owner nil when free, or when the top level has it
function Lock:owner() end

---@return integer count of tasks in line
function Lock:waiters() end
*/
static int l_lock(lua_State *L) {
  lock *self = concur_class_new(L, concur_runtime_of(L), CONCUR_CLASS_LOCK, sizeof *self, 0);
  concur_list_init(&self->waiters);
  return 1;
}

static int l_lock_acquire(lua_State *L) {
  lock *self = check_lock(L);
  concur_fiber *fiber = concur_fiber_ready_here(L);
  return fiber != NULL ? lock_take(L, fiber, self) : concur_fiber_begin_anywhere(L, lock_wait);
}

static int l_lock_try_acquire(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  lock *self = check_lock(L);
  if (lock_owner(self) != NULL) return concur_would_block(L, runtime, "the lock is taken");
  lock_own(self, concur_fiber_current(runtime->scheduler));
  lua_settop(L, 1);
  return 1;
}

static int l_lock_release(lua_State *L) {
  lock *self = check_lock(L);
  concur_fiber *owner = lock_owner(self);
  if (owner != concur_fiber_here(L)) {
    return concur_error_raise(L, concur_runtime_of(L), "InvalidState",
                              owner == NULL ? "the lock is not taken"
                                            : "the lock belongs to another task");
  }
  lock_pass_on(self);
  return 0;
}

static int l_lock_close(lua_State *L) {
  lock *self = check_lock(L);
  if (lock_owner(self) == concur_fiber_here(L)) lock_pass_on(self);
  return 0;
}

static int lock_with_done(lua_State *L, int status, lua_KContext context) {
  (void)context;
  concur_runtime *runtime = concur_runtime_of(L);
  concur_fiber *fiber = concur_fiber_current(runtime->scheduler);
  lock *self = lua_touserdata(L, 1);
  if (lock_owner(self) == fiber) lock_pass_on(self);
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - 2;
  return concur_fiber_rethrow(L, fiber);
}

static int lock_with_run(lua_State *L, concur_fiber *fiber) {
  lock *self = lua_touserdata(L, 1);
  if (lock_owner(self) != fiber) return lock_acquired(L, fiber); /* raises */
  int status = lua_pcallk(L, lua_gettop(L) - 3, LUA_MULTRET, 2, 0, lock_with_done);
  return lock_with_done(L, status, 0);
}

static int lock_with_wait(lua_State *L, concur_fiber *fiber) {
  lock *self = lua_touserdata(L, 1);
  concur_fiber *owner = lock_owner(self);
  if (owner == fiber) return raise_owned(L, fiber);
  if (owner != NULL) {
    return concur_parking_park(L, fiber, &self->waiters, &wait_lock, self, lock_with_run);
  }
  lock_own(self, fiber);
  return lock_with_run(L, fiber);
}

static int l_lock_with(lua_State *L) { /* lock, function, arguments */
  (void)check_lock(L);
  concur_check_callable(L, 2);
  luaL_checkstack(L, 4, NULL);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_insert(L, 2);
  return concur_fiber_begin(L, lock_with_wait);
}

static int l_lock_locked(lua_State *L) {
  lua_pushboolean(L, lock_owner(check_lock(L)) != NULL);
  return 1;
}

static int l_lock_held(lua_State *L) {
  lock *self = check_lock(L);
  concur_fiber *fiber = concur_fiber_current(concur_runtime_of(L)->scheduler);
  lua_pushboolean(L, lock_owner(self) == fiber);
  return 1;
}

static int l_lock_owner(lua_State *L) {
  concur_fiber *owner = lock_owner(check_lock(L));
  if (owner == NULL || !owner->is_task) {
    lua_pushnil(L);
  } else {
    concur_body_push_task(L, concur_runtime_of(L), concur_body_of_fiber(owner));
  }
  return 1;
}

static int l_lock_waiters(lua_State *L) {
  lua_pushinteger(L, concur_parking_count(&check_lock(L)->waiters));
  return 1;
}

static int l_lock_tostring(lua_State *L) {
  lock *self = check_lock(L);
  lua_pushfstring(L, "concur.Lock (%s, %d waiting): %p", lock_owner(self) ? "locked" : "free",
                  concur_parking_count(&self->waiters), lua_topointer(L, 1));
  return 1;
}

/* Wakes all who wait for the same lock as this fiber, if it waits for one that `owner` has. */
static void abandon_lock_of(const concur_fiber *fiber, const concur_fiber *owner) {
  bool waits = fiber->state == CONCUR_FIBER_PARKED && fiber->wait == &wait_lock;
  if (!waits || !concur_fiber_intact(fiber)) return;
  lock *self = fiber->target;
  if (lock_owner(self) != owner) return;
  self->owner = NULL;
  concur_parking_wake_all(&self->waiters, self);
}

/* The fiber ends and holds locks: they become free, whoever waits for one gets an error. */
static void abandon_locks(lua_State *L, concur_fiber *fiber) {
  concur_scheduler *scheduler = fiber->scheduler;
  concur_runtime *runtime = scheduler->runtime;
  int count = fiber->held_count;
  fiber->held_count = 0;
  abandon_lock_of(&scheduler->top, fiber);
  for (concur_node *node = scheduler->tasks.next; node != &scheduler->tasks; node = node->next) {
    abandon_lock_of(&concur_container_of(node, concur_body, link)->fiber, fiber);
  }
  concur_body_push_task(L, runtime, concur_body_of_fiber(fiber));
  concur_task_push_name(L, -1, concur_task_of_fiber(fiber));
  concur_error_new(L, runtime, "InvalidState",
                   "task '%s' ended while it held %s; who waited for it gets an error",
                   lua_tostring(L, -1), count == 1 ? "a lock" : "locks");
  concur_report(L, runtime, -1, 0, "lock not released");
  lua_pop(L, 3);
}

void concur_lock_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"acquire", l_lock_acquire},
                              {"release", l_lock_release},
                              {"try_acquire", l_lock_try_acquire},
                              {"with", l_lock_with},
                              {"locked", l_lock_locked},
                              {"held", l_lock_held},
                              {"owner", l_lock_owner},
                              {"waiters", l_lock_waiters},
                              {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__close", l_lock_close},
                                  {"__tostring", l_lock_tostring},
                                  {NULL, NULL}};
  const luaL_Reg functions[] = {{"Lock", l_lock}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_LOCK, "concur.Lock", methods, metamethods);
  concur_register(L, runtime, functions);
  runtime->scheduler->abandon_locks = abandon_locks;
}
