/* SPDX-License-Identifier: MIT */
/*
 * See capi.h.  The one table of functions that all modules and all states of the process share; each
 * state's registry holds its address.  Append only: see the version policy in include/concur.h.
 */
#include "capi.h"

#include "capi_fd.h"
#include "capi_host.h"
#include "capi_job.h"
#include "capi_loop.h"
#include "capi_wait.h"
#include "run.h"

static const concur_api api = {
    CONCUR_API_VERSION,
    sizeof(concur_api),
    concur_capi_future_new,
    concur_capi_future_retain,
    concur_capi_future_release,
    concur_capi_settle,
    concur_capi_fail,
    concur_capi_settle_cancelled,
    concur_capi_cancelled,
    concur_capi_submit,
    concur_capi_await,
    concur_capi_join,
    concur_capi_cancel,
    concur_capi_loop_ref,
    concur_capi_loop_retain,
    concur_capi_loop_release,
    concur_capi_post,
    concur_capi_hold,
    concur_capi_unhold,
    concur_capi_now,
    concur_capi_timer_new,
    concur_capi_timer_set,
    concur_capi_timer_stop,
    concur_capi_timer_free,
    concur_capi_fd_ready,
    concur_capi_push_error,
    concur_capi_push_os_error,
    concur_capi_step,
    concur_capi_fd,
    concur_capi_next_timeout,
    concur_capi_alive,
};

void concur_capi_close(lua_State *L, concur_runtime *runtime) {
  concur_capi *capi = runtime->capi;
  if (capi == NULL || runtime->loop == NULL) return;
  concur_capi_futures_close(L, capi);
  concur_capi_loop_close(capi);
}

void concur_capi_open(lua_State *L, concur_runtime *runtime) {
  concur_capi_state_open(L, runtime);
  concur_capi_wait_open(L, runtime);
  concur_capi_host_open(L);
  lua_pushlightuserdata(L, (void *)(uintptr_t)&api);
  lua_setfield(L, LUA_REGISTRYINDEX, CONCUR_API_KEY);
}
