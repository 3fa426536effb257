/* SPDX-License-Identifier: MIT */
/*
 * concur.dns: getaddrinfo and getnameinfo as jobs without Lua, on a pool of their own, so that a
 * lookup neither waits behind long jobs nor keeps them waiting.
 *
 * The pool (a few threads, which end when they are idle) is made for the first lookup of a loop
 * that needs one and ends with the loop.  The system's functions cannot be interrupted: who is
 * cancelled goes on at once, and the thread finishes for nobody.  A thread that is still busy when
 * the loop closes is detached; its job frees itself.
 *
 * A lookup is a job with two references: one travels with it (pool.h), the other is held (holding.h)
 * for the box, a userdata on the stack of the task that waits.  It is given back when that has its
 * answer; if it never runs again (its coroutine was closed by a stranger), when the box is collected.
 *                                                       [loop thread, where nothing else is said]
 */
#include "dns.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>

#include "fiber.h"
#include "holding.h"
#include "options.h"
#include "platform.h"
#include "pool.h"

enum { DNS_THREADS = 8 };

#define DNS_IDLE_NS UINT64_C(5000000000)
/* How long a closing loop waits for lookups that run. */
#define DNS_CLOSE_NS UINT64_C(100000000)

typedef struct lookup lookup;

/* The userdata; scripts never see it. */
typedef struct box {
  concur_holding *holding; /* owned; of the lookup, or of nothing once that was given back */
} box;

struct lookup {
  concur_job job;
  concur_holding *holding; /* borrowed: of the box's reference; NULL once that was given back */
  concur_fiber *fiber; /* parked on this; NULL: nobody waits (any more) */
  bool reverse;
  /* The question; not changed while the job is on its way. */
  bool has_host, has_service;
  struct addrinfo hints;
  struct sockaddr_storage address; /* reverse */
  socklen_t address_size;
  char host[NI_MAXHOST]; /* reverse: the answer */
  char service[NI_MAXSERV];
  /* The answer. */
  int error;                 /* of getaddrinfo or getnameinfo */
  int error_number;          /* errno with it */
  struct addrinfo *found[2]; /* owned; NULL: no more */
};

/* One per loop. */
typedef struct concur_dns {
  concur_pool *pool; /* one reference; NULL until it is needed */
} concur_dns;

/* ---- errors ---- */

/* libuv's name for an error of the resolver. */
static int uv_error_of(int error, int error_number) {
  switch (error) {
  case EAI_AGAIN: return UV_EAI_AGAIN;
  case EAI_BADFLAGS: return UV_EAI_BADFLAGS;
  case EAI_FAIL: return UV_EAI_FAIL;
  case EAI_FAMILY: return UV_EAI_FAMILY;
  case EAI_MEMORY: return UV_EAI_MEMORY;
  case EAI_SERVICE: return UV_EAI_SERVICE;
  case EAI_SOCKTYPE: return UV_EAI_SOCKTYPE;
  case EAI_OVERFLOW: return UV_EAI_OVERFLOW;
  case EAI_SYSTEM: return error_number != 0 ? -error_number : UV_EAI_FAIL;
  default: return UV_EAI_NONAME; /* EAI_NODATA, EAI_ADDRFAMILY: there is none such either */
  }
}

static int push_error(lua_State *L, const concur_runtime *runtime, const lookup *self) {
  const char *call = self->reverse ? "reverse" : "resolve";
  const char *subject = self->has_host ? self->host : self->service;
  return concur_os_error(L, runtime, uv_error_of(self->error, self->error_number), call, "address",
                         subject);
}

/* ---- results ---- */

