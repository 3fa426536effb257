/* SPDX-License-Identifier: MIT */
/*
 * Functions to bytes: by name if a loaded module has them, else their code and upvalues.
 *
 * An upvalue is a *cell*, which several functions may share: `second` of a cell that was seen is
 * the offset of the tag of the function that it was written with.  encoder.h is the context.
 *
 * [the state's own thread]
 */
#include "encoder.h"

#include <lauxlib.h>
#include <string.h>

/* Writes the value of an upvalue; true if the reader gets it by name, whatever state this is. */
static bool encode_upvalue(concur_encoder *e, int function, int value) {
  lua_State *L = e->L;
  int type = lua_type(L, value);
  if (type == LUA_TFUNCTION) {
    if (lua_rawequal(L, function, value)) {
      concur_encoder_tag(e, WIRE_SELF);
      return true;
    }
    return concur_encoder_function(e, value);
  }
  if (type == LUA_TTABLE) {
    if (lua_topointer(L, value) == e->globals) {
      concur_encoder_tag(e, WIRE_GLOBALS);
      return true;
    }
    /* A module is meant, not its content, even if it was loaded a moment ago. */
    if (concur_encoder_named(e, value, NAMED_DATA | NAMED_MODULE, false)) return true;
    if (concur_encoder_named(e, value, NAMED_DATA | NAMED_MODULE, true)) return true;
  }
  concur_encoder_value(e, value);
  return false;
}

/* Whether the upvalue on top of the stack is the globals, or an environment that falls back on
   another one (a sandbox, a test runner's): on the other side that is the globals, too. */
static bool is_environment(concur_encoder *e, const char *name) {
  lua_State *L = e->L;
  if (strcmp(name, "_ENV") != 0) return false;
  if (lua_topointer(L, -1) == e->globals) return true;
  if (luaL_getmetafield(L, -1, "__index") == LUA_TNIL) return false;
  lua_pop(L, 1);
  return true;
}

/* Writes upvalue `number`, on top of the stack, of the function whose tag stands at `at`. */
static bool encode_cell(concur_encoder *e, int function, int number, const char *name,
                        uint32_t at) {
  lua_State *L = e->L;
  /* The globals are the reader's, so nothing is lost when each function gets a cell of its own. */
  if (is_environment(e, name)) {
    concur_encoder_tag(e, WIRE_ENV);
    return true;
  }
  bool added;
  concur_identity *cell = concur_encoder_seen(e, lua_upvalueid(L, function, number), &added);
  if (!added) { /* both functions share it: the first one must be remembered, and be a new one */
    e->message->bytes[cell->first] |= WIRE_SHARED;
    e->message->bytes[cell->second] |= WIRE_SHARED;
    e->message->bytes[cell->second] &= (unsigned char)~WIRE_PURE;
    concur_encoder_tag_u32(e, WIRE_CELL_REF, cell->first);
    return false;
  }
  cell->first = concur_encoder_here(e);
  cell->second = at;
  concur_encoder_tag(e, WIRE_CELL);
  return encode_upvalue(e, function, lua_gettop(L));
}

void concur_encoder_cells(concur_encoder *e, int function, uint32_t at) {
  lua_State *L = e->L;
  concur_place place = {.up = e->place, .kind = PLACE_UPVALUE};
  uint32_t start = concur_encoder_here(e);
  bool pure = true;
  int number = 0;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  e->place = &place;
  e->depth++;
  while ((place.name = lua_getupvalue(L, function, number + 1)) != NULL) {
    number++;
    if (!encode_cell(e, function, number, place.name, at)) pure = false;
    lua_pop(L, 1);
  }
  e->depth--;
  e->place = place.up;
  wire_function_header header;
  memcpy(&header, e->message->bytes + at + 1, sizeof header);
  header.upvalues = (uint32_t)number;
  if (pure && !(e->message->bytes[at] & WIRE_LATER)) {
    e->message->bytes[at] |= WIRE_PURE;
    header.cells_size = concur_encoder_here(e) - start;
  }
  memcpy(e->message->bytes + at + 1, &header, sizeof header);
}

/* Pushes hash and dump.  Returns false, with nothing pushed, if the function crosses by name after
   all: the index of modules is compared with package.loaded when a function is met first. */
static bool push_code(concur_encoder *e, int index) {
  concur_code *code = &e->state->code;
  concur_code_push_dump(e->L, code, index, true);
  if (!lua_isnil(e->L, -1)) return true;
  lua_pop(e->L, 1);
  if (concur_encoder_named(e, index, NAMED_FUNCTION, true)) return false;
  concur_code_push_dump(e->L, code, index, false);
  return true;
}

bool concur_encoder_function(concur_encoder *e, int index) {
  lua_State *L = e->L;
  if (concur_encoder_named(e, index, NAMED_FUNCTION, false)) return true;
  if (lua_iscfunction(L, index)) {
    if (concur_encoder_named(e, index, NAMED_FUNCTION, true)) return true;
    concur_refuse(L, e->place, 0,
                  "C function is in no loaded module, so it has no name to cross "
                  "by; call it from a Lua function that finds it on the other side");
  }
  if (concur_encoder_again(e, lua_topointer(L, index))) return false;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  if (!push_code(e, index)) return true;
  size_t size;
  const char *code = lua_tolstring(L, -1, &size);
  wire_function_header header = {.code_size = 0};
  memcpy(&header.hash, code, sizeof header.hash);
  code += sizeof header.hash;
  size -= sizeof header.hash;
  if (size > UINT32_MAX) concur_encoder_grow(e, size);
  header.code_size = (uint32_t)size;

  uint32_t at = concur_encoder_here(e);
  bool inside = e->depth < WIRE_INLINE_DEPTH;
  concur_encoder_tag(e, inside ? WIRE_FUNCTION : WIRE_FUNCTION | WIRE_LATER);
  concur_encoder_bytes(e, &header, sizeof header);
  concur_encoder_bytes(e, code, size);
  lua_pop(L, 1);
  if (inside) {
    concur_encoder_cells(e, index, at);
  } else {
    concur_encoder_put_off(e, index, at);
  }
  return false;
}
