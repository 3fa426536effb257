/* SPDX-License-Identifier: MIT */
/* See udp_options.h. */
#include "udp_options.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
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

const char *const concur_udp_option_names[] = {"broadcast",           "ttl",
                                               "multicast_ttl",       "multicast_loop",
                                               "multicast_interface", "receive_buffer",
                                               "send_buffer",         NULL};

static int set_multicast_interface(int fd, int family, const char *name) {
  struct ip_mreqn interface;
  int error = find_interface(name, family, &interface);
  if (error != 0) return error;
  if (family == AF_INET) {
    return set_socket(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface);
  }
  return set_integer(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, interface.imr_ifindex);
}

/* One option, which is there: `flag`, `number` or `text`, whichever it takes. */
static int set_option(int fd, int family, int option, bool flag, int number, const char *text) {
  bool ip6 = family == AF_INET6;
  switch (option) {
  case 0: return set_integer(fd, SOL_SOCKET, SO_BROADCAST, flag);
  case 1:
    return set_integer(fd, ip6 ? IPPROTO_IPV6 : IPPROTO_IP, ip6 ? IPV6_UNICAST_HOPS : IP_TTL,
                       number);
  case 2:
    return set_integer(fd, ip6 ? IPPROTO_IPV6 : IPPROTO_IP,
                       ip6 ? IPV6_MULTICAST_HOPS : IP_MULTICAST_TTL, number);
  case 3:
    return set_integer(fd, ip6 ? IPPROTO_IPV6 : IPPROTO_IP,
                       ip6 ? IPV6_MULTICAST_LOOP : IP_MULTICAST_LOOP, flag);
  case 4: return set_multicast_interface(fd, family, text);
  case 5: return set_integer(fd, SOL_SOCKET, SO_RCVBUF, number);
  default: return set_integer(fd, SOL_SOCKET, SO_SNDBUF, number);
  }
}

static const int option_types[] = {LUA_TBOOLEAN, LUA_TNUMBER, LUA_TNUMBER, LUA_TBOOLEAN,
                                   LUA_TSTRING,  LUA_TNUMBER, LUA_TNUMBER};

int concur_udp_options_set(lua_State *L, int index, int fd, int family, const char **failed) {
  for (int i = 0; concur_udp_option_names[i] != NULL; i++) {
    const char *name = concur_udp_option_names[i];
    int type = lua_getfield(L, index, name);
    if (type != LUA_TNIL &&
        (type != option_types[i] || (type == LUA_TNUMBER && !lua_isinteger(L, -1)))) {
      const char *expected =
          option_types[i] == LUA_TNUMBER ? "integer" : lua_typename(L, option_types[i]);
      luaL_argerror(L, index,
                    lua_pushfstring(L, "option '%s': %s expected, got %s", name, expected,
                                    luaL_tolstring(L, -1, NULL)));
    }
    int error = 0;
    if (type != LUA_TNIL && fd >= 0) {
      lua_Integer number = type == LUA_TNUMBER ? lua_tointeger(L, -1) : 0;
      bool fits = number >= 0 && number <= INT32_MAX;
      error = fits ? set_option(fd, family, i, lua_toboolean(L, -1), (int)number,
                                type == LUA_TSTRING ? lua_tostring(L, -1) : NULL)
                   : UV_EINVAL;
    }
    lua_pop(L, 1);
    *failed = name;
    if (error != 0) return error;
  }
  return 0;
}
