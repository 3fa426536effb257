/* SPDX-License-Identifier: MIT */
/*
 * concur.h: await-able functions in your own C modules for Lua.
 *
 * A module that includes this file can run blocking C on concur's threads, settle futures from any
 * thread, and suspend the calling task until they are there.  Nothing is linked: the functions come
 * in a table of pointers that concur_api_get fetches from a Lua state, in your luaopen function.
 *
 *     static int l_hash(lua_State *L) {
 *       const concur_api *api = ...;                             -- from concur_api_get
 *       api->submit(L, compute, push_digest, free, input, NULL); -- pushes a future
 *       return api->join(L, -1, 0, NULL);                        -- suspends, returns its results
 *     }
 *
 * Threads.  Each function says who may call it:
 *   [loop thread]  the OS thread of the Lua state, where its C functions run
 *   [any thread]   also threads that know nothing of Lua, also after the Lua state has closed
 * A build of concur with CONCUR_DEBUG checks the first, and ends the process with a line that names
 * the function.  (It cannot raise: the error would jump into the stack of another thread.)
 *
 * Stack.  [-pops, +pushes] as in Lua's manual.  Errors.  "Raises" says what a function raises as a
 * Lua error; no [any thread] function does.
 *
 * References.  A `concur_..._ref` is a counted reference.  The function that returns one gives you
 * one count, which you give back with `..._release`; with `..._retain` you take more.
 *
 * Data.  What you pass as `data` is yours to choose.  It is handed over by the call, whatever the
 * call returns; the functions given with it say when it is free again.
 *
 * Reference: docs/reference/c_api.md.  A complete module: docs/tutorial-c-module.md.
 *
 * Version policy.  Members are only ever appended to concur_api, and each appended group raises
 * `version`; no member changes its meaning.  A module that was compiled against version N runs with
 * every concur that has version N or more.  The option structures begin with their own size and
 * grow in the same way.  A change that cannot be made like this gets another registry key, so that
 * an old module finds a clear error and never a wrong function.
 */
#ifndef CONCUR_H
#define CONCUR_H

#include <stddef.h>

