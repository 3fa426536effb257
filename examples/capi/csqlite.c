/* SPDX-License-Identifier: MIT */
/*
 * csqlite: SQLite for tasks.  Every call suspends the calling task, while others go on.
 *
 *     local db <close> = assert(csqlite.open "stars.db")
 *     assert(db:exec "CREATE TABLE stars (name TEXT, magnitude REAL)")
 *     assert(db:query("INSERT INTO stars VALUES (?, ?)", "Sirius", -1.46))
 *     for _, row in ipairs(assert(db:query "SELECT * FROM stars")) do print(row.name) end
 *
 * All return nil and SQLite's message when that fails.  A cancelled call interrupts its statement
 * (sqlite3_interrupt) and ends when SQLite has stopped.
 *
 * sqlite3_interrupt does nothing when no statement runs, so one that comes just before the statement
 * begins would be lost.  Therefore SQLite also asks now and then (a progress handler) whether the
 * call was cancelled.
 *
 * A connection has a pool of one thread of its own: calls queue there, one runs at a time, and one
 * that is cancelled while it waits never runs.  So an interrupt cannot hit another call's statement:
 * concur calls `interrupt` only while the work of that very job is running.
 *
 * The connection is counted: the userdata has one reference, and each call in flight has one.  The
 * last one closes it, on whatever thread that is.
 */
#include <concur.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define CLASS "csqlite.Connection"

typedef struct connection {
  atomic_int references;
  sqlite3 *handle;
} connection;

static void connection_release(connection *self) {
  if (atomic_fetch_sub(&self->references, 1) != 1) return;
  sqlite3_close(self->handle);
  free(self);
}

/* ---- values that leave SQLite and Lua behind: arguments, and the cells of rows ---- */

typedef struct value {
  int type; /* SQLITE_NULL, SQLITE_INTEGER, ... */
  union {
    sqlite3_int64 integer;
    double number;
    struct {
      char *bytes; /* owned */
      size_t size;
    } text;
  } as;
} value;

static void value_free(value *self) {
  if (self->type == SQLITE_TEXT || self->type == SQLITE_BLOB) free(self->as.text.bytes);
}

static int value_copy_text(value *self, int type, const void *bytes, size_t size) {
  self->as.text.bytes = malloc(size + 1);
  if (self->as.text.bytes == NULL) return 0;
  if (size > 0) memcpy(self->as.text.bytes, bytes, size);
  self->as.text.size = size;
  self->type = type;
  return 1;
}

static void value_push(lua_State *L, const value *self) {
  switch (self->type) {
  case SQLITE_INTEGER: lua_pushinteger(L, (lua_Integer)self->as.integer); break;
  case SQLITE_FLOAT: lua_pushnumber(L, self->as.number); break;
  case SQLITE_TEXT:
  case SQLITE_BLOB: lua_pushlstring(L, self->as.text.bytes, self->as.text.size); break;
  default: lua_pushnil(L);
  }
}

/* ---- calls ---- */

typedef struct call {
  const concur_api *api;
  connection *connection; /* one reference */
  int rows_wanted;        /* query; else exec, which takes several statements */
  int is_open;            /* opens the connection: `text` is the file */
  char *text;             /* owned: SQL */
  value *arguments;       /* owned array */
  int argument_count;
  char *message; /* owned: why it failed; NULL: it did not */
  char **names;  /* owned array of owned names of columns */
  int columns;
  value *cells; /* owned array, row by row */
  size_t cell_count, cell_capacity;
} call;

static void call_free(void *data) {
  call *self = data;
  for (int i = 0; i < self->argument_count; i++) value_free(&self->arguments[i]);
  for (int i = 0; i < self->columns; i++) free(self->names[i]);
  for (size_t i = 0; i < self->cell_count; i++) value_free(&self->cells[i]);
  free(self->arguments);
  free(self->names);
  free(self->cells);
  free(self->text);
  free(self->message);
  connection_release(self->connection);
  free(self);
}

