/* SPDX-License-Identifier: MIT */
/*
 * Exercises csrc/platform.c without Lua: built and run by spec/platform_spec.lua.
 *
 *     platform_test ROOT CPUS ONLINE     prints how many processors concur would use
 *
 * The linker sends its calls of three functions of the C library here (--wrap): so the files of the
 * control groups are read below the directory ROOT, the process may run on CPUS processors (0: the
 * system does not say), and ONLINE are there.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../csrc/platform.h"

static const char *root;
static size_t cpus;
static long online;

FILE *__real_fopen(const char *path, const char *mode);
long __real_sysconf(int name);

FILE *__wrap_fopen(const char *restrict path, const char *restrict mode) {
  char below[1024];
  (void)snprintf(below, sizeof below, "%s%s", root, path);
  return __real_fopen(below, mode);
}

int __wrap_sched_getaffinity(pid_t process, size_t size, cpu_set_t *set) {
  (void)process;
  (void)size;
  for (size_t i = 0; i < cpus; i++) CPU_SET(i, set);
  return cpus > 0 ? 0 : -1;
}

long __wrap_sysconf(int name) {
  return name == _SC_NPROCESSORS_ONLN ? online : __real_sysconf(name);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  root = argv[1];
  cpus = strtoul(argv[2], NULL, 10);
  online = atol(argv[3]);
  printf("%u\n", (unsigned)concur_platform_cpu_count());
  return 0;
}
