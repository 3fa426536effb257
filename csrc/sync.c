/* SPDX-License-Identifier: MIT */
/*
 * Lock, Event and Semaphore, on parking.h.
 *
 * A task counts the locks that it holds, so that one which ends with locks is noticed and reported.
 * A lock for which somebody waits is, besides, in its owner's list of held locks, so that whoever
 * waits gets an error then; whoever waits keeps the lock alive, and the last one to leave takes it
 * out of the list (the finalizer is for waiters whose coroutine a stranger closed).
 * A lock whose owner has ended belongs to nobody: owners are known by their task's id.  A permit gives back what it
 * stands for once, by release or `<close>`; not by a finalizer, since who uses `semaphore:release()`
 * drops it.                                                                  [loop thread]
 */
#include "sync.h"

#include "report.h"
#include "task.h"

/* ---- Lock ---- */

typedef struct lock {
  concur_node held; /* in owner->held, while somebody waits */
  concur_node waiters;
  concur_fiber *owner; /* NULL: free; valid while its id is owner_id */
  uint64_t owner_id;
} lock;

/* A waiter leaves before it got the lock. */
static void lock_leave(concur_fiber *fiber) {
  lock *self = fiber->target;
  concur_node_unlink(&fiber->waiter.node);
  if (concur_list_empty(&self->waiters)) concur_node_unlink(&self->held);
}

static bool lock_abort(concur_fiber *fiber) {
  lock_leave(fiber);
  return true;
}

static const concur_wait wait_lock = {
    .name = "Lock:acquire", .abort = lock_abort, .detach = lock_leave};

static lock *check_lock(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_LOCK);
}

/* Who a fiber is: its task's id, 0 for the top level. */
static uint64_t fiber_id(concur_fiber *fiber) {
  if (!fiber->is_task) return 0;
  const concur_task *task = concur_task_of_fiber(fiber);
  return task != NULL ? task->id : UINT64_MAX;
}

/* The fiber that has the lock; NULL when it is free or its owner has ended. */
static concur_fiber *lock_owner(const lock *self) {
  return self->owner != NULL && fiber_id(self->owner) == self->owner_id ? self->owner : NULL;
}

static void lock_own(lock *self, concur_fiber *fiber) {
  self->owner = fiber;
  self->owner_id = fiber_id(fiber);
  fiber->held_count++;
}

/* Somebody is going to wait: the owner must know. */
static void lock_expect(lock *self) {
  if (!concur_node_linked(&self->held)) concur_list_append(&self->owner->held, &self->held);
}

/* Hands the lock to the first waiter, or frees it. */
static void lock_pass_on(lock *self) {
  self->owner->held_count--;
  self->owner = NULL;
  concur_node_unlink(&self->held);
  concur_waiter *waiter = concur_parking_pop(&self->waiters);
  if (waiter == NULL) return;
  concur_fiber *next = concur_container_of(waiter, concur_fiber, waiter);
  lock_own(self, next);
  if (!concur_list_empty(&self->waiters)) lock_expect(self);
  concur_fiber_wake(next, CONCUR_OUTCOME_VALUE);
}

static int lock_acquired(lua_State *L, concur_fiber *fiber) {
  lock *self = lua_touserdata(L, 1);
  if (lock_owner(self) != fiber) {
    return concur_error_raise(L, fiber->scheduler->runtime, "InvalidState",
                              "the task that held the lock ended without releasing it");
  }
  lua_settop(L, 1);
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
    lua_settop(L, 1);
    return 1;
  }
  if (owner == fiber) return raise_owned(L, fiber);
  lock_expect(self);
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

static int would_block(lua_State *L, const char *what) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_of(L), "WouldBlock", "%s", what);
  return 2;
}

