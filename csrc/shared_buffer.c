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

#include "holding.h"
#include "transfer.h"

enum { BLOCK_ALIGN = 64 }; /* a cache line, and more than any number needs */

typedef struct block {
  atomic_size_t references;
  size_t size;
  unsigned char *bytes; /* behind this header, in the same allocation; aligned to BLOCK_ALIGN */
} block;

typedef struct view {
  block *block;            /* borrowed from the holding; NULL when closed */
  concur_holding *holding; /* owned; NULL when closed */
  size_t offset;
  size_t size;
} view;

/* ---- blocks [any thread] ---- */

/* A block of zeros.  calloc knows whether the system's memory is zero already, as large ones are. */
static block *block_new(size_t size) {
  const size_t overhead = sizeof(block) + BLOCK_ALIGN;
  if (size > PTRDIFF_MAX - overhead) return NULL;
  block *made = calloc(1, overhead + size);
  if (made == NULL) return NULL;
  unsigned char *behind = (unsigned char *)(made + 1);
  made->bytes = behind + (BLOCK_ALIGN - (uintptr_t)behind % BLOCK_ALIGN);
  made->size = size;
  atomic_init(&made->references, 1);
  return made;
}

static void block_retain(void *object) {
  block *shared = object;
  atomic_fetch_add(&shared->references, 1);
}

static void block_release(void *object) {
  block *shared = object;
  if (atomic_fetch_sub(&shared->references, 1) != 1) return;
  free(shared);
}

/* ---- views ---- */

