-- SPDX-License-Identifier: MIT
-- Process pools: jobs, their futures, errors, what crosses, cancellation, shutting down.

local children = require "spec.support.children"
local concur = require "concur"
local errors = require "concur.errors"
local expect = require "spec.support.expect"
local support = require "spec.support"

local SCALE = support.time_scale

local function seconds_of(fn, ...)
  local began = concur.now()
  fn(...)
  return concur.now() - began
end

local function add(a, b)
  return a + b
end

-- The worker's process id.
local function pid()
  local stat <close> = assert(io.open "/proc/self/stat")
  return math.tointeger((stat:read "a"):match "^%d+")
end

local function sleep(seconds)
  require("concur").sleep(seconds)
  return "slept"
end

describe("ProcessPoolExecutor", function()
  local before

  before_each(function()
    before = children()
  end)

  after_each(function()
    assert.same(before, children()) -- no process, no zombie
  end)

  it("starts no process before the first job, and leaves none behind", function()
    local pool = concur.ProcessPoolExecutor(2)
    assert.same(before, children())
    assert.equal(3, pool:submit(add, 1, 2):result())
    assert.equal(#before + 1, #children())
    pool:shutdown()
    assert.same(before, children())
  end)

  it("returns all results, runs C functions and functions of modules by name", function()
    local pool <close> = concur.ProcessPoolExecutor(1)
    local future = pool:submit(function(...)
      return select("#", ...), nil, { ... }, nil
    end, 1, nil, "x")
    assert.same({ n = 4, 3, nil, { 1, nil, "x" }, nil }, table.pack(future:result()))
    assert.equal("done", future:state())
    assert.equal("ABC", pool:run(string.upper, "abc"))
    assert.equal(3, pool:run("math.max", 1, 3, 2))
  end)

  it("runs jobs at the same time, as many as it has workers, in processes of their own", function()
    local pool <close> = concur.ProcessPoolExecutor(3)
    local directory = support.tmpdir()
    -- Each job waits for all three.
    local function meet(path)
      local lfs = require "lfs"
      local stat <close> = assert(io.open "/proc/self/stat")
      local self = (stat:read "a"):match "^%d+"
      io.open(path .. "/" .. self, "w"):close()
      local count
      repeat
        count = 0
        for name in lfs.dir(path) do
          count = count + (name:find "^%d" and 1 or 0)
        end
      until count == 3
      return self
    end
    local jobs, seen = {}, {}
    for i = 1, 3 do
      jobs[i] = pool:submit(meet, directory)
    end
    for i = 1, 3 do
      seen[jobs[i]:result(20 * SCALE)] = i
    end
    assert.is_nil(seen[tostring(support.pid())])
  end)

  it("lets concur work in jobs: sleeping, tasks, threads, pools of their own", function()
    local pool <close> = concur.ProcessPoolExecutor(1)
    local result = pool:run(function()
      local inner = require "concur"
      return inner.run(function()
        local a, b, c = inner.gather(function()
          inner.sleep(0.01)
          return "slept"
        end, function()
          return inner.to_thread(function() return "thread" end)
        end, function()
          local nested <close> = inner.ProcessPoolExecutor(1)
          return (nested:run(function() return "process" end))
        end)
        return table.concat({ a, b, c }, " ")
      end)
    end)
    assert.equal("slept thread process", result)
  end)

  it("gives workers this program's modules", function()
    local directory = support.tmpdir()
    local code = "return { answer = function() return 42 end }"
    support.write_file(directory .. "/only_here.lua", code)
    local path <const> = package.path
    package.path = directory .. "/?.lua;" .. path
    package.preload.preloaded = function() return { value = "loaded before" } end
    local pool <close> = concur.ProcessPoolExecutor(1)
    local answer, value = pool:run(function()
      return require("only_here").answer(), require("preloaded").value
    end)
    package.path, package.preload.preloaded = path, nil
    assert.equal(42, answer)
    assert.equal("loaded before", value)
  end)

  it("runs init in each worker, and is broken when it fails", function()
    do
      local function init()
        rawset(_G, "SET", 7)
      end
      local pool <close> = concur.ProcessPoolExecutor { workers = 1, init = init }
      assert.equal(7, pool:run(function() return rawget(_G, "SET") end))
    end
    local pool <close> = concur.ProcessPoolExecutor {
      workers = 1,
      name = "poor",
      init = function() error "no luck" end,
    }
    local e = expect.error("BrokenExecutor", pool.run, pool, add, 1, 2)
    assert.matches("init function of poor failed: .*no luck", e.message)
    assert.matches("no luck", e.cause.message)
    expect.error("BrokenExecutor", pool.submit, pool, add, 1, 2)
  end)

  it("replaces a worker after max_jobs", function()
    local pool <close> = concur.ProcessPoolExecutor { workers = 1, max_jobs = 3 }
    local counts = {}
    for _, worker in pool:map(pid, { 1, 2, 3, 4, 5, 6, 7 }) do
      counts[worker] = (counts[worker] or 0) + 1
    end
    local sorted = {}
    for _, count in pairs(counts) do
      sorted[#sorted + 1] = count
    end
    table.sort(sorted)
    assert.same({ 1, 3, 3 }, sorted)
  end)

  it("ends workers that were idle for long enough, and starts others", function()
    local pool <close> = concur.ProcessPoolExecutor { workers = 1, idle = 0.05 }
    local first = pool:run(pid)
    local deadline = concur.now() + 5 * SCALE
    while pool:stats().processes > 0 and concur.now() < deadline do
      concur.sleep(0.02)
    end
    assert.equal(0, pool:stats().processes)
    assert.not_equal(first, pool:run(pid))
  end)

  it("fails a job that wants more memory than max_memory", function()
    local pool <close> = concur.ProcessPoolExecutor { workers = 1, max_memory = 8e6 }
    local e = expect.error("RemoteError", pool.run, pool, string.rep, "x", 64000000)
    assert.matches("max_memory", e.message)
    assert.equal(3, pool:run(add, 1, 2))
  end)

  it("makes submit wait while the queue is full", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor { workers = 1, queue_size = 1 }
      local first = pool:submit(sleep, 0.2)
      local second = pool:submit(sleep, 0)
      local none, e = pool:try_submit(sleep, 0)
      assert.is_nil(none)
      assert.is_true(errors.is(e, "WouldBlock"))
      local waited = concur.spawn(function() return pool:submit(add, 1, 2):result() end)
      concur.sleep(0)
      assert.is_false(waited:done())
      assert.equal("slept", first:result())
      assert.equal("slept", second:result())
      assert.equal(3, waited:result())
    end)
  end)

  it("works with run_in_executor, gather, as_completed and map", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor(2)
      local loop = concur.get_event_loop()
      assert.equal(5, loop:run_in_executor(pool, add, 2, 3):result())
      local futures = {}
      for i = 1, 5 do
        futures[i] = pool:submit(add, i, 1)
      end
      local sum = 0
      for future in concur.as_completed(futures) do
        sum = sum + future:result()
      end
      assert.equal(20, sum)
      local all = {}
      local options = { ordered = false, chunk = 2 }
      for i, x in pool:map(function(x) return x * x end, { 1, 2, 3, 4 }, options) do
        all[i] = x
      end
      assert.same({ 1, 4, 9, 16 }, all)
    end)
  end)

  it("lets futures be polled without a loop that runs", function()
    local pool <close> = concur.ProcessPoolExecutor(1)
    local future = pool:submit(os.execute, "sleep 0.1")
    local deadline, seen = concur.now() + 10 * SCALE, {}
    while not future:done() and concur.now() < deadline do
      seen[future:state()] = true
    end
    assert.equal("done", future:state())
    assert.is_true(seen.running)
  end)

  it("drives a virtual clock's run as well", function()
    local runner <close> = concur.Runner { clock = concur.testing.Clock() }
    assert.equal(3, runner:run(function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      return pool:run(add, 1, 2)
    end))
  end)

  it("keeps no driver waiting when its workers are idle", function()
    local pool <close> = concur.ProcessPoolExecutor(1)
    concur.run(function()
      pool:run(add, 1, 2)
    end)
    expect.error("Deadlock", function() concur.Future():result() end)
  end)

  describe("errors", function()
    it("cross with their kind, value and traceback", function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      local e = expect.error("RemoteError", pool.run, pool, function() error { code = 5 } end)
      assert.equal(5, e.value.code)
      e = expect.error("RemoteError", pool.run, pool, function()
        local function deep() error "it went wrong" end
        deep()
      end)
      assert.matches("it went wrong", e.message)
      assert.matches("process_pool_spec.lua:%d+: in local 'deep'", e.remote_traceback)
      e = expect.error("TimeoutError", pool.run, pool, function()
        local inner = require "concur"
        inner.timeout(0.01, inner.sleep, 5)
      end)
      assert.is_string(e.remote_traceback)
    end)

    it("repeat a job with retry", function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      local counter = support.tmpdir() .. "/count"
      local e = expect.error("RemoteError", function()
        pool:options({ retry = 2 }):run(function(path)
          local file <close> = assert(io.open(path, "a"))
          file:write "x"
          error "again"
        end, counter)
      end)
      assert.matches("again", e.message)
      assert.equal("xxx", support.read_file(counter))
    end)

    it("wait before they are repeated, longer each time, if retry says so", function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      pool:run(add, 1, 1)
      local counter = support.tmpdir() .. "/count"
      local function fails_twice(path)
        local file <close> = assert(io.open(path, "a+"))
        file:write "x"
        file:seek "set"
        assert(#file:read "a" == 3, "again")
        return "third"
      end
      local began = concur.now()
      local patient = pool:options { retry = { times = 2, delay = 0.03 } }
      assert.equal("third", patient:run(fails_twice, counter))
      assert.is_true(concur.now() - began >= 0.03 + 0.06)
      assert.equal(1, pool:stats().processes_started) -- a job that fails is no crash
      -- Cancelled while it waits, it is not tried again.
      support.write_file(counter, "")
      local slow = pool:options { retry = { times = 2, delay = 60 } }
      local future = slow:submit(fails_twice, counter)
      while support.read_file(counter) == "" do
        concur.sleep(0.001)
      end
      future:cancel()
      expect.error("FutureCancelled", future.result, future, 10 * support.time_scale)
      assert.equal("x", support.read_file(counter))
    end)

    it("refuse what cannot cross by its path, in both directions", function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      local channel <close> = concur.Channel(1)
      local e = expect.error("TransferError", pool.submit, pool, add, { deep = { channel } })
      assert.matches("argument 2%.deep%[1%]", e.message)
      assert.matches("Channel", e.message)
      local buffer = concur.SharedBuffer(8)
      e = expect.error("TransferError", pool.submit, pool, function() return buffer end)
      assert.matches("upvalue 'buffer'", e.message)
      assert.matches("SharedBuffer", e.message)
      e = expect.error("TransferError", pool.submit, pool, add, io.stdout)
      assert.matches("argument 2", e.message)
      e = expect.error("TransferError", pool.run, pool, function() return 1, io.stdout end)
      assert.matches("result 2", e.message)
      e = expect.error("TransferError", pool.run, pool, function()
        return require("concur").SharedBuffer(8)
      end)
      assert.matches("SharedBuffer", e.message)
      assert.equal(3, pool:run(add, 1, 2))
    end)

    it("name wrong options", function()
      for options, text in pairs {
        [{ wrokers = 1 }] = "wrokers",
        [{ workers = 0 }] = "workers",
        [{ stderr = "no" }] = "stderr",
        [{ command = {} }] = "command",
        [{ command = 7 }] = "command",
        [{ init = 5 }] = "init",
      } do
        local ok, e = pcall(concur.ProcessPoolExecutor, options)
        assert.is_false(ok)
        assert.matches(text, tostring(e))
        assert.matches("bad argument #1 to '.*ProcessPoolExecutor'", tostring(e))
      end
    end)

    it("say when no worker can be started", function()
      local pool <close> = concur.ProcessPoolExecutor { command = { "/nowhere/at/all" } }
      local e = expect.error("BrokenExecutor", pool.run, pool, add, 1, 2)
      assert.is_true(errors.is(e, "OSError"))
      assert.matches("/nowhere/at/all", e.message)
      assert.equal("ENOENT", e.cause.code)
    end)
  end)

  describe("data", function()
    it("of any size goes both ways", function()
      local pool <close> = concur.ProcessPoolExecutor(2)
      for _, size in ipairs { 0, 1, 4096, 1048000, 1048544, 1048576, 1048577, 9000000 } do
        local text = ("0123456789abcdef"):rep(size // 16 + 1):sub(1, size)
        local back = pool:run(function(s) return s end, text)
        assert.is_true(back == text, size .. " bytes")
      end
    end)

    it("fills the links both ways without a deadlock", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(2)
        local futures, text = {}, ("y"):rep(1300000)
        for i = 1, 30 do
          futures[i] = pool:submit(function(s, n) return s .. n end, text, i)
        end
        for i = 1, 30 do
          assert.is_true(futures[i]:result() == text .. i)
        end
      end)
    end)

    it("comes in 1,000 jobs of 100 KB", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(2)
        local n, count = 0, 0
        local block = ("z"):rep(100000)
        for i, size, text in pool:map(function(s, k) return #s, s .. k end, function()
          n = n + 1
          if n <= 1000 then
            return block, n
          end
        end) do
          count = count + 1
          assert.equal(100000, size)
          assert.equal(block .. i, text)
        end
        assert.equal(1000, count)
      end)
    end)

    it("goes to whoever is free: no job waits behind a long one", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(2)
        for _ in pool:map(add, function() end) do end
        local n = 0
        for _ in pool:map(math.abs, function() -- now jobs are known to be short
          n = n + 1
          if n <= 300 then return n end
        end) do end
        local long = pool:submit(os.execute, "sleep 1")
        local took = seconds_of(function()
          local futures = {}
          for i = 1, 50 do
            futures[i] = pool:submit(math.abs, -i)
          end
          for i = 1, 50 do
            assert.equal(i, futures[i]:result())
          end
        end)
        assert.is_true(took < 0.8 * SCALE, took)
        assert.is_false(long:done())
        assert.is_true((long:result()))
      end)
    end)
  end)

  describe("cancelling", function()
    it("keeps a queued job from ever running", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(1)
        local path = support.tmpdir() .. "/ran"
        local first = pool:submit(sleep, 0.2)
        local queued = {}
        for i = 1, 5 do
          queued[i] = pool:submit(function(p) io.open(p, "w"):close() end, path)
        end
        for i = 1, 5 do
          assert.is_true(queued[i]:cancel())
          assert.equal("cancelled", queued[i]:state())
        end
        assert.equal("slept", first:result())
        assert.equal(3, pool:run(add, 1, 2))
        assert.is_nil(io.open(path))
        assert.equal(1, pool:stats().processes)
      end)
    end)

    it("takes back jobs of which a part, or nothing, has been sent", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(1)
        for _ in pool:map(math.abs, { 1, 2, 3, 4, 5, 6, 7, 8 }) do end -- short: it gets several
        local worker = pool:run(pid)
        os.execute("kill -STOP " .. worker)
        local jobs, text = {}, ("x"):rep(3 << 20) -- three times what the link holds
        for i = 1, 4 do
          jobs[i] = pool:submit(function(s, n) return #s + n end, text, i)
        end
        concur.sleep(0.02)
        assert.is_true(jobs[1]:cancel())
        assert.is_true(jobs[3]:cancel())
        os.execute("kill -CONT " .. worker)
        assert.equal(#text + 2, jobs[2]:result())
        assert.equal(#text + 4, jobs[4]:result())
        assert.equal("cancelled", jobs[1]:state())
        assert.equal("cancelled", jobs[3]:state())
        assert.equal(0, pool:stats().crashes)
      end)
    end)

    it("ends the worker of a running job, and only that job", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor(2)
        local other = pool:submit(sleep, 0.3)
        local busy = pool:submit(function() while true do end end)
        while busy:state() ~= "running" do
          concur.sleep(0.01)
        end
        local took = seconds_of(function()
          assert.is_true(busy:cancel "enough")
          local e = expect.error("FutureCancelled", busy.result, busy)
          assert.equal("enough", e.reason)
        end)
        assert.is_true(took < 0.5 * SCALE, took)
        assert.equal("slept", other:result())
        assert.equal(3, pool:run(add, 1, 2))
      end)
    end)

    it("waits for the end in run, and goes on at once with abandon", function()
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor { workers = 1, grace = 0.3 }
        local stubborn = function()
          os.execute "trap '' TERM; sleep 2" -- the worker itself takes TERM
          return "never"
        end
        expect.error("TimeoutError", concur.timeout, 0.1, pool.run, pool, stubborn)
        local took = seconds_of(function()
          local careless = pool:options { abandon = true }
          expect.error("TimeoutError", concur.timeout, 0.1, careless.run, careless, stubborn)
        end)
        assert.is_true(took < 0.3 * SCALE, took)
        assert.equal(3, pool:run(add, 1, 2))
      end)
    end)

    it("kills a worker that ignores TERM after the grace time, or interrupt_after", function()
      local words = require("concur.process_worker").command()
      local quoted = {}
      for i, word in ipairs(words) do
        quoted[i] = support.quote(word)
      end
      concur.run(function()
        local pool <close> = concur.ProcessPoolExecutor {
          workers = 1,
          grace = 0.2,
          command = { "sh", "-c", "trap '' TERM; exec " .. table.concat(quoted, " ") },
        }
        local function cancel_busy(view)
          local busy = view:submit(function() while true do end end)
          while busy:state() ~= "running" do
            concur.sleep(0.01)
          end
          local took = seconds_of(function()
            busy:cancel()
            expect.error("FutureCancelled", busy.result, busy)
          end)
          return took
        end
        local took = cancel_busy(pool)
        assert.is_true(took >= 0.19 and took < 1.5 * SCALE, took)
        took = cancel_busy(pool:options { interrupt_after = 0.01 })
        assert.is_true(took < 0.18 * SCALE, took)
        assert.equal(3, pool:run(add, 1, 2))
        local busy = pool:submit(function() while true do end end)
        while busy:state() ~= "running" do
          concur.sleep(0.01)
        end
        assert.is_true(pool:shutdown { grace = 0.1 })
      end)
    end)
  end)

  describe("shutting down", function()
    it("waits for the jobs that it has", function()
      local pool = concur.ProcessPoolExecutor(2)
      local futures = {}
      for i = 1, 6 do
        futures[i] = pool:submit(sleep, 0.02)
      end
      assert.is_true(pool:shutdown())
      for i = 1, 6 do
        assert.equal("done", futures[i]:state())
      end
      expect.error("Closed", pool.submit, pool, add, 1, 2)
      assert.is_true(pool:shutdown())
    end)

    it("cancels the queue with cancel_pending", function()
      local pool = concur.ProcessPoolExecutor(1)
      local running = pool:submit(sleep, 0.2)
      while running:state() ~= "running" do
        concur.sleep(0.01)
      end
      local queued = pool:submit(sleep, 0.2)
      assert.is_true(pool:shutdown { cancel_pending = true })
      assert.equal("done", running:state())
      assert.equal("cancelled", queued:state())
    end)

    it("ends workers within the grace time", function()
      local pool = concur.ProcessPoolExecutor(2)
      local busy = pool:submit(function() while true do end end)
      pool:submit(sleep, 100)
      local took = seconds_of(function() assert.is_true(pool:shutdown { grace = 0.2 }) end)
      assert.is_true(took < 2 * SCALE, took)
      assert.equal("cancelled", busy:state())
    end)

    it("flushes what jobs have written, and closes their states", function()
      local directory = support.tmpdir()
      local pool = concur.ProcessPoolExecutor(1)
      pool:run(function(path)
        local file = assert(io.open(path .. "/buffered", "w"))
        file:write "in the buffer"
        local keeper = { __gc = function() io.open(path .. "/closed", "w"):close() end }
        rawset(_G, "kept", { file, setmetatable({}, keeper) })
      end, directory)
      pool:shutdown()
      assert.equal("in the buffer", support.read_file(directory .. "/buffered"))
      assert.equal("", support.read_file(directory .. "/closed"))
    end)

    it("leaves nothing behind when a pool is collected, the loop or the state closed", function()
      do
        local pool = concur.ProcessPoolExecutor(2)
        pool:run(add, 1, 2)
        pool = nil -- luacheck: ignore
      end
      collectgarbage()
      collectgarbage()
      local pool = concur.ProcessPoolExecutor(2)
      local future = pool:submit(function() while true do end end)
      pool:run(add, 1, 2)
      concur.get_event_loop():close()
      assert.same(before, children())
      assert.equal("cancelled", future:state())
      expect.error("Closed", pool.submit, pool, add, 1, 2)
      local result = support.run_lua [[
        local concur = require "concur"
        local pool = concur.ProcessPoolExecutor(2)
        pool:submit(function() while true do end end)
        print(pool:run(function() return "ran" end))
        os.exit(true, true)
      ]]
      assert.equal("ran\n", result.stdout, support.describe(result))
      assert.equal(0, result.code)
    end)
  end)

  it("tells about itself", function()
    local pool <close> = concur.ProcessPoolExecutor { workers = 1, name = "mill" }
    assert.matches("concur.ProcessPoolExecutor: mill %(0 processes", tostring(pool))
    pool:run(add, 1, 2)
    assert.matches("^concur.ProcessPoolExecutor: %(0 proc", tostring(concur.ProcessPoolExecutor(1)))
    local stats = pool:stats()
    assert.equal(0, stats.crashes)
    assert.equal(1, stats.processes)
    assert.equal(1, stats.completed)
    assert.equal(0, stats.running)
    assert.equal(1, stats.idle)
  end)

  it("starts a program of a host's own that is a worker", function()
    local script = support.tmpdir() .. "/host.lua"
    support.write_file(script, ([[
      package.path, package.cpath = %q, %q
      HOST = "what the host has set up for itself"
      require("concur.process_worker").run()
    ]]):format(package.path, package.cpath))
    local command = { support.lua, script }
    local pool <close> = concur.ProcessPoolExecutor { workers = 1, command = command }
    assert.equal(3, pool:run(add, 1, 2))
    assert.is_nil(pool:run(function() return rawget(_G, "HOST") end)) -- jobs have a state of their own
    local ok, e = pcall(require("concur.process_worker").run)
    assert.is_false(ok)
    assert.matches("no process that a ProcessPoolExecutor has started", e)
  end)

  it("works from a thread's state", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    assert.equal("SIGKILL", pool:run(function()
      local inner = require "concur"
      local processes <close> = inner.ProcessPoolExecutor(1)
      local ok, e = pcall(processes.run, processes, function() os.execute "kill -9 $PPID" end)
      assert(not ok and processes:run(function() return true end))
      return e.signal
    end))
  end)

  it("is left alone by a forked child", function()
    local result = support.run_lua([[
      local concur = require "concur"
      local pool = concur.ProcessPoolExecutor(1)
      local function pid() return io.open("/proc/self/stat"):read("a"):match "^%d+" end
      local worker = pool:run(pid)
      local future = pool:submit(function() require("concur").sleep(0.2) return "done" end)
      if testhost.fork() == 0 then
        assert(not pcall(pool.submit, pool, pid))
        pool, future = nil, nil
        collectgarbage()
        os.exit(7, true)
      end
      assert(testhost.wait() == 7)
      assert(future:result() == "done")
      assert(pool:run(pid) == worker)
      pool:shutdown()
      print "the parent goes on"
    ]], { lua = support.host, env = { ASAN_OPTIONS = "detect_leaks=0" } })
    assert.equal("the parent goes on\n", result.stdout, support.describe(result))
  end)

  it("leaves Ctrl-C to this process: workers go on", function()
    concur.run(function()
      local pool <close> = concur.ProcessPoolExecutor(1)
      local job = pool:submit(function()
        os.execute "kill -INT $PPID"
        require("concur").sleep(0.05)
        return "done"
      end)
      assert.equal("done", job:result())
    end)
  end)

  -- A program that leads a process group of its own, as one that a shell runs in the foreground. Its
  -- workers write their ids to a file and sleep; interrupt() is Ctrl-C.
  local FOREGROUND = [[
    local concur = require "concur"
    local path = ...
    local file = io.open "/proc/self/stat"
    local id, group = file:read("a"):match "^(%d+) %b() %a %d+ (%d+)"
    file:close()
    assert(id == group, "setsid did nothing")
    local function interrupt()
      io.popen("kill -INT -" .. group):close()
    end
    local function work(i)
      local id <close> = io.open "/proc/self/stat"
      local out <close> = io.open(path, "a")
      out:write(id:read "n", "\n")
      out:close()
      require("concur").sleep(60)
    end
    local pool = concur.ProcessPoolExecutor(2)
    local function begin()
      local futures = { pool:submit(work, 1), pool:submit(work, 2) }
      local begun
      repeat
        concur.sleep(0.005)
        begun = 0
        for _ in io.lines(path) do begun = begun + 1 end
      until begun == 2
      return futures
    end
  ]]

  local function foreground(code)
    local directory = support.tmpdir()
    local script, ids = directory .. "/script.lua", directory .. "/ids"
    support.write_file(script, FOREGROUND .. code)
    support.write_file(ids, "")
    local result = support.run_file("--wait", {
      lua = "setsid",
      args = { support.lua, script, ids },
    })
    local alive = 0
    for _ = 1, 200 do
      alive = 0
      for id in io.lines(ids) do
        if os.execute("kill -0 " .. id .. " 2>/dev/null") then
          alive = alive + 1
        end
      end
      if alive == 0 then
        break
      end
      os.execute "sleep 0.01"
    end
    assert.equal(0, alive)
    return result
  end

  it("survives Ctrl-C that reaches the whole process group", function()
    local result = foreground [[
      local ok, e = pcall(concur.run, function()
        local futures = begin()
        interrupt()
        concur.gather(futures)
      end)
      print(ok, e.kind)
      print(pool:run(math.abs, -1), pool:stats().crashes)
      pool:shutdown()
    ]]
    assert.equal("false\tInterrupted\n1\t0\n", result.stdout, support.describe(result))
    assert.equal("", result.stderr)
  end)

  it("ends with a program that such a Ctrl-C ends, and that left its pool open", function()
    local result = foreground [[
      concur.main(function()
        begin()
        interrupt()
        concur.sleep(60)
      end)
    ]]
    assert.equal(130, result.code or 128 + result.signal, support.describe(result))
    result = foreground [[
      concur.run(begin)
      interrupt()
      while true do end
    ]]
    assert.is_true(result.code ~= 0, support.describe(result))
  end)

  it("hands no descriptor on but the standard streams and the link", function()
    local file <close> = assert(io.open("/dev/null", "r"))
    local pool <close> = concur.ProcessPoolExecutor {
      workers = 1,
      command = (function()
        local words = require("concur.process_worker").command()
        local quoted = {}
        for i, word in ipairs(words) do
          quoted[i] = support.quote(word)
        end
        return { "sh", "-c", "exec 7</dev/null 9</dev/null; exec " .. table.concat(quoted, " ") }
      end)(),
    }
    local list = pool:run(function()
      local pipe <close> = io.popen "ls /proc/$PPID/fd"
      return pipe:read "a"
    end)
    assert.equal("0\n1\n2\n3\n4\n", (list:gsub("4\n$", "4\n"))) -- 4: popen's own pipe
    assert.is_not_nil(file)
  end)
end)
