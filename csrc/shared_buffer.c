/* SPDX-License-Identifier: MIT */
/*
 * SharedBuffer; shared_buffer.h tells what it is and who owns what.
 *
 * Positions are those of Lua's strings: 1 is the first byte, negative ones count from the end.
 * Everything but retain and release: [the state's own thread].
 */
#include "shared_buffer.h"

#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "transfer.h"

enum { BLOCK_ALIGN = 64 }; /* a cache line, and more than any number needs */

typedef struct block {
  atomic_size_t references;
  size_t size;
  unsigned char *bytes; /* owned; aligned to BLOCK_ALIGN */
} block;

typedef struct view {
  block *block; /* ref; NULL when closed */
  size_t offset;
  size_t size;
} view;

/* ---- blocks [any thread] ---- */

static block *block_new(size_t size) {
  if (size > PTRDIFF_MAX - BLOCK_ALIGN) return NULL;
  block *made = malloc(sizeof *made);
  if (made == NULL) return NULL;
  size_t rounded = (size + BLOCK_ALIGN) / BLOCK_ALIGN * BLOCK_ALIGN; /* never 0 */
  made->bytes = aligned_alloc(BLOCK_ALIGN, rounded);
  if (made->bytes == NULL) {
    free(made);
    return NULL;
  }
  atomic_init(&made->references, 1);
  made->size = size;
  return made;
}

static void block_retain(void *object) {
  block *shared = object;
  atomic_fetch_add(&shared->references, 1);
}

static void block_release(void *object) {
  block *shared = object;
  if (shared == NULL || atomic_fetch_sub(&shared->references, 1) != 1) return;
  free(shared->bytes);
  free(shared);
}

/* ---- views ---- */

static view *test_view(lua_State *L, int index) {
  return concur_class_check(L, concur_runtime_of(L), index, CONCUR_CLASS_SHARED_BUFFER);
}

/* The view at stack index 1, or Closed. */
static view *check_view(lua_State *L) {
  view *buffer = test_view(L, 1);
  if (buffer->block == NULL) {
    concur_error_raise(L, concur_runtime_of(L), "Closed", "the SharedBuffer is closed");
  }
  return buffer;
}

static unsigned char *bytes_of(const view *buffer) {
  return buffer->block->bytes + buffer->offset;
}

/* Pushes a view without a block; the caller sets its fields, the block last. */
static view *push_view(lua_State *L, const concur_runtime *runtime) {
  return concur_class_new(L, runtime, CONCUR_CLASS_SHARED_BUFFER, sizeof(view), 0);
}

static int l_buffer_close(lua_State *L) {
  view *buffer = test_view(L, 1);
  block *shared = buffer->block;
  buffer->block = NULL;
  block_release(shared);
  return 0;
}

/* Tells the collector that memory was taken which it does not see, so that forgotten buffers are
   found in time. */
static void charge_collector(lua_State *L, size_t size) {
  size_t kilobytes = size / 1024;
  if (kilobytes == 0 || !lua_gc(L, LUA_GCISRUNNING)) return;
  lua_gc(L, LUA_GCSTEP, kilobytes < 1 << 20 ? (int)kilobytes : 1 << 20);
}

/* SharedBuffer(n or string) */
static int l_buffer_new(lua_State *L) {
  const concur_runtime *runtime = concur_runtime_of(L);
  size_t size;
  const char *content = NULL;
  if (lua_type(L, 1) == LUA_TSTRING) {
    content = lua_tolstring(L, 1, &size);
  } else if (lua_isinteger(L, 1) || (lua_type(L, 1) == LUA_TNUMBER)) {
    lua_Integer wanted = luaL_checkinteger(L, 1);
    luaL_argcheck(L, wanted >= 0, 1, "size must not be negative");
    size = (size_t)wanted;
  } else {
    return luaL_argerror(
        L, 1, lua_pushfstring(L, "size or string expected, got %s", luaL_typename(L, 1)));
  }
  view *buffer = push_view(L, runtime);
  block *made = block_new(size);
  if (made == NULL) return luaL_error(L, "not enough memory");
  buffer->block = made;
  buffer->size = size;
  if (content != NULL) {
    memcpy(made->bytes, content, size);
  } else {
    memset(made->bytes, 0, size);
  }
  charge_collector(L, size);
  return 1;
}

/* ---- ranges and positions ---- */

typedef struct range {
  size_t start; /* from 0 */
  size_t size;
} range;

