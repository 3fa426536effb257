/* SPDX-License-Identifier: MIT */
/*
 * See worker.h.  Every step that touches Lua, the making of the state included, runs under a
 * protected call; what fails there becomes the outcome of the call that is at work.
 */
#include "worker.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "environment.h"
#include "fiber.h"
#include "interrupt.h"
#include "platform.h"
#include "run.h"
#include "transfer.h"

const char *concur_call_title(const concur_call *call) {
  return call->name != NULL ? call->name : "a job";
}

/* ---- functions that behave differently in a worker ---- */

/* print, with the whole line in one write: lines of several workers do not mix. */
static int l_print(lua_State *L) {
  int count = lua_gettop(L);
  luaL_Buffer line;
  luaL_buffinit(L, &line);
  for (int i = 1; i <= count; i++) {
    if (i > 1) luaL_addchar(&line, '\t');
    (void)luaL_tolstring(L, i, NULL);
    luaL_addvalue(&line);
  }
  luaL_addchar(&line, '\n');
  luaL_pushresult(&line);
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  (void)fwrite(text, 1, size, stdout);
  (void)fflush(stdout);
  return 0;
}

static void report_exit(const concur_worker *worker, int code) {
  const concur_call *call = worker->call;
  bool named = call != NULL && call->name != NULL;
  (void)fprintf(stderr,
                "concur: os.exit(%d) was called by %s%s%s in a worker of %s: the program ends\n", code, named ? "job '" : "", call != NULL ? concur_call_title(call) : "the pool's init",
                named ? "'" : "", worker->settings->name);
}

/* os.exit: ends the program and says who did it.  The other threads are not waited for, and exit()
   would run clean-up that they may be using.  In a worker process it ends only that, and the pool says
   so. */
static int l_exit(lua_State *L) {
  const concur_worker *worker = lua_touserdata(L, lua_upvalueindex(1));
  int code = lua_isboolean(L, 1) ? (lua_toboolean(L, 1) ? EXIT_SUCCESS : EXIT_FAILURE)
                                 : (int)luaL_optinteger(L, 1, EXIT_SUCCESS);
  if (!worker->settings->kind->flat) report_exit(worker, code);
  (void)fflush(stdout);
  (void)fflush(stderr);
  _Exit(code);
}

static void replace_functions(lua_State *L, concur_worker *worker) {
  lua_pushcfunction(L, l_print);
  lua_setglobal(L, "print");
  lua_getglobal(L, "os");
  lua_pushlightuserdata(L, worker);
  lua_pushcclosure(L, l_exit, 1);
  lua_setfield(L, -2, "exit");
  lua_pop(L, 1);
}

/* ---- the loop of a worker ---- */

/* [any place in the worker's thread] The state's loop was made: the first wait of a call. */
static void on_loop_made(concur_runtime *runtime, concur_loop *loop);

static void on_blocking(concur_loop *loop, bool begins) {
  concur_worker *worker = loop->runtime->worker;
  /* Only who waits for other jobs makes room for them: sleeping and I/O end by themselves. */
  if (begins ? loop->external_refs > 0 : worker->thread->blocked) {
    concur_pool_block(worker->thread, begins);
  }
}

/* The running call, which has a loop, is asked to stop. */
static void worker_stop(concur_worker *worker) {
  concur_scope_cancel(worker->scope);
  concur_interrupt_look(worker);
}

/* Lets the running call be reached through its loop; a cancellation that came before counts. */
static void worker_listen(concur_worker *worker) {
  concur_scheduler *scheduler = worker->runtime->scheduler;
  if (scheduler->loop == NULL || worker->call == NULL) return;
  if (concur_thread_set_mailbox(worker->thread, scheduler->loop->mailbox) &&
      worker->scope != NULL) {
    worker_stop(worker);
  }
}

static void on_loop_made(concur_runtime *runtime, concur_loop *loop) {
  loop->blocking = on_blocking;
  concur_timer_init(&runtime->worker->look); /* it was in the loop before, if there was one */
  worker_listen(runtime->worker);
}

