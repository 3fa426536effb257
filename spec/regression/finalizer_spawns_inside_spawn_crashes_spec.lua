-- SPDX-License-Identifier: MIT
-- spawn chose a coroutine, then allocated; a finalizer that ran in that allocation and spawned took
-- the same coroutine.

local support = require "spec.support"

describe("spawn", function()
  it("survives a finalizer that spawns while it allocates", function()
    local out = support.check_lua [[
      local concur = require "concur"
      collectgarbage("incremental", 1, 1000, 1)
      local spawned, ran = 0, 0
      local function task() ran = ran + 1 end
      concur.run(function()
        for _ = 1, 2000 do
          setmetatable({}, { __gc = function()
            if spawned < 4000 then
              spawned = spawned + 1
              concur.spawn(task)
            end
          end })
          spawned = spawned + 1
          concur.spawn(task)
          if spawned % 7 == 0 then concur.sleep(0) end
        end
        concur.sleep(0)
        concur.sleep(0)
        print(spawned == ran)
      end)
    ]]
    assert.equal("true\n", out)
  end)
end)
