/* SPDX-License-Identifier: MIT */
/* Jobs in C: `submit` of include/concur.h. */
#ifndef CONCUR_CAPI_JOB_H
#define CONCUR_CAPI_JOB_H

#include "capi_future.h"

#pragma GCC visibility push(hidden)

void concur_capi_submit(lua_State *L, concur_work_fn work, concur_push_fn done, concur_drop_fn drop,
                        void *data, const concur_job_options *options);

#pragma GCC visibility pop

#endif
