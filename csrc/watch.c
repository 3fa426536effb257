/* SPDX-License-Identifier: MIT */
/*
 * A *watch* gives the futures of a list back in the order in which they settle.  It owns nothing
 * and cancels nothing.  Lua builds concur.wait and concur.as_completed on it.
 *
 * It is two userdata.  The *entries* hang in the futures' lists and are anchored as long as one does
 * (user value 1: the futures by position).  The *watch* is what scripts hold; when it is closed or
 * collected the entries are let go.  Should its finalizer not run (Lua drops it at the limit of nested
 * C calls), the entries stay until the futures have settled, and nothing dangles.  [loop thread]
 */
#include "watch.h"

#include "task.h"

typedef struct entries entries;

typedef struct entry {
  concur_waiter waiter; /* in the future's list until it settles */
  concur_node settled;  /* then in entries->settled until it was handed out */
  entries *owner;
} entry;

struct entries {
  concur_node settled; /* list of entry */
  concur_node fibers;  /* who waits for the next one */
  int count;
  int left; /* not handed out */
  entry list[];
};

/* User value 1: the entries. */
typedef struct watch {
  entries *all;
  int slot; /* anchors the entries; 0 once let go */
} watch;

static void on_settled(concur_waiter *waiter, void *source) {
  (void)source;
  entry *done = concur_container_of(waiter, entry, waiter);
  concur_list_append(&done->owner->settled, &done->settled);
  concur_node *node = concur_list_pop(&done->owner->fibers);
  if (node != NULL) {
    concur_waiter *next = concur_container_of(node, concur_waiter, node);
    next->notify(next, done->owner);
  }
}

/* Argument 1: a list of futures.  Pushes a table without duplicates; returns its length. */
static int unique_futures(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer length = (lua_Integer)lua_rawlen(L, 1);
  lua_newtable(L); /* seen */
  lua_createtable(L, (int)length, 0);
  int unique = lua_gettop(L);
  int count = 0;
  for (lua_Integer i = 1; i <= length; i++) {
    lua_rawgeti(L, 1, i);
    if (concur_future_test(L, -1) == NULL) {
      const char *hint = lua_isfunction(L, -1) ? " (start it with concur.spawn)" : "";
      luaL_argerror(L, 1, lua_pushfstring(L, "entry %I: future or task expected, got %s%s",
                                          (LUAI_UACINT)i, concur_type_name(L, -1), hint));
    }
    lua_pushvalue(L, -1);
    if (lua_rawget(L, unique - 1) == LUA_TNIL) {
      lua_pushvalue(L, -2);
      lua_pushboolean(L, 1);
      lua_rawset(L, unique - 1);
      lua_pushvalue(L, -2);
      lua_rawseti(L, unique, ++count);
    }
    lua_pop(L, 2);
  }
  return count;
}

/* Pushes the entries for the futures in the table at `futures`, not linked yet. */
static entries *new_entries(lua_State *L, int futures, int count) {
  size_t size = sizeof(entries) + (size_t)count * sizeof(entry);
  entries *all = lua_newuserdatauv(L, size, 1);
  memset(all, 0, size);
  concur_list_init(&all->settled);
  concur_list_init(&all->fibers);
  all->count = count;
  all->left = count;
  lua_pushvalue(L, futures);
  lua_setiuservalue(L, -2, 1);
  return all;
}

static void link_entries(lua_State *L, int futures, entries *all) {
  for (int i = 0; i < all->count; i++) {
    entry *each = &all->list[i];
    lua_rawgeti(L, futures, i + 1);
    concur_future *future = lua_touserdata(L, -1);
    lua_pop(L, 1);
    each->owner = all;
    each->waiter.notify = on_settled;
    if (concur_future_settled(future)) {
      concur_list_append(&all->settled, &each->settled);
    } else {
      concur_list_append(&future->waiters, &each->waiter.node);
    }
  }
}

