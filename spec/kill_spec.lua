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

  it("of a task that waits in gather: its inputs are cancelled", function()
    local inputs = { concur.spawn(concur.sleep_forever), concur.spawn(concur.sleep_forever) }
    local task = concur.spawn(concur.gather, inputs)
    testing.run_until_idle()
    task:kill()
    concur.wait { task, inputs[1], inputs[2] }
    assert.equal("cancelled", inputs[1]:state())
    assert.equal("cancelled", inputs[2]:state())
  end)

  it("of a task that waits in select, for a future, a barrier or an idle loop", function()
    local queue, future, barrier = concur.Queue(), concur.Future(), concur.Barrier(2)
    local tasks = {
      concur.spawn(concur.select, { queue:getting(), future, concur.after(1000) }),
      concur.spawn(future.result, future),
      concur.spawn(barrier.wait, barrier),
      concur.spawn(concur.suspend, function() end),
      concur.spawn(concur.sleep, 1000),
    }
    testing.run_until_idle()
    for _, task in ipairs(tasks) do
      assert.is_true(task:kill())
    end
    concur.wait(tasks)
    queue:put(1)
    assert.equal(1, queue:size())
    assert.equal(0, barrier:waiters())
    future:set_result(1)
    assert.equal(0, testing.counters().timers)
  end)

  it("of a task inside nested scopes, groups and generators", function()
    local guards, child = { expect.guard(), expect.guard(), expect.guard() }, nil
    local task = concur.spawn(function()
      local _ <close> = guards[1]
      concur.timeout(1000, concur.task_group, function(group)
        local _ <close> = guards[2]
        child = group:spawn(concur.shield, concur.sleep, 3)
        for _ in concur.wrap(function()
          local _ <close> = guards[3]
          coroutine.yield(1)
          concur.sleep_forever()
        end) do -- luacheck: ignore
        end
      end)
    end)
    testing.run_until_idle()
    assert.is_true(task:kill())
    concur.wait { task, child }
    for i = 1, 3 do
      assert.equal(1, guards[i].closed)
    end
    assert.equal("cancelled", task:state())
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
