/* SPDX-License-Identifier: MIT */
/* concur.run, the event loop as scripts see it, closing.  See run.c. */
#ifndef CONCUR_RUN_H
#define CONCUR_RUN_H

#include "fiber.h"

#pragma GCC visibility push(hidden)

void concur_run_open(lua_State *L, concur_runtime *runtime);

/* Top level: cancels all tasks and waits until they have ended.  Never raises for their sake.  */
void concur_run_end_tasks(lua_State *L, concur_runtime *runtime);

/* Frees the loop and everything that waits in it, without running Lua code. */
void concur_run_close(lua_State *L, concur_runtime *runtime);

/* [capi.c] Asks everything that other C modules have pending to stop; called while the loop and the
   pools are still there. */
void concur_capi_close(lua_State *L, concur_runtime *runtime);

/* [executor_close.c] Closes this state's pools and forgets its calls; called while the loop is still
   there.  Idempotent; afterwards the state can make new pools (after EventLoop:close). */
void concur_executor_close(lua_State *L, concur_runtime *runtime);

/* [process.c] Ends what still runs, within its grace time, and reaps it; called while the loop is
   still there. */
void concur_process_close(concur_loop *loop);

/* [signal.c] Closes all receivers of signals; called while the loop is still there. */
void concur_signal_close(concur_loop *loop);

#pragma GCC visibility pop

#endif
