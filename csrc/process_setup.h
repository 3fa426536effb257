/* SPDX-License-Identifier: MIT */
/*
 * What a process pool sends each of its workers first: how to make the Lua state.  The body of a
 * SETUP frame: a header of sizes, then the name, the environment and init.  No Lua.
 */
#ifndef CONCUR_PROCESS_SETUP_H
#define CONCUR_PROCESS_SETUP_H

#include "call.h"

#pragma GCC visibility push(hidden)

/* [pool] NULL when out of memory.  `limit`: bytes of one result. */
concur_message *concur_process_setup_new(const concur_worker_settings *settings, size_t limit);

/* [worker] New settings of that kind; NULL when out of memory, or when the message is none. */
concur_worker_settings *concur_process_setup_read(const concur_message *setup,
                                                  const concur_call_kind *kind,
                                                  concur_shared_pool *shared);

#pragma GCC visibility pop

#endif
