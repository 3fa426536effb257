/* SPDX-License-Identifier: MIT */
/*
 * The client of the echo servers:  echo_client [--any] SECONDS CONNECTIONS SIZE COMMAND...
 *
 * Starts the server COMMAND, in which the word PORT stands for a free port, on one processor, and
 * keeps another one busy with it (with --any the server may use all of them): on each connection one
 * message of SIZE bytes is under way at any time.  After warming up, for a third of SECONDS and until
 * five messages a connection came back, it prints three lines, each the nanoseconds per message that
 * passed and that the server used in a third of SECONDS; then ends the server.  Linux only (epoll,
 * affinity).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PARTS = 3, EVENTS = 256, BUFFER = 1 << 16 };

typedef struct connection {
  int fd;
  size_t sent;     /* of the message under way */
  size_t received; /* of its echo */
} connection;

static pid_t server;
static size_t size;
static char *message;

static void stop_server(void) {
  if (server > 0) {
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
  }
}

static void fail(const char *what) {
  fprintf(stderr, "echo_client: %s: %s\n", what, strerror(errno));
  stop_server();
  exit(1);
}

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* What the server has used, in nanoseconds. */
static double server_ns(void) {
  clockid_t clock;
  struct timespec t;
  errno = clock_getcpuclockid(server, &clock);
  if (errno != 0 || clock_gettime(clock, &t) != 0) fail("reading what the server used");
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static struct sockaddr_in address_of(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static int free_port(void) {
  struct sockaddr_in address = address_of(0);
  socklen_t length = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
    fail("finding a port");
  }
  close(fd);
  return ntohs(address.sin_port);
}

/* Server and client do not take turns on one processor, if there are two. */
static void use_processor(int which) {
  cpu_set_t all, one;
  if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < 2) return;
  CPU_ZERO(&one);
  for (int i = 0, seen = 0; i < CPU_SETSIZE; i++) {
    if (CPU_ISSET(i, &all) && seen++ == which) CPU_SET(i, &one);
  }
  (void)sched_setaffinity(0, sizeof one, &one);
}

static void start_server(char **command, int port, bool any) {
  char text[16];
  snprintf(text, sizeof text, "%d", port);
  for (char **word = command; *word != NULL; word++) {
    if (strcmp(*word, "PORT") == 0) *word = text;
  }
  server = fork();
  if (server < 0) fail("fork");
  if (server == 0) {
    if (!any) use_processor(0);
    execvp(command[0], command);
    _exit(127);
  }
  if (!any) use_processor(1);
}

/* A thousand connections are near the limit that most systems set: both sides take what they may. */
static void allow_descriptors(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

static int connect_to(int port) {
  struct sockaddr_in address = address_of(port);
  for (int tries = 0; tries < 3000; tries++) { /* half a minute: the machine may be busy */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) fail("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
      int one = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      fcntl(fd, F_SETFL, O_NONBLOCK);
      return fd;
    }
    close(fd);
    if (waitpid(server, NULL, WNOHANG) == server) {
      server = 0;
      fail("the server ended");
    }
    usleep(10000); /* it is still starting */
  }
  fail("connect");
  return -1;
}

static void send_more(connection *each) {
  ssize_t sent = write(each->fd, message + each->sent, size - each->sent);
  if (sent > 0) each->sent += (size_t)sent;
}

/* What came in on a connection; returns how many messages that completed. */
static long receive(connection *each) {
  static char buffer[BUFFER];
  long completed = 0;
  if (each->sent < size) send_more(each);
  ssize_t received = read(each->fd, buffer, sizeof buffer);
  if (received == 0) fail("the server closed a connection");
  if (received < 0) return 0;
  each->received += (size_t)received;
  while (each->received >= size) {
    each->received -= size;
    each->sent = 0;
    send_more(each);
    completed++;
  }
  return completed;
}

/* Runs until `until`, and until `at_least` messages came back; returns how many did. */
static long exchange(int poll, connection *connections, double until, long at_least) {
  struct epoll_event events[EVENTS];
  long completed = 0;
  while (now_ns() < until || completed < at_least) {
    int count = epoll_wait(poll, events, EVENTS, 10000);
    if (count == 0) {
      errno = ETIMEDOUT;
      fail("waiting for a message");
    }
    for (int i = 0; i < count; i++) completed += receive(&connections[events[i].data.u32]);
  }
  return completed;
}

int main(int argc, char **argv) {
  bool any = argc > 1 && strcmp(argv[1], "--any") == 0;
  if (any) argv++, argc--;
  if (argc < 5) {
    fprintf(stderr, "usage: echo_client [--any] SECONDS CONNECTIONS SIZE COMMAND...\n");
    return 2;
  }
  double part_ns = atof(argv[1]) * 1e9 / PARTS;
  int count = atoi(argv[2]);
  size = (size_t)atol(argv[3]);
  message = malloc(size);
  memset(message, 'x', size);
  int port = free_port();
  allow_descriptors();
  start_server(argv + 4, port, any);
  connection *connections = calloc((size_t)count, sizeof *connections);
  int poll = epoll_create1(0);
  for (int i = 0; i < count; i++) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
    connections[i].fd = connect_to(port);
    epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].fd, &event);
  }
  for (int i = 0; i < count; i++) send_more(&connections[i]);
  /* Warms up: the memory that a server takes at first costs more than the messages do. */
  (void)exchange(poll, connections, now_ns() + part_ns, 5L * count);
  for (int part = 0; part < PARTS; part++) {
    double wall = now_ns(), cpu = server_ns();
    double completed = (double)exchange(poll, connections, wall + part_ns, 1);
    printf("%.2f %.2f\n", (now_ns() - wall) / completed, (server_ns() - cpu) / completed);
  }
  stop_server();
  return 0;
}
