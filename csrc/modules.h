/* SPDX-License-Identifier: MIT */
/*
 * Names of modules and of what is in them: how functions and modules cross by name.
 *
 * An index from addresses to paths ("string\0rep\0"), made from package.loaded when it is first
 * needed and again when modules have been loaded since.  It may go stale in any way: a find looks
 * the path up again, and it must lead to that very value.
 *
 * Owned by the transfer state of one Lua state.  [the state's own thread]
 */
#ifndef CONCUR_MODULES_H
#define CONCUR_MODULES_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "identity.h"

#pragma GCC visibility push(hidden)

/* What is found by name.  A set of them says what a caller wants. */
typedef enum concur_named {
  NAMED_NOTHING = 0,
  NAMED_DATA = 1,     /* a module that is a table without functions */
  NAMED_MODULE = 2,   /* any other module */
  NAMED_FUNCTION = 4, /* a Lua function in a module; a C function there or deeper */
  NAMED_TABLE = 8     /* a table in a module: a class, perhaps */
} concur_named;

typedef struct concur_modules {
  concur_identity_map index; /* first: number of the path; second: concur_named */
  int paths_ref;             /* registry: list of paths */
  int path_count;
  int standard_count; /* the first paths, of Lua's own libraries: nothing replaces them */
  uint64_t loaded; /* what package.loaded was when the index was made, as a number; 0: not made */
} concur_modules;

void concur_modules_init(lua_State *L, concur_modules *modules);
void concur_modules_free(concur_modules *modules);

/* Pushes the path of the value at `index` and returns what it is, if it is one of `wanted`; else
   pushes nothing.  With `refresh` modules that were loaded since are seen. */
concur_named concur_modules_find(lua_State *L, concur_modules *modules, int index, int wanted,
                                 bool refresh);

/* Pushes what the path leads to in this state, requiring its module.  Raises TransferError. */
void concur_modules_push(lua_State *L, const char *path, size_t size);

/* Calls `require` with the name on top of the stack, under pcall; replaces it by the module or the
   error.  Returns whether it worked. */
bool concur_modules_require(lua_State *L);

#pragma GCC visibility pop

#endif
