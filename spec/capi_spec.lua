-- SPDX-License-Identifier: MIT
-- The functions of include/concur.h, through spec/capi/capi_probe.c, which gives them to Lua.

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local probe = require "capi_probe"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local errors = concur.errors
local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

local WEAK = 1
local READABLE, WRITABLE = 1, 2

-- Runs code in a child that has `concur`, `errors` and `probe`; it must print this and end well.
local function child(expected, body, options)
  local code = 'local concur = require "concur" local errors = concur.errors '
    .. 'local probe = require "capi_probe" ' .. body
  local result = support.run_lua(code, options)
  assert.equal(0, result.code, support.describe(result))
  assert.equal(expected, result.stdout, support.describe(result))
  return result
end

before_each(function()
  probe.counts()
end)

-- A job that ends when it is cancelled, and runs already.
local function running(options)
  options.seconds, options.stoppable = 1000, true
  local future = probe.submit(options)
  while future:state() == "pending" do
    concur.sleep(0.001)
  end
  return future
end

describe("the table of the C API", function()
  it("has the version and the size that the header says", function()
    local version, size, header_size, has_last = probe.info()
    assert.equal(1, version)
    assert.equal(header_size, size)
    assert.is_true(has_last)
  end)
end)

describe("future_new", function()
  it("makes a pending future", function()
    local future, handle = probe.future()
    assert.equal("pending", future:state())
    assert.matches("^concur.JobFuture %(pending%)", tostring(future))
    assert.equal(0, handle:cancelled())
    handle:settle "x"
    assert.equal("x", future:result())
  end)

  it("refuses options whose size was not set", function()
    assert.matches("future_new.*size", failure(probe.future, { size = 0 }))
  end)

  it("names the future in reports", function()
    child("", [[
      local future, handle = probe.future { name = "the answer" }
      handle:fail(nil, "lost")
      concur.sleep(0)
      future = nil
    ]])
    local result = support.run_lua [[
      local concur = require "concur"
      local probe = require "capi_probe"
      local future, handle = probe.future { name = "the answer" }
      handle:fail(nil, "lost")
      concur.sleep(0)
      future = nil
      collectgarbage()
      concur.sleep(0)]]
    assert.matches("the error of future 'the answer' was never retrieved", result.stderr)
  end)

  it("keeps a pending future although Lua forgets it", function()
    local future, handle = probe.future()
    local seen
    future:add_done_callback(function(done)
      seen = done:result()
    end)
    future = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    handle:settle("late", true)
    concur.sleep(0)
    concur.sleep(0)
    assert.equal("late", seen)
  end)

  it("keeps a driver waiting until it is settled, unless it is weak", function()
    local future, handle = probe.future { flags = WEAK }
    failure_of_kind("Deadlock", future.result, future)
    handle:settle "now"
    assert.equal("now", future:result())
  end)
end)

describe("settle", function()
  for _, thread in ipairs { false, true } do
    local where = thread and " from another thread" or " from the loop's thread"

    it("gives all results" .. where, function()
      local future, handle = probe.future()
      assert.equal(1, handle:settle("values", thread))
      assert.same(table.pack(1, "two", nil), table.pack(future:result()))
      assert.same({ pushed = 1, dropped = 0, cancelled = 0, worked = 0, called = 0 },
        probe.counts())
    end)

    it("without a function gives no results" .. where, function()
      local future, handle = probe.future()
      assert.equal(1, handle:settle(nil, thread))
      assert.equal(0, select("#", future:result()))
    end)

    it("a second time returns 0 and drops what it brought" .. where, function()
      local future, handle = probe.future()
      assert.equal(1, handle:settle("first", thread))
      assert.equal(0, handle:settle("second", thread))
      assert.equal(0, handle:fail("Closed", "third", thread))
      assert.equal(0, handle:settle_cancelled(thread))
      assert.equal("first", future:result())
      local counts = probe.counts()
      assert.equal(1, counts.pushed)
      assert.equal(1, counts.dropped)
    end)
  end

  it("wakes a task that waits, from another thread", function()
    local future, handle = probe.future()
    concur.run(function()
      local waiter = concur.spawn(future.result, future)
      concur.sleep(0)
      handle:settle("woken", true)
      assert.equal("woken", waiter:result())
    end)
  end)

  it("with a push that raises fails with that error, and drops the data", function()
    local future, handle = probe.future()
    handle:settle "raise"
    assert.matches("raised by push", failure(future.result, future))
    assert.equal(1, probe.counts().dropped)
  end)

  it("is seen by getters without anything driving the loop", function()
    local future, handle = probe.future()
    handle:settle("here", true)
    assert.is_true(future:done())
    assert.equal("here", future:result())
  end)

  it("works through select, gather and as_completed", function()
    local a, first = probe.future()
    local b, second = probe.future()
    first:settle("A", true)
    second:settle("B", true)
    assert.same({ "A", "B" }, { concur.gather(a, b) })
    local c, third = probe.future()
    third:settle("C", true)
    assert.same({ "it", "C" }, { concur.select { it = c, never = concur.Event():waiting() } })
  end)
end)

