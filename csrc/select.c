/* SPDX-License-Identifier: MIT */
/*
 * See select.h.
 *
 * select first tries each arm, in order; if none can commit it links all of them and parks.  The
 * first primitive that notifies an arm decides: all other arms are unlinked in the same moment, so
 * exactly one arm commits and nothing is handed to two.
 *
 * While they are linked the arms are anchored, and not only kept by the stack of who waits: a stranger
 * can close that coroutine.  Frame of select: 1 the list of arms, 2 the list of their keys.
 */
#include "select.h"

#include <math.h>

#include "await.h"
#include "event.h"
#include "queue.h"

/* ---- arms ---- */

static char arms_key; /* registry: weak table address -> arm, of arms that carry a value */

static concur_arm *arm_of_sibling(concur_node *node) {
  return concur_container_of(node, concur_arm, siblings);
}

static void arm_unlink(concur_arm *arm, concur_loop *loop) {
  if (arm->ops->unlink != NULL) {
    arm->ops->unlink(arm, loop);
  } else {
    concur_node_unlink(&arm->waiter.node);
  }
  if (arm->slot != 0) {
    concur_runtime *runtime = arm->fiber->scheduler->runtime;
    concur_anchor_release(runtime->keeper, runtime, arm->slot);
    arm->slot = 0;
  }
}

/* Takes all arms of a waiting select off; `chosen` is in its ring. */
static void ring_unlink(concur_arm *chosen) {
  concur_loop *loop = chosen->fiber->scheduler->loop;
  while (concur_node_linked(&chosen->siblings) && chosen->siblings.next != &chosen->siblings) {
    concur_arm *other = arm_of_sibling(chosen->siblings.next);
    concur_node_unlink(&other->siblings);
    arm_unlink(other, loop);
  }
  chosen->siblings.next = NULL;
  arm_unlink(chosen, loop);
}

static void arm_choose(concur_arm *arm, concur_outcome outcome) {
  concur_fiber *fiber = arm->fiber;
  ring_unlink(arm);
  arm->chosen = true;
  fiber->target = arm;
  concur_fiber_wake(fiber, outcome);
}

static concur_arm *arm_of_waiter(concur_waiter *waiter) {
  return concur_container_of(waiter, concur_arm, waiter);
}

static void on_arm_notified(concur_waiter *waiter, void *source) {
  (void)source;
  arm_choose(arm_of_waiter(waiter), CONCUR_OUTCOME_VALUE);
}

static bool arm_give(lua_State *L, concur_waiter *waiter) {
  concur_arm *arm = arm_of_waiter(waiter);
  bool given = concur_fiber_give(L, arm->fiber);
  arm_choose(arm, CONCUR_OUTCOME_VALUE);
  return given;
}

/* Pushes the value that the arm wants to put. */
static bool arm_take(lua_State *L, concur_waiter *waiter) {
  concur_arm *arm = arm_of_waiter(waiter);
  if (!concur_fiber_intact(arm->fiber)) {
    arm_choose(arm, CONCUR_OUTCOME_VALUE);
    return false;
  }
  ring_unlink(arm);
  arm->chosen = true;
  concur_fiber_claim(arm->fiber);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &arms_key);
  lua_rawgetp(L, -1, arm);
  lua_getiuservalue(L, -1, 2);
  lua_replace(L, -3);
  lua_pop(L, 1);
  return true;
}

static void arm_close(concur_waiter *waiter) {
  arm_choose(arm_of_waiter(waiter), CONCUR_OUTCOME_CLOSED);
}

static void arm_fail(lua_State *L, concur_waiter *waiter) {
  concur_arm *arm = arm_of_waiter(waiter);
  if (!concur_fiber_give(L, arm->fiber)) lua_pop(L, 1);
  arm_choose(arm, CONCUR_OUTCOME_CLOSED);
}

static const concur_exchange arm_exchange = {arm_give, arm_take, arm_close, arm_fail};

concur_arm *concur_arm_new(lua_State *L, concur_runtime *runtime, const concur_arm_ops *ops,
                           int target_index, int value_index) {
  target_index = lua_absindex(L, target_index);
  if (value_index != 0) value_index = lua_absindex(L, value_index);
  concur_arm *arm = concur_class_new(L, runtime, CONCUR_CLASS_ARM, sizeof *arm, 2);
  arm->ops = ops;
  arm->target = lua_touserdata(L, target_index);
  arm->owner = arm->target;
  arm->waiter.notify = on_arm_notified;
  arm->waiter.exchange = &arm_exchange;
  concur_timer_init(&arm->timer);
  lua_pushvalue(L, target_index);
  lua_setiuservalue(L, -2, 1);
  if (value_index != 0) {
    lua_pushvalue(L, value_index);
    lua_setiuservalue(L, -2, 2);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &arms_key);
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, arm);
    lua_pop(L, 1);
  }
  return arm;
}

