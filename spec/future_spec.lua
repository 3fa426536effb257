-- SPDX-License-Identifier: MIT
-- Futures settled by hand, done callbacks, await.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

describe("Future", function()
  it("is pending at first", function()
    local future = concur.Future()
    assert.equal("pending", future:state())
    assert.is_false(future:done())
    assert.is_false(future:cancelled())
    assert.matches("Future", tostring(future))
    assert.matches("pending", tostring(future))
  end)

  it("keeps all results, nils included, as often as they are asked for", function()
    local future = concur.Future()
    assert.is_true(future:set_result(1, nil, "c", nil))
    for _ = 1, 2 do
      assert.same({ 1, nil, "c", nil, n = 4 }, table.pack(future:result()))
    end
    assert.equal("done", future:state())
    assert.is_true(future:done())
    assert.is_nil(future:exception())
    assert.matches("done", tostring(future))
  end)

  it("may have no result at all", function()
    local future = concur.Future()
    future:set_result()
    assert.equal(0, select("#", future:result()))
  end)

  it("keeps one result of any kind by identity", function()
    local object = {}
    for _, value in ipairs { object, false, 0, "" } do
      local future = concur.Future()
      future:set_result(value)
      assert.equal(value, future:result())
    end
    local future = concur.Future()
    future:set_result(nil)
    assert.same({ n = 1 }, table.pack(future:result()))
  end)

  it("raises its error: the very same value, as often as it is asked for", function()
    local e = {}
    local future = concur.Future()
    assert.is_true(future:set_exception(e))
    for _ = 1, 2 do
      assert.equal(e, failure(future.result, future))
    end
    assert.equal("failed", future:state())
    assert.equal(e, future:exception())
    assert.matches("failed", tostring(future))
  end)

  it("may fail with nil or false", function()
    for i = 1, 2 do
      local e = nil
      if i == 2 then
        e = false
      end
      local future = concur.Future()
      future:set_exception(e)
      assert.same({ false, e, n = 2 }, table.pack(pcall(future.result, future)))
      assert.equal("failed", future:state())
    end
  end)

  it("settles once: later attempts return false and change nothing", function()
    local future = concur.Future()
    assert.is_true(future:set_result("first"))
    assert.is_false(future:set_result("second"))
    assert.is_false(future:set_exception("third"))
    assert.is_false(future:cancel())
    assert.equal("first", future:result())

    future = concur.Future()
    assert.is_true(future:set_exception("first"))
    assert.is_false(future:set_result("second"))
    assert.is_false(future:set_exception("third"))
    assert.is_false(future:cancel())
    assert.equal("first", failure(future.result, future))

    future = concur.Future()
    assert.is_true(future:cancel("first"))
    assert.is_false(future:set_result("second"))
    assert.is_false(future:set_exception("third"))
    assert.is_false(future:cancel())
    assert.equal("first", failure(future.result, future).reason)
  end)

  it("is cancelled at once, and raises FutureCancelled with the reason", function()
    local future = concur.Future()
    assert.is_true(future:cancel("not needed"))
    assert.equal("cancelled", future:state())
    assert.is_true(future:cancelled())
    assert.is_true(future:done())
    local e = failure_of_kind("FutureCancelled", future.result, future)
    assert.equal("not needed", e.reason)
    assert.matches("not needed", tostring(e))
    assert.matches("cancelled", tostring(future))
  end)

  it("can be cancelled without a reason", function()
    local future = concur.Future()
    future:cancel()
    assert.is_nil(failure_of_kind("FutureCancelled", future.result, future).reason)
  end)

  it("has no exception to look at while it is pending", function()
    local future = concur.Future()
    failure_of_kind("InvalidState", future.exception, future)
  end)

  it("gives FutureCancelled as the exception when it was cancelled", function()
    local future = concur.Future()
    future:cancel("why")
    local e = future:exception()
    assert.is_true(concur.errors.is(e, "FutureCancelled"))
    assert.equal("why", e.reason)
  end)

  it("settles once even if a finalizer settles it in the middle", function()
    -- In a child: its heap is small, so that the collector comes round often.
    local result = support.run_lua [[
      local concur = require "concur"
      collectgarbage("incremental", 1, 1000, 1)
      for i = 1, 300 do
        local future, by_finalizer = concur.Future(), nil
        do
          local _ = setmetatable({}, { __gc = function()
            by_finalizer = future:set_result("finalizer", i)
          end })
        end
        local by_hand = future:set_result("hand", i)
        collectgarbage()
        assert(by_hand ~= by_finalizer, i)
        assert(future:result() == (by_hand and "hand" or "finalizer"))
      end
    ]]
    assert.equal(0, result.code, support.describe(result))
  end)

  it("is collected when nobody can settle or see it any more", function()
    local weak = setmetatable({}, { __mode = "k" })
    local function make(callback)
      local future = concur.Future()
      if callback then
        future:add_done_callback(callback)
      end
      weak[future] = true
    end
    make()
    make(function() end)
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)

  it("reports an error that nobody retrieved", function()
    local reports = virtual.reports(function()
      concur.Future():set_exception("lost")
      collectgarbage()
      collectgarbage()
      concur.sleep(0)
    end)
    assert.same({ "lost", n = 1 }, reports)
  end)

  it("does not report an error that was looked at", function()
    local reports = virtual.reports(function()
      local future = concur.Future()
      future:set_exception("seen")
      future:exception()
    end)
    assert.equal(0, reports.n)
  end)

  it("reports an error that a done callback only saw the state of", function()
    local reports = virtual.reports(function()
      local future = concur.Future()
      future:add_done_callback(function(f)
        f:state()
      end)
      future:set_exception("unseen")
      concur.sleep(0)
    end)
    assert.same({ "unseen", n = 1 }, reports)
  end)
end)

