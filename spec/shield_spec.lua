-- SPDX-License-Identifier: MIT
-- Shields: what they keep out, what they let in, and what happens when they end or are taken away.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

describe("a shield", function()
  it("keeps outer cancellation out and returns the results of its body", function()
    local slept
    assert.is_false(concur.cancel_scope(function(scope)
      scope:cancel()
      slept = table.pack(concur.shield(function(...)
        concur.sleep(1)
        return ...
      end, "a", nil, "c"))
      concur.checkpoint()
    end))
    assert.same({ "a", nil, "c", n = 3 }, slept)
  end)

  it("ends the protection when it ends: the next wait raises", function()
    local kind
    concur.cancel_scope(function(scope)
      scope:cancel()
      concur.shield(concur.checkpoint)
      kind = expect.error("Cancelled", concur.checkpoint).kind
    end)
    assert.equal("Cancelled", kind)
  end)

  it("does not keep out what is inside it", function()
    concur.cancel_scope(function(outer)
      outer:cancel()
      concur.shield(function()
        concur.checkpoint()
        assert.is_false(concur.cancel_scope(function(inner)
          inner:cancel()
          concur.checkpoint()
        end))
        assert.is_false(concur.move_on_after(1, concur.sleep, 5))
        concur.checkpoint()
      end)
    end)
  end)

  it("does not protect a shielded scope from itself", function()
    assert.is_false(concur.cancel_scope(function(scope)
      assert.is_true(scope:shield())
      scope:cancel()
      concur.checkpoint()
    end, { shield = true }))
  end)

  it("toggles on a scope", function()
    local trace = {}
    concur.cancel_scope(function(outer)
      concur.cancel_scope(function(inner)
        concur.checkpoint()
        outer:cancel()
        expect.error("Cancelled", concur.checkpoint)
        assert.is_false(inner:shield())
        inner:shield(true)
        assert.is_true(inner:shield())
        concur.checkpoint()
        trace[#trace + 1] = "shielded"
        inner:shield(false)
        expect.error("Cancelled", concur.checkpoint)
        inner:shield(true)
        concur.checkpoint()
        trace[#trace + 1] = "shielded again"
        inner:cancel()
        concur.checkpoint()
      end)
      trace[#trace + 1] = "inner left"
    end)
    assert.same({ "shielded", "shielded again", "inner left" }, trace)
  end)

  it("taken away, aborts a wait inside at once", function()
    local record = {}
    concur.cancel_scope(function(outer)
      concur.task_group(function(group)
        local inner
        group:spawn(function()
          concur.cancel_scope(function(scope)
            inner = scope
            record[#record + 1] = "sleeping"
            local ok, e = pcall(concur.sleep_forever)
            assert.is_false(ok)
            record[#record + 1] = e.kind
          end, { shield = true })
        end)
        concur.shield(testing.run_until_idle)
        outer:cancel()
        concur.shield(testing.run_until_idle)
        assert.same({ "sleeping" }, record)
        inner:shield(false)
        concur.shield(testing.run_until_idle)
        assert.same({ "sleeping", "Cancelled" }, record)
      end)
    end)
    assert.same({ "sleeping", "Cancelled" }, record)
  end)

  it("set while Cancelled is on its way does not stop it", function()
    local inner_kept
    local finished = concur.cancel_scope(function(outer)
      concur.cancel_scope(function(inner)
        inner_kept = inner
        outer:cancel()
        local _ <close> = expect.guard(function()
          inner:shield(true)
        end)
        concur.checkpoint()
      end)
    end)
    assert.is_false(finished)
    assert.is_false(inner_kept:cancelled_caught())
  end)

  it("several deep: only what is inside the innermost counts", function()
    local past = {}
    concur.cancel_scope(function(one)
      concur.cancel_scope(function(two)
        concur.shield(function()
          one:cancel()
          two:cancel()
          concur.checkpoint()
          past[#past + 1] = "inside"
        end)
        past[#past + 1] = "middle"
        concur.checkpoint()
        past[#past + 1] = "wrong"
      end)
      past[#past + 1] = "wrong too"
    end)
    assert.same({ "inside", "middle" }, past)
  end)

  it("keeps the deadline of an outer scope out, which takes effect when it ends", function()
    local start = concur.now()
    local after
    local finished = concur.move_on_after(1, function()
      concur.shield(concur.sleep, 5)
      after = concur.now() - start
      concur.checkpoint()
      error "not reached"
    end)
    assert.is_false(finished)
    assert.near(5, after, 1e-6)
    assert.near(5, concur.now() - start, 1e-6)
  end)

  it("can be asked for at any scope, also from outside", function()
    local kept
    local task = concur.spawn(function()
      return concur.cancel_scope(function(scope)
        kept = scope
        concur.sleep(3)
        return "slept"
      end)
    end)
    testing.run_until_idle()
    kept:shield(true)
    task:cancel()
    local start = concur.now()
    assert.same({ true, "slept" }, { task:result() })
    assert.near(3, concur.now() - start, 1e-6)
  end)

  it("keeps the cancellation of a child's task group out of the clean-up", function()
    local cleaned = false
    concur.task_group(function(group)
      group:spawn(function()
        local _ <close> = expect.guard(function()
          concur.shield(function()
            concur.sleep(1)
            cleaned = true
          end)
        end)
        concur.sleep_forever()
      end)
      concur.checkpoint()
      group:cancel()
    end)
    assert.is_true(cleaned)
  end)
end)
