/* SPDX-License-Identifier: MIT */
/*
 * Numbers in a SharedBuffer: `get` and `set` of any type at any position, and atomic integers at
 * aligned ones.  shared_buffer.h tells what threads may do.  [the state's own thread]
 */
#include <stdatomic.h>
#include <string.h>

#include "shared_buffer.h"

/* ---- types ---- */

typedef struct number_type {
  const char *name;
  unsigned char size;
  bool is_signed;
  bool is_float;
} number_type;

static const number_type number_types[] = {
    {"i8", 1, true, false},   {"u8", 1, false, false},  {"i16", 2, true, false},
    {"u16", 2, false, false}, {"i32", 4, true, false},  {"u32", 4, false, false},
    {"i64", 8, true, false},  {"u64", 8, false, false}, {"f32", 4, true, true},
    {"f64", 8, true, true},
};

static bool is_little_endian(void) {
  const uint16_t probe = 1;
  return *(const unsigned char *)&probe == 1;
}

/* The type named at stack index `index`; *swap when its bytes are not in the machine's order. */
static const number_type *check_type(lua_State *L, int index, bool *swap) {
  const char *given = luaL_checkstring(L, index);
  const char *name = given;
  *swap = false;
  if (*name == '<' || *name == '>') *swap = (*name++ == '<') != is_little_endian();
  for (size_t i = 0; i < sizeof number_types / sizeof number_types[0]; i++) {
    if (strcmp(number_types[i].name, name) == 0) return &number_types[i];
  }
  luaL_argerror(L, index,
                lua_pushfstring(L,
                                "unknown type '%s' (i8 u8 i16 u16 i32 u32 i64 u64 f32 f64, "
                                "with < or > before it for a fixed byte order)",
                                given));
  return NULL; /* GCOVR_EXCL_LINE: luaL_argerror raises */
}

static void copy_number(unsigned char *target, const unsigned char *source, size_t size,
                        bool swap) {
  for (size_t i = 0; i < size; i++) target[i] = source[swap ? size - 1 - i : i];
}

/* Numbers of `size` bytes, in native order, to and from integers. */
static lua_Integer read_integer(const unsigned char *raw, const number_type *type) {
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  int64_t i64;
  switch (type->size) {
  case 1: memcpy(&u8, raw, 1); return type->is_signed ? (int8_t)u8 : u8;
  case 2: memcpy(&u16, raw, 2); return type->is_signed ? (int16_t)u16 : u16;
  case 4: memcpy(&u32, raw, 4); return type->is_signed ? (lua_Integer)(int32_t)u32 : u32;
  default: memcpy(&i64, raw, 8); return i64;
  }
}

static void write_integer(unsigned char *raw, const number_type *type, lua_Integer value) {
  uint8_t u8 = (uint8_t)value;
  uint16_t u16 = (uint16_t)value;
  uint32_t u32 = (uint32_t)value;
  switch (type->size) {
  case 1: memcpy(raw, &u8, 1); break;
  case 2: memcpy(raw, &u16, 2); break;
  case 4: memcpy(raw, &u32, 4); break;
  default: memcpy(raw, &value, 8); break;
  }
}

/* The integer at stack index `index`, if a number of this type can hold it. */
static lua_Integer check_integer(lua_State *L, int index, const number_type *type) {
  lua_Integer value = luaL_checkinteger(L, index);
  if (type->size == 8) return value;
  int bits = 8 * type->size;
  lua_Integer least = type->is_signed ? -((lua_Integer)1 << (bits - 1)) : 0;
  lua_Integer greatest = ((lua_Integer)1 << (type->is_signed ? bits - 1 : bits)) - 1;
  if (value < least || value > greatest) {
    luaL_argerror(
        L, index,
        lua_pushfstring(L, "value %I does not fit type '%s'", (LUAI_UACINT)value, type->name));
  }
  return value;
}

/* ---- plain access ---- */

/*@lua
---The number at a position.  Types are i8 u8 i16 u16 i32 u32 i64 u64 f32 f64, in the machine's byte
---order, or with `<` before them little-endian, with `>` big-endian.
---@param type string
---@param position integer
---@return number
function SharedBuffer:get(type, position) end
*/
static int l_buffer_get(lua_State *L) {
  bool swap;
  const number_type *type = check_type(L, 2, &swap);
  unsigned char raw[8];
  copy_number(raw, concur_shared_buffer_at(L, 3, type->size), type->size, swap);
  if (!type->is_float) {
    lua_pushinteger(L, read_integer(raw, type));
  } else if (type->size == 4) {
    float value;
    memcpy(&value, raw, sizeof value);
    lua_pushnumber(L, (lua_Number)value);
  } else {
    double value;
    memcpy(&value, raw, sizeof value);
    lua_pushnumber(L, (lua_Number)value);
  }
  return 1;
}

/*@lua
---Puts a number at a position; an integer must fit its type.
---@param type string as for `get`
---@param position integer
---@param value number
---@return concur.SharedBuffer self
function SharedBuffer:set(type, position, value) end
*/
static int l_buffer_set(lua_State *L) {
  bool swap;
  const number_type *type = check_type(L, 2, &swap);
  unsigned char *target = concur_shared_buffer_at(L, 3, type->size);
  unsigned char raw[8];
  if (!type->is_float) {
    write_integer(raw, type, check_integer(L, 4, type));
  } else if (type->size == 4) {
    float value = (float)luaL_checknumber(L, 4);
    memcpy(raw, &value, sizeof value);
  } else {
    double value = (double)luaL_checknumber(L, 4);
    memcpy(raw, &value, sizeof value);
  }
  copy_number(target, raw, type->size, swap);
  lua_settop(L, 1);
  return 1;
}

