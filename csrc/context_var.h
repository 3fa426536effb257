/* SPDX-License-Identifier: MIT */
/* Context variables: values that a task inherits from whoever spawns it.  See context_var.c. */
#ifndef CONCUR_CONTEXT_VAR_H
#define CONCUR_CONTEXT_VAR_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_context_var_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