describe("fail", function()
  it("gives an error object of the kind", function()
    local future, handle = probe.future()
    handle:fail("OSError", "no such thing", true)
    local e = failure_of_kind("OSError", future.result, future)
    assert.equal("no such thing", e.message)
  end)

  it("without a kind gives the message as it is", function()
    local future, handle = probe.future()
    handle:fail(nil, "plainly", true)
    assert.equal("plainly", failure(future.result, future))
  end)

  it("without a message gives an empty one", function()
    local future, handle = probe.future()
    handle:fail(nil, nil)
    assert.equal("", failure(future.result, future))
  end)
end)

describe("the last future_release", function()
  it("of an unsettled future fails it", function()
    local future, handle = probe.future()
    handle:retain()
    assert.is_false(future:done())
    handle:release(true)
    failure_of_kind("Closed", future.result, future)
  end)

  it("of a settled future changes nothing", function()
    local future, handle = probe.future()
    handle:settle("kept", true)
    handle:release(true)
    assert.equal("kept", future:result())
  end)

  it("in the cancel function leaves it cancelled", function()
    local future = probe.future { cancel = true, settles = 2, verdict = 0 }
    assert.is_true(future:cancel "why")
    concur.sleep(0)
    assert.equal("cancelled", future:state())
    assert.equal("why", failure_of_kind("FutureCancelled", future.result, future).reason)
  end)
end)

describe("cancelling a future of C", function()
  it("settles it at once when it has no cancel function", function()
    local future, handle = probe.future()
    assert.is_true(future:cancel "enough")
    assert.equal("cancelled", future:state())
    assert.equal(1, handle:cancelled())
    assert.equal(0, handle:settle("late", true))
    assert.equal(1, probe.counts().dropped)
    assert.is_false(future:cancel())
  end)

  it("calls the cancel function once, and settles when that says so", function()
    local future = probe.future { cancel = true, verdict = 1 }
    assert.is_true(future:cancel())
    assert.equal("cancelled", future:state())
    future:cancel()
    assert.equal(1, probe.counts().cancelled)
  end)

  it("waits for the result when the cancel function says 'later'", function()
    local future, handle = probe.future { cancel = true, verdict = 0 }
    assert.is_true(future:cancel())
    assert.is_true(future:cancel())
    assert.equal(1, probe.counts().cancelled)
    assert.equal("pending", future:state())
    assert.equal(1, handle:cancelled())
    assert.equal(1, handle:settle("after all", true))
    assert.equal("after all", future:result())
  end)

  it("lets the cancel function settle it", function()
    local future = probe.future { cancel = true, settles = 1 }
    assert.is_true(future:cancel())
    local e = failure_of_kind("Closed", future.result, future)
    assert.equal("settled while cancelling", e.message)
  end)

  it("comes too late for a result that is on its way", function()
    local future, handle = probe.future { cancel = true }
    handle:settle("in time", true)
    assert.is_false(future:cancel())
    assert.equal("in time", future:result())
    assert.equal(0, probe.counts().cancelled)
  end)

  it("is what settle_cancelled reports", function()
    local future, handle = probe.future { cancel = true, verdict = 0 }
    future:cancel "because"
    assert.equal(1, handle:settle_cancelled(true))
    assert.equal("because", failure_of_kind("FutureCancelled", future.result, future).reason)
  end)

  it("can be asked for in C", function()
    local future = probe.future()
    assert.equal(1, probe.cancel(future))
    assert.equal(0, probe.cancel(future))
    assert.equal("cancelled", future:state())
    assert.matches("future or task expected", failure(probe.cancel, 1))
  end)
end)

