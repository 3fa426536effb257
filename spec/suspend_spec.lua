-- SPDX-License-Identifier: MIT
-- suspend: the bridge from callbacks to waiting.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

local function later(seconds, fn, ...)
  concur.get_event_loop():call_later(seconds, fn, ...)
end

describe("suspend", function()
  it("returns what resume was called with, nils included", function()
    virtual.run(function()
      local start = concur.now()
      local results = table.pack(concur.suspend(function(resume)
        later(2, resume, "a", nil, "c", nil)
      end))
      assert.same({ "a", nil, "c", nil, n = 4 }, results)
      assert.near(2, concur.now() - start, 1e-6)
    end)
  end)

  it("returns nothing for resume without arguments", function()
    virtual.run(function()
      assert.equal(0, select("#", concur.suspend(function(resume)
        later(1, resume)
      end)))
    end)
  end)

  it("raises what fail was called with: any value, as it is", function()
    virtual.run(function()
      for _, e in ipairs { {}, "text", 42, true } do
        assert.equal(e, failure(concur.suspend, function(_, fail)
          later(1, fail, e)
        end))
      end
      for i = 1, 2 do
        local e = nil
        if i == 2 then
          e = false
        end
        assert.same({ false, e, n = 2 }, table.pack(pcall(concur.suspend, function(_, fail)
          later(1, fail, e)
        end)))
      end
    end)
  end)

  it("goes on at once when resume or fail is called inside the function", function()
    virtual.run(function()
      local switched = false
      concur.spawn(function()
        switched = true
      end)
      assert.same({ 1, 2 }, { concur.suspend(function(resume)
        resume(1, 2)
      end) })
      assert.equal("no", failure(concur.suspend, function(_, fail)
        fail "no"
      end))
      assert.is_false(switched)
    end)
  end)

  it("counts the first call only; resume and fail say whether they counted", function()
    virtual.run(function()
      local log = {}
      local value = concur.suspend(function(resume, fail)
        later(1, function()
          log[1] = resume "first"
          log[2] = resume "second"
          log[3] = fail "third"
        end)
      end)
      assert.equal("first", value)
      assert.same({ true, false, false }, log)
    end)
  end)

  it("counts the first call also when that is a finalizer's, in the middle of the other", function()
    support.check_lua [[
      local concur = require "concur"
      local resume, finalized
      local task = concur.spawn(function()
        return concur.suspend(function(r) resume = r end)
      end)
      concur.sleep(0)
      collectgarbage() -- from here on nothing is collected
      collectgarbage "stop"
      setmetatable({}, { __gc = function() finalized = resume "from the finalizer" end })
      collectgarbage("incremental", 1, 1000, 30) -- a whole collection at a time
      collectgarbage "restart"
      local before = finalized
      local counted = resume(1, 2, 3) -- makes a table, and so the finalizer runs
      assert(before == nil and finalized == true and counted == false)
      assert(task:result() == "from the finalizer")
    ]]
  end)

  it("says so also when the function itself resumes", function()
    virtual.run(function()
      local log = {}
      assert.equal("x", concur.suspend(function(resume, fail)
        log[1] = resume "x"
        log[2] = fail "y"
        log[3] = resume "z"
      end))
      assert.same({ true, false, false }, log)
    end)
  end)

  it("lets another task resume it", function()
    virtual.run(function()
      local wake
      local task = concur.spawn(function()
        return concur.suspend(function(resume)
          wake = resume
        end)
      end)
      concur.sleep(0)
      assert.is_true(wake("from main"))
      assert.equal("pending", task:state())
      assert.equal("from main", task:result())
    end)
  end)

  it("raises an error of the function itself", function()
    virtual.run(function()
      local e = {}
      assert.equal(e, failure(concur.suspend, function()
        error(e)
      end))
      assert.equal("alive", concur.sleep(1, "alive"))
    end)
  end)

  it("forgets a resume when the function failed", function()
    virtual.run(function()
      local late
      assert.equal("broken", failure(concur.suspend, function(resume)
        late = resume
        error("broken", 0)
      end))
      assert.is_false(late())
      assert.equal("alive", concur.sleep(1, "alive"))
    end)
  end)

  it("works at top level", function()
    assert.equal("x", concur.suspend(function(resume)
      later(0.001, resume, "x")
    end))
  end)

  it("is a Deadlock when nobody holds resume any more and nothing can come", function()
    failure_of_kind("Deadlock", virtual.run, function()
      concur.suspend(function() end)
    end)
  end)

  it("shows in awaiting", function()
    virtual.run(function()
      local wake
      local task = concur.spawn(concur.suspend, function(resume)
        wake = resume
      end)
      concur.sleep(0)
      assert.matches("suspend", (task:awaiting()))
      wake()
    end)
  end)
end)

