/* SPDX-License-Identifier: MIT */
/*
 * The transfer's part of a Lua state, and what scripts see of it: `transferable`, `transfer_limit`,
 * and for tests and tools `encode` and `decode`.
 *
 * A concur.Message is a userdata that holds a message.  [the state's own thread]
 */
#include "transfer.h"

#include <string.h>

#include "classes.h"
#include "holding.h"
#include "place.h"
#include "transfer_state.h"
#include "wire.h"

#define MESSAGE_CLASS "concur.Message"
#define STATE_CLASS "concur.TransferState"

static const char state_key; /* registry: the userdata with the concur_transfer_state */

static const size_t default_limit = (size_t)1 << 30;
static const size_t greatest_limit = UINT32_MAX - 64; /* offsets have 32 bits */

concur_transfer_state *concur_transfer_state_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
  concur_transfer_state *state = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (state == NULL) luaL_error(L, "concur.core was not loaded in this state");
  return state;
}

static int l_state_gc(lua_State *L) {
  concur_transfer_state *state = lua_touserdata(L, 1);
  concur_modules_free(&state->modules);
  return 0;
}

static void state_open(lua_State *L, const concur_runtime *runtime) {
  concur_transfer_state *state = lua_newuserdatauv(L, sizeof *state, 0);
  memset(state, 0, sizeof *state);
  state->limit = default_limit;
  state->error_class = runtime->error_pointer;
  concur_modules_init(L, &state->modules);
  concur_code_init(L, &state->code);
  concur_classes_init(L, state);
  luaL_newmetatable(L, STATE_CLASS);
  lua_pushcfunction(L, l_state_gc);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
  lua_rawgeti(L, LUA_REGISTRYINDEX, runtime->error_ref);
  concur_classes_add(L, state, "concur.Error");
}

/* ---- the limit ---- */

size_t concur_transfer_limit(lua_State *L) {
  return concur_transfer_state_of(L)->limit;
}

void concur_transfer_set_limit(lua_State *L, size_t bytes) {
  concur_transfer_state_of(L)->limit = bytes < greatest_limit ? bytes : greatest_limit;
}

/*@lua
---How large one message of this Lua state may become; larger ones raise `TransferError`.  1 GiB
---unless set.  Never suspends.
---@param bytes? number 1024 to 2^32
---@return integer bytes what it was before
function concur.transfer_limit(bytes) end
*/
static int l_transfer_limit(lua_State *L) {
  size_t limit = concur_transfer_limit(L);
  if (!lua_isnoneornil(L, 1)) {
    lua_Number bytes = luaL_checknumber(L, 1);
    luaL_argcheck(L, bytes >= 1024 && bytes <= 4294967296.0, 1,
                  "a number of bytes from 1024 to 4 GiB expected");
    concur_transfer_set_limit(L, concur_size_from((lua_Integer)bytes));
  }
  lua_pushinteger(L, (lua_Integer)limit);
  return 1;
}

/* ---- messages as Lua values ---- */

static void free_message(void *message) {
  concur_message_free(message);
}

/* The userdata. */
typedef struct box {
  concur_holding *holding; /* owned; of the message; NULL: freed */
} box;

/* Pushes a userdata without a message, for which the holding is. */
static concur_holding *push_message(lua_State *L) {
  box *self = lua_newuserdatauv(L, sizeof *self, 0);
  self->holding = NULL;
  luaL_setmetatable(L, MESSAGE_CLASS);
  self->holding = concur_holding_new(L, concur_runtime_of(L), free_message);
  return self->holding;
}

/* The message at index 1; NULL once it was freed. */
static concur_message *check_message(lua_State *L) {
  const box *self = luaL_checkudata(L, 1, MESSAGE_CLASS);
  return self->holding != NULL ? self->holding->object : NULL;
}

static int l_message_gc(lua_State *L) {
  box *self = luaL_checkudata(L, 1, MESSAGE_CLASS);
  concur_holding_end(self->holding);
  self->holding = NULL;
  return 0;
}

static int l_message_len(lua_State *L) {
  const concur_message *message = check_message(L);
  lua_pushinteger(L, message == NULL ? 0 : (lua_Integer)concur_message_size(message));
  return 1;
}

/* encode(...): a concur.Message */
static int l_encode(lua_State *L) {
  int count = lua_gettop(L);
  concur_holding *holding = push_message(L);
  holding->object = concur_encode(L, 1, count, "argument");
  return 1;
}

/* encode_flat(...): a string that another process can decode */
static int l_encode_flat(lua_State *L) {
  int count = lua_gettop(L);
  concur_holding *holding = push_message(L);
  concur_message *message = concur_encode_as(L, 1, count, "argument", CONCUR_ENCODE_FLAT);
  holding->object = message;
  lua_pushlstring(L, (const char *)message->bytes, message->size);
  concur_message_free(message);
  holding->object = NULL;
  return 1;
}

/* decode(message or string): its values */
static int l_decode(lua_State *L) {
  if (lua_type(L, 1) != LUA_TSTRING) {
    concur_message *message = check_message(L);
    luaL_argcheck(L, message != NULL, 1, "the message is gone");
    return concur_decode(L, message);
  }
  size_t size;
  const char *bytes = lua_tolstring(L, 1, &size);
  concur_holding *holding = push_message(L);
  concur_message *message = concur_message_from_bytes(bytes, size);
  if (message == NULL) return luaL_error(L, "not enough memory");
  holding->object = message;
  return concur_decode(L, message);
}

void concur_transfer_open(lua_State *L, concur_runtime *runtime) {
  static const luaL_Reg message_metamethods[] = {
      {"__gc", l_message_gc}, {"__len", l_message_len}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"transferable", concur_classes_l_transferable},
                                       {"transfer_limit", l_transfer_limit},
                                       {"encode", l_encode},
                                       {"encode_flat", l_encode_flat},
                                       {"decode", l_decode},
                                       {NULL, NULL}};
  state_open(L, runtime);
  luaL_newmetatable(L, MESSAGE_CLASS);
  luaL_setfuncs(L, message_metamethods, 0);
  lua_pop(L, 1);
  concur_register(L, runtime, functions);
}
