/* SPDX-License-Identifier: MIT */
/* See reply.h.                                                                     [loop thread] */
#include "reply.h"

#include <string.h>

#include "call_future.h"
#include "disposition.h"
#include "transfer.h"

/* Pushes the error of a call from what the worker sent: is_library, error, text, traceback. */
static void push_call_error(lua_State *L, concur_runtime *runtime, const concur_message *output) {
  int base = lua_gettop(L);
  if (output == NULL || concur_decode(L, output) != 4) {
    lua_settop(L, base);
    concur_error_new(L, runtime, "RemoteError", "not enough memory in the worker");
    lua_pushnil(L);
    return;
  }
  if (lua_toboolean(L, base + 1)) {
    lua_pushvalue(L, base + 2);
    lua_pushnil(L);
    lua_setfield(L, -2, "traceback"); /* that was there: here it is raised anew */
  } else {
    concur_error_new(L, runtime, "RemoteError", "%s", lua_tostring(L, base + 3));
    lua_pushvalue(L, base + 2);
    lua_setfield(L, -2, "value");
  }
  lua_pushvalue(L, base + 4);
  lua_setfield(L, -2, "remote_traceback");
  lua_replace(L, base + 1);
  lua_pushvalue(L, base + 4);
  lua_replace(L, base + 2);
  lua_settop(L, base + 2);
}

/* Pushes what a concur_crash says.  `job`: what it did, for the text; or NULL. */
static void push_crash(lua_State *L, concur_runtime *runtime, const char *pool, const char *job,
                       const concur_message *message) {
  concur_crash crash = {.code = -1};
  if (message == NULL) {
    concur_error_new(L, runtime, "WorkerCrashed",
                     "a worker of %s has ended: not enough memory to say more", pool);
    return;
  }
  memcpy(&crash, message->bytes, sizeof crash);
  const char *text = (const char *)message->bytes + sizeof crash;
  int base = lua_gettop(L);
  lua_pushlstring(L, text, crash.text_size);
  if (crash.error != 0) {
    concur_os_error(L, runtime, crash.error, "starting a worker", "path", lua_tostring(L, -1));
    lua_replace(L, base + 1);
    lua_settop(L, base + 1);
    return;
  }
  concur_error_new(L, runtime, "WorkerCrashed", "a worker of %s %s%s%s", pool, lua_tostring(L, -1),
                   job != NULL ? " while it ran " : "", job != NULL ? job : "");
  if (crash.code >= 0) {
    lua_pushinteger(L, crash.code);
    lua_setfield(L, -2, "code");
  }
  if (crash.signal != 0) {
    const char *name = concur_signal_name(crash.signal);
    if (name != NULL) {
      lua_pushstring(L, name);
    } else {
      lua_pushfstring(L, "SIG%d", (int)crash.signal);
    }
    lua_setfield(L, -2, "signal");
  }
  lua_pushlstring(L, text + crash.text_size, crash.stderr_size);
  lua_setfield(L, -2, "stderr");
  lua_remove(L, base + 1);
}

/* Replaces the error on top of the stack by a BrokenExecutor that it caused. */
static void wrap_as_broken(lua_State *L, concur_runtime *runtime, const char *format,
                           const char *pool) {
  lua_pushliteral(L, "message");
  lua_rawget(L, -2);
  const char *text = lua_tostring(L, -1);
  concur_error_new(L, runtime, "BrokenExecutor", format, pool, text != NULL ? text : "?");
  lua_pushvalue(L, -3);
  lua_setfield(L, -2, "cause");
  lua_replace(L, -3);
  lua_pop(L, 1);
}

/* Pushes the error of a pool whose init failed with `cause`, or whose workers could not start or go
   on crashing. */
static void push_broken(lua_State *L, concur_runtime *runtime,
                        const concur_worker_settings *settings, const concur_message *cause) {
  if (cause == NULL) {
    concur_error_new(L, runtime, "BrokenExecutor", "no worker of %s could be started",
                     settings->name);
  } else if (settings->crashed) {
    push_crash(L, runtime, settings->name, NULL, cause);
    wrap_as_broken(L, runtime, "%s is broken: %s", settings->name);
  } else {
    push_call_error(L, runtime, cause);
    lua_pop(L, 1);
    wrap_as_broken(L, runtime, "the init function of %s failed: %s", settings->name);
  }
}

int concur_call_raise_broken(lua_State *L, concur_runtime *runtime,
                             concur_worker_settings *settings) {
  /* The message is copied into Lua's memory, so that nothing is lost if pushing the error raises. */
  concur_message *cause = concur_worker_settings_cause(settings);
  if (cause != NULL) {
    size_t size = sizeof *cause + cause->size;
    void *copy = lua_newuserdatauv(L, size, 0);
    memcpy(copy, cause, size);
    concur_message_free(cause);
    cause = copy;
  }
  push_broken(L, runtime, settings, cause);
  return lua_error(L);
}

void concur_call_push_exhausted(lua_State *L, concur_runtime *runtime,
                                const concur_worker_settings *settings) {
  concur_error_new(L, runtime, "InvalidState",
                   "cannot submit: jobs of %s wait for jobs that wait for jobs ..., and no more "
                   "threads may be started", settings->name);
}

