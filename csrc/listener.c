/* SPDX-License-Identifier: MIT */
/*
 * Sockets that listen: concur.Listener.                                          [loop thread]
 *
 * The listener accepts by itself and lets libuv only watch the descriptor, because uv_listen, when
 * descriptors run out, closes the connections that wait.  Here they stay in the system's queue: accept
 * returns EMFILE, and whoever called it (net.serve) tries again later.
 *
 * accept first tries; only if there is none does it park and let libuv watch.  The watch stays on
 * while tasks accept, and is taken off by the first event that finds nobody waiting.  An event wakes
 * one acceptor, which accepts in its own coroutine; if it was killed, the next event wakes another.
 *
 * An accepted descriptor is kept in `accepted` until its stream owns it: making a stream may run out
 * of memory, and then the next accept takes it from there.
 *
 * Who frees: the structure is the memory behind the userdata (support.h), anchored until the poll
 * handle's close callback.
 */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "options.h"
#include "parking.h"

enum { BACKLOG = 1024 };

typedef struct listener {
  concur_handle handle;
  uv_poll_t poll;
  concur_backing backing; /* users: the userdata, and libuv until it has let go */
  int fd;        /* owned; -1: closed */
  int accepted;  /* owned: accepted, in no stream yet; -1: none */
  uint8_t kind;  /* concur_stream_kind of what is accepted */
  bool watching; /* `poll` is started */
  concur_node acceptors;
  concur_tcp_options options;
  char name[CONCUR_ADDRESS_TEXT_SIZE];
  char path[CONCUR_ADDRESS_TEXT_SIZE]; /* of the Unix socket that bind made; "": none */
  dev_t device; /* and which file that was */
  ino_t inode;
} listener;

/* The userdata. */
typedef struct box {
  listener *listener; /* the memory behind it; NULL: finalized, or never made */
} box;

static box *check_box(lua_State *L) {
  return concur_class_check(L, 1, CONCUR_CLASS_LISTENER);
}

/* The listener at index 1; NULL: it is closed. */
static listener *test_listener(lua_State *L) {
  listener *self = check_box(L)->listener;
  return self != NULL && self->fd >= 0 ? self : NULL;
}

static listener *check_listener(lua_State *L) {
  listener *self = test_listener(L);
  if (self == NULL) {
    concur_error_raise(L, concur_runtime_of(L), "Closed", "the listener is closed");
  }
  return self;
}

static int fail(lua_State *L, int error, const char *call, const char *name) {
  return concur_os_error(L, concur_runtime_of(L), error, call, "address", name);
}

/* ---- making and closing ---- */

/* The file of a Unix socket; NULL: the address has none.  It ends with a zero byte. */
static const char *path_of(const concur_address *address) {
  size_t size;
  const char *path = concur_address_path(address, &size);
  return path != NULL && size > 0 && path[0] != '\0' ? path : NULL;
}

static void unlink_path(const concur_address *address) {
  const char *path = path_of(address);
  if (path != NULL) (void)unlink(path);
}

/* Remembers the file that bind made, so that closing removes it: but not another one of that name. */
static void remember_path(listener *self, const concur_address *address) {
  struct stat info;
  const char *path = path_of(address);
  if (path == NULL) return;
  (void)snprintf(self->path, sizeof self->path, "%s", path);
  if (stat(self->path, &info) == 0) {
    self->device = info.st_dev;
    self->inode = info.st_ino;
  }
}

static void remove_path(listener *self) {
  struct stat info;
  if (self->path[0] != '\0' && stat(self->path, &info) == 0 && info.st_dev == self->device &&
      info.st_ino == self->inode) {
    (void)unlink(self->path);
  }
  self->path[0] = '\0';
}

static void close_descriptors(listener *self) {
  remove_path(self);
  concur_socket_close(self->fd);
  self->fd = -1;
  concur_socket_close(self->accepted);
  self->accepted = -1;
}

static void release(concur_handle *handle) {
  listener *self = concur_container_of(handle, listener, handle);
  close_descriptors(self); /* there still if the loop closed it */
  concur_memory_leave(&self->backing);
}

static void listener_close(listener *self) {
  concur_handle_close(&self->handle); /* libuv stops watching before the descriptor is closed */
  close_descriptors(self);
  concur_parking_close(&self->acceptors);
}

