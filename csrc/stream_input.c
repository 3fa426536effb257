/* SPDX-License-Identifier: MIT */
/*
 * See stream_input.h.
 *
 * libuv reads into the hub's slab.  If a task waits for one thing and the slab holds it, it becomes a
 * Lua string right there, on the task's own stack; the rest, and everything else, is appended to
 * `in`.  Reading is started by the first read and paused only when `in` is over its high-water mark
 * and nobody waits.                                                              [loop thread]
 */
#include "stream_input.h"

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
                          stream->in.size - stream->scan_from, false, &result) != CONCUR_SCAN_MORE;
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

void concur_stream_close_read(concur_stream *stream) {
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
  }
  return stream;
}

int concur_stream_read_park(lua_State *L, concur_fiber *fiber, concur_stream *stream,
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

int concur_stream_fail_overrun(lua_State *L, size_t limit) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "LimitOverrun",
                   "longer than the limit of %I bytes; nothing was consumed", (LUAI_UACINT)limit);
  return 2;
}
