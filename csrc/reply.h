/* SPDX-License-Identifier: MIT */
/*
 * What comes back from a worker: results, an error of the call, why a pool is broken.  Delivering a
 * call's mail settles its future.                                                   [loop thread]
 */
#ifndef CONCUR_REPLY_H
#define CONCUR_REPLY_H

#include "executor.h"

#pragma GCC visibility push(hidden)

/* `deliver` and `drop` of a call's mail. */
void concur_call_on_reply(concur_mail *mail, void *owner);
void concur_call_on_reply_dropped(concur_mail *mail);

/* Raises BrokenExecutor with the cause that the settings hold.  Never returns. */
int concur_call_raise_broken(lua_State *L, concur_runtime *runtime,
                             concur_worker_settings *settings);

/* Pushes the InvalidState of a call that no thread is left to run. */
void concur_call_push_exhausted(lua_State *L, concur_runtime *runtime,
                                const concur_worker_settings *settings);

#pragma GCC visibility pop

#endif
