/* SPDX-License-Identifier: MIT */
/*
 * Tables with a metatable, and userdata: classes, shared objects, and what is refused and why.
 * encoder.h is the context.
 *
 * [the state's own thread]
 */
#include "encoder.h"

#include <lauxlib.h>
#include <string.h>

#include "transfer.h"

/* ---- classes ---- */

/* The name of a class: its size in one byte and its bytes. */
static void put_name(concur_encoder *e, const char *text, size_t size) {
  concur_encoder_tag(e, (int)size);
  concur_encoder_bytes(e, text, size);
}

/* Moves the place where an address is to be found to the end of the message. */
static void seen_here(concur_encoder *e, const void *address) {
  concur_identity_find(&e->seen, address)->first = concur_encoder_here(e);
}

/* What the class says it is called, for errors. */
static const char *class_name(lua_State *L, int metatable, const char *otherwise) {
  metatable = lua_absindex(L, metatable);
  lua_pushliteral(L, "__name");
  lua_rawget(L, metatable);
  const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : otherwise;
  lua_pop(L, 1); /* the metatable still holds it */
  return name;
}

/* Calls the function on top of the stack with the object; returns how many results it left. */
static int call_hook(concur_encoder *e, int object, const char *class) {
  lua_State *L = e->L;
  int function = lua_gettop(L);
  if (e->depth >= WIRE_MAX_DEPTH) {
    concur_refuse(L, e->place, 0, "objects with an encode function are nested more than %d deep",
                  WIRE_MAX_DEPTH);
  }
  if (!e->gc_stopped && lua_gc(L, LUA_GCISRUNNING) == 1) {
    lua_gc(L, LUA_GCSTOP);
    e->gc_stopped = true;
  }
  lua_pushvalue(L, object);
  if (lua_pcall(L, 1, LUA_MULTRET, 0) != LUA_OK) {
    const char *reason = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    concur_refuse(L, e->place, 1, "the encode function of %s failed%s%s", class,
                  reason != NULL ? ": " : "", reason != NULL ? reason : "");
  }
  int count = lua_gettop(L) - function + 1;
  if (count > WIRE_MAX_RESULTS) {
    concur_refuse(L, e->place, 0, "the encode function of %s returned more than %d values", class,
                  WIRE_MAX_RESULTS);
  }
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  return count;
}

/* Marks an object as one whose encoded values are being written, or no longer. */
static void set_unfinished(concur_encoder *e, const void *object, uint32_t state) {
  concur_identity_find(&e->seen, object)->second = state;
}

/* An instance of a registered class whose record is on top of the stack. */
static void encode_registered(concur_encoder *e, int object) {
  lua_State *L = e->L;
  int record = lua_gettop(L);
  size_t size;
  lua_getfield(L, record, "name");
  const char *name = lua_tolstring(L, -1, &size);
  if (lua_getfield(L, record, "encode") == LUA_TNIL) {
    if (!lua_istable(L, object)) {
      concur_refuse(L, e->place, 0,
                    "the class '%s' is one of userdata, so it needs encode and "
                    "decode functions",
                    name);
    }
    lua_getfield(L, record, "metatable");
    bool is_error = lua_topointer(L, -1) == e->state->error_class;
    concur_encoder_tag(e, WIRE_INSTANCE);
    concur_encoder_tag(e, WIRE_CLASS);
    put_name(e, name, size);
    seen_here(e, lua_topointer(L, object));
    concur_encoder_fields(e, object, is_error);
  } else {
    const void *address = lua_topointer(L, object);
    set_unfinished(e, address, CONCUR_ENCODER_UNFINISHED);
    int first = lua_gettop(L);
    int count = call_hook(e, object, name);
    concur_encoder_tag(e, WIRE_OBJECT);
    put_name(e, name, size);
    concur_encoder_tag(e, count);
    concur_encoder_unit(e, first, count, name);
    set_unfinished(e, address, 0);
  }
  lua_settop(L, record - 1);
}

/* An object whose metatable, on top of the stack below its `__transfer`, says how it crosses. */
static void encode_by_metatable(concur_encoder *e, int object) {
  lua_State *L = e->L;
  int transfer = lua_gettop(L), metatable = transfer - 1;
  const char *name = class_name(L, metatable, "its class");
  if (lua_isfunction(L, transfer)) {
    const void *address = lua_topointer(L, object);
    set_unfinished(e, address, CONCUR_ENCODER_UNFINISHED);
    int count = call_hook(e, object, name);
    if (count == 0 || !lua_isfunction(L, transfer)) {
      concur_refuse(L, e->place, 0, "__transfer of %s must return a function and its arguments",
                    name);
    }
    concur_encoder_tag(e, WIRE_REBUILT);
    concur_encoder_tag(e, count);
    concur_encoder_unit(e, transfer, count, name);
    set_unfinished(e, address, 0);
  } else if (lua_toboolean(L, transfer) && lua_isboolean(L, transfer) && lua_istable(L, object)) {
    concur_encoder_tag(e, WIRE_INSTANCE);
    if (!concur_encoder_named(e, metatable, NAMED_DATA | NAMED_MODULE | NAMED_TABLE, false) &&
        !concur_encoder_named(e, metatable, NAMED_DATA | NAMED_MODULE | NAMED_TABLE, true)) {
      concur_refuse(L, e->place, 0,
                    "the metatable of %s has __transfer = true, but it is neither "
                    "a loaded module nor a field of one, so the other side cannot find it; "
                    "register it with concur.transferable",
                    name);
    }
    seen_here(e, lua_topointer(L, object));
    concur_encoder_fields(e, object, false);
  } else {
    concur_refuse(L, e->place, 0, "__transfer of %s must be %s", name,
                  lua_istable(L, object) ? "true or a function" : "a function");
  }
  lua_settop(L, metatable);
}

