/* SPDX-License-Identifier: MIT */
/*
 * A C module for the specs: it gives Lua each function of include/concur.h, called from this thread
 * or from a new one, and counts how often its callbacks ran.
 *
 * Data that crosses is a malloc'd `parcel`; a parcel that is neither taken nor dropped is a leak that
 * the address sanitizer finds.
 */
#include <concur.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const concur_api *api; /* one test program loads this in one state at a time */

static struct { atomic_int pushed, dropped, cancelled, worked, called; } counts;

/* ---- threads ---- */

typedef struct thread_call {
  void (*function)(void *argument);
  void *argument;
} thread_call;

static void *thread_main(void *argument) {
  thread_call *call = argument;
  call->function(call->argument);
  return NULL;
}

/* Calls it here, or in a new thread that is joined. */
static void call_in(lua_State *L, int in_thread, void (*function)(void *), void *argument) {
  thread_call call = {function, argument};
  pthread_t thread;
  if (!in_thread) {
    function(argument);
  } else if (pthread_create(&thread, NULL, thread_main, &call) != 0) {
    luaL_error(L, "no thread");
  } else {
    pthread_join(thread, NULL);
  }
}

static void nap(double seconds) {
  struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&time, NULL);
}

/* ---- parcels ---- */

typedef struct parcel {
  char what[16]; /* "none", "values", "raise", "two-step", or a text to push */
} parcel;

static parcel *parcel_new(const char *what) {
  parcel *self = calloc(1, sizeof *self);
  if (self != NULL) strncpy(self->what, what, sizeof self->what - 1);
  return self;
}

static void parcel_drop(void *data) {
  atomic_fetch_add(&counts.dropped, 1);
  free(data);
}

static int parcel_push(lua_State *L, void *data) {
  parcel *self = data;
  atomic_fetch_add(&counts.pushed, 1);
  if (lua_gettop(L) != 0) return luaL_error(L, "the stack was not empty");
  if (strcmp(self->what, "raise") == 0) return luaL_error(L, "raised by push");
  int count = 1;
  if (strcmp(self->what, "none") == 0) {
    count = 0;
  } else if (strcmp(self->what, "values") == 0) {
    lua_pushinteger(L, 1);
    lua_pushliteral(L, "two");
    lua_pushnil(L);
    count = 3;
  } else {
    lua_pushstring(L, self->what);
  }
  free(self);
  return count;
}

/* ---- futures ---- */

typedef struct handle {
  concur_future_ref *ref; /* NULL once released */
  int verdict;            /* what the cancel function says */
  int settles;            /* the cancel function settles it: 1 fail, 2 release */
} handle;

static int on_cancel(void *data) {
  handle *self = data;
  atomic_fetch_add(&counts.cancelled, 1);
  if (self->settles == 1) api->fail(self->ref, "Closed", "settled while cancelling");
  if (self->settles == 2) {
    api->future_release(self->ref);
    self->ref = NULL;
  }
  return self->verdict;
}

static handle *check_handle(lua_State *L) {
  handle *self = luaL_checkudata(L, 1, "capi_probe.handle");
  luaL_argcheck(L, self->ref != NULL, 1, "released");
  return self;
}

static int option_integer(lua_State *L, int index, const char *name, int otherwise) {
  int value = otherwise;
  if (lua_getfield(L, index, name) != LUA_TNIL) value = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  return value;
}

/* future{name=, cancel=, verdict=, settles=, flags=} -> future, handle */
static int l_future(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    lua_settop(L, 0);
    lua_newtable(L);
  }
  lua_settop(L, 1);
  handle *self = lua_newuserdatauv(L, sizeof *self, 0); /* 2 */
  memset(self, 0, sizeof *self);
  luaL_setmetatable(L, "capi_probe.handle");
  concur_future_options options = {.size = (size_t)option_integer(L, 1, "size", sizeof options)};
  self->verdict = option_integer(L, 1, "verdict", 1);
  self->settles = option_integer(L, 1, "settles", 0);
  options.flags = (unsigned)option_integer(L, 1, "flags", 0);
  lua_getfield(L, 1, "cancel");
  if (lua_toboolean(L, -1)) options.cancel = on_cancel;
  options.cancel_data = self;
  lua_getfield(L, 1, "name");
  options.name = lua_tostring(L, -1);
  self->ref = api->future_new(L, &options);
  lua_pushvalue(L, 2);
  return 2;
}

