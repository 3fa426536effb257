/* SPDX-License-Identifier: MIT */
/*
 * Writing to a stream.
 *
 * A write waits for room and then accepts all its bytes at once.  The first write of a tick is tried
 * directly; further small ones are gathered and go out together when the loop turns to waiting, or
 * once there are enough of them.  What the system does not take is copied to `gathered`; libuv has
 * at most one request, `write`, with the bytes of `sending`.
 *
 * A failed write is remembered: every later one, flush and close tell it.    [loop thread]
 */
#include <stdio.h>

#include "parking.h"
#include "platform.h"
#include "stream_state.h"

enum { GATHER_LIMIT = 16 * 1024, MOST_PARTS = 16 };

size_t concur_stream_unsent(const concur_stream *stream) {
  size_t size = stream->gathered.size;
  if (stream->in_flight) size += uv_stream_get_write_queue_size(&stream->uv.stream);
  /* Completed, and its callback is about to come: it is not over before that. */
  if (stream->in_flight && size == 0) size = 1;
  return size;
}

void concur_stream_wake_drainers(concur_stream *stream, concur_outcome outcome) {
  concur_node *node;
  while ((node = concur_list_pop(&stream->drainers)) != NULL) {
    concur_fiber_wake(concur_container_of(node, concur_fiber, waiter.node), outcome);
  }
}

static void wake_writers(concur_stream *stream, concur_outcome outcome) {
  concur_node *node;
  while ((node = concur_list_pop(&stream->writers)) != NULL) {
    concur_fiber_wake(concur_container_of(node, concur_fiber, waiter.node), outcome);
  }
}

void concur_stream_close_write(concur_stream *stream) {
  wake_writers(stream, CONCUR_OUTCOME_CLOSED);
}

/* ---- sending ---- */

/* uv_buf_init takes an unsigned int. */
static uv_buf_t part_of(const char *data, size_t size) {
  uv_buf_t part;
  part.base = (char *)(uintptr_t)data;
  part.len = size;
  return part;
}

/* Sends what the system takes now, while nothing is with libuv: how many bytes, or a libuv code. */
static ssize_t try_write(concur_stream *stream, const uv_buf_t *parts, unsigned count) {
  if (stream->kind == CONCUR_STREAM_TCP && concur_platform_reads()) {
    return concur_platform_send(stream->fd, parts, count);
  }
  return uv_try_write(&stream->uv.stream, parts, count);
}

static void fail_writing(concur_stream *stream, int error) {
  if (stream->write_error == 0) stream->write_error = error;
  concur_bytes_free(&stream->gathered);
  concur_node_unlink(&stream->dirty);
  wake_writers(stream, CONCUR_OUTCOME_VALUE);
  concur_stream_wake_drainers(stream, CONCUR_OUTCOME_VALUE);
  if (stream->state == CONCUR_STREAM_CLOSING) concur_stream_finish(stream);
}

static void on_shutdown(uv_shutdown_t *request, int status) {
  concur_stream *stream = concur_stream_of(request->handle);
  stream->shutting = false;
  if (stream->state == CONCUR_STREAM_CLOSED) return;
  stream->ended = true;
  /* A pipe, such as a program's stdin, has no halves: closing it tells that this was all. */
  bool is_pipe = status == UV_ENOTSOCK && !stream->readable;
  /* The other side went away first: there is nobody to be told. */
  bool failed = status != 0 && status != UV_ENOTCONN && !is_pipe;
  if (failed && stream->write_error == 0) stream->write_error = status;
  concur_stream_wake_drainers(stream, CONCUR_OUTCOME_VALUE);
  if (is_pipe || stream->state == CONCUR_STREAM_CLOSING) concur_stream_finish(stream);
}

static void begin_shutdown(concur_stream *stream) {
  if (stream->shutting || stream->ended) return;
  int error = uv_shutdown(&stream->shutdown, &stream->uv.stream, on_shutdown);
  if (error == UV_ENOTCONN) {
    stream->ended = true;
    concur_stream_wake_drainers(stream, CONCUR_OUTCOME_VALUE);
  } else if (error != 0) {
    fail_writing(stream, error);
  } else {
    stream->shutting = true;
  }
}

static void tell_room(concur_stream *stream) {
  if (concur_stream_unsent(stream) <= stream->out_low) {
    wake_writers(stream, CONCUR_OUTCOME_VALUE);
  }
}

/* Everything is sent. */
static void drained(concur_stream *stream) {
  wake_writers(stream, CONCUR_OUTCOME_VALUE);
  if (stream->ending) {
    begin_shutdown(stream);
    return;
  }
  concur_stream_wake_drainers(stream, CONCUR_OUTCOME_VALUE);
  if (stream->state == CONCUR_STREAM_CLOSING) concur_stream_finish(stream);
}

