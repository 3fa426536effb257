/* SPDX-License-Identifier: MIT */
/*
 * See process.h.
 *
 * With a pidfd libuv's own handle is closed as soon as the child runs: libuv is only the one who
 * starts it.  Then a child is reaped by `process_reap` alone, so that its id stays its own until
 * then, and sending a signal cannot meet a stranger.
 *
 * Ending a group: TERM to all of it; when its leader has ended, looks every few milliseconds whether
 * others are left; KILL to them when the grace time is over.
 */
#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "disposition.h"
#include "platform.h"
#include "run.h"

enum {
  FIRST_LOOK_MS = 2,     /* between two looks at a group that ends, at first */
  LONGEST_LOOK_MS = 128, /* and later */
  CLOSE_GRACE_MS = 5000, /* closing: the longest grace time */
  KILL_WAIT_MS = 2000    /* how long what was killed may take to be gone */
};

#define NS_PER_MS UINT64_C(1000000)

static atomic_bool without_pidfd;

void concur_process_use_pidfd(bool use) {
  atomic_store(&without_pidfd, !use);
}

/* ---- what the system offers ---- */

static int pidfd_open_of(int pid) {
#if defined(__linux__) && defined(SYS_pidfd_open)
  if (atomic_load(&without_pidfd)) return -1;
  return (int)syscall(SYS_pidfd_open, pid, 0); /* closed on exec */
#else
  (void)pid;
  return -1;
#endif
}

/* As it was opened, without libc: ThreadSanitizer follows descriptors through the functions of libc,
   and would take this one for another that libuv has closed by a system call. */
static void pidfd_close(concur_process *process) {
#if defined(__linux__) && defined(SYS_pidfd_open)
  if (process->pidfd >= 0) (void)syscall(SYS_close, process->pidfd);
#endif
  process->pidfd = -1;
}

static int send_signal(const concur_process *process, int number) {
#if defined(__linux__) && defined(SYS_pidfd_send_signal)
  if (process->pidfd >= 0) {
    return syscall(SYS_pidfd_send_signal, process->pidfd, number, NULL, 0) == 0 ? 0 : -errno;
  }
#endif
  return kill(process->pid, number) == 0 ? 0 : -errno;
}

/* ---- memory ---- */

static void free_when_unused(concur_process *process) {
  if (process->released && process->handles == 0) free(process);
}

static void on_closed(uv_handle_t *handle) {
  concur_process *process = handle->data;
  process->handles--;
  free_when_unused(process);
}

static void close_handle(uv_handle_t *handle) {
  if (handle->data != NULL && !uv_is_closing(handle)) uv_close(handle, on_closed);
}

/* Nothing is left to wait for: from here on the owner, or a close callback, frees it. */
static void process_forget(concur_process *process) {
  process->state = CONCUR_PROCESS_GONE;
  concur_node_unlink(&process->node);
  close_handle((uv_handle_t *)&process->uv);
  close_handle((uv_handle_t *)&process->poll);
  close_handle((uv_handle_t *)&process->timer);
  pidfd_close(process);
}

static void process_told(concur_process *process) {
  if (process->released || process->loop->closing || process->on_change == NULL) return;
  process->on_change(process);
}

static void process_gone(concur_process *process) {
  process_forget(process);
  process_told(process);
}

/* ---- the end of a group ---- */

/* Sends a signal to all that is left of the group; false when nothing is. */
static bool group_signal(const concur_process *process, int number) {
  return kill(-process->pid, number) == 0 || errno == EPERM;
}

/* The state and the group of the process in a line of /proc/<id>/stat; false when it is gone. */
static bool read_stat(const char *id, char *state, int *group) {
  char path[64];
  char line[512]; /* the name, in parentheses, is short but may contain anything */
  (void)snprintf(path, sizeof path, "/proc/%s/stat", id);
  FILE *file = fopen(path, "re");
  if (file == NULL) return false;
  size_t length = fread(line, 1, sizeof line - 1, file);
  (void)fclose(file);
  line[length] = '\0';
  const char *name_end = strrchr(line, ')');
  /* NOLINTNEXTLINE(cert-err34-c): the kernel wrote an int there */
  return name_end != NULL && sscanf(name_end + 1, " %c %*d %d", state, group) == 2;
}

