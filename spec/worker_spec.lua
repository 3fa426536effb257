-- SPDX-License-Identifier: MIT
-- What workers can do, how their states live and end, and what closing the parent does to them.

local concur = require "concur"
local errors = require "concur.errors"
local support = require "spec.support"

local function raised(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok, "an error was expected")
  return e
end

-- Runs a child that must end by itself, with code 0, within `limit` seconds; returns its output.
local function child(code, limit)
  local began = os.time()
  local result = support.run_lua(code, { timeout = limit or 20 })
  assert.equal(0, result.code, support.describe(result))
  return result.stdout, result.stderr, os.time() - began
end

describe("a worker's state", function()
  it("finds modules where the parent finds them", function()
    local dir = support.tmpdir()
    support.write_file(dir .. "/found_by_path.lua", "return { answer = 42 }")
    local path = package.path
    package.path = dir .. "/?.lua;" .. path
    package.preload.made_here = function(name)
      return { name = name }
    end
    local pool <close> = concur.ThreadPoolExecutor(1)
    local answer, name = pool
      :submit(function()
        return require("found_by_path").answer, require("made_here").name
      end)
      :result()
    package.path = path
    package.preload.made_here = nil
    assert.same({ 42, "made_here" }, { answer, name })
    assert.equal(path, pool
      :submit(function()
        return (package.path:gsub("^.-;", "", 1))
      end)
      :result())
  end)

  it("finds modules through the parent's own searchers", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function searcher(name)
      if name == "from_thin_air" then
        return function()
          return "air"
        end
      end
      return "\n\tno thin air"
    end
    table.insert(package.searchers, 2, searcher)
    local ok, got = pcall(function()
      return pool
        :submit(function()
          return require "from_thin_air"
        end)
        :result()
    end)
    table.remove(package.searchers, 2)
    assert.is_true(ok, got)
    assert.equal("air", got)
  end)

  it("keeps its globals from job to job, and apart from the parent's", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function count()
      worker_global = (worker_global or 0) + 1 -- luacheck: ignore
      return worker_global -- luacheck: ignore
    end
    assert.equal(1, pool:run(count))
    assert.equal(2, pool:run(count))
    assert.is_nil(rawget(_G, "worker_global"))
  end)

  it("has concur: sleep, run, gather, pools of its own", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local a, b, c = pool:run(function()
      local c = require "concur"
      c.sleep(0.001)
      local inner <close> = c.ThreadPoolExecutor(2)
      local x, y = c.run(function()
        return c.gather(function()
          return inner:run(math.abs, -1)
        end, function()
          c.sleep(0.001)
          return 2
        end)
      end)
      return x, y, c.to_thread(math.abs, -3)
    end)
    assert.same({ 1, 2, 3 }, { a, b, c })
  end)

  it("ends the tasks that a job left behind", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    pool:run(function()
      local c = require "concur"
      c.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            cleaned = true -- luacheck: ignore
          end,
        })
        c.sleep(60)
      end)
      c.sleep(0.001)
    end)
    assert.same({ 0, true }, {
      pool:run(function()
        return #require("concur").all_tasks(), cleaned -- luacheck: ignore
      end),
    })
  end)

  it("writes a line of print in one piece", function()
    local out = child [[
      local concur = require "concur"
      local pool <close> = concur.ThreadPoolExecutor(4)
      for _ in pool:map(function(i)
        for j = 1, 50 do print("worker", i, "line", j, ("x"):rep(200)) end
      end, {1, 2, 3, 4}) do end
    ]]
    local lines = 0
    for line in out:gmatch "[^\n]+" do
      assert.truthy(line:find("^worker\t%d\tline\t%d+\t" .. ("x"):rep(200) .. "$"), line)
      lines = lines + 1
    end
    assert.equal(200, lines)
  end)

  it("may end the program with os.exit, and says who did it", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local pool = concur.ThreadPoolExecutor { workers = 1, name = "quitters" }
      io.write "before "
      pool:options { name = "the last job" }:run(function() os.exit(7) end)
    ]]
    assert.equal(7, result.code, support.describe(result))
    assert.equal("before ", result.stdout)
    local expected = "os.exit%(7%) was called by job 'the last job' in a worker of quitters"
    assert.truthy(result.stderr:find(expected))
  end)

  it("takes coroutines as the stock functions do", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local results = pool:run(function()
      local r = {}
      local co = coroutine.create(function(a, b)
        local c = coroutine.yield(a + b)
        error { code = c }
      end)
      r[1] = { coroutine.resume(co, 1, 2) }
      local ok, e = coroutine.resume(co, 9)
      r[2] = { ok, e.code }
      r[3] = { coroutine.resume(co) }
      local gen = coroutine.wrap(function()
        for i = 1, 2 do
          coroutine.yield(i, nil)
        end
        local _ <close> = setmetatable({}, {
          __close = function()
            r.closed = true
          end,
        })
        error "dead"
      end)
      r[4] = { select("#", gen()), gen() }
      r[5] = { pcall(gen) }
      r[6] = { pcall(gen) }
      r[7] = { pcall(coroutine.resume, 5) }
      return r
    end)
    assert.same({ true, 3 }, results[1])
    assert.same({ false, 9 }, results[2])
    assert.same({ false, "cannot resume dead coroutine" }, results[3])
    assert.same({ 2, 2 }, results[4])
    assert.is_true(results.closed)
    assert.truthy(results[5][2]:find "worker_spec.lua:%d+: .*dead$")
    assert.truthy(results[6][2]:find "cannot resume dead coroutine$")
    assert.truthy(results[7][2]:find "bad argument #1 to '.*resume' %(thread expected")
  end)