typedef struct settling {
  concur_future_ref *ref;
  parcel *data;
  const char *kind, *message;
  int how; /* 0 settle, 1 fail, 2 settle_cancelled, 3 settle without functions, 4 release */
  int result;
} settling;

static void settle(void *argument) {
  settling *self = argument;
  switch (self->how) {
  case 0: self->result = api->settle(self->ref, parcel_push, parcel_drop, self->data); break;
  case 1: self->result = api->fail(self->ref, self->kind, self->message); break;
  case 2: self->result = api->settle_cancelled(self->ref); break;
  case 3: self->result = api->settle(self->ref, NULL, NULL, NULL); break;
  default: api->future_release(self->ref); break;
  }
}

/* settle(handle, what, in_thread) -> 0 or 1 */
static int l_settle(lua_State *L) {
  settling self = {.ref = check_handle(L)->ref};
  if (lua_isnoneornil(L, 2)) {
    self.how = 3;
  } else {
    self.data = parcel_new(luaL_checkstring(L, 2));
  }
  call_in(L, lua_toboolean(L, 3), settle, &self);
  lua_pushinteger(L, self.result);
  return 1;
}

/* fail(handle, kind, message, in_thread) */
static int l_fail(lua_State *L) {
  settling self = {.ref = check_handle(L)->ref,
                   .how = 1,
                   .kind = luaL_optstring(L, 2, NULL),
                   .message = luaL_optstring(L, 3, NULL)};
  call_in(L, lua_toboolean(L, 4), settle, &self);
  lua_pushinteger(L, self.result);
  return 1;
}

static int l_settle_cancelled(lua_State *L) {
  settling self = {.ref = check_handle(L)->ref, .how = 2};
  call_in(L, lua_toboolean(L, 2), settle, &self);
  lua_pushinteger(L, self.result);
  return 1;
}

static int l_cancelled(lua_State *L) {
  lua_pushinteger(L, api->cancelled(check_handle(L)->ref));
  return 1;
}

static int l_release(lua_State *L) {
  handle *owner = luaL_checkudata(L, 1, "capi_probe.handle");
  settling self = {.ref = owner->ref, .how = 4};
  owner->ref = NULL;
  if (self.ref != NULL) call_in(L, lua_toboolean(L, 2), settle, &self);
  return 0;
}

static int l_retain(lua_State *L) { /* for balance: once more, and back */
  concur_future_ref *ref = check_handle(L)->ref;
  api->future_retain(ref);
  api->future_release(ref);
  return 0;
}

/* ---- jobs ---- */

typedef struct job {
  parcel base;
  char kind[16]; /* what `work` does at its end: "", "settle", "fail", "cancelled" */
  double seconds;
  int stoppable; /* it looks at cancelled() */
  atomic_int interrupted;
} job;

static void job_drop(void *data) {
  atomic_fetch_add(&counts.dropped, 1);
  free(data);
}

static int job_interrupt(void *data) {
  atomic_fetch_add(&counts.cancelled, 1);
  atomic_store(&((job *)data)->interrupted, 1);
  return 0;
}

static void job_work(concur_future_ref *ref, void *data) {
  job *self = data;
  atomic_fetch_add(&counts.worked, 1);
  for (double left = self->seconds; left > 0; left -= 0.001) {
    if (self->stoppable && (api->cancelled(ref) || atomic_load(&self->interrupted))) break;
    nap(left < 0.001 ? left : 0.001);
  }
  if (strcmp(self->kind, "settle") == 0) {
    api->settle(ref, parcel_push, parcel_drop, parcel_new("by work"));
  } else if (strcmp(self->kind, "fail") == 0) {
    api->fail(ref, "OSError", "failed by work");
  } else if (strcmp(self->kind, "cancelled") == 0 && api->cancelled(ref)) {
    api->settle_cancelled(ref);
  }
}

