-- Out of memory: each scenario again and again, each time with another allocation that fails; how is
-- in spec/support/oom.lua.
local oom = require "spec.support.oom"

local function scenario(name, body)
  it(name, function()
    oom.scenario_fails_cleanly(body)
  end)
end

describe("running out of memory in", function()
  it("require", function()
    oom.fails_cleanly [[
      local require = require
      arm()
      local ok, err = pcall(require, "concur")
      disarm()
      if not ok then
        package.loaded["concur"] = nil
        assert(require "concur".run(function() return 7 end) == 7)
        error(tostring(err), 0)
      end
    ]]
  end)

  it("the first use of the loop", function()
    oom.fails_cleanly [[
      local concur = require "concur"
      arm()
      local ok, err = pcall(concur.run, function() concur.sleep(0) return 7 end)
      disarm()
      assert(concur.run(function() concur.sleep(0) return 7 end) == 7)
      if not ok then error(tostring(err), 0) end
    ]]
  end)

  scenario("run", [[
    assert(runner:run(function(...) return select("#", ...) end, 1, nil, 3) == 3)
  ]])

  scenario("spawn and result", [[
    runner:run(function()
      local tasks = {}
      for i = 1, 5 do
        tasks[i] = concur.spawn(function() concur.sleep(i) return i end)
      end
      for i = 1, 5 do
        assert(tasks[i]:result() == i)
      end
    end)
  ]])

  scenario("gather", [[
    runner:run(function()
      local a, b = concur.gather(
        function() concur.sleep(2) return "a" end,
        function() concur.sleep(1) return "b" end)
      assert(a == "a" and b == "b")
    end)
  ]])

  scenario("a gather whose child fails", [[
    runner:run(function()
      local ok, err = pcall(concur.gather,
        function() concur.sleep(1) error "oops" end,
        function() concur.sleep(5) end)
      assert(not ok)
      if not tostring(err):find "oops" then error(err, 0) end
    end)
  ]])

  scenario("sleep on the virtual clock", [[
    runner:run(function()
      local start = concur.now()
      concur.sleep(3600)
      assert(concur.now() - start >= 3600)
    end)
  ]])

  scenario("a timeout", [[
    runner:run(function()
      local ok, err = pcall(concur.timeout, 1, concur.sleep, 5)
      assert(not ok)
      if not errors.is(err, "TimeoutError") then error(err, 0) end
    end)
  ]])

  scenario("a task group", [[
    local closed = 0
    local ok, err = pcall(runner.run, runner, function()
      concur.task_group(function(group)
        for i = 1, 3 do
          group:spawn(function()
            local _ <close> = setmetatable({}, { __close = function() closed = closed + 1 end })
            concur.sleep(i)
            closed = closed + 100
          end)
        end
      end)
    end)
    if not ok then error(err, 0) end
    assert(closed == 303)
  ]])

  scenario("a queue with a producer and a consumer", [[
    runner:run(function()
      local queue, sum = concur.Queue(2), 0
      concur.gather(
        function() for i = 1, 6 do queue:put(i) end queue:close() end,
        function() for i in queue:iter() do sum = sum + i end end)
      assert(sum == 21)
    end)
  ]])

  scenario("a lock that is handed over", [[
    runner:run(function()
      local lock, order = concur.Lock(), {}
      local function use(name)
        return function()
          local _ <close> = lock:acquire()
          concur.sleep(1)
          order[#order + 1] = name
        end
      end
      concur.gather(use "a", use "b", use "c")
      assert(table.concat(order) == "abc")
    end)
  ]])

  scenario("select", [[
    runner:run(function()
      local queue, event = concur.Queue(), concur.Event()
      concur.spawn(function() concur.sleep(1) queue:put "x" end)
      local key, value = concur.select {
        item = queue:getting(), event = event:waiting(), late = concur.after(9) }
      assert(key == "item" and value == "x")
    end)
  ]])

  scenario("a job on a thread", [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local a, b = pool:submit(function(x, t) return x + 1, t end, 41, { "deep" }):result()
      assert(a == 42 and b[1] == "deep")
    end)
  ]])

  scenario("long strings to a thread and back", [[
    concur.run(function()
      local pool <close> = concur.ThreadPoolExecutor(1)
      local text = ("x"):rep(70000)
      local t, again = pool:submit(function(t, s) return t, s end, { text, text }, text):result()
      assert(t[1] == text and t[2] == text and again == text)
    end)
  ]])
end)
