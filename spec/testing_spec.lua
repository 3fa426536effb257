-- SPDX-License-Identifier: MIT
-- concur.testing: the helpers that users' own tests build on.

local concur = require "concur"
local expect = require "spec.support.expect"
local support = require "spec.support"
local testing = require "concur.testing"

-- Collects what a wrapped `it` is given, and runs one.
local function FakeIt()
  local tests = {}
  return function(name, body)
    tests[#tests + 1] = { name = name, body = body }
    return tests[#tests]
  end, tests
end

describe("a virtual clock", function()
  it("starts at 0 and jumps when every task waits", function()
    local clock = testing.Clock()
    assert.equal(0, clock:now())
    local real = os.time()
    local runner <close> = concur.Runner { clock = clock }
    runner:run(function()
      assert.equal(0, concur.now())
      concur.sleep(86400)
      assert.near(86400, concur.now(), 1e-6)
      assert.near(86400, clock:now(), 1e-6)
    end)
    assert.is_true(os.time() - real < 3600)
  end)

  it("keeps the order of deadlines, and FIFO among equal ones", function()
    testing.run(function()
      local order = {}
      concur.task_group(function(group)
        for i, seconds in ipairs { 3, 1, 2, 1, 3 } do
          group:spawn(function()
            concur.sleep(seconds)
            order[#order + 1] = i
          end)
        end
      end)
      assert.same({ 2, 4, 3, 1, 5 }, order)
    end)
  end)

  it("does not move while a task is ready", function()
    testing.run(function()
      local start = concur.now()
      for _ = 1, 500 do
        concur.checkpoint()
      end
      assert.equal(start, concur.now())
    end)
  end)

  it("can be moved by hand; what is due fires at the next turn, in order", function()
    testing.run(function(case)
      local order = {}
      local tasks = {}
      for i, seconds in ipairs { 2, 1, 5 } do
        tasks[i] = concur.spawn(function()
          concur.sleep(seconds)
          order[#order + 1] = seconds
        end)
      end
      testing.run_until_idle()
      case.clock:advance(3)
      assert.same({}, order)
      testing.run_until_idle()
      assert.same({ 1, 2 }, order)
      assert.near(3, concur.now(), 1e-6)
      concur.wait(tasks)
    end)
  end)

  it("refuses NaN and things that are no numbers, and never goes back", function()
    local clock = testing.Clock()
    expect.message("NaN", clock.advance, clock, 0 / 0)
    clock:advance(-1)
    expect.message("number", clock.advance, clock, "x")
    assert.equal(0, clock:now())
    assert.matches("Clock", tostring(clock))
  end)

  it("can be used for several runs; time goes on", function()
    local clock = testing.Clock()
    for i = 1, 3 do
      local runner <close> = concur.Runner { clock = clock }
      runner:run(concur.sleep, 10)
      assert.near(10 * i, clock:now(), 1e-6)
    end
  end)

  it("raises Deadlock at once when nothing can come any more", function()
    local runner <close> = concur.Runner { clock = testing.Clock() }
    expect.error("Deadlock", runner.run, runner, concur.sleep_forever)
  end)
end)

describe("run_until_idle", function()
  it("waits until every other task waits, without time passing", function()
    testing.run(function()
      local steps = 0
      local task = concur.spawn(function()
        for _ = 1, 10 do
          concur.checkpoint()
          steps = steps + 1
        end
        concur.sleep(5)
        steps = steps + 1
      end)
      local start = concur.now()
      testing.run_until_idle()
      assert.equal(10, steps)
      assert.equal(start, concur.now())
      task:result()
      assert.equal(11, steps)
    end)
  end)

  it("returns at once when nothing else is there", function()
    testing.run(function()
      testing.run_until_idle()
      testing.run_until_idle()
    end)
  end)

  it("lets several tasks wait for the same thing", function()
    testing.run(function()
      local woken = 0
      concur.task_group(function(group)
        for _ = 1, 3 do
          group:spawn(function()
            testing.run_until_idle()
            woken = woken + 1
          end)
        end
        testing.run_until_idle()
      end)
      assert.equal(3, woken)
    end)
  end)

  it("works at top level: spawned tasks have run to their waits", function()
    local reached = false
    local task = concur.spawn(function()
      concur.checkpoint()
      reached = true
      concur.sleep(0.01)
    end)
    testing.run_until_idle()
    assert.is_true(reached)
    assert.is_false(task:done())
    task:result()
  end)

  it("can be cancelled", function()
    testing.run(function()
      assert.is_false(concur.cancel_scope(function(scope)
        scope:cancel()
        testing.run_until_idle()
      end))
    end)
  end)
end)

describe("check_leaks", function()
  it("returns the results of its function", function()
    assert.same({ 1, nil, 3, n = 3 }, table.pack(testing.check_leaks(function(...)
      return ...
    end, 1, nil, 3)))
  end)

  it("raises and names what was left", function()
    testing.run(function()
      local task
      local e = expect.message("left behind", testing.check_leaks, function()
        task = concur.spawn(concur.sleep, 5)
        concur.checkpoint()
      end)
      assert.matches("tasks: %d+ before, %d+ after", e)
      task:cancel()
      concur.wait { task }
    end)
  end)

  it("passes on an error", function()
    expect.same_error("boom", testing.check_leaks, error, "boom", 0)
  end)

  it("refuses what is no function", function()
    expect.message("function expected", testing.check_leaks, 42)
  end)
end)

describe("leaks", function()
  it("compares with counters", function()
    testing.run(function()
      local before = testing.counters()
      assert.same({}, testing.leaks(before))
      local task = concur.spawn(concur.sleep, 1)
      local lines = testing.leaks(before)
      assert.is_true(#lines >= 1)
      task:result()
      assert.same({}, testing.leaks(before))
    end)
  end)

  it("counters are integers and do not make a loop", function()
    local out = support.check_lua [[
      local testing = require "concur.testing"
      for name, count in pairs(testing.counters()) do
        assert(math.type(count) == "integer", name)
        assert(count == 0 or name ~= "tasks" and name ~= "timers" and name ~= "handles", name)
      end
      print "fine"
    ]]
    assert.equal("fine\n", out)
  end)

  it("refuses what is no table", function()
    expect.message("table expected", testing.leaks)
  end)
end)

describe("wrap_it", function()
  it("runs each body as a task, on a virtual clock of its own", function()
    local it_, tests = FakeIt()
    local wrapped = testing.wrap_it(it_)
    for i = 1, 2 do
      wrapped("test " .. i, function(case)
        assert.is_not_nil(concur.current_task())
        assert.equal(0, concur.now())
        concur.sleep(1000)
        assert.near(1000, case.clock:now(), 1e-6)
      end)
    end
    assert.equal("test 1", tests[1].name)
    tests[1].body()
    tests[2].body()
  end)

  it("passes on what the body raises", function()
    local it_, tests = FakeIt()
    testing.wrap_it(it_)("fails", function()
      concur.sleep(1)
      error("boom", 0)
    end)
    expect.same_error("boom", tests[1].body)
  end)

  it("fails when an error was reported that the body did not take", function()
    local it_, tests = FakeIt()
    local wrapped = testing.wrap_it(it_)
    wrapped("forgets", function()
      concur.spawn(error, "nobody asked", 0)
      concur.checkpoint()
    end)
    wrapped("takes", function(case)
      concur.spawn(error, "nobody asked", 0)
      testing.run_until_idle()
      collectgarbage()
      testing.run_until_idle()
      local reports = case:take_reports()
      assert.equal(1, #reports)
      assert.equal("nobody asked", reports[1].error)
    end)
    local e = expect.message("nobody asked", tests[1].body)
    assert.matches("nobody retrieved", e)
    tests[2].body()
  end)

  it("ends what the body left running, as run does", function()
    local it_, tests = FakeIt()
    local ended = false
    testing.wrap_it(it_)("background", function()
      concur.spawn(function()
        local _ <close> = expect.guard(function()
          ended = true
        end)
        concur.sleep_forever()
      end)
      concur.checkpoint()
    end)
    tests[1].body()
    assert.is_true(ended)
  end)

  it("runs on real time with clock = false", function()
    local it_, tests = FakeIt()
    local took
    testing.wrap_it(it_, { clock = false })("real", function(case)
      assert.is_nil(case.clock)
      local start = concur.now()
      concur.sleep(0.02)
      took = concur.now() - start
    end)
    tests[1].body()
    assert.is_true(took >= 0.02)
    assert.is_true(took < 2 * support.time_scale)
  end)

  it("passes its options on to testing.run", function()
    local it_, tests = FakeIt()
    local order, reported = {}, nil
    testing.wrap_it(it_, { shuffle = 3, on_error = function(e)
      reported = e
    end })("shuffled", function()
      for i = 1, 20 do
        concur.spawn(function()
          order[#order + 1] = i
        end)
      end
      testing.run_until_idle()
      concur.spawn(error, "boom", 0)
      concur.checkpoint()
    end)
    tests[1].body()
    local sorted = table.move(order, 1, #order, 1, {})
    table.sort(sorted)
    assert.equal(20, #order)
    assert.are_not.same(sorted, order)
    assert.equal("boom", reported)
  end)

  it("leaves a test without a body to the wrapped function", function()
    local it_, tests = FakeIt()
    testing.wrap_it(it_)("later")
    assert.is_nil(tests[1].body)
  end)

  it("refuses unknown options", function()
    expect.message("unknown option 'clok'", testing.wrap_it, it, { clok = false })
  end)
end)
