/* SPDX-License-Identifier: MIT */
/*
 * A started child as a userdata, which lua/concur/process.lua wraps together with its streams.
 *
 * The userdata owns the concur_process; its finalizer releases that, which ends a child that still
 * runs.  Who waits is in its list and is woken at each change of state, to look again.
 *                                                                            [loop thread]
 */
#include "process_class.h"

#include <sys/stat.h>

#include "disposition.h"
#include "process.h"
#include "select.h"

typedef struct process_object {
  concur_process *process; /* owned; NULL: not started */
  concur_node waiters;
} process_object;

/* The object at index 1.  Raises when its finalizer has run, which only other finalizers can see. */
static process_object *check_process(lua_State *L) {
  process_object *self = concur_class_check(L, 1, CONCUR_CLASS_PROCESS);
  luaL_argcheck(L, self->process != NULL, 1, "the process was collected");
  return self;
}

static void on_change(concur_process *process) {
  process_object *self = process->owner;
  concur_parking_wake_all(&self->waiters, self);
}

/* ---- starting one ---- */

/* The strings of the list in field `name`, as C wants them; NULL when there is none.  The memory is
   left on the stack; the strings belong to the list. */
static char **string_list(lua_State *L, const char *name) {
  if (lua_getfield(L, 1, name) == LUA_TNIL) return NULL;
  lua_Unsigned count = lua_rawlen(L, -1);
  char **list = lua_newuserdatauv(L, (count + 1) * sizeof *list, 0);
  for (lua_Unsigned i = 0; i < count; i++) {
    lua_rawgeti(L, -2, (lua_Integer)i + 1);
    list[i] = (char *)(uintptr_t)lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  list[count] = NULL;
  return list;
}

static int *integer_list(lua_State *L, const char *name, int *count) {
  lua_getfield(L, 1, name);
  *count = (int)lua_rawlen(L, -1);
  int *list = lua_newuserdatauv(L, (size_t)*count * sizeof *list, 0);
  for (int i = 0; i < *count; i++) {
    lua_rawgeti(L, -2, i + 1);
    list[i] = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
  }
  return list;
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

/* core.spawn_process(options) -> object, or nil, OSError.  The fields are those of
   concur_process_options, checked by the caller; args, env and fds are lists. */
static int l_spawn_process(lua_State *L) {
  concur_runtime *runtime = concur_runtime_of(L);
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  concur_loop *loop = concur_scheduler_loop(L, runtime->scheduler);
  process_object *self =
      concur_class_new(L, runtime, CONCUR_CLASS_PROCESS, sizeof *self, 0);
  concur_list_init(&self->waiters);
  concur_process_options options = {.args = string_list(L, "args"), .env = string_list(L, "env")};
  options.fds = integer_list(L, "fds", &options.fd_count);
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
  int error = concur_process_spawn(loop, &options, &self->process);
  if (error != 0) return push_spawn_error(L, runtime, error, &options);
  self->process->on_change = on_change;
  self->process->owner = self;
  lua_settop(L, 2);
  return 1;
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

static const concur_wait wait_process = {.name = "process"};

/* Frame: object, whether to wait for all of it. */
static int process_wait(lua_State *L, concur_fiber *fiber) {
  process_object *self = lua_touserdata(L, 1);
  if (has_reached(self, lua_toboolean(L, 2))) return push_status(L, self->process);
  return concur_parking_park(L, fiber, &self->waiters, &wait_process, self, process_wait);
}

static int l_wait(lua_State *L) {
  (void)check_process(L);
  lua_settop(L, 2);
  return concur_fiber_begin(L, process_wait);
}

static int arm_attempt(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber) {
  (void)index;
  (void)fiber;
  const process_object *self = arm->target;
  return has_reached(self, false) ? push_status(L, self->process) : -1;
}

static bool arm_link(concur_arm *arm, concur_loop *loop) {
  (void)loop;
  concur_list_append(&((process_object *)arm->target)->waiters, &arm->waiter.node);
  return true;
}

static int arm_finish(lua_State *L, int index, concur_arm *arm, concur_fiber *fiber, bool closed) {
  (void)index;
  (void)fiber;
  (void)closed;
  return push_status(L, ((process_object *)arm->target)->process);
}

static const concur_arm_ops arm_ops = {"process", arm_attempt, arm_link, NULL, arm_finish};

static int l_waiting(lua_State *L) {
  (void)check_process(L);
  concur_arm_new(L, concur_runtime_of(L), &arm_ops, 1, 0);
  return 1;
}

/* object:finish(now): asks it to end. */
static int l_finish(lua_State *L) {
  process_object *self = check_process(L);
  if (lua_toboolean(L, 2)) {
    concur_process_end_now(self->process);
  } else {
    concur_process_end(self->process);
  }
  return 0;
}

/* object:kill(number) -> true, or nil, OSError */
static int l_kill(lua_State *L) {
  process_object *self = check_process(L);
  lua_Integer number = luaL_checkinteger(L, 2);
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
  process_object *self = concur_class_check(L, 1, CONCUR_CLASS_PROCESS);
  if (self->process != NULL && !concur_runtime_forked(concur_runtime_of(L))) {
    concur_process_release(self->process);
  }
  self->process = NULL;
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

/* core.use_pidfd(boolean): for tests. */
static int l_use_pidfd(lua_State *L) {
  concur_process_use_pidfd(lua_toboolean(L, 1));
  return 0;
}

void concur_process_class_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg methods[] = {{"wait", l_wait},     {"waiting", l_waiting},
                              {"finish", l_finish}, {"kill", l_kill},
                              {"state", l_state},   {"pid", l_pid},
                              {NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__gc", l_gc}, {NULL, NULL}};
  const luaL_Reg functions[] = {{"spawn_process", l_spawn_process},
                                {"signal_number", l_signal_number},
                                {"use_pidfd", l_use_pidfd},
                                {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_PROCESS, "concur.process.Child", methods,
                      metamethods);
  concur_register(L, runtime, functions);
}
