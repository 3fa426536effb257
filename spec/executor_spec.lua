-- SPDX-License-Identifier: MIT
-- Thread pools: jobs, their futures, errors, cancellation, shutting down.

local concur = require "concur"
local errors = require "concur.errors"
local support = require "spec.support"

local SHORT = 0.05 * support.time_scale

local function seconds_of(fn)
  local began = concur.now()
  fn()
  return concur.now() - began
end

-- The error that fn raises.
local function raised(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok, "an error was expected")
  return e
end

describe("ThreadPoolExecutor", function()
  it("starts no thread before the first job", function()
    local threads = support.threads()
    local pool <close> = concur.ThreadPoolExecutor(2)
    assert.equal(threads, support.threads())
    pool:submit(function() end):result()
    assert.equal(threads + 1, support.threads())
  end)

  it("runs a job and returns all its results", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local future = pool:submit(function(a, b)
      return a + b, nil, "x", nil
    end, 1, 2)
    assert.same({ n = 4, 3, nil, "x", nil }, table.pack(future:result()))
    assert.equal("done", future:state())
  end)

  it("runs jobs at the same time, as many as it has workers", function()
    local pool <close> = concur.ThreadPoolExecutor(4)
    local took = seconds_of(function()
      local futures = {}
      for i = 1, 4 do
        futures[i] = pool:submit(os.execute, "sleep 0.3")
      end
      for i = 1, 4 do
        assert.is_true((futures[i]:result()))
      end
    end)
    assert.is_true(took < 0.9 * support.time_scale, took)
    assert.equal(4, pool:stats().threads)
  end)

  it("does not run more jobs at the same time than it has workers", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local took = seconds_of(function()
      for _ in pool:map(function()
        require("concur").sleep(0.1)
      end, { 1, 2, 3, 4 }) do
      end
    end)
    assert.is_true(took >= 0.2, took)
  end)

  it("takes functions, C functions and names", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local factor = 3
    local function times(x)
      return x * factor
    end
    assert.equal(21, pool:submit(times, 7):result())
    assert.equal(9, pool:submit(math.max, 1, 9, 4):result())
    assert.equal("ababab", pool:submit("string.rep", "ab", 3):result())
    assert.equal("number", pool:submit("type", 3):result())
  end)

  it("calls a recursive local function and one that uses a loaded module", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local format = string.format
    local e = errors
    local function fib(n)
      return n < 2 and n or fib(n - 1) + fib(n - 2)
    end
    local function text(n)
      return format("%d", fib(n)), e.is(nil, "Closed")
    end
    assert.same({ "55", false }, { pool:submit(text, 10):result() })
  end)

  it("names a function that is not there on the future", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(function()
      pool:submit("string.nothing"):result()
    end)
    assert.truthy(tostring(e):find("module 'string' has no function 'nothing'", 1, true))
    e = raised(function()
      pool:submit("no_such_module.f"):result()
    end)
    assert.truthy(tostring(e):find("module 'no_such_module' not found", 1, true))
    e = raised(function()
      pool:submit "no_such_global":result()
    end)
    assert.truthy(tostring(e):find("no global function 'no_such_global'", 1, true))
  end)

  it("refuses at submit what cannot cross, and names where it is", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local cfg = { socket = io.stdout }
    local e = raised(pool.submit, pool, function()
      return cfg
    end)
    assert.is_true(errors.is(e, "TransferError"))
    assert.truthy(e.message:find("upvalue 'cfg'.socket", 1, true), e.message)
    e = raised(pool.submit, pool, print, coroutine.create(print))
    assert.truthy(e.message:find("argument 2", 1, true), e.message)
    assert.equal(0, pool:stats().submitted)
    assert.equal(1, pool:submit(math.abs, -1):result())
  end)

  it("refuses results that cannot cross", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(function()
      pool
        :submit(function()
          return 1, { out = io.stdout }
        end)
        :result()
    end)
    assert.is_true(errors.is(e, "TransferError"))
    assert.truthy(e.message:find("result 2", 1, true), e.message)
  end)

  it("works outside any loop and inside one", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local loop = concur.get_event_loop()
    assert.equal(1, pool:submit(math.abs, -1):result())
    concur.run(function()
      local a, b = concur.gather(
        pool:submit(math.abs, -2),
        loop:run_in_executor(pool, math.abs, -3)
      )
      assert.same({ 2, 3 }, { a, b })
    end)
    assert.equal(4, loop:run_until_complete(loop:run_in_executor(nil, math.abs, -4)))
  end)

  it("gives futures that as_completed and wait take, outside any loop", function()
    local pool <close> = concur.ThreadPoolExecutor(3)
    local names, futures = {}, {}
    for i, delay in ipairs { 0.3, 0.02, 0.15 } do
      futures[i] = pool:submit(function(d)
        require("concur").sleep(d)
        return d
      end, delay * support.time_scale)
    end
    for future in concur.as_completed(futures) do
      names[#names + 1] = future:result() / support.time_scale
    end
    assert.same({ 0.02, 0.15, 0.3 }, names)
  end)

  it("lets getters see completions without a loop", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local future = pool:submit(function()
      return 5
    end)
    local began = os.time()
    while not future:done() and os.time() - began < 10 do
    end
    assert.is_true(future:done())
    assert.equal("done", future:state())
    assert.equal(5, future:result())
  end)

  it("shows a job that runs as running", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local running = pool:submit(os.execute, "sleep 0.2")
    local queued = pool:submit(math.abs, -1)
    while running:state() == "pending" do
      concur.sleep(0.001)
    end
    assert.equal("running", running:state())
    assert.equal("pending", queued:state())
    queued:result()
  end)

  it("checks its arguments", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function message(...)
      return tostring(raised(...))
    end
    local text = message(concur.ThreadPoolExecutor, 0)
    assert.truthy(text:find "'workers' must be an integer of at least 1")
    assert.truthy(message(concur.ThreadPoolExecutor, "x"):find "number expected")
    text = message(concur.ThreadPoolExecutor, { wrokers = 1 })
    assert.truthy(text:find "unknown option 'wrokers'")
    assert.truthy(message(concur.ThreadPoolExecutor, { idle = 0 / 0 }):find "'idle'")
    assert.truthy(message(concur.ThreadPoolExecutor, { init = 5 }):find "'init' must be a function")
    assert.truthy(message(pool.submit, pool):find "function, or a string")
    assert.truthy(message(pool.submit, pool, {}):find "function, or a string")
    assert.truthy(message(pool.submit, {}, print):find "ThreadPoolExecutor")
    assert.truthy(message(concur.to_thread, 5):find "function, or a string")
    assert.truthy(message(pool.options, pool, { names = "x" }):find "unknown option 'names'")
    assert.truthy(message(pool.options, pool, { retry = -1 }):find "'retry'")
    assert.truthy(message(pool.shutdown, pool, { wiat = true }):find "unknown option 'wiat'")
    assert.truthy(message(pool.shutdown):find "#1 to 'shutdown' %(pool expected, got nil")
    assert.truthy(message(pool.close):find "#1 to 'close' %(pool expected, got nil")
    for _, call in ipairs { "map(print)", "map(print, {}, { a = 1 })", "shutdown { a = 1 }" } do
      local program = assert(load("local pool = ...\nlocal _ = pool:" .. call, "=script"))
      assert.equal(1, message(program, pool):find "script:2: bad argument") -- the user's line
    end
  end)

  it("shows its state in tostring and stats", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1, name = "readers" }
    assert.truthy(tostring(pool):find "readers %(0 threads")
    for _ = 1, 3 do
      pool:submit(math.abs, 1):result()
    end
    local stats = pool:stats()
    assert.same({ 1, 3, 3, 0, 0 }, {
      stats.threads,
      stats.submitted,
      stats.completed,
      stats.queued,
      stats.cancelled,
    })
    pool:shutdown()
    assert.truthy(tostring(pool):find "shut down")
    assert.equal(0, pool:stats().threads)
  end)
end)

