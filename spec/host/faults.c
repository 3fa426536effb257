/* SPDX-License-Identifier: MIT */
/*
 * See faults.h.  The engine, and the system calls that the host shadows.
 *
 * A function that the program itself defines comes before one of the same name in a library: so
 * libuv, which is not compiled here, can be refused descriptors, and be interrupted.  The next one
 * in line is the sanitizer's, or libc's.
 */
#include "faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* ---- the plan ---- */

static atomic_bool armed;
static fault_plan current; /* written only while not armed */
static atomic_int_fast64_t calls, failed;

/* What a forked child does before it becomes another program is not under test: libuv aborts there. */
static void disarm(void) {
  atomic_store(&armed, false);
}

static void watch_forks(void) {
  (void)pthread_atfork(NULL, NULL, disarm);
}

void faults_begin(const fault_plan *plan) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  (void)pthread_once(&once, watch_forks);
  current = *plan;
  atomic_store(&calls, 0);
  atomic_store(&failed, 0);
  atomic_store(&armed, true);
}

int64_t faults_end(void) {
  atomic_store(&armed, false);
  return atomic_load(&failed);
}

static bool is_chosen(const char *function) {
  size_t length = strlen(function);
  for (const char *at = current.functions; (at = strstr(at, function)) != NULL; at += length) {
    if (at[-1] == ' ' && at[length] == ' ') return true;
  }
  return false;
}

/* What a generator gives next; from 0 it never leaves. */
static uint64_t random_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return (*state * UINT64_C(2685821657736338717)) >> 32;
}

/* Each call has a number, which decides with the seed: threads need no order among them. */
static bool is_drawn(int64_t call) {
  uint64_t state = (current.seed + (uint64_t)call) * UINT64_C(0x9E3779B97F4A7C15) | 1;
  (void)random_next(&state);
  return random_next(&state) % current.one_in == 0;
}

static bool is_due(int64_t call) {
  if (current.one_in > 0) return is_drawn(call);
  return call >= current.n && (current.times < 0 || call < current.n + current.times);
}

bool concur_fault_strikes(const char *function, int *error) {
  if (!atomic_load(&armed) || !is_chosen(function)) return false;
  if (!is_due(atomic_fetch_add(&calls, 1) + 1)) return false;
  atomic_fetch_add(&failed, 1);
  if (error != NULL && current.error != 0) *error = current.error;
  return true;
}

/* ---- memory ---- */

static atomic_int_fast64_t blocks;

void concur_fault_count_block(int change) {
  atomic_fetch_add(&blocks, change);
}

int64_t faults_blocks(void) {
  return atomic_load(&blocks);
}

/* ---- delays ---- */

static atomic_uint_fast64_t delay_seed;
static atomic_uint_fast64_t delay_threads;

void faults_set_delays(uint64_t seed) {
  atomic_store(&delay_seed, seed);
}

/* Each thread follows a sequence of its own, which depends on the seed and on its number. */
static uint64_t delay_next(uint64_t seed) {
  static _Thread_local uint64_t state, seen;
  if (seen != seed) {
    seen = seed;
    state = (seed + atomic_fetch_add(&delay_threads, 1)) * UINT64_C(0x9E3779B97F4A7C15) | 1;
  }
  return random_next(&state);
}

void concur_fault_pause(void) {
  uint64_t seed = atomic_load(&delay_seed);
  if (seed == 0) return;
  uint64_t drawn = delay_next(seed);
  if (drawn % 64 == 0) {
    struct timespec moment = {0, (long)(drawn / 64 % 200) * 1000};
    (void)nanosleep(&moment, NULL);
  } else if (drawn % 4 == 0) {
    (void)sched_yield();
  }
}

/* ---- system calls ---- */

/* Not from <sys/socket.h>, whose prototypes in GNU's libc are no standard C. */
struct sockaddr;
struct msghdr;

/* socklen_t.  It comes with <sys/socket.h> only, where glibc declares the functions in its own way. */
typedef unsigned int socket_length;

#define SHADOW(type, name, usual_error, parameters, arguments)                                     \
  FAULTS_EXPORT type name parameters;                                                              \
  type name parameters {                                                                           \
    static type(*_Atomic next) parameters;                                                         \
    int error = usual_error;                                                                       \
    if (concur_fault_strikes(#name, &error)) {                                                     \
      errno = error;                                                                               \
      return -1;                                                                                   \
    }                                                                                              \
    type(*function) parameters = atomic_load(&next);                                               \
    if (function == NULL) {                                                                        \
      *(void **)&function = dlsym(RTLD_NEXT, #name);                                               \
      atomic_store(&next, function);                                                               \
    }                                                                                              \
    return function arguments;                                                                     \
  }

SHADOW(int, epoll_create1, EMFILE, (int flags), (flags))
SHADOW(int, eventfd, EMFILE, (unsigned int value, int flags), (value, flags))
SHADOW(int, pipe2, EMFILE, (int ends[2], int flags), (ends, flags))
SHADOW(int, socket, EMFILE, (int domain, int type, int protocol), (domain, type, protocol))
SHADOW(int, socketpair, EMFILE, (int domain, int type, int protocol, int ends[2]),
       (domain, type, protocol, ends))
SHADOW(int, bind, EADDRINUSE, (int fd, const struct sockaddr *address, socket_length size),
       (fd, address, size))
SHADOW(int, listen, EADDRINUSE, (int fd, int backlog), (fd, backlog))
SHADOW(int, connect, ENETUNREACH, (int fd, const struct sockaddr *address, socket_length size),
       (fd, address, size))
SHADOW(int, accept4, EMFILE, (int fd, struct sockaddr *address, socket_length *size, int flags),
       (fd, address, size, flags))
SHADOW(pid_t, fork, EAGAIN, (void), ())
SHADOW(int, epoll_wait, EINTR, (int fd, struct epoll_event *events, int most, int timeout),
       (fd, events, most, timeout))
SHADOW(int, epoll_pwait, EINTR,
       (int fd, struct epoll_event *events, int most, int timeout, const sigset_t *mask),
       (fd, events, most, timeout, mask))
SHADOW(ssize_t, readv, EINTR, (int fd, const struct iovec *parts, int count), (fd, parts, count))
SHADOW(ssize_t, writev, EINTR, (int fd, const struct iovec *parts, int count), (fd, parts, count))
SHADOW(ssize_t, recvmsg, EINTR, (int fd, struct msghdr *message, int flags), (fd, message, flags))
SHADOW(ssize_t, sendmsg, EINTR, (int fd, const struct msghdr *message, int flags),
       (fd, message, flags))
SHADOW(ssize_t, recv, EINTR, (int fd, void *buffer, size_t size, int flags),
       (fd, buffer, size, flags))
SHADOW(ssize_t, send, EINTR, (int fd, const void *buffer, size_t size, int flags),
       (fd, buffer, size, flags))
SHADOW(ssize_t, sendto, EINTR,
       (int fd, const void *buffer, size_t size, int flags, const struct sockaddr *address,
        socket_length length),
       (fd, buffer, size, flags, address, length))
SHADOW(int, poll, EINTR, (struct pollfd * fds, nfds_t count, int timeout), (fds, count, timeout))
SHADOW(pid_t, waitpid, EINTR, (pid_t child, int *status, int options), (child, status, options))
SHADOW(ssize_t, read, EINTR, (int fd, void *buffer, size_t size), (fd, buffer, size))
SHADOW(ssize_t, write, EINTR, (int fd, const void *buffer, size_t size), (fd, buffer, size))
