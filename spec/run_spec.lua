-- SPDX-License-Identifier: MIT
-- concur.run, concur.main and Runner.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

describe("concur.run", function()
  it("returns all results of main, trailing nils included", function()
    local results = table.pack(concur.run(function()
      return 1, nil, "three", nil
    end))
    assert.same({ 1, nil, "three", nil, n = 4 }, results)
  end)

  it("returns nothing when main returns nothing", function()
    assert.equal(0, select("#", concur.run(function() end)))
  end)

  it("passes its other arguments to main, nils included", function()
    local seen
    concur.run(function(...)
      seen = table.pack(...)
    end, nil, "b", nil)
    assert.same({ nil, "b", nil, n = 3 }, seen)
  end)

  it("runs main as a task, and outside there is none", function()
    assert.is_nil(concur.current_task())
    concur.run(function()
      assert.is_not_nil(concur.current_task())
    end)
    assert.is_nil(concur.current_task())
  end)

  it("raises the error of main: the very same table", function()
    local e = { "mine" }
    assert.equal(e, failure(concur.run, function()
      error(e)
    end))
  end)

  it("raises a string error of main with its position and nothing else", function()
    local e = failure(concur.run, function()
      error("boom")
    end)
    assert.matches("^%S*run_spec%.lua:%d+: boom$", e)
  end)

  it("raises nil and false as they are", function()
    for _, value in ipairs { 1, 2 } do
      local e = nil
      if value == 2 then
        e = false
      end
      local got = table.pack(pcall(concur.run, function()
        concur.checkpoint()
        error(e)
      end))
      assert.same({ false, e, n = 2 }, got)
    end
  end)

  it("can be called again and again", function()
    for i = 1, 3 do
      assert.equal(i, concur.run(function()
        concur.sleep(0)
        return i
      end))
    end
  end)

  it("works again after an error", function()
    pcall(concur.run, error, "x")
    assert.equal("fine", concur.run(function()
      concur.sleep(0)
      return "fine"
    end))
  end)

  it("accepts a callable object as main", function()
    local object = setmetatable({}, {
      __call = function(_, x)
        concur.sleep(0)
        return x + 1
      end,
    })
    assert.equal(42, concur.run(object, 41))
  end)

  it("accepts a C function as main", function()
    assert.equal("7", concur.run(tostring, 7))
  end)

  it("can be started inside a coroutine of the script", function()
    local generator = coroutine.wrap(function()
      coroutine.yield(concur.run(function()
        concur.sleep(0)
        return "inside"
      end))
    end)
    assert.equal("inside", generator())
  end)

  it("refuses to be nested, and the outer run goes on", function()
    local e
    local result = concur.run(function()
      e = failure_of_kind("InvalidState", concur.run, function() end)
      concur.sleep(0)
      return "alive"
    end)
    assert.equal("alive", result)
    assert.matches("run", tostring(e))
  end)

  it("refuses to be nested in a loop callback", function()
    local e
    concur.run(function()
      concur.get_event_loop():call_soon(function()
        e = failure(concur.run, function() end)
      end)
      concur.sleep(0)
      concur.sleep(0)
    end)
    assert.is_true(concur.errors.is(e, "InvalidState"))
  end)

  it("raises FutureCancelled when main was cancelled", function()
    local e = failure_of_kind("FutureCancelled", concur.run, function()
      concur.current_task():cancel("enough")
      concur.sleep(1)
    end)
    assert.equal("enough", e.reason)
  end)
end)

