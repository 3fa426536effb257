/* SPDX-License-Identifier: MIT */
/*
 * What the analyzers cannot see: Lua is not compiled here.  Included before each source by
 * `make analyze`, and by nothing else.
 */
#ifndef CONCUR_ANALYZE_H
#define CONCUR_ANALYZE_H

#define CONCUR_ANALYZED

#include <lauxlib.h>
#include <lua.h>

/* Lists.  What is linked into one belongs to the list from then on, and what comes out of one may be
   anything: neither analyzer follows such owners through the links, and both then report leaks and
   uses after the end that cannot be. */
#define concur_list_append concur_list_append_inline
#define concur_list_prepend concur_list_prepend_inline
#define concur_node_unlink concur_node_unlink_inline
#define concur_list_pop concur_list_pop_inline
#include "../csrc/list.h"
#undef concur_list_append
#undef concur_list_prepend
#undef concur_node_unlink
#undef concur_list_pop
void concur_list_append(concur_node *head, concur_node *node);
void concur_list_prepend(concur_node *head, concur_node *node);
void concur_node_unlink(concur_node *node);
concur_node *concur_list_pop(concur_node *head);

#include "../csrc/support.h"

/* NOLINTBEGIN(readability-redundant-declaration): they say more than the ones in the headers. */

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

/* NOLINTEND(readability-redundant-declaration) */

#endif