/* ---- atomic integers, in the machine's byte order ---- */

/* What an atomic operation works on: 64 bits, or 32 if a type at stack index `index` says so. */
typedef struct atomic_place {
  const number_type *type;
  unsigned char *at; /* aligned */
} atomic_place;

static _Atomic uint64_t *place64(const atomic_place *place) {
  return (_Atomic uint64_t *)(void *)place->at;
}

static _Atomic uint32_t *place32(const atomic_place *place) {
  return (_Atomic uint32_t *)(void *)place->at;
}

/* The place at stack index 2, of the type at stack index `type_index` ("i64" if there is none). */
static atomic_place check_atomic(lua_State *L, int type_index) {
  atomic_place place = {NULL, NULL};
  bool swap;
  if (lua_isnoneornil(L, type_index)) {
    lua_settop(L, type_index - 1);
    lua_pushliteral(L, "i64");
  }
  place.type = check_type(L, type_index, &swap);
  if (swap || place.type->is_float || place.type->size < 4) {
    luaL_argerror(L, type_index, "atomic types are i64, u64, i32 and u32");
  }
  place.at = concur_shared_buffer_at(L, 2, place.type->size);
  if ((uintptr_t)place.at % place.type->size != 0) {
    luaL_argerror(L, 2,
                  lua_pushfstring(L,
                                  "position is not aligned: atomic numbers of %d bytes "
                                  "lie at 1, %d, %d, ... of the whole buffer",
                                  place.type->size, 1 + place.type->size,
                                  1 + 2 * place.type->size));
  }
  return place;
}

static int push_atomic(lua_State *L, const atomic_place *place, uint64_t value) {
  if (place->type->size == 8) {
    lua_pushinteger(L, (lua_Integer)value);
  } else {
    uint32_t u32 = (uint32_t)value;
    lua_pushinteger(L, place->type->is_signed ? (lua_Integer)(int32_t)u32 : (lua_Integer)u32);
  }
  return 1;
}

/*@lua
---The integer at a position, atomically.
---@param position integer aligned: 1, 9, 17, ... (for 32 bits 1, 5, 9, ...) of the whole buffer
---@param type? "i64"|"u64"|"i32"|"u32" "i64" if not given
---@return integer
function SharedBuffer:load(position, type) end
*/
static int l_buffer_load(lua_State *L) {
  atomic_place place = check_atomic(L, 3);
  return push_atomic(L, &place,
                     place.type->size == 8 ? atomic_load(place64(&place))
                                           : atomic_load(place32(&place)));
}

/*@lua
---Puts an integer at a position, atomically.
---@param position integer as for `load`
---@param value integer
---@param type? "i64"|"u64"|"i32"|"u32"
---@return concur.SharedBuffer self
function SharedBuffer:store(position, value, type) end
*/
static int l_buffer_store(lua_State *L) {
  atomic_place place = check_atomic(L, 4);
  lua_Integer value = check_integer(L, 3, place.type);
  if (place.type->size == 8) {
    atomic_store(place64(&place), (uint64_t)value);
  } else {
    atomic_store(place32(&place), (uint32_t)value);
  }
  lua_settop(L, 1);
  return 1;
}

/*@lua
---Adds to the integer at a position, atomically; wraps around.
---@param position integer as for `load`
---@param n integer
---@param type? "i64"|"u64"|"i32"|"u32"
---@return integer before the value before
function SharedBuffer:add(position, n, type) end
*/
static int l_buffer_add(lua_State *L) {
  atomic_place place = check_atomic(L, 4);
  lua_Integer value = luaL_checkinteger(L, 3);
  return push_atomic(L, &place,
                     place.type->size == 8 ? atomic_fetch_add(place64(&place), (uint64_t)value)
                                           : atomic_fetch_add(place32(&place), (uint32_t)value));
}

/*@lua
---Puts an integer at a position if the one there is as expected, atomically.
---@param position integer as for `load`
---@param expected integer
---@param value integer
---@param type? "i64"|"u64"|"i32"|"u32"
---@return boolean done
---@return integer before the value before
function SharedBuffer:cas(position, expected, value, type) end
*/
static int l_buffer_cas(lua_State *L) {
  atomic_place place = check_atomic(L, 5);
  lua_Integer expected = check_integer(L, 3, place.type);
  lua_Integer value = check_integer(L, 4, place.type);
  bool done;
  uint64_t found64 = (uint64_t)expected;
  if (place.type->size == 8) {
    done = atomic_compare_exchange_strong(place64(&place), &found64, (uint64_t)value);
  } else {
    uint32_t found32 = (uint32_t)expected;
    done = atomic_compare_exchange_strong(place32(&place), &found32, (uint32_t)value);
    found64 = found32;
  }
  lua_pushboolean(L, done);
  push_atomic(L, &place, found64);
  return 2;
}

const luaL_Reg concur_shared_buffer_numbers[] = {{"get", l_buffer_get},
                                                 {"set", l_buffer_set},
                                                 {"load", l_buffer_load},
                                                 {"store", l_buffer_store},
                                                 {"add", l_buffer_add},
                                                 {"cas", l_buffer_cas},
                                                 {NULL, NULL}};
