/* SPDX-License-Identifier: MIT */
/*
 * The test host: a small Lua interpreter whose memory allocator can fail on demand.
 *
 *     testhost script.lua [arguments]
 *
 * The specs use it in two ways.  spec/oom_spec.lua lets the n-th allocation of a scenario fail, for
 * every n, which the stock interpreter cannot do.  And `make asan` and `make tsan` build it with
 * the sanitizer and run the whole suite in it, which spares LD_PRELOAD and so leaves the shells and
 * compilers that the specs start alone.  It behaves like lua(1) where that matters: `arg`, LUA_INIT,
 * SIGINT, the traceback, the exit code.
 *
 * Scripts find one function more:
 *
 *     testhost.run(code, n, times, functions, errno)
 *         Runs `code` in a new state of its own with all libraries.  After its first call of the
 *         global function arm(), the n-th allocation (from 1) fails, and so do the ones after it:
 *         `times` in all, or every one until disarm() when times is nil.  The new state is closed
 *         before this returns failed, ok, message: how many allocations failed, and what pcall of
 *         the code said.  With `functions`, names between spaces, not the state's allocations fail
 *         but calls of these by concur and libuv (faults.h), with `errno` where they set one.
 *     testhost.fail(functions, n, times, errno), testhost.fail()
 *         The same for this state: begins such a plan, and ends it; then returns how many failed.
 *     testhost.fail_randomly(functions, one_in, seed)
 *         Each call of these fails with this chance, until testhost.fail() ends it.
 *     testhost.blocks()
 *         How many blocks of memory concur and libuv hold (in the fault-injection build).
 *     testhost.delay(seed or nil)
 *         Threads are held up at their synchronisation points, as the seed says (also there).
 *     testhost.fork()
 *         As fork(2): 0 in the child, its process id in the parent.
 *     testhost.wait()
 *         Waits for a child; returns its exit code, or 128 + the signal that ended it.
 *     testhost.handle(signal)
 *         Installs a handler that counts this signal (a number).
 *     testhost.handled()
 *         How many have come.
 *
 * Single-threaded, as far as this file goes: an allocator belongs to the thread of its state, and a
 * plan is begun and ended where no job is in flight.
 */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faults.h"

/* What the allocator of one state knows.  Lives as long as the state. */
struct allocator {
  size_t live;        /* bytes that the state holds */
  lua_Integer arm_at; /* what arm() sets `until` to */
  lua_Integer until;  /* allocations until one fails; 0: never */
  lua_Integer times;  /* how many will fail then; negative: all */
  lua_Integer failed; /* how many failed so far */
  fault_plan plan;    /* what arm() begins instead, if `functions` is set */
};

/* Lua counts on shrinking and freeing to succeed, so only growth can fail. */
static int allocator_refuses(struct allocator *allocator, const void *block, size_t old_size,
                             size_t size) {
  if (allocator->until == 0) return 0;
  if (block != NULL && size <= old_size) return 0;
  if (allocator->until > 1) {
    allocator->until--;
    return 0;
  }
  if (allocator->times == 0) return 0;
  if (allocator->times > 0) allocator->times--;
  allocator->failed++;
  return 1;
}

static void *allocate(void *user, void *block, size_t old_size, size_t size) {
  struct allocator *allocator = user;
  size_t old = block == NULL ? 0 : old_size; /* of a new block, old_size is its type */
  if (size == 0) {
    free(block);
    allocator->live -= old;
    return NULL;
  }
  if (allocator_refuses(allocator, block, old_size, size)) return NULL;
  void *moved = realloc(block, size);
  if (moved == NULL) return NULL;
  allocator->live += size - old;
  return moved;
}

static lua_State *new_state(struct allocator *allocator) {
#if LUA_VERSION_NUM >= 505
  return lua_newstate(allocate, allocator, luaL_makeseed(NULL));
#else
  return lua_newstate(allocate, allocator);
#endif
}

static struct allocator *allocator_of(lua_State *L) {
  void *user = NULL;
  (void)lua_getallocf(L, &user);
  return user;
}

