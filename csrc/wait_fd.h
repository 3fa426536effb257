/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a descriptor that somebody else reads and writes: a watch with a callback, and on top
 * of it the wait of a fiber.  The descriptor is neither changed nor closed.
 *
 * A descriptor that has failed or hung up counts as ready for everything that was asked: the next
 * read or write tells more.                                                 [loop thread]
 */
#ifndef CONCUR_WAIT_FD_H
#define CONCUR_WAIT_FD_H

#include "fiber.h"

#pragma GCC visibility push(hidden)

enum { CONCUR_FD_READ = 1, CONCUR_FD_WRITE = 2 };

typedef struct concur_fd_watch concur_fd_watch;

/* Runs below uv_run, once, when one of the events would not block: what is there of those that were
   asked for.  The watch is over already.  Must not raise. */
typedef void (*concur_fd_ready)(void *owner, int events);

/* Starts a watch.  0, or a libuv error code: UV_EBADF, UV_EMFILE, UV_ENOMEM, and UV_EPERM for what
   is always ready (regular files).  *watch is valid until `ready` is called, the watch is stopped,
   or the loop closes: then it is forgotten without a call. */
int concur_fd_watch_start(concur_loop *loop, int fd, int events, concur_fd_ready ready, void *owner,
                          concur_fd_watch **result);
/* Takes the watch off: `ready` will not be called. */
void concur_fd_watch_stop(concur_fd_watch *watch);

/* What is there now: events, 0, or a libuv error code. */
int concur_fd_probe(int fd, int events);

/* In the body of a wait (see fiber.h): waits until one of the events is there, or until the
   deadline on the loop's clock (CONCUR_NEVER: for ever), then `resume` runs.  Over at once if one
   is there already.  Raises when out of memory. */
int concur_fd_wait(lua_State *L, concur_fiber *fiber, int fd, int events, uint64_t deadline_ns,
                   concur_resume resume);

/* In `resume`: the events that are there, 0 when the time is over, or a libuv error code. */
int concur_fd_result(const concur_fiber *fiber);

/* The descriptor that argument `index` is or has; raises an argument error when there is none. */
int concur_fd_check(lua_State *L, int index);

void concur_wait_fd_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
