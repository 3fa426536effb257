-- SPDX-License-Identifier: MIT
-- Hosts written in C (spec/host/host_*.c): many states on many threads, closed in every order; hosts
-- that fork; hosts with signal handlers of their own.

local support = require "spec.support"

-- Runs the host with the script; returns what it printed, once it has exited with code 0.
local function host(name, script, args, options)
  local path = support.tmpdir() .. "/script.lua"
  support.write_file(path, script)
  options = options or {}
  options.lua = support.build .. "/" .. name
  options.args = args
  options.timeout = options.timeout or 60
  local result = support.run_file(path, options)
  assert.equal(0, result.code, support.describe(result))
  assert.equal("", result.stderr)
  return result.stdout
end

describe("many states in one process", function()
  -- Tasks, jobs, a child process, an echo server and the host's promises, in each state.
  local WORK = [[
    local concur = require "concur"
    local function tasks()
      local queue, sum = concur.Queue(2), 0
      concur.gather(
        function() for i = 1, 20 do queue:put(i) concur.sleep(0.001) end queue:close() end,
        function() for i in queue:iter() do sum = sum + i end end)
      assert(sum == 210)
    end
    local function jobs(number)
      local channel = concur.Channel(1)
      local far = concur.default_executor():submit(function(c)
        for i = 1, 5 do c:send(i) end
        return "sent"
      end, channel)
      for i = 1, 5 do assert(channel:recv() == i) end
      assert(far:result() == "sent")
      for i, square in concur.default_executor():map(function(x) return x * x end,
          { number, number + 1 }) do
        assert(square == (number + i - 1) ^ 2)
      end
    end
    local function child(number)
      local result = concur.process.run { "echo", number }
      assert(result.stdout == number .. "\n")
    end
    local function echo(number)
      concur.task_group(function(group)
        local listener <close> = assert(concur.net.listen("127.0.0.1", 0))
        group:spawn(function()
          local stream <close> = assert(listener:accept())
          for line in stream:lines() do stream:write(line, "\n") end
        end)
        local stream <close> = assert(concur.net.connect(listener:address()))
        for i = 1, 5 do
          assert(stream:write(number, " ", i, "\n"))
          assert(stream:read() == number .. " " .. i)
        end
      end)
    end
    local function promised()
      for i, promise in ipairs(promises) do assert(promise:result() == i - 1) end
    end
    function start(number)
      concur.spawn(function()
        local ok, e = pcall(concur.gather, tasks, promised, function() jobs(number) end,
          function() child(number) end, function() echo(number) end)
        working, finished = true, true
        if not ok then failure = concur.errors.format(e) end
      end)
    end
  ]]

  it("64 at once on 8 threads, each with all there is, driven by step from poll", function()
    local out = host("host_states", WORK, { "64", "8", "ended", "poll", support.seed() },
      { timeout = 100 })
    assert.equal("1 rounds of 64 states on 8 threads\n", out)
  end)

  it("or from epoll", function()
    local out = host("host_states", WORK, { "16", "4", "ended", "epoll", support.seed() })
    assert.equal("1 rounds of 16 states on 4 threads\n", out)
  end)

  -- Everything is under way, and nothing would end by itself.
  local ENDLESS = [[
    local concur = require "concur"
    function start(number)
      local pool = concur.ThreadPoolExecutor(2)
      local channel = concur.Channel()
      concur.to_thread(math.abs, 1)
      keep = {
        concur.default_executor():submit(function(c) c:send "here" c:recv() end, channel),
        concur.default_executor():submit("concur.sleep", 3600),
        pool:submit("concur.sleep", 3600), pool:submit("concur.sleep", 3600),
        pool:submit("concur.sleep", 3600), pool, channel,
      }
      if number % 4 == 3 then
        local view = concur.ThreadPoolExecutor(1):options { interrupt_after = 0 }
        keep.busy = view:submit(function() while BUSY do end end)
      end
      local begin = concur.spawn(function()
        local listener = assert(concur.net.listen("127.0.0.1", 0))
        concur.spawn(function() assert(listener:accept()):read "a" end)
        local stream = assert(concur.net.connect(listener:address()))
        concur.spawn(function() stream:read "a" end)
        if number % 2 == 0 then
          keep.child = assert(concur.process.spawn { "sleep", 3600 })
        end
        concur.spawn(function() promises[1]:result() concur.sleep_forever() end)
        concur.spawn(function() concur.timeout(3600, concur.Event().wait, concur.Event()) end)
        concur.spawn(function() pcall(concur.wait, promises) concur.sleep_forever() end)
        assert(channel:recv() == "here")
        working = true
      end)
      begin:add_done_callback(function() failure = begin:exception() end)
    end
  ]]

  it("are closed in every order while the others work, from their own threads", function()
    local out = host("host_states", ENDLESS, { "4", "4", "orders", "poll", support.seed() })
    assert.equal("24 rounds of 4 states on 4 threads\n", out)
    out = host("host_states", ENDLESS, { "3", "2", "orders", "epoll", support.seed() })
    assert.equal("6 rounds of 3 states on 2 threads\n", out)
  end)

  it("are closed at the same moment, some with busy jobs", function()
    local out = host("host_states", (ENDLESS:gsub("BUSY", "true")),
      { "16", "8", "at-once", "poll", support.seed() })
    assert.equal("1 rounds of 16 states on 8 threads\n", out)
  end)
end)

