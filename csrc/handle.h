/* SPDX-License-Identifier: MIT */
/*
 * libuv handles that come and go: their memory lives until their close callback has run.
 *
 * A structure that holds a libuv handle embeds a concur_handle beside it.  After uv_..._init it calls
 * concur_handle_begin; from then on only concur_handle_close ends it, and `release` is called once
 * libuv has let go of it.  The structure is malloc'd, and freed then; or, where scripts hold a
 * userdata that refers to it, it is the memory behind that one (concur_memory_new), anchored until
 * then.  The userdata then sees a structure that is closed, and nothing points back to the userdata.
 *
 * The loop keeps a list of its handles (`concur_loop.handles`); when it closes, it closes them all.
 * [loop thread]; no function here allocates or fails.
 */
#ifndef CONCUR_HANDLE_H
#define CONCUR_HANDLE_H

#include <uv.h>

#include "list.h"

#pragma GCC visibility push(hidden)

typedef struct concur_handle concur_handle;

struct concur_handle {
  concur_node node; /* in the loop's list, from begin until the close callback */
  uv_handle_t *uv;  /* inside the same structure; its `data` is this concur_handle */
  /* The close callback has run: frees the structure, or ends what is in it and its anchor.  No Lua
     in here that could raise. */
  void (*release)(concur_handle *handle);
};

/* After a uv_..._init that succeeded. */
void concur_handle_begin(concur_node *handles, concur_handle *handle, uv_handle_t *uv,
                         void (*release)(concur_handle *handle));

/* Closes the libuv handle, unless it is closing already: its descriptor is closed now, its memory is
   released by a later turn of the loop. */
void concur_handle_close(concur_handle *handle);

/* Closes all handles of a list. */
void concur_handle_close_all(concur_node *handles);

static inline concur_handle *concur_handle_of(const void *uv_handle) {
  return ((const uv_handle_t *)uv_handle)->data;
}

#pragma GCC visibility pop

#endif
