/* SPDX-License-Identifier: MIT */
/* Names and addresses of hosts: core.resolve and core.reverse.  See dns.c. */
#ifndef CONCUR_DNS_H
#define CONCUR_DNS_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* Sets the functions into the table on top of the stack.  Called by luaopen. */
void concur_dns_open(lua_State *L, concur_runtime *runtime);

#pragma GCC visibility pop

#endif
