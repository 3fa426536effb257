/* SPDX-License-Identifier: MIT */
/*
 * A started child as a userdata, which lua/concur/process.lua wraps together with its streams.
 *
 * The memory behind the userdata (support.h) holds the concur_process; the finalizer, or the end of
 * the state (holding.h), releases that, which ends a child that still runs.  Who waits is in its list
 * and is woken at each change of state, to look again.                       [loop thread]
 */
#include "process_class.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disposition.h"
#include "holding.h"
#include "process.h"
#include "select.h"
#include "stream.h"

typedef struct process_object {
  concur_process *process; /* owned; NULL: not started, or released */
  concur_backing backing;  /* user: the holding */
  concur_node waiters;
} process_object;

/* The userdata. */
typedef struct box {
  process_object *object;  /* the memory behind it; NULL: could not be made */
  concur_holding *holding; /* owned; of the object */
} box;

/* Raises when the finalizer has run, which only other finalizers can see. */
static process_object *check_object(lua_State *L, process_object *self) {
  luaL_argcheck(L, self != NULL && self->process != NULL, 1, "the process was collected");
  return self;
}

/* The object at index 1. */
static process_object *check_process(lua_State *L) {
  const box *owner = concur_class_check(L, 1, CONCUR_CLASS_PROCESS);
  return check_object(L, owner->object);
}

/* The child keeps the loop alive while somebody waits for it: who waits for something else shall
   hear of a deadlock. */
static void update_ref(const process_object *self) {
  if (self->process != NULL) {
    concur_process_ref(self->process, !concur_list_empty(&self->waiters));
  }
}

static void on_change(concur_process *process) {
  process_object *self = process->owner;
  concur_parking_wake_all(&self->waiters, self);
  update_ref(self);
}

/* ---- starting one ---- */

/* The finalizer's part, or what the state does for it when it closes. */
static void object_release(void *object) {
  process_object *self = object;
  if (self->process != NULL) concur_process_release(self->process);
  self->process = NULL;
  concur_memory_leave(&self->backing);
}

/* Pushes a userdata without a process. */
static process_object *object_new(lua_State *L, concur_runtime *runtime) {
  box *owner = concur_class_new(L, runtime, CONCUR_CLASS_PROCESS, sizeof *owner, 1);
  owner->holding = concur_holding_new(L, runtime, object_release);
  concur_backing backing;
  process_object *self = concur_memory_new(L, runtime, sizeof *self, 0, &backing);
  *self = (process_object){.backing = backing};
  concur_list_init(&self->waiters);
  owner->holding->object = self;
  owner->object = self;
  return self;
}

/* The strings of the list in field `name`, as C wants them; NULL when there is none.  The memory is
   left on the stack; the strings belong to the list. */
static char **string_list(lua_State *L, const char *name) {
  if (lua_getfield(L, 1, name) == LUA_TNIL) return NULL;
  size_t count = (size_t)lua_rawlen(L, -1);
  char **list = lua_newuserdatauv(L, (count + 1) * sizeof *list, 0);
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, -2, (lua_Integer)i + 1);
    list[i] = (char *)(uintptr_t)lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  list[count] = NULL;
  return list;
}

/* What a child gets as one descriptor, and what this process keeps of it. */
typedef struct endpoint {
  int fd;                /* for the child; owned while `stream` is set; -1: none */
  concur_stream *stream; /* borrowed: this end of the pipe */
  int from;              /* >= 0: as that other descriptor of the child */
} endpoint;

/* The descriptor in a Lua file. */
static int file_descriptor(lua_State *L, int index) {
  const luaL_Stream *file = luaL_checkudata(L, index, LUA_FILEHANDLE);
  if (file->closef == NULL) luaL_error(L, "attempt to use a closed file");
  (void)fflush(file->f);
  return fileno(file->f);
}

/* Reads the list `fds`: of each descriptor of the child a number, false (nothing), "pipe", "stdout", or
   a file.  Pushes the endpoints, then for each "pipe" a stream, else nil. */
