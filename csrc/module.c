/* SPDX-License-Identifier: MIT */
/* luaopen_concur_core: makes the runtime of this Lua state and lets each part register itself. */
#ifndef _WIN32
#include <dlfcn.h>
#endif

#include "await.h"
#include "callback.h"
#include "capi.h"
#include "connect.h"
#include "context_var.h"
#include "dns.h"
#include "event.h"
#include "executor.h"
#include "generator.h"
#include "group.h"
#include "hooks.h"
#include "join.h"
#include "listener.h"
#include "lock.h"
#include "parking.h"
#include "process_class.h"
#include "process_pool_class.h"
#include "queue.h"
#include "raw_socket.h"
#include "run.h"
#include "select.h"
#include "semaphore.h"
#include "settings.h"
#include "shared_buffer.h"
#include "signal_receiver.h"
#include "sleep.h"
#include "socket.h"
#include "stream.h"
#include "suspend.h"
#include "terminal.h"
#include "transfer.h"
#include "udp.h"
#include "wait_fd.h"
#include "watch.h"

#if defined(_WIN32)
#define CONCUR_EXPORT __declspec(dllexport)
#else
#define CONCUR_EXPORT __attribute__((visibility("default")))
#endif

CONCUR_EXPORT int luaopen_concur_core(lua_State *L);

static char core_key; /* registry: the table that luaopen returned */

/* Threads may outlive the Lua state that loaded this module: its code must stay mapped. */
static void pin_module(void) {
#ifndef _WIN32
  Dl_info info;
  if (dladdr((void *)&core_key, &info) != 0 && info.dli_fname != NULL) {
    (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE | RTLD_NOLOAD);
  }
#endif
}

static int l_suspend(lua_State *L) {
  return lua_yield(L, 0);
}

static int l_close_suspending(lua_State *L) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushcfunction(L, l_suspend);
  lua_setfield(L, -2, "__close");
  lua_setmetatable(L, -2);
  lua_toclose(L, -1);
  return 0;
}

/* Before Lua 5.4.3 a __close metamethod cannot yield: no group could wait for its tasks at the end of
   its block, and the errors of those who try would be lost.  A Lua state does not know its release,
   and the one that runs need not be that of the headers.  (5.4.3 gets through: there only waiting in
   a finalizer is not refused.) */
static void check_release(lua_State *L) {
  lua_State *co = lua_newthread(L);
  lua_pushcfunction(co, l_close_suspending);
  int count;
  int status = lua_resume(co, L, 0, &count);
  if (status == LUA_ERRRUN) {
    luaL_error(L, "concur needs Lua 5.4.4 or later: in this one a <close> variable cannot wait");
  }
  if (status != LUA_YIELD) {
    lua_xmove(co, L, 1);
    lua_error(L);
  }
  lua_pop(L, 1);
}

static void set_extras(lua_State *L, concur_runtime *runtime) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->error_ref);
  lua_setfield(L, -2, "error_metatable");
  lua_pushcfunction(L, concur_traceback_handler);
  lua_setfield(L, -2, "traceback_handler");
  /* Methods that are written in Lua are added to these. */
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[CONCUR_CLASS_GROUP]);
  lua_getfield(L, -1, "__index");
  lua_setfield(L, -3, "group_methods");
  lua_pop(L, 1);
}

/* Puts the functions behind `__index` of an empty table: Lua names a function in messages after the
   first loaded module that holds it, and that shall be `concur`. */
static void hide_functions(lua_State *L) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_rotate(L, -3, -1);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

int luaopen_concur_core(lua_State *L) {
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &core_key) == LUA_TTABLE) return 1;
  pin_module();
  check_release(L);
  concur_runtime *runtime = concur_runtime_open(L);
  lua_createtable(L, 0, 96);
  concur_scheduler_open(L, runtime);
  concur_future_open(L, runtime);
  concur_task_open(L, runtime);
  concur_await_open(L, runtime);
  concur_sleep_open(L, runtime);
  concur_callback_open(L, runtime);
  concur_scope_open(L, runtime);
  concur_group_open(L, runtime);
  concur_join_open(L, runtime);
  concur_watch_open(L, runtime);
  concur_suspend_open(L, runtime);
  concur_context_var_open(L, runtime);
  concur_generator_open(L, runtime);
  concur_parking_open(L, runtime);
  concur_lock_open(L, runtime);
  concur_event_open(L, runtime);
  concur_semaphore_open(L, runtime);
  concur_queue_open(L, runtime);
  concur_select_open(L, runtime);
  concur_run_open(L, runtime);
  concur_settings_open(L, runtime);
  concur_capi_open(L, runtime);
  concur_hooks_open(L, runtime);
  concur_terminal_open(L, runtime);
  concur_transfer_open(L, runtime);
  concur_shared_buffer_open(L, runtime);
  concur_executor_open(L, runtime);
  concur_process_class_open(L, runtime);
  concur_process_pool_open(L, runtime);
  concur_stream_open(L, runtime);
  concur_socket_open(L, runtime);
  concur_wait_fd_open(L, runtime);
  concur_connect_open(L, runtime);
  concur_listener_open(L, runtime);
  concur_dns_open(L, runtime);
  concur_udp_open(L, runtime);
  concur_signal_open(L, runtime);
  concur_raw_socket_open(L, runtime);
  set_extras(L, runtime);
  hide_functions(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &core_key);
  return 1;
}
