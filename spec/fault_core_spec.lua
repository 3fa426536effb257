-- SPDX-License-Identifier: MIT
-- Memory that is short in the corners of the core: selects on channels, pools whose queue is full,
-- the default pool, modules of the host; and states that close while something is on its way to them.
-- How it works: spec/support/faults.lua; the usual ways are in spec/fault_spec.lua.

local faults = require "spec.support.faults"

local ERRORS = { "not enough memory", "ENOMEM", "could be started" }

local function scenario(name, options, body)
  it(name, function()
    faults.fail_cleanly(faults.frame(body, options), faults.memory, ERRORS)
  end)
end

-- The state is closed right after `body`, without another turn of its loop.
local function closing(name, body)
  it(name, function()
    faults.fail_cleanly([[
      local concur = require "concur"
      local function wait_until(condition)
        local began = concur.now()
        while not condition() do
          assert(concur.now() < began + 20, "this takes too long")
        end
      end
      local function is_idle(pool)
        local stats = pool:stats()
        return stats.queued + stats.running + stats.blocked == 0
      end
      arm()
      local ok, e = pcall(function()
        ]] .. body .. [[
      end)
      disarm()
      if not ok then error(tostring(e), 0) end
    ]], faults.memory, ERRORS, { times = { "2" } })
  end)
end

describe("memory that is short in", function()
  scenario("a select on channels", { fresh = true }, [[
    runner:run(function()
      local empty, full, values = concur.Channel(1), concur.Channel(1), 0
      full:send "first"
      concur.gather(function()
        for _ = 1, 2 do
          local key = concur.select { empty:receiving(), full:sending { "second" } }
          values = values + key
        end
      end, function()
        concur.sleep(1)
        empty:send "value"
        concur.sleep(1)
        full:recv()
      end)
      assert(values == 3 and full:try_recv()[1] == "second" and empty:size() == 0)
    end)
  ]])

  scenario("callbacks at later times", { fresh = true }, [[
    runner:run(function()
      local loop = concur.get_event_loop()
      local handles, count = {}, 0
      local ok, e = pcall(function()
        for i = 1, 200 do -- the heap of timers grows
          handles[i] = loop:call_later(i, function() count = count + 1 end)
        end
        concur.sleep(100.5)
      end)
      for _, handle in ipairs(handles) do handle:cancel() end
      assert(count == 100 or not ok)
      if not ok then error(e, 0) end
    end)
  ]])

  scenario("jobs with names, and with retries", { real = true }, [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local named = pool:options { name = "a job with a name", retry = 1 }
      for i = 1, 3 do -- the later ones in the memory of the first
        assert(named:submit("math.abs", -i):result() == i)
      end
    end)
  ]])

  scenario("a queue of jobs that is full", { real = true }, [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
      local sum = 0
      concur.task_group(function(group)
        for i = 1, 4 do
          group:spawn(function()
            local value = pool:run("math.abs", -i)
            sum = sum + value
          end)
        end
      end)
      assert(sum == 10)
    end)
  ]])

  scenario("a default pool that is replaced, and shut down", { real = true, jobs = true }, [[
    local ok, e = pcall(function()
      for i = 1, 2 do
        concur.default_executor(concur.ThreadPoolExecutor(1))
        assert(concur.to_thread(math.abs, -i) == i)
      end
      concur.default_executor():shutdown()
      assert(concur.to_thread(math.abs, -3) == 3)
    end)
    concur.get_event_loop():close()
    if not ok then error(e, 0) end
  ]])

  scenario("C modules of the host", { real = true }, [[
    local path = package.searchpath("lfs", package.cpath)
    local open = assert(package.loadlib(path, "luaopen_lfs"))
    package.preload.hosts_one, package.preload.hosts_other = open, open
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      assert(pool:run(function()
        return require "hosts_one" ~= nil and require "hosts_other" ~= nil
      end))
    end)
  ]])
end)

describe("a state that closes", function()
  closing("with a value on its way to a select loses no memory", [[
    local pool = concur.ThreadPoolExecutor(1)
    local channel, full = concur.Channel(0), concur.Channel(0)
    concur.spawn(concur.select, { channel:receiving(), full:sending { "never" } })
    concur.sleep(0)
    pool:submit(function(ch) ch:try_send { "value" } end, channel)
    wait_until(function() return is_idle(pool) end)
  ]])

  closing("with room on its way to a task that waits for it loses no memory", [[
    local pool = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
    local go = concur.Channel(1)
    pool:submit(function(ch) ch:recv() end, go)
    wait_until(function() return pool:stats().blocked == 1 or is_idle(pool) end)
    pool:submit("math.abs", -1)
    concur.spawn(pool.submit, pool, "math.abs", -2)
    concur.sleep(0)
    go:try_send(true)
    wait_until(function() return is_idle(pool) end)
  ]])

  closing("with room for a task that has not had its turn loses no memory", [[
    local pool = concur.ThreadPoolExecutor { workers = 1, queue_size = 1 }
    local go = concur.Channel(1)
    local first = pool:submit(function(ch) ch:recv() end, go)
    wait_until(function() return pool:stats().blocked == 1 or is_idle(pool) end)
    pool:submit("math.abs", -1)
    concur.spawn(pool.submit, pool, "math.abs", -2)
    concur.sleep(0)
    go:try_send(true)
    wait_until(function() return is_idle(pool) end)
    first:result() -- has come already: no turn, but mail is delivered
  ]])

  closing("while tasks wait in channels loses no memory", [[
    local full, empty = concur.Channel(1), concur.Channel(0)
    full:send(0)
    concur.spawn(full.send, full, { "never" })
    concur.spawn(empty.send, empty, { "never" })
    concur.spawn(concur.Channel(0).recv, concur.Channel(0))
    concur.spawn(empty.iter(concur.Channel(0)))
    concur.sleep(0)
  ]])

  closing("with a value on its way to a receiver loses no memory", [[
    local pool = concur.ThreadPoolExecutor(1)
    local channel = concur.Channel(0)
    concur.spawn(channel.recv, channel)
    concur.sleep(0)
    pool:submit(function(ch) ch:try_send { "value" } end, channel)
    wait_until(function() return is_idle(pool) end)
  ]])

  closing("with a value for a receiver that has not had its turn loses no memory", [[
    local pool = concur.ThreadPoolExecutor(1)
    local channel = concur.Channel(0)
    concur.spawn(channel.recv, channel)
    concur.sleep(0)
    local sent = pool:submit(function(ch) return ch:try_send { "value" } end, channel)
    wait_until(function() return is_idle(pool) end)
    assert(sent:result()) -- has come already: no turn, but mail is delivered
  ]])
end)
