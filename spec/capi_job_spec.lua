-- SPDX-License-Identifier: MIT
-- The C API: jobs in C, and C functions that wait (spec/capi/capi_probe.c).

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local probe = require "capi_probe"
local virtual = require "spec.support.virtual"

local errors = concur.errors
local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

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
