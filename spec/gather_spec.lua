-- SPDX-License-Identifier: MIT
-- gather: all results in the order of the inputs, or the first error.

local concur = require "concur"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

-- A function that sleeps and returns its value.
local function after(seconds, ...)
  local values = table.pack(...)
  return function()
    concur.sleep(seconds)
    return table.unpack(values, 1, values.n)
  end
end

-- A function that sleeps and raises.
local function fail_after(seconds, e)
  return function()
    concur.sleep(seconds)
    error(e, 0)
  end
end

local function cleaning(log, name, seconds)
  return setmetatable({}, {
    __close = function()
      if seconds then
        concur.shield(concur.sleep, seconds)
      end
      log[#log + 1] = name
    end,
  })
end

describe("gather", function()
  it("returns the first result of each, in the order of the inputs", function()
    virtual.run(function()
      local results = table.pack(concur.gather(
        after(3, "slowest", "dropped"), after(1, "fast"), after(2, nil), after(0, false)))
      assert.same({ "slowest", "fast", nil, false, n = 4 }, results)
    end)
  end)

  it("takes as long as the longest", function()
    virtual.run(function()
      local start = concur.now()
      concur.gather(after(1), after(1), after(1))
      assert.near(1, concur.now() - start, 1e-6)
    end)
  end)

  it("gives nil for an input without results", function()
    virtual.run(function()
      assert.same({ nil, "x", nil, n = 3 },
        table.pack(concur.gather(function() end, after(0, "x"), function() end)))
    end)
  end)

  it("returns nothing for no inputs", function()
    virtual.run(function()
      assert.equal(0, select("#", concur.gather()))
      assert.same({ n = 0 }, concur.gather {})
    end)
  end)

  it("takes a list and returns a list with n", function()
    virtual.run(function()
      local results = concur.gather { after(2, "a"), function() end, after(1, "c") }
      assert.same({ "a", nil, "c", n = 3 }, results)
    end)
  end)

  it("takes a table with any keys and returns one with the same keys", function()
    virtual.run(function()
      local key = {}
      local results = concur.gather {
        user = after(2, "ann"),
        [key] = after(1, 7),
        [2.5] = after(0, true),
      }
      assert.equal("ann", results.user)
      assert.equal(7, results[key])
      assert.equal(true, results[2.5])
    end)
  end)

  it("leaves the table that it was given alone", function()
    virtual.run(function()
      local f, g = after(1, "x"), after(0, "y")
      local inputs = { f, named = g }
      local results = concur.gather(inputs)
      assert.same({ f, named = g }, inputs)
      assert.not_equal(inputs, results)
    end)
  end)

  it("mixes functions, tasks and futures", function()
    virtual.run(function()
      local task = concur.spawn(after(2, "task"))
      local future = concur.Future()
      concur.get_event_loop():call_later(1, future.set_result, future, "future")
      local settled = concur.Future()
      settled:set_result("settled")
      assert.same({ "function", "task", "future", "settled" },
        { concur.gather(after(1, "function"), task, future, settled) })
    end)
  end)

  it("takes the same task twice", function()
    virtual.run(function()
      local task = concur.spawn(after(1, "x"))
      assert.same({ "x", "x" }, { concur.gather(task, task) })
    end)
  end)

  it("calls functions without arguments, each in a task of its own", function()
    virtual.run(function()
      local me = concur.current_task()
      local function look(...)
        assert.equal(0, select("#", ...))
        return concur.current_task()
      end
      local a, b = concur.gather(look, look)
      assert.not_equal(a, b)
      assert.not_equal(me, a)
    end)
  end)

  it("takes callable objects", function()
    virtual.run(function()
      local object = setmetatable({}, {
        __call = function()
          return concur.sleep(1, "called")
        end,
      })
      assert.equal("called", (concur.gather(object, after(0))))
    end)
  end)

  it("works on two hundred arguments and on three thousand entries of a list", function()
    virtual.run(function()
      local functions = {}
      for i = 1, 3000 do
        functions[i] = after(i % 3, i)
      end
      local results = table.pack(concur.gather(table.unpack(functions, 1, 200)))
      assert.equal(200, results.n)
      for i = 1, 200 do
        assert.equal(i, results[i])
      end
      results = concur.gather(functions)
      assert.equal(3000, results.n)
      for i = 1, 3000 do
        assert.equal(i, results[i])
      end
    end)
  end)

  it("nests", function()
    virtual.run(function()
      local function pair(a, b)
        return function()
          return concur.gather { a, b }
        end
      end
      local results = concur.gather {
        pair(after(1, 1), after(2, 2)),
        pair(after(2, 3), after(1, 4)),
      }
      assert.same({ { 1, 2, n = 2 }, { 3, 4, n = 2 }, n = 2 }, results)
    end)
  end)

  it("nests a hundred deep", function()
    virtual.run(function()
      local function nest(n)
        if n == 0 then
          return concur.sleep(1, "bottom")
        end
        return (concur.gather(function()
          return nest(n - 1)
        end, after(0)))
      end
      assert.equal("bottom", nest(100))
    end)
  end)

  it("works at top level", function()
    assert.same({ 1, 2 }, { concur.gather(after(0.002, 1), after(0.001, 2)) })
  end)

  it("keeps the children inside the caller's time-out", function()
    virtual.run(function()
      local log = {}
      failure_of_kind("TimeoutError", concur.timeout, 1, concur.gather, function()
        local _ <close> = cleaning(log, "child")
        concur.sleep_forever()
      end)
      assert.same({ "child" }, log)
    end)
  end)
end)

describe("an error in gather", function()
  it("is raised: the very same value", function()
    virtual.run(function()
      local e = {}
      assert.equal(e, failure(concur.gather, after(2), fail_after(1, e)))
      assert.equal(e, failure(concur.gather, { slow = after(2), bad = fail_after(1, e) }))
    end)
  end)

  it("may be nil or false", function()
    virtual.run(function()
      assert.same({ false, nil, n = 2 }, table.pack(pcall(concur.gather, fail_after(1, nil))))
      assert.same({ false, false, n = 2 }, table.pack(pcall(concur.gather, fail_after(1, false))))
    end)
  end)

  it("comes as soon as the siblings were cancelled and joined", function()
    virtual.run(function()
      local start, log = concur.now(), {}
      local e = failure(concur.gather, function()
        local _ <close> = cleaning(log, "first", 3)
        concur.sleep(100)
      end, fail_after(1, "bad"), function()
        local _ <close> = cleaning(log, "third")
        concur.sleep(100)
      end)
      assert.equal("bad", e)
      assert.same({ "third", "first" }, log)
      assert.near(4, concur.now() - start, 1e-6)
    end)
  end)

  it("waits also for a sibling that ignores its cancellation", function()
    virtual.run(function()
      local finished = false
      local e = failure(concur.gather, fail_after(1, "bad"), function()
        pcall(concur.sleep, 100)
        concur.shield(concur.sleep, 5)
        finished = true
        return "ignored"
      end)
      assert.equal("bad", e)
      assert.is_true(finished)
    end)
  end)

  it("cancels the tasks and futures that were handed over, too", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep_forever)
      local future = concur.Future()
      assert.equal("bad", failure(concur.gather, task, future, fail_after(1, "bad")))
      assert.equal("cancelled", task:state())
      assert.equal("cancelled", future:state())
    end)
  end)

  it("leaves alone a task that was only watched", function()
    virtual.run(function()
      local task = concur.spawn(after(5, "kept"))
      assert.equal("bad", failure(concur.gather, function()
        return task:result()
      end, fail_after(1, "bad")))
      assert.equal("pending", task:state())
      assert.equal("kept", task:result())
    end)
  end)

  it("that is the first in time is raised, whatever its place", function()
    virtual.run(function()
      assert.equal("second", failure(concur.gather, after(3), fail_after(1, "second")))
    end)
  end)

  it("that comes after the first goes to on_error, each once", function()
    local reports = virtual.reports(function()
      local e = failure(concur.gather, fail_after(1, "first"), function()
        pcall(concur.sleep, 100)
        error("clean-up", 0)
      end, function()
        pcall(concur.sleep, 100)
        error("another", 0)
      end)
      assert.equal("first", e)
      collectgarbage()
      collectgarbage()
      concur.sleep(1)
    end)
    table.sort(reports)
    assert.same({ "another", "clean-up", n = 2 }, reports)
  end)

  it("in the same turn as another: the first is raised, the other goes to on_error", function()
    local reports = virtual.reports(function()
      local e = failure(concur.gather, function()
        error("one", 0)
      end, function()
        error("two", 0)
      end)
      assert.equal("one", e)
    end)
    assert.same({ "two", n = 1 }, reports)
  end)

  it("of a task that failed before is raised at once, and the others are cancelled", function()
    virtual.run(function()
      local failed = concur.spawn(error, "early", 0)
      concur.sleep(0)
      local start = concur.now()
      local waits = concur.spawn(concur.sleep_forever)
      assert.equal("early", failure(concur.gather, waits, failed))
      assert.equal("cancelled", waits:state())
      assert.near(0, concur.now() - start, 1e-6)
    end)
  end)

  it("shows the line of the child in its traceback", function()
    virtual.run(function()
      local line
      local e = failure(concur.gather, after(5), function()
        concur.sleep(1)
        line = debug.getinfo(1, "l").currentline + 1
        concur.Future():exception()
      end)
      assert.matches("gather_spec%.lua:" .. line .. ": in", e.traceback)
    end)
  end)
