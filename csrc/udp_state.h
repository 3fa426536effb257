/* SPDX-License-Identifier: MIT */
/*
 * The inside of a datagram socket, for udp.c and udp_io.c only.                  [loop thread]
 */
#ifndef CONCUR_UDP_STATE_H
#define CONCUR_UDP_STATE_H

#include <errno.h>

#include "fiber.h"
#include "socket.h"

#pragma GCC visibility push(hidden)

enum { CONCUR_UDP_LARGEST = 65536 }; /* no datagram is larger */

typedef struct concur_udp {
  concur_handle handle;
  uv_poll_t poll;
  concur_backing backing; /* users: the userdata, and libuv until it has let go */
  int fd;                /* owned; -1: closed */
  int family;            /* AF_INET, AF_INET6 */
  int watched;           /* events that `poll` is started for; 0: stopped */
  bool promised;         /* a receiver was woken and has not run yet */
  uint8_t promise_age;   /* events since */
  concur_node receivers; /* of waiters: fibers, arms */
  concur_node senders;   /* of fibers */
  char buffer[CONCUR_UDP_LARGEST];
} concur_udp;

/* The userdata. */
typedef struct concur_udp_box {
  concur_udp *udp; /* the memory behind it; NULL: finalized, or never made */
} concur_udp_box;

/* ---- udp.c ---- */

/* The socket of a userdata; NULL when it is closed. */
static inline concur_udp *concur_udp_in(const concur_udp_box *box) {
  return box->udp != NULL && box->udp->fd >= 0 ? box->udp : NULL;
}
/* The socket at index 1, NULL when it is closed; a type error for anything else. */
concur_udp *concur_udp_test(lua_State *L);
/* The same, and Closed is raised when it is closed. */
concur_udp *concur_udp_check(lua_State *L);
/* Pushes nil and Closed. */
int concur_udp_push_closed(lua_State *L);
/* Pushes nil and an OSError; `address` may be NULL. */
int concur_udp_fail(lua_State *L, int error, const char *call, const concur_address *address);

static inline int concur_udp_last_error(void) {
  return uv_translate_sys_error(errno);
}

/* ---- udp_io.c ---- */

extern const luaL_Reg concur_udp_io_methods[]; /* recv_from, receiving, send_to, send */

#pragma GCC visibility pop

#endif
