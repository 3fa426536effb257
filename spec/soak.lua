-- SPDX-License-Identifier: MIT
-- `make soak MINUTES=10`: mixed load in one process for a long time: tasks, timeouts, cancellations,
-- queues, jobs on threads and in child processes that get killed, sockets that are reset. Every
-- round checks what must hold; at the end of each, memory, descriptors, threads and children must be
-- where they were.
--
-- Arguments: minutes; a seed (random if none). Not a spec: it takes as long as it is told.

local concur = require "concur"
local support = require "spec.support"

local minutes = tonumber(arg[1]) or 10
local seed = math.tointeger(tonumber(arg[2])) or os.time()
math.randomseed(seed)
local errors, net, process = concur.errors, concur.net, concur.process

local counts = { tasks = 0, timeouts = 0, cancelled = 0, jobs = 0, killed = 0, reset = 0 }

local function count(name)
  counts[name] = counts[name] + 1
end

-- Items go from producers to consumers, some of which are cancelled: none is lost or doubled.
local function queues()
  local queue, put, got = concur.Queue(math.random(1, 8)), 0, 0
  local consumers = {}
  for i = 1, 6 do
    consumers[i] = concur.spawn(function()
      for item in queue:iter() do
        got = got + item
        if math.random(4) == 1 then
          concur.sleep(math.random() / 1000)
        end
      end
    end)
  end
  concur.task_group(function(group)
    for _ = 1, 4 do
      group:spawn(function()
        for i = 1, 100 do
          queue:put(i)
          put = put + i
        end
      end)
    end
    concur.sleep(0.001)
    for i = 1, 3 do
      if consumers[i]:cancel() then
        count "cancelled"
      end
    end
  end)
  queue:close()
  concur.wait(consumers)
  counts.tasks = counts.tasks + 10
  assert(put == got, "items were lost or doubled")
end

-- A lock is free after whoever held or wanted it was timed out.
local function locks()
  local lock, inside = concur.Lock(), 0
  local tasks = {}
  for i = 1, 20 do
    tasks[i] = function()
      local ok = concur.move_on_after(math.random() / 200, function()
        local _ <close> = lock:acquire()
        inside = inside + 1
        assert(inside == 1)
        local _ <close> = setmetatable({}, { __close = function() inside = inside - 1 end })
        concur.sleep(math.random() / 500)
      end)
      if not ok then
        count "timeouts"
      end
    end
  end
  concur.gather(tasks)
  counts.tasks = counts.tasks + 20
  assert(inside == 0 and lock:try_acquire(), "the lock is held by nobody")
  lock:release()
end

local function jobs()
  local futures = {}
  for i = 1, 30 do
    futures[i] = concur.default_executor():submit(function(n)
      local sum = 0
      for k = 1, n do sum = sum + k end
      return sum, ("x"):rep(n % 5000)
    end, i * 100)
    if math.random(5) == 1 then
      futures[i]:cancel()
    end
  end
  for i, future in ipairs(futures) do
    local ok, sum = pcall(future.result, future)
    assert(ok and sum == i * 100 * (i * 100 + 1) // 2 or errors.is(sum, "FutureCancelled"), sum)
    count "jobs"
  end
end

-- Children: one ends, one is killed, one is left by a cancelled task.
local function processes()
  local done = assert(process.run { "true" })
  assert(done.code == 0)
  local child <close> = assert(process.spawn { "sleep", "60" })
  child:kill "SIGKILL"
  child:wait()
  count "killed"
  concur.move_on_after(0.02, process.run, { "sleep", "60" })
  count "killed"
end

-- A server whose clients leave in the middle: some close, some are cut off with unread bytes, which
-- the kernel tells with a reset.
local function sockets()
  local listener = assert(net.listen("127.0.0.1", 0))
  local _, port = listener:address()
  local server = concur.spawn(net.serve, function(stream)
    for line in stream:lines() do
      if not stream:write(line, "\n", ("y"):rep(2000), "\n") then
        return
      end
    end
  end, listener)
  local clients = {}
  for i = 1, 12 do
    clients[i] = function()
      local stream <close> = assert(net.connect("127.0.0.1", port))
      for k = 1, 10 do
        stream:write("line ", k, "\n")
        if i % 3 == 0 and k == 5 then
          count "reset"
          return -- with bytes unread
        end
        assert(stream:read() == "line " .. k)
        assert(#stream:read() == 2000)
      end
    end
  end
  concur.gather(clients)
  listener:close()
  concur.wait({ server }, { timeout = 10 })
  assert(server:done(), "the server does not end")
end

local parts = { queues, locks, jobs, processes, sockets }

local function memory()
  local file <close> = assert(io.open "/proc/self/statm")
  local _, resident = file:read("n", "n")
  return resident * 4 -- KiB
end

local function children()
  local total = 0
  for line in io.lines "/proc/self/task/self/children" do
    for _ in line:gmatch "%d+" do total = total + 1 end
  end
  return total
end

local function count_children()
  local ok, n = pcall(children)
  return ok and n or 0
end

local function snapshot()
  concur.get_event_loop():close()
  collectgarbage()
  collectgarbage()
  local state = support.snapshot()
  state.children = count_children()
  return state
end

local function round(work)
  concur.run(function()
    concur.task_group(function(group)
      for _ = 1, work do
        group:spawn(parts[math.random(#parts)])
      end
    end)
  end)
end

round(10) -- what is made once
local before = snapshot()
local deadline, rounds, begin = os.time() + minutes * 60, 0, nil
local shown = os.time()
print(("soak: seed %d, %g minutes"):format(seed, minutes))
while os.time() < deadline do
  round(10)
  rounds = rounds + 1
  local now = snapshot()
  for name, value in pairs(now) do
    if value > before[name] then
      os.execute "sleep 0.2" -- a thread that was joined leaves /proc a moment later
      now = snapshot()
      assert(now[name] <= before[name], ("seed %d, round %d: %d %s more than at first"):format(
        seed, rounds, now[name] - before[name], name))
    end
  end
  if rounds == 20 then
    begin = memory()
  end
  if os.time() >= shown + 30 then
    shown = os.time()
    print(("  %d rounds, %d KiB"):format(rounds, memory()))
    io.stdout:flush()
  end
end
local grown = memory() - (begin or memory())
print(("soak: %d rounds, %d tasks, %d timeouts, %d cancelled, %d jobs, %d killed, %d reset; "
  .. "%d KiB more than after 20 rounds"):format(rounds, counts.tasks, counts.timeouts,
  counts.cancelled, counts.jobs, counts.killed, counts.reset, grown))
assert(grown < 20000, "memory grows")
