/* SPDX-License-Identifier: MIT */
/*
 * What gcov cannot see: Lua is not compiled here, and counts are written at exit.  Included before
 * each source by `make coverage`, and by nothing else.
 */
#ifndef CONCUR_COVERAGE_H
#define CONCUR_COVERAGE_H

#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <stdlib.h>

/* Raises: behind it the macro luaL_argcheck has a branch that nothing can reach. */
__attribute__((noreturn)) int luaL_argerror(lua_State *L, int argument, const char *message);
/* Raises instead of returning NULL: the same for luaL_addchar. */
__attribute__((returns_nonnull)) char *luaL_prepbuffsize(luaL_Buffer *buffer, size_t size);

/* A process that ends in these ways would lose its counts. */
void __gcov_dump(void);
void __gcov_reset(void);
#define _Exit(code) (__gcov_dump(), _Exit(code))
#define raise(number) (__gcov_dump(), __gcov_reset(), raise(number))

#endif
