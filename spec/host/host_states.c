/* SPDX-License-Identifier: MIT */
/*
 * A host with many Lua states on several threads, each driven by `step` from its thread's own poll
 * loop, and closed in a given order while the others go on.
 *
 *     host_states SCRIPT STATES THREADS HOW WAIT [SEED]
 *
 * HOW:   "ended"    each state is closed once its work is done, by its thread, at a random moment;
 *        "orders"   all states are closed while they work, in every order, one round for each;
 *        "at-once"  all threads close their states at the same moment, while they work.
 * WAIT:  "poll" or "epoll", on the descriptors of all states of a thread.
 *
 * SCRIPT defines start(number), which spawns the work of a state; it sets the global `working` once
 * everything is under way, and `finished` (and `failure`) at the end.
 *
 * The C API is used from outside as well: each state has promises (global `promises`), which a thread
 * of no state's settles at random moments, before, while and after it closes; posts; and C jobs.  Of
 * push and drop exactly one must have run for each.
 *
 * Threads: main, one for each group of states, and the settler.  A state belongs to its thread; what
 * the settler holds are references of the C API, made before it starts.
 */
#include <concur.h>
#include <dirent.h>
#include <errno.h>
#include <lualib.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MOST_STATES = 64, MOST_THREADS = 8, PROMISES = 3, TURN_MS = 5, LIMIT_S = 50 };

typedef struct state {
  lua_State *L; /* its thread's; NULL once closed */
  const concur_api *api;
  concur_future_ref *promises[PROMISES]; /* one reference each, the settler's */
  concur_loop_ref *loop;                 /* the same */
  int number;
  int position; /* in the order of closing */
  bool working;
} state;

typedef enum how { WHEN_ENDED, IN_ORDER, AT_ONCE } how;

static state states[MOST_STATES];
static int state_count, thread_count;
static how closing;
static bool by_epoll;
static const char *script;
static unsigned seed;

static pthread_barrier_t all_made, all_left;
static atomic_int working, turn; /* in order: whose turn it is to close */
static atomic_int given, pushed, dropped, submitted, freed;
static atomic_bool settler_must_end;
static time_t began;

static void die(const char *what) {
  fprintf(stderr, "host_states: %s\n", what);
  _exit(1);
}

static void check_time(void) {
  const char *scale = getenv("CONCUR_TIME_SCALE");
  if (time(NULL) - began > LIMIT_S * (scale != NULL ? atoi(scale) : 1)) die("it takes too long");
}

/* ---- what the C API is given ---- */

static int on_push(lua_State *L, void *data) {
  lua_pushinteger(L, *(int *)data);
  free(data);
  atomic_fetch_add(&pushed, 1);
  return 1;
}

static void on_call(lua_State *L, void *data) {
  (void)L;
  free(data);
  atomic_fetch_add(&pushed, 1);
}

static void on_drop(void *data) {
  free(data);
  atomic_fetch_add(&dropped, 1);
}

static int *gift(int value) {
  int *data = malloc(sizeof *data);
  if (data == NULL) die("no memory");
  *data = value;
  atomic_fetch_add(&given, 1);
  return data;
}

static void on_work(concur_future_ref *job, void *data) {
  (void)job;
  (void)data;
  const struct timespec pause = {0, 2000000};
  nanosleep(&pause, NULL);
}

static void on_free(void *data) {
  free(data);
  atomic_fetch_add(&freed, 1);
}

/* ---- a state ---- */

