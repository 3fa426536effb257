/* SPDX-License-Identifier: MIT */
/* Dumps and loaded functions; code.h tells how they are kept. */
#include "code.h"

#include <lauxlib.h>
#include <string.h>

#include "wire.h"

enum {
  MAX_DUMPS = 1024,
  MAX_DUMP_BYTES = 8 << 20,
  MAX_RECORD = 16 << 10 /* larger functions are loaded each time: their loading is not what costs */
};

static void dumps_forget(lua_State *L, concur_code *code) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushliteral(L, "k");
  lua_setfield(L, -2, "__mode");
  lua_setmetatable(L, -2);
  lua_rawseti(L, LUA_REGISTRYINDEX, code->dumps_ref);
  code->dump_count = 0;
  code->dump_bytes = 0;
}

static int new_list(lua_State *L) {
  lua_newtable(L);
  return luaL_ref(L, LUA_REGISTRYINDEX);
}

void concur_code_init(lua_State *L, concur_code *code) {
  code->dumps_ref = new_list(L);
  code->functions_ref = new_list(L);
  code->records_ref = new_list(L);
  dumps_forget(L, code);
}

/* ---- sender ---- */

typedef struct dump {
  luaL_Buffer buffer;
  int slot; /* stack index for the string */
  bool started;
  bool finished;
} dump;

static void finish_dump(dump *output) {
  lua_State *L = output->buffer.L;
  luaL_pushresult(&output->buffer);
  lua_replace(L, output->slot);
  output->finished = true;
}

/* The buffer takes a stack slot, so it starts when lua_dump has read the function on the top.  Lua 5.5
   has a value of its own on the stack meanwhile; a last call without bytes says when to give the slot
   back. */
static int on_dump(lua_State *L, const void *bytes, size_t size, void *user) {
  dump *output = user;
  if (!output->started) {
    output->started = true;
    luaL_buffinit(L, &output->buffer);
  }
  if (bytes == NULL) {
    finish_dump(output);
  } else {
    luaL_addlstring(&output->buffer, bytes, size);
  }
  return 0;
}

/* Pushes the dump of the function at `index` (absolute), debug information included. */
static void push_dump(lua_State *L, int index) {
  lua_pushnil(L);
  dump output = {.slot = lua_gettop(L), .started = false, .finished = false};
  lua_pushvalue(L, index);
  (void)lua_dump(L, on_dump, &output, 0); /* a Lua function; its writer never refuses */
  if (!output.finished) finish_dump(&output);
  lua_settop(L, output.slot);
}

void concur_code_push_dump(lua_State *L, concur_code *code, int index, bool only_cached) {
  size_t size;
  index = lua_absindex(L, index);
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  lua_rawgeti(L, LUA_REGISTRYINDEX, code->dumps_ref);
  lua_pushvalue(L, index);
  lua_rawget(L, -2);
  lua_remove(L, -2);
  if (!lua_isnil(L, -1) || only_cached) return;
  lua_pop(L, 1);

  push_dump(L, index);
  const char *bytes = lua_tolstring(L, -1, &size);
  uint64_t hash = wire_hash(bytes, size);
  lua_pushlstring(L, (const char *)&hash, sizeof hash);
  lua_insert(L, -2);
  lua_concat(L, 2);

  if (code->dump_count >= MAX_DUMPS || code->dump_bytes + size > MAX_DUMP_BYTES) {
    dumps_forget(L, code);
  }
  code->dump_count++;
  code->dump_bytes += size;
  lua_rawgeti(L, LUA_REGISTRYINDEX, code->dumps_ref);
  lua_pushvalue(L, index);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* ---- receiver ---- */

bool concur_code_find(lua_State *L, concur_code *code, const concur_code_record *record) {
  int slot = (int)(record->hash & (CONCUR_CODE_SLOTS - 1));
  concur_code_slot *entry = &code->slots[slot];
  /* Two functions of one message must not become one. */
  if (entry->hash != record->hash || entry->message == record->message) return false;
  size_t size;
  lua_rawgeti(L, LUA_REGISTRYINDEX, code->records_ref);
  lua_rawgeti(L, -1, slot + 1);
  const char *kept = lua_tolstring(L, -1, &size);
  bool same = kept != NULL && size == record->size && memcmp(kept, record->bytes, size) == 0;
  lua_pop(L, 2);
  if (!same) return false;
  entry->message = record->message;
  lua_rawgeti(L, LUA_REGISTRYINDEX, code->functions_ref);
  lua_rawgeti(L, -1, slot + 1);
  lua_remove(L, -2);
  return true;
}

/* Pops a value into a slot of a list. */
static void list_set(lua_State *L, int list_ref, int slot) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, list_ref);
  lua_insert(L, -2);
  lua_rawseti(L, -2, slot + 1);
  lua_pop(L, 1);
}

void concur_code_keep(lua_State *L, concur_code *code, const concur_code_record *record) {
  if (record->size > MAX_RECORD) return;
  int slot = (int)(record->hash & (CONCUR_CODE_SLOTS - 1));
  code->slots[slot] = (concur_code_slot){0}; /* if one of these calls raises, the slot is empty */
  lua_pushlstring(L, record->bytes, record->size);
  list_set(L, code->records_ref, slot);
  lua_pushvalue(L, -1);
  list_set(L, code->functions_ref, slot);
  code->slots[slot] = (concur_code_slot){.hash = record->hash, .message = record->message};
}
