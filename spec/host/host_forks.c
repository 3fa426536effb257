/* SPDX-License-Identifier: MIT */
/*
 * A host that forks while threads of pools are alive and busy.
 *
 *     host_forks SCRIPT CHILD TIMES
 *
 * SCRIPT defines start(), which sets its jobs going, and in_child(), which shows that concur refuses.
 * Forks TIMES times, in turn from the thread of the state and from another one.  CHILD is what the
 * child does: "leaves" it to exit(); "uses" calls in_child(); "closes" the state after that; "starts"
 * another state, which runs in_parent() as if nothing had been; "executes" this program again with
 * "none", to run in_parent(); "forks" once more, and that child uses and closes.  It must exit with
 * code 0; the parent goes on, and runs in_parent() at the end.
 */
#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LIMIT_S = 60 };

static lua_State *L;
static char **arguments;

static void die(const char *what) {
  fprintf(stderr, "host_forks: %s\n", what);
  _exit(1);
}

static void call(lua_State *state, const char *name) {
  lua_getglobal(state, name);
  if (lua_pcall(state, 0, 0, 0) != LUA_OK) die(luaL_tolstring(state, -1, NULL));
}

static lua_State *open_state(void) {
  lua_State *state = luaL_newstate();
  if (state == NULL) die("no memory");
  luaL_openlibs(state);
  if (luaL_dofile(state, arguments[1])) die(luaL_tolstring(state, -1, NULL));
  return state;
}

static void execute(void) {
  execl("/proc/self/exe", arguments[0], arguments[1], "none", "0", (char *)NULL);
  die("cannot execute");
}

static void wait_for(pid_t child) {
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) die("no child");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fprintf(stderr, "host_forks: the child ended with status %#x\n", (unsigned)status);
    _exit(1);
  }
}

/* What the child does. */
static _Noreturn void be_child(const char *what) {
  alarm(LIMIT_S); /* who hangs is ended, and seen */
  if (strcmp(what, "executes") == 0) execute();
  if (strcmp(what, "uses") == 0 || strcmp(what, "closes") == 0) call(L, "in_child");
  if (strcmp(what, "closes") == 0) lua_close(L);
  if (strcmp(what, "starts") == 0) {
    lua_State *fresh = open_state();
    call(fresh, "in_parent");
    lua_close(fresh);
  }
  exit(0);
}

static void *fork_once(void *what) {
  pid_t child = fork();
  if (child == 0 && strcmp(what, "forks") != 0) be_child(what);
  if (child == 0) {
    pid_t grandchild = fork();
    if (grandchild == 0) be_child("closes");
    wait_for(grandchild);
    exit(0);
  }
  wait_for(child);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  arguments = argv;
  L = open_state();
  if (strcmp(argv[2], "none") != 0) call(L, "start");
  for (int i = 0; i < atoi(argv[3]); i++) {
    if (i % 2 == 0) {
      (void)fork_once(argv[2]);
    } else {
      pthread_t other;
      if (pthread_create(&other, NULL, fork_once, argv[2]) != 0) die("no thread");
      pthread_join(other, NULL);
    }
  }
  call(L, "in_parent");
  lua_close(L);
  return 0;
}
