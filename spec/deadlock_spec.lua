-- SPDX-License-Identifier: MIT
-- Deadlock: an error instead of a program that hangs for ever.

local concur = require "concur"
local expect = require "spec.support.expect"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

describe("Deadlock", function()
  it("is raised by run when main waits for what nobody can bring", function()
    local e = failure_of_kind("Deadlock", concur.run, function()
      concur.Future():result()
    end)
    assert.equal("string", type(e.message))
  end)

  it("is raised on the virtual clock as well", function()
    failure_of_kind("Deadlock", virtual.run, function()
      concur.sleep(10)
      concur.Future():result()
    end)
  end)

  it("names each task and what it waits for", function()
    local e = failure_of_kind("Deadlock", concur.run, function()
      concur.current_task():set_name("the main one")
      concur.spawn(concur.sleep_forever):set_name("sleeper")
      local waiter = concur.spawn(function()
        concur.Future():result()
      end)
      waiter:set_name("waiter")
      waiter:result()
    end)
    local text = tostring(e)
    assert.matches("the main one", text)
    assert.matches("sleeper", text)
    assert.matches("sleeper: sleep", text)
    assert.matches("waiter: ", text)
  end)

  it("lets the tasks clean up before it is raised", function()
    local log = {}
    failure_of_kind("Deadlock", concur.run, function()
      concur.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            log[#log + 1] = "other"
          end,
        })
        concur.sleep_forever()
      end)
      local _ <close> = setmetatable({}, {
        __close = function()
          log[#log + 1] = "main"
        end,
      })
      concur.sleep_forever()
    end)
    table.sort(log)
    assert.same({ "main", "other" }, log)
    assert.same({}, concur.all_tasks())
  end)

  it("is raised by a wait at top level, and the script can go on", function()
    local future = concur.Future()
    failure_of_kind("Deadlock", future.result, future)
    assert.equal("pending", future:state())
    assert.equal("fine", concur.sleep(0, "fine"))
  end)

  it("is raised by a wait at top level for a task that waits for ever", function()
    local task = concur.spawn(concur.sleep_forever)
    local e = failure_of_kind("Deadlock", task.result, task)
    assert.equal("pending", task:state())
    task:cancel()
    concur.sleep(0)
    assert.matches("sleep", tostring(e))
  end)

  it("is raised by a task group at top level whose child waits for ever", function()
    local closed
    expect.error("Deadlock", concur.task_group, function(group)
      group:spawn(function()
        local _ <close> = expect.guard(function() closed = true end)
        concur.sleep_forever()
      end)
    end)
    assert.is_true(closed)
    assert.same({}, concur.all_tasks())
  end)

  it("is raised by run_until_complete and by run_forever", function()
    local loop = concur.get_event_loop()
    failure_of_kind("Deadlock", loop.run_until_complete, loop, concur.Future())
    failure_of_kind("Deadlock", loop.run_forever, loop)
  end)

  it("is raised by sleep_forever and by sleep(math.huge)", function()
    failure_of_kind("Deadlock", concur.run, concur.sleep_forever)
    failure_of_kind("Deadlock", concur.run, concur.sleep, math.huge)
    failure_of_kind("Deadlock", concur.sleep_forever)
  end)

  it("is not raised while a timer runs, whoever set it", function()
    virtual.run(function()
      local future = concur.Future()
      concur.get_event_loop():call_later(1e6, future.set_result, future, "came")
      assert.equal("came", future:result())
    end)
  end)

  it("is not raised for a wait with a time-out", function()
    virtual.run(function()
      local future = concur.Future()
      failure_of_kind("TimeoutError", future.result, future, 1e6)
    end)
  end)

  it("is raised once the last timer has fired and helped nobody", function()
    local ticks = 0
    failure_of_kind("Deadlock", virtual.run, function()
      concur.get_event_loop():call_later(5, function()
        ticks = ticks + 1
      end)
      concur.Future():result()
    end)
    assert.equal(1, ticks)
  end)

  it("ends by force what refuses to end, in a run", function()
    local log = {}
    local reports
    local e = failure_of_kind("Deadlock", function()
      reports = virtual.reports(function()
        concur.spawn(function()
          local _ <close> = setmetatable({}, {
            __close = function()
              log[#log + 1] = "background closed"
            end,
          })
          concur.shield(concur.sleep_forever)
        end)
        local _ <close> = setmetatable({}, {
          __close = function()
            log[#log + 1] = "main closed"
          end,
        })
        concur.shield(concur.sleep_forever)
      end)
    end)
    assert.is_not_nil(e)
    assert.is_nil(reports)
    table.sort(log)
    assert.same({ "background closed", "main closed" }, log)
    assert.same({}, concur.all_tasks())
  end)

  it("ends by force what refuses to end, at the end of a run", function()
    local closed = false
    virtual.run(function()
      concur.spawn(function()
        local _ <close> = setmetatable({}, {
          __close = function()
            closed = true
          end,
        })
        concur.shield(concur.sleep_forever)
      end)
      concur.sleep(1)
    end)
    assert.is_true(closed)
    assert.same({}, concur.all_tasks())
  end)

  it("ends by force a wait at top level that refuses to end", function()
    failure_of_kind("Deadlock", concur.shield, concur.sleep_forever)
    failure_of_kind("Deadlock", concur.suspend, function()
      return function()
        return false
      end
    end)
    failure_of_kind("Deadlock", concur.gather, function()
      concur.shield(concur.sleep_forever)
    end)
    assert.same({}, concur.all_tasks())
    assert.equal("fine", concur.sleep(0, "fine"))
  end)

  it("lets a clean-up that can end take its time", function()
    local log = {}
    failure_of_kind("Deadlock", virtual.run, function()
      pcall(concur.sleep_forever)
      concur.shield(concur.sleep, 100)
      log[#log + 1] = "cleaned"
      concur.sleep(1)
    end)
    assert.same({ "cleaned" }, log)
  end)

  it("is not raised when main catches it and returns", function()
    assert.equal("result", virtual.run(function()
      pcall(concur.sleep_forever)
      return "result"
    end))
  end)

  it("leaves the state usable for another run", function()
    failure(concur.run, concur.sleep_forever)
    assert.equal(1, concur.run(function()
      concur.sleep(0)
      return 1
    end))
  end)
end)

describe("waiting for oneself", function()
  it("is a Deadlock in the task that does it", function()
    virtual.run(function()
      local task = concur.spawn(function()
        local me = concur.current_task()
        return me:result()
      end)
      failure_of_kind("Deadlock", task.result, task)
    end)
  end)

  it("can be caught, and the task goes on", function()
    virtual.run(function()
      local task = concur.spawn(function()
        failure_of_kind("Deadlock", concur.await, concur.current_task())
        return concur.sleep(1, "went on")
      end)
      assert.equal("went on", task:result())
    end)
  end)

  it("through another task is a Deadlock in the task that closes the circle", function()
    virtual.run(function()
      local a, b
      a = concur.spawn(function()
        return b:result()
      end)
      b = concur.spawn(function()
        return a:result()
      end)
      concur.wait { a, b }
      failure_of_kind("Deadlock", a.result, a)
      failure_of_kind("Deadlock", b.result, b)
    end)
  end)

  it("through a circle of thirty tasks is found even while a timer runs", function()
    virtual.run(function()
      local tasks = {}
      for i = 1, 30 do
        tasks[i] = concur.spawn(function()
          return tasks[i % 30 + 1]:result()
        end)
      end
      concur.spawn(concur.sleep, 1000)
      local start = concur.now()
      concur.wait(tasks)
      assert.near(0, concur.now() - start, 1e-6)
      for i = 1, 30 do
        failure_of_kind("Deadlock", tasks[i].result, tasks[i])
      end
    end)
  end)

  it("through a circle longer than the check is found when nothing else can come", function()
    local e = failure_of_kind("Deadlock", virtual.run, function()
      local tasks = {}
      for i = 1, 200 do
        tasks[i] = concur.spawn(function()
          return tasks[i % 200 + 1]:result()
        end)
      end
      concur.wait(tasks)
      error(tasks[1]:exception())
    end)
    assert.is_not_nil(e)
  end)

  it("does not mistake two who wait for the same task", function()
    virtual.run(function()
      local task = concur.spawn(concur.sleep, 1, "shared")
      local function wait()
        return task:result()
      end
      assert.same({ "shared", "shared" }, { concur.gather(wait, wait) })
    end)
  end)
end)