describe("the end of a run", function()
  it("cancels the tasks that are left, and waits for them", function()
    local log = {}
    virtual.run(function()
      for i = 1, 3 do
        concur.spawn(function()
          local ok, e = pcall(concur.sleep, 3600)
          log[#log + 1] = ("%d %s %s"):format(i, tostring(ok), e.kind)
        end)
      end
      concur.sleep(1)
      log[#log + 1] = "main ends"
    end)
    assert.same({ "main ends", "1 false Cancelled", "2 false Cancelled", "3 false Cancelled" }, log)
  end)

  it("lets the clean-up of the tasks that are left wait, under a shield", function()
    local finished_at
    virtual.run(function()
      local start = concur.now()
      concur.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            concur.shield(concur.sleep, 5)
            finished_at = concur.now() - start
          end,
        })
        concur.sleep(3600)
      end)
      concur.sleep(1)
    end)
    assert.near(6, finished_at, 1e-6)
  end)

  it("cancels tasks spawned before the run as well", function()
    local task = concur.spawn(concur.sleep_forever)
    concur.run(concur.sleep, 0)
    assert.equal("cancelled", task:state())
  end)

  it("lets a task that has not started run to its first wait", function()
    local log = {}
    virtual.run(function()
      concur.spawn(function()
        log[#log + 1] = "started"
        concur.sleep(1)
        log[#log + 1] = "not reached"
      end)
    end)
    assert.same({ "started" }, log)
  end)

  it("starts tasks cancelled that are spawned meanwhile", function()
    local log = {}
    virtual.run(function()
      concur.spawn(function()
        pcall(concur.sleep, 3600)
        concur.spawn(function()
          log[#log + 1] = "late task starts"
          local e = failure(concur.sleep, 1)
          log[#log + 1] = e.kind
        end)
      end)
      concur.sleep(1)
    end)
    assert.same({ "late task starts", "Cancelled" }, log)
  end)

  it("does not end before a task that refuses to be cancelled once", function()
    local refused = 0
    virtual.run(function()
      concur.spawn(function()
        for _ = 1, 3 do
          pcall(concur.sleep, 3600)
          refused = refused + 1
        end
      end)
      concur.sleep(1)
    end)
    assert.equal(3, refused)
  end)

  it("comes when main fails, too; the error of main is the one raised", function()
    local cleaned = false
    local e = failure(virtual.run, function()
      concur.spawn(function()
        pcall(concur.sleep, 3600)
        cleaned = true
      end)
      concur.sleep(1)
      error("main failed", 0)
    end)
    assert.equal("main failed", e)
    assert.is_true(cleaned)
  end)

  it("hands the error of a clean-up to on_error", function()
    local reports = virtual.reports(function()
      concur.spawn(function()
        pcall(concur.sleep, 3600)
        error("clean-up failed", 0)
      end)
      concur.sleep(1)
    end)
    assert.same({ "clean-up failed", n = 1 }, reports)
  end)

  it("leaves no task behind", function()
    virtual.run(function()
      for _ = 1, 10 do
        concur.spawn(concur.sleep_forever)
      end
    end)
    assert.equal(0, #concur.all_tasks())
  end)

  it("drops callbacks and timers that were never due", function()
    local called = false
    virtual.run(function()
      concur.get_event_loop():call_later(60, function()
        called = true
      end)
      concur.sleep(1)
    end)
    concur.sleep(0)
    assert.is_false(called)
  end)
end)

describe("Runner", function()
  it("runs main with arguments and returns its results", function()
    local runner <close> = concur.Runner {}
    assert.same({ 2, 3, n = 2 }, table.pack(runner:run(function(a, b)
      concur.sleep(0)
      return a + 1, b + 1
    end, 1, 2)))
  end)

  it("can be used without options", function()
    local runner <close> = concur.Runner()
    assert.equal(1, runner:run(function()
      return 1
    end))
  end)

  it("can run several times", function()
    local runner <close> = concur.Runner {}
    local sum = 0
    for i = 1, 3 do
      sum = sum + runner:run(function()
        concur.sleep(0)
        return i
      end)
    end
    assert.equal(6, sum)
  end)

  it("closes more than once without harm, and refuses to run then", function()
    local runner = concur.Runner {}
    runner:run(function() end)
    runner:close()
    runner:close()
    local e = failure(runner.run, runner, function() end)
    assert.matches("closed", tostring(e))
  end)

  it("gives on_error the errors that nobody retrieved, and only in its own runs", function()
    local seen = {}
    local runner <close> = concur.Runner {
      on_error = function(e)
        seen[#seen + 1] = e
      end,
    }
    runner:run(function()
      concur.spawn(error, "first", 0)
      concur.sleep(0)
      concur.sleep(0)
    end)
    assert.same({ "first" }, seen)
    local result = support.run_lua [[
      local concur = require "concur"
      local runner = concur.Runner { on_error = function() print "the runner's" end }
      runner:run(function() concur.spawn(error, "one", 0) concur.sleep(0) end)
      concur.run(function() concur.spawn(error, "two", 0) concur.sleep(0) end)
    ]]
    assert.equal("the runner's\n", result.stdout, support.describe(result))
    assert.matches("two", result.stderr)
    assert.not_matches("one", result.stderr)
  end)

  it("tells on_error where an error comes from and shows its first traceback", function()
    local _, calls = virtual.reports(function()
      local task = concur.spawn(function()
        error({ "from a task" })
      end)
      task:set_name("the culprit")
      concur.sleep(1)
      task = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
      concur.sleep(1)
      concur.get_event_loop():call_soon(function()
        error({ "from a callback" })
      end)
      concur.sleep(1)
    end)
    assert.equal(2, calls.n)
    assert.matches("the culprit", calls[1][2].message)
    assert.matches("run_spec%.lua:%d+: in", calls[1][2].traceback)
    assert.matches("callback", calls[2][2].message)
    assert.matches("run_spec%.lua:%d+: in", calls[2][2].traceback)
  end)

  it("reports steps of tasks and callbacks that take longer than slow_callback", function()
    local function slow_ones(options)
      local messages = {}
      options.on_error = function(_, context)
        messages[#messages + 1] = context.message
      end
      local runner <close> = concur.Runner(options)
      local function busy(seconds)
        local stop = concur.now() + seconds
        while concur.now() < stop do end
      end
      runner:run(function()
        concur.spawn(busy, 0.03):result()
        concur.spawn(busy, 0):result()
        concur.get_event_loop():call_soon(busy, 0.03)
        concur.sleep(0)
        concur.sleep(0)
      end)
      return #messages
    end
    assert.equal(2, slow_ones { slow_callback = 0.02 })
    assert.equal(0, slow_ones { slow_callback = 100 })
    assert.equal(0, slow_ones { debug = false })
  end)

  it("shuffles the ready order by its option, the same way for the same seed", function()
    local function order(seed)
      local log = {}
      local runner <close> = concur.Runner { shuffle = seed }
      runner:run(function()
        local tasks = {}
        for i = 1, 30 do
          tasks[i] = concur.spawn(function()
            log[#log + 1] = i
          end)
        end
        concur.wait(tasks)
      end)
      return table.concat(log, " ")
    end
    assert.equal(order(1), order(1))
    assert.not_equal(order(1), order(2))
    assert.matches("^1 2 3 4 5 6 7 8", order(nil))
  end)

  it("sends an error of on_error itself to stderr, and the loop goes on", function()
    local result = support.run_lua [[
      local concur = require "concur"
      local runner = concur.Runner { on_error = function() error("handler broke", 0) end }
      print(runner:run(function()
        concur.spawn(error, "original", 0)
        concur.sleep(0.01)
        return "went on"
      end))
    ]]
    assert.equal("went on\n", result.stdout, support.describe(result))
    assert.matches("handler broke", result.stderr)
  end)

  it("refuses unknown options by name", function()
    local e = failure(concur.Runner, { clok = 1 })
    assert.matches("clok", tostring(e))
  end)

  it("refuses options of the wrong type", function()
    for name, value in pairs {
      on_error = 1,
      clock = "fast",
      slow_callback = "soon",
    } do
      local e = failure(concur.Runner, { [name] = value })
      assert.matches(name, tostring(e))
    end
    assert.matches("table", tostring(failure(concur.Runner, "x")))
  end)

  it("refuses to run inside a run", function()
    local runner <close> = concur.Runner {}
    concur.run(function()
      failure_of_kind("InvalidState", runner.run, runner, function() end)
    end)
  end)

  it("has a name and shows its state", function()
    local runner = concur.Runner {}
    assert.matches("Runner", tostring(runner))
    runner:close()
    assert.matches("closed", tostring(runner))
  end)
end)

describe("concur.main", function()
  local function main(body, options)
    return support.run_lua('local concur = require "concur"\n' .. body, options)
  end

  it("ends with exit code 0 when the function returns nothing", function()
    local result = main [[concur.main(function() concur.sleep(0) print "done" end)]]
    assert.equal(0, result.code, support.describe(result))
    assert.equal("done\n", result.stdout)
    assert.equal("", result.stderr)
  end)

  it("passes its arguments", function()
    local result = main [[concur.main(function(a, b) print(a, b) end, 1, "x")]]
    assert.equal("1\tx\n", result.stdout, support.describe(result))
  end)

  it("takes an integer or boolean result as exit code", function()
    for result, code in pairs { ["7"] = 7, ["true"] = 0, ["false"] = 1, ["0"] = 0 } do
      local child = main("concur.main(function() return " .. result .. " end)")
      assert.equal(code, child.code, support.describe(child))
    end
  end)

  it("prints an error with its traceback and ends with exit code 1", function()
    local result = main [[
      local function culprit()
        concur.sleep(0)
        error("it broke")
      end
      concur.main(function() culprit() end)
    ]]
    assert.equal(1, result.code, support.describe(result))
    assert.matches("script%.lua:4: it broke", result.stderr)
    assert.matches("culprit", result.stderr)
    assert.equal("", result.stdout)
  end)

  it("prints an error that is nil, and a library error, with exit code 1", function()
    local result = main [[concur.main(function() error(nil) end)]]
    assert.equal(1, result.code, support.describe(result))
    assert.matches("nil", result.stderr)
    result = main [[concur.main(function() concur.Future():exception() end)]]
    assert.equal(1, result.code, support.describe(result))
    assert.matches("InvalidState", result.stderr)
  end)

  it("refuses what is no function, with exit code 1", function()
    local result = main [[concur.main(42)]]
    assert.equal(1, result.code, support.describe(result))
    assert.matches("#1", result.stderr)
  end)

  it("flushes what was printed and runs finalizers", function()
    local result = main [[
      keep = setmetatable({}, { __gc = function() io.write "finalized\n" end })
      concur.main(function() io.write "text without newline;" return 3 end)
    ]]
    assert.equal(3, result.code, support.describe(result))
    assert.equal("text without newline;finalized\n", result.stdout)
  end)
end)