static int l_lock_try_acquire(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  lock *self = check_lock(L);
  if (lock_owner(self) != NULL) return would_block(L, "the lock is taken");
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
    lock_expect(self);
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

/* The fiber ends and holds locks: they become free, whoever waits for one gets an error. */
static void abandon_locks(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  int count = fiber->held_count;
  fiber->held_count = 0;
  while (!concur_list_empty(&fiber->held)) {
    lock *self = concur_container_of(fiber->held.next, lock, held);
    self->owner = NULL;
    concur_node_unlink(&self->held);
    concur_parking_wake_all(&self->waiters, self);
  }
  concur_body_push_task(L, runtime, concur_body_of_fiber(fiber));
  concur_task_push_name(L, -1, concur_task_of_fiber(fiber));
  concur_error_new(L, runtime, "InvalidState",
                   "task '%s' ended while it held %s; who waited for it gets an error",
                   lua_tostring(L, -1), count == 1 ? "a lock" : "locks");
  concur_report(L, runtime, -1, 0, "lock not released");
  lua_pop(L, 3);
}

static int l_lock_gc(lua_State *L) {
  lock *self = concur_class_test(L, 1, CONCUR_CLASS_LOCK);
  if (self != NULL) concur_node_unlink(&self->held);
  return 0;
}

/* ---- Event ---- */

typedef struct event {
  concur_node waiters;
  bool set;
} event;

static const concur_wait wait_event = {.name = "Event:wait"};

static event *check_event(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_EVENT);
}

concur_node *concur_event_waiters(void *self) {
  event *each = self;
  return each->set ? NULL : &each->waiters;
}

static int event_done(lua_State *L, concur_fiber *fiber) {
  (void)fiber;
  lua_pushboolean(L, 1);
  return 1;
}

static int event_wait(lua_State *L, concur_fiber *fiber) {
  event *self = lua_touserdata(L, 1);
  if (self->set) return event_done(L, fiber);
  return concur_parking_park(L, fiber, &self->waiters, &wait_event, self, event_done);
}

/*@lua
---A flag that tasks wait for.
---@class concur.Event
local Event = {}

---@return concur.Event
function concur.Event() end

---Waits until the event is set.
---@async
---@return true
function Event:wait() end

---Sets it and wakes everybody who waits; never suspends.
function Event:set() end

---Clears it: who waits from now on waits for the next `set`.
function Event:clear() end

---@return boolean
function Event:is_set() end

---@return integer count of tasks that wait
function Event:waiters() end
*/
static int l_event(lua_State *L) {
  event *self = concur_class_new(L, concur_runtime_of(L), CONCUR_CLASS_EVENT, sizeof *self, 0);
  concur_list_init(&self->waiters);
  return 1;
}

static int l_event_wait(lua_State *L) {
  (void)check_event(L);
  return concur_fiber_begin(L, event_wait);
}

static int l_event_set(lua_State *L) {
  event *self = check_event(L);
  self->set = true;
  concur_parking_wake_all(&self->waiters, self);
  return 0;
}

static int l_event_clear(lua_State *L) {
  check_event(L)->set = false;
  return 0;
}

static int l_event_is_set(lua_State *L) {
  lua_pushboolean(L, check_event(L)->set);
  return 1;
}

static int l_event_waiters(lua_State *L) {
  lua_pushinteger(L, concur_parking_count(&check_event(L)->waiters));
  return 1;
}

static int l_event_tostring(lua_State *L) {
  event *self = check_event(L);
  lua_pushfstring(L, "concur.Event (%s, %d waiting): %p", self->set ? "set" : "not set",
                  concur_parking_count(&self->waiters), lua_topointer(L, 1));
  return 1;
}

/* ---- Semaphore ---- */

typedef struct semaphore {
  concur_node waiters;
  lua_Integer value; /* free permits */
  lua_Integer limit;
} semaphore;

/* User value 1: the semaphore, which it keeps. */
typedef struct permit {
  semaphore *source; /* NULL: not (or no longer) held */
} permit;

static const concur_wait wait_semaphore = {.name = "Semaphore:acquire"};

static semaphore *check_semaphore(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_SEMAPHORE);
}

static void semaphore_give_back(semaphore *self) {
  if (!concur_parking_wake_first(&self->waiters, self)) self->value++;
}

/* Pushes a permit for the semaphore at index 1, made before anything is taken. */
static void push_permit(lua_State *L) {
  permit *each = concur_class_new(L, concur_runtime_of(L), CONCUR_CLASS_PERMIT, sizeof *each, 1);
  each->source = NULL;
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
}

