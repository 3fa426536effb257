/* SPDX-License-Identifier: MIT */
/*
 * Queues between tasks of one state.
 *
 * The items are in a table (user value 1).  First in, first out: a ring in slots 1..capacity, a
 * power of two; last in, first out: a stack; by priority: a binary heap, with the order of arrival
 * of each item in a parallel ring of integers (user value 2), and an optional `less` (3).
 *
 * There is never an item and a waiting getter at once, nor room and a waiting putter: put hands
 * its item straight to the first getter, get takes the item of the first putter in.
 *                                                                            [loop thread]
 */
#include "queue.h"

#include <math.h>

typedef enum queue_order { FIFO, LIFO, PRIORITY } queue_order;

struct concur_queue {
  concur_node getters;
  concur_node putters;
  concur_node joiners;
  lua_Integer limit; /* 0: none */
  lua_Integer count;
  lua_Integer head;     /* FIFO: items from slot head + 1 on, wrapping */
  lua_Integer capacity; /* FIFO: a power of two, or 0 */
  lua_Integer unfinished;
  uint64_t arrivals; /* PRIORITY: order of the next item */
  uint64_t version;  /* changes with every change: a comparison may run anything */
  queue_order order;
  bool closed;
};

enum { ITEMS = 1, ORDERS = 2, LESS = 3, FIRST_CAPACITY = 8 };

static const concur_wait wait_get = {.name = "Queue:get"};
static const concur_wait wait_put = {.name = "Queue:put"};
static const concur_wait wait_join = {.name = "Queue:join"};

/* ---- the order FIFO ---- */

/* Doubles the ring; raises before anything changed. */
static void ring_grow(lua_State *L, concur_queue *queue, int items) {
  lua_Integer old = queue->capacity;
  lua_Integer capacity = old == 0 ? FIRST_CAPACITY : old * 2;
  for (lua_Integer slot = old + 1; slot <= capacity; slot++) {
    lua_pushboolean(L, 0);
    lua_rawseti(L, items, slot);
  }
  for (lua_Integer slot = 1; slot <= queue->head; slot++) { /* the part that had wrapped */
    lua_rawgeti(L, items, slot);
    lua_rawseti(L, items, old + slot);
    lua_pushboolean(L, 0);
    lua_rawseti(L, items, slot);
  }
  queue->capacity = capacity;
}

/* Stores the value on top of the stack, popped. */
static void ring_store(lua_State *L, concur_queue *queue, int items) {
  if (queue->count == queue->capacity) ring_grow(L, queue, items);
  lua_Integer slot = (queue->head + queue->count) & (queue->capacity - 1);
  lua_rawseti(L, items, slot + 1);
}

static void ring_fetch(lua_State *L, concur_queue *queue, int items) {
  lua_Integer slot = queue->head + 1;
  lua_rawgeti(L, items, slot);
  lua_pushboolean(L, 0);
  lua_rawseti(L, items, slot);
  queue->head = slot & (queue->capacity - 1);
}

/* ---- the order PRIORITY ---- */

/* True when the value at `a` (order_a) comes before that at `b`; indices are absolute. */
static bool item_before(lua_State *L, int index, int a, lua_Integer order_a, int b,
                        lua_Integer order_b) {
  bool before;
  bool after;
  if (lua_getiuservalue(L, index, LESS) == LUA_TNIL) {
    lua_pop(L, 1);
    before = lua_compare(L, a, b, LUA_OPLT);
    after = !before && lua_compare(L, b, a, LUA_OPLT);
  } else {
    lua_pushvalue(L, -1);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    before = lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_pushvalue(L, b);
    lua_pushvalue(L, a);
    lua_call(L, 2, 1);
    after = !before && lua_toboolean(L, -1);
    lua_pop(L, 1);
  }
  return before || (!after && order_a < order_b);
}

static lua_Integer order_at(lua_State *L, int orders, lua_Integer slot) {
  lua_rawgeti(L, orders, slot);
  lua_Integer order = lua_tointeger(L, -1);
  lua_pop(L, 1);
  return order;
}

