-- SPDX-License-Identifier: MIT
-- concur.process: starting programs, talking to them, and ending them, with real children.

local concur = require "concur"
local core = require "concur.core"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local oom = require "spec.support.oom"
local support = require "spec.support"

local errors, process = concur.errors, concur.process

local SCALE = support.time_scale

-- Is there a process with this id that is not a zombie?
local function is_running(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  if not file then
    return false
  end
  local state = file:read("a"):match "%) (%a)"
  file:close()
  return state ~= "Z" and state ~= "X"
end

-- Waits, for a long time at most, until the file has so many lines. Returns them.
local function wait_for_lines(path, count)
  for _ = 1, 3000 * SCALE do
    local lines = {}
    local file <close> = io.open(path)
    while file do
      lines[#lines + 1] = file:read "l"
      if not file:read(0) then
        break
      end
    end
    if #lines >= count then
      return lines
    end
    concur.sleep(0.01)
  end
  error("the program does not write what it should")
end

-- Runs a program that writes `count` lines to the file whose name it gets as last argument, cancels
-- it then, and returns the lines.
local function cancel_at(count, options)
  local path = support.tmpdir() .. "/file"
  options[#options + 1] = path
  return concur.run(function()
    local task = concur.spawn(process.run, options)
    local lines = wait_for_lines(path, count)
    assert.is_true(task:cancel())
    concur.wait { task }
    assert.equal("cancelled", task:state())
    assert.same({}, support.children())
    return lines, path
  end)
end

-- Runs Lua code in a child that a shell has prepared.
local function below_shell(preparation, code)
  local path = support.tmpdir() .. "/script.lua"
  support.write_file(path, code)
  return support.execute({ "sh", "-c", preparation .. '; exec "$@"', "sh", support.lua, path }, {
    env = {
      LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
      LUA_CPATH = support.build .. "/?.so;;",
    },
  })
end

after_each(function()
  collectgarbage()
  concur.get_event_loop():close() -- what was left to the collector is ended and reaped by now
  assert.same({}, support.children())
end)

describe("process.run", function()
  it("returns what the program wrote and how it ended", function()
    local result = process.run { "sh", "-c", "echo out; echo err >&2; exit 3" }
    assert.same({ code = 3, stdout = "out\n", stderr = "err\n" }, result)
    result = process.run { "sh", "-c", "kill -TERM $$" }
    assert.same({ signal = "SIGTERM", stdout = "", stderr = "" }, result)
    assert.equal("SIG40", process.run({ "sh", "-c", "kill -40 $$" }).signal) -- it has no name
  end)

  it("passes arguments as they are", function()
    local words = { "a b", "$HOME", "'", "", "ü\n", "*" }
    local result = process.run { "printf", "%s|", table.unpack(words) }
    assert.equal(table.concat(words, "|") .. "|", result.stdout)
    assert.equal("1 2.5\n", process.run({ "echo", 1, 2.5 }).stdout)
  end)

  it("feeds an input of any size, and collects any output", function()
    for _, size in ipairs { 0, 1, 65536, 65537, 5000003 } do
      local input = ("0123456789"):rep(size // 10 + 1):sub(1, size)
      local result = process.run { "cat", input = input }
      assert.equal(0, result.code)
      assert.is_true(result.stdout == input, "size " .. size)
    end
  end)

  it("feeds and collects at once where both outputs are full", function()
    local input = ("x"):rep(3000000)
    local result = process.run { "tee", "/dev/stderr", input = input }
    assert.is_true(result.stdout == input and result.stderr == input)
  end)

  it("takes it as no error that a child does not read its input", function()
    local input = ("x"):rep(1000000)
    assert.same({ code = 0, stdout = "", stderr = "" }, process.run { "true", input = input })
    assert.same({ code = 0, stdout = "xxx", stderr = "" },
      process.run { "head", "-c", "3", input = input })
    -- nor if a grandchild keeps the other end of the input
    local result = process.run { "sleep 5 >/dev/null 2>&1 & echo $!", shell = true, input = input }
    assert.equal(0, result.code)
    os.execute("kill " .. result.stdout)
  end)

  it("gives the child an empty input without one", function()
    assert.equal("", process.run({ "cat" }).stdout)
  end)

  it("lets go on what the program left in the background", function()
    local result = process.run { "sleep 20 >/dev/null 2>&1 & echo $!", shell = true }
    local pid = tonumber(result.stdout)
    assert.is_true(is_running(pid))
    os.execute("kill " .. pid)
  end)

  it("directs outputs elsewhere", function()
    local path = support.tmpdir() .. "/file"
    local file = assert(io.open(path, "w"))
    file:write "first\n"
    local result = process.run { "echo second; echo third >&2", shell = true, stdout = file }
    file:close()
    assert.same({ code = 0, stderr = "third\n" }, result)
    assert.equal("first\nsecond\n", support.read_file(path))
    result = process.run { "echo 1; echo 2 >&2; echo 3", shell = true, stderr = "stdout" }
    assert.same({ code = 0, stdout = "1\n2\n3\n" }, result)
    result = process.run { "echo 1; echo 2 >&2", shell = true, stdout = "null", stderr = "stdout" }
    assert.same({ code = 0 }, result)
    file = assert(io.open(path))
    assert.equal("first\nsecond\n", process.run({ "cat", stdin = file }).stdout)
    file:close()
  end)

  it("inherits descriptors when asked", function()
    local result = support.run_lua([[
      local process = require "concur".process
      assert(process.run { "cat; echo to stderr >&2", shell = true, stdin = "inherit",
        stdout = "inherit", stderr = "inherit" }.code == 0)
      assert(process.run { "echo", "by number", stdout = 1 }.code == 0)
    ]], { stdin = "through\n" })
    assert.equal("through\nby number\n", result.stdout, support.describe(result))
    assert.equal("to stderr\n", result.stderr)
  end)

  it("opens what a script opens by name", function()
    -- with sockets in place of pipes this is ENXIO
    local result = process.run { "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin",
      shell = true, input = "in\n" }
    assert.same({ code = 0, stdout = "out\nin\n", stderr = "err\n" }, result)
  end)

  it("changes the directory and the environment", function()
    local directory = support.tmpdir()
    assert.equal(directory .. "\n", process.run({ "pwd", "-P", cwd = directory }).stdout)
    local script = "echo $CONCUR_A-$CONCUR_B-${HOME:-none}"
    assert.equal("x-5-none\n", process.run({ script, shell = true,
      env = { CONCUR_A = "x", CONCUR_B = 5, HOME = false } }).stdout)
    assert.equal("A=1\n", process.run({ "/usr/bin/env", clear_env = true, env = { A = 1 } }).stdout)
    assert.equal("", process.run({ "/usr/bin/env", clear_env = true }).stdout)
    assert.equal(os.getenv "PATH", process.run({ "printenv", "PATH" }).stdout:sub(1, -2))
  end)

  it("runs a command line in the shell, with safe arguments", function()
    local result = process.run { 'printf "%s," "$0" "$@"', "a;b", "$(reboot)", shell = true }
    assert.equal("sh,a;b,$(reboot),", result.stdout)
  end)

  it("returns what the system refuses, with the path", function()
    local nothing, err = process.run { "concur-no-such-program" }
    assert.is_nil(nothing)
    assert.is_true(errors.is(err, "OSError"))
    assert.same({ "ENOENT", "concur-no-such-program", "spawn" }, { err.code, err.path, err.call })
    err = select(2, process.run { support.root .. "/README.md" })
    assert.same({ "EACCES", support.root .. "/README.md" }, { err.code, err.path })
    err = select(2, process.run { "true", cwd = "/no/such/directory" })
    assert.same({ "ENOENT", "/no/such/directory", "chdir" }, { err.code, err.path, err.call })
    if not support.under_valgrind then -- it ends the child there instead
      err = select(2, process.run { "true", ("x"):rep(300000) })
      assert.equal("E2BIG", err.code)
    end
    assert.equal("concur-no-such-program",
      expect.error("OSError", process.run, { "concur-no-such-program", check = true }).path)
  end)

  it("raises with check unless the program ends with 0", function()
    assert.equal("fine\n", process.run({ "echo", "fine", check = true }).stdout)
    local err = expect.error("ProcessError", process.run,
      { "echo out; echo first >&2; echo last >&2; exit 4", shell = true, check = true })
    assert.same({ 4, "out\n", "first\nlast\n" }, { err.code, err.stdout, err.stderr })
    assert.is_truthy(tostring(err):find("exited with code 4: last", 1, true))
    err = expect.error("ProcessError", process.run, { "kill -9 $$", shell = true, check = true })
    assert.equal("SIGKILL", err.signal)
    assert.is_nil(err.code)
    local group = expect.error("ErrorGroup", concur.task_group, function()
      process.run { "false", check = true }
    end)
    assert.equal("ProcessError", group.errors[1].kind)
  end)

  it("ends a child that writes more than the limit", function()
    for _, output in ipairs { "stdout", "stderr" } do
      local result, err = process.run { "yes" .. (output == "stderr" and " >&2" or ""),
        shell = true, limit = 100000 }
      assert.is_nil(result)
      assert.equal("LimitOverrun", err.kind)
      assert.equal(100000, #err[output])
      assert.same({}, support.children())
    end
    assert.equal(100000, #process.run({ "head -c 100000 /dev/zero", shell = true,
      limit = 100000 }).stdout)
    assert.equal("LimitOverrun", expect.error("LimitOverrun", process.run,
      { "yes", limit = 10, check = true }).kind)
  end)

  it("works in tasks, side by side", function()
    concur.run(function()
      local jobs = {}
      for i = 1, 10 do
        jobs[i] = function()
          return process.run({ "sleep 0.0" .. i % 3 .. "; echo " .. i, shell = true }).stdout
        end
      end
      local results = concur.gather(jobs)
      for i = 1, 10 do
        assert.equal(i .. "\n", results[i])
      end
    end)
  end)

  it("works in workers, on their own loops", function()
    concur.run(function()
      local jobs = {}
      for i = 1, 8 do
        jobs[i] = function()
          return concur.to_thread(function(n)
            local run = require("concur").process.run
            local result = run { "echo $1; kill -TERM $$", n, shell = true }
            return result.stdout, result.signal
          end, i)
        end
      end
      for i, result in ipairs(concur.settle(jobs)) do
        assert.same({ i .. "\n", "SIGTERM" }, { result[1], result[2] })
      end
    end)
  end)
end)

describe("cancelling process.run", function()
  it("ends the child and what it started", function()
    local pids = cancel_at(2, { "sleep 60 & echo $! >$1; "
      .. "sh -c 'sleep 61 & echo $! >>$1; wait' sh $1 & wait", shell = true })
    assert.is_false(is_running(tonumber(pids[1])))
    assert.is_false(is_running(tonumber(pids[2])))
  end)

  it("ends grandchildren that are all that is left", function()
    -- the shell ends; its child keeps stdout open
    local pids = cancel_at(1, { "sleep 60 & echo $! >$1", shell = true })
    assert.is_false(is_running(tonumber(pids[1])))
  end)

  it("sends TERM first, and KILL after the grace time", function()
    local _, path = cancel_at(1, { "trap 'echo term >>$1; exit' TERM; echo ready >>$1; "
      .. "while :; do sleep 0.01; done", shell = true, grace = 60 })
    assert.equal("ready\nterm\n", support.read_file(path))
    local start = concur.now()
    cancel_at(1, { "trap '' TERM; echo ready >$1; sleep 60; sleep 60", shell = true, grace = 0.3 })
    assert.is_true(concur.now() - start >= 0.29)
    assert.is_true(concur.now() - start < 50)
  end)

  it("gives grandchildren their time, too, and no more than that", function()
    -- the shell itself ends at once
    local _, path = cancel_at(1, { "(trap 'sleep 0.5; echo term >>$1; exit' TERM; echo ready >>$1; "
      .. "while :; do sleep 0.01; done) & wait", shell = true, grace = 60 })
    assert.equal("ready\nterm\n", support.read_file(path))
    local start = concur.now()
    local pids = cancel_at(1, { "sh -c 'trap \"\" TERM; echo $$ >>$1; sleep 60; sleep 60' sh $1 & "
      .. "wait", shell = true, grace = 0.3 })
    assert.is_true(concur.now() - start >= 0.29)
    assert.is_false(is_running(tonumber(pids[1])))
  end)

  it("leaves the group alone when the child is in that of this process", function()
    local result = support.run_lua [[
      local concur = require "concur"
      print((concur.move_on_after(0.2, concur.process.run,
        { "sleep", "60", group = false })))
    ]]
    assert.equal("false\n", result.stdout, support.describe(result))
  end)

  it("leaves nothing behind at whatever moment", function()
    everywhere(function(case)
      local victim = case:victim(function()
        local result = process.run { "cat; echo end >&2", shell = true, input = "some input" }
        assert(result.stdout == "some input" and result.stderr == "end\n")
      end)
      case:join(victim)
      assert.same({}, support.children())
    end, { modes = { "task", "scope_wait", "top" } })
  end)

  it("leaves nothing behind when the task is killed, after a moment", function()
    everywhere(function(case)
      local victim = case:victim(process.run, { "cat; sleep 0.01", shell = true, input = "text" })
      case:join(victim)
      local gone
      for _ = 1, 1000 do -- nobody waits for it: it ends in the background, in real time
        collectgarbage()
        gone = #support.children() == 0 and core.counters().handles == 0
        if gone then
          break
        end
        os.execute "sleep 0.002"
        concur.sleep(0.001) -- the clock is virtual: this only polls
      end
      assert(gone, "a child is left")
    end, { modes = { "kill" } })
  end)

  it("keeps the result of one that has ended already", function()
    concur.run(function()
      local task = concur.spawn(process.run, { "true" })
      concur.wait { task }
      assert.is_false(task:cancel())
      assert.equal(0, task:result().code)
    end)
  end)
end)

describe("process.run where waiting is impossible", function()
  it("says so, and ends what it has started", function()
    concur.run(function()
      local resume = coroutine.wrap(function() -- a coroutine of its own in a task
        return select(2, pcall(process.run, { "sleep", "60" })).kind
      end)
      assert.equal("InvalidState", resume())
      local kind
      concur.get_event_loop():call_soon(function()
        kind = select(2, pcall(process.run, { "sleep", "60" })).kind
      end)
      local finalized
      setmetatable({}, { __gc = function()
        finalized = select(2, pcall(process.run, { "sleep", "60" })).kind
      end })
      collectgarbage()
      for _ = 1, 500 * SCALE do
        concur.sleep(0.01)
        if #support.children() == 0 then
          break
        end
      end
      assert.same({ "InvalidState", "InvalidState" }, { kind, finalized })
      assert.same({}, support.children())
    end)
  end)
end)

describe("process.spawn", function()
  it("gives streams for the pipes, and the end of the program", function()
    concur.run(function()
      local cat <close> = assert(process.spawn { "cat" })
      assert.is_true(is_running(cat:pid()))
      assert.equal("running", (cat:status()))
      cat.stdin:write("one\n", "two\n")
      assert.equal("one", cat.stdout:read "l")
      assert.equal("two", cat.stdout:read "l")
      cat.stdin:close()
      assert.is_nil(cat.stdout:read "l")
      assert.equal("", cat.stderr:read "a")
      assert.same({ 0, n = 2 }, table.pack(cat:wait()))
      assert.same({ 0, n = 2 }, table.pack(cat:wait()))
      assert.same({ "ended", 0, n = 3 }, table.pack(cat:status()))
    end)
  end)

  it("shows itself", function()
    local child <close> = assert(process.spawn { "sleep", "60" })
    assert.equal(("concur.process.Process (sleep, pid %d, running)"):format(child:pid()),
      tostring(child))
    child:kill()
    child:wait()
    assert.equal(("concur.process.Process (sleep, pid %d, ended by SIGTERM)"):format(child:pid()),
      tostring(child))
  end)

  it("knows how a child ended that ended before anybody waited", function()
    concur.run(function()
      local child <close> = assert(process.spawn { "sh", "-c", "exit 7" })
      os.execute "sleep 0.1"
      assert.same({ 7, n = 2 }, table.pack(child:wait()))
      local other <close> = assert(process.spawn { "sh", "-c", "exit 8" })
      for _ = 1, 3000 * SCALE do
        concur.sleep(0.01)
        if other:status() == "ended" then
          break
        end
      end
      assert.same({ "ended", 8, n = 3 }, table.pack(other:status()))
      assert.equal(8, (other:wait()))
    end)
  end)

  it("tells all who wait, also as an arm of select", function()
    concur.run(function()
      local child <close> = assert(process.spawn { "sh", "-c", "read x; exit 5" })
      local waiters = {}
      for i = 1, 3 do
        waiters[i] = function()
          return child:wait()
        end
      end
      waiters[4] = function()
        local key, code = concur.select { other = concur.after(60), child = child:waiting() }
        assert(key == "child")
        return code
      end
      concur.spawn(function()
        child.stdin:write "\n"
      end)
      for _, code in ipairs(concur.gather(waiters)) do
        assert.equal(5, code)
      end
      assert.same({ 1, 5, n = 3 }, table.pack(concur.select { child:waiting() }))
    end)
  end)

  it("keeps nobody waiting who waits for something else that never comes", function()
    local ok, err = pcall(concur.run, function()
      local child <close> = assert(process.spawn { "sleep", "60" }) -- luacheck: ignore 211
      concur.move_on_after(0.01, child.wait, child)
      concur.move_on_after(0.01, concur.select, { child:waiting() })
      concur.Event():wait()
    end)
    assert.is_false(ok)
    assert.equal("Deadlock", err.kind)
  end)

  it("sends signals, and says when it is too late", function()
    concur.run(function()
      local child <close> = assert(process.spawn { "sh", "-c",
        "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done" })
      assert.equal("ready", child.stdout:read())
      assert.is_true(child:kill "SIGUSR1")
      assert.equal("usr1", child.stdout:read())
      assert.is_true(child:kill(9))
      assert.same({ n = 2, [2] = "SIGKILL" }, table.pack(child:wait()))
      local ok, err = child:kill "SIGTERM"
      assert.is_nil(ok)
      assert.equal("ESRCH", err.code)
      expect.message("signal 'SIGNAL': there is no such signal", child.kill, child, "SIGNAL")
      for _, method in ipairs { "pid", "wait", "waiting", "status", "kill", "close" } do
        expect.message(("to '%s' (process expected, got nil; is it called with a colon?)"):format(
          method), child[method])
      end
      expect.message("name or number of a signal expected", child.kill, child, {})
      expect.message("there is no signal 65", child.kill, child, 65)
    end)
  end)

  it("signals at random moments lose no exit status", function()
    support.seed()
    concur.run(function()
      for _ = 1, 30 do
        local child <close> = assert(process.spawn { "sh", "-c", "exit 9", stdin = "null" })
        concur.sleep(math.random() * 0.01)
        for _ = 1, 3 do
          child:kill "SIGCONT"
        end
        assert.equal(9, (child:wait()))
        assert.is_nil((child:kill "SIGCONT"))
      end
    end)
  end)

  it("is ended by close, with everything in its group", function()
    concur.run(function()
      local path = support.tmpdir() .. "/pid"
      local child = assert(process.spawn { "sleep 60 & echo $! >$1; echo ready; wait", path,
        shell = true })
      assert.equal("ready", child.stdout:read())
      child:close()
      child:close()
      assert.same({ "ended", nil, "SIGTERM" }, { child:status() })
      assert.is_false(is_running(tonumber(support.read_file(path))))
      assert.is_true(child.stdin:closed() and child.stdout:closed() and child.stderr:closed())
    end)
  end)

  it("can be cancelled at any moment of a conversation", function()
    everywhere(function(case)
      local victim = case:victim(function()
        local cat <close> = assert(process.spawn { "cat", stderr = "null" })
        cat.stdin:write("line\n")
        assert(cat.stdout:read "l" == "line")
        cat.stdin:close()
        assert(cat:wait() == 0)
      end)
      case:join(victim)
      assert.same({}, support.children())
    end, { modes = { "wait", "deadline" } })
  end)

  it("is ended by close in a cancelled scope, and at top level", function()
    concur.run(function()
      local child
      concur.move_on_after(0, function()
        child = assert(process.spawn { "sleep", "60" })
        local _ <close> = child
        concur.sleep(1)
      end)
      assert.same({ "ended", nil, "SIGTERM" }, { child:status() })
    end)
    local child = assert(process.spawn { "sleep", "60" })
    child:close()
    assert.same({ "ended", nil, "SIGTERM" }, { child:status() })
  end)

  it("is ended with KILL when its grace time is over", function()
    local child = assert(process.spawn { "trap '' TERM; echo ready; sleep 60; sleep 60",
      shell = true, grace = 60 })
    child.stdout:read()
    local start = concur.now()
    child:close(0.1)
    assert.is_true(concur.now() - start < 30)
    assert.same({ "ended", nil, "SIGKILL" }, { child:status() })
    child = assert(process.spawn { "sleep", "60" })
    child:close(0)
    assert.same({ "ended", nil, "SIGKILL" }, { child:status() })
    expect.message("seconds expected", child.close, child, "x")
  end)

  it("is ended when nobody holds it or a stream of it", function()
    local pid
    do
      local stdout
      do
        local child = assert(process.spawn { "echo ready; sleep 60", shell = true })
        pid = child:pid()
        stdout = child.stdout
      end
      collectgarbage()
      assert.equal("ready", stdout:read()) -- a stream of it is held
      assert.is_true(is_running(pid))
    end
    collectgarbage()
    collectgarbage()
    for _ = 1, 3000 * SCALE do
      concur.sleep(0.01)
      if not is_running(pid) then
        break
      end
    end
    assert.is_false(is_running(pid))
  end)

  it("survives the end of the run that started it, but not that of the loop", function()
    local child = concur.run(function()
      return assert(process.spawn { "sleep", "60" })
    end)
    assert.is_true(is_running(child:pid()))
    concur.get_event_loop():close()
    assert.is_false(is_running(child:pid()))
    assert.same({ "ended", nil, "SIGTERM" }, { child:status() })
    assert.same({ nil, "SIGTERM" }, { child:wait() })
    child:close()
  end)

  it("is ended when the state closes, also if it ignores TERM", function()
    local result = support.run_lua([[
      local process = require "concur".process
      polite = process.spawn { "sleep", "60" }
      rude = process.spawn { "trap '' TERM; echo ready; sleep 60 & sleep 60", shell = true,
        grace = 0.2 }
      rude.stdout:read()
      print(polite:pid(), rude:pid())
      os.exit(0, true)
    ]])
    local one, two = result.stdout:match "(%d+)%s+(%d+)"
    assert.is_truthy(one, support.describe(result))
    assert.is_false(is_running(tonumber(one)))
    assert.is_false(is_running(tonumber(two)))
  end)

  it("is ended when the state closes, however long its grace time is", function()
    local result = support.run_lua([[
      local child = require "concur".process.spawn { "trap '' TERM; echo ready; sleep 60; sleep 60",
        shell = true, grace = 1000 }
      child.stdout:read()
      print(child:pid())
      os.exit(0, true)
    ]], { timeout = 60 * SCALE })
    assert.is_false(is_running(assert(tonumber(result.stdout), support.describe(result))))
  end)

  it("says what its streams are not for", function()
    local child <close> = assert(process.spawn { "cat" })
    for name, method in pairs { stdin = "read", stdout = "write", stderr = "shutdown" } do
      local ok, err = child[name][method](child[name])
      assert.is_nil(ok)
      assert.equal("EBADF", err.code, name)
    end
  end)

  it("is left alone when it is detached", function()
    local result = support.run_lua([[
      local process = require "concur".process
      local child = process.spawn { "sleep", "60", detached = true, stdin = "null",
        stdout = "null", stderr = "null" }
      print(child:pid())
      child = nil
      collectgarbage()
    ]])
    local pid = tonumber(result.stdout)
    assert.is_truthy(pid, support.describe(result))
    assert.is_true(is_running(pid))
    os.execute("kill " .. pid)
    local child = process.spawn { "sleep", "60", detached = true }
    child:close() -- but it can be ended
    assert.same({ "ended", nil, "SIGTERM" }, { child:status() })
  end)

  it("may have a group of its own, or that of this process", function()
    local function group_of(options)
      local child <close> = assert(process.spawn(options))
      local file <close> = io.open(("/proc/%d/stat"):format(child:pid()))
      return tonumber(file:read("a"):match "%) %a %d+ (%d+)") == child:pid()
    end
    assert.is_true(group_of { "sleep", "60" })
    assert.is_false(group_of { "sleep", "60", group = false })
    assert.is_false(group_of { "sleep", "60", stdin = "inherit" })
    assert.is_true(group_of { "sleep", "60", stdin = "inherit", group = true })
  end)

  it("runs as somebody else, where that is allowed", function()
    local uid = tonumber(process.run({ "id", "-u" }).stdout)
    local gid = tonumber(process.run({ "id", "-g" }).stdout)
    local script = "echo $(id -u) $(id -g)"
    if uid == 0 then
      assert.equal("12345 54321\n", process.run({ script, shell = true, uid = 12345,
        gid = 54321 }).stdout)
    else
      assert.equal("EPERM", select(2, process.run { script, shell = true, uid = 0 }).code)
    end
    assert.equal(("%d %d\n"):format(uid, gid), process.run({ script, shell = true }).stdout)
  end)

  it("names the argument that is wrong", function()
    local cases = {
      { 5, "bad argument #1 to 'spawn' (table expected, got number)" },
      { {}, "the program is missing" },
      { { "a", {} }, "element 2: string expected, got table" },
      { { "a\0b" }, "element 1 contains a zero byte" },
      { { "a", cdw = "/" }, "unknown option 'cdw'" },
      { { "a", [3] = "b" }, "unknown option '3'" },
      { { "a", input = "x" }, "unknown option 'input'" },
      { { "a", cwd = 5 }, "option 'cwd': string expected, got 5" },
      { { "a", cwd = "\0" }, "option 'cwd' contains a zero byte" },
      { { "a", stdin = "stdout" }, "option 'stdin': 'pipe', 'inherit', 'null', a descriptor" },
      { { "a", stderr = "stdin" }, "option 'stderr': 'pipe', 'inherit', 'null', 'stdout', a" },
      { { "a", stdout = -1 }, "option 'stdout': 'pipe'" },
      { { "a", stdout = 1 << 32 }, "option 'stdout': 'pipe'" },
      { { "a", env = { ["A=B"] = "x" } }, "option 'env': 'A=B' cannot be a variable's name" },
      { { "a", env = { A = {} } }, "option 'env': variable 'A': string or false expected" },
      { { "a", env = { A = "\0" } }, "option 'env': variable 'A' contains a zero byte" },
      { { "a", uid = -1 }, "option 'uid' must not be negative" },
      { { "a", uid = 1.5 }, "option 'uid': integer expected, got 1.5" },
      { { "a", grace = 0 / 0 }, "option 'grace': number expected" },
    }
    for _, case in ipairs(cases) do
      local e = expect.message(case[2], process.spawn, case[1])
      assert.is_truthy(e:find("^bad argument #1 to 'spawn'"))
    end
    local _, e = pcall(function()
      process.run { "a", input = "x", stdin = "null" }
    end)
    assert.is_truthy(e:find "spec/process_spec.lua:%d+: bad argument #1 to 'run' %(options 'input'")
    expect.message("unknown option 'detached'", process.run, { "a", detached = true })
    expect.message("option 'limit' must not be negative", process.run, { "a", limit = -1 })
  end)

  it("runs out of memory cleanly", function()
    oom.scenario_fails_cleanly [[
      runner:run(function()
        local result, err = concur.process.run { "cat", input = "text", stderr = "null",
          env = { A = "b" } }
        if not result then error(err, 0) end
        assert(result.stdout == "text" and result.code == 0)
      end)
    ]]
  end)

  it("runs out of descriptors cleanly", function()
    local result = below_shell("ulimit -n 40", [[
      local concur = require "concur"
      concur.run(function()
        local kept, failed = {}, 0
        for round = 1, 3 do
          for i = 1, 20 do
            local child, err = concur.process.spawn { "cat" }
            if child then
              kept[#kept + 1] = child
            else
              failed = failed + 1
              assert(err.code == "EMFILE" or err.code == "ENFILE", tostring(err))
            end
          end
          for _, child in ipairs(kept) do child:close() end
          kept = {}
        end
        assert(failed > 0)
        print(concur.process.run({ "echo", "works again" }).stdout)
      end)
    ]])
    assert.equal("works again\n\n", result.stdout, support.describe(result))
  end)
end)

describe("without pidfd", function()
  before_each(function()
    core.use_pidfd(false)
  end)

  after_each(function()
    core.use_pidfd(true)
  end)

  it("libuv tells how children end", function()
    assert.same({ code = 3, stdout = "x\n", stderr = "" },
      process.run { "echo x; exit 3", shell = true })
    assert.equal("SIGKILL", process.run({ "kill -9 $$", shell = true }).signal)
    local child <close> = assert(process.spawn { "sleep", "60" })
    child:close()
    assert.same({ "ended", nil, "SIGTERM" }, { child:status() })
    assert.is_nil((child:kill()))
  end)

  it("signals reach children", function()
    local child <close> = assert(process.spawn { "sleep", "60" })
    assert.is_true(child:kill "SIGHUP")
    assert.same({ nil, "SIGHUP" }, { child:wait() })
  end)

  it("the group is ended too, in good time", function()
    for _, script in ipairs { "sleep 60 & echo $! >$1", "sleep 60 & echo $! >$1; wait" } do
      local pids = cancel_at(1, { script, shell = true, grace = 60 })
      assert.is_false(is_running(tonumber(pids[1])))
    end
  end)

  it("children are ended with the loop", function()
    local child = assert(process.spawn { "sleep", "60" })
    concur.get_event_loop():close()
    assert.is_false(is_running(child:pid()))
  end)
end)

describe("SIGCHLD", function()
  local HELPER = [[
    local concur = require "concur"
    local function handlers()
      return io.open("/proc/self/status"):read("a"):match "SigCgt:%s*(%x+)"
    end
  ]]

  it("is left as it was", function()
    local out = support.check_lua(HELPER .. [[
      local before = handlers()
      local child = concur.process.spawn { "sleep", "60" }
      assert(handlers() == before)
      child:close()
      assert(handlers() == before)
      print "same"
    ]])
    assert.equal("same\n", out)
  end)

  it("can be received beside children, in either order", function()
    local out = support.check_lua(HELPER .. [[
      concur.run(function()
        local it <close> = concur.signal.receive "SIGCHLD"
        assert(concur.process.run({ "true" }).code == 0)
        print(it())
        local child <close> = concur.process.spawn { "sh", "-c", "read x; exit 4" }
        local other <close> = concur.signal.receive "SIGCHLD"
        child.stdin:close()
        print(child:wait())
        print(other())
      end)
    ]])
    assert.equal("SIGCHLD\n4\tnil\nSIGCHLD\n", out)
  end)

  it("may be ignored by who started this process", function()
    local result = below_shell("trap '' CHLD", [[
      print(require "concur".process.run({ "sh", "-c", "exit 6" }).code)
    ]])
    assert.equal("6\n", result.stdout, support.describe(result))
  end)
end)

describe("a host", function()
  local function host(code)
    local path = support.tmpdir() .. "/script.lua"
    support.write_file(path, "local concur = require 'concur'\n" .. code)
    local result = support.run_file(path, { lua = support.host })
    assert.equal(0, result.code, support.describe(result))
    return result.stdout
  end

  it("that reaps all children is no reason to wait for ever", function()
    assert.equal("nil\tnil\nended\tnil\tnil\n", host [[
      local child = concur.process.spawn { "sh", "-c", "exit 3" }
      assert(testhost.wait() == 3)
      print(child:wait())
      print(child:status())
      child:close()
    ]])
  end)

  it("keeps its handler of SIGCHLD, whenever it installs it", function()
    assert.equal("4\n5\n6\nkept\n", host [[
      local SIGCHLD = 17
      local run = concur.process.run
      local first = concur.process.spawn { "sh", "-c", "read x; exit 4" }
      testhost.handle(SIGCHLD) -- after the start: with libuv alone the end would not be noticed
      first.stdin:close()
      print((first:wait()))
      print(run({ "sh", "-c", "exit 5" }).code)
      print(run({ "sh", "-c", "exit 6" }).code)
      local before = testhost.handled()
      concur.signal.raise "SIGCHLD"
      assert(before >= 3 and testhost.handled() == before + 1)
      print "kept"
    ]])
  end)

  it("gets its handlers back, with signals that nobody took", function()
    assert.equal("SIGTERM\n0\n1\n2\n", host [[
      testhost.handle(15)
      local a, b = concur.signal.receive "SIGTERM", concur.signal.receive "SIGTERM"
      concur.signal.raise "SIGTERM"
      print(a())
      a:close()
      print(testhost.handled())
      concur.signal.raise "SIGTERM"
      b:close()
      print(testhost.handled())
      concur.signal.raise "SIGTERM"
      print(testhost.handled())
    ]])
  end)

  it("keeps a handler that it installed while a receiver was open", function()
    assert.equal("1\n", host [[
      local it = concur.signal.receive "SIGTERM"
      testhost.handle(15)
      it:close()
      concur.signal.raise "SIGTERM"
      print(testhost.handled())
    ]])
  end)

  it("that forks leaves the programs and receivers of the parent alone", function()
    assert.equal("InvalidState\nInvalidState\n0\nrunning\nSIGTERM\n", host [[
      io.stdout:setvbuf "no"
      local child = concur.process.spawn { "sleep", "60" }
      local it = concur.signal.receive "SIGTERM"
      if testhost.fork() == 0 then
        child:close()
        it:close()
        print(select(2, pcall(child.kill, child)).kind)
        print(select(2, pcall(concur.process.run, { "true" })).kind)
        child, it = nil, nil
        collectgarbage()
        os.exit(0, true)
      end
      print(testhost.wait())
      print((child:status()))
      concur.signal.raise "SIGTERM"
      print((it()))
      child:close()
    ]])
  end)

  it("that forks has its own actions in the child", function()
    assert.equal("143\tSIGTERM\n", host [[
      local it = concur.signal.receive "SIGTERM"
      if testhost.fork() == 0 then
        os.execute "kill -TERM $PPID; sleep 5"
        os.exit(1)
      end
      local status = testhost.wait()
      concur.signal.raise "SIGTERM"
      print(status, (it()))
    ]])
  end)
end)

describe("Ctrl-C", function()
  it("ends what run has started, also in other sessions", function()
    local path = support.tmpdir() .. "/pid"
    local result = support.run_lua(([[
      local concur = require "concur"
      local path = %q
      concur.spawn(function()
        repeat
          concur.sleep(0.01)
          local file = io.open(path)
        until file and file:read "l"
        concur.signal.raise "SIGINT"
      end)
      local ok, err = pcall(concur.run, concur.process.run,
        { "sleep 60 & echo $! >$1; wait", path, shell = true })
      print(ok, err.kind)
    ]]):format(path))
    assert.equal("false\tInterrupted\n", result.stdout, support.describe(result))
    assert.is_false(is_running(tonumber(support.read_file(path))))
  end)
end)
