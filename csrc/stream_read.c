/* SPDX-License-Identifier: MIT */
/*
 * Reading from a stream.
 *
 * libuv reads into the hub's slab.  If a task waits for one thing and the slab holds it, it becomes a
 * Lua string right there, on the task's own stack; the rest, and everything else, is appended to
 * `in`.  A read scans `in` from its beginning and consumes nothing before it has all its results, so
 * one that is cancelled has taken nothing.  Reading is started by the first read and paused only
 * when `in` is over its high-water mark and nobody waits.
 *
 * One task reads at a time: a second one gets InvalidState.                 [loop thread]
 */
#include <math.h>

#include "shared_buffer.h"
#include "stream_state.h"

/* ---- waiting ---- */

static void reader_leave(concur_stream *stream) {
  stream->reader = NULL;
  uv_unref(stream->handle.uv);
}

static void wake_reader(concur_stream *stream, concur_outcome outcome) {
  concur_fiber *fiber = stream->reader;
  if (fiber == NULL) return;
  reader_leave(stream);
  concur_fiber_wake(fiber, outcome);
}

/* The task that reads.  One whose coroutine was tampered with does not read any more: what it looked
   for may be collected, so it is woken to find that out, and nobody reads. */
static concur_fiber *reader_of(concur_stream *stream) {
  if (stream->reader != NULL && !concur_fiber_intact(stream->reader)) {
    wake_reader(stream, CONCUR_OUTCOME_VALUE);
  }
  return stream->reader;
}

static bool abort_read(concur_fiber *fiber) {
  reader_leave(fiber->target);
  return true;
}

static void detach_read(concur_fiber *fiber) {
  reader_leave(fiber->target);
}

static const concur_wait wait_read = {
    .name = "Stream:read", .abort = abort_read, .detach = detach_read};

static void pause_reading(concur_stream *stream) {
  if (!stream->reading) return;
  stream->reading = false;
  (void)uv_read_stop(&stream->uv.stream);
}

static void end_reading(concur_stream *stream, int error) {
  pause_reading(stream);
  stream->read_ended = true;
  stream->read_error = error;
  wake_reader(stream, CONCUR_OUTCOME_VALUE);
}

/* ---- what arrives ---- */

static void on_alloc(uv_handle_t *uv, size_t suggested, uv_buf_t *buffer) {
  concur_hub *hub = concur_stream_of(uv)->hub;
  (void)suggested;
  *buffer = uv_buf_init(hub->slab, sizeof hub->slab);
}

typedef struct delivery {
  concur_stream *stream;
  concur_fiber *fiber;
  const char *data;
  size_t size;
  bool delivered;
} delivery;

/* Argument: light userdata delivery.  Making a string may run finalizers, which may do anything. */
static int l_deliver(lua_State *L) {
  delivery *item = lua_touserdata(L, 1);
  lua_pushlstring(L, item->data, item->size);
  if (item->stream->reader != item->fiber) return 0;
  item->delivered = concur_fiber_give(L, item->fiber);
  wake_reader(item->stream, CONCUR_OUTCOME_VALUE);
  return 0;
}

/* Gives the reader its result straight from the slab; false when it is not all there. */
static bool deliver(concur_stream *stream, const char *data, size_t size) {
  concur_scan_result result;
  concur_scan scan = stream->scan;
  if (concur_scan_look(&scan, data, size, false, &result) != CONCUR_SCAN_DONE) return false;
  if (!concur_bytes_reserve(&stream->in, size - result.taken)) return false;
  delivery item = {stream, stream->reader, data + result.begin, result.size, false};
  (void)concur_loop_protect(stream->loop, l_deliver, &item);
  if (!item.delivered) return false;
  (void)concur_bytes_append(&stream->in, data + result.taken, size - result.taken);
  return true;
}

/* True when what the reader waits for is there, or cannot come. */
static bool reader_served(concur_stream *stream) {
  concur_scan_result result;
  return concur_scan_look(&stream->scan, concur_bytes_data(&stream->in) + stream->scan_from,
                          stream->in.size - stream->scan_from, false,
                          &result) != CONCUR_SCAN_MORE;
}

static void on_read(uv_stream_t *uv, ssize_t count, const uv_buf_t *buffer) {
  concur_stream *stream = concur_stream_of(uv);
  if (count == 0) return;
  if (count < 0) {
    end_reading(stream, count == UV_EOF ? 0 : (int)count);
    return;
  }
  size_t size = (size_t)count;
  if (reader_of(stream) != NULL && stream->direct && stream->in.size == 0 &&
      deliver(stream, buffer->base, size)) {
    return;
  }
  if (stream->state != CONCUR_STREAM_OPEN) return; /* closed by a finalizer just now */
  if (!concur_bytes_append(&stream->in, buffer->base, size)) {
    end_reading(stream, UV_ENOMEM);
    return;
  }
  if (reader_of(stream) != NULL && reader_served(stream)) {
    wake_reader(stream, CONCUR_OUTCOME_VALUE);
  }
  if (stream->reader == NULL && stream->in.size >= stream->in_high) pause_reading(stream);
}

