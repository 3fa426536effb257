/* SPDX-License-Identifier: MIT */
/*
 * czlib: zlib on all cores.  Each call runs on a thread of concur's default pool and suspends the
 * calling task; so `concur.gather` of several uses several cores.
 *
 *     local packed = czlib.compress(data [, level])      -- zlib format
 *     local data = assert(czlib.decompress(packed))      -- or nil, message
 *     local sum = czlib.crc32(data)
 *
 * The input is copied before the thread sees it: the task that waits may be killed, and then nothing
 * keeps the Lua string.  Work looks between two blocks whether somebody cancelled it.
 */
#include <concur.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { BLOCK = 256 * 1024 };

typedef struct call {
  const concur_api *api;
  int level;             /* of compression */
  const char *message;   /* static: why it failed; NULL: it did not */
  unsigned char *output; /* owned */
  size_t output_size, output_capacity;
  uLong checksum;
  size_t size;
  unsigned char input[1]; /* `size` bytes */
} call;

static void call_free(void *data) {
  call *self = data;
  free(self->output);
  free(self);
}

/* ---- on a pool thread ---- */

/* Room for more output behind what there is; 0 when out of memory. */
static int make_room(call *self, z_stream *stream) {
  if (self->output_size == self->output_capacity) {
    size_t capacity = self->output_capacity * 2 + BLOCK;
    unsigned char *output = realloc(self->output, capacity);
    if (output == NULL) return 0;
    self->output = output;
    self->output_capacity = capacity;
  }
  size_t room = self->output_capacity - self->output_size;
  stream->next_out = self->output + self->output_size;
  stream->avail_out = room < BLOCK ? (uInt)room : BLOCK;
  return 1;
}

/* Gives the next block of input when the last one is used up; true if it is the end. */
static int feed(const call *self, z_stream *stream, size_t *used) {
  if (stream->avail_in == 0 && *used < self->size) {
    size_t left = self->size - *used;
    stream->next_in = (Bytef *)(size_t)(self->input + *used);
    stream->avail_in = left < BLOCK ? (uInt)left : BLOCK;
    *used += stream->avail_in;
  }
  return *used == self->size;
}

/* Runs the stream to its end.  Returns zlib's last code. */
static int pump(call *self, concur_future_ref *job, z_stream *stream,
                int (*step)(z_stream *stream, int flush)) {
  size_t used = 0;
  int code = Z_OK;
  while (code == Z_OK || code == Z_BUF_ERROR) {
    if (self->api->cancelled(job)) {
      self->api->settle_cancelled(job);
      return Z_STREAM_END;
    }
    int flush = feed(self, stream, &used) ? Z_FINISH : Z_NO_FLUSH;
    if (!make_room(self, stream)) return Z_MEM_ERROR;
    uInt room = stream->avail_out, given = stream->avail_in;
    code = step(stream, flush);
    self->output_size += room - stream->avail_out;
    if (code == Z_BUF_ERROR && room == stream->avail_out && given == stream->avail_in) {
      return Z_DATA_ERROR; /* no progress: the input ends too early */
    }
  }
  return code;
}

static void finish(call *self, int code) {
  if (code == Z_STREAM_END) return;
  self->message = code == Z_MEM_ERROR ? "not enough memory" : "the data is not in zlib format";
}

static void compress_work(concur_future_ref *job, void *data) {
  call *self = data;
  z_stream stream;
  memset(&stream, 0, sizeof stream);
  int code = deflateInit(&stream, self->level);
  if (code == Z_OK) {
    code = pump(self, job, &stream, deflate);
    (void)deflateEnd(&stream);
  }
  finish(self, code);
}

static void decompress_work(concur_future_ref *job, void *data) {
  call *self = data;
  z_stream stream;
  memset(&stream, 0, sizeof stream);
  int code = inflateInit(&stream);
  if (code == Z_OK) {
    code = pump(self, job, &stream, inflate);
    (void)inflateEnd(&stream);
  }
  finish(self, code);
}

static void crc32_work(concur_future_ref *job, void *data) {
  call *self = data;
  self->checksum = crc32(0, NULL, 0);
  for (size_t used = 0; used < self->size && !self->api->cancelled(job); used += BLOCK) {
    size_t left = self->size - used;
    self->checksum = crc32(self->checksum, self->input + used, left < BLOCK ? (uInt)left : BLOCK);
  }
}

/* ---- on the loop's thread ---- */

static int push_output(lua_State *L, void *data) {
  const call *self = data;
  if (self->message != NULL) {
    lua_pushnil(L);
    lua_pushstring(L, self->message);
    return 2;
  }
  lua_pushlstring(L, self->output != NULL ? (const char *)self->output : "", self->output_size);
  return 1;
}

static int push_checksum(lua_State *L, void *data) {
  lua_pushinteger(L, (lua_Integer)((const call *)data)->checksum);
  return 1;
}

/* Submits the work on the string at index 1, and waits. */
static int run(lua_State *L, concur_work_fn work, concur_push_fn done, int level) {
  const concur_api *api = lua_touserdata(L, lua_upvalueindex(1));
  size_t size;
  const char *input = luaL_checklstring(L, 1, &size);
  call *self = malloc(sizeof *self + size);
  if (self == NULL) return luaL_error(L, "not enough memory");
  memset(self, 0, sizeof *self);
  memcpy(self->input, input, size);
  self->size = size;
  self->api = api;
  self->level = level;
  api->submit(L, work, done, call_free, self, NULL);
  return api->join(L, -1, 0, NULL);
}

static int l_compress(lua_State *L) {
  lua_Integer level = luaL_optinteger(L, 2, Z_DEFAULT_COMPRESSION);
  luaL_argcheck(L, level >= -1 && level <= 9, 2, "a level from 0 to 9");
  return run(L, compress_work, push_output, (int)level);
}

static int l_decompress(lua_State *L) {
  return run(L, decompress_work, push_output, 0);
}

static int l_crc32(lua_State *L) {
  return run(L, crc32_work, push_checksum, 0);
}

int luaopen_czlib(lua_State *L);

int luaopen_czlib(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"compress", l_compress}, {"decompress", l_decompress}, {"crc32", l_crc32}, {NULL, NULL}};
  luaL_newlibtable(L, functions);
  lua_pushlightuserdata(L, (void *)(size_t)concur_api_get(L));
  luaL_setfuncs(L, functions, 1);
  return 1;
}