static int l_arm_tostring(lua_State *L) {
  concur_arm *arm = concur_class_check(L, 1, CONCUR_CLASS_ARM);
  lua_pushfstring(L, "concur.Arm (%s): %p", arm->ops->name, lua_topointer(L, 1));
  return 1;
}

/* ---- queues ---- */

static int raise_queue_closed(lua_State *L, concur_fiber *fiber) {
  return concur_error_raise(L, fiber->scheduler->runtime, "Closed", "the queue is closed");
}

static int push_queue_closed(lua_State *L, concur_fiber *fiber) {
  luaL_pushfail(L);
  concur_error_new(L, fiber->scheduler->runtime, "Closed", "the queue is closed");
  return 2;
}

static int get_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  lua_getiuservalue(L, index, 1);
  switch (concur_queue_try_get(L, -1, arm->target)) {
    case CONCUR_QUEUE_DONE: return 1;
    case CONCUR_QUEUE_CLOSED: return push_queue_closed(L, fiber);
    case CONCUR_QUEUE_WAIT: break;
  }
  lua_pop(L, 1);
  return -1;
}

static bool get_link(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_list_append(concur_queue_getters(arm->target), &arm->waiter.node);
  return true;
}

static int get_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                      bool closed) {
  (void)index;
  (void)arm;
  return closed ? push_queue_closed(L, fiber) : 1;
}

static int put_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  lua_getiuservalue(L, index, 1);
  lua_getiuservalue(L, index, 2);
  switch (concur_queue_try_put(L, -2, arm->target)) {
    case CONCUR_QUEUE_DONE: return 0;
    case CONCUR_QUEUE_CLOSED: return raise_queue_closed(L, fiber);
    case CONCUR_QUEUE_WAIT: break;
  }
  lua_pop(L, 2);
  return -1;
}

static bool put_link(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_list_append(concur_queue_putters(arm->target), &arm->waiter.node);
  return true;
}

static int put_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                      bool closed) {
  (void)index;
  (void)arm;
  if (!closed) return 0;
  return fiber->given ? lua_error(L) : raise_queue_closed(L, fiber);
}

static const concur_arm_ops get_ops = {"getting", get_attempt, get_link, NULL, get_finish};
static const concur_arm_ops put_ops = {"putting", put_attempt, put_link, NULL, put_finish};

/*@lua
---One thing that `concur.select` may do.
---@class concur.Arm
local Arm = {}

---An arm that takes the next item.
---@return concur.Arm
function Queue:getting() end

---An arm that puts an item in.
---@param item any not nil
---@return concur.Arm
function Queue:putting(item) end

---An arm that waits until the event is set.
---@return concur.Arm
function Event:waiting() end
*/
static int l_getting(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  (void)concur_class_check(L, 1, CONCUR_CLASS_QUEUE);
  concur_arm_new(L, runtime, &get_ops, 1, 0);
  return 1;
}

static int l_putting(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  (void)concur_class_check(L, 1, CONCUR_CLASS_QUEUE);
  luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "nil cannot be put into a queue");
  concur_arm_new(L, runtime, &put_ops, 1, 2);
  return 1;
}

/* ---- events ---- */

static int event_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  (void)index;
  (void)fiber;
  if (concur_event_waiters(arm->target) != NULL) return -1;
  lua_pushboolean(L, 1);
  return 1;
}

static bool event_link(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_list_append(concur_event_waiters(arm->target), &arm->waiter.node);
  return true;
}

static int event_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                        bool closed) {
  (void)index;
  (void)arm;
  (void)fiber;
  (void)closed;
  lua_pushboolean(L, 1);
  return 1;
}

static const concur_arm_ops event_ops = {"event", event_attempt, event_link, NULL, event_finish};

static int l_event_arm(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  (void)concur_class_check(L, 1, CONCUR_CLASS_EVENT);
  concur_arm_new(L, runtime, &event_ops, 1, 0);
  return 1;
}

/* ---- futures ---- */

static int future_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  concur_future *future = arm->target;
  if (!concur_future_settled(future)) return -1;
  lua_getiuservalue(L, index, 1);
  return concur_await_results(L, fiber, lua_gettop(L), future);
}

static bool future_link(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_list_append(&((concur_future *)arm->target)->waiters, &arm->waiter.node);
  return true;
}

static int future_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                         bool closed) {
  (void)closed;
  return future_attempt(L, index, arm, fiber);
}

static const concur_arm_ops future_ops = {"future", future_attempt, future_link, NULL,
                                          future_finish};

/* ---- time ---- */

