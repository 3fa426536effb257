/* SPDX-License-Identifier: MIT */
/*
 * Lua values to bytes: values, tables, strings, and the way in.  wire.h is the format,
 * docs/reference/transfer.md what crosses, encoder.h what the other files of the encoder see.
 *
 * One pass over the values.  Those without identity (numbers, booleans, strings) need no encoder:
 * when there is nothing else they are written directly.
 *
 * Recursion is bounded: what lies deeper than WIRE_INLINE_DEPTH waits in the Lua table `later`, as
 * triples of the value, the offset of its header and its path.
 *
 * Addresses stand for values, so no value may die and leave its address to another one while the
 * message is made.  All values hang from the arguments; only a user's encode function can take them
 * off, so from the first call of one the collector is stopped until the message is done.
 *
 * [the state's own thread]
 */
#include "encoder.h"

#include <lauxlib.h>
#include <stddef.h>
#include <string.h>

#include "transfer.h"

enum {
  LEAST_LENT = 32 << 10,   /* bytes of a string that is lent, where the caller wants it */
  LEAST_PINNED = 64 << 10, /* smaller ones do not lie in a block of their own: state_memory.h */
  GREATEST_SCALARS = 1 << 30, /* bytes that are written without looking at each value's size */
  FIRST_CAPACITY = 480,    /* of a message with more than scalars */
  LEAST_LIMIT = 1024,      /* no limit is below it */
  NUMBER_SPACE = 1 + 8,
  STRING_SPACE = 1 + 4
};

/* ---- bytes ---- */

static void check_limit(concur_encoder *e, size_t more) {
  size_t size = e->message->size + e->borrowed;
  if (more > e->state->limit || size > e->state->limit - more) {
    concur_refuse(e->L, e->place, 0,
                  "the values are larger than the limit of %I bytes for one message "
                  "(concur.transfer_limit)",
                  (LUAI_UACINT)e->state->limit);
  }
}

void concur_encoder_grow(concur_encoder *e, size_t size) {
  check_limit(e, size);
  if (!concur_message_reserve(&e->message, size)) luaL_error(e->L, "not enough memory");
}

static inline unsigned char *write_integer(lua_Integer value, unsigned char *at) {
  if (value >= INT8_MIN && value <= INT8_MAX) {
    *at++ = WIRE_INT8;
    *at++ = (unsigned char)value;
    return at;
  }
  *at++ = WIRE_INT64;
  memcpy(at, &value, sizeof value);
  return at + sizeof value;
}

static inline unsigned char *write_number(lua_State *L, int index, unsigned char *at) {
  if (lua_isinteger(L, index)) return write_integer(lua_tointeger(L, index), at);
  lua_Number value = lua_tonumber(L, index);
  *at++ = WIRE_FLOAT;
  memcpy(at, &value, sizeof value);
  return at + sizeof value;
}

static inline unsigned char *write_string(const char *text, size_t size, unsigned char *at) {
  if (size <= UINT8_MAX) {
    *at++ = WIRE_STRING8;
    *at++ = (unsigned char)size;
  } else {
    uint32_t size32 = (uint32_t)size;
    *at++ = WIRE_STRING32;
    memcpy(at, &size32, sizeof size32);
    at += sizeof size32;
  }
  memcpy(at, text, size);
  return at + size;
}

/* ---- what was met before ---- */

concur_identity *concur_encoder_seen(concur_encoder *e, const void *address, bool *added) {
  concur_identity *entry = concur_identity_add(&e->seen, address, added);
  if (entry == NULL) luaL_error(e->L, "not enough memory");
  return entry;
}

bool concur_encoder_again(concur_encoder *e, const void *address) {
  bool added;
  concur_identity *entry = concur_encoder_seen(e, address, &added);
  if (added) {
    entry->first = concur_encoder_here(e);
    return false;
  }
  if (entry->second == CONCUR_ENCODER_UNFINISHED) {
    concur_refuse(e->L, e->place, 0,
                  "an object is among the values that its own encode function "
                  "returned; encode it without a reference to itself");
  }
  e->message->bytes[entry->first] |= WIRE_SHARED;
  concur_encoder_tag_u32(e, WIRE_REF, entry->first);
  return true;
}