describe("submit", function()
  it("runs the work on a thread and its results on the loop", function()
    local future = probe.submit { what = "done" }
    assert.equal("done", future:result())
    assert.same({ pushed = 1, dropped = 1, cancelled = 0, worked = 1, called = 0 },
      probe.counts())
  end)

  it("lets the loop go on meanwhile", function()
    concur.run(function()
      local future = running {}
      for _ = 1, 3 do
        concur.sleep(0.001)
      end
      assert.is_false(future:done())
      future:cancel()
      future:result()
    end)
  end)

  it("says that the job runs", function()
    local future = running {}
    assert.equal("running", future:state())
    future:cancel()
    future:result()
  end)

  it("lets the work settle the job itself", function()
    assert.equal("by work", probe.submit({ kind = "settle" }):result())
    local failed = probe.submit { kind = "fail" }
    failure_of_kind("OSError", failed.result, failed)
    local counts = probe.counts()
    assert.equal(2, counts.dropped)
    assert.equal(1, counts.pushed)
  end)

  it("needs no done function", function()
    assert.equal(0, select("#", probe.submit({ done = false }):result()))
  end)

  it("fails with what done raises", function()
    local future = probe.submit { what = "raise" }
    assert.matches("raised by done", failure(future.result, future))
    assert.equal(1, probe.counts().dropped)
  end)

  it("takes a pool", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    assert.equal("there", probe.submit({ what = "there", pool = pool }):result())
    assert.equal(1, pool:stats().completed)
  end)

  it("cancels a queued job, whose work never runs", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local first = running { pool = pool }
    local second = probe.submit { pool = pool }
    assert.is_true(second:cancel "not needed")
    assert.equal("cancelled", second:state())
    first:cancel()
    first:result()
    concur.sleep(0)
    local counts = probe.counts()
    assert.equal(1, counts.worked)
    assert.equal(2, counts.dropped)
  end)

  it("asks a running job to stop, and takes its result", function()
    local future = running { what = "partly" }
    assert.is_true(future:cancel())
    assert.equal("partly", future:result())
  end)

  it("calls the cancel function while the work runs, and only then", function()
    local future = running { interrupt = true }
    future:cancel()
    future:result()
    assert.equal(1, probe.counts().cancelled)
    local done = probe.submit { interrupt = true }
    done:result()
    assert.is_false(done:cancel())
    assert.equal(0, probe.counts().cancelled)
  end)

  it("lets interrupted work say that it was cancelled", function()
    local future = running { kind = "cancelled" }
    future:cancel "stop"
    assert.equal("stop", failure_of_kind("FutureCancelled", future.result, future).reason)
  end)

  it("refuses wrong options and drops the data", function()
    assert.matches("submit.*size", failure(probe.submit, { size = 1 }))
    assert.matches("ThreadPoolExecutor, not of string", failure(probe.submit, { pool = "none" }))
    assert.equal(2, probe.counts().dropped)
  end)

  it("refuses a pool that was shut down, and one that is full", function()
    local pool = concur.ThreadPoolExecutor(1)
    pool:shutdown()
    failure_of_kind("Closed", probe.submit, { pool = pool })
    local small <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
    local futures = { running { pool = small } }
    futures[2] = probe.submit { pool = small }
    failure_of_kind("WouldBlock", probe.submit, { pool = small })
    futures[1]:cancel()
    concur.gather(table.unpack(futures))
    assert.equal(4, probe.counts().dropped)
  end)

  it("is no problem for a pool that runs Lua functions too", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local futures = {}
    for i = 1, 50 do
      futures[i] = i % 2 == 0 and pool:submit(math.abs, -i) or probe.submit { pool = pool }
    end
    concur.gather(table.unpack(futures))
    assert.equal(50, futures[50]:result())
  end)
end)