end)

describe("coroutines of a worker", function()
  it("refuse more values than a stack can hold, as the stock functions do", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local function meet()
      local many = 600000
      local holder = coroutine.create(function(...) coroutine.yield() end) -- luacheck: ignore
      coroutine.resume(holder, table.unpack({}, 1, many))
      local arguments = { coroutine.resume(holder, table.unpack({}, 1, many)) }
      local function give(...) -- luacheck: ignore
        return { coroutine.resume(coroutine.create(table.unpack), {}, 1, many) }
      end
      return arguments, (give(table.unpack({}, 1, many)))
    end
    local arguments, results = pool:run(meet)
    assert.same({ false, "too many arguments to resume" }, arguments)
    assert.same({ false, "too many results to resume" }, results)
    assert.same({ arguments, results }, { meet() }) -- here they are the stock ones
  end)
end)

describe("where a worker finds modules", function()
  it("includes C modules that the host has put into package.preload", function()
    local path = package.searchpath("lfs", package.cpath)
    package.preload.the_hosts_own = assert(package.loadlib(path, "luaopen_lfs"))
    local pool <close> = concur.ThreadPoolExecutor(1)
    assert.equal("directory", pool:run(function()
      return require("the_hosts_own").attributes(".", "mode")
    end))
    package.preload.the_hosts_own = nil
  end)

  it("leaves out C functions in package.preload that need upvalues", function()
    package.preload.a_generator = coroutine.wrap(print)
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(pool.run, pool, function() return require "a_generator" end)
    package.preload.a_generator = nil
    assert.truthy(tostring(e):find "module 'a_generator' not found")
  end)

  it("includes luarocks' loader, required anew and not copied", function()
    child [[
      local concur = require "concur"
      package.preload["luarocks.loader"] = function()
        LOADED = "in this state" -- luacheck: ignore
        return { luarocks_loader = function() return "no such rock" end }
      end
      table.insert(package.searchers, 2, require("luarocks.loader").luarocks_loader)
      local searchers, loaded = concur.to_thread(function()
        return #package.searchers, LOADED
      end)
      assert(searchers == #package.searchers - 1 and loaded == "in this state")
      package.preload["luarocks.loader"] = function() error "broken" end
      local pool <close> = concur.ThreadPoolExecutor(1)
      assert(pool:run(math.abs, -1) == 1) -- a worker can do without
    ]]
  end)

  it("is what Lua is built with when the state has no package library", function()
    child [[
      local concur = require "concur"
      concur.to_thread(math.abs, -1) -- what concur needs itself is loaded
      local pool = concur.ThreadPoolExecutor(1)
      local path = package.path
      package.path = "elsewhere;" .. path
      package.loaded.package = nil
      assert(pool:run(function() return package.path end) == path)
    ]]
  end)
end)

describe("pool options", function()
  it("init runs first in each state", function()
    local greeting = "hello"
    local pool <close> = concur.ThreadPoolExecutor {
      workers = 1,
      max_jobs = 1,
      init = function()
        init_value = greeting .. " from init" -- luacheck: ignore
      end,
    }
    for _ = 1, 3 do
      assert.equal("hello from init", pool:run(function()
        return init_value -- luacheck: ignore
      end))
    end
  end)

  it("an error in init breaks the pool, with the cause", function()
    local pool <close> = concur.ThreadPoolExecutor {
      workers = 2,
      name = "broken one",
      init = function()
        error "no database"
      end,
    }
    local future = pool:submit(math.abs, 1)
    local e = raised(future.result, future)
    assert.is_true(errors.is(e, "BrokenExecutor"))
    assert.truthy(e.message:find "broken one.*no database")
    assert.truthy(errors.is(e.cause, "RemoteError"))
    assert.truthy(e.cause.remote_traceback:find "worker_spec.lua")
    e = raised(pool.submit, pool, math.abs, 3)
    assert.is_true(errors.is(e, "BrokenExecutor"))
    assert.truthy(e.message:find "no database")
  end)

  it("init refuses what cannot cross when the pool is made", function()
    local out = io.stdout
    local e = raised(concur.ThreadPoolExecutor, {
      init = function()
        return out
      end,
    })
    assert.is_true(errors.is(e, "TransferError"))
  end)

  it("max_jobs gives a worker a fresh state", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1, max_jobs = 2 }
    local seen = {}
    for i = 1, 6 do
      seen[i] = pool:run(function()
        runs = (runs or 0) + 1 -- luacheck: ignore
        return runs -- luacheck: ignore
      end)
    end
    assert.same({ 1, 2, 1, 2, 1, 2 }, seen)
    assert.equal(1, pool:stats().threads_started)
  end)

  it("max_memory fails the job, not the process", function()
    local pool <close> = concur.ThreadPoolExecutor { workers = 1, max_memory = 8e6 }
    local e = raised(pool.run, pool, function()
      local t = {}
      for i = 1, math.huge do
        t[i] = ("x"):rep(1000) .. i
      end
      return t
    end)
    assert.is_true(errors.is(e, "RemoteError"))
    assert.truthy(e.message:find "not enough memory: the worker's state has reached max_memory")
    assert.equal(1, pool:run(math.abs, -1))
  end)

  it("idle ends threads without jobs", function()
    local threads = support.threads()
    local pool <close> = concur.ThreadPoolExecutor { workers = 2, idle = 0.02 }
    pool:run(math.abs, 1)
    local began = os.time()
    while pool:stats().threads > 0 and os.time() - began < 10 do
      concur.sleep(0.01)
    end
    assert.equal(0, pool:stats().threads)
    assert.equal(2, pool:run(math.abs, -2))
    pool:shutdown()
    assert.equal(threads, support.threads())
  end)
end)

