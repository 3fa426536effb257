/* SPDX-License-Identifier: MIT */
/* See call_future.h.                                                               [loop thread] */
#include "call_future.h"

void concur_call_release_anchors(lua_State *L, concur_runtime *runtime, concur_call *call) {
  if (call->slot != 0) concur_anchor_release(L, runtime, call->slot);
  if (call->lent_slot != 0) concur_anchor_release(L, runtime, call->lent_slot);
  call->slot = 0;
  call->lent_slot = 0;
}

void concur_call_settle_quietly(concur_call *call, concur_future_state state) {
  if (call->future != NULL && !concur_future_settled(call->future)) {
    concur_future_settle(call->future, state);
  }
}

void concur_call_let_loop_go(concur_call *call) {
  concur_executor *executor = call->executor;
  concur_loop *loop = executor->owner->runtime->scheduler->loop;
  if (!call->holds_loop) return;
  call->holds_loop = false;
  loop->external_refs--;
}

/* At least this long between two interrupts, so that clean-up can run after the first. */
#define INTERRUPT_AGAIN_NS UINT64_C(100000000)

static void on_interrupt_due(concur_timer *timer, void *context) {
  concur_call *call = concur_container_of(timer, concur_call, interrupt_timer);
  concur_loop *loop = context;
  bool first = atomic_load(&call->interrupts) == 0;
  call->settings->kind->interrupt(call);
  if (!first || !concur_loop_reserve_timer(loop)) return;
  uint64_t delay_ns = call->interrupt_after_ns;
  if (delay_ns < INTERRUPT_AGAIN_NS) delay_ns = INTERRUPT_AGAIN_NS;
  concur_loop_start_timer(loop, timer, concur_deadline_after(loop, delay_ns));
}

/* Starts counting towards the interrupt of a call that was asked to stop. */
static void call_arm_interrupt(concur_call *call, concur_loop *loop) {
  if (call->interrupt_after_ns == CONCUR_NEVER || atomic_load(&call->interrupts) > 0 ||
      concur_timer_active(&call->interrupt_timer) || !concur_loop_reserve_timer(loop)) {
    return;
  }
  call->interrupt_timer.fire = on_interrupt_due;
  concur_loop_start_timer(loop, &call->interrupt_timer,
                          concur_deadline_after(loop, call->interrupt_after_ns));
}

/* Asks the call to stop.  True when its future is to be settled as cancelled now: it will never
   run, or is not waited for. */
static bool call_cancel(concur_call *call) {
  concur_executor *executor = call->executor;
  concur_loop *loop = executor->owner->runtime->scheduler->loop;
  bool gathered = atomic_load(&call->job.state) == CONCUR_JOB_NEW;
  switch (concur_job_cancel(&call->job)) {
  case CONCUR_JOB_TAKEN_OFF:
    if (gathered) executor->batch_count--;
    /* Its own mail frees it, at the next turn. */
    if (!concur_mailbox_post(call->job.reply, &call->job.mail)) {
      call->job.mail.drop(&call->job.mail);
    }
    return true;
  case CONCUR_JOB_ASKED:
    call_arm_interrupt(call, loop);
    if (call->abandon) concur_call_let_loop_go(call);
    return call->abandon;
  case CONCUR_JOB_TOO_LATE: break;
  }
  return false;
}

static void call_future_cancel(lua_State *L, concur_runtime *runtime, int index,
                               concur_future *future, int reason) {
  concur_call *call = concur_call_future_of(future)->call;
  if (call == NULL || concur_runtime_forked(runtime)) return;
  if (!future->cancel_requested && reason != 0) {
    lua_pushvalue(L, reason);
    lua_setiuservalue(L, index, CONCUR_CALL_FUTURE_REASON);
  }
  future->cancel_requested = true;
  if (call_cancel(call)) {
    lua_getiuservalue(L, index, CONCUR_CALL_FUTURE_REASON);
    concur_future_set_cancelled(L, index, future);
  }
}

static void call_future_cancel_quietly(concur_runtime *runtime, concur_future *future) {
  concur_call *call = concur_call_future_of(future)->call;
  if (call == NULL || concur_runtime_forked(runtime)) return;
  future->cancel_requested = true;
  if (call_cancel(call)) concur_future_settle(future, CONCUR_CANCELLED);
}

static void call_future_push_name(lua_State *L, int index, const concur_future *future) {
  (void)index;
  const concur_call_future *self = (const concur_call_future *)(const void *)future;
  if (self->call != NULL && self->call->name != NULL) {
    lua_pushfstring(L, "job '%s'", self->call->name);
  } else {
    lua_pushliteral(L, "a job");
  }
}

static void call_future_refresh(lua_State *L, concur_runtime *runtime, concur_future *future) {
  concur_executor_collect(L, runtime);
  concur_call *call = concur_call_future_of(future)->call;
  if (call != NULL && call->settings->kind->refresh != NULL) call->settings->kind->refresh(call);
  if (future->state == CONCUR_PENDING && call != NULL &&
      atomic_load(&call->job.state) >= CONCUR_JOB_RUNNING) {
    future->state = CONCUR_RUNNING;
  }
}

const concur_future_ops concur_call_future_ops = {call_future_cancel, call_future_cancel_quietly,
                                                  call_future_push_name, call_future_refresh};