void concur_worker_on_cancel(concur_mail *mail, void *owner) {
  concur_call *call = concur_container_of(mail, concur_call, job.cancel_mail);
  concur_loop *loop = owner;
  concur_worker *worker = loop->runtime->worker;
  if (worker != NULL && worker->call == call && worker->scope != NULL) worker_stop(worker);
  concur_job_release(&call->job);
}

void concur_worker_drop_cancel(concur_mail *mail) {
  concur_job_release(&concur_container_of(mail, concur_call, job.cancel_mail)->job);
}

/* ---- making a state ---- */

/* Argument: the worker.  Opens the libraries and concur. */
static int l_bootstrap(lua_State *L) {
  concur_worker *worker = lua_touserdata(L, 1);
  luaL_openlibs(L);
  luaL_requiref(L, "concur.core", luaopen_concur_core, 0);
  lua_pop(L, 1);
  worker->runtime = concur_runtime_find(L);
  worker->runtime->worker = worker;
  worker->runtime->loop_made = on_loop_made;
  replace_functions(L, worker);
  concur_interrupt_open(L, worker);
  size_t limit = worker->settings->message_limit;
  if (limit != 0) concur_transfer_set_limit(L, limit);
  concur_environment_apply(L, worker->settings);
  return 0;
}

static int l_init(lua_State *L) {
  concur_worker *worker = lua_touserdata(L, 1);
  (void)concur_decode(L, worker->settings->init);
  lua_call(L, 0, 0);
  return 0;
}

/* ---- errors on their way out ---- */

static int l_tostring(lua_State *L) {
  (void)luaL_tolstring(L, 1, NULL);
  return 1;
}

/* Pushes the text of the error at index 1, whatever its __tostring does. */
static void push_error_text(lua_State *L) {
  lua_pushcfunction(L, l_tostring);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK) return;
  lua_pop(L, 1);
  lua_pushfstring(L, "(a %s whose __tostring fails)", luaL_typename(L, 1));
}

/* Pushes where the error at index 1 was raised first: a string, or nil. */
static void push_error_traceback(lua_State *L, const concur_runtime *runtime) {
  concur_fiber_push_trace(L, &runtime->scheduler->top, 1);
  if (lua_isnil(L, -1) && concur_error_test(L, runtime, 1)) {
    lua_pop(L, 1);
    lua_pushliteral(L, "traceback");
    lua_rawget(L, 1);
  }
}

/* How values leave this state: to another thread, or to the process that started this one. */
static concur_encode_mode way_out(const concur_worker *worker) {
  return worker->settings->kind->flat ? CONCUR_ENCODE_FLAT : CONCUR_ENCODE_SHARED;
}

/* Arguments: the error, whether its value crosses.  Returns a message, as light userdata, of:
   is_library, error, text, traceback. */
static int l_encode_error(lua_State *L) {
  concur_runtime *runtime = concur_runtime_find(L);
  bool with_value = lua_toboolean(L, 2);
  lua_pushboolean(L, with_value && concur_error_test(L, runtime, 1));
  if (with_value) {
    lua_pushvalue(L, 1);
  } else {
    lua_pushnil(L);
  }
  push_error_text(L);
  push_error_traceback(L, runtime);
  lua_pushlightuserdata(L, concur_encode_as(L, 3, 4, "error", way_out(runtime->worker)));
  return 1;
}

/* The error on top of the stack, popped, as a message.  Its value is left out when it cannot cross;
   NULL when memory is too short. */
static concur_message *take_error(lua_State *L) {
  concur_message *message = NULL;
  int index = lua_gettop(L);
  for (int with_value = 1; with_value >= 0 && message == NULL; with_value--) {
    lua_pushcfunction(L, l_encode_error);
    lua_pushvalue(L, index);
    lua_pushboolean(L, with_value);
    if (lua_pcall(L, 2, 1, 0) == LUA_OK) message = lua_touserdata(L, -1);
    lua_settop(L, index);
  }
  lua_pop(L, 1);
  return message;
}

/* ---- a worker's life ---- */

