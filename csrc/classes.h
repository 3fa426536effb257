/* SPDX-License-Identifier: MIT */
/*
 * Classes that were registered with concur.transferable, by metatable and by name.
 *
 * A record is a Lua table {name=, metatable=, encode=, decode=}; the two functions are absent when
 * the fields of an object are simply copied.  [the state's own thread]
 */
#ifndef CONCUR_CLASSES_H
#define CONCUR_CLASSES_H

#include <lua.h>

#include "transfer_state.h"

#pragma GCC visibility push(hidden)

void concur_classes_init(lua_State *L, concur_transfer_state *state);

/* Registers the metatable on top of the stack, and pops it. */
void concur_classes_add(lua_State *L, concur_transfer_state *state, const char *name);

/* Replaces the name on top of the stack by the record of its class.  If there is none, requires the
   modules that the name suggests: "shapes.Point" may be registered by module "shapes.Point" or
   "shapes".  Raises TransferError. */
void concur_classes_push(lua_State *L, concur_transfer_state *state);

/* concur.transferable(name, metatable, {encode=, decode=}) */
int concur_classes_l_transferable(lua_State *L);

#pragma GCC visibility pop

#endif
