/* SPDX-License-Identifier: MIT */
/*
 * Addresses of sockets: IPv4, IPv6, Unix; from text and to text.  No Lua, no look-up of names, and
 * nothing here waits.
 */
#ifndef CONCUR_ADDRESS_H
#define CONCUR_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <uv.h>

#pragma GCC visibility push(hidden)

typedef struct concur_address {
  struct sockaddr_storage storage;
  socklen_t size; /* 0: none */
} concur_address;

enum {
  CONCUR_ADDRESS_HOST_SIZE = 64, /* of a number of a host with its zone, with its zero */
  CONCUR_ADDRESS_TEXT_SIZE = 128 /* of concur_address_format */
};

static inline const struct sockaddr *concur_address_sockaddr(const concur_address *address) {
  return (const struct sockaddr *)&address->storage;
}

/* From the number of a host ("127.0.0.1", "::1", "fe80::1%eth0") and a port.  0 or UV_EINVAL. */
int concur_address_parse(concur_address *address, const char *host, int port);

/* From the path of a Unix socket.  One that begins with a zero byte is an abstract name (Linux).
   0 or UV_ENAMETOOLONG. */
int concur_address_from_path(concur_address *address, const char *path, size_t size);

/* The number of the host (as parse takes it) and the port; false when it is not an IP address. */
bool concur_address_host(const concur_address *address, char host[CONCUR_ADDRESS_HOST_SIZE],
                         int *port);

/* The path of a Unix socket (not ended by a zero) and its size; NULL: not one.  Size 0: unnamed. */
const char *concur_address_path(const concur_address *address, size_t *size);

/* For messages: "127.0.0.1:80", "[::1]:80", "/run/x.sock", "@abstract"; cut when it is long. */
void concur_address_format(const concur_address *address, char *text, size_t size);

/* Of a socket, and of the other side.  0 or a libuv code. */
int concur_address_of_socket(concur_address *address, int fd);
int concur_address_of_peer(concur_address *address, int fd);

#pragma GCC visibility pop

#endif
