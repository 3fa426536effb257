/* SPDX-License-Identifier: MIT */
/*
 * Who gets a signal: the host, the driver of a loop (sigint.c), or receivers (signal.c).
 *
 * A signal that anybody here wants has one handler of concur's, whatever the number of loops and
 * threads.  The host's action is saved when the first one takes the signal and restored when the
 * last one gives it back, unless the host has installed another handler meanwhile.  While receivers
 * are open they get the signal; else the driver does, which only SIGINT has.
 *
 * The handler counts and wakes loops, nothing else: it takes no lock and allocates nothing.  What
 * it reads is never freed: counters, and a list of wakers whose nodes are used again.  A waker that
 * is taken away waits until no handler runs, so that no handler touches a loop that is gone.
 *
 * No Lua.  All functions: [any thread], unless they say otherwise.
 */
#ifndef CONCUR_DISPOSITION_H
#define CONCUR_DISPOSITION_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#pragma GCC visibility push(hidden)

enum { CONCUR_SIGNAL_LIMIT = 65 }; /* signal numbers are below this */

/* ---- the driver of SIGINT ---- */

/* Takes SIGINT for a driver, whose handler is `handle`, which must be async-signal-safe.  False when
   the host ignores SIGINT, or when it cannot be taken. */
bool concur_disposition_drive(void (*handle)(int number));
void concur_disposition_undrive(void);

/* ---- receivers ---- */

/* One more receiver of the signal.  0, or a libuv error code.  Those that arrive from now on are
   counted from *arrived + 1 on, modulo 2^32. */
int concur_disposition_receive(int number, uint32_t *arrived);

/* One receiver less.  If it was the last, and none of them took the latest one that arrived, then the
   signal is raised again: for the driver or the host. */
void concur_disposition_unreceive(int number);

/* The count of those that arrived for receivers. */
uint32_t concur_disposition_arrived(int number);

/* A receiver took the one that was counted as `arrival`. */
void concur_disposition_took(int number, uint32_t arrival);

/* Calls uv_async_send(async) whenever a signal arrives for receivers.  False: out of memory. */
bool concur_disposition_wake(uv_async_t *async);
/* After this no handler touches it any more. */
void concur_disposition_unwake(uv_async_t *async);

/* ---- SIGCHLD and libuv ---- */

/* uv_spawn takes SIGCHLD away from the host, and gives it back as the default action.  Between these
   two calls nobody else here changes a disposition.  `end` restores a handler that the host had. */
void concur_disposition_spawn_begin(void);
void concur_disposition_spawn_end(bool give_back);

/* ---- names ---- */

/* "SIGTERM" -> its number here; 0 when there is no such signal. */
int concur_signal_number(const char *name);
/* The name of a number, or NULL. */
const char *concur_signal_name(int number);

#pragma GCC visibility pop

#endif
