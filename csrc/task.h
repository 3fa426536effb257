/* SPDX-License-Identifier: MIT */
/*
 * Tasks: a fiber with a coroutine, and a future for its end.
 *
 * A task is a small userdata, the future, which scripts may keep as long as they like; all that only
 * a living task needs is its *body*, which comes from a pool at spawn and goes back at the end.  The
 * coroutine comes from a pool too, at the first step: a task that waits to start costs no stack.
 *
 * User values of a task: 1 the outcome (before its start: the function), 2... its arguments (many:
 * one table of them), until it starts.  Stack of its coroutine: 1 the task, 2 the message handler, 3
 * the function, then its arguments; the function runs under lua_pcallk so that clean-up may wait.
 * The task is anchored from spawn until it ended.                            [loop thread]
 */
#ifndef CONCUR_TASK_H
#define CONCUR_TASK_H

#include "fiber.h"

#pragma GCC visibility push(hidden)

typedef struct concur_group concur_group; /* group.h */
typedef struct concur_task concur_task;
typedef struct concur_body concur_body;

enum { CONCUR_TASK_OUTCOME = 1, CONCUR_TASK_ARGUMENTS = 2 };

struct concur_task {
  concur_future future; /* first: a task is a future */
  concur_body *body;    /* NULL once it has ended */
  uint64_t id;
  bool named; /* has a name of its own, in the names table */
};

struct concur_body {
  concur_fiber fiber;
  concur_scope own; /* the task's outermost scope */
  union {
    concur_node link;       /* in scheduler->tasks */
    concur_body *next_idle; /* in the pool, between two tasks */
  };
  concur_group *group; /* the task group it belongs to; NULL: none */
  concur_task *task;   /* borrowed: anchored while this is its body */
  lua_Hook hook; /* the user's hook, while bare_yield */
  int hook_mask;
  int hook_count;
  int slot;      /* anchors the task; belongs to the body for good */
  int co_slot;   /* anchors the coroutine, once there is one */
  int arguments; /* of the function, before the start */
  int8_t status; /* how the function ended (a stranger may have resumed it), or the mark below */
  bool bare_yield; /* called coroutine.yield: going on raises an error in it */
};

enum { CONCUR_NOT_ENDED = -1 };

extern const concur_future_ops concur_task_ops;

void concur_task_open(lua_State *L, concur_runtime *runtime);

static inline concur_body *concur_body_of_fiber(concur_fiber *fiber) {
  return concur_container_of(fiber, concur_body, fiber);
}

/* The task of a fiber that is one and has not ended. */
static inline concur_task *concur_task_of_fiber(concur_fiber *fiber) {
  return concur_body_of_fiber(fiber)->task;
}

/* The task that the future is, or NULL. */
static inline concur_task *concur_task_of_future(concur_future *future) {
  return future->ops == &concur_task_ops ? concur_container_of(future, concur_task, future) : NULL;
}

/* Makes a task of the function and its `count` arguments on top of the stack, and pushes it.  Its
   scope's parent is that of `group`, in which it counts, or `parent` (NULL: none).  Raises before
   anything is linked. */
concur_task *concur_task_spawn(lua_State *L, concur_runtime *runtime, int count,
                               concur_scope *parent, concur_group *group);

/* Asks the task to cancel; false when it has ended. */
bool concur_task_cancel(concur_task *task);

/* Ends a waiting task by force: closes its coroutine, settles it as cancelled.  False when it does
   not wait, or has been handed what it waited for. */
bool concur_task_kill(lua_State *L, concur_task *task);

/* Drops all tasks when the state closes: no Lua code runs, nobody is told. */
void concur_task_drop_all(concur_scheduler *scheduler);

/* `overtakes` of a loop that shuffles: false for a fiber that gives the others a turn, `sleep(0)`. */
bool concur_task_overtakes(concur_loop *loop, const concur_ready *ready);

/* Pushes the task of a body. */
void concur_body_push_task(lua_State *L, concur_runtime *runtime, const concur_body *body);

/* Pushes "Task-3", or its name; the task is at `index`. */
void concur_task_push_name(lua_State *L, int index, const concur_task *task);

/* Names the task at `index` after the string on top of the stack, which is popped. */
void concur_task_set_name(lua_State *L, int index, concur_task *task);

/* ---- between task.c and task_end.c ---- */

#define CONCUR_TAMPERED_TEXT "the task's coroutine was closed or resumed from outside"

/* Takes the settled task out of everything and gives its body back.  Allocates nothing. */
void concur_body_retire(lua_State *L, concur_body *body);

/* [in a protected call] The task ends: locks that it still holds are reported. */
void concur_body_abandon_locks(lua_State *L, concur_body *body);

/* Settles a task whose coroutine is unusable with an InvalidState, and drops the coroutine. */
void concur_body_break(lua_State *L, concur_body *body, const char *message);

/* The task's code called coroutine.yield itself: arranges that going on raises an error there. */
void concur_body_yielded_bare(concur_loop *loop, concur_body *body);

/* Runs the `<close>` variables of a coroutine; an error of theirs is reported. */
void concur_coroutine_close(lua_State *L, concur_runtime *runtime, lua_State *co);

/* Text of the error of a bare yield. */
extern const char *const concur_bare_yield_text;

#pragma GCC visibility pop

#endif
