/* SPDX-License-Identifier: MIT */
/*
 * Wrappers around what concur calls, linked into the module of the fault-injection build: the linker
 * sends concur's calls of x to __wrap_x (Makefile: one --wrap for each line here that begins with
 * REFUSES or DELAYS, or declares a __wrap_x).  Whether one fails, and how long one is held up, says the test host (faults.h).
 *
 * Any thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>

#include "../../csrc/mailbox.h"
#include "faults.h"

/* ---- memory ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);

static void *counted(void *block) {
  if (block != NULL) concur_fault_count_block(1);
  return block;
}

void *__wrap_malloc(size_t size) {
  return concur_fault_strikes("malloc", NULL) ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
  return concur_fault_strikes("calloc", NULL) ? NULL : counted(__real_calloc(count, size));
}

/* Lua counts on shrinking to succeed, and so may concur. */
void *__wrap_realloc(void *block, size_t size) {
  if (concur_fault_strikes("realloc", NULL)) return NULL;
  void *moved = __real_realloc(block, size);
  return block == NULL ? counted(moved) : moved;
}

void __wrap_free(void *block) {
  if (block != NULL) concur_fault_count_block(-1);
  __real_free(block);
}

/* libuv's own.  It calls abort() when the list of its watchers cannot grow: realloc is left alone. */
static void *uv_side_malloc(size_t size) {
  return concur_fault_strikes("uv:malloc", NULL) ? NULL : counted(__real_malloc(size));
}

static void *uv_side_calloc(size_t count, size_t size) {
  return concur_fault_strikes("uv:calloc", NULL) ? NULL : counted(__real_calloc(count, size));
}

static void *uv_side_realloc(void *block, size_t size) {
  void *moved = __real_realloc(block, size);
  return block == NULL ? counted(moved) : moved;
}

__attribute__((constructor)) static void replace_allocator(void) {
  (void)uv_replace_allocator(uv_side_malloc, uv_side_realloc, uv_side_calloc, __wrap_free);
}

/* ---- what can be refused ---- */

#define REFUSES(type, name, failure, parameters, arguments)                                        \
  type __real_##name parameters;                                                                   \
  type __wrap_##name parameters;                                                                   \
  type __wrap_##name parameters {                                                                  \
    if (concur_fault_strikes(#name, NULL)) return failure;                                         \
    return __real_##name arguments;                                                                \
  }

REFUSES(int, uv_loop_init, UV_EMFILE, (uv_loop_t * loop), (loop))
REFUSES(int, uv_timer_init, UV_ENOMEM, (uv_loop_t * loop, uv_timer_t *timer), (loop, timer))
REFUSES(int, uv_async_init, UV_EMFILE, (uv_loop_t * loop, uv_async_t *async, uv_async_cb callback),
        (loop, async, callback))
REFUSES(int, uv_mutex_init, UV_ENOMEM, (uv_mutex_t * mutex), (mutex))
REFUSES(int, uv_mutex_init_recursive, UV_ENOMEM, (uv_mutex_t * mutex), (mutex))
REFUSES(int, uv_cond_init, UV_ENOMEM, (uv_cond_t * condition), (condition))
REFUSES(int, uv_thread_create, UV_EAGAIN, (uv_thread_t * id, uv_thread_cb entry, void *argument),
        (id, entry, argument))
REFUSES(int, sigaction, (errno = EINVAL, -1),
        (int number, const struct sigaction *action, struct sigaction *old), (number, action, old))

/* Handles: what libuv answers when a descriptor cannot be watched, or a request not be made. */
REFUSES(int, uv_tcp_init, UV_ENOMEM, (uv_loop_t * loop, uv_tcp_t *handle), (loop, handle))
REFUSES(int, uv_pipe_init, UV_ENOMEM, (uv_loop_t * loop, uv_pipe_t *handle, int ipc),
        (loop, handle, ipc))
REFUSES(int, uv_poll_init, UV_ENOMEM, (uv_loop_t * loop, uv_poll_t *handle, int fd),
        (loop, handle, fd))
REFUSES(int, uv_tcp_open, UV_ENOMEM, (uv_tcp_t * handle, uv_os_sock_t fd), (handle, fd))
REFUSES(int, uv_pipe_open, UV_ENOMEM, (uv_pipe_t * handle, uv_file fd), (handle, fd))
REFUSES(int, uv_tcp_bind, UV_ENOMEM,
        (uv_tcp_t * handle, const struct sockaddr *address, unsigned int flags),
        (handle, address, flags))
REFUSES(int, uv_tcp_connect, UV_ENOMEM,
        (uv_connect_t * request, uv_tcp_t *handle, const struct sockaddr *address,
         uv_connect_cb callback),
        (request, handle, address, callback))
REFUSES(int, uv_poll_start, UV_ENOMEM, (uv_poll_t * handle, int events, uv_poll_cb callback),
        (handle, events, callback))
REFUSES(int, uv_read_start, UV_ENOMEM,
        (uv_stream_t * stream, uv_alloc_cb allocate, uv_read_cb callback),
        (stream, allocate, callback))
REFUSES(int, uv_write, UV_ENOMEM,
        (uv_write_t * request, uv_stream_t *stream, const uv_buf_t parts[], unsigned int count,
         uv_write_cb callback),
        (request, stream, parts, count, callback))
REFUSES(int, uv_shutdown, UV_ENOMEM,
        (uv_shutdown_t * request, uv_stream_t *stream, uv_shutdown_cb callback),
        (request, stream, callback))

/* Memory that is shared with a worker process. */
REFUSES(int, memfd_create, (errno = EMFILE, -1), (const char *name, unsigned int flags),
        (name, flags))
REFUSES(int, ftruncate, (errno = ENOSPC, -1), (int fd, off_t size), (fd, size))
REFUSES(void *, mmap, (errno = ENOMEM, MAP_FAILED),
        (void *address, size_t size, int access, int flags, int fd, off_t offset),
        (address, size, access, flags, fd, offset))

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);