/* False when nothing more will come: `read_ended` is set. */
static bool start_reading(concur_stream *stream) {
  if (stream->reading) return true;
  if (stream->read_ended) return false;
  int error = uv_read_start(&stream->uv.stream, on_alloc, on_read);
  if (error != 0) {
    end_reading(stream, error);
    return false;
  }
  stream->reading = true;
  return true;
}

static void consume(concur_stream *stream, size_t count) {
  if (stream->state != CONCUR_STREAM_OPEN) return;
  concur_bytes_consume(&stream->in, count);
  if (!stream->reading && !stream->read_ended && stream->in.size <= stream->in_low) {
    (void)start_reading(stream);
  }
}

void concur_stream_close_read(concur_stream *stream) {
  pause_reading(stream);
  concur_bytes_free(&stream->in);
  wake_reader(stream, CONCUR_OUTCOME_CLOSED);
}

/* ---- one look ---- */

/* The stream at index 1, in the middle of a read; NULL with results pushed when there is nothing to
   read from. */
static concur_stream *read_from(lua_State *L) {
  concur_stream *stream = concur_stream_test(L, 1);
  if (stream == NULL) {
    (void)concur_stream_fail_closed(L);
  } else if (!stream->readable) {
    (void)concur_stream_fail(L, stream, UV_EBADF, "reading");
    stream = NULL;
  }
  return stream;
}

static concur_scan_end look(concur_stream *stream, concur_scan *scan, size_t from,
                            concur_scan_result *result) {
  bool at_end = stream->read_ended && stream->read_error == 0;
  return concur_scan_look(scan, concur_bytes_data(&stream->in) + from, stream->in.size - from,
                          at_end, result);
}

/* Parks until `scan` finds something behind `from` bytes; start_reading was true. */
static int read_park(lua_State *L, concur_fiber *fiber, concur_stream *stream,
                     const concur_scan *scan, size_t from, concur_resume resume) {
  if (reader_of(stream) != NULL) {
    return concur_error_raise(L, fiber->scheduler->runtime, "InvalidState",
                              "another task is reading from the stream");
  }
  stream->reader = fiber;
  stream->scan = *scan;
  stream->scan_from = from;
  uv_ref(stream->handle.uv);
  return concur_fiber_park(L, fiber, &wait_read, stream, resume);
}

static int fail_overrun(lua_State *L, size_t limit) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "LimitOverrun",
                   "longer than the limit of %I bytes; nothing was consumed", (LUAI_UACINT)limit);
  return 2;
}

/* ---- read ---- */

static concur_scan format_of(lua_State *L, int index, size_t limit) {
  concur_scan scan = {.kind = CONCUR_SCAN_LINE, .limit = limit};
  if (lua_type(L, index) == LUA_TNUMBER) {
    lua_Integer count = luaL_checkinteger(L, index);
    luaL_argcheck(L, count >= 0, index, "count must not be negative");
    scan.kind = CONCUR_SCAN_COUNT;
    scan.limit = (size_t)count;
    return scan;
  }
  const char *name = luaL_checkstring(L, index);
  if (*name == '*') name++; /* as Lua 5.2 wrote them */
  switch (*name) {
  case 'l': scan.kind = CONCUR_SCAN_LINE; break;
  case 'L': scan.kind = CONCUR_SCAN_LINE_END; break;
  case 'n': scan.kind = CONCUR_SCAN_NUMBER; break;
  case 'a': scan.kind = CONCUR_SCAN_ALL; break;
  default: (void)luaL_argerror(L, index, "invalid format");
  }
  return scan;
}

/* Pushes a result; nil where the text is no number. */
static bool push_found(lua_State *L, const concur_stream *stream, const concur_scan *scan,
                       size_t from, const concur_scan_result *result) {
  const char *data = concur_bytes_data(&stream->in) + from + result->begin;
  if (scan->kind != CONCUR_SCAN_NUMBER) {
    lua_pushlstring(L, data, result->size);
    return true;
  }
  char text[CONCUR_SCAN_NUMBER_SIZE + 1];
  memcpy(text, data, result->size);
  text[result->size] = '\0';
  if (result->size > 0 && lua_stringtonumber(L, text) == result->size + 1) return true;
  luaL_pushfail(L);
  return false;
}

/* Takes what the formats at 2 ... `last` ask for: pushes the results and returns how many, or -1
   when it must wait for `scan` behind `from` bytes. */
