-- SPDX-License-Identifier: MIT
-- Semaphore: permits, order, bounds, and that no permit is lost under cancellation.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

local function user(semaphore, name, order, seconds)
  return concur.spawn(function()
    local _ <close> = semaphore:acquire()
    order[#order + 1] = name
    concur.sleep(seconds or 0)
  end)
end

describe("a semaphore", function()
  it("has n permits", function()
    local semaphore = concur.Semaphore(2)
    assert.equal(2, semaphore:value())
    local one = semaphore:acquire()
    local two = semaphore:acquire()
    assert.equal(0, semaphore:value())
    local got, e = semaphore:try_acquire()
    assert.is_nil(got)
    assert.equal("WouldBlock", e.kind)
    one:release()
    assert.equal(1, semaphore:value())
    two:release()
    assert.equal(2, semaphore:value())
  end)

  it("gives a permit for <close>, on every way out", function()
    local semaphore = concur.Semaphore(1)
    do
      local _ <close> = semaphore:acquire()
      assert.equal(0, semaphore:value())
    end
    assert.equal(1, semaphore:value())
    pcall(function()
      local _ <close> = semaphore:acquire()
      error "boom"
    end)
    assert.equal(1, semaphore:value())
    concur.move_on_after(1, function()
      local _ <close> = semaphore:acquire()
      concur.sleep(5)
    end)
    assert.equal(1, semaphore:value())
  end)

  it("a permit counts once, however often it is given back", function()
    local semaphore = concur.Semaphore(2)
    local permit = semaphore:acquire()
    semaphore:acquire()
    do
      local _ <close> = permit
      permit:release()
      permit:release()
    end
    assert.equal(1, semaphore:value())
    semaphore:release()
    assert.equal(2, semaphore:value())
  end)

  it("a permit may be given back by another task", function()
    local semaphore = concur.Semaphore(1)
    local permit = semaphore:acquire()
    concur.spawn(function()
      permit:release()
    end):result()
    assert.equal(1, semaphore:value())
  end)

  it("with: runs a function with a permit", function()
    local semaphore = concur.Semaphore(1)
    assert.same({ 0, "x" }, { semaphore:with(function(x)
      return semaphore:value(), x
    end, "x") })
    assert.equal(1, semaphore:value())
  end)

  it("lets n in at a time", function()
    local semaphore, inside, most = concur.Semaphore(3), 0, 0
    concur.task_group(function(group)
      for _ = 1, 10 do
        group:spawn(function()
          local _ <close> = semaphore:acquire()
          inside = inside + 1
          most = math.max(most, inside)
          concur.sleep(1)
          inside = inside - 1
        end)
      end
    end)
    assert.equal(3, most)
    assert.equal(3, semaphore:value())
  end)

  it("wakes waiters in the order of their arrival, and hands over directly", function()
    local semaphore, order, tasks = concur.Semaphore(1), {}, {}
    local permit = semaphore:acquire()
    for i = 1, 4 do
      tasks[i] = user(semaphore, i, order)
    end
    testing.run_until_idle()
    permit:release()
    assert.is_nil((semaphore:try_acquire())) -- it belongs to the first waiter already
    concur.wait(tasks)
    assert.same({ 1, 2, 3, 4 }, order)
    assert.equal(1, semaphore:value())
  end)

  it("of 0 makes everyone wait for a release", function()
    local semaphore = concur.Semaphore(0)
    expect.error("TimeoutError", concur.timeout, 1, semaphore.acquire, semaphore)
    assert.equal(0, semaphore:value())
  end)

  it("acquire in a helper that forgot the permit can be undone with release", function()
    local semaphore = concur.Semaphore(1)
    semaphore:acquire()
    semaphore:release()
    assert.equal(1, semaphore:value())
  end)

  it("shows its state as text", function()
    assert.matches("Semaphore", tostring(concur.Semaphore(3)))
    assert.matches("3", tostring(concur.Semaphore(3)))
    local permit = concur.Semaphore(1):acquire()
    assert.matches("^concur%.Permit %(held%)", tostring(permit))
    permit:release()
    assert.matches("^concur%.Permit %(released%)", tostring(permit))
  end)
end)

describe("a semaphore under cancellation", function()
  it("a cancelled head passes the permit on", function()
    local semaphore, order = concur.Semaphore(1), {}
    local permit = semaphore:acquire()
    local one, two = user(semaphore, 1, order), user(semaphore, 2, order)
    testing.run_until_idle()
    one:cancel()
    permit:release()
    concur.wait { one, two }
    assert.same({ 2 }, order)
    assert.equal(1, semaphore:value())
  end)

  it("given a permit, then cancelled in the same turn: it keeps the permit", function()
    local semaphore, order = concur.Semaphore(1), {}
    local permit = semaphore:acquire()
    local one = user(semaphore, 1, order)
    testing.run_until_idle()
    permit:release()
    one:cancel()
    concur.wait { one }
    assert.same({ 1 }, order)
    assert.equal("cancelled", one:state())
    assert.equal(1, semaphore:value())
  end)

  it("all waiters cancelled: the permit is free again", function()
    local semaphore, order, tasks = concur.Semaphore(1), {}, {}
    local permit = semaphore:acquire()
    for i = 1, 5 do
      tasks[i] = user(semaphore, i, order)
    end
    testing.run_until_idle()
    for _, task in ipairs(tasks) do
      task:cancel()
    end
    permit:release()
    concur.wait(tasks)
    assert.same({}, order)
    assert.equal(1, semaphore:value())
  end)

  it("a release and the cancellation of the head in the same turn wake exactly one", function()
    for _, cancel_first in ipairs { true, false } do
      local semaphore, order, tasks = concur.Semaphore(1), {}, {}
      local permit = semaphore:acquire()
      for i = 1, 3 do
        tasks[i] = user(semaphore, i, order, 1)
      end
      testing.run_until_idle()
      if cancel_first then
        tasks[1]:cancel()
        permit:release()
      else
        permit:release()
        tasks[1]:cancel()
      end
      testing.run_until_idle()
      assert.equal(cancel_first and 2 or 1, order[1])
      concur.wait(tasks)
      assert.equal(1, semaphore:value())
    end
  end)

  it("a waiter in the middle leaves without a trace", function()
    local semaphore, order = concur.Semaphore(1), {}
    local permit = semaphore:acquire()
    local one, two, three =
      user(semaphore, 1, order), user(semaphore, 2, order), user(semaphore, 3, order)
    testing.run_until_idle()
    two:cancel()
    testing.run_until_idle()
    permit:release()
    concur.wait { one, two, three }
    assert.same({ 1, 3 }, order)
    assert.equal(1, semaphore:value())
  end)
end)

describe("misuse of a semaphore", function()
  it("more releases than permits are an error and change nothing", function()
    local semaphore = concur.Semaphore(1)
    expect.error("InvalidState", semaphore.release, semaphore)
    assert.equal(1, semaphore:value())
  end)

  it("bad counts are argument errors", function()
    expect.message("number", concur.Semaphore)
    expect.message("number", concur.Semaphore, "many")
    expect.message("argument", concur.Semaphore, -1)
    expect.message("argument", concur.Semaphore, 1.5)
    expect.message("argument", concur.Semaphore, 0 / 0)
  end)

  it("calling with a dot is an argument error", function()
    local semaphore = concur.Semaphore(1)
    expect.message("Semaphore", semaphore.acquire)
    expect.message("function", semaphore.with, semaphore)
    assert.equal(1, semaphore:value())
  end)
end)
