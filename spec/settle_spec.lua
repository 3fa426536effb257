-- SPDX-License-Identifier: MIT
-- settle: what became of each input, never an error.

local concur = require "concur"
local virtual = require "spec.support.virtual"

local failure = virtual.failure

describe("settle", function()
  it("gives each outcome in the order of the inputs", function()
    virtual.run(function()
      local e = {}
      local a, b, c = concur.settle(function()
        concur.sleep(2)
        return "first", nil, "third"
      end, function()
        concur.sleep(1)
        error(e)
      end, function() end)
      assert.is_true(a.ok)
      assert.equal("first", a.value)
      assert.equal(3, a.n)
      assert.same({ "first", nil, "third" }, { a[1], a[2], a[3] })
      assert.is_false(b.ok)
      assert.equal(e, b.error)
      assert.is_true(c.ok)
      assert.is_nil(c.value)
      assert.equal(0, c.n)
    end)
  end)

  it("takes a table and returns one with the same keys", function()
    virtual.run(function()
      local results = concur.settle {
        good = function()
          return 1
        end,
        bad = function()
          error("x", 0)
        end,
      }
      assert.is_true(results.good.ok)
      assert.equal(1, results.good.value)
      assert.is_false(results.bad.ok)
      assert.equal("x", results.bad.error)
    end)
  end)

  it("gives n for a list", function()
    virtual.run(function()
      local results = concur.settle { concur.checkpoint, concur.checkpoint }
      assert.equal(2, results.n)
      assert.is_true(results[1].ok and results[2].ok)
      assert.same({ n = 0 }, concur.settle {})
      assert.equal(0, select("#", concur.settle()))
    end)
  end)

  it("tells an error that is nil or false from success", function()
    virtual.run(function()
      local a, b = concur.settle(function()
        error(nil)
      end, function()
        error(false)
      end)
      assert.is_false(a.ok)
      assert.is_nil(a.error)
      assert.is_false(b.ok)
      assert.is_false(b.error)
    end)
  end)

  it("does not stop the others when one fails", function()
    virtual.run(function()
      local start = concur.now()
      local _, slow = concur.settle(function()
        error("early", 0)
      end, function()
        return concur.sleep(5, "slow")
      end)
      assert.equal("slow", slow.value)
      assert.near(5, concur.now() - start, 1e-6)
    end)
  end)

  it("gives FutureCancelled for an input that was cancelled", function()
    virtual.run(function()
      local task, future = concur.spawn(concur.sleep_forever), concur.Future()
      task:cancel("why")
      future:cancel()
      local a, b = concur.settle(task, future)
      assert.is_false(a.ok)
      assert.is_true(concur.errors.is(a.error, "FutureCancelled"))
      assert.equal("why", a.error.reason)
      assert.is_true(concur.errors.is(b.error, "FutureCancelled"))
    end)
  end)

  it("mixes functions, tasks and settled futures", function()
    virtual.run(function()
      local future = concur.Future()
      future:set_result("settled")
      local task = concur.spawn(concur.sleep, 1, "task")
      local a, b, c = concur.settle(future, task, function()
        return "function"
      end)
      assert.same({ "settled", "task", "function" }, { a.value, b.value, c.value })
    end)
  end)

  it("cancels its inputs and joins them when the caller is cancelled", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(concur.sleep_forever)
      local caller = concur.spawn(concur.settle, task, function()
        pcall(concur.sleep_forever)
        concur.shield(concur.sleep, 2)
        log[#log + 1] = "child"
      end)
      caller:add_done_callback(function()
        log[#log + 1] = "caller"
      end)
      concur.sleep(1)
      caller:cancel()
      concur.wait { caller }
      concur.sleep(0)
      assert.same({ "child", "caller" }, log)
      assert.equal("cancelled", task:state())
      assert.equal("cancelled", caller:state())
    end)
  end)

  it("takes responsibility for the errors: on_error does not get them", function()
    local reports = virtual.reports(function()
      concur.settle(function()
        error("x", 0)
      end)
      collectgarbage()
      collectgarbage()
      concur.sleep(0)
    end)
    assert.equal(0, reports.n)
  end)

  it("works at top level", function()
    local a = concur.settle(function()
      return concur.sleep(0.001, "x")
    end)
    assert.equal("x", a.value)
  end)

  it("names a bad argument and starts nothing", function()
    virtual.run(function()
      local started = false
      local e = failure(concur.settle, function()
        started = true
      end, nil)
      assert.matches("#2", tostring(e))
      concur.sleep(0)
      assert.is_false(started)
    end)
  end)
end)
