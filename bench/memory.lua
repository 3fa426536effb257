-- SPDX-License-Identifier: MIT
-- How much memory things take: lua5.4 bench/memory.lua (from the root, with concur on the path).
--
-- Of what lives in Lua's heap: what the heap grows by. Of worker threads: what the process grows by
-- (Linux only).

local concur = require "concur"

local COUNT = 100000
local WORKERS = 16

local function lua_bytes()
  collectgarbage()
  collectgarbage()
  return collectgarbage "count" * 1024
end

local function process_bytes()
  local file <close> = assert(io.open "/proc/self/statm")
  local _, pages = file:read("n", "n")
  return pages * 4096
end

-- Makes `count` things, prints what one of them takes by `bytes`, and lets them end.
local function measure(what, count, bytes, make)
  local before = bytes()
  local finish = make(count)
  print(("%-32s %6d of them, each %7.0f bytes"):format(what, count, (bytes() - before) / count))
  finish()
end

local function spawn_all(count, body)
  local tasks = {}
  for i = 1, count do
    tasks[i] = concur.spawn(body)
  end
  concur.sleep(0) -- each runs to its first wait
  return function()
    for _, task in ipairs(tasks) do
      task:cancel()
    end
    concur.wait(tasks)
  end
end

concur.run(function()
  measure("task that has not started", COUNT, lua_bytes, function(count)
    local tasks = {}
    for i = 1, count do
      tasks[i] = concur.spawn(concur.checkpoint)
    end
    return function()
      concur.wait(tasks)
    end
  end)
  measure("task that waits for an event", COUNT, lua_bytes, function(count)
    local event = concur.Event()
    return spawn_all(count, function()
      event:wait()
    end)
  end)
  measure("task that sleeps", COUNT, lua_bytes, function(count)
    return spawn_all(count, function()
      concur.sleep(3600)
    end)
  end)
  measure("future", COUNT, lua_bytes, function(count)
    local futures = {}
    for i = 1, count do
      futures[i] = concur.Future()
    end
    return function()
      for _, future in ipairs(futures) do
        future:cancel()
      end
    end
  end)
  measure("worker thread with a Lua state", WORKERS, process_bytes, function(count)
    local pool = concur.ThreadPoolExecutor(count)
    local jobs = {}
    for i = 1, count do
      jobs[i] = pool:submit(os.execute, "sleep 0.2") -- so that each needs a thread of its own
    end
    concur.wait(jobs)
    return function()
      pool:shutdown()
    end
  end)
end)
