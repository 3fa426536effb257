/* SPDX-License-Identifier: MIT */
/*
 * What the transfer of values keeps in each Lua state: names of modules, caches of functions,
 * registered classes, the size limit.  One userdata in the registry, freed at lua_close.
 *
 * All functions here: [the state's own thread].
 */
#ifndef CONCUR_TRANSFER_STATE_H
#define CONCUR_TRANSFER_STATE_H

#include <lua.h>
#include <stddef.h>

#include "code.h"
#include "modules.h"

#pragma GCC visibility push(hidden)

typedef struct concur_transfer_state {
  size_t limit;            /* bytes of a message */
  const void *error_class; /* the metatable of error objects: their handles do not cross */
  int classes_ref;         /* registry: metatable -> record {name, metatable, encode, ...} */
  int class_names_ref;     /* registry: name -> record */
  concur_modules modules;
  concur_code code;
} concur_transfer_state;

/* The state's part; raises when concur.core was not opened in it. */
concur_transfer_state *concur_transfer_state_of(lua_State *L);

#pragma GCC visibility pop

#endif