/* ---- strings ---- */

uint32_t concur_encoder_attach(concur_encoder *e, const concur_attachment *attachment) {
  if (!concur_message_attach(e->message, attachment)) luaL_error(e->L, "not enough memory");
  return e->message->attachment_count - 1;
}

/* Writes a string that stays where it is. */
static void borrow_string(concur_encoder *e, concur_attachment *owner, const char *text,
                          size_t size) {
  check_limit(e, size); /* as if it were copied: the reader will have to */
  e->borrowed += size;
  owner->detail[0] = size;
  owner->detail[1] = (size_t)(uintptr_t)text;
  concur_encoder_tag_u32(e, WIRE_BORROWED, concur_encoder_attach(e, owner));
}

/* Lends a long string: the table `lent` keeps it alive. */
static void lend_string(concur_encoder *e, int index, const char *text, size_t size) {
  lua_State *L = e->L;
  if (e->lent_count == 0) {
    lua_newtable(L);
    lua_replace(L, e->lent);
  }
  lua_pushvalue(L, index);
  lua_rawseti(L, e->lent, ++e->lent_count);
  concur_attachment owner = {.type = &concur_lent_string};
  borrow_string(e, &owner, text, size);
}

/* True if the string was written without its bytes. */
static bool leave_string(concur_encoder *e, int index, const char *text, size_t size) {
  concur_attachment owner;
  if (e->lends && size >= LEAST_LENT) {
    lend_string(e, index, text, size);
    return true;
  }
  if (e->pins != NULL && size >= LEAST_PINNED && concur_state_memory_pin(e->pins, text, &owner)) {
    borrow_string(e, &owner, text, size);
    return true;
  }
  return false;
}

static void encode_string(concur_encoder *e, int index) {
  size_t size;
  const char *text = lua_tolstring(e->L, index, &size);
  if (size >= WIRE_SHARED_STRING) {
    if (concur_encoder_again(e, text)) return;
    if (leave_string(e, index, text, size)) return;
    if (size > UINT32_MAX) concur_encoder_grow(e, size); /* the limit is below this: raises */
  }
  size_t space = STRING_SPACE + size;
  unsigned char *at = concur_encoder_take(e, space);
  unsigned char *end = write_string(text, size, at);
  e->message->size -= space - (size_t)(end - at);
}

/* ---- names ---- */

bool concur_encoder_named(concur_encoder *e, int index, int wanted, bool refresh) {
  lua_State *L = e->L;
  if (refresh && e->is_fresh) return false; /* it was not found, and nothing has changed */
  if (concur_modules_find(L, &e->state->modules, index, wanted, refresh) == NAMED_NOTHING) {
    e->is_fresh = e->is_fresh || refresh;
    return false;
  }
  size_t size;
  const char *path = lua_tolstring(L, -1, &size);
  uint16_t size16 = (uint16_t)size; /* at most WIRE_MAX_PATH */
  unsigned char *at = concur_encoder_take(e, 1 + sizeof size16 + size);
  *at = WIRE_NAMED;
  memcpy(at + 1, &size16, sizeof size16);
  memcpy(at + 1 + sizeof size16, path, size);
  lua_pop(L, 1);
  return true;
}

/* ---- what waits ---- */

void concur_encoder_put_off(concur_encoder *e, int index, uint32_t at) {
  lua_State *L = e->L;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  if (lua_isnil(L, e->later)) {
    lua_newtable(L);
    lua_replace(L, e->later);
  }
  int number = 3 * e->later_end++;
  lua_pushvalue(L, index);
  lua_rawseti(L, e->later, number + 1);
  lua_pushinteger(L, (lua_Integer)at);
  lua_rawseti(L, e->later, number + 2);
  concur_place_push(L, e->place);
  lua_rawseti(L, e->later, number + 3);
}

