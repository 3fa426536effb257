-- SPDX-License-Identifier: MIT
-- How much memory things take: lua5.4 bench/memory.lua (from the root, with concur on the path). Each
-- in a process of its own, since much is kept for the next task. Writes memory.md into the build
-- directory.
--
-- Of what lives in Lua's heap: what the heap grows by. Of streams and worker threads: what the
-- process grows by (Linux only).

package.path = "bench/?.lua;" .. package.path

local concur = require "concur"
local system = require "harness.system"

local function lua_bytes()
  collectgarbage()
  collectgarbage()
  return collectgarbage "count" * 1024
end

local function process_bytes()
  collectgarbage()
  collectgarbage()
  local file <close> = assert(io.open "/proc/self/statm")
  local _, pages = file:read("n", "n")
  return pages * 4096
end

-- Spawns tasks, each of which runs to its first wait.
local function spawn_all(count, body)
  local tasks = {}
  for i = 1, count do
    tasks[i] = concur.spawn(body)
  end
  concur.sleep(0)
  return tasks
end

-- By name: what it is called, how many are made, what their memory is counted by, and a function that
-- makes `count` of them and returns what keeps them.
local THINGS = {
  { "unstarted", "task that has not started", 100000, lua_bytes, function(count)
    local tasks = {}
    for i = 1, count do
      tasks[i] = concur.spawn(concur.checkpoint)
    end
    return tasks
  end },
  { "waiting", "task that waits for an event", 100000, lua_bytes, function(count)
    local event = concur.Event()
    return spawn_all(count, function()
      event:wait()
    end)
  end },
  { "sleeping", "task that sleeps", 1000000, lua_bytes, function(count)
    return spawn_all(count, function()
      concur.sleep(3600)
    end)
  end },
  { "future", "future", 100000, lua_bytes, function(count)
    local futures = {}
    for i = 1, count do
      futures[i] = concur.Future()
    end
    return futures
  end },
  { "timer", "timer (call_later)", 1000000, lua_bytes, function(count)
    local loop, handles = concur.get_event_loop(), {}
    for i = 1, count do
      handles[i] = loop:call_later(3600, print)
    end
    return handles
  end },
  { "stream", "stream (one end of a connection, libuv too)", 2000, process_bytes, function(count)
    local streams = {}
    local listener = assert(concur.net.listen("127.0.0.1", 0))
    local _, port = listener:address()
    for i = 1, count, 2 do
      streams[i] = assert(concur.net.connect("127.0.0.1", port))
      streams[i + 1] = assert(listener:accept())
    end
    return streams
  end },
  { "worker", "worker thread with a Lua state", 16, process_bytes, function(count)
    local pool = concur.ThreadPoolExecutor(count)
    local jobs = {}
    for i = 1, count do
      jobs[i] = pool:submit(os.execute, "sleep 0.2") -- so that each needs a thread of its own
    end
    concur.wait(jobs)
    return pool
  end },
}

-- In a process for this thing alone: prints how many bytes each takes.
local function measure(thing)
  local _, _, count, bytes, make = table.unpack(thing)
  concur.run(function()
    local before = bytes()
    local things = make(count)
    io.write(("%.0f\n"):format((bytes() - before) / count))
    io.flush()
    os.exit(things and 0 or 1, false) -- nothing of it need end in order
  end)
end

local function with_commas(figure)
  return (figure:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", ""))
end

-- What a process of its own prints for the thing.
local function measured(thing)
  local pipe <close> = assert(io.popen(("%s bench/memory.lua %s"):format(
    os.getenv "CONCUR_LUA" or "lua5.4", thing[1])))
  return (assert(pipe:read "l", thing[1] .. " could not be measured"))
end

for _, thing in ipairs(THINGS) do
  if arg[1] == thing[1] then
    measure(thing)
  end
end

local lines = { "| what | how many | bytes of each |", "|---|--:|--:|" }
for _, thing in ipairs(THINGS) do
  local _, title, count, counter = table.unpack(thing)
  local figure = with_commas(measured(thing))
  print(("%-34s %7d of them, each %9s bytes"):format(title, count, figure))
  lines[#lines + 1] = ("| %s | %s | %s%s |"):format(title, with_commas(tostring(count)), figure,
    counter == process_bytes and " (of the process)" or "")
end
system.write_file((os.getenv "CONCUR_BUILD" or "build") .. "/memory.md",
  table.concat(lines, "\n") .. "\n")
