-- SPDX-License-Identifier: MIT
-- Random use of executors, channels and shared buffers, whose results are checked.
--
--   lua fuzz/executor_fuzz.lua [--seconds N] [--seed N] [--programs N] [--processes 1] [--verbose 1]
--
-- Each program has a seed of its own.  It makes pools of threads (and of processes) with random
-- options, hands them jobs that echo, fail, sleep, are busy, use channels, submit jobs or crash their
-- worker, and cancels, drops and closes at random, also the pools, with a collector in a hurry.
-- Checked: who was not cancelled gets exactly its own result or an error that can be explained, and
-- what went through a channel came out once.  `fuzz/api_fuzz.lua` calls everything with anything; this
-- one calls correctly, and more deeply.
local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"

local options = { seconds = 5, seed = os.time(), programs = math.huge, processes = 0, verbose = 0 }
do
  local i = 1
  while arg[i] do
    local name = arg[i]:match "^%-%-(%a+)$"
    if not (name and options[name]) then error("unknown argument: " .. arg[i], 0) end
    options[name] = assert(math.tointeger(tonumber(arg[i + 1])), "a number after --" .. name)
    i = i + 2
  end
end

local random = math.random

local function maybe(n) return random(n) == 1 end

-- Values of all sizes around the limits where strings and messages are treated differently.
local sizes = { 0, 1, 20, 39, 40, 41, 100, 1000, 4095, 4096, 16384, 70000, 300000, 1100000 }