static int take_formats(lua_State *L, concur_stream *stream, int last, concur_scan *scan,
                        size_t *from) {
  *from = 0;
  bool more = true;
  for (int index = 2; index <= last && more; index++) {
    concur_scan_result result = {0, 0, 0};
    *scan = format_of(L, index, stream->limit);
    switch (look(stream, scan, *from, &result)) {
    case CONCUR_SCAN_MORE:
      lua_settop(L, last);
      return stream->read_error != 0 ? concur_stream_fail(L, stream, stream->read_error, "reading")
                                     : -1;
    case CONCUR_SCAN_OVERRUN: return fail_overrun(L, scan->limit);
    case CONCUR_SCAN_EMPTY:
    case CONCUR_SCAN_PARTIAL:
      luaL_pushfail(L);
      more = false;
      break;
    case CONCUR_SCAN_DONE:
      more = push_found(L, stream, scan, *from, &result);
      if (stream->state != CONCUR_STREAM_OPEN) return concur_stream_fail_closed(L);
      break;
    }
    *from += result.taken;
  }
  consume(stream, *from);
  return lua_gettop(L) - last;
}

/* Stack: the stream, one or more formats. */
static int read_formats(lua_State *L, concur_fiber *fiber, concur_resume resume) {
  concur_stream *stream = read_from(L);
  if (stream == NULL) return 2;
  int last = lua_gettop(L);
  concur_scan scan;
  size_t from;
  for (;;) {
    int count = take_formats(L, stream, last, &scan, &from);
    if (count >= 0) return count;
    if (start_reading(stream)) break;
  }
  stream->direct = last == 2 && scan.kind != CONCUR_SCAN_NUMBER;
  return read_park(L, fiber, stream, &scan, from, resume);
}

static int read_resumed(lua_State *L, concur_fiber *fiber) {
  return fiber->given ? 1 : read_formats(L, fiber, read_resumed);
}

static int read_body(lua_State *L, concur_fiber *fiber) {
  return read_formats(L, fiber, read_resumed);
}

/* Checks the formats at 2 and up; without any it is "l". */
static void check_formats(lua_State *L) {
  if (lua_gettop(L) < 2) lua_pushliteral(L, "l");
  luaL_checkstack(L, lua_gettop(L) + LUA_MINSTACK, "too many arguments");
  for (int index = 2; index <= lua_gettop(L); index++) (void)format_of(L, index, 0);
}

/*@lua
---Bytes in order from and to another program, with the methods of Lua's files.  Expected failures are
---returned as `nil, error`; a closed stream raises `Closed`.
---@class concur.Stream
local Stream = {}

---Reads as `file:read` does: "l" a line, "L" a line with its end, "n" a number, "a" all up to the
---end, a number that many bytes; without a format a line.  At the end it returns nil (and for "a"
---the empty string).  Cancelled, it has consumed nothing.
---@async
---@param ... string|integer formats
---@return any ... a result for each format; nil for one that failed, and then no more.  `nil, error`:
---  `OSError`, `LimitOverrun` (longer than the stream's limit; nothing was consumed), `Closed`
function Stream:read(...) end
*/
static int l_read(lua_State *L) {
  (void)concur_stream_check(L, 1);
  check_formats(L);
  return concur_fiber_begin(L, read_body);
}

/* ---- lines ---- */

/* `count` results of a read: an error is raised. */
static int lines_result(lua_State *L, int count) {
  if (count == 2 && lua_isnil(L, -2) && concur_error_test(L, concur_runtime_of(L), -1)) {
    return lua_error(L);
  }
  return count;
}

static int lines_resumed(lua_State *L, concur_fiber *fiber) {
  return lines_result(L, fiber->given ? 1 : read_formats(L, fiber, lines_resumed));
}

static int lines_body(lua_State *L, concur_fiber *fiber) {
  return lines_result(L, read_formats(L, fiber, lines_resumed));
}

enum { MOST_FORMATS = 250 };

/* Upvalues: runtime, how many, stream, formats. */
static int l_next_line(lua_State *L) {
  int count = (int)lua_tointeger(L, lua_upvalueindex(2));
  lua_settop(L, 0);
  luaL_checkstack(L, 2 * count + LUA_MINSTACK, NULL);
  for (int i = 0; i < count; i++) lua_pushvalue(L, lua_upvalueindex(3 + i));
  (void)concur_stream_check(L, 1);
  return concur_fiber_begin(L, lines_body);
}