/* The range i to j of stack indices `index` and the next, as string.sub understands them. */
static range check_range(lua_State *L, const view *buffer, int index) {
  lua_Integer size = (lua_Integer)buffer->size;
  lua_Integer i = luaL_optinteger(L, index, 1);
  lua_Integer j = luaL_optinteger(L, index + 1, -1);
  if (i < 0) i = i < -size ? 1 : size + i + 1;
  if (i == 0) i = 1;
  if (j < 0) j = j < -size ? 0 : size + j + 1;
  if (j > size) j = size;
  if (i > j) return (range){i > size ? (size_t)size : (size_t)(i - 1), 0};
  return (range){(size_t)(i - 1), (size_t)(j - i + 1)};
}

/* The address of `size` bytes at the position at stack index `index`; raises when they do not lie
   inside the buffer. */
static unsigned char *check_position(lua_State *L, const view *buffer, int index, size_t size) {
  lua_Integer given = luaL_checkinteger(L, index);
  lua_Integer position = given;
  if (position < 0) position += (lua_Integer)buffer->size + 1;
  if (position < 1 || size > buffer->size || (size_t)(position - 1) > buffer->size - size) {
    luaL_argerror(
        L, index,
        lua_pushfstring(L, "position %I is outside the buffer (%I bytes there, %I in all)",
                        (LUAI_UACINT)given, (LUAI_UACINT)size, (LUAI_UACINT)buffer->size));
  }
  return bytes_of(buffer) + (position - 1);
}

/* buffer:slice([i [, j]]): a view of the same memory */
static int l_buffer_slice(lua_State *L) {
  const view *buffer = check_view(L);
  range part = check_range(L, buffer, 2);
  view *slice = push_view(L, concur_runtime_of(L));
  slice->offset = buffer->offset + part.start;
  slice->size = part.size;
  block_retain(buffer->block);
  slice->block = buffer->block;
  return 1;
}

/* buffer:tostring([i [, j]]): a copy of the bytes */
static int l_buffer_string(lua_State *L) {
  const view *buffer = check_view(L);
  range part = check_range(L, buffer, 2);
  lua_pushlstring(L, (const char *)bytes_of(buffer) + part.start, part.size);
  return 1;
}

/* buffer:write(position, string): the buffer */
static int l_buffer_write(lua_State *L) {
  const view *buffer = check_view(L);
  size_t size;
  const char *content = luaL_checklstring(L, 3, &size);
  memcpy(check_position(L, buffer, 2, size), content, size);
  lua_settop(L, 1);
  return 1;
}

/* buffer:fill(byte [, i [, j]]): the buffer */
static int l_buffer_fill(lua_State *L) {
  const view *buffer = check_view(L);
  lua_Integer byte = luaL_checkinteger(L, 2);
  luaL_argcheck(L, byte >= 0 && byte <= UCHAR_MAX, 2, "a byte from 0 to 255 expected");
  range part = check_range(L, buffer, 3);
  memset(bytes_of(buffer) + part.start, (int)byte, part.size);
  lua_settop(L, 1);
  return 1;
}

static int l_buffer_len(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)check_view(L)->size);
  return 1;
}

static int l_buffer_eq(lua_State *L) {
  const concur_runtime *runtime = concur_runtime_of(L);
  const view *a = concur_class_test(L, runtime, 1, CONCUR_CLASS_SHARED_BUFFER);
  const view *b = concur_class_test(L, runtime, 2, CONCUR_CLASS_SHARED_BUFFER);
  lua_pushboolean(L, a != NULL && b != NULL && a->block != NULL && a->block == b->block &&
                         a->offset == b->offset && a->size == b->size);
  return 1;
}

static int l_buffer_tostring(lua_State *L) {
  const view *buffer = test_view(L, 1);
  if (buffer->block == NULL) {
    lua_pushliteral(L, "SharedBuffer (closed)");
  } else if (buffer->size == buffer->block->size) {
    lua_pushfstring(L, "SharedBuffer (%I bytes): %p", (LUAI_UACINT)buffer->size,
                    (void *)buffer->block);
  } else {
    lua_pushfstring(L, "SharedBuffer (slice of %I bytes at %I): %p", (LUAI_UACINT)buffer->size,
                    (LUAI_UACINT)buffer->offset + 1, (void *)buffer->block);
  }
  return 1;
}