static void on_write(uv_write_t *request, int status) {
  concur_stream *stream = concur_stream_of(request->handle);
  stream->in_flight = false;
  concur_bytes_consume(&stream->sending, stream->sending.size);
  if (stream->state == CONCUR_STREAM_CLOSED) return;
  if (status != 0) {
    fail_writing(stream, status);
    return;
  }
  concur_stream_send(stream);
  if (stream->state == CONCUR_STREAM_OPEN) tell_room(stream);
}

/* Gives libuv what was gathered. */
static void send_gathered(concur_stream *stream) {
  concur_bytes empty = stream->sending;
  stream->sending = stream->gathered;
  stream->gathered = empty;
  uv_buf_t buffer = part_of(concur_bytes_data(&stream->sending), stream->sending.size);
  int error = uv_write(&stream->write, &stream->uv.stream, &buffer, 1, on_write);
  if (error != 0) {
    fail_writing(stream, error);
    return;
  }
  stream->in_flight = true;
}

void concur_stream_send(concur_stream *stream) {
  concur_node_unlink(&stream->dirty);
  if (stream->in_flight || stream->write_error != 0) return;
  if (stream->gathered.size > 0) {
    uv_buf_t buffer = part_of(concur_bytes_data(&stream->gathered), stream->gathered.size);
    ssize_t sent = try_write(stream, &buffer, 1);
    if (sent < 0 && sent != UV_EAGAIN) {
      fail_writing(stream, (int)sent);
      return;
    }
    if (sent > 0) concur_bytes_consume(&stream->gathered, (size_t)sent);
  }
  if (stream->gathered.size > 0) {
    send_gathered(stream);
  } else {
    drained(stream);
  }
}

void concur_hub_flush(concur_flusher *flusher) {
  concur_hub *hub = concur_container_of(flusher, concur_hub, flusher);
  concur_node *node;
  hub->tick++;
  while ((node = concur_list_pop(&hub->dirty)) != NULL) {
    concur_stream_send(concur_container_of(node, concur_stream, dirty));
  }
}

/* ---- accepting ---- */

/* Appends the parts, behind the first `skip` bytes; false when out of memory. */
static bool gather(concur_stream *stream, const uv_buf_t *parts, unsigned count, size_t skip) {
  for (unsigned i = 0; i < count; i++) {
    size_t drop = skip < parts[i].len ? skip : parts[i].len;
    skip -= drop;
    if (!concur_bytes_append(&stream->gathered, parts[i].base + drop, parts[i].len - drop)) {
      return false;
    }
  }
  return true;
}

/* True when the parts may go to the system at once. */
static bool goes_directly(const concur_stream *stream, size_t total) {
  if (stream->in_flight || stream->gathered.size > 0) return false;
  return stream->tick != stream->hub->tick || total >= GATHER_LIMIT || stream->unbuffered ||
         stream->loop->L == NULL;
}

/* Accepts all parts.  A libuv error code, or 0. */
static int accept_parts(concur_stream *stream, const uv_buf_t *parts, unsigned count,
                        size_t total) {
  size_t sent = 0;
  bool direct = goes_directly(stream, total);
  if (direct) {
    ssize_t result = try_write(stream, parts, count);
    if (result < 0 && result != UV_EAGAIN) return (int)result;
    stream->tick = stream->hub->tick;
    if (result > 0) sent = (size_t)result;
    if (sent == total) return 0;
  }
  if (!gather(stream, parts, count, sent)) return UV_ENOMEM;
  if (direct || stream->gathered.size >= GATHER_LIMIT || stream->unbuffered ||
      stream->loop->L == NULL) {
    concur_stream_send(stream); /* also out of the list of dirty ones */
  } else if (!concur_node_linked(&stream->dirty) && !stream->in_flight) {
    concur_list_append(&stream->hub->dirty, &stream->dirty);
  }
  return 0;
}

/* The strings at stack indices `first` ... `last`, a few at a time.  Raises nothing. */
static int accept_arguments(lua_State *L, concur_stream *stream, int first, int last) {
  uv_buf_t parts[MOST_PARTS];
  int error = 0;
  while (first <= last && error == 0) {
    unsigned count = 0;
    size_t total = 0;
    while (first <= last && count < MOST_PARTS) {
      size_t size;
      const char *data = lua_tolstring(L, first++, &size);
      parts[count++] = part_of(data, size);
      total += size;
    }
    if (total > 0) error = accept_parts(stream, parts, count, total);
  }
  return error;
}