/* arm(): from here on allocations count. */
static int l_arm(lua_State *L) {
  struct allocator *allocator = allocator_of(L);
  if (allocator->plan.functions != NULL) {
    faults_begin(&allocator->plan);
  } else {
    allocator->until = allocator->arm_at;
  }
  return 0;
}

static void allocator_disarm(struct allocator *allocator) {
  allocator->until = 0;
  if (allocator->plan.functions != NULL) allocator->failed = faults_end();
}

/* disarm(): allocations and calls succeed again.  Returns how many failed. */
static int l_disarm(lua_State *L) {
  struct allocator *allocator = allocator_of(L);
  allocator_disarm(allocator);
  lua_pushinteger(L, allocator->failed);
  return 1;
}

typedef struct source {
  const char *text;
  size_t length;
} source;

/* Opens the libraries and returns the function that the source at 1 (light userdata) defines. */
static int load_source(lua_State *L) {
  const source *code = lua_touserdata(L, 1);
  luaL_openlibs(L);
  lua_register(L, "arm", l_arm);
  lua_register(L, "disarm", l_disarm);
  if (luaL_loadbuffer(L, code->text, code->length, "=scenario") != LUA_OK) return lua_error(L);
  return 1;
}

/* Runs `code` in the fresh state S, leaves the error message on its stack.  True on success. */
static int run_source(lua_State *S, const source *code) {
  lua_pushcfunction(S, load_source);
  lua_pushlightuserdata(S, (void *)(uintptr_t)code);
  if (lua_pcall(S, 1, 1, 0) != LUA_OK) return 0;
  int ok = lua_pcall(S, 0, 0, 0) == LUA_OK;
  allocator_disarm(allocator_of(S));
  return ok;
}

/* Pushes the message at the top of S, as a string, onto L. */
static void push_message(lua_State *L, lua_State *S) {
  if (luaL_callmeta(S, -1, "__tostring") || lua_isstring(S, -1)) {
    lua_pushstring(L, lua_tostring(S, -1));
  } else {
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(S, -1));
  }
}

static int l_run(lua_State *L) {
  source code = {NULL, 0};
  code.text = luaL_checklstring(L, 1, &code.length);
  struct allocator allocator = {
      .arm_at = luaL_checkinteger(L, 2),
      .times = luaL_optinteger(L, 3, -1),
  };
  allocator.plan = (fault_plan){
      .functions = luaL_optstring(L, 4, NULL),
      .n = allocator.arm_at,
      .times = allocator.times,
      .error = (int)luaL_optinteger(L, 5, 0),
  };
  luaL_argcheck(L, allocator.arm_at > 0, 2, "must be positive");
  lua_State *S = new_state(&allocator);
  if (S == NULL) return luaL_error(L, "no memory for a state");
  int ok = run_source(S, &code);
  lua_Integer failed = allocator.failed;
  lua_settop(L, 4); /* the names are still in use */
  lua_pushinteger(L, failed);
  lua_pushboolean(L, ok);
  if (!ok) push_message(L, S);
  lua_close(S);
  if (allocator.live != 0) return luaL_error(L, "the state left %d bytes", (int)allocator.live);
  return lua_gettop(L) - 4;
}

/* A copy of the names at index 1, for a plan of this state. */
static const char *check_functions(lua_State *L) {
  static char functions[1024];
  size_t length;
  const char *names = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length < sizeof functions, 1, "too long");
  (void)faults_end(); /* the plan before may read them */
  memcpy(functions, names, length + 1);
  return functions;
}

static int l_fail(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    lua_pushinteger(L, (lua_Integer)faults_end());
    return 1;
  }
  fault_plan plan = {
      .functions = check_functions(L),
      .n = luaL_checkinteger(L, 2),
      .times = luaL_optinteger(L, 3, -1),
      .error = (int)luaL_optinteger(L, 4, 0),
  };
  luaL_argcheck(L, plan.n > 0, 2, "must be positive");
  faults_begin(&plan);
  return 0;
}

static int l_fail_randomly(lua_State *L) {
  lua_Integer one_in = luaL_checkinteger(L, 2);
  luaL_argcheck(L, one_in > 0, 2, "must be positive");
  fault_plan plan = {
      .functions = check_functions(L),
      .one_in = (uint64_t)one_in,
      .seed = (uint64_t)luaL_checkinteger(L, 3),
  };
  faults_begin(&plan);
  return 0;
}

