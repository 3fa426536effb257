-- SPDX-License-Identifier: MIT
-- Specs that show an order (first come, first served) or count on one. Under `make shuffle` ready
-- tasks keep their order in these; threads are held up in them as in all others. The random programs
-- are here because they shuffle by themselves.
--
-- By spec file: full names, as busted prints them.
-- luacheck: no max line length
return {
  barrier = {
    "a barrier tells each its place in the order of arrival",
  },
  capacity_limiter = {
    "a capacity limiter a cancelled waiter is skipped",
    "a capacity limiter lets n tasks in at a time, in order",
    "a capacity limiter with a larger total lets waiters in at once",
    "a capacity limiter with a smaller total waits until enough have been given back",
  },
  channel = {
    "a channel between threads lets the other tasks go on while one waits",
    "a channel within one state makes a sender wait while it is full, in order",
  },
  clock = {
    "sleep wakes in the order of the deadlines, equal ones in the order of the calls",
  },
  condition = {
    "a condition wakes one for notify, n for notify(n), all for notify_all, in order",
  },
  event = {
    "an event cleared at once still wakes those that waited when it was set",
    "an event wakes all its waiters, in order",
  },
  executor = {
    "a pool with queue_size keeps the place of a task whose room was taken when its turn came",
    "a pool with queue_size serves waiting tasks in order, and loses nothing when some are cancelled",
    "pool:map cancels its queued jobs when it is left early",
    "shutting down lets other tasks go on",
    "to_thread lets the loop go on",
  },
  future = {
    "add_done_callback calls for results, errors and cancellation",
    "add_done_callback calls in the order in which they were added",
    "add_done_callback may add callbacks and settle other futures in a callback",
    "add_done_callback shares one order with those who wait",
    "waiting for a future wakes all who wait, first come first served",
  },
  gather = {
    "a child of gather whose coroutine a stranger closed fails with InvalidState, and gather ends in order",
    "an error in gather in the same turn as another: the first is raised, the other goes to on_error",
  },
  group = {
    "cancelling a task group starts children that had not started, and those spawned afterwards",
    "task_group starts children in the order of their spawn, at the next turn",
  },
  lock = {
    "a lock is fair: one who releases and comes back queues behind the others",
    "a lock under cancellation all waiters and the holder cancelled at once: the lock is free",
    "a lock under cancellation drops a cancelled waiter from the queue",
    "a lock wakes waiters in the order of their arrival",
  },
  loop = {
    "call_later and call_at call at equal times in the order of the calls",
    "call_later and call_at can be cancelled at the very time they are due",
    "call_soon calls with the arguments, in the order of the calls",
    "call_soon can be cancelled by a callback of the same turn",
    "call_soon runs a callback made by a callback at the next turn",
    "call_soon shares one order with tasks",
    "run_forever leaves a timer that is due when it stops to the next run",
    "run_forever runs until stop",
  },
  misuse = {
    "waiting in the wrong place while the loop runs (a callback during a wait at top level) is refused with advice",
  },
  queue = {
    "PriorityQueue fails the putter whose item cannot be compared, and lets the next one in",
    "a closed queue lets putters fail in order when there are several",
    "a queue serves getters in the order of their arrival",
    "a queue serves putters in the order of their arrival",
    "a queue under cancellation a cancelled getter takes nothing: the item goes to the next",
    "a queue under cancellation many getters, half of them cancelled: each item comes out once",
    "a queue under cancellation room and the cancellation of the first putter in the same turn: the next one puts",
  },
  random_programs = {
    "random programs keep the invariants, and the same seed gives the same trace",
  },
  run = {
    "the end of a run cancels the tasks that are left, and waits for them",
  },
  select = {
    "select keeps its place in the queue: first come, first served with plain getters",
    "select raises what the comparison of a queue says of the item that it puts",
  },
  semaphore = {
    "a semaphore under cancellation a release and the cancellation of the head in the same turn wake exactly one",
    "a semaphore under cancellation a waiter in the middle leaves without a trace",
    "a semaphore wakes waiters in the order of their arrival, and hands over directly",
  },
  stream_write = {
    "stream:write ends with Closed when another task closes the stream",
    "stream:write waits for room before it takes anything, and then takes all",
  },
  task = {
    "a stranger that closes a task after its bare yield makes it fail",
    "a stranger that resumes a task between its bare yield and the error does no harm",
    "fairness sleep(0) lets every other ready task run once",
    "spawn starts tasks first in, first out",
  },
  testing = {
    "a virtual clock can be moved by hand; what is due fires at the next turn, in order",
    "a virtual clock keeps the order of deadlines, and FIFO among equal ones",
  },
  udp = {
    "several tasks at one socket receive each datagram once, in their order",
  },
  wait = {
    "as_completed works at top level, outside any loop",
  },
}
