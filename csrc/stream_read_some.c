/* SPDX-License-Identifier: MIT */
/*
 * Reading from a stream what Lua's files have no format for: what is there (read_some, read_into), up
 * to a separator (read_until); and the limits.  stream_input.h is what they stand on.
 *                                                                                [loop thread]
 */
#include <math.h>

#include "shared_buffer.h"
#include "stream_input.h"

/* ---- read_some, read_until, read_into ---- */

/* A count of bytes; absent it is `otherwise`. */
static size_t opt_size(lua_State *L, int index, size_t otherwise) {
  if (lua_isnoneornil(L, index)) return otherwise;
  lua_Integer size = luaL_checkinteger(L, index);
  luaL_argcheck(L, size > 0, index, "must be at least 1");
  return concur_size_from(size);
}

/* Other ends of look_or_wait than those of a scan. */
enum { MUST_WAIT = -1, RECEIVED = -2, CLOSED_MEANWHILE = -3 };

/* Receives what `scan` looks for, and pushes it; with a `target` there, and pushes how many bytes. */
static bool receive(lua_State *L, concur_stream *stream, const concur_scan *scan, void *target) {
  if (target == NULL) return concur_stream_receive_string(L, stream, *scan);
  size_t size = concur_stream_receive(stream, target, scan->limit);
  if (size > 0) lua_pushinteger(L, (lua_Integer)size);
  return size > 0;
}

/* Looks until the scan finds something in `in`, or it was received and pushed, or it must wait
   (concur_stream_start_reading was true). */
static int look_or_wait(lua_State *L, concur_stream *stream, concur_scan *scan, void *target,
                        concur_scan_result *result) {
  for (;;) {
    concur_scan_end end = concur_stream_look(stream, scan, 0, result);
    if (end != CONCUR_SCAN_MORE || stream->read_error != 0) return (int)end;
    if (concur_stream_may_receive(stream)) {
      if (receive(L, stream, scan, target)) return RECEIVED;
      if (stream->state != CONCUR_STREAM_OPEN) return CLOSED_MEANWHILE;
    } else if (concur_stream_start_reading(stream)) {
      return MUST_WAIT;
    }
  }
}

/* What a read of one thing returns when `end` is neither DONE nor MUST_WAIT. */
static int not_found(lua_State *L, concur_stream *stream, int end, size_t limit) {
  if (end == RECEIVED) return 1;
  if (end == CLOSED_MEANWHILE) return concur_stream_fail_closed(L);
  if (end == CONCUR_SCAN_MORE) {
    return concur_stream_fail(L, stream, stream->read_error, "reading");
  }
  if (end == CONCUR_SCAN_OVERRUN) return concur_stream_fail_overrun(L, limit);
  luaL_pushfail(L);
  return 1;
}

/* Pushes the bytes found and consumes them. */
static int take_found(lua_State *L, concur_stream *stream, const concur_scan_result *result) {
  lua_pushlstring(L, concur_bytes_data(&stream->in) + result->begin, result->size);
  concur_stream_consume(stream, result->taken);
  return 1;
}

/* Stack: the stream, max. */
static int some_body(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = concur_stream_read_from(L);
  if (stream == NULL) return 2;
  concur_scan scan = {.kind = CONCUR_SCAN_SOME, .limit = opt_size(L, 2, sizeof stream->hub->slab)};
  concur_scan_result result;
  int end = look_or_wait(L, stream, &scan, NULL, &result);
  if (end == CONCUR_SCAN_DONE) return take_found(L, stream, &result);
  if (end != MUST_WAIT) return not_found(L, stream, end, scan.limit);
  stream->direct = true;
  return concur_stream_read_park(L, fiber, stream, &scan, 0, some_body);
}

/*@lua
---Reads what is there, as soon as there is anything.
---@async
---@param max? integer bytes at most (65536)
---@return string? bytes at least one; nil at the end
---@return concur.Error? error
function Stream:read_some(max) end
*/
static int l_read_some(lua_State *L) {
  (void)concur_stream_check(L, 1);
  (void)opt_size(L, 2, 1);
  lua_settop(L, 2);
  return concur_fiber_begin(L, some_body);
}

/* The bytes are taken first: making the error may run a finalizer that closes the stream. */
static int fail_incomplete(lua_State *L, concur_stream *stream, const concur_scan_result *result) {
  (void)take_found(L, stream, result);
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "IncompleteRead",
                   "the stream ended before the separator");
  lua_pushvalue(L, -3);
  lua_setfield(L, -2, "partial");
  return 2;
}

