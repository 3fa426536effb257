/* SPDX-License-Identifier: MIT */
/*
 * Bytes to Lua values.  wire.h is the format.
 *
 * The bytes may come out of a pipe, so nothing in them is believed: every size is compared with
 * what is left, tables are made no larger than the message could fill, nesting is bounded.  Code is
 * the exception: Lua cannot check it, wire_hash only finds accidents (docs/design/transfer.md).
 *
 * All memory is Lua's, so an error can leave from anywhere.  Two slots of the stack, made into
 * tables when they are needed: `known` holds what is SHARED, by the offset of its tag (for a cell
 * its function, and under the negative offset the number of the upvalue); `later` holds what waits
 * for its content, as pairs of the value and the offset of its header.
 *
 * [the state's own thread]
 */
#include <lauxlib.h>
#include <limits.h>
#include <string.h>

#include "classes.h"
#include "place.h"
#include "transfer.h"
#include "transfer_state.h"
#include "wire.h"

enum { MAX_DEPTH = WIRE_MAX_DEPTH + 4 }; /* what an encoder can nest, and a little */

typedef struct decoder {
  lua_State *L;
  const concur_message *message; /* borrowed */
  const unsigned char *at;       /* the next byte */
  const unsigned char *end;
  concur_transfer_state *state; /* NULL until it is needed */
  size_t budget;   /* how many more values the tables can announce: each takes a byte */
  uint64_t number; /* of this message in this state */
  int copies;      /* stack slot: the strings that were lent; 0: they are still there */
  int known;       /* stack slots, see above */
  int later;
  int later_first;
  int later_end;
  int depth;
} decoder;

static void decode_value(decoder *d);

static int corrupt(decoder *d) {
  return concur_refuse(d->L, NULL, 0, "damaged message (at byte %I of %I)",
                       (LUAI_UACINT)(d->at - d->message->bytes), (LUAI_UACINT)d->message->size);
}

static concur_transfer_state *state_of(decoder *d) {
  if (d->state == NULL) {
    d->state = concur_transfer_state_of(d->L);
    d->number = ++d->state->code.message;
  }
  return d->state;
}

/* ---- bytes ---- */

/* The next `size` bytes. */
static inline const unsigned char *next(decoder *d, size_t size) {
  const unsigned char *at = d->at;
  if ((size_t)(d->end - at) < size) corrupt(d);
  d->at = at + size;
  return at;
}

static inline void read_into(decoder *d, void *target, size_t size) {
  memcpy(target, next(d, size), size);
}

static inline uint32_t read_u32(decoder *d) {
  uint32_t number;
  read_into(d, &number, sizeof number);
  return number;
}

static uint32_t offset_of(const decoder *d, const unsigned char *at) {
  return (uint32_t)(at - d->message->bytes);
}

/* ---- what is shared ---- */

/* Notes the value on top of the stack under a number. */
static void know(decoder *d, lua_Integer number) {
  lua_State *L = d->L;
  if (lua_isnil(L, d->known)) {
    lua_newtable(L);
    lua_replace(L, d->known);
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, d->known, number);
}

/* Notes the value on top of the stack if its tag says that a reference to it follows. */
static inline void know_if_shared(decoder *d, const unsigned char *tag) {
  if (*tag & WIRE_SHARED) know(d, (lua_Integer)offset_of(d, tag));
}

static void push_known(decoder *d, lua_Integer number) {
  if (lua_isnil(d->L, d->known)) corrupt(d);
  lua_rawgeti(d->L, d->known, number);
  if (lua_isnil(d->L, -1)) corrupt(d);
}

/* ---- tables ---- */

static void put_off(decoder *d, const unsigned char *tag) {
  lua_State *L = d->L;
  if (lua_isnil(L, d->later)) {
    lua_newtable(L);
    lua_replace(L, d->later);
  }
  int number = 2 * d->later_end++;
  lua_pushvalue(L, -1);
  lua_rawseti(L, d->later, number + 1);
  lua_pushinteger(L, (lua_Integer)offset_of(d, tag));
  lua_rawseti(L, d->later, number + 2);
}