static char *copy_text(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = malloc(size);
  return copy != NULL ? memcpy(copy, text, size) : NULL;
}

/* [pool thread] */
static void call_failed(call *self, concur_future_ref *job, int code) {
  if (code == SQLITE_INTERRUPT && self->api->cancelled(job)) {
    self->api->settle_cancelled(job);
    return;
  }
  const char *text = self->connection->handle != NULL ? sqlite3_errmsg(self->connection->handle)
                                                      : sqlite3_errstr(code);
  self->message = copy_text(text);
}

static int bind_arguments(const call *self, sqlite3_stmt *statement) {
  int code = SQLITE_OK;
  for (int i = 0; i < self->argument_count && code == SQLITE_OK; i++) {
    const value *argument = &self->arguments[i];
    switch (argument->type) {
    case SQLITE_INTEGER: code = sqlite3_bind_int64(statement, i + 1, argument->as.integer); break;
    case SQLITE_FLOAT: code = sqlite3_bind_double(statement, i + 1, argument->as.number); break;
    case SQLITE_TEXT:
      code = sqlite3_bind_text64(statement, i + 1, argument->as.text.bytes, argument->as.text.size,
                                 SQLITE_STATIC, SQLITE_UTF8);
      break;
    default: code = sqlite3_bind_null(statement, i + 1);
    }
  }
  return code;
}

static int keep_names(call *self, sqlite3_stmt *statement) {
  int count = sqlite3_column_count(statement);
  self->names = calloc((size_t)count + 1, sizeof *self->names);
  if (self->names == NULL) return SQLITE_NOMEM;
  for (int i = 0; i < count; i++) {
    self->names[i] = copy_text(sqlite3_column_name(statement, i));
    if (self->names[i] == NULL) return SQLITE_NOMEM;
    self->columns = i + 1;
  }
  return SQLITE_OK;
}

static int keep_row(call *self, sqlite3_stmt *statement) {
  for (int i = 0; i < self->columns; i++) {
    if (self->cell_count == self->cell_capacity) {
      size_t capacity = self->cell_capacity * 2 + 16;
      value *cells = realloc(self->cells, capacity * sizeof *cells);
      if (cells == NULL) return SQLITE_NOMEM;
      self->cells = cells;
      self->cell_capacity = capacity;
    }
    value cell = {.type = sqlite3_column_type(statement, i)};
    if (cell.type == SQLITE_INTEGER) {
      cell.as.integer = sqlite3_column_int64(statement, i);
    } else if (cell.type == SQLITE_FLOAT) {
      cell.as.number = sqlite3_column_double(statement, i);
    } else if (cell.type != SQLITE_NULL) {
      const void *bytes = sqlite3_column_blob(statement, i);
      size_t size = (size_t)sqlite3_column_bytes(statement, i);
      if (!value_copy_text(&cell, cell.type, bytes, size)) return SQLITE_NOMEM;
    }
    self->cells[self->cell_count++] = cell;
  }
  return SQLITE_OK;
}

static int run_query(call *self) {
  sqlite3_stmt *statement = NULL;
  int code = sqlite3_prepare_v2(self->connection->handle, self->text, -1, &statement, NULL);
  if (code == SQLITE_OK && statement == NULL) return SQLITE_OK; /* empty, or a comment */
  if (code == SQLITE_OK) code = bind_arguments(self, statement);
  if (code == SQLITE_OK) code = keep_names(self, statement);
  while (code == SQLITE_OK) {
    code = sqlite3_step(statement);
    if (code != SQLITE_ROW) break;
    code = keep_row(self, statement);
  }
  sqlite3_finalize(statement);
  return code == SQLITE_DONE ? SQLITE_OK : code;
}

typedef struct question {
  const concur_api *api;
  concur_future_ref *job;
} question;

/* [pool thread] SQLite asks: shall it stop? */
static int on_progress(void *data) {
  const question *self = data;
  return self->api->cancelled(self->job);
}

