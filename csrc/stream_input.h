/* SPDX-License-Identifier: MIT */
/*
 * The receiving half of a stream: what has arrived (`in`) and the one task that waits for more.
 *
 * A read scans `in` from its beginning and consumes nothing before it has all its results, so one
 * that is cancelled has taken nothing:
 *
 *   look     what is asked for is there, or cannot come: push the results, consume, return
 *   receive  else, if `in` is empty and something may have arrived, take it from the system
 *   start    else make sure that libuv reads; false: nothing more will come, look again
 *   park     until it is there; then look again
 *
 * One task reads at a time: a second one gets InvalidState.                 [loop thread]
 */
#ifndef CONCUR_STREAM_INPUT_H
#define CONCUR_STREAM_INPUT_H

#include "stream_state.h"

#pragma GCC visibility push(hidden)

/* The stream at index 1, in the middle of a read; NULL with nil and an error pushed when there is
   nothing to read from.  Raises InvalidState while another task is parked in a read. */
concur_stream *concur_stream_read_from(lua_State *L);

/* What `scan` finds behind `from` bytes. */
static inline concur_scan_end concur_stream_look(const concur_stream *stream, concur_scan *scan,
                                                 size_t from, concur_scan_result *result) {
  bool at_end = stream->read_ended && stream->read_error == 0;
  return concur_scan_look(scan, concur_bytes_data(&stream->in) + from, stream->in.size - from,
                          at_end, result);
}

/* Takes bytes off the beginning; reading goes on if it had paused and so little is left. */
void concur_stream_consume(concur_stream *stream, size_t count);

/* True when a read of one thing shall try to receive it: nothing is in `in`, something has arrived. */
bool concur_stream_may_receive(const concur_stream *stream);

/* Takes what has arrived from the system: how many bytes.  0: nothing, or `read_ended` is set. */
size_t concur_stream_receive(concur_stream *stream, void *buffer, size_t size);

/* The same; true when that had what `scan` looks for, which is pushed as a string.  What is left goes
   to `in`.  False: look again; the stream may have been closed.  Raises, and has lost nothing. */
bool concur_stream_receive_string(lua_State *L, concur_stream *stream, concur_scan scan);

/* False when nothing more will come: `read_ended` is set. */
bool concur_stream_start_reading(concur_stream *stream);

/* Parks until `scan` finds something behind `from` bytes; concur_stream_start_reading was true and
   `direct` is set.  Raises. */
int concur_stream_read_park(lua_State *L, concur_fiber *fiber, concur_stream *stream,
                            const concur_scan *scan, size_t from, concur_resume resume);

/* Pushes nil and LimitOverrun. */
int concur_stream_fail_overrun(lua_State *L, size_t limit);

#pragma GCC visibility pop

#endif
