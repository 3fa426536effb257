-- SPDX-License-Identifier: MIT
-- Specs that show an order (first come, first served), or that count on one: `sleep(0)` to let the
-- others begin, say. Under `make shuffle` ready tasks keep their order in these; threads are held up
-- in them as in all others.
--
-- By spec file: full names, as busted prints them.
return {
  barrier = {
    "a barrier tells each its place in the order of arrival",
  },
  capacity_limiter = {
    "a capacity limiter lets n tasks in at a time, in order",
    "a capacity limiter with a larger total lets waiters in at once",
  },
  channel = {
    "a channel within one state makes a sender wait while it is full, in order",
  },
  clock = {
    "run_until_idle waits until every other task waits; no time passes",
    "sleep of math.huge never ends, but can be cancelled",
    "sleep wakes in the order of the deadlines, equal ones in the order of the calls",
    "the virtual clock starts at 0, and can be read and moved by hand",
  },
  condition = {
    "a condition wakes one for notify, n for notify(n), all for notify_all, in order",
  },
  event = {
    "an event cleared at once still wakes those that waited when it was set",
    "an event wakes all its waiters, in order",
  },
  executor = {
    "a pool with queue_size serves waiting tasks in order, and loses nothing when some are cancelled",
  },
  future = {
    "add_done_callback calls also when the future is settled already: not at once, but at the next turn",
    "add_done_callback calls for results, errors and cancellation",
    "add_done_callback calls in the order in which they were added",
    "add_done_callback calls the same function as often as it was added",
    "add_done_callback hands an error of the callback to on_error; the others are called",
    "add_done_callback may add callbacks and settle other futures in a callback",
    "add_done_callback shares one order with those who wait",
    "add_done_callback waits at top level until something drives the loop",
    "waiting for a future can be given up by any of those who wait, in the middle of the list too",
    "waiting for a future wakes all who wait, first come first served",
  },
  gather = {
    "a child of gather whose coroutine a stranger closed fails with InvalidState, and gather ends in order",
  },
  group = {
    "task_group runs children while its body works",
    "task_group starts children in the order of their spawn, at the next turn",
  },
  lock = {
    "a lock is fair: one who releases and comes back queues behind the others",
    "a lock wakes waiters in the order of their arrival",
  },
  loop = {
    "call_later and call_at call at equal times in the order of the calls",
    "call_soon calls with the arguments, in the order of the calls",
    "call_soon can be called before the loop runs",
    "call_soon hands an error of the callback to on_error, and the rest runs",
    "call_soon runs a callback made by a callback at the next turn",
    "call_soon shares one order with tasks",
    "get_event_loop runs while something waits at top level",
    "run_until_complete leaves the other tasks as they are",
  },
  queue = {
    "a closed queue lets putters fail in order when there are several",
    "a queue serves getters in the order of their arrival",
    "a queue serves putters in the order of their arrival",
    "a queue under cancellation a cancelled getter takes nothing: the item goes to the next",
    "a queue under cancellation many getters, half of them cancelled: each item comes out once",
    "a queue under cancellation room and the cancellation of the first putter in the same turn: the next one puts",
  },
  race = {
    "race that is cancelled cancels all and joins them",
  },
  run = {
    "Runner reports steps of tasks and callbacks that take longer than slow_callback",
    "the end of a run cancels the tasks that are left, and waits for them",
  },
  select = {
    "select keeps its place in the queue: first come, first served with plain getters",
  },
  semaphore = {
    "a semaphore under cancellation a release and the cancellation of the head in the same turn wake exactly one",
    "a semaphore wakes waiters in the order of their arrival, and hands over directly",
  },
  settle = {
    "settle cancels its inputs and joins them when the caller is cancelled",
  },
  suspend = {
    "a cancelled suspend makes a late resume return false, so that its resources can be disposed of",
    "a cancelled suspend without on_cancel raises Cancelled",
  },
  task_cancel = {
    "cancelling a task before the result comes wins: the wait raises, the future keeps its result",
    "cancelling a task cannot be kept and raised elsewhere: there it is InvalidState",
    "cancelling a task closes its to-be-closed variables exactly once, in order, before it is done",
    "cancelling a task does not lose a result that was ready: the wait returns, the next one raises",
    "cancelling a task does not touch what the task waits for",
    "cancelling a task is never raised inside cancel: the other task sees it at its turn",
    "cancelling a task reaches the children of a gather and waits for them",
    "cancelling a task takes any value as reason and keeps its identity",
    "kill may be asked by the clean-up of a killed task, for others and for itself",
  },
  task = {
    "a stranger that resumes a task between its bare yield and the error does no harm",
    "a task says what it waits for",
    "a task shows its state in tostring",
    "an error in a task closes the to-be-closed variables before the task is done",
    "current_task and all_tasks all_tasks lists the tasks that have not ended",
    "fairness makes a task yield after 128 waits in a row that were over at once",
    "fairness sleep(0) lets every other ready task run once",
    "spawn starts tasks first in, first out",
  },
  testing = {
    "a virtual clock can be moved by hand; what is due fires at the next turn, in order",
    "a virtual clock keeps the order of deadlines, and FIFO among equal ones",
  },
  toplevel = {
    "at top level a task starts only when something drives the loop",
  },
  wait = {
    "as_completed can be cancelled, and a cancelled step loses nothing",
    "wait leaves everything running when the caller is cancelled",
  },
}
