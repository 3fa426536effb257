-- SPDX-License-Identifier: MIT
-- `coroutine.running()` lets anybody close or resume the coroutines of tasks and generators.  Each of
-- these programs crashed, hung or lost a task once.  A child for each: a crash would end the suite.

local support = require "spec.support"

local function prints(expected, body)
  local result = support.run_lua('local concur = require "concur"\n' .. body)
  assert.equal(0, result.code, support.describe(result))
  assert.equal(expected, result.stdout, support.describe(result))
end

describe("a generator", function()
  it("may be collected while its coroutine is still held", function()
    prints("true\n", [[
      local co
      do
        local g = concur.wrap(function()
          co = coroutine.running()
          coroutine.yield()
        end)
        g()
      end
      collectgarbage()
      collectgarbage()
      print(coroutine.resume(co))
    ]])
  end)

  it("is over when its coroutine was closed or resumed to its end by somebody else", function()
    prints("InvalidState\nInvalidState\n", [[
      local co
      local function body()
        co = coroutine.running()
        coroutine.yield()
      end
      for _, finish in ipairs { coroutine.close, coroutine.resume } do
        local g = concur.wrap(body)
        g()
        finish(co)
        print(select(2, pcall(g, 1, 2, 3)).kind)
      end
    ]])
  end)

  it("whose caller's coroutine was closed may be collected before the task ends", function()
    prints("failed\n", [[
      local co
      concur.Runner({ on_error = function() end }):run(function()
        local t = concur.spawn(function()
          co = coroutine.running()
          concur.wrap(function() concur.sleep(1) end)()
        end)
        concur.sleep(0)
        concur.sleep(0)
        coroutine.close(co)
        co = nil
        collectgarbage()
        collectgarbage()
        t:cancel()
        concur.sleep(0)
        print(t:state())
      end)
    ]])
  end)

  it("between two others runs its <close> variables when the task is killed", function()
    prints("inner mid outer\n", [[
      local log = {}
      local function closer(name)
        return setmetatable({}, { __close = function() log[#log + 1] = name end })
      end
      concur.run(function()
        local t = concur.spawn(function()
          local _ <close> = closer "outer"
          concur.wrap(function()
            local _ <close> = closer "mid"
            concur.wrap(function()
              local _ <close> = closer "inner"
              concur.sleep_forever()
            end)()
          end)()
        end)
        concur.sleep(0)
        concur.sleep(0)
        t:kill()
      end)
      print(table.concat(log, " "))
    ]])
  end)
end)

describe("a task whose coroutine was closed from outside", function()
  it("leaves nothing to a later task that resumes what is left of it", function()
    prints("failed\ntrue\tdone\n", [[
      local outer, inner
      concur.Runner({ on_error = function() end }):run(function()
        local q = concur.Queue()
        local t1 = concur.spawn(function()
          outer = coroutine.running()
          pcall(concur.wrap(function()
            inner = coroutine.running()
            return q:get()
          end))
        end)
        concur.sleep(0)
        concur.sleep(0)
        q:put(1)
        coroutine.close(inner)
        concur.sleep(0)
        concur.sleep(0)
        print(t1:state())
        local t2 = concur.spawn(function()
          coroutine.resume(outer)
          concur.sleep(0.001)
          return "done"
        end)
        print(pcall(t2.result, t2))
      end)
    ]])
  end)

  it("is queued once when it is cancelled and its gather ends in the same turn", function()
    prints("between\nfailed\n", [[
      local co
      concur.Runner({ on_error = function() end }):run(function()
        local f = concur.Future()
        local t = concur.spawn(function()
          co = coroutine.running()
          return concur.gather(f)
        end)
        concur.sleep(0)
        coroutine.close(co)
        t:cancel()
        concur.spawn(print, "between")
        f:set_result(1)
        concur.sleep(0)
        concur.sleep(0)
        print(t:state())
      end)
    ]])
  end)

  it("can be killed while its gather ends by that", function()
    prints("true\nfailed\n", [[
      local co
      concur.Runner({ on_error = function() end }):run(function()
        local f = concur.Future()
        local t = concur.spawn(function()
          co = coroutine.running()
          return concur.gather(f)
        end)
        concur.sleep(0)
        coroutine.close(co)
        print(t:kill())
        concur.sleep(0)
        print(t:state())
      end)
    ]])
  end)
end)
