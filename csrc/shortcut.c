/* SPDX-License-Identifier: MIT */
/* See shortcut.h. */
#include "shortcut.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "transfer.h"

/* ---- values inside the call ---- */

static bool take_string(lua_State *L, int index, concur_inline *values, concur_scalar *scalar,
                        size_t *used) {
  size_t size;
  const char *text = lua_tolstring(L, index, &size);
  if (size > CONCUR_INLINE_BYTES - *used) return false;
  memcpy(values->bytes + *used, text, size);
  scalar->as.string.offset = (uint16_t)*used;
  scalar->as.string.size = (uint16_t)size;
  *used += size;
  return true;
}

static bool take_value(lua_State *L, int index, concur_inline *values, concur_scalar *scalar,
                       size_t *used) {
  switch (lua_type(L, index)) {
  case LUA_TNIL: scalar->type = CONCUR_SCALAR_NIL; return true;
  case LUA_TBOOLEAN:
    scalar->type = lua_toboolean(L, index) ? CONCUR_SCALAR_TRUE : CONCUR_SCALAR_FALSE;
    return true;
  case LUA_TNUMBER:
    if (lua_isinteger(L, index)) {
      scalar->type = CONCUR_SCALAR_INTEGER;
      scalar->as.integer = lua_tointeger(L, index);
    } else {
      scalar->type = CONCUR_SCALAR_NUMBER;
      scalar->as.number = lua_tonumber(L, index);
    }
    return true;
  case LUA_TSTRING:
    scalar->type = CONCUR_SCALAR_STRING;
    return take_string(L, index, values, scalar, used);
  default: return false;
  }
}

bool concur_inline_take(lua_State *L, int first, int count, concur_inline *values) {
  size_t used = 0;
  if (count > CONCUR_INLINE_VALUES) return false;
  for (int i = 0; i < count; i++) {
    if (!take_value(L, first + i, values, &values->scalars[i], &used)) return false;
  }
  values->count = (int8_t)count;
  return true;
}

int concur_inline_push(lua_State *L, const concur_inline *values) {
  for (int i = 0; i < values->count; i++) {
    const concur_scalar *scalar = &values->scalars[i];
    switch ((concur_scalar_type)scalar->type) {
    case CONCUR_SCALAR_NIL: lua_pushnil(L); break;
    case CONCUR_SCALAR_FALSE: lua_pushboolean(L, 0); break;
    case CONCUR_SCALAR_TRUE: lua_pushboolean(L, 1); break;
    case CONCUR_SCALAR_INTEGER: lua_pushinteger(L, (lua_Integer)scalar->as.integer); break;
    case CONCUR_SCALAR_NUMBER: lua_pushnumber(L, scalar->as.number); break;
    case CONCUR_SCALAR_STRING:
      lua_pushlstring(L, values->bytes + scalar->as.string.offset, scalar->as.string.size);
      break;
    }
  }
  return values->count;
}

bool concur_inline_is_plain(const concur_inline *values) {
  return values->count == 0 ||
         (values->count == 1 && values->scalars[0].type != CONCUR_SCALAR_STRING);
}

/* ---- functions, on the owner's side ---- */

/* True if the function at `index` is the same wherever it runs: no upvalue but the globals. */
static bool is_pure(lua_State *L, int index) {
  const char *name = lua_getupvalue(L, index, 1);
  if (name == NULL) return true;
  bool pure = false;
  if (strcmp(name, "_ENV") == 0) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    pure = lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (pure && lua_getupvalue(L, index, 2) != NULL) {
    lua_pop(L, 1);
    pure = false;
  }
  return pure;
}

static size_t slot_of(const void *address) {
  uintptr_t bits = (uintptr_t)address;
  return (size_t)((bits >> 4) ^ (bits >> 10)) & (CONCUR_CACHE_SLOTS - 1);
}

/* Puts the function at `index` into the slot. */
static void cache_fill(lua_State *L, concur_function_cache *cache, concur_pool *pool, int index,
                       size_t slot) {
  if (cache->table_ref == 0) {
    lua_createtable(L, CONCUR_CACHE_SLOTS, 0);
    cache->table_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, cache->table_ref);
  lua_pushvalue(L, index);
  lua_rawseti(L, -2, (lua_Integer)slot + 1);
  lua_pop(L, 1);
  concur_message *message = concur_encode(L, index, 1, "argument");
  concur_function *function = concur_function_new(message, concur_pool_next_number(pool));
  if (function == NULL) luaL_error(L, "not enough memory");
  if (cache->slots[slot].function != NULL) concur_function_release(cache->slots[slot].function);
  cache->slots[slot].function = function;
  cache->slots[slot].address = lua_topointer(L, index);
}

concur_function *concur_function_of(lua_State *L, concur_function_cache *cache, concur_pool *pool,
                                    int index) {
  const void *address = lua_topointer(L, index);
  size_t slot = slot_of(address);
  if (lua_type(L, index) != LUA_TFUNCTION) return NULL;
  if (cache->slots[slot].address != address) {
    /* Seen for the first time, or again after another one: only a function that comes again is
       worth a place. */
    if (cache->slots[slot].function == NULL) cache->slots[slot].address = address;
    else if (cache->slots[slot].function->misses++ > CONCUR_CACHE_SLOTS) {
      concur_function_release(cache->slots[slot].function);
      cache->slots[slot].function = NULL;
    }
    return NULL;
  }
  if (!is_pure(L, index)) return NULL;
  if (cache->slots[slot].function == NULL) cache_fill(L, cache, pool, index, slot);
  concur_function *function = cache->slots[slot].function;
  function->misses = 0;
  concur_function_retain(function);
  return function;
}

void concur_function_cache_free(lua_State *L, concur_function_cache *cache) {
  for (int i = 0; i < CONCUR_CACHE_SLOTS; i++) {
    if (cache->slots[i].function != NULL) concur_function_release(cache->slots[i].function);
    cache->slots[i].function = NULL;
    cache->slots[i].address = NULL;
  }
  if (cache->table_ref != 0) luaL_unref(L, LUA_REGISTRYINDEX, cache->table_ref);
  cache->table_ref = 0;
}

/* ---- functions, in a worker ---- */

void concur_function_push(lua_State *L, concur_known_functions *known,
                          const concur_function *function) {
  size_t slot = function->number & (CONCUR_CACHE_SLOTS - 1);
  if (known->table_ref == 0) {
    lua_createtable(L, CONCUR_CACHE_SLOTS, 0);
    known->table_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, known->table_ref);
  if (known->numbers[slot] == function->number) {
    lua_rawgeti(L, -1, (lua_Integer)slot + 1);
  } else {
    (void)concur_decode(L, function->message);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, (lua_Integer)slot + 1);
    known->numbers[slot] = function->number;
  }
  lua_remove(L, -2);
}