/* ---- write ---- */

static int fail_written(lua_State *L, concur_stream *stream, const char *call) {
  stream->error_told = true;
  return concur_stream_fail(L, stream, stream->write_error, call);
}

static const concur_wait wait_write = {.name = "Stream:write"};
static const concur_wait wait_flush = {.name = "Stream:flush"};
static const concur_wait wait_shutdown = {.name = "Stream:shutdown"};

static bool has_room(const concur_stream *stream) {
  if (!stream->in_flight && stream->gathered.size < stream->out_high) return true;
  return concur_stream_unsent(stream) < stream->out_high;
}

/* Stack: the stream, strings. */
static int write_body(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = concur_stream_test(L, 1);
  if (stream == NULL || stream->ending) return concur_stream_fail_closed(L);
  if (stream->write_error == 0 && !has_room(stream)) {
    return concur_parking_park(L, fiber, &stream->writers, &wait_write, stream, write_body);
  }
  int error = stream->write_error;
  if (error == 0) error = accept_arguments(L, stream, 2, lua_gettop(L));
  if (error != 0) {
    fail_writing(stream, error);
    return fail_written(L, stream, "writing");
  }
  lua_settop(L, 1);
  return 1;
}

/* Makes strings of the arguments, numbers as io.write writes them (in Lua 5.4 "1" for 1.0). */
static void check_strings(lua_State *L) {
  int last = lua_gettop(L);
  for (int index = 2; index <= last; index++) {
    if (lua_type(L, index) == LUA_TNUMBER && !lua_isinteger(L, index) && LUA_VERSION_NUM < 505) {
      char text[64];
      (void)snprintf(text, sizeof text, LUA_NUMBER_FMT, (LUAI_UACNUMBER)lua_tonumber(L, index));
      lua_pushstring(L, text);
      lua_replace(L, index);
    }
    (void)luaL_checkstring(L, index);
  }
}

static concur_stream *check_writable(lua_State *L) {
  concur_stream *stream = concur_stream_check(L, 1);
  if (stream->ending) {
    concur_error_raise(L, concur_runtime_of(L), "Closed", "the stream was shut down for writing");
  }
  return stream;
}

/*@lua
---Writes strings and numbers, in order and with nothing of other tasks between them.  Waits for room
---first if much is unsent (`water_marks`); cancelled then, nothing was written.  After that it
---accepts everything without waiting, and sends it while the task goes on.
---@async
---@param ... string|number
---@return concur.Stream? self
---@return concur.Error? error `OSError` (`EPIPE`, `ECONNRESET`: also of an earlier write), `Closed`
function Stream:write(...) end
*/
static int l_write(lua_State *L) {
  concur_stream *stream = check_writable(L);
  check_strings(L);
  if (!stream->writable) return concur_stream_fail(L, stream, UV_EBADF, "writing");
  return concur_fiber_begin(L, write_body);
}

/* ---- flush, shutdown ---- */

static int drain_done(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = ((const concur_stream_box *)lua_touserdata(L, 1))->stream;
  if (stream == NULL) return concur_stream_fail_closed(L);
  if (stream->write_error != 0) return fail_written(L, stream, "writing");
  if (fiber->outcome == CONCUR_OUTCOME_CLOSED && stream->state == CONCUR_STREAM_CLOSED) {
    return concur_stream_fail_closed(L);
  }
  lua_settop(L, 1);
  return 1;
}

static int flush_body(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = concur_stream_test(L, 1);
  if (stream == NULL) return concur_stream_fail_closed(L);
  concur_stream_send(stream);
  if (stream->write_error != 0) {
    return fail_written(L, stream, "writing");
  }
  if (concur_stream_unsent(stream) > 0) {
    return concur_parking_park(L, fiber, &stream->drainers, &wait_flush, stream, drain_done);
  }
  lua_settop(L, 1);
  return 1;
}

/*@lua
---Waits until everything written has been handed to the system.  Cancelled, it is sent all the same.
---@async
---@return concur.Stream? self
---@return concur.Error? error
function Stream:flush() end
*/
static int l_flush(lua_State *L) {
  (void)concur_stream_check(L, 1);
  lua_settop(L, 1);
  return concur_fiber_begin(L, flush_body);
}

static int shutdown_done(lua_State *L, concur_fiber *fiber) {
  int count = drain_done(L, fiber);
  if (count == 1) lua_pushboolean(L, 1);
  return count;
}