end)

describe("a child of gather whose coroutine a stranger closed", function()
  it("fails with InvalidState, and gather ends in order", function()
    virtual.run(function()
      local co
      local caller = concur.spawn(concur.gather, function()
        co = coroutine.running()
        concur.sleep_forever()
      end, concur.sleep_forever)
      concur.sleep(1)
      coroutine.close(co)
      concur.sleep(1)
      caller:cancel() -- the loop has no reason to look at the closed one before
      concur.wait { caller }
      assert.is_true(caller:done())
      pcall(caller.result, caller)
    end)
  end)
end)

describe("a cancelled input of gather", function()
  it("makes it raise FutureCancelled; the caller is not cancelled", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep_forever)
      local future = concur.Future()
      concur.get_event_loop():call_later(1, task.cancel, task, "stopped")
      local e = failure_of_kind("FutureCancelled", concur.gather, task, future)
      assert.equal("stopped", e.reason)
      assert.is_false(concur.errors.is(e, "Cancelled"))
      assert.equal("cancelled", future:state())
      assert.equal("alive", concur.sleep(1, "alive"))
    end)
  end)
end)

describe("a cancelled gather", function()
  it("cancels its inputs, waits for them, and raises Cancelled", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(concur.sleep_forever)
      local future = concur.Future()
      local caller = concur.spawn(function()
        local ok, e = pcall(concur.gather, function()
          local _ <close> = cleaning(log, "child", 2)
          concur.sleep_forever()
        end, task, future)
        log[#log + 1] = tostring(ok) .. " " .. e.kind
        error(e, 0)
      end)
      concur.sleep(1)
      caller:cancel()
      concur.wait { caller }
      assert.same({ "child", "false Cancelled" }, log)
      assert.equal("cancelled", caller:state())
      assert.equal("cancelled", task:state())
      assert.equal("cancelled", future:state())
    end)
  end)

  it("keeps its results when all inputs were done before the cancellation", function()
    virtual.run(function()
      local a, b = concur.Future(), concur.Future()
      local got
      local caller = concur.spawn(function()
        got = concur.gather { a, b }
      end)
      concur.sleep(0)
      a:set_result(1)
      b:set_result(2)
      caller:cancel()
      concur.wait { caller }
      assert.same({ 1, 2, n = 2 }, got)
    end)
  end)

  it("does not lose an error of a clean-up: it goes to on_error or to the caller", function()
    local raised
    local reports = virtual.reports(function()
      local caller = concur.spawn(concur.gather, function()
        pcall(concur.sleep_forever)
        error("clean-up", 0)
      end)
      concur.sleep(1)
      caller:cancel()
      concur.wait { caller }
      if caller:state() == "failed" then
        raised = caller:exception()
      end
    end)
    if raised == nil then
      assert.same({ "clean-up", n = 1 }, reports)
    else
      assert.equal("clean-up", raised)
      assert.equal(0, reports.n)
    end
  end)

  it("that is called in a cancelled task lets its children run to their first wait", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(function()
        pcall(concur.sleep, 1)
        pcall(concur.gather, function()
          log[#log + 1] = "child starts"
          concur.sleep(1)
          log[#log + 1] = "not reached"
        end)
        return "end"
      end)
      concur.sleep(0)
      task:cancel()
      assert.equal("end", task:result())
      -- Cancelled before it began, or its child was: both are in order, going on is not.
      assert.is_true(#log <= 1)
    end)
  end)
end)

describe("bad input of gather", function()
  it("names the argument, nil included, and starts nothing", function()
    virtual.run(function()
      local started = false
      local function f()
        started = true
      end
      for _, case in ipairs {
        { 2, table.pack(f, nil) },
        { 1, table.pack(nil, f) },
        { 2, table.pack(f, 42, f) },
        { 3, table.pack(f, f, "x") },
        { 2, table.pack(f, {}) },
      } do
        local index, arguments = case[1], case[2]
        local e = failure(concur.gather, table.unpack(arguments, 1, arguments.n))
        assert.matches("#" .. index, tostring(e))
      end
      concur.sleep(1)
      assert.is_false(started)
    end)
  end)

  it("names the key of a table", function()
    virtual.run(function()
      local started = false
      local function f()
        started = true
      end
      assert.matches("'?bad'?", tostring(failure(concur.gather, { good = f, bad = 42 })))
      assert.matches("2", tostring(failure(concur.gather, { f, false })))
      concur.sleep(1)
      assert.is_false(started)
    end)
  end)

  it("refuses to wait for the task that calls it", function()
    virtual.run(function()
      failure_of_kind("Deadlock", concur.gather, after(1), concur.current_task())
    end)
  end)
end)
