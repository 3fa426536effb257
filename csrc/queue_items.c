/* SPDX-License-Identifier: MIT */
/*
 * See queue_items.h.
 *
 * First in, first out: a ring.  A short queue has it in its user values, one slot each, which is
 * twice as fast to reach as a table; any other in a table whose size is a power of two.  Last in,
 * first out: a table as a stack.  By priority: a table as a binary heap, with the order of arrival
 * of each item in a parallel table of integers, and an optional `less`.
 */
#include "queue_items.h"

enum { VALUES = 1, ORDERS = 2, LESS = 3, USER_VALUES = 3 };
enum { FIRST_CAPACITY = 8, MOST_IN_PLACE = 64 };

/* ---- first in, first out ---- */

static bool fits_in_place(concur_order order, lua_Integer limit) {
  return order == CONCUR_FIFO && limit > 0 && limit <= MOST_IN_PLACE;
}

/* Doubles the table; raises before anything changed. */
static void ring_grow(lua_State *L, concur_items *items, int values) {
  lua_Integer old = items->capacity;
  lua_Integer capacity = old == 0 ? FIRST_CAPACITY : old * 2;
  for (lua_Integer slot = old + 1; slot <= capacity; slot++) {
    lua_pushboolean(L, 0);
    lua_rawseti(L, values, slot);
  }
  for (lua_Integer slot = 1; slot <= items->head; slot++) { /* the part that had wrapped */
    lua_rawgeti(L, values, slot);
    lua_rawseti(L, values, old + slot);
    lua_pushboolean(L, 0);
    lua_rawseti(L, values, slot);
  }
  items->capacity = capacity;
}

/* Stores the value on top of the stack, popped. */
static void ring_store(lua_State *L, concur_items *items, int values) {
  if (items->count == items->capacity) ring_grow(L, items, values);
  lua_Integer slot = (items->head + items->count) & (items->capacity - 1);
  lua_rawseti(L, values, slot + 1);
}

static void ring_fetch(lua_State *L, concur_items *items, int values) {
  lua_Integer slot = items->head + 1;
  lua_rawgeti(L, values, slot);
  lua_pushboolean(L, 0);
  lua_rawseti(L, values, slot);
  items->head = slot & (items->capacity - 1);
}

/* The ring in the user values: its size need not be a power of two. */
static void place_store(lua_State *L, int index, concur_items *items) {
  lua_Integer slot = items->head + items->count;
  if (slot >= items->capacity) slot -= items->capacity;
  lua_setiuservalue(L, index, (int)slot + 1);
}

static void place_fetch(lua_State *L, int index, concur_items *items) {
  int slot = (int)items->head + 1;
  lua_getiuservalue(L, index, slot);
  lua_pushnil(L);
  lua_setiuservalue(L, index, slot);
  items->head = slot < items->capacity ? slot : 0;
}

/* ---- by priority ---- */

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

static void check_unchanged(lua_State *L, const concur_items *items, uint64_t version) {
  if (items->version != version) {
    concur_error_raise(L, concur_runtime_of(L), "InvalidState",
                       "the queue was changed by a comparison of its items");
  }
}

static void heap_move(lua_State *L, int values, int orders, lua_Integer from, lua_Integer to) {
  lua_rawgeti(L, values, from);
  lua_rawseti(L, values, to);
  lua_rawgeti(L, orders, from);
  lua_rawseti(L, orders, to);
}

/* Stores the value on top of the stack, popped.  All comparisons come before the first change. */
static void heap_store(lua_State *L, int index, concur_items *items, int values) {
  int value = lua_gettop(L);
  lua_getiuservalue(L, index, ORDERS);
  int orders = value + 1;
  lua_Integer order = (lua_Integer)items->arrivals;
  uint64_t version = items->version;
  lua_Integer last = items->count + 1;
  lua_Integer slot = last;
  while (slot > 1) {
    lua_rawgeti(L, values, slot / 2);
    bool before = item_before(L, index, value, order, orders + 1, order_at(L, orders, slot / 2));
    lua_settop(L, orders);
    check_unchanged(L, items, version);
    if (!before) break;
    slot /= 2;
  }
  lua_pushboolean(L, 0); /* make the new slot in both tables: from here nothing fails */
  lua_rawseti(L, values, last);
  lua_pushinteger(L, 0);
  lua_rawseti(L, orders, last);
  for (lua_Integer hole = last; hole > slot; hole /= 2) heap_move(L, values, orders, hole / 2, hole);
  lua_pushvalue(L, value);
  lua_rawseti(L, values, slot);
  lua_pushinteger(L, order);
  lua_rawseti(L, orders, slot);
  items->arrivals++;
  lua_settop(L, value - 1);
}