static void enter(decoder *d) {
  if (++d->depth > MAX_DEPTH) corrupt(d);
  luaL_checkstack(d->L, LUA_MINSTACK, "not enough memory");
}

static wire_table_header table_header(const unsigned char *tag) {
  wire_table_header header;
  memcpy(&header, tag + 1, sizeof header);
  return header;
}

/* Reads the fields of the table on top of the stack. */
static void decode_fields(decoder *d, wire_table_header header) {
  lua_State *L = d->L;
  int table = lua_gettop(L);
  enter(d);
  for (uint32_t i = 1; i <= header.array; i++) {
    decode_value(d);
    lua_rawseti(L, table, (lua_Integer)i);
  }
  for (uint32_t i = 0; i < header.pairs; i++) {
    decode_value(d);
    if (lua_isnil(L, -1) || (lua_type(L, -1) == LUA_TNUMBER && !lua_rawequal(L, -1, -1))) {
      corrupt(d); /* neither nil nor NaN can be a key */
    }
    decode_value(d);
    lua_rawset(L, table);
  }
  d->depth--;
}

/* Reads a table; its metatable is on top of the stack (and popped) if there is to be one. */
static void decode_table(decoder *d, const unsigned char *tag, bool has_metatable) {
  lua_State *L = d->L;
  wire_table_header header;
  read_into(d, &header, sizeof header);
  uint64_t announced = header.array + 2 * (uint64_t)header.pairs;
  if (header.array > INT_MAX || header.pairs > INT_MAX || announced > d->budget) corrupt(d);
  d->budget -= (size_t)announced;
  lua_createtable(L, (int)header.array, (int)header.pairs);
  if (has_metatable) { /* at once: a metatable with __gc costs more on an older object */
    lua_insert(L, -2);
    lua_setmetatable(L, -2);
  }
  know_if_shared(d, tag);
  if (*tag & WIRE_LATER) {
    put_off(d, tag);
  } else {
    decode_fields(d, header);
  }
}

/* ---- functions ---- */

/* Pushes the function that a CELL_REF shares its upvalue with; returns the upvalue's number. */
static int push_cell_owner(decoder *d) {
  lua_State *L = d->L;
  lua_Integer offset = (lua_Integer)read_u32(d);
  push_known(d, -offset);
  int number = (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  push_known(d, offset);
  if (!lua_isfunction(L, -1) || lua_iscfunction(L, -1)) corrupt(d);
  if (lua_getupvalue(L, -1, number) == NULL) corrupt(d);
  lua_pop(L, 1);
  return number;
}

/* Sets upvalue `number` of the function at `function`. */
static void decode_cell(decoder *d, int function, int number) {
  lua_State *L = d->L;
  const unsigned char *tag = next(d, 1);
  switch (*tag & WIRE_TAG_MASK) {
  case WIRE_ENV: lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS); break;
  case WIRE_CELL_REF: {
    int owner_number = push_cell_owner(d);
    lua_upvaluejoin(L, function, number, lua_gettop(L), owner_number);
    lua_pop(L, 1);
    return;
  }
  case WIRE_CELL:
    if (*tag & WIRE_SHARED) { /* before its value, which may refer to it */
      lua_pushinteger(L, number);
      know(d, -(lua_Integer)offset_of(d, tag));
      lua_pushvalue(L, function);
      know(d, (lua_Integer)offset_of(d, tag));
      lua_pop(L, 2);
    }
    if (d->at < d->end && *d->at == WIRE_SELF) {
      d->at++;
      lua_pushvalue(L, function);
    } else {
      decode_value(d);
    }
    break;
  default: corrupt(d);
  }
  lua_setupvalue(L, function, number);
}

