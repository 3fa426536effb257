/* SPDX-License-Identifier: MIT */
/*
 * Promises: where a result is put by any thread, once, for a loop to fetch.  No Lua here.
 *
 * A promise is PENDING until somebody settles it: then it holds a *payload* and its mail goes to the
 * loop's mailbox (a job's promise waits for the job's own mail instead).  It is OVER when a cancelled
 * wait or a closing state has given it up, or its payload was fetched; settling it then does
 * nothing but drop what was brought.
 *
 * The mutex guarantees: the cancel function is never running, and will never be called, once
 * settling has returned.  It is recursive, because that function may settle the promise itself.
 *
 * Reference-counted.  Some references can settle it (`holders`): when the last of those goes and the
 * promise is PENDING, it ends as cancelled if it was asked to, else with an error.  The owner embeds
 * the promise, and `free` frees both.
 */
#ifndef CONCUR_PROMISE_H
#define CONCUR_PROMISE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "mailbox.h"

#pragma GCC visibility push(hidden)

struct lua_State;

typedef enum concur_payload_kind {
  CONCUR_PAYLOAD_NONE,
  CONCUR_PAYLOAD_RESULTS,  /* `push` pushes them; NULL: there are none */
  CONCUR_PAYLOAD_ERROR,    /* `data` is a concur_promise_error */
  CONCUR_PAYLOAD_CANCELLED /* it ended because it was asked to */
} concur_payload_kind;

typedef struct concur_payload {
  concur_payload_kind kind;
  int (*push)(struct lua_State *L, void *data); /* [loop thread] */
  void (*drop)(void *data);                     /* [any thread]; NULL: nothing to do */
  void *data;                                   /* owned until taken or dropped */
} concur_payload;

typedef struct concur_promise_error {
  const char *kind;    /* inside the same block; NULL: the error is the message */
  const char *message; /* inside the same block */
} concur_promise_error;

typedef enum concur_promise_state {
  CONCUR_PROMISE_PENDING,
  CONCUR_PROMISE_SETTLED, /* the payload is there */
  CONCUR_PROMISE_OVER     /* nothing more is wanted */
} concur_promise_state;

typedef struct concur_promise concur_promise;
struct concur_promise {
  atomic_int references;
  atomic_int holders;        /* of these, the ones that can settle it */
  atomic_bool cancelled;     /* somebody asked it to stop */
  uv_mutex_t mutex;          /* recursive */
  concur_mailbox *reply;     /* one reference */
  concur_mail mail;          /* `deliver` and `drop` are the owner's; used at most once */
  int (*cancel)(void *data); /* NULL: cancelling needs nothing */
  void *cancel_data;         /* borrowed until settled or over */
  concur_payload payload;    /* guarded until SETTLED, then the owner's */
  uint8_t state;             /* guarded: concur_promise_state */
  bool job;                  /* settling sends no mail: the job's mail follows */
  bool armed;                /* guarded: `cancel` may be called */
  void (*free)(concur_promise *promise); /* [any thread] */
};

/* A PENDING promise with one reference that can settle it, armed unless it is a job's.  0 or a libuv
   error code.  `reply` is retained. */
int concur_promise_init(concur_promise *promise, concur_mailbox *reply, bool job);

/* [any thread] References that only look. */
void concur_promise_retain(concur_promise *promise);
void concur_promise_release(concur_promise *promise);

/* [any thread] References that can settle it. */
void concur_promise_hold(concur_promise *promise);
void concur_promise_let_go(concur_promise *promise);

/* [any thread] Settles it; the payload is taken in any case.  False: it was too late. */
bool concur_promise_settle(concur_promise *promise, const concur_payload *payload);

/* [any thread] The same with an error; the texts are copied. */
bool concur_promise_fail(concur_promise *promise, const char *kind, const char *message);

typedef enum concur_promise_cancel_end {
  CONCUR_PROMISE_CANCELLED, /* it is OVER */
  CONCUR_PROMISE_LATER,     /* it was asked, and will be settled */
  CONCUR_PROMISE_TOO_LATE   /* it is settled, and that counts */
} concur_promise_cancel_end;

/* [loop thread] Asks it to stop.  A job's promise is never CANCELLED by this. */
concur_promise_cancel_end concur_promise_cancel(concur_promise *promise);

/* [loop thread] Asks it to stop, and gives it up. */
void concur_promise_close(concur_promise *promise);

/* [pool thread] The work of a job begins; false when it was asked to stop already. */
bool concur_promise_begin(concur_promise *promise);
/* [pool thread] It has ended: from now on settling is too late. */
void concur_promise_end(concur_promise *promise);

/* Drops the payload if nobody took it. */
void concur_payload_drop(concur_payload *payload);

#pragma GCC visibility pop

#endif