/* Whether the object is a future (a task, a job's future). */
static bool is_future(lua_State *L, int object) {
  const char *tag = concur_class_tag(L, object);
  return tag >= &concur_class_tags[CONCUR_CLASS_FUTURE] &&
         tag <= &concur_class_tags[CONCUR_CLASS_JOB_FUTURE];
}

/* Says why an object whose metatable is on top of the stack cannot cross, and what to do. */
static void refuse_object(concur_encoder *e, int object) {
  lua_State *L = e->L;
  if (lua_istable(L, object)) {
    lua_pushliteral(L, "__mode");
    lua_rawget(L, -2);
    bool weak = !lua_isnil(L, -1);
    lua_pop(L, 1);
    const char *name = class_name(L, -1, NULL);
    if (weak) concur_refuse(L, e->place, 0, "a weak table cannot cross; copy it into a plain one");
    concur_refuse(L, e->place, 0,
                  "table with a metatable%s%s%s cannot cross; register its class "
                  "with concur.transferable, or give the metatable __transfer",
                  name != NULL ? " (" : "", name != NULL ? name : "", name != NULL ? ")" : "");
  }
  const char *name = class_name(L, -1, "no name");
  if (is_future(L, object)) {
    concur_refuse(L, e->place, 0,
                  "userdata (%s) cannot cross: it belongs to the loop of this "
                  "state; wait for it and send its result",
                  name);
  }
  if (strncmp(name, "concur.", 7) == 0) {
    concur_refuse(L, e->place, 0,
                  "userdata (%s) cannot cross: it works within one state; "
                  "a concur.Channel connects states",
                  name);
  }
  if (strcmp(name, LUA_FILEHANDLE) == 0) {
    concur_refuse(L, e->place, 0,
                  "userdata (%s) cannot cross: open the file inside the function, "
                  "and write io.stdout there, not in an upvalue",
                  name);
  }
  concur_refuse(L, e->place, 0,
                "userdata (%s) cannot cross; its class can be registered with "
                "concur.transferable, or its metatable given __transfer",
                name);
}

void concur_encoder_object(concur_encoder *e, int object) {
  lua_State *L = e->L;
  int metatable = lua_gettop(L);
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  lua_rawgeti(L, LUA_REGISTRYINDEX, e->state->classes_ref);
  lua_pushvalue(L, metatable);
  lua_rawget(L, -2);
  if (lua_istable(L, -1)) {
    encode_registered(e, object);
  } else {
    lua_settop(L, metatable);
    lua_pushliteral(L, "__transfer");
    lua_rawget(L, metatable);
    if (!lua_isnil(L, -1)) {
      encode_by_metatable(e, object);
    } else if (!concur_encoder_named(e, object, NAMED_MODULE, true)) {
      lua_settop(L, metatable);
      refuse_object(e, object);
    }
  }
  lua_settop(L, metatable - 1);
}

/* ---- userdata ---- */

static const char share_key; /* field of a metatable, by its address: its concur_share_class */

void concur_share_class_bind(lua_State *L, const concur_share_class *share_class) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)share_class);
  lua_rawsetp(L, -2, &share_key);
}

static void encode_shared(concur_encoder *e, int index, const concur_share_class *share_class) {
  concur_attachment attachment = {.type = &share_class->base};
  if (concur_encoder_again(e, lua_touserdata(e->L, index))) return;
  if (e->flat) {
    concur_refuse(e->L, e->place, 0,
                  "a %s cannot cross to another process: it shares memory "
                  "between threads",
                  share_class->base.name);
  }
  const char *problem = share_class->unwrap(e->L, index, &attachment);
  if (problem != NULL) {
    concur_refuse(e->L, e->place, 0, "a %s cannot cross: %s", share_class->base.name, problem);
  }
  concur_encoder_tag_u32(e, WIRE_ATTACHMENT, concur_encoder_attach(e, &attachment));
}

void concur_encoder_userdata(concur_encoder *e, int index) {
  lua_State *L = e->L;
  luaL_checkstack(L, LUA_MINSTACK, "not enough memory");
  if (!lua_getmetatable(L, index)) {
    concur_refuse(L, e->place, 0, "userdata without a metatable cannot cross");
  }
  lua_rawgetp(L, -1, &share_key);
  const concur_share_class *share_class = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (share_class != NULL) {
    lua_pop(L, 1);
    encode_shared(e, index, share_class);
  } else if (concur_encoder_again(e, lua_touserdata(L, index))) {
    lua_pop(L, 1);
  } else {
    concur_encoder_object(e, index);
  }
}
