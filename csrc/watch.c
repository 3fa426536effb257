/* SPDX-License-Identifier: MIT */
/*
 * A *watch* gives the futures of a list back in the order in which they settle.  It owns nothing
 * and cancels nothing.  Lua builds concur.wait and concur.as_completed on it.
 *
 * It is a userdata (user value 1: the futures by position) with a finalizer, which takes its
 * waiters out of the lists of futures that may live on.                     [loop thread]
 */
#include "watch.h"

#include "task.h"

typedef struct watch watch;

typedef struct entry {
  concur_waiter waiter; /* in the future's list until it settles */
  concur_node settled;  /* then in watch->settled until it was handed out */
  watch *owner;
} entry;

struct watch {
  concur_node settled; /* list of entries */
  concur_node fibers;  /* who waits for the next one */
  int count;
  int left; /* not handed out */
  entry entries[];
};

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

static int l_watch(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  int count = unique_futures(L);
  int futures = lua_gettop(L);
  size_t size = sizeof(watch) + (size_t)count * sizeof(entry);
  watch *self = concur_class_new(L, runtime, CONCUR_CLASS_WATCH, size, 1);
  concur_list_init(&self->settled);
  concur_list_init(&self->fibers);
  self->count = count;
  self->left = count;
  lua_pushvalue(L, futures);
  lua_setiuservalue(L, -2, 1);
  for (int i = 0; i < count; i++) {
    entry *each = &self->entries[i];
    lua_rawgeti(L, futures, i + 1);
    concur_future *future = lua_touserdata(L, -1);
    lua_pop(L, 1);
    each->owner = self;
    each->waiter.notify = on_settled;
    if (concur_future_settled(future)) {
      concur_list_append(&self->settled, &each->settled);
    } else {
      concur_list_append(&future->waiters, &each->waiter.node);
    }
  }
  return 1;
}

static watch *check_watch(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_WATCH);
}

static const concur_wait wait_watch = {.name = "wait"};

/* Hands out the next settled future, if there is one. */
static bool hand_out(lua_State *L, watch *self) {
  concur_node *node = concur_list_pop(&self->settled);
  if (node == NULL) return false;
  entry *done = concur_container_of(node, entry, settled);
  if (--self->left == 0) { /* for the others who wait there is nothing to come */
    while ((node = concur_list_pop(&self->fibers)) != NULL) {
      concur_waiter *other = concur_container_of(node, concur_waiter, node);
      other->notify(other, self);
    }
  }
  lua_getiuservalue(L, 1, 1);
  lua_rawgeti(L, -1, (lua_Integer)(done - self->entries) + 1);
  lua_remove(L, -2);
  return true;
}

static int next_wait(lua_State *L, concur_fiber *fiber);

static int next_woken(lua_State *L, concur_fiber *fiber) {
  watch *self = lua_touserdata(L, 1);
  if (hand_out(L, self)) return 1;
  if (fiber->outcome == CONCUR_OUTCOME_TIMEOUT) {
    lua_pushnil(L);
    lua_pushliteral(L, "timeout");
    return 2;
  }
  return next_wait(L, fiber); /* somebody else took it */
}

static int next_wait(lua_State *L, concur_fiber *fiber) {
  watch *self = lua_touserdata(L, 1);
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
  lua_pushinteger(L, check_watch(L)->left);
  return 1;
}

static int l_watch_gc(lua_State *L) {
  watch *self = concur_class_test(L, 1, CONCUR_CLASS_WATCH);
  for (int i = 0; self != NULL && i < self->count; i++) concur_node_unlink(&self->entries[i].waiter.node);
  return 0;
}

void concur_watch_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"next", l_watch_next}, {"left", l_watch_left}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__gc", l_watch_gc}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"watch", l_watch}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_WATCH, "concur.Watch", methods, metamethods);
  concur_register(L, runtime, functions);
}