static int l_open(lua_State *L) {
  state *self = lua_touserdata(L, 1);
  luaL_openlibs(L);
  self->api = concur_api_get(L);
  lua_createtable(L, PROMISES, 0);
  for (int i = 0; i < PROMISES; i++) {
    self->promises[i] = self->api->future_new(L, NULL);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setglobal(L, "promises");
  self->loop = self->api->loop(L);
  for (int i = 0; i < 2; i++) {
    atomic_fetch_add(&submitted, 1);
    self->api->submit(L, on_work, NULL, on_free, malloc(1), NULL);
    lua_pop(L, 1);
  }
  if (luaL_dofile(L, script)) lua_error(L);
  lua_getglobal(L, "start");
  lua_pushinteger(L, self->number);
  lua_call(L, 1, 0);
  return 0;
}

static void state_open(state *self) {
  self->L = luaL_newstate();
  if (self->L == NULL) die("no memory for a state");
  self->working = false;
  lua_pushcfunction(self->L, l_open);
  lua_pushlightuserdata(self->L, self);
  if (lua_pcall(self->L, 1, 0, 0) != LUA_OK) die(lua_tostring(self->L, -1));
}

static bool flag(lua_State *L, const char *name) {
  lua_getglobal(L, name);
  bool set = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return set;
}

/* One turn of the state; true once its work is done. */
static bool state_step(state *self) {
  lua_State *L = self->L;
  if (self->api->step(L, 0) != LUA_OK) die(lua_tostring(L, -1));
  if (!self->working && flag(L, "working")) {
    self->working = true;
    atomic_fetch_add(&working, 1);
  }
  lua_getglobal(L, "failure");
  if (!lua_isnil(L, -1)) die(luaL_tolstring(L, -1, NULL));
  lua_pop(L, 1);
  return flag(L, "finished");
}

static void state_close(state *self) {
  lua_close(self->L);
  self->L = NULL;
}

/* ---- a thread's own loop ---- */

static int milliseconds_until(const state *self, int limit) {
  double seconds = self->api->next_timeout(self->L);
  int wait = seconds < 0 ? limit : (int)fmin(ceil(seconds * 1000), limit);
  return wait;
}

static bool is_mine(int number, int thread) {
  return number % thread_count == thread;
}

/* Waits for whatever any of the thread's states has to do. */
static void wait_with_poll(int thread) {
  struct pollfd descriptors[MOST_STATES];
  nfds_t count = 0;
  int wait = TURN_MS;
  for (int i = 0; i < state_count; i++) {
    if (!is_mine(i, thread) || states[i].L == NULL) continue;
    wait = milliseconds_until(&states[i], wait);
    descriptors[count++] =
        (struct pollfd){.fd = states[i].api->fd(states[i].L), .events = POLLIN};
  }
  if (poll(descriptors, count, wait) < 0 && errno != EINTR) die("poll fails");
}

static void wait_with_epoll(int epoll, int thread) {
  struct epoll_event events[8];
  int wait = TURN_MS;
  for (int i = 0; i < state_count; i++) {
    if (is_mine(i, thread) && states[i].L != NULL) wait = milliseconds_until(&states[i], wait);
  }
  if (epoll_wait(epoll, events, 8, wait) < 0 && errno != EINTR) die("epoll_wait fails");
}

static int epoll_of(int thread) {
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < state_count; i++) {
    if (!is_mine(i, thread)) continue;
    struct epoll_event event = {.events = EPOLLIN};
    int fd = states[i].api->fd(states[i].L);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) die("epoll_ctl fails");
  }
  return epoll;
}

static bool must_close(const state *self, bool finished, unsigned *random) {
  switch (closing) {
  case WHEN_ENDED: return finished && rand_r(random) % 4 == 0;
  case IN_ORDER: return atomic_load(&working) == state_count && atomic_load(&turn) == self->position;
  case AT_ONCE: return false;
  }
  return false;
}

/* Steps the thread's states; true while one is left that goes on. */
static bool step_all(int thread, unsigned *random) {
  bool left = false;
  for (int i = 0; i < state_count; i++) {
    state *self = &states[i];
    if (!is_mine(i, thread) || self->L == NULL) continue;
    bool finished = state_step(self);
    if (must_close(self, finished, random)) {
      state_close(self);
      atomic_fetch_add(&turn, 1);
    }
    if (self->L != NULL) left = true;
  }
  return left && !(closing == AT_ONCE && atomic_load(&working) == state_count);
}

static void *thread_main(void *argument) {
  int thread = *(const int *)argument;
  unsigned random = seed + (unsigned)thread;
  for (int i = 0; i < state_count; i++) {
    if (is_mine(i, thread)) state_open(&states[i]);
  }
  int epoll = by_epoll ? epoll_of(thread) : -1;
  (void)pthread_barrier_wait(&all_made);
  while (step_all(thread, &random)) {
    check_time();
    if (by_epoll) {
      wait_with_epoll(epoll, thread);
    } else {
      wait_with_poll(thread);
    }
  }
  (void)pthread_barrier_wait(&all_left);
  for (int i = 0; i < state_count; i++) { /* at once, with all the others */
    if (is_mine(i, thread) && states[i].L != NULL) state_close(&states[i]);
  }
  if (epoll >= 0) close(epoll);
  return NULL;
}