describe("errors of jobs", function()
  it("arrive as RemoteError with both tracebacks", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function fails()
      error "boom"
    end
    local future = pool:submit(fails)
    local e
    concur.run(function()
      local ok
      ok, e = xpcall(future.result, require("concur.core").traceback_handler, future)
      assert.is_false(ok)
    end)
    assert.is_true(errors.is(e, "RemoteError"))
    assert.truthy(e.message:find "^.-executor_spec.lua:%d+: boom$")
    assert.equal(e.message, e.value)
    assert.truthy(e.remote_traceback:find "executor_spec.lua:%d+: in ")
    assert.is_string(e.traceback)
    assert.equal("failed", future:state())
  end)

  it("keep their value", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(function()
      pool
        :submit(function()
          error { code = 7, list = { 1, 2 } }
        end)
        :result()
    end)
    assert.is_true(errors.is(e, "RemoteError"))
    assert.same({ code = 7, list = { 1, 2 } }, e.value)
    e = raised(function()
      pool
        :submit(function()
          error(nil)
        end)
        :result()
    end)
    assert.is_true(errors.is(e, "RemoteError"))
    assert.is_nil(e.value)
  end)

  it("come as text when the value cannot cross", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(function()
      pool
        :submit(function()
          error(setmetatable({ out = io.stdout }, {
            __tostring = function()
              return "pretty"
            end,
          }))
        end)
        :result()
    end)
    assert.is_true(errors.is(e, "RemoteError"))
    assert.equal("pretty", e.message)
    assert.is_nil(e.value)
  end)

  it("of the library keep their kind", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(function()
      pool
        :submit(function()
          local c = require "concur"
          c.timeout(0.01, c.sleep, 10)
        end)
        :result()
    end)
    assert.is_true(errors.is(e, "TimeoutError"))
    assert.truthy(e.remote_traceback:find "executor_spec.lua")
  end)

  it("have both tracebacks at top level, too", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function fails()
      error "boom"
    end
    local function times_out()
      local c = require "concur"
      c.timeout(0, c.sleep, 10)
    end
    for _, fn in ipairs { fails, times_out } do
      local future = pool:submit(fn)
      local e = raised(function()
        future:result()
      end)
      assert.matches("executor_spec.lua:%d+: in upvalue", e.remote_traceback .. e.traceback)
      assert.matches("in method 'result'", e.traceback)
      assert.not_matches("in method 'result'", e.remote_traceback)
      local first = e.traceback
      assert.equal(e, raised(future.result, future))
      assert.equal(first, e.traceback)
    end
  end)

  it("are reported when nobody retrieves them", function()
    local result = support.run_lua [[
      local concur = require "concur"
      concur.run(function()
        local pool = concur.ThreadPoolExecutor(1)
        pool:options { name = "lonely" }:submit(function() error "never seen" end)
        concur.to_thread(function() end)
        pool:shutdown()
      end)
    ]]
    assert.equal(0, result.code, support.describe(result))
    assert.truthy(result.stderr:find("never seen", 1, true), support.describe(result))
  end)

  it("do not disturb the worker", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    for _ = 1, 50 do
      assert.is_false((pcall(function()
        pool:submit(error, { 1 }):result()
      end)))
    end
    assert.equal(1, pool:submit(math.abs, -1):result())
    assert.equal(1, pool:stats().threads_started)
  end)
end)

