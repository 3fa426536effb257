/* SPDX-License-Identifier: MIT */
/*
 * What every file that touches Lua needs: the runtime of a Lua state, classes, errors, arguments.
 *
 * The *runtime* is one userdata per Lua state.  It is upvalue 1 of every C function of concur, so
 * that finding it costs nothing; elsewhere (finalizers, message handlers) concur_runtime_find looks
 * it up.  It owns the anchors (what must stay alive while C holds a pointer to it), the class
 * metatables, and the opaque parts of the layers above, which it frees at lua_close.
 *
 * All functions here: [the state's own thread].
 */
#ifndef CONCUR_SUPPORT_H
#define CONCUR_SUPPORT_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "list.h"

/* Of a function that seldom runs, or takes long anyhow: it stays out of its callers, so that these need
   fewer registers, and branches to it are taken to be rare. */
#if defined(__GNUC__)
#define CONCUR_RARE __attribute__((cold, noinline))
#else
#define CONCUR_RARE
#endif

#pragma GCC visibility push(hidden)

typedef enum concur_class {
  CONCUR_CLASS_FUTURE, /* the first three are futures: concur_future is their first member */
  CONCUR_CLASS_TASK,
  CONCUR_CLASS_JOB_FUTURE,
  CONCUR_CLASS_SENTINEL,
  CONCUR_CLASS_SCOPE,
  CONCUR_CLASS_GROUP,
  CONCUR_CLASS_JOIN,
  CONCUR_CLASS_WATCH,
  CONCUR_CLASS_CALLBACK,
  CONCUR_CLASS_RESUMER,
  CONCUR_CLASS_GENERATOR,
  CONCUR_CLASS_CONTEXT_VAR,
  CONCUR_CLASS_LOCK,
  CONCUR_CLASS_EVENT,
  CONCUR_CLASS_SEMAPHORE,
  CONCUR_CLASS_PERMIT,
  CONCUR_CLASS_PARKING_LOT,
  CONCUR_CLASS_QUEUE,
  CONCUR_CLASS_ARM,
  CONCUR_CLASS_SELECT,
  CONCUR_CLASS_CLOCK,
  CONCUR_CLASS_POOL,
  CONCUR_CLASS_PROCESS_POOL,
  CONCUR_CLASS_SHARED_BUFFER,
  CONCUR_CLASS_CHANNEL,
  CONCUR_CLASS_PROCESS,
  CONCUR_CLASS_STREAM,
  CONCUR_CLASS_LISTENER,
  CONCUR_CLASS_UDP,
  CONCUR_CLASS_LOOKUP,
  CONCUR_CLASS_SIGNAL_RECEIVER,
  CONCUR_CLASS_COUNT
} concur_class;

struct concur_loop;      /* loop.h */
struct concur_scheduler; /* fiber.h */
struct concur_worker;    /* worker.h */
struct concur_capi;      /* capi_state.h */

typedef struct concur_runtime {
  struct concur_scheduler *scheduler; /* owned; made at open */
  struct concur_loop *loop;           /* borrowed from the scheduler; NULL until first used */
  struct concur_worker *worker;       /* borrowed; not NULL in a worker's state */
  void *executors;                    /* owned by executor.c */
  struct concur_capi *capi;           /* anchored; made at open */
  /* NULL, or told right after the loop of this state was made (worker.c). */
  void (*loop_made)(struct concur_runtime *runtime, struct concur_loop *loop);
  concur_node holdings;               /* what userdata hold for C (holding.h) */
  lua_State *main_state;              /* the state's main thread */
  lua_State *keeper;                  /* never runs: what C reaches without looking it up is on its
                                         stack, see concur_anchor; anchored in the registry */
  int traces_ref;                     /* registry: first tracebacks of errors on their way up */
  int reports_ref;                    /* registry: errors waiting to be handed to on_error */
  int settings_ref;                   /* registry: table of Lua-side settings (on_error, ...) */
  int self_ref;                       /* registry: the runtime's own userdata */
  int free_anchor;                    /* head of the free list threaded through the anchors; 0 = none */
  int anchor_count;                   /* slots ever made */
  int class_ref[CONCUR_CLASS_COUNT];  /* registry: metatables */
  int error_ref; /* registry: metatable of error objects */
  const void *error_pointer;
  int fork_generation; /* of the process that made this runtime */
  uint64_t failures;          /* futures that ever failed in this state */
  uint64_t failures_reported; /* of these, when the unretrieved ones were last reported */
  bool closed;         /* lua_close has begun */
  bool reports_pending;    /* the reports table is not empty */
  bool reporting;          /* on_error runs: waiting in it is an error */
  bool watched;            /* a test hook is set: see hooks in run.c */
} concur_runtime;