/* [pool thread] */
static void call_work(concur_future_ref *job, void *data) {
  enum { STEPS_BETWEEN_QUESTIONS = 1000 };
  call *self = data;
  question stop = {self->api, job};
  int code;
  sqlite3 *handle = self->connection->handle; /* NULL: it is to be opened */
  if (handle != NULL) {
    sqlite3_progress_handler(handle, STEPS_BETWEEN_QUESTIONS, on_progress, &stop);
  }
  if (self->is_open) {
    code = sqlite3_open(self->text, &self->connection->handle);
  } else if (self->rows_wanted) {
    code = run_query(self);
  } else {
    code = sqlite3_exec(handle, self->text, NULL, NULL, NULL);
  }
  if (handle != NULL) sqlite3_progress_handler(handle, 0, NULL, NULL);
  if (code != SQLITE_OK) call_failed(self, job, code);
}

/* [loop thread] While the work runs, and only then. */
static int call_interrupt(void *data) {
  const call *self = data;
  if (!self->is_open) sqlite3_interrupt(self->connection->handle);
  return 0;
}

/* [loop thread] */
static int call_done(lua_State *L, void *data) {
  const call *self = data;
  if (self->message != NULL) {
    lua_pushnil(L);
    lua_pushstring(L, self->message);
    return 2;
  }
  if (!self->rows_wanted) {
    lua_pushboolean(L, 1);
    return 1;
  }
  size_t rows = self->columns > 0 ? self->cell_count / (size_t)self->columns : 0;
  lua_createtable(L, (int)rows, 0);
  for (size_t row = 0; row < rows; row++) {
    lua_createtable(L, 0, self->columns);
    for (int i = 0; i < self->columns; i++) {
      value_push(L, &self->cells[row * (size_t)self->columns + (size_t)i]);
      lua_setfield(L, -2, self->names[i]);
    }
    lua_rawseti(L, -2, (lua_Integer)row + 1);
  }
  return 1;
}

/* ---- for Lua ---- */

static const concur_api *api_of(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

/* A call with a copy of the text; the connection gets a reference more. */
static call *call_new(lua_State *L, connection *to, const char *text) {
  call *self = calloc(1, sizeof *self);
  if (self != NULL) self->text = copy_text(text);
  if (self == NULL || self->text == NULL) {
    free(self);
    luaL_error(L, "not enough memory");
    return NULL; /* not reached */
  }
  self->api = api_of(L);
  self->connection = to;
  atomic_fetch_add(&to->references, 1);
  return self;
}

/* The connection is the userdata at index 1, its pool that one's user value.  Pushes the future. */
static void call_submit(lua_State *L, call *self) {
  concur_job_options options = {
      .size = sizeof options, .name = "csqlite", .cancel = call_interrupt, .pool = -1};
  lua_getiuservalue(L, 1, 1);
  self->api->submit(L, call_work, call_done, call_free, self, &options);
}

static connection **check_connection(lua_State *L) {
  connection **self = luaL_checkudata(L, 1, CLASS);
  if (*self == NULL) luaL_argerror(L, 1, "the connection is closed");
  return self;
}

static int l_exec(lua_State *L) {
  connection **self = check_connection(L);
  call_submit(L, call_new(L, *self, luaL_checkstring(L, 2)));
  return api_of(L)->join(L, -1, 0, NULL);
}

/* Copies the arguments from stack index `first` on; NULL, or what is wrong. */
static const char *take_arguments(lua_State *L, call *self, int first) {
  int count = lua_gettop(L) - first + 1;
  if (count <= 0) return NULL;
  self->arguments = calloc((size_t)count, sizeof *self->arguments);
  if (self->arguments == NULL) return "not enough memory";
  self->argument_count = count;
  for (int i = 0; i < count; i++) {
    value *argument = &self->arguments[i];
    int index = first + i;
    size_t size;
    argument->type = SQLITE_NULL;
    switch (lua_type(L, index)) {
    case LUA_TNIL: break;
    case LUA_TBOOLEAN:
      argument->type = SQLITE_INTEGER;
      argument->as.integer = lua_toboolean(L, index);
      break;
    case LUA_TNUMBER:
      argument->type = lua_isinteger(L, index) ? SQLITE_INTEGER : SQLITE_FLOAT;
      if (lua_isinteger(L, index)) {
        argument->as.integer = lua_tointeger(L, index);
      } else {
        argument->as.number = lua_tonumber(L, index);
      }
      break;
    case LUA_TSTRING: {
      const char *bytes = lua_tolstring(L, index, &size);
      if (!value_copy_text(argument, SQLITE_TEXT, bytes, size)) return "not enough memory";
      break;
    }
    default: return "values for a query must be nil, booleans, numbers or strings";
    }
  }
  return NULL;
}

static int l_query(lua_State *L) {
  connection **self = check_connection(L);
  call *query = call_new(L, *self, luaL_checkstring(L, 2));
  query->rows_wanted = 1;
  const char *wrong = take_arguments(L, query, 3);
  if (wrong != NULL) {
    call_free(query);
    return luaL_error(L, "%s", wrong);
  }
  call_submit(L, query);
  return api_of(L)->join(L, -1, 0, NULL);
}

/* Stack: the connection, its file, its pool, the future, and what that gave. */
static int opened(lua_State *L, int status, lua_KContext context) {
  (void)status;
  (void)context;
  if (!lua_isboolean(L, -1)) return 2; /* nil, message */
  lua_settop(L, 1);
  return 1;
}

/* Sets a pool with one thread as the user value of the userdata on top of the stack. */
static void give_pool(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "concur");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "ThreadPoolExecutor");
  lua_pushinteger(L, 1);
  lua_call(L, 1, 1);
  lua_setiuservalue(L, -3, 1);
  lua_pop(L, 1);
}

