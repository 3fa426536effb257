/* SPDX-License-Identifier: MIT */
/* The loop, for other C modules: posting to it, holding it, timers.  See include/concur.h. */
#ifndef CONCUR_CAPI_LOOP_H
#define CONCUR_CAPI_LOOP_H

#include "capi_state.h"

#pragma GCC visibility push(hidden)

concur_loop_ref *concur_capi_loop_ref(lua_State *L);
void concur_capi_loop_retain(concur_loop_ref *ref);
void concur_capi_loop_release(concur_loop_ref *ref);
int concur_capi_post(concur_loop_ref *ref, concur_call_fn call, concur_drop_fn drop, void *data);
void concur_capi_hold(lua_State *L);
void concur_capi_unhold(lua_State *L);
double concur_capi_now(lua_State *L);

concur_timer_ref *concur_capi_timer_new(lua_State *L, concur_call_fn call, void *data,
                                        unsigned flags);
int concur_capi_timer_set(concur_timer_ref *ref, double seconds);
void concur_capi_timer_stop(concur_timer_ref *ref);
void concur_capi_timer_free(concur_timer_ref *ref);

/* The state's loop closes: timers are put to rest for good, holds are forgotten. */
void concur_capi_loop_close(concur_capi *capi);

#pragma GCC visibility pop

#endif
