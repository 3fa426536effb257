-- SPDX-License-Identifier: MIT
-- Tasks: spawn, order, names, strangers at their coroutines, errors nobody retrieved.

local concur = require "concur"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

-- A value whose __close appends `name` to `log`.
local function closer(log, name)
  return setmetatable({}, {
    __close = function()
      log[#log + 1] = name
    end,
  })
end

describe("spawn", function()
  it("returns a task at once; the function starts at the next turn", function()
    local started = false
    virtual.run(function()
      local task = concur.spawn(function()
        started = true
      end)
      assert.is_false(started)
      assert.equal("pending", task:state())
      assert.is_false(task:done())
      concur.sleep(0)
      assert.is_true(started)
      assert.is_true(task:done())
    end)
  end)

  it("passes arguments and keeps all results, nils included", function()
    virtual.run(function()
      local task = concur.spawn(function(...)
        local given = table.pack(...)
        concur.sleep(0)
        return given.n, nil, given[1], given[3], nil
      end, "a", nil, "c", nil)
      assert.same({ 4, nil, "a", "c", nil, n = 5 }, table.pack(task:result()))
      assert.same({ 4, nil, "a", "c", nil, n = 5 }, table.pack(task:result()))
    end)
  end)

  it("keeps a single result as it is: nil, false, a table", function()
    virtual.run(function()
      local object = {}
      assert.same({ nil, n = 1 }, table.pack(concur.spawn(function()
        return nil
      end):result()))
      assert.is_false(concur.spawn(function()
        return false
      end):result())
      assert.equal(object, concur.spawn(function()
        return object
      end):result())
      assert.equal(0, select("#", concur.spawn(function() end):result()))
    end)
  end)

  it("starts tasks first in, first out", function()
    local log = {}
    virtual.run(function()
      for i = 1, 50 do
        concur.spawn(function()
          log[#log + 1] = i
          concur.sleep(0)
          log[#log + 1] = 50 + i
        end)
      end
      concur.sleep(0)
      concur.sleep(0)
    end)
    assert.equal(100, #log)
    for i = 1, 100 do
      assert.equal(i, log[i])
    end
  end)

  it("holds a task that nobody else holds", function()
    local finished = 0
    virtual.run(function()
      for _ = 1, 20 do
        concur.spawn(function()
          concur.sleep(1)
          finished = finished + 1
        end)
      end
      concur.sleep(0)
      collectgarbage()
      collectgarbage()
      concur.sleep(2)
    end)
    assert.equal(20, finished)
  end)

  it("takes a callable object and a C function", function()
    virtual.run(function()
      local object = setmetatable({}, {
        __call = function(_, x)
          return x * 2
        end,
      })
      assert.equal(8, concur.spawn(object, 4):result())
      assert.equal(3, concur.spawn(math.max, 1, 3, 2):result())
      assert.equal("x", concur.spawn(concur.sleep, 1, "x"):result())
    end)
  end)

  it("takes hundreds of arguments and returns hundreds of results", function()
    virtual.run(function()
      local values = {}
      for i = 1, 240 do
        values[i] = i
      end
      local task = concur.spawn(function(...)
        concur.sleep(0)
        return ...
      end, table.unpack(values))
      assert.same(values, { task:result() })
    end)
  end)

  it("takes any number of arguments", function()
    virtual.run(function()
      local values = {}
      for i = 1, 200000 do
        values[i] = i
      end
      for _, n in ipairs { 1, 300, 65532, 65533, 65534, 65535, 65536, 70000, 200000 } do
        local count, last = concur.spawn(function(...)
          concur.sleep(0)
          return select("#", ...), (select(-1, ...))
        end, table.unpack(values, 1, n)):result()
        assert.same({ n, n }, { count, last })
      end
    end)
  end)

  it("carries ten thousand tasks at once", function()
    local count = 0
    virtual.run(function()
      local tasks = {}
      for i = 1, 10000 do
        tasks[i] = concur.spawn(function()
          concur.sleep(i % 7)
          count = count + 1
          return i
        end)
      end
      local sum = 0
      for i = 1, 10000 do
        sum = sum + tasks[i]:result()
      end
      assert.equal(10000 * 10001 // 2, sum)
    end)
    assert.equal(10000, count)
  end)

  it("lets tasks spawn tasks, thousands deep", function()
    local function descend(n)
      if n == 0 then
        return 0
      end
      return 1 + concur.spawn(descend, n - 1):result()
    end
    assert.equal(5000, virtual.run(descend, 5000))
  end)
end)

describe("async", function()
  it("makes a function whose calls are tasks", function()
    virtual.run(function()
      local double = concur.async(function(x, y)
        concur.sleep(1)
        return x * 2, y
      end)
      local first, second = double(1), double(2, "y")
      assert.matches("Task", tostring(first))
      assert.equal(2, first:result())
      assert.same({ 4, "y" }, { second:result() })
    end)
  end)
end)

describe("current_task and all_tasks", function()
  it("current_task is the task that asks", function()
    virtual.run(function()
      local task
      task = concur.spawn(function()
        assert.equal(task, concur.current_task())
        concur.sleep(1)
        assert.equal(task, concur.current_task())
        return true
      end)
      assert.is_true(task:result())
    end)
  end)

  it("current_task is the same in a coroutine that the task runs", function()
    virtual.run(function()
      local seen = coroutine.wrap(function()
        return concur.current_task()
      end)()
      assert.equal(concur.current_task(), seen)
    end)
  end)

  it("all_tasks lists the tasks that have not ended", function()
    virtual.run(function()
      local parked = concur.spawn(concur.sleep_forever)
      local ended = concur.spawn(function() end)
      concur.sleep(0)
      local fresh = concur.spawn(function() end)
      local set = {}
      for _, task in ipairs(concur.all_tasks()) do
        set[task] = true
      end
      assert.is_true(set[parked])
      assert.is_true(set[fresh])
      assert.is_true(set[concur.current_task()])
      assert.is_nil(set[ended])
    end)
    assert.same({}, concur.all_tasks())
  end)
end)

describe("a task", function()
  it("has a name of its own until it is given another", function()
    virtual.run(function()
      local a, b = concur.spawn(print), concur.spawn(print)
      a:cancel()
      b:cancel()
      assert.equal("string", type(a:name()))
      assert.not_equal(a:name(), b:name())
      a:set_name("downloader")
      assert.equal("downloader", a:name())
      assert.matches("downloader", tostring(a))
    end)
  end)

  it("shows its state in tostring", function()
    virtual.run(function()
      local good = concur.spawn(function() end)
      local bad = concur.spawn(error, "x")
      local stopped = concur.spawn(concur.sleep_forever)
      assert.matches("pending", tostring(good))
      concur.sleep(0)
      stopped:cancel()
      concur.sleep(0)
      assert.matches("done", tostring(good))
      assert.matches("failed", tostring(bad))
      assert.matches("cancelled", tostring(stopped))
      bad:exception()
    end)
  end)

  it("shows in its traceback where it waits", function()
    virtual.run(function()
      local line
      local function waits_here()
        line = debug.getinfo(1, "l").currentline + 1
        concur.sleep(5)
      end
      local task = concur.spawn(function()
        waits_here()
      end)
      concur.sleep(0)
      local text = task:traceback()
      assert.matches("task_spec%.lua:" .. line .. ": in", text)
      assert.matches("waits_here", text)
    end)
  end)

  it("has a traceback while it runs, none before it starts and after a result", function()
    virtual.run(function()
      local task = concur.spawn(function() end)
      assert.is_nil(task:traceback())
      assert.matches("task_spec%.lua:%d+: in", concur.current_task():traceback())
      concur.sleep(0)
      assert.is_nil(task:traceback())
    end)
  end)

  it("shows in its traceback where it failed", function()
    virtual.run(function()
      local line = debug.getinfo(1, "l").currentline + 2
      local task = concur.spawn(function()
        error({})
      end)
      concur.wait { task }
      assert.matches("task_spec%.lua:" .. line .. ": in", task:traceback())
      task:exception()
      assert.matches("task_spec%.lua:" .. line .. ": in", task:traceback())
    end)
  end)

  it("says what it waits for", function()
    virtual.run(function()
      local future = concur.Future()
      local sleeper = concur.spawn(concur.sleep, 5)
      local waiter = concur.spawn(future.result, future)
      concur.sleep(0)
      local what, which = sleeper:awaiting()
      assert.matches("sleep", what)
      assert.is_nil(which)
      what, which = waiter:awaiting()
      assert.equal("string", type(what))
      assert.equal(future, which)
      assert.is_nil((concur.current_task():awaiting()))
      future:set_result()
      concur.sleep(10)
      assert.is_nil((sleeper:awaiting()))
    end)
  end)
end)

describe("an error in a task", function()
  it("is raised by result: the very same value", function()
    virtual.run(function()
      local object = setmetatable({}, {
        __tostring = function()
          error("must not be called")
        end,
      })
      for _, e in ipairs { object, 42, "text", true, print } do
        local task = concur.spawn(function()
          concur.sleep(0)
          error(e, 0)
        end)
        assert.is_true(rawequal(e, failure(task.result, task)))
        assert.is_true(rawequal(e, failure(task.result, task)))
        assert.equal("failed", task:state())
      end
    end)
  end)

  it("may be nil or false", function()
    virtual.run(function()
      local function check(e)
        local task = concur.spawn(function()
          concur.sleep(0)
          error(e)
        end)
        assert.same({ false, e, n = 2 }, table.pack(pcall(task.result, task)))
        assert.equal("failed", task:state())
        assert.is_true(rawequal(e, task:exception()))
      end
      check(nil)
      check(false)
    end)
  end)

  it("keeps its position and gets no other", function()
    virtual.run(function()
      local task = concur.spawn(function()
        error("boom")
      end)
      assert.matches("^%S*task_spec%.lua:%d+: boom$", failure(task.result, task))
    end)
  end)

  it("ends that task only", function()
    virtual.run(function()
      local bad = concur.spawn(function()
        concur.sleep(1)
        error("bad")
      end)
      local good = concur.spawn(function()
        concur.sleep(2)
        return "good"
      end)
      assert.equal("good", good:result())
      assert.matches("bad", bad:exception())
    end)
  end)

  it("closes the to-be-closed variables before the task is done", function()
    local log = {}
    virtual.run(function()
      local task = concur.spawn(function()
        local _ <close> = closer(log, "outer")
        local _ <close> = closer(log, "inner")
        concur.sleep(1)
        error("x")
      end)
      task:add_done_callback(function()
        log[#log + 1] = "done"
      end)
      pcall(task.result, task)
      concur.sleep(0)
    end)
    assert.same({ "inner", "outer", "done" }, log)
  end)

  it("lets the clean-up wait", function()
    virtual.run(function()
      local start, log = concur.now(), {}
      local task = concur.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            concur.sleep(3)
            log[#log + 1] = "cleaned"
          end,
        })
        error("after", 0)
      end)
      assert.equal("after", failure(task.result, task))
      assert.near(3, concur.now() - start, 1e-6)
      assert.same({ "cleaned" }, log)
    end)
  end)

  it("is replaced by an error of the clean-up", function()
    virtual.run(function()
      local task = concur.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            error("clean-up", 0)
          end,
        })
        error("body", 0)
      end)
      assert.equal("clean-up", failure(task.result, task))
    end)
  end)

  it("may be a stack overflow", function()
    virtual.run(function()
      local function overflow()
        return 1 + overflow()
      end
      local task = concur.spawn(overflow)
      assert.matches("stack overflow", tostring(failure(task.result, task)))
      assert.equal("fine", concur.spawn(concur.sleep, 0, "fine"):result())
    end)
  end)

  it("passes through a chain of tasks unchanged", function()
    virtual.run(function()
      local e = {}
      local function chain(n)
        if n == 0 then
          concur.sleep(1)
          error(e)
        end
        concur.spawn(chain, n - 1):result()
      end
      assert.equal(e, failure(chain, 50))
    end)
  end)
end)

describe("the first traceback", function()
  -- A child whose script fails in `culprit`, line 3, behind the given call.
  local function stderr_of(call)
    local result = support.run_lua(([[
      local concur = require "concur"
      local function culprit() concur.sleep(0)
        error { message = "an object", kind = "mine" }
      end
      %s
    ]]):format(call))
    return result.stderr, support.describe(result)
  end

  it("shows the user's line when main's error is printed", function()
    local text, all = stderr_of "concur.main(culprit)"
    assert.matches("script%.lua:3: in", text, all)
  end)

  it("shows it when the error passed a task", function()
    local text, all = stderr_of [[
      concur.main(function() concur.spawn(culprit):result() end)]]
    assert.matches("script%.lua:3: in", text, all)
  end)

  it("shows it when the error passed gather and a time-out", function()
    local text, all = stderr_of [[
      concur.main(function()
        concur.timeout(10, function() concur.gather(concur.sleep_forever, culprit) end)
      end)]]
    assert.matches("script%.lua:3: in", text, all)
  end)

  it("shows it when nobody retrieved the error", function()
    local text, all = stderr_of [[
      concur.run(function() concur.spawn(culprit) concur.sleep(0.01) end)]]
    assert.matches("script%.lua:3: in", text, all)
  end)

  it("is kept in library errors as their field", function()
    virtual.run(function()
      local line = debug.getinfo(1, "l").currentline + 2
      local task = concur.spawn(function()
        concur.Future():exception()
      end)
      local e = failure_of_kind("InvalidState", task.result, task)
      assert.matches("task_spec%.lua:" .. line .. ": in", e.traceback)
    end)
  end)
end)

describe("an error that nobody retrieved", function()
  it("is reported once when the task becomes unreachable", function()
    local e = { "lost" }
    local seen
    local reports = virtual.reports(function()
      concur.spawn(error, e)
      concur.sleep(0)
      collectgarbage()
      collectgarbage()
      concur.sleep(0)
      collectgarbage()
      concur.sleep(0)
      seen = true
    end)
    assert.is_true(seen)
    assert.equal(1, reports.n)
    assert.equal(e, reports[1])
  end)

  it("is reported while the run goes on, not only at its end", function()
    local log = {}
    local runner <close> = concur.Runner {
      on_error = function(e)
        log[#log + 1] = e
      end,
    }
    runner:run(function()
      concur.spawn(error, "lost", 0)
      concur.sleep(0)
      collectgarbage()
      collectgarbage()
      concur.sleep(0.001)
      log[#log + 1] = "main"
    end)
    assert.same({ "lost", "main" }, log)
  end)

  it("is reported when the run ends, even if the task is still held", function()
    local task
    local reports = virtual.reports(function()
      task = concur.spawn(error, "held", 0)
      concur.sleep(0)
    end)
    assert.same({ "held", n = 1 }, reports)
    assert.equal("failed", task:state())
  end)

  it("is reported when it is nil", function()
    local reports = virtual.reports(function()
      concur.spawn(error)
      concur.sleep(0)
    end)
    assert.same({ n = 1 }, reports)
  end)

  for name, retrieve in pairs {
    result = function(task)
      pcall(task.result, task)
    end,
    exception = function(task)
      task:exception()
    end,
    await = function(task)
      pcall(concur.await, task)
    end,
    gather = function(task)
      pcall(concur.gather, task)
    end,
    settle = function(task)
      concur.settle(task)
    end,
  } do
    it("is not reported after " .. name, function()
      local reports = virtual.reports(function()
        local task = concur.spawn(error, "seen", 0)
        concur.sleep(0)
        retrieve(task)
      end)
      assert.equal(0, reports.n)
    end)

    it("is not reported when a task was waiting for it with " .. name, function()
      local reports = virtual.reports(function()
        local task = concur.spawn(function()
          concur.sleep(1)
          error("seen", 0)
        end)
        if name == "exception" then -- it never waits itself
          concur.wait { task }
        end
        retrieve(task)
      end)
      assert.equal(0, reports.n)
    end)
  end

  it("is not an error when the task was cancelled", function()
    local reports = virtual.reports(function()
      local task = concur.spawn(concur.sleep_forever)
      concur.sleep(0)
      task:cancel("no longer needed")
      concur.sleep(0)
    end)
    assert.equal(0, reports.n)
  end)

  it("is reported for each of many tasks", function()
    local reports = virtual.reports(function()
      for i = 1, 10 do
        concur.spawn(error, i)
      end
      concur.sleep(0)
    end)
    table.sort(reports)
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, n = 10 }, reports)
  end)

  it("goes to stderr with a traceback by default, and the program goes on", function()
    local result = support.run_lua [[
      local concur = require "concur"
      concur.spawn(function() error("lost at top level") end)
      concur.sleep(0.001)
      collectgarbage()
      collectgarbage()
      concur.sleep(0.001)
      print "still here"
    ]]
    assert.equal("still here\n", result.stdout, support.describe(result))
    assert.equal(0, result.code)
    assert.matches("lost at top level", result.stderr)
    assert.matches("script%.lua:2: in", result.stderr)
  end)

  it("is reported at the end of the program when nothing drives the loop again", function()
    local result = support.run_lua [[
      local concur = require "concur"
      task = concur.spawn(function() error("lost at the end") end)
      concur.sleep(0.001)
    ]]
    assert.equal(0, result.code, support.describe(result))
    assert.matches("lost at the end", result.stderr)
  end)
end)

describe("a bare coroutine.yield in a task", function()
  it("raises an error there that says what to do, and the loop goes on", function()
    virtual.run(function()
      local task = concur.spawn(function()
        coroutine.yield("nobody takes this")
      end)
      local other = concur.spawn(concur.sleep, 1, "fine")
      local e = failure_of_kind("InvalidState", task.result, task)
      assert.matches("yield", e.message)
      assert.matches("task_spec%.lua:%d+", e.traceback)
      assert.equal("fine", other:result())
    end)
  end)

  it("can be caught there, again and again, and waits work after it", function()
    virtual.run(function()
      local task = concur.spawn(function()
        local function yield()
          local value = coroutine.yield(1, 2)
          return value -- the error is raised before this line
        end
        for _ = 1, 5 do
          assert.is_true(concur.errors.is(failure(yield), "InvalidState"))
        end
        concur.sleep(1)
        assert.is_true(concur.errors.is(failure(yield), "InvalidState"))
        return "survived"
      end)
      assert.equal("survived", task:result())
    end)
  end)

  it("runs the clean-up of the task", function()
    local log = {}
    virtual.run(function()
      local task = concur.spawn(function()
        local _ <close> = closer(log, "closed")
        coroutine.yield()
        log[#log + 1] = "not reached"
      end)
      failure(task.result, task)
    end)
    assert.same({ "closed" }, log)
  end)

  it("fails the task even as the last thing that it does", function()
    virtual.run(function()
      local task = concur.spawn(coroutine.yield)
      failure_of_kind("InvalidState", task.result, task)
      task = concur.spawn(function()
        return coroutine.yield()
      end)
      failure_of_kind("InvalidState", task.result, task)
    end)
  end)

  it("leaves the user's own hook as it was", function()
    virtual.run(function()
      local task = concur.spawn(function()
        local function hook() end
        debug.sethook(hook, "", 1000000)
        pcall(function()
          local _ = coroutine.yield()
        end)
        local now, mask, count = debug.gethook()
        debug.sethook()
        return now == hook, mask, count
      end)
      assert.same({ true, "", 1000000 }, { task:result() })
    end)
  end)

  it("is refused in main, too", function()
    failure_of_kind("InvalidState", concur.run, function()
      coroutine.yield()
    end)
  end)

  it("works as ever inside a coroutine of the user's own", function()
    virtual.run(function()
      local squares = coroutine.wrap(function()
        for i = 1, 3 do
          coroutine.yield(i * i)
        end
      end)
      assert.same({ 1, 4, 9 }, { squares(), squares(), squares() })
    end)
  end)
end)

describe("a stranger", function()
  it("that resumes a task's coroutine does not end its wait", function()
    virtual.run(function()
      local start, co = concur.now(), nil
      local task = concur.spawn(function()
        co = coroutine.running()
        local value = concur.sleep(10, "slept")
        return value, concur.now() - start
      end)
      concur.sleep(1)
      coroutine.resume(co, "wake up")
      coroutine.resume(co)
      assert.equal("pending", task:state())
      local value, took = task:result()
      assert.equal("slept", value)
      assert.near(10, took, 1e-6)
    end)
  end)

  it("that resumes a task waiting for a future does not end its wait", function()
    virtual.run(function()
      local future, co = concur.Future(), nil
      local task = concur.spawn(function()
        co = coroutine.running()
        return future:result()
      end)
      concur.sleep(0)
      coroutine.resume(co, "forged")
      concur.sleep(0)
      future:set_result("real")
      assert.equal("real", task:result())
    end)
  end)

  it("that closes a task's coroutine makes the task fail, its clean-up done", function()
    local log = {}
    virtual.run(function()
      local future, co = concur.Future(), nil
      local task = concur.spawn(function()
        co = coroutine.running()
        local _ <close> = closer(log, "closed")
        return future:result()
      end)
      concur.sleep(0)
      coroutine.close(co)
      assert.same({ "closed" }, log)
      future:set_result("too late")
      failure_of_kind("InvalidState", task.result, task)
    end)
  end)

  it("that closes a sleeping task's coroutine harms nobody else", function()
    virtual.run(function()
      local co
      local task = concur.spawn(function()
        co = coroutine.running()
        concur.sleep(1)
      end)
      local other = concur.spawn(concur.sleep, 2, "other")
      concur.sleep(0)
      coroutine.close(co)
      assert.equal("other", other:result())
      failure_of_kind("InvalidState", task.result, task)
    end)
  end)

  it("that closes a task's coroutine leaves it to be cancelled in peace", function()
    virtual.run(function()
      local co
      local task = concur.spawn(function()
        co = coroutine.running()
        concur.Future():result()
      end)
      concur.sleep(0)
      coroutine.close(co)
      task:cancel()
      concur.sleep(1)
      assert.is_true(task:done())
      pcall(task.result, task)
    end)
  end)

  it("that closes the coroutine of a task about to run makes it fail", function()
    virtual.run(function()
      local co
      local future = concur.Future()
      local task = concur.spawn(function()
        co = coroutine.running()
        future:result()
      end)
      concur.sleep(0)
      future:set_result()
      coroutine.close(co)
      failure_of_kind("InvalidState", task.result, task)
    end)
  end)

  it("that keeps the coroutine of a task that ended can do no harm with it", function()
    virtual.run(function()
      local kept
      concur.spawn(function()
        kept = coroutine.running()
      end):result()
      assert.is_false((coroutine.resume(kept, print)))
      assert.equal("fine", concur.spawn(concur.sleep, 1, "fine"):result())
      coroutine.close(kept)
      assert.equal("fine", concur.spawn(concur.sleep, 1, "fine"):result())
    end)
  end)

  it("that resumes a task which has not started does not start it", function()
    virtual.run(function()
      local log = {}
      -- The coroutine of the first task is used again for the second.
      local kept
      concur.spawn(function()
        kept = coroutine.running()
      end):result()
      local task = concur.spawn(function()
        log[#log + 1] = "run"
        concur.sleep(1)
        return "end"
      end)
      pcall(coroutine.resume, kept, "stranger")
      assert.same({}, log)
      pcall(task.result, task)
      assert.is_true(task:done())
      assert.is_true(#log <= 1)
    end)
  end)

  it("that starts a task nobody holds, and collects garbage, does no harm", function()
    local reports = virtual.reports(function()
      local kept
      concur.spawn(function()
        kept = coroutine.running()
      end):result()
      concur.spawn(function()
        concur.sleep(1)
      end)
      pcall(coroutine.resume, kept)
      collectgarbage()
      collectgarbage()
      concur.sleep(5)
    end)
    for i = 1, reports.n do
      assert.is_true(concur.errors.is(reports[i], "InvalidState"))
    end
  end)

  it("that resumes a task between its bare yield and the error does no harm", function()
    local reports = virtual.reports(function()
      for _, ending in ipairs {
        function() end,
        function()
          concur.sleep(1)
        end,
        function()
          coroutine.yield()
        end,
      } do
        local co
        concur.spawn(function()
          co = coroutine.running()
          pcall(function()
            local _ = coroutine.yield()
          end)
          ending()
        end)
        concur.spawn(function()
          coroutine.resume(co)
          collectgarbage()
          collectgarbage()
        end)
        concur.sleep(5)
      end
    end)
    for i = 1, reports.n do
      assert.is_true(concur.errors.is(reports[i], "InvalidState"))
    end
  end)

  it("that closes a task after its bare yield makes it fail", function()
    virtual.run(function()
      local co
      local task = concur.spawn(function()
        co = coroutine.running()
        coroutine.yield()
      end)
      concur.spawn(function()
        coroutine.close(co)
        collectgarbage()
      end)
      failure_of_kind("InvalidState", task.result, task)
    end)
  end)

  it("that closes main's coroutine makes run fail, and the other tasks end in order", function()
    local log = {}
    failure_of_kind("InvalidState", virtual.run, function()
      local co = coroutine.running()
      concur.spawn(function()
        coroutine.close(co)
        local _ <close> = closer(log, "other cleaned")
        concur.sleep(10)
      end):result()
      log[#log + 1] = "not reached"
    end)
    assert.same({ "other cleaned" }, log)
  end)

  it("that wraps a task's coroutine in another one does no harm", function()
    virtual.run(function()
      local co
      local task = concur.spawn(function()
        co = coroutine.running()
        return concur.sleep(5, "value")
      end)
      concur.sleep(0)
      coroutine.wrap(function()
        coroutine.resume(co)
      end)()
      assert.equal("value", task:result())
    end)
  end)
end)

describe("coroutines of tasks", function()
  it("are used again, so they are no task's identity", function()
    virtual.run(function()
      local seen, tasks = {}, {}
      local distinct = 0
      for i = 1, 20 do
        tasks[i] = concur.spawn(function()
          local co = coroutine.running()
          if not seen[co] then
            seen[co] = true
            distinct = distinct + 1
          end
          return concur.current_task()
        end)
        assert.equal(tasks[i], tasks[i]:result())
      end
      assert.is_true(distinct < 20)
    end)
  end)

  it("are clean after a task that failed deep in its calls", function()
    virtual.run(function()
      for round = 1, 20 do
        local function deep(n)
          local _ <close> = closer({}, "x")
          if n == 0 then
            error("deep", 0)
          end
          return 1 + deep(n - 1)
        end
        local task = concur.spawn(deep, 50)
        assert.equal("deep", failure(task.result, task))
        assert.equal(round, concur.spawn(concur.sleep, 0, round):result())
      end
    end, true)
  end)

  it("do not hand a hook of one task to the next", function()
    virtual.run(function()
      local hits = 0
      concur.spawn(function()
        debug.sethook(function()
          hits = hits + 1
        end, "", 1)
      end):result()
      hits = 0
      for _ = 1, 5 do
        concur.spawn(function()
          local x = 0
          for i = 1, 100 do
            x = x + i
          end
          return x
        end):result()
      end
      assert.equal(0, hits)
    end)
  end)

  it("are given back: memory stays level over many tasks", function()
    virtual.run(function()
      local function round()
        for _ = 1, 2000 do
          concur.spawn(concur.sleep, 0):result()
        end
        collectgarbage()
        collectgarbage()
        return collectgarbage("count")
      end
      round()
      local before = round()
      local after = round()
      assert.is_true(after - before < 50, ("%g KiB more"):format(after - before))
    end)
  end)
end)

describe("fairness", function()
  it("makes a task yield after 128 waits in a row that were over at once", function()
    virtual.run(function()
      local others, longest, streak = 0, 0, 0
      local stop = false
      concur.spawn(function()
        while not stop do
          others = others + 1
          streak = 0
          concur.sleep(0)
        end
      end)
      for _ = 1, 2000 do
        concur.suspend(function(resume)
          resume()
        end)
        streak = streak + 1
        longest = math.max(longest, streak)
      end
      stop = true
      assert.is_true(others >= 10, others .. " turns for the other task")
      assert.is_true(longest <= 130, longest .. " in a row")
    end)
  end)

  it("lets timers fire beside a task that never really waits", function()
    local turns = 0
    concur.run(function()
      local fired = false
      concur.get_event_loop():call_later(0.005, function()
        fired = true
      end)
      while not fired do
        concur.suspend(function(resume)
          resume()
        end)
        turns = turns + 1
      end
    end)
    assert.is_true(turns > 0)
  end)

  it("lets timers fire beside tasks that wake each other all the time", function()
    concur.run(function()
      local fired = false
      concur.get_event_loop():call_later(0.005, function()
        fired = true
      end)
      local function spin()
        while not fired do
          concur.sleep(0)
        end
      end
      concur.gather(spin, spin, spin)
      assert.is_true(fired)
    end)
  end)

  it("lets others run beside a task that catches Cancelled in a loop", function()
    virtual.run(function()
      local turns = 0
      local stubborn = concur.spawn(function()
        for _ = 1, 1000 do
          pcall(concur.sleep, 1)
          turns = turns + 1
        end
      end)
      concur.sleep(0)
      stubborn:cancel()
      for _ = 1, 5 do
        concur.sleep(0)
      end
      assert.is_true(turns < 20, turns .. " turns")
    end)
  end)

  it("sleep(0) lets every other ready task run once", function()
    local log = {}
    virtual.run(function()
      for i = 1, 3 do
        concur.spawn(function()
          for _ = 1, 2 do
            log[#log + 1] = i
            concur.sleep(0)
          end
        end)
      end
      concur.sleep(0)
      log[#log + 1] = "main"
      concur.sleep(0)
      log[#log + 1] = "main"
    end)
    assert.same({ 1, 2, 3, "main", 1, 2, 3, "main" }, log)
  end)

  it("checkpoint lets other ready tasks run", function()
    local log = {}
    virtual.run(function()
      local task = concur.spawn(function()
        log[#log + 1] = "other"
      end)
      for _ = 1, 200 do
        concur.checkpoint()
      end
      assert.is_true(task:done())
    end)
    assert.same({ "other" }, log)
  end)
end)