static void check_unchanged(lua_State *L, const concur_queue *queue, uint64_t version) {
  if (queue->version != version) {
    concur_error_raise(L, concur_runtime_of(L), "InvalidState",
                       "the queue was changed by a comparison of its items");
  }
}

static void heap_move(lua_State *L, int items, int orders, lua_Integer from, lua_Integer to) {
  lua_rawgeti(L, items, from);
  lua_rawseti(L, items, to);
  lua_rawgeti(L, orders, from);
  lua_rawseti(L, orders, to);
}

/* Stores the value on top of the stack, popped.  All comparisons come before the first change. */
static void heap_store(lua_State *L, int index, concur_queue *queue, int items) {
  int value = lua_gettop(L);
  lua_getiuservalue(L, index, ORDERS);
  int orders = value + 1;
  lua_Integer order = (lua_Integer)queue->arrivals;
  uint64_t version = queue->version;
  lua_Integer last = queue->count + 1;
  lua_Integer slot = last;
  while (slot > 1) {
    lua_rawgeti(L, items, slot / 2);
    bool before = item_before(L, index, value, order, orders + 1, order_at(L, orders, slot / 2));
    lua_settop(L, orders);
    check_unchanged(L, queue, version);
    if (!before) break;
    slot /= 2;
  }
  lua_pushboolean(L, 0); /* make the new slot in both tables: from here nothing fails */
  lua_rawseti(L, items, last);
  lua_pushinteger(L, 0);
  lua_rawseti(L, orders, last);
  for (lua_Integer hole = last; hole > slot; hole /= 2) heap_move(L, items, orders, hole / 2, hole);
  lua_pushvalue(L, value);
  lua_rawseti(L, items, slot);
  lua_pushinteger(L, order);
  lua_rawseti(L, orders, slot);
  queue->arrivals++;
  lua_settop(L, value - 1);
}

/* Pushes the first item and takes it out. */
static void heap_fetch(lua_State *L, int index, concur_queue *queue, int items) {
  enum { DEEPEST = 64 };
  lua_Integer path[DEEPEST];
  int depth = 0;
  uint64_t version = queue->version;
  lua_Integer last = queue->count;
  lua_rawgeti(L, items, 1);
  lua_getiuservalue(L, index, ORDERS);
  int orders = lua_gettop(L);
  lua_rawgeti(L, items, last);
  int moved = orders + 1;
  lua_Integer moved_order = order_at(L, orders, last);
  for (lua_Integer slot = 1; slot * 2 < last;) {
    lua_Integer child = slot * 2;
    lua_rawgeti(L, items, child);
    if (child + 1 < last) {
      lua_rawgeti(L, items, child + 1);
      if (item_before(L, index, moved + 2, order_at(L, orders, child + 1), moved + 1,
                      order_at(L, orders, child))) {
        lua_replace(L, moved + 1);
        child++;
      }
    }
    bool before = item_before(L, index, moved + 1, order_at(L, orders, child), moved, moved_order);
    lua_settop(L, moved);
    check_unchanged(L, queue, version);
    if (!before) break;
    path[depth++] = child;
    slot = child;
  }
  lua_Integer hole = 1;
  for (int i = 0; i < depth; i++) {
    heap_move(L, items, orders, path[i], hole);
    hole = path[i];
  }
  heap_move(L, items, orders, last, hole);
  lua_pushnil(L);
  lua_rawseti(L, items, last);
  lua_settop(L, orders - 1);
}

/* ---- any order ---- */

/* Stores the value on top of the stack (popped); raises before anything changed. */
static void queue_store(lua_State *L, int index, concur_queue *queue) {
  lua_getiuservalue(L, index, ITEMS);
  lua_insert(L, -2);
  int items = lua_gettop(L) - 1;
  switch (queue->order) {
    case FIFO: ring_store(L, queue, items); break;
    case LIFO: lua_rawseti(L, items, queue->count + 1); break;
    case PRIORITY: heap_store(L, index, queue, items); break;
  }
  lua_pop(L, 1);
  queue->count++;
  queue->version++;
}