describe("result with a time-out", function()
  it("returns the results if they come in time", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep, 1, "in time")
      assert.equal("in time", task:result(2))
    end)
  end)

  it("raises TimeoutError with the future, which goes on", function()
    virtual.run(function()
      local start = concur.now()
      local task = concur.spawn(concur.sleep, 5, "later")
      local e = failure_of_kind("TimeoutError", task.result, task, 2)
      assert.near(2, concur.now() - start, 1e-6)
      assert.equal(task, e.future)
      assert.equal("pending", task:state())
      assert.equal("later", task:result(4))
      assert.near(5, concur.now() - start, 1e-6)
    end)
  end)

  it("of 0, or negative, raises for a pending future and returns a settled one's", function()
    virtual.run(function()
      local future = concur.Future()
      failure_of_kind("TimeoutError", future.result, future, 0)
      failure_of_kind("TimeoutError", future.result, future, -1)
      future:set_result("x")
      assert.equal("x", future:result(0))
      assert.equal("x", future:result(-1))
    end)
  end)

  it("of math.huge waits for ever", function()
    virtual.run(function()
      assert.equal("x", concur.spawn(concur.sleep, 1e6, "x"):result(math.huge))
    end)
  end)

  it("does not report the late error of a future whose waiter gave up, if it is seen", function()
    local reports = virtual.reports(function()
      local task = concur.spawn(function()
        concur.sleep(5)
        error("late", 0)
      end)
      failure_of_kind("TimeoutError", task.result, task, 1)
      assert.equal("late", failure(task.result, task))
    end)
    assert.equal(0, reports.n)
  end)

  it("leaves no timer behind when the result comes first", function()
    virtual.run(function()
      local future = concur.Future()
      concur.get_event_loop():call_later(1, future.set_result, future)
      future:result(1000)
      assert.equal(0, concur.testing.counters().timers)
    end)
  end)

  it("raises at the deadline even if the future settles right after it", function()
    virtual.run(function()
      local future = concur.Future()
      local waiter = concur.spawn(future.result, future, 1)
      concur.sleep(0)
      concur.get_event_loop():call_later(1.5, future.set_result, future, "late")
      failure_of_kind("TimeoutError", waiter.result, waiter)
      assert.equal("late", future:result())
    end)
  end)

  it("works at top level", function()
    local future = concur.Future()
    failure_of_kind("TimeoutError", future.result, future, 0.001)
    assert.equal("pending", future:state())
  end)
end)