describe("to_thread", function()
  it("lets the loop go on", function()
    concur.run(function()
      local ticks = 0
      local ticker = concur.spawn(function()
        while true do
          concur.sleep(0.01)
          ticks = ticks + 1
        end
      end)
      concur.to_thread(os.execute, "sleep 0.2")
      assert.is_true(ticks >= 5, ticks)
      ticker:cancel()
    end)
  end)

  it("raises the job's error in the task", function()
    concur.run(function()
      local e = raised(concur.to_thread, error, "plain")
      assert.equal("plain", e.message)
    end)
  end)

  it("cancelled, asks the job to stop and waits for its end", function()
    concur.run(function()
      local ok = concur.move_on_after(SHORT, concur.to_thread, function()
        local c = require "concur"
        while not c.cancelled() do
        end
        return "stopped"
      end)
      assert.is_false(ok)
    end)
  end)

  it("cancelled, ends a wait inside the job", function()
    concur.run(function()
      local took = seconds_of(function()
        local e = raised(concur.timeout, SHORT, concur.to_thread, "concur.sleep", 30)
        assert.is_true(errors.is(e, "TimeoutError"))
      end)
      assert.is_true(took < 5 * support.time_scale, took)
    end)
  end)

  it("cancelled, lets the job's own error win", function()
    concur.run(function()
      local e = raised(concur.timeout, SHORT, concur.to_thread, function()
        local c = require "concur"
        while not c.cancelled() do
        end
        error "clean-up failed"
      end)
      assert.is_true(errors.is(e, "RemoteError"))
      assert.truthy(e.message:find "clean%-up failed")
    end)
  end)

  it("in a cancelled scope submits nothing", function()
    concur.run(function()
      local before = concur.default_executor():stats().submitted
      concur.cancel_scope(function(scope)
        scope:cancel()
        concur.to_thread(math.abs, -1)
      end)
      assert.equal(before, concur.default_executor():stats().submitted)
    end)
  end)

  it("gets a new default pool when the old one was shut down", function()
    assert.equal(1, concur.to_thread(math.abs, -1))
    concur.default_executor():shutdown()
    assert.equal(2, concur.to_thread(math.abs, -2))
    local pool = concur.ThreadPoolExecutor(1)
    assert.equal(pool, concur.default_executor(pool))
    pool:shutdown()
    assert.equal(3, concur.to_thread(math.abs, -3))
    assert.not_equal(pool, concur.default_executor())
  end)

  it("goes on with the default pool when that is made the default again", function()
    local pool = concur.ThreadPoolExecutor(1)
    concur.default_executor(pool)
    assert.equal(pool, concur.default_executor(pool))
    assert.equal(4, concur.to_thread(math.abs, -4))
    assert.equal(1, pool:stats().submitted)
    pool:shutdown()
  end)

  it("in a worker gets a new default pool, too, when the old one was shut down", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local default, begun, go = concur.default_executor(), concur.Channel(0), concur.Channel(0)
    local job = pool:submit(function(b, g)
      local c = require "concur"
      local before = c.to_thread(math.abs, -1)
      b:send(true)
      g:recv()
      return before, c.to_thread(math.abs, -2), c.default_executor():stats().submitted
    end, begun, go)
    begun:recv()
    default:shutdown()
    go:send(true)
    assert.same({ 1, 2, 1 }, { job:result() })
  end)

  it("works at top level, with a timeout around it", function()
    assert.equal(3, concur.to_thread(math.abs, -3))
    local e = raised(concur.timeout, SHORT, concur.to_thread, "concur.sleep", 30)
    assert.is_true(errors.is(e, "TimeoutError"))
  end)
end)

