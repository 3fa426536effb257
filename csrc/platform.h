/* SPDX-License-Identifier: MIT */
/* What the operating system offers and libuv has no function for.  No Lua, any thread. */
#ifndef CONCUR_PLATFORM_H
#define CONCUR_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#pragma GCC visibility push(hidden)

/* A variable of each thread, read in one instruction and safe in a signal handler.  glibc keeps room
   for such variables of modules that are loaded later; where there is none, as in musl, the loader
   would refuse the module, and the ordinary kind is as safe. */
#ifdef __GLIBC__
#define CONCUR_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define CONCUR_THREAD_LOCAL _Thread_local
#endif

/* Nobody will join this thread. */
void concur_platform_detach(uv_thread_t id);

/* Names the calling thread, for debuggers and process lists. */
void concur_platform_name_thread(const char *name);

/* The file that this code was loaded from; NULL when that is not known. */
const char *concur_platform_module_path(void);

/* libuv calls abort() when it is to close a descriptor from 0 to 2.  In a program that was started
   without its standard streams, or has closed them, these would be the next ones that a loop opens:
   /dev/null takes their places, and keeps them. */
void concur_platform_hold_standard_streams(void);

/* How many processors this process may use: affinity and cgroup limits count.  At least 1. */
uint32_t concur_platform_cpu_count(void);

/* Has the C library keep some megabytes of free memory for later, instead of giving the end of its
   heap back to the system each time the collector frees some large strings, and taking it again page
   by page for the next ones.  Does nothing where it is not known how. */
void concur_platform_keep_memory(void);

/* True where the three functions below work, and libuv tells that bytes have arrived before it reads
   them (it does when it gets no buffer). */
bool concur_platform_reads(void);

/* Reads from a non-blocking descriptor: how many bytes, 0 at the end, or a libuv code (UV_EAGAIN). */
ssize_t concur_platform_read(uv_os_fd_t fd, void *buffer, size_t size);
/* The same for sockets: a shorter way through the kernel. */
ssize_t concur_platform_receive(uv_os_fd_t fd, void *buffer, size_t size);
/* Sends to a non-blocking socket what it takes now: how many bytes, or a libuv code (UV_EAGAIN). */
ssize_t concur_platform_send(uv_os_fd_t fd, const uv_buf_t *parts, unsigned count);

/* Has the processor fetch what is at the address, which need not be valid, while other work goes on. */
static inline void concur_platform_prefetch(const void *address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#else
  (void)address;
#endif
}

/* Says that memory has an owner now who will free it, to an analyzer that lost sight of it
   (scripts/analyze.h). */
#ifndef CONCUR_ANALYZED
static inline void concur_taken(void *memory) {
  (void)memory;
}
#else
void concur_taken(void *memory);
#endif

/* Tells the processor that this is a loop that waits. */
static inline void concur_platform_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

#pragma GCC visibility pop

#endif
