/* SPDX-License-Identifier: MIT */
/* See holding.h. */
#include "holding.h"

#include <stdlib.h>

concur_holding *concur_holding_new(lua_State *L, concur_runtime *runtime,
                                   void (*release)(void *object)) {
  concur_holding *holding = malloc(sizeof *holding);
  if (holding == NULL) luaL_error(L, "not enough memory");
  holding->object = NULL;
  holding->release = release;
  concur_list_append(&runtime->holdings, &holding->node);
  return holding;
}

void concur_holding_end(concur_holding *holding) {
  if (holding == NULL) return;
  concur_node_unlink(&holding->node);
  if (holding->object != NULL) holding->release(holding->object);
  free(holding);
}

void concur_holding_abandon(concur_holding *holding) {
  if (holding == NULL) return;
  holding->object = NULL;
  concur_holding_end(holding);
}

void concur_holdings_end(concur_runtime *runtime) {
  concur_node *node;
  while ((node = concur_list_pop(&runtime->holdings)) != NULL) {
    concur_holding_end(concur_container_of(node, concur_holding, node));
  }
}
