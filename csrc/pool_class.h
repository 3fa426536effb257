/* SPDX-License-Identifier: MIT */
/*
 * Pools as Lua sees them, whatever they are made of: threads (thread_pool.c) or processes.
 *
 * A pool's userdata is a view: an executor and the options that its calls get.  User value 1 holds
 * the name among the options.  Every class of pools has the same methods; a constructor and a
 * concur_call_kind (call.h) make the difference.                                    [loop thread]
 */
#ifndef CONCUR_POOL_CLASS_H
#define CONCUR_POOL_CLASS_H

#include "executor.h"

#pragma GCC visibility push(hidden)

/* The memory behind the userdata of a pool (support.h).  It is emptied by the finalizer, or at the end of
   the state (holding.h). */
typedef struct concur_pool_view {
  concur_executor *executor;   /* one reference; NULL until it is set up, and at the end */
  concur_call_options options; /* `name` is kept alive by user value CONCUR_POOL_NAME */
  concur_function_cache functions;
  concur_class class;
  concur_backing backing; /* user: the holding */
} concur_pool_view;

enum { CONCUR_POOL_NAME = 2 };

/* The pool at `index`, of any class; NULL when there is something else, or it was finalized. */
concur_pool_view *concur_pool_view_test(lua_State *L, int index);
/* The same; raises instead. */
concur_pool_view *concur_pool_view_check(lua_State *L, int index);

/* Pushes a new view, which has no executor yet. */
concur_pool_view *concur_pool_view_new(lua_State *L, concur_runtime *runtime, concur_class class);

/* Makes an executor that owns a new pool, for the view.  Raises. */
void concur_pool_view_open(lua_State *L, concur_runtime *runtime, concur_pool_view *view,
                           const concur_call_kind *kind, const concur_pool_settings *limits,
                           const char *name);

/* Raises unless the value at `index` can be a call's function: Lua, C, or a name. */
void concur_pool_check_function(lua_State *L, int index);

/* Makes a table of options of what is at index 1 (a number: of workers; nothing: empty), the only value
   on the stack then.  Raises on unknown names. */
void concur_pool_check_options(lua_State *L, const char *const *names);

/* Reads the options that concern the workers' states; their table is at index 1. */
void concur_pool_read_worker_options(lua_State *L, concur_worker_settings *settings);

/* The body of `run`, for concur_fiber_begin.  Stack: pool, function, arguments. */
int concur_pool_run_body(lua_State *L, concur_fiber *fiber);

/* Defines a class of pools with the methods that all have. */
void concur_pool_class_define(lua_State *L, concur_runtime *runtime, concur_class class,
                              const char *name);

/* Sets the functions of pool_shutdown.c into the table on top of the stack. */
void concur_pool_shutdown_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
