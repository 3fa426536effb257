-- SPDX-License-Identifier: MIT
-- Closing a Lua state with work in flight: never a crash, never a hang. A child for each case.

local support = require "spec.support"

-- Runs the code in a child. It must exit with code 0 (or `code`) within a few seconds.
local function child(body, code)
  local result = support.run_lua('local concur = require "concur"\n' .. body, { timeout = 10 })
  assert.equal(code or 0, result.code, support.describe(result))
  return result
end

local closer = [[
  local function closer(name)
    return setmetatable({}, { __close = function() print(name) end })
  end
]]

describe("a Lua state that ends", function()
  it("with tasks not started, parked and ready runs none of their code", function()
    local result = child(closer .. [[
      local future = concur.Future()
      concur.spawn(function() print "must not run" end)
      concur.sleep(0)
      for _ = 1, 10 do
        concur.spawn(function()
          local _ <close> = closer "must not run"
          pcall(concur.sleep, 100)
          print "must not run"
        end)
        concur.spawn(function()
          local _ <close> = closer "must not run"
          future:result()
          print "must not run"
        end)
      end
      concur.sleep(0)
      future:set_result()
      concur.spawn(function() print "must not run" end)
    ]])
    assert.equal("must not run\n", result.stdout) -- the first one, which had its turn
    assert.equal("", result.stderr)
  end)

  it("with timers and callbacks in flight", function()
    child [[
      local loop = concur.get_event_loop()
      for i = 1, 100 do
        loop:call_later(i, print, "must not run")
        loop:call_soon(print, "must not run")
      end
    ]]
  end)

  it("with a task in each kind of wait", function()
    child [[
      local future = concur.Future()
      local held
      for _, fn in ipairs {
        function() concur.sleep(100) end,
        function() concur.sleep_forever() end,
        function() future:result() end,
        function() future:result(100) end,
        function() concur.gather(concur.sleep_forever, future) end,
        function() concur.settle(concur.sleep_forever, future) end,
        function() concur.race(concur.sleep_forever, concur.Future()) end,
        function() concur.any(concur.sleep_forever, concur.Future()) end,
        function() concur.wait({ future }, { timeout = 100 }) end,
        function() for _ in concur.as_completed({ future }, { timeout = 100 }) do end end,
        function() concur.suspend(function(resume) held = resume end) end,
        function() concur.timeout(100, concur.sleep_forever) end,
        function() concur.task_group(function(g) g:spawn(concur.sleep_forever) end) end,
        function() concur.shield(concur.sleep_forever) end,
      } do
        concur.spawn(fn)
      end
      concur.sleep(0.001)
      kept = { future, held } -- finalized after the loop
    ]]
  end)

  it("in a finalizer that uses concur", function()
    child [[
      keep = setmetatable({}, { __gc = function()
        pcall(concur.sleep, 1)
        pcall(concur.spawn, print)
        pcall(concur.run, print)
        pcall(function() concur.Future():set_result(1) end)
        pcall(function() concur.get_event_loop():call_soon(print) end)
        pcall(function() concur.get_event_loop():close() end)
        pcall(concur.now)
        pcall(concur.all_tasks)
      end })
      concur.spawn(concur.sleep, 100)
      concur.sleep(0)
    ]]
  end)

  it("with objects of concur that are finalized in any order", function()
    child [[
      local future = concur.Future()
      local task = concur.spawn(function() future:result() end)
      concur.sleep(0)
      for i = 1, 20 do
        _G["keep" .. i] = setmetatable({ task, future }, { __gc = function(t)
          pcall(t[1].state, t[1])
          pcall(t[1].cancel, t[1])
          pcall(t[1].traceback, t[1])
          pcall(t[1].awaiting, t[1])
          pcall(t[2].set_result, t[2], 1)
          pcall(t[2].result, t[2])
          pcall(tostring, t[1])
        end })
      end
    ]]
  end)

  it("after its loop was closed and made again", function()
    child [[
      for _ = 1, 5 do
        concur.spawn(concur.sleep, 100)
        concur.sleep(0)
        concur.get_event_loop():close()
      end
      concur.spawn(concur.sleep, 100)
    ]]
  end)

  it("with an error that nobody retrieved reports it and exits with 0", function()
    local result = child [[
      task = concur.spawn(error, "unseen", 0)
      concur.sleep(0)
    ]]
    assert.matches("unseen", result.stderr)
  end)

  it("by an error of the script, with tasks in flight", function()
    local result = child([[
      concur.spawn(concur.sleep, 100)
      concur.sleep(0)
      error "the script's own error"
    ]], 1)
    assert.matches("the script's own error", result.stderr)
  end)

  it("with jobs running and queued on worker threads", function()
    child [[
      local pool = concur.ThreadPoolExecutor(2)
      for i = 1, 10 do
        pool:submit(function()
          local stop = os.clock() + 0.05
          while os.clock() < stop do end
        end)
      end
    ]]
  end)

  it("with a task that waits for a job", function()
    child [[
      concur.spawn(concur.to_thread, function()
        local stop = os.clock() + 0.05
        while os.clock() < stop do end
      end)
      concur.sleep(0.005)
    ]]
  end)

  it("with a job stuck in C does not wait for it much longer than its grace time", function()
    local start = os.time()
    child [[
      concur.spawn(concur.to_thread, os.execute, "exec sleep 30")
      concur.sleep(0.05)
    ]]
    assert.is_true(os.time() - start < 10)
  end)
end)

