/* SPDX-License-Identifier: MIT */
/*
 * Reading from a stream with the formats of Lua's files: read and lines.  stream_input.h is what they
 * stand on.                                                                      [loop thread]
 */
#include "stream_input.h"

/* ---- read ---- */

static concur_scan format_of(lua_State *L, int index, size_t limit) {
  concur_scan scan = {.kind = CONCUR_SCAN_LINE, .limit = limit};
  if (lua_type(L, index) == LUA_TNUMBER) {
    lua_Integer count = luaL_checkinteger(L, index);
    luaL_argcheck(L, count >= 0, index, "count must not be negative");
    scan.kind = CONCUR_SCAN_COUNT;
    scan.limit = concur_size_from(count);
    return scan;
  }
  if (lua_type(L, index) != LUA_TSTRING) luaL_typeerror(L, index, "format");
  const char *name = lua_tostring(L, index);
  if (*name == '*') name++; /* as Lua 5.2 wrote them */
  switch (*name) {
  case 'l': scan.kind = CONCUR_SCAN_LINE; break;
  case 'L': scan.kind = CONCUR_SCAN_LINE_END; break;
  case 'n': scan.kind = CONCUR_SCAN_NUMBER; break;
  case 'a': scan.kind = CONCUR_SCAN_ALL; break;
  default: luaL_argerror(L, index, "invalid format");
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
    switch (concur_stream_look(stream, scan, *from, &result)) {
    case CONCUR_SCAN_MORE:
      lua_settop(L, last);
      return stream->read_error != 0 ? concur_stream_fail(L, stream, stream->read_error, "reading")
                                     : -1;
    case CONCUR_SCAN_OVERRUN: return concur_stream_fail_overrun(L, scan->limit);
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
  concur_stream_consume(stream, *from);
  return lua_gettop(L) - last;
}

/* Stack: the stream, one or more formats. */
static int read_formats(lua_State *L, concur_fiber *fiber, concur_resume resume) {
  concur_stream *stream = concur_stream_read_from(L);
  if (stream == NULL) return 2;
  int last = lua_gettop(L);
  concur_scan scan;
  size_t from;
  bool one;
  for (;;) {
    int count = take_formats(L, stream, last, &scan, &from);
    if (count >= 0) return count;
    one = last == 2 && scan.kind != CONCUR_SCAN_NUMBER;
    if (one && concur_stream_may_receive(stream)) {
      if (concur_stream_receive_string(L, stream, scan)) return 1;
      if (stream->state != CONCUR_STREAM_OPEN) return concur_stream_fail_closed(L);
    } else if (concur_stream_start_reading(stream)) {
      break;
    }
  }
  stream->direct = one;
  return concur_stream_read_park(L, fiber, stream, &scan, from, resume);
}

static int read_body(lua_State *L, concur_fiber *fiber) {
  return read_formats(L, fiber, read_body);
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

static int lines_body(lua_State *L, concur_fiber *fiber) {
  return lines_result(L, read_formats(L, fiber, lines_body));
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

const luaL_Reg concur_stream_read_methods[] = {{"read", l_read}, {"lines", l_lines}, {NULL, NULL}};
