/* SPDX-License-Identifier: MIT */
/* concur.signal.receive: signals as an iterator, and as an arm of select.  [loop thread] */
#ifndef CONCUR_SIGNAL_RECEIVER_H
#define CONCUR_SIGNAL_RECEIVER_H

#include "support.h"

#pragma GCC visibility push(hidden)

void concur_signal_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