static int after_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  (void)L;
  (void)index;
  (void)arm;
  (void)fiber;
  return -1;
}

static void on_after(concur_timer *timer, void *context) {
  (void)context;
  arm_choose(concur_container_of(timer, concur_arm, timer), CONCUR_OUTCOME_VALUE);
}

static bool after_link(concur_arm *arm, concur_loop *loop) {
  if (!concur_loop_reserve_timer(loop)) return false;
  arm->timer.fire = on_after;
  concur_loop_start_timer(loop, &arm->timer, concur_deadline_after(loop, arm->delay_ns));
  return true;
}

static void after_unlink(concur_arm *arm, concur_loop *loop) {
  if (loop != NULL) concur_loop_stop_timer(loop, &arm->timer);
}

static int after_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber,
                        bool closed) {
  (void)L;
  (void)index;
  (void)arm;
  (void)fiber;
  (void)closed;
  return 0;
}

static const concur_arm_ops after_ops = {"after", after_attempt, after_link, after_unlink,
                                         after_finish};

/*@lua
---An arm for `concur.select` that commits after some time.
---@param seconds number
---@return concur.Arm
function concur.after(seconds) end
*/
static int l_after(lua_State *L) {
  uint64_t delay = concur_check_duration(L, 1);
  concur_arm *arm = concur_arm_new(L, concur_runtime_of(L), &after_ops, 1, 0);
  arm->delay_ns = delay;
  return 1;
}

/* ---- select ---- */

static bool select_abort(concur_fiber *fiber) {
  ring_unlink(fiber->target);
  return true;
}

static void select_detach(concur_fiber *fiber) {
  ring_unlink(fiber->target);
}

static const concur_wait wait_select = {
    .name = "select", .abort = select_abort, .detach = select_detach, .anchored = true};

/* Inserts the key at position `i` before the `count` results on top of the stack. */
static int with_key(lua_State *L, lua_Integer i, int count) {
  lua_rawgeti(L, 2, i);
  lua_insert(L, -(count + 1));
  return count + 1;
}

static int select_wait(lua_State *L, concur_fiber *fiber);

static int select_done(lua_State *L, concur_fiber *fiber) {
  const concur_arm *chosen = fiber->target;
  lua_Integer i = 1;
  for (;; i++) {
    lua_rawgeti(L, 1, i);
    if (lua_touserdata(L, -1) == chosen) break;
    lua_pop(L, 1);
  }
  concur_arm *arm = lua_touserdata(L, -1);
  arm->chosen = false;
  lua_insert(L, 3); /* below the value, if one was given */
  bool closed = fiber->outcome == CONCUR_OUTCOME_CLOSED;
  int count = arm->ops->finish(L, 3, arm, fiber, closed);
  if (count >= 0) return with_key(L, i, count);
  lua_settop(L, 2);
  return select_wait(L, fiber);
}

/* Its select waits, or has not run since the arm was chosen: what came lies in the arm. */
static bool arm_in_use(const concur_arm *arm) {
  return concur_node_linked(&arm->siblings) || arm->chosen;
}

static int raise_arm_in_use(lua_State *L, concur_runtime *runtime) {
  return concur_error_raise(L, runtime, "InvalidState", "an arm is used by two selects at once");
}

/* Raises when another select took an arm since the arguments were checked, or while this one waited. */
static void check_free(lua_State *L, concur_fiber *fiber, lua_Integer count) {
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, 1, i);
    const concur_arm *arm = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (arm_in_use(arm)) raise_arm_in_use(L, fiber->scheduler->runtime);
  }
}

/* Links all arms into a ring; raises, with nothing linked, when out of memory.  There is a free slot
   for an anchor. */
static concur_arm *link_arms(lua_State *L, concur_fiber *fiber, lua_Integer count) {
  concur_loop *loop = fiber->scheduler->loop;
  lua_pushvalue(L, 1);
  int slot = concur_anchor(L, fiber->scheduler->runtime);
  concur_arm *first = NULL;
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, 1, i);
    concur_arm *arm = lua_touserdata(L, -1);
    lua_pop(L, 1);
    arm->fiber = fiber;
    if (first == NULL) {
      first = arm;
      first->slot = slot;
      concur_list_init(&arm->siblings);
    } else {
      concur_list_append(&first->siblings, &arm->siblings);
    }
    if (!arm->ops->link(arm, loop)) {
      ring_unlink(first);
      luaL_error(L, "not enough memory");
    }
  }
  return first;
}

/* Commits the first arm that can; -1: none, and all must wait. */
static int try_arms(lua_State *L, concur_fiber *fiber, lua_Integer count) {
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, 1, i);
    concur_arm *arm = lua_touserdata(L, -1);
    int results = arm->ops->attempt(L, 3, arm, fiber);
    if (results >= 0) return with_key(L, i, results);
    lua_settop(L, 2);
  }
  return -1;
}

