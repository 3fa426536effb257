/* SPDX-License-Identifier: MIT */
/*
 * The link between a process pool and one worker: a socketpair and memory that both share.
 *
 * Frames travel through two rings in the shared memory.  The socket carries bells: one byte that
 * wakes an end that said it would sleep, so that a busy link costs no system call.  It is a lifeline
 * as well: each end sees the other's death as the end of the stream.
 *
 * Each job that was sent and has not been answered occupies a *slot*.  Whether it may still be taken
 * back is decided by one compare-and-swap in the slot's word: the worker changes SENT into STARTED
 * before it looks at the job, the pool changes SENT into REVOKED.  So the pool knows, also after the
 * worker's death, exactly which job had begun.
 *
 * The shared memory is a file without a name; the worker gets both descriptors as 3 and 4.  What the
 * other end wrote is never trusted (ring.h, frame.h); a worker that writes nonsense harms nobody but
 * itself.
 *
 * No Lua.  Each end belongs to one thread.  concur_link_close frees everything of this end.
 */
#ifndef CONCUR_PROCESS_LINK_H
#define CONCUR_PROCESS_LINK_H

#include "frame.h"
#include "ring.h"

#pragma GCC visibility push(hidden)

enum {
  CONCUR_LINK_SLOTS = 32,
  CONCUR_LINK_RING = 1024 * 1024, /* bytes in each direction */
  CONCUR_LINK_SOCKET_FD = 3,      /* in the worker */
  CONCUR_LINK_MEMORY_FD = 4
};

typedef enum concur_slot_state {
  CONCUR_SLOT_FREE,     /* no job, or one that was skipped */
  CONCUR_SLOT_SENT,     /* the pool has sent it */
  CONCUR_SLOT_STARTED,  /* the worker has begun with it */
  CONCUR_SLOT_ANSWERED, /* its result is in the link */
  CONCUR_SLOT_REVOKED   /* the pool has taken it back: the worker is to skip it */
} concur_slot_state;

typedef struct concur_link_memory concur_link_memory;

typedef struct concur_link {
  int socket;                 /* owned; -1: closed */
  int file;                   /* owned: of the shared memory; -1: closed */
  concur_link_memory *memory; /* owned mapping */
  concur_ring in, out;        /* as seen from this end */
} concur_link;

/* [pool] Makes a link; *peer_socket is the worker's end, the caller's to hand on and to close.  0 or
   a libuv error code. */
int concur_link_open(concur_link *link, int *peer_socket);

/* [worker] Takes the link that was inherited over.  0, or a libuv error code: UV_EPROTO when the
   memory is that of another version of concur, anything else when there is no link. */
int concur_link_attach(concur_link *link);

void concur_link_close(concur_link *link);
/* [pool] The worker has the file now. */
void concur_link_close_file(concur_link *link);

/* Wakes the other end. */
void concur_link_ring_bell(concur_link *link);

/* Takes bells that have come, without waiting.  1: some, or none; 0: the other end has closed;
   negative: a libuv error code, UV_EPROTO when something that is no bell came. */
int concur_link_take_bells(concur_link *link);

/* [worker] Sleeps until a bell rings.  As above. */
int concur_link_await_bell(concur_link *link);

/* [any thread of the worker] Waits until the other end closes or dies; bells do not end it. */
void concur_link_await_end(int socket);

/* [pool] The version that the worker has said it speaks; 0: it has not attached yet. */
uint32_t concur_link_worker_version(const concur_link *link);

concur_slot_state concur_link_slot(const concur_link *link, uint32_t slot);
void concur_link_set_slot(concur_link *link, uint32_t slot, concur_slot_state state);
/* Changes the state; false when it is not `from` any more. */
bool concur_link_change_slot(concur_link *link, uint32_t slot, concur_slot_state from,
                             concur_slot_state state);

#pragma GCC visibility pop

#endif
