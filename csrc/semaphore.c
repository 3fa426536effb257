/* SPDX-License-Identifier: MIT */
/*
 * Semaphore, on parking.h.  A permit gives back what it stands for once, by release or `<close>`; not
 * by a finalizer, since who uses `semaphore:release()` drops it.              [loop thread]
 */
#include "semaphore.h"

#include "parking.h"

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
  if (self->value == 0) return concur_would_block(L, concur_runtime_of(L), "no permit is free");
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

void concur_semaphore_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"acquire", l_semaphore_acquire},
                              {"release", l_semaphore_release},
                              {"try_acquire", l_semaphore_try_acquire},
                              {"with", l_semaphore_with},
                              {"value", l_semaphore_value},
                              {"waiters", l_semaphore_waiters},
                              {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__tostring", l_semaphore_tostring}, {NULL, NULL}};
  const luaL_Reg permit_methods[] = {{"release", l_permit_release}, {NULL, NULL}};
  const luaL_Reg permit_metamethods[] = {
      {"__close", l_permit_close}, {"__tostring", l_permit_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"Semaphore", l_semaphore}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_SEMAPHORE, "concur.Semaphore", methods,
                      metamethods);
  concur_class_define(L, runtime, CONCUR_CLASS_PERMIT, "concur.Permit", permit_methods,
                      permit_metamethods);
  concur_register(L, runtime, functions);
}
