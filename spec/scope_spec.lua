-- SPDX-License-Identifier: MIT
-- Cancel scopes: who catches, what is delivered when, shields, deadlines that move, and misuse.

local concur = require "concur"
local errors = require "concur.errors"
local expect = require "spec.support.expect"
local testing = require "concur.testing"

local it = testing.wrap_it(it)

describe("a cancel scope", function()
  it("returns true and the results of its body", function()
    assert.same({ true, 1, nil, 3, n = 4 }, table.pack(concur.cancel_scope(function()
      return 1, nil, 3
    end)))
    assert.same({ true, n = 1 }, table.pack(concur.cancel_scope(function() end)))
  end)

  it("raises what its body raises, whatever the value", function()
    for _, value in ipairs { "text", 42, false, {}, print } do
      expect.same_error(value, concur.cancel_scope, function()
        error(value, 0)
      end)
    end
    local ok, e = pcall(concur.cancel_scope, function()
      error(nil)
    end)
    assert.is_false(ok)
    assert.is_nil(e)
  end)

  it("returns false when it was cancelled inside a wait", function()
    assert.same({ false, n = 1 }, table.pack(concur.cancel_scope(function(scope)
      scope:cancel()
      concur.sleep(1)
      return "never"
    end)))
  end)

  it("counts the results when the body returned in spite of the request", function()
    local seen
    assert.same({ true, "done" }, { concur.cancel_scope(function(scope)
      seen = scope
      scope:cancel()
      return "done"
    end) })
    assert.is_true(seen:cancel_called())
    assert.is_false(seen:cancelled_caught())
  end)

  it("knows whether it was asked and whether it caught", function()
    local kept
    concur.cancel_scope(function(scope)
      kept = scope
      assert.is_false(scope:cancel_called())
      assert.is_false(scope:cancelled_caught())
      scope:cancel()
      assert.is_true(scope:cancel_called())
      assert.is_false(scope:cancelled_caught())
      concur.sleep(1)
    end)
    assert.is_true(kept:cancel_called())
    assert.is_true(kept:cancelled_caught())
  end)

  it("raises Cancelled again and again until it is left", function()
    local times = 0
    local finished = concur.cancel_scope(function(scope)
      scope:cancel()
      scope:cancel() -- asking twice changes nothing
      for _ = 1, 3 do
        local e = expect.error("Cancelled", concur.sleep, 1)
        times = times + 1
        assert.equal("Cancelled", e.kind)
      end
      concur.sleep(1)
    end)
    assert.is_false(finished)
    assert.equal(3, times)
  end)

  it("cancels every kind of wait inside it", function()
    local lock, queue, full = concur.Lock(), concur.Queue(), concur.Queue(1)
    lock:acquire()
    full:put(1)
    local never = concur.Future()
    local task = concur.spawn(concur.sleep, 1)
    local waits = {
      sleep = function() concur.sleep(1) end,
      sleep_zero = function() concur.sleep(0) end,
      checkpoint = concur.checkpoint,
      sleep_forever = concur.sleep_forever,
      await_future = function() concur.await(never) end,
      result = function() never:result() end,
      await_task = function() task:result() end,
      semaphore = function() concur.Semaphore(0):acquire() end,
      get = function() queue:get() end,
      put = function() full:put(2) end,
      event = function() concur.Event():wait() end,
      barrier = function() concur.Barrier(2):wait() end,
      gather = function() concur.gather(concur.sleep_forever, concur.sleep_forever) end,
      wait = function() concur.wait({ never }) end,
      select = function() concur.select { a = never, b = queue:getting() } end,
      group = function()
        concur.task_group(function(group)
          group:spawn(concur.sleep_forever)
        end)
      end,
      suspend = function() concur.suspend(function() end) end,
      idle = testing.run_until_idle,
    }
    for name, wait in pairs(waits) do
      local finished = concur.cancel_scope(function(scope)
        scope:cancel()
        wait()
        error("the wait was not cancelled: " .. name)
      end)
      assert.is_false(finished, name)
    end
    assert.equal("pending", never:state())
    lock:release()
    task:result()
  end)

  it("cancels even what could finish at once", function()
    local event, queue = concur.Event(), concur.Queue()
    event:set()
    queue:put("kept")
    assert.is_false(concur.cancel_scope(function(scope)
      scope:cancel()
      expect.error("Cancelled", event.wait, event)
      expect.error("Cancelled", queue.get, queue)
      concur.checkpoint()
    end))
    assert.equal("kept", queue:get())
  end)

  it("leaves getters of done futures alone", function()
    local future = concur.Future()
    future:set_result("value")
    local finished, value = concur.cancel_scope(function(scope)
      scope:cancel()
      return future:result()
    end)
    assert.is_true(finished)
    assert.equal("value", value)
  end)

  it("can be cancelled from another task while its body waits", function()
    local kept
    local task = concur.spawn(function()
      return concur.cancel_scope(function(scope)
        kept = scope
        concur.sleep(100)
      end)
    end)
    testing.run_until_idle()
    assert.is_true(kept:cancel())
    assert.is_false(task:result())
    assert.equal(0, concur.now() - concur.now())
  end)

  it("says true to the first request and false to later ones; the first reason wins", function()
    local seen
    concur.cancel_scope(function(scope)
      assert.is_true(scope:cancel "first")
      assert.is_false(scope:cancel "second")
      seen = expect.error("Cancelled", concur.sleep, 1)
    end)
    assert.equal("first", seen.reason)
  end)

  it("takes any value as the reason", function()
    for _, reason in ipairs { "text", 42, false, {} } do
      local seen
      concur.cancel_scope(function(scope)
        scope:cancel(reason)
        seen = expect.error("Cancelled", concur.sleep, 1)
      end)
      assert.equal(reason, seen.reason)
    end
  end)

  it("lets a different error win over its own Cancelled", function()
    local kept
    expect.same_error("from the clean-up", concur.cancel_scope, function(scope)
      kept = scope
      scope:cancel()
      pcall(concur.sleep, 1)
      error("from the clean-up", 0)
    end)
    assert.is_false(kept:cancelled_caught())
  end)

  it("runs <close> variables exactly once when it is cancelled, and they may wait shielded",
    function()
      local trace = {}
      local guard = expect.guard(function()
        concur.shield(concur.sleep, 1)
        trace[#trace + 1] = concur.now()
      end)
      local start = concur.now()
      assert.is_false(concur.move_on_after(2, function()
        local _ <close> = guard
        concur.sleep(10)
      end))
      assert.equal(1, guard.closed)
      assert.equal("Cancelled", guard.error.kind)
      assert.near(3, trace[1] - start, 1e-6)
    end)

  it("leaves nothing behind: waits after it go on as usual", function()
    concur.cancel_scope(function(scope)
      scope:cancel()
      concur.sleep(1)
    end)
    local start = concur.now()
    concur.sleep(1)
    assert.near(1, concur.now() - start, 1e-6)
    assert.equal(math.huge, concur.effective_deadline())
  end)

  it("drops a request that was never delivered", function()
    local kept
    concur.cancel_scope(function(scope)
      kept = scope
      scope:cancel()
    end)
    concur.checkpoint()
    assert.is_false(kept:cancelled_caught())
  end)

  it("knows its state as text", function()
    local kept
    concur.cancel_scope(function(scope)
      kept = scope
      assert.matches("CancelScope", tostring(scope))
      local active = tostring(scope)
      scope:cancel()
      assert.not_equal(active, tostring(scope))
    end)
    assert.matches("CancelScope", tostring(kept))
    assert.is_not_nil(tostring(kept):find "left" or tostring(kept):find "closed"
      or tostring(kept):find "ended" or tostring(kept):find "exited")
  end)

  it("can be asked and cancelled after it was left, without effect", function()
    local kept
    concur.cancel_scope(function(scope)
      kept = scope
    end)
    assert.is_false(kept:cancel())
    assert.is_false(kept:cancelled_caught())
    concur.checkpoint()
  end)

  it("works at top level through the run's root, and in a plain task alike", function()
    local task = concur.spawn(function()
      return concur.cancel_scope(function(scope)
        scope:cancel()
        concur.checkpoint()
      end)
    end)
    assert.is_false(task:result())
  end)

  it("nests deeply, and says so when it is too deep", function()
    local function nest(depth)
      if depth == 0 then
        return concur.checkpoint()
      end
      return concur.cancel_scope(function()
        return nest(depth - 1)
      end)
    end
    nest(50)
    local ok, e = pcall(nest, 1000)
    assert.is_false(ok)
    assert.matches("nest", tostring(e):lower())
    concur.checkpoint()
  end)

  it("is not a cancellation of the task", function()
    local task
    task = concur.spawn(function()
      concur.cancel_scope(function(scope)
        scope:cancel()
        concur.sleep(1)
      end)
      concur.sleep(1)
      return "went on"
    end)
    assert.equal("went on", task:result())
    assert.is_false(task:cancelled())
  end)
end)

describe("nested scopes", function()
  it("the outermost cancelled one catches", function()
    local kept = {}
    local outer = concur.cancel_scope(function(one)
      kept[1] = one
      concur.cancel_scope(function(two)
        kept[2] = two
        concur.cancel_scope(function(three)
          kept[3] = three
          three:cancel()
          two:cancel()
          concur.sleep_forever()
        end)
        error "the middle scope must catch at its own edge"
      end)
      return "after"
    end)
    assert.is_true(outer)
    assert.is_true(kept[3]:cancel_called())
    assert.is_false(kept[3]:cancelled_caught())
    assert.is_true(kept[2]:cancelled_caught())
    assert.is_false(kept[1]:cancel_called())
  end)

  it("an inner scope's Cancelled does not stop at a scope in between", function()
    local order = {}
    concur.cancel_scope(function(outer)
      concur.cancel_scope(function()
        concur.cancel_scope(function()
          outer:cancel()
          concur.checkpoint()
        end)
        order[#order + 1] = "middle"
      end)
      order[#order + 1] = "outer"
    end)
    assert.same({}, order)
  end)

  it("an outer request during the inner one's unwinding takes over", function()
    local between = false
    local inner
    local finished = concur.cancel_scope(function(outer)
      concur.cancel_scope(function(scope)
        inner = scope
        local _ <close> = expect.guard(function()
          outer:cancel()
        end)
        scope:cancel()
        concur.checkpoint()
      end)
      between = true
    end)
    assert.is_false(finished)
    assert.is_false(between)
    assert.is_false(inner:cancelled_caught())
  end)

  it("a shield that goes up when a wait was taken off does not keep the request out", function()
    local outer, inner
    local task = concur.spawn(concur.cancel_scope, function(scope)
      outer = scope
      concur.cancel_scope(function(within)
        inner = within
        concur.sleep(1000)
      end)
      return "left without a request"
    end)
    testing.run_until_idle()
    outer:cancel()
    inner:shield(true)
    assert.is_false((task:result()))
  end)

  it("an outer request during unwinding does not take over through a shield", function()
    local between = false
    local kept
    local finished = concur.cancel_scope(function(outer)
      local inner_finished = concur.cancel_scope(function(inner)
        kept = inner
        local _ <close> = expect.guard(function()
          outer:cancel()
        end)
        inner:cancel()
        concur.checkpoint()
      end, { shield = true })
      assert.is_false(inner_finished)
      between = true
    end)
    assert.is_true(finished)
    assert.is_true(between)
    assert.is_true(kept:cancelled_caught())
  end)

  it("a checkpoint made of a cancelled inner scope sees the outer request", function()
    local inner_kept
    local finished = concur.cancel_scope(function(outer)
      outer:cancel()
      concur.cancel_scope(function(inner)
        inner_kept = inner
        inner:cancel()
        concur.sleep_forever()
      end)
      error "not reached"
    end)
    assert.is_false(finished)
    assert.is_false(inner_kept:cancelled_caught())
  end)

  it("an inner cancel leaves the outer scope as it was", function()
    local finished = concur.cancel_scope(function(outer)
      assert.is_false(concur.cancel_scope(function(inner)
        inner:cancel()
        concur.sleep(1)
      end))
      concur.sleep(1)
      assert.is_false(outer:cancel_called())
      return "on"
    end)
    assert.is_true(finished)
  end)

  it("Cancelled re-raised where its scope is not active becomes InvalidState", function()
    local stale
    concur.cancel_scope(function(scope)
      scope:cancel()
      stale = expect.error("Cancelled", concur.sleep, 1)
    end)
    local task = concur.spawn(function()
      error(stale, 0)
    end)
    local e = expect.error("InvalidState", task.result, task)
    assert.is_true(errors.is(e, "InvalidState"))
    assert.equal("failed", task:state())
    expect.error("InvalidState", concur.cancel_scope, function()
      error(stale, 0)
    end)
    expect.group({ { kind = "InvalidState" } }, concur.task_group, function()
      error(stale, 0)
    end)
  end)

  it("another task's Cancelled is not taken for one's own", function()
    local foreign
    local task = concur.spawn(function()
      local _, e = pcall(concur.sleep, 10)
      foreign = e
      error(e, 0)
    end)
    concur.checkpoint()
    task:cancel()
    expect.error("FutureCancelled", task.result, task)
    expect.error("InvalidState", concur.cancel_scope, function()
      error(foreign, 0)
    end)
  end)
end)

describe("a scope's deadline", function()
  it("is none at first, can be set, read and removed", function()
    concur.cancel_scope(function(scope)
      assert.equal(math.huge, scope:deadline())
      local at = concur.now() + 10
      scope:deadline(at)
      assert.near(at, scope:deadline(), 1e-6)
      scope:deadline(math.huge)
      assert.equal(math.huge, scope:deadline())
      concur.sleep(20)
    end)
  end)

  it("is taken from the options", function()
    local start = concur.now()
    assert.is_false(concur.cancel_scope(function(scope)
      assert.near(start + 2, scope:deadline(), 1e-6)
      concur.sleep(5)
    end, { deadline = start + 2 }))
    assert.near(2, concur.now() - start, 1e-6)
  end)

  it("cancels at its time, not before", function()
    local start = concur.now()
    local finished = concur.cancel_scope(function(scope)
      scope:deadline(start + 3)
      concur.sleep(2)
      concur.sleep(2)
    end)
    assert.is_false(finished)
    assert.near(3, concur.now() - start, 1e-6)
  end)

  it("in the past cancels the next wait", function()
    local kept
    assert.is_false(concur.cancel_scope(function(scope)
      kept = scope
      scope:deadline(concur.now() - 1)
      assert.is_true(scope:cancel_called())
      concur.checkpoint()
    end))
    assert.is_true(kept:cancelled_caught())
  end)

  it("moved into the past, cancels twice over and stays cancelled", function()
    concur.cancel_scope(function(scope)
      concur.checkpoint()
      scope:deadline(concur.now() + 10)
      concur.sleep(5)
      scope:deadline(concur.now() - 4)
      expect.error("Cancelled", concur.checkpoint)
      expect.error("Cancelled", concur.checkpoint)
      scope:deadline(math.huge) -- too late: a request cannot be taken back
      assert.is_true(scope:cancel_called())
      expect.error("Cancelled", concur.checkpoint)
    end)
  end)

  it("moved later, lets the body go on", function()
    local start = concur.now()
    local finished = concur.cancel_scope(function(scope)
      scope:deadline(start + 1)
      concur.sleep(0.5)
      scope:deadline(start + 5)
      concur.sleep(3)
    end)
    assert.is_true(finished)
    assert.near(3.5, concur.now() - start, 1e-6)
  end)

  it("can be moved from another task", function()
    local kept
    local start = concur.now()
    local task = concur.spawn(function()
      return concur.cancel_scope(function(scope)
        kept = scope
        concur.sleep(100)
      end, { deadline = start + 50 })
    end)
    concur.sleep(1)
    kept:deadline(start + 2)
    assert.is_false(task:result())
    assert.near(2, concur.now() - start, 1e-6)
  end)

  it("does not fire after the scope was left", function()
    concur.cancel_scope(function() end, { deadline = concur.now() + 1 })
    concur.sleep(2)
  end)

  it("works inside the scope's own shield", function()
    local start = concur.now()
    assert.is_false(concur.cancel_scope(function()
      concur.sleep(10)
    end, { deadline = start + 1, shield = true }))
    assert.near(1, concur.now() - start, 1e-6)
  end)

  it("is included in effective_deadline, shields cut it off, cancelled is -inf", function()
    assert.equal(math.huge, concur.effective_deadline())
    local now = concur.now()
    concur.move_on_at(now + 10, function()
      assert.near(now + 10, concur.effective_deadline(), 1e-6)
      concur.move_on_at(now + 20, function()
        assert.near(now + 10, concur.effective_deadline(), 1e-6)
      end)
      concur.move_on_at(now + 5, function()
        assert.near(now + 5, concur.effective_deadline(), 1e-6)
        concur.shield(function()
          assert.equal(math.huge, concur.effective_deadline())
          concur.move_on_at(now + 7, function()
            assert.near(now + 7, concur.effective_deadline(), 1e-6)
          end)
        end)
        concur.current_scope():cancel()
        assert.equal(-math.huge, concur.effective_deadline())
      end)
      assert.near(now + 10, concur.effective_deadline(), 1e-6)
    end)
    assert.equal(math.huge, concur.effective_deadline())
  end)

  it("of a parent reaches the tasks of a group inside", function()
    local start = concur.now()
    local seen
    concur.move_on_at(start + 2, function()
      concur.task_group(function(group)
        group:spawn(function()
          seen = concur.effective_deadline()
          concur.sleep_forever()
        end)
      end)
    end)
    assert.near(start + 2, seen, 1e-6)
    assert.near(start + 2, concur.now(), 1e-6)
  end)

  it("does not reach a background task", function()
    local seen
    concur.move_on_after(1, function()
      local task = concur.spawn(function()
        seen = concur.effective_deadline()
        concur.sleep(5)
        return "lived"
      end)
      concur.checkpoint()
      assert.equal(math.huge, seen)
      local finished = concur.cancel_scope(function(scope)
        scope:shield(true)
        return task:result()
      end)
      assert.is_true(finished)
    end)
  end)
end)

describe("current_scope", function()
  it("is the innermost scope", function()
    concur.cancel_scope(function(outer)
      assert.equal(outer, concur.current_scope())
      concur.cancel_scope(function(inner)
        assert.equal(inner, concur.current_scope())
        assert.not_equal(outer, concur.current_scope())
      end)
      assert.equal(outer, concur.current_scope())
    end)
  end)

  it("is restored when a scope is left by an error", function()
    concur.cancel_scope(function(outer)
      pcall(concur.cancel_scope, function()
        error "boom"
      end)
      assert.equal(outer, concur.current_scope())
      pcall(concur.task_group, function()
        error "boom"
      end)
      assert.equal(outer, concur.current_scope())
      pcall(concur.timeout, 1, error, "boom")
      assert.equal(outer, concur.current_scope())
    end)
  end)

  it("is each task's own", function()
    concur.cancel_scope(function(mine)
      local theirs
      concur.spawn(function()
        theirs = concur.current_scope()
        concur.checkpoint()
      end):result()
      assert.not_equal(mine, theirs)
    end)
  end)

  it("gives the scope of a timeout a handle, so that its deadline can move", function()
    local start = concur.now()
    local value = concur.timeout(1, function()
      concur.current_scope():deadline(start + 10)
      concur.sleep(5)
      return "late but fine"
    end)
    assert.equal("late but fine", value)
  end)
end)

describe("task:cancel", function()
  it("cancels the task's own outermost scope: inner scopes do not catch", function()
    local trace = {}
    local task = concur.spawn(function()
      concur.cancel_scope(function()
        concur.sleep(10)
      end)
      trace[#trace + 1] = "wrong"
    end)
    testing.run_until_idle()
    assert.is_true(task:cancel "because")
    local e = expect.error("FutureCancelled", task.result, task)
    assert.equal("because", e.reason)
    assert.equal("cancelled", task:state())
    assert.same({}, trace)
  end)

  it("lets a task that was not started run to its first wait", function()
    local trace = {}
    local task = concur.spawn(function()
      trace[#trace + 1] = "started"
      concur.checkpoint()
      trace[#trace + 1] = "wrong"
    end)
    task:cancel()
    expect.error("FutureCancelled", task.result, task)
    assert.same({ "started" }, trace)
  end)

  it("does not stop a task that never waits: its result stands", function()
    local task = concur.spawn(function()
      return "result"
    end)
    assert.is_true(task:cancel())
    assert.equal("result", task:result())
    assert.equal("done", task:state())
  end)

  it("says false to a task that has ended, however it ended", function()
    local done = concur.spawn(function() end)
    local failed = concur.spawn(error, "x", 0)
    local cancelled = concur.spawn(concur.sleep, 5)
    concur.checkpoint()
    cancelled:cancel()
    concur.wait({ done, failed, cancelled })
    failed:exception()
    for _, task in ipairs { done, failed, cancelled } do
      assert.is_false(task:cancel())
    end
    assert.equal("done", done:state())
    assert.equal("failed", failed:state())
    assert.equal("cancelled", cancelled:state())
  end)

  it("is idempotent, and the first reason wins", function()
    local task = concur.spawn(concur.sleep, 10)
    concur.checkpoint()
    task:cancel "first"
    task:cancel "second"
    local e = expect.error("FutureCancelled", task.result, task)
    assert.equal("first", e.reason)
  end)

  it("is delivered again to a task that swallows it", function()
    local times = 0
    local task = concur.spawn(function()
      for _ = 1, 5 do
        if not pcall(concur.sleep, 10) then
          times = times + 1
        end
      end
      return "ended by itself"
    end)
    testing.run_until_idle()
    task:cancel()
    assert.equal("ended by itself", task:result())
    assert.equal(5, times)
  end)

  it("keeps a result that was ready", function()
    local future = concur.Future()
    local task = concur.spawn(function()
      return future:result()
    end)
    testing.run_until_idle()
    future:set_result "ready"
    task:cancel()
    assert.equal("ready", task:result())
  end)

  it("of the current task takes effect at its next wait", function()
    local reached = {}
    local task = concur.spawn(function()
      concur.current_task():cancel()
      reached[#reached + 1] = "still running"
      concur.checkpoint()
      reached[#reached + 1] = "wrong"
    end)
    expect.error("FutureCancelled", task.result, task)
    assert.same({ "still running" }, reached)
  end)

  it("does not reach what is only awaited", function()
    local inner = concur.spawn(concur.sleep, 5, "value")
    local outer = concur.spawn(function()
      return inner:result()
    end)
    testing.run_until_idle()
    outer:cancel()
    expect.error("FutureCancelled", outer.result, outer)
    assert.equal("value", inner:result())
  end)
end)

describe("a wait that refuses to be cancelled", function()
  it("stays parked, its result counts, and the next wait raises", function()
    local record = {}
    local resume, scope
    local task = concur.spawn(function()
      return concur.cancel_scope(function(own)
        scope = own
        record[#record + 1] = "asleep"
        record[#record + 1] = concur.suspend(function(go)
          resume = go
          return function()
            return false
          end
        end)
        concur.checkpoint()
        record[#record + 1] = "wrong"
      end)
    end)
    testing.run_until_idle()
    scope:cancel()
    testing.run_until_idle()
    assert.same({ "asleep" }, record)
    resume "woken"
    assert.is_false(task:result())
    assert.same({ "asleep", "woken" }, record)
  end)

  it("gets the reason, once", function()
    local reasons = {}
    concur.cancel_scope(function(scope)
      concur.spawn(function()
        scope:cancel "why"
        scope:cancel "again"
      end)
      concur.suspend(function()
        return function(reason)
          reasons[#reasons + 1] = reason
        end
      end)
    end)
    assert.same({ "why" }, reasons)
  end)

  it("tells a late resume that nobody took the value", function()
    local resume
    concur.move_on_after(1, function()
      concur.suspend(function(go)
        resume = go
        return function() end
      end)
    end)
    assert.is_false(resume "late")
  end)
end)

describe("pcall loops around waits in a cancelled scope", function()
  it("cannot stop other tasks", function()
    local ticks, flag = 0, false
    concur.task_group(function(group)
      group:spawn(function()
        for _ = 1, 20 do
          concur.shield(concur.checkpoint)
          ticks = ticks + 1
        end
        flag = true
      end)
      group:spawn(function()
        while not flag do
          pcall(concur.sleep, 1)
        end
      end)
      concur.checkpoint()
      group:cancel()
    end)
    assert.equal(20, ticks)
  end)
end)

describe("misuse of scopes", function()
  it("of options is an error that names the option", function()
    expect.message("unknown", concur.cancel_scope, function() end, { dead_line = 1 })
    expect.message("dead_line", concur.cancel_scope, function() end, { dead_line = 1 })
    expect.message("number", concur.cancel_scope, function() end, { deadline = "soon" })
    expect.message("boolean", concur.cancel_scope, function() end, { shield = "hello" })
    expect.message("table", concur.cancel_scope, function() end, 5)
    expect.message("deadline", concur.cancel_scope, function() end, { deadline = 0 / 0 })
    concur.checkpoint()
  end)

  it("of the body is an error", function()
    expect.message("function", concur.cancel_scope)
    expect.message("function", concur.cancel_scope, 42)
    expect.message("function", concur.shield, "text")
    concur.checkpoint()
  end)

  it("of a deadline or shield is an error and changes nothing", function()
    concur.cancel_scope(function(scope)
      local at = concur.now() + 5
      scope:deadline(at)
      expect.message("NaN", scope.deadline, scope, 0 / 0)
      expect.message("number", scope.deadline, scope, "soon")
      expect.message("boolean", scope.shield, scope, "hello")
      assert.near(at, scope:deadline(), 1e-6)
      assert.is_false(scope:shield())
    end)
  end)

  it("calling a method without the scope is an argument error", function()
    concur.cancel_scope(function(scope)
      expect.message("CancelScope", scope.cancel)
      expect.message("CancelScope", scope.deadline, {})
    end)
  end)

  it("entering one in a foreign coroutine is an error, and the task goes on", function()
    local co = coroutine.create(function()
      return concur.cancel_scope(function() end)
    end)
    local ok, e = coroutine.resume(co)
    assert.is_false(ok)
    assert.is_string(tostring(e))
    concur.checkpoint()
    assert.equal(math.huge, concur.effective_deadline())
  end)

  it("waiting in a foreign coroutine says what to do instead", function()
    local co = coroutine.create(function()
      concur.sleep(1)
    end)
    local ok, e = coroutine.resume(co)
    assert.is_false(ok)
    assert.matches("coroutine", tostring(e))
    concur.checkpoint()
  end)

  it("leaving the outer one before the inner one is an error, and later waits are free of both",
    function()
      -- A generator keeps a scope open while its consumer leaves the scope around it.
      local kept
      local ok, e = pcall(function()
        concur.cancel_scope(function()
          local step = concur.wrap(function()
            concur.cancel_scope(function(inner)
              kept = inner
              coroutine.yield(1)
            end)
          end)
          step()
        end)
      end)
      assert.is_false(ok)
      assert.matches("scope", tostring(e))
      kept:cancel()
      concur.checkpoint()
      assert.equal(math.huge, concur.effective_deadline())
    end)
end)
