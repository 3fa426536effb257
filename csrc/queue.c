/* SPDX-License-Identifier: MIT */
/*
 * Queues between tasks of one state: who waits, and who gets what.  What is inside and in which
 * order it comes out: queue_items.h.
 *
 * There is never an item and a waiting getter at once, nor room and a waiting putter: put hands
 * its item straight to the first getter, get takes the item of the first putter in.
 *                                                                            [loop thread]
 */
#include "queue.h"

#include <math.h>

#include "queue_items.h"

struct concur_queue {
  concur_node getters;
  concur_node putters;
  concur_node joiners;
  concur_items items;
  lua_Integer limit; /* 0: none */
  lua_Integer unfinished;
  bool closed;
};

static const concur_wait wait_get = {.name = "Queue:get"};
static const concur_wait wait_put = {.name = "Queue:put"};
static const concur_wait wait_join = {.name = "Queue:join"};

static bool queue_full(const concur_queue *queue) {
  return queue->limit > 0 && queue->items.count >= queue->limit;
}

/* Arguments: queue, item. */
static int l_store(lua_State *L) {
  concur_queue *queue = lua_touserdata(L, 1);
  concur_items_store(L, 1, &queue->items);
  return 0;
}

/* Room goes to the first putter.  Where storing its item can raise (a comparison, memory), that is
   the putter's error, and the room goes to the next. */
static void admit_putters(lua_State *L, int index, concur_queue *queue) {
  concur_waiter *putter;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  while (!queue_full(queue) && (putter = concur_parking_take(L, &queue->putters)) != NULL) {
    lua_pushcfunction(L, l_store);
    lua_insert(L, -2);
    lua_pushvalue(L, index);
    lua_insert(L, -2);
    if (lua_pcall(L, 2, 0, 0) == LUA_OK) {
      queue->unfinished++;
      putter->notify(putter, queue);
    } else {
      putter->exchange->fail(L, putter);
    }
  }
}

concur_queue_try concur_queue_try_put(lua_State *L, int index, concur_queue *queue) {
  index = lua_absindex(L, index);
  if (queue->closed) return CONCUR_QUEUE_CLOSED;
  if (queue_full(queue)) return CONCUR_QUEUE_WAIT;
  if (concur_list_empty(&queue->getters) || !concur_parking_give(L, &queue->getters)) {
    concur_items_store(L, index, &queue->items);
  }
  queue->unfinished++;
  return CONCUR_QUEUE_DONE;
}

concur_queue_try concur_queue_try_get(lua_State *L, int index, concur_queue *queue) {
  index = lua_absindex(L, index);
  if (queue->items.count == 0) return queue->closed ? CONCUR_QUEUE_CLOSED : CONCUR_QUEUE_WAIT;
  concur_items_fetch(L, index, &queue->items);
  if (!concur_list_empty(&queue->putters)) admit_putters(L, index, queue);
  return CONCUR_QUEUE_DONE;
}

concur_node *concur_queue_getters(concur_queue *queue) {
  return &queue->getters;
}

concur_node *concur_queue_putters(concur_queue *queue) {
  return &queue->putters;
}

/* ---- for scripts ---- */

static concur_queue *check_queue(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_QUEUE);
}

/*@lua
---Items for other tasks, first in, first out; with `maxsize`, `put` waits for room.
---@class concur.Queue
local Queue = {}

---@param maxsize? integer nil or 0: no limit
---@return concur.Queue
function concur.Queue(maxsize) end

---The item put last comes out first.
---@param maxsize? integer
---@return concur.Queue
function concur.LifoQueue(maxsize) end

---The smallest item comes out first; equal ones in the order in which they were put.
---@param maxsize? integer
---@param less? fun(a: any, b: any): boolean default `<`; may not suspend
---@return concur.Queue
function concur.PriorityQueue(maxsize, less) end
*/
static int queue_new(lua_State *L, concur_order order) {
  concur_runtime *runtime = concur_runtime_of(L);
  lua_Integer limit = luaL_optinteger(L, 1, 0);
  luaL_argcheck(L, limit >= 0, 1, "maxsize must not be negative");
  if (order == CONCUR_PRIORITY && !lua_isnoneornil(L, 2)) concur_check_callable(L, 2);
  lua_settop(L, 2);
  concur_queue *queue = concur_class_new(L, runtime, CONCUR_CLASS_QUEUE, sizeof *queue,
                                         concur_items_user_values(order, limit));
  concur_list_init(&queue->getters);
  concur_list_init(&queue->putters);
  concur_list_init(&queue->joiners);
  queue->limit = limit;
  concur_items_init(L, 3, &queue->items, order, limit, 2);
  return 1;
}

static int l_queue(lua_State *L) {
  return queue_new(L, CONCUR_FIFO);
}

