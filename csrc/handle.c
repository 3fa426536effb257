/* SPDX-License-Identifier: MIT */
/* See handle.h. */
#include "handle.h"

void concur_handle_begin(concur_node *handles, concur_handle *handle, uv_handle_t *uv,
                         void (*release)(concur_handle *handle)) {
  handle->uv = uv;
  handle->release = release;
  uv->data = handle;
  concur_list_append(handles, &handle->node);
}

static void on_close(uv_handle_t *uv) {
  concur_handle *handle = concur_handle_of(uv);
  concur_node_unlink(&handle->node);
  handle->release(handle);
}

void concur_handle_close(concur_handle *handle) {
  if (!uv_is_closing(handle->uv)) uv_close(handle->uv, on_close);
}

void concur_handle_close_all(concur_node *handles) {
  for (concur_node *node = handles->next; node != handles; node = node->next) {
    concur_handle_close(concur_container_of(node, concur_handle, node));
  }
}