/* The runtime, in a function registered with concur_register. */
static inline concur_runtime *concur_runtime_of(lua_State *L) {
  return (concur_runtime *)lua_touserdata(L, lua_upvalueindex(1));
}

/* The runtime, from anywhere; NULL before luaopen_concur_core.  Never raises. */
concur_runtime *concur_runtime_find(lua_State *L);

/* Makes the runtime; called once by luaopen. */
concur_runtime *concur_runtime_open(lua_State *L);

extern int concur_fork_generation; /* changes only in a child, right after the fork */

/* True in a child of a fork by the host: nothing of concur may be touched there. */
static inline bool concur_runtime_forked(const concur_runtime *runtime) {
  return runtime->fork_generation != concur_fork_generation;
}

/* Raises InvalidState in a forked child or while the state closes. */
void concur_runtime_check(lua_State *L, const concur_runtime *runtime);
/* The second half of that: for what may be used while the state closes. */
void concur_runtime_check_fork(lua_State *L, const concur_runtime *runtime);

/* True in a finalizer: the collector refuses every request while it runs one (Lua 5.4.4). */
static inline bool concur_in_finalizer(lua_State *L) {
  return lua_gc(L, LUA_GCCOUNT) == -1;
}

/* ---- functions and classes ---- */

/* Sets the functions into the table on top of the stack, each with the runtime as upvalue 1. */
void concur_register(lua_State *L, concur_runtime *runtime, const luaL_Reg *functions);

/* Defines a class: `__name`, `__metatable` (the name, which keeps scripts from changing it),
   `__index` = a table of `methods`, and `metamethods`.  Leaves the stack as it was. */
void concur_class_define(lua_State *L, concur_runtime *runtime, concur_class class,
                         const char *name, const luaL_Reg *methods, const luaL_Reg *metamethods);

/* Sets the metatable of the userdata on top of the stack. */
static inline void concur_class_set(lua_State *L, const concur_runtime *runtime,
                                    concur_class class) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->class_ref[class]);
  lua_setmetatable(L, -2);
}

/* A count of bytes that Lua gave, not negative, as a size: the greatest one where the count does not
   fit, as no memory is that large. */
static inline size_t concur_size_from(lua_Integer count) {
  return (lua_Unsigned)count < SIZE_MAX ? (size_t)count : SIZE_MAX;
}

/* A new userdata of the class on top of the stack: zeroed, `values` user values.  Behind its `size`
   bytes it carries the address of its class's tag, by which it is recognised: that is faster than
   looking at its metatable, and no script can forge it. */
void *concur_class_new(lua_State *L, const concur_runtime *runtime, concur_class class, size_t size,
                       int values);

extern const char concur_class_tags[CONCUR_CLASS_COUNT];

/* The tag of a userdata of ours (`object`, at `index`), or NULL for anything else. */
static inline const char *concur_class_tag_of(lua_State *L, int index, const char *object) {
  size_t size = (size_t)lua_rawlen(L, index); /* 0 for light userdata */
  const char *tag;
  if (object == NULL || size < sizeof tag) return NULL;
  memcpy(&tag, object + size - sizeof tag, sizeof tag);
  return tag;
}

static inline const char *concur_class_tag(lua_State *L, int index) {
  return concur_class_tag_of(L, index, lua_touserdata(L, index));
}

/* The userdata at `index` if it is of the class, else NULL. */
static inline void *concur_class_test(lua_State *L, int index, concur_class class) {
  void *object = lua_touserdata(L, index);
  return concur_class_tag_of(L, index, object) == &concur_class_tags[class] ? object : NULL;
}

/* Raises an argument error that names the class. */
CONCUR_RARE void concur_class_mismatch(lua_State *L, int index, concur_class class);

/* The userdata at `index`, which must be of the class. */
static inline void *concur_class_check(lua_State *L, int index, concur_class class) {
  void *object = concur_class_test(L, index, class);
  if (object == NULL) concur_class_mismatch(L, index, class);
  return object;
}

/* ---- anchors: strong references that C holds, in an array with a free list ---- */

/* Where the array is on the keeper's stack. */
enum { CONCUR_ANCHORS = 1 };

/* Anchors the value on top of the stack and pops it; returns its slot.  May raise (memory). */
int concur_anchor(lua_State *L, concur_runtime *runtime);