/* Zombies still count for kill(2), and some inits are slow to reap what they were handed.  True when
   it is sure that nothing else is left of the group. */
static bool only_zombies(int group) {
  DIR *proc = opendir("/proc");
  if (proc == NULL) return false;
  bool living = false;
  bool readable = false; /* not so where /proc is something else, or empty */
  const struct dirent *entry;
  /* NOLINTNEXTLINE(concurrency-mt-unsafe): nobody else reads this directory stream */
  while (!living && (entry = readdir(proc)) != NULL) {
    char state;
    int its_group;
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    if (!read_stat(entry->d_name, &state, &its_group)) continue;
    readable = true;
    living = its_group == group && state != 'Z' && state != 'X';
  }
  (void)closedir(proc);
  return readable && !living;
}

/* True while processes of the group are left.  Those that were handed to this process (where it is
   the init of its container) are reaped. */
static bool group_lives(const concur_process *process) {
  while (waitpid(-process->pid, NULL, WNOHANG) > 0) continue;
  return group_signal(process, 0);
}

static void on_group_look(uv_timer_t *timer);

/* Looking costs more the more processes the system has: ever more seldom. */
static void look_later(concur_process *process) {
  (void)uv_timer_start(&process->timer, on_group_look, process->look_ms, 0);
  if (process->look_ms < LONGEST_LOOK_MS) process->look_ms *= 2;
}

static void on_group_look(uv_timer_t *timer) {
  concur_process *process = timer->data;
  bool lives = group_lives(process) && !only_zombies(process->pid);
  uint64_t now = uv_hrtime();
  if (lives && now >= process->kill_at_ns && !process->killed) {
    (void)group_signal(process, SIGKILL);
    process->killed = true;
    process->kill_at_ns = now + KILL_WAIT_MS * NS_PER_MS;
    process->look_ms = FIRST_LOOK_MS;
  }
  if (lives && now < process->kill_at_ns) {
    look_later(process);
  } else {
    process_gone(process);
  }
}

/* The leader was reaped while its group is being ended. */
static void process_reaped(concur_process *process) {
  if (process->own_group && process->ending && group_lives(process)) {
    process->look_ms = FIRST_LOOK_MS;
    look_later(process);
  } else {
    process_gone(process);
  }
}

/* ---- an exit is noticed ---- */

/* Looks whether the child has ended; with `keep` it stays a zombie. */
static bool look_at(concur_process *process, bool keep) {
  siginfo_t info;
  info.si_pid = 0;
  int result;
  do {
    result = waitid(P_PID, (id_t)process->pid, &info, WEXITED | WNOHANG | (keep ? WNOWAIT : 0));
  } while (result != 0 && errno == EINTR);
  if (result == 0 && info.si_pid == 0) return false;
  process->code = -1;
  if (result != 0) {
    process->status_lost = true;
  } else if (info.si_code == CLD_EXITED) {
    process->code = info.si_status;
  } else {
    process->signal = info.si_status;
  }
  return true;
}

/* The child was held: reaps it, if libuv has not done so. */
static void process_reap(concur_process *process) {
  while (process->pidfd >= 0 && waitpid(process->pid, NULL, WNOHANG) < 0 && errno == EINTR) continue;
  process->hold = false;
  process_reaped(process);
}

static void on_pidfd(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  concur_process *process = poll->data;
  bool hold = process->hold && !process->ending;
  if (!look_at(process, hold)) return;
  close_handle((uv_handle_t *)poll);
  process->state = CONCUR_PROCESS_ENDED;
  process->hold = hold;
  process_told(process);
  if (!hold) process_reaped(process);
}

/* Without pidfd; libuv has reaped the child. */
static void on_uv_exit(uv_process_t *handle, int64_t code, int number) {
  concur_process *process = handle->data;
  process->code = number == 0 ? (int)code : -1;
  process->signal = number;
  process->hold = process->hold && !process->ending && group_lives(process);
  process->state = CONCUR_PROCESS_ENDED;
  close_handle((uv_handle_t *)handle);
  process_told(process);
  if (!process->hold) process_reaped(process);
}

/* ---- starting ---- */