/* Settles each promise once, and posts to the loops in between, whether they live or not. */
static void *settler_main(void *argument) {
  unsigned random = seed * 31 + 7;
  int left = state_count * PROMISES;
  (void)argument;
  (void)pthread_barrier_wait(&all_made);
  while (left > 0) {
    state *self = &states[(unsigned)rand_r(&random) % (unsigned)state_count];
    int which = (int)(rand_r(&random) % PROMISES);
    (void)self->api->post(self->loop, on_call, on_drop, gift(which));
    if (self->promises[which] != NULL) {
      (void)self->api->settle(self->promises[which], on_push, on_drop, gift(which));
      self->api->future_release(self->promises[which]);
      self->promises[which] = NULL;
      left--;
    }
    const struct timespec pause = {0, (long)(rand_r(&random) % 1000) * 1000};
    if (!atomic_load(&settler_must_end)) nanosleep(&pause, NULL);
  }
  return NULL;
}

/* ---- a round ---- */

static void round_run(void) {
  pthread_t threads[MOST_THREADS], settler;
  int numbers[MOST_THREADS];
  unsigned participants = (unsigned)thread_count;
  atomic_store(&working, 0);
  atomic_store(&turn, 0);
  atomic_store(&settler_must_end, false);
  pthread_barrier_init(&all_made, NULL, participants + 1);
  pthread_barrier_init(&all_left, NULL, participants);
  if (pthread_create(&settler, NULL, settler_main, NULL) != 0) die("no thread");
  for (int i = 0; i < thread_count; i++) {
    numbers[i] = i;
    if (pthread_create(&threads[i], NULL, thread_main, &numbers[i]) != 0) die("no thread");
  }
  for (int i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);
  atomic_store(&settler_must_end, true);
  pthread_join(settler, NULL);
  for (int i = 0; i < state_count; i++) states[i].api->loop_release(states[i].loop);
  pthread_barrier_destroy(&all_made);
  pthread_barrier_destroy(&all_left);
}

/* The next order of closing, in lexicographic order; false after the last. */
static bool next_order(int *order) {
  int i = state_count - 2;
  while (i >= 0 && order[i] > order[i + 1]) i--;
  if (i < 0) return false;
  int j = state_count - 1;
  while (order[j] < order[i]) j--;
  int kept = order[i];
  order[i] = order[j];
  order[j] = kept;
  for (int low = i + 1, high = state_count - 1; low < high; low++, high--) {
    kept = order[low];
    order[low] = order[high];
    order[high] = kept;
  }
  return true;
}

static int entries(const char *path) {
  int count = 0;
  DIR *directory = opendir(path);
  if (directory == NULL) return 0;
  while (readdir(directory) != NULL) count++;
  closedir(directory);
  return count;
}

static void check_counts(void) {
  if (atomic_load(&pushed) + atomic_load(&dropped) != atomic_load(&given)) {
    die("push or drop ran twice, or never");
  }
  if (atomic_load(&freed) != atomic_load(&submitted)) die("a job's drop ran twice, or never");
}

int main(int argc, char **argv) {
  struct rlimit limit;
  if (argc < 6) die("usage: host_states SCRIPT STATES THREADS HOW WAIT [SEED]");
  script = argv[1];
  state_count = atoi(argv[2]);
  thread_count = atoi(argv[3]);
  closing = strcmp(argv[4], "orders") == 0    ? IN_ORDER
            : strcmp(argv[4], "at-once") == 0 ? AT_ONCE
                                              : WHEN_ENDED;
  by_epoll = strcmp(argv[5], "epoll") == 0;
  seed = argc > 6 ? (unsigned)atoi(argv[6]) : 1;
  if (state_count > MOST_STATES || thread_count > MOST_THREADS) die("too many");
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  }
  began = time(NULL);
  int order[MOST_STATES], rounds = 0, descriptors = 0;
  for (int i = 0; i < state_count; i++) {
    order[i] = i;
    states[i].number = i;
  }
  do {
    for (int i = 0; i < state_count; i++) states[order[i]].position = i;
    round_run();
    check_counts();
    if (rounds++ == 0) descriptors = entries("/proc/self/fd"); /* libuv keeps two for the process */
    if (entries("/proc/self/fd") != descriptors) die("descriptors are left open");
  } while (closing == IN_ORDER && next_order(order));
  printf("%d rounds of %d states on %d threads\n", rounds, state_count, thread_count);
  return 0;
}