static void fields_write(concur_encoder *e, int table, uint32_t at, bool is_error);

/* Writes what was put off in this unit, and what that puts off in turn. */
static void encode_later(concur_encoder *e) {
  lua_State *L = e->L;
  const concur_place *outer = e->place;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  while (e->later_first < e->later_end) {
    int number = 3 * e->later_first++;
    int top = lua_gettop(L);
    for (int i = 1; i <= 3; i++) {
      lua_rawgeti(L, e->later, number + i);
      lua_pushnil(L);
      lua_rawseti(L, e->later, number + i);
    }
    uint32_t at = (uint32_t)lua_tointeger(L, top + 2);
    concur_place place = {.kind = PLACE_TEXT, .number = top + 3};
    e->place = &place;
    if (lua_istable(L, top + 1)) {
      fields_write(e, top + 1, at, false);
    } else {
      concur_encoder_cells(e, top + 1, at);
    }
    lua_settop(L, top);
  }
  e->place = outer;
}

void concur_encoder_unit(concur_encoder *e, int first, int count, const char *class) {
  concur_place place = {.up = e->place, .kind = PLACE_RESULT, .name = class};
  int outer_first = e->later_first;
  int own_first = e->later_first = e->later_end;
  e->depth++;
  e->place = &place;
  for (int i = 0; i < count; i++) {
    place.number = i + 1;
    concur_encoder_value(e, first + i);
  }
  e->place = place.up;
  encode_later(e);
  e->depth--;
  e->later_end = own_first;
  e->later_first = outer_first;
}

/* ---- tables ---- */

/* An error is copied without the handles that it may hold: they belong to this state's loop. */
static bool is_handle_of_error(lua_State *L, int key, int value) {
  int type = lua_type(L, value);
  if (type == LUA_TUSERDATA || type == LUA_TTHREAD) return true;
  return type == LUA_TTABLE && lua_type(L, key) == LUA_TSTRING &&
         strcmp(lua_tostring(L, key), "tasks") == 0;
}

/* Writes an element of an array: integers, the most frequent ones, without a detour. */
static inline void encode_element(concur_encoder *e, int value) {
  if (!lua_isinteger(e->L, value)) {
    concur_encoder_value(e, value);
    return;
  }
  unsigned char *at = concur_encoder_take(e, NUMBER_SPACE);
  unsigned char *end = write_integer(lua_tointeger(e->L, value), at);
  e->message->size -= NUMBER_SPACE - (size_t)(end - at);
}

/* Writes the fields of a table and completes its header, which stands at `at`. */
static void fields_write(concur_encoder *e, int table, uint32_t at, bool is_error) {
  lua_State *L = e->L;
  wire_table_header header = {0, 0};
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  lua_pushnil(L);
  int key = lua_gettop(L), value = key + 1;
  concur_place field = {.up = e->place, .kind = PLACE_FIELD, .number = key};
  concur_place key_place = {.up = e->place, .kind = PLACE_KEY};
  e->place = &field;
  e->depth++;
  bool in_order = true;
  while (lua_next(L, table)) {
    /* Keys that come as 1, 2, 3, ... are left out: this is the array part of an array. */
    in_order =
        in_order && lua_tointeger(L, key) == (lua_Integer)header.array + 1 && lua_isinteger(L, key);
    if (in_order) {
      header.array++;
      encode_element(e, value);
    } else if (!is_error || !is_handle_of_error(L, key, value)) {
      header.pairs++;
      e->place = &key_place;
      concur_encoder_value(e, key);
      e->place = &field;
      concur_encoder_value(e, value);
    }
    lua_pop(L, 1);
  }
  e->depth--;
  e->place = field.up;
  memcpy(e->message->bytes + at + 1, &header, sizeof header);
}

