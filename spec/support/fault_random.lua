-- SPDX-License-Identifier: MIT
-- Runs in the test host (spec/host/host.c) with the module whose calls can fail: rounds of everything at
-- once while each call fails with some chance. Whatever fails says so; nothing is lost, doubled or
-- wrong, and after each round the loop works and nothing is left. spec/fault_random_spec.lua starts it.
--
-- Arguments: seconds; a seed, from which the seed of each round follows; how many rounds at most.

local concur = require "concur"
local testhost = _G.testhost
local support = require "spec.support"
local faults = require "spec.support.faults"

local seconds, seed, most = tonumber(arg[1]), math.tointeger(tonumber(arg[2])), tonumber(arg[3])
local errors, net, process = concur.errors, concur.net, concur.process

-- Not: what libuv 1.44 does not survive (spec/support/faults.lua, docs/reliability.md).
local FUNCTIONS = (" " .. table.concat({ faults.memory, faults.threads, faults.primitives,
  faults.loop, faults.descriptors, faults.handles, faults.sharing, faults.interrupted, "fork" },
  " ") .. " "):gsub(" pipe2 ", " ")

-- What was refused, or follows from what was.
local ALLOWED = { "not enough memory", "out of memory", "ENOMEM", "EMFILE", "EAGAIN", "ENOSPC",
  "could be started", "ECONNREFUSED", "ECONNRESET", "EPIPE", "ECANCELED", "ENETUNREACH", "EAI_",
  "closed", "Closed", "TimeoutError", "WorkerCrashed", "BrokenExecutor", "FutureCancelled",
  "Cancelled", "cannot allocate" }

local broken

