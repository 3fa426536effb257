-- SPDX-License-Identifier: MIT
-- concur.signal: receivers, what happens to signals that nobody took, and SIGINT beside run.

local concur = require "concur"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local oom = require "spec.support.oom"
local support = require "spec.support"

local signal = require "concur.signal"

-- A line of /proc/self/status as a number: which signals have a handler, or are ignored.
local function mask(name)
  local status = support.read_file "/proc/self/status"
  return tonumber(status:match(name .. ":%s*(%x+)"), 16)
end

-- A signal has a handler that had none then; under valgrind each has one of valgrind's, always.
local function caught_since(before)
  return support.under_valgrind or mask "SigCgt" ~= before
end

describe("signal.receive", function()
  it("iterates over the signals that arrive", function()
    local got = {}
    concur.run(function()
      concur.spawn(function()
        concur.sleep(0.001)
        assert.is_true(signal.raise "SIGUSR1")
        assert.is_true(signal.raise "SIGUSR2")
      end)
      for name in signal.receive("SIGUSR1", "SIGUSR2") do
        got[#got + 1] = name
        if #got == 2 then
          break
        end
      end
    end)
    table.sort(got)
    assert.same({ "SIGUSR1", "SIGUSR2" }, got)
  end)

  it("works at top level, and counts what came before it was asked", function()
    local it, state, control, closing = signal.receive "SIGUSR1"
    assert.is_nil(state)
    assert.is_nil(control)
    assert.equal(it, closing)
    for _ = 1, 3 do
      signal.raise "SIGUSR1"
    end
    for _ = 1, 3 do
      assert.equal("SIGUSR1", it())
    end
    assert.is_false((concur.move_on_after(0.01, it)))
    it:close()
  end)

  it("gives each of several receivers every signal", function()
    concur.run(function()
      local a <close> = signal.receive "SIGUSR1"
      local b <close> = signal.receive("SIGUSR2", "SIGUSR1")
      for _ = 1, 10 do
        signal.raise "SIGUSR1"
        assert.equal("SIGUSR1", a())
      end
      for _ = 1, 10 do
        assert.equal("SIGUSR1", b())
      end
    end)
  end)

  it("gives each signal to one of the tasks that wait on the same receiver, in order", function()
    concur.run(function()
      local it <close> = signal.receive "SIGUSR1"
      local order = {}
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = concur.spawn(function()
          it()
          order[#order + 1] = i
        end)
      end
      concur.sleep(0)
      for _ = 1, 3 do
        signal.raise "SIGUSR1"
      end
      concur.settle(table.unpack(tasks))
      assert.same({ 1, 2, 3 }, order)
    end)
  end)

  it("gives no signal to a task whose coroutine somebody has closed", function()
    concur.run(function()
      local it <close> = signal.receive "SIGUSR1"
      local victim
      local lost = concur.spawn(function()
        victim = coroutine.running()
        it()
      end)
      local waiting = concur.spawn(it)
      concur.sleep(0)
      coroutine.close(victim)
      signal.raise "SIGUSR1"
      assert.equal("SIGUSR1", waiting:result())
      expect.error("InvalidState", lost.result, lost)
      assert.is_false((concur.move_on_after(0.01, it)))
    end)
  end)

  it("does not let one signal starve another", function()
    local it <close> = signal.receive("SIGUSR1", "SIGUSR2")
    for _ = 1, 5 do
      signal.raise "SIGUSR1"
      signal.raise "SIGUSR2"
    end
    local seen = { SIGUSR1 = 0, SIGUSR2 = 0 }
    for _ = 1, 4 do
      local name = it()
      seen[name] = seen[name] + 1
    end
    assert.same({ SIGUSR1 = 2, SIGUSR2 = 2 }, seen)
    for _ = 1, 6 do
      it()
    end
  end)

  it("is an arm of select", function()
    concur.run(function()
      local it <close> = signal.receive "SIGUSR1"
      local queue = concur.Queue()
      concur.spawn(function()
        signal.raise "SIGUSR1"
      end)
      local arms = { signal = it:receiving(), queue = queue:getting() }
      local key, name = concur.select(arms)
      assert.equal("signal", key)
      assert.equal("SIGUSR1", name)
      queue:put(7)
      key, name = concur.select { signal = it:receiving(), queue = queue:getting() }
      assert.equal("queue", key)
      assert.equal(7, name)
      signal.raise "SIGUSR1"
      assert.equal("SIGUSR1", select(2, concur.select { it:receiving() })) -- at once
      concur.spawn(it.close, it)
      assert.is_nil(select(2, concur.select { it:receiving() }))
      assert.is_nil(select(2, concur.select { it:receiving() }))
    end)
  end)

  it("loses no signal to an arm that was not chosen", function()
    concur.run(function()
      local it <close> = signal.receive "SIGUSR1"
      for _ = 1, 50 do
        local queue = concur.Queue()
        concur.spawn(function()
          signal.raise "SIGUSR1"
          queue:put "item"
        end)
        local key = concur.select { signal = it:receiving(), queue = queue:getting() }
        if key == "signal" then
          assert.equal("item", queue:get())
        else
          assert.equal("SIGUSR1", it())
        end
      end
      assert.is_false((concur.move_on_after(0.001, it)))
    end)
  end)

  it("ends its iteration when it is closed, and closing again does nothing", function()
    concur.run(function()
      local it = signal.receive "SIGUSR1"
      local task = concur.spawn(function()
        return it() == nil
      end)
      concur.sleep(0)
      it:close()
      assert.is_true(task:result())
      it:close()
      assert.is_nil(it())
      assert.is_truthy(tostring(it):find "^concur.signal.Receiver %(SIGUSR1, closed%): ")
    end)
  end)

  it("is closed by the end of a for loop, and by the collector", function()
    local before = mask "SigCgt"
    concur.run(function()
      concur.spawn(signal.raise, "SIGUSR1")
      for _ in signal.receive "SIGUSR1" do -- luacheck: ignore 512 (it is left at once)
        assert.is_true(caught_since(before))
        break
      end
      assert.equal(before, mask "SigCgt")
      signal.receive("SIGUSR2", "SIGHUP")
      assert.is_true(caught_since(before))
      collectgarbage()
      assert.equal(before, mask "SigCgt")
    end)
  end)

  it("is closed with the loop", function()
    local before = mask "SigCgt"
    local it = signal.receive "SIGUSR1"
    concur.get_event_loop():close()
    assert.equal(before, mask "SigCgt")
    assert.is_nil(it())
  end)

  it("is no deadlock, and can be cancelled", function()
    concur.run(function()
      local it <close> = signal.receive "SIGUSR1"
      assert.is_false((concur.move_on_after(0.01, it)))
      local task = concur.spawn(it)
      concur.sleep(0)
      task:cancel()
      concur.wait { task }
      assert.equal("cancelled", task:state())
    end)
  end)

  it("keeps a signal that a cancelled task did not take", function()
    everywhere(function(case)
      local it <close> = signal.receive "SIGUSR1"
      local took
      local victim = case:victim(function()
        concur.checkpoint()
        took = it()
        concur.checkpoint()
      end)
      local sender = concur.spawn(function()
        concur.checkpoint()
        signal.raise "SIGUSR1"
      end)
      case:join(victim)
      concur.wait { sender }
      if not took then
        assert.equal("SIGUSR1", it())
      end
      assert.is_false((concur.move_on_after(0, it)))
    end)
  end)

  it("runs out of memory cleanly", function()
    oom.scenario_fails_cleanly [[
      runner:run(function()
        -- signals whose default is to be ignored: one that nobody took is raised again
        local it <close> = concur.signal.receive("SIGWINCH", "SIGCONT")
        local other <close> = concur.signal.receive "SIGWINCH"
        local task = concur.spawn(other)
        concur.sleep(0)
        concur.signal.raise "SIGWINCH"
        local key, name = concur.select { it:receiving() }
        assert(name == "SIGWINCH")
        concur.wait { task }
        if task:state() == "failed" then error(task:exception(), 0) end
        assert(task:result() == "SIGWINCH")
      end)
    ]]
  end)

  it("names the argument that is wrong", function()
    local cases = {
      { "bad argument #1 to 'concur.signal.receive' (name of a signal expected, got no value)" },
      { "bad argument #2 to 'concur.signal.receive' (signal 'TERM': there is no such signal",
        "SIGTERM", "TERM" },
      { "bad argument #1 to 'concur.signal.receive' (signal 'SIGKILL': no program can receive it)",
        "SIGKILL" },
      { "bad argument #2 to 'concur.signal.receive' (signal 'SIGSTOP': no program can receive it)",
        "SIGUSR1", "SIGSTOP" },
      { "(signal 'SIGSEGV': it means an error in the program", "SIGSEGV" },
      { "(signal 'SIGURG': concur itself uses it", "SIGURG" },
      { "bad argument #2 to 'concur.signal.receive' (signal 'SIGUSR1' is named twice)", "SIGUSR1",
        "SIGUSR1" },
      { "bad argument #1 to 'concur.signal.receive' (string expected, got table)", {} },
    }
    local before = mask "SigCgt"
    for _, case in ipairs(cases) do
      expect.message(case[1], signal.receive, table.unpack(case, 2))
    end
    assert.equal(before, mask "SigCgt")
    expect.message("signal 'SIGNONE': there is no such signal", signal.raise, "SIGNONE")
  end)
end)

describe("signals that no receiver took", function()
  local function child(code)
    return support.run_lua("local concur = require 'concur' io.stdout:setvbuf 'no' " .. code)
  end

  it("go to the action that the host had, when the last receiver closes", function()
    local result = child [[
      local a, b = concur.signal.receive "SIGTERM", concur.signal.receive "SIGTERM"
      concur.signal.raise "SIGTERM"
      a:close()
      print "still here"
      b:close()
      print "not reached"
    ]]
    assert.equal("still here\n", result.stdout, support.describe(result))
    assert.is_truthy(result.signal == 15 or result.code == 128 + 15, support.describe(result))
  end)

  it("are done with when one of several receivers took them", function()
    local result = child [[
      local a, b = concur.signal.receive "SIGTERM", concur.signal.receive "SIGTERM"
      concur.signal.raise "SIGTERM"
      print(a())
      a:close()
      b:close()
      print "alive"
    ]]
    assert.equal("SIGTERM\nalive\n", result.stdout, support.describe(result))
  end)

  it("go to the host also when the state closes", function()
    local result = child [[
      it = concur.signal.receive "SIGTERM"
      concur.signal.raise "SIGTERM"
      os.exit(0, true)
    ]]
    assert.is_truthy(result.signal == 15 or result.code == 128 + 15, support.describe(result))
  end)

  it("leave an ignored signal ignored", function()
    local code = [[
      local function ignored()
        return io.open("/proc/self/status"):read("a"):match("SigIgn:%s*(%x+)")
      end
      local before = ignored()
      local it = require "concur".signal.receive "SIGHUP"
      require "concur".signal.raise "SIGHUP"
      print(it(), before ~= ignored())
      it:close()
      print(before == ignored())
    ]]
    local path = support.tmpdir() .. "/script.lua"
    support.write_file(path, code)
    local result = support.execute({ "sh", "-c", "trap '' HUP; exec \"$@\"", "sh", support.lua,
      path }, { env = {
      LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
      LUA_CPATH = support.build .. "/?.so;;",
    } })
    assert.equal("SIGHUP\ttrue\ntrue\n", result.stdout, support.describe(result))
  end)
end)

describe("a receiver of SIGINT", function()
  local function child(code)
    return support.run_lua([[
      local concur = require "concur"
      local signal = concur.signal
      io.stdout:setvbuf "no"
    ]] .. code)
  end

  it("takes it instead of run, as often as it comes", function()
    local result = child [[
      concur.run(function()
        local it <close> = signal.receive "SIGINT"
        for i = 1, 3 do
          signal.raise "SIGINT"
          concur.sleep(0.001)
          print(i, it())
        end
      end)
      print "ended"
    ]]
    assert.equal("1\tSIGINT\n2\tSIGINT\n3\tSIGINT\nended\n", result.stdout,
      support.describe(result))
  end)

  it("gives it back to run when it closes, with the signal that it did not take", function()
    local result = child [[
      print(select(2, pcall(concur.run, function()
        local it = signal.receive "SIGINT"
        signal.raise "SIGINT"
        print(it())
        signal.raise "SIGINT"
        it:close()
        concur.sleep(10)
      end)).kind)
      print(select(2, pcall(concur.run, function()
        local it = signal.receive "SIGINT"
        it:close()
        signal.raise "SIGINT"
        concur.sleep(10)
      end)).kind)
    ]]
    assert.equal("SIGINT\nInterrupted\nInterrupted\n", result.stdout, support.describe(result))
  end)

  it("may be opened before run and closed in it, or outlive it", function()
    local result = child [[
      local it = signal.receive "SIGINT"
      print(select(2, pcall(concur.run, function()
        signal.raise "SIGINT"
        print(1, it())
        it:close()
        signal.raise "SIGINT"
        concur.sleep(10)
      end)).kind)
      concur.run(function()
        it = signal.receive "SIGINT"
      end)
      signal.raise "SIGINT"
      print(2, it())
      concur.run(function()
        signal.raise "SIGINT"
        concur.sleep(0.001)
      end)
      print(3, it())
      it:close()
      -- lua itself has a handler now, which raises an error in Lua
      local ok, e = pcall(function()
        signal.raise "SIGINT"
        for _ = 1, 1e8 do end
      end)
      print(4, ok, e:match "interrupted!")
    ]]
    assert.equal("1\tSIGINT\nInterrupted\n2\tSIGINT\n3\tSIGINT\n4\tfalse\tinterrupted!\n",
      result.stdout, support.describe(result))
  end)
end)

describe("signals and threads", function()
  -- Sends SIGUSR1 so often, then SIGUSR2, from other processes. Never waits.
  local function fire(count)
    local script = ("(i=0; while [ $i -lt %d ]; do kill -USR1 %d; i=$((i+1)); done; kill -USR2 %d)"
      .. " >/dev/null 2>&1 &"):format(count, support.pid(), support.pid())
    os.execute(script)
  end

  -- How many SIGUSR1 come before the SIGUSR2, and after it while they still come.
  local function count_signals(ready)
    local concur = require "concur" -- luacheck: ignore (runs in workers)
    local it <close> = concur.signal.receive("SIGUSR1", "SIGUSR2")
    ready:send(true)
    local seen = { SIGUSR1 = 0, SIGUSR2 = 0 }
    repeat
      local more, name = concur.move_on_after(seen.SIGUSR2 > 0 and 0.05 or math.huge, it)
      if more then
        seen[name] = seen[name] + 1
      end
    until not more
    return seen.SIGUSR1, seen.SIGUSR2
  end

  it("reach every receiver of every state alike, under load", function()
    local pool <close> = concur.ThreadPoolExecutor(2)
    local ready = concur.Channel(4)
    local results = concur.run(function()
      local jobs = {
        pool:submit(count_signals, ready),
        pool:submit(count_signals, ready),
        concur.spawn(count_signals, ready),
        concur.spawn(count_signals, ready),
      }
      for _ = 1, 4 do
        ready:recv()
      end
      fire(300)
      local counts = concur.settle(jobs)
      for i = 1, 4 do
        counts[i] = { counts[i][1], counts[i][2] }
      end
      return counts
    end)
    for i = 1, 4 do
      assert.same(results[1], results[i], "receiver " .. i)
    end
    assert.is_true(results[1][1] >= 1 and results[1][1] <= 300)
    assert.equal(1, results[1][2])
  end)

  it("survive that receivers open and close while they come", function()
    local keep <close> = signal.receive("SIGUSR1", "SIGUSR2") -- the default would end the suite
    local function open_and_close(rounds)
      local concur = require "concur" -- luacheck: ignore
      for _ = 1, rounds do
        local _ <close> = concur.signal.receive "SIGUSR1"
        concur.sleep(0)
      end
      return true
    end
    local pool <close> = concur.ThreadPoolExecutor(2)
    fire(200)
    concur.run(function()
      local a, b = pool:submit(open_and_close, 2000), pool:submit(open_and_close, 2000)
      open_and_close(500)
      a:result()
      b:result()
    end)
    repeat
      local name = keep()
    until name == "SIGUSR2"
    while concur.move_on_after(0.05, keep) do -- luacheck: ignore (nothing may be left to take)
    end
  end)
end)
