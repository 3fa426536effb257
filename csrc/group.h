/* SPDX-License-Identifier: MIT */
/* Task groups: a scope that is left only when all tasks in it have ended.  See group.c. */
#ifndef CONCUR_GROUP_H
#define CONCUR_GROUP_H

#include "task.h"

#pragma GCC visibility push(hidden)

/* The C part of a group; the userdata is anchored until it is left and has no children.  User value 1: the
   ErrorGroup being collected, or nil. */
struct concur_group {
  concur_scope *scope; /* borrowed; NULL once left or orphaned */
  uint64_t scope_id;
  concur_fiber *owner; /* NULL once orphaned */
  uint32_t pending;    /* children that have not ended */
  int slot;            /* anchors the group; 0: no longer */
  int error_count;
  bool joining;         /* the owner is parked until pending is 0 */
  bool closed;
  bool body_failed;     /* the body raised; if not recorded, its Cancelled is on the stack */
  bool child_cancelled; /* a child was ended by a scope outside this group */
  bool out_of_memory;   /* an error could not be recorded */
};

void concur_group_open(lua_State *L, concur_runtime *runtime);

/* [in the child's coroutine] The child failed: its error and first traceback (or nil) are on top and
   stay there.  Records them and cancels the group.  May raise (memory) before any change. */
void concur_group_child_failed(lua_State *co, concur_runtime *runtime, concur_body *body);

/* The child failed and its error cannot be recorded for want of memory: cancels the group, which will
   say so.  Never raises. */
void concur_group_child_lost(concur_group *group);

/* The child has ended, however.  Never raises. */
void concur_group_child_ended(lua_State *L, concur_body *body);

#pragma GCC visibility pop

#endif
