/* SPDX-License-Identifier: MIT */
/* See address.h. */
#include "address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

int concur_address_parse(concur_address *address, const char *host, int port) {
  memset(address, 0, sizeof *address);
  if (port < 0 || port > UINT16_MAX) return UV_EINVAL;
  if (uv_ip4_addr(host, port, (struct sockaddr_in *)&address->storage) == 0) {
    address->size = sizeof(struct sockaddr_in);
    return 0;
  }
  struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address->storage;
  memset(in6, 0, sizeof *in6);
  if (uv_ip6_addr(host, port, in6) != 0) return UV_EINVAL;
  const char *zone = strchr(host, '%');
  if (zone != NULL && in6->sin6_scope_id == 0) return UV_EINVAL; /* no such interface */
  address->size = sizeof *in6;
  return 0;
}

int concur_address_from_path(concur_address *address, const char *path, size_t size) {
  struct sockaddr_un *un = (struct sockaddr_un *)&address->storage;
  memset(address, 0, sizeof *address);
  bool abstract = size > 0 && path[0] == '\0';
  size_t zero = abstract ? 0 : 1; /* a path is ended by one, an abstract name is not */
  if (size + zero > sizeof un->sun_path) return UV_ENAMETOOLONG;
  un->sun_family = AF_UNIX;
  memcpy(un->sun_path, path, size);
  address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + zero);
  return 0;
}

bool concur_address_host(const concur_address *address, char host[CONCUR_ADDRESS_HOST_SIZE],
                         int *port) {
  if (address->storage.ss_family == AF_INET) {
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)&address->storage;
    *port = ntohs(in4->sin_port);
    return uv_ip4_name(in4, host, CONCUR_ADDRESS_HOST_SIZE) == 0;
  }
  if (address->storage.ss_family != AF_INET6) return false;
  const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address->storage;
  *port = ntohs(in6->sin6_port);
  if (uv_ip6_name(in6, host, CONCUR_ADDRESS_HOST_SIZE) != 0) return false;
  char zone[IF_NAMESIZE];
  if (in6->sin6_scope_id != 0 && if_indextoname(in6->sin6_scope_id, zone) != NULL) {
    size_t length = strlen(host);
    (void)snprintf(host + length, CONCUR_ADDRESS_HOST_SIZE - length, "%%%s", zone);
  }
  return true;
}

const char *concur_address_path(const concur_address *address, size_t *size) {
  const struct sockaddr_un *un = (const struct sockaddr_un *)&address->storage;
  if (address->storage.ss_family != AF_UNIX) return NULL;
  size_t head = offsetof(struct sockaddr_un, sun_path);
  *size = address->size > head ? address->size - head : 0;
  if (*size > 0 && un->sun_path[0] != '\0') *size = strnlen(un->sun_path, *size);
  return un->sun_path;
}

void concur_address_format(const concur_address *address, char *text, size_t size) {
  char host[CONCUR_ADDRESS_HOST_SIZE];
  int port;
  size_t length;
  const char *path = concur_address_path(address, &length);
  if (path != NULL && length == 0) {
    (void)snprintf(text, size, "unnamed");
  } else if (path != NULL && path[0] == '\0') {
    (void)snprintf(text, size, "@%.*s", (int)length - 1, path + 1);
  } else if (path != NULL) {
    (void)snprintf(text, size, "%.*s", (int)length, path);
  } else if (concur_address_host(address, host, &port)) {
    bool colons = address->storage.ss_family == AF_INET6;
    (void)snprintf(text, size, colons ? "[%s]:%d" : "%s:%d", host, port);
  } else {
    (void)snprintf(text, size, "unknown"); /* GCOVR_EXCL_LINE: another family, from outside */
  }
}

typedef int (*name_function)(int fd, struct sockaddr *name, socklen_t *size);

static int address_by(concur_address *address, int fd, name_function ask) {
  memset(address, 0, sizeof *address);
  socklen_t size = sizeof address->storage;
  if (ask(fd, (struct sockaddr *)&address->storage, &size) != 0) return uv_translate_sys_error(errno);
  address->size = size;
  return 0;
}

int concur_address_of_socket(concur_address *address, int fd) {
  return address_by(address, fd, getsockname);
}

int concur_address_of_peer(concur_address *address, int fd) {
  return address_by(address, fd, getpeername);
}