static int job_done(lua_State *L, void *data) {
  const job *self = data;
  atomic_fetch_add(&counts.pushed, 1);
  if (strcmp(self->base.what, "raise") == 0) return luaL_error(L, "raised by done");
  lua_pushstring(L, self->base.what);
  return 1;
}

static void option_string(lua_State *L, int index, const char *name, char *text, size_t size) {
  lua_getfield(L, index, name);
  if (lua_isstring(L, -1)) strncpy(text, lua_tostring(L, -1), size - 1);
  lua_pop(L, 1);
}

/* submit{what=, kind=, seconds=, stoppable=, interrupt=, name=, pool=, done=false, drop=false} */
static int l_submit(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  concur_job_options options = {.size = (size_t)option_integer(L, 1, "size", sizeof options)};
  job wanted;
  memset(&wanted, 0, sizeof wanted);
  option_string(L, 1, "what", wanted.base.what, sizeof wanted.base.what);
  option_string(L, 1, "kind", wanted.kind, sizeof wanted.kind);
  lua_getfield(L, 1, "seconds");
  wanted.seconds = lua_tonumber(L, -1);
  lua_getfield(L, 1, "stoppable");
  wanted.stoppable = lua_toboolean(L, -1);
  lua_getfield(L, 1, "interrupt");
  if (lua_toboolean(L, -1)) options.cancel = job_interrupt;
  lua_getfield(L, 1, "name");
  options.name = lua_tostring(L, -1);
  lua_getfield(L, 1, "done");
  concur_push_fn done = lua_isnil(L, -1) ? job_done : NULL;
  if (lua_getfield(L, 1, "pool") != LUA_TNIL) options.pool = -1;
  job *self = malloc(sizeof *self); /* last: what is above may raise */
  if (self == NULL) return luaL_error(L, "not enough memory");
  memcpy(self, &wanted, sizeof *self);
  api->submit(L, job_work, done, job_drop, self, &options);
  return 1;
}

/* ---- waiting ---- */

static int l_await(lua_State *L) {
  lua_settop(L, 1);
  return api->await(L, 1, 0, NULL);
}

static int l_join(lua_State *L) {
  lua_settop(L, 1);
  return api->join(L, -1, 0, NULL);
}

/* Stack: the future, "kept", the results. */
static int continued(lua_State *L, int status, lua_KContext context) {
  lua_pushinteger(L, (lua_Integer)context);
  lua_pushboolean(L, status == LUA_YIELD);
  return lua_gettop(L) - 1;
}

static int l_join_k(lua_State *L) {
  lua_settop(L, 1);
  lua_pushliteral(L, "kept");
  return api->join(L, 1, 42, continued);
}

static int l_cancel(lua_State *L) {
  lua_pushinteger(L, api->cancel(L, 1));
  return 1;
}

/* Submits twice, one after the other, and adds up what came: a loop that waits, in C. */
static int twice(lua_State *L, int status, lua_KContext round) {
  (void)status;
  if (round == 2) return 2;
  job *self = calloc(1, sizeof *self);
  if (self == NULL) return luaL_error(L, "not enough memory");
  strcpy(self->base.what, round == 0 ? "first" : "second");
  api->submit(L, job_work, job_done, job_drop, self, NULL);
  lua_insert(L, 1); /* out of the way of the results */
  return api->join(L, 1, round + 1, twice);
}

static int l_twice(lua_State *L) {
  lua_settop(L, 0);
  return twice(L, LUA_OK, 0);
}

/* ---- the loop ---- */

typedef struct call {
  int function; /* reference in the registry */
} call;

static void run_call(lua_State *L, void *data) {
  atomic_fetch_add(&counts.called, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, ((call *)data)->function);
  luaL_unref(L, LUA_REGISTRYINDEX, ((call *)data)->function);
  ((call *)data)->function = LUA_NOREF;
  lua_call(L, 0, 0);
  free(data);
}

