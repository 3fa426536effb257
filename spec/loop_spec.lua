-- SPDX-License-Identifier: MIT
-- The event loop object: drivers, callbacks, timers, close.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

local function loop()
  return concur.get_event_loop()
end

describe("get_event_loop", function()
  it("returns the same object inside and outside", function()
    local outside = loop()
    assert.equal(outside, loop())
    concur.run(function()
      assert.equal(outside, loop())
    end)
  end)

  it("has a name", function()
    assert.matches("EventLoop", tostring(loop()))
  end)

  it("says whether the loop runs", function()
    assert.is_false(loop():is_running())
    concur.run(function()
      assert.is_true(loop():is_running())
    end)
    assert.is_false(loop():is_running())
  end)

  it("runs while something waits at top level", function()
    local seen
    concur.spawn(function()
      seen = loop():is_running()
    end)
    concur.sleep(0)
    assert.is_true(seen)
    assert.is_false(loop():is_running())
  end)

  it("has the clock of concur.now", function()
    local before, time, after = concur.now(), loop():time(), concur.now()
    assert.is_true(before <= time and time <= after)
  end)
end)

describe("run_until_complete", function()
  it("returns the results of a task", function()
    local task = concur.spawn(function()
      concur.sleep(0)
      return 1, nil, 3
    end)
    assert.same({ 1, nil, 3, n = 3 }, table.pack(loop():run_until_complete(task)))
  end)

  it("takes what an async function returns", function()
    local add = concur.async(function(a, b)
      concur.sleep(0)
      return a + b
    end)
    assert.equal(5, loop():run_until_complete(add(2, 3)))
  end)

  it("returns the results of a future that a callback settles", function()
    local future = concur.Future()
    loop():call_soon(function()
      future:set_result("done")
    end)
    assert.equal("done", loop():run_until_complete(future))
  end)

  it("takes an object with __await", function()
    local object = setmetatable({}, {
      __await = function()
        concur.sleep(0)
        return "awaited", 2
      end,
    })
    assert.same({ "awaited", 2 }, { loop():run_until_complete(object) })
  end)

  it("raises the error of the task: the very same table", function()
    local e = {}
    assert.equal(e, failure(loop().run_until_complete, loop(), concur.spawn(error, e)))
  end)

  it("leaves the other tasks as they are", function()
    local other = concur.spawn(function()
      for _ = 1, 5 do
        concur.sleep(0)
      end
      return "other"
    end)
    loop():run_until_complete(concur.spawn(function() end))
    assert.equal("pending", other:state())
    assert.equal("other", loop():run_until_complete(other))
  end)

  it("refuses what cannot be awaited, and says what it got", function()
    local e = failure(loop().run_until_complete, loop(), 42)
    assert.matches("number", tostring(e))
  end)

  it("refuses to be called while the loop runs", function()
    concur.run(function()
      failure_of_kind("InvalidState", loop().run_until_complete, loop(), concur.Future())
    end)
  end)
end)

