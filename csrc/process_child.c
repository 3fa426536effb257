/* SPDX-License-Identifier: MIT */
/*
 * One worker process as its pool sees it; see process_pool.h.
 *
 * What goes to the worker lies in `outgoing` until all of it is in the link.  What comes is looked at
 * only in concur_child_collect.  A slot is empty again when its call was answered or taken back; it is
 * used again when the worker is done with its word in the link (CONCUR_SLOT_FREE).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disposition.h"
#include "process_pool.h"

/* How long a worker may live after its end of the link was closed. */
#define LEAVE_NS UINT64_C(2000000000)

/* A result of so many bytes is accepted, however low the limit is: errors must come through. */
static const size_t LEAST_LIMIT = (size_t)1024 * 1024;

/* Pieces of stderr taken at once when a worker has ended: its children may go on writing. */
enum { LAST_READS = 64 };

static const char damage[] = "has damaged the memory that it shares with its pool";

/* It is ended when it is collected. */
static void child_complain(concur_child *child, const char *text) {
  if (child->complaint[0] != '\0') return;
  child->look = true;
  (void)snprintf(child->complaint, sizeof child->complaint, "%s", text);
}

/* ---- stderr ---- */

/* At most CONCUR_STDERR_TAIL bytes. */
static void tail_add(concur_child *child, const char *bytes, size_t size) {
  size_t room = sizeof child->tail - size;
  size_t keep = child->tail_size < room ? child->tail_size : room;
  memmove(child->tail, child->tail + (child->tail_size - keep), keep);
  memcpy(child->tail + keep, bytes, size);
  child->tail_size = keep + size;
}