typedef struct posting {
  concur_loop_ref *loop;
  call *data;
  int result;
} posting;

static void post(void *argument) {
  posting *self = argument;
  self->result = api->post(self->loop, run_call, parcel_drop, self->data);
}

/* post(loop, fn, in_thread) */
static int l_post(lua_State *L) {
  posting self = {*(concur_loop_ref **)luaL_checkudata(L, 1, "capi_probe.loop"), NULL, 0};
  lua_pushvalue(L, 2);
  int function = luaL_ref(L, LUA_REGISTRYINDEX);
  self.data = malloc(sizeof *self.data);
  if (self.data == NULL) return luaL_error(L, "not enough memory");
  self.data->function = function;
  call_in(L, lua_toboolean(L, 3), post, &self);
  lua_pushinteger(L, self.result);
  return 1;
}

static int l_loop(lua_State *L) {
  concur_loop_ref **self = lua_newuserdatauv(L, sizeof *self, 0);
  *self = NULL;
  luaL_setmetatable(L, "capi_probe.loop");
  *self = api->loop(L);
  api->loop_retain(*self);
  api->loop_release(*self);
  return 1;
}

static int l_loop_gc(lua_State *L) {
  concur_loop_ref **self = luaL_checkudata(L, 1, "capi_probe.loop");
  if (*self != NULL) api->loop_release(*self);
  *self = NULL;
  return 0;
}

static int l_hold(lua_State *L) {
  api->hold(L);
  return 0;
}

static int l_unhold(lua_State *L) {
  api->unhold(L);
  return 0;
}

static int l_now(lua_State *L) {
  lua_pushnumber(L, api->now(L));
  return 1;
}

/* ---- timers ---- */

typedef struct timer {
  concur_timer_ref *ref; /* NULL once freed */
  int function;          /* reference in the registry */
} timer;

static void on_timer(lua_State *L, void *data) {
  atomic_fetch_add(&counts.called, 1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, ((timer *)data)->function);
  lua_call(L, 0, 0);
}

static timer *check_timer(lua_State *L) {
  return luaL_checkudata(L, 1, "capi_probe.timer");
}

/* timer(fn, flags) */
static int l_timer(lua_State *L) {
  unsigned flags = (unsigned)luaL_optinteger(L, 2, 0);
  timer *self = lua_newuserdatauv(L, sizeof *self, 0);
  self->ref = NULL;
  lua_pushvalue(L, 1);
  self->function = luaL_ref(L, LUA_REGISTRYINDEX);
  luaL_setmetatable(L, "capi_probe.timer");
  self->ref = api->timer_new(L, on_timer, self, flags);
  return 1;
}

static int l_timer_set(lua_State *L) {
  lua_pushinteger(L, api->timer_set(check_timer(L)->ref, luaL_checknumber(L, 2)));
  return 1;
}

static int l_timer_stop(lua_State *L) {
  api->timer_stop(check_timer(L)->ref);
  return 0;
}

static int l_timer_free(lua_State *L) {
  timer *self = check_timer(L);
  api->timer_free(self->ref);
  self->ref = NULL;
  luaL_unref(L, LUA_REGISTRYINDEX, self->function);
  self->function = LUA_NOREF;
  return 0;
}

/* ---- descriptors, errors, hosts ---- */

static int l_fd_ready(lua_State *L) {
  api->fd_ready(L, (int)luaL_checkinteger(L, 1), (int)luaL_checkinteger(L, 2));
  return 1;
}

static int l_pipe_close(lua_State *L) {
  int *ends = luaL_checkudata(L, 1, "capi_probe.pipe");
  for (int i = 0; i < 2; i++) {
    if (ends[i] >= 0) close(ends[i]);
    ends[i] = -1;
  }
  return 0;
}