/* Pushes a listener that is closed, as yet.  Raises. */
static listener *listener_new(lua_State *L, concur_runtime *runtime) {
  box *owner = concur_class_new(L, runtime, CONCUR_CLASS_LISTENER, sizeof *owner, 1);
  concur_backing backing;
  listener *self = concur_memory_new(L, runtime, sizeof *self, 0, &backing);
  memset(self, 0, sizeof *self);
  self->backing = backing;
  self->fd = -1;
  self->accepted = -1;
  concur_list_init(&self->acceptors);
  owner->listener = self;
  return self;
}

/* Begins with a descriptor that listens, which it owns if this returns 0; a libuv code otherwise. */
static int listener_start(listener *self, int fd, const concur_tcp_options *options) {
  concur_loop *loop = self->backing.runtime->loop;
  int error = uv_poll_init(&loop->uv, &self->poll, fd);
  if (error != 0) return error;
  concur_handle_begin(&loop->handles, &self->handle, (uv_handle_t *)&self->poll, release);
  self->backing.users++;
  uv_unref(self->handle.uv);
  self->fd = fd;
  self->options = *options;
  concur_address address;
  if (concur_address_of_socket(&address, fd) == 0) {
    concur_address_format(&address, self->name, sizeof self->name);
  }
  bool is_unix = address.storage.ss_family == AF_UNIX;
  self->kind = is_unix ? CONCUR_STREAM_PIPE : CONCUR_STREAM_TCP;
  return 0;
}

/* ---- accepting ---- */

static void watch_stop(listener *self) {
  if (!self->watching) return;
  self->watching = false;
  (void)uv_poll_stop(&self->poll);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  listener *self = concur_container_of(concur_handle_of(poll), listener, handle);
  (void)events;
  if (status < 0) self->watching = false; /* libuv has stopped; accept will tell why */
  if (concur_list_empty(&self->acceptors)) {
    watch_stop(self);
    return;
  }
  (void)concur_parking_wake_first(&self->acceptors, self);
  if (concur_list_empty(&self->acceptors)) uv_unref(self->handle.uv);
}

static int watch_start(listener *self) {
  if (self->watching) return 0;
  int error = uv_poll_start(&self->poll, UV_READABLE, on_poll);
  self->watching = error == 0;
  return error;
}

static void leave(concur_fiber *fiber) {
  listener *self = fiber->target;
  concur_node_unlink(&fiber->waiter.node);
  if (concur_list_empty(&self->acceptors)) uv_unref(self->handle.uv);
}

static bool abort_accept(concur_fiber *fiber) {
  leave(fiber);
  return true;
}

static const concur_wait wait_accept = {
    .name = "Listener:accept", .abort = abort_accept, .detach = leave};

/* The next connection into `accepted`.  A libuv code; UV_EAGAIN: there is none. */
static int take_connection(listener *self) {
  while (self->accepted < 0) {
    self->accepted = accept4(self->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (self->accepted >= 0) break;
    /* ECONNABORTED and EPROTO: that one went away again. */
    if (errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
      return uv_translate_sys_error(errno);
    }
  }
  return 0;
}

static bool is_exhausted(int error) {
  return error == UV_EMFILE || error == UV_ENFILE || error == UV_ENOBUFS || error == UV_ENOMEM;
}

static int push_closed(lua_State *L) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), "Closed", "the listener was closed");
  return 2;
}

/* Pushes the stream of the accepted connection.  Making it may run a finalizer, which may close the
   listener: then the descriptor is closed already. */
static int push_accepted(lua_State *L, listener *self) {
  concur_stream *stream =
      concur_stream_new(L, concur_runtime_of(L), (concur_stream_kind)self->kind);
  if (self->fd < 0) return push_closed(L);
  int fd = self->accepted;
  self->accepted = -1;
  int error = concur_socket_into(stream, fd);
  if (error != 0) {
    concur_socket_close(fd);
    concur_stream_abort(stream);
    return fail(L, error, "accept", self->name);
  }
  if (self->kind == CONCUR_STREAM_TCP) {
    concur_tcp_options_set(&self->options, (uv_tcp_t *)concur_stream_handle(stream));
  }
  return 1;
}

