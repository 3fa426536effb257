-- SPDX-License-Identifier: MIT
-- A task that catches Cancelled in a loop is always queued, never parked, when others look; kill
-- refused it, and a run could not end.

local concur = require "concur"
local virtual = require "spec.support.virtual"

describe("kill", function()
  it("ends a task that swallows Cancelled in a loop", function()
    virtual.run(function()
      local turns = 0
      local task = concur.spawn(function()
        repeat
          pcall(concur.sleep, 1)
          turns = turns + 1
        until turns == 10000
      end)
      concur.sleep(0)
      task:cancel()
      concur.sleep(0)
      assert.is_true(task:kill())
      concur.sleep(0)
      assert.is_true(task:done())
      assert.is_true(turns < 10)
      pcall(task.result, task)
    end)
  end)
end)
