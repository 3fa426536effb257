-- SPDX-License-Identifier: MIT
-- The C API: posts, timers, descriptors, and hosts with a loop of their own (spec/capi/capi_probe.c).

local concur = require "concur"
local probe = require "capi_probe"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local errors = concur.errors
local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

local WEAK = 1
local READABLE, WRITABLE = 1, 2

before_each(function()
  probe.counts()
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
