/* SPDX-License-Identifier: MIT */
/*
 * See wait_fd.h.
 *
 * Each wait watches a duplicate of the descriptor.  libuv allows one handle for a descriptor, and a
 * number that was closed under it would break the next socket that gets this number; a duplicate is
 * nobody else's.  So several may wait for one descriptor, a stream's own included, and closing it
 * meanwhile does no harm: who waits goes on waiting for what it stood for.
 *
 * A watch lives until its close callback (handle.h).  It is closed in the callback that ends it,
 * and the fiber's target is the result instead, so nothing is left to free when a woken fiber never
 * runs.                                                                      [loop thread]
 */
#include "wait_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct concur_fd_watch {
  concur_handle handle;
  uv_poll_t poll;
  concur_fd_ready ready;
  void *owner; /* borrowed: argument of `ready` */
  int fd;      /* owned: the duplicate; -1 once it is closed */
  int events;  /* asked for */
};

/* ---- the watch ---- */

static void watch_release(concur_handle *handle) {
  concur_fd_watch *watch = concur_container_of(handle, concur_fd_watch, handle);
  if (watch->fd >= 0) (void)close(watch->fd);
  free(watch);
}

/* The duplicate goes at once, so that a socket that its owner closes now is really closed. */
void concur_fd_watch_stop(concur_fd_watch *watch) {
  concur_handle_close(&watch->handle);
  (void)close(watch->fd);
  watch->fd = -1;
}

static void on_event(uv_poll_t *poll_handle, int status, int events) {
  concur_fd_watch *watch =
      concur_container_of(concur_handle_of(poll_handle), concur_fd_watch, handle);
  int found = ((events & UV_READABLE) != 0 ? CONCUR_FD_READ : 0) |
              ((events & UV_WRITABLE) != 0 ? CONCUR_FD_WRITE : 0);
  if (status < 0) found = watch->events; /* it has failed: its owner will find out how */
  concur_fd_watch_stop(watch);
  watch->ready(watch->owner, found);
}

/* libuv makes a descriptor that it watches non-blocking, for everybody who has it: undone here. */
static int poll_init(uv_loop_t *loop, uv_poll_t *poll_handle, int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return -errno;
  int error = uv_poll_init(loop, poll_handle, fd);
  if ((flags & O_NONBLOCK) == 0) (void)fcntl(fd, F_SETFL, flags);
  return error;
}

int concur_fd_watch_start(concur_loop *loop, int fd, int events, concur_fd_ready ready, void *owner,
                          concur_fd_watch **result) {
  concur_fd_watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) return UV_ENOMEM;
  watch->ready = ready;
  watch->owner = owner;
  watch->events = events;
  watch->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  int error = watch->fd < 0 ? -errno : poll_init(&loop->uv, &watch->poll, watch->fd);
  if (error != 0) {
    if (watch->fd >= 0) (void)close(watch->fd);
    free(watch);
    return error;
  }
  concur_handle_begin(&loop->handles, &watch->handle, (uv_handle_t *)&watch->poll, watch_release);
  int uv_events = ((events & CONCUR_FD_READ) != 0 ? UV_READABLE : 0) |
                  ((events & CONCUR_FD_WRITE) != 0 ? UV_WRITABLE : 0);
  error = uv_poll_start(&watch->poll, uv_events, on_event);
  if (error != 0) concur_fd_watch_stop(watch);
  *result = watch;
  return error;
}

