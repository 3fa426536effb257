-- SPDX-License-Identifier: MIT
-- Barrier: n tasks meet, again and again.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

describe("a barrier", function()
  it("lets everybody go when the last has come", function()
    local barrier, passed = concur.Barrier(3), 0
    local tasks = {}
    for i = 1, 3 do
      tasks[i] = concur.spawn(function()
        concur.sleep(i)
        barrier:wait()
        passed = passed + 1
      end)
    end
    concur.sleep(2.5)
    assert.equal(0, passed)
    assert.equal(2, barrier:waiters())
    concur.wait(tasks)
    assert.equal(3, passed)
    assert.equal(0, barrier:waiters())
    assert.near(3, concur.now(), 1e-6)
  end)

  it("tells each its place in the order of arrival", function()
    local barrier, places, tasks = concur.Barrier(4), {}, {}
    for i = 1, 4 do
      tasks[i] = concur.spawn(function()
        places[i] = barrier:wait()
      end)
    end
    concur.wait(tasks)
    assert.same({ 1, 2, 3, 4 }, places)
  end)

  it("of 1 never holds anybody", function()
    local barrier = concur.Barrier(1)
    assert.equal(1, barrier:wait())
    assert.equal(1, barrier:wait())
  end)

  it("can be used again and again; nobody is a round ahead", function()
    local barrier, round = concur.Barrier(3), { 0, 0, 0 }
    concur.task_group(function(group)
      for i = 1, 3 do
        group:spawn(function()
          for _ = 1, 10 do
            round[i] = round[i] + 1
            barrier:wait()
            for j = 1, 3 do
              assert.is_true(math.abs(round[i] - round[j]) <= 1)
            end
          end
        end)
      end
    end)
    assert.same({ 10, 10, 10 }, round)
  end)

  it("more tasks than places: they pass in groups, in order", function()
    local barrier, order, tasks = concur.Barrier(2), {}, {}
    for i = 1, 6 do
      tasks[i] = concur.spawn(function()
        barrier:wait()
        order[#order + 1] = i
      end)
    end
    concur.wait(tasks)
    table.sort(order)
    assert.same({ 1, 2, 3, 4, 5, 6 }, order)
  end)

  it("knows its size", function()
    assert.equal(5, concur.Barrier(5):size())
    assert.matches("Barrier", tostring(concur.Barrier(5)))
  end)

  it("a cancelled waiter leaves: the count drops, the barrier is not broken", function()
    local barrier, passed = concur.Barrier(3), {}
    local function enter(name)
      return concur.spawn(function()
        barrier:wait()
        passed[#passed + 1] = name
      end)
    end
    local one, two = enter(1), enter(2)
    testing.run_until_idle()
    assert.equal(2, barrier:waiters())
    one:cancel()
    testing.run_until_idle()
    assert.equal(1, barrier:waiters())
    local three = enter(3)
    testing.run_until_idle()
    assert.same({}, passed)
    local four = enter(4)
    concur.wait { two, three, four }
    table.sort(passed)
    assert.same({ 2, 3, 4 }, passed)
    assert.equal("cancelled", one:state())
  end)

  it("full, then a waiter cancelled in the same turn: all pass", function()
    local barrier, passed = concur.Barrier(2), 0
    local one = concur.spawn(function()
      barrier:wait()
      passed = passed + 1
    end)
    testing.run_until_idle()
    barrier:wait()
    one:cancel()
    one:result()
    assert.equal(1, passed)
  end)

  it("a timeout at the barrier leaves it usable", function()
    local barrier = concur.Barrier(2)
    expect.error("TimeoutError", concur.timeout, 1, barrier.wait, barrier)
    assert.equal(0, barrier:waiters())
    local one = concur.spawn(barrier.wait, barrier)
    barrier:wait()
    one:result()
  end)

  it("of 0, less, or a fraction is an argument error", function()
    expect.message("argument", concur.Barrier, 0)
    expect.message("argument", concur.Barrier, -1)
    expect.message("argument", concur.Barrier, 1.5)
    expect.message("number", concur.Barrier)
    expect.message("number", concur.Barrier, "two")
    expect.message("Barrier", concur.Barrier(1).wait)
  end)
end)