static int l_lifo_queue(lua_State *L) {
  return queue_new(L, CONCUR_LIFO);
}

static int l_priority_queue(lua_State *L) {
  return queue_new(L, CONCUR_PRIORITY);
}

static int push_closed(lua_State *L, concur_runtime *runtime) {
  luaL_pushfail(L);
  concur_error_new(L, runtime, "Closed", "the queue is closed");
  return 2;
}

static int raise_closed(lua_State *L, concur_runtime *runtime) {
  return concur_error_raise(L, runtime, "Closed", "the queue is closed");
}

static int put_done(lua_State *L, concur_fiber *fiber) {
  if (fiber->outcome == CONCUR_OUTCOME_CLOSED) {
    if (fiber->given) return lua_error(L);
    return raise_closed(L, fiber->scheduler->runtime);
  }
  return 0;
}

/* Stack: queue, value. */
static int put_now(lua_State *L, concur_fiber *fiber, concur_queue *queue) {
  switch (concur_queue_try_put(L, 1, queue)) {
    case CONCUR_QUEUE_DONE: return 0;
    case CONCUR_QUEUE_CLOSED: return raise_closed(L, fiber->scheduler->runtime);
    case CONCUR_QUEUE_WAIT: break;
  }
  concur_fiber_stash(L, fiber, 2);
  return concur_parking_park(L, fiber, &queue->putters, &wait_put, queue, put_done);
}

static int get_done(lua_State *L, concur_fiber *fiber) {
  return fiber->given ? 1 : push_closed(L, fiber->scheduler->runtime);
}

static int put_wait(lua_State *L, concur_fiber *fiber) {
  return put_now(L, fiber, lua_touserdata(L, 1));
}

/* Stack: queue. */
static int get_now(lua_State *L, concur_fiber *fiber, concur_queue *queue) {
  switch (concur_queue_try_get(L, 1, queue)) {
    case CONCUR_QUEUE_DONE: return 1;
    case CONCUR_QUEUE_CLOSED: return push_closed(L, fiber->scheduler->runtime);
    case CONCUR_QUEUE_WAIT: break;
  }
  return concur_parking_park(L, fiber, &queue->getters, &wait_get, queue, get_done);
}

static int get_wait(lua_State *L, concur_fiber *fiber) {
  return get_now(L, fiber, lua_touserdata(L, 1));
}

static void check_item(lua_State *L) {
  luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "nil cannot be put into a queue");
  if (lua_gettop(L) > 2) lua_settop(L, 2);
}

/*@lua
---Puts an item in, waiting for room if there is a limit.  Raises `Closed` on a closed queue; `nil` is
---an argument error.
---@async
---@param item any not nil
function Queue:put(item) end

---Puts an item in if there is room; never suspends.
---@param item any not nil
---@return true|nil
---@return concur.Error|nil err of kind `WouldBlock`
function Queue:try_put(item) end

---Takes the next item out, waiting for one.
---@async
---@return any item nil once the queue is closed and empty
---@return concur.Error|nil err of kind `Closed`
function Queue:get() end

---Takes the next item out if there is one; never suspends.
---@return any item
---@return concur.Error|nil err of kind `WouldBlock` or `Closed`
function Queue:try_get() end

---Iterates over the items until the queue is closed and empty; the iterator suspends.
---@return fun(): any
function Queue:iter() end

---Tells that an item taken before is done.  Raises `InvalidState` when called too often.
function Queue:task_done() end

---Waits until every item that was put in has been taken and told done.
---@async
function Queue:join() end

---Closes the queue: `put` raises, `get` drains.  Never suspends.
---@param options? {immediate?: boolean} immediate: drop the items
function Queue:close(options) end

---@return boolean
function Queue:closed() end

---@return integer items inside
function Queue:size() end

---@return integer|number limit `math.huge` when there is none
function Queue:maxsize() end

---@return boolean
function Queue:full() end

---@return boolean
function Queue:empty() end
*/
static int l_put(lua_State *L) {
  concur_queue *queue = check_queue(L);
  check_item(L);
  concur_fiber *fiber = concur_fiber_ready_here(L);
  return fiber != NULL ? put_now(L, fiber, queue) : concur_fiber_begin_anywhere(L, put_wait);
}

static int l_try_put(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_queue *queue = check_queue(L);
  check_item(L);
  switch (concur_queue_try_put(L, 1, queue)) {
    case CONCUR_QUEUE_DONE: break;
    case CONCUR_QUEUE_CLOSED: return raise_closed(L, runtime);
    case CONCUR_QUEUE_WAIT:
      return concur_would_block(L, runtime, "the queue is full");
  }
  lua_pushboolean(L, 1);
  return 1;
}

static int l_get(lua_State *L) {
  concur_queue *queue = check_queue(L);
  concur_fiber *fiber = concur_fiber_ready_here(L);
  return fiber != NULL ? get_now(L, fiber, queue) : concur_fiber_begin_anywhere(L, get_wait);
}