describe("run_forever", function()
  it("runs until stop", function()
    local count = 0
    local function tick()
      count = count + 1
      if count == 5 then
        loop():stop()
      end
      loop():call_later(0.001, tick)
    end
    loop():call_soon(tick)
    loop():run_forever()
    assert.equal(5, count)
    loop():close()
  end)

  it("leaves a timer that is due when it stops to the next run", function()
    local fired = false
    loop():call_soon(function()
      loop():stop()
      loop():call_later(0, function() fired = true end)
      local began = os.clock()
      while os.clock() == began do end -- it is due now
    end)
    loop():run_forever()
    assert.is_false(fired)
    concur.sleep(0.001)
    assert.is_true(fired)
    loop():close()
  end)

  it("can be stopped by a task, and go on", function()
    local log = {}
    local task = concur.spawn(function()
      log[#log + 1] = "before"
      loop():stop()
      concur.sleep(0)
      log[#log + 1] = "after"
      loop():stop()
    end)
    loop():run_forever()
    assert.same({ "before" }, log)
    loop():run_forever()
    assert.same({ "before", "after" }, log)
    assert.is_true(task:done())
  end)

  it("refuses to be called while the loop runs", function()
    concur.run(function()
      failure_of_kind("InvalidState", loop().run_forever, loop())
    end)
  end)
end)

describe("stop", function()
  it("is an error inside run", function()
    concur.run(function()
      failure_of_kind("InvalidState", loop().stop, loop())
    end)
  end)

  it("makes run_until_complete raise InvalidState", function()
    local future = concur.Future()
    loop():call_soon(function()
      loop():stop()
    end)
    failure_of_kind("InvalidState", loop().run_until_complete, loop(), future)
    assert.equal("pending", future:state())
  end)

  it("makes a wait at top level raise InvalidState", function()
    loop():call_soon(function()
      loop():stop()
    end)
    failure_of_kind("InvalidState", concur.sleep, 10)
  end)
end)

describe("call_soon", function()
  it("calls with the arguments, in the order of the calls", function()
    local log = {}
    local function note(...)
      log[#log + 1] = table.pack(...)
    end
    virtual.run(function()
      loop():call_soon(note, 1, nil)
      loop():call_soon(note)
      loop():call_soon(note, "x")
      assert.same({}, log)
      concur.sleep(0)
    end)
    assert.same({ { 1, nil, n = 2 }, { n = 0 }, { "x", n = 1 } }, log)
  end)

  it("shares one order with tasks", function()
    local log = {}
    virtual.run(function()
      local function note(x)
        log[#log + 1] = x
      end
      concur.spawn(note, 1)
      loop():call_soon(note, 2)
      concur.spawn(note, 3)
      loop():call_soon(note, 4)
      concur.sleep(0)
    end)
    assert.same({ 1, 2, 3, 4 }, log)
  end)

  it("runs a callback made by a callback at the next turn", function()
    local log = {}
    virtual.run(function()
      loop():call_soon(function()
        loop():call_soon(function()
          log[#log + 1] = "second"
        end)
        log[#log + 1] = "first"
      end)
      concur.sleep(0)
      log[#log + 1] = "task"
      concur.sleep(0)
    end)
    assert.same({ "first", "task", "second" }, log)
  end)

  it("returns a handle that cancels, more than once without harm", function()
    local called = false
    virtual.run(function()
      local handle = loop():call_soon(function()
        called = true
      end)
      handle:cancel()
      handle:cancel()
      concur.sleep(0)
      handle:cancel()
    end)
    assert.is_false(called)
  end)

  it("returns a handle that says whether it was cancelled", function()
    virtual.run(function()
      local handle = loop():call_soon(function() end)
      local other = loop():call_later(1, function() end)
      assert.is_false(handle:cancelled())
      handle:cancel()
      other:cancel()
      assert.is_true(handle:cancelled())
      assert.is_true(other:cancelled())
      assert.equal("string", type(tostring(handle)))
    end)
  end)

  it("can be cancelled by a callback of the same turn", function()
    local called = false
    virtual.run(function()
      local handle
      loop():call_soon(function()
        handle:cancel()
      end)
      handle = loop():call_soon(function()
        called = true
      end)
      concur.sleep(0)
    end)
    assert.is_false(called)
  end)

  it("hands an error of the callback to on_error, and the rest runs", function()
    local e, log = { "boom" }, {}
    local reports = virtual.reports(function()
      loop():call_soon(function()
        error(e)
      end)
      loop():call_soon(function()
        log[#log + 1] = "next"
      end)
      concur.sleep(0)
    end)
    assert.equal(1, reports.n)
    assert.equal(e, reports[1])
    assert.same({ "next" }, log)
  end)

  it("hands an error that is nil to on_error", function()
    local reports = virtual.reports(function()
      loop():call_soon(error)
      concur.sleep(0)
    end)
    assert.same({ n = 1 }, reports)
  end)

  it("can be called before the loop runs", function()
    local called = false
    loop():call_soon(function()
      called = true
    end)
    assert.is_false(called)
    concur.sleep(0)
    assert.is_true(called)
  end)

  it("runs without a current task", function()
    local task = "unset"
    virtual.run(function()
      loop():call_soon(function()
        task = concur.current_task()
      end)
      concur.sleep(0)
    end)
    assert.is_nil(task)
  end)

  it("keeps the callback and its arguments alive", function()
    local seen
    virtual.run(function()
      loop():call_soon(function(t)
        seen = t[1]
      end, { "kept" })
      collectgarbage()
      concur.sleep(0)
    end)
    assert.equal("kept", seen)
  end)
end)

describe("call_later and call_at", function()
  it("call in the order of their times", function()
    local log = {}
    virtual.run(function()
      local start = concur.now()
      local function note(x)
        log[#log + 1] = ("%s@%g"):format(x, concur.now() - start)
      end
      loop():call_later(3, note, "c")
      loop():call_later(1, note, "a")
      loop():call_at(start + 2, note, "b")
      concur.sleep(10)
    end)
    assert.same({ "a@1", "b@2", "c@3" }, log)
  end)

  it("call at equal times in the order of the calls", function()
    local log = {}
    virtual.run(function()
      local at = concur.now() + 1
      for i = 1, 20 do
        loop():call_at(at, function()
          log[#log + 1] = i
        end)
      end
      concur.sleep(2)
    end)
    for i = 1, 20 do
      assert.equal(i, log[i])
    end
  end)

  it("call at the next turn when the time is over", function()
    local log = {}
    virtual.run(function()
      local start = concur.now()
      local function note(x)
        log[#log + 1] = x .. (concur.now() - start)
      end
      loop():call_later(-5, note, "negative ")
      loop():call_later(0, note, "zero ")
      loop():call_at(start - 100, note, "past ")
      assert.same({}, log)
      concur.sleep(1)
    end)
    table.sort(log)
    assert.same({ "negative 0.0", "past 0.0", "zero 0.0" }, log)
  end)

  it("never call for math.huge", function()
    local called = false
    virtual.run(function()
      loop():call_later(math.huge, function()
        called = true
      end)
      concur.sleep(1e6)
    end)
    assert.is_false(called)
  end)

  it("pass arguments and return a handle that cancels", function()
    local seen = {}
    virtual.run(function()
      local handle = loop():call_later(1, function(x)
        seen[#seen + 1] = x
      end, "cancelled")
      loop():call_later(1, function(x)
        seen[#seen + 1] = x
      end, "called")
      handle:cancel()
      handle:cancel()
      concur.sleep(2)
      handle:cancel()
    end)
    assert.same({ "called" }, seen)
  end)

  it("can be cancelled at the very time they are due", function()
    local called = false
    virtual.run(function()
      local handle
      loop():call_later(1, function()
        handle:cancel()
      end)
      handle = loop():call_later(1, function()
        called = true
      end)
      concur.sleep(2)
    end)
    assert.is_false(called)
  end)

  it("cancel many timers in any order", function()
    local seed = support.seed()
    local called = {}
    virtual.run(function()
      local handles, keep = {}, {}
      for i = 1, 500 do
        handles[i] = loop():call_later(math.random(1, 50), function()
          called[i] = true
        end)
        keep[i] = true
      end
      for _ = 1, 400 do
        local i = math.random(1, 500)
        handles[i]:cancel()
        keep[i] = nil
      end
      concur.sleep(100)
      for i = 1, 500 do
        assert.equal(keep[i], called[i], "timer " .. i .. ", seed " .. seed)
      end
    end)
  end)

  it("hand an error of the callback to on_error, and later timers run", function()
    local e, later = { "boom" }, false
    local reports = virtual.reports(function()
      loop():call_later(1, function()
        error(e)
      end)
      loop():call_later(2, function()
        later = true
      end)
      concur.sleep(3)
    end)
    assert.equal(e, reports[1])
    assert.is_true(later)
  end)

  it("show their line in the traceback of an error", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local loop = concur.get_event_loop()
      local function culprit()
        error { "an object" }
      end
      loop:call_soon(function() culprit() end)
      concur.sleep(0.001)
    ]]
    assert.equal(0, result.code, support.describe(result))
    assert.matches("script%.lua:4: in", result.stderr)
    assert.matches("script%.lua:6: in", result.stderr)
  end)
end)

describe("closing the loop", function()
  it("can be done more than once; the next use makes a new loop", function()
    loop():close()
    loop():close()
    assert.equal("new", concur.run(function()
      concur.sleep(0)
      return "new"
    end))
    loop():close()
  end)

  it("drops callbacks and timers", function()
    local called = false
    loop():call_soon(function()
      called = true
    end)
    loop():call_later(0, function()
      called = true
    end)
    loop():close()
    concur.sleep(0.002)
    assert.is_false(called)
  end)

  it("ends the tasks that are left, in order", function()
    local log = {}
    local task = concur.spawn(function()
      local _ <close> = setmetatable({}, {
        __close = function()
          log[#log + 1] = concur.shield(concur.sleep, 0.001, "cleaned")
        end,
      })
      concur.sleep(10)
    end)
    concur.sleep(0)
    loop():close()
    assert.same({ "cleaned" }, log)
    assert.equal("cancelled", task:state())
    assert.equal("new loop", concur.run(function()
      return "new loop"
    end))
  end)

  it("is refused while the loop runs", function()
    concur.run(function()
      failure_of_kind("InvalidState", loop().close, loop())
      concur.sleep(0)
    end)
  end)

  it("leaves its timers' handles harmless", function()
    local handle = loop():call_later(10, print)
    loop():close()
    handle:cancel()
    handle = nil -- luacheck: ignore
    collectgarbage()
  end)
end)
