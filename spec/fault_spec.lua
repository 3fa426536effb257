-- SPDX-License-Identifier: MIT
-- Faults below Lua: memory that concur and libuv ask for, threads, locks, descriptors, interrupted
-- system calls. How it works: spec/support/faults.lua; memory of Lua states: spec/oom_spec.lua.

local faults = require "spec.support.faults"

-- What an error may say, whichever of the calls failed: the code's name, or Lua's own words.
local ERRORS = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN", "could be started" }

-- An interrupted call is made again: no error at all.
local NONE = { "there is no such error" }

---Runs a scenario with the calls of each kind failing in turn.
---@param kinds string[] names of lists in spec/support/faults.lua
---@param options table as for faults.frame
local function scenario(name, kinds, options, body)
  for _, kind in ipairs(kinds) do
    it(("%s (%s)"):format(name, kind), function()
      local allowed = kind == "interrupted" and NONE or ERRORS
      local times = kind == "interrupted" and { "1", "7" } or nil
      faults.fail_cleanly(faults.frame(body, options), faults[kind], allowed, { times = times })
    end)
  end
end

describe("calls that fail in", function()
  scenario("the first use of the loop", { "memory", "primitives", "loop", "epoll" },
    { real = true, fresh = true }, [[
      assert(concur.run(function() concur.sleep(0) return 7 end) == 7)
    ]])

  scenario("waits at top level", { "memory", "loop", "epoll", "interrupted" },
    { real = true, fresh = true }, [[
      local task = concur.spawn(function() concur.sleep(0.001) return 1 end)
      assert(task:result() == 1)
      local ok, e = pcall(concur.timeout, 0.001, concur.sleep, 5)
      if not errors.is(e, "TimeoutError") then error(e, 0) end
    ]])

  scenario("tasks, a group and a timeout", { "memory" }, { fresh = true }, [[
    local closed = 0
    local ok, e = pcall(runner.run, runner, function()
      concur.task_group(function(group)
        for i = 1, 40 do
          group:spawn(function()
            local _ <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
            concur.sleep(i)
          end)
        end
        concur.sleep(0)
      end)
      local ok, e = pcall(concur.timeout, 1, concur.sleep, 5)
      if not errors.is(e, "TimeoutError") then error(e, 0) end
    end)
    assert(closed == 40 or not ok)
    if not ok then error(e, 0) end
  ]])

  scenario("a thread pool", { "memory", "threads", "primitives", "interrupted" },
    { real = true }, [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(2)
      local text, list = ("x"):rep(40000), {}
      for i = 1, 30 do list[i] = { i, "item " .. i } end
      local future = pool:submit(function(x, s, t) return x + 1, #s, t, s end, 41, text, list)
      local a, b, c, d = future:result()
      assert(a == 42 and b == 40000 and c[30][2] == "item 30" and d == text)
      assert(pool:submit("math.abs", -1):result() == 1)
      local failing = pool:submit(function() error "on purpose" end)
      local ok, e = pcall(failing.result, failing)
      if not tostring(e):find "on purpose" then error(e, 0) end
    end)
  ]])

  scenario("jobs that are cancelled and mapped", { "memory", "threads" }, { real = true }, [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor { workers = 2, queue_size = 4, name = "few" }
      local sum = 0
      for _, value in pool:map(function(x) return x * 2 end, { 1, 2, 3, 4, 5, 6, 7, 8 }) do
        sum = sum + value
      end
      assert(sum == 72)
      local busy = pool:submit(function()
        while not require "concur".cancelled() do end
        return "stopped"
      end)
      busy:cancel()
      local ok, e = pcall(busy.result, busy)
      if not ok and not errors.is(e, "FutureCancelled") then error(e, 0) end
    end)
  ]])

  scenario("jobs that wait for jobs", { "threads" }, { real = true, cold = true, jobs = true }, [[
    local function nested(depth)
      local concur = require "concur"
      if depth == 0 then return 1 end
      return 1 + concur.to_thread(nested, depth - 1)
    end
    local ok, value = pcall(concur.timeout, 20, concur.to_thread, nested, 3)
    if not ok then error(value, 0) end
    assert(value == 4)
  ]])

  scenario("a first job on the default pool", { "memory", "threads", "primitives" },
    { real = true, cold = true, jobs = true }, [[
      assert(concur.to_thread(function(x) return x + 1 end, 41) == 42)
    ]])

  scenario("a channel and a shared buffer in one state", { "memory", "primitives" },
    { fresh = true }, [[
      runner:run(function()
        local channel, buffer = concur.Channel(1), concur.SharedBuffer(64)
        concur.gather(
          function() for i = 1, 4 do channel:send { i } end channel:close() end,
          function() for t in channel:iter() do buffer:add(1, t[1]) end end)
        assert(buffer:load(1) == 10)
      end)
    ]])

  scenario("channels and shared buffers", { "memory", "primitives" }, { real = true }, [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local there, back = concur.Channel(2), concur.Channel(0)
      local buffer = concur.SharedBuffer(64)
      local job = pool:submit(function(from, to, shared)
        local count = 0
        for value in from:iter() do
          count = count + 1
          to:send { value }
        end
        shared:store(1, count)
        to:close()
        return count
      end, there, back, buffer)
      job:add_done_callback(function() there:close() back:close() end) -- also when it failed
      local sum = 0
      local ok, e = pcall(concur.gather,
        function() for i = 1, 4 do there:send(i) end there:close() end,
        function() for t in back:iter() do sum = sum + t[1] end end)
      there:close()
      back:close()
      local done, count = pcall(job.result, job)
      if not ok and not errors.is(e, "Closed") then error(e, 0) end -- Closed: the job failed first
      if not done then error(count, 0) end
      assert(sum == 10 and count == 4)
    end)
  ]])

  scenario("streams", { "memory", "descriptors", "interrupted" }, { real = true }, [[
    concur.run(function()
      local net = concur.net
      local listener = assert(net.listen("127.0.0.1", 0))
      local _, port = listener:address()
      local server = concur.spawn(function()
        local _ <close> = listener -- when this fails, the client is refused
        local stream <close> = assert(listener:accept())
        for line in stream:lines() do
          if not stream:write(line, "\n", ("x"):rep(70000), "\n") then return end
        end
      end)
      local ok, e = pcall(concur.timeout, 10, function()
        local stream <close> = assert(net.connect("127.0.0.1", port))
        for i = 1, 3 do
          assert(stream:write("line ", i, "\n"))
          assert(assert(stream:read()) == "line " .. i)
          assert(#assert(stream:read()) == 70000)
        end
      end)
      server:cancel()
      concur.wait { server }
      if not ok then
        -- What was refused may be the other side's: then this one sees the end, or nothing.
        local cause = server:state() == "failed" and server:exception() or e
        error(server:state() == "failed" and cause or "not enough memory for: " .. tostring(e), 0)
      end
    end)
  ]])

  scenario("a child process", { "memory", "descriptors" }, { real = true }, [[
    concur.run(function()
      local result = assert(concur.process.run { "cat", input = ("y"):rep(100000) })
      assert(result.code == 0 and #result.stdout == 100000)
    end)
  ]])
end)
