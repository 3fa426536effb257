/* SPDX-License-Identifier: MIT */
/* See disposition.h.  `lock` guards what is not atomic; the handler reads atomics only. */
#include "disposition.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <pthread.h>
#include <unistd.h>
#endif

#include "platform.h"

/* ---- the handler and what it reads ---- */

typedef struct waker {
  struct waker *next;          /* written once */
  _Atomic(uv_async_t *) async; /* NULL: the node is free */
} waker;

static _Atomic(waker *) wakers;
static atomic_int handlers; /* that run now, on any thread */
static _Atomic(void (*)(int number)) driver; /* of SIGINT */

typedef struct disposition {
  atomic_uint receivers;
  atomic_uint arrived; /* for receivers: a count */
  atomic_uint taken;   /* the latest of them that a receiver took */
  uint32_t users;      /* guarded: receivers, and the driver */
  atomic_bool nobodys; /* one came when nobody wanted it any more */
  bool installed;      /* guarded */
} disposition;

static disposition table[CONCUR_SIGNAL_LIMIT];

static void wake_receivers(void) {
  for (waker *node = atomic_load(&wakers); node != NULL; node = node->next) {
    uv_async_t *async = atomic_load(&node->async);
    if (async != NULL) (void)uv_async_send(async);
  }
}

static void on_signal(int number) {
  int saved_errno = errno;
  atomic_fetch_add(&handlers, 1);
  disposition *self = &table[number];
  void (*handle)(int) = number == SIGINT ? atomic_load(&driver) : NULL;
  if (atomic_load(&self->receivers) > 0) {
    atomic_fetch_add(&self->arrived, 1);
    wake_receivers();
  } else if (handle != NULL) {
    handle(number);
  } else {
    atomic_store(&self->nobodys, true);
  }
  atomic_fetch_sub(&handlers, 1);
  errno = saved_errno;
}

/* ---- installing it ---- */

static uv_mutex_t lock;
static uv_once_t once = UV_ONCE_INIT;

static void prepare(void);

static void enter(void) {
  uv_once(&once, prepare);
  uv_mutex_lock(&lock);
}

static void leave(void) {
  uv_mutex_unlock(&lock);
}

#ifndef _WIN32

typedef struct sigaction action;
static action host_actions[CONCUR_SIGNAL_LIMIT]; /* guarded; valid while installed */

static bool action_get(int number, action *now) {
  return sigaction(number, NULL, now) == 0;
}

static bool is_function(const action *now) {
  return (now->sa_flags & SA_SIGINFO) != 0 ||
         (now->sa_handler != SIG_IGN && now->sa_handler != SIG_DFL);
}

static bool is_ours(const action *now) {
  return (now->sa_flags & SA_SIGINFO) == 0 && now->sa_handler == on_signal;
}

static bool is_ignored(const action *now) {
  return !is_function(now) && now->sa_handler == SIG_IGN;
}

static bool install(int number) {
  action ours;
  memset(&ours, 0, sizeof ours);
  ours.sa_handler = on_signal;
  ours.sa_flags = SA_RESTART;
  if (number == SIGCHLD) ours.sa_flags |= SA_NOCLDSTOP;
  sigemptyset(&ours.sa_mask);
  return sigaction(number, &ours, &host_actions[number]) == 0;
}

/* Unless somebody has installed another handler meanwhile. */
static void uninstall(int number) {
  action now;
  if (action_get(number, &now) && is_ours(&now)) {
    (void)sigaction(number, &host_actions[number], NULL);
  }
}

/* In a child that the host forks, no loop is there to receive signals: it gets the host's actions.
   Whoever held the lock does not exist there. */
static void on_fork_child(void) {
  for (int number = 1; number < CONCUR_SIGNAL_LIMIT; number++) {
    if (table[number].installed) uninstall(number);
  }
}

