-- SPDX-License-Identifier: MIT
-- Condition: wait, notify, and that no notification is lost when waiters are cancelled.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

local function waiter(condition, name, order)
  return concur.spawn(function()
    local _ <close> = condition:acquire()
    condition:wait()
    assert.is_true(condition:locked())
    order[#order + 1] = name
  end)
end

local function notify(condition, n)
  local _ <close> = condition:acquire()
  condition:notify(n)
end

describe("a condition", function()
  it("has a lock: acquire, release, locked, try_acquire, with", function()
    local condition = concur.Condition()
    assert.is_false(condition:locked())
    condition:acquire()
    assert.is_true(condition:locked())
    condition:release()
    assert.is_truthy(condition:try_acquire())
    condition:release()
    assert.equal("value", condition:with(function()
      assert.is_true(condition:locked())
      return "value"
    end))
    assert.is_false(condition:locked())
  end)

  it("can share a lock with others", function()
    local lock = concur.Lock()
    local one, two = concur.Condition(lock), concur.Condition(lock)
    local _ <close> = one:acquire()
    assert.is_true(lock:locked())
    assert.is_true(two:locked())
  end)

  it("gives the lock back while it waits, and has it again afterwards", function()
    local condition, order = concur.Condition(), {}
    local task = waiter(condition, 1, order)
    testing.run_until_idle()
    assert.is_false(condition:locked())
    notify(condition)
    task:result()
    assert.same({ 1 }, order)
    assert.is_false(condition:locked())
  end)

  it("wakes one for notify, n for notify(n), all for notify_all, in order", function()
    local condition, order, tasks = concur.Condition(), {}, {}
    for i = 1, 7 do
      tasks[i] = waiter(condition, i, order)
    end
    testing.run_until_idle()
    notify(condition)
    testing.run_until_idle()
    assert.same({ 1 }, order)
    notify(condition, 2)
    testing.run_until_idle()
    assert.same({ 1, 2, 3 }, order)
    condition:with(condition.notify_all, condition)
    concur.wait(tasks)
    assert.same({ 1, 2, 3, 4, 5, 6, 7 }, order)
  end)

  it("a notification without waiters is not kept", function()
    local condition, order = concur.Condition(), {}
    notify(condition, 5)
    local task = waiter(condition, 1, order)
    testing.run_until_idle()
    assert.same({}, order)
    notify(condition)
    task:result()
  end)

  it("a notified waiter goes on only when the lock is free", function()
    local condition, order = concur.Condition(), {}
    local task = waiter(condition, 1, order)
    testing.run_until_idle()
    condition:acquire()
    condition:notify()
    testing.run_until_idle()
    assert.same({}, order)
    condition:release()
    task:result()
    assert.same({ 1 }, order)
  end)

  it("wait_for waits until its predicate holds, and returns what it returned", function()
    local condition, value, calls = concur.Condition(), nil, 0
    local task = concur.spawn(function()
      local _ <close> = condition:acquire()
      return condition:wait_for(function()
        calls = calls + 1
        return value
      end)
    end)
    testing.run_until_idle()
    assert.equal(1, calls)
    notify(condition)
    testing.run_until_idle()
    assert.equal(2, calls)
    value = "it holds"
    notify(condition)
    assert.equal("it holds", task:result())
    assert.equal(3, calls)
    assert.is_false(condition:locked())
  end)

  it("wait_for returns at once when it holds already", function()
    local condition = concur.Condition()
    local _ <close> = condition:acquire()
    assert.equal(42, condition:wait_for(function()
      return 42
    end))
  end)

  it("wait_for passes on an error of its predicate, with the lock held", function()
    local condition = concur.Condition()
    condition:acquire()
    expect.same_error("boom", condition.wait_for, condition, function()
      error("boom", 0)
    end)
    assert.is_true(condition:locked())
    condition:release()
  end)

  it("shows its state as text", function()
    assert.matches("Condition", tostring(concur.Condition()))
  end)
end)

describe("a condition under cancellation", function()
  it("a cancelled waiter has the lock again when Cancelled is raised", function()
    local condition = concur.Condition()
    local held
    local task = concur.spawn(function()
      condition:acquire()
      local ok, e = pcall(condition.wait, condition)
      assert.is_false(ok)
      held = condition:locked()
      condition:release()
      error(e, 0)
    end)
    testing.run_until_idle()
    task:cancel()
    expect.error("FutureCancelled", task.result, task)
    assert.is_true(held)
    assert.is_false(condition:locked())
  end)

  it("a cancelled waiter waits for the lock, in spite of the cancellation", function()
    local condition = concur.Condition()
    local at
    local task = concur.spawn(function()
      local _ <close> = condition:acquire()
      local ok = pcall(condition.wait, condition)
      assert.is_false(ok)
      at = concur.now()
    end)
    testing.run_until_idle()
    condition:acquire()
    task:cancel()
    concur.sleep(3)
    assert.is_nil(at)
    local released = concur.now()
    condition:release()
    concur.wait { task }
    assert.equal(released, at)
  end)

  it("cancelled, then notified: the notification goes to the next", function()
    local condition, order = concur.Condition(), {}
    local one, two = waiter(condition, 1, order), waiter(condition, 2, order)
    testing.run_until_idle()
    one:cancel()
    notify(condition)
    concur.wait { one, two }
    assert.same({ 2 }, order)
  end)

  it("notified, then cancelled in the same turn: nothing is lost", function()
    local condition, order = concur.Condition(), {}
    local one, two = waiter(condition, 1, order), waiter(condition, 2, order)
    testing.run_until_idle()
    condition:acquire()
    condition:notify()
    one:cancel()
    condition:release()
    testing.run_until_idle()
    -- Either the first was cancelled and the second has the notification, or the first kept it.
    assert.equal(1, #order)
    local left = order[1] == 1 and two or one
    if left == one then
      expect.error("FutureCancelled", one.result, one)
    else
      notify(condition)
      two:result()
    end
    assert.is_false(condition:locked())
  end)

  it("cancelled again while it waits for the lock: it has the lock all the same", function()
    local condition = concur.Condition()
    local held
    local task = concur.spawn(function()
      local _ <close> = condition:acquire()
      local ok, e = pcall(condition.wait, condition)
      held = condition:locked()
      assert.is_false(ok)
      error(e, 0)
    end)
    testing.run_until_idle()
    condition:acquire()
    task:cancel()
    testing.run_until_idle()
    task:cancel()
    testing.run_until_idle()
    assert.is_nil(held)
    condition:release()
    expect.error("FutureCancelled", task.result, task)
    assert.is_true(held)
    assert.is_false(condition:locked())
  end)

  it("notified while another holds the lock, then cancelled: wait returns, the next one raises",
    function()
      local condition, order = concur.Condition(), {}
      local task = waiter(condition, 1, order)
      testing.run_until_idle()
      condition:acquire()
      condition:notify()
      testing.run_until_idle()
      task:cancel()
      testing.run_until_idle()
      condition:release()
      concur.wait { task }
      -- It was notified: that is not taken back, whatever becomes of the task.
      assert.same({ 1 }, order)
      assert.is_false(condition:locked())
    end)

  it("a timeout leaves the condition usable", function()
    local condition = concur.Condition()
    local _ <close> = condition:acquire()
    expect.error("TimeoutError", concur.timeout, 1, condition.wait, condition)
    assert.is_true(condition:locked())
    expect.error("TimeoutError", concur.timeout, 1, condition.wait_for, condition, function()
      return false
    end)
    assert.is_true(condition:locked())
  end)
end)

describe("misuse of a condition", function()
  it("wait and notify without the lock are errors", function()
    local condition = concur.Condition()
    expect.error("InvalidState", condition.wait, condition)
    expect.error("InvalidState", condition.notify, condition)
    expect.error("InvalidState", condition.notify_all, condition)
    expect.error("InvalidState", condition.wait_for, condition, function()
      return false
    end)
    expect.error("InvalidState", condition.release, condition)
    assert.is_false(condition:locked())
  end)

  it("with the lock held by another task they are errors too", function()
    local condition = concur.Condition()
    local _ <close> = condition:acquire()
    concur.spawn(function()
      expect.error("InvalidState", condition.wait, condition)
      expect.error("InvalidState", condition.notify, condition)
    end):result()
    assert.is_true(condition:locked())
  end)

  it("bad arguments are argument errors and change nothing", function()
    expect.message("Lock", concur.Condition, "lock")
    local condition = concur.Condition()
    local _ <close> = condition:acquire()
    expect.message("number", condition.notify, condition, "two")
    expect.message("argument", condition.notify, condition, -1)
    expect.message("function", condition.wait_for, condition)
    assert.is_true(condition:locked())
  end)
end)
