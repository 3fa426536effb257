/* SPDX-License-Identifier: MIT */
/* See capi_fd.h.  A future of future_new, settled by a watch of wait_fd.h.        [loop thread] */
#include "capi_fd.h"

#include <stdlib.h>

#include "wait_fd.h"

/* One reference to the future, and the watch.  Freed when either is over. */
typedef struct fd_future {
  concur_future_ref *ref;
  concur_fd_watch *watch;
} fd_future;

static void fd_future_free(fd_future *self) {
  concur_capi_future_release(self->ref);
  free(self);
}

static int push_events(lua_State *L, void *data) {
  lua_pushinteger(L, (lua_Integer)(intptr_t)data);
  return 1;
}

static void settle(concur_future_ref *ref, int events) {
  (void)concur_capi_settle(ref, push_events, NULL, (void *)(intptr_t)events);
}

static void on_ready(void *owner, int events) {
  fd_future *self = owner;
  settle(self->ref, events);
  fd_future_free(self);
}

/* Letting go of a future that was asked to cancel cancels it. */
static int on_cancel(void *data) {
  fd_future *self = data;
  concur_fd_watch_stop(self->watch);
  fd_future_free(self);
  return 0;
}

/* Starts the watch; 0 or a libuv error code. */
static int fd_watch(concur_loop *loop, concur_future_ref *ref, int fd, int events) {
  fd_future *self = malloc(sizeof *self);
  if (self == NULL) return UV_ENOMEM;
  self->ref = ref;
  int error = concur_fd_watch_start(loop, fd, events, on_ready, self, &self->watch);
  if (error != 0) {
    free(self);
    return error;
  }
  ref->promise.cancel = on_cancel; /* nobody else knows the promise yet */
  ref->promise.cancel_data = self;
  return 0;
}

void concur_capi_fd_ready(lua_State *L, int fd, int events) {
  _Static_assert(CONCUR_READABLE == (int)CONCUR_FD_READ && CONCUR_WRITABLE == (int)CONCUR_FD_WRITE,
                 "the events have the same numbers");
  static const concur_future_options options = {sizeof options, "descriptor", NULL, NULL, 0};
  concur_runtime *runtime = concur_capi_of(L, "fd_ready")->runtime;
  if (events < 1 || events > (CONCUR_READABLE | CONCUR_WRITABLE)) {
    luaL_error(L, "fd_ready of concur.h: events must be CONCUR_READABLE, CONCUR_WRITABLE or both");
  }
  concur_future_ref *ref = concur_capi_future_new(L, &options);
  int error = fd_watch(runtime->loop, ref, fd, events);
  if (error == 0) return;
  if (error == UV_EPERM) { /* a regular file: always ready */
    settle(ref, events);
    concur_capi_future_release(ref);
    return;
  }
  concur_capi_future_discard(L, ref);
  concur_os_error(L, runtime, error, "fd_ready", NULL, NULL);
  lua_error(L);
}
