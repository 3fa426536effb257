/* SPDX-License-Identifier: MIT */
/*
 * Clocks, and the raw limits: what Lua's C API and libuv cost with nothing around them.
 *
 * A Lua module, compiled by bench/harness/peers.lua when a benchmark starts and loaded into the
 * same interpreter that runs concur, so that both pay the same for the virtual machine.  Each
 * limit does the least that any implementation of its workload has to do: no error paths, no
 * cancellation, no futures.  One thread but for uv_queue_work and copy; frees nothing before the process
 * ends.
 */
#include <lauxlib.h>
#include <lua.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

extern char **environ;

/* ---- clocks ---- */

static int push_clock(lua_State *L, clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  lua_pushinteger(L, (lua_Integer)t.tv_sec * 1000000000 + t.tv_nsec);
  return 1;
}

/* wall(), cpu(): nanoseconds that have passed, and that this process has used. */
static int l_wall(lua_State *L) { return push_clock(L, CLOCK_MONOTONIC); }
static int l_cpu(lua_State *L) { return push_clock(L, CLOCK_PROCESS_CPUTIME_ID); }

/* ---- coroutines ---- */

/* yield(): the least that a function can do that suspends. */
static int l_yield(lua_State *L) { return lua_yield(L, 0); }

/* drive(co...): resumes the coroutines in turn until all have ended. */
static int l_drive(lua_State *L) {
  int count = lua_gettop(L);
  int alive = count;
  while (alive > 0) {
    alive = 0;
    for (int i = 1; i <= count; i++) {
      lua_State *co = lua_tothread(L, i);
      int results;
      if (lua_status(co) == LUA_OK && lua_gettop(co) == 0) continue;
      int status = lua_resume(co, L, 0, &results);
      if (status > LUA_YIELD) {
        lua_xmove(co, L, 1);
        return lua_error(L);
      }
      if (status == LUA_OK)
        lua_settop(co, 0);
      else
        alive++;
    }
  }
  return 0;
}

/* spawn(f, n): runs f in a reused coroutine, n times. */
static int l_spawn(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 2);
  lua_State *co = lua_newthread(L);
  for (lua_Integer i = 0; i < n; i++) {
    int results;
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    if (lua_resume(co, L, 0, &results) != LUA_OK) return luaL_error(L, "the function failed");
    lua_settop(co, 0);
  }
  return 0;
}

/* spawn_and_wait(f, n): the same from a coroutine that yields each time and goes on after f. */
static int l_spawn_and_wait(lua_State *L) {
  lua_Integer n = luaL_checkinteger(L, 2);
  lua_State *co = lua_newthread(L);
  lua_State *waiter = lua_newthread(L);
  if (luaL_loadstring(waiter, "local yield = ... while true do yield() end") != LUA_OK)
    return luaL_error(L, "cannot compile");
  lua_pushcfunction(waiter, l_yield);
  int results;
  lua_resume(waiter, L, 1, &results);
  for (lua_Integer i = 0; i < n; i++) {
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    if (lua_resume(co, L, 0, &results) != LUA_OK) return luaL_error(L, "the function failed");
    lua_settop(co, 0);
    lua_resume(waiter, L, 0, &results);
  }
  return 0;
}

/* guarded(f, ...): calls f under a protected call that it may suspend. */
static int after_guarded(lua_State *L, int status, lua_KContext context) {
  (void)context;
  if (status > LUA_YIELD) return lua_error(L);
  return lua_gettop(L);
}
static int l_guarded(lua_State *L) {
  int status = lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, 0, after_guarded);
  return after_guarded(L, status, 0);
}

/* ---- a future, a queue and a lock with nothing to them ---- */

typedef struct cell {
  lua_Integer value;
  char rest[56];
} cell;