describe("a cancelled suspend", function()
  it("raises Cancelled after on_cancel was called with the reason", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(function()
        local e = failure(concur.suspend, function()
          return function(...)
            log[#log + 1] = table.pack(...)
          end
        end)
        log[#log + 1] = e.kind
        error(e)
      end)
      concur.sleep(1)
      task:cancel("why")
      concur.sleep(1)
      assert.equal(1, log[1].n)
      assert.equal("why", log[1][1])
      assert.equal("Cancelled", log[2])
      assert.equal(2, #log)
      assert.is_true(task:cancelled())
    end)
  end)

  it("without on_cancel raises Cancelled", function()
    virtual.run(function()
      local task = concur.spawn(concur.suspend, function() end)
      concur.sleep(1)
      task:cancel()
      concur.sleep(0)
      assert.is_true(task:cancelled())
    end)
  end)

  it("makes a late resume return false, so that its resources can be disposed of", function()
    virtual.run(function()
      local wake, wrong
      local task = concur.spawn(concur.suspend, function(resume, fail)
        wake, wrong = resume, fail
      end)
      concur.sleep(1)
      task:cancel()
      concur.sleep(0)
      assert.is_false(wake("too late"))
      assert.is_false(wrong("too late"))
      assert.is_true(task:cancelled())
    end)
  end)

  it("is a race with resume that exactly one wins, and resume says which", function()
    virtual.run(function()
      for turns = 0, 4 do
        local wake
        local task = concur.spawn(concur.suspend, function(resume)
          wake = resume
        end)
        concur.sleep(1)
        task:cancel()
        for _ = 1, turns do
          concur.sleep(0)
        end
        local counted = wake "the value"
        concur.wait { task }
        assert.equal(counted and "done" or "cancelled", task:state())
      end
    end)
  end)

  it("stays parked when on_cancel returns false, and the result counts", function()
    virtual.run(function()
      local wake
      local task = concur.spawn(function()
        local value = concur.suspend(function(resume)
          wake = resume
          return function()
            return false
          end
        end)
        return value, (pcall(concur.sleep, 1))
      end)
      concur.sleep(1)
      task:cancel()
      concur.sleep(5)
      assert.equal("pending", task:state())
      assert.is_true(wake("the result"))
      assert.same({ "the result", false }, { task:result() })
    end)
  end)

  it("stays parked when on_cancel returns false, and the error counts", function()
    virtual.run(function()
      local wrong
      local task = concur.spawn(concur.suspend, function(_, fail)
        wrong = fail
        return function()
          return false
        end
      end)
      concur.sleep(1)
      task:cancel()
      concur.sleep(1)
      wrong("the error")
      assert.equal("the error", failure(task.result, task))
    end)
  end)

  it("calls on_cancel once, however often cancel is called", function()
    virtual.run(function()
      local count, wake = 0, nil
      local task = concur.spawn(concur.suspend, function(resume)
        wake = resume
        return function()
          count = count + 1
          return false
        end
      end)
      concur.sleep(1)
      task:cancel()
      concur.sleep(1)
      task:cancel()
      concur.sleep(1)
      assert.equal(1, count)
      wake()
      concur.wait { task }
    end)
  end)

  it("that is resumed by on_cancel has that result", function()
    virtual.run(function()
      local task = concur.spawn(concur.suspend, function(resume)
        return function()
          resume "partial"
          return false
        end
      end)
      concur.sleep(1)
      task:cancel()
      assert.equal("partial", task:result())
    end)
  end)

  it("keeps the result when resume came before the cancellation", function()
    virtual.run(function()
      local wake, cancelled_called
      local task = concur.spawn(concur.suspend, function(resume)
        wake = resume
        return function()
          cancelled_called = true
        end
      end)
      concur.sleep(1)
      assert.is_true(wake "first")
      task:cancel()
      assert.equal("first", task:result())
      assert.is_nil(cancelled_called)
    end)
  end)

  it("raises an error of on_cancel instead of Cancelled", function()
    virtual.run(function()
      local e = {}
      local task = concur.spawn(concur.suspend, function()
        return function()
          error(e)
        end
      end)
      concur.sleep(1)
      task:cancel()
      assert.equal(e, failure(task.result, task))
    end)
  end)

  it("does not call the function at all when the task is cancelled already", function()
    virtual.run(function()
      local called = false
      local task = concur.spawn(function()
        pcall(concur.sleep, 1)
        concur.suspend(function()
          called = true
        end)
      end)
      concur.sleep(0)
      task:cancel()
      concur.sleep(1)
      assert.is_false(called)
      assert.is_true(task:cancelled())
    end)
  end)

  it("that was cancelled by the function itself raises Cancelled", function()
    virtual.run(function()
      local task
      task = concur.spawn(concur.suspend, function()
        task:cancel()
      end)
      concur.sleep(1)
      assert.is_true(task:cancelled())
    end)
  end)

  it("by a time-out stops the work and raises TimeoutError", function()
    virtual.run(function()
      local stopped
      failure_of_kind("TimeoutError", concur.timeout, 1, concur.suspend, function()
        return function()
          stopped = true
        end
      end)
      assert.is_true(stopped)
    end)
  end)
end)

describe("bad input of suspend", function()
  it("is anything but a function", function()
    virtual.run(function()
      for _, value in ipairs { 42, "x", {}, true } do
        assert.matches("#1", tostring(failure(concur.suspend, value)))
      end
      assert.matches("#1", tostring(failure(concur.suspend)))
    end)
  end)

  it("is an on_cancel that is no function", function()
    virtual.run(function()
      assert.matches("cancel", tostring(failure(concur.suspend, function()
        return 42
      end)))
      assert.equal("alive", concur.sleep(1, "alive"))
    end)
  end)

  it("is a wait inside the function", function()
    virtual.run(function()
      -- Either it is refused or it works, but the outer wait keeps its meaning.
      local ok
      local value = concur.suspend(function(resume)
        ok = pcall(concur.sleep, 1)
        resume "outer"
      end)
      assert.equal("outer", value)
      assert.is_boolean(ok)
    end)
  end)
end)
