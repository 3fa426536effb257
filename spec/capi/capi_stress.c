/* SPDX-License-Identifier: MIT */
/*
 * Eight threads that know nothing of Lua settle futures as fast as they can.
 *
 * `make` puts futures into one queue; each thread takes one and settles it in a way that the dice
 * chose: with data, with an error, as cancelled, twice, in two threads, or by letting go of it.  Cancel functions
 * write into the item of their future, without a lock, and the thread frees it after settling: the
 * promise of concur.h that none of them runs any more is thereby checked by the sanitizers.
 *
 * The threads belong to the process: they outlive every Lua state that loads this module.
 */
#include <concur.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { THREADS = 8 };

typedef enum way { WITH_DATA, WITH_ERROR, AS_CANCELLED, TWICE, BY_TWO, LET_GO, WAYS } way;

typedef struct item {
  struct item *next;
  const concur_api *api;
  concur_future_ref *ref;
  way way;
  int verdict; /* of the cancel function */
  int asked;   /* written by the cancel function */
  int delay_us;
} item;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t came = PTHREAD_COND_INITIALIZER;
static item *first, *last; /* guarded by mutex */
static int stopping;       /* guarded by mutex */
static pthread_t threads[THREADS];
static int started;

static atomic_int brought, pushed, dropped, asked, settled;

static int push_data(lua_State *L, void *data) {
  lua_pushinteger(L, *(int *)data);
  atomic_fetch_add(&pushed, 1);
  free(data);
  return 1;
}

static void drop_data(void *data) {
  atomic_fetch_add(&dropped, 1);
  free(data);
}

static int on_cancel(void *data) {
  item *self = data;
  self->asked++;
  atomic_fetch_add(&asked, 1);
  return self->verdict;
}

static void settle_with_data(item *self) {
  int *data = malloc(sizeof *data);
  if (data == NULL) abort();
  *data = 42;
  atomic_fetch_add(&brought, 1);
  if (self->api->settle(self->ref, push_data, drop_data, data)) atomic_fetch_add(&settled, 1);
}

static void settle(item *self) {
  if (self->delay_us > 0) {
    const struct timespec pause = {0, self->delay_us * 1000L};
    nanosleep(&pause, NULL);
  }
  (void)self->api->cancelled(self->ref);
  switch (self->way) {
  case TWICE:
    settle_with_data(self);
    settle_with_data(self);
    break;
  case WITH_DATA:
  case BY_TWO: settle_with_data(self); break;
  case WITH_ERROR: self->api->fail(self->ref, "Closed", "on purpose"); break;
  case AS_CANCELLED: self->api->settle_cancelled(self->ref); break;
  case LET_GO:
  case WAYS: break;
  }
  self->api->future_release(self->ref);
  free(self); /* no cancel function can be using it */
}

static void *thread_main(void *unused) {
  (void)unused;
  pthread_mutex_lock(&mutex);
  while (first != NULL || !stopping) {
    if (first == NULL) {
      pthread_cond_wait(&came, &mutex);
      continue;
    }
    item *self = first;
    first = self->next;
    pthread_mutex_unlock(&mutex);
    settle(self);
    pthread_mutex_lock(&mutex);
  }
  pthread_mutex_unlock(&mutex);
  return NULL;
}

static void start_threads(void) {
  if (started) return;
  started = 1;
  stopping = 0;
  for (int i = 0; i < THREADS; i++) {
    if (pthread_create(&threads[i], NULL, thread_main, NULL) != 0) abort();
  }
}

static int dice(lua_State *L, int sides) {
  lua_getglobal(L, "math");
  lua_getfield(L, -1, "random");
  lua_pushinteger(L, sides);
  lua_call(L, 1, 1);
  int value = (int)lua_tointeger(L, -1) - 1;
  lua_pop(L, 2);
  return value;
}

static void enqueue(item *self) {
  pthread_mutex_lock(&mutex);
  if (first == NULL) {
    first = self;
  } else {
    last->next = self;
  }
  last = self;
  pthread_cond_signal(&came);
  pthread_mutex_unlock(&mutex);
}

/* Another item for the same future. */
static void enqueue_twin(const item *self) {
  item *twin = calloc(1, sizeof *twin);
  if (twin == NULL) abort();
  twin->api = self->api;
  twin->ref = self->ref;
  twin->way = BY_TWO;
  self->api->future_retain(self->ref);
  enqueue(twin);
}

/* make(count, longest_delay_us) -> list of futures */
static int l_make(lua_State *L) {
  const concur_api *api = lua_touserdata(L, lua_upvalueindex(1));
  int count = (int)luaL_checkinteger(L, 1);
  int delay = (int)luaL_optinteger(L, 2, 0);
  start_threads();
  lua_createtable(L, count, 0);
  for (int i = 1; i <= count; i++) {
    item *self = calloc(1, sizeof *self);
    if (self == NULL) abort();
    self->api = api;
    self->way = (way)dice(L, WAYS);
    self->verdict = dice(L, 2);
    self->delay_us = delay > 0 ? dice(L, delay) : 0;
    concur_future_options options = {.size = sizeof options, .cancel_data = self};
    if (dice(L, 4) > 0) options.cancel = on_cancel;
    self->ref = api->future_new(L, &options);
    lua_rawseti(L, -2, i);
    if (self->way == BY_TWO) enqueue_twin(self);
    enqueue(self);
  }
  return 1;
}

/* join(): until the threads have settled everything, and ended. */
static int l_join(lua_State *L) {
  (void)L;
  if (!started) return 0;
  pthread_mutex_lock(&mutex);
  stopping = 1;
  pthread_cond_broadcast(&came);
  pthread_mutex_unlock(&mutex);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  started = 0;
  return 0;
}

/* counts() -> brought, pushed, dropped, asked, settled */
static int l_counts(lua_State *L) {
  lua_pushinteger(L, atomic_load(&brought));
  lua_pushinteger(L, atomic_load(&pushed));
  lua_pushinteger(L, atomic_load(&dropped));
  lua_pushinteger(L, atomic_load(&asked));
  lua_pushinteger(L, atomic_load(&settled));
  return 5;
}

int luaopen_capi_stress(lua_State *L);

int luaopen_capi_stress(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"make", l_make}, {"join", l_join}, {"counts", l_counts}, {NULL, NULL}};
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, (void *)(size_t)concur_api_get(L));
  luaL_setfuncs(L, functions, 1);
  return 1;
}
