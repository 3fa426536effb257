/* SPDX-License-Identifier: MIT */
/*
 * The limit of the echo benchmark: libuv in C, with nothing but what echoing needs.  One buffer for
 * all, uv_try_write, and a copy only of what the system does not take.
 *
 *   limit  ->  prints its port, then serves
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

static char slab[64 * 1024];

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
  (void)handle;
  (void)size;
  *buffer = uv_buf_init(slab, sizeof slab);
}

static void on_close(uv_handle_t *handle) {
  free(handle);
}

static void on_write(uv_write_t *request, int status) {
  (void)status;
  free(request);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer) {
  if (count < 0) uv_close((uv_handle_t *)stream, on_close);
  if (count <= 0) return;
  uv_buf_t rest = uv_buf_init(buffer->base, (unsigned)count);
  int sent = uv_try_write(stream, &rest, 1);
  if (sent == count) return;
  if (sent < 0) sent = 0;
  size_t size = (size_t)(count - sent);
  uv_write_t *request = malloc(sizeof *request + size);
  if (request == NULL) return;
  memcpy(request + 1, buffer->base + sent, size);
  rest = uv_buf_init((char *)(request + 1), (unsigned)size);
  uv_write(request, stream, &rest, 1, on_write);
}

static void on_connection(uv_stream_t *server, int status) {
  uv_tcp_t *peer = malloc(sizeof *peer);
  if (status != 0 || peer == NULL) return;
  uv_tcp_init(server->loop, peer);
  uv_accept(server, (uv_stream_t *)peer);
  uv_tcp_nodelay(peer, 1);
  uv_read_start((uv_stream_t *)peer, on_alloc, on_read);
}

int main(void) {
  uv_tcp_t server;
  struct sockaddr_in address;
  int size = sizeof address;
  uv_tcp_init(uv_default_loop(), &server);
  uv_ip4_addr("127.0.0.1", 0, &address);
  uv_tcp_bind(&server, (struct sockaddr *)&address, 0);
  uv_listen((uv_stream_t *)&server, 1024, on_connection);
  uv_tcp_getsockname(&server, (struct sockaddr *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
