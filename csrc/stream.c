/* SPDX-License-Identifier: MIT */
/*
 * Streams: their making, opening and closing.  stream.h tells what they are, docs/design/streams.md
 * who owns what; stream_input.h and stream_write.c are the two directions.        [loop thread]
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "stream_state.h"

#include "platform.h"

enum {
  READ_HIGH = 64 * 1024,
  READ_LOW = 16 * 1024,
  WRITE_HIGH = 64 * 1024,
  WRITE_LOW = 16 * 1024,
  READ_LIMIT = 16 * 1024 * 1024,
  GRACE_SECONDS = 5
};

/* ---- the hub: what the streams of one loop share ---- */

/* Writing to a closed pipe shall be an error and not end the process; a host's own handler stays. */
static void ignore_sigpipe(void) {
#ifndef _WIN32
  struct sigaction action;
  if (sigaction(SIGPIPE, NULL, &action) == 0 && !(action.sa_flags & SA_SIGINFO) &&
      action.sa_handler == SIG_DFL) {
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL);
  }
#endif
}

static uv_once_t sigpipe_once = UV_ONCE_INIT;

static void hub_free(concur_hub *hub) {
  free(hub);
}

static concur_hub *hub_of(lua_State *L, concur_loop *loop) {
  if (loop->hub != NULL) return loop->hub;
  uv_once(&sigpipe_once, ignore_sigpipe);
  concur_hub *hub = malloc(sizeof *hub);
  if (hub == NULL) luaL_error(L, "not enough memory");
  concur_list_init(&hub->dirty);
  hub->tick = 1;
  hub->holder = NULL;
  hub->flusher.flush = concur_hub_flush;
  concur_list_append(&loop->flushers, &hub->flusher.node);
  loop->hub = hub;
  loop->hub_free = hub_free;
  concur_taken(hub); /* by the loop */
  return hub;
}

/* ---- making ---- */

/* What is left of a write_error is what closing tells. */
static void become_closed(concur_stream *stream) {
  stream->state = CONCUR_STREAM_CLOSED;
  if (stream->error_told) stream->write_error = 0;
}

static void release(concur_handle *handle) {
  concur_stream *stream = concur_container_of(handle, concur_stream, handle);
  if (stream->state != CONCUR_STREAM_CLOSED) become_closed(stream); /* the loop closed it */
  concur_node_unlink(&stream->dirty);
  concur_bytes_free(&stream->in);
  concur_bytes_free(&stream->gathered);
  concur_bytes_free(&stream->sending);
  concur_memory_leave(&stream->backing);
}

static int init_handle(concur_stream *stream, uv_loop_t *uv) {
  switch ((concur_stream_kind)stream->kind) {
  case CONCUR_STREAM_TCP: return uv_tcp_init(uv, &stream->uv.tcp);
  case CONCUR_STREAM_PIPE: return uv_pipe_init(uv, &stream->uv.pipe, 0);
  }
  return UV_EINVAL; /* GCOVR_EXCL_LINE: there is no other kind */
}

/* Makes a stream of the memory.  A libuv code, and then it is no stream. */
static int make(concur_stream *stream, concur_loop *loop, concur_stream_kind kind) {
  memset(stream, 0, sizeof *stream);
  stream->loop = loop;
  stream->hub = loop->hub;
  stream->kind = (uint8_t)kind;
  stream->limit = READ_LIMIT;
  stream->in_high = READ_HIGH;
  stream->in_low = READ_LOW;
  stream->out_high = WRITE_HIGH;
  stream->out_low = WRITE_LOW;
  concur_list_init(&stream->writers);
  concur_list_init(&stream->drainers);
  concur_timer_init(&stream->linger);
  int error = init_handle(stream, &loop->uv);
  if (error != 0) return error;
  concur_handle_begin(&loop->handles, &stream->handle, (uv_handle_t *)&stream->uv, release);
  uv_unref(stream->handle.uv); /* who waits for it keeps the loop alive, not the stream itself */
  return 0;
}

