-- SPDX-License-Identifier: MIT
-- Out of memory in the combinators, in suspend, in callbacks, and where tasks end out of order.
-- How it works: spec/support/oom.lua.

local oom = require "spec.support.oom"

local function scenario(name, body)
  it(name, function()
    oom.scenario_fails_cleanly(body)
  end)
end

describe("running out of memory in", function()
  scenario("wait and as_completed", [[
    runner:run(function()
      local tasks = {}
      for i = 1, 3 do tasks[i] = concur.spawn(concur.sleep, i, i) end
      local done, pending = concur.wait(tasks, { return_when = "first", timeout = 10 })
      assert(#done + #pending == 3)
      local count = 0
      for task in concur.as_completed(tasks, { timeout = 10 }) do count = count + task:result() end
      assert(count == 6)
    end)
  ]])

  scenario("race, any and settle", [[
    runner:run(function()
      local function nap(s) return function() concur.sleep(s) return s end end
      local function fail() concur.sleep(0) error({}) end
      local i, v = concur.race(nap(2), nap(1), concur.sleep_forever)
      assert(i == 2 and v == 1)
      i, v = concur.any(fail, nap(1))
      if i ~= 2 then error("not enough memory", 0) end
      local ok, e = pcall(concur.any, fail, fail)
      assert(not ok)
      if not errors.is(e, "ErrorGroup") then error(e, 0) end
      for _, leaf in errors.leaves(e) do if type(leaf) == "string" then error(leaf, 0) end end
      local a, b = concur.settle(nap(1), fail)
      if type(a.error) == "string" then error(a.error, 0) end
      if type(b.error) == "string" then error(b.error, 0) end
      assert(a.ok and not b.ok)
    end)
  ]])

  scenario("suspend and its cancellation", [[
    local ok, e = pcall(runner.run, runner, function()
      local a, b = concur.suspend(function(resume)
        concur.get_event_loop():call_later(1, resume, 1, 2)
      end)
      assert(a == 1 and b == 2)
      local called = 0
      local task = concur.spawn(concur.suspend, function()
        return function() called = called + 1 end
      end)
      concur.sleep(0)
      task:cancel({ "reason" })
      concur.wait { task }
      if task:state() == "failed" then error(task:exception(), 0) end
      assert(task:state() == "cancelled" and called <= 1)
    end)
    if not ok and errors.is(e, "Deadlock") then error("not enough memory in the callback", 0) end
    if not ok then error(e, 0) end
  ]])

  scenario("callbacks and futures", [[
    runner:run(function()
      local loop, log = concur.get_event_loop(), 0
      local future = concur.Future()
      future:add_done_callback(function() log = log + 1 end)
      loop:call_soon(function(x) log = log + x end, 10)
      loop:call_later(1, function(x) log = log + x end, 100)
      loop:call_later(1, print):cancel()
      local waiter = concur.spawn(future.result, future, 5)
      concur.sleep(0)
      assert(future:set_result(1, 2, 3))
      local _, _, c = waiter:result()
      assert(c == 3)
      concur.sleep(2)
      if log ~= 111 then error("not enough memory in a callback", 0) end
      local failed = concur.Future()
      failed:set_exception({ "x" })
      assert(failed:exception()[1] == "x")
    end)
  ]])

  scenario("cancelled, killed and failing tasks", [[
    runner:run(function()
      local closed = 0
      local function body()
        local _ <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
        concur.sleep(9)
      end
      local a, b, c = concur.spawn(body), concur.spawn(body), concur.spawn(error, { "lost" })
      concur.sleep(0)
      a:cancel("why")
      b:kill()
      concur.wait { a, b, c }
      for _, t in ipairs { a, b } do
        if t:state() == "failed" then error(t:exception(), 0) end
      end
      assert(closed == 2, closed)
      assert(a:cancelled() and b:cancelled() and c:state() == "failed")
    end)
  ]])

  scenario("a bare yield and a stranger", [[
    runner:run(function()
      local co
      local bare = concur.spawn(function() coroutine.yield() end)
      local victim = concur.spawn(function() co = coroutine.running() concur.sleep(9) end)
      concur.sleep(0)
      if co then coroutine.close(co) end
      concur.wait({ bare, victim }, { timeout = 20 })
      if type(bare:exception()) == "string" then error(bare:exception(), 0) end
      if type(victim:exception()) == "string" then error(victim:exception(), 0) end
      assert(errors.is(bare:exception(), "InvalidState"))
      assert(not co or errors.is(victim:exception(), "InvalidState"))
    end)
  ]])

  scenario("a Deadlock", [[
    local ok, e = pcall(runner.run, runner, function()
      concur.spawn(concur.sleep_forever)
      concur.Future():result()
    end)
    assert(not ok)
    if not errors.is(e, "Deadlock") then error(e, 0) end
  ]])

  scenario("waits at top level", [[
    local task = concur.spawn(function() concur.sleep(0.0001) return 1 end)
    local ok, value = pcall(task.result, task)
    if not ok then task:cancel() pcall(concur.sleep, 0.001) error(value, 0) end
    local ok2, e = pcall(concur.timeout, 0.0001, concur.sleep, 5)
    assert(not ok2)
    if not errors.is(e, "TimeoutError") then error(e, 0) end
    assert(concur.gather(function() return 1 end) == 1)
  ]])
end)