static endpoint *endpoint_list(lua_State *L, concur_runtime *runtime, int *count) {
  lua_getfield(L, 1, "fds");
  int list = lua_gettop(L);
  *count = (int)lua_rawlen(L, list);
  luaL_checkstack(L, *count + LUA_MINSTACK, NULL);
  endpoint *ends = lua_newuserdatauv(L, (size_t)*count * sizeof *ends, 0);
  for (int i = 0; i < *count; i++) {
    ends[i] = (endpoint){.fd = -1, .from = -1};
    lua_rawgeti(L, list, i + 1);
    if (lua_type(L, -1) == LUA_TUSERDATA) {
      ends[i].fd = file_descriptor(L, -1);
    } else if (lua_type(L, -1) == LUA_TNUMBER) {
      ends[i].fd = (int)lua_tointeger(L, -1);
    } else if (lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "stdout") == 0) {
      ends[i].from = STDOUT_FILENO;
    } else if (lua_type(L, -1) == LUA_TSTRING) {
      ends[i].stream = concur_stream_new(L, runtime, CONCUR_STREAM_PIPE);
      lua_remove(L, -2);
      continue;
    }
    lua_pop(L, 1);
    lua_pushnil(L);
  }
  return ends;
}

/* Makes the pipe of one endpoint.  A libuv error code, and then nothing is left open. */
static int endpoint_open(endpoint *end, bool child_reads) {
  uv_file fds[2];
  int error = uv_pipe(fds, child_reads ? 0 : UV_NONBLOCK_PIPE, child_reads ? UV_NONBLOCK_PIPE : 0);
  if (error != 0) return error;
  int ours = child_reads ? fds[1] : fds[0];
  end->fd = child_reads ? fds[0] : fds[1];
  error = uv_pipe_open((uv_pipe_t *)concur_stream_handle(end->stream), ours);
  if (error != 0) {
    (void)close(ours);
  } else {
    concur_stream_opened(end->stream,
                         child_reads ? CONCUR_STREAM_WRITABLE : CONCUR_STREAM_READABLE);
  }
  return error;
}

/* The child has its ends, or will not be. */
static void endpoints_close(endpoint *ends, int count, bool failed) {
  for (int i = 0; i < count; i++) {
    if (ends[i].stream == NULL) continue;
    if (ends[i].fd >= 0) (void)close(ends[i].fd);
    if (failed) concur_stream_abort(ends[i].stream);
  }
}

static bool boolean_field(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  return lua_toboolean(L, -1);
}

static int64_t id_field(lua_State *L, const char *name) {
  return lua_getfield(L, 1, name) == LUA_TNIL ? -1 : lua_tointeger(L, -1);
}