/* Pushes {address=, family=, port=, type=}, or nothing for a family that is not of the internet. */
static bool push_entry(lua_State *L, const struct addrinfo *each) {
  char address[NI_MAXHOST], port[NI_MAXSERV];
  if (each->ai_family != AF_INET && each->ai_family != AF_INET6) return false;
  if (getnameinfo(each->ai_addr, each->ai_addrlen, address, sizeof address, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return false; /* GCOVR_EXCL_LINE: numbers need no lookup that could fail */
  }
  lua_createtable(L, 0, 4);
  lua_pushstring(L, address);
  lua_setfield(L, -2, "address");
  lua_pushstring(L, each->ai_family == AF_INET ? "inet" : "inet6");
  lua_setfield(L, -2, "family");
  lua_pushinteger(L, strtol(port, NULL, 10));
  lua_setfield(L, -2, "port");
  lua_pushstring(L, each->ai_socktype == SOCK_DGRAM ? "udp" : "tcp");
  lua_setfield(L, -2, "type");
  return true;
}

/* Appends entries to the list on top of the stack. */
static void append_entries(lua_State *L, const struct addrinfo *found) {
  lua_Integer count = (lua_Integer)lua_rawlen(L, -1);
  for (const struct addrinfo *each = found; each != NULL; each = each->ai_next) {
    if (push_entry(L, each)) lua_rawseti(L, -2, ++count);
  }
}

static int push_results(lua_State *L, const concur_runtime *runtime, const lookup *self) {
  if (self->error != 0) return push_error(L, runtime, self);
  if (self->reverse) {
    lua_pushstring(L, self->host);
    return 1;
  }
  lua_newtable(L);
  for (int i = 0; i < 2; i++) append_entries(L, self->found[i]);
  return 1;
}

/* ---- the job ---- */

static lookup *lookup_of(concur_job *job) {
  return concur_container_of(job, lookup, job);
}

static void lookup_free(concur_job *job) {
  lookup *self = lookup_of(job);
  for (int i = 0; i < 2; i++) {
    if (self->found[i] != NULL) freeaddrinfo(self->found[i]);
  }
  free(self);
}

/* [pool thread] */
static void lookup_run(concur_job *job, concur_thread *thread) {
  (void)thread;
  lookup *self = lookup_of(job);
  errno = 0;
  if (self->reverse) {
    self->error = getnameinfo((const struct sockaddr *)&self->address, self->address_size,
                              self->host, sizeof self->host, NULL, 0, NI_NAMEREQD);
  } else {
    self->error =
        getaddrinfo(self->has_host ? self->host : NULL, self->has_service ? self->service : NULL,
                    &self->hints, &self->found[0]);
  }
  self->error_number = errno;
}

/* ---- what the fiber has of it ---- */

/* The fiber does not wait any more. */
static void lookup_leave(lookup *self) {
  self->fiber->scheduler->loop->external_refs--;
  self->fiber = NULL;
}

/* The holding ends, which its box may do before or after. */
static void lookup_release(void *object) {
  lookup *self = object;
  self->holding = NULL;
  concur_job_release(&self->job);
}

/* Nobody needs it any more on this side. */
static void lookup_forget(lookup *self) {
  if (self->holding == NULL) return;
  self->holding->object = NULL;
  lookup_release(self);
}

static int l_gc(lua_State *L) {
  box *owner = concur_class_test(L, 1, CONCUR_CLASS_LOOKUP);
  if (owner == NULL) return 0;
  concur_holding_end(owner->holding);
  owner->holding = NULL;
  return 0;
}

static void on_answer(concur_mail *mail, void *owner) {
  (void)owner;
  lookup *self = lookup_of(concur_container_of(mail, concur_job, mail));
  concur_fiber *fiber = self->fiber;
  if (fiber != NULL) {
    lookup_leave(self);
    concur_fiber_wake(fiber, CONCUR_OUTCOME_VALUE);
  }
  concur_job_release(&self->job);
}

/* [any thread] */
static void on_dropped(concur_mail *mail) {
  concur_job_release(concur_container_of(mail, concur_job, mail));
}

static bool on_abort(concur_fiber *fiber) {
  lookup *self = fiber->target;
  if (concur_job_cancel(&self->job) == CONCUR_JOB_TAKEN_OFF) concur_job_release(&self->job);
  lookup_leave(self);
  lookup_forget(self);
  return true;
}

static void on_detach(concur_fiber *fiber) {
  (void)on_abort(fiber);
}

static const concur_wait wait_resolve = {
    .name = "dns.resolve", .abort = on_abort, .detach = on_detach};
static const concur_wait wait_reverse = {
    .name = "dns.reverse", .abort = on_abort, .detach = on_detach};

static int lookup_finish(lua_State *L, concur_fiber *fiber, lookup *self) {
  int count = push_results(L, fiber->scheduler->runtime, self);
  lookup_forget(self);
  return count;
}

static int lookup_ready(lua_State *L, concur_fiber *fiber) {
  return lookup_finish(L, fiber, fiber->target);
}

/* ---- the lookups of a loop ---- */

/* The loop closes; its mailbox is still open. */
static void dns_free(concur_dns *dns) {
  if (dns->pool != NULL) {
    concur_pool_close(dns->pool, true);
    if (concur_pool_join(dns->pool, DNS_CLOSE_NS) > 0) concur_pool_detach(dns->pool);
    concur_pool_release(dns->pool);
  }
  free(dns);
}

static concur_dns *dns_of(lua_State *L, concur_loop *loop) {
  if (loop->dns != NULL) return loop->dns;
  concur_dns *dns = calloc(1, sizeof *dns);
  if (dns == NULL) luaL_error(L, "not enough memory");
  loop->dns = dns;
  loop->dns_free = dns_free;
  concur_taken(dns); /* by the loop */
  return dns;
}

/* The pool, or NULL when out of memory. */
static concur_pool *dns_pool(concur_dns *dns) {
  const concur_pool_settings settings = {.workers = DNS_THREADS,
                                         .thread_cap = DNS_THREADS,
                                         .cores = 1, /* nobody spins */
                                         .idle_ns = DNS_IDLE_NS};
  if (dns->pool == NULL) dns->pool = concur_pool_new(&settings);
  if (dns->pool != NULL) concur_pool_reap(dns->pool);
  return dns->pool;
}

/* A new lookup; pushes its box.  Raises. */
static lookup *lookup_new(lua_State *L, concur_fiber *fiber) {
  concur_loop *loop = fiber->scheduler->loop;
  (void)dns_of(L, loop);
  concur_runtime *runtime = fiber->scheduler->runtime;
  box *owner = concur_class_new(L, runtime, CONCUR_CLASS_LOOKUP, sizeof *owner, 0);
  owner->holding = concur_holding_new(L, runtime, lookup_release);
  lookup *self = calloc(1, sizeof *self);
  if (self == NULL) luaL_error(L, "not enough memory");
  concur_job_init(&self->job, NULL, loop->mailbox);
  self->job.run = lookup_run;
  self->job.free = lookup_free;
  self->job.mail.deliver = on_answer;
  self->job.mail.drop = on_dropped;
  self->holding = owner->holding;
  self->holding->object = self;
  concur_taken(self); /* by the holding */
  return self;
}

/* Gives the lookup to a thread and waits for it. */
static int lookup_send(lua_State *L, concur_fiber *fiber, lookup *self, const concur_wait *wait) {
  concur_loop *loop = fiber->scheduler->loop;
  concur_pool *pool = dns_pool(loop->dns);
  if (pool == NULL) return luaL_error(L, "not enough memory");
  concur_node batch;
  concur_list_init(&batch);
  concur_list_append(&batch, &self->job.node);
  self->job.pool = pool;
  concur_job_retain(&self->job);
  int error = concur_pool_publish(pool, &batch, 1);
  if (error != 0) { /* no thread could be started */
    concur_node_unlink(&self->job.node);
    concur_job_release(&self->job);
    self->error = EAI_SYSTEM;
    self->error_number = -error;
    return lookup_finish(L, fiber, self);
  }
  self->fiber = fiber;
  loop->external_refs++;
  return concur_fiber_park(L, fiber, wait, self, lookup_ready);
}

/* ---- resolve ---- */

/* The frame, once the arguments are checked; the first two may be nil. */
enum { HOST = 1, SERVICE, FAMILY, TYPE, FLAGS };

static bool is_number(const char *service) {
  return service[strspn(service, "0123456789")] == '\0';
}

/* Asks without looking anything up; false when that is not enough. */
static bool resolve_at_once(lookup *self) {
  const char *service = self->has_service ? self->service : NULL;
  const char *names[2] = {self->has_host ? self->host : NULL, NULL};
  int count = 1;
  if (service != NULL && !is_number(service)) return false;
  if (!self->reverse && self->has_host && strcasecmp(self->host, "localhost") == 0) {
    names[0] = "127.0.0.1";
    names[1] = "::1";
    count = 2;
  }
  struct addrinfo hints = self->hints;
  hints.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
  int found = 0;
  for (int i = 0; i < count; i++) {
    self->error = getaddrinfo(names[i], service, &hints, &self->found[found]);
    if (self->error == 0) found++;
  }
  self->error_number = errno;
  if (found > 0) self->error = 0;
  return self->error != EAI_NONAME || (self->hints.ai_flags & AI_NUMERICHOST) != 0;
}

static bool copy_string(lua_State *L, int index, char *out, size_t size) {
  const char *text = lua_tostring(L, index);
  if (text != NULL) (void)snprintf(out, size, "%s", text);
  return text != NULL;
}

static int resolve_body(lua_State *L, concur_fiber *fiber) {
  lookup *self = lookup_new(L, fiber);
  self->has_host = copy_string(L, HOST, self->host, sizeof self->host);
  self->has_service = copy_string(L, SERVICE, self->service, sizeof self->service);
  self->hints.ai_family = (int)lua_tointeger(L, FAMILY);
  self->hints.ai_socktype = (int)lua_tointeger(L, TYPE);
  self->hints.ai_flags = (int)lua_tointeger(L, FLAGS);
  if (resolve_at_once(self)) return lookup_finish(L, fiber, self);
  return lookup_send(L, fiber, self, &wait_resolve);
}

/* A name at `index` (or nil) that fits into `size` bytes. */
static void check_name(lua_State *L, int index, size_t size) {
  if (lua_isnoneornil(L, index)) return;
  size_t length;
  const char *name = luaL_checklstring(L, index, &length);
  luaL_argcheck(L, strlen(name) == length, index, "the name contains a zero byte");
  luaL_argcheck(L, length < size, index, "the name is too long");
}

/* Argument 2: a port, a service's name, or nil; becomes a string or nil. */
static void check_service(lua_State *L) {
  if (lua_type(L, 2) == LUA_TNUMBER) {
    lua_Integer port = luaL_checkinteger(L, 2);
    luaL_argcheck(L, port >= 0 && port <= 65535, 2, "port out of range");
    lua_pushinteger(L, port); /* 80.0 is 80 */
    lua_tostring(L, -1);
    lua_replace(L, 2);
    return;
  }
  check_name(L, 2, NI_MAXSERV);
  const char *service = lua_tostring(L, 2);
  if (service != NULL && *service != '\0' && is_number(service)) {
    luaL_argcheck(L, strtol(service, NULL, 10) <= 65535, 2, "port out of range");
  }
}

/* The value of option `name`, one of the names (the first if it is not given), as a position. */
static int option_choice(lua_State *L, const char *name, const char *const *names) {
  const char *value = concur_option_value(L, 3, name, LUA_TSTRING) ? lua_tostring(L, -1) : names[0];
  int i = 0;
  while (names[i] != NULL && strcmp(names[i], value) != 0) i++;
  if (names[i] == NULL) {
    luaL_argerror(L, 3, lua_pushfstring(L, "option '%s': '%s' is not possible", name, value));
  }
  lua_pop(L, 1);
  return i;
}

static int option_flag(lua_State *L, const char *name, int flag) {
  bool set = concur_option_value(L, 3, name, LUA_TBOOLEAN) && lua_toboolean(L, -1);
  lua_pop(L, 1);
  return set ? flag : 0;
}

static int l_resolve(lua_State *L) { /* host, service, options */
  static const char *const options[] = {"family", "type", "passive", "numeric", NULL};
  static const char *const families[] = {"any", "inet", "inet6", NULL};
  static const int family_values[] = {AF_UNSPEC, AF_INET, AF_INET6};
  static const char *const types[] = {"tcp", "udp", NULL};
  static const int type_values[] = {SOCK_STREAM, SOCK_DGRAM};
  lua_settop(L, 3);
  check_name(L, 1, NI_MAXHOST);
  check_service(L);
  luaL_argcheck(L, !lua_isnil(L, 1) || !lua_isnil(L, 2), 1, "a host or a service expected");
  int family = AF_UNSPEC, type = SOCK_STREAM, flags = 0;
  if (!lua_isnil(L, 3)) {
    luaL_checktype(L, 3, LUA_TTABLE);
    concur_check_options(L, 3, options);
    family = family_values[option_choice(L, "family", families)];
    type = type_values[option_choice(L, "type", types)];
    flags = option_flag(L, "passive", AI_PASSIVE) | option_flag(L, "numeric", AI_NUMERICHOST);
  }
  lua_settop(L, 2);
  lua_pushinteger(L, family);
  lua_pushinteger(L, type);
  lua_pushinteger(L, flags);
  return concur_fiber_begin(L, resolve_body);
}

/* ---- reverse ---- */

static int reverse_body(lua_State *L, concur_fiber *fiber) {
  lookup *self = lookup_new(L, fiber);
  self->reverse = true;
  self->has_host = copy_string(L, 1, self->host, sizeof self->host);
  self->hints.ai_socktype = SOCK_STREAM;
  self->hints.ai_flags = AI_NUMERICHOST;
  if (!resolve_at_once(self) || self->error != 0) {
    self->error = EAI_SYSTEM;
    self->error_number = EINVAL; /* no address */
    return lookup_finish(L, fiber, self);
  }
  self->address_size = self->found[0]->ai_addrlen;
  memcpy(&self->address, self->found[0]->ai_addr, self->address_size);
  return lookup_send(L, fiber, self, &wait_reverse);
}

static int l_reverse(lua_State *L) { /* address */
  (void)luaL_checkstring(L, 1);
  check_name(L, 1, NI_MAXHOST);
  lua_settop(L, 1);
  return concur_fiber_begin(L, reverse_body);
}

void concur_dns_open(lua_State *L, concur_runtime *runtime) {
  const luaL_Reg functions[] = {{"resolve", l_resolve}, {"reverse", l_reverse}, {NULL, NULL}};
  const luaL_Reg methods[] = {{NULL, NULL}};
  const luaL_Reg metamethods[] = {{"__gc", l_gc}, {NULL, NULL}};
  concur_class_define(L, runtime, CONCUR_CLASS_LOOKUP, "concur.Lookup", methods, metamethods);
  concur_register(L, runtime, functions);
}
