-- SPDX-License-Identifier: MIT
-- timeout, timeout_at, move_on_after, move_on_at: what is raised or returned, and when.

local concur = require "concur"
local expect = require "spec.support.expect"
local support = require "spec.support"
local testing = require "concur.testing"

local it_real = testing.wrap_it(it, { clock = false })
local it = testing.wrap_it(it)

-- Runs `fn` and returns how long it took and what pcall returned.
local function timed(fn, ...)
  local start = concur.now()
  local results = table.pack(pcall(fn, ...))
  return concur.now() - start, table.unpack(results, 1, results.n)
end

describe("timeout", function()
  it("returns all results of its function when there is time", function()
    assert.same({ 1, nil, 3, n = 3 }, table.pack(concur.timeout(5, function(...)
      concur.sleep(1)
      return ...
    end, 1, nil, 3)))
    assert.equal(0, select("#", concur.timeout(5, function() end)))
  end)

  it("raises TimeoutError at its deadline", function()
    local took, ok, e = timed(concur.timeout, 2, concur.sleep, 10)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.near(2, took, 1e-6)
  end)

  it("raises it with a traceback that shows where the function waited or was called", function()
    local e = expect.error("TimeoutError", concur.timeout, 1, concur.sleep, 10)
    assert.matches("timeout_spec.lua", e.traceback, 1, true)
  end)

  it("delivers Cancelled to the body, which may look and clean up", function()
    local kind
    expect.error("TimeoutError", concur.timeout, 1, function()
      local ok, e = pcall(concur.sleep, 10)
      assert.is_false(ok)
      kind = e.kind
      error(e, 0)
    end)
    assert.equal("Cancelled", kind)
  end)

  it("waits for the clean-up to end before it raises", function()
    local took, ok, e = timed(concur.timeout, 1, function()
      local _ <close> = expect.guard(function()
        concur.shield(concur.sleep, 3)
      end)
      concur.sleep(10)
    end)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.near(4, took, 1e-6)
  end)

  it("of 0 runs the body to its first wait and no further", function()
    local trace = {}
    expect.error("TimeoutError", concur.timeout, 0, function()
      trace[#trace + 1] = "ran"
      concur.sleep(0)
      trace[#trace + 1] = "wrong"
    end)
    assert.same({ "ran" }, trace)
  end)

  it("in the past counts as 0, and even sleep(0) trips over it", function()
    local took, ok, e = timed(concur.timeout, -11, concur.sleep, 0)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.equal(0, took)
    expect.error("TimeoutError", concur.timeout_at, concur.now() - 5, concur.checkpoint)
  end)

  it("of 0 is no error for a body that never waits", function()
    assert.equal("quick", concur.timeout(0, function()
      return "quick"
    end))
  end)

  it("of math.huge never fires", function()
    assert.equal("value", concur.timeout(math.huge, concur.sleep, 1e6, "value"))
    assert.equal("value", concur.timeout_at(math.huge, concur.sleep, 1e6, "value"))
  end)

  it("passes on what the body raises", function()
    expect.same_error("boom", concur.timeout, 5, error, "boom", 0)
    local own = setmetatable({}, { __tostring = function() return "own" end })
    expect.same_error(own, concur.timeout, 5, function()
      concur.sleep(1)
      error(own)
    end)
  end)

  it("lets an error of the clean-up win", function()
    expect.same_error("clean-up failed", concur.timeout, 1, function()
      local _ <close> = expect.guard(function()
        error("clean-up failed", 0)
      end)
      concur.sleep(10)
    end)
  end)

  it("lets a result win that the body returns after it was cancelled", function()
    assert.equal(42, concur.timeout(1, function()
      pcall(concur.sleep, 10)
      return 42
    end))
  end)

  it("ends the shielded part first: the deadline counts when the shield ends", function()
    local trace = {}
    local took, ok, e = timed(concur.timeout, 1, function()
      concur.shield(concur.sleep, 3)
      trace[#trace + 1] = "shielded part done"
      concur.checkpoint()
      trace[#trace + 1] = "wrong"
    end)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.near(3, took, 1e-6)
    assert.same({ "shielded part done" }, trace)
  end)

  it("inside clean-up has its own time", function()
    local inner
    local took, ok, e = timed(concur.timeout, 1, function()
      local _ <close> = expect.guard(function()
        concur.shield(function()
          inner = expect.error("TimeoutError", concur.timeout, 2, concur.sleep, 10)
        end)
      end)
      concur.sleep(10)
    end)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.equal("TimeoutError", inner.kind)
    assert.near(3, took, 1e-6)
  end)

  it("inside a scope that is cancelled already never runs past the first wait", function()
    local finished = concur.cancel_scope(function(scope)
      scope:cancel()
      concur.timeout(0, concur.sleep, 1)
      error "not reached"
    end)
    assert.is_false(finished)
  end)

  it("is no timeout when the task is cancelled from outside before the deadline", function()
    local task = concur.spawn(concur.timeout, 10, concur.sleep, 20)
    testing.run_until_idle()
    task:cancel()
    expect.error("FutureCancelled", task.result, task)
  end)

  it("is no timeout when the scope around it is cancelled", function()
    assert.is_false(concur.cancel_scope(function(scope)
      concur.spawn(function()
        scope:cancel()
      end)
      concur.timeout(10, concur.sleep, 20)
    end))
  end)

  it("does not cancel the task around it", function()
    local task = concur.spawn(function()
      expect.error("TimeoutError", concur.timeout, 1, concur.sleep, 10)
      concur.sleep(1)
      return "went on"
    end)
    assert.equal("went on", task:result())
    assert.is_false(task:cancelled())
  end)

  it("does not stop a task that is only awaited inside", function()
    local task = concur.spawn(concur.sleep, 3, "result")
    expect.error("TimeoutError", concur.timeout, 1, concur.await, task)
    assert.equal("pending", task:state())
    assert.equal("result", task:result())
  end)

  it("keeps a result that was ready when the deadline came", function(case)
    local future = concur.Future()
    local task = concur.spawn(concur.timeout, 1, function()
      return future:result()
    end)
    testing.run_until_idle()
    future:set_result "in time"
    case.clock:advance(2)
    assert.equal("in time", task:result())
  end)

  it("that expires and is cancelled from outside in the same turn: the outer request wins",
    function(case)
      for _, cancel_first in ipairs { true, false } do
        local task = concur.spawn(concur.timeout, 1, concur.sleep, 10)
        testing.run_until_idle()
        if cancel_first then
          task:cancel()
          case.clock:advance(2)
        else
          case.clock:advance(2)
          task:cancel()
        end
        expect.error("FutureCancelled", task.result, task)
      end
    end)

  it("works inside a group: the whole group is cancelled and joined", function()
    local ended = 0
    local took, ok, e = timed(concur.timeout, 1, concur.task_group, function(group)
      for _ = 1, 3 do
        group:spawn(function()
          local _ <close> = expect.guard(function()
            ended = ended + 1
          end)
          concur.sleep(5)
        end)
      end
    end)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.equal(3, ended)
    assert.near(1, took, 1e-6)
  end)

  it("of a child is an error of its group", function()
    expect.group({ { kind = "TimeoutError" } }, concur.task_group, function(group)
      group:spawn(concur.timeout, 1, concur.sleep, 5)
    end)
  end)

  it("can be moved through current_scope, and removed", function()
    local took, ok = timed(concur.timeout, 1, function()
      concur.current_scope():deadline(math.huge)
      concur.sleep(5)
    end)
    assert.is_true(ok)
    assert.near(5, took, 1e-6)
  end)

  it("uses a TimeoutError of its own for each: a caught one does not fire again", function()
    local first = expect.error("TimeoutError", concur.timeout, 1, concur.sleep, 5)
    local second = expect.error("TimeoutError", concur.timeout, 1, concur.sleep, 5)
    assert.are_not.equal(first, second)
    concur.sleep(5)
  end)

  it("leaves no timer behind when the body was quick", function()
    local before = testing.counters().timers
    for _ = 1, 100 do
      concur.timeout(1000, concur.checkpoint)
    end
    assert.equal(before, testing.counters().timers)
  end)

  it("fires in the order of the deadlines among many tasks", function()
    local order = {}
    concur.task_group(function(group)
      for _, seconds in ipairs { 5, 1, 4, 2, 3 } do
        group:spawn(function()
          concur.move_on_after(seconds, concur.sleep_forever)
          order[#order + 1] = seconds
        end)
      end
    end)
    assert.same({ 1, 2, 3, 4, 5 }, order)
  end)
end)

describe("nested timeouts", function()
  it("with equal deadlines raise only the outer error", function()
    local inner = "nothing"
    local at = concur.now() + 1
    expect.error("TimeoutError", concur.timeout_at, at, function()
      local ok, e = pcall(concur.timeout_at, at, concur.sleep, 10)
      assert.is_false(ok)
      inner = e.kind
      error(e, 0)
    end)
    assert.equal("Cancelled", inner)
  end)

  it("with the inner one first raise the inner error, which may be caught", function()
    local start = concur.now()
    assert.equal("recovered", concur.timeout(10, function()
      expect.error("TimeoutError", concur.timeout, 1, concur.sleep, 5)
      concur.sleep(2)
      return "recovered"
    end))
    assert.near(3, concur.now() - start, 1e-6)
  end)

  it("with the outer one first pass through the inner one", function()
    local kinds = {}
    expect.error("TimeoutError", concur.timeout, 1, function()
      local _, e = pcall(concur.timeout, 5, concur.sleep, 10)
      kinds[1] = e.kind
      error(e, 0)
    end)
    assert.same({ "Cancelled" }, kinds)
  end)

  it("the outer one still counts after the inner one was caught", function()
    local took, ok, e = timed(concur.timeout, 3, function()
      expect.error("TimeoutError", concur.timeout, 1, concur.sleep, 10)
      concur.sleep(10)
    end)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.near(3, took, 1e-6)
  end)

  it("of time that passed without a wait: the outermost expired one wins", function(case)
    local inner
    local ok, e = pcall(concur.timeout, 2, function()
      local ok_inner, e_inner = pcall(concur.timeout, 1, function()
        case.clock:advance(5) -- as if the processor had been busy
        concur.sleep(1)
      end)
      assert.is_false(ok_inner)
      inner = e_inner.kind
      error(e_inner, 0)
    end)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.equal("Cancelled", inner)
  end)
end)

describe("timeout_at", function()
  it("takes a time of the loop's clock", function()
    local start = concur.now()
    local took, ok, e = timed(concur.timeout_at, start + 2, concur.sleep, 10)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.near(2, took, 1e-6)
    assert.same({ "a", "b" }, { concur.timeout_at(start + 100, concur.sleep, 1, "a", "b") })
  end)
end)

describe("move_on_after", function()
  it("returns true and the results, or false when time ran out", function()
    assert.same({ true, 1, nil, 3, n = 4 }, table.pack(concur.move_on_after(5, function(...)
      return ...
    end, 1, nil, 3)))
    assert.same({ false, n = 1 }, table.pack(concur.move_on_after(1, concur.sleep, 5, "x")))
  end)

  it("takes as long as the deadline says", function()
    local start = concur.now()
    concur.move_on_after(2.5, concur.sleep_forever)
    assert.near(2.5, concur.now() - start, 1e-6)
  end)

  it("raises what the body raises", function()
    expect.same_error("boom", concur.move_on_after, 5, error, "boom", 0)
  end)

  it("says false for its own deadline only", function()
    local inner
    assert.is_false(concur.move_on_after(1, function()
      inner = concur.move_on_after(5, concur.sleep, 10)
      error "not reached"
    end))
    assert.is_nil(inner)
  end)

  it("nested: the inner one moves on, the outer one goes on", function()
    assert.same({ true, false }, { concur.move_on_after(5, function()
      return (concur.move_on_after(1, concur.sleep, 10))
    end) })
  end)

  it("is true when the scope was cancelled but the body returned", function()
    assert.same({ true, "value" }, { concur.move_on_after(0, function()
      return "value"
    end) })
  end)

  it("is false when its scope is cancelled by hand", function()
    assert.is_false(concur.move_on_after(10, function()
      concur.current_scope():cancel()
      concur.checkpoint()
    end))
  end)

  it("moves on even from inside its own shield", function()
    local start = concur.now()
    assert.is_false(concur.move_on_after(1, function()
      concur.current_scope():shield(true)
      concur.sleep(10)
    end))
    assert.near(1, concur.now() - start, 1e-6)
  end)

  it("move_on_at takes a time of the loop's clock", function()
    local start = concur.now()
    assert.is_false(concur.move_on_at(start + 2, concur.sleep, 5))
    assert.near(2, concur.now() - start, 1e-6)
    assert.is_false(concur.move_on_at(start, concur.checkpoint))
    assert.same({ true, "x" }, { concur.move_on_at(concur.now() + 2, concur.sleep, 1, "x") })
  end)
end)

describe("on the real clock", function()
  it_real("timeouts and deadlines take as long as they say", function()
    local took, ok, e = timed(concur.timeout, 0.05, concur.sleep, 10)
    assert.is_false(ok)
    assert.equal("TimeoutError", e.kind)
    assert.is_true(took >= 0.05)
    assert.is_true(took < 0.05 + support.time_scale)
    took = timed(concur.move_on_at, concur.now() + 0.05, concur.sleep_forever)
    assert.is_true(took >= 0.05 and took < 0.05 + support.time_scale)
  end)
end)

describe("misuse of timeouts", function()
  for _, name in ipairs { "timeout", "timeout_at", "move_on_after", "move_on_at" } do
    it("of " .. name .. " is an error", function()
      local fn = concur[name]
      expect.message("NaN", fn, 0 / 0, concur.checkpoint)
      expect.message("number", fn, "soon", concur.checkpoint)
      expect.message("number", fn, nil, concur.checkpoint)
      expect.message("function", fn, 1)
      expect.message("function", fn, 1, "text")
      assert.equal(math.huge, concur.effective_deadline())
      concur.checkpoint()
    end)
  end
end)