/* Stack: the listener. */
static int accept_body(lua_State *L, concur_fiber *fiber) {
  listener *self = test_listener(L);
  lua_settop(L, 1);
  if (self == NULL) return push_closed(L);
  int error = take_connection(self);
  if (is_exhausted(error)) { /* sockets that nobody refers to any more may be all it takes */
    (void)lua_gc(L, LUA_GCCOLLECT);
    if (self->fd < 0) return push_closed(L);
    error = take_connection(self);
  }
  if (error == 0) return push_accepted(L, self);
  if (error == UV_EAGAIN) error = watch_start(self);
  if (error != 0) return fail(L, error, "accept", self->name);
  if (concur_list_empty(&self->acceptors)) uv_ref(self->handle.uv);
  return concur_parking_park(L, fiber, &self->acceptors, &wait_accept, self, accept_body);
}

/*@lua
---A socket that listens for connections.
---@class concur.Listener
local Listener = {}

---Waits for a connection.  Cancelled, none was taken.
---@async
---@return concur.Stream? stream
---@return concur.Error? error `Closed`: the listener was closed meanwhile; `OSError` (`EMFILE`: too
---  many descriptors are open; the connection waits)
function Listener:accept() end
*/
static int l_accept(lua_State *L) {
  (void)check_listener(L);
  lua_settop(L, 1);
  return concur_fiber_begin(L, accept_body);
}

/*@lua
---Stops listening.  Who waits in `accept` gets `nil, Closed`.  Idempotent; never waits.
function Listener:close() end

---@return boolean closed
function Listener:closed() end

---Where it listens: with port 0 the system chose one.
---@return string host a number; of a Unix socket its path
---@return integer? port nil for Unix sockets
function Listener:address() end

---The number of the descriptor.  It stays the listener's.
---@return integer
function Listener:fd() end
*/
static int l_close(lua_State *L) {
  listener *self = test_listener(L);
  if (self != NULL) listener_close(self);
  return 0;
}

static int l_gc(lua_State *L) {
  box *owner = concur_class_test(L, 1, CONCUR_CLASS_LISTENER);
  if (owner == NULL || owner->listener == NULL) return 0;
  if (concur_runtime_forked(concur_runtime_of(L))) return 0; /* the parent's */
  listener *self = owner->listener;
  (void)l_close(L);
  owner->listener = NULL;
  concur_memory_leave(&self->backing);
  return 0;
}

static int l_closed(lua_State *L) {
  lua_pushboolean(L, test_listener(L) == NULL);
  return 1;
}

static int l_address(lua_State *L) {
  const listener *self = check_listener(L);
  concur_address address;
  int error = concur_address_of_socket(&address, self->fd);
  if (error != 0) return fail(L, error, "address", NULL);
  return concur_socket_push_address(L, &address);
}

static int l_fd(lua_State *L) {
  lua_pushinteger(L, check_listener(L)->fd);
  return 1;
}