static int l_future(lua_State *L) {
  lua_newuserdatauv(L, sizeof(cell), 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_setmetatable(L, -2);
  return 1;
}
static int l_future_set(lua_State *L) {
  lua_settop(L, 2);
  lua_setiuservalue(L, 1, 1);
  return 0;
}
static int l_future_get(lua_State *L) {
  lua_getiuservalue(L, 1, 1);
  return 1;
}

typedef struct queue {
  size_t capacity, count, head;
  lua_Integer items[64];
} queue;

/* queue(capacity): put and get, which yield while it is full or empty. */
static int put_again(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  queue *q = lua_touserdata(L, lua_upvalueindex(1));
  if (q->count == q->capacity) return lua_yieldk(L, 0, 0, put_again);
  q->items[(q->head + q->count++) & 63] = lua_tointeger(L, 1);
  return 0;
}
static int l_put(lua_State *L) { return put_again(L, LUA_OK, 0); }

static int get_again(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  queue *q = lua_touserdata(L, lua_upvalueindex(1));
  if (q->count == 0) return lua_yieldk(L, 0, 0, get_again);
  lua_pushinteger(L, q->items[q->head]);
  q->head = (q->head + 1) & 63;
  q->count--;
  return 1;
}
static int l_get(lua_State *L) { return get_again(L, LUA_OK, 0); }

static int l_queue(lua_State *L) {
  queue *q = lua_newuserdatauv(L, sizeof *q, 0);
  memset(q, 0, sizeof *q);
  q->capacity = (size_t)luaL_checkinteger(L, 1);
  lua_pushvalue(L, -1);
  lua_pushcclosure(L, l_put, 1);
  lua_pushvalue(L, -2);
  lua_pushcclosure(L, l_get, 1);
  return 2;
}

/* acquire(lock), release(lock): two C calls that flip a flag. */
static int l_flag(lua_State *L) {
  *(bool *)lua_newuserdatauv(L, sizeof(bool), 0) = false;
  return 1;
}
static int l_acquire(lua_State *L) {
  *(bool *)lua_touserdata(L, 1) = true;
  return 1;
}
static int l_release(lua_State *L) {
  *(bool *)lua_touserdata(L, 1) = false;
  return 0;
}

/* ---- sleepers: parked coroutines in a 4-ary heap of deadlines ---- */

typedef struct sleeper {
  uint64_t when;
  lua_State *co;
} sleeper;

static void heap_push(sleeper *heap, size_t count, sleeper item) {
  size_t i = count;
  while (i > 0 && heap[(i - 1) / 4].when > item.when) {
    heap[i] = heap[(i - 1) / 4];
    i = (i - 1) / 4;
  }
  heap[i] = item;
}

static sleeper heap_pop(sleeper *heap, size_t count) {
  sleeper first = heap[0];
  sleeper last = heap[count - 1];
  size_t i = 0;
  for (;;) {
    size_t child = 4 * i + 1;
    if (child >= count - 1) break;
    size_t least = child;
    for (size_t k = child + 1; k < child + 4 && k < count - 1; k++)
      if (heap[k].when < heap[least].when) least = k;
    if (heap[least].when >= last.when) break;
    heap[i] = heap[least];
    i = least;
  }
  heap[i] = last;
  return first;
}

/* sleepers(f, n): f runs in n reused coroutines, each parks itself by a yield, and all are resumed
   in the order of their deadlines.  Nobody waits for the clock: this is the work, not the time. */
static int l_sleepers(lua_State *L) {
  static lua_State **pool;
  static size_t pooled;
  size_t n = (size_t)luaL_checkinteger(L, 2);
  if (pooled < n) {
    pool = realloc(pool, n * sizeof *pool);
    for (; pooled < n; pooled++) {
      pool[pooled] = lua_newthread(L);
      luaL_ref(L, LUA_REGISTRYINDEX);
    }
  }
  sleeper *heap = malloc(n * sizeof *heap);
  int results;
  for (size_t i = 0; i < n; i++) {
    lua_State *co = pool[i];
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_resume(co, L, 0, &results);
    heap_push(heap, i, (sleeper){100 + i % 100, co});
  }
  for (size_t count = n; count > 0; count--) {
    lua_State *co = heap_pop(heap, count).co;
    lua_resume(co, L, 0, &results);
    lua_settop(co, 0);
  }
  free(heap);
  return 0;
}

/* ---- uv_queue_work ---- */

typedef struct jobs {
  uv_loop_t loop;
  lua_Integer left;
} jobs;

static void on_work(uv_work_t *work) { (void)work; }

static void on_done(uv_work_t *work, int status) {
  (void)status;
  jobs *all = work->data;
  if (all->left-- > 0) uv_queue_work(&all->loop, work, on_work, on_done);
}

/* queue_work(n, window): n empty jobs on libuv's pool, `window` of them in flight. */
static int l_queue_work(lua_State *L) {
  static jobs *all;
  lua_Integer n = luaL_checkinteger(L, 1);
  lua_Integer window = luaL_checkinteger(L, 2);
  if (all == NULL) {
    all = malloc(sizeof *all);
    uv_loop_init(&all->loop);
  }
  if (window > n) window = n;
  all->left = n - window;
  uv_work_t *works = calloc((size_t)window, sizeof *works);
  for (lua_Integer i = 0; i < window; i++) {
    works[i].data = all;
    uv_queue_work(&all->loop, &works[i], on_work, on_done);
  }
  uv_run(&all->loop, UV_RUN_DEFAULT);
  free(works);
  return 0;
}

/* ---- a string there and back ---- */

enum { COPY_SIZE = 1 << 20, COPIES = 4 };

/* Blocks of the two threads: each copies from the other's into one of its own.  Several, because a
   collector does not free a string before the next one is made. */
static char *copies[2][COPIES];
static atomic_uint_fast64_t copied;

static void copy_from(int other, uint64_t turn) {
  memcpy(copies[1 - other][turn % COPIES], copies[other][turn % COPIES], COPY_SIZE);
}

/* Runs when `copied` is odd, the caller's thread when it is even; ends after `count` turns. */
static void *copy_back(void *count) {
  for (uint64_t turn = 0; turn < *(const uint64_t *)count; turn++) {
    while (atomic_load(&copied) != 2 * turn + 1) sched_yield();
    copy_from(0, turn);
    atomic_store(&copied, 2 * turn + 2);
  }
  return NULL;
}

/* copy(n): n times 1 MB to another thread and back, copied once each way, as Lua's strings must. */
static int l_copy(lua_State *L) {
  uint64_t count = (uint64_t)luaL_checkinteger(L, 1);
  pthread_t thread;
  for (int i = 0; i < 2 * COPIES; i++) {
    char **copy = &copies[i / COPIES][i % COPIES];
    if (*copy == NULL && (*copy = calloc(1, COPY_SIZE)) == NULL) return luaL_error(L, "no memory");
  }
  atomic_store(&copied, 0);
  if (pthread_create(&thread, NULL, copy_back, &count) != 0) return luaL_error(L, "no thread");
  for (uint64_t turn = 0; turn < count; turn++) {
    atomic_store(&copied, 2 * turn + 1);
    while (atomic_load(&copied) != 2 * turn + 2) sched_yield();
    copy_from(1, turn);
  }
  pthread_join(thread, NULL);
  return 0;
}

/* ---- TCP: one buffer for all connections, what is read is written at once ---- */

static uv_loop_t echo_loop;
static char echo_buffer[65536];

static void on_echo_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
  (void)handle;
  (void)size;
  *buffer = uv_buf_init(echo_buffer, sizeof echo_buffer);
}

