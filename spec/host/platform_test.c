/* SPDX-License-Identifier: MIT */
/*
 * Exercises csrc/platform.c without Lua: built and run by spec/platform_spec.lua.
 *
 *     platform_test ROOT CPUS ONLINE     prints how many processors concur would use
 *
 * What the program itself defines comes before the functions of the C library: so the files of the
 * control groups are read below the directory ROOT, the process may run on CPUS processors (0: the
 * system does not say), and ONLINE are there.
 */
#include <sched.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../csrc/platform.h"

static const char *root;
static size_t cpus;
static long online;

FILE *fopen(const char *restrict path, const char *restrict mode) {
  char below[1024];
  FILE *(*next)(const char *, const char *);
  *(void **)&next = dlsym(RTLD_NEXT, "fopen");
  (void)snprintf(below, sizeof below, "%s%s", root, path);
  return next(below, mode);
}

int sched_getaffinity(pid_t process, size_t size, cpu_set_t *set) {
  (void)process;
  (void)size;
  for (size_t i = 0; i < cpus; i++) CPU_SET(i, set);
  return cpus > 0 ? 0 : -1;
}

/* The sanitizers ask for other things. */
long sysconf(int name) {
  if (name == _SC_NPROCESSORS_ONLN) return online;
  long (*real)(int);
  *(void **)&real = dlsym(RTLD_NEXT, "sysconf");
  return real(name);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  root = argv[1];
  cpus = strtoul(argv[2], NULL, 10);
  online = atol(argv[3]);
  printf("%u\n", (unsigned)concur_platform_cpu_count());
  return 0;
}
