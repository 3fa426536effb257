-- SPDX-License-Identifier: MIT
-- wait and as_completed: watching futures without owning them.

local concur = require "concur"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

local function sleeper(seconds, value)
  return concur.spawn(concur.sleep, seconds, value)
end

local function failing(seconds, e)
  return concur.spawn(function()
    concur.sleep(seconds)
    error(e, 0)
  end)
end

local function set(list)
  local result = {}
  for _, value in ipairs(list) do
    result[value] = true
  end
  return result
end

describe("wait", function()
  it("waits for all by default", function()
    virtual.run(function()
      local start = concur.now()
      local a, b = sleeper(1), sleeper(3)
      local done, pending = concur.wait { a, b }
      assert.same(set { a, b }, set(done))
      assert.same({}, pending)
      assert.near(3, concur.now() - start, 1e-6)
    end)
  end)

  it("returns the same handles", function()
    virtual.run(function()
      local future = concur.Future()
      future:set_result()
      local done = concur.wait { future }
      assert.is_true(rawequal(future, done[1]))
    end)
  end)

  it("with 'all' waits through errors and cancellations", function()
    virtual.run(function()
      local bad, stopped, good = failing(1, "x"), sleeper(9), sleeper(3)
      stopped:cancel()
      local done, pending = concur.wait({ bad, stopped, good }, { return_when = "all" })
      assert.equal(3, #done)
      assert.same({}, pending)
      assert.equal("x", bad:exception())
    end)
  end)

  it("with 'first' returns when one is done, and cancels nothing", function()
    virtual.run(function()
      local quick, slow = sleeper(1), sleeper(2, "slow")
      local done, pending = concur.wait({ slow, quick }, { return_when = "first" })
      assert.same({ quick }, done)
      assert.same({ slow }, pending)
      assert.equal("pending", slow:state())
      assert.equal("slow", slow:result())
    end)
  end)

  it("with 'first' returns all that are done by then", function()
    virtual.run(function()
      local a, b, c = concur.Future(), concur.Future(), concur.Future()
      a:set_result()
      c:set_result()
      local done, pending = concur.wait({ a, b, c }, { return_when = "first" })
      assert.same(set { a, c }, set(done))
      assert.same({ b }, pending)
    end)
  end)

  it("with 'first' counts a failed one and a cancelled one as done", function()
    virtual.run(function()
      local bad, slow = failing(1, "x"), sleeper(2)
      local done = concur.wait({ slow, bad }, { return_when = "first" })
      assert.same({ bad }, done)
      bad:exception()
      local stopped = concur.Future()
      stopped:cancel()
      assert.same({ stopped }, (concur.wait({ slow, stopped }, { return_when = "first" })))
    end)
  end)

  it("with 'first_error' returns at the first error with what was done and pending", function()
    virtual.run(function()
      local good, bad, slow = sleeper(1), failing(2, "x"), sleeper(3)
      local done, pending = concur.wait({ slow, bad, good }, { return_when = "first_error" })
      assert.same(set { good, bad }, set(done))
      assert.same({ slow }, pending)
      assert.equal("x", bad:exception())
    end)
  end)

  it("with 'first_error' returns at once for an error of before", function()
    virtual.run(function()
      local start = concur.now()
      local bad, slow = failing(0, "x"), sleeper(5)
      concur.sleep(1)
      local done, pending = concur.wait({ slow, bad }, { return_when = "first_error" })
      assert.same({ bad }, done)
      assert.same({ slow }, pending)
      assert.near(1, concur.now() - start, 1e-6)
      bad:exception()
    end)
  end)

  it("with 'first_error' and no error waits for all", function()
    virtual.run(function()
      local a, b = sleeper(1), sleeper(2)
      local done, pending = concur.wait({ a, b }, { return_when = "first_error" })
      assert.equal(2, #done)
      assert.same({}, pending)
    end)
  end)

  it("with a time-out returns what is done then, raises nothing and cancels nothing", function()
    virtual.run(function()
      local start = concur.now()
      local quick, slow = sleeper(1), sleeper(9, "slow")
      local done, pending = concur.wait({ quick, slow }, { timeout = 2 })
      assert.same({ quick }, done)
      assert.same({ slow }, pending)
      assert.near(2, concur.now() - start, 1e-6)
      assert.equal("slow", slow:result())
    end)
  end)

  it("with a time-out of 0 only looks", function()
    virtual.run(function()
      local future, slow = concur.Future(), sleeper(9)
      future:set_result()
      local done, pending = concur.wait({ slow, future }, { timeout = 0 })
      assert.same({ future }, done)
      assert.same({ slow }, pending)
    end)
  end)

  it("returns at once when all are done already", function()
    virtual.run(function()
      local a, b = concur.Future(), concur.Future()
      a:set_result()
      b:set_result()
      local start = concur.now()
      assert.equal(2, #concur.wait { a, b })
      assert.equal(start, concur.now())
    end)
  end)

  it("of an empty list returns two empty lists", function()
    virtual.run(function()
      assert.same({ {}, {} }, { concur.wait {} })
      assert.same({ {}, {} }, { concur.wait({}, { return_when = "first", timeout = 1 }) })
    end)
  end)

  it("names each handle once when the list has it twice", function()
    virtual.run(function()
      local a, b = sleeper(1), sleeper(9)
      local done, pending = concur.wait({ a, b, a, b }, { timeout = 2 })
      assert.same({ a }, done)
      assert.same({ b }, pending)
    end)
  end)

  it("leaves everything running when the caller is cancelled", function()
    virtual.run(function()
      local task, future = sleeper(5, "kept"), concur.Future()
      local caller = concur.spawn(concur.wait, { task, future })
      concur.sleep(1)
      caller:cancel()
      concur.sleep(0)
      assert.equal("cancelled", caller:state())
      assert.equal("pending", future:state())
      assert.equal("kept", task:result())
    end)
  end)

  it("does not take responsibility for errors that nobody looks at", function()
    local reports = virtual.reports(function()
      concur.wait { failing(1, "unseen") }
      collectgarbage()
      collectgarbage()
      concur.sleep(0)
    end)
    assert.same({ "unseen", n = 1 }, reports)
  end)

  it("can be done by several tasks for the same futures", function()
    virtual.run(function()
      local future = concur.Future()
      local function waiter()
        return #concur.wait { future }
      end
      concur.get_event_loop():call_later(1, future.set_result, future)
      assert.same({ 1, 1, 1 }, { concur.gather(waiter, waiter, waiter) })
    end)
  end)

  it("works at top level", function()
    local done, pending = concur.wait({ sleeper(0.001), concur.Future() },
      { return_when = "first" })
    assert.equal(1, #done)
    assert.equal(1, #pending)
  end)

  it("refuses functions, with advice", function()
    virtual.run(function()
      local e = failure(concur.wait, { function() end })
      assert.matches("function", tostring(e))
      assert.matches("spawn", tostring(e))
    end)
  end)

  it("refuses what is no future, no list and no option", function()
    virtual.run(function()
      local future = concur.Future()
      assert.matches("2", tostring(failure(concur.wait, { future, 42 })))
      assert.matches("#1", tostring(failure(concur.wait, 42)))
      assert.matches("#1", tostring(failure(concur.wait)))
      assert.matches("when", tostring(failure(concur.wait, { future }, { when = "first" })))
      assert.matches("first_error",
        tostring(failure(concur.wait, { future }, { return_when = "FIRST" })))
      assert.matches("timeout", tostring(failure(concur.wait, { future }, { timeout = 0 / 0 })))
      failure(concur.wait, { future }, { timeout = "soon" })
      failure(concur.wait, { future }, 5)
    end)
  end)
end)

describe("as_completed", function()
  it("gives the same handles in the order of completion", function()
    virtual.run(function()
      local a, b, c = sleeper(3, "a"), sleeper(1, "b"), sleeper(2, "c")
      local log = {}
      for task in concur.as_completed { a, b, c } do
        log[#log + 1] = task
      end
      assert.is_true(rawequal(b, log[1]))
      assert.is_true(rawequal(c, log[2]))
      assert.is_true(rawequal(a, log[3]))
      assert.equal(3, #log)
    end)
  end)

  it("gives those that are done already first", function()
    virtual.run(function()
      local slow = sleeper(2)
      local done = concur.Future()
      done:set_result()
      local log = {}
      for future in concur.as_completed { slow, done } do
        log[#log + 1] = future
      end
      assert.same({ done, slow }, log)
    end)
  end)

  it("gives each as soon as it is done", function()
    virtual.run(function()
      local start, times = concur.now(), {}
      for task in concur.as_completed { sleeper(3), sleeper(1), sleeper(2) } do
        task:result()
        times[#times + 1] = concur.now() - start
      end
      for i = 1, 3 do
        assert.near(i, times[i], 1e-6)
      end
    end)
  end)

  it("gives also the failed and the cancelled", function()
    virtual.run(function()
      local bad, stopped = failing(1, "x"), sleeper(9)
      concur.get_event_loop():call_later(2, stopped.cancel, stopped)
      local states = {}
      for task in concur.as_completed { stopped, bad } do
        states[#states + 1] = task:state()
      end
      assert.same({ "failed", "cancelled" }, states)
      bad:exception()
    end)
  end)

  it("goes on after break, and nothing is lost", function()
    virtual.run(function()
      local a, b, c, d = sleeper(1), sleeper(2), sleeper(3), sleeper(4)
      local iterator = concur.as_completed { d, c, b, a }
      local log = {}
      for task in iterator do
        log[#log + 1] = task
        if #log == 2 then
          break
        end
      end
      concur.sleep(10)
      for task in iterator do
        log[#log + 1] = task
      end
      assert.same({ a, b, c, d }, log)
      assert.is_nil(iterator())
      assert.is_nil(iterator())
    end)
  end)

  it("gives a handle once that the list has twice", function()
    virtual.run(function()
      local a, b = sleeper(2), sleeper(1)
      local log = {}
      for task in concur.as_completed { a, b, a, a, b } do
        log[#log + 1] = task
      end
      assert.same({ b, a }, log)
    end)
  end)

  it("of an empty list gives nothing", function()
    virtual.run(function()
      for _ in concur.as_completed {} do
        error("not reached")
      end
    end)
  end)

  it("is not disturbed by changes of the list", function()
    virtual.run(function()
      local a, b = sleeper(1), sleeper(2)
      local list = { a, b }
      local log = {}
      for task in concur.as_completed(list) do
        log[#log + 1] = task
        list[1], list[2] = nil, nil
      end
      assert.same({ a, b }, log)
    end)
  end)

  it("raises TimeoutError when the time is over; the futures go on", function()
    virtual.run(function()
      local start = concur.now()
      local a, b = sleeper(1), sleeper(9, "late")
      local log = {}
      failure_of_kind("TimeoutError", function()
        for task in concur.as_completed({ b, a }, { timeout = 3 }) do
          log[#log + 1] = task
        end
      end)
      assert.near(3, concur.now() - start, 1e-6)
      assert.same({ a }, log)
      assert.equal("late", b:result())
    end)
  end)

  it("counts its time-out from the call, not from each step", function()
    virtual.run(function()
      local tasks = { sleeper(2), sleeper(4), sleeper(6) }
      local count = 0
      failure_of_kind("TimeoutError", function()
        for _ in concur.as_completed(tasks, { timeout = 5 }) do
          count = count + 1
        end
      end)
      assert.equal(2, count)
    end)
  end)

  it("gives what is done even when the time is over", function()
    virtual.run(function()
      local a, b = sleeper(1), sleeper(9)
      local iterator = concur.as_completed({ a, b }, { timeout = 2 })
      concur.sleep(3)
      assert.equal(a, iterator())
      failure_of_kind("TimeoutError", iterator)
    end)
  end)

  it("can be cancelled, and a cancelled step loses nothing", function()
    virtual.run(function()
      local a, b = sleeper(5), sleeper(6)
      local iterator = concur.as_completed { a, b }
      local caller = concur.spawn(iterator)
      concur.sleep(1)
      caller:cancel()
      concur.sleep(0)
      assert.equal("cancelled", caller:state())
      assert.equal(a, iterator())
      assert.equal(b, iterator())
      assert.is_nil(iterator())
    end)
  end)

  it("can be used twice on the same list", function()
    virtual.run(function()
      local list = { sleeper(2), sleeper(1) }
      local first, second = concur.as_completed(list), concur.as_completed(list)
      assert.equal(list[2], first())
      assert.equal(list[2], second())
      assert.equal(list[1], second())
      assert.equal(list[1], first())
    end)
  end)

  it("gives each handle to one of several tasks that share the iterator", function()
    virtual.run(function()
      local tasks, seen, count = {}, {}, 0
      for i = 1, 12 do
        tasks[i] = sleeper(i % 5)
      end
      local iterator = concur.as_completed(tasks)
      local function consume()
        for task in iterator do
          assert.is_nil(seen[task])
          assert.is_true(task:done())
          seen[task] = true
          count = count + 1
          concur.sleep(0)
        end
      end
      concur.gather(consume, consume, consume)
      assert.equal(12, count)
    end)
  end)

  it("holds nothing: an iterator that is dropped leaves no waiter and no timer", function()
    virtual.run(function()
      local future = concur.Future()
      do
        local iterator = concur.as_completed({ future, sleeper(1) }, { timeout = 1000 })
        iterator()
      end
      collectgarbage()
      collectgarbage()
      future:set_result()
      assert.equal(0, concur.testing.counters().timers)
    end)
  end)

  it("works at top level, outside any loop", function()
    local log = {}
    for task in concur.as_completed { sleeper(0.05, "b"), sleeper(0.001, "a") } do
      log[#log + 1] = task:result()
    end
    assert.same({ "a", "b" }, log)
  end)

  it("refuses functions, with advice, and what is no future", function()
    virtual.run(function()
      local e = failure(concur.as_completed, { function() end })
      assert.matches("spawn", tostring(e))
      assert.matches("1", tostring(failure(concur.as_completed, { "x" })))
      assert.matches("#1", tostring(failure(concur.as_completed, 42)))
      assert.matches("time", tostring(failure(concur.as_completed, {}, { time = 1 })))
      assert.matches("timeout", tostring(failure(concur.as_completed, {}, { timeout = 0 / 0 })))
      assert.matches("timeout", tostring(failure(concur.as_completed, {}, { timeout = "x" })))
    end)
  end)
end)
