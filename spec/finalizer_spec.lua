-- SPDX-License-Identifier: MIT
-- Finalizers run wherever memory is allocated, so also in the middle of the library's own functions.
-- Here they cancel, settle and spawn there; nothing may be lost, done twice, or crash.

local support = require "spec.support"

local program = [[
  local concur = require "concur"
  math.randomseed(math.tointeger(arg[1]))
  collectgarbage("incremental", 1, 1000, 1)

  local futures, tasks, settled, ended, started = {}, {}, 0, 0, 0
  for i = 1, 20 do futures[i] = concur.Future() end

  local function settle(future, method, value)
    if future[method](future, value) then settled = settled + 1 end
  end

  local function work() end
  local function start(fn, ...)
    started = started + 1
    local task = concur.spawn(fn, ...)
    task:add_done_callback(function() ended = ended + 1 end)
    tasks[math.random(20)] = task
    return task
  end

  local mischief = {
    function(future) settle(future, "set_result", "finalizer") end,
    function(future) settle(future, "set_exception", "finalizer") end,
    function(future) settle(future, "cancel", "finalizer") end,
    function(future) future:add_done_callback(function() end) end,
    function(_, task) task:cancel "finalizer" end,
    function(_, task) task:kill() end,
    function(_, task) return task:traceback(), task:awaiting(), tostring(task) end,
    function() start(work, 1) end,
    function() concur.get_event_loop():call_soon(work, 1) end,
    function() concur.get_event_loop():call_later(1, work, 1):cancel() end,
    function() pcall(concur.sleep, 1) end,
    function() pcall(concur.run, print) end,
  }
  local budget = 2000
  local function litter()
    setmetatable({}, { __gc = function()
      if budget > 0 then
        budget = budget - 1
        mischief[math.random(#mischief)](futures[math.random(20)], tasks[math.random(20)])
      end
    end })
  end

  local function nap() litter() concur.sleep(math.random(0, 2)) litter() return 1, 2, 3 end
  local function wait() litter() return futures[math.random(20)]:result(math.random(3)) end
  local function fail() litter() concur.sleep(0) error({ "failure" }) end
  local pieces = {
    nap, wait, fail,
    function() return concur.gather(nap, wait, nap) end,
    function() return concur.gather { a = nap, b = fail } end,
    function() return concur.settle(nap, fail, wait) end,
    function() return concur.race(nap, wait, concur.sleep_forever) end,
    function() return concur.any(fail, nap, wait) end,
    function() return concur.timeout(1, wait) end,
    function() return concur.move_on_after(1, function() nap() return wait() end) end,
    function()
      return concur.task_group(function(group)
        group:spawn(nap)
        group:spawn(wait)
        litter()
      end)
    end,
    function()
      return concur.suspend(function(resume, fail)
        litter()
        concur.get_event_loop():call_later(math.random(0, 2), resume, 1, 2)
        return function() litter() end
      end)
    end,
    function()
      for future in concur.as_completed({ futures[1], futures[2], start(nap) }, { timeout = 2 }) do
        future:state()
        litter()
      end
    end,
    function() litter() concur.wait({ futures[3], start(nap) }, { timeout = 2 }) end,
  }
  function work(depth)
    litter()
    local piece = pieces[math.random(#pieces)]
    local results = table.pack(pcall(piece))
    litter()
    if depth < 2 then return work(depth + 1) end
    return table.unpack(results, 1, results.n)
  end

  local runner = concur.Runner {
    clock = concur.testing.Clock(),
    on_error = function() litter() end,
  }
  runner:run(function()
    for i = 1, 20 do start(work, 0) end
    for round = 1, 15 do
      for i = 1, 20 do
        if futures[i]:done() then futures[i] = concur.Future() end
        start(work, 0)
      end
      litter()
      concur.sleep(1)
    end
    budget = 0
    concur.sleep(20)
    for i = 1, 20 do futures[i]:cancel() end
    concur.sleep(20)
  end)
  assert(#concur.all_tasks() == 0)
  concur.sleep(0.001)
  assert(started == ended, started .. " started, " .. ended .. " ended")
  local counters = concur.testing.counters()
  assert(counters.tasks == 0 and counters.scopes == 0, counters.tasks .. " " .. counters.scopes)
  print(started)
]]

describe("finalizers that meddle", function()
  for round = 1, 2 do
    it("break nothing, round " .. round, function()
      local seed = support.seed()
      local result = support.run_lua(program, { args = { tostring(seed) } })
      assert.equal(0, result.code, support.describe(result))
    end)
  end
end)