static int semaphore_acquired(lua_State *L, concur_fiber *fiber) {
  (void)fiber;
  ((permit *)lua_touserdata(L, 2))->source = lua_touserdata(L, 1);
  lua_settop(L, 2);
  return 1;
}

static int semaphore_wait(lua_State *L, concur_fiber *fiber) {
  semaphore *self = lua_touserdata(L, 1);
  if (self->value > 0) {
    self->value--;
    return semaphore_acquired(L, fiber);
  }
  return concur_parking_park(L, fiber, &self->waiters, &wait_semaphore, self, semaphore_acquired);
}

/*@lua
---A number of permits; bounded: it never has more free permits than it began with.
---@class concur.Semaphore
local Semaphore = {}

---@param permits integer at least 0
---@return concur.Semaphore
function concur.Semaphore(permits) end

---Waits for a permit: `local _ <close> = semaphore:acquire()`.
---@async
---@return concur.Permit
function Semaphore:acquire() end

---@return concur.Permit|nil
---@return concur.Error|nil err of kind `WouldBlock`
function Semaphore:try_acquire() end

---Adds a permit without having one (for use without permit objects).  Raises `InvalidState` above the
---bound.  Never suspends.
function Semaphore:release() end

---Calls `fn(...)` holding a permit.
---@async
---@param fn function
---@param ... any
---@return any ...
function Semaphore:with(fn, ...) end

---@return integer free permits
function Semaphore:value() end

---@return integer count of tasks in line
function Semaphore:waiters() end

---One unit of a semaphore; given back once.
---@class concur.Permit
local Permit = {}

---Gives the permit back; never suspends.
---@return boolean released false when it was given back already
function Permit:release() end
*/
static int l_semaphore(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 1);
  luaL_argcheck(L, count >= 0, 1, "number of permits must not be negative");
  semaphore *self =
      concur_class_new(L, concur_runtime_of(L), CONCUR_CLASS_SEMAPHORE, sizeof *self, 0);
  concur_list_init(&self->waiters);
  self->value = count;
  self->limit = count;
  return 1;
}

static int l_semaphore_acquire(lua_State *L) {
  (void)check_semaphore(L);
  lua_settop(L, 1);
  push_permit(L);
  return concur_fiber_begin(L, semaphore_wait);
}

static int l_semaphore_try_acquire(lua_State *L) {
  semaphore *self = check_semaphore(L);
  lua_settop(L, 1);
  push_permit(L);
  if (self->value == 0) return would_block(L, "no permit is free");
  self->value--;
  return semaphore_acquired(L, NULL);
}

static int l_semaphore_release(lua_State *L) {
  semaphore *self = check_semaphore(L);
  if (self->value >= self->limit) {
    return concur_error_raise(L, concur_runtime_of(L), "InvalidState",
                              "the semaphore was released more often than acquired");
  }
  semaphore_give_back(self);
  return 0;
}

static bool permit_give_back(permit *each) {
  if (each->source == NULL) return false;
  semaphore *source = each->source;
  each->source = NULL;
  semaphore_give_back(source);
  return true;
}

static int l_permit_release(lua_State *L) {
  permit *each = concur_class_check(L, 1, CONCUR_CLASS_PERMIT);
  lua_pushboolean(L, permit_give_back(each));
  return 1;
}

static int l_permit_close(lua_State *L) {
  (void)permit_give_back(concur_class_check(L, 1, CONCUR_CLASS_PERMIT));
  return 0;
}

static int semaphore_with_done(lua_State *L, int status, lua_KContext context) {
  (void)context;
  (void)permit_give_back(lua_touserdata(L, 2));
  if (status == LUA_OK || status == LUA_YIELD) return lua_gettop(L) - 3;
  return concur_fiber_rethrow(L, concur_fiber_current(concur_runtime_of(L)->scheduler));
}

static int semaphore_with_run(lua_State *L, concur_fiber *fiber) {
  (void)fiber;
  ((permit *)lua_touserdata(L, 2))->source = lua_touserdata(L, 1);
  int status = lua_pcallk(L, lua_gettop(L) - 4, LUA_MULTRET, 3, 0, semaphore_with_done);
  return semaphore_with_done(L, status, 0);
}