/*@lua
---Takes the descriptor out of the listener, which is closed then; a socket file stays.  For another
---thread's or program's `net.listen_fd`.  Who waits in `accept` gets `nil, Closed`.  Never suspends.
---@return integer? fd
---@return concur.Error? error
function Listener:detach() end
*/
static int l_detach(lua_State *L) {
  listener *self = check_listener(L);
  int fd = fcntl(self->fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return fail(L, uv_translate_sys_error(errno), "detach", self->name);
  self->path[0] = '\0'; /* the file belongs to whoever gets the descriptor */
  listener_close(self);
  lua_pushinteger(L, fd);
  return 1;
}

static int l_tostring(lua_State *L) {
  const listener *self = test_listener(L);
  lua_pushfstring(L, "concur.Listener: %s (%p)", self != NULL ? self->name : "closed",
                  lua_topointer(L, 1));
  return 1;
}

/* ---- listening ---- */

typedef struct listen_options {
  int backlog;
  bool reuseport;
  bool ipv6only;
} listen_options;

static bool option_flag(lua_State *L, int index, const char *name) {
  lua_getfield(L, index, name);
  bool value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

static listen_options options_read(lua_State *L, int index) {
  listen_options options = {.backlog = BACKLOG};
  if (!lua_istable(L, index)) return options;
  options.backlog = (int)concur_option_count(L, index, "backlog", 1, BACKLOG);
  options.reuseport = option_flag(L, index, "reuseport");
  options.ipv6only = option_flag(L, index, "ipv6only");
  return options;
}

static int set_flag(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0 ? 0
                                                                  : uv_translate_sys_error(errno);
}

/* A descriptor bound to the address.  A libuv code. */
static int bind_at(const concur_address *address, const listen_options *options, int *fd) {
  int family = address->storage.ss_family;
  int error = concur_socket_new(family, fd);
  if (error != 0) return error;
  if (family != AF_UNIX) error = set_flag(*fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (error == 0 && options->reuseport) error = set_flag(*fd, SOL_SOCKET, SO_REUSEPORT, 1);
  if (error == 0 && family == AF_INET6) {
    error = set_flag(*fd, IPPROTO_IPV6, IPV6_V6ONLY, options->ipv6only);
  }
  if (error == 0 && bind(*fd, concur_address_sockaddr(address), address->size) != 0) {
    error = uv_translate_sys_error(errno);
  }
  if (error != 0) {
    concur_socket_close(*fd);
    *fd = -1;
  }
  return error;
}

/* Makes the bound descriptor listen, and starts the listener with it.  A libuv code; the descriptor
   and the file of a Unix socket are gone unless it is 0. */
static int listen_on(listener *self, int fd, const concur_address *address,
                     const listen_options *options, const concur_tcp_options *tcp) {
  int error = listen(fd, options->backlog) == 0 ? 0 : uv_translate_sys_error(errno);
  if (error == 0) error = listener_start(self, fd, tcp);
  if (error == 0) {
    remember_path(self, address);
  } else {
    unlink_path(address);
    concur_socket_close(fd);
  }
  return error;
}

/* Pushes a listener at the address, whose options are at `index`; or nil, err. */
static int push_listener(lua_State *L, const concur_address *address, int index) {
  concur_runtime *runtime = concur_runtime_of(L);
  listen_options options = options_read(L, index);
  concur_tcp_options tcp = concur_tcp_options_read(L, index);
  (void)concur_scheduler_loop(L, runtime->scheduler);
  listener *self = listener_new(L, runtime);
  int fd;
  int error = bind_at(address, &options, &fd);
  if (error == 0) error = listen_on(self, fd, address, &options, &tcp);
  if (error == 0) return 1;
  char name[CONCUR_ADDRESS_TEXT_SIZE];
  concur_address_format(address, name, sizeof name);
  return fail(L, error, "listen", name);
}

/* core.listen_tcp(host, port [, options]): host is a number.  -> listener, or nil, err.
   Options: backlog, reuseport, ipv6only, nodelay, keepalive; others are not looked at. */
static int l_listen_tcp(lua_State *L) {
  concur_address address;
  lua_settop(L, 3);
  concur_socket_check_address(L, 1, &address);
  return push_listener(L, &address, 3);
}

/* core.listen_unix(path [, options]) */
static int l_listen_unix(lua_State *L) {
  concur_address address;
  lua_settop(L, 2);
  concur_socket_check_path(L, 1, &address);
  return push_listener(L, &address, 2);
}

/* core.listen_fd(fd [, options]): a socket that listens already, from outside. */
static int l_listen_fd(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd <= INT_MAX, 1, "not a descriptor");
  lua_settop(L, 2);
  concur_tcp_options tcp = concur_tcp_options_read(L, 2);
  int listens = 0;
  socklen_t size = sizeof listens;
  if (getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) {
    return fail(L, uv_translate_sys_error(errno), "listen", NULL);
  }
  if (!listens) return fail(L, UV_EINVAL, "listen (the socket does not listen)", NULL);
  (void)concur_scheduler_loop(L, runtime->scheduler);
  listener *self = listener_new(L, runtime);
  int error = listener_start(self, (int)fd, &tcp);
  return error == 0 ? 1 : fail(L, error, "listen", NULL);
}

void concur_listener_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"listen_tcp", l_listen_tcp},
                                {"listen_unix", l_listen_unix},
                                {"listen_fd", l_listen_fd},
                                {NULL, NULL}};
  const luaL_Reg methods[] = {
      {"accept", l_accept}, {"close", l_close},   {"closed", l_closed}, {"address", l_address},
      {"fd", l_fd},         {"detach", l_detach}, {NULL, NULL}};
  const luaL_Reg metamethods[] = {
      {"__close", l_close}, {"__gc", l_gc}, {"__tostring", l_tostring}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_LISTENER, "concur.Listener", methods, metamethods);
  concur_register(L, runtime, functions);
}