describe("cancelling a job", function()
  it("that is queued keeps it from running", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local blocker = pool:submit(os.execute, "sleep 0.1")
    local path = support.tmpdir() .. "/ran"
    local queued = pool:submit(function(name)
      io.open(name, "w"):close()
    end, path)
    assert.is_true(queued:cancel "no longer needed")
    assert.equal("cancelled", queued:state())
    assert.is_false(queued:cancel())
    local e = raised(queued.result, queued)
    assert.is_true(errors.is(e, "FutureCancelled"))
    assert.equal("no longer needed", e.reason)
    blocker:result()
    pool:shutdown()
    assert.is_nil(io.open(path))
    assert.equal(1, pool:stats().cancelled)
  end)

  it("that is gathered in this turn keeps it from running", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    concur.run(function()
      local futures = {}
      for i = 1, 10 do
        futures[i] = pool:submit(math.abs, -i)
      end
      for i = 2, 10 do
        assert.is_true(futures[i]:cancel())
      end
      pcall(futures[1].result, futures[1])
    end)
    pool:shutdown()
    assert.is_true(pool:stats().completed <= 2)
  end)

  it("that runs sets its token, and keeps a result that it returns", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local future = pool:submit(function()
      local c = require "concur"
      while not c.cancelled() do
      end
      return "anyway"
    end)
    while future:state() ~= "running" do
      concur.sleep(0.001)
    end
    assert.is_true(future:cancel())
    assert.equal("anyway", future:result())
    assert.equal("done", future:state())
  end)

  it("that waits ends the wait, runs its clean-up and is cancelled", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local path = support.tmpdir() .. "/cleaned"
    local future = pool:submit(function(name)
      local c = require "concur"
      local _ <close> = setmetatable({}, {
        __close = function()
          io.open(name, "w"):close()
        end,
      })
      c.sleep(30)
    end, path)
    while future:state() ~= "running" do
      concur.sleep(0.001)
    end
    concur.sleep(SHORT)
    future:cancel "enough"
    local e = raised(future.result, future)
    assert.is_true(errors.is(e, "FutureCancelled"))
    assert.equal("enough", e.reason)
    assert.is_truthy(io.open(path))
  end)

  it("before its first wait is seen by that wait", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local future = pool:submit(function()
      local c = require "concur"
      while not c.cancelled() do
      end
      c.sleep(30)
    end)
    while future:state() ~= "running" do
      concur.sleep(0.001)
    end
    future:cancel()
    assert.is_true(errors.is(raised(future.result, future), "FutureCancelled"))
  end)

  it("does not reach the next job of the worker", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    for _ = 1, 20 do
      local future = pool:submit("concur.sleep", 30)
      while future:state() ~= "running" do
        concur.sleep(0.001)
      end
      future:cancel()
      assert.is_false((pcall(future.result, future)))
      assert.equal("fine", pool
        :submit(function()
          local c = require "concur"
          c.sleep(0)
          return c.cancelled() and "cancelled" or "fine"
        end)
        :result())
    end
  end)

  it("leaves the future of a waiter alone", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local future = pool:submit(function()
      require("concur").sleep(0.1)
      return 1
    end)
    concur.run(function()
      assert.is_false((concur.move_on_after(0.01, future.result, future)))
      assert.equal(1, future:result())
    end)
  end)
end)

describe("killing a task", function()
  it("that waits for its job asks the job to stop", function()
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local begun, stopped = concur.Channel(1), concur.Channel(1)
      local task = concur.spawn(pool.run, pool, function(b, s)
        b:send(true)
        while not require("concur").cancelled() do end -- luacheck: ignore
        s:try_send "stopped"
      end, begun, stopped)
      begun:recv()
      assert.is_true(task:kill())
      assert.equal("stopped", (stopped:recv()))
      assert.equal("cancelled", task:state())
    end)
  end)

  it("that waits for room in a queue submits nothing, and the next task does", function()
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
      local begun, go = concur.Channel(1), concur.Channel(1)
      pool:submit(function(b, g)
        b:send(true)
        repeat until g:try_recv() -- in recv it would make room for another job
      end, begun, go)
      begun:recv()
      pool:submit("math.abs", -1)
      local killed = concur.spawn(pool.run, pool, "math.abs", -2)
      local other = concur.spawn(pool.run, pool, "math.abs", -3)
      concur.sleep(0)
      assert.is_true(killed:kill())
      go:send(true)
      assert.equal(3, other:result())
      assert.equal(3, pool:stats().submitted)
    end)
  end)

  it("that waits for the pool's end leaves the pool ending", function()
    concur.run(function()
      local pool = concur.ThreadPoolExecutor(1)
      local go = concur.Channel(0)
      local job = pool:submit(function(g) return (g:recv()) end, go)
      local task = concur.spawn(pool.shutdown, pool)
      concur.sleep(0)
      assert.is_true(task:kill())
      go:send "done"
      assert.equal("done", job:result())
      pool:shutdown()
      assert.equal(0, pool:stats().threads)
    end)
  end)
end)

