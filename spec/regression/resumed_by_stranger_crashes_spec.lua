-- SPDX-License-Identifier: MIT
-- A coroutine that a stranger resumed between the task's bare yield and the error that follows ran
-- to its end there. The task's place in the ready queue outlived the task: use after free.

local support = require "spec.support"

describe("a task resumed by a stranger", function()
  it("after its bare yield does not crash the loop", function()
    support.check_lua [[
      local concur = require "concur"
      local co
      concur.run(function()
        concur.spawn(function()
          co = coroutine.running()
          pcall(coroutine.yield)
        end)
        concur.spawn(function()
          coroutine.resume(co)
          collectgarbage()
          collectgarbage()
        end)
        concur.sleep(0.001)
      end)
    ]]
  end)

  it("before its start does not crash the loop", function()
    support.check_lua [[
      local concur = require "concur"
      concur.run(function()
        local kept
        concur.spawn(function() kept = coroutine.running() end):result()
        concur.spawn(function() concur.sleep(0.001) end)
        pcall(coroutine.resume, kept)
        collectgarbage()
        collectgarbage()
        concur.sleep(0.002)
      end)
    ]]
  end)
end)