static int l_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  connection **self = lua_newuserdatauv(L, sizeof *self, 1);
  *self = NULL; /* closed */
  luaL_setmetatable(L, CLASS);
  give_pool(L);
  lua_insert(L, 1);
  *self = calloc(1, sizeof **self);
  if (*self == NULL) return luaL_error(L, "not enough memory");
  atomic_init(&(*self)->references, 1);
  call *open = call_new(L, *self, path);
  open->is_open = 1;
  call_submit(L, open);
  return api_of(L)->join(L, -1, 0, opened);
}

/* Calls in flight keep the connection until they have ended. */
static int l_gc(lua_State *L) {
  connection **self = luaL_checkudata(L, 1, CLASS);
  if (*self != NULL) connection_release(*self);
  *self = NULL;
  return 0;
}

static int l_close(lua_State *L) {
  connection **self = luaL_checkudata(L, 1, CLASS);
  if (*self == NULL) return 0;
  (void)l_gc(L);
  lua_getiuservalue(L, 1, 1);
  lua_getfield(L, -1, "shutdown"); /* its thread ends when the calls in flight have */
  lua_insert(L, -2);
  lua_createtable(L, 0, 1);
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "wait");
  lua_call(L, 2, 0);
  return 0;
}

static int l_tostring(lua_State *L) {
  connection **self = luaL_checkudata(L, 1, CLASS);
  lua_pushfstring(L, CLASS " (%s): %p", *self != NULL ? "open" : "closed", (void *)self);
  return 1;
}

int luaopen_csqlite(lua_State *L);

int luaopen_csqlite(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"exec", l_exec}, {"query", l_query},         {"close", l_close}, {"__close", l_close},
      {"__gc", l_gc},   {"__tostring", l_tostring}, {NULL, NULL}};
  const concur_api *api = concur_api_get(L);
  luaL_newmetatable(L, CLASS);
  lua_pushlightuserdata(L, (void *)(size_t)api);
  luaL_setfuncs(L, methods, 1);
  lua_pushvalue(L, -1);
  lua_setfield(L, -2, "__index");
  lua_createtable(L, 0, 1);
  lua_pushlightuserdata(L, (void *)(size_t)api);
  lua_pushcclosure(L, l_open, 1);
  lua_setfield(L, -2, "open");
  return 1;
}