static view *test_view(lua_State *L, int index) {
  return concur_class_check(L, index, CONCUR_CLASS_SHARED_BUFFER);
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

/* Pushes a view without a block. */
static view *push_view(lua_State *L, concur_runtime *runtime) {
  view *buffer = concur_class_new(L, runtime, CONCUR_CLASS_SHARED_BUFFER, sizeof *buffer, 0);
  buffer->holding = concur_holding_new(L, runtime, block_release);
  return buffer;
}

/* The view takes over the caller's reference to the block. */
static void fill_view(view *buffer, block *shared, size_t offset, size_t size) {
  buffer->offset = offset;
  buffer->size = size;
  buffer->holding->object = shared;
  buffer->block = shared;
}

static int l_buffer_close(lua_State *L) {
  view *buffer = test_view(L, 1);
  buffer->block = NULL;
  concur_holding_end(buffer->holding);
  buffer->holding = NULL;
  return 0;
}

/* Tells the collector that memory was taken which it does not see, so that forgotten buffers are
   found in time. */
static void charge_collector(lua_State *L, size_t size) {
  const size_t most = (size_t)1 << 30;
  if (size < 1024 || !lua_gc(L, LUA_GCISRUNNING)) return;
  if (size > most) size = most;
#if LUA_VERSION_NUM >= 505
  lua_gc(L, LUA_GCSTEP, size);
#else
  lua_gc(L, LUA_GCSTEP, (int)(size / 1024));
#endif
}

/*@lua
---Bytes that Lua states share: sent to another state, it is the same memory.  Positions are those of
---strings: 1 is the first byte, -1 the last.  No method suspends; all but `close` raise `Closed` on a
---closed buffer.
---@class concur.SharedBuffer
---@operator len: integer
local SharedBuffer = {}

---`n` zero bytes, or a copy of the string.
---@param content integer|string
---@return concur.SharedBuffer
function concur.SharedBuffer(content) end

---Lets go of the memory; idempotent.  Slices and other states keep what they have.
function SharedBuffer:close() end
*/
static int l_buffer_new(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  size_t size;
  const char *content = NULL;
  if (lua_type(L, 1) == LUA_TSTRING) {
    content = lua_tolstring(L, 1, &size);
  } else if (lua_isinteger(L, 1) || (lua_type(L, 1) == LUA_TNUMBER)) {
    lua_Integer wanted = luaL_checkinteger(L, 1);
    luaL_argcheck(L, wanted >= 0, 1, "size must not be negative");
    size = concur_size_from(wanted);
  } else {
    return luaL_argerror(
        L, 1, lua_pushfstring(L, "size or string expected, got %s", luaL_typename(L, 1)));
  }
  view *buffer = push_view(L, runtime);
  block *made = block_new(size);
  if (made == NULL) return luaL_error(L, "not enough memory");
  fill_view(buffer, made, 0, size);
  if (content != NULL) memcpy(made->bytes, content, size);
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

unsigned char *concur_shared_buffer_at(lua_State *L, int index, size_t size) {
  const view *buffer = check_view(L);
  lua_Integer given = luaL_checkinteger(L, index);
  lua_Integer position = given;
  if (position < 0) position += (lua_Integer)buffer->size + 1;
  if (position < 1 || size > buffer->size ||
      position - 1 > (lua_Integer)(buffer->size - size)) {
    const char *text =
        lua_pushfstring(L, "position %I is outside the buffer (%I bytes there, %I in all)",
                        (LUAI_UACINT)given, (LUAI_UACINT)size, (LUAI_UACINT)buffer->size);
    luaL_argerror(L, index, text);
  }
  return bytes_of(buffer) + (position - 1);
}

/*@lua
---A buffer that is part of this one: the same memory.
---@param i? integer
---@param j? integer
---@return concur.SharedBuffer
function SharedBuffer:slice(i, j) end
*/
static int l_buffer_slice(lua_State *L) {
  const view *buffer = check_view(L);
  range part = check_range(L, buffer, 2);
  view *slice = push_view(L, concur_runtime_of(L));
  block_retain(buffer->block);
  fill_view(slice, buffer->block, buffer->offset + part.start, part.size);
  return 1;
}

/*@lua
---The bytes as a string: a copy.
---@param i? integer
---@param j? integer
---@return string
function SharedBuffer:tostring(i, j) end
*/
static int l_buffer_string(lua_State *L) {
  const view *buffer = check_view(L);
  range part = check_range(L, buffer, 2);
  lua_pushlstring(L, (const char *)bytes_of(buffer) + part.start, part.size);
  return 1;
}

/*@lua
---Puts a string at a position; it must fit.
---@param position integer
---@param content string
---@return concur.SharedBuffer self
function SharedBuffer:write(position, content) end
*/
static int l_buffer_write(lua_State *L) {
  size_t size;
  check_view(L);
  const char *content = luaL_checklstring(L, 3, &size);
  memcpy(concur_shared_buffer_at(L, 2, size), content, size);
  lua_settop(L, 1);
  return 1;
}

/*@lua
---Sets all bytes, or those from i to j.
---@param byte integer 0 to 255
---@param i? integer
---@param j? integer
---@return concur.SharedBuffer self
function SharedBuffer:fill(byte, i, j) end
*/
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
  const view *a = concur_class_test(L, 1, CONCUR_CLASS_SHARED_BUFFER);
  const view *b = concur_class_test(L, 2, CONCUR_CLASS_SHARED_BUFFER);
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
  block_retain(attachment->object);
  fill_view(buffer, attachment->object, attachment->detail[0], attachment->detail[1]);
}

static const concur_share_class share_class = {
    .base = {"SharedBuffer", block_retain, block_release},
    .unwrap = buffer_unwrap,
    .wrap = buffer_wrap,
};

static const view *check_open(lua_State *L, const concur_runtime *runtime, int index) {
  const view *buffer = concur_class_check(L, index, CONCUR_CLASS_SHARED_BUFFER);
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

void concur_shared_buffer_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg methods[] = {{"close", l_buffer_close},     {"slice", l_buffer_slice},
                                     {"tostring", l_buffer_string}, {"write", l_buffer_write},
                                     {"fill", l_buffer_fill},       {NULL, NULL}};
  static const luaL_Reg metamethods[] = {
      {"__gc", l_buffer_close}, {"__close", l_buffer_close},       {"__len", l_buffer_len},
      {"__eq", l_buffer_eq},    {"__tostring", l_buffer_tostring}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"SharedBuffer", l_buffer_new}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_SHARED_BUFFER, "concur.SharedBuffer", methods,
                      metamethods);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_SHARED_BUFFER]);
  concur_share_class_bind(L, &share_class);
  lua_getfield(L, -1, "__index");
  concur_register(L, runtime, concur_shared_buffer_numbers);
  lua_pop(L, 2);
  concur_register(L, runtime, functions);
}