describe("a loop that is closed", function()
  it("inside a cancel scope at top level is an error", function()
    child [[
      local errors = require "concur.errors"
      local loop = concur.get_event_loop()
      local ok, e = pcall(concur.timeout, 0.02, function()
        local closed, err = pcall(loop.close, loop)
        assert(not closed and errors.is(err, "InvalidState"), err)
        concur.sleep(5)
      end)
      assert(not ok and errors.is(e, "TimeoutError"), e)
      loop:close()
    ]]
  end)
end)

describe("os.exit with closing", function()
  it("inside a task ends the program at once with its code", function()
    local result = child([[
      concur.run(function()
        concur.spawn(concur.sleep, 100)
        concur.sleep(0)
        print "leaving"
        os.exit(7, true)
      end)
    ]], 7)
    assert.equal("leaving\n", result.stdout)
  end)

  it("inside a task runs no code of other tasks", function()
    local result = child(closer .. [[
      concur.run(function()
        concur.spawn(function()
          local _ <close> = closer "must not run"
          pcall(concur.sleep, 100)
          print "must not run"
        end)
        concur.sleep(0)
        os.exit(0, true)
      end)
    ]])
    assert.equal("", result.stdout)
  end)

  it("inside a nested coroutine of a task", function()
    child([[
      concur.run(function()
        coroutine.wrap(function() os.exit(3, true) end)()
      end)
    ]], 3)
  end)

  it("inside a callback of the loop, a done callback and on_error", function()
    child([[
      concur.get_event_loop():call_soon(os.exit, 4, true)
      concur.sleep(1)
    ]], 4)
    child([[
      concur.run(function()
        local future = concur.Future()
        future:add_done_callback(function() os.exit(5, true) end)
        future:set_result()
        concur.sleep(1)
      end)
    ]], 5)
    child([[
      local runner = concur.Runner { on_error = function() os.exit(6, true) end }
      runner:run(function()
        concur.get_event_loop():call_soon(error)
        concur.sleep(1)
      end)
    ]], 6)
  end)

  it("inside a step of an embedded loop", function()
    child([[
      concur.spawn(os.exit, 9, true)
      concur.get_event_loop():step(0)
    ]], 9)
  end)

  it("inside a child of gather, a group, a time-out and a shield", function()
    child([[
      concur.run(function()
        concur.timeout(10, function()
          concur.task_group(function(group)
            group:spawn(function()
              concur.gather(concur.sleep_forever, function()
                concur.shield(function()
                  concur.sleep(0)
                  os.exit(8, true)
                end)
              end)
            end)
          end)
        end)
      end)
    ]], 8)
  end)

  it("inside the clean-up of a cancelled task", function()
    child([[
      concur.run(function()
        concur.spawn(function()
          pcall(concur.sleep, 100)
          os.exit(11, true)
        end)
        concur.sleep(0)
      end)
    ]], 11)
  end)

  it("inside a task while jobs run", function()
    child([[
      concur.run(function()
        local pool = concur.ThreadPoolExecutor(2)
        for _ = 1, 6 do
          pool:submit(function()
            local stop = os.clock() + 0.05
            while os.clock() < stop do end
          end)
        end
        concur.sleep(0.01)
        os.exit(12, true)
      end)
    ]], 12)
  end)

  it("inside suspend's function and its on_cancel", function()
    child([[
      concur.run(function() concur.suspend(function() os.exit(13, true) end) end)
    ]], 13)
    child([[
      concur.run(function()
        local task = concur.spawn(concur.suspend, function()
          return function() os.exit(14, true) end
        end)
        concur.sleep(0)
        task:cancel()
        concur.sleep(0)
      end)
    ]], 14)
  end)

  it("without closing works as well", function()
    child([[
      concur.run(function()
        concur.spawn(concur.sleep, 100)
        concur.sleep(0)
        os.exit(15)
      end)
    ]], 15)
  end)
end)

describe("several states", function()
  it("in one process use concur independently", function()
    -- The test host can make states; the stock interpreter cannot.
    local path = support.tmpdir() .. "/script.lua"
    support.write_file(path, [[
      local code = [=[
        local concur = require "concur"
        concur.spawn(concur.sleep, 100)
        value = concur.run(function() return concur.sleep(0.001, 42) end)
        assert(value == 42)
        concur.spawn(concur.sleep_forever)
        concur.sleep(0)
      ]=]
      local concur = require "concur"
      local task = concur.spawn(concur.sleep, 0.01, "outer")
      concur.sleep(0)
      for _ = 1, 5 do
        local failed, ok, message = testhost.run(code, 1) -- never armed: nothing fails
        assert(ok, message)
      end
      print(concur.run(function()
        local failed, ok, message = testhost.run(code, 1)
        assert(ok, message)
        return concur.sleep(0.001, "inner")
      end))
    ]])
    local result = support.execute({ support.host, path }, {
      env = {
        LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
        LUA_CPATH = support.build .. "/?.so;;",
      },
    })
    assert.equal(0, result.code, support.describe(result))
    assert.equal("inner\n", result.stdout)
  end)
end)

describe("loading", function()
  it("of the module alone starts no thread, opens no descriptor and takes no signal", function()
    local result = child [[
      local function count(dir)
        local list = io.popen("ls /proc/$PPID/" .. dir)
        local _, n = list:read("a"):gsub("\n", "")
        list:close()
        return n
      end
      local fds, threads = count "fd", count "task"
      concur.now()
      concur.Future()
      assert(count "fd" == fds and count "task" == threads)
      assert(threads == 1, threads)
    ]]
    assert.equal("", result.stderr)
  end)

  it("of the library twice gives the same one", function()
    child [[
      package.loaded.concur = nil
      local again = require "concur"
      assert(again.run(function() return again.sleep(0, 1) end) == 1)
      assert(concur.run(function() return concur.sleep(0, 2) end) == 2)
    ]]
  end)
end)
