-- SPDX-License-Identifier: MIT
-- Cancellation of tasks, without scopes of the user's own (those are in scope_spec).

local concur = require "concur"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

describe("cancelling a task", function()
  it("before it starts lets it run to its first wait", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(function()
        log[#log + 1] = "start"
        local _ <close> = setmetatable({}, {
          __close = function()
            log[#log + 1] = "cleaned"
          end,
        })
        concur.sleep(1)
        log[#log + 1] = "not reached"
      end)
      assert.is_true(task:cancel())
      assert.equal("pending", task:state())
      concur.wait { task }
      assert.equal("cancelled", task:state())
      assert.same({ "start", "cleaned" }, log)
    end)
  end)

  it("before it starts keeps its result if it never waits", function()
    virtual.run(function()
      local task = concur.spawn(function()
        return "result"
      end)
      assert.is_true(task:cancel())
      assert.equal("result", task:result())
      assert.equal("done", task:state())
      assert.is_false(task:cancelled())
    end)
  end)

  it("while it sleeps raises Cancelled there, at once", function()
    virtual.run(function()
      local start, e, at = concur.now(), nil, nil
      local task = concur.spawn(function()
        e = failure(concur.sleep, 100)
        at = concur.now() - start
        error(e)
      end)
      concur.sleep(1)
      assert.is_true(task:cancel("enough"))
      concur.sleep(1)
      assert.equal("Cancelled", e.kind)
      assert.equal("enough", e.reason)
      assert.near(1, at, 1e-9)
      assert.equal("cancelled", task:state())
      assert.is_true(task:cancelled())
      assert.is_true(task:done())
    end)
  end)

  it("while it sleeps leaves no timer behind", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep, 100)
      concur.sleep(0)
      local before = concur.testing.counters().timers
      task:cancel()
      concur.sleep(0)
      assert.equal(before - 1, concur.testing.counters().timers)
    end)
  end)

  it("is never raised inside cancel: the other task sees it at its turn", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(function()
        pcall(concur.sleep, 100)
        log[#log + 1] = "task"
      end)
      concur.sleep(0)
      task:cancel()
      log[#log + 1] = "canceller"
      concur.sleep(0)
      assert.same({ "canceller", "task" }, log)
    end)
  end)

  it("returns true again while it is not done, and false once it is", function()
    virtual.run(function()
      local task = concur.spawn(function()
        pcall(concur.sleep, 10)
        concur.shield(concur.sleep, 10)
      end)
      concur.sleep(0)
      assert.is_true(task:cancel())
      assert.is_true(task:cancel())
      concur.sleep(1)
      assert.is_true(task:cancel())
      concur.sleep(100)
      assert.is_false(task:cancel())
      assert.is_false(task:cancel())
      assert.equal("done", task:state())
    end)
  end)

  it("returns false for a task that ended with a result, an error, or by cancellation", function()
    virtual.run(function()
      local good, bad = concur.spawn(function() end), concur.spawn(error, "x")
      local stopped = concur.spawn(concur.sleep_forever)
      stopped:cancel()
      concur.wait { good, bad, stopped }
      assert.is_false(good:cancel())
      assert.is_false(bad:cancel())
      assert.is_false(stopped:cancel())
      assert.equal("done", good:state())
      assert.equal("failed", bad:state())
      bad:exception()
    end)
  end)

  it("keeps the first reason", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep_forever)
      concur.sleep(0)
      task:cancel("first")
      task:cancel("second")
      concur.sleep(0)
      assert.equal("first", failure(task.result, task).reason)
    end)
  end)

  it("takes any value as reason and keeps its identity", function()
    virtual.run(function()
      local reason = { "why" }
      local seen
      local task = concur.spawn(function()
        local e = failure(concur.sleep, 1)
        seen = e.reason
        error(e)
      end)
      concur.sleep(0)
      task:cancel(reason)
      concur.sleep(0)
      assert.equal(reason, seen)
      assert.equal(reason, failure(task.result, task).reason)
    end)
  end)

  it("raises at every further wait, until the task ends", function()
    virtual.run(function()
      local kinds = {}
      local task = concur.spawn(function()
        for i = 1, 3 do
          kinds[i] = failure(concur.sleep, 1).kind
        end
        kinds[4] = failure(concur.checkpoint).kind
        kinds[5] = failure(concur.sleep, 0).kind
        kinds[6] = failure(concur.sleep_forever).kind
        return "ended by itself"
      end)
      concur.sleep(0)
      task:cancel()
      assert.equal("ended by itself", task:result())
      for i = 1, 6 do
        assert.equal("Cancelled", kinds[i])
      end
    end)
  end)

  it("keeps the result of a task that ignored it", function()
    virtual.run(function()
      local task = concur.spawn(function()
        pcall(concur.sleep, 10)
        return 1, 2
      end)
      concur.sleep(0)
      task:cancel()
      assert.same({ 1, 2 }, { task:result() })
      assert.equal("done", task:state())
      assert.is_false(task:cancelled())
    end)
  end)

  it("makes the task fail if its clean-up fails", function()
    virtual.run(function()
      local task = concur.spawn(function()
        pcall(concur.sleep, 10)
        error("clean-up failed", 0)
      end)
      concur.sleep(0)
      task:cancel()
      assert.equal("clean-up failed", failure(task.result, task))
      assert.equal("failed", task:state())
    end)
  end)

  it("gives those who wait FutureCancelled; they are not cancelled themselves", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep_forever)
      local waiter = concur.spawn(function()
        local e = failure_of_kind("FutureCancelled", task.result, task)
        assert.equal("because", e.reason)
        assert.is_false(concur.errors.is(e, "Cancelled"))
        return concur.sleep(1, "goes on")
      end)
      concur.sleep(0)
      task:cancel("because")
      assert.equal("goes on", waiter:result())
    end)
  end)

  it("does not touch what the task waits for", function()
    virtual.run(function()
      local inner = concur.spawn(concur.sleep, 5, "inner")
      local future = concur.Future()
      local outer = concur.spawn(inner.result, inner)
      local other = concur.spawn(concur.await, future)
      concur.sleep(0)
      outer:cancel()
      other:cancel()
      concur.sleep(0)
      assert.equal("cancelled", outer:state())
      assert.equal("cancelled", other:state())
      assert.equal("pending", inner:state())
      assert.equal("pending", future:state())
      assert.equal("inner", inner:result())
    end)
  end)

  it("does not lose a result that was ready: the wait returns, the next one raises", function()
    virtual.run(function()
      local future = concur.Future()
      local got
      local task = concur.spawn(function()
        got = future:result()
        concur.sleep(1)
        error("not reached")
      end)
      concur.sleep(0)
      future:set_result("ready")
      task:cancel()
      concur.sleep(0)
      concur.sleep(0)
      assert.equal("ready", got)
      assert.equal("cancelled", task:state())
    end)
  end)

  it("does not lose an error that was ready", function()
    virtual.run(function()
      local future = concur.Future()
      local task = concur.spawn(future.result, future)
      concur.sleep(0)
      future:set_exception("ready")
      task:cancel()
      assert.equal("ready", failure(task.result, task))
    end)
  end)

  it("before the result comes wins: the wait raises, the future keeps its result", function()
    virtual.run(function()
      local future = concur.Future()
      local task = concur.spawn(future.result, future)
      concur.sleep(0)
      task:cancel()
      future:set_result("late")
      concur.sleep(0)
      assert.equal("cancelled", task:state())
      assert.equal("late", future:result())
    end)
  end)

  it("at the very time when its sleep is over keeps the sleep's result", function()
    virtual.run(function()
      local got
      local task = concur.spawn(function()
        got = concur.sleep(1, "slept")
        concur.checkpoint()
      end)
      concur.spawn(function()
        concur.sleep(1)
        task:cancel()
      end)
      concur.sleep(2)
      assert.equal("slept", got)
      assert.equal("cancelled", task:state())
    end)
  end)

  it("at the very time when its sleep is over: the first of the two wins", function()
    virtual.run(function()
      local got
      local task
      concur.spawn(function()
        concur.sleep(1)
        task:cancel()
      end)
      concur.sleep(0)
      task = concur.spawn(function()
        got = concur.sleep(1, "slept")
      end)
      concur.sleep(2)
      -- Both timers were due in one turn; either order is right, but nothing in between.
      if task:cancelled() then
        assert.is_nil(got)
      else
        assert.equal("slept", got)
      end
    end)
  end)

  it("by itself takes effect at its next wait", function()
    virtual.run(function()
      local log = {}
      local task
      task = concur.spawn(function()
        assert.is_true(task:cancel("self"))
        log[#log + 1] = "still running"
        concur.sleep(0)
        log[#log + 1] = "not reached"
      end)
      assert.equal("self", failure_of_kind("FutureCancelled", task.result, task).reason)
      assert.same({ "still running" }, log)
    end)
  end)

  it("works from a callback of the loop and from a done callback", function()
    virtual.run(function()
      local a, b = concur.spawn(concur.sleep_forever), concur.spawn(concur.sleep_forever)
      concur.get_event_loop():call_later(1, function()
        a:cancel()
      end)
      a:add_done_callback(function()
        b:cancel()
      end)
      concur.wait { a, b }
      assert.is_true(a:cancelled())
      assert.is_true(b:cancelled())
    end)
  end)

  it("works from top level", function()
    local task = concur.spawn(concur.sleep_forever)
    concur.sleep(0)
    task:cancel("top")
    assert.equal("top", failure_of_kind("FutureCancelled", task.result, task).reason)
  end)

  it("goes from a chain of waiters to nobody but the one asked", function()
    virtual.run(function()
      local first = concur.spawn(concur.sleep, 5, "value")
      local second = concur.spawn(function()
        return first:result()
      end)
      local third = concur.spawn(function()
        return pcall(second.result, second)
      end)
      concur.sleep(0)
      second:cancel()
      local ok, e = third:result()
      assert.is_false(ok)
      assert.is_true(concur.errors.is(e, "FutureCancelled"))
      assert.equal("value", first:result())
    end)
  end)

  it("a thousand of them ends a thousand tasks, each once", function()
    virtual.run(function()
      local tasks, ended = {}, 0
      for i = 1, 1000 do
        tasks[i] = concur.spawn(function()
          local _ <close> = setmetatable({}, {
            __close = function()
              ended = ended + 1
            end,
          })
          if i % 2 == 0 then
            concur.sleep(i)
          else
            concur.sleep_forever()
          end
        end)
      end
      concur.sleep(0)
      for i = 1000, 1, -1 do
        tasks[i]:cancel()
      end
      concur.wait(tasks)
      assert.equal(1000, ended)
      for i = 1, 1000 do
        assert.is_true(tasks[i]:cancelled())
      end
    end)
  end)

  it("closes its to-be-closed variables exactly once, in order, before it is done", function()
    virtual.run(function()
      local log = {}
      local function closer(name)
        return setmetatable({}, {
          __close = function(_, e)
            log[#log + 1] = name .. ":" .. tostring(e and e.kind)
          end,
        })
      end
      local task = concur.spawn(function()
        local _ <close> = closer "outer"
        pcall(function()
          local _ <close> = closer "inner"
          concur.sleep(10)
        end)
        concur.sleep(10)
      end)
      task:add_done_callback(function()
        log[#log + 1] = "done"
      end)
      concur.sleep(0)
      task:cancel()
      concur.sleep(0)
      concur.sleep(0)
      concur.sleep(0)
      assert.same({ "inner:Cancelled", "outer:Cancelled", "done" }, log)
    end)
  end)

  it("cannot be kept and raised elsewhere: there it is InvalidState", function()
    virtual.run(function()
      local kept
      local task = concur.spawn(function()
        kept = failure(concur.sleep, 10)
        error(kept)
      end)
      concur.sleep(0)
      task:cancel()
      concur.sleep(0)
      assert.is_true(task:cancelled())
      local other = concur.spawn(function()
        error(kept)
      end)
      failure_of_kind("InvalidState", other.result, other)
      assert.equal("failed", other:state())
    end)
  end)

  it("reaches the children of a gather and waits for them", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(function()
        concur.gather(function()
          pcall(concur.sleep, 10)
          concur.shield(concur.sleep, 3)
          log[#log + 1] = "child cleaned"
        end, concur.sleep_forever)
      end)
      task:add_done_callback(function()
        log[#log + 1] = "task done"
      end)
      concur.sleep(1)
      local start = concur.now()
      task:cancel()
      concur.wait { task }
      concur.sleep(0)
      assert.is_true(task:cancelled())
      assert.near(3, concur.now() - start, 1e-6)
      assert.same({ "child cleaned", "task done" }, log)
    end)
  end)
end)

describe("kill", function()
  it("ends a parked task that keeps refusing", function()
    virtual.run(function()
      local turns = 0
      local task = concur.spawn(function()
        while turns < 1000 do
          pcall(concur.sleep, 10)
          turns = turns + 1
        end
      end)
      concur.sleep(0)
      task:cancel()
      for _ = 1, 5 do
        concur.sleep(0)
      end
      assert.is_false(task:done())
      assert.is_true(task:kill())
      concur.sleep(0)
      assert.is_true(task:done())
      assert.is_true(turns < 1000)
      failure(task.result, task)
    end)
  end)

  it("goes through shields", function()
    virtual.run(function()
      local task = concur.spawn(concur.shield, concur.sleep_forever)
      concur.sleep(0)
      task:cancel()
      concur.sleep(1)
      assert.is_false(task:done())
      task:kill()
      concur.sleep(0)
      assert.is_true(task:done())
      failure(task.result, task)
    end)
  end)

  it("runs the to-be-closed variables; a wait in them raises", function()
    virtual.run(function()
      local log = {}
      local task = concur.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            log[#log + 1] = "closing"
            log[#log + 1] = pcall(concur.sleep, 1)
          end,
        })
        concur.sleep_forever()
      end)
      concur.sleep(0)
      task:kill()
      concur.sleep(0)
      assert.same({ "closing", false }, log)
      assert.is_true(task:done())
      pcall(task.result, task)
    end)
  end)

  it("returns false for a task that has ended", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep, 0, "value")
      assert.equal("value", task:result())
      assert.is_false(task:kill())
      assert.equal("value", task:result())
    end)
  end)

  it("hands an error of a to-be-closed variable to on_error", function()
    local state
    local reports = virtual.reports(function()
      local task = concur.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            error("in __close", 0)
          end,
        })
        concur.sleep_forever()
      end)
      concur.sleep(0)
      assert.is_true(task:kill())
      concur.sleep(0)
      state = task:state()
    end)
    assert.same({ "in __close", n = 1 }, reports)
    assert.equal("cancelled", state)
  end)

  it("returns false for the task that asks, which goes on", function()
    virtual.run(function()
      assert.is_false(concur.current_task():kill())
      assert.equal("alive", concur.sleep(1, "alive"))
    end)
  end)

  it("may be asked by the clean-up of a killed task, for others and for itself", function()
    virtual.run(function()
      local log = {}
      local a, b
      local function killer(name, other)
        return function()
          local _ <close> = setmetatable({}, {
            __close = function()
              log[#log + 1] = name
              other():kill()
              other():cancel()
              concur.current_task():kill()
              concur.current_task():cancel()
            end,
          })
          concur.sleep_forever()
        end
      end
      a = concur.spawn(killer("a", function()
        return b
      end))
      b = concur.spawn(killer("b", function()
        return a
      end))
      concur.sleep(0)
      assert.is_true(a:kill())
      assert.same({ "a", "b" }, log)
      concur.sleep(1)
      assert.is_true(a:done())
      assert.is_true(b:done())
    end)
  end)

  it("ends a task whose result was on its way", function()
    virtual.run(function()
      local future = concur.Future()
      local task = concur.spawn(future.result, future)
      concur.sleep(0)
      future:set_result("lost")
      task:kill()
      concur.sleep(1)
      assert.is_true(task:done())
      pcall(task.result, task)
    end)
  end)

  it("of a task that has not started leaves the rest in order", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep, 1, "value")
      local killed = task:kill()
      local ok = pcall(task.result, task)
      assert.equal(killed, not ok)
      assert.equal("alive", concur.sleep(1, "alive"))
    end)
  end)

  it("lets the children of a killed task end cancelled, their errors reported", function()
    for _, name in ipairs { "gather", "settle", "race", "any" } do
      local state
      local reports = virtual.reports(function()
        local child
        local task = concur.spawn(concur[name], function()
          child = concur.current_task()
          pcall(concur.sleep_forever)
          error("orphan", 0)
        end, concur.sleep_forever)
        concur.sleep(1)
        assert.is_true(task:kill())
        concur.sleep(1)
        state = child:state()
      end)
      assert.equal("failed", state)
      assert.same({ "orphan", n = 1 }, reports)
    end
  end)

  it("settles a task whose coroutine was closed by a stranger", function()
    virtual.run(function()
      local co
      local task = concur.spawn(function()
        co = coroutine.running()
        concur.sleep_forever()
      end)
      concur.sleep(0)
      coroutine.close(co)
      task:kill()
      concur.sleep(0)
      assert.is_true(task:done())
      pcall(task.result, task)
    end)
  end)

  it("does not disturb what the task waited for", function()
    virtual.run(function()
      local future = concur.Future()
      local killed = concur.spawn(future.result, future)
      local other = concur.spawn(future.result, future)
      concur.sleep(0)
      killed:kill()
      concur.sleep(0)
      collectgarbage()
      future:set_result("value")
      assert.equal("value", other:result())
      pcall(killed.result, killed)
    end)
  end)
end)
