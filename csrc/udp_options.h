/* SPDX-License-Identifier: MIT */
/* Options and multicast groups of datagram sockets.  No state of their own.  [loop thread] */
#ifndef CONCUR_UDP_OPTIONS_H
#define CONCUR_UDP_OPTIONS_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* The names of all options that may be set later, for concur_check_options; ended by NULL. */
extern const char *const concur_udp_option_names[];

/* Sets the options of the table at `index` that are among the names above.  0, or a libuv code and
   *failed, the option that could not be set.  Raises argument errors for values of a wrong type. */
int concur_udp_options_set(lua_State *L, int index, int fd, int family, const char **failed);

/* Joins (or leaves) a group on an interface: its name, for IPv4 also its address; NULL: the system
   chooses.  A libuv code; UV_EINVAL: not the number of a host. */
int concur_udp_membership(int fd, const char *group, const char *interface, bool join);

#pragma GCC visibility pop

#endif