static void on_echo_closed(uv_handle_t *handle) { free(handle); }

static void on_echo_written(uv_write_t *request, int status) {
  (void)status;
  free(request);
}

static void on_echo_read(uv_stream_t *stream, ssize_t size, const uv_buf_t *buffer) {
  if (size < 0) uv_close((uv_handle_t *)stream, on_echo_closed);
  if (size <= 0) return;
  uv_buf_t rest = uv_buf_init(buffer->base, (unsigned)size);
  int written = uv_try_write(stream, &rest, 1);
  if (written == size) return;
  if (written < 0) written = 0;
  rest.len -= (size_t)written;
  uv_write_t *request = malloc(sizeof *request + rest.len);
  memcpy(request + 1, rest.base + written, rest.len);
  rest.base = (char *)(request + 1);
  uv_write(request, stream, &rest, 1, on_echo_written);
}

static void on_echo_connection(uv_stream_t *server, int status) {
  (void)status;
  uv_tcp_t *client = malloc(sizeof *client);
  uv_tcp_init(&echo_loop, client);
  uv_accept(server, (uv_stream_t *)client);
  uv_tcp_nodelay(client, 1);
  uv_read_start((uv_stream_t *)client, on_echo_alloc, on_echo_read);
}

/* echo(port): serves until the process is killed. */
static int l_echo(lua_State *L) {
  struct sockaddr_in address;
  uv_tcp_t server;
  uv_loop_init(&echo_loop);
  uv_tcp_init(&echo_loop, &server);
  uv_ip4_addr("127.0.0.1", (int)luaL_checkinteger(L, 1), &address);
  int error = uv_tcp_bind(&server, (struct sockaddr *)&address, 0);
  if (error == 0) error = uv_listen((uv_stream_t *)&server, 1024, on_echo_connection);
  if (error != 0) return luaL_error(L, "%s", uv_strerror(error));
  uv_run(&echo_loop, UV_RUN_DEFAULT);
  return 0;
}