---What must hold, whatever failed.
local function check(condition, message)
  if not condition then
    broken[#broken + 1] = message
  end
end

local function is_allowed(err)
  local text = errors.format and type(err) == "table" and errors.format(err) or tostring(err)
  for _, pattern in ipairs(ALLOWED) do
    if text:find(pattern, 1, true) then
      return true
    end
  end
  return false
end

-- Calls fn as a part of the round: it may fail in an allowed way.
local function try(name, fn, ...)
  local ok, err = concur.pcall(fn, ...)
  if not ok and not is_allowed(err) then
    check(false, name .. ": " .. tostring(err))
  end
end

-- Spawns; false when that was refused.
local function start(fn, ...)
  local ok, task = pcall(concur.spawn, fn, ...)
  return ok and task
end

-- Waits until these have ended, whatever that takes.
local function join(tasks)
  for _, task in pairs(tasks) do
    while task and not task:done() do
      if not pcall(concur.wait, { task }) then
        concur.sleep(0)
      end
    end
  end
end

local parts = {}

function parts.queues()
  local queue, put, got, tasks = concur.Queue(math.random(1, 4)), 0, 0, {}
  local function get()
    local item = queue:get()
    got = got + (item or 0)
  end
  for i = 1, 6 do
    tasks[i] = start(function()
      for n = 1, 10 do
        if i <= 3 then
          queue:put(n)
          put = put + n
        elseif math.random(3) == 1 then
          concur.move_on_after(0.001, get)
        else
          get()
        end
      end
    end)
  end
  concur.sleep(0.005)
  for i = 1, 6 do
    if tasks[i] and math.random(2) == 1 then tasks[i]:cancel() end
  end
  concur.sleep(0.005)
  queue:close()
  join(tasks)
  for item in queue.try_get, queue do got = got + item end
  check(put == got, ("queue: %d put, %d got"):format(put, got))
end

function parts.locks()
  local lock, inside, tasks = concur.Lock(), 0, {}
  for i = 1, 8 do
    tasks[i] = start(function()
      concur.move_on_after(math.random() / 200, function()
        local _ <close> = lock:acquire()
        inside = inside + 1
        check(inside == 1, "two hold a lock")
        local _ <close> = setmetatable({}, { __close = function() inside = inside - 1 end })
        concur.sleep(math.random() / 500)
      end)
    end)
  end
  join(tasks)
  check(inside == 0 and lock:try_acquire(), "the lock is held by nobody")
  lock:release()
end

function parts.jobs()
  local pool <close> = concur.ThreadPoolExecutor { workers = 2, queue_size = math.random(4) }
  for i = 1, 8 do
    local future = pool:submit(function(n, text) return n * 2, #text, { text } end, i,
      ("x"):rep(i * 10000))
    if math.random(4) == 1 then
      future:cancel()
    end
    try("job", function()
      local a, b, c = future:result()
      check(a == 2 * i and b == i * 10000 and #c[1] == b, "a job's results are wrong")
    end)
  end
end

function parts.channels()
  local pool <close> = concur.ThreadPoolExecutor(1)
  local channel, buffer = concur.Channel(math.random(0, 3)), concur.SharedBuffer(16)
  local got = 0
  local job = pool:submit(function(to, shared)
    for i = 1, 20 do
      to:send(i)
      shared:add(1, i)
    end
  end, channel, buffer)
  job:add_done_callback(function() channel:close() end)
  local receiver = start(function()
    for i in channel:iter() do got = got + i end
  end)
  try("channel", job.result, job, 5)
  channel:close()
  join { receiver }
  local sent = buffer:load(1)
  for i in channel.try_recv, channel do got = got + i end
  -- a message for whose values the receiver had no memory is received and lost, with an error
  check(got <= sent + 20 and (got == sent or not receiver or receiver:state() ~= "done"
    or job:state() ~= "done"), ("channel: %d sent, %d got"):format(sent, got))
end

function parts.streams()
  local listener <close> = assert(net.listen("127.0.0.1", 0))
  local _, port = listener:address()
  local server = start(net.serve, function(stream)
    for line in stream:lines() do
      if not stream:write(line, "\n", ("y"):rep(3000), "\n") then return end
    end
  end, listener, { grace = 0, on_error = function(err) check(is_allowed(err), tostring(err)) end })
  for i = 1, 3 do
    try("stream", concur.timeout, 1, function()
      local stream <close> = assert(net.connect("localhost", port))
      for k = 1, 4 do
        assert(stream:write("line ", i * k, "\n"))
        local line, rest = stream:read("l", "l")
        check(line == nil or line == "line " .. i * k, "another line: " .. tostring(line))
        check(line == nil or type(rest) ~= "string" or #rest <= 3000, "too much was read")
        if not line or not rest then return end
      end
    end)
  end
  listener:close()
  join { server }
end

function parts.datagrams()
  local one <close> = assert(net.udp("127.0.0.1", 0))
  local two <close> = assert(net.udp())
  local _, port = one:address()
  for i = 1, 5 do
    if two:send_to("datagram " .. i, "127.0.0.1", port) then
      local key, data = concur.select { data = one:receiving(), late = concur.after(0.1) }
      check(key == "late" or data == nil or data:find "^datagram %d$", "another datagram")
    end
  end
  net.wait_fd(one:fd(), "w", 1)
end

function parts.names()
  local list = concur.dns.resolve("localhost", "http")
  check(list == nil or list[1].port == 80, "another port")
end

function parts.processes()
  local result, err = process.run { "cat", input = ("z"):rep(5000) }
  if result then
    check(result.signal == "SIGABRT" or #result.stdout == 5000, "output is missing")
  else
    check(is_allowed(err), tostring(err))
  end
  concur.move_on_after(0.005, process.run, { "sleep", "60" })
end

function parts.process_pools()
  local pool <close> = concur.ProcessPoolExecutor {
    workers = 1, max_crashes = 2, stderr = "discard", command = support.lua,
  }
  local ok, sum = pcall(pool.run, pool, function(a, b) return a + b end, 1, 2)
  check(ok and sum == 3 or not ok and is_allowed(sum), tostring(sum))
end

function parts.signals()
  local it <close> = concur.signal.receive "SIGWINCH"
  concur.signal.raise "SIGWINCH"
  local key, name = concur.select { signal = it:receiving(), late = concur.after(0.1) }
  check(key == "late" or name == "SIGWINCH", "another signal")
end

local RARE = { processes = 3, process_pools = 6 } -- they cost more than all the others

local names = {}
for name in pairs(parts) do names[#names + 1] = name end
table.sort(names)

local function draw_part()
  local name
  repeat
    name = names[math.random(#names)]
  until not RARE[name] or math.random(RARE[name]) == 1
  return name
end

local runner = concur.Runner { on_error = function(err)
  check(is_allowed(err), "reported: " .. tostring(err))
end }

local function round(number)
  math.randomseed(number)
  broken = {}
  local chances = { 5, 20, 100 }
  testhost.fail_randomly(FUNCTIONS, chances[math.random(#chances)], number)
  local ok, err = pcall(runner.run, runner, function()
    concur.move_on_after(20, function()
      local tasks = {}
      for i = 1, 5 do
        local name = draw_part()
        tasks[i] = start(try, name, parts[name])
      end
      join(tasks)
    end)
  end)
  local failed = testhost.fail()
  check(ok or is_allowed(err), tostring(err))
  check(runner:run(function()
    concur.sleep(0.0001)
    return concur.gather(function() return concur.to_thread(math.abs, -7) end)
  end) == 7, "the loop is not usable")
  check(#concur.all_tasks() == 0, "a task is left")
  return failed
end

local function count_children()
  local total = 0
  for _ in pairs(support.children()) do total = total + 1 end
  return total
end

local function snapshot()
  concur.get_event_loop():close()
  collectgarbage()
  collectgarbage()
  local all = support.snapshot()
  all.blocks, all.children = testhost.blocks(), count_children()
  return all
end

local function find_left(before)
  local now = snapshot()
  for name, value in pairs(now) do
    -- modules in Lua that were first required meanwhile, and names that are known by now, stay
    if value > before[name] + (name == "blocks" and 64 or 0) then
      return ("%d %s more than at first"):format(value - before[name], name)
    end
  end
end

runner:run(function() -- everything once, untouched
  broken = {}
  for _, name in ipairs(names) do parts[name]() end
  assert(#broken == 0, broken[1])
end)

local before = snapshot()
local deadline, rounds, failed = os.time() + seconds, 0, 0
while os.time() < deadline and rounds < most do
  rounds = rounds + 1
  local number = seed + rounds
  failed = failed + round(number)
  local left
  for _ = 1, 50 do
    left = find_left(before)
    if not left then break end
    os.execute "sleep 0.02" -- a thread that was joined leaves /proc a moment later
  end
  if left then
    broken[#broken + 1] = left
  end
  if #broken > 0 then
    error(("seed %d: %s"):format(number, table.concat(broken, "\n  ")), 0)
  end
end
print(rounds, failed)