/* True when the process is watched through a pidfd, and libuv can forget it. */
static bool watch_pidfd(concur_process *process) {
  process->pidfd = pidfd_open_of(process->pid);
  if (process->pidfd < 0) return false;
  if (uv_poll_init(&process->loop->uv, &process->poll, process->pidfd) == 0) {
    process->poll.data = process;
    process->handles++;
    if (uv_poll_start(&process->poll, UV_READABLE, on_pidfd) == 0) return true;
    close_handle((uv_handle_t *)&process->poll);
  }
  pidfd_close(process);
  return false;
}

static int process_start(concur_process *process, const uv_process_options_t *options) {
  concur_loop *loop = process->loop;
  concur_platform_hold_standard_streams(); /* or libuv's pipes might become one */
  concur_disposition_spawn_begin();
  int error = uv_spawn(&loop->uv, &process->uv, options);
  process->uv.data = process;
  process->handles++;
  bool forget = error != 0;
  if (error == 0) {
    process->pid = process->uv.pid;
    forget = watch_pidfd(process);
  }
  if (forget) close_handle((uv_handle_t *)&process->uv);
  concur_disposition_spawn_end(forget);
  return error;
}

static void fill_options(uv_process_options_t *uv, const concur_process_options *options,
                         uv_stdio_container_t *stdio) {
  for (int i = 0; i < options->fd_count; i++) {
    stdio[i].flags = options->fds[i] >= 0 ? UV_INHERIT_FD : UV_IGNORE;
    stdio[i].data.fd = options->fds[i];
  }
  *uv = (uv_process_options_t){
      .exit_cb = on_uv_exit,
      .file = options->file,
      .args = options->args,
      .env = options->env,
      .cwd = options->cwd,
      .stdio_count = options->fd_count,
      .stdio = stdio,
  };
  if (options->own_group || options->detached) uv->flags |= UV_PROCESS_DETACHED;
  if (options->uid >= 0) {
    uv->flags |= UV_PROCESS_SETUID;
    uv->uid = (uv_uid_t)options->uid;
  }
  if (options->gid >= 0) {
    uv->flags |= UV_PROCESS_SETGID;
    uv->gid = (uv_gid_t)options->gid;
  }
}

static concur_process *process_new(concur_loop *loop, const concur_process_options *options) {
  concur_process *process = calloc(1, sizeof *process);
  if (process == NULL) return NULL;
  if (uv_timer_init(&loop->uv, &process->timer) != 0) {
    free(process);
    return NULL;
  }
  process->loop = loop;
  process->pidfd = -1;
  process->code = -1;
  process->own_group = options->own_group || options->detached;
  process->detached = options->detached;
  process->hold = options->hold && process->own_group;
  process->grace_ns = options->grace_ns;
  process->timer.data = process;
  process->handles = 1;
  concur_list_append(&loop->processes, &process->node);
  return process;
}

int concur_process_spawn(concur_loop *loop, const concur_process_options *options,
                         concur_process **result) {
  uv_stdio_container_t *stdio = calloc((size_t)options->fd_count, sizeof *stdio);
  concur_process *process = stdio != NULL ? process_new(loop, options) : NULL;
  int error = UV_ENOMEM;
  if (process != NULL) {
    uv_process_options_t uv;
    fill_options(&uv, options, stdio);
    error = process_start(process, &uv);
  }
  free(stdio);
  if (error == 0) {
    *result = process;
  } else if (process != NULL) {
    process_forget(process);
    concur_process_release(process);
  }
  return error;
}

/* ---- ending ---- */

int concur_process_kill(concur_process *process, int number) {
  return process->state == CONCUR_PROCESS_RUNNING ? send_signal(process, number) : UV_ESRCH;
}

/* To the process, with own_group to all of it.  It was not reaped, or its group is being ended. */
static void signal_all(const concur_process *process, int number) {
  if (process->own_group) {
    (void)group_signal(process, number);
  } else if (process->state == CONCUR_PROCESS_RUNNING) {
    (void)send_signal(process, number);
  }
}

static void on_grace_over(uv_timer_t *timer) {
  concur_process *process = timer->data;
  signal_all(process, SIGKILL); /* its exit follows */
}

/* Waits for the exit of the leader at most until kill_at_ns. */
static void arm_kill(concur_process *process) {
  if (process->kill_at_ns == CONCUR_NEVER) return;
  uint64_t now = uv_hrtime();
  uint64_t left = process->kill_at_ns > now ? process->kill_at_ns - now : 0;
  uv_update_time(&process->loop->uv);
  (void)uv_timer_start(&process->timer, on_grace_over, (left + NS_PER_MS - 1) / NS_PER_MS, 0);
}