/* Stack: the stream, separator, max. */
static int until_body(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = concur_stream_read_from(L);
  if (stream == NULL) return 2;
  concur_scan scan = {.kind = CONCUR_SCAN_UNTIL, .limit = opt_size(L, 3, stream->limit)};
  scan.separator = lua_tolstring(L, 2, &scan.separator_size);
  concur_scan_result result;
  int end = look_or_wait(L, stream, &scan, NULL, &result);
  if (end == CONCUR_SCAN_DONE) return take_found(L, stream, &result);
  if (end == CONCUR_SCAN_PARTIAL) return fail_incomplete(L, stream, &result);
  if (end != MUST_WAIT) return not_found(L, stream, end, scan.limit);
  stream->direct = true;
  return concur_stream_read_park(L, fiber, stream, &scan, 0, until_body);
}

/*@lua
---Reads up to and with a separator.
---@async
---@param separator string at least one byte
---@param max? integer the most that may be returned (the stream's limit)
---@return string? bytes with the separator; nil at the end
---@return concur.Error? error `IncompleteRead`: the stream ended before the separator, `partial` has
---  what came; `LimitOverrun`: more than `max` bytes, nothing was consumed
function Stream:read_until(separator, max) end
*/
static int l_read_until(lua_State *L) {
  (void)concur_stream_check(L, 1);
  size_t size;
  (void)luaL_checklstring(L, 2, &size);
  luaL_argcheck(L, size > 0, 2, "the separator is empty");
  (void)opt_size(L, 3, 1);
  lua_settop(L, 3);
  return concur_fiber_begin(L, until_body);
}

/* Where read_into writes to: stack: stream, buffer, position, max. */
static unsigned char *target_of(lua_State *L, size_t *room) {
  size_t size;
  unsigned char *bytes = concur_shared_buffer_check(L, concur_runtime_of(L), 2, &size);
  lua_Integer position = luaL_optinteger(L, 3, 1);
  luaL_argcheck(L, position >= 1 && (lua_Unsigned)position <= size, 3,
                "position outside of the buffer");
  *room = size - (size_t)(position - 1);
  size_t max = opt_size(L, 4, *room);
  if (max < *room) *room = max;
  return bytes + (position - 1);
}

static int into_body(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = concur_stream_read_from(L);
  if (stream == NULL) return 2;
  concur_scan scan = {.kind = CONCUR_SCAN_SOME};
  unsigned char *target = target_of(L, &scan.limit);
  concur_scan_result result;
  int end = look_or_wait(L, stream, &scan, target, &result);
  if (end == CONCUR_SCAN_DONE) {
    memcpy(target, concur_bytes_data(&stream->in), result.size);
    concur_stream_consume(stream, result.taken);
    lua_pushinteger(L, (lua_Integer)result.size);
    return 1;
  }
  if (end != MUST_WAIT) return not_found(L, stream, end, scan.limit);
  stream->direct = true;
  return concur_stream_read_park(L, fiber, stream, &scan, 0, into_body);
}

/*@lua
---Reads what is there, as soon as there is anything, into a SharedBuffer.
---@async
---@param buffer concur.SharedBuffer
---@param position? integer where it goes (1)
---@param max? integer bytes at most (what fits)
---@return integer? count at least 1; nil at the end
---@return concur.Error? error
function Stream:read_into(buffer, position, max) end
*/
static int l_read_into(lua_State *L) {
  size_t room;
  (void)concur_stream_check(L, 1);
  (void)target_of(L, &room);
  lua_settop(L, 4);
  return concur_fiber_begin(L, into_body);
}

/* ---- limits ---- */

/*@lua
---How many bytes one read may return, where the read itself does not say (16 MiB): a line, a number,
---"a", `read_until` without `max`.
---@param limit? integer|number the new one; `math.huge`: none
---@return integer|number limit
function Stream:limit(limit) end
*/
static int l_limit(lua_State *L) {
  concur_stream *stream = concur_stream_check(L, 1);
  if (!lua_isnoneornil(L, 2)) {
    bool none = lua_type(L, 2) == LUA_TNUMBER && lua_tonumber(L, 2) >= (lua_Number)SIZE_MAX;
    stream->limit = none ? SIZE_MAX : opt_size(L, 2, 1);
  }
  if (stream->limit == SIZE_MAX) {
    lua_pushnumber(L, (lua_Number)HUGE_VAL);
  } else {
    lua_pushinteger(L, (lua_Integer)stream->limit);
  }
  return 1;
}

/*@lua
---@return integer bytes that have arrived and wait in the stream to be read
function Stream:buffered() end
*/
static int l_buffered(lua_State *L) {
  concur_stream *stream = concur_stream_check(L, 1);
  concur_stream_settle(stream);
  lua_pushinteger(L, (lua_Integer)stream->in.size);
  return 1;
}

const luaL_Reg concur_stream_read_some_methods[] = {
    {"read_some", l_read_some}, {"read_until", l_read_until}, {"read_into", l_read_into},
    {"limit", l_limit},         {"buffered", l_buffered},     {NULL, NULL}};
