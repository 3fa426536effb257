/* SPDX-License-Identifier: MIT */
/*
 * The load of the echo benchmark: keeps a number of connections busy, each with one message on its
 * way at a time, and counts how many came back.
 *
 *   client PORT CONNECTIONS BYTES SECONDS  ->  "begin" once it is warm, then
 *                                              "<messages per second> <median us> <99% us>"
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_EVENTS = 512, SLOWEST_US = 1000000 };

typedef struct connection {
  int fd;
  size_t sent;     /* bytes of the message that are on their way */
  size_t received; /* and that came back */
  double begun;
} connection;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static int connect_to(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  int on = 1;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0) fail("socket");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) fail("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

/* Sends what is left of the message, as much as there is room for. */
static void send_more(connection *peer, const char *message, size_t size) {
  while (peer->sent < size) {
    ssize_t count = send(peer->fd, message + peer->sent, size - peer->sent, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) fail("send");
    peer->sent += (size_t)count;
  }
}

static void begin(connection *peer, const char *message, size_t size) {
  peer->sent = 0;
  peer->received = 0;
  peer->begun = now();
  send_more(peer, message, size);
}

/* True when the whole message has come back. */
static int receive(connection *peer, char *buffer, size_t size) {
  ssize_t count = recv(peer->fd, buffer, size, MSG_DONTWAIT);
  if (count < 0 && errno == EAGAIN) return 0;
  if (count <= 0) fail("recv");
  peer->received += (size_t)count;
  return peer->received >= size;
}

static int percentile(const unsigned *times, unsigned long total, double part) {
  unsigned long seen = 0;
  for (int us = 0; us < SLOWEST_US; us++) {
    seen += times[us];
    if ((double)seen >= (double)total * part) return us;
  }
  return SLOWEST_US;
}

int main(int count, char **words) {
  if (count != 5) return 2;
  int port = atoi(words[1]);
  int connections = atoi(words[2]);
  size_t size = (size_t)atol(words[3]);
  double seconds = atof(words[4]);
  char *message = malloc(size);
  char *buffer = malloc(size);
  connection *peers = calloc((size_t)connections, sizeof *peers);
  unsigned *times = calloc(SLOWEST_US, sizeof *times);
  int poll = epoll_create1(0);
  if (message == NULL || buffer == NULL || peers == NULL || times == NULL) return 1;
  memset(message, 'x', size);
  for (int i = 0; i < connections; i++) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &peers[i]};
    peers[i].fd = connect_to(port);
    epoll_ctl(poll, EPOLL_CTL_ADD, peers[i].fd, &event);
  }
  for (int i = 0; i < connections; i++) begin(&peers[i], message, size);
  double start = now() + seconds / 2; /* before that memory grows to its size */
  double end = start + seconds;
  unsigned long total = 0;
  int warm = 0;
  for (;;) {
    struct epoll_event events[MOST_EVENTS];
    int ready = epoll_wait(poll, events, MOST_EVENTS, 2000);
    double time = now();
    if (time > end) break;
    if (time > start && !warm) {
      warm = 1;
      printf("begin\n");
      fflush(stdout);
    }
    if (ready <= 0) fail("the server stalls");
    for (int i = 0; i < ready; i++) {
      connection *peer = events[i].data.ptr;
      send_more(peer, message, size); /* an answer to a part made room */
      if (!receive(peer, buffer, size)) continue;
      double took = now() - peer->begun;
      if (time > start) {
        int us = (int)(took * 1e6);
        times[us < SLOWEST_US ? us : SLOWEST_US - 1]++;
        total++;
      }
      begin(peer, message, size);
    }
  }
  printf("%.0f %d %d\n", (double)total / seconds, percentile(times, total, 0.5),
         percentile(times, total, 0.99));
  return 0;
}
