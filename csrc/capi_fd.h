/* SPDX-License-Identifier: MIT */
/* Waiting for a descriptor, for other C modules: `fd_ready` of include/concur.h. */
#ifndef CONCUR_CAPI_FD_H
#define CONCUR_CAPI_FD_H

#include "capi_future.h"

#pragma GCC visibility push(hidden)

void concur_capi_fd_ready(lua_State *L, int fd, int events);

#pragma GCC visibility pop

#endif
