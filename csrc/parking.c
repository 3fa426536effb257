/* SPDX-License-Identifier: MIT */
/* See parking.h.  Also the ParkingLot that the primitives written in Lua are built on. */
#include "parking.h"

/* A fiber whose coroutine was tampered with takes nothing: waking it makes its step find out. */
static bool is_broken(const concur_waiter *waiter) {
  return waiter->exchange == &concur_fiber_exchange &&
         !concur_fiber_intact(concur_container_of(waiter, concur_fiber, waiter));
}

concur_waiter *concur_parking_pop(concur_node *waiters) {
  concur_node *node;
  while ((node = concur_list_pop(waiters)) != NULL) {
    concur_waiter *waiter = concur_waiter_of(node);
    if (!is_broken(waiter)) return waiter;
    waiter->notify(waiter, NULL);
  }
  return NULL;
}

bool concur_parking_wake_first(concur_node *waiters, void *source) {
  concur_waiter *waiter = concur_parking_pop(waiters);
  if (waiter == NULL) return false;
  waiter->notify(waiter, source);
  return true;
}

void concur_parking_wake_all(concur_node *waiters, void *source) {
  while (concur_parking_wake_first(waiters, source)) continue;
}

void concur_parking_close(concur_node *waiters) {
  concur_waiter *waiter;
  while ((waiter = concur_parking_pop(waiters)) != NULL) waiter->exchange->close(waiter);
}

bool concur_parking_give(lua_State *L, concur_node *waiters) {
  concur_waiter *waiter;
  while ((waiter = concur_parking_pop(waiters)) != NULL) {
    if (waiter->exchange->give(L, waiter)) return true;
  }
  return false;
}

concur_waiter *concur_parking_take(lua_State *L, concur_node *waiters) {
  concur_waiter *waiter;
  while ((waiter = concur_parking_pop(waiters)) != NULL) {
    if (waiter->exchange->take(L, waiter)) return waiter;
  }
  return NULL;
}

int concur_would_block(lua_State *L, const concur_runtime *runtime, const char *text) {
  luaL_pushfail(L);
  concur_error_new(L, runtime, "WouldBlock", "%s", text);
  return 2;
}

int concur_parking_count(const concur_node *waiters) {
  int count = 0;
  for (concur_node *node = waiters->next; node != waiters; node = node->next) {
    if (!is_broken(concur_waiter_of(node))) count++;
  }
  return count;
}

int concur_parking_park(lua_State *L, concur_fiber *fiber, concur_node *waiters,
                        const concur_wait *wait, void *target, concur_resume resume) {
  concur_list_append(waiters, &fiber->waiter.node);
  return concur_fiber_park(L, fiber, wait, target, resume);
}

/* ---- ParkingLot: park(), unpark([n [, value]]), size() ---- */

typedef struct parking_lot {
  concur_node waiters;
} parking_lot;

static const concur_wait wait_lot = {.name = "parking lot"};

static parking_lot *check_lot(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_PARKING_LOT);
}

static int l_parking_lot(lua_State *L) {
  parking_lot *lot =
      concur_class_new(L, concur_runtime_of(L), CONCUR_CLASS_PARKING_LOT, sizeof *lot, 0);
  concur_list_init(&lot->waiters);
  return 1;
}

static int lot_unparked(lua_State *L, concur_fiber *fiber) {
  (void)L;
  return fiber->given ? 1 : 0;
}

static int lot_park(lua_State *L, concur_fiber *fiber) {
  parking_lot *lot = lua_touserdata(L, 1);
  return concur_parking_park(L, fiber, &lot->waiters, &wait_lot, lot, lot_unparked);
}

static int l_lot_park(lua_State *L) {
  (void)check_lot(L);
  lua_settop(L, 1);
  return concur_fiber_begin(L, lot_park);
}

/* lot:unpark([n = 1 [, value]]) -> how many were woken */
static int l_lot_unpark(lua_State *L) {
  parking_lot *lot = check_lot(L);
  lua_Integer limit = luaL_optinteger(L, 2, 1);
  lua_settop(L, 3);
  lua_Integer woken = 0;
  while (woken < limit) {
    lua_pushvalue(L, 3);
    if (!concur_parking_give(L, &lot->waiters)) break;
    woken++;
  }
  lua_pushinteger(L, woken);
  return 1;
}

static int l_lot_size(lua_State *L) {
  lua_pushinteger(L, concur_parking_count(&check_lot(L)->waiters));
  return 1;
}

void concur_parking_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {
      {"park", l_lot_park}, {"unpark", l_lot_unpark}, {"size", l_lot_size}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"ParkingLot", l_parking_lot}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_PARKING_LOT, "concur.ParkingLot", methods, NULL);
  concur_register(L, runtime, functions);
}