describe("nested jobs", function()
  it("do not starve each other", function()
    local pool = concur.ThreadPoolExecutor(1)
    local old = concur.default_executor()
    concur.default_executor(pool)
    local function nest(depth)
      if depth == 0 then
        return 1
      end
      return 1 + require("concur").to_thread(nest, depth - 1)
    end
    local ok, result = pcall(concur.to_thread, nest, 10)
    concur.default_executor(old)
    pool:shutdown()
    assert.is_true(ok, result)
    assert.equal(11, result)
  end)

  it("share one default pool with their parent", function()
    local before = concur.default_executor():stats().submitted
    assert.equal(5, concur.to_thread(function()
      return require("concur").to_thread(math.abs, -5)
    end))
    assert.equal(before + 2, concur.default_executor():stats().submitted)
  end)

  it("cannot replace the default pool", function()
    local pool <close> = concur.ThreadPoolExecutor(1)
    local e = raised(pool.run, pool, function()
      local c = require "concur"
      c.default_executor(c.ThreadPoolExecutor(1))
    end)
    assert.is_true(errors.is(e, "InvalidState"))
  end)

  it("are cancelled with the job that waits for them", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local began = concur.now()
    local e = raised(concur.timeout, 0.1 * support.time_scale, pool.run, pool, function()
      local c = require "concur"
      return c.to_thread(c.sleep, 60)
    end)
    assert.is_true(errors.is(e, "TimeoutError"))
    assert.is_true(concur.now() - began < 10 * support.time_scale)
  end)
end)

