/* SPDX-License-Identifier: MIT */
/*
 * What the analyzers cannot see: Lua is not compiled here.  Included before each source by
 * `make analyze`, and by nothing else.
 */
#ifndef CONCUR_ANALYZE_H
#define CONCUR_ANALYZE_H

#include <lauxlib.h>
#include <lua.h>

#include "../csrc/support.h"

/* These raise. */
__attribute__((noreturn)) int luaL_error(lua_State *L, const char *format, ...);
__attribute__((noreturn)) int luaL_argerror(lua_State *L, int argument, const char *message);
__attribute__((noreturn)) int luaL_typeerror(lua_State *L, int argument, const char *type);
__attribute__((noreturn)) int lua_error(lua_State *L);

#ifndef ANALYZING_support /* it says `return` */
__attribute__((noreturn)) int concur_error_raise(lua_State *L, const concur_runtime *runtime,
                                                 const char *kind, const char *format, ...);
#endif
__attribute__((noreturn)) void concur_class_mismatch(lua_State *L, int index, concur_class class);

/* These raise instead of returning NULL. */
__attribute__((returns_nonnull)) void *lua_newuserdatauv(lua_State *L, size_t size, int values);
__attribute__((returns_nonnull)) void *luaL_checkudata(lua_State *L, int index, const char *name);
__attribute__((returns_nonnull)) const char *luaL_checklstring(lua_State *L, int index,
                                                               size_t *length);
__attribute__((returns_nonnull)) void *concur_class_new(lua_State *L,
                                                        const concur_runtime *runtime,
                                                        concur_class class, size_t size, int values);

#endif