/* Sets all upvalues of the function on top of the stack. */
static void decode_cells(decoder *d, uint32_t upvalues) {
  lua_State *L = d->L;
  int function = lua_gettop(L);
  enter(d);
  for (uint32_t i = 1; i <= upvalues; i++) {
    if (i > WIRE_MAX_UPVALUES || lua_getupvalue(L, function, (int)i) == NULL) corrupt(d);
    lua_pop(L, 1);
    decode_cell(d, function, (int)i);
  }
  d->depth--;
}

/* Pushes a new function made from code; its upvalues are to be set. */
static void load_code(decoder *d, const unsigned char *code, const wire_function_header *header) {
  lua_State *L = d->L;
  if (wire_hash(code, header->code_size) != header->hash) corrupt(d);
  if (luaL_loadbufferx(L, (const char *)code, header->code_size, "=?", "b") != LUA_OK) {
    concur_refuse(L, NULL, 1, "a function cannot be loaded: %s", lua_tostring(L, -1));
  }
  /* Lua puts the globals into the first upvalue, whatever it is; all are set, so none may remain.*/
  if (lua_getupvalue(L, -1, (int)header->upvalues + 1) != NULL) corrupt(d);
}

/* Pushes a function whose code and cells tell all about it: one that was loaded before, if any. */
static void push_pure(decoder *d, const unsigned char *code, const wire_function_header *header) {
  lua_State *L = d->L;
  concur_code *cache = &state_of(d)->code;
  if ((size_t)(d->end - d->at) < header->cells_size) corrupt(d);
  concur_code_record record = {
      .bytes = code,
      .size = (size_t)header->code_size + header->cells_size,
      .hash = header->hash ^ wire_hash(d->at, header->cells_size),
      .message = d->number,
  };
  if (concur_code_find(L, cache, &record)) return;
  load_code(d, code, header);
  concur_code_keep(L, cache, &record);
}

static void decode_function(decoder *d, const unsigned char *tag) {
  wire_function_header header;
  read_into(d, &header, sizeof header);
  if (header.upvalues > WIRE_MAX_UPVALUES) corrupt(d);
  const unsigned char *code = next(d, header.code_size);
  if (*tag & WIRE_PURE) {
    push_pure(d, code, &header);
  } else {
    load_code(d, code, &header);
  }
  know_if_shared(d, tag);
  if (*tag & WIRE_LATER) {
    put_off(d, tag);
  } else {
    decode_cells(d, header.upvalues);
  }
}

/* ---- what was put off ---- */

static void decode_later(decoder *d) {
  lua_State *L = d->L;
  while (d->later_first < d->later_end) {
    int number = 2 * d->later_first++;
    lua_rawgeti(L, d->later, number + 2);
    const unsigned char *tag = d->message->bytes + lua_tointeger(L, -1);
    lua_pop(L, 1);
    lua_rawgeti(L, d->later, number + 1);
    if (lua_istable(L, -1)) {
      decode_fields(d, table_header(tag));
    } else {
      wire_function_header header;
      memcpy(&header, tag + 1, sizeof header);
      decode_cells(d, header.upvalues);
    }
    lua_pop(L, 1);
    lua_pushnil(L); /* it is complete: let go of it */
    lua_rawseti(L, d->later, number + 1);
  }
}

/* Pushes `count` values, complete with what was put off among them. */
static void decode_unit(decoder *d, int count) {
  int outer_first = d->later_first;
  int own_first = d->later_first = d->later_end;
  enter(d);
  luaL_checkstack(d->L, count + LUA_MINSTACK, "not enough memory");
  for (int i = 0; i < count; i++) decode_value(d);
  decode_later(d);
  d->depth--;
  d->later_end = own_first;
  d->later_first = outer_first;
}

/* ---- objects ---- */