/* libuv does not say whether it was the program or its directory that could not be had. */
static bool is_directory(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int push_spawn_error(lua_State *L, concur_runtime *runtime, int error,
                            const concur_process_options *options) {
  bool directory = options->cwd != NULL && !is_directory(options->cwd);
  return concur_os_error(L, runtime, error, directory ? "chdir" : "spawn", "path",
                         directory ? options->cwd : options->file);
}

/* Starts it with its pipes.  A libuv error code, and then no descriptor is left open. */
static int process_start(concur_loop *loop, concur_process_options *options, endpoint *ends,
                         int *fds, concur_process **process) {
  int error = 0;
  for (int i = 0; i < options->fd_count && error == 0; i++) {
    if (ends[i].stream != NULL) error = endpoint_open(&ends[i], i == STDIN_FILENO);
    fds[i] = ends[i].from >= 0 ? fds[ends[i].from] : ends[i].fd;
  }
  options->fds = fds;
  if (error == 0) error = concur_process_spawn(loop, options, process);
  endpoints_close(ends, options->fd_count, error != 0);
  return error;
}

/* core.spawn_process(options) -> child, streams of its descriptors 0, 1, ... (nil: no pipe); or nil,
   OSError.  The fields are those of concur_process_options, checked by the caller; args and env are
   lists, fds is as endpoint_list wants it. */
static int l_spawn_process(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  concur_process_options options = {.args = string_list(L, "args"), .env = string_list(L, "env")};
  options.own_group = boolean_field(L, "group");
  options.detached = boolean_field(L, "detached");
  options.hold = boolean_field(L, "hold");
  options.uid = id_field(L, "uid");
  options.gid = id_field(L, "gid");
  lua_getfield(L, 1, "grace");
  options.grace_ns = concur_check_duration(L, -1);
  lua_getfield(L, 1, "cwd");
  options.cwd = lua_tostring(L, -1);
  lua_getfield(L, 1, "file");
  options.file = lua_tostring(L, -1);
  process_object *self = object_new(L, runtime);
  int object = lua_gettop(L);
  endpoint *ends = endpoint_list(L, runtime, &options.fd_count);
  int streams = lua_gettop(L) - options.fd_count;
  int *fds = lua_newuserdatauv(L, (size_t)options.fd_count * sizeof *fds, 0);
  int error = process_start(loop, &options, ends, fds, &self->process);
  if (error != 0) return push_spawn_error(L, runtime, error, &options);
  self->process->on_change = on_change;
  self->process->owner = self;
  update_ref(self);
  lua_settop(L, streams + options.fd_count);
  lua_pushvalue(L, object);
  lua_insert(L, streams + 1);
  return options.fd_count + 1;
}

/* ---- its end ---- */

static bool has_reached(const process_object *self, bool gone) {
  return self->process->state >= (gone ? CONCUR_PROCESS_GONE : CONCUR_PROCESS_ENDED);
}

/* Pushes code and signal: one of them is nil; both are when the status is not known. */
static int push_status(lua_State *L, const concur_process *process) {
  if (process->signal != 0) {
    const char *name = concur_signal_name(process->signal);
    lua_pushnil(L);
    if (name != NULL) {
      lua_pushstring(L, name);
    } else {
      lua_pushfstring(L, "SIG%d", process->signal);
    }
  } else if (process->code >= 0) {
    lua_pushinteger(L, process->code);
    lua_pushnil(L);
  } else {
    lua_pushnil(L);
    lua_pushnil(L);
  }
  return 2;
}

/* Parks the fiber in the list of those who wait. */
static int wait_for_change(lua_State *L, concur_fiber *fiber, process_object *self,
                           const concur_wait *wait, concur_resume resume) {
  concur_list_append(&self->waiters, &fiber->waiter.node);
  update_ref(self);
  return concur_fiber_park(L, fiber, wait, self, resume);
}

static void detach(concur_fiber *fiber) {
  concur_node_unlink(&fiber->waiter.node);
  update_ref(fiber->target);
}

static bool abort_wait(concur_fiber *fiber) {
  detach(fiber);
  return true;
}

static const concur_wait wait_process = {
    .name = "process", .abort = abort_wait, .detach = detach};

/* Frame: object, whether to wait for all of it. */
static int process_wait(lua_State *L, concur_fiber *fiber) {
  process_object *self = check_process(L);
  if (has_reached(self, lua_toboolean(L, 2))) return push_status(L, self->process);
  return wait_for_change(L, fiber, self, &wait_process, process_wait);
}

static int l_wait(lua_State *L) {
  (void)check_process(L);
  lua_settop(L, 2);
  return concur_fiber_begin(L, process_wait);
}

static int arm_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  (void)index;
  (void)fiber;
  const process_object *self = check_object(L, arm->target);
  return has_reached(self, false) ? push_status(L, self->process) : -1;
}

static bool arm_link(concur_arm *arm, concur_loop *loop) {
  process_object *self = arm->target;
  (void)loop;
  concur_list_append(&self->waiters, &arm->waiter.node);
  update_ref(self);
  return true;
}

static void arm_unlink(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_node_unlink(&arm->waiter.node);
  update_ref(arm->target);
}

static int arm_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber, bool closed) {
  (void)index;
  (void)fiber;
  (void)closed;
  return push_status(L, check_object(L, arm->target)->process);
}

static const concur_arm_ops arm_ops = {"process", arm_attempt, arm_link, arm_unlink, arm_finish};

static int l_waiting(lua_State *L) {
  process_object *self = check_process(L);
  concur_arm_new(L, concur_runtime_of(L), &arm_ops, 1, 0)->target = self;
  return 1;
}

/* Ending it is not given up: its grace time bounds it. */
static bool never_abort(concur_fiber *fiber) {
  (void)fiber;
  return false;
}

static const concur_wait wait_end = {
    .name = "the end of a process", .abort = never_abort, .detach = detach};