/* Pushes the first item and takes it out. */
static void heap_fetch(lua_State *L, int index, concur_items *items, int values) {
  enum { DEEPEST = 64 };
  lua_Integer path[DEEPEST];
  int depth = 0;
  uint64_t version = items->version;
  lua_Integer last = items->count;
  lua_rawgeti(L, values, 1);
  lua_getiuservalue(L, index, ORDERS);
  int orders = lua_gettop(L);
  lua_rawgeti(L, values, last);
  int moved = orders + 1;
  lua_Integer moved_order = order_at(L, orders, last);
  for (lua_Integer slot = 1; slot * 2 < last;) {
    lua_Integer child = slot * 2;
    lua_rawgeti(L, values, child);
    if (child + 1 < last) {
      lua_rawgeti(L, values, child + 1);
      if (item_before(L, index, moved + 2, order_at(L, orders, child + 1), moved + 1,
                      order_at(L, orders, child))) {
        lua_replace(L, moved + 1);
        child++;
      }
    }
    bool before = item_before(L, index, moved + 1, order_at(L, orders, child), moved, moved_order);
    lua_settop(L, moved);
    check_unchanged(L, items, version);
    if (!before) break;
    path[depth++] = child;
    slot = child;
  }
  lua_Integer hole = 1;
  for (int i = 0; i < depth; i++) {
    heap_move(L, values, orders, path[i], hole);
    hole = path[i];
  }
  heap_move(L, values, orders, last, hole);
  lua_pushnil(L);
  lua_rawseti(L, values, last);
  lua_settop(L, orders - 1);
}

/* ---- in any order ---- */

int concur_items_user_values(concur_order order, lua_Integer limit) {
  return fits_in_place(order, limit) ? (int)limit : USER_VALUES;
}

static void new_tables(lua_State *L, int index, const concur_items *items) {
  if (items->in_place) return;
  lua_newtable(L);
  if (items->order == CONCUR_PRIORITY) {
    lua_newtable(L);
    lua_setiuservalue(L, index, ORDERS);
  }
  lua_setiuservalue(L, index, VALUES);
}

void concur_items_init(lua_State *L, int index, concur_items *items, concur_order order,
                       lua_Integer limit, int less) {
  memset(items, 0, sizeof *items);
  items->order = order;
  items->in_place = fits_in_place(order, limit);
  if (items->in_place) items->capacity = limit;
  new_tables(L, index, items);
  if (order == CONCUR_PRIORITY) {
    lua_pushvalue(L, less);
    lua_setiuservalue(L, index, LESS);
  }
}

/* Stores the value on top of the stack (popped) in one of the tables. */
static void store_in_table(lua_State *L, int index, concur_items *items) {
  lua_getiuservalue(L, index, VALUES);
  lua_insert(L, -2);
  int values = lua_gettop(L) - 1;
  switch (items->order) {
    case CONCUR_FIFO: ring_store(L, items, values); break;
    case CONCUR_LIFO: lua_rawseti(L, values, items->count + 1); break;
    case CONCUR_PRIORITY: heap_store(L, index, items, values); break;
  }
  lua_pop(L, 1);
}

void concur_items_store(lua_State *L, int index, concur_items *items) {
  if (items->in_place) {
    place_store(L, index, items);
  } else {
    store_in_table(L, index, items);
  }
  items->count++;
  items->version++;
}

static void fetch_from_table(lua_State *L, int index, concur_items *items) {
  lua_getiuservalue(L, index, VALUES);
  int values = lua_gettop(L);
  switch (items->order) {
    case CONCUR_FIFO: ring_fetch(L, items, values); break;
    case CONCUR_LIFO:
      lua_rawgeti(L, values, items->count);
      lua_pushboolean(L, 0);
      lua_rawseti(L, values, items->count);
      break;
    case CONCUR_PRIORITY: heap_fetch(L, index, items, values); break;
  }
}

void concur_items_fetch(lua_State *L, int index, concur_items *items) {
  if (items->in_place) {
    place_fetch(L, index, items);
  } else {
    fetch_from_table(L, index, items);
  }
  items->count--;
  items->version++;
}

lua_Integer concur_items_clear(lua_State *L, int index, concur_items *items) {
  new_tables(L, index, items);
  lua_Integer dropped = items->count;
  for (int slot = 1; items->in_place && slot <= items->capacity; slot++) {
    lua_pushnil(L);
    lua_setiuservalue(L, index, slot);
  }
  if (!items->in_place) items->capacity = 0;
  items->count = 0;
  items->head = 0;
  items->version++;
  return dropped;
}
