/* SPDX-License-Identifier: MIT */
/*
 * Fields of a table of options, checked.  All raise an argument error that names the option; the
 * table is argument `index`.  (concur_check_options refuses unknown ones.)  [the state's own thread]
 */
#ifndef CONCUR_OPTIONS_H
#define CONCUR_OPTIONS_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* The integer field `name`, of at least `least`, or `otherwise`. */
uint32_t concur_option_count(lua_State *L, int index, const char *name, uint32_t least,
                             uint32_t otherwise);

/* The duration in the field `name`, or `otherwise`. */
uint64_t concur_option_duration(lua_State *L, int index, const char *name, uint64_t otherwise);

/* Pushes the field `name`, which is of the type or nil; true if it is there. */
bool concur_option_value(lua_State *L, int index, const char *name, int type);

#pragma GCC visibility pop

#endif
