/* SPDX-License-Identifier: MIT */
/* Options and multicast groups of datagram sockets.  No state of their own.  [loop thread] */
#ifndef CONCUR_UDP_OPTIONS_H
#define CONCUR_UDP_OPTIONS_H

#include "support.h"

#pragma GCC visibility push(hidden)

/* The names of all options that may be set later, for concur_check_options; ended by NULL. */
extern const char *const concur_udp_option_names[];

enum { CONCUR_UDP_OPTIONS = 7 };

/* Values of these options, in the order of the names. */
typedef struct concur_udp_options {
  bool given[CONCUR_UDP_OPTIONS];
  lua_Integer values[CONCUR_UDP_OPTIONS]; /* of numbers; a boolean is 0 or 1 */
  char interface[64];                     /* multicast_interface; cut, but no name is so long */
} concur_udp_options;

/* Reads the table at `index`; other keys are not looked at.  Raises argument errors for values of a
   wrong type, and may run metamethods: so nothing of this is done to a socket yet. */
void concur_udp_options_read(lua_State *L, int index, concur_udp_options *options);

/* Sets what is given.  0, or a libuv code and *failed, the option that could not be set. */
int concur_udp_options_set(const concur_udp_options *options, int fd, int family,
                           const char **failed);

/* Joins (or leaves) a group on an interface: its name, for IPv4 also its address; NULL: the system
   chooses.  A libuv code; UV_EINVAL: not the number of a host. */
int concur_udp_membership(int fd, const char *group, const char *interface, bool join);

#pragma GCC visibility pop

#endif
