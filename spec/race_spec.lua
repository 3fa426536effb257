-- SPDX-License-Identifier: MIT
-- race: the first to settle. any: the first to succeed.

local concur = require "concur"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

local function after(seconds, ...)
  local values = table.pack(...)
  return function()
    concur.sleep(seconds)
    return table.unpack(values, 1, values.n)
  end
end

local function fail_after(seconds, e)
  return function()
    concur.sleep(seconds)
    error(e, 0)
  end
end

describe("race", function()
  it("returns the index of the first to settle, then all its results", function()
    virtual.run(function()
      local start = concur.now()
      assert.same({ 2, "quick", nil, "third", n = 4 },
        table.pack(concur.race(after(5, "slow"), after(1, "quick", nil, "third"))))
      assert.near(1, concur.now() - start, 1e-6)
    end)
  end)

  it("takes a table and returns the key", function()
    virtual.run(function()
      local key, value = concur.race { slow = after(5), quick = after(1, "x") }
      assert.equal("quick", key)
      assert.equal("x", value)
    end)
  end)

  it("raises the error of the first to settle, as it is", function()
    virtual.run(function()
      local e = {}
      assert.equal(e, failure(concur.race, after(5), fail_after(1, e)))
    end)
  end)

  it("cancels the losers and waits for them; their results are dropped", function()
    virtual.run(function()
      local start, log = concur.now(), {}
      local index, value = concur.race(after(1, "winner"), function()
        pcall(concur.sleep, 100)
        concur.shield(concur.sleep, 3)
        log[#log + 1] = "loser cleaned"
        return "dropped"
      end)
      assert.same({ 1, "winner" }, { index, value })
      assert.same({ "loser cleaned" }, log)
      assert.near(4, concur.now() - start, 1e-6)
    end)
  end)

  it("cancels the tasks and futures that were handed over", function()
    virtual.run(function()
      local task, future = concur.spawn(concur.sleep_forever), concur.Future()
      assert.equal(3, (concur.race(task, future, after(1))))
      assert.equal("cancelled", task:state())
      assert.equal("cancelled", future:state())
    end)
  end)

  it("is won by the first in the list when several are done already", function()
    virtual.run(function()
      local a, b = concur.Future(), concur.Future()
      b:set_result("b")
      a:set_result("a")
      assert.same({ 1, "a" }, { concur.race(a, b) })
    end)
  end)

  it("raises FutureCancelled when a cancelled input is the first", function()
    virtual.run(function()
      local future = concur.Future()
      concur.get_event_loop():call_later(1, future.cancel, future, "why")
      local e = failure_of_kind("FutureCancelled", concur.race, future, after(5))
      assert.equal("why", e.reason)
    end)
  end)

  it("hands the errors of losers to on_error", function()
    local reports = virtual.reports(function()
      assert.equal(1, (concur.race(after(1), function()
        pcall(concur.sleep, 100)
        error("loser", 0)
      end)))
      collectgarbage()
      collectgarbage()
      concur.sleep(1)
    end)
    assert.same({ "loser", n = 1 }, reports)
  end)

  it("that is cancelled cancels all and joins them", function()
    virtual.run(function()
      local log = {}
      local caller = concur.spawn(concur.race, function()
        pcall(concur.sleep_forever)
        concur.shield(concur.sleep, 1)
        log[#log + 1] = "child"
      end, concur.sleep_forever)
      caller:add_done_callback(function()
        log[#log + 1] = "caller"
      end)
      concur.sleep(1)
      caller:cancel()
      concur.wait { caller }
      concur.sleep(0)
      assert.same({ "child", "caller" }, log)
      assert.equal("cancelled", caller:state())
    end)
  end)

  it("of one input is that input", function()
    virtual.run(function()
      assert.same({ 1, "x" }, { concur.race(after(1, "x")) })
    end)
  end)

  it("without inputs is an error, not a hang", function()
    virtual.run(function()
      failure(concur.race)
      failure(concur.race, {})
    end)
  end)

  it("works at top level", function()
    assert.same({ 1, "x" }, { concur.race(after(0.001, "x"), concur.sleep_forever) })
  end)

  it("names a bad argument and starts nothing", function()
    virtual.run(function()
      local started = false
      assert.matches("#2", tostring(failure(concur.race, function()
        started = true
      end, nil)))
      concur.sleep(0)
      assert.is_false(started)
    end)
  end)
end)

describe("any", function()
  it("returns the first success, and ignores errors before it", function()
    virtual.run(function()
      local results = table.pack(concur.any(fail_after(1, "x"), after(2, "good", "more"), after(9)))
      assert.same({ 2, "good", "more", n = 3 }, results)
    end)
  end)

  it("takes a table and returns the key", function()
    virtual.run(function()
      local key, value = concur.any { bad = fail_after(0, "x"), good = after(1, "y") }
      assert.same({ "good", "y" }, { key, value })
    end)
  end)

  it("raises an ErrorGroup of all errors, in input order, when none succeeds", function()
    virtual.run(function()
      local e = {}
      local group = failure_of_kind("ErrorGroup", concur.any,
        fail_after(2, "second in time"), fail_after(1, e), fail_after(3, false))
      assert.equal(3, group.n)
      assert.equal("second in time", group.errors[1])
      assert.equal(e, group.errors[2])
      assert.equal(false, group.errors[3])
    end)
  end)

  it("shows where each error of its group came from", function()
    virtual.run(function()
      local line = debug.getinfo(1, "l").currentline + 2
      local group = failure_of_kind("ErrorGroup", concur.any, function()
        error({})
      end)
      assert.matches("race_spec%.lua:" .. line .. ": in", group.tracebacks[1])
    end)
  end)

  it("counts a cancelled input as an error", function()
    virtual.run(function()
      local future = concur.Future()
      future:cancel()
      local group = failure_of_kind("ErrorGroup", concur.any, future, fail_after(1, "x"))
      assert.is_true(concur.errors.is(group.errors[1], "FutureCancelled"))
      assert.equal("x", group.errors[2])
      local other = concur.Future()
      other:cancel()
      assert.equal(2, (concur.any(other, after(1))))
    end)
  end)

  it("cancels the others and waits for them", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(concur.sleep_forever)
      concur.any(after(1), task, function()
        pcall(concur.sleep_forever)
        concur.shield(concur.sleep, 2)
        log[1] = "cleaned"
      end)
      assert.same({ "cleaned" }, log)
      assert.equal("cancelled", task:state())
    end)
  end)

  it("does not report the errors that a success outweighed", function()
    local reports = virtual.reports(function()
      concur.any(fail_after(1, "outweighed"), after(2))
      collectgarbage()
      collectgarbage()
      concur.sleep(0)
    end)
    assert.equal(0, reports.n)
  end)

  it("that is cancelled cancels all", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep_forever)
      local caller = concur.spawn(concur.any, task)
      concur.sleep(1)
      caller:cancel()
      concur.wait { caller }
      assert.equal("cancelled", caller:state())
      assert.equal("cancelled", task:state())
    end)
  end)

  it("without inputs is an error, not a hang", function()
    virtual.run(function()
      failure(concur.any)
      failure(concur.any, {})
    end)
  end)

  it("works at top level", function()
    assert.equal(2, (concur.any(fail_after(0, "x"), after(0.001))))
  end)
end)