/*@lua
---An iterator that reads with these formats (lines, without any) until the end.  It raises what
---`read` would return as an error.  The stream stays open.
---@param ... string|integer formats
---@return fun(): any ... the iterator; may suspend
function Stream:lines(...) end
*/
static int l_lines(lua_State *L) {
  (void)concur_stream_check(L, 1);
  check_formats(L);
  int count = lua_gettop(L);
  luaL_argcheck(L, count <= MOST_FORMATS, MOST_FORMATS + 2, "too many arguments");
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_pushinteger(L, count);
  lua_insert(L, 2);
  lua_pushcclosure(L, l_next_line, count + 2);
  return 1;
}

/* ---- read_some, read_until, read_into ---- */

/* A count of bytes; absent it is `otherwise`. */
static size_t opt_size(lua_State *L, int index, size_t otherwise) {
  if (lua_isnoneornil(L, index)) return otherwise;
  lua_Integer size = luaL_checkinteger(L, index);
  luaL_argcheck(L, size > 0, index, "must be at least 1");
  return (size_t)size;
}

static int some_body(lua_State *L, concur_fiber *fiber);

static int some_resumed(lua_State *L, concur_fiber *fiber) {
  return fiber->given ? 1 : some_body(L, fiber);
}

/* Looks until the scan finds something or must wait; -1: it must, start_reading was true. */
static int look_or_wait(concur_stream *stream, concur_scan *scan, concur_scan_result *result) {
  for (;;) {
    concur_scan_end end = look(stream, scan, 0, result);
    if (end != CONCUR_SCAN_MORE || stream->read_error != 0) return (int)end;
    if (start_reading(stream)) return -1;
  }
}

/* What a read of one thing returns when `end` is not DONE. */
static int not_found(lua_State *L, concur_stream *stream, int end, size_t limit) {
  if (end == CONCUR_SCAN_MORE) {
    return concur_stream_fail(L, stream, stream->read_error, "reading");
  }
  if (end == CONCUR_SCAN_OVERRUN) return fail_overrun(L, limit);
  luaL_pushfail(L);
  return 1;
}

/* Pushes the bytes found and consumes them. */
static int take_found(lua_State *L, concur_stream *stream, const concur_scan_result *result) {
  lua_pushlstring(L, concur_bytes_data(&stream->in) + result->begin, result->size);
  consume(stream, result->taken);
  return 1;
}

/* Stack: the stream, max. */
static int some_body(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = read_from(L);
  if (stream == NULL) return 2;
  concur_scan scan = {.kind = CONCUR_SCAN_SOME, .limit = opt_size(L, 2, sizeof stream->hub->slab)};
  concur_scan_result result;
  int end = look_or_wait(stream, &scan, &result);
  if (end == CONCUR_SCAN_DONE) return take_found(L, stream, &result);
  if (end >= 0) return not_found(L, stream, end, scan.limit);
  stream->direct = true;
  return read_park(L, fiber, stream, &scan, 0, some_resumed);
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

static int until_body(lua_State *L, concur_fiber *fiber);

static int until_resumed(lua_State *L, concur_fiber *fiber) {
  return fiber->given ? 1 : until_body(L, fiber);
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
  concur_stream *stream = read_from(L);
  if (stream == NULL) return 2;
  concur_scan scan = {.kind = CONCUR_SCAN_UNTIL, .limit = opt_size(L, 3, stream->limit)};
  scan.separator = lua_tolstring(L, 2, &scan.separator_size);
  concur_scan_result result;
  int end = look_or_wait(stream, &scan, &result);
  if (end == CONCUR_SCAN_DONE) return take_found(L, stream, &result);
  if (end == CONCUR_SCAN_PARTIAL) return fail_incomplete(L, stream, &result);
  if (end >= 0) return not_found(L, stream, end, scan.limit);
  stream->direct = true;
  return read_park(L, fiber, stream, &scan, 0, until_resumed);
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
  concur_stream *stream = read_from(L);
  if (stream == NULL) return 2;
  concur_scan scan = {.kind = CONCUR_SCAN_SOME};
  unsigned char *target = target_of(L, &scan.limit);
  concur_scan_result result;
  int end = look_or_wait(stream, &scan, &result);
  if (end == CONCUR_SCAN_DONE) {
    memcpy(target, concur_bytes_data(&stream->in), result.size);
    consume(stream, result.taken);
    lua_pushinteger(L, (lua_Integer)result.size);
    return 1;
  }
  if (end >= 0) return not_found(L, stream, end, scan.limit);
  stream->direct = false;
  return read_park(L, fiber, stream, &scan, 0, into_body);
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
  lua_pushinteger(L, (lua_Integer)concur_stream_check(L, 1)->in.size);
  return 1;
}

const luaL_Reg concur_stream_read_methods[] = {{"read", l_read},
                                               {"buffered", l_buffered},
                                               {"lines", l_lines},
                                               {"read_some", l_read_some},
                                               {"read_until", l_read_until},
                                               {"read_into", l_read_into},
                                               {"limit", l_limit},
                                               {NULL, NULL}};
