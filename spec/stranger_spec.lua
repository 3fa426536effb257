-- SPDX-License-Identifier: MIT
-- Strangers: code that resumes, closes and inspects the coroutines of tasks that it has no business
-- with, at random, while these do all they can. Tasks may fail; none may be lost, end twice or crash.

local support = require "spec.support"

local program = [[
  local concur = require "concur"
  math.randomseed(math.tointeger(arg[1]))
  collectgarbage "generational"

  local coroutines, futures = {}, {}
  for i = 1, 10 do futures[i] = concur.Future() end
  local queue, lock, event = concur.Queue(3), concur.Lock(), concur.Event()
  local started, ended = 0, 0
  local work

  local function keep() coroutines[math.random(60)] = (coroutine.running()) end
  local function nap(seconds) keep() concur.sleep(seconds) keep() end
  local function start(fn, ...)
    started = started + 1
    local task = concur.spawn(fn, ...)
    task:add_done_callback(function() ended = ended + 1 end)
    return task
  end
  local function closer()
    return setmetatable({}, { __close = function()
      if math.random(4) == 1 then pcall(concur.sleep, 0) end
    end })
  end

  local pieces = {
    function() nap(math.random(0, 3)) end,
    function() return futures[math.random(10)]:result(3) end,
    function()
      local _ <close> = closer()
      return futures[math.random(10)]:result()
    end,
    function() return concur.gather(keep, function() nap(1) end, function() nap(2) end) end,
    function() return concur.race(function() nap(2) end, concur.sleep_forever) end,
    function()
      return concur.timeout(2, function()
        local _ <close> = closer()
        nap(3)
      end)
    end,
    function()
      return concur.task_group(function(group)
        group:spawn(nap, 2)
        group:spawn(keep)
        nap(1)
      end)
    end,
    function() coroutine.yield() end,
    function()
      local function yield()
        local value = coroutine.yield(1)
        return value
      end
      pcall(yield)
      yield()
    end,
    function()
      concur.suspend(function(resume)
        concur.get_event_loop():call_later(2, resume)
        return function() return math.random(2) == 1 end
      end)
    end,
    function() queue:put(1) end,
    function() queue:get() end,
    function()
      local _ <close> = lock:acquire()
      nap(1)
    end,
    function() event:wait() end,
    function() event:set() event:clear() end,
    function()
      local list = { futures[1], futures[2], start(keep) }
      for _ in concur.as_completed(list, { timeout = 3 }) do keep() end
    end,
    function()
      concur.select { a = queue:getting(), b = concur.after(2), c = futures[3] }
    end,
    function()
      local generator = concur.wrap(function()
        nap(1)
        coroutine.yield(1)
        nap(1)
      end)
      generator()
      generator()
    end,
    function() concur.shield(nap, 2) end,
  }
  function work(depth)
    keep()
    local _ <close> = closer()
    pcall(pieces[math.random(#pieces)])
    keep()
    if depth < 2 then return work(depth + 1) end
  end

  local function stranger()
    local co = coroutines[math.random(60)]
    if not co or co == coroutine.running() then return end
    local what = math.random(5)
    if what == 1 then
      pcall(coroutine.close, co)
    elseif what == 2 then
      coroutine.resume(co, "forged", 1, 2)
    elseif what == 3 then
      pcall(coroutine.wrap(function() coroutine.resume(co, "x") end))
    elseif what == 4 then
      debug.traceback(co)
    else
      collectgarbage "step"
    end
  end

  local function meddle()
    for i = 1, 10 do
      if futures[i]:done() then futures[i] = concur.Future() end
    end
    for _ = 1, math.random(4) do stranger() end
    if math.random(5) == 1 then futures[math.random(10)]:set_result(1) end
    if math.random(9) == 1 then
      local all = concur.all_tasks()
      local task = all[math.random(#all)]
      if task ~= concur.current_task() then
        if math.random(2) == 1 then task:cancel() else task:kill() end
      end
    end
    if math.random(20) == 1 then collectgarbage() end
  end

  local runner = concur.Runner {
    clock = concur.testing.Clock(),
    on_error = function() end,
  }
  runner:run(function()
    for _ = 1, 200 do
      for _ = 1, 3 do start(work, 0) end
      meddle()
      concur.sleep(math.random(0, 1))
    end
    for i = 1, 10 do futures[i]:cancel() end
    event:set()
  end)
  concur.sleep(0.001)
  assert(#concur.all_tasks() == 0)
  assert(started == ended, started .. " started, " .. ended .. " ended")
]]

describe("strangers at the coroutines of tasks", function()
  for round = 1, 3 do
    it("harm nobody else, round " .. round, function()
      local seed = support.seed()
      local result = support.run_lua(program, { args = { tostring(seed) } })
      assert.equal(0, result.code, support.describe(result))
    end)
  end
end)
