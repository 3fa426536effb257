/* SPDX-License-Identifier: MIT */
/*
 * What a living task needs, reused from task to task: its body (fiber, scope, links) from spawn to
 * end, and a coroutine from its first step to its end.
 *
 * Bodies are carved from chunks that Lua frees with the state, so that a pointer to a fiber never
 * dangles.  Coroutines are kept for as long as so many were lately in use at once (task_pool.c).
 * Idle ones of both kinds are taken last in, first out: the warm one comes first.
 *                                                                            [loop thread]
 */
#ifndef CONCUR_TASK_POOL_H
#define CONCUR_TASK_POOL_H

#include "task.h"

#pragma GCC visibility push(hidden)

typedef struct concur_coroutine {
  lua_State *co; /* NULL: none */
  int slot;      /* anchors it */
} concur_coroutine;

void concur_task_pool_open(lua_State *L, concur_runtime *runtime);

/* An idle body, with the slot that will anchor its task.  Raises when out of memory; the body stays
   in the pool until concur_body_take. */
concur_body *concur_body_peek(lua_State *L, concur_scheduler *scheduler);
void concur_body_take(concur_scheduler *scheduler, concur_body *body);
void concur_body_give_back(concur_scheduler *scheduler, concur_body *body);

/* A coroutine with an empty stack; `co` is NULL when out of memory.  Does not raise. */
concur_coroutine concur_coroutine_take(lua_State *L, concur_scheduler *scheduler);
/* Gives back one that ended in order. */
void concur_coroutine_give_back(lua_State *L, concur_scheduler *scheduler,
                                concur_coroutine coroutine);
/* Lets go of one that cannot be used again, by its slot. */
void concur_coroutine_drop(lua_State *L, concur_scheduler *scheduler, int slot);

/* Coroutines that wait for a task, for tests and statistics. */
uint32_t concur_coroutines_idle(const concur_scheduler *scheduler);

#pragma GCC visibility pop

#endif