/* Calls the function below the `count` values on top of the stack; leaves the object it returns. */
static void rebuild(decoder *d, int count, const char *class) {
  lua_State *L = d->L;
  if (lua_pcall(L, count, 1, 0) != LUA_OK) {
    const char *reason = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    concur_refuse(L, NULL, 1, "the decode function of %s failed%s%s", class,
                  reason != NULL ? ": " : "", reason != NULL ? reason : "");
  }
  if (lua_isnil(L, -1)) {
    concur_refuse(L, NULL, 0, "the decode function of %s returned nil", class);
  }
}

/* Pushes the record of the class that is named next. */
static void push_class(decoder *d) {
  size_t size = *next(d, 1);
  const char *name = (const char *)next(d, size);
  lua_pushlstring(d->L, name, size);
  concur_classes_push(d->L, state_of(d));
}

static void decode_object(decoder *d, const unsigned char *tag) {
  lua_State *L = d->L;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  push_class(d);
  lua_getfield(L, -1, "name");
  const char *name = lua_tostring(L, -1); /* the record holds it */
  lua_pop(L, 1);
  if (lua_getfield(L, -1, "decode") == LUA_TNIL) {
    concur_refuse(L, NULL, 0, "class '%s' has no decode function on the receiving side", name);
  }
  int count = *next(d, 1);
  decode_unit(d, count);
  rebuild(d, count, name);
  lua_remove(L, -2); /* the record */
  know_if_shared(d, tag);
}

static void decode_rebuilt(decoder *d, const unsigned char *tag) {
  int count = *next(d, 1);
  if (count == 0) corrupt(d);
  int first = lua_gettop(d->L) + 1;
  decode_unit(d, count);
  if (!lua_isfunction(d->L, first)) corrupt(d);
  rebuild(d, count - 1, "__transfer");
  know_if_shared(d, tag);
}

static void decode_named(decoder *d, const unsigned char *tag) {
  uint16_t size;
  read_into(d, &size, sizeof size);
  const char *path = (const char *)next(d, size);
  if (size == 0 || path[size - 1] != '\0') corrupt(d);
  concur_modules_push(d->L, path, size);
  know_if_shared(d, tag);
}

/* A table with a metatable that this state knows. */
static void decode_instance(decoder *d) {
  lua_State *L = d->L;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  const unsigned char *tag = next(d, 1);
  if (*tag == WIRE_CLASS) {
    push_class(d);
    lua_getfield(L, -1, "metatable");
    lua_remove(L, -2);
  } else if (*tag == WIRE_NAMED) {
    decode_named(d, tag);
    if (!lua_istable(L, -1)) corrupt(d);
    lua_pushliteral(L, "__transfer");
    lua_rawget(L, -2);
    if (!lua_toboolean(L, -1)) {
      concur_refuse(L, NULL, 0, "a metatable has no __transfer on the receiving side");
    }
    lua_pop(L, 1);
  } else {
    corrupt(d);
  }
  const unsigned char *table = next(d, 1);
  if ((*table & WIRE_TAG_MASK) != WIRE_TABLE) corrupt(d);
  decode_table(d, table, true);
}

/* ---- attachments ---- */

static const concur_attachment *attachment_at(decoder *d) {
  uint32_t index = read_u32(d);
  if (index >= d->message->attachment_count) corrupt(d);
  return &d->message->attachments[index];
}

static void decode_attachment(decoder *d, const unsigned char *tag) {
  const concur_attachment *attachment = attachment_at(d);
  luaL_checkstack(d->L, LUA_MINSTACK, "not enough memory");
  ((const concur_share_class *)attachment->type)->wrap(d->L, attachment);
  know_if_shared(d, tag);
}

static void push_borrowed(lua_State *L, const concur_attachment *owner) {
  const char *text = (const char *)(uintptr_t)owner->detail[1];
  lua_pushlstring(L, text, owner->detail[0]);
}

