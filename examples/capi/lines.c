/* SPDX-License-Identifier: MIT.  lines.count(path): how many lines a file has. */
#include <concur.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct count {
  const concur_api *api;
  lua_Integer lines;
  int error; /* errno, or 0 */
  char path[1];
} count;

static void work(concur_future_ref *job, void *data) { /* on a thread: no Lua here */
  count *self = (count *)data;
  char block[65536];
  FILE *file = fopen(self->path, "rb");
  if (file == NULL) { self->error = errno; return; }
  for (size_t size; !self->api->cancelled(job) && (size = fread(block, 1, sizeof block, file)) > 0;)
    for (size_t i = 0; i < size; i++) self->lines += block[i] == '\n';
  if (ferror(file)) self->error = errno;
  fclose(file);
}

static int done(lua_State *L, void *data) { /* on the loop's thread: results of the call */
  const count *self = (const count *)data;
  lua_pushinteger(L, self->lines);
  if (self->error == 0) return 1;
  lua_pushnil(L);
  self->api->push_os_error(L, self->error, "lines.count", self->path);
  return 2;
}

static int l_count(lua_State *L) {
  const concur_api *api = (const concur_api *)lua_touserdata(L, lua_upvalueindex(1));
  count *self = (count *)calloc(1, sizeof *self + strlen(luaL_checkstring(L, 1)));
  if (self == NULL) return luaL_error(L, "not enough memory");
  self->api = api;
  strcpy(self->path, lua_tostring(L, 1));
  api->submit(L, work, done, free, self, NULL); /* pushes a future; free(self) is the end */
  return api->join(L, -1, 0, NULL);
}

int luaopen_lines(lua_State *L) {
  static const luaL_Reg functions[] = {{"count", l_count}, {NULL, NULL}};
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, (void *)concur_api_get(L));
  luaL_setfuncs(L, functions, 1);
  return 1;
}
