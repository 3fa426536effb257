/* SPDX-License-Identifier: MIT */
/*
 * libFuzzer target: any bytes into concur_decode.  They are decoded or refused; nothing crashes, no
 * byte outside of them is read, and memory stays in proportion to their size.
 *
 * What was decoded is encoded and decoded once more, so that odd values also reach the encoder.
 *
 * The state has few libraries: a message may call functions that it names (docs/design/transfer.md,
 * "What the bytes are trusted with"), and a loop or a file that is written would be no finding.
 * `make fuzz` builds and runs it; the corpus is next to it.
 */
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdlib.h>

#include "support.h"
#include "transfer.h"

static lua_State *state;

/* A class with encode and decode functions, one without, one that is its own module, a module. */
static const char prepare[] =
    "local core, loaded = ...\n"
    "core.transferable('pair', {}, {\n"
    "  encode = function(p) return p[1], p[2] end,\n"
    "  decode = function(a, b) return { a, b } end })\n"
    "core.transferable('plain', {})\n"
    "loaded.own = { __transfer = true, make = function(...) return { ... } end }\n"
    "for _, name in ipairs { 'load', 'loadstring', 'loadfile', 'dofile', 'require', 'print',\n"
    "    'collectgarbage', 'warn' } do _G[name] = nil end\n";

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void state_open(void) {
  state = luaL_newstate();
  luaL_requiref(state, LUA_GNAME, luaopen_base, 1);
  lua_settop(state, 0);
  concur_runtime *runtime = concur_runtime_open(state);
  luaL_loadstring(state, prepare);
  lua_newtable(state);
  concur_transfer_open(state, runtime);
  lua_getfield(state, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_pcall(state, 2, 0, 0) != LUA_OK) abort();
}

static int decode_and_encode(lua_State *L) {
  const concur_message *message = lua_touserdata(L, 1);
  concur_message **again = lua_touserdata(L, 2);
  int count = concur_decode(L, message);
  *again = concur_encode(L, 3, count, "value");
  if (concur_decode(L, *again) != count) abort();
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  static unsigned runs;
  if (state == NULL) state_open();
  concur_message *message = concur_message_from_bytes(bytes, size);
  concur_message *again = NULL;
  if (message == NULL) return 0;
  lua_pushcfunction(state, decode_and_encode);
  lua_pushlightuserdata(state, message);
  lua_pushlightuserdata(state, &again);
  lua_pcall(state, 2, 0, 0);
  lua_settop(state, 0);
  concur_message_free(message);
  concur_message_free(again);
  if (++runs % 1024 == 0) lua_gc(state, LUA_GCCOLLECT);
  return 0;
}
