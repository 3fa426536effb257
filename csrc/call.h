/* SPDX-License-Identifier: MIT */
/*
 * A call: the job that runs a Lua function in a worker's state.  No Lua here.
 *
 * The owner (executor.c, on its loop's thread) fills in `input` and reads `output`; the worker
 * (worker.c, on a pool thread) does the reverse.  Between them the pool and the mailbox order their
 * accesses.  Fields below "owner" are touched by the owner's thread alone.
 *
 * Worker settings say how to make the Lua states of one pool: shared by its threads and its owner,
 * reference-counted.  The default pool's slot is shared by a state, its workers, theirs, and so on.
 */
#ifndef CONCUR_CALL_H
#define CONCUR_CALL_H

#include "heap.h"
#include "message.h"
#include "pool.h"

#pragma GCC visibility push(hidden)

typedef struct concur_call concur_call;
typedef struct concur_worker_settings concur_worker_settings;
typedef struct concur_shared_pool concur_shared_pool;

typedef enum concur_call_outcome {
  CONCUR_CALL_RESULTS,   /* output: the results */
  CONCUR_CALL_ERROR,     /* output: is_library, error, message, traceback; NULL: out of memory */
  CONCUR_CALL_CANCELLED, /* it ended by its own cancellation */
  CONCUR_CALL_BROKEN,    /* it could not run: output is the cause in the settings */
  CONCUR_CALL_CRASHED,   /* the process that ran it has ended: output is a concur_crash */
  CONCUR_CALL_REFUSED    /* all threads waited for other jobs, and none could be started for it */
} concur_call_outcome;

/* How a process ended, or why none could be started: the head of a message, followed by a text and the
   last that the process wrote to stderr. */
typedef struct concur_crash {
  int32_t code;   /* exit code; -1: none */
  int32_t signal; /* that ended it; 0: none */
  int32_t error;  /* libuv error code: it could not be started; 0: it was */
  uint32_t text_size, stderr_size;
} concur_crash;

/*
 * How a pool's calls are run: by its threads, in Lua states of their own (worker.c), or by processes
 * (process_pool.c), where `run`, `cancel` and `drop_cancel` are NULL, since a host does that (pool.h).
 * One static instance for each kind of pool.  All else (queue, futures, room, retries, closing) is the
 * same for every kind.
 */
typedef struct concur_call_kind {
  /* [pool thread] Runs the call and fills in its outcome and output. */
  void (*run)(concur_job *job, concur_thread *thread);
  /* `deliver` and `drop` of job.cancel_mail; each gives the mail's reference to the job back. */
  void (*cancel)(concur_mail *mail, void *owner);
  void (*drop_cancel)(concur_mail *mail);
  /* [any thread that knows the call to be alive] Ends it by force; again if it did not help. */
  void (*interrupt)(concur_call *call);
  /* [any thread] The same for every call of the pool that was asked to stop. */
  void (*interrupt_pool)(concur_pool *pool);
  /* [any thread] Asks the pool's running calls where they are (concur_running.trace). */
  void (*trace)(concur_pool *pool);
  /* [owner's thread] Brings the state of a HANDED job up to date; NULL where there is no such job. */
  void (*refresh)(concur_call *call);
  /* [owner's thread] How many workers have crashed so far; NULL where none can. */
  uint64_t (*crashes)(concur_pool *pool);
  /* [any thread] Frees settings->extra; NULL where there is none. */
  void (*free_extra)(void *extra);
  /* Calls leave the process: nothing can be attached to their messages, and they have no shortcuts. */
  bool flat;
} concur_call_kind;

/* A function that was sent before: workers know it by its number.  Reference-counted. */
typedef struct concur_function {
  uint64_t number;         /* unique in its pool, not 0 */
  concur_message *message; /* owned; the function alone */
  char apart[64];          /* what workers read is not in a cache line with what the owner writes */
  atomic_int references;
  uint32_t misses; /* owner's thread: see concur_function_of */
} concur_function;

/* A few small values without a message. */
typedef enum concur_scalar_type {
  CONCUR_SCALAR_NIL,
  CONCUR_SCALAR_FALSE,
  CONCUR_SCALAR_TRUE,
  CONCUR_SCALAR_INTEGER,
  CONCUR_SCALAR_NUMBER,
  CONCUR_SCALAR_STRING
} concur_scalar_type;

enum { CONCUR_INLINE_VALUES = 4, CONCUR_INLINE_BYTES = 40 };

typedef struct concur_scalar {
  union {
    int64_t integer;
    double number;
    struct {
      uint16_t offset, size; /* in `bytes` */
    } string;
  } as;
  uint8_t type; /* concur_scalar_type */
} concur_scalar;

typedef struct concur_inline {
  concur_scalar scalars[CONCUR_INLINE_VALUES];
  char bytes[CONCUR_INLINE_BYTES];
  int8_t count; /* -1: the values are in a message */
} concur_inline;

/* Do strings that the message `input` points to still belong to the owner's state? */
typedef enum concur_loan {
  CONCUR_LOAN_NONE,    /* there are none */
  CONCUR_LOAN_OPEN,    /* they must stay alive */
  CONCUR_LOAN_COPYING, /* the worker is copying them: the owner's state may not close now */
  CONCUR_LOAN_OVER,    /* it has copied them */
  CONCUR_LOAN_REVOKED  /* the owner's state closes: the call may not begin */
} concur_loan;