describe("shutting down", function()
  it("is closed by close() as by leaving its block, more than once", function()
    local pool = concur.ThreadPoolExecutor(1)
    local future = pool:submit("concur.sleep", SHORT, "slept")
    pool:close()
    assert.equal("done", future:state())
    assert.is_true(errors.is(raised(pool.submit, pool, print), "Closed"))
    pool:close()
  end)

  it("does the jobs that were accepted", function()
    local pool = concur.ThreadPoolExecutor(2)
    local futures = {}
    for i = 1, 20 do
      futures[i] = pool:submit(math.abs, -i)
    end
    assert.is_true(pool:shutdown())
    for i = 1, 20 do
      assert.equal("done", futures[i]:state())
      assert.equal(i, futures[i]:result())
    end
    assert.is_true(pool:shutdown())
  end)

  it("refuses jobs afterwards", function()
    local pool = concur.ThreadPoolExecutor(1)
    pool:shutdown()
    local e = raised(pool.submit, pool, math.abs, 1)
    assert.is_true(errors.is(e, "Closed"))
    assert.truthy(e.message:find "was shut down")
  end)

  it("cancels pending jobs on request", function()
    local pool = concur.ThreadPoolExecutor(1)
    local running = pool:submit(os.execute, "sleep 0.1")
    while running:state() ~= "running" do
      concur.sleep(0.001)
    end
    local queued = pool:submit(math.abs, -1)
    pool:shutdown { cancel_pending = true }
    assert.equal("done", running:state())
    assert.equal("cancelled", queued:state())
  end)

  it("does not wait with wait = false", function()
    local pool = concur.ThreadPoolExecutor(1)
    local future = pool:submit(os.execute, "sleep 0.2")
    local took = seconds_of(function()
      pool:shutdown { wait = false }
    end)
    assert.is_true(took < 0.1 * support.time_scale, took)
    assert.is_true((future:result()))
    pool:shutdown()
  end)

  it("lets other tasks go on", function()
    concur.run(function()
      local pool = concur.ThreadPoolExecutor(1)
      pool:submit(os.execute, "sleep 0.1")
      local ticks = 0
      local ticker = concur.spawn(function()
        while true do
          concur.sleep(0.01)
          ticks = ticks + 1
        end
      end)
      pool:shutdown()
      assert.is_true(ticks >= 3, ticks)
      ticker:cancel()
    end)
  end)

  it("stops waiting jobs after the grace time", function()
    local pool = concur.ThreadPoolExecutor(1)
    local future = pool:submit("concur.sleep", 30)
    local took = seconds_of(function()
      assert.is_true(pool:shutdown { grace = 0.05 })
    end)
    assert.is_true(took < 3 * support.time_scale, took)
    assert.equal("cancelled", future:state())
  end)

  it("names jobs that are stuck in C and leaves them behind", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local pool = concur.ThreadPoolExecutor { workers = 1, name = "stuck pool" }
      local began = concur.Channel(1)
      local future = pool:options { name = "sleeper" }:submit(function(ch)
        local function fall_asleep()
          ch:send(true)
          os.execute "sleep 20"
          return "late" -- no tail call
        end
        return (fall_asleep())
      end, began)
      began:recv()
      concur.sleep(0.01)
      local ended, err = pool:shutdown { grace = 0.05 }
      print(ended, err.kind, err.message)
      print(future:state())
    ]]
    assert.equal(0, result.code, support.describe(result))
    local expected = "nil\tTimeoutError\tstuck pool: 1 job .*job 'sleeper'"
    assert.truthy(result.stdout:find(expected), support.describe(result))
    if require("concur.core").interrupts == "signal" then
      assert.truthy(result.stdout:find "stack traceback:\n\t%[C%]: in 'execute'")
      assert.truthy(result.stdout:find "script.lua:7: in 'fall_asleep'")
      assert.truthy(result.stdout:find "script.lua:10: in function <")
    end
    assert.truthy(result.stdout:find "cancelled")
  end)

  it("by __close waits for the jobs at the end of a block", function()
    local future
    do
      local pool <close> = concur.ThreadPoolExecutor(1)
      future = pool:submit(os.execute, "sleep 0.1")
    end
    assert.equal("done", future:state())
  end)

  it("by __close stops the jobs when the block fails", function()
    local future, queued
    local took = seconds_of(function()
      local e = raised(function()
        local pool <close> = concur.ThreadPoolExecutor(1)
        future = pool:submit("concur.sleep", 30)
        queued = pool:submit(math.abs, 1)
        error "the block's error"
      end)
      assert.truthy(tostring(e):find "the block's error")
    end)
    assert.is_true(took < 5 * support.time_scale, took)
    assert.equal("cancelled", future:state())
    assert.equal("cancelled", queued:state())
  end)

  it("by __close stops the jobs when the scope is cancelled", function()
    concur.run(function()
      local took = seconds_of(function()
        local ok = concur.move_on_after(SHORT, function()
          local pool <close> = concur.ThreadPoolExecutor(1)
          pool:submit("concur.sleep", 30):result()
        end)
        assert.is_false(ok)
      end)
      assert.is_true(took < 5 * support.time_scale, took)
    end)
  end)

  it("happens by itself when the pool is collected", function()
    local threads = support.threads()
    concur.ThreadPoolExecutor(1):submit(math.abs, 1):result()
    for _ = 1, 100 do
      collectgarbage()
      if support.threads() == threads then
        break
      end
      concur.sleep(0.01)
    end
    assert.equal(threads, support.threads())
  end)
