/* SPDX-License-Identifier: MIT */
/*
 * A host program: it has a poll loop of its own, embeds Lua, and lets concur's loop run inside it.
 *
 *     host script.lua
 *
 * The host's own business here is a clock that ticks on a pipe.  In each turn it lets concur do what
 * is to be done, then waits with poll() for its own descriptor, concur's, and concur's next timer,
 * whichever comes first.  It ends when the script's tasks have ended and the clock has.
 */
#include <concur.h>
#include <errno.h>
#include <lualib.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { TICKS = 5, TICK_MS = 10 };

/* The host's clock: a thread that writes a byte for each tick. */
static void *clock_main(void *argument) {
  const struct timespec pause = {0, TICK_MS * 1000000L};
  const int *end = argument;
  for (int i = 0; i < TICKS; i++) {
    nanosleep(&pause, NULL);
    if (write(*end, ".", 1) != 1) break;
  }
  close(*end);
  return NULL;
}

/* Waits for the host's descriptor (-1: none any more) or for concur.  True when the host's is ready. */
static int wait_for_both(const concur_api *api, lua_State *L, int clock) {
  struct pollfd descriptors[2] = {{.fd = clock, .events = POLLIN},
                                  {.fd = api->fd(L), .events = POLLIN}};
  double timeout = api->next_timeout(L);
  int milliseconds = timeout < 0 ? -1 : (int)ceil(timeout * 1000);
  if (poll(descriptors, 2, milliseconds) < 0 && errno != EINTR) return 0;
  return descriptors[0].revents != 0;
}

/* The host's loop.  False after an error. */
static int drive(const concur_api *api, lua_State *L, int clock) {
  char tick;
  for (;;) {
    if (api->step(L, 0) != LUA_OK) {
      fprintf(stderr, "host: %s\n", lua_tostring(L, -1));
      return 0;
    }
    /* Asked after the step, which may have ended the last task: nothing would end the wait. */
    if (clock < 0 && !api->alive(L)) return 1;
    if (!wait_for_both(api, L, clock)) continue;
    if (read(clock, &tick, 1) == 1) {
      puts("host: tick");
    } else {
      close(clock);
      clock = -1;
    }
  }
}

/* Argument: the name of the script.  Runs it, which starts tasks; returns the API. */
static int start(lua_State *L) {
  const concur_api *api = concur_api_get(L);
  if (luaL_dofile(L, luaL_checkstring(L, 1))) return lua_error(L);
  lua_pushlightuserdata(L, (void *)(size_t)api);
  return 1;
}

int main(int argc, char **argv) {
  int ends[2];
  pthread_t thread;
  int ok = 0;
  if (argc != 2) {
    fprintf(stderr, "usage: %s script.lua\n", argv[0]);
    return 2;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  lua_State *L = luaL_newstate();
  if (L == NULL || pipe(ends) != 0) return 1;
  luaL_openlibs(L);
  lua_pushcfunction(L, start);
  lua_pushstring(L, argv[1]);
  if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
    fprintf(stderr, "host: %s\n", lua_tostring(L, -1));
  } else if (pthread_create(&thread, NULL, clock_main, &ends[1]) == 0) {
    ok = drive(lua_touserdata(L, -1), L, ends[0]);
    pthread_join(thread, NULL);
  }
  lua_close(L);
  return ok ? 0 : 1;
}