/* What has become of a call whose job came back CANCELLED. */
static concur_call_outcome outcome_unrun(const concur_job *job) {
  switch ((concur_refusal)job->refused) {
  case CONCUR_NOT_REFUSED: break;
  case CONCUR_NO_THREAD: return CONCUR_CALL_BROKEN;
  case CONCUR_ALL_WAIT: return CONCUR_CALL_REFUSED;
  }
  return CONCUR_CALL_CANCELLED;
}

/* Argument: the call.  Settles its future with what came. */
static int l_settle(lua_State *L) {
  concur_call *call = lua_touserdata(L, 1);
  concur_executor *executor = call->executor;
  concur_runtime *runtime = executor->owner->runtime;
  concur_future *future = call->future;
  concur_anchor_push(L, runtime, call->slot); /* index 2: the future */
  if (concur_future_settled(future)) return 0;
  if (atomic_load(&call->job.state) == CONCUR_JOB_CANCELLED) {
    call->outcome = (uint8_t)outcome_unrun(&call->job);
  }
  switch ((concur_call_outcome)call->outcome) {
  case CONCUR_CALL_RESULTS: {
    int count = call->results.count >= 0 ? concur_inline_push(L, &call->results)
                                         : concur_decode(L, call->output);
    concur_future_set_results(L, 2, future, count);
    break;
  }
  case CONCUR_CALL_ERROR:
    push_call_error(L, runtime, call->output);
    lua_insert(L, 3); /* index 3: the traceback, 4: the error */
    concur_future_set_error(L, runtime, 2, future, 0);
    break;
  case CONCUR_CALL_BROKEN:
    push_broken(L, runtime, call->settings, call->output);
    concur_future_set_error(L, runtime, 2, future, 0);
    break;
  case CONCUR_CALL_REFUSED:
    concur_call_push_exhausted(L, runtime, call->settings);
    concur_future_set_error(L, runtime, 2, future, 0);
    break;
  case CONCUR_CALL_CRASHED:
    future->ops->push_name(L, 2, future);
    push_crash(L, runtime, call->settings->name, lua_tostring(L, -1), call->output);
    concur_future_set_error(L, runtime, 2, future, 0);
    break;
  case CONCUR_CALL_CANCELLED:
    lua_getiuservalue(L, 2, CONCUR_CALL_FUTURE_REASON);
    concur_future_set_cancelled(L, 2, future);
    break;
  }
  return 0;
}

/* Arguments: the call, an error.  What could not be decoded is the call's error. */
static int l_settle_with_error(lua_State *L) {
  concur_call *call = lua_touserdata(L, 1);
  concur_executor *executor = call->executor;
  concur_runtime *runtime = executor->owner->runtime;
  concur_anchor_push(L, runtime, call->slot);
  lua_insert(L, 2);
  concur_future_set_error(L, runtime, 2, call->future, 0);
  return 0;
}

/* Argument: the call.  Settles the future, whatever happens, and lets it go. */
static int l_complete(lua_State *L) {
  concur_call *call = lua_touserdata(L, 1);
  concur_executor *executor = call->executor;
  concur_runtime *runtime = executor->owner->runtime;
  lua_pushcfunction(L, l_settle);
  lua_pushvalue(L, 1);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pushcfunction(L, l_settle_with_error);
    lua_insert(L, -2);
    lua_pushvalue(L, 1);
    lua_insert(L, -2);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) concur_call_settle_quietly(call, CONCUR_FAILED);
  }
  concur_call_release_anchors(L, runtime, call);
  return 0;
}

/* Settles the future of a call with plain results, which needs no memory, and so no protection.
   False when this is not such a call. */
static bool call_settle_plainly(concur_call *call, concur_loop *loop) {
  lua_State *L = loop->L;
  concur_runtime *runtime = loop->runtime;
  if (call->outcome != CONCUR_CALL_RESULTS || call->results.count < 0 ||
      !concur_inline_is_plain(&call->results) || L == NULL || loop->closing ||
      atomic_load(&call->job.state) != CONCUR_JOB_ENDED || concur_future_settled(call->future) ||
      !lua_checkstack(L, 8)) {
    return false;
  }
  concur_anchor_push(L, runtime, call->slot);
  int index = lua_gettop(L);
  concur_future_set_results(L, index, call->future, concur_inline_push(L, &call->results));
  concur_call_release_anchors(L, runtime, call);
  lua_settop(L, index - 1);
  return true;
}

void concur_call_on_reply(concur_mail *mail, void *owner) {
  concur_call *call = concur_container_of(mail, concur_call, job.mail);
  concur_loop *loop = owner;
  concur_executor *executor = call->executor;
  concur_executors *executors = executor->owner;
  concur_call_let_loop_go(call);
  concur_loop_stop_timer(loop, &call->interrupt_timer);
  concur_node_unlink(&call->link);
  executors->call_count--;
  if (call->future != NULL) {
    if (!call_settle_plainly(call, loop) && !concur_loop_protect(loop, l_complete, call)) {
      concur_call_settle_quietly(call, CONCUR_FAILED);
    }
    concur_call_future_of(call->future)->call = NULL;
    call->future = NULL;
  }
  executors = executor->owner; /* NULL if decoding has closed the loop */
  concur_executor_release(executor);
  if (executors != NULL) {
    concur_executors_take_back(executors, call);
  } else {
    concur_job_release(&call->job);
  }
}

/* The state that waited is gone, and with it what `future` and `executor` point to. */
void concur_call_on_reply_dropped(concur_mail *mail) {
  concur_job_release(&concur_container_of(mail, concur_call, job.mail)->job);
}
