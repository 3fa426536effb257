/* SPDX-License-Identifier: MIT */
/*
 * A host with signal handlers of its own, which count.
 *
 *     host_handlers SCRIPT before|after|chained
 *
 * The handlers of SIGINT, SIGCHLD and SIGURG are installed before the script is loaded, or by its call
 * of install().  "chained": the one of SIGURG then also calls the handler that was there before it.
 *
 *     install()       installs them
 *     count(name)     how often the handler of "SIGINT", ... was called
 *     raise(name)     sends the signal to this thread
 *     ours(name)      true when the handler is installed
 *
 * After the script the state is closed; then the handlers of SIGINT and SIGCHLD must be installed, and
 * each of the three must be called for a signal.                                  [main thread]
 */
#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {"SIGINT", "SIGCHLD", "SIGURG", NULL};
static const int numbers[] = {SIGINT, SIGCHLD, SIGURG};
static volatile sig_atomic_t counts[3];
static struct sigaction before_ours; /* of SIGURG */
static bool chained;

static void on_signal(int number, siginfo_t *info, void *context) {
  int error = errno;
  for (int i = 0; i < 3; i++) {
    if (numbers[i] == number) counts[i] = counts[i] + 1;
  }
  if (chained && number == SIGURG && (before_ours.sa_flags & SA_SIGINFO) != 0) {
    before_ours.sa_sigaction(number, info, context);
  }
  errno = error;
}

static int l_install(lua_State *L) {
  struct sigaction action;
  (void)L;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  for (int i = 0; i < 3; i++) sigaction(numbers[i], &action, i == 2 ? &before_ours : NULL);
  return 0;
}

static int l_count(lua_State *L) {
  lua_pushinteger(L, counts[luaL_checkoption(L, 1, NULL, names)]);
  return 1;
}

static int l_raise(lua_State *L) {
  (void)raise(numbers[luaL_checkoption(L, 1, NULL, names)]);
  return 0;
}

static bool is_ours(int index) {
  struct sigaction action;
  return sigaction(numbers[index], NULL, &action) == 0 && action.sa_sigaction == on_signal;
}

static int l_ours(lua_State *L) {
  lua_pushboolean(L, is_ours(luaL_checkoption(L, 1, NULL, names)));
  return 1;
}

static int check_after_close(void) {
  for (int i = 0; i < 3; i++) {
    int before = counts[i];
    if (numbers[i] != SIGURG && !is_ours(i)) {
      fprintf(stderr, "host_handlers: the handler of %s is not restored\n", names[i]);
      return 1;
    }
    (void)raise(numbers[i]);
    if (counts[i] != before + 1) {
      fprintf(stderr, "host_handlers: the handler of %s is not called\n", names[i]);
      return 1;
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  lua_State *L = luaL_newstate();
  if (argc != 3 || L == NULL) return 2;
  luaL_openlibs(L);
  lua_register(L, "install", l_install);
  lua_register(L, "count", l_count);
  lua_register(L, "raise", l_raise);
  lua_register(L, "ours", l_ours);
  chained = strcmp(argv[2], "chained") == 0;
  if (strcmp(argv[2], "before") == 0) (void)l_install(L);
  if (luaL_dofile(L, argv[1])) {
    fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
    return 1;
  }
  lua_close(L);
  return check_after_close();
}