describe("waiting for a future", function()
  it("wakes all who wait, first come first served", function()
    virtual.run(function()
      local future, log = concur.Future(), {}
      for i = 1, 10 do
        concur.spawn(function()
          local result = future:result()
          log[#log + 1] = i .. result
        end)
      end
      concur.sleep(0)
      assert.same({}, log)
      future:set_result "!"
      assert.same({}, log)
      concur.sleep(0)
      assert.same({ "1!", "2!", "3!", "4!", "5!", "6!", "7!", "8!", "9!", "10!" }, log)
    end)
  end)

  it("raises the error in all who wait", function()
    virtual.run(function()
      local future, e = concur.Future(), {}
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = concur.spawn(future.result, future)
      end
      concur.sleep(0)
      future:set_exception(e)
      for i = 1, 3 do
        assert.equal(e, failure(tasks[i].result, tasks[i]))
      end
    end)
  end)

  it("ends with FutureCancelled when the future is cancelled", function()
    virtual.run(function()
      local future = concur.Future()
      local task = concur.spawn(future.result, future)
      concur.sleep(0)
      future:cancel("stop")
      local e = failure_of_kind("FutureCancelled", task.result, task)
      assert.equal("stop", e.reason)
      assert.equal("failed", task:state())
    end)
  end)

  it("can be given up by any of those who wait, in the middle of the list too", function()
    virtual.run(function()
      local future, tasks = concur.Future(), {}
      for i = 1, 5 do
        tasks[i] = concur.spawn(future.result, future)
      end
      concur.sleep(0)
      tasks[1]:cancel()
      tasks[3]:cancel()
      tasks[5]:cancel()
      concur.sleep(0)
      future:set_result("x")
      concur.wait(tasks)
      for i = 1, 5 do
        assert.equal(i % 2 == 1 and "cancelled" or "done", tasks[i]:state())
      end
    end)
  end)

  it("is over at once when the future is settled already, without a switch", function()
    virtual.run(function()
      local switched = false
      concur.spawn(function()
        switched = true
      end)
      local future = concur.Future()
      future:set_result("now")
      assert.equal("now", future:result())
      assert.is_false(switched)
    end)
  end)

  it("of a settled future works where waiting does not: in a cancelled task, in a sort", function()
    virtual.run(function()
      local future = concur.Future()
      future:set_result(3)
      local task = concur.spawn(function()
        pcall(concur.sleep, 1)
        local seen = future:result()
        local list = { 2, 1 }
        table.sort(list, function(a, b)
          return a * future:result() < b * future:result()
        end)
        return seen, list[1]
      end)
      concur.sleep(0)
      task:cancel()
      assert.same({ 3, 1 }, { task:result() })
    end)
  end)

  it("survives that nobody but the waiter holds the future", function()
    virtual.run(function()
      local weak = setmetatable({}, { __mode = "v" })
      local task = concur.spawn(function()
        local future = concur.Future()
        weak[1] = future
        return future:result()
      end)
      concur.sleep(0)
      collectgarbage()
      collectgarbage()
      weak[1]:set_result("kept")
      assert.equal("kept", task:result())
    end)
  end)

  it("twenty thousand times in a chain of hand-offs loses nothing", function()
    virtual.run(function()
      local sum = 0
      local ping, pong = concur.Future(), concur.Future()
      concur.spawn(function()
        for _ = 1, 20000 do
          local value = ping:result()
          ping = concur.Future()
          pong:set_result(value + 1)
        end
      end)
      for i = 1, 20000 do
        ping:set_result(i)
        sum = sum + pong:result()
        pong = concur.Future()
      end
      assert.equal(20000 * 20001 // 2 + 20000, sum)
    end)
  end)
end)

describe("add_done_callback", function()
  it("calls with the future, on the loop's thread, once", function()
    virtual.run(function()
      local future, log = concur.Future(), {}
      future:add_done_callback(function(...)
        log[#log + 1] = table.pack(...)
      end)
      future:set_result()
      assert.same({}, log)
      concur.sleep(0)
      concur.sleep(0)
      assert.equal(1, #log)
      assert.equal(1, log[1].n)
      assert.equal(future, log[1][1])
    end)
  end)

  it("calls in the order in which they were added", function()
    virtual.run(function()
      local future, log = concur.Future(), {}
      for i = 1, 10 do
        future:add_done_callback(function()
          log[#log + 1] = i
        end)
      end
      future:set_result()
      concur.sleep(0)
      assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, log)
    end)
  end)

  it("shares one order with those who wait", function()
    virtual.run(function()
      local future, log = concur.Future(), {}
      local function wait_as(name)
        concur.spawn(function()
          future:result()
          log[#log + 1] = name
        end)
        concur.sleep(0)
      end
      wait_as "task 1"
      future:add_done_callback(function()
        log[#log + 1] = "callback 1"
      end)
      wait_as "task 2"
      future:add_done_callback(function()
        log[#log + 1] = "callback 2"
      end)
      future:set_result()
      concur.sleep(0)
      assert.same({ "task 1", "callback 1", "task 2", "callback 2" }, log)
    end)
  end)

  it("calls also when the future is settled already: not at once, but at the next turn", function()
    virtual.run(function()
      for _, settle in ipairs {
        function(f)
          f:set_result(1)
        end,
        function(f)
          f:set_exception("x")
          f:exception()
        end,
        function(f)
          f:cancel()
        end,
      } do
        local future, seen = concur.Future(), nil
        settle(future)
        future:add_done_callback(function(f)
          seen = f
        end)
        assert.is_nil(seen)
        concur.sleep(0)
        assert.equal(future, seen)
      end
    end)
  end)

  it("calls for results, errors and cancellation", function()
    virtual.run(function()
      local states = {}
      local function note(f)
        states[#states + 1] = f:state()
      end
      local a, b, c = concur.Future(), concur.Future(), concur.Future()
      for _, f in ipairs { a, b, c } do
        f:add_done_callback(note)
      end
      a:set_result()
      b:set_exception("x")
      c:cancel()
      concur.sleep(0)
      b:exception()
      assert.same({ "done", "failed", "cancelled" }, states)
    end)
  end)

  it("calls the same function as often as it was added", function()
    virtual.run(function()
      local count = 0
      local function callback()
        count = count + 1
      end
      local future = concur.Future()
      future:add_done_callback(callback)
      future:add_done_callback(callback)
      future:set_result()
      concur.sleep(0)
      assert.equal(2, count)
    end)
  end)

  it("hands an error of the callback to on_error; the others are called", function()
    local e, log = {}, {}
    local reports = virtual.reports(function()
      local future = concur.Future()
      future:add_done_callback(function()
        error(e)
      end)
      future:add_done_callback(function()
        log[#log + 1] = "second"
      end)
      future:set_result("fine")
      assert.equal("fine", future:result())
      concur.sleep(0)
    end)
    assert.equal(1, reports.n)
    assert.equal(e, reports[1])
    assert.same({ "second" }, log)
  end)

  it("may add callbacks and settle other futures in a callback", function()
    virtual.run(function()
      local first, second, log = concur.Future(), concur.Future(), {}
      second:add_done_callback(function()
        log[#log + 1] = "second"
      end)
      first:add_done_callback(function(f)
        f:add_done_callback(function()
          log[#log + 1] = "added late"
        end)
        second:set_result()
        log[#log + 1] = "first"
      end)
      first:set_result()
      concur.sleep(0)
      concur.sleep(0)
      assert.same({ "first", "added late", "second" }, log)
    end)
  end)

  it("works on tasks", function()
    virtual.run(function()
      local seen
      local task = concur.spawn(concur.sleep, 1, "value")
      task:add_done_callback(function(t)
        seen = t:result()
      end)
      concur.sleep(2)
      assert.equal("value", seen)
    end)
  end)

  it("waits at top level until something drives the loop", function()
    local future, called = concur.Future(), false
    future:add_done_callback(function()
      called = true
    end)
    future:set_result()
    assert.is_false(called)
    concur.sleep(0)
    assert.is_true(called)
  end)

  it("runs without a current task", function()
    virtual.run(function()
      local future, task = concur.Future(), "unset"
      future:add_done_callback(function()
        task = concur.current_task()
      end)
      future:set_result()
      concur.sleep(0)
      assert.is_nil(task)
    end)
  end)
end)

describe("await", function()
  it("returns all results of a future or a task", function()
    virtual.run(function()
      local future = concur.Future()
      future:set_result(1, nil, 3)
      assert.same({ 1, nil, 3, n = 3 }, table.pack(concur.await(future)))
      assert.equal("x", concur.await(concur.spawn(concur.sleep, 1, "x")))
    end)
  end)

  it("raises the error of a future or a task", function()
    virtual.run(function()
      local e = {}
      assert.equal(e, failure(concur.await, concur.spawn(error, e)))
    end)
  end)

  it("calls __await of an object in the current task; its results are the results", function()
    virtual.run(function()
      local me = concur.current_task()
      local object
      object = setmetatable({}, {
        __await = function(...)
          assert.equal(me, concur.current_task())
          assert.equal(object, (...))
          concur.sleep(2)
          return "a", nil, "c"
        end,
      })
      local start = concur.now()
      assert.same({ "a", nil, "c", n = 3 }, table.pack(concur.await(object)))
      assert.near(2, concur.now() - start, 1e-6)
    end)
  end)

  it("raises the error of __await as it is", function()
    virtual.run(function()
      local e = {}
      local object = setmetatable({}, {
        __await = function()
          concur.sleep(1)
          error(e)
        end,
      })
      assert.equal(e, failure(concur.await, object))
    end)
  end)

  it("refuses anything else, and says what it got", function()
    virtual.run(function()
      for value, name in pairs {
        [42] = "number",
        text = "string",
        [true] = "boolean",
        [print] = "function",
        [{}] = "table",
        [coroutine.create(print)] = "thread",
      } do
        local e = failure(concur.await, value)
        assert.matches("#1", tostring(e))
        assert.matches(name, tostring(e))
      end
      assert.matches("#1", tostring(failure(concur.await, nil)))
      assert.matches("#1", tostring(failure(concur.await)))
    end)
  end)

  it("refuses an object whose __await cannot be called", function()
    virtual.run(function()
      failure(concur.await, setmetatable({}, { __await = 42 }))
    end)
  end)
end)

describe("a future in another program", function()
  it("that is dropped with its error unseen is reported on stderr", function()
    local result = support.run_lua [[
      local concur = require "concur"
      concur.Future():set_exception("nobody looked")
      collectgarbage()
      collectgarbage()
      concur.sleep(0.001)
    ]]
    assert.equal(0, result.code, support.describe(result))
    assert.matches("nobody looked", result.stderr)
  end)
end)