static void write_all(const char *bytes, size_t size) {
  while (size > 0) {
    ssize_t written = write(STDERR_FILENO, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return; /* nobody reads our own stderr */
    bytes += written;
    size -= (size_t)written;
  }
}

static void stderr_close(concur_child *child) {
  if (child->stderr_fd < 0) return;
  if (child->stderr_handle.uv != NULL) concur_handle_close(&child->stderr_handle);
  (void)close(child->stderr_fd);
  child->stderr_fd = -1;
}

/* Passes on what the worker has written, in at most `reads` pieces. */
static void stderr_pass(concur_child *child, int reads) {
  char bytes[CONCUR_STDERR_TAIL];
  while (child->stderr_fd >= 0 && reads-- > 0) {
    ssize_t got = read(child->stderr_fd, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
      stderr_close(child);
      return;
    }
    tail_add(child, bytes, (size_t)got);
    write_all(bytes, (size_t)got);
  }
}

static void on_stderr(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  concur_child *child = concur_container_of(poll, concur_child, stderr_poll);
  stderr_pass(child, 1);
}

/* ---- starting and freeing ---- */

static void ghost_release(concur_child_slot *slot) {
  if (slot->ghost != NULL) concur_job_release(slot->ghost);
  slot->ghost = NULL;
}

static void free_when_unused(concur_child *child) {
  if (child->pool == NULL && child->handles == 0) free(child);
}

static void on_bell_released(concur_handle *handle) {
  concur_child *child = concur_container_of(handle, concur_child, bell_handle);
  child->handles--;
  free_when_unused(child);
}

static void on_stderr_released(concur_handle *handle) {
  concur_child *child = concur_container_of(handle, concur_child, stderr_handle);
  child->handles--;
  free_when_unused(child);
}

static void on_bell(uv_poll_t *poll, int status, int events) {
  (void)status;
  (void)events;
  concur_child *child = concur_container_of(poll, concur_child, bell);
  int result = concur_link_take_bells(&child->link);
  child->look = true;
  if (result > 0) return;
  if (result < 0)
    child_complain(child, "wrote something that is no bell to the socket of its pool");
  /* Its end is closed: it can only have ended, or be useless. */
  child->lost = !child->quitting && !child->ending;
  if (child->leave_by_ns == CONCUR_NEVER) child->leave_by_ns = uv_hrtime() + LEAVE_NS;
  concur_handle_close(&child->bell_handle);
}

/* [below uv_run] */
static void on_process_change(concur_process *process) {
  concur_child *child = process->owner;
  child->look = true;
  child->ended = true;
}

static bool watch(concur_child *child, uv_poll_t *poll, int fd, concur_handle *handle,
                  void (*release)(concur_handle *handle), uv_poll_cb callback) {
  concur_loop *loop = child->pool->loop;
  if (uv_poll_init(&loop->uv, poll, fd) != 0) return false;
  concur_handle_begin(&loop->handles, handle, (uv_handle_t *)poll, release);
  child->handles++;
  uv_unref((uv_handle_t *)poll);
  if (uv_poll_start(poll, UV_READABLE, callback) == 0) return true;
  concur_handle_close(handle);
  return false;
}

/* The descriptor to hand on as a standard one; -1 when this process has none. */
static int standard_fd(int fd) {
  return fcntl(fd, F_GETFD) >= 0 ? fd : -1;
}

/* Starts the process with the worker's end of the link and of the pipe. */
static int spawn(concur_child *child, int socket, int error_fd) {
  const concur_process_command *command = child->pool->settings->extra;
  int fds[] = {standard_fd(STDIN_FILENO), standard_fd(STDOUT_FILENO), error_fd, socket,
               child->link.file};
  concur_process_options options = {
      .file = command->args[0],
      .args = command->args,
      .fds = fds,
      .fd_count = (int)(sizeof fds / sizeof fds[0]),
      .uid = -1,
      .gid = -1,
      .grace_ns = command->grace_ns,
  };
  int error = concur_process_spawn(child->pool->loop, &options, &child->process);
  if (error != 0) return error;
  concur_process_ref(child->process, false);
  child->process->owner = child;
  child->process->on_change = on_process_change;
  return 0;
}

/* The descriptor that the worker gets as its stderr, which *close_it says to close; with TEE,
   child->stderr_fd is where that is read. */
static int open_stderr(concur_child *child, int *error_fd, bool *close_it) {
  const concur_process_command *command = child->pool->settings->extra;
  *close_it = false;
  *error_fd = command->stderr_mode == CONCUR_STDERR_INHERIT ? standard_fd(STDERR_FILENO) : -1;
  if (command->stderr_mode != CONCUR_STDERR_TEE) return 0;
  uv_file ends[2];
  int error = uv_pipe(ends, UV_NONBLOCK_PIPE, 0);
  if (error != 0) return error;
  child->stderr_fd = ends[0];
  *error_fd = ends[1];
  *close_it = true;
  if (watch(child, &child->stderr_poll, ends[0], &child->stderr_handle, on_stderr_released,
            on_stderr)) {
    return 0;
  }
  return UV_ENOMEM;
}

static void child_push(concur_child *child, concur_outgoing *outgoing, const concur_frame *frame,
                       const concur_message *body) {
  concur_frame whole = *frame;
  whole.size = body != NULL ? body->size : 0;
  concur_frame_write(outgoing->header, &whole);
  outgoing->body = body;
  outgoing->sent = 0;
  concur_list_append(&child->outgoing, &outgoing->node);
}

static int child_open(concur_child *child) {
  int socket, error_fd;
  bool close_error_fd;
  int error = concur_link_open(&child->link, &socket);
  if (error != 0) return error;
  error = open_stderr(child, &error_fd, &close_error_fd);
  if (error == 0) error = spawn(child, socket, error_fd);
  if (close_error_fd) (void)close(error_fd);
  (void)close(socket);
  if (error != 0) return error;
  concur_link_close_file(&child->link);
  bool watched = watch(child, &child->bell, child->link.socket, &child->bell_handle,
                       on_bell_released, on_bell);
  return watched ? 0 : UV_ENOMEM;
}

concur_child *concur_child_start(concur_process_pool *pool, int *error) {
  const concur_process_command *command = pool->settings->extra;
  concur_child *child = calloc(1, sizeof *child);
  *error = UV_ENOMEM;
  if (child == NULL) return NULL;
  child->pool = pool;
  child->link.socket = child->link.file = child->stderr_fd = -1;
  child->idle_since_ns = uv_hrtime();
  child->leave_by_ns = CONCUR_NEVER;
  bool forever = command->start_ns > CONCUR_NEVER - child->idle_since_ns;
  child->attach_by_ns = forever ? CONCUR_NEVER : child->idle_since_ns + command->start_ns;
  concur_list_init(&child->outgoing);
  size_t limit = command->limit > LEAST_LIMIT ? command->limit : LEAST_LIMIT;
  concur_frame_parser_init(&child->parser, limit);
  *error = child_open(child);
  if (*error != 0) {
    concur_child_release(child);
    return NULL;
  }
  concur_list_append(&pool->children, &child->node);
  pool->child_count++;
  concur_pool_add_hand(pool->pool, &child->hand);
  concur_frame setup = {.kind = CONCUR_FRAME_SETUP};
  child_push(child, &child->setup, &setup, pool->setup);
  return child;
}

void concur_child_release(concur_child *child) {
  concur_process_pool *pool = child->pool;
  if (concur_node_linked(&child->node)) {
    concur_node_unlink(&child->node);
    pool->child_count--;
    concur_pool_remove_hand(pool->pool, &child->hand);
  }
  if (child->process != NULL) concur_process_release(child->process);
  child->process = NULL;
  stderr_close(child);
  if (child->bell_handle.uv != NULL) concur_handle_close(&child->bell_handle);
  concur_link_close(&child->link);
  concur_frame_parser_free(&child->parser);
  for (uint32_t i = 0; i < CONCUR_LINK_SLOTS; i++) ghost_release(&child->slots[i]);
  child->pool = NULL;
  free_when_unused(child);
}

/* ---- slots ---- */

bool concur_child_accepts(const concur_child *child) {
  const concur_worker_settings *settings = child->pool->settings;
  return !child->quitting && !child->lost && !child->ending && !child->ended && !child->blocked &&
         child->complaint[0] == '\0' &&
         (settings->max_jobs == 0 || child->sent_jobs < settings->max_jobs);
}

concur_child_slot *concur_child_oldest(concur_child *child) {
  concur_child_slot *found = NULL;
  for (uint32_t i = 0; i < CONCUR_LINK_SLOTS; i++) {
    concur_child_slot *slot = &child->slots[i];
    if (slot->call != NULL && (found == NULL || slot->id < found->id)) found = slot;
  }
  return found;
}

concur_child_slot *concur_child_newest(concur_child *child) {
  concur_child_slot *found = NULL;
  for (uint32_t i = 0; i < CONCUR_LINK_SLOTS; i++) {
    concur_child_slot *slot = &child->slots[i];
    if (slot->call != NULL && (found == NULL || slot->id > found->id)) found = slot;
  }
  return found;
}

static uint32_t slot_index(const concur_child *child, const concur_child_slot *slot) {
  return (uint32_t)(slot - child->slots);
}

bool concur_child_has_begun(const concur_child *child, const concur_child_slot *slot) {
  return concur_link_slot(&child->link, slot_index(child, slot)) != CONCUR_SLOT_SENT;
}

bool concur_child_has_answered(const concur_child *child, const concur_child_slot *slot) {
  return concur_link_slot(&child->link, slot_index(child, slot)) == CONCUR_SLOT_ANSWERED;
}

concur_call *concur_child_empty(concur_child *child, concur_child_slot *slot) {
  concur_call *call = slot->call;
  slot->call = NULL;
  if (child->hand.handed == 1) child->idle_since_ns = uv_hrtime(); /* this is its last one */
  return call;
}

concur_child_slot *concur_child_free_slot(concur_child *child) {
  for (uint32_t i = 0; i < CONCUR_LINK_SLOTS; i++) {
    concur_child_slot *slot = &child->slots[i];
    if (slot->call == NULL && !concur_node_linked(&slot->outgoing.node) &&
        concur_link_slot(&child->link, i) == CONCUR_SLOT_FREE) {
      return slot;
    }
  }
  return NULL;
}

bool concur_child_revoke(concur_child *child, concur_child_slot *slot) {
  uint32_t index = slot_index(child, slot);
  if (!concur_link_change_slot(&child->link, index, CONCUR_SLOT_SENT, CONCUR_SLOT_REVOKED))
    return false;
  if (concur_node_linked(&slot->outgoing.node)) {
    if (slot->outgoing.sent == 0) {
      concur_node_unlink(&slot->outgoing.node);
      concur_link_set_slot(&child->link, index, CONCUR_SLOT_FREE);
    } else {
      slot->ghost = &slot->call->job; /* the rest of it must follow */
      concur_job_retain(slot->ghost);
    }
  }
  (void)concur_child_empty(child, slot);
  child->sent_jobs--;
  return true;
}

/* ---- sending ---- */

/* All of it is in the link. */
static void outgoing_sent(concur_child *child, concur_outgoing *outgoing) {
  concur_node_unlink(&outgoing->node);
  if (outgoing == &child->setup || outgoing == &child->quit) return;
  concur_child_slot *slot = concur_container_of(outgoing, concur_child_slot, outgoing);
  ghost_release(slot);
}

/* Puts as much of it into the ring as there is room for; true when that was all. */
static bool outgoing_write(concur_ring *ring, concur_outgoing *outgoing) {
  size_t body_size = outgoing->body != NULL ? outgoing->body->size : 0;
  size_t total = CONCUR_FRAME_HEADER + body_size;
  while (outgoing->sent < total) {
    size_t written;
    if (outgoing->sent < CONCUR_FRAME_HEADER) {
      written = concur_ring_write(ring, outgoing->header + outgoing->sent,
                                  CONCUR_FRAME_HEADER - outgoing->sent);
    } else {
      size_t at = outgoing->sent - CONCUR_FRAME_HEADER;
      written = concur_ring_write(ring, outgoing->body->bytes + at, body_size - at);
    }
    if (written == 0) return false;
    outgoing->sent += written;
  }
  return true;
}

static void child_publish(concur_child *child) {
  if (concur_ring_publish(&child->link.out)) concur_link_ring_bell(&child->link);
}

/* Sends what there is room for. */
static void child_pump(concur_child *child) {
  concur_ring *ring = &child->link.out;
  child->blocked = false;
  if (concur_list_empty(&child->outgoing)) return;
  while (!concur_list_empty(&child->outgoing)) {
    concur_outgoing *outgoing = concur_container_of(child->outgoing.next, concur_outgoing, node);
    if (outgoing_write(ring, outgoing)) {
      outgoing_sent(child, outgoing);
      continue;
    }
    child_publish(child);
    if (ring->damaged) {
      child_complain(child, damage);
      return;
    }
    if (concur_ring_want_room(ring)) {
      child->blocked = true;
      return;
    }
  }
  child_publish(child);
}

void concur_child_send(concur_child *child, concur_child_slot *slot, concur_job *job, uint64_t id) {
  concur_call *call = concur_container_of(job, concur_call, job);
  concur_frame frame = {.kind = CONCUR_FRAME_JOB,
                        .slot = slot_index(child, slot),
                        .extra = concur_call_pack_retries(call),
                        .id = id};
  slot->call = call;
  slot->id = id;
  child->sent_jobs++;
  concur_link_set_slot(&child->link, frame.slot, CONCUR_SLOT_SENT);
  child_push(child, &slot->outgoing, &frame, call->input);
  child_pump(child);
}

void concur_child_quit(concur_child *child) {
  if (child->quitting) return;
  concur_frame frame = {.kind = CONCUR_FRAME_QUIT};
  child->quitting = true;
  child->leave_by_ns = uv_hrtime() + LEAVE_NS;
  child_push(child, &child->quit, &frame, NULL);
  child_pump(child);
}

void concur_child_check_attached(concur_child *child, uint64_t now_ns) {
  const concur_process_command *command = child->pool->settings->extra;
  if (child->attach_by_ns == CONCUR_NEVER) return;
  if (concur_link_worker_version(&child->link) != 0) {
    child->attach_by_ns = CONCUR_NEVER;
  } else if (now_ns >= child->attach_by_ns && !child->ended && !child->ending) {
    char text[sizeof child->complaint];
    (void)snprintf(text, sizeof text,
             "did not attach to its pool within %g s: '%.60s' must call "
             "require(\"concur.process_worker\").run()",
             (double)command->start_ns / 1e9, command->args[0]);
    child->late = true;
    child_complain(child, text);
    concur_child_end(child, true);
  }
}

void concur_child_end(concur_child *child, bool now) {
  child->ending = true;
  if (child->process == NULL) return;
  if (now) {
    concur_process_end_now(child->process);
  } else {
    concur_process_end(child->process);
  }
}

/* ---- what comes ---- */

/* Takes the outcome of a call out of a frame; false when it makes no sense. */
static bool take_outcome(concur_child *child, concur_call *call, const concur_frame *frame) {
  uint8_t outcome = frame->detail & (uint8_t)~CONCUR_FRAME_INLINE;
  concur_message *body = concur_frame_take_body(&child->parser);
  concur_message_free(call->output);
  call->output = NULL;
  call->results.count = -1;
  call->outcome = outcome;
  if (outcome > CONCUR_CALL_BROKEN || (outcome == CONCUR_CALL_RESULTS && body == NULL)) {
    concur_message_free(body);
    return false;
  }
  if (outcome == CONCUR_CALL_BROKEN) { /* init has failed in a later state of the worker */
    concur_process_pool_init_failed(child->pool, body);
    call->output = concur_worker_settings_cause(call->settings); /* the pool's, whatever it is */
    return true;
  }
  if ((frame->detail & CONCUR_FRAME_INLINE) == 0) {
    call->output = body;
    return true;
  }
  bool good = body != NULL && body->size == sizeof call->results;
  if (good) memcpy(&call->results, body->bytes, sizeof call->results);
  good = good && concur_inline_check(&call->results);
  if (!good) call->results.count = -1;
  concur_message_free(body);
  return good;
}

static bool on_result(concur_child *child, const concur_frame *frame) {
  concur_child_slot *slot = frame->slot < CONCUR_LINK_SLOTS ? &child->slots[frame->slot] : NULL;
  if (slot == NULL || slot->call == NULL || slot->id != frame->id ||
      !concur_child_has_begun(child, slot) || !take_outcome(child, slot->call, frame)) {
    child_complain(child, "sent a result that nobody waits for");
    return false;
  }
  concur_link_set_slot(&child->link, frame->slot, CONCUR_SLOT_FREE);
  concur_call *call = concur_child_empty(child, slot);
  concur_process_pool_answered(child->pool, child, call, (uint64_t)frame->extra * 1000);
  return true;
}

static bool on_frame(concur_child *child) {
  const concur_frame *frame = &child->parser.frame;
  switch ((concur_frame_kind)frame->kind) {
  case CONCUR_FRAME_READY:
    child->ready = true;
    concur_process_pool_ready(child->pool);
    return true;
  case CONCUR_FRAME_FAILED:
    concur_process_pool_init_failed(child->pool, concur_frame_take_body(&child->parser));
    return true;
  case CONCUR_FRAME_RESULT: return on_result(child, frame);
  case CONCUR_FRAME_SETUP:
  case CONCUR_FRAME_JOB:
  case CONCUR_FRAME_QUIT: child_complain(child, "sent a frame that only its pool sends"); break;
  }
  return false;
}

/* Reads frames until there are no more; false when the worker is not to be listened to any more. */
static bool child_read(concur_child *child) {
  concur_ring *ring = &child->link.in;
  const unsigned char *bytes;
  size_t size;
  while ((size = concur_ring_peek(ring, &bytes)) > 0) {
    size_t used;
    concur_frame_state state = concur_frame_feed(&child->parser, bytes, size, &used);
    concur_ring_skip(ring, used);
    if (state == CONCUR_FRAME_BAD) {
      char text[sizeof child->complaint];
      (void)snprintf(text, sizeof text, "sent %s", child->parser.error);
      child_complain(child, text);
      return false;
    }
    if (state == CONCUR_FRAME_WHOLE && !on_frame(child)) return false;
  }
  if (ring->damaged) child_complain(child, damage);
  if (concur_ring_release(ring)) concur_link_ring_bell(&child->link);
  return !ring->damaged;
}

/* The worker says that it belongs to another version of concur. */
static void check_version(concur_child *child) {
  uint32_t version = concur_link_worker_version(&child->link);
  if (version == 0 || version == CONCUR_FRAME_VERSION) return;
  char text[sizeof child->complaint];
  (void)snprintf(text, sizeof text, "speaks version %u of the protocol, its pool speaks version %d",
                 (unsigned)version, CONCUR_FRAME_VERSION);
  child_complain(child, text);
}

bool concur_child_pending(concur_child *child) {
  if (child->look) return true;
  if (child->complaint[0] != '\0') return false;
  return concur_ring_pending(&child->link.in) ||
         (child->blocked && concur_ring_has_room(&child->link.out));
}

void concur_child_collect(concur_child *child) {
  child->look = false;
  if (child->complaint[0] == '\0' && child_read(child)) child_pump(child);
  check_version(child);
  if (child->ended) {
    stderr_pass(child, LAST_READS);
    child->code = child->process->code;
    child->signal = child->process->signal;
  } else if (child->complaint[0] != '\0') {
    concur_child_end(child, true);
  }
}

bool concur_child_sleep(concur_child *child) {
  if (child->look) return false;
  return child->complaint[0] != '\0' || concur_ring_want_data(&child->link.in);
}

/* ---- its end ---- */

concur_message *concur_child_obituary(const concur_child *child) {
  char text[sizeof child->complaint + 64];
  const char *name = concur_signal_name(child->signal);
  if (child->complaint[0] != '\0') {
    (void)snprintf(text, sizeof text, "%s", child->complaint);
  } else if (child->signal != 0 && name != NULL) {
    (void)snprintf(text, sizeof text, "was ended by %s", name);
  } else if (child->signal != 0) {
    (void)snprintf(text, sizeof text, "was ended by signal %d", child->signal);
  } else {
    (void)snprintf(text, sizeof text, "ended with exit code %d", child->code);
  }
  concur_crash crash = {.code = child->code,
                        .signal = child->signal,
                        .text_size = (uint32_t)strlen(text),
                        .stderr_size = (uint32_t)child->tail_size};
  concur_message *message = concur_message_new(sizeof crash + crash.text_size + crash.stderr_size);
  if (message == NULL) return NULL;
  memcpy(message->bytes, &crash, sizeof crash);
  memcpy(message->bytes + sizeof crash, text, crash.text_size);
  memcpy(message->bytes + sizeof crash + crash.text_size, child->tail, crash.stderr_size);
  message->size = message->capacity;
  return message;
}
