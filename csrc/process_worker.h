/* SPDX-License-Identifier: MIT */
/*
 * The program in a worker process: takes jobs out of the link, runs them as a pool's thread would
 * (worker.c), puts the results into the link.
 */
#ifndef CONCUR_PROCESS_WORKER_H
#define CONCUR_PROCESS_WORKER_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* core.process_worker(): returns when the pool says that no more jobs will come. */
int concur_process_worker(lua_State *L);

#pragma GCC visibility pop

#endif
