/* SPDX-License-Identifier: MIT */
/* See platform.h. */
#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __linux__
#include <sched.h>
#endif
#ifndef _WIN32
#include <dlfcn.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

const char *concur_platform_module_path(void) {
#ifndef _WIN32
  static const char anything;
  Dl_info info;
  if (dladdr((const void *)&anything, &info) != 0) return info.dli_fname;
#endif
  return NULL; /* GCOVR_EXCL_LINE: of what is loaded it is known */
}

void concur_platform_detach(uv_thread_t id) {
#ifdef _WIN32
  CloseHandle(id);
#else
  pthread_detach(id);
#endif
}

void concur_platform_name_thread(const char *name) {
#if defined(__linux__)
  char shortened[16]; /* the kernel's limit, with the final zero */
  (void)snprintf(shortened, sizeof shortened, "%s", name);
  pthread_setname_np(pthread_self(), shortened);
#elif defined(__APPLE__)
  pthread_setname_np(name);
#else
  (void)name;
#endif
}

void concur_platform_hold_standard_streams(void) {
#ifndef _WIN32
  for (int fd = 0; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    int lowest = open("/dev/null", O_RDWR);
    if (lowest > STDERR_FILENO) (void)close(lowest); /* another thread has just taken this one */
  }
#endif
}

#ifdef __linux__

/* Reads up to two numbers from the start of a file; returns how many there are. */
static int file_read(const char *path, long long *first, long long *second) {
  FILE *file = fopen(path, "r");
  if (file == NULL) return 0;
  int count = fscanf(file, "%lld %lld", first, second); /* NOLINT(cert-err34-c): of the kernel */
  (void)fclose(file);
  return count;
}

static uint32_t quota_to_cpus(uint32_t cpus, long long quota, long long period) {
  if (quota <= 0 || period <= 0) return cpus;
  long long allowed = (quota + period - 1) / period;
  if (allowed < 1) allowed = 1;
  return allowed < (long long)cpus ? (uint32_t)allowed : cpus;
}

/* The limit of the process's own group and of every group around it. */
static uint32_t limit_by_cgroup(uint32_t cpus) {
  char group[512] = "/";
  FILE *file = fopen("/proc/self/cgroup", "r");
  if (file != NULL) {
    char line[512];
    while (fgets(line, sizeof line, file) != NULL) {
      if (strncmp(line, "0::/", 4) == 0) {
        line[strcspn(line, "\n")] = '\0';
        (void)snprintf(group, sizeof group, "%s", line + 3);
      }
    }
    (void)fclose(file);
  }
  for (;;) {
    char path[640];
    long long quota, period;
    (void)snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
    if (file_read(path, &quota, &period) == 2) cpus = quota_to_cpus(cpus, quota, period);
    char *slash = strrchr(group, '/');
    if (slash == NULL) break;
    *slash = '\0';
  }
  long long quota, period, nothing;
  if (file_read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota, &nothing) == 1 &&
      file_read("/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period, &nothing) == 1) {
    cpus = quota_to_cpus(cpus, quota, period);
  }
  return cpus;
}

#endif

uint32_t concur_platform_cpu_count(void) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  uint32_t cpus = 0;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = (uint32_t)CPU_COUNT(&set);
  if (cpus == 0) {
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpus = online > 0 ? (uint32_t)online : 1;
  }
  return limit_by_cgroup(cpus);
#elif UV_VERSION_HEX >= 0x012C00
  return uv_available_parallelism();
#else
  uv_cpu_info_t *infos;
  int count;
  if (uv_cpu_info(&infos, &count) != 0) return 1;
  uv_free_cpu_info(infos, count);
  return count > 0 ? (uint32_t)count : 1;
#endif
}

void concur_platform_keep_memory(void) {
#ifdef __GLIBC__
  /* glibc gives back what is above 128 KiB until it has seen a large block being freed: from then on
     twice that size.  It may as well see one now; the memory is never touched. */
  enum { LARGE = 16 << 20 };
  void *volatile block = malloc(LARGE); /* volatile: or the compiler drops both calls */
  free(block);
#endif
}

#ifdef _WIN32
bool concur_platform_reads(void) {
  return false;
}

ssize_t concur_platform_read(uv_os_fd_t fd, void *buffer, size_t size) {
  (void)fd, (void)buffer, (void)size;
  return UV_ENOTSUP;
}

ssize_t concur_platform_receive(uv_os_fd_t fd, void *buffer, size_t size) {
  (void)fd, (void)buffer, (void)size;
  return UV_ENOTSUP;
}

ssize_t concur_platform_send(uv_os_fd_t fd, const uv_buf_t *parts, unsigned count) {
  (void)fd, (void)parts, (void)count;
  return UV_ENOTSUP;
}
#else
bool concur_platform_reads(void) {
  return true;
}

ssize_t concur_platform_read(uv_os_fd_t fd, void *buffer, size_t size) {
  ssize_t count;
  do {
    count = read(fd, buffer, size);
  } while (count < 0 && errno == EINTR);
  return count < 0 ? uv_translate_sys_error(errno) : count;
}

ssize_t concur_platform_receive(uv_os_fd_t fd, void *buffer, size_t size) {
  ssize_t count;
  do {
    count = recv(fd, buffer, size, 0);
  } while (count < 0 && errno == EINTR);
  return count < 0 ? uv_translate_sys_error(errno) : count;
}

#ifdef MSG_NOSIGNAL
#define SEND_FLAGS MSG_NOSIGNAL
#else
#define SEND_FLAGS 0 /* SIGPIPE is ignored (stream.c) */
#endif

ssize_t concur_platform_send(uv_os_fd_t fd, const uv_buf_t *parts, unsigned count) {
  struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = count};
  ssize_t sent;
  do {
    sent = count == 1 ? send(fd, parts[0].base, parts[0].len, SEND_FLAGS)
                      : sendmsg(fd, &message, SEND_FLAGS);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno == ENOBUFS) return UV_EAGAIN; /* it has no room now, as libuv sees it */
  return sent < 0 ? uv_translate_sys_error(errno) : sent;
}
#endif
