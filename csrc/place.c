/* SPDX-License-Identifier: MIT */
/* Paths and TransferErrors; place.h tells what they are for. */
#include "place.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "support.h"

enum { KEY_SHOWN = 40, PATH_HALF = 300 };

static bool is_identifier(const char *text, size_t size) {
  if (size == 0 || size > KEY_SHOWN || isdigit((unsigned char)text[0])) return false;
  for (size_t i = 0; i < size; i++) {
    if (!isalnum((unsigned char)text[i]) && text[i] != '_') return false;
  }
  return true;
}

/* `.name`, `["any text"]` */
static void add_string_key(luaL_Buffer *buffer, const char *text, size_t size) {
  if (is_identifier(text, size)) {
    luaL_addchar(buffer, '.');
    luaL_addlstring(buffer, text, size);
    return;
  }
  luaL_addstring(buffer, "[\"");
  for (size_t i = 0; i < size && i < KEY_SHOWN; i++) {
    unsigned char c = (unsigned char)text[i];
    luaL_addchar(buffer, isprint(c) && c != '"' ? (char)c : '?');
  }
  luaL_addstring(buffer, size > KEY_SHOWN ? "...\"]" : "\"]");
}

static void add_key(lua_State *L, luaL_Buffer *buffer, int key) {
  size_t size;
  char number[64];
  switch (lua_type(L, key)) {
  case LUA_TSTRING: {
    const char *text = lua_tolstring(L, key, &size);
    add_string_key(buffer, text, size);
    return;
  }
  case LUA_TNUMBER: /* not lua_tolstring, which would change the key under lua_next */
    if (lua_isinteger(L, key)) {
      lua_Integer integer = lua_tointeger(L, key);
      (void)lua_integer2str(number, sizeof number, (LUAI_UACINT)integer);
    } else {
      lua_Number value = lua_tonumber(L, key);
      (void)snprintf(number, sizeof number, LUA_NUMBER_FMT, (LUAI_UACNUMBER)value);
    }
    luaL_addchar(buffer, '[');
    luaL_addstring(buffer, number);
    luaL_addchar(buffer, ']');
    return;
  case LUA_TBOOLEAN: luaL_addstring(buffer, lua_toboolean(L, key) ? "[true]" : "[false]"); return;
  default:
    luaL_addchar(buffer, '[');
    luaL_addstring(buffer, luaL_typename(L, key));
    luaL_addchar(buffer, ']');
  }
}

/* The function that a job runs is what upvalues belong to unless something else is said. */
static bool goes_without_saying(const concur_place *place) {
  return place->kind == PLACE_ROOT && place->number == 1;
}

static void add_number(luaL_Buffer *buffer, int number) {
  char text[16];
  (void)lua_integer2str(text, sizeof text, (LUAI_UACINT)number);
  luaL_addstring(buffer, text);
}

/* Recursive; the encoder bounds the depth. */
static void add_place(lua_State *L, luaL_Buffer *buffer, const concur_place *place) {
  if (place->up != NULL && !(place->kind == PLACE_UPVALUE && goes_without_saying(place->up))) {
    add_place(L, buffer, place->up);
    if (place->kind == PLACE_UPVALUE) luaL_addstring(buffer, ", ");
  }
  switch (place->kind) {
  case PLACE_ROOT:
    luaL_addstring(buffer, place->name);
    luaL_addchar(buffer, ' ');
    add_number(buffer, place->number);
    break;
  case PLACE_TEXT: {
    size_t size;
    const char *text = lua_tolstring(L, place->number, &size);
    luaL_addlstring(buffer, text, size);
    break;
  }
  case PLACE_FIELD: add_key(L, buffer, place->number); break;
  case PLACE_KEY: luaL_addstring(buffer, "[a key]"); break;
  case PLACE_UPVALUE:
    luaL_addstring(buffer, "upvalue '");
    luaL_addstring(buffer, place->name);
    luaL_addchar(buffer, '\'');
    break;
  case PLACE_RESULT:
    luaL_addstring(buffer, " (");
    luaL_addstring(buffer, place->name);
    luaL_addstring(buffer, ", encoded value ");
    add_number(buffer, place->number);
    luaL_addchar(buffer, ')');
    break;
  }
}

void concur_place_push(lua_State *L, const concur_place *place) {
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  add_place(L, &buffer, place);
  luaL_pushresult(&buffer);
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  if (size <= 2 * PATH_HALF + 5) return;
  lua_pushlstring(L, text, PATH_HALF);
  lua_pushliteral(L, " ... ");
  lua_pushlstring(L, text + size - PATH_HALF, PATH_HALF);
  lua_concat(L, 3);
  lua_remove(L, -2);
}

int concur_refuse(lua_State *L, const concur_place *place, int has_cause, const char *format, ...) {
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  int cause = has_cause ? lua_gettop(L) : 0;
  va_list arguments;
  va_start(arguments, format);
  lua_pushvfstring(L, format, arguments);
  va_end(arguments);
  const char *text = lua_tostring(L, -1);
  const concur_runtime *runtime = concur_runtime_find(L);
  if (place == NULL) {
    concur_error_new(L, runtime, "TransferError", "%s", text);
  } else {
    concur_place_push(L, place);
    const char *path = lua_tostring(L, -1);
    concur_error_new(L, runtime, "TransferError", "%s: %s", path, text);
    lua_pushstring(L, path);
    lua_setfield(L, -2, "path");
  }
  if (cause != 0) {
    lua_pushvalue(L, cause);
    lua_setfield(L, -2, "cause");
  }
  return lua_error(L);
}