/* ---- numbers ---- */

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
  return NULL;
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

/* buffer:get(type, position) */
static int l_buffer_get(lua_State *L) {
  const view *buffer = check_view(L);
  bool swap;
  const number_type *type = check_type(L, 2, &swap);
  unsigned char raw[8];
  copy_number(raw, check_position(L, buffer, 3, type->size), type->size, swap);
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

/* buffer:set(type, position, value): the buffer */
static int l_buffer_set(lua_State *L) {
  const view *buffer = check_view(L);
  bool swap;
  const number_type *type = check_type(L, 2, &swap);
  unsigned char *target = check_position(L, buffer, 3, type->size);
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
  const view *buffer = check_view(L);
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
  place.at = check_position(L, buffer, 2, place.type->size);
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

/* buffer:load(position [, type]) */
static int l_buffer_load(lua_State *L) {
  atomic_place place = check_atomic(L, 3);
  return push_atomic(L, &place,
                     place.type->size == 8 ? atomic_load(place64(&place))
                                           : atomic_load(place32(&place)));
}

/* buffer:store(position, value [, type]): the buffer */
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

/* buffer:add(position, n [, type]): the value before; wraps around */
static int l_buffer_add(lua_State *L) {
  atomic_place place = check_atomic(L, 4);
  lua_Integer value = luaL_checkinteger(L, 3);
  return push_atomic(L, &place,
                     place.type->size == 8 ? atomic_fetch_add(place64(&place), (uint64_t)value)
                                           : atomic_fetch_add(place32(&place), (uint32_t)value));
}

/* buffer:cas(position, expected, value [, type]): whether it was as expected, and what it was */
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

/* ---- crossing to other states, and C ---- */

static const char *buffer_unwrap(lua_State *L, int index, concur_attachment *attachment) {
  const view *buffer = lua_touserdata(L, index);
  if (buffer->block == NULL) return "it is closed";
  attachment->object = buffer->block;
  attachment->detail[0] = buffer->offset;
  attachment->detail[1] = buffer->size;
  return NULL;
}

static void buffer_wrap(lua_State *L, const concur_attachment *attachment) {
  view *buffer = push_view(L, concur_runtime_find(L));
  buffer->offset = attachment->detail[0];
  buffer->size = attachment->detail[1];
  block_retain(attachment->object);
  buffer->block = attachment->object;
}

static const concur_share_class share_class = {
    .base = {"SharedBuffer", block_retain, block_release},
    .unwrap = buffer_unwrap,
    .wrap = buffer_wrap,
};

static const view *check_open(lua_State *L, const concur_runtime *runtime, int index) {
  const view *buffer = concur_class_check(L, runtime, index, CONCUR_CLASS_SHARED_BUFFER);
  if (buffer->block == NULL) {
    concur_error_raise(L, runtime, "Closed", "the SharedBuffer is closed");
  }
  return buffer;
}

unsigned char *concur_shared_buffer_check(lua_State *L, const concur_runtime *runtime, int index,
                                          size_t *size) {
  const view *buffer = check_open(L, runtime, index);
  *size = buffer->size;
  return bytes_of(buffer);
}

void *concur_shared_buffer_retain(lua_State *L, const concur_runtime *runtime, int index) {
  block *shared = check_open(L, runtime, index)->block;
  block_retain(shared);
  return shared;
}

void concur_shared_buffer_release(void *shared) {
  block_release(shared);
}

void concur_shared_buffer_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg methods[] = {
      {"close", l_buffer_close}, {"slice", l_buffer_slice}, {"tostring", l_buffer_string},
      {"write", l_buffer_write}, {"fill", l_buffer_fill},   {"get", l_buffer_get},
      {"set", l_buffer_set},     {"load", l_buffer_load},   {"store", l_buffer_store},
      {"add", l_buffer_add},     {"cas", l_buffer_cas},     {NULL, NULL}};
  static const luaL_Reg metamethods[] = {
      {"__gc", l_buffer_close}, {"__close", l_buffer_close},       {"__len", l_buffer_len},
      {"__eq", l_buffer_eq},    {"__tostring", l_buffer_tostring}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"SharedBuffer", l_buffer_new}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_SHARED_BUFFER, "concur.SharedBuffer", methods,
                      metamethods);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_SHARED_BUFFER]);
  concur_share_class_bind(L, &share_class);
  lua_pop(L, 1);
  concur_register(L, runtime, functions);
}