void concur_encoder_fields(concur_encoder *e, int index, bool is_error) {
  uint32_t at = concur_encoder_here(e);
  memset(concur_encoder_take(e, 1 + sizeof(wire_table_header)), 0, 1 + sizeof(wire_table_header));
  if (e->depth < WIRE_INLINE_DEPTH) {
    e->message->bytes[at] = WIRE_TABLE;
    fields_write(e, index, at, is_error);
  } else {
    /* Assigned before anything can refer to it, so that no flag is lost. */
    e->message->bytes[at] = WIRE_TABLE | WIRE_LATER;
    concur_encoder_put_off(e, index, at);
  }
}

static void encode_table(concur_encoder *e, int index) {
  const void *address = lua_topointer(e->L, index);
  if (address == e->globals) {
    concur_encoder_tag(e, WIRE_GLOBALS);
  } else if (concur_encoder_named(e, index, NAMED_MODULE, false) ||
             concur_encoder_again(e, address)) {
    return;
  } else if (lua_getmetatable(e->L, index)) {
    concur_encoder_object(e, index);
  } else {
    concur_encoder_fields(e, index, false);
  }
}

/* ---- values ---- */

void concur_encoder_value(concur_encoder *e, int index) {
  lua_State *L = e->L;
  switch (lua_type(L, index)) {
  case LUA_TNIL: concur_encoder_tag(e, WIRE_NIL); break;
  case LUA_TBOOLEAN: concur_encoder_tag(e, lua_toboolean(L, index) ? WIRE_TRUE : WIRE_FALSE); break;
  case LUA_TNUMBER: {
    unsigned char *at = concur_encoder_take(e, NUMBER_SPACE);
    unsigned char *end = write_number(L, index, at);
    e->message->size -= NUMBER_SPACE - (size_t)(end - at);
    break;
  }
  case LUA_TSTRING: encode_string(e, index); break;
  case LUA_TTABLE: encode_table(e, index); break;
  case LUA_TFUNCTION: concur_encoder_function(e, index); break;
  case LUA_TUSERDATA: concur_encoder_userdata(e, index); break;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(L, index) != NULL) {
      concur_refuse(L, e->place, 0,
                    "light userdata cannot cross: only its C library knows what "
                    "the address means");
    }
    concur_encoder_tag(e, WIRE_NULL);
    break;
  default:
    concur_refuse(L, e->place, 0,
                  "coroutine cannot cross: its stack belongs to this state; "
                  "create it inside the function that runs on the other side");
  }
}

static void put_start(concur_message *message, int count) {
  uint32_t start[2] = {WIRE_MAGIC, (uint32_t)count};
  memcpy(message->bytes, start, sizeof start);
  message->size = sizeof start;
}