static void prepare(void) {
  (void)uv_mutex_init(&lock); /* fails with no memory at the start of the process */
  (void)pthread_atfork(NULL, NULL, on_fork_child);
}

#else

static void prepare(void) {
  (void)uv_mutex_init(&lock);
}

typedef void (*action)(int number);
static action host_actions[CONCUR_SIGNAL_LIMIT];

/* There is no way to look without changing it. */
static bool action_get(int number, action *now) {
  *now = signal(number, SIG_DFL);
  return *now != SIG_ERR && signal(number, *now) != SIG_ERR;
}

static bool is_ignored(const action *now) {
  return *now == SIG_IGN;
}

/* The C runtime resets the action before it calls the handler. */
static void on_signal_again(int number) {
  (void)signal(number, on_signal_again);
  on_signal(number);
}

static bool install(int number) {
  host_actions[number] = signal(number, on_signal_again);
  return host_actions[number] != SIG_ERR;
}

static void uninstall(int number) {
  (void)signal(number, host_actions[number]);
}

#endif

/* To the process, as it came: a thread of the host's may block the signal.  [not locked] */
static void send_again(int number) {
#ifndef _WIN32
  (void)kill(getpid(), number);
#else
  (void)raise(number);
#endif
}

/* Until no handler runs that may have read what was taken away: a handler never waits. */
static void wait_for_handlers(void) {
  while (atomic_load(&handlers) > 0) concur_platform_pause();
}

/* One more user of the signal.  [locked] */
static bool take(int number) {
  disposition *self = &table[number];
  if (!self->installed) {
    if (!install(number)) return false;
    self->installed = true;
  }
  self->users++;
  return true;
}

/* One user less; true when the signal is to be raised again.  [locked] */
static bool give(int number) {
  disposition *self = &table[number];
  if (--self->users > 0) return false;
  uninstall(number);
  self->installed = false;
  wait_for_handlers();
  return atomic_exchange(&self->nobodys, false);
}

/* ---- the driver of SIGINT ---- */

/* The host's own action of SIGINT is to ignore it.  [locked] */
static bool host_ignores_sigint(void) {
  action now;
  if (table[SIGINT].installed) return is_ignored(&host_actions[SIGINT]);
  return !action_get(SIGINT, &now) || is_ignored(&now);
}

bool concur_disposition_drive(void (*handle)(int number)) {
  enter();
  bool taken = false;
  if (!host_ignores_sigint()) {
    atomic_store(&driver, handle);
    taken = take(SIGINT);
    if (!taken) atomic_store(&driver, NULL);
  }
  leave();
  return taken;
}

void concur_disposition_undrive(void) {
  enter();
  atomic_store(&driver, NULL);
  bool again = give(SIGINT);
  leave();
  wait_for_handlers();
  if (again) send_again(SIGINT);
}

/* ---- receivers ---- */

int concur_disposition_receive(int number, uint32_t *arrived) {
  disposition *self = &table[number];
  enter();
  bool first = atomic_load(&self->receivers) == 0;
  bool taken = take(number);
  *arrived = atomic_load(&self->arrived);
  if (taken && first) atomic_store(&self->taken, *arrived);
  if (taken) atomic_fetch_add(&self->receivers, 1);
  leave();
  return taken ? 0 : UV_EINVAL;
}

void concur_disposition_unreceive(int number) {
  disposition *self = &table[number];
  enter();
  bool last = atomic_fetch_sub(&self->receivers, 1) == 1;
  bool again = give(number);
  wait_for_handlers(); /* one may count it for receivers at this moment */
  if (last && atomic_load(&self->arrived) != atomic_load(&self->taken)) again = true;
  leave();
  if (again) send_again(number);
}

uint32_t concur_disposition_arrived(int number) {
  return atomic_load(&table[number].arrived);
}