static void decode_borrowed(decoder *d, const unsigned char *tag) {
  const concur_attachment *owner = attachment_at(d);
  if (owner->type == &concur_lent_string && d->copies != 0) {
    lua_rawgeti(d->L, d->copies, owner - d->message->attachments + 1);
  } else {
    push_borrowed(d->L, owner);
  }
  know_if_shared(d, tag);
}

/* ---- values ---- */

static void decode_string(decoder *d, size_t size, const unsigned char *tag) {
  const char *text = (const char *)next(d, size);
  lua_pushlstring(d->L, text, size);
  know_if_shared(d, tag);
}

static void decode_value(decoder *d) {
  lua_State *L = d->L;
  const unsigned char *tag = next(d, 1);
  switch (*tag & WIRE_TAG_MASK) {
  case WIRE_NIL: lua_pushnil(L); break;
  case WIRE_FALSE: lua_pushboolean(L, 0); break;
  case WIRE_TRUE: lua_pushboolean(L, 1); break;
  case WIRE_INT8: lua_pushinteger(L, (int8_t)*next(d, 1)); break;
  case WIRE_INT64: {
    lua_Integer value;
    read_into(d, &value, sizeof value);
    lua_pushinteger(L, value);
    break;
  }
  case WIRE_FLOAT: {
    lua_Number value;
    read_into(d, &value, sizeof value);
    lua_pushnumber(L, value);
    break;
  }
  case WIRE_STRING8: decode_string(d, *next(d, 1), tag); break;
  case WIRE_STRING32: decode_string(d, read_u32(d), tag); break;
  case WIRE_NULL: lua_pushlightuserdata(L, NULL); break;
  case WIRE_GLOBALS: lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS); break;
  case WIRE_REF: push_known(d, (lua_Integer)read_u32(d)); break;
  case WIRE_NAMED: decode_named(d, tag); break;
  case WIRE_ATTACHMENT: decode_attachment(d, tag); break;
  case WIRE_BORROWED: decode_borrowed(d, tag); break;
  case WIRE_TABLE: decode_table(d, tag, false); break;
  case WIRE_FUNCTION: decode_function(d, tag); break;
  case WIRE_INSTANCE: decode_instance(d); break;
  case WIRE_OBJECT: decode_object(d, tag); break;
  case WIRE_REBUILT: decode_rebuilt(d, tag); break;
  default: corrupt(d);
  }
}

void concur_borrowed_copy(lua_State *L, const concur_message *message) {
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  lua_newtable(L);
  for (uint32_t i = 0; i < message->attachment_count; i++) {
    if (message->attachments[i].type != &concur_lent_string) continue;
    push_borrowed(L, &message->attachments[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
}

int concur_decode(lua_State *L, const concur_message *message) {
  return concur_decode_copied(L, message, 0);
}

int concur_decode_copied(lua_State *L, const concur_message *message, int copies) {
  decoder d = {
      .L = L,
      .copies = copies,
      .message = message,
      .at = message->bytes,
      .end = message->bytes + message->size,
      .budget = message->size,
  };
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  if (message->size > UINT32_MAX || message->size < 2 * sizeof(uint32_t)) corrupt(&d);
  if (read_u32(&d) != WIRE_MAGIC) {
    concur_refuse(L, NULL, 0, "not a message, or one of another version of concur");
  }
  uint32_t count = read_u32(&d);
  if (count > message->size || count > INT_MAX - LUA_MINSTACK) corrupt(&d);
  luaL_checkstack(L, (int)count + LUA_MINSTACK, "not enough memory");
  lua_pushnil(L);
  d.known = lua_gettop(L);
  lua_pushnil(L);
  d.later = lua_gettop(L);
  for (uint32_t i = 0; i < count; i++) decode_value(&d);
  decode_later(&d);
  if (d.at != d.end) corrupt(&d);
  lua_rotate(L, d.known, -2);
  lua_pop(L, 2);
  return (int)count;
}