/* Under pcall: the encoder, then the values.  Returns the table of lent strings, or nil. */
static int encode_protected(lua_State *L) {
  concur_encoder *e = lua_touserdata(L, 1);
  e->state = concur_transfer_state_of(L);
  lua_settop(L, e->count + 1);
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  lua_pushnil(L);
  e->later = lua_gettop(L);
  lua_pushnil(L);
  e->lent = lua_gettop(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  e->globals = lua_topointer(L, -1);
  lua_pop(L, 1);
  concur_place root = {.kind = PLACE_ROOT, .name = e->what};
  e->place = &root;
  for (int i = 1; i <= e->count; i++) {
    root.number = e->number + i - 1;
    concur_encoder_value(e, i + 1);
  }
  encode_later(e);
  check_limit(e, 0); /* the last growth may have taken more than was asked for */
  lua_settop(L, e->lent);
  return 1;
}

/* How many bytes the values take at most if all are scalars; 0 if there are others, strings that may
   stay where they are, or too many bytes. */
static size_t size_of_scalars(lua_State *L, int first, int count, bool borrows) {
  size_t total = 2 * sizeof(uint32_t);
  for (int index = first; index < first + count; index++) {
    switch (lua_type(L, index)) {
    case LUA_TNIL:
    case LUA_TBOOLEAN: total += 1; break;
    case LUA_TNUMBER: total += NUMBER_SPACE; break;
    case LUA_TSTRING: {
      size_t size = (size_t)lua_rawlen(L, index);
      if (size >= LEAST_LENT && (borrows || size > GREATEST_SCALARS)) return 0;
      total += STRING_SPACE + size;
      if (total > GREATEST_SCALARS) return 0; /* a size_t of 32 bits must not overflow */
      break;
    }
    default: return 0;
    }
  }
  return total <= LEAST_LIMIT || total <= concur_transfer_limit(L) ? total : 0;
}

static void write_scalars(lua_State *L, int first, int count, concur_message *message) {
  unsigned char *at = message->bytes + message->size;
  for (int index = first; index < first + count; index++) {
    switch (lua_type(L, index)) {
    case LUA_TNIL: *at++ = WIRE_NIL; break;
    case LUA_TBOOLEAN: *at++ = lua_toboolean(L, index) ? WIRE_TRUE : WIRE_FALSE; break;
    case LUA_TNUMBER: at = write_number(L, index, at); break;
    default: {
      size_t size;
      const char *text = lua_tolstring(L, index, &size);
      at = write_string(text, size, at);
    }
    }
  }
  message->size = (size_t)(at - message->bytes);
}

static concur_message *give_up(lua_State *L, concur_message *message, const char *error) {
  concur_message_free(message);
  lua_pushstring(L, error);
  return NULL;
}

concur_message *concur_encode_caught(lua_State *L, int first, int count,
                                     const concur_encode_options *options) {
  concur_encoder e;
  first = lua_absindex(L, first);
  bool borrows = options->lends != NULL || options->pins != NULL;
  size_t size = size_of_scalars(L, first, count, borrows);
  concur_message *message = concur_message_new(size != 0 ? size : FIRST_CAPACITY);
  if (message == NULL) return give_up(L, NULL, "not enough memory");
  put_start(message, count);
  if (size != 0) {
    write_scalars(L, first, count, message);
    return message;
  }
  if (!lua_checkstack(L, count + LUA_MINSTACK)) {
    return give_up(L, message, "stack overflow (not enough memory)");
  }
  memset(&e, 0, offsetof(concur_encoder, seen));
  concur_identity_init(&e.seen);
  e.L = L;
  e.message = message;
  e.what = options->what;
  e.number = options->number;
  e.count = count;
  e.flat = options->mode == CONCUR_ENCODE_FLAT;
  e.lends = options->lends != NULL;
  e.pins = options->pins;
  lua_pushcfunction(L, encode_protected);
  lua_pushlightuserdata(L, &e);
  for (int i = 0; i < count; i++) lua_pushvalue(L, first + i);
  int status = lua_pcall(L, count + 1, 1, 0);
  concur_identity_free(&e.seen);
  if (e.gc_stopped) lua_gc(L, LUA_GCRESTART);
  if (status != LUA_OK) {
    concur_message_free(e.message);
    return NULL;
  }
  if (options->lends != NULL && !lua_isnil(L, -1)) {
    *options->lends = true;
  } else {
    lua_pop(L, 1);
  }
  return e.message;
}

concur_message *concur_encode_with(lua_State *L, int first, int count,
                                   const concur_encode_options *options) {
  concur_message *message = concur_encode_caught(L, first, count, options);
  if (message == NULL) lua_error(L);
  return message;
}

concur_message *concur_encode(lua_State *L, int first, int count, const char *what) {
  return concur_encode_as(L, first, count, what, CONCUR_ENCODE_SHARED);
}

concur_message *concur_encode_as(lua_State *L, int first, int count, const char *what,
                                 concur_encode_mode mode) {
  concur_encode_options options = {.what = what, .number = 1, .mode = mode};
  return concur_encode_with(L, first, count, &options);
}