describe("cpu_count", function()
  it("counts at least one processor, and those that it may use", function()
    local count = concur.cpu_count()
    assert.is_true(count >= 1)
    if support.has_command "taskset" then
      local out = support.check_lua [[
        local script = os.tmpname()
        local file = assert(io.open(script, "w"))
        file:write "print(require('concur').cpu_count())"
        file:close()
        os.execute("taskset -c 0 '" .. arg[-1] .. "' " .. script)
        os.remove(script)
      ]]
      assert.equal("1\n", out)
    end
  end)
end)

describe("closing the state", function()
  it("drops queued jobs and stops waiting ones", function()
    local _, stderr, seconds = child [[
      local concur = require "concur"
      local pool = concur.ThreadPoolExecutor(2)
      for i = 1, 50 do pool:submit("concur.sleep", 60) end
      concur.to_thread(math.abs, 1)
      for i = 1, 5 do concur.default_executor():submit("concur.sleep", 60) end
      concur.sleep(0.05)
    ]]
    assert.is_true(seconds < 5 * support.time_scale, seconds)
    assert.equal("", stderr)
  end)

  it("interrupts a busy loop", function()
    local _, _, seconds = child [[
      local concur = require "concur"
      local pool = concur.ThreadPoolExecutor(1)
      local future = pool:options { interrupt_after = 0 }:submit(function()
        while true do pcall(function() while true do end end) end
      end)
      while future:state() ~= "running" do concur.sleep(0.001) end
    ]]
    assert.is_true(seconds < 6 * support.time_scale, seconds)
  end)

  it("leaves a job that is stuck in C behind", function()
    local _, stderr, seconds = child [[
      local concur = require "concur"
      local pool = concur.ThreadPoolExecutor { workers = 1, name = "the pool" }
      local future = pool:options { name = "sleeper" }:submit(os.execute, "sleep 15")
      while future:state() ~= "running" do concur.sleep(0.001) end
    ]]
    assert.is_true(seconds < 10 * support.time_scale, seconds)
    assert.truthy(stderr:find "job 'sleeper' of the pool has not stopped", stderr)
  end)

  it("with os.exit(0, true) inside a task", function()
    local out, _, seconds = child [[
      local concur = require "concur"
      concur.run(function()
        local pool = concur.ThreadPoolExecutor(2)
        concur.spawn(function() pool:run("concur.sleep", 60) end)
        concur.spawn(function() concur.to_thread("concur.sleep", 60) end)
        for i = 1, 100 do pool:submit("concur.sleep", 60) end
        concur.sleep(0.05)
        io.write "leaving"
        os.exit(0, true)
      end)
    ]]
    assert.equal("leaving", out)
    assert.is_true(seconds < 6 * support.time_scale, seconds)
  end)

  it("with os.exit(0, true) at top level, and a late result", function()
    child [[
      local concur = require "concur"
      local pool = concur.ThreadPoolExecutor(2)
      for i = 1, 100 do pool:submit(function() return ("x"):rep(1000) end) end
      os.exit(0, true)
    ]]
  end)

  it("with jobs of a worker in flight", function()
    local _, _, seconds = child [[
      local concur = require "concur"
      local pool = concur.ThreadPoolExecutor(2)
      for i = 1, 4 do
        pool:submit(function()
          local c = require "concur"
          local inner = c.ThreadPoolExecutor(2)
          inner:submit(c.sleep, 60)
          return inner:run(c.sleep, 60)
        end)
      end
      concur.sleep(0.1)
    ]]
    assert.is_true(seconds < 8 * support.time_scale, seconds)
  end)

  it("again and again, in the middle of everything", function()
    child([[
      local concur = require "concur"
      for round = 1, 30 do
        local pool = concur.ThreadPoolExecutor(3)
        for i = 1, 40 do
          local future = pool:submit(function(x) return x, ("y"):rep(x * 100) end, i)
          if i % 7 == 0 then future:cancel() end
        end
        for i = 1, 3 do concur.default_executor():submit(math.abs, -i) end
        if round % 2 == 0 then concur.sleep(0) end
        concur.get_event_loop():close()
        local ok, e = pcall(pool.submit, pool, math.abs, 1)
        assert(not ok and e.kind == "Closed", e)
      end
      assert(concur.to_thread(math.abs, -1) == 1)
    ]], 60)
  end)
end)

describe("to_thread inside concur.run", function()
  it("leaves no job behind when the run ends with one in flight", function()
    concur.run(function()
      concur.spawn(concur.to_thread, "concur.sleep", 60)
      concur.sleep(0.02)
    end)
    assert.equal(0, support.counters().jobs)
  end)
end)
