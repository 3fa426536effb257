/* SPDX-License-Identifier: MIT */
/*
 * Reports: errors that nobody is there to catch (a callback's, a task's whose error was never
 * retrieved, a sibling's in gather).  They are queued, also from finalizers, and handed to on_error
 * by the loop at its next turn; what is left at lua_close goes to stderr.  [the state's own thread]
 */
#ifndef CONCUR_REPORT_H
#define CONCUR_REPORT_H

#include "loop.h"
#include "support.h"

#pragma GCC visibility push(hidden)

/* Queues the error at `index`; `what` says where it comes from; `traceback` is the stack index of
   its first traceback, or 0.  Leaves the stack as it was.  May raise (memory). */
void concur_report(lua_State *L, concur_runtime *runtime, int index, int traceback,
                   const char *what);

/* The same for the error on top of the stack, which is popped, where nothing may raise: if memory is
   short, stderr gets a line instead. */
void concur_report_safely(lua_State *L, concur_runtime *runtime, const char *what);

/* Hands queued errors to on_error.  Never raises: what on_error itself raises goes to stderr. */
void concur_report_flush(lua_State *L, concur_runtime *runtime);

/* The same without calling any Lua function of the user's: everything goes to stderr. */
void concur_report_flush_to_stderr(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
