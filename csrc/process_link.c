/* SPDX-License-Identifier: MIT */
/* See process_link.h. */
#include "process_link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: SO_NOSIGPIPE is set instead */
#endif

static const char bell = '!';

static const uint32_t memory_magic = UINT32_C(0x4C715543);

/* The beginning stays as it is in all versions. */
struct concur_link_memory {
  uint32_t magic;
  uint32_t version; /* of the pool */
  atomic_uint worker_version;
  uint32_t size; /* of all of this */
  concur_ring_shared to_worker, to_pool;
  atomic_uint slots[CONCUR_LINK_SLOTS];
  _Alignas(4096) unsigned char to_worker_bytes[CONCUR_LINK_RING];
  unsigned char to_pool_bytes[CONCUR_LINK_RING];
};

/* ---- making ---- */

static void fd_close(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

static void fd_keep_from_children(int fd) {
  int flags = fcntl(fd, F_GETFD);
  if (flags >= 0) (void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
}

/* A file that no path leads to.  Never one of the standard streams' numbers: see fd_above. */
static int memory_file(void) {
#ifdef MFD_CLOEXEC
  int file = memfd_create("concur", MFD_CLOEXEC);
  if (file >= 0) return file;
#endif
  char path[] = "/tmp/concur-XXXXXX";
  int other = mkstemp(path);
  if (other < 0) return -1;
  (void)unlink(path);
  fd_keep_from_children(other);
  return other;
}

/* In a program without standard streams, descriptors 0 to 2 may be free: what gets one of them could
   not be handed to a child as 3 or 4. */
static int fd_above(int fd) {
  if (fd < 0 || fd > CONCUR_LINK_MEMORY_FD) return fd;
  int moved = fcntl(fd, F_DUPFD_CLOEXEC, CONCUR_LINK_MEMORY_FD + 1);
  int error = errno;
  close(fd);
  errno = error;
  return moved;
}

static int make_sockets(concur_link *link, int *peer_socket) {
  uv_os_sock_t ends[2];
  int error = uv_socketpair(SOCK_STREAM, 0, ends, UV_NONBLOCK_PIPE, 0);
  if (error != 0) return error;
  link->socket = fd_above(ends[0]);
  *peer_socket = fd_above(ends[1]);
  if (link->socket >= 0 && *peer_socket >= 0) return 0;
  error = uv_translate_sys_error(errno);
  fd_close(peer_socket);
  return error;
}

static int map_memory(concur_link *link) {
  void *memory =
      mmap(NULL, sizeof *link->memory, PROT_READ | PROT_WRITE, MAP_SHARED, link->file, 0);
  if (memory == MAP_FAILED) return uv_translate_sys_error(errno);
  link->memory = memory;
  return 0;
}

int concur_link_open(concur_link *link, int *peer_socket) {
  *link = (concur_link){.socket = -1, .file = -1};
  *peer_socket = -1;
  int error = make_sockets(link, peer_socket);
  if (error != 0) goto fail;
  link->file = fd_above(memory_file());
  if (link->file < 0 || ftruncate(link->file, (off_t)sizeof *link->memory) != 0) {
    error = uv_translate_sys_error(errno);
    goto fail;
  }
  error = map_memory(link);
  if (error != 0) goto fail;
  concur_link_memory *memory = link->memory;
  memory->magic = memory_magic;
  memory->version = CONCUR_FRAME_VERSION;
  memory->size = sizeof *memory;
  concur_ring_init(&link->in, &memory->to_pool, memory->to_pool_bytes, CONCUR_LINK_RING);
  concur_ring_init(&link->out, &memory->to_worker, memory->to_worker_bytes, CONCUR_LINK_RING);
  return 0;
fail:
  fd_close(peer_socket);
  concur_link_close(link);
  return error;
}

int concur_link_attach(concur_link *link) {
  struct stat status;
  *link = (concur_link){.socket = CONCUR_LINK_SOCKET_FD, .file = CONCUR_LINK_MEMORY_FD};
  if (fstat(link->socket, &status) != 0 || !S_ISSOCK(status.st_mode) ||
      fstat(link->file, &status) != 0 || status.st_size < (off_t)sizeof *link->memory) {
    return UV_ENOTSOCK;
  }
  int error = map_memory(link);
  if (error != 0) return error;
  concur_link_memory *memory = link->memory;
  if (memory->magic != memory_magic) return UV_ENOTSOCK;
  atomic_store(&memory->worker_version, CONCUR_FRAME_VERSION);
  if (memory->version != CONCUR_FRAME_VERSION || memory->size != sizeof *memory) return UV_EPROTO;
  fd_keep_from_children(link->socket);
  fd_close(&link->file);
  concur_ring_init(&link->in, &memory->to_worker, memory->to_worker_bytes, CONCUR_LINK_RING);
  concur_ring_init(&link->out, &memory->to_pool, memory->to_pool_bytes, CONCUR_LINK_RING);
  return 0;
}

void concur_link_close(concur_link *link) {
  fd_close(&link->socket);
  fd_close(&link->file);
  if (link->memory != NULL) (void)munmap(link->memory, sizeof *link->memory);
  link->memory = NULL;
}

void concur_link_close_file(concur_link *link) {
  fd_close(&link->file);
}

uint32_t concur_link_worker_version(const concur_link *link) {
  return atomic_load(&link->memory->worker_version);
}

/* ---- bells ---- */

void concur_link_ring_bell(concur_link *link) {
  ssize_t sent;
  do {
    /* With the socket full of bells, one more is not missed. */
    sent = send(link->socket, &bell, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
}

static int take_bells(concur_link *link, int flags) {
  char bytes[64];
  ssize_t got;
  do {
    got = recv(link->socket, bytes, sizeof bytes, flags);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    if (errno == EAGAIN) return 1;
    return errno == ECONNRESET ? 0 : uv_translate_sys_error(errno);
  }
  for (ssize_t i = 0; i < got; i++) {
    if (bytes[i] != bell) return UV_EPROTO;
  }
  return got > 0;
}

int concur_link_take_bells(concur_link *link) {
  return take_bells(link, MSG_DONTWAIT);
}

int concur_link_await_bell(concur_link *link) {
  return take_bells(link, 0);
}

void concur_link_await_end(int socket) {
  struct pollfd poll_fd = {.fd = socket, .events = 0}; /* POLLHUP comes unasked */
  while (poll(&poll_fd, 1, -1) < 0 && errno == EINTR) continue;
}

/* ---- slots ---- */

concur_slot_state concur_link_slot(const concur_link *link, uint32_t slot) {
  return (concur_slot_state)atomic_load(&link->memory->slots[slot]);
}

void concur_link_set_slot(concur_link *link, uint32_t slot, concur_slot_state state) {
  atomic_store(&link->memory->slots[slot], (unsigned)state);
}

bool concur_link_change_slot(concur_link *link, uint32_t slot, concur_slot_state from,
                             concur_slot_state state) {
  unsigned expected = (unsigned)from;
  return atomic_compare_exchange_strong(&link->memory->slots[slot], &expected, (unsigned)state);
}