#ifdef __cplusplus
#include <lua.hpp>
extern "C" {
#else
#include <lauxlib.h>
#include <lua.h>
#endif

/* The version that this file describes. */
#define CONCUR_API_VERSION 1

/* The oldest version that your module can live with: define it before including this file if that
   is less, and ask for newer members with CONCUR_API_HAS. */
#ifndef CONCUR_API_NEEDED
#define CONCUR_API_NEEDED CONCUR_API_VERSION
#endif

/* Where the table is in Lua's registry. */
#define CONCUR_API_KEY "concur.api.1"

/* True when the installed concur has this member of concur_api. */
#define CONCUR_API_HAS(api, member) \
  ((api)->size >= offsetof(concur_api, member) + sizeof((api)->member))

typedef struct concur_future_ref concur_future_ref; /* the C end of a future */
typedef struct concur_loop_ref concur_loop_ref;     /* the way into a loop from other threads */
typedef struct concur_timer_ref concur_timer_ref;   /* a timer; not counted, see timer_new */

/* [loop thread] Pushes results and returns how many, as a C function for Lua does; it finds an empty
   stack with LUA_MINSTACK free slots.  It may raise, but not wait.  When it returns it has taken
   `data` over; when it raises it has not, and the drop function that came with it runs. */
typedef int (*concur_push_fn)(lua_State *L, void *data);

/* [any thread] Frees `data`.  Must not touch Lua. */
typedef void (*concur_drop_fn)(void *data);

/* [pool thread] Does the work of a job.  `job` is valid until this returns. */
typedef void (*concur_work_fn)(concur_future_ref *job, void *data);

/* [loop thread] Somebody asked the future to cancel, or its Lua state closes.  Called at most once,
   never after the future was settled (or the work of the job has ended), and settling waits until it
   has returned: so what it interrupts cannot be freed under it.  It may settle the future itself.
   It must not touch Lua, must not block, and must not wait for a thread that is settling.
   For a future: returns 1 when the future is to be cancelled at once, 0 when it will be settled
   later, and that counts.  For a job the result means nothing. */
typedef int (*concur_cancel_fn)(void *data);

/* [loop thread] Something that was posted, or the time of a timer has come.  Called in the same way
   as concur_push_fn, but returns nothing; an error that it raises goes to on_error. */
typedef void (*concur_call_fn)(lua_State *L, void *data);

/* In `flags` of futures and timers: it does not keep a driver (concur.run, a wait at top level)
   waiting.  When only such are left, what waits for them gets a Deadlock error. */
#define CONCUR_WEAK 1u

typedef struct concur_future_options {
  size_t size;             /* sizeof(concur_future_options) */
  const char *name;        /* for messages; copied; NULL: "a future of C" */
  concur_cancel_fn cancel; /* NULL: it can be cancelled at any time */
  void *cancel_data;       /* borrowed until the future is settled or cancelled */
  unsigned flags;          /* 0 or CONCUR_WEAK */
} concur_future_options;

typedef struct concur_job_options {
  size_t size;             /* sizeof(concur_job_options) */
  const char *name;        /* for messages; copied; NULL: "a job" */
  concur_cancel_fn cancel; /* called with the job's `data` while `work` runs; NULL: nothing is */
  int pool;                /* stack index of a ThreadPoolExecutor; 0: the default pool */
} concur_job_options;

/* Events of a descriptor. */
#define CONCUR_READABLE 1
#define CONCUR_WRITABLE 2

typedef struct concur_api {
  unsigned version; /* at least CONCUR_API_NEEDED, see concur_api_get */
  size_t size;      /* bytes of this structure in the installed concur */

  /* ---- futures that C settles ---- */

  /* [loop thread] [-0, +1] Pushes a new pending future, which Lua code can wait for, cancel and give
     to every function that takes futures; returns its C end.  It lives until it is settled, also
     when Lua has forgotten it.  `options` may be NULL.  Raises: memory, InvalidState. */
  concur_future_ref *(*future_new)(lua_State *L, const concur_future_options *options);

  /* [any thread] When the last reference is released and the future was not settled, it fails with
     a Closed error. */
  void (*future_retain)(concur_future_ref *future);
  void (*future_release)(concur_future_ref *future);

  /* [any thread] Settles the future with what `push` will push, on the loop's thread.  Of `push` and
     `drop` exactly one takes `data`: `drop`, before this returns, when it is too late (settled
     already, cancelled, state closed), and later when the state closes first or `push` raises, which
     then is the future's error.  Returns 1 when the future was still waiting for it, else 0.
     Takes no reference.  `push` may be NULL: no results.  `drop` may be NULL. */
  int (*settle)(concur_future_ref *future, concur_push_fn push, concur_drop_fn drop, void *data);

  /* [any thread] Settles it with an error: an error object of concur with this kind ("OSError",
     "TimeoutError", ...), or with kind NULL the string `message`.  Both are copied.  Returns as
     settle. */
  int (*fail)(concur_future_ref *future, const char *kind, const char *message);

  /* [any thread] Settles it as cancelled: who waits for it gets FutureCancelled.  For work that was
     interrupted because it was asked to stop.  Returns as settle. */
  int (*settle_cancelled)(concur_future_ref *future);

  /* [any thread] 1 once somebody asked it to cancel, or its state has closed; else 0. */
  int (*cancelled)(const concur_future_ref *future);

  /* ---- jobs: C work on concur's threads ---- */

  /* [loop thread] [-0, +1] Runs `work` on a thread of a pool, then `done` on the loop's thread to
     push the results of the future that this pushes.  `drop` frees `data`, exactly once, in every
     case and last of all: after `done`, or when `work` or `done` will never run (cancelled before it
     began, state closed, or this function raised).
     Cancelled before it began, `work` never runs.  Later the job is asked to stop: cancelled(job) is
     1 and options->cancel is called; the future settles when `work` has ended, however it ended.
     `work` may settle the job itself (settle, fail, settle_cancelled): then `done` does not run.
     `done` and `drop` may be NULL.  Raises: memory, Closed, InvalidState, WouldBlock (the queue of
     the pool is full), argument errors. */
  void (*submit)(lua_State *L, concur_work_fn work, concur_push_fn done, concur_drop_fn drop,
                 void *data, const concur_job_options *options);

  /* ---- waiting, as the last act of a C function ---- */

  /* [loop thread] [-0, +results] Waits for the awaitable at stack index `index`, as concur.await
     does: a cancelled wait leaves the future alone.  Call as `return api->await(...)`.
     Suspends the calling task; at top level, and in a worker, it drives the loop.  Then
     k(L, status, context) goes on, as after lua_callk: the stack is as it was, with all results on
     top.  With `k` NULL the results are the results of the calling function.
     Raises the error of the future, Cancelled, InvalidState (where waiting is impossible). */
  int (*await)(lua_State *L, int index, lua_KContext context, lua_KFunction k);

  /* [loop thread] [-0, +results] The same for a future that belongs to this call: a cancelled wait
     cancels the future, goes on until it has settled, and then raises Cancelled.  What a module's
     function uses for the future that it has just made. */
  int (*join)(lua_State *L, int index, lua_KContext context, lua_KFunction k);

  /* [loop thread] [-0, +0] Asks the future or task at `index` to cancel.  Returns 1, or 0 when it
     has settled already.  Raises: argument errors. */
  int (*cancel)(lua_State *L, int index);

  /* ---- the loop ---- */

  /* [loop thread] [-0, +0] A reference to this state's loop, which is made if there is none.  It
     stays that of this loop: after EventLoop:close the state gets another.  Raises: memory,
     InvalidState, OSError. */
  concur_loop_ref *(*loop)(lua_State *L);

  /* [any thread] */
  void (*loop_retain)(concur_loop_ref *loop);
  void (*loop_release)(concur_loop_ref *loop);

  /* [any thread] Has `call` called on the loop's thread, in the order of posting.  Of `call` and
     `drop` exactly one takes `data`, as with settle.  Returns 1, or 0 when the loop has closed or
     memory is short (`drop` has run then).  What is posted does not keep a driver waiting before it
     is there: see hold.  `drop` may be NULL. */
  int (*post)(concur_loop_ref *loop, concur_call_fn call, concur_drop_fn drop, void *data);

  /* [loop thread] [-0, +0] From hold to unhold a driver waits although nothing else is left: for
     posts that will come.  They count.  unhold without hold raises InvalidState. */
  void (*hold)(lua_State *L);
  void (*unhold)(lua_State *L);

  /* [loop thread] [-0, +0] The loop's clock in seconds, virtual under testing.Clock. */
  double (*now)(lua_State *L);

  /* ---- timers ---- */

  /* [loop thread] [-0, +0] A timer at rest, yours until timer_free.  `flags`: 0 or CONCUR_WEAK.
     Raises: memory, InvalidState. */
  concur_timer_ref *(*timer_new)(lua_State *L, concur_call_fn call, void *data, unsigned flags);

  /* [loop thread] Has `call` called once, `seconds` from now (at least; 0: at the next turn), instead
     of when it was set to before.  Also from within `call`, for a timer that repeats.  Returns 1, or
     0 when memory is short or the loop has closed. */
  int (*timer_set)(concur_timer_ref *timer, double seconds);

  /* [loop thread] It does not fire any more, until it is set again.  It may be at rest. */
  void (*timer_stop)(concur_timer_ref *timer);

  /* [loop thread] Stops and frees it; also from within `call`, and after the loop has closed. */
  void (*timer_free)(concur_timer_ref *timer);

  /* ---- descriptors ---- */

  /* [loop thread] [-0, +1] Pushes a future that is done when the descriptor can be read or written
     without blocking (`events`: CONCUR_READABLE, CONCUR_WRITABLE, or both); its result is the events
     that are there, as an integer.  Several may wait for one descriptor.  The descriptor is neither
     changed nor closed.  An error or a hang-up counts as ready for everything: the next read or
     write tells more.  Cancelling ends the watch.  Raises: memory, OSError, InvalidState. */
  void (*fd_ready)(lua_State *L, int fd, int events);

  /* ---- errors ---- */

  /* [loop thread] [-0, +1] Pushes an error object of concur, to raise with lua_error or to return
     after a nil.  Raises: memory. */
  void (*push_error)(lua_State *L, const char *kind, const char *message);

  /* [loop thread] [-0, +1] Pushes an OSError for the system's error number (errno): "open x: no such
     file or directory (ENOENT)".  `path` may be NULL.  Raises: memory. */
  void (*push_os_error)(lua_State *L, int error_number, const char *call, const char *path);

  /* ---- a host with a loop of its own ----
     For the C program that owns the state.  These never raise, so they need no protected call
     around them. */

  /* [loop thread] [-0, +0|1] Runs what is ready; with nothing ready waits for at most `max_seconds`
     first.  Returns LUA_OK, or as lua_pcall another status with an error on the stack: the loop
     could not be made, it runs already.  Errors of callbacks and tasks go to on_error instead. */
  int (*step)(lua_State *L, double max_seconds);

  /* [loop thread] [-0, +0] A descriptor that is readable when step has something to do, for poll,
     select or epoll; it stays the same.  -1 where there is none, or no loop could be made.
     A step must have been made before each wait for it, and the wait must end after
     next_timeout. */
  int (*fd)(lua_State *L);

  /* [loop thread] [-0, +0] Seconds until step has something to do: 0: now; negative: only the
     descriptor can tell. */
  double (*next_timeout)(lua_State *L);

  /* [loop thread] [-0, +0] 1 while there is something that the loop works on or waits for, else 0.
     To be asked after step and before waiting. */
  int (*alive)(lua_State *L);
} concur_api;

/* [loop thread] [-0, +0] The functions, for your luaopen function to keep: as an upvalue of your C
   functions, for instance.  Loads concur in this state if need be.  Raises a message that says what
   to do when concur is missing or too old for what this module was compiled against. */
static inline const concur_api *concur_api_get(lua_State *L) {
  int top = lua_gettop(L);
  const concur_api *api;
  luaL_checkstack(L, 8, "concur_api_get");
  lua_getglobal(L, "require");
  lua_pushliteral(L, "concur.core");
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    luaL_error(L, "this module needs the rock 'concur', which cannot be loaded: %s",
               luaL_tolstring(L, -1, NULL));
  }
  lua_getfield(L, LUA_REGISTRYINDEX, CONCUR_API_KEY);
  api = (const concur_api *)lua_touserdata(L, -1);
  if (api == NULL || api->version < CONCUR_API_NEEDED) {
    luaL_error(L,
               "this module needs version %d of the C API of concur, but the concur that is "
               "installed has version %d: install a newer concur",
               CONCUR_API_NEEDED, api == NULL ? 0 : (int)api->version);
  }
  lua_settop(L, top);
  return api;
}

#ifdef __cplusplus
}
#endif

#endif