static int select_wait(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  lua_Integer count = (lua_Integer)lua_rawlen(L, 1);
  luaL_checkstack(L, 8, NULL);
  do {
    check_free(L, fiber, count);
    concur_anchor_reserve(L, runtime); /* no memory is taken between the look and the links */
    int results = try_arms(L, fiber, count);
    if (results >= 0) return results;
  } while (!concur_anchor_is_free(runtime)); /* finalizers took what was free */
  concur_arm *first = link_arms(L, fiber, count);
  return concur_fiber_park(L, fiber, &wait_select, first, select_done);
}

/* Stack: ..., arms, keys, key, value.  Appends the value, made an arm; pops key and value. */
static void add_arm(lua_State *L, concur_runtime *runtime, int arms) {
  lua_Integer position = (lua_Integer)lua_rawlen(L, arms) + 1;
  int value = lua_gettop(L);
  concur_future *future = concur_future_test(L, value);
  concur_arm *arm = concur_class_test(L, value, CONCUR_CLASS_ARM);
  if (future != NULL) {
    concur_arm_new(L, runtime, &future_ops, value, 0);
    lua_replace(L, value);
  } else if (arm == NULL) {
    const char *key = luaL_tolstring(L, value - 1, NULL);
    luaL_argerror(L, 1, lua_pushfstring(L, "arm '%s': an arm or a future expected, got %s", key,
                                        concur_type_name(L, value)));
  } else if (arm_in_use(arm)) {
    raise_arm_in_use(L, runtime);
  } else {
    lua_getiuservalue(L, value, 1);
    luaL_argcheck(L, lua_touserdata(L, -1) == arm->owner, 1, "an arm has lost what it waits for");
    lua_pop(L, 1);
  }
  lua_rawseti(L, arms, position);
  lua_rawseti(L, arms + 1, position);
}

static void check_distinct(lua_State *L, int arms) {
  lua_Integer count = (lua_Integer)lua_rawlen(L, arms);
  lua_newtable(L);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, arms, i);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, -3) != LUA_TNIL) luaL_argerror(L, 1, "the same arm appears twice");
    lua_pop(L, 1);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
  }
  lua_pop(L, 1);
}

/*@lua
---Commits exactly one of the arms, the first that can (in list order, then any order), waiting if
---none can yet; returns its key and its results.  Arms: `queue:getting()`, `queue:putting(v)`,
---`event:waiting()`, a future or task (its results, or its error is raised), `concur.after(s)`.
---@async
---@param arms table<any, concur.Arm|concur.Future>
---@return any key
---@return any ...
function concur.select(arms) end
*/
static int l_select(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_newtable(L);
  lua_newtable(L);
  lua_Integer length = (lua_Integer)lua_rawlen(L, 1);
  for (lua_Integer i = 1; i <= length; i++) {
    lua_pushinteger(L, i);
    lua_rawgeti(L, 1, i);
    add_arm(L, runtime, 2);
  }
  lua_pushnil(L);
  while (lua_next(L, 1) != 0) {
    bool listed = lua_isinteger(L, -2) && lua_tointeger(L, -2) >= 1 &&
                  lua_tointeger(L, -2) <= length;
    if (listed) {
      lua_pop(L, 1);
      continue;
    }
    lua_pushvalue(L, -2); /* add_arm pops a key and a value; lua_next needs the key */
    lua_insert(L, -2);
    add_arm(L, runtime, 2);
  }
  luaL_argcheck(L, lua_rawlen(L, 2) > 0, 1, "at least one arm expected");
  check_distinct(L, 2);
  lua_remove(L, 1);
  return concur_fiber_begin(L, select_wait);
}

/* Adds a method to a class that is defined elsewhere. */
static void add_methods(lua_State *L, concur_runtime *runtime, concur_class class,
                        const luaL_Reg *methods) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[class]);
  lua_getfield(L, -1, "__index");
  concur_register(L, runtime, methods);
  lua_pop(L, 2);
}

void concur_select_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg metamethods[] = {{"__tostring", l_arm_tostring}, {NULL, NULL}};
  const luaL_Reg queue_methods[] = {{"getting", l_getting}, {"putting", l_putting}, {NULL, NULL}};
  const luaL_Reg event_methods[] = {{"waiting", l_event_arm}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"select", l_select}, {"after", l_after}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_ARM, "concur.Arm", NULL, metamethods);
  add_methods(L, runtime, CONCUR_CLASS_QUEUE, queue_methods);
  add_methods(L, runtime, CONCUR_CLASS_EVENT, event_methods);
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "v");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &arms_key);
  concur_register(L, runtime, functions);
}
