-- SPDX-License-Identifier: MIT
-- Calls that fail below what needs no network: select, context variables, map, retry, progress, module
-- proxies, signals; and the memory of the Lua state below the same and below processes, connections
-- and LuaSocket's objects. How it works: spec/support/faults.lua.

local faults = require "spec.support.faults"

local ERRORS = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN", "could be started",
  "again" } -- what a job raises that was to be repeated

---Runs a scenario with the calls of each kind failing in turn; "state" is the Lua state's memory.
local function scenario(name, kinds, body)
  for _, kind in ipairs(kinds) do
    it(("%s (%s)"):format(name, kind), function()
      local functions = kind ~= "state" and faults[kind]
      local options = kind == "interrupted" and { errno = 4, times = { "1", "7" } } or nil
      local allowed = kind == "interrupted" and { "there is no such error" } or ERRORS
      faults.fail_cleanly(faults.frame(body, { real = true }), functions, allowed, options)
    end)
  end
end

describe("calls that fail in", function()
  scenario("select over all that it takes", { "state", "memory", "loop", "interrupted" }, [[
    concur.run(function()
      local channel, full, queue = concur.Channel(0), concur.Channel(0), concur.Queue(1)
      local event, future = concur.Event(), concur.Future()
      local it <close> = concur.signal.receive "SIGWINCH"
      local seen = {}
      local task = concur.spawn(function()
        for i = 1, 6 do
          local key, value = concur.select {
            received = channel:receiving(), sent = full:sending { i }, got = queue:getting(),
            event = not seen.event and event:waiting() or nil,
            future = not seen.future and future or nil,
            signal = it:receiving(), late = concur.after(10) }
          seen[key] = (seen[key] or 0) + 1
          if key == "late" then error "nothing came" end
        end
      end)
      concur.sleep(0.001)
      channel:try_send "a"
      concur.sleep(0.001)
      concur.spawn(full.recv, full)
      concur.sleep(0.001)
      queue:try_put "b"
      concur.sleep(0.001)
      event:set()
      concur.sleep(0.001)
      future:set_result(1)
      concur.sleep(0.001)
      concur.signal.raise "SIGWINCH"
      concur.move_on_after(0.2, concur.wait, { task })
      if task:state() == "failed" then error(task:exception(), 0) end
      if not task:done() then
        task:cancel()
        error("not enough memory for one of them", 0)
      end
      for _, key in ipairs { "received", "sent", "got", "event", "future", "signal" } do
        assert(seen[key] == 1, key)
      end
    end)
  ]])

  scenario("context variables", { "state" }, [[
    local var = concur.ContextVar "outside"
    concur.run(function()
      var:set "root"
      local values = concur.gather {
        function() var:set "one" concur.sleep(0) return var:get() end,
        function() return var:with("two", function() concur.sleep(0) return var:get() end) end,
        function() concur.sleep(0) return var:get() end,
      }
      assert(table.concat(values, " ") == "one two root" and var:get() == "root")
    end)
  ]])

  scenario("map, retry and progress", { "state", "memory", "threads" }, [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local channel = concur.Channel(4)
      local stubborn = pool:options { retry = 2, name = "stubborn" }
      local tries = stubborn:run(function(to)
        tries = (tries or 0) + 1
        to:send(tries)
        if tries < 3 then error("again", 0) end
        return tries
      end, channel)
      assert(tries >= 1 and tries <= 3)
      local lines = {}
      local output = { write = function(_, text) lines[#lines + 1] = text end }
      local sum = 0
      local it, state, control, closing = pool:map(function(x) return x * 2 end, { 1, 2, 3, 4 },
        { chunk = 2, window = 2 })
      for _, value in concur.progress(it, state, control, closing,
        { output = output, enabled = true, total = 4, interval = 0, width = 60 }) do
        sum = sum + value
      end
      assert(sum == 20)
    end)
  ]])

  scenario("a module behind a proxy", { "state", "memory" }, [[
    concur.run(function()
      local proxy = concur.module "string"
      assert(proxy.rep("ab", 2) == "abab")
    end)
  ]])

  scenario("locks, semaphores, conditions and barriers", { "state" }, [[
    concur.run(function()
      local lock, semaphore, barrier = concur.Lock(), concur.Semaphore(1), concur.Barrier(2)
      local condition, ready, inside = concur.Condition(lock), false, 0
      local function work()
        do
          local _ <close> = semaphore:acquire()
          inside = inside + 1
          assert(inside == 1)
          local _ <close> = setmetatable({}, { __close = function() inside = inside - 1 end })
          concur.sleep(0)
        end
        barrier:wait()
        lock:with(function()
          while not ready do condition:wait() end
        end)
      end
      concur.timeout(5, concur.gather, work, work, function()
        concur.sleep(0.001)
        lock:with(function() ready = true condition:notify(2) end)
      end)
      assert(not lock:locked() and semaphore:try_acquire())
    end)
  ]])

  scenario("a child process", { "state" }, [[
    concur.run(function()
      local result, err = concur.process.run { "cat", input = "text" }
      if not result then error(err, 0) end
      assert(result.stdout == "text" and result.code == 0)
    end)
  ]])

  scenario("connections and LuaSocket's objects", { "state" }, [[
    local net, socket = require "concur.net", require "concur.compat.socket"
    concur.run(function()
      local server <close> = assert(net.listen("127.0.0.1", 0))
      local _, port = server:address()
      local echo = concur.spawn(function()
        local stream <close> = assert(server:accept())
        assert(stream:write(assert(stream:read "L")))
      end)
      echo:add_done_callback(function() server:close() end)
      local ok, err = pcall(concur.timeout, 2, function()
        local client = assert(socket.connect("127.0.0.1", port))
        assert(client:send "hello\n")
        assert(assert(client:receive "*l") == "hello")
        client:close()
      end)
      server:close()
      echo:cancel()
      concur.wait { echo }
      if not ok then error("not enough memory: " .. tostring(err), 0) end
      if echo:state() == "failed" then error(echo:exception(), 0) end
      local one <close> = assert(net.listen { path = "\0concur-fault-" .. port })
      local two <close> = assert(net.connect { path = "\0concur-fault-" .. port })
    end)
  ]])
end)
