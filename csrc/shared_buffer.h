/* SPDX-License-Identifier: MIT */
/*
 * concur.SharedBuffer: bytes that Lua states share without copying.
 *
 * A *block* is malloc'd, counted by references and never moves; the userdata of every state, and
 * messages in between, hold references.  A userdata is a *view* of a block: all of it or a slice.
 * Views never change but for close, which gives the reference back; the last one frees the block.
 *
 * The bytes themselves are shared by all threads.  The atomic operations (load, store, add, cas) are
 * sequentially consistent; everything else is plain memory access, and scripts order it with
 * atomics, channels or the end of a job.
 */
#ifndef CONCUR_SHARED_BUFFER_H
#define CONCUR_SHARED_BUFFER_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* The bytes of the SharedBuffer at `index`, and how many; raises an argument error when it is
   something else, or Closed.  Valid while the userdata is alive and open; a C job that works on
   them retains the block.  [the state's own thread] */
unsigned char *concur_shared_buffer_check(lua_State *L, const concur_runtime *runtime, int index,
                                          size_t *size);

/* The address of `size` bytes at the position that is argument `index` of a method, whose argument 1
   is the buffer; raises when they do not lie inside it. */
unsigned char *concur_shared_buffer_at(lua_State *L, int index, size_t size);

/* The methods for numbers: shared_buffer_numbers.c. */
extern const luaL_Reg concur_shared_buffer_numbers[];

/* Defines the class; adds `SharedBuffer` to the table on top of the stack.  Called by luaopen. */
void concur_shared_buffer_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
