/* SPDX-License-Identifier: MIT */
/*
 * Tasks: a fiber with a coroutine and a future for its end.
 *
 * A task is one userdata, without a finalizer, anchored from spawn until it ended.  Its coroutine
 * comes from a pool and goes back when it ended in order.  Stack of a task's coroutine:
 * 1 the task, 2 the message handler, 3 the function, then its arguments; the body runs under
 * lua_pcallk so that clean-up may wait.                                   All: [loop thread].
 */
#ifndef CONCUR_TASK_H
#define CONCUR_TASK_H

#include "fiber.h"

typedef struct concur_group concur_group; /* group.h */

typedef struct concur_task {
  concur_future future; /* first: a task is a future */
  concur_fiber fiber;
  concur_scope own;    /* the task's outermost scope */
  concur_node link;    /* in scheduler->tasks, or ->zombies */
  concur_group *group; /* the task group it belongs to; NULL: none */
  int slot;            /* anchors this task */
  int co_slot;         /* anchors the coroutine */
  uint64_t id;
  bool named;          /* has a name of its own, in the names table */
  bool started;
  bool bare_yield;     /* called coroutine.yield: the next step raises an error in it */
} concur_task;

void concur_task_open(lua_State *L, concur_runtime *runtime);

static inline concur_task *concur_task_of_fiber(concur_fiber *fiber) {
  return concur_container_of(fiber, concur_task, fiber);
}

extern const concur_future_ops concur_task_ops;

/* The task that the future is, or NULL. */
static inline concur_task *concur_task_of_future(concur_future *future) {
  return future->ops == &concur_task_ops ? concur_container_of(future, concur_task, future) : NULL;
}

/* Makes a task of the function and its `count` arguments on top of the stack, which are replaced by
   the task.  Its scope's parent is `parent` (NULL: none).  Raises before anything is linked. */
concur_task *concur_task_spawn(lua_State *L, concur_runtime *runtime, int count,
                               concur_scope *parent, concur_group *group);

/* Asks the task to cancel; false when it has ended. */
bool concur_task_cancel(concur_task *task);

/* Ends a parked task by force: closes its coroutine, settles it as cancelled.  False when it is not
   parked.  May raise only what is reported instead. */
bool concur_task_kill(lua_State *L, concur_task *task);

/* Drops all tasks when the state closes: no Lua code runs, nobody is told. */
void concur_task_drop_all(lua_State *L, concur_scheduler *scheduler);

/* Pushes a task: valid while it has not ended. */
void concur_task_push(lua_State *L, concur_runtime *runtime, const concur_task *task);

/* Pushes "Task-3", or its name; the task is at `index`. */
void concur_task_push_name(lua_State *L, int index, const concur_task *task);

/* Names the task at `index` after the string on top of the stack, which is popped. */
void concur_task_set_name(lua_State *L, int index, concur_task *task);

#endif
