/* SPDX-License-Identifier: MIT */
/*
 * A resolver for spec/dns_spec.lua, loaded with LD_PRELOAD: names that are slow, or fail, without
 * any network.
 *
 *   slow-<n>     127.0.0.1, after n milliseconds
 *   empty        EAI_NODATA: the name is there, but has no address
 *   again        EAI_AGAIN: no server answers
 *   broken       EAI_SYSTEM with errno EMFILE
 *   error<n>     what the system says by the number n
 *
 * All other names, and all names of addresses but 127.0.0.9 (slow: 100 ms), are the system's affair.
 */
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <time.h>

typedef int (*getaddrinfo_function)(const char *, const char *, const struct addrinfo *,
                                    struct addrinfo **);
typedef int (*getnameinfo_function)(const struct sockaddr *, socklen_t, char *, socklen_t, char *,
                                    socklen_t, int);

static void *system_function(const char *name) {
  return dlsym(RTLD_NEXT, name);
}

static void sleep_ms(long ms) {
  struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  while (nanosleep(&time, &time) != 0 && errno == EINTR) continue;
}

__attribute__((visibility("default"))) int getaddrinfo(const char *restrict name,
                                                       const char *restrict service,
                                                       const struct addrinfo *restrict hints,
                                                       struct addrinfo **restrict result) {
  getaddrinfo_function real = (getaddrinfo_function)system_function("getaddrinfo");
  int numeric = hints != NULL && (hints->ai_flags & AI_NUMERICHOST) != 0;
  if (numeric || name == NULL) return real(name, service, hints, result);
  if (strncmp(name, "slow-", 5) == 0) {
    sleep_ms(atol(name + 5));
    return real("127.0.0.1", service, hints, result);
  }
  if (strcmp(name, "empty") == 0) return EAI_NODATA;
  if (strcmp(name, "again") == 0) return EAI_AGAIN;
  if (strncmp(name, "error", 5) == 0) return atoi(name + 5);
  if (strcmp(name, "broken") == 0) {
    errno = EMFILE;
    return EAI_SYSTEM;
  }
  return real(name, service, hints, result);
}

__attribute__((visibility("default"))) int getnameinfo(const struct sockaddr *restrict address,
                                                       socklen_t address_size, char *restrict host,
                                                       socklen_t host_size, char *restrict service,
                                                       socklen_t service_size, int flags) {
  getnameinfo_function real = (getnameinfo_function)system_function("getnameinfo");
  const struct sockaddr_in *ipv4 = (const void *)address;
  if ((flags & NI_NUMERICHOST) == 0 && address->sa_family == AF_INET &&
      ipv4->sin_addr.s_addr == inet_addr("127.0.0.9")) {
    sleep_ms(100);
    strncpy(host, "nine", host_size);
    return 0;
  }
  return real(address, address_size, host, host_size, service, service_size, flags);
}