static int l_watch(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  int count = unique_futures(L);
  int futures = lua_gettop(L);
  entries *all = new_entries(L, futures, count);
  watch *self = concur_class_new(L, runtime, CONCUR_CLASS_WATCH, sizeof *self, 1);
  lua_pushvalue(L, futures + 1);
  lua_setiuservalue(L, -2, 1);
  lua_pushvalue(L, futures + 1);
  self->slot = concur_anchor(L, runtime);
  self->all = all;
  link_entries(L, futures, all);
  return 1;
}

static watch *check_watch(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_WATCH);
}

/* Takes what still hangs in a future's list out of it. */
static void let_go(lua_State *L, concur_runtime *runtime, watch *self) {
  if (self->slot == 0) return;
  for (int i = 0; i < self->all->count; i++) {
    concur_node_unlink(&self->all->list[i].waiter.node);
  }
  concur_anchor_release(L, runtime, self->slot);
  self->slot = 0;
}

static const concur_wait wait_watch = {.name = "wait"};

/* Hands out the next settled future, if there is one. */
static bool hand_out(lua_State *L, entries *self) {
  concur_node *node = concur_list_pop(&self->settled);
  if (node == NULL) return false;
  entry *done = concur_container_of(node, entry, settled);
  if (--self->left == 0) { /* for the others who wait there is nothing to come */
    while ((node = concur_list_pop(&self->fibers)) != NULL) {
      concur_waiter *other = concur_container_of(node, concur_waiter, node);
      other->notify(other, self);
    }
  }
  lua_getiuservalue(L, 1, 1); /* the entries, then their futures */
  lua_getiuservalue(L, -1, 1);
  lua_rawgeti(L, -1, (lua_Integer)(done - self->list) + 1);
  lua_replace(L, -3);
  lua_pop(L, 1);
  return true;
}

static int next_wait(lua_State *L, concur_fiber *fiber);

static int next_woken(lua_State *L, concur_fiber *fiber) {
  entries *self = ((watch *)lua_touserdata(L, 1))->all;
  if (hand_out(L, self)) return 1;
  if (fiber->outcome == CONCUR_OUTCOME_TIMEOUT) {
    lua_pushnil(L);
    lua_pushliteral(L, "timeout");
    return 2;
  }
  return next_wait(L, fiber); /* somebody else took it */
}

static int next_wait(lua_State *L, concur_fiber *fiber) {
  entries *self = ((watch *)lua_touserdata(L, 1))->all;
  if (self->left == 0) return 0;
  if (hand_out(L, self)) return 1;
  if (!lua_isnoneornil(L, 2)) concur_fiber_arm(L, fiber, concur_check_duration(L, 2));
  concur_list_append(&self->fibers, &fiber->waiter.node);
  return concur_fiber_park(L, fiber, &wait_watch, self, next_woken);
}

/* watch:next([deadline]) -> future; nothing when all were handed out; nil, "timeout".  Suspends. */
static int l_watch_next(lua_State *L) {
  (void)check_watch(L);
  if (!lua_isnoneornil(L, 2)) (void)concur_check_duration(L, 2);
  lua_settop(L, 2);
  return concur_fiber_begin(L, next_wait);
}

static int l_watch_left(lua_State *L) {
  lua_pushinteger(L, check_watch(L)->all->left);
  return 1;
}

/* watch:close(): nothing more will be asked. */
static int l_watch_close(lua_State *L) {
  let_go(L, concur_runtime_of(L), check_watch(L));
  return 0;
}

static int l_watch_gc(lua_State *L) {
  watch *self = concur_class_test(L, 1, CONCUR_CLASS_WATCH);
  if (self != NULL) let_go(L, concur_runtime_of(L), self);
  return 0;
}

void concur_watch_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"next", l_watch_next}, {"left", l_watch_left}, {"close", l_watch_close}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__gc", l_watch_gc}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"watch", l_watch}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_WATCH, "concur.Watch", methods, metamethods);
  concur_register(L, runtime, functions);
}