static int l_try_get(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  concur_queue *queue = check_queue(L);
  lua_settop(L, 1);
  switch (concur_queue_try_get(L, 1, queue)) {
    case CONCUR_QUEUE_DONE: return 1;
    case CONCUR_QUEUE_CLOSED: return push_closed(L, runtime);
    case CONCUR_QUEUE_WAIT: break;
  }
  return concur_would_block(L, runtime, "the queue is empty");
}

static int l_iterate(lua_State *L) { /* upvalue 2: the queue */
  lua_settop(L, 0);
  lua_pushvalue(L, lua_upvalueindex(2));
  return concur_fiber_begin(L, get_wait);
}

static int l_iter(lua_State *L) {
  (void)check_queue(L);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, l_iterate, 2);
  return 1;
}

static int l_task_done(lua_State *L) {
  concur_queue *queue = check_queue(L);
  if (queue->unfinished == queue->items.count) {
    return concur_error_raise(L, concur_runtime_of(L), "InvalidState",
                              "task_done() was called more often than items were taken");
  }
  if (--queue->unfinished == 0) concur_parking_wake_all(&queue->joiners, queue);
  return 0;
}

static int join_done(lua_State *L, concur_fiber *fiber) {
  (void)L;
  (void)fiber;
  return 0;
}

static int join_wait(lua_State *L, concur_fiber *fiber) {
  concur_queue *queue = lua_touserdata(L, 1);
  if (queue->unfinished == 0) return 0;
  return concur_parking_park(L, fiber, &queue->joiners, &wait_join, queue, join_done);
}

static int l_join(lua_State *L) {
  (void)check_queue(L);
  return concur_fiber_begin(L, join_wait);
}

static void drop_items(lua_State *L, concur_queue *queue) {
  queue->unfinished -= concur_items_clear(L, 1, &queue->items);
  if (queue->unfinished == 0) concur_parking_wake_all(&queue->joiners, queue);
}

static int l_close(lua_State *L) {
  static const char *const names[] = {"immediate", NULL};
  concur_queue *queue = check_queue(L);
  lua_settop(L, 2);
  bool immediate = false;
  if (!lua_isnil(L, 2)) {
    luaL_checktype(L, 2, LUA_TTABLE);
    concur_check_options(L, 2, names);
    lua_getfield(L, 2, "immediate");
    immediate = lua_toboolean(L, -1);
  }
  if (immediate) drop_items(L, queue);
  queue->closed = true;
  concur_parking_close(&queue->getters);
  concur_parking_close(&queue->putters);
  return 0;
}

static int l_queue_close(lua_State *L) { /* __close(queue, error) */
  lua_settop(L, 1);
  return l_close(L);
}

static int l_closed(lua_State *L) {
  lua_pushboolean(L, check_queue(L)->closed);
  return 1;
}

static int l_size(lua_State *L) {
  lua_pushinteger(L, check_queue(L)->items.count);
  return 1;
}

static int l_maxsize(lua_State *L) {
  concur_queue *queue = check_queue(L);
  if (queue->limit > 0) {
    lua_pushinteger(L, queue->limit);
  } else {
    lua_pushnumber(L, (lua_Number)HUGE_VAL);
  }
  return 1;
}

static int l_full(lua_State *L) {
  lua_pushboolean(L, queue_full(check_queue(L)));
  return 1;
}

static int l_empty(lua_State *L) {
  lua_pushboolean(L, check_queue(L)->items.count == 0);
  return 1;
}

static int l_tostring(lua_State *L) {
  static const char *const names[] = {"Queue", "LifoQueue", "PriorityQueue"};
  concur_queue *queue = check_queue(L);
  lua_pushfstring(L, "concur.%s (%s, %I items): %p", names[queue->items.order],
                  queue->closed ? "closed" : "open", (LUAI_UACINT)queue->items.count,
                  lua_topointer(L, 1));
  return 1;
}

void concur_queue_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"put", l_put},         {"try_put", l_try_put},
                              {"get", l_get},         {"try_get", l_try_get},
                              {"iter", l_iter},       {"task_done", l_task_done},
                              {"join", l_join},       {"close", l_close},
                              {"closed", l_closed},   {"size", l_size},
                              {"maxsize", l_maxsize}, {"full", l_full},
                              {"empty", l_empty},     {NULL, NULL}};
  const luaL_Reg metamethods[] = {
      {"__close", l_queue_close}, {"__tostring", l_tostring}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"Queue", l_queue},
                                {"LifoQueue", l_lifo_queue},
                                {"PriorityQueue", l_priority_queue},
                                {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_QUEUE, "concur.Queue", methods, metamethods);
  concur_register(L, runtime, functions);
}