static int l_pipe(lua_State *L) { /* -> for reading, for writing, what closes both */
  int *ends = lua_newuserdatauv(L, 2 * sizeof *ends, 0);
  ends[0] = ends[1] = -1;
  luaL_setmetatable(L, "capi_probe.pipe");
  if (pipe(ends) != 0) return luaL_error(L, "no pipe");
  lua_pushinteger(L, ends[0]);
  lua_pushinteger(L, ends[1]);
  lua_rotate(L, -3, 2);
  return 3;
}

static int l_write(lua_State *L) {
  lua_pushboolean(L, write((int)luaL_checkinteger(L, 1), "x", 1) == 1);
  return 1;
}

static int l_push_error(lua_State *L) {
  api->push_error(L, luaL_checkstring(L, 1), luaL_checkstring(L, 2));
  return 1;
}

static int l_push_os_error(lua_State *L) {
  api->push_os_error(L, (int)luaL_checkinteger(L, 1), luaL_checkstring(L, 2),
                     luaL_optstring(L, 3, NULL));
  return 1;
}

static int l_step(lua_State *L) {
  int status = api->step(L, luaL_checknumber(L, 1));
  lua_pushinteger(L, status);
  if (status == LUA_OK) return 1;
  lua_insert(L, -2);
  return 2;
}

static int l_host(lua_State *L) { /* -> fd, next_timeout, alive */
  lua_pushinteger(L, api->fd(L));
  lua_pushnumber(L, api->next_timeout(L));
  lua_pushinteger(L, api->alive(L));
  return 3;
}

/* ---- the counts ---- */

static void set_count(lua_State *L, const char *name, atomic_int *count) {
  lua_pushinteger(L, atomic_exchange(count, 0));
  lua_setfield(L, -2, name);
}

/* Since the last call. */
static int l_counts(lua_State *L) {
  lua_newtable(L);
  set_count(L, "pushed", &counts.pushed);
  set_count(L, "dropped", &counts.dropped);
  set_count(L, "cancelled", &counts.cancelled);
  set_count(L, "worked", &counts.worked);
  set_count(L, "called", &counts.called);
  return 1;
}

static int l_info(lua_State *L) { /* -> version, size, size of the header's structure */
  lua_pushinteger(L, (lua_Integer)api->version);
  lua_pushinteger(L, (lua_Integer)api->size);
  lua_pushinteger(L, (lua_Integer)sizeof *api);
  lua_pushboolean(L, CONCUR_API_HAS(api, alive));
  return 4;
}

/* ---- misuse: a state that has no concur ---- */

static int foreign_future(lua_State *S) {
  (void)api->future_new(S, NULL);
  return 0;
}

static int foreign_submit(lua_State *S) {
  api->submit(S, job_work, job_done, job_drop, calloc(1, sizeof(job)), NULL);
  return 0;
}

/* foreign() -> messages of future_new, submit, step; fd, next_timeout, alive */
static int l_foreign(lua_State *L) {
  lua_State *S = luaL_newstate();
  if (S == NULL) return luaL_error(L, "not enough memory");
  lua_pushcfunction(S, foreign_future);
  (void)lua_pcall(S, 0, 0, 0);
  lua_pushcfunction(S, foreign_submit);
  (void)lua_pcall(S, 0, 0, 0);
  (void)api->step(S, 0);
  for (int i = 1; i <= 3; i++) lua_pushstring(L, lua_tostring(S, i));
  lua_pushinteger(L, api->fd(S));
  lua_pushnumber(L, api->next_timeout(S));
  lua_pushinteger(L, api->alive(S));
  lua_close(S);
  return 6;
}

/* ---- misuse: calls from the wrong thread ---- */

typedef struct misuse {
  lua_State *L;
  concur_timer_ref *timer;
  const char *name;
} misuse;