void concur_disposition_took(int number, uint32_t arrival) {
  unsigned before = atomic_load(&table[number].taken);
  while ((int32_t)(arrival - before) > 0 &&
         !atomic_compare_exchange_weak(&table[number].taken, &before, arrival)) {
    continue; /* GCOVR_EXCL_LINE: two threads take at the same time */
  }
}

bool concur_disposition_wake(uv_async_t *async) {
  enter();
  waker *node = atomic_load(&wakers);
  while (node != NULL && atomic_load(&node->async) != NULL) node = node->next;
  bool made = node == NULL;
  if (made) node = calloc(1, sizeof *node);
  if (node != NULL) {
    atomic_store(&node->async, async);
    if (made) {
      node->next = atomic_load(&wakers);
      atomic_store(&wakers, node);
    }
  }
  leave();
  return node != NULL;
}

void concur_disposition_unwake(uv_async_t *async) {
  enter();
  for (waker *node = atomic_load(&wakers); node != NULL; node = node->next) {
    if (atomic_load(&node->async) == async) atomic_store(&node->async, NULL);
  }
  leave();
  wait_for_handlers();
}

/* ---- SIGCHLD and libuv ---- */

#ifndef _WIN32

static action before_spawn; /* guarded: held from begin to end */
static bool before_known;

void concur_disposition_spawn_begin(void) {
  enter();
  before_known = action_get(SIGCHLD, &before_spawn);
}

void concur_disposition_spawn_end(bool give_back) {
  action now;
  bool replaced = before_known && is_function(&before_spawn) && action_get(SIGCHLD, &now) &&
                  (now.sa_handler != before_spawn.sa_handler);
  if (replaced && give_back) {
    before_spawn.sa_flags &= ~SA_NOCLDWAIT; /* exit statuses must not be thrown away */
    (void)sigaction(SIGCHLD, &before_spawn, NULL);
  }
  leave();
  /* One that came meanwhile has gone to libuv. */
  if (replaced && give_back) send_again(SIGCHLD);
}

#else

void concur_disposition_spawn_begin(void) {
  enter();
}

void concur_disposition_spawn_end(bool give_back) {
  (void)give_back;
  leave();
}

#endif

/* ---- names ---- */

static const struct {
  const char *name;
  int number;
} names[] = {
    {"SIGINT", SIGINT},   {"SIGTERM", SIGTERM}, {"SIGABRT", SIGABRT}, {"SIGFPE", SIGFPE},
    {"SIGILL", SIGILL},   {"SIGSEGV", SIGSEGV},
#ifndef _WIN32
    {"SIGHUP", SIGHUP},   {"SIGQUIT", SIGQUIT}, {"SIGTRAP", SIGTRAP}, {"SIGBUS", SIGBUS},
    {"SIGKILL", SIGKILL}, {"SIGUSR1", SIGUSR1}, {"SIGUSR2", SIGUSR2}, {"SIGPIPE", SIGPIPE},
    {"SIGALRM", SIGALRM}, {"SIGCHLD", SIGCHLD}, {"SIGCONT", SIGCONT}, {"SIGSTOP", SIGSTOP},
    {"SIGTSTP", SIGTSTP}, {"SIGTTIN", SIGTTIN}, {"SIGTTOU", SIGTTOU}, {"SIGURG", SIGURG},
    {"SIGXCPU", SIGXCPU}, {"SIGXFSZ", SIGXFSZ}, {"SIGVTALRM", SIGVTALRM}, {"SIGPROF", SIGPROF},
    {"SIGWINCH", SIGWINCH}, {"SIGIO", SIGIO},   {"SIGSYS", SIGSYS},
#endif
#ifdef SIGPWR
    {"SIGPWR", SIGPWR},
#endif
};

int concur_signal_number(const char *name) {
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (strcmp(names[i].name, name) == 0) return names[i].number;
  }
  return 0;
}

const char *concur_signal_name(int number) {
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    if (names[i].number == number) return names[i].name;
  }
  return NULL;
}
