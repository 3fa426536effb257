/* SPDX-License-Identifier: MIT */
/*
 * See stream_input.h.
 *
 * If a task waits for one thing and `in` is empty, libuv only tells that bytes have arrived.  The
 * task receives them in its own step, into the hub's slab, and makes its string there and then, while
 * they are in the processor's cache; the rest goes to `in`.  For everybody else libuv reads into the
 * slab, and it is appended to `in`.  Reading is started by the first read and paused only when `in`
 * is over its high-water mark and nobody waits.                                  [loop thread]
 */
#include "stream_input.h"

#include "platform.h"

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

/* Bytes in the slab that were not taken move to their stream. */
static void settle_slab(concur_hub *hub) {
  concur_stream *holder = hub->holder;
  if (holder == NULL) return;
  hub->holder = NULL;
  if (!concur_bytes_append(&holder->in, hub->slab, hub->held)) end_reading(holder, UV_ENOMEM);
}

/* Given an empty buffer, libuv reads nothing and calls on_read with UV_ENOBUFS. */
static void on_alloc(uv_handle_t *uv, size_t suggested, uv_buf_t *buffer) {
  concur_stream *stream = concur_stream_of(uv);
  concur_hub *hub = stream->hub;
  (void)suggested;
  if (stream->direct && stream->in.size == 0 && concur_platform_reads() && reader_of(stream) != NULL) {
    *buffer = uv_buf_init(NULL, 0);
    return;
  }
  settle_slab(hub);
  *buffer = uv_buf_init(hub->slab, sizeof hub->slab);
}

/* True when what the reader waits for is there, or cannot come. */
static bool reader_served(concur_stream *stream) {
  concur_scan_result result;
  return concur_scan_look(&stream->scan, concur_bytes_data(&stream->in) + stream->scan_from,
                          stream->in.size - stream->scan_from, false, &result) != CONCUR_SCAN_MORE;
}

static void on_read(uv_stream_t *uv, ssize_t count, const uv_buf_t *buffer) {
  concur_stream *stream = concur_stream_of(uv);
  if (count == 0) return;
  stream->arrived = count == UV_ENOBUFS;
  if (stream->arrived) {
    wake_reader(stream, CONCUR_OUTCOME_VALUE);
    return;
  }
  if (count < 0) {
    end_reading(stream, count == UV_EOF ? 0 : (int)count);
    return;
  }
  if (!concur_bytes_append(&stream->in, buffer->base, (size_t)count)) {
    end_reading(stream, UV_ENOMEM);
    return;
  }
  if (reader_of(stream) != NULL && reader_served(stream)) {
    wake_reader(stream, CONCUR_OUTCOME_VALUE);
  }
  if (stream->reader == NULL && stream->in.size >= stream->in_high) pause_reading(stream);
}

bool concur_stream_may_receive(const concur_stream *stream) {
  return stream->arrived && stream->in.size == 0 && !stream->read_ended;
}

size_t concur_stream_receive(concur_stream *stream, void *buffer, size_t size) {
  ssize_t count = stream->kind == CONCUR_STREAM_TCP
                      ? concur_platform_receive(stream->fd, buffer, size)
                      : concur_platform_read(stream->fd, buffer, size);
  stream->arrived = false;
  if (count > 0) {
    stream->arrived = (size_t)count == size; /* there may be more */
    return (size_t)count;
  }
  if (count != UV_EAGAIN) end_reading(stream, (int)count);
  return 0;
}

/* Until the string is made the slab holds the bytes for the stream: that may raise, or run a finalizer
   that closes it. */
bool concur_stream_receive_string(lua_State *L, concur_stream *stream, concur_scan scan) {
  concur_hub *hub = stream->hub;
  concur_scan_result found;
  settle_slab(hub);
  size_t size = concur_stream_receive(stream, hub->slab, sizeof hub->slab);
  if (size == 0) return false;
  hub->holder = stream;
  hub->held = size;
  if (concur_scan_look(&scan, hub->slab, size, false, &found) == CONCUR_SCAN_DONE &&
      concur_bytes_reserve(&stream->in, size - found.taken)) {
    lua_pushlstring(L, hub->slab + found.begin, found.size);
    if (hub->holder == stream) {
      hub->holder = NULL;
      (void)concur_bytes_append(&stream->in, hub->slab + found.taken, size - found.taken);
      return true;
    }
    lua_pop(L, 1); /* closed meanwhile */
  }
  settle_slab(hub);
  return false;
}

bool concur_stream_start_reading(concur_stream *stream) {
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

void concur_stream_consume(concur_stream *stream, size_t count) {
  if (stream->state != CONCUR_STREAM_OPEN) return;
  concur_bytes_consume(&stream->in, count);
  if (!stream->reading && !stream->read_ended && stream->in.size <= stream->in_low) {
    (void)concur_stream_start_reading(stream);
  }
}

void concur_stream_settle(concur_stream *stream) {
  if (stream->hub->holder == stream) settle_slab(stream->hub);
}

void concur_stream_close_read(concur_stream *stream) {
  if (stream->hub->holder == stream) stream->hub->holder = NULL;
  pause_reading(stream);
  concur_bytes_free(&stream->in);
  wake_reader(stream, CONCUR_OUTCOME_CLOSED);
}

/* ---- what a read is made of ---- */

concur_stream *concur_stream_read_from(lua_State *L) {
  concur_stream *stream = concur_stream_test(L, 1);
  if (stream == NULL) {
    (void)concur_stream_fail_closed(L);
  } else if (!stream->readable) {
    (void)concur_stream_fail(L, stream, UV_EBADF, "reading");
    stream = NULL;
  } else if (reader_of(stream) != NULL) { /* even if enough is there: its scan counts on all of it */
    concur_error_raise(L, concur_runtime_find(L), "InvalidState",
                       "another task is reading from the stream");
  } else {
    concur_stream_settle(stream);
  }
  return stream;
}

int concur_stream_read_park(lua_State *L, concur_fiber *fiber, concur_stream *stream,
                            const concur_scan *scan, size_t from, concur_resume resume) {
  stream->reader = fiber;
  stream->scan = *scan;
  stream->scan_from = from;
  uv_ref(stream->handle.uv);
  return concur_fiber_park(L, fiber, &wait_read, stream, resume);
}

int concur_stream_fail_overrun(lua_State *L, size_t limit) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "LimitOverrun",
                   "longer than the limit of %I bytes; nothing was consumed", (LUAI_UACINT)limit);
  return 2;
}