static void process_end(concur_process *process, uint64_t grace_ns) {
  bool running = process->state == CONCUR_PROCESS_RUNNING;
  uint64_t now = uv_hrtime();
  uint64_t kill_at = grace_ns < CONCUR_NEVER - now ? now + grace_ns : CONCUR_NEVER;
  if (!running && !process->hold && !process->ending) return; /* on its way to be gone */
  if (process->ending && kill_at >= process->kill_at_ns) return;
  if (!process->ending) signal_all(process, grace_ns == 0 ? SIGKILL : SIGTERM);
  process->ending = true;
  process->kill_at_ns = kill_at;
  if (running) {
    arm_kill(process);
  } else if (process->hold) {
    process_reap(process);
  }
}

void concur_process_end(concur_process *process) {
  process_end(process, process->grace_ns);
}

void concur_process_end_now(concur_process *process) {
  process_end(process, 0);
}

void concur_process_ref(concur_process *process, bool ref) {
  bool polled = process->pidfd >= 0;
  uv_handle_t *watcher = polled ? (uv_handle_t *)&process->poll : (uv_handle_t *)&process->uv;
  if (process->state == CONCUR_PROCESS_GONE) return;
  if (ref) {
    uv_ref(watcher);
  } else {
    uv_unref(watcher);
  }
}

void concur_process_let_go(concur_process *process) {
  if (process->state == CONCUR_PROCESS_ENDED && process->hold) process_reap(process);
}

void concur_process_release(concur_process *process) {
  process->released = true;
  if (process->state == CONCUR_PROCESS_GONE) {
    free_when_unused(process);
  } else if (process->detached) { /* its end is still noticed, but nobody waits for it */
    concur_process_ref(process, false);
  } else {
    process_end(process, process->grace_ns);
  }
}

/* ---- the loop closes ---- */

/* Libuv's callbacks do not run any more: looks by itself. */
static bool is_gone_now(concur_process *process) {
  if (process->state == CONCUR_PROCESS_RUNNING && look_at(process, false)) {
    process->state = CONCUR_PROCESS_ENDED;
  }
  return process->state == CONCUR_PROCESS_ENDED &&
         !(process->own_group && group_lives(process) && !only_zombies(process->pid));
}

/* Forgets those that are gone; KILL to those whose time is over, and with `kill_all` to the others.
   True when none is left. */
static bool close_round(concur_loop *loop, bool kill_all) {
  uint64_t now = uv_hrtime();
  for (concur_node *node = loop->processes.next; node != &loop->processes;) {
    concur_process *process = concur_container_of(node, concur_process, node);
    node = node->next;
    if (is_gone_now(process)) {
      process_forget(process);
    } else if (!process->killed && (kill_all || now >= process->kill_at_ns)) {
      process->killed = true;
      signal_all(process, SIGKILL);
    }
  }
  return concur_list_empty(&loop->processes);
}

static bool close_until(concur_loop *loop, uint64_t deadline_ns, bool kill_all) {
  unsigned pause_ms = 1;
  while (!close_round(loop, kill_all)) {
    if (uv_hrtime() >= deadline_ns) return false;
    uv_sleep(pause_ms);
    if (pause_ms < 8) pause_ms *= 2;
  }
  return true;
}

void concur_process_close(concur_loop *loop) {
  for (concur_node *node = loop->processes.next; node != &loop->processes;) {
    concur_process *process = concur_container_of(node, concur_process, node);
    node = node->next;
    if (process->detached) {
      process_forget(process);
    } else {
      concur_process_end(process);
    }
  }
  if (close_until(loop, uv_hrtime() + CLOSE_GRACE_MS * NS_PER_MS, false)) return;
  (void)close_until(loop, uv_hrtime() + KILL_WAIT_MS * NS_PER_MS, true);
  while (!concur_list_empty(&loop->processes)) {
    /* GCOVR_EXCL_START: not even KILL ends it (its disk does not answer): the system's to reap */
    process_forget(concur_container_of(loop->processes.next, concur_process, node));
    /* GCOVR_EXCL_STOP */
  }
}
