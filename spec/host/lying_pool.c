/* SPDX-License-Identifier: MIT */
/*
 * A process pool that lies to its worker: built and run by spec/process_worker_spec.lua.
 *
 *     lying_pool LIE SETUP PROGRAM ARGUMENT...
 *
 * Starts the program with its end of a link, as a pool does, tells the lie, and waits for the end of
 * the program, which is killed (SIGALRM) when it goes on for ten seconds.  SETUP is a file with the
 * frames of an honest pool up to the first job.  Prints "exit N" or "signal N".
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../csrc/process_link.h"

enum { PATIENCE_SECONDS = 10, AT_MAGIC = 0, AT_VERSION = 4 };

static concur_link link_;

static void send_bytes(const void *bytes, size_t size) {
  if (concur_ring_write(&link_.out, bytes, size) != size) abort();
  (void)concur_ring_publish(&link_.out);
  concur_link_ring_bell(&link_);
}

static void send_frame(uint8_t kind, uint32_t slot, const void *body, size_t size) {
  unsigned char header[CONCUR_FRAME_HEADER];
  const concur_frame frame = {.kind = kind, .slot = slot, .id = 1, .size = size};
  concur_frame_write(header, &frame);
  send_bytes(header, sizeof header);
  if (size > 0) send_bytes(body, size);
}

static void send_file(const char *path) {
  static char bytes[512 * 1024];
  FILE *file = fopen(path, "rb");
  if (file == NULL) abort();
  send_bytes(bytes, fread(bytes, 1, sizeof bytes, file));
  (void)fclose(file);
}

/* Waits until the worker has said something. */
static void await_answer(void) {
  const unsigned char *bytes;
  while (concur_ring_want_data(&link_.in) && concur_link_await_bell(&link_) > 0) continue;
  while (concur_ring_peek(&link_.in, &bytes) == 0) usleep(1000);
}

static void scribble(off_t at, uint32_t value) {
  if (pwrite(link_.file, &value, sizeof value, at) != sizeof value) abort();
}

/* What is wrong before the worker looks. */
static void lie_early(const char *lie) {
  if (strcmp(lie, "version") == 0) scribble(AT_VERSION, CONCUR_FRAME_VERSION + 1);
  if (strcmp(lie, "other_memory") == 0) scribble(AT_MAGIC, 0);
  if (strcmp(lie, "small_memory") == 0 && ftruncate(link_.file, 4096) != 0) abort();
}

static void lie_now(const char *lie, const char *setup) {
  const uint64_t huge[] = {0, 0, UINT64_MAX - 39, 0, 40};
  if (strcmp(lie, "no_frame") == 0) send_bytes("GET / HTTP/1.1\r\nHost: localhost\r\n", 34);
  if (strcmp(lie, "answer") == 0) send_frame(CONCUR_FRAME_RESULT, 0, NULL, 0);
  if (strcmp(lie, "early_job") == 0) send_frame(CONCUR_FRAME_JOB, 0, NULL, 0);
  if (strcmp(lie, "slot") == 0) send_frame(CONCUR_FRAME_JOB, 4000000000U, NULL, 0);
  if (strcmp(lie, "empty_setup") == 0) send_frame(CONCUR_FRAME_SETUP, 0, NULL, 0);
  if (strcmp(lie, "short_setup") == 0) send_frame(CONCUR_FRAME_SETUP, 0, "abc", 3);
  if (strcmp(lie, "huge_setup") == 0) send_frame(CONCUR_FRAME_SETUP, 0, huge, sizeof huge);
  if (strcmp(lie, "no_bell") == 0) (void)send(link_.socket, "hello", 5, 0);
  if (strcmp(lie, "positions") == 0) {
    link_.out.position = UINT64_C(1) << 60;
    send_bytes("", 0);
  }
  if (strcmp(lie, "gone") == 0) concur_link_close(&link_);
  if (strcmp(lie, "setup_twice") == 0) {
    send_file(setup);
    await_answer();
    send_file(setup);
  }
}

static int start(char **argv, int socket) {
  int pid = fork();
  if (pid != 0) return pid;
  (void)alarm(PATIENCE_SECONDS);
  if (socket >= 0) {
    (void)dup2(socket, CONCUR_LINK_SOCKET_FD);
    (void)dup2(link_.file, CONCUR_LINK_MEMORY_FD);
  }
  (void)execvp(argv[0], argv);
  _exit(127);
}

int main(int argc, char **argv) {
  int socket, status;
  if (argc < 4 || concur_link_open(&link_, &socket) != 0) return 2;
  if (strcmp(argv[1], "no_link") == 0) {
    (void)close(socket);
    socket = -1;
  }
  lie_early(argv[1]);
  int pid = start(argv + 3, socket);
  if (pid < 0) return 2;
  if (socket >= 0) (void)close(socket);
  lie_now(argv[1], argv[2]);
  if (waitpid(pid, &status, 0) != pid) return 2;
  if (WIFEXITED(status)) printf("exit %d\n", WEXITSTATUS(status));
  if (WIFSIGNALED(status)) printf("signal %d\n", WTERMSIG(status));
  return 0;
}