/* Only where it makes a descriptor. */
int __wrap_fcntl(int fd, int command, ...) {
  if (command == F_DUPFD_CLOEXEC && concur_fault_strikes("fcntl", NULL)) {
    errno = EMFILE;
    return -1;
  }
  va_list arguments;
  va_start(arguments, command);
  int argument = va_arg(arguments, int); /* concur gives integers, or nothing that is looked at */
  va_end(arguments);
  return __real_fcntl(fd, command, argument);
}

/* ---- synchronisation points ---- */

#define DELAYS(name, parameters, arguments)                                                        \
  void __real_##name parameters;                                                                   \
  void __wrap_##name parameters;                                                                   \
  void __wrap_##name parameters {                                                                  \
    concur_fault_pause();                                                                          \
    __real_##name arguments;                                                                       \
    concur_fault_pause();                                                                          \
  }

#define DELAYS_RESULT(type, name, parameters, arguments)                                           \
  type __real_##name parameters;                                                                   \
  type __wrap_##name parameters;                                                                   \
  type __wrap_##name parameters {                                                                  \
    concur_fault_pause();                                                                          \
    type result = __real_##name arguments;                                                         \
    concur_fault_pause();                                                                          \
    return result;                                                                                 \
  }

DELAYS(uv_mutex_lock, (uv_mutex_t * mutex), (mutex))
DELAYS(uv_mutex_unlock, (uv_mutex_t * mutex), (mutex))
DELAYS(uv_cond_wait, (uv_cond_t * condition, uv_mutex_t *mutex), (condition, mutex))
DELAYS(uv_cond_signal, (uv_cond_t * condition), (condition))
DELAYS(uv_cond_broadcast, (uv_cond_t * condition), (condition))
DELAYS_RESULT(int, uv_cond_timedwait,
              (uv_cond_t * condition, uv_mutex_t *mutex, uint64_t timeout_ns),
              (condition, mutex, timeout_ns))
DELAYS_RESULT(int, uv_async_send, (uv_async_t * async), (async))
DELAYS_RESULT(int, pthread_kill, (pthread_t thread, int number), (thread, number))
DELAYS_RESULT(bool, concur_mailbox_post, (concur_mailbox * mailbox, concur_mail *mail),
              (mailbox, mail))
DELAYS_RESULT(bool, concur_mailbox_sleep, (concur_mailbox * mailbox), (mailbox))
DELAYS_RESULT(concur_mail *, concur_mailbox_take, (concur_mailbox * mailbox), (mailbox))
DELAYS_RESULT(concur_mail *, concur_mailbox_close, (concur_mailbox * mailbox), (mailbox))
