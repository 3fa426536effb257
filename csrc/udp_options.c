/* SPDX-License-Identifier: MIT */
/* See udp_options.h. */
#include "udp_options.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

#include "address.h"

static int set_socket(int fd, int level, int option, const void *value, size_t size) {
  if (setsockopt(fd, level, option, value, (socklen_t)size) == 0) return 0;
  return uv_translate_sys_error(errno);
}

static int set_integer(int fd, int level, int option, int value) {
  return set_socket(fd, level, option, &value, sizeof value);
}

/* ---- interfaces and groups ---- */

/* An interface by its name, or for IPv4 by its address. */
static int find_interface(const char *interface, int family, struct ip_mreqn *found) {
  memset(found, 0, sizeof *found);
  if (interface == NULL) return 0;
  concur_address address;
  if (family == AF_INET && concur_address_parse(&address, interface, 0) == 0) {
    if (address.storage.ss_family != AF_INET) return UV_EINVAL;
    found->imr_address = ((const struct sockaddr_in *)&address.storage)->sin_addr;
    return 0;
  }
  found->imr_ifindex = (int)if_nametoindex(interface);
  return found->imr_ifindex != 0 ? 0 : UV_ENODEV;
}

int concur_udp_membership(int fd, const char *group, const char *interface, bool join) {
  concur_address address;
  struct ip_mreqn request;
  if (concur_address_parse(&address, group, 0) != 0) return UV_EINVAL;
  int family = address.storage.ss_family;
  int error = find_interface(interface, family, &request);
  if (error != 0) return error;
  if (family == AF_INET) {
    request.imr_multiaddr = ((const struct sockaddr_in *)&address.storage)->sin_addr;
    return set_socket(fd, IPPROTO_IP, join ? IP_ADD_MEMBERSHIP : IP_DROP_MEMBERSHIP, &request,
                      sizeof request);
  }
  const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address.storage;
  struct ipv6_mreq request6 = {.ipv6mr_multiaddr = in6->sin6_addr,
                               .ipv6mr_interface = (unsigned)request.imr_ifindex};
  if (interface == NULL) request6.ipv6mr_interface = in6->sin6_scope_id;
  return set_socket(fd, IPPROTO_IPV6, join ? IPV6_JOIN_GROUP : IPV6_LEAVE_GROUP, &request6,
                    sizeof request6);
}

/* ---- options ---- */

enum {
  BROADCAST,
  TTL,
  MULTICAST_TTL,
  MULTICAST_LOOP,
  MULTICAST_INTERFACE,
  RECEIVE_BUFFER,
  SEND_BUFFER
};

const char *const concur_udp_option_names[] = {"broadcast",           "ttl",
                                               "multicast_ttl",       "multicast_loop",
                                               "multicast_interface", "receive_buffer",
                                               "send_buffer",         NULL};

static const int option_types[] = {LUA_TBOOLEAN, LUA_TNUMBER, LUA_TNUMBER, LUA_TBOOLEAN,
                                   LUA_TSTRING,  LUA_TNUMBER, LUA_TNUMBER};

/* The value of option `i` is on top of the stack: of the right type? */
static void check_type(lua_State *L, int index, int i) {
  int type = lua_type(L, -1);
  if (type == option_types[i] && (type != LUA_TNUMBER || lua_isinteger(L, -1))) return;
  const char *expected =
      option_types[i] == LUA_TNUMBER ? "integer" : lua_typename(L, option_types[i]);
  luaL_argerror(L, index,
                lua_pushfstring(L, "option '%s': %s expected, got %s", concur_udp_option_names[i],
                                expected, luaL_tolstring(L, -1, NULL)));
}

void concur_udp_options_read(lua_State *L, int index, concur_udp_options *options) {
  memset(options, 0, sizeof *options);
  for (int i = 0; i < CONCUR_UDP_OPTIONS; i++) {
    options->given[i] = lua_getfield(L, index, concur_udp_option_names[i]) != LUA_TNIL;
    if (options->given[i]) {
      check_type(L, index, i);
      options->values[i] = lua_isboolean(L, -1) ? lua_toboolean(L, -1) : lua_tointeger(L, -1);
      if (i == MULTICAST_INTERFACE) {
        (void)snprintf(options->interface, sizeof options->interface, "%s", lua_tostring(L, -1));
      }
    }
    lua_pop(L, 1);
  }
}

static int set_multicast_interface(int fd, int family, const char *name) {
  struct ip_mreqn interface;
  int error = find_interface(name, family, &interface);
  if (error != 0) return error;
  if (family == AF_INET) {
    return set_socket(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface);
  }
  return set_integer(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, interface.imr_ifindex);
}

static int set_option(const concur_udp_options *options, int i, int fd, int family) {
  bool ip6 = family == AF_INET6;
  int level = ip6 ? IPPROTO_IPV6 : IPPROTO_IP;
  if (options->values[i] < 0 || options->values[i] > INT32_MAX) return UV_EINVAL;
  int value = (int)options->values[i];
  switch (i) {
  case BROADCAST: return set_integer(fd, SOL_SOCKET, SO_BROADCAST, value);
  case TTL: return set_integer(fd, level, ip6 ? IPV6_UNICAST_HOPS : IP_TTL, value);
  case MULTICAST_TTL:
    return set_integer(fd, level, ip6 ? IPV6_MULTICAST_HOPS : IP_MULTICAST_TTL, value);
  case MULTICAST_LOOP:
    return set_integer(fd, level, ip6 ? IPV6_MULTICAST_LOOP : IP_MULTICAST_LOOP, value);
  case MULTICAST_INTERFACE: return set_multicast_interface(fd, family, options->interface);
  case RECEIVE_BUFFER: return set_integer(fd, SOL_SOCKET, SO_RCVBUF, value);
  default: return set_integer(fd, SOL_SOCKET, SO_SNDBUF, value);
  }
}

int concur_udp_options_set(const concur_udp_options *options, int fd, int family,
                           const char **failed) {
  for (int i = 0; i < CONCUR_UDP_OPTIONS; i++) {
    int error = options->given[i] ? set_option(options, i, fd, family) : 0;
    *failed = concur_udp_option_names[i];
    if (error != 0) return error;
  }
  return 0;
}