end)

describe("pool:map", function()
  local function collect(...)
    local list = {}
    for i, value in ... do
      list[#list + 1] = { i, value }
    end
    return list
  end

  it("gives index and results in the order of the input", function()
    local pool <close> = concur.ThreadPoolExecutor(3)
    local got = collect(pool:map(function(x)
      require("concur").sleep(x == 1 and 0.05 or 0)
      return x * 10
    end, { 1, 2, 3, 4 }))
    assert.same({ { 1, 10 }, { 2, 20 }, { 3, 30 }, { 4, 40 } }, got)
  end)

  it("takes the values of a callable as arguments", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local n = 0
    local got = collect(pool:map(function(a, b)
      return a .. b
    end, function()
      n = n + 1
      if n <= 3 then
        return n, "x"
      end
    end))
    assert.same({ { 1, "1x" }, { 2, "2x" }, { 3, "3x" } }, got)
  end)

  it("handles an empty input", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    assert.same({}, collect(pool:map(print, {})))
  end)

  it("consumes no more than its window ahead", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local consumed = 0
    local it, _, _, closer = pool:map(
      function(x)
        return x
      end,
      function()
        consumed = consumed + 1
        return consumed
      end,
      { window = 4 }
    )
    assert.equal(4, consumed)
    assert.same({ 1, 1 }, { it() })
    assert.same({ 2, 2 }, { it() })
    assert.equal(5, consumed)
    closer:close()
  end)

  it("raises a job's error and goes on", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local it = pool:map(function(x)
      if x == 2 then
        error "two"
      end
      return x
    end, { 1, 2, 3 })
    assert.same({ 1, 1 }, { it() })
    assert.truthy(raised(it).message:find "two")
    assert.same({ 3, 3 }, { it() })
    assert.is_nil((it()))
  end)

  it("raises what cannot cross at its turn and goes on", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local it = pool:map(type, { 1, io.stdout, "x" })
    assert.same({ 1, "number" }, { it() })
    assert.is_true(errors.is(raised(it), "TransferError"))
    assert.same({ 3, "string" }, { it() })
  end)

  it("raises the source's error after what came before", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local n = 0
    local it = pool:map(math.abs, function()
      n = n + 1
      if n == 3 then
        error "source"
      end
      return -n
    end)
    assert.same({ 1, 1 }, { it() })
    assert.same({ 2, 2 }, { it() })
    assert.truthy(raised(it):find "source")
    assert.is_nil((it()))
  end)

  it("gives results as they come with ordered = false", function()
    local pool <close> = concur.ThreadPoolExecutor(3)
    local delays = { 0.2, 0.01, 0.1 }
    for i = 1, 3 do
      delays[i] = delays[i] * support.time_scale
    end
    local got = collect(pool:map("concur.sleep", delays, { ordered = false }))
    assert.same({ 2, 3, 1 }, { got[1][1], got[2][1], got[3][1] })
  end)

  it("does several inputs in one job with chunk", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local list = {}
    for i = 1, 10 do
      list[i] = i
    end
    local it = pool:map(function(x)
      if x == 5 then
        error "five"
      end
      return x, x * 2
    end, list, { chunk = 3 })
    for i = 1, 4 do
      assert.same({ i, i, i * 2 }, { it() })
    end
    local e = raised(it)
    assert.truthy(e.message:find "five")
    assert.truthy(e.remote_traceback:find "executor_spec")
    for i = 6, 10 do
      assert.same({ i, i, i * 2 }, { it() })
    end
    assert.is_nil((it()))
    assert.equal(4, pool:stats().submitted)
  end)

  it("raises TimeoutError when time is over", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local timeout = 0.2 * support.time_scale
    local it, _, _, closer = pool:map("concur.sleep", { 0, 30 }, { timeout = timeout })
    assert.equal(1, (it()))
    assert.is_true(errors.is(raised(it), "TimeoutError"))
    closer:close()
    pool:shutdown { grace = 0 }
  end)

  it("cancels its queued jobs when it is left early", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    for i in pool:map("concur.sleep", { 0, 30, 30, 30, 30, 30 }) do
      if i == 1 then
        break
      end
    end
    assert.is_true(pool:stats().cancelled >= 4) -- the second one may have begun
    pool:shutdown { grace = 0 }
  end)

  it("refuses next, and what is no list", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    assert.truthy(tostring(raised(pool.map, pool, print, next)):find "got 'next'")
    assert.truthy(tostring(raised(pool.map, pool, print, 5)):find "list or callable expected")
    assert.truthy(tostring(raised(pool.map, pool, 5, {})):find "function")
    assert.truthy(tostring(raised(pool.map, pool, print, {}, { window = 0 })):find "at least 1")
    assert.truthy(tostring(raised(pool.map, pool, print, {}, { chnk = 1 })):find "unknown option")
  end)
end)

describe("options", function()
  it("retry a job that fails", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function flaky()
      flaky_count = (flaky_count or 0) + 1 -- luacheck: ignore
      if flaky_count % 3 ~= 0 then -- luacheck: ignore
        error("try " .. flaky_count) -- luacheck: ignore
      end
      return flaky_count -- luacheck: ignore
    end
    assert.equal(3, pool:options { retry = 2 }:run(flaky))
    local e = raised(function()
      pool:options({ retry = 1 }):run(flaky)
    end)
    assert.truthy(e.message:find "try 5")
  end)

  it("retry after a delay that doubles", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function failing()
      times = times or {} -- luacheck: ignore
      times[#times + 1] = require("concur").now() -- luacheck: ignore
      error "no"
    end
    raised(function()
      pool:options({ retry = { times = 2, delay = 0.05 } }):run(failing)
    end)
    local times = pool:run(function()
      return times -- luacheck: ignore
    end)
    assert.equal(3, #times)
    assert.truthy(times[2] - times[1] >= 0.049)
    assert.truthy(times[3] - times[2] >= 0.099)
  end)

  it("retry no more once the job is cancelled, in the middle of a delay", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local future = pool:options({ retry = { times = 5, delay = 60 } }):submit(error, "no")
    while future:state() ~= "running" do
      concur.sleep(0.001)
    end
    concur.sleep(0.02)
    future:cancel "enough"
    local e = raised(future.result, future)
    assert.truthy(errors.is(e, "FutureCancelled"))
    assert.equal("alive", pool:run(function()
      return "alive"
    end))
    local e2 = raised(pool.options, pool, { retry = { times = 256 } })
    assert.truthy(tostring(e2):find("255 at most", 1, true))
    local e3 = raised(pool.options, pool, { retry = { time = 2 } })
    assert.truthy(tostring(e3):find "unknown option")
  end)

  it("abandon a job that does not stop", function()
    local pool = concur.ThreadPoolExecutor(1)
    local took = seconds_of(function()
      local e = raised(concur.timeout, SHORT, function()
        pool:options({ abandon = true }):run(os.execute, "sleep " .. 12 * SHORT)
      end)
      assert.is_true(errors.is(e, "TimeoutError"))
    end)
    assert.is_true(took < 10 * SHORT, took)
    pool:shutdown()
  end)

  it("interrupt a busy loop, also one that swallows errors", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local view = pool:options { interrupt_after = SHORT }
    local future = view:submit(function()
      while true do
      end
    end)
    while future:state() ~= "running" do
      concur.sleep(0.001)
    end
    future:cancel()
    assert.is_true(errors.is(raised(future.result, future), "FutureCancelled"))
    future = view:submit(function()
      while true do
        pcall(function()
          while true do
          end
        end)
      end
    end)
    while future:state() ~= "running" do
      concur.sleep(0.001)
    end
    future:cancel()
    assert.is_true(errors.is(raised(future.result, future), "FutureCancelled"))
    assert.equal(1, pool:submit(math.abs, -1):result())
  end)

  it("interrupt a busy loop in a coroutine", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local view = pool:options { interrupt_after = SHORT }
    for _, body in ipairs {
      function()
        coroutine.wrap(function()
          while true do
            pcall(function()
              while true do
              end
            end)
          end
        end)()
      end,
      function()
        while true do
          coroutine.resume(coroutine.create(function()
            while true do
            end
          end))
        end
      end,
      function()
        require("concur").run(function()
          while true do
          end
        end)
      end,
    } do
      local future = view:submit(body)
      while future:state() ~= "running" do
        concur.sleep(0.001)
      end
      future:cancel()
      assert.is_true(errors.is(raised(future.result, future), "FutureCancelled"))
    end
    assert.equal(1, pool:submit(math.abs, -1):result())
  end)

  it("are a view of the same pool", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local view = pool:options { name = "x" }
    assert.equal(1, view:run(math.abs, -1))
    assert.equal(1, pool:stats().completed)
    assert.equal(2, view:options({ retry = 1 }):run(math.abs, -2))
  end)
end)

describe("a pool with queue_size", function()
  it("makes submit wait, and try_submit refuse", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 2 }
    local first = pool:submit("concur.sleep", 0.1)
    while first:state() ~= "running" do
      concur.sleep(0.001)
    end
    pool:submit(math.abs, 1)
    pool:submit(math.abs, 2)
    local none, err = pool:try_submit(math.abs, 3)
    assert.is_nil(none)
    assert.is_true(errors.is(err, "WouldBlock"))
    assert.is_false(first:done())
    local future = pool:submit(math.abs, -4)
    assert.is_true(first:done())
    assert.equal(4, future:result())
  end)

  it("makes run wait, too", function()
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
      pool:submit("concur.sleep", 0.03)
      pool:submit("concur.sleep", 0)
      assert.equal(7, pool:run("math.abs", -7))
    end)
  end)

  it("sees that it was filled while the arguments were encoded", function()
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
      local begun, go = concur.Channel(1), concur.Channel(1)
      pool:submit(function(b, g)
        b:send(true)
        repeat until g:try_recv() -- in recv it would make room for another job
      end, begun, go)
      begun:recv()
      local faster
      local sneaky = setmetatable({}, {
        __transfer = function()
          faster = faster or pool:try_submit("math.abs", -7)
          return tostring, 1
        end,
      })
      local future, err = pool:try_submit("type", sneaky)
      assert.is_nil(future)
      assert.is_true(errors.is(err, "WouldBlock"))
      local waiting = concur.spawn(pool.run, pool, "type", sneaky)
      concur.sleep(0)
      go:send(true)
      assert.equal(7, faster:result())
      assert.equal("string", waiting:result())
    end)
  end)

  it("keeps the place of a task whose room was taken when its turn came", function()
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
      local order = {}
      local function submit(name)
        pool:submit("concur.sleep", 0)
        order[#order + 1] = name
      end
      local go = concur.Channel(1)
      pool:submit(function(ch)
        repeat until ch:try_recv()
      end, go)
      pool:submit("concur.sleep", 0)
      local tasks = {
        concur.spawn(function()
          concur.sleep(0.01)
          if pool:try_submit("concur.sleep", 0) then
            order[#order + 1] = "without waiting"
          end
        end),
        concur.spawn(submit, "first"),
        concur.spawn(submit, "second"),
      }
      concur.sleep(0)
      local began = concur.now()
      go:send(true)
      while pool:stats().queued > 0 or concur.now() < began + 0.02 do
        os.execute "sleep 0.005" -- the loop does not turn: there is room and the timer is due at once
      end
      concur.wait(tasks)
      assert.same({ "without waiting", "first", "second" }, order)
    end)
  end)

  it("serves waiting tasks in order, and loses nothing when some are cancelled", function()
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
      local order = {}
      local tasks = {}
      for i = 1, 12 do
        tasks[i] = concur.spawn(function()
          local future = pool:submit("concur.sleep", 0.005)
          order[#order + 1] = i
          future:result()
          return i
        end)
      end
      concur.sleep(0.01)
      for i = 4, 12, 4 do
        tasks[i]:cancel()
      end
      local done = 0
      for i = 1, 12 do
        if pcall(tasks[i].result, tasks[i]) then
          done = done + 1
        end
      end
      assert.is_true(done >= 9, done)
      for i = 2, #order do
        assert.is_true(order[i - 1] < order[i])
      end
    end)
  end)

  it("lets map go on", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 2, queue_size = 1 }
    local sum = 0
    for _, x in pool:map(math.abs, { -1, -2, -3, -4, -5, -6, -7, -8 }) do
      sum = sum + x
    end
    assert.equal(36, sum)
  end)

  it("wakes those who wait when it is shut down", function()
    concur.run(function()
      local pool = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
      local blocker = pool:submit("concur.sleep", 0.1)
      while blocker:state() ~= "running" do
        concur.sleep(0.001)
      end
      pool:submit(math.abs, 1)
      local waiting = concur.spawn(function()
        return pool:submit(math.abs, 2)
      end)
      concur.sleep(0)
      pool:shutdown()
      assert.is_true(errors.is(raised(waiting.result, waiting), "Closed"))
    end)
  end)
end)

