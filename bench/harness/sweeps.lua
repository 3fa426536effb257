-- SPDX-License-Identifier: MIT
-- The curves of bench/sweep.lua. `measure(size, report)` runs in a task, in a process of its own, and
-- reports one value for each line of the curve: processor time in nanoseconds, or bytes.

local concur = require "concur"
local echo = require "harness.echo"
local jobs = require "harness.jobs"
local native = require "native"

local MINIMUM = 2e7 -- nanoseconds: shorter measurements are repeated

-- Processor time of `work(...)` in nanoseconds.
local function time(work, ...)
  local start = native.cpu()
  work(...)
  return native.cpu() - start
end

-- The same for something that can be repeated, per repetition.
local function repeated(work)
  work() -- warms up
  local total, count = 0, 0
  repeat
    total, count = total + time(work), count + 1
  until total >= MINIMUM
  return total / count
end

local function heap_bytes()
  collectgarbage()
  collectgarbage()
  return collectgarbage "count" * 1024
end

local function tasks_in_turn(size, report)
  local function run(rounds)
    local tasks = {}
    for i = 1, size do
      tasks[i] = function()
        for _ = 1, rounds do
          concur.sleep(0)
        end
      end
    end
    collectgarbage()
    return time(concur.gather, tasks)
  end
  local rounds = math.max(10, 200000 // size)
  run(1) -- warms up
  local once = run(1) -- what starting and ending takes is not meant
  report("sleep(0), so many tasks in turn", (run(1 + rounds) - once) / (size * rounds))
end

local function sleepers(size, report)
  local seconds = math.max(0.002, size * 5e-6) -- long enough for all to be asleep at once
  local function batch()
    local tasks = {}
    for i = 1, size do
      tasks[i] = function()
        concur.sleep(seconds + i % 100 * 1e-6)
      end
    end
    concur.gather(tasks)
  end
  if size <= 100000 then
    batch()
    local rounds = math.max(1, 2000 // size)
    local total = 0
    for _ = 1, rounds do
      total = total + time(batch)
    end
    report("task that sleeps, spawn to result", total / (size * rounds))
  else
    report("task that sleeps, spawn to result", time(batch) / size)
  end
end

local function sleeper_memory(size, report)
  local before = heap_bytes()
  local tasks = {}
  local function body()
    concur.sleep(3600)
  end
  for i = 1, size do
    tasks[i] = concur.spawn(body)
  end
  concur.sleep(0) -- each runs to its first wait
  report("bytes of a sleeping task", (heap_bytes() - before) / size)
  for i = 1, size do
    tasks[i]:cancel()
  end
end

local function timers(size, report)
  local loop = concur.get_event_loop()
  local function nothing() end
  local handles = {}
  local before = heap_bytes()
  for i = 1, size do
    handles[i] = loop:call_later(1000 + i * 7919 % size, nothing)
  end
  report("bytes of a timer (call_later)", (heap_bytes() - before) / size)
  report("start one and cancel it", repeated(function()
    for i = 1, 1000 do
      loop:call_later(1000 + i * 7919 % size, nothing):cancel()
    end
  end) / 1000)
  for i = 1, size do
    handles[i]:cancel()
  end
  local due = loop:time() + 0.01 + size * 2e-6
  for i = 1, size do
    handles[i] = loop:call_at(due + (i * 7919 % size) * 1e-9, nothing)
  end
  repeat -- all of them become due at once
  until loop:time() > due + size * 1e-9
  local start = native.cpu()
  concur.sleep(0)
  concur.sleep(0)
  report("take the earliest and call it", (native.cpu() - start) / size)
end

local function queue_depth(size, report)
  local queue = concur.Queue()
  report("Queue: put and get, so many inside", repeated(function()
    for i = 1, size do
      queue:put(i)
    end
    for _ = 1, size do
      queue:get()
    end
  end) / size)
  local heap = concur.PriorityQueue()
  report("PriorityQueue: put and get", repeated(function()
    for i = 1, size do
      heap:put(i * 7919 % size)
    end
    for _ = 1, size do
      heap:get()
    end
  end) / size)
end

local function connections(size, report)
  local net = concur.net
  local listener = assert(net.listen("127.0.0.1", 0))
  local _, port = listener:address()
  local server = concur.spawn(net.serve, echo, listener)
  local before = heap_bytes()
  local streams = {}
  for i = 1, size do
    streams[i] = assert(net.connect("127.0.0.1", port))
  end
  concur.sleep(0.05)
  report("bytes of a connection, both ends", (heap_bytes() - before) / size)
  local message = ("x"):rep(64)
  local clients = {}
  local rounds = math.max(1, 2000 // size)
  for i = 1, size do
    clients[i] = function()
      for _ = 1, rounds do
        streams[i]:write(message)
        assert(streams[i]:read(#message))
      end
    end
  end
  concur.gather(clients)
  report("echo of 64 bytes, both ends", time(concur.gather, clients) / (size * rounds))
  for i = 1, size do
    streams[i]:close()
  end
  listener:close()
  server:result()
end

local function job_size(size, report)
  local text = ("x"):rep(size)
  local work = jobs.one_at_a_time("ThreadPoolExecutor", 1, function()
    return text
  end)(concur)
  report("string to a worker and back", repeated(function()
    work(20)
  end) / 20)
end

local function workers(size, report)
  local work = jobs.all_at_once("ThreadPoolExecutor", size)(concur)
  work(10 * size)
  report("empty job, each of many", repeated(function()
    work(5000)
  end) / 5000)
end

local M = { order = {}, by_name = {} }

local function add(name, title, unit, over, sizes, measure)
  M.order[#M.order + 1] = name
  M.by_name[name] = { title = title, unit = unit, over = over, sizes = sizes, measure = measure }
end

-- Powers of ten.
local function from_to(first, last)
  local sizes = {}
  while first <= last do
    sizes[#sizes + 1] = first
    first = first * 10
  end
  return sizes
end

add("tasks", "Tasks that give way in turn", "ns", "tasks", from_to(10, 100000), tasks_in_turn)
add("sleepers", "Tasks that sleep", "ns", "tasks", from_to(100, 1000000), sleepers)
add("memory", "Memory of tasks that sleep", "bytes", "tasks", from_to(100, 1000000), sleeper_memory)
add("timers", "Timers", "ns or bytes", "timers", from_to(100, 1000000), timers)
add("queue", "Queues", "ns", "items inside", from_to(10, 1000000), queue_depth)
add("connections", "Connections", "ns or bytes", "connections", { 1, 10, 100, 1000 }, connections)
add("jobs", "Strings to a worker and back", "ns", "bytes",
  { 16, 160, 1600, 16000, 160000, 1600000 }, job_size)
add("workers", "Worker threads", "ns", "workers", { 1, 10, 100, 1000 }, workers)

return M
