/* SPDX-License-Identifier: MIT */
/* Event, on parking.h: whoever sets it wakes all who wait.                    [loop thread] */
#include "event.h"

#include "parking.h"

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

void concur_event_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"wait", l_event_wait},       {"set", l_event_set},
                              {"clear", l_event_clear},     {"is_set", l_event_is_set},
                              {"waiters", l_event_waiters}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__tostring", l_event_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"Event", l_event}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_EVENT, "concur.Event", methods, metamethods);
  concur_register(L, runtime, functions);
}