static void worker_free(void *local) {
  concur_worker *worker = local;
  concur_state_memory_use_reserve(&worker->memory);
  if (worker->L != NULL) lua_close(worker->L);
  concur_state_memory_free(&worker->memory);
  concur_worker_settings_release(worker->settings);
  free(worker);
}

/* Calls a function with the worker as its argument, protected, with tracebacks. */
static int worker_pcall(concur_worker *worker, lua_CFunction function) {
  lua_State *L = worker->L;
  lua_settop(L, 0);
  lua_pushcfunction(L, concur_traceback_handler);
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, worker);
  return lua_pcall(L, 1, LUA_MULTRET, 1);
}

/* True if the error on top of the stack says that memory was short: that passes, and breaks no
   pool. */
static bool is_memory_error(lua_State *L, int status) {
  if (status == LUA_ERRMEM) return true;
  return lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "not enough memory") == 0;
}

static lua_State *state_new(concur_state_memory *memory) {
#if LUA_VERSION_NUM >= 505
  return lua_newstate(concur_state_allocate, memory, luaL_makeseed(NULL));
#else
  return lua_newstate(concur_state_allocate, memory);
#endif
}

/* A new worker for the thread; NULL when memory is too short for one.  When its init fails, the
   pool is marked as broken. */
static concur_worker *worker_new(concur_worker_settings *settings, concur_thread *thread) {
  concur_worker *worker = calloc(1, sizeof *worker);
  if (worker == NULL) return NULL;
  bool has_memory = concur_state_memory_init(&worker->memory);
  concur_timer_init(&worker->look);
  worker->thread = thread;
  worker->settings = settings;
  concur_worker_settings_retain(worker->settings);
  char title[32];
  (void)snprintf(title, sizeof title, "%.24s-%u", worker->settings->name, (unsigned)thread->number);
  concur_platform_name_thread(title);
  if (has_memory) worker->L = state_new(&worker->memory);
  if (worker->L == NULL) goto fail;
  lua_pushcfunction(worker->L, l_bootstrap);
  lua_pushlightuserdata(worker->L, worker);
  int status = lua_pcall(worker->L, 1, 0, 0);
  if (status == LUA_OK && worker->settings->init != NULL) status = worker_pcall(worker, l_init);
  if (status != LUA_OK) {
    if (worker->runtime == NULL || is_memory_error(worker->L, status)) goto fail;
    concur_worker_settings_break(worker->settings, take_error(worker->L));
  }
  lua_settop(worker->L, 0);
  worker->memory.limit = worker->settings->max_memory;
  return worker;
fail:
  worker_free(worker);
  return NULL;
}

/* ---- running a call ---- */

/* Replaces "module.function" at `index`, the top of the stack, by the function. */
static void resolve_name(lua_State *L, int index) {
  const char *name = lua_tostring(L, index);
  const char *dot = strrchr(name, '.');
  if (dot == NULL) {
    if (lua_getglobal(L, name) == LUA_TFUNCTION) {
      lua_replace(L, index);
      return;
    }
    luaL_error(L, "there is no global function '%s' in the worker (write 'module.function')", name);
  }
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushlstring(L, name, (size_t)(dot - name));
  if (lua_gettable(L, -2) == LUA_TNIL) {
    lua_getglobal(L, "require");
    lua_pushlstring(L, name, (size_t)(dot - name));
    lua_call(L, 1, 1);
  }
  if (!lua_istable(L, -1) || lua_getfield(L, -1, dot + 1) == LUA_TNIL) {
    lua_pushlstring(L, name, (size_t)(dot - name));
    luaL_error(L, "module '%s' has no function '%s'", lua_tostring(L, -1), dot + 1);
  }
  lua_replace(L, index);
  lua_settop(L, index);
}

/* Pushes the values of the call's message; returns how many. */
static int push_message(lua_State *L, concur_call *call) {
  if (atomic_load(&call->loan) == CONCUR_LOAN_NONE) return concur_decode(L, call->input);
  if (!concur_call_loan_begin(call)) luaL_error(L, "the state that submitted the call has closed");
  concur_borrowed_copy(L, call->input);
  concur_call_loan_end(call);
  int copies = lua_gettop(L);
  int count = concur_decode_copied(L, call->input, copies);
  lua_remove(L, copies);
  return count;
}