struct concur_call {
  concur_job job;
  concur_function *function; /* one reference; NULL: it is the first value of `input` */
  union {                    /* count -1: not here but in `input`, or `output` */
    concur_inline arguments; /* until it runs; never of a call that may be tried again */
    concur_inline results;
  };
  concur_message *input;            /* owned; NULL: there is nothing that is not in the two above */
  atomic_int loan;                  /* concur_loan */
  concur_message *output;           /* owned; NULL until it has run, and with `results` */
  uint8_t outcome;                  /* concur_call_outcome; valid once the job has ended */
  uint32_t retries;                 /* how often it may yet be tried again after an error */
  uint32_t retry_delay_ms;          /* until it is tried again; doubled each time */
  atomic_uint interrupts;           /* how often its Lua code was told to end by force */
  concur_worker_settings *settings; /* one reference */
  char *name;                       /* owned; NULL: not named */

  /* owner */
  struct concur_executor *executor; /* through which it was submitted; borrowed until the reply */
  struct concur_future *future;     /* anchored by `slot`; valid until the reply */
  int slot;
  int lent_slot;               /* anchors the strings that `input` points to; 0: none */
  concur_node link;            /* in the runtime's list of jobs in flight */
  bool abandon;                /* cancelling does not wait for the job's end */
  uint64_t interrupt_after_ns; /* after cancel; CONCUR_NEVER: not at all; the worker looks too */
  concur_timer interrupt_timer;
  bool holds_loop; /* counted in loop->external_refs */
};

/* A C function that the host has put into package.preload. */
typedef struct concur_preload {
  char *name; /* owned */
  void (*function)(void);
} concur_preload;

struct concur_worker_settings {
  const concur_call_kind *kind;
  void *extra;                 /* owned: what `kind` needs beyond this; or NULL */
  char *name;                  /* owned; of the pool */
  concur_message *environment; /* owned; package.path and so on; set before the first job */
  concur_message *init;        /* owned; a function, or NULL */
  concur_preload *preloads;    /* owned array */
  uint32_t preload_count;
  uint32_t max_jobs;          /* jobs that one state runs; 0: no limit */
  size_t max_memory;          /* bytes that one state may hold; 0: no limit */
  size_t message_limit;       /* concur.transfer_limit of the workers' states; 0: left alone */
  concur_shared_pool *shared; /* one reference */
  uv_mutex_t mutex;
  concur_message *cause; /* owned, guarded: why init failed, or a concur_crash; NULL: neither */
  bool crashed;          /* `cause` is a concur_crash; set before `broken` */
  atomic_bool broken;    /* `cause` is set, or memory was too short for it */
  char apart[64];        /* workers look at the above for each call, the owner counts for each */
  atomic_int references;
};

/* The slot of the default pool. */
struct concur_shared_pool {
  atomic_int references;
  uv_mutex_t mutex;
  concur_pool *pool;                /* guarded; one reference, or NULL */
  concur_worker_settings *settings; /* guarded; one reference, or NULL */
  bool closed;                      /* guarded: the state that began it all has closed */
};

/* True when the values are ones that concur_inline_push can push, wherever they come from. */
bool concur_inline_check(const concur_inline *values);

/* A call; NULL when out of memory.  `name` is copied. */
concur_call *concur_call_new(concur_pool *pool, concur_mailbox *reply,
                             concur_worker_settings *settings, const char *name);
/* The same in the memory of a call that was cleared.  False when out of memory. */
bool concur_call_init(concur_call *call, concur_pool *pool, concur_mailbox *reply,
                      concur_worker_settings *settings, const char *name);
/* Lets go of all that the call holds, its job's part included; the caller has the last reference. */
void concur_call_clear(concur_call *call);

/* [pool thread] Before and after the strings that were lent are copied.  False: they are gone. */
bool concur_call_loan_begin(concur_call *call);
void concur_call_loan_end(concur_call *call);
/* [owner's thread] The strings are going away.  Waits while they are copied; that runs no Lua
   code but finalizers, which cannot wait. */
void concur_call_loan_revoke(concur_call *call);

/* [pool thread] After a try: true if the call is to be tried again, after *delay_ms. */
bool concur_call_again(concur_call *call, uint32_t *delay_ms);

enum { CONCUR_RETRIES_MOST = 255, CONCUR_RETRY_DELAY_MOST_MS = (1 << 24) - 1 };

/* Retries and their delay in one number, on the way to a process. */
static inline uint32_t concur_call_pack_retries(const concur_call *call) {
  return call->retry_delay_ms << 8 | call->retries;
}

static inline void concur_call_unpack_retries(concur_call *call, uint32_t packed) {
  call->retries = packed & CONCUR_RETRIES_MOST;
  call->retry_delay_ms = packed >> 8;
}

/* Takes the message, also on failure (NULL). */
concur_function *concur_function_new(concur_message *message, uint64_t number);
void concur_function_retain(concur_function *function);
void concur_function_release(concur_function *function);

/* NULL when out of memory. `shared` is retained; `name` is copied. */
concur_worker_settings *concur_worker_settings_new(const concur_call_kind *kind, const char *name,
                                                   concur_shared_pool *shared);
void concur_worker_settings_retain(concur_worker_settings *settings);
void concur_worker_settings_release(concur_worker_settings *settings);
/* Adds a host's C module; false when out of memory. */
bool concur_worker_settings_preload(concur_worker_settings *settings, const char *name,
                                    void (*function)(void));
/* [any thread] Marks the pool as broken; takes the message, which may be NULL. */
void concur_worker_settings_break(concur_worker_settings *settings, concur_message *cause);
/* [any thread] A copy of the cause, or NULL. */
concur_message *concur_worker_settings_cause(concur_worker_settings *settings);

concur_shared_pool *concur_shared_pool_new(void);
void concur_shared_pool_retain(concur_shared_pool *shared);
void concur_shared_pool_release(concur_shared_pool *shared);

#pragma GCC visibility pop

#endif