/* ---- processes ---- */

/* exchange(n): n times 64 bytes to another process and back, over a pair of sockets. */
static int l_exchange(lua_State *L) {
  static int fd = -1;
  char bytes[64] = {0};
  if (fd < 0) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return luaL_error(L, "socketpair");
    if (fork() == 0) {
      close(pair[0]);
      while (read(pair[1], bytes, sizeof bytes) == sizeof bytes) {
        if (write(pair[1], bytes, sizeof bytes) < 0) break;
      }
      _exit(0);
    }
    close(pair[1]);
    fd = pair[0];
  }
  for (lua_Integer left = luaL_checkinteger(L, 1); left > 0; left--) {
    struct pollfd waiting = {.fd = fd, .events = POLLIN};
    if (write(fd, bytes, sizeof bytes) < 0 || poll(&waiting, 1, -1) < 0 ||
        read(fd, bytes, sizeof bytes) < 0) {
      return luaL_error(L, "the other process ended");
    }
  }
  return 0;
}

/* execute(program, arg...): runs a program to its end; its exit code. */
static int l_execute(lua_State *L) {
  int count = lua_gettop(L);
  char **argv = calloc((size_t)count + 1, sizeof *argv);
  for (int i = 0; i < count; i++) argv[i] = (char *)(uintptr_t)lua_tostring(L, i + 1);
  pid_t pid;
  int status = -1;
  if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) == 0) waitpid(pid, &status, 0);
  free(argv);
  lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  return 1;
}

int luaopen_native(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"wall", l_wall},
      {"cpu", l_cpu},
      {"yield", l_yield},
      {"drive", l_drive},
      {"spawn", l_spawn},
      {"spawn_and_wait", l_spawn_and_wait},
      {"guarded", l_guarded},
      {"future_set", l_future_set},
      {"future_get", l_future_get},
      {"queue", l_queue},
      {"flag", l_flag},
      {"acquire", l_acquire},
      {"release", l_release},
      {"sleepers", l_sleepers},
      {"queue_work", l_queue_work},
      {"copy", l_copy},
      {"echo", l_echo},
      {"exchange", l_exchange},
      {"execute", l_execute},
      {NULL, NULL},
  };
  luaL_newlib(L, functions);
  lua_newtable(L);
  lua_pushcclosure(L, l_future, 1);
  lua_setfield(L, -2, "future");
  return 1;
}
