-- SPDX-License-Identifier: MIT
-- Finalizers, comparators, hooks and on_error run in the middle of concur's own work.  Each of these
-- programs crashed, hung or woke the wrong wait once.  A child for each: a crash would end the suite.

local support = require "spec.support"

local prelude = [[
  local concur = require "concur"
  -- Runs `fn` as a finalizer at the next allocation.
  local function at_next_allocation(fn)
    collectgarbage()
    collectgarbage "generational"
    collectgarbage "stop"
    setmetatable({}, { __gc = fn })
    collectgarbage "restart"
  end
]]

local function prints(expected, body)
  local result = support.run_lua(prelude .. body)
  assert.equal(0, result.code, support.describe(result))
  assert.equal(expected, result.stdout, support.describe(result))
end

describe("a finalizer", function()
  it("may settle a future that is collected with its callbacks", function()
    prints("called\n", [[
      do
        local f = concur.Future()
        f:add_done_callback(function() print "called" end)
        setmetatable({}, { __gc = function() f:set_result(1) end })
      end
      collectgarbage()
      collectgarbage()
      collectgarbage()
      concur.sleep(0.001)
    ]])
  end)

  it("may try to kill the owner of a group in the middle of group:spawn", function()
    prints("alive\n", [[
      pcall(concur.run, function()
        local group
        local owner = concur.spawn(function()
          concur.task_group(function(g)
            group = g
            concur.sleep_forever()
          end)
        end)
        concur.sleep(0)
        concur.sleep(0)
        local function body() concur.sleep(0.001) end
        local spawn = group.spawn
        at_next_allocation(function() owner:kill() end)
        pcall(spawn, group, body)
        group = nil
        collectgarbage()
        collectgarbage()
        concur.sleep(0.005)
      end)
      print "alive"
    ]])
  end)

  it("of concur's own is harmless when it is called by hand", function()
    prints("alive\n", [[
      local core = require "concur.core"
      local q, f = concur.Queue(), concur.Future()
      local objects = {
        q, f, q:getting(), concur.Lock(), concur.Event(), concur.Semaphore(1), concur.wrap(type),
        core.watch { f }, concur.Channel(1), concur.SharedBuffer(8),
        concur.get_event_loop():call_soon(type),
      }
      for _, object in ipairs(objects) do
        for _, metamethod in pairs(debug.getmetatable(object)) do
          if type(metamethod) == "function" then
            for _, argument in ipairs { false, 1, io.stdout, {}, object } do
              pcall(metamethod)
              pcall(metamethod, argument)
            end
          end
        end
        for _, name in ipairs { "try_get", "try_send", "try_acquire", "set", "size", "cancel" } do
          pcall(function() return object[name](object, 1) end)
        end
        pcall(tostring, object)
      end
      print "alive"
    ]])
  end)
end)

describe("a comparator", function()
  it("that waits does not take the put of another task with it", function()
    prints("1\ntrue\nfalse\n", [[
      local armed = false
      local q = concur.PriorityQueue(2, function(a, b)
        if armed then
          armed = false
          concur.sleep(0.05)
        end
        return a < b
      end)
      q:try_put(1)
      q:try_put(2)
      local put
      local t = concur.spawn(function()
        put = concur.move_on_after(0.01, q.put, q, 3)
        concur.Event():wait()
      end)
      concur.sleep(0.001)
      armed = true
      print(q:try_get())
      concur.sleep(0.02)
      -- Either the put was cancelled and did not happen, or it happened and was not cancelled.
      print(q:size() == (put and 2 or 1))
      print(t:done()) -- its event was never set
    ]])
  end)
end)

describe("select", function()
  it("refuses an arm that another one began to use while it waited for its turn", function()
    prints("InvalidState\n1\n", [[
      concur.run(function()
        local q, ready = concur.Queue(), concur.Event()
        ready:set()
        local arm = q:getting()
        local function use() return concur.select { arm } end
        local late = concur.spawn(function()
          for _ = 1, 128 do ready:wait() end -- so many that the next wait switches first
          return use()
        end)
        local first = concur.spawn(use)
        concur.sleep(0)
        concur.sleep(0)
        concur.sleep(0)
        local failed = late:done() and late or first
        print(failed:exception().kind)
        q:put(1)
        print(select(2, (failed == late and first or late):result()))
      end)
    ]])
  end)
end)

describe("on_error", function()
  it("may try to run concur itself", function()
    prints("true\n", [[
      local keep, calls = {}, 0
      local function fail(count)
        for i = 1, count do keep[#keep + 1] = concur.spawn(error, "error " .. i) end
        concur.sleep(0)
      end
      concur.Runner({
        on_error = function()
          calls = calls + 1
          if calls == 1 then pcall(concur.run, fail, 1) end
        end,
      }):run(fail, 3)
      print(calls >= 3)
    ]])
  end)
end)

describe("a return hook", function()
  it("of a task sees the task to its end", function()
    prints("true\n", [[
      local variable = concur.ContextVar(0)
      local sane = true
      concur.run(function()
        concur.spawn(function()
          variable:set(1)
          debug.sethook(function()
            if not concur.current_task() then sane = false end
            variable:set(variable:get() + 1)
          end, "r")
        end)
        concur.sleep(0)
        concur.sleep(0)
      end)
      print(sane)
    ]])
  end)
end)

describe("a top-level wait that was ended by force", function()
  it("is not woken later", function()
    prints("Deadlock\nfalse\ntrue\ntrue\ttrue\n", [[
      local resume
      local _, e = pcall(concur.suspend, function(r)
        resume = r
        return function() return false end
      end)
      print(e.kind)
      print(resume(1))
      local start = concur.now()
      concur.sleep(0.01)
      print(concur.now() - start >= 0.01)
      local event = concur.Event()
      concur.spawn(function()
        concur.sleep(0.03)
        event:set()
      end)
      print(pcall(event.wait, event), event:is_set())
    ]])
  end)
end)