describe("a host that forks with busy threads", function()
  local SCRIPT = [[
    local concur = require "concur"
    local pool, shared, future
    function start()
      pool = concur.ThreadPoolExecutor(2)
      shared = concur.Channel(4)
      concur.ThreadPoolExecutor(1):submit(function() -- holds its lock as often as it can
        local c = require "concur"
        while not c.cancelled() do
          shared:try_send(1)
          shared:try_recv()
        end
      end)
      future = pool:submit(math.abs, -1)
      for _ = 1, 2 do
        pool:submit(function() -- takes locks of all kinds all the time
          local c = require "concur"
          while not c.cancelled() do
            local channel = c.Channel(2)
            channel:send { ("x"):rep(1000) }
            channel:recv()
            c.sleep(0)
          end
        end)
      end
      keep = { pool, concur.default_executor():submit("concur.sleep", 3600) }
      concur.spawn(concur.sleep, 3600)
      concur.sleep(0.01)
    end
    local function refused(fn, ...)
      local ok, e = pcall(fn, ...)
      assert(not ok and concur.errors.is(e, "InvalidState"), tostring(e))
    end
    function in_child()
      refused(concur.sleep, 0)
      refused(concur.run, type, 1)
      refused(pool.submit, pool, type, 1)
      refused(concur.to_thread, type, 1)
      refused(pool.stats, pool)
      refused(shared.try_send, shared, 1)
      refused(shared.recv, shared)
      tostring(pool)
      tostring(shared)
      future:cancel()
      future:state()
      pool:close()
      local _ <close> = pool
      shared:close()
      concur.get_event_loop():close()
      keep, shared = nil, nil
      collectgarbage()
      collectgarbage()
    end
    function in_parent()
      concur.run(function()
        assert(concur.to_thread(math.abs, -1) == 1)
        assert(concur.process.run({ "true" }).code == 0)
        concur.sleep(0.001)
      end)
    end
  ]]

  -- AddressSanitizer's allocator has locks that fork does not take: a child that allocates may wait for
  -- one for ever. ThreadSanitizer itself dies where a child starts threads ("dup thread with used id").
  local flags = support.read_file(support.build .. "/flags")
  local children = { "leaves", "executes" }
  if not flags:find("-fsanitize=address", 1, true) then
    table.move({ "uses", "closes", "forks" }, 1, 3, 3, children)
    if not flags:find("-fsanitize=thread", 1, true) then
      children[#children + 1] = "starts"
    end
  end

  for _, child in ipairs(children) do
    it(("goes on, and so does the child that %s"):format(child), function()
      host("host_forks", SCRIPT, { child, "6" }, {
        env = {
          ASAN_OPTIONS = "detect_leaks=0", -- the child leaks on purpose
          TSAN_OPTIONS = (os.getenv "TSAN_OPTIONS" or "") .. ":die_after_fork=0",
        },
      })
    end)
  end
end)

describe("a host's own handlers of SIGINT, SIGCHLD and SIGURG", function()
  local SCRIPT = [[
    local concur = require "concur"
    local function endless()
      while true do end
    end
    local function interrupt()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local future = pool:options({ interrupt_after = 0 }):submit(endless)
      while future:state() ~= "running" do concur.sleep(0.001) end
      future:cancel()
      local ok, e = pcall(future.result, future, 20)
      assert(not ok and concur.errors.is(e, "FutureCancelled"), tostring(e))
    end
    local function child()
      local before = count "SIGCHLD"
      assert(concur.process.run({ "sh", "-c", "exit 3" }).code == 3)
      assert(count "SIGCHLD" > before)
    end
    local function called(name)
      local before = count(name)
      raise(name)
      assert(count(name) == before + 1, name)
    end
    local function all_called()
      assert(ours "SIGINT" and ours "SIGCHLD")
      called "SIGINT" called "SIGCHLD" called "SIGURG"
    end
    local function all()
      all_called()
      child()
      interrupt()
      all_called()
      -- Ctrl-C while something runs is concur's, and only then.
      local before = count "SIGINT"
      local ok, e = pcall(concur.run, function()
        child()
        interrupt()
        called "SIGURG" called "SIGCHLD"
        raise "SIGINT"
        concur.sleep(60)
      end)
      assert(not ok and concur.errors.is(e, "Interrupted"), tostring(e))
      assert(count "SIGINT" == before)
      all_called()
      concur.Runner({ handle_sigint = false }):run(function()
        called "SIGINT"
        child()
      end)
    end
  ]]

  it("installed before concur is loaded", function()
    host("host_handlers", SCRIPT .. "all() all()", { "before" })
  end)

  it("installed afterwards, also again and again between interrupts", function()
    host("host_handlers", SCRIPT .. [[
      interrupt()
      for _ = 1, 40 do
        install()
        interrupt()
      end
      all()
    ]], { "after" })
  end)

  it("that call the ones before them", function()
    host("host_handlers", SCRIPT .. [[
      interrupt()
      install()
      interrupt() -- now each calls the other
      all()
    ]], { "chained" })
  end)

  it("installed while concur runs, and the state closes inside of that", function()
    host("host_handlers", SCRIPT .. [[
      concur.run(function()
        install()
        interrupt()
        child()
        called "SIGCHLD" called "SIGURG"
      end)
      install()
      all()
      local it = concur.signal.receive("SIGINT", "SIGCHLD") -- closed with the state
    ]], { "after" })
  end)
end)
