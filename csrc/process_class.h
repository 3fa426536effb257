/* SPDX-License-Identifier: MIT */
/* Child processes as lua/concur/process.lua sees them.  [loop thread] */
#ifndef CONCUR_PROCESS_CLASS_H
#define CONCUR_PROCESS_CLASS_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_process_class_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