concur_stream *concur_stream_new(lua_State *L, concur_runtime *runtime, concur_stream_kind kind) {
  concur_stream_box *box = concur_class_new(L, runtime, CONCUR_CLASS_STREAM, sizeof *box, 1);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  (void)hub_of(L, loop);
  concur_backing backing;
  concur_stream *stream = concur_memory_new(L, runtime, sizeof *stream, 0, &backing);
  int error = make(stream, loop, kind);
  if (error != 0) {
    concur_memory_leave(&backing);
    (void)concur_os_error(L, runtime, error, "making a stream", NULL, NULL);
    lua_error(L);
  }
  backing.users++; /* libuv */
  stream->backing = backing;
  box->stream = stream;
  return stream;
}

uv_stream_t *concur_stream_handle(concur_stream *stream) {
  return &stream->uv.stream;
}

void concur_stream_opened(concur_stream *stream, unsigned directions) {
  if (stream->state != CONCUR_STREAM_NEW) return;
  int error = uv_fileno(stream->handle.uv, &stream->fd);
  if (error != 0) { /* GCOVR_EXCL_START: whoever says "opened" gave it one */
    concur_stream_fail_opening(stream, error);
    return;
  } /* GCOVR_EXCL_STOP */
  stream->state = CONCUR_STREAM_OPEN;
  stream->readable = (directions & CONCUR_STREAM_READABLE) != 0;
  stream->writable = (directions & CONCUR_STREAM_WRITABLE) != 0;
}

void concur_stream_fail_opening(concur_stream *stream, int error) {
  stream->write_error = error;
  concur_stream_finish(stream);
}

int concur_stream_opening_error(lua_State *L, int index) {
  const concur_stream_box *box = concur_class_check(L, index, CONCUR_CLASS_STREAM);
  if (box->stream->state == CONCUR_STREAM_OPEN) return 0;
  return box->stream->write_error != 0 ? box->stream->write_error : UV_ECANCELED;
}

void concur_stream_set_peer(concur_stream *stream, const char *peer) {
  (void)snprintf(stream->peer, sizeof stream->peer, "%s", peer != NULL ? peer : "");
}

concur_stream_kind concur_stream_kind_of(const concur_stream *stream) {
  return stream->kind;
}

concur_stream *concur_stream_test(lua_State *L, int index) {
  const concur_stream_box *box = concur_class_check(L, index, CONCUR_CLASS_STREAM);
  concur_stream *stream = box->stream;
  return stream != NULL && stream->state == CONCUR_STREAM_OPEN ? stream : NULL;
}

concur_stream *concur_stream_check(lua_State *L, int index) {
  concur_stream *stream = concur_stream_test(L, index);
  if (stream == NULL) {
    concur_error_raise(L, concur_runtime_find(L), "Closed", "the stream is closed");
  }
  return stream;
}

int concur_stream_fail(lua_State *L, concur_stream *stream, int code, const char *call) {
  const char *peer = stream->peer[0] != '\0' ? stream->peer : NULL;
  return concur_os_error(L, concur_runtime_find(L), code, call, "address", peer);
}

int concur_stream_fail_closed(lua_State *L) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "Closed", "the stream was closed");
  return 2;
}

/* ---- closing ---- */

void concur_stream_finish(concur_stream *stream) {
  if (stream->state == CONCUR_STREAM_CLOSED) return;
  become_closed(stream);
  concur_loop_stop_timer(stream->loop, &stream->linger);
  concur_node_unlink(&stream->dirty);
  concur_stream_close_read(stream);
  concur_stream_close_write(stream);
  concur_stream_wake_drainers(stream, CONCUR_OUTCOME_CLOSED);
  concur_handle_close(&stream->handle);
}

void concur_stream_abort(concur_stream *stream) {
  concur_stream_finish(stream);
}

static void on_linger(concur_timer *timer, void *context) {
  concur_stream *stream = concur_container_of(timer, concur_stream, linger);
  (void)context;
  if (stream->write_error == 0) stream->write_error = UV_ETIMEDOUT;
  concur_stream_finish(stream);
}

