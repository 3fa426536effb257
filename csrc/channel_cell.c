/* SPDX-License-Identifier: MIT */
/* See channel_cell.h.                                                              [loop thread] */
#include "channel_cell.h"

#include "transfer.h"
#include "worker.h"

/* ---- handles and values ---- */

concur_channel *concur_channel_check(lua_State *L) {
  const concur_channel_handle *self = concur_class_check(L, 1, CONCUR_CLASS_CHANNEL);
  if (self->channel == NULL) luaL_argerror(L, 1, "the channel was finalized");
  concur_runtime_check_fork(L, concur_runtime_of(L));
  return self->channel;
}

void concur_channel_check_value(lua_State *L) {
  luaL_argcheck(L, !lua_isnoneornil(L, 2), 2, "nil cannot be sent through a channel");
  lua_settop(L, 2);
}

concur_parcel *concur_channel_parcel(lua_State *L, int index) {
  concur_encode_options options = {.what = "value", .number = 1};
  const concur_worker *worker = concur_runtime_find(L)->worker;
  if (worker != NULL) options.pins = &worker->memory; /* long strings stay where they are */
  concur_parcel *parcel = concur_parcel_new(concur_encode_with(L, index, 1, &options));
  if (parcel == NULL) luaL_error(L, "not enough memory");
  return parcel;
}

static int l_decode(lua_State *L) {
  const concur_parcel *parcel = lua_touserdata(L, 1);
  return concur_decode(L, concur_parcel_message(parcel));
}

int concur_channel_push(lua_State *L, concur_parcel *parcel) {
  lua_pushcfunction(L, l_decode);
  lua_pushlightuserdata(L, parcel);
  int status = lua_pcall(L, 1, 1, 0);
  concur_parcel_free(parcel);
  return status == LUA_OK ? 1 : lua_error(L);
}

int concur_channel_push_nothing(lua_State *L, const char *kind, const char *text) {
  luaL_pushfail(L);
  concur_error_new(L, concur_runtime_find(L), kind, "%s", text);
  return 2;
}

int concur_channel_push_drained(lua_State *L) {
  return concur_channel_push_nothing(L, "Closed", "the channel is closed");
}

int concur_channel_raise_closed(lua_State *L) {
  return concur_error_raise(L, concur_runtime_find(L), "Closed",
                            "cannot send: the channel is closed");
}

/* ---- cells ---- */

void concur_cell_count(concur_channel_cell *cell, concur_loop *loop) {
  bool shared = cell->owner != NULL && concur_channel_shared(cell->channel);
  if (shared && !cell->holds_loop) loop->external_refs++;
  if (!shared && cell->holds_loop) loop->external_refs--;
  cell->holds_loop = shared;
}

void concur_cell_forget(concur_channel_cell *cell, concur_loop *loop) {
  cell->owner = NULL;
  if (cell->holds_loop && loop != NULL) loop->external_refs--;
  cell->holds_loop = false;
}

concur_channel_cell *concur_cell_of_mail(concur_mail *mail) {
  return concur_container_of(mail, concur_channel_cell, mail);
}

static concur_channel_cell *cell_of_recount(concur_mail *mail) {
  return concur_container_of(mail, concur_channel_cell, recount);
}

static void on_recount(concur_mail *mail, void *owner) {
  concur_channel_cell *cell = cell_of_recount(mail);
  concur_cell_recounted(cell);
  concur_cell_count(cell, owner);
  concur_cell_release(cell);
}

static void on_recount_dropped(concur_mail *mail) {
  concur_cell_release(cell_of_recount(mail));
}

/* [any thread] The state that waited is closed: what it received goes to the next one. */
static void on_over_dropped(concur_mail *mail) {
  concur_channel_cell *cell = concur_cell_of_mail(mail);
  (void)concur_cell_withdraw(cell, true);
  concur_cell_release(cell);
}

concur_channel_cell *concur_cell_make(lua_State *L, concur_channel *channel, concur_loop *loop,
                                      void (*deliver)(concur_mail *mail, void *owner)) {
  concur_channel_cell *cell = concur_cell_new(channel, loop->mailbox);
  if (cell == NULL) {
    if (L != NULL) luaL_error(L, "not enough memory");
    return NULL;
  }
  cell->mail.deliver = deliver;
  cell->mail.drop = on_over_dropped;
  cell->recount.deliver = on_recount;
  cell->recount.drop = on_recount_dropped;
  return cell;
}

/* ---- what came ---- */

int concur_channel_recv_finish(lua_State *L, concur_channel_cell *cell) {
  concur_parcel *parcel = cell->parcel;
  cell->parcel = NULL;
  concur_cell_release(cell);
  return parcel != NULL ? concur_channel_push(L, parcel) : concur_channel_push_drained(L);
}
