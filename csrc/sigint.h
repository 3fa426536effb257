/* SPDX-License-Identifier: MIT */
/*
 * SIGINT: one loop of the process takes it while its outermost driver runs.
 *
 * The handler sets a flag and wakes the loop; a second SIGINT restores the default action and
 * raises the signal again, in the handler, so that it works in a busy loop too.  The old handler is
 * restored when the driver leaves.  No Lua.  acquire, release, take: [the driving thread].
 */
#ifndef CONCUR_SIGINT_H
#define CONCUR_SIGINT_H

#include <stdbool.h>

#pragma GCC visibility push(hidden)

struct concur_loop;

/* Takes SIGINT for this loop unless another loop has it or it is ignored.  True when taken. */
bool concur_sigint_acquire(struct concur_loop *loop);

/* Gives it back and restores the old handler; does nothing when this loop does not have it. */
void concur_sigint_release(struct concur_loop *loop);

/* True once for a SIGINT that arrived for this loop. */
bool concur_sigint_take(struct concur_loop *loop);

/* What was taken could not be delivered: releasing passes it on to the old handler. */
void concur_sigint_give_up(struct concur_loop *loop);

/* Ends the process by SIGINT with the default action. */
void concur_sigint_die(void);

#pragma GCC visibility pop

#endif