/* What is unsent goes on being sent for `grace_ns`. */
static void linger(concur_stream *stream, uint64_t grace_ns) {
  concur_loop_stop_timer(stream->loop, &stream->linger);
  if (!concur_loop_reserve_timer(stream->loop)) {
    concur_stream_finish(stream);
    return;
  }
  stream->linger.fire = on_linger;
  concur_loop_start_timer(stream->loop, &stream->linger,
                          concur_deadline_after(stream->loop, grace_ns));
}

/* The part of closing that needs no waiting. */
static void begin_close(concur_stream *stream, uint64_t grace_ns) {
  if (stream->state == CONCUR_STREAM_NEW) concur_stream_finish(stream);
  if (stream->state != CONCUR_STREAM_OPEN) return;
  concur_stream_send(stream);
  stream->state = CONCUR_STREAM_CLOSING;
  concur_stream_close_read(stream);
  concur_stream_close_write(stream);
  bool sent = concur_stream_unsent(stream) == 0 && !stream->shutting;
  if (sent || stream->write_error != 0) {
    concur_stream_finish(stream);
  } else {
    linger(stream, grace_ns);
  }
}

/* Another close, while this one goes on: it may give less time than is left. */
static void hasten_close(concur_stream *stream, uint64_t grace_ns) {
  concur_loop *loop = stream->loop;
  if (stream->state == CONCUR_STREAM_CLOSING &&
      concur_deadline_after(loop, grace_ns) <
          concur_heap_deadline_of(&loop->timers, &stream->linger)) {
    linger(stream, grace_ns);
  }
}

/* A closing stream is not given up before it has sent what it accepted, or its time is over. */
static bool never_abort(concur_fiber *fiber) {
  (void)fiber;
  return false;
}

static const concur_wait wait_close = {
    .name = "Stream:close", .abort = never_abort, .detach = NULL};