/* Pushes the call's function and arguments on the empty stack above index 1; returns how many. */
static int push_input(lua_State *L, concur_worker *worker, concur_call *call) {
  if (call->function != NULL) {
    luaL_checkstack(L, CONCUR_INLINE_VALUES + 4, NULL);
    concur_function_push(L, &worker->known, call->function);
    if (call->arguments.count >= 0) return 1 + concur_inline_push(L, &call->arguments);
    return 1 + push_message(L, call);
  }
  int count = push_message(L, call);
  if (lua_type(L, 2) == LUA_TSTRING) {
    lua_pushvalue(L, 2);
    resolve_name(L, lua_gettop(L));
    lua_replace(L, 2);
  }
  return count;
}

static void leave_scope(lua_State *L, concur_worker *worker) {
  concur_scope *scope = worker->scope;
  worker->scope = NULL;
  if (scope != NULL) {
    (void)concur_scope_leave(L, &worker->runtime->scheduler->top, scope);
  }
}

/* Argument: the worker.  Decodes, calls, encodes the results. */
static int l_call(lua_State *L) {
  concur_worker *worker = lua_touserdata(L, 1);
  concur_call *call = worker->call;
  int count = push_input(L, worker, call);
  call->results.count = -1; /* in the place of the arguments */
  if (call->retries == 0 && call->input != NULL) {
    concur_message_free(call->input); /* the results may need the memory */
    call->input = NULL;
  }
  worker->scope = concur_scope_enter(L, &worker->runtime->scheduler->top);
  worker_listen(worker);
  concur_interrupt_begin(worker);
  lua_call(L, count - 1, LUA_MULTRET);
  concur_interrupt_end(worker);
  int results = lua_gettop(L) - 1;
  if (!concur_inline_take(L, 2, results, &call->results)) {
    concur_encode_mode mode = way_out(worker);
    concur_encode_options options = {
        .what = "result",
        .number = 1,
        .mode = mode,
        .pins = mode == CONCUR_ENCODE_SHARED ? &worker->memory : NULL,
    };
    call->output = concur_encode_with(L, 2, results, &options);
  }
  call->outcome = CONCUR_CALL_RESULTS;
  if (worker->runtime->scheduler->task_count == 0) leave_scope(L, worker);
  return 0;
}

static const char end_hook_key; /* registry: the function of concur_worker_at_end */

void concur_worker_at_end(lua_State *L, concur_worker *worker) {
  lua_rawsetp(L, LUA_REGISTRYINDEX, &end_hook_key);
  worker->has_end_hook = true;
}

/* Arguments: the worker.  After the call: leaves its scope, ends what it left behind. */
static int l_leave(lua_State *L) {
  concur_worker *worker = lua_touserdata(L, 1);
  concur_scheduler *scheduler = worker->runtime->scheduler;
  if (scheduler->task_count > 0) concur_run_end_tasks(L, worker->runtime);
  leave_scope(L, worker);
  concur_fiber_clear_trace(L, &scheduler->top);
  if (worker->has_end_hook) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &end_hook_key);
    lua_call(L, 0, 0);
  }
  return 0;
}

/* Argument: the limit. */
static int l_memory_text(lua_State *L) {
  lua_pushfstring(L, "not enough memory: the worker's state has reached max_memory (%I bytes)",
                  (LUAI_UACINT)lua_tointeger(L, 1));
  return 1;
}

/* True if the error on top of the stack comes from the limit.  That the limit was hit says nothing:
   the collector, or the job itself, may have coped with it. */
static bool is_limit_error(lua_State *L, const concur_worker *worker) {
  return worker->memory.hit_limit && lua_type(L, -1) == LUA_TSTRING &&
         strstr(lua_tostring(L, -1), "not enough memory") != NULL;
}

