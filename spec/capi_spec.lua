-- SPDX-License-Identifier: MIT
-- The C API of include/concur.h: futures that C settles, errors, forks, closing. The functions reach
-- Lua through spec/capi/capi_probe.c.

local concur = require "concur"
local probe = require "capi_probe"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local errors = concur.errors
local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

local WEAK = 1

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

describe("the table of the C API", function()
  it("has the version and the size that the header says", function()
    local version, size, header_size, has_last = probe.info()
    assert.equal(1, version)
    assert.equal(header_size, size)
    assert.is_true(has_last)
  end)
end)

describe("a Lua state without concur", function()
  it("gets errors that say so, and data is dropped", function()
    local future, submit, step, fd, timeout, alive = probe.foreign()
    assert.matches("^future_new of concur.h: concur is not loaded", future)
    assert.matches("^submit of concur.h: concur is not loaded", submit)
    assert.matches("^step of concur.h: concur is not loaded", step)
    assert.same({ -1, -1.0, 0 }, { fd, timeout, alive })
    assert.equal(1, probe.counts().dropped)
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