local function text()
  return string.char(random(97, 122)):rep(sizes[random(#sizes)])
end

local function value(depth)
  local kind = random(8)
  if kind == 1 then return random(1 << 40) end
  if kind == 2 then return random() end
  if kind == 3 then return maybe(2) end
  if kind <= 6 or depth > 3 then return text() end
  local t = {}
  for i = 1, random(0, 4) do t[i] = value(depth + 1) end
  t[text()] = value(depth + 1)
  t.self = t
  return t
end

local function same(a, b, seen)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b and math.type(a) == math.type(b)
  end
  if seen[a] then return seen[a] == b end
  seen[a] = b
  for k, v in pairs(a) do
    if not same(v, b[k], seen) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

local collectors = {
  function() collectgarbage("incremental", 200, 100) end,
  function() collectgarbage("incremental", 1, 1000, 1) end,
  function() collectgarbage "generational" end,
}

local function hurry() -- runs in workers too
  local n = math.random(3)
  if n == 1 then collectgarbage("incremental", 1, 1000, 1) end
  if n == 2 then collectgarbage "generational" end
  if n == 3 then collectgarbage("incremental", 200, 100) end
end

-- What an error may be, besides the one that the job raises.
local expected = {
  Cancelled = true, Closed = true, BrokenExecutor = true, WorkerCrashed = true, RemoteError = true,
  WouldBlock = true, TimeoutError = true, InvalidState = true, OSError = true,
  FutureCancelled = true,
}

local function explain(e, what)
  local kind = type(e) == "table" and e.kind
  if not expected[kind] and not tostring(e):find "not enough memory" then
    error(("%s: unexpected error: %s"):format(what, tostring(e)), 0)
  end
end

local jobs = {}

function jobs.echo(run)
  local given = value(0)
  local ok, got = run(function(v) return v end, given)
  if ok then assert(same(given, got, {}), "echo differs") end
end

function jobs.echo_many(run)
  local a, b, c = value(0), text(), text()
  local results = table.pack(run(function(...) return ... end, a, b, c, nil))
  if results[1] then
    assert(results.n == 5 and same(a, results[2], {}) and results[3] == b and results[4] == c)
  end
end

function jobs.make(run)
  local size = sizes[random(#sizes)]
  local ok, got = run(function(n) return ("m"):rep(n) end, size)
  if ok then assert(#got == size) end
end

function jobs.hurry(run) run(hurry) end

function jobs.fail(run)
  local v = text()
  local ok, e = run(function(x) error { x } end, v)
  assert(not ok)
  if e.kind == "RemoteError" and e.value then
    local got = type(e.value) == "table" and e.value[1] or e.value
    assert(got == v or got == "not enough memory", -- a pool's max_memory
      ("%d bytes came back as %s"):format(#v, tostring(got):sub(1, 80)))
  end
end

function jobs.refused(run)
  assert(not run(function() error(coroutine.create(print)) end))
end

function jobs.sleep(run)
  run(function(s) require("concur").sleep(s) end, random() / 50)
end

function jobs.busy(run)
  run(function(n) for _ = 1, n do end return n end, random(300000))
end

function jobs.tasks(run)
  local ok, n = run(function()
    local c = require "concur"
    local n = 0
    c.gather(function() c.sleep(0.001) n = n + 1 end, function() n = n + 1 end)
    return n
  end)
  if ok then assert(n == 2) end
end

function jobs.nested(run)
  local v = text()
  local ok, got = run(function(x)
    local c = require "concur"
    local pool <close> = c.ThreadPoolExecutor(2)
    local future = pool:submit(function(y) return y end, x)
    return future:result() .. c.to_thread(function(y) return y end, x)
  end, v)
  if ok then assert(got == v .. v) end
end

function jobs.leave_task(run)
  run(function()
    local c = require "concur"
    c.spawn(function() c.sleep(10) end)
    return 1
  end)
end

function jobs.memory(run)
  run(function()
    local t = {}
    for i = 1, 200 do t[i] = ("x"):rep(10000 + i) end
    return #t
  end)
end

function jobs.finalizer(run)
  run(function()
    local c = require "concur"
    for _ = 1, 3 do
      setmetatable({}, { __gc = function() pcall(c.to_thread, string.rep, "x", 50000) end })
    end
    collectgarbage()
    return ("f"):rep(60000)
  end)
end

local thread_jobs = {}

function thread_jobs.channel(_, pool)
  local channel = concur.Channel(random(0, 3))
  local count, size = random(20), sizes[random(8, #sizes)]
  local sent = pool:submit(function(ch, n, s)
    for i = 1, n do
      local ok = pcall(ch.send, ch, { i, ("c"):rep(s) })
      if not ok then return i - 1 end
    end
    ch:close()
    return n
  end, channel, count, size)
  local got = 0
  if maybe(4) then
    channel:close()
  end
  local ok, e = pcall(concur.timeout, 10, function()
    for v in channel:iter() do
      got = got + 1
      assert(v[1] == got and #v[2] == size, "channel lost or doubled a value")
      if maybe(30) then channel:close() end
      if maybe(30) then sent:cancel() end
      if maybe(60) or sent:cancelled() then break end
    end
  end)
  channel:close()
  sent:cancel()
  if not ok then explain(e, "channel") end
end

function thread_jobs.buffer(run)
  local buffer = concur.SharedBuffer(4096)
  local ok = run(function(b)
    for _ = 1, 100 do b:add(1, 1) end
    return b:slice(9), b
  end, buffer)
  if ok then assert(buffer:load(1) >= 100) end
  if maybe(2) then buffer:close() end
end

function thread_jobs.rendezvous(_, pool)
  local channel = concur.Channel(0)
  local v = text()
  local future = pool:submit(function(ch)
    return require("concur").pcall(ch.recv, ch)
  end, channel)
  concur.move_on_after(random() / 20, function()
    if channel:send { v } then
      local ok, result, back = pcall(future.result, future)
      if ok and result then assert(back and back[1] == v, "rendezvous") end
    end
  end)
  channel:close()
end

local process_jobs = {}

function process_jobs.exit(run)
  local ok = run(function() os.exit(3) end)
  assert(not ok)
end

function process_jobs.killed(run)
  local ok = run(function()
    os.execute "kill -KILL $PPID"
    return ("k"):rep(100000)
  end)
  assert(not ok)
end

local function names_of(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function pick(t)
  local names = names_of(t)
  return t[names[random(#names)]]
end

local function thread_pool()
  return concur.ThreadPoolExecutor {
    workers = random(4),
    queue_size = maybe(3) and random(4) or nil,
    max_jobs = maybe(3) and random(4) or nil,
    max_memory = maybe(4) and random(400000, 4000000) or nil,
    idle = maybe(4) and random() / 50 or nil,
    init = maybe(8) and function() error "init refuses" end or maybe(3) and hurry or nil,
  }
end

local function process_pool()
  return concur.ProcessPoolExecutor {
    workers = random(3),
    queue_size = maybe(3) and random(4) or nil,
    max_jobs = maybe(3) and random(6) or nil,
    max_memory = maybe(5) and random(600000, 6000000) or nil,
    idle = maybe(4) and random() / 20 or nil,
    grace = 0.2,
    stderr = maybe(2) and "tee" or nil,
    max_crashes = 1000,
    init = maybe(10) and function() error "init refuses" end or maybe(3) and hurry or nil,
  }
end

local function view(pool)
  if maybe(2) then return pool end
  return pool:options {
    retry = maybe(3) and { times = random(0, 2), delay = random() / 100 } or nil,
    interrupt_after = maybe(2) and random() / 50 or nil,
    abandon = maybe(4) or nil,
    name = "fuzz",
  }
end

-- One way to have a job done; returns what pcall returns, unless the error cannot be explained.
local function runner(pool)
  return function(fn, ...)
    local used = view(pool)
    local kind = random(5)
    local results
    if kind <= 2 then
      results = table.pack(pcall(used.run, used, fn, ...))
    elseif kind == 3 then
      results = table.pack(pcall(function(...)
        local future = assert(used:submit(fn, ...))
        if maybe(2) then concur.sleep(random() / 100) end
        if maybe(2) then future:cancel() end
        if maybe(8) then error(errors.new("Cancelled", "dropped"), 0) end
        return future:result()
      end, ...))
    elseif kind == 4 then
      results = table.pack(false, errors.new("Cancelled", "timed out"))
      local inputs = table.pack(...)
      concur.move_on_after(random() / 20, function()
        results = table.pack(pcall(used.run, used, fn, table.unpack(inputs, 1, inputs.n)))
      end)
    else
      results = table.pack(pcall(function(...)
        local future, e = used:try_submit(fn, ...)
        if not future then return error(e, 0) end
        return future:result()
      end, ...))
    end
    if not results[1] then explain(results[2], "job") end
    return table.unpack(results, 1, results.n)
  end
end

local function use(pool, is_process)
  local run = runner(pool)
  for _ = 1, random(12) do
    local kind = random(6)
    local job
    if kind == 1 then
      job = pick(is_process and process_jobs or thread_jobs)
    else
      job = pick(jobs)
    end
    local ok, e = pcall(job, run, pool)
    if not ok then explain(e, "use") end
  end
end

local function map(pool)
  local inputs = {}
  for i = 1, random(60) do inputs[i] = text() end
  local settings = { chunk = random(3), window = random(6), ordered = maybe(2) }
  local ok, e = pcall(function()
    local last, count = 0, 0
    for i, v in pool:map(function(s) return s end, inputs, settings) do
      assert(v == inputs[i], "map mixed its results up")
      assert(not settings.ordered or i == last + 1, "map is out of order")
      last, count = i, count + 1
      if maybe(80) then return end
    end
    assert(count == #inputs, "map lost a result")
  end)
  if not ok then explain(e, "map") end
end

local function main()
  local is_process = options.processes > 0 and maybe(2)
  local pool = (is_process and process_pool or thread_pool)()
  local tasks = {}
  for i = 1, random(6) do
    tasks[i] = concur.spawn(maybe(6) and map or use, pool, is_process)
  end
  if maybe(3) then
    concur.sleep(random() / 20)
    local kind = random(3)
    if kind == 1 then pool:shutdown { grace = random() / 10 } end
    if kind == 2 then pool:shutdown { wait = false, cancel_pending = maybe(2) } end
    if kind == 3 then pool = nil collectgarbage() end
  end
  if maybe(5) then
    for _, task in ipairs(tasks) do if maybe(3) then task:cancel() end end
  end
  if maybe(8) then
    concur.sleep(random() / 20)
    return -- the rest is cancelled
  end
  for i, task in ipairs(tasks) do
    local ok, e = pcall(task.result, task)
    if not ok then explain(e, "task " .. i) end
  end
  if pool and maybe(2) then
    pool:shutdown { grace = 2 }
  end
end

local function program(seed)
  math.randomseed(seed)
  collectors[random(#collectors)]()
  local begin = concur.now()
  local ok, e = pcall(concur.run, main)
  if not ok and not (type(e) == "table" and e.kind == "Cancelled") then
    error(("seed %d: %s"):format(seed, tostring(e)), 0)
  end
  local took = concur.now() - begin
  if took > 60 then error(("seed %d took %.1f s"):format(seed, took), 0) end
  if maybe(10) then core.close() end
end

io.stdout:setvbuf "no"
local start, count = os.time(), 0
while count < options.programs and os.time() - start < options.seconds do
  local seed = options.seed + count
  if options.verbose > 0 then print("seed " .. seed) end
  program(seed)
  count = count + 1
end
print(("%d programs, seeds %d to %d"):format(count, options.seed, options.seed + count - 1))
