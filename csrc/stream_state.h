/* SPDX-License-Identifier: MIT */
/*
 * The inside of a stream, for the files stream*.c only.
 *
 * States:  NEW -> OPEN -> CLOSING (what was written is still being sent) -> CLOSED
 * docs/design/streams.md has them in full.                                  [loop thread]
 */
#ifndef CONCUR_STREAM_STATE_H
#define CONCUR_STREAM_STATE_H

#include "bytes.h"
#include "scan.h"
#include "stream.h"

#pragma GCC visibility push(hidden)

typedef enum concur_stream_state {
  CONCUR_STREAM_NEW,     /* no descriptor yet */
  CONCUR_STREAM_OPEN,
  CONCUR_STREAM_CLOSING, /* closed for scripts; bytes are still being sent */
  CONCUR_STREAM_CLOSED   /* uv_close was called; its loop may be gone */
} concur_stream_state;

/* The userdata. */
typedef struct concur_stream_box {
  concur_stream *stream; /* the memory behind it; NULL: could not be made */
} concur_stream_box;

/* What the streams of one loop share. */
typedef struct concur_hub {
  concur_flusher flusher;
  concur_node dirty;     /* streams with gathered bytes to send at the end of this tick */
  uint64_t tick;         /* counts the flushes */
  concur_stream *holder; /* whose bytes the slab holds while a string is made of them; else NULL */
  size_t held;           /* how many */
  char slab[64 * 1024];  /* where reads go to first */
} concur_hub;

/* What every read and write touches lies together: with a thousand connections each line of memory is
   one more that has left the processor's cache. */
struct concur_stream {
  concur_handle handle;
  union {
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
  } uv;
  concur_loop *loop;
  concur_hub *hub;
  uv_os_fd_t fd;     /* the handle's, once it is OPEN */
  uint8_t kind;      /* concur_stream_kind */
  uint8_t state;     /* concur_stream_state */
  bool readable;     /* directions that were opened */
  bool writable;
  bool reading;      /* uv_read_start is in force */
  bool read_ended;   /* end of file, or read_error */
  bool direct;       /* the reader takes one result, and receives it itself if `in` is empty */
  bool arrived;      /* there may be bytes for it to receive */
  bool in_flight;    /* `write` is with libuv */
  bool unbuffered;   /* setvbuf("no") */
  bool ending;       /* shutdown was asked for */
  bool ended;        /* and is done */
  bool shutting;     /* `shutdown` is with libuv */
  bool error_told;   /* a script was told of write_error: closing does not tell it again */

  concur_bytes in;      /* arrived, not read yet */
  concur_fiber *reader; /* parked in a read; NULL: none */
  concur_scan scan;     /* what the reader looks for, behind `scan_from` bytes of `in` */
  size_t scan_from;
  int read_error;       /* libuv code; 0: none */

  int write_error;       /* libuv code; 0: none.  Once CLOSED: what closing tells */
  uint64_t tick;         /* hub->tick when a write last went out directly */
  concur_bytes gathered; /* accepted, not handed to libuv yet */
  size_t out_high;       /* a write waits while so much is unsent ... */
  size_t out_low;        /* ... until it is so little */

  size_t limit;          /* the most that one read may return, where the read itself says no limit */
  size_t in_high;        /* reading pauses with so much in `in` ... */
  size_t in_low;         /* ... and goes on when a read left so little */
  concur_bytes sending;  /* the bytes of `write` */
  uv_write_t write;
  concur_node dirty;     /* in hub->dirty */
  concur_node writers;   /* wait for room */
  concur_node drainers;  /* wait until all is sent: flush, shutdown, close */
  uv_shutdown_t shutdown;
  concur_timer linger;   /* CLOSING ends when it fires */
  concur_backing backing; /* users: the userdata, and libuv until it has let go */
  char peer[64];         /* for messages; may be empty */
};

static inline concur_stream *concur_stream_of(const void *uv_handle) {
  return concur_container_of(concur_handle_of(uv_handle), concur_stream, handle);
}

/* ---- stream.c ---- */

/* Pushes nil and an OSError that names the peer. */
int concur_stream_fail(lua_State *L, concur_stream *stream, int code, const char *call);
/* Pushes nil and Closed. */
int concur_stream_fail_closed(lua_State *L);
/* The handle is closed for good; wakes everybody. */
void concur_stream_finish(concur_stream *stream);

/* ---- stream_input.c, stream_read.c, stream_read_some.c ---- */

extern const luaL_Reg concur_stream_read_methods[];
extern const luaL_Reg concur_stream_read_some_methods[];
/* Moves to `in` what the slab holds for the stream since memory was short for a string of it. */
void concur_stream_settle(concur_stream *stream);
/* Wakes a parked reader because the stream closes; frees what was not read. */
void concur_stream_close_read(concur_stream *stream);

/* ---- stream_write.c ---- */

extern const luaL_Reg concur_stream_write_methods[];
/* Hands what was gathered to the system. */
void concur_stream_send(concur_stream *stream);
/* Bytes accepted and not sent yet. */
size_t concur_stream_unsent(const concur_stream *stream);
/* Wakes writers that wait for room because the stream closes. */
void concur_stream_close_write(concur_stream *stream);
/* Wakes everybody who waits until all is sent. */
void concur_stream_wake_drainers(concur_stream *stream, concur_outcome outcome);
/* Called by the loop at the end of a tick. */
void concur_hub_flush(concur_flusher *flusher);

#pragma GCC visibility pop

#endif
