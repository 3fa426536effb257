-- SPDX-License-Identifier: MIT
-- Ctrl-C: the first cancels the main task, the second ends the process. A child for each case.

local support = require "spec.support"

-- `kill_me()` sends SIGINT to the script itself, at once and without a shell in between.
local prelude = [[
  local concur = require "concur"
  local stat = io.open "/proc/self/stat"
  local pid = stat:read "n"
  stat:close()
  local function kill_me()
    io.popen("kill -INT " .. pid):close()
  end
  local function kill_me_soon(seconds)
    seconds = seconds * (tonumber(os.getenv "CONCUR_TIME_SCALE") or 1)
    os.execute(("(sleep %f; kill -INT %d) >/dev/null 2>&1 &"):format(seconds, pid))
  end
  -- Runs Lua code for five seconds, in no function of concur's.
  local function be_busy()
    local stop = os.time() + 5
    while os.time() < stop do end
  end
  io.stdout:setvbuf "no"
]]

local function child(body)
  return support.run_lua(prelude .. body, { timeout = 10 })
end

local SIGINT = 2

describe("SIGINT", function()
  it("cancels the main task and makes run raise Interrupted", function()
    local result = child [[
      local ok, e = pcall(concur.run, function()
        local _ <close> = setmetatable({}, { __close = function() print "cleaned" end })
        kill_me()
        concur.sleep(5)
        print "not reached"
      end)
      print(ok, e.kind, concur.errors.is(e, "Interrupted"))
    ]]
    assert.equal("cleaned\nfalse\tInterrupted\ttrue\n", result.stdout, support.describe(result))
    assert.equal(0, result.code)
  end)

  it("wakes a loop that sleeps", function()
    local start = os.time()
    local result = child [[
      kill_me_soon(0.05)
      print(select(2, pcall(concur.run, concur.sleep, 60)).kind)
    ]]
    assert.equal("Interrupted\n", result.stdout, support.describe(result))
    assert.is_true(os.time() - start < 10)
  end)

  it("reaches a main task that never parks", function()
    local result = child [[
      print(select(2, pcall(concur.run, function()
        kill_me_soon(0.02)
        while true do concur.sleep(0) end
      end)).kind)
      print(select(2, pcall(concur.run, function()
        kill_me_soon(0.02)
        while true do concur.suspend(function(resume) resume() end) end
      end)).kind)
    ]]
    assert.equal("Interrupted\nInterrupted\n", result.stdout, support.describe(result))
  end)

  it("reaches a main task behind many busy ones", function()
    local result = child [[
      print(select(2, pcall(concur.run, function()
        for _ = 1, 100 do
          concur.spawn(function() while true do concur.sleep(0) end end)
        end
        kill_me_soon(0.02)
        concur.sleep(60)
      end)).kind)
    ]]
    assert.equal("Interrupted\n", result.stdout, support.describe(result))
  end)

  it("reaches main, not the other tasks, until main has ended", function()
    local result = child [[
      local ok, e = pcall(concur.run, function()
        concur.spawn(function()
          local ok = pcall(concur.sleep, 0.02)
          print("other", ok)
        end)
        concur.sleep(0)
        kill_me()
        pcall(concur.sleep, 60)
        concur.shield(concur.sleep, 0.04)
        print "main"
        error("x", 0)
      end)
      print(ok, e.kind or e)
    ]]
    assert.equal("other\ttrue\nmain\nfalse\tx\n", result.stdout, support.describe(result))
  end)

  it("joins the children of gather before run raises", function()
    local result = child [[
      local ok, e = pcall(concur.run, function()
        concur.gather(function()
          pcall(concur.sleep, 60)
          concur.shield(concur.sleep, 0.01)
          print "child cleaned"
        end, function()
          concur.sleep(0.001)
          kill_me()
          concur.sleep(60)
        end)
      end)
      print(e.kind)
    ]]
    assert.equal("child cleaned\nInterrupted\n", result.stdout, support.describe(result))
  end)

  it("is forgotten if main returns all the same", function()
    local result = child [[
      print(concur.run(function()
        kill_me()
        pcall(concur.sleep, 60)
        return "result"
      end))
      print(concur.run(function() return concur.sleep(0.001, "next") end))
    ]]
    assert.equal("result\nnext\n", result.stdout, support.describe(result))
  end)

  it("is raised again by the next run if it is sent again", function()
    local result = child [[
      for _ = 1, 3 do
        print(select(2, pcall(concur.run, function() kill_me() concur.sleep(60) end)).kind)
      end
    ]]
    assert.equal("Interrupted\nInterrupted\nInterrupted\n", result.stdout,
      support.describe(result))
  end)

  it("the second one ends the process at once", function()
    local result = child [[
      concur.run(function()
        kill_me()
        pcall(concur.sleep, 60)
        print "first"
        kill_me()
        concur.shield(concur.sleep, 60)
        print "not reached"
      end)
    ]]
    assert.equal("first\n", result.stdout, support.describe(result))
    assert.equal(SIGINT, result.signal)
  end)

  it("the second one ends even a busy loop", function()
    local result = child [[
      concur.run(function()
        kill_me()
        kill_me_soon(0.05)
        be_busy()
      end)
    ]]
    assert.equal(SIGINT, result.signal, support.describe(result))
  end)

  it("ends a wait at top level with Interrupted, and the script goes on", function()
    local result = child [[
      kill_me_soon(0.03)
      local ok, e = pcall(concur.sleep, 60)
      print(ok, e.kind)
      kill_me_soon(0.03)
      local future = concur.Future()
      ok, e = pcall(future.result, future, 60)
      print(ok, e.kind, future:state())
      print(concur.sleep(0.001, "goes on"))
    ]]
    assert.equal("false\tInterrupted\nfalse\tInterrupted\tpending\ngoes on\n", result.stdout,
      support.describe(result))
  end)

  it("at top level joins what gather owns before Interrupted is raised", function()
    local result = child [[
      kill_me_soon(0.03)
      local ok, e = pcall(concur.gather, function()
        pcall(concur.sleep, 60)
        print "child cleaned"
      end, concur.sleep_forever)
      print(ok, e.kind, #concur.all_tasks())
    ]]
    assert.equal("child cleaned\nfalse\tInterrupted\t0\n", result.stdout,
      support.describe(result))
  end)

  it("ends run_until_complete with Interrupted", function()
    local result = child [[
      kill_me_soon(0.03)
      local loop = concur.get_event_loop()
      local task = concur.spawn(concur.sleep, 60)
      print(select(2, pcall(loop.run_until_complete, loop, task)).kind)
    ]]
    assert.equal("Interrupted\n", result.stdout, support.describe(result))
  end)

  it("ends an uncaught run with a message and no endless traceback", function()
    local result = child [[
      concur.run(function() kill_me() concur.sleep(60) end)
    ]]
    assert.equal(1, result.code, support.describe(result))
    assert.matches("Interrupted", result.stderr)
  end)

  it("makes concur.main end the process by SIGINT", function()
    local result = child [[
      concur.main(function()
        local _ <close> = setmetatable({}, { __close = function() print "cleaned" end })
        kill_me()
        concur.sleep(60)
      end)
    ]]
    assert.equal(SIGINT, result.signal, support.describe(result))
    assert.equal("cleaned\n", result.stdout)
  end)

  it("gives the interpreter its own handler back after the run", function()
    local result = child [[
      concur.run(concur.sleep, 0)
      kill_me()
      be_busy()
      print "not reached"
    ]]
    assert.equal(1, result.code, support.describe(result))
    assert.matches("interrupted!", result.stderr)
    assert.equal("", result.stdout)
  end)

  it("gives the handler back after a failed run, too", function()
    local result = child [[
      pcall(concur.run, error, "x")
      pcall(concur.timeout, 0, concur.sleep_forever)
      kill_me()
      be_busy()
    ]]
    assert.matches("interrupted!", result.stderr, support.describe(result))
  end)

  it("that main never saw goes to the old handler", function()
    local result = child [[
      concur.run(function()
        local _ <close> = setmetatable({}, { __close = function() print "main ends" end })
        kill_me()
        return "returned"
      end)
      be_busy()
      print "not reached"
    ]]
    assert.equal("main ends\n", result.stdout, support.describe(result))
    assert.matches("interrupted!", result.stderr)
  end)

  it("is left alone when it is ignored", function()
    -- system() ignores SIGINT in its whole process while its command runs.
    local result = child [[
      local pool = concur.ThreadPoolExecutor(1)
      local command = pool:submit(os.execute, "sleep 0.3")
      concur.sleep(0.15)
      print(concur.run(function()
        kill_me()
        kill_me()
        return concur.sleep(0.01, "undisturbed")
      end))
      command:result()
      pool:shutdown()
    ]]
    assert.equal("undisturbed\n", result.stdout, support.describe(result))
    assert.equal(0, result.code)
  end)

  it("is left alone by a Runner with handle_sigint = false", function()
    local result = child [[
      local runner = concur.Runner { handle_sigint = false }
      local ok, e = pcall(runner.run, runner, function()
        kill_me()
        print(concur.sleep(0.01, "not cancelled"))
      end)
      print(ok, type(e) == "table" and e.kind or e)
    ]]
    assert.matches("^not cancelled\n", result.stdout, support.describe(result))
    assert.not_matches("Interrupted", result.stdout .. result.stderr)
  end)

  it("is not taken by step: the host keeps its handler", function()
    local result = child [[
      concur.spawn(function() kill_me() end)
      concur.get_event_loop():step(0)
      be_busy()
      print "not reached"
    ]]
    assert.matches("interrupted!", result.stderr, support.describe(result))
    assert.not_matches("Interrupted", result.stderr)
  end)

  it("is not taken while the script itself runs between its waits", function()
    local result = child [[
      concur.sleep(0.001)
      kill_me()
      be_busy()
      print "not reached"
    ]]
    assert.matches("interrupted!", result.stderr, support.describe(result))
  end)
end)