static int end_wait(lua_State *L, concur_fiber *fiber) {
  process_object *self = check_process(L);
  if (has_reached(self, true)) return 0;
  return wait_for_change(L, fiber, self, &wait_end, end_wait);
}

/* child:ask_to_end([grace]): TERM, after the grace time KILL.  Never waits. */
static int l_ask_to_end(lua_State *L) {
  process_object *self = check_process(L);
  if (concur_runtime_forked(concur_runtime_of(L))) return 0; /* it is the parent's */
  if (!lua_isnoneornil(L, 2)) self->process->grace_ns = concur_check_duration(L, 2);
  concur_process_end(self->process);
  return 0;
}

/* child:join(): waits until all of it is gone, shielded; not where waiting is impossible. */
static int l_join(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  process_object *self = check_process(L);
  lua_settop(L, 1);
  if (concur_runtime_forked(runtime) || has_reached(self, true)) return 0;
  if (!concur_fiber_may_wait(L, runtime)) return 0;
  return end_wait(L, concur_fiber_enter(L, runtime));
}

/* child:let_go(): a process that was held is reaped, what is left of its group may go on. */
static int l_let_go(lua_State *L) {
  concur_process_let_go(check_process(L)->process);
  return 0;
}

/* object:kill(number) -> true, or nil, OSError */
static int l_kill(lua_State *L) {
  process_object *self = check_process(L);
  lua_Integer number = luaL_checkinteger(L, 2);
  concur_runtime_check(L, concur_runtime_of(L));
  int error = concur_process_kill(self->process, (int)number);
  if (error != 0) {
    return concur_os_error(L, concur_runtime_of(L), error, "kill", NULL, NULL);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* object:state() -> "running", "ended" or "gone", code, signal, whether another has reaped it */
static int l_state(lua_State *L) {
  static const char *const names[] = {"running", "ended", "gone"};
  const concur_process *process = check_process(L)->process;
  lua_pushstring(L, names[process->state]);
  (void)push_status(L, process);
  lua_pushboolean(L, process->status_lost);
  return 4;
}

static int l_pid(lua_State *L) {
  lua_pushinteger(L, check_process(L)->process->pid);
  return 1;
}

static int l_gc(lua_State *L) {
  box *owner = concur_class_test(L, 1, CONCUR_CLASS_PROCESS);
  if (owner == NULL) return 0;
  if (concur_runtime_forked(concur_runtime_of(L))) {
    concur_holding_abandon(owner->holding);
  } else {
    concur_holding_end(owner->holding);
  }
  owner->holding = NULL;
  return 0;
}

/* core.signal_number(name) -> integer or nil */
static int l_signal_number(lua_State *L) {
  int number = concur_signal_number(luaL_checkstring(L, 1));
  if (number == 0) {
    lua_pushnil(L);
  } else {
    lua_pushinteger(L, number);
  }
  return 1;
}

/* NOLINTNEXTLINE(readability-redundant-declaration): not every system declares it */
extern char **environ;

/* core.environment() -> table of the variables of this process */
static int l_environment(lua_State *L) {
  lua_newtable(L);
  for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
    const char *end = strchr(*variable, '=');
    if (end == NULL) continue;
    lua_pushlstring(L, *variable, (size_t)(end - *variable));
    lua_pushstring(L, end + 1);
    lua_rawset(L, -3);
  }
  return 1;
}

/* core.use_pidfd(boolean): for tests. */
static int l_use_pidfd(lua_State *L) {
  concur_process_use_pidfd(lua_toboolean(L, 1));
  return 0;
}

void concur_process_class_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"wait", l_wait},     {"waiting", l_waiting},
                              {"ask_to_end", l_ask_to_end},
                              {"join", l_join},     {"let_go", l_let_go},
                              {"kill", l_kill},
                              {"state", l_state},   {"pid", l_pid},
                              {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__gc", l_gc}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"spawn_process", l_spawn_process},
                                {"signal_number", l_signal_number},
                                {"environment", l_environment},
                                {"use_pidfd", l_use_pidfd},
                                {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_PROCESS, "concur.process.Child", methods,
                      metamethods);
  concur_register(L, runtime, functions);
}
