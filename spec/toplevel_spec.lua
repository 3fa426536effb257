-- SPDX-License-Identifier: MIT
-- Waiting outside of any task: in a plain script, in a coroutine of its own, in the REPL.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

describe("at top level", function()
  it("there is no current task", function()
    assert.is_nil(concur.current_task())
    concur.sleep(0)
    assert.is_nil(concur.current_task())
  end)

  it("sleep waits and returns its arguments", function()
    local start = concur.now()
    assert.same({ 1, nil, 3, n = 3 }, table.pack(concur.sleep(0.005, 1, nil, 3)))
    assert.is_true(concur.now() - start >= 0.005)
  end)

  it("a task starts only when something drives the loop", function()
    local started = false
    local task = concur.spawn(function()
      started = true
    end)
    assert.is_false(started)
    assert.equal("pending", task:state())
    concur.sleep(0)
    assert.is_true(started)
  end)

  it("tasks advance while something else is waited for", function()
    local log = {}
    concur.spawn(function()
      for i = 1, 3 do
        log[#log + 1] = i
        concur.sleep(0)
      end
    end)
    concur.sleep(0.05)
    assert.same({ 1, 2, 3 }, log)
  end)

  it("result returns as soon as its future is done, others stay as they are", function()
    local slow = concur.spawn(concur.sleep_forever)
    local quick = concur.spawn(concur.sleep, 0.001, "quick")
    assert.equal("quick", quick:result())
    assert.equal("pending", slow:state())
    slow:cancel()
    concur.sleep(0)
  end)

  it("gather, settle, race, any, wait and await work", function()
    local function f()
      return concur.sleep(0.001, "x")
    end
    assert.same({ "x", "x" }, { concur.gather(f, f) })
    assert.is_true(concur.settle(f).ok)
    assert.equal(1, (concur.race(f)))
    assert.equal(1, (concur.any(f)))
    assert.equal(1, #concur.wait { concur.spawn(f) })
    assert.equal("x", concur.await(concur.spawn(f)))
  end)

  it("timeout ends a wait", function()
    failure_of_kind("TimeoutError", concur.timeout, 0.002, concur.sleep, 10)
    assert.equal("in time", concur.timeout(10, concur.sleep, 0.001, "in time"))
  end)

  it("task_group works", function()
    local log = {}
    concur.task_group(function(group)
      group:spawn(function()
        concur.sleep(0.002)
        log[#log + 1] = "slow"
      end)
      group:spawn(function()
        log[#log + 1] = "quick"
      end)
    end)
    assert.same({ "quick", "slow" }, log)
  end)

  it("a task can cancel the scope in which the script waits", function()
    local ok = concur.cancel_scope(function(scope)
      concur.spawn(function()
        scope:cancel()
      end)
      concur.sleep(10)
    end)
    assert.is_false(ok)
    assert.equal("on we go", concur.sleep(0, "on we go"))
  end)

  it("an error of a task is raised where its result is asked for", function()
    local e = {}
    local task = concur.spawn(error, e)
    assert.equal(e, failure(task.result, task))
  end)

  it("waits work inside a coroutine of the script: they drive the loop", function()
    local log = {}
    local co = coroutine.wrap(function()
      log[#log + 1] = concur.sleep(0.001, "slept")
      coroutine.yield("yielded")
      log[#log + 1] = concur.sleep(0.001, "slept again")
    end)
    assert.equal("yielded", co())
    co()
    assert.same({ "slept", "slept again" }, log)
  end)

  it("waits work in a sort comparator, a gsub callback and a metamethod", function()
    local list = { 3, 1, 2 }
    table.sort(list, function(a, b)
      concur.sleep(0)
      return a < b
    end)
    assert.same({ 1, 2, 3 }, list)
    assert.equal("<a><b>", (("ab"):gsub(".", function(c)
      return concur.sleep(0, "<" .. c .. ">")
    end)))
    local object = setmetatable({}, {
      __index = function(_, key)
        return concur.sleep(0, key)
      end,
      __tostring = function()
        return concur.sleep(0, "text")
      end,
    })
    assert.equal("name", object.name)
    assert.equal("text", tostring(object))
  end)

  it("a yield of a coroutine is nobody's business", function()
    local co = coroutine.wrap(function()
      coroutine.yield(1)
    end)
    assert.equal(1, co())
  end)

  it("pcall around a wait catches and the script goes on", function()
    local ok, e = pcall(concur.timeout, 0.001, concur.sleep_forever)
    assert.is_false(ok)
    assert.is_true(concur.errors.is(e, "TimeoutError"))
    assert.equal(1, concur.sleep(0, 1))
  end)

  it("waits a thousand times in a row", function()
    local sum = 0
    for i = 1, 1000 do
      sum = sum + concur.spawn(concur.sleep, 0, i):result()
    end
    assert.equal(500500, sum)
  end)

  it("to-be-closed variables may wait", function()
    local log = {}
    do
      local _ <close> = setmetatable({}, {
        __close = function()
          log[#log + 1] = concur.sleep(0.001, "closed")
        end,
      })
    end
    assert.same({ "closed" }, log)
  end)
end)

describe("a wait in a finalizer", function()
  it("is refused with a reason, in a task and outside", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local function doomed()
        setmetatable({}, { __gc = function()
          local ok, e = pcall(concur.sleep, 0)
          print(ok, (tostring(e):find "__gc" or tostring(e):find "finalizer") ~= nil)
        end })
      end
      doomed()
      collectgarbage()
      concur.run(function()
        doomed()
        collectgarbage()
        concur.sleep(0)
      end)
      doomed() -- and at the end of the program
    ]]
    assert.equal(0, result.code, support.describe(result))
    assert.equal("false\ttrue\nfalse\ttrue\nfalse\ttrue\n", result.stdout, support.describe(result))
  end)
end)

describe("a plain script", function()
  it("may wait in its main chunk, in a module that it requires, and in dofile", function()
    local dir = support.tmpdir()
    support.write_file(dir .. "/waits.lua", [[
      local concur = require "concur"
      return { value = concur.sleep(0.001, "loaded") }
    ]])
    local result = support.run_lua(([[
      package.path = %q .. "/?.lua;" .. package.path
      local concur = require "concur"
      print(concur.sleep(0.001, "main"))
      print(require "waits".value)
      print(dofile(%q .. "/waits.lua").value)
    ]]):format(dir, dir))
    assert.equal("main\nloaded\nloaded\n", result.stdout, support.describe(result))
  end)

  it("works from standard input", function()
    local result = support.run_file("/dev/stdin", {
      stdin = [[
        local concur = require "concur"
        print(concur.gather(function() return concur.sleep(0.001, 1) end, function() return 2 end))
      ]],
    })
    assert.equal("1\t2\n", result.stdout, support.describe(result))
  end)

  it("works line by line, as in the REPL", function()
    -- What the REPL does: each line is a chunk of its own, called under xpcall.
    local result = support.run_lua([[
      for line in io.lines() do
        print(select(2, xpcall(load("return " .. line) or load(line), debug.traceback)))
      end
    ]], {
      stdin = 'concur = require "concur"\n'
        .. "t = concur.spawn(concur.sleep, 0.01, 'from a task')\n"
        .. "concur.sleep(0.001, 'typed')\n"
        .. "t:result()\n"
        .. "t:state()\n"
        .. "concur.timeout(0, concur.sleep, 1)\n"
        .. "concur.sleep(0.001, 'and on')\n",
    })
    assert.equal(0, result.code, support.describe(result))
    assert.matches("typed\nfrom a task\ndone\nTimeoutError[^\n]*\nand on\n$", result.stdout)
  end)

  it("ends without waiting for tasks that nothing drives", function()
    local result = support.run_lua [[
      local concur = require "concur"
      concur.spawn(function() print "never" end)
      concur.spawn(concur.sleep, 100)
      print "end"
    ]]
    assert.equal(0, result.code, support.describe(result))
    assert.equal("end\n", result.stdout)
    assert.equal("", result.stderr)
  end)

  it("prints an uncaught library error with its text", function()
    local result = support.run_lua [[
      local concur = require "concur"
      concur.timeout(0.001, concur.sleep_forever)
    ]]
    assert.equal(1, result.code, support.describe(result))
    assert.matches("TimeoutError", result.stderr)
  end)
end)