static void misuse_run(void *argument) {
  misuse *self = argument;
  const char *name = self->name;
  lua_State *L = self->L;
  if (strcmp(name, "future_new") == 0) (void)api->future_new(L, NULL);
  if (strcmp(name, "submit") == 0) api->submit(L, job_work, NULL, NULL, NULL, NULL);
  if (strcmp(name, "await") == 0) (void)api->await(L, 1, 0, NULL);
  if (strcmp(name, "join") == 0) (void)api->join(L, 1, 0, NULL);
  if (strcmp(name, "cancel") == 0) (void)api->cancel(L, 1);
  if (strcmp(name, "loop") == 0) (void)api->loop(L);
  if (strcmp(name, "hold") == 0) api->hold(L);
  if (strcmp(name, "unhold") == 0) api->unhold(L);
  if (strcmp(name, "now") == 0) (void)api->now(L);
  if (strcmp(name, "timer_new") == 0) (void)api->timer_new(L, on_timer, NULL, 0);
  if (strcmp(name, "timer_set") == 0) (void)api->timer_set(self->timer, 1);
  if (strcmp(name, "timer_stop") == 0) api->timer_stop(self->timer);
  if (strcmp(name, "timer_free") == 0) api->timer_free(self->timer);
  if (strcmp(name, "fd_ready") == 0) api->fd_ready(L, 0, CONCUR_READABLE);
  if (strcmp(name, "push_error") == 0) api->push_error(L, "Closed", "");
  if (strcmp(name, "push_os_error") == 0) api->push_os_error(L, 2, "open", NULL);
  if (strcmp(name, "step") == 0) (void)api->step(L, 0);
  if (strcmp(name, "fd") == 0) (void)api->fd(L);
  if (strcmp(name, "next_timeout") == 0) (void)api->next_timeout(L);
  if (strcmp(name, "alive") == 0) (void)api->alive(L);
}

/* wrong_thread(name): calls the function of this name in another thread. */
static int l_wrong_thread(lua_State *L) {
  misuse self = {L, api->timer_new(L, on_timer, NULL, 0), luaL_checkstring(L, 1)};
  call_in(L, 1, misuse_run, &self);
  return 0;
}

int luaopen_capi_probe(lua_State *L);

int luaopen_capi_probe(lua_State *L) {
  static const luaL_Reg functions[] = {{"future", l_future},
                                       {"submit", l_submit},
                                       {"await", l_await},
                                       {"join", l_join},
                                       {"join_k", l_join_k},
                                       {"twice", l_twice},
                                       {"cancel", l_cancel},
                                       {"loop", l_loop},
                                       {"post", l_post},
                                       {"hold", l_hold},
                                       {"unhold", l_unhold},
                                       {"now", l_now},
                                       {"timer", l_timer},
                                       {"fd_ready", l_fd_ready},
                                       {"pipe", l_pipe},
                                       {"write", l_write},
                                       {"push_error", l_push_error},
                                       {"push_os_error", l_push_os_error},
                                       {"step", l_step},
                                       {"host", l_host},
                                       {"counts", l_counts},
                                       {"info", l_info},
                                       {"foreign", l_foreign},
                                       {"wrong_thread", l_wrong_thread},
                                       {NULL, NULL}};
  static const luaL_Reg handle_methods[] = {
      {"settle", l_settle},       {"fail", l_fail},     {"settle_cancelled", l_settle_cancelled},
      {"cancelled", l_cancelled}, {"retain", l_retain}, {"release", l_release},
      {"__gc", l_release},        {NULL, NULL}};
  static const luaL_Reg timer_methods[] = {{"set", l_timer_set},
                                           {"stop", l_timer_stop},
                                           {"free", l_timer_free},
                                           {"__gc", l_timer_free},
                                           {NULL, NULL}};
  api = concur_api_get(L);
  luaL_newmetatable(L, "capi_probe.handle");
  luaL_setfuncs(L, handle_methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, "capi_probe.timer");
  luaL_setfuncs(L, timer_methods, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  luaL_newmetatable(L, "capi_probe.pipe");
  lua_pushcfunction(L, l_pipe_close);
  lua_setfield(L, -2, "__close");
  lua_pushcfunction(L, l_pipe_close);
  lua_setfield(L, -2, "__gc");
  luaL_newmetatable(L, "capi_probe.loop");
  lua_pushcfunction(L, l_loop_gc);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, functions);
  return 1;
}