static int shutdown_body(lua_State *L, concur_fiber *fiber) {
  concur_stream *stream = concur_stream_test(L, 1);
  if (stream == NULL) return concur_stream_fail_closed(L);
  if (!stream->ending) {
    stream->ending = true;
    wake_writers(stream, CONCUR_OUTCOME_CLOSED);
    concur_stream_send(stream);
  }
  if (stream->write_error != 0) {
    return fail_written(L, stream, "shutting down");
  }
  if (!stream->ended) {
    return concur_parking_park(L, fiber, &stream->drainers, &wait_shutdown, stream, shutdown_done);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/*@lua
---Half-closes the stream: after what was written the other side reads the end; reading goes on.
---Nothing can be written any more.  Cancelled, it happens all the same.  Idempotent.
---@async
---@return boolean? true
---@return concur.Error? error
function Stream:shutdown() end
*/
static int l_shutdown(lua_State *L) {
  concur_stream *stream = concur_stream_check(L, 1);
  lua_settop(L, 1);
  if (!stream->writable) return concur_stream_fail(L, stream, UV_EBADF, "shutting down");
  return concur_fiber_begin(L, shutdown_body);
}

/* ---- settings ---- */

/*@lua
---How writes are gathered: "no" sends each one at once; "full" and "line" (both as at first) send the
---first one of a tick at once and the others together, at the end of it.
---@param mode "no"|"full"|"line"
---@param size? integer accepted as `file:setvbuf` does, and not used
---@return boolean true
function Stream:setvbuf(mode, size) end
*/
static int l_setvbuf(lua_State *L) {
  static const char *const modes[] = {"no", "full", "line", NULL};
  concur_stream *stream = concur_stream_check(L, 1);
  int mode = luaL_checkoption(L, 2, NULL, modes);
  (void)luaL_optinteger(L, 3, 0);
  stream->unbuffered = mode == 0;
  if (stream->unbuffered) concur_stream_send(stream);
  lua_pushboolean(L, 1);
  return 1;
}

/* Reads the mark `name` of the table at `index`; false when it is not there. */
static bool read_mark(lua_State *L, int index, const char *name, size_t *mark) {
  bool given = lua_getfield(L, index, name) != LUA_TNIL;
  if (given) {
    if (!lua_isinteger(L, -1) || lua_tointeger(L, -1) < 0) {
      luaL_argerror(L, index, lua_pushfstring(L, "'%s' must be a count of bytes", name));
    }
    *mark = concur_size_from(lua_tointeger(L, -1));
  }
  lua_pop(L, 1);
  return given;
}

/* Reads two marks; a low one that is not given stays below the high one. */
static void read_marks(lua_State *L, int index, const char *const names[2], size_t *high,
                       size_t *low) {
  (void)read_mark(L, index, names[0], high);
  bool given = read_mark(L, index, names[1], low);
  luaL_argcheck(L, *high > 0, index, "a high mark must be at least 1");
  if (given && *low > *high) {
    luaL_argerror(L, index, lua_pushfstring(L, "'%s' is above '%s'", names[1], names[0]));
  }
  if (*low >= *high) *low = *high - 1;
}

/*@lua
---How much may pile up in the stream.  A write waits while `write_high` bytes are unsent, until there
---are `write_low`; reading from the system pauses while `read_high` bytes wait to be read, until there
---are `read_low`.  (64 KiB, 16 KiB.)  A low mark above its high mark is an error; one that is not
---given follows when the high mark falls below it.
---@param marks {read_high: integer?, read_low: integer?, write_high: integer?, write_low: integer?}
---@return concur.Stream self
function Stream:water_marks(marks) end
*/
static int l_water_marks(lua_State *L) {
  static const char *const names[] = {"read_high", "read_low", "write_high", "write_low", NULL};
  concur_stream *stream = concur_stream_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  concur_check_options(L, 2, names);
  size_t in_high = stream->in_high, in_low = stream->in_low;
  size_t out_high = stream->out_high, out_low = stream->out_low;
  read_marks(L, 2, names, &in_high, &in_low);
  read_marks(L, 2, names + 2, &out_high, &out_low);
  stream = concur_stream_check(L, 1); /* a metamethod may have closed it */
  stream->in_high = in_high;
  stream->in_low = in_low;
  stream->out_high = out_high;
  stream->out_low = out_low;
  wake_writers(stream, CONCUR_OUTCOME_VALUE); /* they look again */
  lua_settop(L, 1);
  return 1;
}

const luaL_Reg concur_stream_write_methods[] = {{"write", l_write},
                                                {"flush", l_flush},
                                                {"shutdown", l_shutdown},
                                                {"setvbuf", l_setvbuf},
                                                {"water_marks", l_water_marks},
                                                {NULL, NULL}};