static int close_done(lua_State *L, concur_fiber *fiber) {
  const concur_stream *stream = ((const concur_stream_box *)lua_touserdata(L, 1))->stream;
  (void)fiber;
  if (stream != NULL && stream->write_error != 0) {
    return concur_os_error(L, concur_runtime_find(L), stream->write_error, "closing a stream", NULL,
                           NULL);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/*@lua
---Closes the stream.  What was written and is not sent yet is sent first, for at most `grace`
---seconds; this wait is shielded from cancellation.  Reads and writes that wait in other tasks end
---with `nil, Closed`.  Idempotent; a later call with less time than is left shortens it.  Where waiting
---is impossible (a finalizer, a callback) the rest is sent in the background.
---@async
---@param grace? number seconds (5)
---@return boolean? true
---@return concur.Error? error what was written could not be sent
function Stream:close(grace) end
*/
static int close_stream(lua_State *L, concur_stream *stream, uint64_t grace_ns) {
  if (stream != NULL) begin_close(stream, grace_ns);
  lua_settop(L, 1);
  if (stream != NULL && stream->state != CONCUR_STREAM_CLOSED &&
      concur_fiber_may_wait(L, concur_runtime_of(L))) {
    concur_fiber *fiber = concur_fiber_enter(L, concur_runtime_of(L));
    concur_list_append(&stream->drainers, &fiber->waiter.node);
    return concur_fiber_park(L, fiber, &wait_close, stream, close_done);
  }
  return close_done(L, NULL);
}

static int l_close(lua_State *L) {
  const concur_stream_box *box = concur_class_check(L, 1, CONCUR_CLASS_STREAM);
  if (lua_isnoneornil(L, 2)) return close_stream(L, box->stream, concur_seconds_to_ns(GRACE_SECONDS));
  uint64_t grace_ns = concur_check_duration(L, 2);
  if (box->stream != NULL) hasten_close(box->stream, grace_ns);
  return close_stream(L, box->stream, grace_ns);
}

/* __close: argument 2 is the error that ends the block, if any. */
static int l_leave(lua_State *L) {
  const concur_stream_box *box = concur_class_check(L, 1, CONCUR_CLASS_STREAM);
  return close_stream(L, box->stream, concur_seconds_to_ns(GRACE_SECONDS));
}

static int l_gc(lua_State *L) {
  concur_stream_box *box = concur_class_test(L, 1, CONCUR_CLASS_STREAM);
  if (box == NULL || box->stream == NULL) return 0;
  if (concur_runtime_forked(concur_runtime_of(L))) return 0; /* the parent's handle */
  concur_stream *stream = box->stream;
  box->stream = NULL;
  begin_close(stream, concur_seconds_to_ns(GRACE_SECONDS));
  concur_memory_leave(&stream->backing);
  return 0;
}

/* ---- asking ---- */

static int l_tostring(lua_State *L) {
  const concur_stream_box *box = concur_class_check(L, 1, CONCUR_CLASS_STREAM);
  const concur_stream *stream = box->stream;
  if (stream == NULL || stream->state == CONCUR_STREAM_CLOSED) {
    lua_pushfstring(L, "concur.Stream: closed (%p)", (const void *)box);
    return 1;
  }
  const char *kind = stream->kind == CONCUR_STREAM_TCP ? "tcp " : "pipe ";
  const char *state = "open";
  if (stream->state == CONCUR_STREAM_NEW) state = "not open";
  if (stream->state == CONCUR_STREAM_CLOSING) state = "closing";
  const char *peer = stream->peer;
  lua_pushfstring(L, "concur.Stream: %s%s%s%s (%p)", kind, peer, peer[0] != '\0' ? " " : "", state,
                  (const void *)box);
  return 1;
}

/*@lua
---@return boolean closed
function Stream:closed() end
*/
static int l_closed(lua_State *L) {
  lua_pushboolean(L, concur_stream_test(L, 1) == NULL);
  return 1;
}

/*@lua
---The number of the descriptor, for functions that want one.  It stays the stream's.
---@return integer
function Stream:fd() end
*/
static int l_fd(lua_State *L) {
  concur_stream *stream = concur_stream_check(L, 1);
  lua_pushinteger(L, (lua_Integer)(intptr_t)stream->fd);
  return 1;
}

static bool is_busy(const concur_stream *stream) {
  return stream->reader != NULL || concur_stream_unsent(stream) > 0 || stream->shutting ||
         !concur_list_empty(&stream->writers) || !concur_list_empty(&stream->drainers);
}

/*@lua
---Takes the descriptor out of the stream, which is closed then: for another library, or another
---thread's `net.from_fd`.  The descriptor is non-blocking, and the caller's to close.  Raises
---`InvalidState` while something is unsent (`flush` first) or a task waits in the stream.  Never
---suspends.
---@return integer? fd
---@return string|concur.Error rest what had arrived and was not read
function Stream:detach() end
*/
static int l_detach(lua_State *L) {
  concur_stream *stream = concur_stream_check(L, 1);
  if (is_busy(stream)) {
    return concur_error_raise(L, concur_runtime_of(L), "InvalidState",
                              "cannot detach: something is unsent or a task waits in the stream");
  }
  concur_stream_settle(stream);
  lua_pushlstring(L, concur_bytes_data(&stream->in), stream->in.size);
  if (stream->state != CONCUR_STREAM_OPEN) return concur_stream_fail_closed(L); /* a finalizer */
  int copy = fcntl(stream->fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return concur_stream_fail(L, stream, uv_translate_sys_error(errno), "detach");
  concur_stream_finish(stream);
  lua_pushinteger(L, copy);
  lua_insert(L, -2);
  return 2;
}

void concur_stream_add_methods(lua_State *L, concur_runtime *runtime, const luaL_Reg *methods) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_STREAM]);
  lua_getfield(L, -1, "__index");
  concur_register(L, runtime, methods);
  lua_pop(L, 2);
}

void concur_stream_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {
      {"close", l_close}, {"closed", l_closed}, {"fd", l_fd}, {"detach", l_detach}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {
      {"__close", l_leave}, {"__gc", l_gc}, {"__tostring", l_tostring}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_STREAM, "concur.Stream", methods, metamethods);
  concur_stream_add_methods(L, runtime, concur_stream_read_methods);
  concur_stream_add_methods(L, runtime, concur_stream_read_some_methods);
  concur_stream_add_methods(L, runtime, concur_stream_write_methods);
}
