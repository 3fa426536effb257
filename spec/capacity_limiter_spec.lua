-- SPDX-License-Identifier: MIT
-- CapacityLimiter: tokens that belong to tasks, and a total that can change.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

local function borrower(limiter, name, order, seconds)
  return concur.spawn(function()
    local _ <close> = limiter:acquire()
    order[#order + 1] = name
    concur.sleep(seconds or 0)
  end)
end

describe("a capacity limiter", function()
  it("counts what is borrowed", function()
    local limiter = concur.CapacityLimiter(2)
    assert.equal(2, limiter:total())
    assert.equal(0, limiter:borrowed())
    assert.equal(2, limiter:available())
    limiter:acquire()
    assert.equal(1, limiter:borrowed())
    assert.equal(1, limiter:available())
    limiter:release()
    assert.equal(0, limiter:borrowed())
  end)

  it("lets n tasks in at a time, in order", function()
    local limiter, order, inside, most = concur.CapacityLimiter(2), {}, 0, 0
    concur.task_group(function(group)
      for i = 1, 6 do
        group:spawn(function()
          local _ <close> = limiter:acquire()
          inside = inside + 1
          most = math.max(most, inside)
          order[#order + 1] = i
          concur.sleep(1)
          inside = inside - 1
        end)
      end
    end)
    assert.equal(2, most)
    assert.same({ 1, 2, 3, 4, 5, 6 }, order)
    assert.equal(0, limiter:borrowed())
  end)

  it("is released by <close> and by with", function()
    local limiter = concur.CapacityLimiter(1)
    do
      local _ <close> = limiter:acquire()
      assert.equal(1, limiter:borrowed())
    end
    assert.equal(0, limiter:borrowed())
    assert.same({ 1, "x" }, { limiter:with(function(x)
      return limiter:borrowed(), x
    end, "x") })
    assert.equal(0, limiter:borrowed())
    expect.same_error("boom", limiter.with, limiter, error, "boom", 0)
    assert.equal(0, limiter:borrowed())
  end)

  it("try_acquire never waits", function()
    local limiter = concur.CapacityLimiter(1)
    local holder = borrower(limiter, 1, {}, 2)
    concur.checkpoint()
    local got, e = limiter:try_acquire()
    assert.is_nil(got)
    assert.equal("WouldBlock", e.kind)
    holder:result()
    assert.is_truthy(limiter:try_acquire())
    limiter:release()
  end)

  it("with a larger total lets waiters in at once", function()
    local limiter, order, tasks = concur.CapacityLimiter(1), {}, {}
    for i = 1, 4 do
      tasks[i] = borrower(limiter, i, order, 10)
    end
    testing.run_until_idle()
    assert.same({ 1 }, order)
    limiter:total(3)
    testing.run_until_idle()
    assert.same({ 1, 2, 3 }, order)
    assert.equal(3, limiter:total())
    concur.wait(tasks)
    assert.equal(0, limiter:borrowed())
  end)

  it("with a smaller total waits until enough have been given back", function()
    local limiter, order = concur.CapacityLimiter(2), {}
    local one, two = borrower(limiter, 1, order, 1), borrower(limiter, 2, order, 2)
    testing.run_until_idle()
    limiter:total(1)
    assert.equal(2, limiter:borrowed())
    local three = borrower(limiter, 3, order)
    one:result()
    testing.run_until_idle()
    assert.same({ 1, 2 }, order)
    two:result()
    three:result()
    assert.same({ 1, 2, 3 }, order)
  end)

  it("of 0 lets nobody in, until that changes", function()
    local limiter, order = concur.CapacityLimiter(0), {}
    local one = borrower(limiter, 1, order)
    testing.run_until_idle()
    assert.same({}, order)
    limiter:total(1)
    one:result()
  end)

  it("of math.huge lets everybody in", function()
    local limiter, order, tasks = concur.CapacityLimiter(math.huge), {}, {}
    for i = 1, 100 do
      tasks[i] = borrower(limiter, i, order, 1)
    end
    testing.run_until_idle()
    assert.equal(100, #order)
    assert.equal(math.huge, limiter:total())
    assert.equal(math.huge, limiter:available())
    concur.wait(tasks)
  end)

  it("a cancelled waiter is skipped", function()
    local limiter, order = concur.CapacityLimiter(1), {}
    local one, two, three =
      borrower(limiter, 1, order, 1), borrower(limiter, 2, order), borrower(limiter, 3, order)
    testing.run_until_idle()
    two:cancel()
    concur.wait { one, two, three }
    assert.same({ 1, 3 }, order)
    assert.equal(0, limiter:borrowed())
  end)

  it("given a token, then cancelled in the same turn: nothing is lost", function()
    local limiter, order = concur.CapacityLimiter(1), {}
    limiter:acquire()
    local one = borrower(limiter, 1, order)
    testing.run_until_idle()
    limiter:release()
    one:cancel()
    concur.wait { one }
    assert.equal(0, limiter:borrowed())
    assert.equal(1, limiter:available())
  end)

  it("shows its state as text", function()
    assert.matches("CapacityLimiter", tostring(concur.CapacityLimiter(3)))
  end)
end)

describe("misuse of a capacity limiter", function()
  it("borrowing twice is an error at once", function()
    local limiter = concur.CapacityLimiter(5)
    limiter:acquire()
    expect.error("InvalidState", limiter.acquire, limiter)
    expect.error("InvalidState", limiter.try_acquire, limiter)
    assert.equal(1, limiter:borrowed())
    limiter:release()
  end)

  it("releasing what one does not hold is an error", function()
    local limiter = concur.CapacityLimiter(1)
    expect.error("InvalidState", limiter.release, limiter)
    limiter:acquire()
    concur.spawn(function()
      expect.error("InvalidState", limiter.release, limiter)
    end):result()
    assert.equal(1, limiter:borrowed())
    limiter:release()
    assert.equal(0, limiter:borrowed())
  end)

  it("bad totals are argument errors and change nothing", function()
    expect.message("number", concur.CapacityLimiter)
    expect.message("number", concur.CapacityLimiter, "x")
    expect.message("argument", concur.CapacityLimiter, -1)
    expect.message("argument", concur.CapacityLimiter, 1.5)
    local limiter = concur.CapacityLimiter(2)
    expect.message("argument", limiter.total, limiter, -1)
    expect.message("argument", limiter.total, limiter, 0.5)
    expect.message("number", limiter.total, limiter, "x")
    assert.equal(2, limiter:total())
  end)
end)