static int semaphore_with_wait(lua_State *L, concur_fiber *fiber) {
  semaphore *self = lua_touserdata(L, 1);
  if (self->value == 0) {
    return concur_parking_park(L, fiber, &self->waiters, &wait_semaphore, self,
                               semaphore_with_run);
  }
  self->value--;
  return semaphore_with_run(L, fiber);
}

static int l_semaphore_with(lua_State *L) { /* semaphore, function, arguments */
  (void)check_semaphore(L);
  concur_check_callable(L, 2);
  luaL_checkstack(L, 6, NULL);
  push_permit(L);
  lua_insert(L, 2);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_insert(L, 3);
  return concur_fiber_begin(L, semaphore_with_wait);
}

static int l_semaphore_value(lua_State *L) {
  lua_pushinteger(L, check_semaphore(L)->value);
  return 1;
}

static int l_semaphore_waiters(lua_State *L) {
  lua_pushinteger(L, concur_parking_count(&check_semaphore(L)->waiters));
  return 1;
}

static int l_semaphore_tostring(lua_State *L) {
  semaphore *self = check_semaphore(L);
  lua_pushfstring(L, "concur.Semaphore (%I of %I free, %d waiting): %p",
                  (LUAI_UACINT)self->value, (LUAI_UACINT)self->limit,
                  concur_parking_count(&self->waiters), lua_topointer(L, 1));
  return 1;
}

static int l_permit_tostring(lua_State *L) {
  permit *each = concur_class_check(L, 1, CONCUR_CLASS_PERMIT);
  lua_pushfstring(L, "concur.Permit (%s): %p", each->source ? "held" : "released",
                  lua_topointer(L, 1));
  return 1;
}

void concur_sync_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg lock_methods[] = {{"acquire", l_lock_acquire},
                                   {"try_acquire", l_lock_try_acquire},
                                   {"release", l_lock_release},
                                   {"with", l_lock_with},
                                   {"locked", l_lock_locked},
                                   {"held", l_lock_held},
                                   {"owner", l_lock_owner},
                                   {"waiters", l_lock_waiters},
                                   {NULL, NULL}};
  const luaL_Reg lock_metamethods[] = {
      {"__close", l_lock_close}, {"__gc", l_lock_gc}, {"__tostring", l_lock_tostring}, {NULL, NULL}};
  const luaL_Reg event_methods[] = {{"wait", l_event_wait},     {"set", l_event_set},
                                    {"clear", l_event_clear},   {"is_set", l_event_is_set},
                                    {"waiters", l_event_waiters}, {NULL, NULL}};
  const luaL_Reg event_metamethods[] = {{"__tostring", l_event_tostring}, {NULL, NULL}};
  const luaL_Reg semaphore_methods[] = {{"acquire", l_semaphore_acquire},
                                        {"try_acquire", l_semaphore_try_acquire},
                                        {"release", l_semaphore_release},
                                        {"with", l_semaphore_with},
                                        {"value", l_semaphore_value},
                                        {"waiters", l_semaphore_waiters},
                                        {NULL, NULL}};
  const luaL_Reg semaphore_metamethods[] = {{"__tostring", l_semaphore_tostring}, {NULL, NULL}};
  const luaL_Reg permit_methods[] = {{"release", l_permit_release}, {NULL, NULL}};
  const luaL_Reg permit_metamethods[] = {{"__close", l_permit_close},
                                         {"__tostring", l_permit_tostring},
                                         {NULL, NULL}};
  const luaL_Reg functions[] = {
      {"Lock", l_lock}, {"Event", l_event}, {"Semaphore", l_semaphore}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_LOCK, "concur.Lock", lock_methods,
                      lock_metamethods);
  concur_class_define(L, runtime, CONCUR_CLASS_EVENT, "concur.Event", event_methods,
                      event_metamethods);
  concur_class_define(L, runtime, CONCUR_CLASS_SEMAPHORE, "concur.Semaphore", semaphore_methods,
                      semaphore_metamethods);
  concur_class_define(L, runtime, CONCUR_CLASS_PERMIT, "concur.Permit", permit_methods,
                      permit_metamethods);
  concur_register(L, runtime, functions);
  runtime->scheduler->abandon_locks = abandon_locks;
}