static int l_blocks(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)faults_blocks());
  return 1;
}

static int l_delay(lua_State *L) {
  faults_set_delays((uint64_t)luaL_optinteger(L, 1, 0));
  return 0;
}

static int l_fork(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)fork());
  return 1;
}

static int l_wait(lua_State *L) {
  int status = 0;
  if (wait(&status) < 0) return luaL_error(L, "there is no child");
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 1;
}

static volatile sig_atomic_t signals_handled;

static void on_signal(int number) {
  (void)number;
  signals_handled = signals_handled + 1;
}

static int l_handle(lua_State *L) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  if (sigaction((int)luaL_checkinteger(L, 1), &action, NULL) != 0) {
    return luaL_error(L, "cannot handle this signal");
  }
  return 0;
}

static int l_handled(lua_State *L) {
  lua_pushinteger(L, signals_handled);
  return 1;
}

static const luaL_Reg functions[] = {
    {"run", l_run},
    {"fail", l_fail},
    {"fail_randomly", l_fail_randomly},
    {"delay", l_delay},
    {"blocks", l_blocks},
    {"fork", l_fork},
    {"wait", l_wait},
    {"handle", l_handle},
    {"handled", l_handled},
    {NULL, NULL},
};

/* --- The interpreter --- */

static lua_State *interrupted_state; /* whose loop Ctrl-C interrupts */

static void raise_interrupted(lua_State *L, lua_Debug *record) {
  (void)record;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted!");
}

static void on_sigint(int number) {
  (void)signal(number, SIG_DFL); /* a second one ends the process */
  /* NOLINTNEXTLINE(bugprone-signal-handler,cert-sig30-c): Lua allows it, and lua.c does it */
  lua_sethook(interrupted_state, raise_interrupted,
              LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

static int add_traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  if (message == NULL) {
    if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) return 1;
    message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  }
  luaL_traceback(L, L, message, 1);
  return 1;
}

/* Calls the function below its `arguments`, under Ctrl-C.  Reports an error; true on success. */
static int call_and_report(lua_State *L, int arguments) {
  int handler = lua_gettop(L) - arguments;
  lua_pushcfunction(L, add_traceback);
  lua_insert(L, handler);
  interrupted_state = L;
  (void)signal(SIGINT, on_sigint);
  int status = lua_pcall(L, arguments, 0, handler);
  (void)signal(SIGINT, SIG_DFL);
  if (status != LUA_OK) {
    const char *message = lua_tostring(L, -1);
    fprintf(stderr, "testhost: %s\n", message != NULL ? message : "(no message)");
    lua_pop(L, 1);
  }
  lua_remove(L, handler);
  return status == LUA_OK;
}

static void set_arg(lua_State *L, int argc, char **argv) {
  lua_createtable(L, argc, 1);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i - 1);
  }
  lua_setglobal(L, "arg");
}

static int run_init(lua_State *L) {
  const char *init = getenv("LUA_INIT");
  if (init == NULL) return 1;
  if (luaL_loadbuffer(L, init, strlen(init), "=LUA_INIT") != LUA_OK) return 0;
  return call_and_report(L, 0);
}

/* Never raises; true if the script ran to its end. */
static int run_script(lua_State *L, int argc, char **argv) {
  luaL_openlibs(L);
  luaL_newlib(L, functions);
  lua_setglobal(L, "testhost");
  set_arg(L, argc, argv);
  if (!run_init(L)) return 0;
  if (luaL_loadfile(L, argv[1]) != LUA_OK) {
    fprintf(stderr, "testhost: %s\n", lua_tostring(L, -1));
    return 0;
  }
  luaL_checkstack(L, argc, "too many arguments");
  for (int i = 2; i < argc; i++) lua_pushstring(L, argv[i]);
  return call_and_report(L, argc - 2);
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: %s script.lua [arguments]\n", argv[0]);
    return EXIT_FAILURE;
  }
  struct allocator allocator = {0};
  lua_State *L = new_state(&allocator);
  if (L == NULL) return EXIT_FAILURE;
  int ok = run_script(L, argc, argv);
  lua_close(L);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