/* The error of the call is on top of the stack; popped. */
static void call_failed(concur_worker *worker, concur_call *call) {
  lua_State *L = worker->L;
  uint64_t scope_id = worker->scope != NULL ? worker->scope->id : 0;
  concur_message_free(call->output);
  call->output = NULL;
  if (scope_id != 0 && concur_cancelled_id(L, worker->runtime, -1) == scope_id) {
    call->outcome = CONCUR_CALL_CANCELLED;
    lua_pop(L, 1);
    return;
  }
  call->outcome = CONCUR_CALL_ERROR;
  size_t limit = worker->memory.limit;
  worker->memory.limit = 0; /* the report must not fail for the same reason */
  if (is_limit_error(L, worker)) {
    lua_pop(L, 1);
    lua_pushcfunction(L, l_memory_text);
    lua_pushinteger(L, (lua_Integer)limit);
    (void)lua_pcall(L, 1, 1, 0);
  }
  call->output = take_error(L);
  worker->memory.limit = limit;
}

static void worker_leave(concur_worker *worker) {
  concur_interrupt_resume(worker);
  if (worker_pcall(worker, l_leave) != LUA_OK) worker->worn = true;
  concur_interrupt_end(worker);
}

static void worker_call_once(concur_worker *worker, concur_call *call) {
  lua_State *L = worker->L;
  worker->memory.hit_limit = false;
  concur_message_free(call->output); /* of the try before */
  call->output = NULL;
  bool failed = worker_pcall(worker, l_call) != LUA_OK;
  if (failed) {
    concur_interrupt_end(worker);
    concur_call_loan_end(call);
    call_failed(worker, call);
  }
  if (failed || worker->scope != NULL || worker->has_end_hook) worker_leave(worker);
  concur_interrupt_look_no_more(worker);
  lua_settop(L, 0);
}

/* Argument: the worker.  Raises Cancelled when the call is asked to stop meanwhile. */
static int l_pause(lua_State *L) {
  concur_worker *worker = lua_touserdata(L, 1);
  worker->scope = concur_scope_enter(L, &worker->runtime->scheduler->top);
  worker_listen(worker);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "concur.core");
  lua_getfield(L, -1, "sleep");
  lua_pushnumber(L, (lua_Number)worker->pause_ms / 1000);
  lua_call(L, 1, 0);
  leave_scope(L, worker);
  return 0;
}

/* Waits before the next try; false when there is not to be one. */
static bool worker_pause(concur_worker *worker, concur_call *call, uint32_t delay_ms) {
  if (delay_ms == 0) return true;
  worker->pause_ms = delay_ms;
  bool stopped = worker_pcall(worker, l_pause) != LUA_OK;
  if (stopped) {
    call_failed(worker, call);
    worker_leave(worker);
  }
  concur_interrupt_look_no_more(worker);
  lua_settop(worker->L, 0);
  return !stopped;
}

static void worker_call(concur_worker *worker, concur_call *call) {
  uint32_t delay_ms = 0;
  worker->call = call;
  do {
    worker_call_once(worker, call);
  } while (!worker->worn && concur_call_again(call, &delay_ms) &&
           worker_pause(worker, call, delay_ms));
  worker->call = NULL;
  worker->calls++;
  uint32_t limit = worker->settings->max_jobs;
  if (worker->memory.hit_limit || (limit != 0 && worker->calls >= limit)) worker->worn = true;
}

bool concur_worker_prepare(concur_worker_settings *settings, concur_thread *thread) {
  if (thread->local == NULL && !atomic_load(&settings->broken)) {
    thread->local = worker_new(settings, thread);
    thread->local_free = worker_free;
  }
  return thread->local != NULL && !atomic_load(&settings->broken);
}

void concur_worker_run(concur_job *job, concur_thread *thread) {
  concur_call *call = concur_container_of(job, concur_call, job);
  bool prepared = concur_worker_prepare(call->settings, thread);
  if (atomic_load(&call->settings->broken)) {
    call->output = concur_worker_settings_cause(call->settings);
    call->outcome = CONCUR_CALL_BROKEN;
    return;
  }
  if (!prepared) {
    call->outcome = CONCUR_CALL_ERROR; /* no output: out of memory */
    return;
  }
  concur_worker *worker = thread->local;
  worker_call(worker, call);
  if (worker->worn) {
    thread->local = NULL;
    worker_free(worker);
  }
}