/* Pushes (the table of items and) the next item and takes it out; there is one. */
static void queue_fetch(lua_State *L, int index, concur_queue *queue) {
  lua_getiuservalue(L, index, ITEMS);
  int items = lua_gettop(L);
  switch (queue->order) {
    case FIFO: ring_fetch(L, queue, items); break;
    case LIFO:
      lua_rawgeti(L, items, queue->count);
      lua_pushboolean(L, 0);
      lua_rawseti(L, items, queue->count);
      break;
    case PRIORITY: heap_fetch(L, index, queue, items); break;
  }
  queue->count--;
  queue->version++;
}

static bool queue_full(const concur_queue *queue) {
  return queue->limit > 0 && queue->count >= queue->limit;
}

/* Arguments: queue, item. */
static int l_store(lua_State *L) {
  queue_store(L, 1, lua_touserdata(L, 1));
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
    queue_store(L, index, queue);
  }
  queue->unfinished++;
  return CONCUR_QUEUE_DONE;
}

concur_queue_try concur_queue_try_get(lua_State *L, int index, concur_queue *queue) {
  index = lua_absindex(L, index);
  if (queue->count == 0) return queue->closed ? CONCUR_QUEUE_CLOSED : CONCUR_QUEUE_WAIT;
  queue_fetch(L, index, queue);
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
static int queue_new(lua_State *L, queue_order order) {
  concur_runtime *runtime = concur_runtime_of(L);
  lua_Integer limit = luaL_optinteger(L, 1, 0);
  luaL_argcheck(L, limit >= 0, 1, "maxsize must not be negative");
  if (order == PRIORITY && !lua_isnoneornil(L, 2)) concur_check_callable(L, 2);
  lua_settop(L, 2);
  concur_queue *queue = concur_class_new(L, runtime, CONCUR_CLASS_QUEUE, sizeof *queue, 3);
  concur_list_init(&queue->getters);
  concur_list_init(&queue->putters);
  concur_list_init(&queue->joiners);
  queue->limit = limit;
  queue->order = order;
  lua_newtable(L);
  lua_setiuservalue(L, 3, ITEMS);
  if (order == PRIORITY) {
    lua_newtable(L);
    lua_setiuservalue(L, 3, ORDERS);
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, 3, LESS);
  }
  return 1;
}

static int l_queue(lua_State *L) {
  return queue_new(L, FIFO);
}

static int l_lifo_queue(lua_State *L) {
  return queue_new(L, LIFO);
}

static int l_priority_queue(lua_State *L) {
  return queue_new(L, PRIORITY);
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
  lua_settop(L, 2);
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
  concur_fiber *fiber = concur_fiber_ready_here(L, concur_runtime_of(L));
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
      luaL_pushfail(L);
      concur_error_new(L, runtime, "WouldBlock", "the queue is full");
      return 2;
  }
  lua_pushboolean(L, 1);
  return 1;
}

static int l_get(lua_State *L) {
  concur_queue *queue = check_queue(L);
  concur_fiber *fiber = concur_fiber_ready_here(L, concur_runtime_of(L));
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
  luaL_pushfail(L);
  concur_error_new(L, runtime, "WouldBlock", "the queue is empty");
  return 2;
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
  if (queue->unfinished == queue->count) {
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
  lua_newtable(L);
  if (queue->order == PRIORITY) {
    lua_newtable(L);
    lua_setiuservalue(L, 1, ORDERS);
  }
  lua_setiuservalue(L, 1, ITEMS);
  queue->unfinished -= queue->count;
  queue->count = 0;
  queue->head = 0;
  queue->capacity = 0;
  queue->version++;
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
  lua_pushinteger(L, check_queue(L)->count);
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
  lua_pushboolean(L, check_queue(L)->count == 0);
  return 1;
}

static int l_tostring(lua_State *L) {
  static const char *const names[] = {"Queue", "LifoQueue", "PriorityQueue"};
  concur_queue *queue = check_queue(L);
  lua_pushfstring(L, "concur.%s (%s, %I items): %p", names[queue->order],
                  queue->closed ? "closed" : "open", (LUAI_UACINT)queue->count,
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