int concur_fd_probe(int fd, int events) {
  struct pollfd entry = {.fd = fd};
  if ((events & CONCUR_FD_READ) != 0) entry.events |= POLLIN;
  if ((events & CONCUR_FD_WRITE) != 0) entry.events |= POLLOUT;
  int count;
  do {
    count = poll(&entry, 1, 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return -errno;
  if ((entry.revents & POLLNVAL) != 0) return UV_EBADF;
  if ((entry.revents & (POLLERR | POLLHUP)) != 0) return events;
  return ((entry.revents & POLLIN) != 0 ? CONCUR_FD_READ : 0) |
         ((entry.revents & POLLOUT) != 0 ? CONCUR_FD_WRITE : 0);
}

/* ---- the wait of a fiber ---- */

/* The result stands where the watch stood, as a number. */
static void set_result(concur_fiber *fiber, int result) {
  fiber->target = (void *)(intptr_t)result;
}

int concur_fd_result(const concur_fiber *fiber) {
  return fiber->outcome == CONCUR_OUTCOME_TIMEOUT ? 0 : (int)(intptr_t)fiber->target;
}

static void on_ready(void *owner, int events) {
  concur_fiber *fiber = owner;
  if (fiber->state == CONCUR_FIBER_PARKED) set_result(fiber, events);
  concur_fiber_wake(fiber, CONCUR_OUTCOME_VALUE);
}

static bool on_abort(concur_fiber *fiber) {
  concur_fd_watch_stop(fiber->target);
  return true;
}

static void on_detach(concur_fiber *fiber) {
  concur_fd_watch_stop(fiber->target);
}

static const concur_wait wait_fd = {.name = "wait_fd", .abort = on_abort, .detach = on_detach};

/* The wait is over before it began. */
static int finish_now(lua_State *L, concur_fiber *fiber, int result, concur_resume resume) {
  fiber->outcome = CONCUR_OUTCOME_VALUE;
  set_result(fiber, result);
  return resume(L, fiber);
}

int concur_fd_wait(lua_State *L, concur_fiber *fiber, int fd, int events, uint64_t deadline_ns,
                   concur_resume resume) {
  concur_loop *loop = fiber->scheduler->loop;
  int result = concur_fd_probe(fd, events);
  bool over = deadline_ns != CONCUR_NEVER && deadline_ns <= concur_loop_now(loop);
  if (result != 0 || over) return finish_now(L, fiber, result, resume);
  if (!concur_loop_reserve_timer(loop)) return luaL_error(L, "not enough memory");
  concur_fd_watch *watch;
  int error = concur_fd_watch_start(loop, fd, events, on_ready, fiber, &watch);
  if (error == UV_ENOMEM) return luaL_error(L, "not enough memory");
  if (error != 0) return finish_now(L, fiber, error, resume);
  concur_fiber_arm(L, fiber, deadline_ns); /* there is room: cannot fail */
  return concur_fiber_park(L, fiber, &wait_fd, watch, resume);
}

/* ---- what has a descriptor ---- */

/* Calls the method of the object at `index`, if it has it; pushes its result. */
static bool call_method(lua_State *L, int index, const char *name) {
  int top = lua_gettop(L);
  bool has_fields = lua_istable(L, index) || (lua_isuserdata(L, index) &&
                                              luaL_getmetafield(L, index, "__index") != LUA_TNIL);
  if (!has_fields || lua_getfield(L, index, name) == LUA_TNIL) {
    lua_settop(L, top);
    return false;
  }
  lua_pushvalue(L, index);
  lua_call(L, 1, 1);
  lua_copy(L, -1, top + 1);
  lua_settop(L, top + 1);
  return true;
}

static int check_number(lua_State *L, int index, lua_Integer number) {
  if (number < 0) luaL_argerror(L, index, "the descriptor is negative, so it was closed");
  if (number > INT32_MAX) luaL_argerror(L, index, "the number is too large for a descriptor");
  return (int)number;
}

int concur_fd_check(lua_State *L, int index) {
  if (lua_type(L, index) == LUA_TNUMBER) {
    return check_number(L, index, luaL_checkinteger(L, index));
  }
  const luaL_Stream *file = luaL_testudata(L, index, LUA_FILEHANDLE);
  if (file != NULL) {
    if (file->closef == NULL) luaL_argerror(L, index, "the file is closed");
    return fileno(file->f);
  }
  if (!call_method(L, index, "pollfd") && !call_method(L, index, "getfd")) {
    luaL_typeerror(L, index, "descriptor, file, or object with pollfd or getfd");
  }
  int is_integer;
  lua_Integer number = lua_tointegerx(L, -1, &is_integer);
  if (!is_integer) {
    luaL_argerror(L, index,
                  lua_pushfstring(L, "the object's descriptor is not a number but a %s",
                                  concur_type_name(L, -1)));
  }
  lua_pop(L, 1);
  return check_number(L, index, number);
}

/* ---- concur.net.wait_fd ---- */

static const char *const mode_names[] = {"r", "w", "rw", NULL};

/* The frame, once the arguments are checked. */
enum { FD = 1, EVENTS, TIMEOUT, BUFFERED };

/* What to wait for: argument 2, else what the object itself says (cqueues), else reading. */
static int check_events(lua_State *L) {
  if (!lua_isnoneornil(L, 2)) return luaL_checkoption(L, 2, NULL, mode_names) + 1;
  int events = 0;
  if (lua_type(L, 1) != LUA_TNUMBER && call_method(L, 1, "events")) {
    const char *flags = lua_tostring(L, -1);
    if (flags != NULL && strchr(flags, 'r') != NULL) events |= CONCUR_FD_READ;
    if (flags != NULL && strchr(flags, 'w') != NULL) events |= CONCUR_FD_WRITE;
    lua_pop(L, 1);
  }
  return events != 0 ? events : CONCUR_FD_READ;
}

/* True when the object at `index` has read ahead (LuaSocket): the descriptor would not tell. */
static bool has_buffered(lua_State *L, int index) {
  if (lua_type(L, index) == LUA_TNUMBER || !call_method(L, index, "dirty")) return false;
  bool dirty = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return dirty;
}

static int wait_fd_done(lua_State *L, concur_fiber *fiber) {
  concur_runtime *runtime = fiber->scheduler->runtime;
  int result = concur_fd_result(fiber);
  if (result < 0) return concur_os_error(L, runtime, result, "wait_fd", NULL, NULL);
  if (result == 0) {
    return concur_error_raise(L, runtime, "TimeoutError",
                              "descriptor %d was not ready within %f seconds",
                              (int)lua_tointeger(L, FD), (LUAI_UACNUMBER)lua_tonumber(L, TIMEOUT));
  }
  lua_pushstring(L, mode_names[result - 1]);
  return 1;
}

static int wait_fd_body(lua_State *L, concur_fiber *fiber) {
  uint64_t deadline = CONCUR_NEVER;
  if (lua_toboolean(L, BUFFERED)) return finish_now(L, fiber, CONCUR_FD_READ, wait_fd_done);
  if (!lua_isnil(L, TIMEOUT)) {
    deadline = concur_deadline_after(fiber->scheduler->loop, concur_check_duration(L, TIMEOUT));
  }
  return concur_fd_wait(L, fiber, (int)lua_tointeger(L, FD), (int)lua_tointeger(L, EVENTS),
                        deadline, wait_fd_done);
}

static int l_wait_fd(lua_State *L) { /* descriptor or object, mode, timeout */
  if (!lua_isnoneornil(L, 3)) (void)concur_check_duration(L, 3);
  lua_settop(L, 3);
  int events = check_events(L);
  int fd = concur_fd_check(L, 1);
  bool buffered = (events & CONCUR_FD_READ) != 0 && has_buffered(L, 1);
  lua_pushinteger(L, fd);
  lua_pushinteger(L, events);
  lua_pushvalue(L, 3);
  lua_pushboolean(L, buffered);
  lua_rotate(L, 1, 4); /* the object stays in the frame: collected, it would close its descriptor */
  return concur_fiber_begin(L, wait_fd_body);
}

void concur_wait_fd_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"wait_fd", l_wait_fd}, {NULL, NULL}};
  concur_register(L, runtime, functions);
}