describe("await and join", function()
  it("return the results of the future", function()
    assert.equal("x", probe.join(probe.submit { what = "x" }))
    assert.equal("x", probe.await(probe.submit { what = "x" }))
    concur.run(function()
      assert.equal("x", probe.join(probe.submit { what = "x" }))
      assert.equal("x", probe.await(probe.submit { what = "x" }))
      assert.equal("y", probe.await(concur.spawn(function()
        concur.sleep(0)
        return "y"
      end)))
    end)
  end)

  it("go on with a continuation", function()
    concur.run(function()
      local kept, value, context, yielded = probe.join_k(probe.submit { what = "x",
        seconds = 0.005 })
      assert.same({ "kept", "x", 42, true }, { kept, value, context, yielded })
    end)
    local _, value, context, yielded = probe.join_k(probe.submit { what = "x" })
    assert.same({ "x", 42, false }, { value, context, yielded })
  end)

  it("can be repeated in one C function", function()
    assert.same({ "first", "second" }, { probe.twice() })
    concur.run(function()
      assert.same({ "first", "second" }, { probe.twice() })
    end)
  end)

  it("work in a worker, and below a pcall", function()
    assert.same({ true, "first", "second" }, { pcall(concur.to_thread, function()
      return require("capi_probe").twice()
    end) })
    concur.run(function()
      assert.same({ true, "first", "second" }, { pcall(probe.twice) })
    end)
  end)

  it("work in a generator that concur.wrap made", function()
    concur.run(function()
      local values = {}
      for value in concur.wrap(function()
        for i = 1, 3 do
          coroutine.yield(probe.join(probe.submit { what = "item " .. i }))
        end
      end) do
        values[#values + 1] = value
      end
      assert.same({ "item 1", "item 2", "item 3" }, values)
    end)
  end)

  it("raise the error of the future", function()
    failure_of_kind("OSError", probe.join, (probe.submit { kind = "fail" }))
    failure_of_kind("OSError", probe.await, (probe.submit { kind = "fail" }))
    assert.matches("future or task expected", failure(probe.join, 1))
    assert.matches("awaitable expected", failure(probe.await, 1))
  end)

  it("say what to do where waiting is impossible; join stops what it owns there", function()
    concur.run(function()
      for name, expected in pairs { join = "cancelled", await = "pending" } do
        local future, handle = probe.future { cancel = true }
        local e = failure_of_kind("InvalidState", table.sort, { 1, 2, 3 }, function()
          probe[name](future)
        end)
        assert.matches("table.sort", e.message)
        assert.equal(expected, future:state())
        handle:settle "x"
        concur.wait { future }
      end
    end)
    local future = probe.future()
    setmetatable({}, { __gc = function()
      pcall(probe.join, future)
    end })
    collectgarbage()
    assert.equal("cancelled", future:state())
  end)

  it("show in awaiting and in Deadlock what is waited for", function()
    concur.run(function()
      local future, handle = probe.future()
      local task = concur.spawn(probe.join, future)
      concur.sleep(0)
      assert.equal("C module", (task:awaiting()))
      handle:settle "x"
      task:result()
    end)
  end)
end)

describe("a cancelled", function()
  it("await leaves the future alone", function()
    local future, handle = probe.future { cancel = true }
    assert.is_false((concur.move_on_after(0.002, probe.await, future)))
    assert.equal("pending", future:state())
    assert.equal(0, probe.counts().cancelled)
    handle:settle "still"
    assert.equal("still", future:result())
  end)

  it("join cancels the future", function()
    local future = probe.future { cancel = true }
    assert.is_false((concur.move_on_after(0.002, probe.join, future)))
    assert.equal("cancelled", future:state())
    assert.equal(1, probe.counts().cancelled)
  end)

  it("join waits for the end of a running job", function()
    local future = running { interrupt = true }
    assert.is_false((concur.move_on_after(0.01, probe.join, future)))
    assert.equal("done", future:state())
    local counts = probe.counts()
    assert.equal(1, counts.dropped)
    assert.equal(1, counts.cancelled)
  end)

  it("join in a task that was cancelled before cancels the future too", function()
    concur.run(function()
      local future
      concur.move_on_after(0, function()
        pcall(concur.sleep, 0)
        future = probe.future { cancel = true }
        probe.join(future)
      end)
      assert.equal("cancelled", future:state())
    end)
  end)

  it("join raises the error of a job that fails meanwhile", function()
    concur.run(function()
      local e = failure(concur.timeout, 0.01, probe.join, (running { kind = "fail" }))
      assert.is_true(errors.is(e, "OSError"))
    end)
  end)

  it("join ends by kill", function()
    concur.run(function()
      local future, handle = probe.future { cancel = true, verdict = 0 }
      local task = concur.spawn(probe.join, future)
      concur.sleep(0)
      assert.is_true(task:kill())
      assert.equal("cancelled", task:state())
      assert.equal(1, probe.counts().cancelled)
      handle:settle "later"
      assert.equal("later", future:result())
    end)
  end)
end)

describe("a C function that waits, cancelled at every point,", function()
  it("loses no data and leaves no job behind", function()
    everywhere(function(case)
      local submitted, dropped = 0, probe.counts().dropped * 0
      local function submit()
        submitted = submitted + 1
        return (probe.submit { what = "x" })
      end
      case:victim(function()
        probe.join(submit())
        local future, handle = probe.future { cancel = true }
        probe.post(probe.loop(), function()
          handle:settle "in time"
        end, true)
        probe.join(future)
        probe.await(submit())
        pcall(probe.join, submit())
        probe.join_k(submit())
      end)
      case:join()
      for _ = 1, 1000 do
        dropped = dropped + probe.counts().dropped
        if dropped >= submitted then
          break
        end
        concur.to_thread(type, nil)
      end
      -- A future that was settled after its cancellation drops what it was brought.
      assert.is_true(dropped - submitted == 0 or dropped - submitted == 1)
    end)
  end)
end)

describe("after a fork", function()
  it("the child's functions refuse", function()
    local result = support.run_lua([[
      local concur = require "concur"
      local probe = require "capi_probe"
      local function refused(fn, ...)
        local ok, e = pcall(fn, ...)
        assert(not ok and tostring(e):find("forked", 1, true), tostring(e))
      end
      local future, handle = probe.future()
      probe.join(probe.submit {})
      if testhost.fork() == 0 then
        refused(probe.future)
        refused(probe.submit, {})
        refused(probe.join, future)
        refused(probe.await, future)
        refused(probe.loop)
        refused(probe.hold)
        refused(probe.timer, print)
        refused(probe.fd_ready, 0, 1)
        local status, e = probe.step(0)
        assert(status ~= 0 and tostring(e):find("forked", 1, true))
        assert(probe.host() == -1)
        os.exit(7, true)
      end
      assert(testhost.wait() == 7)
      concur.run(function()
        if testhost.fork() == 0 then
          refused(probe.join, future)
          refused(probe.await, future)
          os.exit(7, true)
        end
        assert(testhost.wait() == 7)
      end)
      handle:settle "parent goes on"
      print(future:result())
    ]], { lua = support.host, env = { ASAN_OPTIONS = "detect_leaks=0" } })
    assert.equal("parent goes on\n", result.stdout, support.describe(result))
  end)
end)

describe("post", function()
  it("calls a function on the loop's thread, in order, from any thread", function()
    local loop, log = probe.loop(), {}
    for i = 1, 5 do
      assert.equal(1, probe.post(loop, function()
        log[#log + 1] = i
      end, i % 2 == 0))
    end
    concur.sleep(0)
    assert.same({ 1, 2, 3, 4, 5 }, log)
    assert.equal(0, probe.counts().dropped)
  end)

  it("wakes a loop that sleeps", function()
    local loop = probe.loop()
    concur.run(function()
      local event = concur.Event()
      concur.spawn(function()
        probe.hold()
        concur.to_thread(function() end)
        probe.post(loop, function()
          event:set()
          probe.unhold()
        end, true)
      end)
      event:wait()
    end)
  end)

  it("hands an error to on_error, and drops the data", function()
    local seen
    local runner = concur.Runner { on_error = function(e)
      seen = e
    end }
    runner:run(function()
      probe.post(probe.loop(), function()
        error "in a post"
      end)
      concur.sleep(0.005)
    end)
    runner:close()
    assert.matches("in a post", tostring(seen))
    assert.equal(1, probe.counts().dropped)
  end)

  it("to a loop that has closed returns 0 and drops", function()
    local loop = probe.loop()
    concur.get_event_loop():close()
    assert.equal(0, probe.post(loop, print, true))
    assert.equal(1, probe.counts().dropped)
  end)
end)

describe("hold and unhold", function()
  it("keep a driver waiting", function()
    local loop = probe.loop()
    local event = concur.Event()
    probe.hold()
    probe.hold()
    concur.to_thread(function() end) -- a thread is there now
    local timer = probe.timer(function()
      probe.post(loop, function()
        event:set()
      end, true)
    end, WEAK)
    timer:set(0.01)
    event:wait()
    probe.unhold()
    probe.unhold()
    timer:free()
    failure_of_kind("Deadlock", concur.Event().wait, concur.Event())
  end)

  it("must be balanced", function()
    failure_of_kind("InvalidState", probe.unhold)
  end)

  it("are forgotten with the loop", function()
    probe.hold()
    concur.get_event_loop():close()
    failure_of_kind("InvalidState", probe.unhold)
  end)
end)

describe("a timer of C", function()
  it("fires once, on the loop's clock", function()
    virtual.run(function()
      local fired = {}
      local timer = probe.timer(function()
        fired[#fired + 1] = probe.now()
      end)
      local start = probe.now()
      assert.equal(1, timer:set(5))
      concur.sleep(20)
      timer:free()
      assert.same({ start + 5 }, fired)
    end)
  end)

  it("can be set again, stopped, and repeated from within", function()
    virtual.run(function()
      local count, timer = 0, nil
      timer = probe.timer(function()
        count = count + 1
        if count < 3 then
          timer:set(1)
        end
      end)
      timer:set(100)
      timer:set(1)
      concur.sleep(10)
      assert.equal(3, count)
      timer:set(1)
      timer:stop()
      timer:stop()
      concur.sleep(10)
      assert.equal(3, count)
      timer:free()
    end)
  end)

  it("can be freed from within", function()
    virtual.run(function()
      local timer
      timer = probe.timer(function()
        timer:free()
      end)
      timer:set(0)
      concur.sleep(1)
      assert.equal(1, probe.counts().called)
    end)
  end)

  it("keeps a driver waiting, unless it is weak", function()
    local event = concur.Event()
    local timer = probe.timer(function()
      event:set()
    end)
    timer:set(0.002)
    event:wait()
    timer:free()
    local weak = probe.timer(print, WEAK)
    weak:set(1000)
    failure_of_kind("Deadlock", concur.Event().wait, concur.Event())
    weak:stop()
    weak:set(math.huge)
    weak:free()
  end)

  it("survives its loop, at rest", function()
    local timer = probe.timer(print)
    timer:set(100)
    concur.get_event_loop():close()
    assert.equal(0, timer:set(1))
    timer:stop()
    timer:free()
  end)

  it("hands an error to on_error", function()
    local seen
    local runner = concur.Runner { on_error = function(e)
      seen = e
    end }
    runner:run(function()
      local timer = probe.timer(function()
        error "in a timer"
      end)
      timer:set(0)
      concur.sleep(0.005)
      timer:free()
    end)
    runner:close()
    assert.matches("in a timer", tostring(seen))
  end)
end)

describe("errors of C", function()
  it("are error objects of concur", function()
    local e = probe.push_error("LimitOverrun", "too long")
    assert.is_true(errors.is(e, "LimitOverrun"))
    assert.equal("too long", e.message)
    e = probe.push_os_error(2, "open", "/no/such")
    assert.is_true(errors.is(e, "OSError"))
    assert.same({ "ENOENT", 2, "open", "/no/such" }, { e.code, e.errno, e.call, e.path })
    assert.equal("ENOENT", probe.push_os_error(2, "open").code)
  end)
end)

describe("fd_ready", function()
  local function with_pipe(fn)
    local reading, writing, pipe = probe.pipe()
    local _ <close> = pipe
    fn(reading, writing)
  end

  it("is done when there is something to read, or room to write", function()
    with_pipe(function(reading, writing)
      assert.equal(WRITABLE, probe.join(probe.fd_ready(writing, READABLE | WRITABLE)))
      concur.run(function()
        local future = probe.fd_ready(reading, READABLE)
        concur.spawn(function()
          concur.sleep(0.002)
          assert.equal("pending", future:state())
          probe.write(writing)
        end)
        assert.equal(READABLE, probe.join(future))
      end)
    end)
  end)

  it("may be asked for one descriptor several times", function()
    with_pipe(function(reading, writing)
      local futures = {}
      for i = 1, 3 do
        futures[i] = probe.fd_ready(reading, READABLE)
      end
      probe.write(writing)
      assert.same({ READABLE, READABLE, READABLE }, { concur.gather(table.unpack(futures)) })
    end)
  end)

  it("is cancelled with its wait", function()
    with_pipe(function(reading)
      local future = probe.fd_ready(reading, READABLE)
      assert.is_false((concur.move_on_after(0.002, probe.join, future)))
      assert.equal("cancelled", future:state())
      future = probe.fd_ready(reading, READABLE)
      assert.is_true(future:cancel "enough")
      assert.equal("enough", failure_of_kind("FutureCancelled", future.result, future).reason)
    end)
  end)

  it("is forgotten with its loop", function()
    with_pipe(function(reading)
      local future = probe.fd_ready(reading, READABLE)
      concur.get_event_loop():close()
      assert.equal("cancelled", future:state())
    end)
  end)

  it("finds a regular file ready at once", function()
    local file <close> = assert(io.open("README.md"))
    local fd
    for name in require("lfs").dir "/proc/self/fd" do
      local link = tonumber(name)
        and io.popen(("readlink /proc/%d/fd/%s"):format(support.pid(), name))
      if link then
        fd = link:read "a" == support.root .. "/README.md\n" and tonumber(name) or fd
        link:close()
      end
    end
    assert.is_true(fd ~= nil and io.type(file) == "file")
    assert.equal(READABLE, probe.join(probe.fd_ready(fd, READABLE)))
  end)

  it("refuses wrong events and descriptors", function()
    assert.matches("events", failure(probe.fd_ready, 0, 0))
    assert.matches("events", failure(probe.fd_ready, 0, 4))
    assert.equal("EBADF", failure_of_kind("OSError", probe.fd_ready, -1, READABLE).code)
    assert.equal("EBADF", failure_of_kind("OSError", probe.fd_ready, 9999, READABLE).code)
  end)
end)

describe("a host", function()
  it("steps the loop and asks it", function()
    local log = {}
    concur.spawn(function()
      log[#log + 1] = "first"
      concur.sleep(0.01)
      log[#log + 1] = "second"
    end)
    local fd, timeout, alive, _ = probe.host()
    assert.is_true(fd >= 0)
    assert.same({ 0.0, 1 }, { timeout, alive })
    assert.equal(0, probe.step(0))
    assert.same({ "first" }, log)
    _, timeout, alive = probe.host()
    assert.is_true(timeout >= 0 and timeout <= 0.01)
    assert.equal(1, alive)
    while #log < 2 do
      assert.equal(0, probe.step(1))
    end
    _, timeout, alive = probe.host()
    assert.same({ -1.0, 0 }, { timeout, alive })
  end)

  it("gets an error, not a jump, when the loop runs already", function()
    concur.run(function()
      local status, e = probe.step(0)
      assert.equal(2, status)
      assert.is_true(errors.is(e, "InvalidState"))
    end)
    local status, e = probe.step(0 / 0)
    assert.equal(2, status)
    assert.matches("NaN", e)
  end)
end)

describe("a state that closes", function()
  it("drops what is on its way, asks what is pending, and lets go", function()
    child("", [[
      local future, handle = probe.future { cancel = true }
      local settled, second = probe.future()
      second:settle("on its way", true)
      probe.submit { seconds = 0.1 }
      probe.submit { seconds = 10, stoppable = true }
      local timer = probe.timer(print)
      timer:set(100)
      probe.hold()
      concur.spawn(probe.join, future)
      concur.sleep(0)
      probe.post(probe.loop(), print, true)
      keep = { future, handle, second, timer }
    ]], { timeout = 10 })
  end)

  it("through EventLoop:close settles what is pending as cancelled", function()
    local future, handle = probe.future { cancel = true, verdict = 0 }
    concur.get_event_loop():close()
    assert.equal("cancelled", future:state())
    assert.equal(1, handle:cancelled())
    assert.equal(0, handle:settle("late", true))
    local counts = probe.counts()
    assert.equal(1, counts.cancelled)
    assert.equal(1, counts.dropped)
  end)

  it("inside callbacks of C", function()
    for _, where in ipairs {
      "probe.post(probe.loop(), function() os.exit(0, true) end)",
      "local t = probe.timer(function() os.exit(0, true) end) t:set(0)",
      "concur.spawn(function() probe.join(probe.submit {}) os.exit(0, true) end)",
    } do
      child("", where .. [[
        local _, pending = probe.future { cancel = true }
        probe.submit { seconds = 10, stoppable = true }
        concur.sleep(5)
      ]], { timeout = 10 })
    end
  end)

  it("refuses EventLoop:close inside a callback of C", function()
    local e
    probe.post(probe.loop(), function()
      e = failure(concur.get_event_loop().close, concur.get_event_loop())
    end)
    concur.sleep(0)
    assert.is_true(errors.is(e, "InvalidState"))
  end)
end)