/* Makes sure that there is a free slot.  While there is, concur_anchor takes no memory and does not
   raise.  Raises. */
void concur_anchor_reserve(lua_State *L, concur_runtime *runtime);
static inline bool concur_anchor_is_free(const concur_runtime *runtime) {
  return runtime->free_anchor != 0;
}

/* Pushes an anchored value. */
static inline void concur_anchor_push(lua_State *L, const concur_runtime *runtime, int slot) {
  lua_rawgeti(runtime->keeper, CONCUR_ANCHORS, slot);
  lua_xmove(runtime->keeper, L, 1);
}

/* Puts the value on top of the stack (popped) into a slot that is taken.  Never raises. */
static inline void concur_anchor_set(lua_State *L, concur_runtime *runtime, int slot) {
  lua_xmove(L, runtime->keeper, 1);
  lua_rawseti(runtime->keeper, CONCUR_ANCHORS, slot);
}

/* Lets go of the value; the slot stays taken.  Never raises. */
static inline void concur_anchor_clear(concur_runtime *runtime, int slot) {
  lua_pushboolean(runtime->keeper, 0);
  lua_rawseti(runtime->keeper, CONCUR_ANCHORS, slot);
}

/* Gives a slot back.  Never raises. */
void concur_anchor_release(lua_State *L, concur_runtime *runtime, int slot);

/* ---- memory that C points to ----
 *
 * Lua drops a finalizer for good when memory is too short to call it; the userdata is collected all the
 * same.  So whatever C points to from outside (libuv, a list, who wakes a waiter) is never the userdata
 * that scripts hold, but memory behind it.  An anchor keeps it until all its users have left: the
 * userdata's finalizer, and whoever in C points to it.  When a finalizer was dropped, it stays until the
 * state closes.  After the finalizer, the userdata's user value keeps it for those who still see that
 * userdata (other finalizers, a frame that waits). */

typedef struct concur_backing {
  concur_runtime *runtime; /* borrowed */
  int slot;                /* its anchor */
  int users;
} concur_backing;

/* New memory behind the userdata on top of the stack, whose user value 1 it becomes; not zeroed, with
   `values` user values of its own.  The caller keeps *backing in it.  One user: the userdata, whose
   finalizer leaves; or what that one ends (holding.h).  Raises. */
void *concur_memory_new(lua_State *L, concur_runtime *runtime, size_t size, int values,
                        concur_backing *backing);
/* One user less.  Never raises; the memory is not to be touched any more. */
void concur_memory_leave(concur_backing *backing);

/* ---- errors ---- */

/* Pushes a new error object {kind=, message=}.  `kind` is one of the kinds of API.md. */
void concur_error_new(lua_State *L, const concur_runtime *runtime, const char *kind,
                      const char *format, ...);
/* Pushes one and raises it.  Never returns; the int is for `return concur_error_raise(...)`. */
CONCUR_RARE int concur_error_raise(lua_State *L, const concur_runtime *runtime, const char *kind,
                       const char *format, ...);
/* True when the value at `index` is an error object (not: a table that looks like one). */
bool concur_error_test(lua_State *L, const concur_runtime *runtime, int index);
/* Pushes nil and an OSError for a (negative) libuv error code; returns 2.  `subject` (a path, an
   address) may be NULL; `subject_field` names the field that holds it. */
int concur_os_error(lua_State *L, const concur_runtime *runtime, int code, const char *call,
                    const char *subject_field, const char *subject);

/* ---- arguments ---- */

#define CONCUR_NEVER_NS UINT64_MAX /* the same value as CONCUR_NEVER in heap.h */

/* A duration in seconds as nanoseconds: NaN raises, negative is 0, huge is CONCUR_NEVER. */
uint64_t concur_check_duration(lua_State *L, int index);
/* Seconds on the loop's clock (a deadline) as nanoseconds: NaN raises, negative is 0. */
uint64_t concur_seconds_to_ns(lua_Number seconds);
/* Raises when the value at `index` is neither a function nor callable through `__call`. */
void concur_check_callable(lua_State *L, int index);
bool concur_is_callable(lua_State *L, int index);
/* Raises when the table at `index` has a key that is not among the NULL-terminated `names`. */
void concur_check_options(lua_State *L, int index, const char *const *names);
/* "a number", "a table", "concur.Task": the type of a value as an error message says it. */
const char *concur_type_name(lua_State *L, int index);

#pragma GCC visibility pop

#endif
