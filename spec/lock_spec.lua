-- SPDX-License-Identifier: MIT
-- Lock: ownership, order, hand-off under cancellation, and misuse.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

-- A task that takes the lock, notes its name, and gives it back after `seconds`.
local function user(lock, name, order, seconds)
  return concur.spawn(function()
    local _ <close> = lock:acquire()
    order[#order + 1] = name
    concur.sleep(seconds or 0)
  end)
end

describe("a lock", function()
  it("is free at first, taken by acquire, free after release", function()
    local lock = concur.Lock()
    assert.is_false(lock:locked())
    assert.equal(lock, lock:acquire())
    assert.is_true(lock:locked())
    lock:release()
    assert.is_false(lock:locked())
  end)

  it("is released by <close>, on every way out", function()
    local lock = concur.Lock()
    do
      local _ <close> = lock:acquire()
      assert.is_true(lock:locked())
    end
    assert.is_false(lock:locked())
    pcall(function()
      local _ <close> = lock:acquire()
      error "boom"
    end)
    assert.is_false(lock:locked())
    concur.move_on_after(1, function()
      local _ <close> = lock:acquire()
      concur.sleep(5)
    end)
    assert.is_false(lock:locked())
  end)

  it("whose <close> runs when it was released already does nothing", function()
    local lock = concur.Lock()
    do
      local _ <close> = lock:acquire()
      lock:release()
    end
    assert.is_false(lock:locked())
  end)

  it("whose <close> runs while another task holds it leaves it alone", function()
    local lock = concur.Lock()
    local holder
    do
      local _ <close> = lock:acquire()
      lock:release()
      holder = user(lock, "other", {}, 1)
      concur.checkpoint()
      assert.is_true(lock:locked())
    end
    assert.is_true(lock:locked())
    holder:result()
    assert.is_false(lock:locked())
  end)

  it("with:  calls the function with the lock held and returns its results", function()
    local lock = concur.Lock()
    assert.same({ true, 1, nil, 3, n = 4 }, table.pack(lock:with(function(...)
      return lock:locked(), ...
    end, 1, nil, 3)))
    assert.is_false(lock:locked())
    expect.same_error("boom", lock.with, lock, error, "boom", 0)
    assert.is_false(lock:locked())
  end)

  it("lets one in at a time", function()
    local lock, inside, most = concur.Lock(), 0, 0
    concur.task_group(function(group)
      for _ = 1, 10 do
        group:spawn(function()
          for _ = 1, 5 do
            local _ <close> = lock:acquire()
            inside = inside + 1
            most = math.max(most, inside)
            concur.checkpoint()
            inside = inside - 1
          end
        end)
      end
    end)
    assert.equal(1, most)
  end)

  it("wakes waiters in the order of their arrival", function()
    local lock, order = concur.Lock(), {}
    lock:acquire()
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = user(lock, i, order)
    end
    testing.run_until_idle()
    lock:release()
    concur.wait(tasks)
    assert.same({ 1, 2, 3, 4, 5 }, order)
  end)

  it("is fair: one who releases and comes back queues behind the others", function()
    local lock, order = concur.Lock(), {}
    concur.task_group(function(group)
      for name = 1, 3 do
        group:spawn(function()
          for _ = 1, 3 do
            local _ <close> = lock:acquire()
            order[#order + 1] = name
            concur.checkpoint()
          end
        end)
      end
    end)
    assert.same({ 1, 2, 3, 1, 2, 3, 1, 2, 3 }, order)
  end)

  it("is handed over directly: a newcomer cannot slip in", function()
    local lock = concur.Lock()
    lock:acquire()
    local waiter = user(lock, "waiter", {})
    testing.run_until_idle()
    lock:release()
    assert.is_true(lock:locked())
    local got, e = lock:try_acquire()
    assert.is_nil(got)
    assert.equal("WouldBlock", e.kind)
    waiter:result()
    assert.is_false(lock:locked())
  end)

  it("try_acquire never waits: the lock, or nil and WouldBlock", function()
    local lock = concur.Lock()
    assert.equal(lock, lock:try_acquire())
    local got, e = concur.gather(function()
      local _, err = lock:try_acquire()
      return err
    end)
    assert.equal("WouldBlock", got.kind)
    assert.is_nil(e)
    lock:release()
  end)

  it("that is free is taken without a switch", function()
    local lock, ran = concur.Lock(), false
    local other = concur.spawn(function()
      ran = true
    end)
    local _ <close> = lock:acquire()
    assert.is_false(ran)
    other:result()
  end)

  it("can be made and used at top level of a script, and inside a run", function()
    local lock = concur.Lock()
    concur.spawn(function()
      local _ <close> = lock:acquire()
    end):result()
    assert.is_false(lock:locked())
  end)

  it("shows its state as text", function()
    local lock = concur.Lock()
    assert.matches("Lock", tostring(lock))
    assert.matches("free", tostring(lock))
    lock:acquire()
    assert.matches("locked", tostring(lock))
    local waiter = user(lock, 1, {})
    testing.run_until_idle()
    assert.matches("1 waiting", tostring(lock))
    lock:release()
    waiter:result()
  end)

  it("is owned by a task, not by a coroutine: a helper coroutine may not wait for it", function()
    local lock = concur.Lock()
    lock:acquire()
    local co = coroutine.create(function()
      lock:acquire()
    end)
    assert.is_false((coroutine.resume(co)))
    lock:release()
    assert.is_false(lock:locked())
  end)
end)

describe("a lock under cancellation", function()
  it("drops a cancelled waiter from the queue", function()
    local lock, order = concur.Lock(), {}
    lock:acquire()
    local one, two, three = user(lock, 1, order), user(lock, 2, order), user(lock, 3, order)
    testing.run_until_idle()
    two:cancel()
    testing.run_until_idle()
    lock:release()
    concur.wait { one, two, three }
    assert.same({ 1, 3 }, order)
    assert.equal("cancelled", two:state())
    assert.is_false(lock:locked())
  end)

  it("cancelled, then released in the same turn: the lock goes to the next", function()
    local lock, order = concur.Lock(), {}
    lock:acquire()
    local one, two = user(lock, 1, order), user(lock, 2, order)
    testing.run_until_idle()
    one:cancel()
    lock:release()
    concur.wait { one, two }
    assert.same({ 2 }, order)
    assert.is_false(lock:locked())
  end)

  it("released, then cancelled in the same turn: the waiter keeps what it was given", function()
    local lock = concur.Lock()
    lock:acquire()
    local got = false
    local waiter = concur.spawn(function()
      local _ <close> = lock:acquire()
      got = true
      concur.checkpoint()
      error "the cancellation is delivered at the next wait"
    end)
    testing.run_until_idle()
    lock:release()
    waiter:cancel()
    concur.wait { waiter }
    assert.is_true(got)
    assert.equal("cancelled", waiter:state())
    assert.is_false(lock:locked())
  end)

  it("all waiters and the holder cancelled at once: the lock is free", function()
    local lock, order, tasks = concur.Lock(), {}, {}
    for i = 1, 5 do
      tasks[i] = user(lock, i, order, 10)
    end
    testing.run_until_idle()
    for _, task in ipairs(tasks) do
      task:cancel()
    end
    concur.wait(tasks)
    assert.same({ 1 }, order)
    assert.is_false(lock:locked())
  end)

  it("the holder's clean-up that waits keeps the lock until it is over", function()
    local lock, order = concur.Lock(), {}
    local holder = concur.spawn(function()
      local _ <close> = lock:acquire()
      local _ <close> = expect.guard(function()
        concur.shield(concur.sleep, 2)
        order[#order + 1] = "cleaned"
      end)
      concur.sleep(10)
    end)
    concur.checkpoint()
    local waiter = user(lock, "next", order)
    testing.run_until_idle()
    holder:cancel()
    concur.wait { holder, waiter }
    assert.same({ "cleaned", "next" }, order)
  end)

  it("times out without taking the lock", function()
    local lock = concur.Lock()
    lock:acquire()
    concur.spawn(function()
      expect.error("TimeoutError", concur.timeout, 1, lock.acquire, lock)
    end):result()
    lock:release()
    assert.is_false(lock:locked())
    assert.equal(lock, lock:try_acquire())
    lock:release()
  end)
end)

describe("misuse of a lock", function()
  it("release of a free lock is an error and leaves it usable", function()
    local lock = concur.Lock()
    expect.error("InvalidState", lock.release, lock)
    lock:acquire()
    lock:release()
    expect.error("InvalidState", lock.release, lock)
    assert.is_false(lock:locked())
  end)

  it("release by another task is an error and leaves it with its owner", function()
    local lock = concur.Lock()
    lock:acquire()
    concur.spawn(function()
      expect.error("InvalidState", lock.release, lock)
    end):result()
    assert.is_true(lock:locked())
    lock:release()
  end)

  it("taking it twice is an error at once, not a hang", function()
    local lock = concur.Lock()
    lock:acquire()
    expect.error("InvalidState", lock.acquire, lock)
    local again, e = lock:try_acquire()
    assert.is_nil(again)
    assert.equal("WouldBlock", e.kind)
    assert.is_true(lock:locked())
    lock:release()
    assert.is_false(lock:locked())
  end)

  it("a task that ends holding it is reported, and its waiters get an error", function(case)
    local lock = concur.Lock()
    local holder = concur.spawn(function()
      lock:acquire()
      concur.sleep(1)
    end)
    holder:set_name "forgetful"
    concur.checkpoint()
    local waiter = concur.spawn(function()
      expect.error("InvalidState", lock.acquire, lock)
    end)
    concur.wait { holder, waiter }
    waiter:result()
    testing.run_until_idle()
    local reports = case:take_reports()
    assert.equal(1, #reports)
    assert.equal("InvalidState", reports[1].error.kind)
    assert.matches("forgetful", tostring(reports[1].error))
  end)

  it("a task that fails holding it is reported as well, and its own error stands", function(case)
    local lock = concur.Lock()
    local holder = concur.spawn(function()
      lock:acquire()
      error("own", 0)
    end)
    expect.same_error("own", holder.result, holder)
    testing.run_until_idle()
    assert.equal(1, #case:take_reports())
  end)

  it("calling with a dot, or with bad arguments, is an argument error", function()
    local lock = concur.Lock()
    expect.message("Lock", lock.acquire)
    expect.message("Lock", lock.release, concur.Event())
    expect.message("function", lock.with, lock, 42)
    assert.is_false(lock:locked())
  end)
end)
