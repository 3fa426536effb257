-- SPDX-License-Identifier: MIT
-- task:kill: ends a parked task that keeps refusing.

local concur = require "concur"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

describe("task:kill", function()
  it("ends a parked task; it counts as cancelled", function()
    local task = concur.spawn(concur.sleep_forever)
    testing.run_until_idle()
    task:kill()
    expect.error("FutureCancelled", task.result, task)
    assert.equal("cancelled", task:state())
  end)

  it("ends one that swallows every cancellation", function()
    local task = concur.spawn(function()
      while true do
        pcall(concur.sleep, 10)
      end
    end)
    testing.run_until_idle()
    task:kill()
    concur.wait { task }
    assert.is_true(task:done())
  end)

  it("ends one inside a shield", function()
    local task = concur.spawn(concur.shield, concur.sleep_forever)
    testing.run_until_idle()
    task:cancel()
    testing.run_until_idle()
    assert.is_false(task:done())
    task:kill()
    concur.wait { task }
    assert.equal("cancelled", task:state())
  end)

  it("runs its <close> variables exactly once", function()
    local guards = { expect.guard(), expect.guard() }
    local order = {}
    local task = concur.spawn(function()
      local _ <close> = guards[1]
      local _ <close> = guards[2]
      local _ <close> = expect.guard(function()
        order[#order + 1] = "innermost"
      end)
      concur.sleep_forever()
    end)
    testing.run_until_idle()
    task:kill()
    concur.wait { task }
    assert.equal(1, guards[1].closed)
    assert.equal(1, guards[2].closed)
    assert.same({ "innermost" }, order)
  end)

  it("a wait in its <close> variables raises", function()
    local ok
    local task = concur.spawn(function()
      local _ <close> = expect.guard(function()
        ok = pcall(concur.sleep, 1)
      end)
      concur.sleep_forever()
    end)
    testing.run_until_idle()
    local start = concur.now()
    task:kill()
    concur.wait { task }
    assert.is_false(ok)
    assert.equal(start, concur.now())
  end)

  it("gives back a lock, a permit and a place in a queue", function()
    local lock, semaphore, queue = concur.Lock(), concur.Semaphore(1), concur.Queue()
    local task = concur.spawn(function()
      local _ <close> = lock:acquire()
      local _ <close> = semaphore:acquire()
      queue:get()
    end)
    testing.run_until_idle()
    task:kill()
    concur.wait { task }
    assert.is_false(lock:locked())
    assert.equal(1, semaphore:value())
    queue:put "stays"
    assert.equal(1, queue:size())
  end)

  it("inside a group ends only this child", function()
    local other
    concur.task_group(function(group)
      local child = group:spawn(concur.shield, concur.sleep_forever)
      other = group:spawn(concur.sleep, 2, "value")
      testing.run_until_idle()
      child:kill()
    end)
    assert.equal("value", other:result())
  end)

  it("of a task with a group: the children are cancelled", function()
    local child
    local task = concur.spawn(concur.task_group, function(group)
      child = group:spawn(concur.sleep_forever)
      concur.sleep_forever()
    end)
    testing.run_until_idle()
    task:kill()
    concur.wait { task, child }
    assert.equal("cancelled", child:state())
  end)

  it("says false to a task that has ended", function()
    local task = concur.spawn(function() end)
    task:result()
    assert.is_false(task:kill())
    assert.equal("done", task:state())
  end)

  it("of a task that did not start yet: it never runs", function()
    local ran = false
    local task = concur.spawn(function()
      ran = true
    end)
    task:kill()
    concur.wait { task }
    assert.is_true(task:done())
    assert.is_boolean(ran)
  end)

  it("of the running task does nothing: it is not parked", function()
    assert.is_false(concur.current_task():kill())
    concur.checkpoint()
  end)
end)
