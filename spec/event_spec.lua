-- SPDX-License-Identifier: MIT
-- Event: set, clear, wait.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

local function waiter(event, name, order)
  return concur.spawn(function()
    event:wait()
    order[#order + 1] = name
  end)
end

describe("an event", function()
  it("is not set at first; set and clear change that, as often as you like", function()
    local event = concur.Event()
    assert.is_false(event:is_set())
    event:set()
    event:set()
    assert.is_true(event:is_set())
    event:clear()
    event:clear()
    assert.is_false(event:is_set())
  end)

  it("that is set is no wait, and no switch", function()
    local event, ran = concur.Event(), false
    event:set()
    local other = concur.spawn(function()
      ran = true
    end)
    event:wait()
    assert.is_false(ran)
    other:result()
  end)

  it("wakes all its waiters, in order", function()
    local event, order, tasks = concur.Event(), {}, {}
    for i = 1, 5 do
      tasks[i] = waiter(event, i, order)
    end
    testing.run_until_idle()
    assert.same({}, order)
    event:set()
    assert.same({}, order) -- set itself never switches
    concur.wait(tasks)
    assert.same({ 1, 2, 3, 4, 5 }, order)
  end)

  it("cleared at once still wakes those that waited when it was set", function()
    local event, order = concur.Event(), {}
    local one, two = waiter(event, 1, order), waiter(event, 2, order)
    testing.run_until_idle()
    event:set()
    event:clear()
    concur.wait { one, two }
    assert.same({ 1, 2 }, order)
    assert.is_false(event:is_set())
  end)

  it("cleared holds later waiters back until it is set again", function()
    local event, order = concur.Event(), {}
    event:set()
    event:clear()
    local late = waiter(event, "late", order)
    testing.run_until_idle()
    assert.same({}, order)
    event:set()
    late:result()
    assert.same({ "late" }, order)
  end)

  it("can be set by another task and by a callback", function()
    local event = concur.Event()
    concur.spawn(function()
      concur.sleep(1)
      event:set()
    end)
    event:wait()
    event:clear()
    concur.get_event_loop():call_later(2, event.set, event)
    local start = concur.now()
    event:wait()
    assert.near(2, concur.now() - start, 1e-6)
  end)

  it("forgets a cancelled waiter", function()
    local event, order = concur.Event(), {}
    local one, two = waiter(event, 1, order), waiter(event, 2, order)
    testing.run_until_idle()
    one:cancel()
    testing.run_until_idle()
    event:set()
    concur.wait { one, two }
    assert.same({ 2 }, order)
    assert.equal("cancelled", one:state())
  end)

  it("set, then cancelled in the same turn: the waiter goes on", function()
    local event, order = concur.Event(), {}
    local one = waiter(event, 1, order)
    testing.run_until_idle()
    event:set()
    one:cancel()
    one:result()
    assert.same({ 1 }, order)
  end)

  it("cancelled, then set in the same turn: the waiter is cancelled", function()
    local event, order = concur.Event(), {}
    local one = waiter(event, 1, order)
    testing.run_until_idle()
    one:cancel()
    event:set()
    expect.error("FutureCancelled", one.result, one)
    assert.same({}, order)
  end)

  it("set by a child that cancels the group in the same turn: the waiter goes on", function()
    local event, went_on = concur.Event(), false
    concur.task_group(function(group)
      group:spawn(function()
        event:set()
        group:cancel()
      end)
      event:wait()
      went_on = true
    end)
    assert.is_true(went_on)
  end)

  it("in a timeout gives up", function()
    local event = concur.Event()
    expect.error("TimeoutError", concur.timeout, 1, event.wait, event)
    assert.is_false(event:is_set())
  end)

  it("shows its state as text", function()
    local event = concur.Event()
    assert.matches("Event", tostring(event))
    local clear = tostring(event):gsub("0x%x+", "")
    event:set()
    local set = tostring(event):gsub("0x%x+", "")
    assert.not_equal(clear, set)
  end)

  it("called with a dot is an argument error", function()
    local event = concur.Event()
    expect.message("Event", event.wait)
    expect.message("Event", event.set, concur.Lock())
    assert.is_false(event:is_set())
  end)
end)
