/* SPDX-License-Identifier: MIT */
/* The loop driven by a host program from its own; error objects.  See include/concur.h. */
#ifndef CONCUR_CAPI_HOST_H
#define CONCUR_CAPI_HOST_H

#include "capi_state.h"

#pragma GCC visibility push(hidden)

/* The table of the core's functions is on top of the stack. */
void concur_capi_host_open(lua_State *L);

int concur_capi_step(lua_State *L, double max_seconds);
int concur_capi_fd(lua_State *L);
double concur_capi_next_timeout(lua_State *L);
int concur_capi_alive(lua_State *L);

void concur_capi_push_error(lua_State *L, const char *kind, const char *message);
void concur_capi_push_os_error(lua_State *L, int error_number, const char *call, const char *path);

#pragma GCC visibility pop

#endif