describe("jobs that wait for jobs that wait for jobs", function()
  it("are an error when no more threads may be started", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(pool.run, pool, function()
      -- By its name, and not as an upvalue: each level has it from the one above.
      local function nest(f, depth)
        return require("concur").to_thread(f, f, depth + 1)
      end
      return nest(nest, 1)
    end)
    assert.truthy(tostring(e):find "no more threads may be started", tostring(e))
    assert.equal(1, concur.to_thread(math.abs, -1))
  end)
end)

describe("many jobs", function()
  it("are neither lost nor doubled", function()
    support.seed()
    local pool <close> = concur.ThreadPoolExecutor(4)
    local count = support.time_scale > 1 and 5000 or 20000
    concur.run(function()
      local seen, done, cancelled = {}, 0, 0
      local futures = {}
      for i = 1, count do
        futures[i] = pool:submit(function(x)
          return x
        end, i)
        if math.random(10) == 1 then
          futures[math.random(i)]:cancel()
        end
        if i % 500 == 0 then
          concur.sleep(0)
        end
      end
      for i = 1, count do
        local ok, value = pcall(futures[i].result, futures[i])
        if ok then
          assert.equal(i, value)
          assert.is_nil(seen[i])
          seen[i] = true
          done = done + 1
        else
          assert.is_true(errors.is(value, "FutureCancelled"))
          cancelled = cancelled + 1
        end
      end
      assert.equal(count, done + cancelled)
    end)
    pool:shutdown()
    local stats = pool:stats()
    assert.equal(0, stats.queued)
    assert.is_true(stats.completed <= count)
  end)
end)
